"""Data sets: the public benchmarks, synthetic perovskites, and a user's own crystals; `load` reads all of them."""

from __future__ import annotations

from cdvae_lab.datasets.cache import LeftOut
from cdvae_lab.datasets.tables import (
    JOINED,
    PUBLIC,
    SPLITS,
    SYNTHETIC,
    UNITS,
    Dataset,
    carbon_24_protocol,
    files_there,
    find_crystals,
    load,
    split_of,
    synthetic_perovskites,
)

__all__ = [
    "JOINED",
    "PUBLIC",
    "SPLITS",
    "SYNTHETIC",
    "UNITS",
    "Dataset",
    "LeftOut",
    "carbon_24_protocol",
    "files_there",
    "find_crystals",
    "load",
    "split_of",
    "synthetic_perovskites",
]
