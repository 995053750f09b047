"""Load any data set: a public one, the synthetic perovskites, or a user's own folder or table."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cdvae_lab.datasets import own, public, synthetic
from cdvae_lab.datasets.cache import users_cache
from cdvae_lab.datasets.catalog import PUBLIC, SPLITS, SYNTHETIC
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.datasets.public_sets import find_file
from cdvae_lab.datasets.synthetic import SYNTHETIC_LABEL
from cdvae_lab.datasets.tables import from_table, read_all
from cdvae_lab.errors import DatasetError, SettingError


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
    base_url: str = public.PUBLIC_URL,
) -> Dataset:
    """Load a data set by its name, or a user's own from a folder of CIF files or a table with CIF texts.

    Args:
        name_or_path: "perov_5", "carbon_24", "mp_20", "synthetic_perovskites"; or the path of a folder of .cif files
            (optionally with a labels.csv: a column `file` and columns of labels), or of a .csv or .csv.gz table.
        split: "train", "val" or "test"; None for train. For a user's own data, None selects the rows of train if the
            table has a column `split`, and all rows otherwise.
        folder: folder with `<name>/<split>.csv` or `<split>.csv` (or .csv.gz); None downloads the public files.
        label: column with the labels; None for the default of a public data set, and no labels for a user's own data.
        cache: folder for parsed and downloaded files; None for the user's cache folder.
        jobs: number of processes that parse; None for all cores.
        progress: show progress bars.
        limit: maximum number of rows or files; None for all.
        base_url: URL of the folder with the public files.

    Raises:
        DatasetError: names the file or column and the remedy. A broken row or file raises nothing: the data set
            lists it in `left_out`, with the reason.
        SettingError: if split, jobs or limit is out of range.

    Examples:
        >>> import cdvae_lab as lab
        >>> data = lab.datasets.load("synthetic_perovskites", limit=8, progress=False)
        >>> len(data), data.label_name
        (8, 'electrostatic_energy_per_atom')
    """
    if limit is not None and limit < 1:
        raise SettingError(f"limit: {limit}; give at least 1, or None for all rows")
    if jobs is not None and jobs < 1:
        raise SettingError(f"jobs: {jobs}; give at least 1, or None for all cores")
    chosen = split
    split = "train" if split is None else split
    if split not in SPLITS:
        raise SettingError(f"split: {split!r}; give one of {', '.join(SPLITS)}")
    cache = users_cache() if cache is None else Path(cache)
    read = partial(read_all, folder=cache / "parsed", jobs=jobs, progress=progress)
    name = str(name_or_path)
    if name == SYNTHETIC:
        if label not in (None, SYNTHETIC_LABEL) or folder is not None:
            raise SettingError(
                f"{SYNTHETIC} is generated, not read: omit folder and label (its label is {SYNTHETIC_LABEL})"
            )
        return synthetic.split_perovskites(split)[:limit]
    if name in PUBLIC:
        default, source, license = PUBLIC[name]
        path = (
            public.fetch(name, split, cache / "public", base_url=base_url, progress=progress)
            if folder is None
            else find_file(name, split, Path(folder))
        )
        if folder is not None:
            source = f"{source}; read from {path.name}"
        return from_table(path, name, split, label or default, source, license, read, limit, own=False)
    path = Path(name_or_path)
    if path.is_dir():
        if chosen is not None:
            raise DatasetError(
                f"{path}: a folder has no splits; omit split to load all of it, or give a table with a column split"
            )
        return own.from_folder(path, label, read, limit)
    if path.is_file() and path.name.lower().endswith((".csv", ".csv.gz")):
        if chosen is not None and not own.has_splits(path):
            raise DatasetError(
                f"{path}: has no column split; add one that contains {split}, or omit split to load all rows"
            )
        return from_table(path, path.name, split, label, str(path), "the user's own", read, limit, own=True)
    if path.exists():
        raise DatasetError(f"{path}: is neither a folder of CIF files nor a .csv or .csv.gz table; give one of these")
    raise DatasetError(
        f"{name}: no such data set or path; give one of {', '.join([*PUBLIC, SYNTHETIC])}, a folder of CIF files, or a "
        ".csv or .csv.gz table with a column cif"
    )


def split_of(name_or_path: str | Path, split: str) -> str | None:
    """Return the split to pass to `load`: `split` itself, or None for a user's own data without splits."""
    path = Path(name_or_path)
    if str(name_or_path) in (*PUBLIC, SYNTHETIC) or not path.exists():
        return split
    return split if path.is_file() and own.has_splits(path) else None
