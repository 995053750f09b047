"""Crystals: a batch of them, lattices, periodic neighbors, reduced cells, elements and formulas, limits."""

from __future__ import annotations

from cdvae_lab.crystals import batch, elements, formulas, lattice, limits, neighbors, niggli
from cdvae_lab.crystals.batch import Crystals

__all__ = ["Crystals", "batch", "elements", "formulas", "lattice", "limits", "neighbors", "niggli"]
