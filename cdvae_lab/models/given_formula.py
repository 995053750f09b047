"""Prior of the latents of one composition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from cdvae_lab.models.diffusion_prior import DiffusionPrior


@dataclass(frozen=True)
class GivenFormula:
    """The prior of crystals of one composition, p(z | composition); `DiffusionPrior.given` creates it.

    Attributes:
        prior: the conditional prior.
        counts: number of atoms of each element Z = 1..100 in the cell.
    """

    prior: DiffusionPrior
    counts: Int[Tensor, " elements"]

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """Draw one z for each crystal number, on the numbers' device."""
        return self.prior.sample(seed, numbers, self.counts.expand(len(numbers), -1))

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """Evaluate log p(z | composition), in nats, as `DiffusionPrior.log_prob` does."""
        return self.prior.log_prob(z, self.counts.expand(len(z), -1))

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """Evaluate the score of p(z | composition), as `DiffusionPrior.score` does."""
        return self.prior.score(z, self.counts.expand(len(z), -1))
