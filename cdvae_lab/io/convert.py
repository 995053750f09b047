"""Read crystals from files and convert them from and to pymatgen, ASE, nglview and torch-geometric.

Every crystal that `read` returns is checked and in its canonical cell (`io.canonical`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import MAX_ATOMIC_NUMBER
from cdvae_lab.crystals.limits import MIN_VOLUME
from cdvae_lab.errors import CrystalError
from cdvae_lab.io.canonical import canonical, from_canonical
from cdvae_lab.io.parsing import from_ase, parse, read_file

if TYPE_CHECKING:
    from ase import Atoms
    from nglview import NGLWidget
    from pymatgen.core import Structure
    from torch_geometric.data import Batch, Data


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
