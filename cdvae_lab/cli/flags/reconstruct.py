"""Flags of `cdvae-lab reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared
from cdvae_lab.sampling.settings import RESTART_SIGMAS, TOLERANCE, TOLERANCE_REFINED

TEXT = """Encode crystals, decode them again, and report how many are reconstructed.

Match: pymatgen's StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3); RMSE in units of (volume / atom)^(1/3)."""


def add(commands: Any) -> None:
    """Add the parser of `reconstruct`."""
    run = later("reconstruct", TEXT)
    parser = command(commands, "reconstruct", run, lambda args: (
        "the decoded crystals are saved; the same command resumes"
    ))  # fmt: skip
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name of a bundled model, or a .safetensors file")
    parser.add_argument("source", nargs="*", metavar="SOURCE", help=(
        "crystal files (.cif, POSCAR, .xyz), or one data set: a name, a folder of CIF files or a .csv table"
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help=(
        "results per crystal, .csv (default: reconstruction.csv, or beside the crystals)"
    ))  # fmt: skip
    parser.add_argument("--save-crystals", type=Path, metavar="FILE", help=(
        "true and decoded crystals, .safetensors (default: beside --out)"
    ))  # fmt: skip
    parser.add_argument("--decode-only", type=Path, metavar="FILE", help=(
        "only decode, into this .safetensors file; --score compares later, on any machine"
    ))  # fmt: skip
    parser.add_argument("--score", type=Path, metavar="FILE", help="only compare the crystals of such a file")
    parser.add_argument("--sampled", action="store_true", help=(
        "decode a sample of the posterior (default: its mean)"
    ))  # fmt: skip
    parser.add_argument("--max-attempts", type=int, default=1, metavar="N", help=(
        "decode a crystal again, up to N times in all, if it does not encode back to its z (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--refine", type=int, default=0, metavar="N", help=(
        "after every attempt, steps that move atoms and cell towards encoding to its z (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--tolerance", type=float, metavar="X", help=(
        f"do not retry a crystal at most so far from its z, in standard deviations of the posterior (default "
        f"{TOLERANCE:g}, with --refine {TOLERANCE_REFINED:g})"
    ))  # fmt: skip
    parser.add_argument("--restart-sigmas", type=float, nargs="+", metavar="X", help=(
        "noise levels, Å, at which the attempts start, in turn, from the best crystal so far; inf: from noise alone "
        f"(default {' '.join(f'{sigma:g}' for sigma in RESTART_SIGMAS)})"
    ))  # fmt: skip
    parser.add_argument("--reject-above", type=float, metavar="X", help=(
        "reject a crystal that ends farther from its z: it counts as not reconstructed (default: none is)"
    ))  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes that compare (default: all cores)")
    shared.add_data(parser, "val")
    shared.add_sampler(parser)
    shared.add_device(parser)
    shared.add_processes(parser)
