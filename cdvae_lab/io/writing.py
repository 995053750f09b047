"""Write crystals to CIF, POSCAR and extended XYZ files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.io.convert import to_ase, to_structures
from cdvae_lab.io.storage import atomic_path

if TYPE_CHECKING:
    from pymatgen.core import Structure


def write(
    crystals: Crystals,
    folder: str | Path,
    fmt: str = "cif",
    names: Sequence[str] | None = None,
) -> list[Path]:
    """Write one file per crystal, `crystal_0000.cif` or `crystal_0000.vasp` and so on, or by `names`; make the folder.

    `fmt` is "cif" or "poscar". A CIF is written without symmetry (P1). Each file is written atomically.

    Raises:
        CrystalError: names a crystal that is not usable (see `is_usable`); nothing is written then.
        SettingError: for another format, or for names that are too few, repeated, or not plain file names.
        LabError: if a file cannot be written.
    """
    suffixes = {"cif": ".cif", "poscar": ".vasp"}
    if fmt not in suffixes:
        raise SettingError(f"fmt: {fmt!r}; give one of {', '.join(suffixes)}")
    names = [f"crystal_{i:04d}" for i in range(len(crystals))] if names is None else list(names)
    if len(set(names)) != len(crystals):
        raise SettingError(f"names: {len(set(names))} different names for {len(crystals)} crystals; give one for each")
    for name in names:
        if name != Path(name).name or not name:
            raise SettingError(f"names: {name!r} is no plain file name; leave folders out of it")
    paths = []
    for structure, name in zip(to_structures(crystals), names, strict=True):
        text = _cif(structure) if fmt == "cif" else _poscar(structure)
        path = Path(folder) / f"{name.removesuffix(suffixes[fmt])}{suffixes[fmt]}"
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def write_extxyz(crystals: Crystals, path: str | Path) -> Path:
    """Write all crystals to one extended XYZ file; errors are those of `write`."""
    from ase.io import write as ase_write

    buffer = io.StringIO()
    ase_write(buffer, to_ase(crystals), format="extxyz")
    with atomic_path(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")
    return Path(path)


def _cif(structure: Structure) -> str:
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(structure))


def _poscar(structure: Structure) -> str:
    from pymatgen.io.vasp import Poscar  # takes more than a second

    # VASP requires the atoms of an element to be contiguous.
    return Poscar(structure, sort_structure=True).get_str()
