"""Convert crystals from and to pymatgen, ASE, torch-geometric and files, and check what a user gives.

Every crystal that enters the lab is checked, Niggli-reduced (never made primitive unless asked) and rebuilt from its
six lattice parameters, so that its orientation and its choice of cell are canonical (Xie et al., arXiv 2110.06197,
and its public implementation). An atom is known by its atomic number alone: oxidation states, isotopes (deuterium
counts as hydrogen), magnetic moments and selective dynamics are dropped.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals import niggli as reduction
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import MAX_ATOMIC_NUMBER, symbol_of
from cdvae_lab.crystals.limits import MIN_DISTANCE, MIN_VOLUME
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.io.parsing import check_cell, from_ase, parse, read_file
from cdvae_lab.io.storage import atomic_path

if TYPE_CHECKING:
    from ase import Atoms
    from nglview import NGLWidget
    from pymatgen.core import Structure
    from torch_geometric.data import Batch, Data

# Part of the cache key: increase it when the same file would give another crystal.
VERSION = 2


@dataclass(frozen=True)
class Canonical:
    """One checked and reduced crystal as plain arrays, cheap to send between processes."""

    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    lengths: Float[np.ndarray, " 3"]
    angles: Float[np.ndarray, " 3"]


# Reading


def read(
    source: Any,
    *,
    max_atoms: int | None = None,
    elements: Collection[int] | None = None,
    primitive: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Crystals:
    """Read crystals from a file, its text, a pymatgen Structure, ASE Atoms, Crystals, or a list of these.

    A path ends in .cif, .vasp, .poscar, .xyz or .extxyz, or is named like POSCAR or CONTCAR; a string with line breaks
    is read as the text of such a file. A file with several crystals gives all of them.

    Args:
        source: a path, a text, an object, or a list of these.
        max_atoms: maximum number of atoms in a crystal; None for no limit.
        elements: allowed atomic numbers; None for all.
        primitive: reduce each crystal to its primitive cell first.
        dtype: float type of the result.

    Raises:
        CrystalError: names the file or the number in the list, what is wrong, and the remedy.

    Examples:
        >>> import cdvae_lab as lab
        >>> crystals = lab.read([lab.asset_path(f"examples/{name}.cif") for name in ("SrTiO3", "diamond")])
        >>> crystals.num_atoms.tolist()
        [5, 8]
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
    checked = [
        canonical(s, name, max_atoms=max_atoms, elements=elements, primitive=primitive)
        for s, name in zip(structures, names, strict=True)
    ]
    return from_canonical(checked, dtype=dtype)


def from_canonical(checked: Sequence[Canonical], dtype: torch.dtype = torch.float32) -> Crystals:
    """Combine checked crystals into one batch."""
    parameters = [torch.from_numpy(np.stack([getattr(c, field) for c in checked])) for field in ("lengths", "angles")]
    # Wrapped once more in the narrower type, where 0.99999999 rounds to 1.
    return Crystals.from_lists(
        [lat.wrap(torch.from_numpy(c.frac_coords).to(dtype)) for c in checked],
        [torch.from_numpy(c.atomic_numbers.astype(np.int64)) for c in checked],
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
    """Check one Structure and reduce it; arguments as for `read`.

    Raises:
        CrystalError: names the crystal, what is wrong, and the remedy.
    """
    numbers = _atomic_numbers(structure, name)
    if primitive:
        structure = structure.get_primitive_structure()
        numbers = _atomic_numbers(structure, name)
    matrix, frac_coords = np.array(structure.lattice.matrix, float), np.array(structure.frac_coords, float)
    check_cell(matrix, name)
    if not np.isfinite(frac_coords).all():
        atom = np.flatnonzero(~np.isfinite(frac_coords).all(1))[0]
        raise CrystalError(f"{name}: a coordinate of atom {atom} is not a finite number; correct it")
    if max_atoms is not None and len(numbers) > max_atoms:
        raise CrystalError(_too_many_atoms(structure, name, max_atoms))
    if elements is not None and (strange := sorted(set(numbers.tolist()) - set(elements))):
        raise CrystalError(unseen_elements(name, strange, sorted(elements)))
    reduced, transform = reduction.niggli(matrix)
    # In float64 and by an integer matrix, so that positions lose nothing; ASE and pymatgen leave wrapping to us.
    frac_coords = lat.wrap(torch.from_numpy(frac_coords @ np.linalg.inv(transform))).numpy()
    _check_distances(reduced, frac_coords, numbers, name)
    lengths, angles = lat.to_parameters(torch.from_numpy(reduced))
    return Canonical(frac_coords, numbers, lengths.numpy(), angles.numpy())


def _structures(source: Any, name: str) -> list[tuple[Structure, str]]:
    """List all structures in a source, each with a name for errors."""
    from ase import Atoms
    from pymatgen.core import Structure

    if isinstance(source, Structure):
        return [(source, name)]
    if isinstance(source, Crystals):
        return [(s, f"{name} {i}") for i, s in enumerate(to_structures(source))]
    if isinstance(source, Atoms):
        return [(from_ase(source, name), name)]
    if isinstance(source, str) and "\n" in source:
        return parse(source, f"text of {name}")
    if isinstance(source, str | Path):
        return read_file(Path(source).expanduser())
    if isinstance(source, Iterable):
        return [pair for i, item in enumerate(source) for pair in _structures(item, f"{name} {i}")]
    raise CrystalError(
        f"{name}: cannot make a crystal of {type(source).__name__}; pass a file, a pymatgen Structure, ASE Atoms, "
        "Crystals, or a list of these"
    )


# Checks


def _atomic_numbers(structure: Structure, name: str) -> np.ndarray:
    from pymatgen.core import DummySpecies

    if len(structure) == 0:
        raise CrystalError(f"{name}: has no atoms; give a crystal with at least one")
    numbers = np.empty(len(structure), dtype=np.int64)
    for i, site in enumerate(structure):
        if not site.is_ordered:
            raise CrystalError(
                f"{name}: site {i} is partly occupied or mixed ({site.species_string}), and the model needs one whole "
                "atom a site; make an ordered cell, for example with pymatgen's OrderDisorderedStructureTransformation"
            )
        if isinstance(site.specie, DummySpecies):
            raise CrystalError(
                f"{name}: site {i} holds {site.specie.symbol!r}, which is no element; replace it by one or remove it"
            )
        numbers[i] = site.specie.Z
    return numbers


def _check_distances(matrix: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray, name: str) -> None:
    from pymatgen.core import Lattice

    # An atom and its own images are as far apart as the shortest vector of a Niggli cell.
    shortest = np.linalg.norm(matrix, axis=1).min()
    if shortest < MIN_DISTANCE:
        raise CrystalError(
            f"{name}: the cell repeats after {shortest:.3f} Å, so that atoms lie on top of their own images (at least "
            f"{MIN_DISTANCE} Å are needed); correct its lengths (Å) and angles (degrees)"
        )
    if len(numbers) == 1:
        return
    distances: np.ndarray = Lattice(matrix).get_all_distances(frac_coords, frac_coords)
    np.fill_diagonal(distances, np.inf)
    i, j = sorted(int(n) for n in np.unravel_index(distances.argmin(), distances.shape))
    if distances[i, j] < MIN_DISTANCE:
        raise CrystalError(
            f"{name}: atoms {i} ({symbol_of(int(numbers[i]))}) and {j} ({symbol_of(int(numbers[j]))}) lie on top of "
            f"each other, {distances[i, j]:.3f} Å apart (at least {MIN_DISTANCE} Å are needed); remove one or "
            "correct the cell"
        )


def _too_many_atoms(structure: Structure, name: str, max_atoms: int) -> str:
    message = f"{name}: has {len(structure)} atoms, more than the {max_atoms} that the model was trained for"
    primitive = len(structure.get_primitive_structure())
    if primitive <= max_atoms:
        return f"{message}; its primitive cell has {primitive}: take it with cdvae_lab.read(..., primitive=True)"
    if primitive < len(structure):
        message += f" (its primitive cell has {primitive}, still more)"
    return f"{message}; use a smaller crystal, or a model that was trained on larger ones"


def unseen_elements(name: str, unseen: Sequence[int], known: Sequence[int]) -> str:
    """Return the message for a crystal of elements outside a model's training data; both lists are atomic numbers."""
    return (
        f"{name}: the model has never seen {_symbols(unseen)}; it knows {_symbols(known)}. Use a crystal of those "
        "elements, or a model that was trained on the others"
    )


def _symbols(numbers: Sequence[int] | np.ndarray) -> str:
    return ", ".join(symbol_of(int(n)) if n <= MAX_ATOMIC_NUMBER else f"Z={n}" for n in numbers)


# Writing and export


def is_usable(crystals: Crystals) -> Bool[Tensor, " crystals"]:
    """True for crystals that can be exported: finite, with a volume, at least one atom, and real elements."""
    finite = torch.isfinite(crystals.frac_coords).all(-1).all(-1) & torch.isfinite(crystals.lattice).all(-1).all(-1)
    volume = lat.volume(torch.nan_to_num(crystals.lattice))
    real = (crystals.atomic_numbers <= MAX_ATOMIC_NUMBER).all(-1)
    return finite & (volume >= MIN_VOLUME) & crystals.mask.any(-1) & real


def _arrays(crystals: Crystals) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return atomic numbers, fractional coordinates and lattice of each crystal without padding, all usable."""
    usable = is_usable(crystals)
    if not usable.all():
        bad = (~usable).nonzero()[:, 0].tolist()
        raise CrystalError(
            f"crystal {bad[0]}: cannot be exported: its cell is flat or not finite, or its atoms are none (in all "
            f"{len(bad)} of {len(crystals)} crystals); keep the others: "
            "crystals[cdvae_lab.io.convert.is_usable(crystals)]"
        )
    numbers, frac_coords, lattice = (
        t.detach().cpu().numpy()
        for t in (crystals.atomic_numbers, crystals.frac_coords.double(), crystals.lattice.double())
    )
    counts = (numbers > 0).sum(1)
    return [(numbers[i, :n], frac_coords[i, :n], lattice[i]) for i, n in enumerate(counts)]


def to_structures(crystals: Crystals) -> list[Structure]:
    """Convert to pymatgen Structures, one per crystal.

    Raises:
        CrystalError: names a crystal that is not usable (see `is_usable`).
    """
    from pymatgen.core import Lattice, Structure

    return [Structure(Lattice(cell), n.tolist(), x) for n, x, cell in _arrays(crystals)]


def to_ase(crystals: Crystals) -> list[Atoms]:
    """Convert to ASE Atoms, periodic in all directions, one per crystal; errors are those of `to_structures`."""
    from ase import Atoms

    return [Atoms(numbers=n, scaled_positions=x, cell=cell, pbc=True) for n, x, cell in _arrays(crystals)]


def to_nglview(crystals: Crystals, which: int = 0) -> NGLWidget:
    """Show one crystal of a batch, with its cell, in an nglview widget.

    Raises:
        CrystalError: if the crystal is not usable (see `is_usable`).
        IndexError: if there is no crystal of this number.
    """
    import nglview

    view = nglview.show_ase(to_ase(crystals[which])[0])
    view.add_unitcell()  # pyright: ignore[reportAttributeAccessIssue] (made as the widget is)
    return view


def to_pyg(crystals: Crystals) -> list[Data]:
    """Convert to torch-geometric Data, one per crystal.

    Fields: frac_coords (atoms, 3), atomic_numbers (atoms,), lattice (1, 3, 3) in Å, num_atoms.
    `Batch.from_data_list` collates them; `from_pyg` converts back.
    """
    from torch_geometric.data import Data

    return [
        Data(
            frac_coords=crystals.frac_coords[i, :n],
            atomic_numbers=crystals.atomic_numbers[i, :n],
            lattice=crystals.lattice[i : i + 1],
            num_atoms=n,
            num_nodes=n,
        )
        for i, n in enumerate(crystals.num_atoms.tolist())
    ]


def from_pyg(data: Batch | Data | Sequence[Data]) -> Crystals:
    """Convert from a torch-geometric Batch, Data or list of Data with the fields of `to_pyg`.

    The crystals are neither checked nor reduced; `read` does both.

    Raises:
        CrystalError: names a field that is missing.
    """
    from torch_geometric.data import Batch, Data

    items = data.to_data_list() if isinstance(data, Batch) else [data] if isinstance(data, Data) else list(data)
    for i, item in enumerate(items):
        for field in ("frac_coords", "atomic_numbers", "lattice"):
            if field not in item:
                raise CrystalError(
                    f"crystal {i}: the Data has no {field}; it needs frac_coords, atomic_numbers, lattice"
                )
    if not items:
        raise CrystalError("no crystals were given: the list of Data is empty")
    return Crystals.from_lists(
        [item.frac_coords for item in items],
        [item.atomic_numbers for item in items],
        torch.cat([item.lattice.reshape(1, 3, 3) for item in items]),
    )


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
    from pymatgen.io.cif import CifWriter
    from pymatgen.io.vasp import Poscar

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
        # VASP requires the atoms of an element to be contiguous.
        text = str(CifWriter(structure)) if fmt == "cif" else Poscar(structure, sort_structure=True).get_str()
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
