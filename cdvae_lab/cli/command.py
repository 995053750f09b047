"""The parser of one command."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], kept: Callable[[argparse.Namespace], str]
) -> argparse.ArgumentParser:
    """Add a command whose help is the docstring of `run`.

    Args:
        kept: text about the files that an interrupted run leaves behind.
    """
    lines = (run.__doc__ or "").strip().splitlines()
    parser = commands.add_parser(
        name, help=lines[0], description="\n".join(line.strip() for line in lines), allow_abbrev=False
    )
    parser.set_defaults(run=run, kept=kept)
    return parser


def later(module: str, text: str) -> Callable[[argparse.Namespace], int]:
    """Return a function that imports a command's module when the command runs, so that its `--help` is quick.

    Args:
        module: the module of `cdvae_lab.cli` whose `run` it calls.
        text: the help of the command.
    """

    def run(args: argparse.Namespace) -> int:
        return importlib.import_module(f"cdvae_lab.cli.{module}").run(args)

    run.__doc__ = text
    return run
