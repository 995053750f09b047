"""What a training step is about: a network, the data that it learns from, and the terms of what is minimized.

`training.Run` knows none of these; it draws a batch, asks its task for the losses and follows their gradient.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.formulas import element_counts
from cdvae_lab.crystals.neighbors import FAR, periodic_images
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.errors import DatasetError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.latent_prior import DiffusionPrior
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.training.losses import TERMS, objective, property_loss

ENCODED_AT_ONCE = 256
UNTOLD = 0.15  # share of crystals whose composition a prior is not told in training


@runtime_checkable
class Task(Protocol):
    """What `training.Run` needs to know.

    Attributes:
        terms: names of what `losses` gives.
        sizes: padded atoms of every item; batches hold items of similar size.
    """

    terms: tuple[str, ...]
    sizes: Int[Tensor, " items"]

    def images_for(self, sites: int) -> int:
        """How many periodic images the batches of this size need."""
        ...

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Every term, unweighted, for a share of a batch; without waiting for the device.

        Args:
            mine: the share. Shares are of equal size, and the mean of a term over them is the term of the batch.
        """
        ...


class CrystalTask:
    """Crystals with their labels: for a CDVAE its objective, for a property model the error of the property."""

    def __init__(self, model: CDVAE | PropertyModel, dataset: Dataset) -> None:
        self.model = model
        self.terms: tuple[str, ...] = TERMS if isinstance(model, CDVAE) else ("property",)
        self.sizes = dataset.crystals.num_atoms
        self.crystals = dataset.crystals.to(model.device)
        self.labels = dataset.labels.to(model.device)
        self.images = periodic_images(self.crystals.lattice, model.config.cutoff)

    def images_for(self, sites: int) -> int:
        fitting = self.crystals.num_atoms <= sites
        return int((self.images[fitting][..., 0] < FAR).sum(1).max())

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        labels = self.labels[index]
        index, label = index[mine], labels[mine]
        # A mean over labeled crystals, of which shares have more or fewer.
        labeled = torch.isfinite(labels).to(labels.dtype).sum().clamp_min(1) * (len(label) / len(labels))
        batch = self.crystals[index]
        batch = Crystals(batch.frac_coords[:, :sites], batch.atomic_numbers[:, :sites], batch.lattice)
        images = self.images[index, :most_images]
        if isinstance(self.model, CDVAE):
            return objective(self.model, batch, images, label, index, step, seed, labeled)
        target = (label - self.model.property_mean) / self.model.property_std
        return {"property": property_loss(self.model.standardized(batch, images), target, labeled)}


class LatentTask:
    """The posteriors of a data set, for a prior over them: every step draws other samples."""

    def __init__(self, prior: DiffusionPrior, encoder: CDVAE, dataset: Dataset) -> None:
        self.model = prior
        self.terms: tuple[str, ...] = ("prior",)
        self.sizes = torch.ones(len(dataset), dtype=torch.int64)
        self.mu, log_var = encode_all(encoder, dataset)
        self.log_var = log_var + 2 * math.log(prior.config.posterior_share)
        prior.standardize_with(self.mu, self.log_var)
        self.known: Tensor | None = None
        if prior.composition_model is not None:
            counts = counts_for(prior.composition_model, dataset)
            self.known = prior.known(counts)

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
        if self.known is None:
            return {"prior": self.model.loss(z, eps, level)}
        # Some are not told their composition, so that the network also learns the score of the marginal density.
        told = noise.uniform(seed, Stream.DROPOUT, index, step, (1,), dtype) > UNTOLD
        return {"prior": self.model.loss(z, eps, level, self.known[index] * told)}


class CompositionTask:
    """The compositions of a data set, for a model of them."""

    def __init__(self, model: CompositionModel, dataset: Dataset) -> None:
        self.model = model
        self.terms: tuple[str, ...] = ("negative_log_likelihood",)
        self.sizes = torch.ones(len(dataset), dtype=torch.int64)
        self.written = model.written(counts_for(model, dataset))

    def images_for(self, sites: int) -> int:
        return 0

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        index, c = index[mine], self.model.config
        # Counter-based like all noise, so that a run that goes on switches off what it would have.
        draw = noise.uniform(seed, Stream.DROPOUT, index, step, (2 * c.blocks + 1, c.hidden_dim))
        keep = (draw > c.dropout).to(draw.dtype) / (1 - c.dropout)
        return {"negative_log_likelihood": -self.model.log_prob_written(self.written[index], keep).mean()}


def counts_for(model: CompositionModel, dataset: Dataset) -> Int[Tensor, "crystals elements"]:
    """Atoms of every element in each crystal of a data set, on the model's device.

    Raises:
        DatasetError: naming a crystal whose composition is none of the model's.
    """
    if max(dataset.elements) <= NUM_ELEMENTS:
        counts = element_counts(dataset.crystals.atomic_numbers).to(model.device)
        strange = (~model.is_possible(counts)).nonzero()[:1, 0].tolist()
        if not strange:
            return counts
        where = f"crystal {dataset.ids[strange[0]]} has more atoms or elements, or others,"
    else:
        where = f"Z = {max(dataset.elements)} is heavier"
    raise DatasetError(
        f"{dataset.name}: {where} than the composition model takes; make one with "
        "CompositionModel.for_dataset(dataset), or leave such crystals out"
    )


@torch.no_grad()
def encode_all(
    model: CDVAE, dataset: Dataset
) -> tuple[Float[Tensor, "crystals latent"], Float[Tensor, "crystals latent"]]:
    """Posterior mean and log-variance of every crystal, on the model's device."""
    parts = torch.arange(len(dataset)).split(ENCODED_AT_ONCE)
    posteriors = [model.encode(dataset.crystals[part].to(model.device, model.lattice_mean.dtype)) for part in parts]
    return torch.cat([p.mu for p in posteriors]), torch.cat([p.log_var for p in posteriors])


def task_for(model: nn.Module, dataset: Dataset, encoder: CDVAE | None) -> Task:
    """The task of a model: a CDVAE's, a property model's, that of compositions, or a prior's over an encoder's z."""
    if isinstance(model, CompositionModel):
        return CompositionTask(model, dataset)
    if isinstance(model, DiffusionPrior):
        assert encoder is not None
        return LatentTask(model, encoder, dataset)
    assert isinstance(model, CDVAE | PropertyModel)
    return CrystalTask(model, dataset)
