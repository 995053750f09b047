"""Settings of a training run and weights of the loss terms. Importing them does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from cdvae_lab.errors import SettingError
from cdvae_lab.models.seeds import check_seed

MAX_STRAIN = 0.1  # beyond it a cell is another crystal's, and its list of periodic images grows


@dataclass(frozen=True)
class FitSettings:
    """Settings of a training run; its state carries them, so that a resumed run uses the same.

    Attributes:
        steps: optimizer steps of the whole run; the learning rate's schedule ends there.
        batch_size: crystals per step.
        lr, final_lr: AdamW's learning rate rises linearly to `lr` and falls on a half cosine to `final_lr`.
        warm_up: steps of rising learning rate.
        clip: maximum norm of the gradient.
        ema_decay: decay per step of the exponential moving average of the weights.
        seed: determines batches and noise.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019): a step shrinks every weight matrix by the
            learning rate times this. Biases, scales and embeddings do not decay.
        strain: largest component of a random strain of the training crystals, of a CDVAE (`training.augmentation`).
        rattle: standard deviation of random displacements of the atoms that the encoder of a CDVAE receives, Å.
    """

    steps: int
    batch_size: int = 512
    lr: float = 1e-3
    final_lr: float = 1e-5
    warm_up: int = 500
    clip: float = 10.0
    ema_decay: float = 0.9995
    seed: int = 0
    weight_decay: float = 0.0
    strain: float = 0.0
    rattle: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.warm_up < 0:
            raise SettingError("fit needs steps >= 1 (or epochs >= 1), batch_size >= 1 and warm_up >= 0")
        if not (0 < self.final_lr <= self.lr and self.clip > 0 and 0 <= self.ema_decay < 1):
            raise SettingError("fit needs 0 < final_lr <= lr, clip > 0 and 0 <= ema_decay < 1")
        if not (0 <= self.weight_decay < math.inf and 0 <= self.rattle < math.inf and 0 <= self.strain <= MAX_STRAIN):
            raise SettingError(f"fit needs weight_decay >= 0, rattle >= 0 and 0 <= strain <= {MAX_STRAIN}")
        check_seed(self.seed)


class FitOptions(TypedDict, total=False):
    """Keyword arguments of `fit` that set the fields of `FitSettings`, which documents them."""

    batch_size: int
    lr: float
    final_lr: float
    warm_up: int
    clip: float
    ema_decay: float
    seed: int
    weight_decay: float
    strain: float
    rattle: float


@dataclass(frozen=True)
class LossWeights:
    """Weights of a CDVAE's loss terms; the defaults are the paper's (appendix B)."""

    coordinates: float = 10.0
    types: float = 1.0
    num_atoms: float = 1.0
    lattice: float = 10.0
    composition: float = 1.0
    kl: float = 0.01
    property: float = 1.0
