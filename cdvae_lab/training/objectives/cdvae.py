"""The training objective of a CDVAE."""

from __future__ import annotations

import dataclasses

from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import PriorWarning, warn_user
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.training.augmentation import cutoff_before_strain, rattle_atoms, strain_cells
from cdvae_lab.training.checks import check_elements, check_fits
from cdvae_lab.training.losses import TERMS, loss_terms
from cdvae_lab.training.objectives.crystals_on_device import CrystalsOnDevice
from cdvae_lab.training.settings import LossWeights


class CDVAEObjective:
    """The objective of a CDVAE (paper, section 4): the terms of `losses.loss_terms`, weighted with `LossWeights`.

    Preparing removes the model's learned prior, with a warning: training changes the latents that it describes.

    Args:
        strain, rattle: augmentation of the crystals (`cdvae_lab.training.augmentation`); 0 for none.

    Raises:
        DatasetError: for crystals larger than the model takes, or with elements that it does not know.
    """

    def __init__(
        self, model: CDVAE, dataset: Dataset, weights: LossWeights, strain: float = 0.0, rattle: float = 0.0
    ) -> None:
        check_fits(model, dataset)
        check_elements(model, dataset)
        self.model, self.dataset = model, dataset
        self.strain, self.rattle = strain, rattle
        self.terms, self.weights = TERMS, dataclasses.asdict(weights)
        self.sizes = dataset.crystals.num_atoms

    def prepare(self) -> None:
        if self.model.prior is not None:
            warn_user(
                "fit removes the model's learned prior, which describes the latents from before; fit another one "
                "afterwards: cdvae_lab.fit_prior(model, dataset)",
                PriorWarning,
            )
            self.model.prior = None
        self.model.train().requires_grad_(True)
        cutoff = cutoff_before_strain(self.model.config.cutoff, self.strain)
        self.data = CrystalsOnDevice(self.dataset, self.model.device, cutoff)

    def images_for(self, sites: int) -> int:
        return self.data.images_for(sites)

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        batch, images, label, labeled = self.data.share(index, mine, sites, most_images)
        index, c = index[mine], self.model.config
        rattled = keep = None
        if self.strain:
            batch = strain_cells(batch, self.strain, seed, index, step)
        if self.rattle:
            rattled = rattle_atoms(batch, self.rattle, seed, index, step)
        if c.decoder_dropout:
            shape = (c.decoder_blocks, 2, c.hidden_dim)
            keep = noise.dropout_factors(c.decoder_dropout, seed, index, step, shape)
        return loss_terms(self.model, batch, images, label, index, step, seed, labeled, rattled, keep)
