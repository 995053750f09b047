"""Priors over z: the densities that new crystals are drawn from and that searches are penalized with.

The paper's prior is N(0, I), towards which the KL term of training draws the posteriors; encoded crystals are far from
filling it. The learned one is `diffusion_prior.DiffusionPrior`. Both fulfil the protocol `LatentPrior`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.errors import PriorWarning, SettingError, warn_user
from cdvae_lab.models import noise
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed

if TYPE_CHECKING:
    from cdvae_lab.models.cdvae import CDVAE


@runtime_checkable
class LatentPrior(Protocol):
    """A density over z that can be sampled and differentiated."""

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """Draw one z for each crystal number; it depends on (seed, number) alone, not on the batch."""
        ...

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """Evaluate log p(z), in nats."""
        ...

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """Evaluate the score, the gradient of log p(z)."""
        ...


@dataclass(frozen=True)
class StandardNormal:
    """The prior N(0, I) of the paper.

    Attributes:
        latent_dim: dimension of z.
        dtype: type of the samples.

    Raises:
        SettingError: if latent_dim is less than 1.
    """

    latent_dim: int
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise SettingError(f"StandardNormal: latent_dim must be at least 1, not {self.latent_dim}")

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """Draw one z for each crystal number, on the numbers' device.

        Raises:
            SettingError: for a seed out of range.
        """
        check_seed(seed)
        return noise.normal(seed, Stream.LATENT, numbers, 0, (self.latent_dim,), self.dtype)

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """Evaluate log p(z) = -|z|^2 / 2 - (latent_dim / 2) log 2 pi, in nats."""
        return -0.5 * (z.square().sum(-1) + self.latent_dim * math.log(2 * math.pi))

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """Evaluate the score, the gradient of log p(z), which is -z."""
        return -z


def default_prior(model: CDVAE) -> LatentPrior:
    """Return the prior that a model's crystals are drawn from by default: its learned one, or N(0, I) without.

    Warns:
        PriorWarning: if the model is trained and has no learned prior.
    """
    if model.prior is not None:
        return model.prior
    if model.metadata.get("steps"):
        warn_user(
            "this trained model has no learned prior, so its latents are drawn from N(0, I), which encoded crystals "
            "are far from filling (COV-P on Perov-5: 22 % instead of 98 %); fit a prior with "
            "cdvae_lab.fit_prior(model, dataset), or pass prior=StandardNormal(...) for N(0, I)",
            PriorWarning,
        )
    return StandardNormal(model.config.latent_dim, model.lattice_mean.dtype)
