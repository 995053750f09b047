"""Symmetry of crystals: shares of P1, of crystal systems and of short contacts, by number of atoms.

    python -m benchmarks.symmetry generated.npz [more.npz ...] --limit 600

Every PATH is an .npz file, or a folder of .cif or .npz files, as `cdvae-lab generate` writes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import LabError
from cdvae_lab.evaluation.sources import read_source
from cdvae_lab.metrics.symmetry import closest_contact, space_groups
from cdvae_lab.metrics.validity import composition_validity, structure_validity

# The last space group of each crystal system.
SYSTEMS = {"triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142, "trigonal": 167, "hexagonal": 194}
LARGE = 12  # atoms; symmetry is reported for the crystals above it as well
TOO_CLOSE = 0.7  # of the sum of covalent radii


def shares(crystals: Crystals) -> dict[str, float]:
    """Shares of the crystals, in percent, by heading; NaN where there is no crystal of the kind."""
    groups, contacts = space_groups(crystals), closest_contact(crystals)
    large = crystals.num_atoms > LARGE
    found = {
        "P1": groups <= 1,
        f"P1 above {LARGE} atoms": (groups <= 1)[large],
        "too close": contacts < TOO_CLOSE,
        "structure valid": structure_validity(crystals),
        "composition valid": composition_validity(crystals),
    }
    last = 0
    for system, end in [*SYSTEMS.items(), ("cubic", 230)]:
        found[system] = (groups > last) & (groups <= end)
        last = end
    return {name: 100 * float(which.double().mean()) for name, which in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line of a Markdown table for every PATH."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.symmetry", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N crystals of each (default: all)")
    options = parser.parse_args(argv)
    headings: list[str] = []
    try:
        for path in options.paths:
            row = shares(read_source(path).crystals[: options.limit].trim())
            if not headings:
                headings = list(row)
                print(f"| crystals | {' | '.join(headings)} |\n|---|{'---|' * len(headings)}")
            print(f"| {path} | " + " | ".join(f"{value:.1f} %" for value in row.values()) + " |", flush=True)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
