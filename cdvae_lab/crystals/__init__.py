"""What a crystal is: a batch of crystals, lattices, periodic neighbors, reduced cells."""

from __future__ import annotations

from cdvae_lab.crystals import batch, lattice, neighbors, niggli
from cdvae_lab.crystals.batch import Crystals

__all__ = ["Crystals", "batch", "lattice", "neighbors", "niggli"]
