"""Crystals from and to pymatgen, ASE, torch-geometric and files; the one place that judges a user's file.

Every crystal that enters the lab is checked, Niggli-reduced (never made primitive unless asked) and rebuilt from its
six lattice parameters, so that its orientation and its choice of cell are canonical (Xie et al., arXiv 2110.06197,
section 4 and its data preparation). An atom is known by its atomic number alone: oxidation states, isotopes
(deuterium counts as hydrogen), magnetic moments and selective dynamics are dropped.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from cdvae_lab import lattice as lat
from cdvae_lab.crystals import Crystals
from cdvae_lab.errors import CrystalError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# Part of the cache's key: raise it when the same file would become another crystal.
VERSION = 1
# Å; the structure validity of the paper. The shortest bond there is (H2) has 0.74 Å, so anything closer is a mistake
# in the file: a split site without occupancies, a doubled atom, a wrong cell.
MIN_DISTANCE = 0.5
# Å^3; the structure validity of the paper.
MIN_VOLUME = 0.1
# Å^2, on squared lengths and scalar products: differences below it are rounding, not geometry.
NIGGLI_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Canonical:
    """One judged and reduced crystal as plain arrays, cheap to send between processes."""

    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: np.ndarray
    lengths: Float[np.ndarray, " 3"]
    angles: Float[np.ndarray, " 3"]


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: a reader, or a run that is killed, never sees half of it.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# Into the lab


def read(
    source: Any,
    *,
    max_atoms: int | None = None,
    elements: Collection[int] | None = None,
    primitive: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Crystals:
    """Crystals from whatever a user has: a file, its text, a pymatgen Structure, ASE Atoms, Crystals, or a list of these.

    A path ends in .cif, .vasp, .poscar, .xyz or .extxyz, or is named like POSCAR or CONTCAR; a string with line breaks
    is taken for the text of such a file. A file with several crystals gives all of them.

    Args:
        source: what to read.
        max_atoms: the most atoms that a crystal may have; None for no limit.
        elements: the atomic numbers that are allowed; None for all.
        primitive: replace each crystal by its primitive cell first.
        dtype: float type of the result.

    Raises:
        CrystalError: names the file or the number in the list, what is wrong, and the remedy.
    """
    structures, names = [], []
    for structure, name in _structures(source, "crystal"):
        structures.append(structure)
        names.append(name)
    return from_structures(
        structures, max_atoms=max_atoms, elements=elements, names=names, primitive=primitive, dtype=dtype
    )


def from_structures(
    structures: Iterable[Structure],
    *,
    max_atoms: int | None = None,
    elements: Collection[int] | None = None,
    names: Sequence[str] | None = None,
    primitive: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Crystals:
    """Check, Niggli-reduce and rebuild pymatgen Structures in the canonical orientation; arguments as for `read`.

    Raises:
        CrystalError: names the crystal (by `names`, else by its number), what is wrong, and the remedy.
    """
    structures = list(structures)
    if not structures:
        raise CrystalError("no crystals were given: pass at least one structure or file")
    names = [f"crystal {i}" for i in range(len(structures))] if names is None else list(names)
    if len(names) != len(structures):
        raise CrystalError(f"names: {len(names)} names for {len(structures)} structures; give one for each")
    judged = [
        canonical(s, name, max_atoms=max_atoms, elements=elements, primitive=primitive)
        for s, name in zip(structures, names, strict=True)
    ]
    return from_canonical(judged, dtype=dtype)


def from_canonical(judged: Sequence[Canonical], dtype: torch.dtype = torch.float32) -> Crystals:
    """One batch of judged crystals."""
    parameters = [torch.from_numpy(np.stack([getattr(c, field) for c in judged])) for field in ("lengths", "angles")]
    # Wrapped once more in the narrower type, where 0.99999999 rounds to 1.
    return Crystals.from_lists(
        [lat.wrap(torch.from_numpy(c.frac_coords).to(dtype)) for c in judged],
        [torch.from_numpy(c.atomic_numbers.astype(np.int64)) for c in judged],
        lat.from_parameters(*parameters).to(dtype),
    )


def canonical(
    structure: Structure,
    name: str,
    *,
    max_atoms: int | None = None,
    elements: Collection[int] | None = None,
    primitive: bool = False,
) -> Canonical:
    """Judge one Structure and reduce it; arguments as for `read`.

    Raises:
        CrystalError: names the crystal, what is wrong, and the remedy.
    """
    if primitive:
        structure = structure.get_primitive_structure()
    numbers = _atomic_numbers(structure, name)
    if max_atoms is not None and len(numbers) > max_atoms:
        raise CrystalError(_too_many_atoms(structure, name, max_atoms))
    if elements is not None and (strange := sorted(set(numbers.tolist()) - set(elements))):
        raise CrystalError(
            f"{name}: {_symbols(strange)} never seen by the model, which knows {_symbols(sorted(elements))}; use a "
            "crystal of those elements, or a model trained on the others"
        )
    matrix, frac_coords = np.array(structure.lattice.matrix, float), np.array(structure.frac_coords, float)
    if not (np.isfinite(matrix).all() and np.isfinite(frac_coords).all()):
        raise CrystalError(f"{name}: the cell or a coordinate is not a finite number; correct the file")
    if abs(np.linalg.det(matrix)) < MIN_VOLUME:
        raise CrystalError(
            f"{name}: the cell has a volume of {abs(np.linalg.det(matrix)):.3g} Å^3, and {MIN_VOLUME} Å^3 is the least "
            "that a crystal can have; correct its lengths (Å) and angles (degrees)"
        )
    reduced, transform = niggli(matrix, name)
    frac_coords = frac_coords @ np.linalg.inv(transform)
    frac_coords -= np.floor(frac_coords)
    frac_coords[frac_coords >= 1] = 0
    _check_distances(reduced, frac_coords, numbers, name)
    lengths, angles = lat.to_parameters(torch.from_numpy(reduced))
    return Canonical(frac_coords, numbers, lengths.numpy(), angles.numpy())


def niggli(
    matrix: Float[np.ndarray, "3 3"], name: str = "lattice"
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 3"]]:
    """The right-handed Niggli cell of a lattice (rows, Å), and the integer matrix that makes it of the old rows.

    spglib does the work and not pymatgen, whose reduction ends by taking any cell with the right lengths whose
    angles agree within one degree: with angles near 90 degrees its result depends on the cell it was given.

    Raises:
        CrystalError: if the lattice cannot be reduced.
    """
    import spglib

    for tolerance in (NIGGLI_TOLERANCE, NIGGLI_TOLERANCE / 10, NIGGLI_TOLERANCE / 100):
        # The conditions with a tolerance can contradict each other, and the search then never ends: with another
        # tolerance it does.
        reduced = spglib.niggli_reduce(matrix, eps=tolerance)
        if reduced is not None:
            break
    else:
        raise CrystalError(f"{name}: the cell could not be Niggli-reduced; give the crystal in a less skewed cell")
    transform = np.round(reduced @ np.linalg.inv(matrix))
    if np.linalg.det(transform @ matrix) < 0:
        transform = -transform  # the same parameters, the other hand
    return transform @ matrix, transform


def _structures(source: Any, name: str) -> list[tuple[Structure, str]]:
    """Every structure in a source, with the name that errors give it."""
    from ase import Atoms
    from pymatgen.core import Structure

    if isinstance(source, Structure):
        return [(source, name)]
    if isinstance(source, Crystals):
        return [(s, f"{name} {i}") for i, s in enumerate(to_structures(source))]
    if isinstance(source, Atoms):
        return [(_from_ase(source, name), name)]
    if isinstance(source, str) and "\n" in source:
        return parse(source, f"text of {name}")
    if isinstance(source, str | Path):
        return _read_file(Path(source))
    if isinstance(source, Iterable):
        return [pair for i, item in enumerate(source) for pair in _structures(item, f"{name} {i}")]
    raise CrystalError(
        f"{name}: cannot make a crystal of {type(source).__name__}; pass a file, a pymatgen Structure, ASE Atoms, "
        "Crystals, or a list of these"
    )


def _read_file(path: Path) -> list[tuple[Structure, str]]:
    if not path.is_file():
        raise CrystalError(f"{path}: no such file; check the path")
    lower = path.name.lower()
    if lower.endswith(".cif"):
        fmt = "cif"
    elif lower.endswith((".vasp", ".poscar")) or lower.startswith(("poscar", "contcar")):
        fmt = "poscar"
    elif lower.endswith((".xyz", ".extxyz")):
        fmt = "extxyz"
    else:
        raise CrystalError(
            f"{path}: cannot tell the format from the name; use .cif, .vasp, .poscar, .xyz or .extxyz, or name it POSCAR"
        )
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise CrystalError(f"{path}: is not a text file ({error.reason}); give a CIF, POSCAR or XYZ file") from error
    return parse(text, str(path), fmt)


def parse(text: str, name: str, fmt: str | None = None) -> list[tuple[Structure, str]]:
    """The structures in the text of a file, each with its name; the format ("cif", "poscar", "extxyz") is guessed if None.

    Raises:
        CrystalError: names the file, what is wrong, and the remedy.
    """
    from pymatgen.io.cif import CifParser
    from pymatgen.io.vasp import Poscar

    if not text.strip():
        raise CrystalError(f"{name}: the file is empty; give one with a crystal in it")
    if fmt is None:
        fmt = "cif" if "_cell_length_a" in text else "extxyz" if "Lattice=" in text else "poscar"
    try:
        if fmt == "cif":
            # primitive: never behind the user's back. check_occu: a sum above 1 is judged below, not rescaled.
            parser = CifParser.from_str(text)
            structures = parser.parse_structures(primitive=False, on_error="raise")
        elif fmt == "poscar":
            structures = [Poscar.from_str(text).structure]
        else:
            from ase.io import read as ase_read

            found = ase_read(io.StringIO(text), index=":", format="extxyz")
            structures = [_from_ase(atoms, name) for atoms in found]
    except CrystalError:
        raise
    except Exception as error:
        raise CrystalError(
            f"{name}: cannot be read as {fmt.upper()} ({type(error).__name__}: {error}); correct the file, or export it "
            "again from a program that reads it"
        ) from error
    if not structures:
        raise CrystalError(f"{name}: holds no crystal; a {fmt.upper()} file needs a cell and at least one atom")
    if len(structures) == 1:
        return [(structures[0], name)]
    return [(s, f"{name} (number {i})") for i, s in enumerate(structures)]


def _from_ase(atoms: Atoms, name: str) -> Structure:
    from pymatgen.core import Structure

    if not atoms.pbc.all():
        raise CrystalError(
            f'{name}: is not periodic in all three directions; give a crystal (in XYZ: Lattice="..." and pbc="T T T")'
        )
    if (atoms.numbers < 1).any():
        raise CrystalError(f"{name}: has a dummy atom (X); replace it by an element or remove it")
    return Structure(np.array(atoms.cell), atoms.numbers.tolist(), atoms.get_scaled_positions())


def _atomic_numbers(structure: Structure, name: str) -> np.ndarray:
    from pymatgen.core import DummySpecies

    if len(structure) == 0:
        raise CrystalError(f"{name}: has no atoms; give a crystal with at least one")
    numbers = np.empty(len(structure), dtype=np.int64)
    for i, site in enumerate(structure):
        if not site.is_ordered:
            raise CrystalError(
                f"{name}: site {i} is partly occupied or mixed ({site.species_string}); the model needs one whole atom a "
                "site: make an ordered cell first, for example with pymatgen's OrderDisorderedStructureTransformation"
            )
        if isinstance(site.specie, DummySpecies):
            raise CrystalError(
                f"{name}: site {i} holds {site.specie.symbol}, which is no element; replace it by one or remove it"
            )
        numbers[i] = site.specie.Z
    return numbers


def _too_many_atoms(structure: Structure, name: str, max_atoms: int) -> str:
    message = f"{name}: has {len(structure)} atoms, more than the {max_atoms} that the model was trained for"
    primitive = structure.get_primitive_structure()
    if len(primitive) <= max_atoms:
        return message + (
            f"; its primitive cell has {len(primitive)}: take that with cdvae_lab.convert.read(..., primitive=True)"
        )
    return message + (
        f" (its primitive cell: {len(primitive)}); use a smaller crystal, or a model trained on larger ones"
    )


def _check_distances(matrix: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray, name: str) -> None:
    from pymatgen.core import Lattice

    # An atom and its own images are as far apart as the shortest vector, which a Niggli cell has as its first.
    shortest = np.linalg.norm(matrix, axis=1).min()
    if shortest < MIN_DISTANCE:
        raise CrystalError(
            f"{name}: the cell repeats after {shortest:.3f} Å, so that atoms lie on their own images (at least "
            f"{MIN_DISTANCE} Å are needed); correct its lengths (Å) and angles (degrees)"
        )
    if len(numbers) == 1:
        return
    distances = Lattice(matrix).get_all_distances(frac_coords, frac_coords)
    np.fill_diagonal(distances, np.inf)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    if distances[i, j] < MIN_DISTANCE:
        raise CrystalError(
            f"{name}: atoms {min(i, j)} ({_symbols([numbers[min(i, j)]])}) and {max(i, j)} "
            f"({_symbols([numbers[max(i, j)]])}) are {distances[i, j]:.3f} Å apart, on top of each other (at least "
            f"{MIN_DISTANCE} Å are needed); remove one of them, or correct the cell"
        )


def _symbols(numbers: Iterable[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[int(n)] if n < len(chemical_symbols) else f"Z={n}" for n in numbers)
