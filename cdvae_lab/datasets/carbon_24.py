"""The split of Carbon-24 that the bundled models were trained on: train joined by most of val."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.datasets.loading import load

VALIDATION_CRYSTALS = 400  # crystals of val that do not join train; checkpoints are selected by them


def carbon_24_protocol(
    *, folder: str | Path | None = None, cache: str | Path | None = None, progress: bool = True
) -> tuple[Dataset, Dataset]:
    """Load Carbon-24 as the bundled models were trained: (train and 1,632 crystals of val, the other 400 of val).

    `numpy.random.default_rng(0)` shuffles val. Its first crystals join train; its last 400 remain for validation. If
    train has no energies, the joined crystals carry the only labels.

    Raises:
        DatasetError: as `load`.
    """
    train, val = (load("carbon_24", split, folder=folder, cache=cache, progress=progress) for split in ("train", "val"))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(val)))
    joining, validation = val[order[:-VALIDATION_CRYSTALS]], val[order[-VALIDATION_CRYSTALS:]]
    joined = replace(
        train,
        split="train+val",
        crystals=Crystals.cat([train.crystals, joining.crystals]),
        ids=train.ids + joining.ids,
        labels=torch.cat([train.labels, joining.labels]),
        left_out=train.left_out + joining.left_out,
    )
    return joined, validation
