"""Data sets: the public benchmarks, synthetic perovskites, and a user's own crystals; `load` reads all of them."""

from __future__ import annotations

from cdvae_lab.datasets.cache import LeftOut
from cdvae_lab.datasets.carbon_24 import JOINED, carbon_24_protocol
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.datasets.loading import load, split_of
from cdvae_lab.datasets.public_sets import PUBLIC, SPLITS, files_there, find_crystals
from cdvae_lab.datasets.synthetic import SYNTHETIC, synthetic_perovskites
from cdvae_lab.datasets.tables import UNITS

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
