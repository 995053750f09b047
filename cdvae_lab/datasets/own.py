"""A user's own data: a folder of CIF files, or a table with a column `split`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.datasets.tables import UNITS, Reader, labels_of
from cdvae_lab.errors import DatasetError


def has_splits(path: Path) -> bool:
    """Return True for a table with a column `split`, and for a file that cannot be read: `read_table` reports it."""
    import pandas as pd

    try:
        return "split" in pd.read_csv(path, nrows=0)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError):
        return True


def from_folder(folder: Path, column: str | None, read: Reader, limit: int | None) -> Dataset:
    """Read a folder of CIF files, with labels from its labels.csv if there is one.

    Args:
        folder: folder of the .cif files.
        column: column of labels.csv with the labels; None for no labels.
        read: parses CIF texts, see `Reader`.
        limit: maximum number of files, in the order of their names; None for all.

    Raises:
        DatasetError: names the file or column and the remedy.
    """
    import pandas as pd

    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".cif")[:limit]
    if not files:
        raise DatasetError(
            f"{folder}: contains no .cif files; give a folder that does, or a .csv table with a column cif"
        )
    labels_path = folder / "labels.csv"
    labels = np.full(len(files), np.nan)
    if labels_path.is_file():
        table = pd.read_csv(labels_path, dtype={"file": str})
        if "file" not in table:
            raise DatasetError(f"{labels_path}: has no column file; add one with the name of each .cif file")
        values = dict(
            zip(table["file"].str.removesuffix(".cif"), labels_of(table, column, str(labels_path)), strict=True)
        )
        labels = np.array([values.get(p.stem, np.nan) for p in files])
    elif column is not None:
        raise DatasetError(
            f"{labels_path}: no such file, so label={column!r} cannot be found; create it with the columns file and "
            f"{column}, or omit label"
        )
    # Invalid bytes make an invalid CIF, which `left_out` then reports as one file.
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in files]
    crystals, kept, left_out = read(texts, [p.name for p in files], str(folder))
    return Dataset(
        folder.name,
        "all",
        crystals,
        tuple(files[i].stem for i in kept),
        torch.from_numpy(labels[kept]).to(torch.float32),
        column or "",
        UNITS.get(column or "", ""),
        str(folder),
        "the user's own",
        left_out,
    )
