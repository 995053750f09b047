"""The public data sets: labels, sources, licenses, splits, and their local files."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from cdvae_lab.crystals import formulas
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.cache import users_cache
from cdvae_lab.datasets.tables import read_table
from cdvae_lab.errors import DatasetError
from cdvae_lab.io import convert

# Crystals of one formula that `find_crystals` returns at most; more take too long to compare.
MAX_SAME_FORMULA = 40


def possible_paths(name: str, split: str, folder: Path) -> list[Path]:
    """List the paths where a file of a public data set may lie in a folder."""
    files = (f"{name}/{split}.csv", f"{name}/{split}.csv.gz", f"{split}.csv", f"{split}.csv.gz")
    return [folder / file for file in files]


def find_file(name: str, split: str, folder: Path) -> Path:
    """Find the file of one split of a public data set in a folder.

    Raises:
        DatasetError: names the paths that were searched.
    """
    paths = possible_paths(name, split, folder)
    for path in paths:
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder}: has no file of {name} ({split}); looked for {', '.join(map(str, paths))}. "
        "Put the file there, or omit folder to download it"
    )


def find_crystals(
    name: str,
    split: str,
    identity: str,
    formula: str,
    *,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
) -> Crystals | None:
    """Find the crystals of a public data set with an id, or else with a formula; never download.

    The formula decides where no row has the id, since ids differ between copies of these files. The result is None
    without a local file, without a matching crystal, or with more than `MAX_SAME_FORMULA` crystals of that formula.

    Args:
        name: "perov_5", "carbon_24" or "mp_20".
        split: "train", "val" or "test", or several joined by "+".
        identity: a `material_id`.
        formula: formula with all atoms of the cell, elements in any order.
        folder: folder of the files, as for `load`; None for the files that `load` has downloaded.
        cache: as for `load`.

    Raises:
        DatasetError: if a local file cannot be read.
        CrystalError: if a matching crystal cannot be read.
    """
    by_id, by_formula = {}, {}
    for path in files_there(name, split, folder=folder, cache=cache):
        ids, texts_of = _texts(path, path.stat().st_mtime_ns)
        by_id |= ids
        for one, texts in texts_of.items():
            by_formula.setdefault(one, []).extend(texts)
    found = [by_id[identity]] if identity in by_id else by_formula.get(formulas.respell(formula), [])
    return convert.read(found) if 0 < len(found) <= MAX_SAME_FORMULA else None


def files_there(
    name: str, split: str, *, folder: str | Path | None = None, cache: str | Path | None = None
) -> list[Path]:
    """List the local files of a public data set; arguments as of `find_crystals`."""
    base = (users_cache() if cache is None else Path(cache)) / "public" if folder is None else Path(folder)
    return [path for part in split.split("+") for path in possible_paths(name, part, base) if path.is_file()]


@lru_cache(maxsize=3)
def _texts(path: Path, changed: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """CIF texts of a table by id and by formula, cached; `changed` (ns) distinguishes a replaced file."""
    table = read_table(path)
    texts = table["cif"].fillna("").tolist()
    ids = table["material_id"].fillna("").astype(str) if "material_id" in table else table.index.astype(str)
    by_formula: dict[str, list[str]] = {}
    for text in texts:
        if match := re.search(r"_chemical_formula_sum\s+'?([^'\n]+)", text):
            by_formula.setdefault(formulas.respell(match[1]), []).append(text)
    return dict(zip(ids, texts, strict=True)), by_formula
