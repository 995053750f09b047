"""The aggregates of a crystal: what is predicted for it as a whole, and the same computed from it, as a target.

Xie et al. (ICLR 2022, arXiv 2110.06197), section 4.2; see `cdvae_lab.models.cdvae`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS


@dataclass(frozen=True)
class Aggregates:
    """Predictions of the heads for a crystal as a whole, from z alone (paper, section 4.2).

    Attributes:
        num_atoms_logits: logits of the numbers of atoms 0 to max_atoms.
        lattice_parameters: lengths / N^(1/3) and angles, standardized with the training set's mean and deviation.
        composition_logits: logits of the elements Z = 1..100, one distribution for all atoms of a crystal.
        standardized_property: the property, standardized in the same way.
    """

    num_atoms_logits: Float[Tensor, "crystals sizes"]
    lattice_parameters: Float[Tensor, "crystals 6"]
    composition_logits: Float[Tensor, "crystals elements"]
    standardized_property: Float[Tensor, " crystals"]

    @property
    def num_atoms(self) -> Int[Tensor, " crystals"]:
        """Most likely number of atoms; never 0."""
        return self.num_atoms_logits[:, 1:].argmax(-1) + 1

    @property
    def composition(self) -> Float[Tensor, "crystals elements"]:
        """Predicted share of each element Z = 1..100 in the atoms."""
        return self.composition_logits.softmax(-1)


def scaled_parameters(crystals: Crystals) -> Float[Tensor, "crystals 6"]:
    """Compute lengths / N^(1/3), in Å, and angles, in degrees: the lattice head's target before standardization."""
    lengths, angles = lat.to_parameters(crystals.lattice)
    return torch.cat([lengths / crystals.num_atoms[:, None].to(lengths.dtype) ** (1 / 3), angles], -1)


def composition(crystals: Crystals, dtype: torch.dtype = torch.float32) -> Float[Tensor, "crystals elements"]:
    """Compute the share of each element Z = 1..100 in the atoms of each crystal."""
    counts = torch.zeros(len(crystals), NUM_ELEMENTS + 1, dtype=dtype, device=crystals.device)
    counts.scatter_add_(1, crystals.atomic_numbers.long(), crystals.mask.to(dtype))
    return counts[:, 1:] / crystals.num_atoms[:, None]
