"""Read crystals to be evaluated, from a folder or a file, as they are; what cannot be read is kept as a failure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError
from cdvae_lab.io import npz, parsing
from cdvae_lab.runtime.parallel import run_parallel

_CHUNK = 100


@dataclass(frozen=True)
class CrystalSource:
    """Crystals to be evaluated, with their names.

    Attributes:
        crystals: as they are; without any atom where a file could not be read.
        ids: names of the files, or numbers.
        unreadable: for each crystal why it could not be read, or None.
    """

    crystals: Crystals
    ids: tuple[str, ...]
    unreadable: tuple[str | None, ...]


def read_source(path: str | Path, *, jobs: int = -1) -> CrystalSource:
    """Read the crystals of a folder of .cif files, of an .npz file (see `cdvae_lab.io.npz`), or of a folder of these.

    Files are taken in the order of their names. Unlike `cdvae_lab.read`, this refuses and reduces nothing: crystals
    that cannot be read count against the model that made them.

    Args:
        jobs: processes that read CIF files (-1: all cores).

    Raises:
        CrystalError: if there is no such file or folder, or nothing in it.
    """
    path = Path(path)
    if path.is_dir():
        cifs, arrays = (sorted(p for p in path.iterdir() if p.suffix.lower() == end) for end in (".cif", ".npz"))
        if bool(cifs) == bool(arrays):
            raise CrystalError(
                f"{path}: holds {len(cifs)} .cif and {len(arrays)} .npz files; give a folder with one of the two kinds"
            )
        return _read_cifs(cifs, jobs) if cifs else _numbered(Crystals.cat([npz.load(p) for p in arrays]))
    if path.suffix.lower() == ".cif" and path.is_file():
        return _read_cifs([path], jobs)
    if path.suffix.lower() == ".npz":
        return _numbered(npz.load(path))
    raise CrystalError(f"{path}: give an .npz file, or a folder of .cif or .npz files")


def _numbered(crystals: Crystals) -> CrystalSource:
    return CrystalSource(crystals, tuple(map(str, range(len(crystals)))), (None,) * len(crystals))


def _read_cifs(paths: list[Path], jobs: int) -> CrystalSource:
    from joblib import delayed

    tasks = [delayed(_read_some)(paths[i : i + _CHUNK]) for i in range(0, len(paths), _CHUNK)]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, str | None]] = []
    for part in run_parallel(tasks, jobs):
        found += part
    sites = max(1, *(len(numbers) for numbers, *_ in found))
    atomic_numbers = torch.zeros(len(found), sites, dtype=torch.long)
    frac_coords = torch.zeros(len(found), sites, 3, dtype=torch.float64)
    for row, (numbers, coords, _, _) in enumerate(found):
        atomic_numbers[row, : len(numbers)] = torch.from_numpy(numbers)
        frac_coords[row, : len(numbers)] = torch.from_numpy(coords)
    lattice = torch.from_numpy(np.stack([matrix for _, _, matrix, _ in found]))
    reasons = tuple(reason for *_, reason in found)
    return CrystalSource(Crystals(frac_coords, atomic_numbers, lattice), tuple(path.stem for path in paths), reasons)


def _read_some(paths: list[Path]) -> list[Any]:
    import warnings

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a coordinate was rounded
        for path in paths:
            try:
                structures = parsing.read_file(path)
                if len(structures) > 1:
                    raise CrystalError(f"{path}: holds {len(structures)} crystals; write each to a separate file")
                structure = structures[0][0]
                if not structure.is_ordered:
                    raise CrystalError(f"{path}: has partly occupied sites")
                numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
                matrix = np.array(structure.lattice.matrix, dtype=np.float64)
                found.append((numbers, np.array(structure.frac_coords, dtype=np.float64), matrix, None))
            except CrystalError as error:
                reason = str(error).removeprefix(f"{path}: ")
                found.append((np.zeros(0, np.int64), np.zeros((0, 3)), np.full((3, 3), np.nan), reason))
    return found
