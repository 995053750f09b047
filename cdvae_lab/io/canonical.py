"""Canonical crystals: checked, Niggli-reduced and in a standard orientation.

Every crystal that enters the lab is checked, Niggli-reduced (never made primitive unless asked) and rebuilt from its
six lattice parameters, so that its orientation and its choice of cell are canonical (Xie et al., arXiv 2110.06197,
and its public implementation). An atom is known by its atomic number alone: oxidation states, isotopes (deuterium
counts as hydrogen), magnetic moments and selective dynamics are dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals import niggli as reduction
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import MAX_ATOMIC_NUMBER, symbol_of
from cdvae_lab.crystals.limits import MIN_DISTANCE
from cdvae_lab.errors import CrystalError
from cdvae_lab.io.parsing import check_cell

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Part of the cache key: increase it when the same file would give another crystal.
VERSION = 2


@dataclass(frozen=True)
class Canonical:
    """Checked and reduced crystal as plain arrays, cheap to send between processes."""

    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    lengths: Float[np.ndarray, " 3"]
    angles: Float[np.ndarray, " 3"]


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


def from_canonical(checked: Sequence[Canonical], dtype: torch.dtype = torch.float32) -> Crystals:
    """Combine checked crystals into one batch."""
    parameters = [torch.from_numpy(np.stack([getattr(c, field) for c in checked])) for field in ("lengths", "angles")]
    # Wrapped once more in the narrower type, where 0.99999999 rounds to 1.
    return Crystals.from_lists(
        [lat.wrap(torch.from_numpy(c.frac_coords).to(dtype)) for c in checked],
        [torch.from_numpy(c.atomic_numbers.astype(np.int64)) for c in checked],
        lat.from_parameters(*parameters).to(dtype),
    )


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
