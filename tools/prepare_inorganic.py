"""Data of `inorganic`: MP-20 and further crystals, without those of its validation and test files.

    python -m tools.prepare_inorganic FURTHER.csv --out inorganic.csv

FURTHER.csv has the columns `cif` and `material_id`. The table that is written has a column `split`: "train"; "val",
which chooses a checkpoint; and "test", which is held out. Compositions of val and test do not occur in train.
`cdvae-lab train inorganic.csv` trains on it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cdvae_lab import datasets
from cdvae_lab.crystals import formulas
from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets import Dataset
from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.io.convert import to_structures
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.metrics.reconstruction import ANGLE_TOL, LTOL, STOL

MAX_ATOMS = 20
MAX_VOLUME = 60.0  # Å^3 per atom; beyond it molecules in boxes and single layers
MAX_GAP = 9.0  # Å between lattice planes without an atom: a slab or a molecule in a box
SET_ASIDE = 500  # crystals each for val and test, at least
COLUMNS = ("material_id", "split", "formation_energy_per_atom", "cif")


def largest_gap(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Return the thickest layer between lattice planes that holds no atom, Å, along any of the three axes."""
    # Padded sites repeat the first atom, so that they split no gap.
    frac = torch.where(crystals.mask[..., None], crystals.frac_coords, crystals.frac_coords[:, :1])
    frac = frac.sort(dim=1).values
    gaps = torch.cat([frac, frac[:, :1] + 1], 1).diff(dim=1).amax(1)
    return (gaps * lat.plane_spacings(crystals.lattice)).amax(-1)


def chosen(further: Dataset, known: set[str]) -> tuple[Dataset, Counter[str]]:
    """Return the crystals to keep, and how many are left out for which reason; the first reason counts."""
    crystals = further.crystals
    volume = lat.volume(crystals.lattice) / crystals.num_atoms
    gap = largest_gap(crystals)
    left_out: Counter[str] = Counter()
    kept, seen = [], set(known)
    for row, name in enumerate(further.ids):
        if name in seen:
            left_out["an id of MP-20, or twice"] += 1
        elif crystals.num_atoms[row] > MAX_ATOMS:
            left_out[f"more than {MAX_ATOMS} atoms"] += 1
        elif volume[row] > MAX_VOLUME:
            left_out[f"more than {MAX_VOLUME:g} Å^3 per atom"] += 1
        elif gap[row] > MAX_GAP:
            left_out[f"a layer of more than {MAX_GAP:g} Å without an atom"] += 1
        else:
            kept.append(row)
        seen.add(name)
    return further[kept], left_out


def near(data: Dataset, others: Sequence[Dataset]) -> Bool[Tensor, " crystals"]:
    """Return True for the crystals that match one of other data sets by StructureMatcher, of the same formula."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(stol=STOL, angle_tol=ANGLE_TOL, ltol=LTOL)
    by_formula = defaultdict(list)
    for other in others:
        for row, formula in enumerate(formulas.reduced_formulas(other.crystals)):
            by_formula[formula].append((other, row))
    found = torch.zeros(len(data), dtype=torch.bool)
    for row, formula in enumerate(formulas.reduced_formulas(data.crystals)):
        if formula in by_formula:
            mine = to_structures(data.crystals[[row]])[0]
            found[row] = any(
                matcher.fit(mine, to_structures(other.crystals[[place]])[0]) for other, place in by_formula[formula]
            )
    return found


def splits(formulas_of: Sequence[str], trained: set[str], size: int, seed: int = 0) -> list[str]:
    """Return "train", "val" or "test" for each crystal: whole formulas, which are not among the trained ones.

    Raises:
        SettingError: if there are too few such crystals.
    """
    rows = defaultdict(list)
    for row, formula in enumerate(formulas_of):
        if formula not in trained:
            rows[formula].append(row)
    groups = list(rows.values())
    order = iter(torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist())
    found = ["train"] * len(formulas_of)
    for split in ("val", "test"):
        taken = 0
        while taken < size:
            place = next(order, None)
            if place is None:
                raise SettingError(
                    f"{sum(map(len, groups))} crystals have a formula that MP-20's training file lacks: too few to "
                    f"set {size} aside twice; give more crystals, or a smaller --set-aside"
                )
            for row in groups[place]:
                found[row] = split
            taken += len(groups[place])
    return found


def write(path: Path, parts: Sequence[tuple[Dataset, Sequence[str]]]) -> None:
    """Write data sets, with the split of every crystal, as one table."""
    import pandas as pd
    from pymatgen.io.cif import CifWriter

    rows = []
    for data, split_of in parts:
        texts = [str(CifWriter(structure, significant_figures=10)) for structure in to_structures(data.crystals)]
        rows += zip(data.ids, split_of, data.labels.tolist(), texts, strict=True)
    with atomic_path(path) as temporary:
        pd.DataFrame(rows, columns=pd.Index(COLUMNS)).to_csv(temporary, index=False, encoding="utf-8")


def prepare(further: Dataset, mp_20: dict[str, Dataset], size: int) -> tuple[list[tuple[Dataset, list[str]]], Counter]:
    """Return the parts of the table, and how many crystals are left out for which reason."""
    kept, left_out = chosen(further, {name for data in mp_20.values() for name in data.ids})
    references = (mp_20["val"], mp_20["test"])
    train = mp_20["train"]
    apart = []
    for name, data in (("MP-20's training file", train), ("the further crystals", kept)):
        found = near(data, references)
        left_out[f"near a crystal of MP-20's val or test, of {name}"] = int(found.sum())
        apart.append(data[~found])
    train, kept = apart
    split_of = splits(formulas.reduced_formulas(kept.crystals), set(formulas.reduced_formulas(train.crystals)), size)
    return [(train, ["train"] * len(train)), (kept, split_of)], left_out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.prepare_inorganic", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("further", help="table of further crystals, with the columns cif and material_id")
    parser.add_argument("--out", type=Path, required=True, help="the table to write, .csv or .csv.gz")
    parser.add_argument("--folder", type=Path, help="where mp_20/<split>.csv or .csv.gz lies (default: downloaded)")
    parser.add_argument("--cache", type=Path, help="for parsed files (default: the user's cache)")
    parser.add_argument("--set-aside", type=int, default=SET_ASIDE, metavar="N", help="crystals each (default 500)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N crystals of every file, for a trial")
    options = parser.parse_args(argv)
    shared = {"cache": options.cache, "limit": options.limit}
    try:
        mp_20 = {split: datasets.load("mp_20", split, folder=options.folder, **shared) for split in datasets.SPLITS}
        further = datasets.load(options.further, **shared)
        parts, left_out = prepare(further, mp_20, options.set_aside)
        write(options.out, parts)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    counts = Counter(split for _, split_of in parts for split in split_of) | {
        f"left out: {reason}": number for reason, number in left_out.items()
    }
    sys.stdout.writelines(f"{number:7,}  {what}\n" for what, number in counts.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
