"""Data sets: Perov-5, Carbon-24, MP-20, the embedded synthetic perovskites, and a user's own folder or table.

A table is a CSV file (.csv or .csv.gz) with a column `cif` that holds the text of a CIF file, perhaps a column
`material_id`, and columns of properties. Its crystals are parsed once and cached; ids and properties are read from
the table every time, so that another property needs no parsing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache as remember
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals import formulas
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.indexing import Index, chosen_rows
from cdvae_lab.datasets import public as download
from cdvae_lab.datasets import synthetic
from cdvae_lab.datasets.cache import LeftOut, read_texts
from cdvae_lab.errors import DatasetError, SettingError
from cdvae_lab.io import convert

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
JOINED = "train+val"  # what `carbon_24_protocol` trains on
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
# name: (default property, description, license)
PUBLIC = {
    "perov_5": (
        "heat_ref",
        "Perov-5: ABX3 perovskites of Castelli et al., Energy Environ. Sci. 5, 5814 (2012), as split by txie-93/cdvae",
        "MIT (txie-93/cdvae)",
    ),
    "carbon_24": (
        "energy_per_atom",
        "Carbon-24: carbon at 10 GPa from random structure search, Pickard, doi:10.24435/materialscloud:2020.0026/v1, "
        "as split by txie-93/cdvae",
        "MIT (txie-93/cdvae); original data CC BY 4.0",
    ),
    "mp_20": (
        "formation_energy_per_atom",
        "MP-20: crystals of the Materials Project with at most 20 atoms, Jain et al., APL Mater. 1, 011002 (2013), as "
        "split by txie-93/cdvae",
        "MIT (txie-93/cdvae); original data CC BY 4.0",
    ),
}
# Crystals of one formula; comparing more takes too long.
MAX_SAME_FORMULA = 40
# Crystals of Carbon-24's val that checkpoints are chosen by.
CARBON_24_CHOOSING = 400
SYNTHETIC = "synthetic_perovskites"
SYNTHETIC_PROPERTY = "electrostatic_energy_per_atom"
Reader = Callable[[Sequence[str], Sequence[str], str], tuple[Crystals, np.ndarray, tuple[LeftOut, ...]]]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Crystals with their labels and where they come from.

    Attributes:
        name: name of the set.
        split: "train", "val", "test", "all", or several joined by "+".
        crystals: the crystals, Niggli-reduced and canonically oriented.
        ids: one id for each crystal.
        labels: the label of each crystal, in `label_unit`; NaN where there is none.
        label_name: name of the label's column; empty without labels.
        label_unit: unit of the label; empty if not known.
        source: where the data comes from.
        license: its license, as far as known.
        left_out: the rows or files that could not be used.
    """

    name: str
    split: str
    crystals: Crystals
    ids: tuple[str, ...]
    labels: Float[Tensor, " crystals"]
    label_name: str
    label_unit: str
    source: str
    license: str
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.crystals)

    def __getitem__(self, which: Index) -> Dataset:
        """Choose some of the crystals, always as a data set: by a number, a slice, several numbers, or a mask.

        Raises:
            IndexError: for a number that no crystal has, or a mask of another length.
            TypeError: if `which` is neither a number, a slice, a sequence of numbers nor a mask.
        """
        rows = chosen_rows(which, len(self), self.labels.device)
        chosen = np.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return replace(
            self, crystals=self.crystals[rows], labels=self.labels[rows], ids=tuple(self.ids[i] for i in chosen)
        )

    def __repr__(self) -> str:
        label = f", label {self.label_name}" if self.label_name else ""
        label += f" ({self.label_unit})" if self.label_unit else ""
        return f"Dataset({self.name}, {self.split}: {len(self):,} crystals of {len(self.elements)} elements{label})"

    def _repr_html_(self) -> str:
        """A table of facts for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(text)}"
            "</td></tr>"
            for name, text in self._facts()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        """Facts about the data set as (name, text)."""
        atoms = self.crystals.num_atoms
        size = f"{int(atoms.min())} to {int(atoms.max())} atoms, " if len(self) else ""
        facts = [
            ("data set", f"{self.name} ({self.split})"),
            ("crystals", f"{len(self):,}, {size}{len(self.elements)} elements"),
        ]
        if self.label_name:
            labeled = self.labels[torch.isfinite(self.labels)]
            text = f"{len(labeled):,} labeled"
            if len(labeled):
                text += f", {labeled.min():.3f} to {labeled.max():.3f}, mean {labeled.mean():.3f} {self.label_unit}"
            facts.append((self.label_name, text.strip()))
        facts += [("source", self.source), ("license", self.license)]
        return [*facts, ("left out", f"{len(self.left_out):,} rows or files")] if self.left_out else facts

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set on another device."""
        return replace(self, crystals=self.crystals.to(device), labels=self.labels.to(device))

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers that occur, in order."""
        return tuple(int(n) for n in torch.unique(self.crystals.atomic_numbers) if n > 0)

    @cached_property
    def formulas(self) -> list[str]:
        """Formula of each crystal with all atoms of its cell: Sr2Ti2O6; see `cdvae_lab.crystals.formulas`."""
        return formulas.cell_formulas(self.crystals)

    def summary(self) -> str:
        """A few lines about the data set, for people."""
        atoms = self.crystals.num_atoms
        labeled = torch.isfinite(self.labels)
        lines = [
            f"{self.name} ({self.split}): {len(self):,} crystals of {int(atoms.min())} to {int(atoms.max())} atoms, "
            f"{len(self.elements)} elements"
        ]
        if self.label_name:
            text = f"{self.label_name}: {int(labeled.sum()):,} labeled"
            if labeled.any():
                values = self.labels[labeled]
                text += f", {values.min():.3f} to {values.max():.3f}, mean {values.mean():.3f}"
                text += f" {self.label_unit}" if self.label_unit else ""
            lines.append(text)
        lines.append(f"source: {self.source}; license: {self.license}")
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)}")
            lines += [f"  {left.where}: {left.reason}" for left in self.left_out[:5]]
            if len(self.left_out) > 5:
                lines.append(f"  and {len(self.left_out) - 5} more (see .left_out)")
        return "\n".join(lines)


def load(
    name_or_path: str | Path,
    split: str | None = None,
    *,
    folder: str | Path | None = None,
    label: str | None = None,
    cache: str | Path | None = None,
    jobs: int | None = None,
    progress: bool = True,
    limit: int | None = None,
    base_url: str = download.PUBLIC_URL,
) -> Dataset:
    """A data set by name, or from a user's folder of CIF files or table of CIF texts.

    Args:
        name_or_path: "perov_5", "carbon_24", "mp_20", "synthetic_perovskites"; or the path of a folder of .cif files
            (with a labels.csv, if wanted: a column `file` and columns of properties), or of a .csv or .csv.gz table.
        split: "train", "val" or "test"; None takes train. Of a user's own data None takes the rows of train if the
            table has a column `split`, and everything otherwise.
        folder: where `<name>/<split>.csv` or `<split>.csv` lies (or .csv.gz); None downloads the public files.
        label: the column with the label; None takes the set's own (a user's table: no label).
        cache: folder for parsed and downloaded files; None for the user's cache folder.
        jobs: processes that parse; None for all cores.
        progress: show progress bars.
        limit: read only this number of rows or files.
        base_url: where the public files are served.

    Raises:
        DatasetError: names the file or column and the remedy. Single broken rows or files raise nothing: they are in
            the data set's `left_out`, with the reason.
        SettingError: if split, jobs or limit is out of range.

    Examples:
        >>> import cdvae_lab as lab
        >>> data = lab.datasets.load("synthetic_perovskites", limit=8, progress=False)
        >>> len(data), data.label_name
        (8, 'electrostatic_energy_per_atom')
    """
    if limit is not None and limit < 1:
        raise SettingError(f"limit: {limit} rows; give at least 1, or None for all")
    if jobs is not None and jobs < 1:
        raise SettingError(f"jobs: {jobs} processes; give at least 1, or None for all cores")
    chosen = split
    split = "train" if split is None else split
    if split not in SPLITS:
        raise SettingError(f"split: {split!r}; give one of {', '.join(SPLITS)}")
    cache = _users_cache() if cache is None else Path(cache)
    read = partial(_read_all, folder=cache / "parsed", jobs=jobs, progress=progress)
    name = str(name_or_path)
    if name == SYNTHETIC:
        if label not in (None, SYNTHETIC_PROPERTY) or folder is not None:
            raise SettingError(f"{SYNTHETIC} is made, not read: leave folder out, and label too ({SYNTHETIC_PROPERTY})")
        return _split_synthetic(split)[:limit]
    if name in PUBLIC:
        default, source, license = PUBLIC[name]
        path = (
            download.fetch(name, split, cache / "public", base_url=base_url, progress=progress)
            if folder is None
            else _find(name, split, Path(folder))
        )
        if folder is not None:
            source = f"{source}; read from {path.name}"
        return _from_table(path, name, split, label or default, source, license, read, limit, own=False)
    path = Path(name_or_path)
    if path.is_dir():
        if chosen is not None:
            raise DatasetError(f"{path}: a folder has no splits; leave split out to take all of it, or give a table")
        return _from_folder(path, label, read, limit)
    if path.is_file() and path.name.lower().endswith((".csv", ".csv.gz")):
        if chosen is not None and not _has_splits(path):
            raise DatasetError(
                f"{path}: has no column split; add one with {split} in it, or leave split out to take all"
            )
        return _from_table(path, path.name, split, label, str(path), "the user's own", read, limit, own=True)
    if path.exists():
        raise DatasetError(f"{path}: is neither a folder of CIF files nor a .csv or .csv.gz table; give one of these")
    raise DatasetError(
        f"{name}: no such data set or path; give one of {', '.join([*PUBLIC, SYNTHETIC])}, a folder of CIF files, or a "
        ".csv or .csv.gz table with a column cif"
    )


def split_of(name_or_path: str | Path, split: str) -> str | None:
    """The split to ask `load` for: `split`, or None for a user's own data that has no splits and is taken whole."""
    path = Path(name_or_path)
    if str(name_or_path) in (*PUBLIC, SYNTHETIC) or not path.exists():
        return split
    return split if path.is_file() and _has_splits(path) else None


def _has_splits(path: Path) -> bool:
    """True for a table with a column `split`; a file that cannot be read is reported as it is read whole."""
    import pandas as pd

    try:
        return "split" in pd.read_csv(path, nrows=0)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError):
        return True


def find_crystals(
    name: str,
    split: str,
    identity: str,
    formula: str,
    *,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
) -> Crystals | None:
    """The crystals of a public set that have an id, from a file that is there already. Never downloads.

    Where no row has the id, which is not the same in all copies of these files, those that have the formula; None if
    there is no file, no such crystal, or more than `MAX_SAME_FORMULA` of the formula.

    Args:
        name: "perov_5", "carbon_24" or "mp_20".
        split: "train", "val" or "test", or several joined by "+".
        identity: a `material_id`.
        formula: with all atoms of the cell, elements in any order.
        folder: as for `load`; None for the folder of `load`'s downloads.
        cache: as for `load`.

    Raises:
        DatasetError: if the file is there and cannot be read.
        CrystalError: if a crystal cannot be.
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
    """List the files of a public set that are on this machine already; arguments as for `find_crystals`."""
    base = (_users_cache() if cache is None else Path(cache)) / "public" if folder is None else Path(folder)
    return [path for part in split.split("+") for path in _places_of(name, part, base) if path.is_file()]


@lru_cache(maxsize=3)
def _texts(path: Path, changed: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """A table's CIF texts by id and by formula; `changed` makes a file that was replaced another one."""
    table = _read_table(path)
    texts = table["cif"].fillna("").tolist()
    ids = table["material_id"].fillna("").astype(str) if "material_id" in table else table.index.astype(str)
    by_formula: dict[str, list[str]] = {}
    for text in texts:
        if match := re.search(r"_chemical_formula_sum\s+'?([^'\n]+)", text):
            by_formula.setdefault(formulas.respell(match[1]), []).append(text)
    return dict(zip(ids, texts, strict=True)), by_formula


@remember
def synthetic_perovskites(seed: int = 0) -> Dataset:
    """Load some thousands of ABX3 perovskites made from ionic radii, labeled with their electrostatic energy (eV/atom).

    Created in a few seconds at the first call. Nothing in it was measured or computed with quantum mechanics; see
    `cdvae_lab.datasets.synthetic`.

    Raises:
        SettingError: if the seed is negative.
    """
    if seed < 0:
        raise SettingError(f"seed: {seed}; give 0 or more")
    crystals, energies, compositions = synthetic.perovskites(seed)
    return Dataset(
        SYNTHETIC,
        "all",
        crystals,
        tuple(f"{a}{b}{x}3-{i % synthetic.VARIANTS}" for i, c in enumerate(compositions) for a, b, x in [c.symbols]),
        energies.to(torch.float32),
        SYNTHETIC_PROPERTY,
        "eV/atom",
        "SYNTHETIC: made by cdvae_lab from Shannon radii with Goldschmidt's tolerance factor, not measured",
        "MIT (cdvae_lab)",
    )


def _split_synthetic(split: str) -> Dataset:
    """80, 10 and 10 % of the compositions: the variants of one stay together."""
    everything = synthetic_perovskites()
    groups = np.random.default_rng(0).permutation(len(everything) // synthetic.VARIANTS)
    train, val = int(0.8 * len(groups)), int(0.9 * len(groups))
    chosen = np.sort({"train": groups[:train], "val": groups[train:val], "test": groups[val:]}[split])
    rows = (chosen[:, None] * synthetic.VARIANTS + np.arange(synthetic.VARIANTS)).ravel()
    # In a random order, so that the first few are not all of one composition.
    rows = np.random.default_rng(0).permutation(rows)
    return replace(everything[torch.from_numpy(rows)], split=split)


def _users_cache() -> Path:
    """The folder for caches that the operating system gives this user."""
    import pooch

    return Path(pooch.os_cache("cdvae_lab"))


def carbon_24_protocol(
    *, folder: str | Path | None = None, cache: str | Path | None = None, progress: bool = True
) -> tuple[Dataset, Dataset]:
    """Carbon-24 as we train on it: (train with 1,632 crystals of val, the other 400 of val to choose by).

    Val is shuffled by `numpy.random.default_rng(0)`; its first crystals join train, its last 400 do not. Where
    train has no energies these bring the only labels.
    """
    train, val = (load("carbon_24", split, folder=folder, cache=cache, progress=progress) for split in ("train", "val"))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(val)))
    joining, choosing = val[order[:-CARBON_24_CHOOSING]], val[order[-CARBON_24_CHOOSING:]]
    joined = replace(
        train,
        split="train+val",
        crystals=Crystals.cat([train.crystals, joining.crystals]),
        ids=train.ids + joining.ids,
        labels=torch.cat([train.labels, joining.labels]),
        left_out=train.left_out + joining.left_out,
    )
    return joined, choosing


# Tables and folders


def _read_all(
    texts: Sequence[str], places: Sequence[str], where: str, *, folder: Path, jobs: int | None, progress: bool
) -> tuple[Crystals, np.ndarray, tuple[LeftOut, ...]]:
    crystals, kept, left_out = read_texts(texts, places, folder, jobs=jobs, progress=progress)
    if crystals is None:
        raise DatasetError(
            f"{where}: none of its {len(texts)} crystals can be used; {left_out[0].where}: {left_out[0].reason}"
        )
    return crystals, kept, left_out


def _places_of(name: str, split: str, folder: Path) -> list[Path]:
    files = (f"{name}/{split}.csv", f"{name}/{split}.csv.gz", f"{split}.csv", f"{split}.csv.gz")
    return [folder / file for file in files]


def _find(name: str, split: str, folder: Path) -> Path:
    tried = _places_of(name, split, folder)
    for path in tried:
        if path.is_file():
            return path
    raise DatasetError(
        f"{folder}: has no file of {name} ({split}); looked for {', '.join(map(str, tried))}. "
        "Put the file there, or leave folder out to download it"
    )


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"cif": str, "material_id": str, "split": str}, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DatasetError(f"{path}: cannot be read as a CSV table ({error}); correct it, or get it again") from error
    if "cif" not in table:
        raise DatasetError(
            f"{path}: has no column cif (columns: {', '.join(map(str, table))}); add one with the text of a CIF file "
            "in each row, or give a folder of CIF files"
        )
    return table


def _labels(table: pd.DataFrame, column: str | None, where: str) -> np.ndarray:
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
            f"{where}: column {column!r} holds something that is no number ({error}); correct it or "
            "leave the cell empty"
        ) from error
    if np.isinf(values).any():
        row = np.flatnonzero(np.isinf(values))[0]
        raise DatasetError(
            f"{where}: column {column!r} is infinite in row {table.index[row] + 1}; correct it or leave the cell empty"
        )
    return values


def _from_table(
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
    table = _read_table(path)
    if own and "split" in table:
        present = ", ".join(sorted(table["split"].dropna().unique()))
        table = table[table["split"] == split]
        if table.empty:
            raise DatasetError(f"{path}: no row has {split!r} in its column split, only {present}; pass one of these")
    elif own:
        split = "all"
    if table.empty:
        raise DatasetError(f"{path}: has no rows; give a table with a crystal in each row")
    table = table.iloc[:limit]
    # The header is line 1; a CIF spans many lines, so rows are counted, not lines.
    places = [f"row {i + 1}" for i in table.index]
    labels = _labels(table, column, str(path))  # before any parsing: a misspelt column should cost nothing
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


def _from_folder(folder: Path, column: str | None, read: Reader, limit: int | None) -> Dataset:
    import pandas as pd

    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".cif")[:limit]
    if not files:
        raise DatasetError(
            f"{folder}: holds no .cif files; give the folder that does, or a .csv table with a column cif"
        )
    labels_path = folder / "labels.csv"
    labels = np.full(len(files), np.nan)
    if labels_path.is_file():
        table = pd.read_csv(labels_path, dtype={"file": str})
        if "file" not in table:
            raise DatasetError(f"{labels_path}: has no column file; add one with the name of each .cif file")
        values = dict(
            zip(table["file"].str.removesuffix(".cif"), _labels(table, column, str(labels_path)), strict=True)
        )
        labels = np.array([values.get(p.stem, np.nan) for p in files])
    elif column is not None:
        raise DatasetError(
            f"{labels_path}: no such file, so label={column!r} cannot be found; make it, with the columns file and "
            f"{column}, or leave label out"
        )
    # Broken bytes become a broken CIF, which is then reported as one file left out.
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
