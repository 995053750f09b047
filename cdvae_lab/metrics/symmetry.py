"""Symmetry and contacts of generated crystals: space groups, and distances relative to covalent radii."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 0.1  # Å; atoms may be so far from where a symmetry operation puts them


def space_groups(crystals: Crystals, symprec: float = SYMPREC) -> Int[Tensor, " crystals"]:
    """Find the number of the space group of each crystal, 1 to 230, by spglib; 0 where it finds none.

    Args:
        crystals: with finite positions and a cell.
        symprec: tolerance of the positions, Å.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    def number(structure: Structure) -> int:
        try:
            return SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number()
        except (SymmetryUndeterminedError, TypeError):  # atoms overlap
            return 0

    return torch.tensor([number(structure) for structure in crystals.to_structures()], dtype=torch.int64)


def closest_contact(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Smallest distance between two atoms of each crystal over the sum of their covalent radii, own images included.

    The radii are those of Cordero et al. (2008), as ASE has them.
    """
    return torch.tensor([_closest(s) for s in crystals.to_structures()], dtype=torch.float64)


def _closest(structure: Structure) -> float:
    from ase.data import covalent_radii

    distances = structure.distance_matrix.copy()
    np.fill_diagonal(distances, min(structure.lattice.get_lll_reduced_lattice().abc))
    radii = covalent_radii[list(structure.atomic_numbers)]
    return float((distances / (radii[:, None] + radii)).min())
