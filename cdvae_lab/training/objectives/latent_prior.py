"""The training objective of a latent prior."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.latents import posterior_of
from cdvae_lab.models.noise import Stream
from cdvae_lab.training.checks import check_elements, check_fits, counts_for

# Share of crystals whose composition a conditional prior does not see in a training step, so that the network also
# learns the score of the marginal density ("classifier-free guidance", Ho and Salimans 2022).
CONDITION_DROPOUT = 0.15


class PriorObjective:
    """The objective of a latent prior: denoise samples of a data set's posteriors, new ones at every step.

    Preparing standardizes the prior with the posteriors, and leaves its composition model, which was fitted before,
    as it is.

    Raises:
        SettingError: if prior and encoder have latents of different dimensions.
        DatasetError: for crystals that the encoder, or the prior's composition model, does not take.
    """

    def __init__(self, prior: DiffusionPrior, encoder: CDVAE, dataset: Dataset) -> None:
        check_fits(encoder, dataset)
        check_elements(encoder, dataset)
        mine, its = prior.config.latent_dim, encoder.config.latent_dim
        if mine != its:
            raise SettingError(f"the prior is over {mine} numbers and the encoder's z has {its}; make it with {its}")
        if prior.composition_model is not None:
            counts_for(prior.composition_model, dataset)
        self.model, self.encoder, self.dataset = prior, encoder, dataset
        self.terms, self.weights = ("prior",), {"prior": 1.0}
        self.sizes = torch.ones(len(dataset), dtype=torch.int64)
        self.conditioning: Tensor | None = None

    def prepare(self) -> None:
        prior = self.model
        prior.train().requires_grad_(True)
        posterior = posterior_of(self.encoder, self.dataset.crystals)
        mu, log_var = posterior.mu, posterior.log_var
        self.mu = mu.to(prior.mean.device)
        self.log_var = log_var.to(prior.mean.device) + 2 * math.log(prior.config.posterior_share)
        prior.standardize_with(self.mu, self.log_var)
        if prior.composition_model is not None:
            prior.composition_model.eval().requires_grad_(False)
            self.conditioning = prior.known(counts_for(prior.composition_model, self.dataset))

    def images_for(self, sites: int) -> int:
        return 0

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        index = index[mine]
        shape, dtype = self.mu.shape[1:], self.mu.dtype
        drawn = noise.normal(seed, Stream.LATENT, index, step, tuple(shape), dtype)
        z = self.mu[index] + torch.exp(0.5 * self.log_var[index]) * drawn
        eps = noise.normal(seed, Stream.POSITION, index, step, tuple(shape), dtype)
        level = noise.normal(seed, Stream.LEVEL, index, step, (), dtype)
        if self.conditioning is None:
            return {"prior": self.model.loss(z, eps, level)}
        kept = noise.uniform(seed, Stream.DROPOUT, index, step, (1,), dtype) > CONDITION_DROPOUT
        return {"prior": self.model.loss(z, eps, level, self.conditioning[index] * kept)}
