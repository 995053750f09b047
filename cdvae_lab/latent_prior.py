"""The prior over z: where new crystals are drawn from, and how usual a latent is.

The paper's is N(0, I), towards which its KL term pulls the encoder. A learned one only has to fulfil the same
protocol: `denoise` draws from it, `optimize` is pulled towards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab import noise
from cdvae_lab.errors import SettingError
from cdvae_lab.noise import Stream


@runtime_checkable
class LatentPrior(Protocol):
    """A density over z that can be drawn from and followed uphill."""

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """One z for each crystal number, the same for the same (seed, number), in whatever batch."""
        ...

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """log p(z), in nats."""
        ...

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """The gradient of log p(z)."""
        ...


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I).

    Attributes:
        latent_dim: numbers in a z.
        dtype: of what is drawn.

    Raises:
        SettingError: if latent_dim is less than 1.
    """

    latent_dim: int
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise SettingError(f"StandardNormal: latent_dim must be at least 1, not {self.latent_dim}")

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """One z for each crystal number, on the numbers' device.

        Raises:
            SettingError: for a seed out of range.
        """
        noise.check_seed(seed)
        return noise.normal(seed, Stream.LATENT, numbers, 0, (self.latent_dim,), self.dtype)

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """log p(z) = -|z|^2 / 2 - (latent_dim / 2) log 2 pi, in nats."""
        return -0.5 * (z.square().sum(-1) + self.latent_dim * math.log(2 * math.pi))

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """The gradient of log p(z), which is -z."""
        return -z
