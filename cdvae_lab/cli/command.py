"""The parser of one command; needs nothing but argparse."""

from __future__ import annotations

import argparse
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
