"""Flags of the commands, one file a command. Nothing here imports torch, so that `--help` is quick."""
