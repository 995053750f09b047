"""Tests that need a GPU; collected only on a machine with one."""
