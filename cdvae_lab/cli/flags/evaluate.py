"""Flags of `cdvae-lab evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared
from cdvae_lab.evaluation.tasks import TASKS
from cdvae_lab.metrics.cutoffs import CUTOFFS

TEXT = """Evaluate crystals as the CDVAE paper does, with uniqueness and novelty beside.

Slow comparisons are cached, so that the same command resumes after an interruption."""


def add(commands: Any) -> None:
    """Add the parser of `evaluate`."""
    run = later("evaluate", TEXT)
    parser = command(commands, "evaluate", run, lambda args: (
        "finished comparisons are cached; the same command resumes"
    ))  # fmt: skip
    parser.add_argument(
        "task",
        choices=TASKS,
        metavar="TASK",
        help=("generation, reconstruction, optimization, or validity (which needs no --reference)"),
    )
    parser.add_argument("--crystals", type=Path, nargs="+", required=True, metavar="PATH", help=(
        "a folder of .cif files, an .npz file in the layout of the paper's code, a folder of these, a trajectory "
        "(.safetensors, its last frame), or what `cdvae-lab reconstruct` saved. For optimization one PATH for each "
        "time that the starting points were decoded, or one PATH and --starts"
    ))  # fmt: skip
    parser.add_argument("--reference", metavar="DATA", help=(
        "what to compare with: perov_5, carbon_24, mp_20, a folder of CIF files or a .csv table"
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="FOLDER", help=(
        "for report.txt, report.json, report.html and crystals.csv (default %(default)s)"
    ))  # fmt: skip
    shared.add_data(parser, split="test")
    group = parser.add_argument_group("generation")
    group.add_argument("--samples", type=int, default=1000, metavar="N", help=(
        "valid crystals whose properties are compared (default %(default)s, as in the paper)"
    ))  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of their choice (default %(default)s)")
    group.add_argument("--novelty", action=argparse.BooleanOptionalAction, default=True, help=(
        "compare with each other and with the training set (default on)"
    ))  # fmt: skip
    group.add_argument("--train", metavar="DATA", help="training set (default: the split train of --reference)")
    published = ", ".join(f"{name} {c.structure:g} {c.composition:g}" for name, c in CUTOFFS.items())
    group.add_argument("--cutoffs", type=float, nargs=2, metavar=("D_S", "D_C"), help=(
        f"of coverage, for structure and composition (default: the published ones, {published})"
    ))  # fmt: skip
    group = parser.add_argument_group("optimization")
    group.add_argument("--starts", type=int, metavar="N", help=(
        "starting points, where one PATH holds all decodings, those of one time after another (as the paper's code)"
    ))  # fmt: skip
    group.add_argument("--thresholds", type=float, nargs="+", metavar="X", help=(
        "of success, in the property's unit (default: the published percentiles)"
    ))  # fmt: skip
    parser.add_argument("--predictor", metavar="MODEL", help=(
        "predicts the property: a property model, or else a CDVAE's own property head; a name or a .safetensors file "
        "(default: none; needed for optimization)"
    ))  # fmt: skip
    parser.add_argument("--rules", choices=("current", "paper"), default="current", help=(
        "SMACT's version for the validity of compositions: 2.8 to 4.0.2, or 2.2.1 as the paper's code used it (default "
        "%(default)s)"
    ))  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report card as JSON")
    parser.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes (default: all cores)")
