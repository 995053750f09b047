"""Flags that the benchmarks of samplers share, and the program around them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cdvae_lab.cli.flags import shared
from cdvae_lab.errors import LabError


def sampler_parser(name: str, description: str | None, batch_size: int, out: str) -> argparse.ArgumentParser:
    """Create the parser of a benchmark that decodes a data set, and compares the crystals with --score.

    Args:
        name: name of the benchmark's module.
        description: its docstring.
        out: help of --out.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name of a bundled model, or a .safetensors file")
    parser.add_argument("--data", help=(
        "name of a data set, a .csv table, or a file of Crystals.save_npz, whose name is then that of the data"
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="N", help=(
        "crystals at a time (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--score", type=Path, metavar="FOLDER", help="only score the crystals that were decoded there")
    parser.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes that match (default: all cores)")
    shared.add_data(parser, "val")
    shared.add_device(parser)
    return parser


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], None]) -> int:
    """Parse the command line, do the work and return the exit code: 2 with a message for input that is refused."""
    options = parser.parse_args(argv)
    try:
        work(options)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
