"""Cutoffs of coverage. Importing them does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cutoffs:
    """Largest distances that count as covered, in the units of the fingerprints.

    Attributes:
        structure: d_s, Euclidean distance of the means of CrystalNN fingerprints.
        composition: d_c, Euclidean distance of the standardized Magpie fingerprints.
    """

    structure: float
    composition: float


# `COV_Cutoffs` of the reference.
CUTOFFS = {"perov_5": Cutoffs(0.2, 4.0), "carbon_24": Cutoffs(0.2, 4.0), "mp_20": Cutoffs(0.4, 10.0)}
