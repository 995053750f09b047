"""Symmetry and contacts of generated crystals: space groups, and distances relative to covalent radii."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.metrics.distances import distance_matrix

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 0.1  # Å; atoms may be so far from where a symmetry operation puts them


def space_groups(crystals: Crystals, symprec: float = SYMPREC) -> Int[Tensor, " crystals"]:
    """Find the number of the space group of each crystal, 1 to 230, by spglib; 0 where it finds none.

    Args:
        crystals: with finite positions and a cell.
        symprec: tolerance of the positions, Å.
    """
    found = [space_group(structure, symprec) or 0 for structure in crystals.to_structures()]
    return torch.tensor(found, dtype=torch.int64)


def space_group(structure: Structure, symprec: float = SYMPREC) -> int | None:
    """Find the number of the space group of a structure; None where spglib finds none, as where atoms overlap."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    try:
        return SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number()
    except (RuntimeError, TypeError, ValueError):
        return None


def closest_contact(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Smallest distance between two atoms of each crystal over the sum of their covalent radii, own images included.

    The radii are those of Cordero et al. (2008), as ASE has them.
    """
    from ase.data import covalent_radii

    contacts: list[float] = []
    for number in range(len(crystals)):
        one = crystals[number]
        radii = covalent_radii[one.atomic_numbers[one.mask].cpu().numpy()]
        contacts.append(float((distance_matrix(one) / (radii[:, None] + radii)).min()))
    return torch.tensor(contacts, dtype=torch.float64)
