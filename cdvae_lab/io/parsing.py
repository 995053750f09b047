"""Parse the text of a CIF, POSCAR or extended XYZ file to pymatgen Structures, or raise an error with a remedy.

pymatgen and ASE do the reading. Files that they would silently read as another crystal are refused here: placeholders
for unknown positions, empty sites, symbols that are no elements, POSCAR files that do not name their elements.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.limits import MIN_VOLUME
from cdvae_lab.errors import CrystalError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

CELL_FIELDS = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]


def read_file(path: Path) -> list[tuple[Structure, str]]:
    """Read the structures in a file, whose format follows from its name, each with a name for errors.

    Raises:
        CrystalError: names the file, what is wrong, and the remedy.
    """
    if not path.is_file():
        raise CrystalError(f"{path}: no such file; check the path")
    fmt = format_of(path.name)
    if fmt is None:
        raise CrystalError(
            f"{path}: the name gives no format; use .cif, .vasp, .poscar, .xyz or .extxyz, or call it POSCAR"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CrystalError(f"{path}: is not a text file ({error.reason}); give a CIF, POSCAR or XYZ file") from error
    except OSError as error:
        raise CrystalError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    return parse(text, str(path), fmt)


def format_of(name: str) -> str | None:
    """Return the format of a file name: "cif", "poscar" or "extxyz"; None if unknown."""
    lower = Path(name).name.lower()
    if lower.endswith(".cif"):
        return "cif"
    if lower.endswith((".vasp", ".poscar")) or lower.startswith(("poscar", "contcar")):
        return "poscar"
    return "extxyz" if lower.endswith((".xyz", ".extxyz")) else None


def parse(text: str, name: str, fmt: str | None = None) -> list[tuple[Structure, str]]:
    """Parse the structures in a file's text, each with a name.

    Args:
        text: content of the file.
        name: of the file, for errors.
        fmt: "cif", "poscar" or "extxyz"; None: by the name of the file, or else by the text.

    Raises:
        CrystalError: names the file, what is wrong, and the remedy.
    """
    if not text.strip():
        raise CrystalError(f"{name}: the file is empty; give one with a crystal in it")
    if fmt is None:
        guess = "cif" if "_cell_length_a" in text else "extxyz" if "Lattice=" in text else "poscar"
        fmt = format_of(name) or guess
    parsers = {"cif": _parse_cif, "poscar": _parse_poscar, "extxyz": _parse_extxyz}
    try:
        structures = parsers[fmt](text, name)
    except CrystalError:
        raise
    except Exception as error:
        # Parsers raise errors of many types, and the user needs the name of the file.
        raise CrystalError(
            f"{name}: cannot be read as {fmt.upper()} ({type(error).__name__}: {error}); correct it, or export it "
            "again from a program that reads it"
        ) from error
    if len(structures) == 1:
        return [(structures[0], name)]
    return [(s, f"{name} (number {i})") for i, s in enumerate(structures)]


def _parse_cif(text: str, name: str) -> list[Structure]:
    from pymatgen.io.cif import CifParser

    parser = CifParser.from_str(text)
    for block in parser.as_dict().values():
        _check_cif(block, name)
    try:
        return parser.parse_structures(primitive=False, on_error="raise")
    except ValueError as error:
        if "exceeded tolerance" in str(error):
            raise CrystalError(
                f"{name}: some atoms lie on top of each other: their _atom_site_occupancy adds up to more than 1 at "
                "one place; remove the doubled atoms"
            ) from error
        raise


def _check_cif(block: Mapping[str, Any], name: str) -> None:
    """Refuse a file that pymatgen would silently read as another crystal."""
    from pymatgen.io.cif import str2float

    if not all(field in block for field in CELL_FIELDS):
        return  # a block of text only, or no crystal at all, which the parser reports
    parameters = [str2float(block[field]) for field in CELL_FIELDS]
    if min(parameters) <= 0:
        bad = CELL_FIELDS[int(np.argmin(parameters))]
        raise CrystalError(f"{name}: {bad} is {min(parameters):g}; it must be positive: correct it")
    lengths, angles = torch.tensor(parameters, dtype=torch.float64).split(3)
    check_cell(lat.from_parameters(lengths, angles).numpy(), name)

    field = "_atom_site_type_symbol" if "_atom_site_type_symbol" in block else "_atom_site_label"
    for symbol in dict.fromkeys(_column(block, field)):
        # "Fe3+", "O2-", "Na1": the letters at the start. pymatgen would make V of the vacancy "Va", O of water "Wat".
        _check_symbol(re.match(r"[A-Za-z]*", symbol)[0], symbol, f"{name}: {field}")  # pyright: ignore
    for field in ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"):
        if any(value in (".", "?") for value in _column(block, field)):
            raise CrystalError(f"{name}: {field} is unknown (. or ?) for an atom; give its position or remove the atom")
    for value in _column(block, "_atom_site_occupancy"):
        if value not in (".", "?") and str2float(value) <= 0:
            raise CrystalError(
                f"{name}: _atom_site_occupancy is {value} for an atom, so the site is empty; remove it from the file"
            )


def _column(block: Mapping[str, Any], field: str) -> list[str]:
    values = block.get(field, [])
    return [values] if isinstance(values, str) else values


def _check_symbol(letters: str, symbol: str, where: str) -> None:
    from pymatgen.core import Element

    if not Element.is_valid_symbol(letters):
        raise CrystalError(
            f"{where}: {symbol!r} is no element; write the element's symbol (as in Na), or remove the dummy atom"
        )


def _parse_poscar(text: str, name: str) -> list[Structure]:
    from pymatgen.io.vasp import Poscar
    from pymatgen.io.vasp.inputs import BadPoscarWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadPoscarWarning)  # it warns of guessed elements, which is an error below
        poscar = Poscar.from_str(text)
    if not poscar.true_names:
        raise CrystalError(f"{name}: does not say its elements; put their symbols on the sixth line, above the numbers")
    return [poscar.structure]


def _parse_extxyz(text: str, name: str) -> list[Structure]:
    from ase.io import read as ase_read

    frames: Any = ase_read(io.StringIO(text), index=":", format="extxyz")
    return [from_ase(atoms, name) for atoms in frames]


def from_ase(atoms: Atoms, name: str) -> Structure:
    """Convert ASE Atoms to a pymatgen Structure.

    Raises:
        CrystalError: names the crystal, what is wrong, and the remedy.
    """
    from pymatgen.core import Structure

    if not atoms.pbc.all():
        raise CrystalError(
            f'{name}: is not periodic in all three directions; give a crystal (in XYZ: Lattice="..." and pbc="T T T")'
        )
    if (atoms.numbers < 1).any():
        raise CrystalError(f"{name}: has a dummy atom (X); replace it by an element or remove it")
    check_cell(np.array(atoms.cell), name)
    return Structure(np.array(atoms.cell), atoms.numbers.tolist(), atoms.get_scaled_positions(wrap=False))


def check_cell(matrix: np.ndarray, name: str) -> None:
    """Refuse a cell (rows, Å) that is not finite or has no volume.

    Raises:
        CrystalError: names the crystal, what is wrong, and the remedy.
    """
    if not np.isfinite(matrix).all():
        raise CrystalError(f"{name}: a lattice vector is not a finite number; correct the cell")
    volume = abs(np.linalg.det(matrix))
    if volume < MIN_VOLUME:
        raise CrystalError(
            f"{name}: the cell's volume is {volume:.3g} Å^3, as good as zero (at least {MIN_VOLUME} Å^3 are needed); "
            "correct its lengths (Å) and angles (degrees)"
        )
