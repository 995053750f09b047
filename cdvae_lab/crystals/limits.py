"""Limits that every crystal must respect: those of the CDVAE paper's structure validity (arXiv 2110.06197)."""

from __future__ import annotations

MIN_DISTANCE = 0.5
"""Smallest distance between two atoms, Å. The shortest bond (H2) has 0.74 Å."""

MIN_VOLUME = 0.1
"""Smallest volume of a cell, Å^3."""
