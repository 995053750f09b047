"""Flags of `cdvae-lab generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared

TEXT = """Generate crystals from the prior, each batch written when it is done.

Files that exist are skipped, so that the same command resumes after an interruption."""

SUFFIX = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".xyz", "npz": ".npz"}


def add(commands: Any) -> None:
    """Add the parser of `generate`."""
    parser = command(
        commands,
        "generate",
        later("generate", TEXT),
        lambda args: f"the crystals so far are in {args.out}; the same command resumes",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("-n", type=int, default=8, help="number of crystals (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for one file per crystal")
    parser.add_argument("--format", choices=tuple(SUFFIX), default="cif", help=(
        "of the files, Å (default %(default)s); npz: one file a batch, fast, and with the crystals that no other "
        "format can hold, as `cdvae-lab evaluate` wants them"
    ))  # fmt: skip
    parser.add_argument("--max-attempts", type=int, default=1, metavar="N", help=(
        "decode what does not encode back to its z at most so often, and keep the best (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--tolerance", type=float, metavar="X", help=(
        "do not retry a crystal at most so far from its z, in standard deviations of the posterior, unless two atoms "
        "are closer than 0.5 Å (inf: retry only these; default: 1 more than the distance of z as the prior draws it)"
    ))  # fmt: skip
    shared.add_prior(parser, "what z is drawn from")
    parser.add_argument("--formula", metavar="FORMULA", help=(
        "generate crystals with these atoms in the cell, such as Sr2Ti2O6, from a prior that was fitted with "
        "--composition-steps; with --types assigned every crystal has them (default: the prior draws compositions)"
    ))  # fmt: skip
    parser.add_argument("--temperature", type=float, metavar="X", help=(
        "at which such a prior draws compositions: below 1 more of the high-likelihood ones, above 1 fewer (default: "
        "the prior's own, 1 unless it was saved with another)"
    ))  # fmt: skip
    shared.add_sampler(parser)
    shared.add_device(parser)
    shared.add_processes(parser)
