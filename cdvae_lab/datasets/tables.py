"""Tables of crystals: CSV files with a CIF text in each row.

A table is a .csv or .csv.gz file with a column `cif` (the text of a CIF file), optionally a column `material_id`, and
columns of labels. Crystals are parsed once and cached; ids and labels are read from the table every time, so that
another label requires no parsing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.cache import LeftOut, read_texts
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

# Units of labels, by column.
UNITS = {
    "heat_ref": "eV/atom",
    "energy_per_atom": "eV/atom",
    "formation_energy_per_atom": "eV/atom",
    "e_form": "eV/atom",
    "band_gap": "eV",
    "ind_gap": "eV",
    "dir_gap": "eV",
    "e_above_hull": "eV/atom",
}
# Parses CIF texts: (texts, row or file name of each, path of the source) to (crystals, indices of the texts, left out).
Reader = Callable[[Sequence[str], Sequence[str], str], tuple[Crystals, np.ndarray, tuple[LeftOut, ...]]]


def read_all(
    texts: Sequence[str], places: Sequence[str], where: str, *, folder: Path, jobs: int | None, progress: bool
) -> tuple[Crystals, np.ndarray, tuple[LeftOut, ...]]:
    """Parse CIF texts with `read_texts`, and refuse a source without a single usable crystal.

    Args:
        texts: CIF texts with one crystal each.
        places: row or file name of each text, for `LeftOut`.
        where: path of the table or folder, for the error.
        folder: folder of the cache.
        jobs: number of processes that parse; None for all cores.
        progress: show a progress bar.

    Raises:
        DatasetError: names the first text that was left out, and the reason.
    """
    crystals, kept, left_out = read_texts(texts, places, folder, jobs=jobs, progress=progress)
    if crystals is None:
        raise DatasetError(
            f"{where}: none of its {len(texts)} crystals can be used; {left_out[0].where}: {left_out[0].reason}"
        )
    return crystals, kept, left_out


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV table with a column `cif`.

    Raises:
        DatasetError: if the file is not a CSV table or has no column `cif`.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"cif": str, "material_id": str, "split": str}, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DatasetError(
            f"{path}: cannot be read as a CSV table ({error}); correct the file, or download it again"
        ) from error
    if "cif" not in table:
        raise DatasetError(
            f"{path}: has no column cif (columns: {', '.join(map(str, table))}); add one with the text of a CIF file "
            "in each row, or give a folder of CIF files"
        )
    return table


def labels_of(table: pd.DataFrame, column: str | None, where: str) -> np.ndarray:
    """Return the labels in a column as float64, NaN where a cell is empty or `column` is None.

    Raises:
        DatasetError: if the column is missing or contains text or infinite numbers; the message starts with `where`.
    """
    if column is None:
        return np.full(len(table), np.nan)
    if column not in table:
        raise DatasetError(
            f"{where}: has no column {column!r}; it has {', '.join(map(str, table))}. Pass one as label="
        )
    try:
        values = table[column].astype(float).to_numpy()
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{where}: column {column!r} contains text that is not a number ({error}); correct it or "
            "leave the cell empty"
        ) from error
    if np.isinf(values).any():
        row = np.flatnonzero(np.isinf(values))[0]
        raise DatasetError(
            f"{where}: column {column!r} is infinite in row {table.index[row] + 1}; correct it or leave the cell empty"
        )
    return values


def from_table(
    path: Path,
    name: str,
    split: str,
    column: str | None,
    source: str,
    license: str,
    read: Reader,
    limit: int | None,
    own: bool,
) -> Dataset:
    """Read one split of a table as a data set.

    Args:
        path: path of the table.
        name: name of the data set.
        split: split of a public data set; rows of a user's own table to select by its column `split`, if it has one.
        column: column with the labels; None for no labels.
        source: origin of the data, for `Dataset`.
        license: license of the data, for `Dataset`.
        read: parses CIF texts, see `Reader`.
        limit: maximum number of rows; None for all.
        own: True for a user's own table.

    Raises:
        DatasetError: names the file or column and the remedy.
    """
    table = read_table(path)
    if own and "split" in table:
        present = ", ".join(sorted(table["split"].dropna().unique()))
        table = table[table["split"] == split]
        if table.empty:
            raise DatasetError(
                f"{path}: no row has {split!r} in its column split, which contains {present}; pass one of these"
            )
    elif own:
        split = "all"
    if table.empty:
        raise DatasetError(f"{path}: has no rows; give a table with a crystal in each row")
    table = table.iloc[:limit]
    # Rows rather than lines are numbered, because a CIF text spans many lines.
    places = [f"row {i + 1}" for i in table.index]
    labels = labels_of(table, column, str(path))  # before parsing, so that a misspelled column is reported at once
    texts = table["cif"].fillna("").tolist()
    crystals, kept, left_out = read(texts, places, str(path))
    ids = table["material_id"].fillna("").tolist() if "material_id" in table else [str(i) for i in table.index]
    return Dataset(
        name,
        split,
        crystals,
        tuple(ids[i] for i in kept),
        torch.from_numpy(labels[kept]).to(torch.float32),
        column or "",
        UNITS.get(column or "", ""),
        source,
        license,
        left_out,
    )
