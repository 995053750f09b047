"""`cdvae-lab completion`: the script that lets a shell complete commands and flags."""

from __future__ import annotations

import argparse
from typing import Any

from cdvae_lab.cli.command import command


def add(commands: Any) -> None:
    """Add the parser of `completion`."""
    parser = command(commands, "completion", completion, lambda args: "nothing was changed")
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), metavar="SHELL", help="bash, zsh or tcsh")


def completion(args: argparse.Namespace) -> int:
    """Print the completion script of a shell.

    For bash: cdvae-lab completion bash > ~/.local/share/bash-completion/completions/cdvae-lab
    """
    import shtab

    from cdvae_lab.cli import parser

    print(shtab.complete(parser("all"), args.shell))
    return 0
