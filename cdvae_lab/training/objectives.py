"""Training objectives: for each kind of model its data, its loss terms and their weights, and its checks.

The training loop does not depend on the kind of model. It draws a batch, computes the objective's terms and minimizes
their weighted sum.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.formulas import element_counts
from cdvae_lab.crystals.neighbors import FAR, periodic_images
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import DatasetError, PriorWarning, SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import Trainable
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.training.losses import TERMS, LossWeights, loss_terms, property_loss

ENCODED_AT_ONCE = 256  # crystals
# Share of crystals whose composition a conditional prior does not see in a training step, so that the network also
# learns the score of the marginal density ("classifier-free guidance", Ho and Salimans 2022).
CONDITION_DROPOUT = 0.15


@runtime_checkable
class Objective(Protocol):
    """One kind of model's training objective. Creating it checks that model and data fit together; it changes nothing.

    Attributes:
        model: the model to train.
        terms: names of the loss terms.
        weights: weight of each term in the loss that is minimized.
        sizes: padded number of atoms of every item; batches hold items of similar size.
    """

    @property
    def model(self) -> Trainable: ...

    @property
    def terms(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> Mapping[str, float]: ...

    @property
    def sizes(self) -> Int[Tensor, " items"]: ...

    def prepare(self) -> None:
        """Put the model into the state in which it is trained, and the data on the model's device."""
        ...

    def images_for(self, sites: int) -> int:
        """Count the periodic images that the batches of this padded size need."""
        ...

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute every term, unweighted, for a share of a batch, without waiting for the device.

        Args:
            mine: the share. Shares are of equal size, and the mean of a term over them is the term of the batch.
        """
        ...


class _Crystals:
    """Crystals, labels and periodic images of a data set on a device, and the parts of them that make a batch."""

    def __init__(self, dataset: Dataset, device: torch.device, cutoff: float) -> None:
        self.crystals = dataset.crystals.to(device)
        self.labels = dataset.labels.to(device)
        self.images = periodic_images(self.crystals.lattice, cutoff)

    def images_for(self, sites: int) -> int:
        fitting = self.crystals.num_atoms <= sites
        return int((self.images[fitting][..., 0] < FAR).sum(1).max())

    def share(
        self, index: Int[Tensor, " batch"], mine: slice, sites: int, most_images: int
    ) -> tuple[Crystals, Float[Tensor, "share images 3"], Float[Tensor, " share"], Float[Tensor, ""]]:
        """Crystals, images and labels of a share of a batch, and the labeled crystals of an average share."""
        labels = self.labels[index]
        index, label = index[mine], labels[mine]
        # The property's term is a mean over labeled crystals, of which shares have more or fewer.
        labeled = torch.isfinite(labels).to(labels.dtype).sum().clamp_min(1) * (len(label) / len(labels))
        batch = self.crystals[index]
        batch = Crystals(batch.frac_coords[:, :sites], batch.atomic_numbers[:, :sites], batch.lattice)
        return batch, self.images[index, :most_images], label, labeled


class CDVAEObjective:
    """The objective of a CDVAE (paper, section 4): the terms of `losses.loss_terms`, weighted with `LossWeights`.

    Preparing removes the model's learned prior, with a warning: training changes the latents that it describes.

    Raises:
        DatasetError: for crystals larger than the model takes, or with elements that it does not know.
    """

    def __init__(self, model: CDVAE, dataset: Dataset, weights: LossWeights) -> None:
        check_fits(model, dataset)
        check_elements(model, dataset)
        self.model, self.dataset = model, dataset
        self.terms, self.weights = TERMS, dataclasses.asdict(weights)
        self.sizes = dataset.crystals.num_atoms

    def prepare(self) -> None:
        if self.model.prior is not None:
            warnings.warn(
                "fit removes the model's learned prior, which describes the latents from before; fit another one "
                "afterwards: cdvae_lab.fit_prior(model, dataset)",
                PriorWarning,
                stacklevel=3,
            )
            self.model.prior = None
        self.model.train().requires_grad_(True)
        self.data = _Crystals(self.dataset, self.model.device, self.model.config.cutoff)

    def images_for(self, sites: int) -> int:
        return self.data.images_for(sites)

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        batch, images, label, labeled = self.data.share(index, mine, sites, most_images)
        return loss_terms(self.model, batch, images, label, index[mine], step, seed, labeled)


class PropertyObjective:
    """The objective of a property model: the mean squared error of the standardized label, over labeled crystals.

    Raises:
        DatasetError: for elements beyond Z = 100.
    """

    def __init__(self, model: PropertyModel, dataset: Dataset) -> None:
        check_heaviest(dataset, "property model")
        self.model, self.dataset = model, dataset
        self.terms, self.weights = ("property",), {"property": 1.0}
        self.sizes = dataset.crystals.num_atoms

    def prepare(self) -> None:
        self.model.train().requires_grad_(True)
        self.data = _Crystals(self.dataset, self.model.device, self.model.config.cutoff)

    def images_for(self, sites: int) -> int:
        return self.data.images_for(sites)

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        batch, images, label, labeled = self.data.share(index, mine, sites, most_images)
        target = (label - self.model.property_mean) / self.model.property_std
        return {"property": property_loss(self.model.standardized(batch, images), target, labeled)}


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
        mu, log_var = posteriors(self.encoder, self.dataset)
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


class CompositionObjective:
    """The objective of a composition model: the negative log-likelihood of the data set's compositions, in nats.

    Raises:
        DatasetError: naming a crystal whose composition the model cannot represent.
    """

    def __init__(self, model: CompositionModel, dataset: Dataset) -> None:
        counts_for(model, dataset)
        self.model, self.dataset = model, dataset
        self.terms, self.weights = ("negative_log_likelihood",), {"negative_log_likelihood": 1.0}
        self.sizes = torch.ones(len(dataset), dtype=torch.int64)

    def prepare(self) -> None:
        self.model.train().requires_grad_(True)
        self.sequences = self.model.sequences(counts_for(self.model, self.dataset))

    def images_for(self, sites: int) -> int:
        return 0

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        index, c = index[mine], self.model.config
        # Counter-based like all noise, so that a resumed run drops the channels that an uninterrupted one does.
        draw = noise.uniform(seed, Stream.DROPOUT, index, step, (2 * c.blocks + 1, c.hidden_dim))
        keep = (draw > c.dropout).to(draw.dtype) / (1 - c.dropout)
        return {"negative_log_likelihood": -self.model.log_prob_of_sequences(self.sequences[index], keep).mean()}


def objective_for(
    model: Trainable, dataset: Dataset, encoder: CDVAE | None = None, weights: LossWeights | None = None
) -> Objective:
    """Create the objective of a model.

    Args:
        encoder: the trained CDVAE whose latents a latent prior learns; None for every other model.
        weights: weights of a CDVAE's terms, the paper's by default; None for every other model, which has one term.

    Raises:
        SettingError: for a prior without an encoder, or for an encoder or weights that the model does not take.
        DatasetError: if the model cannot be trained on the data set.
    """
    if isinstance(model, DiffusionPrior) != (encoder is not None):
        raise SettingError("a latent prior is fitted to the latents of an encoder=, and no other model takes one")
    if weights is not None and not isinstance(model, CDVAE):
        raise SettingError(f"weights= are those of a CDVAE's loss terms; a {type(model).__name__} has a single term")
    if isinstance(model, CDVAE):
        return CDVAEObjective(model, dataset, weights or LossWeights())
    if isinstance(model, PropertyModel):
        return PropertyObjective(model, dataset)
    if isinstance(model, CompositionModel):
        return CompositionObjective(model, dataset)
    assert encoder is not None
    return PriorObjective(model, encoder, dataset)


def check_fits(model: CDVAE, dataset: Dataset) -> None:
    """Check that a CDVAE has room for the crystals of a data set.

    Raises:
        DatasetError: naming a crystal or element that the model has no room for, and the remedy.
    """
    largest = int(dataset.crystals.num_atoms.max())
    if largest > model.config.max_atoms:
        where = dataset.ids[int(dataset.crystals.num_atoms.argmax())]
        raise DatasetError(
            f"{dataset.name}: crystal {where} has {largest} atoms, but the model takes {model.config.max_atoms} at "
            "most; make the model with CDVAE.for_dataset(dataset), or leave larger crystals out"
        )
    check_heaviest(dataset, "CDVAE")


def check_heaviest(dataset: Dataset, of: str) -> None:
    """Check that a data set has no elements beyond the last class of our networks.

    Raises:
        DatasetError: naming the heaviest element.
    """
    if (heaviest := max(dataset.elements)) > NUM_ELEMENTS:
        raise DatasetError(
            f"{dataset.name}: has Z = {heaviest}, but a {of} has classes for Z <= {NUM_ELEMENTS} only; leave its "
            "crystals out"
        )


def check_elements(model: CDVAE, dataset: Dataset) -> None:
    """Check that a CDVAE may generate all elements of a data set. Evaluation does not require it, training does.

    Raises:
        DatasetError: naming the elements.
    """
    if unknown := sorted(set(dataset.elements) - set(model.elements.nonzero()[:, 0].tolist())):
        raise DatasetError(
            f"{dataset.name}: has elements that the model does not know (Z = {', '.join(map(str, unknown))}); make the "
            "model with CDVAE.for_dataset(dataset), or leave those crystals out"
        )


def counts_for(model: CompositionModel, dataset: Dataset) -> Int[Tensor, "crystals elements"]:
    """Count the atoms of every element in each crystal of a data set, on the model's device.

    Raises:
        DatasetError: naming a crystal whose composition the model cannot represent.
    """
    if max(dataset.elements) <= NUM_ELEMENTS:
        counts = element_counts(dataset.crystals.atomic_numbers).to(model.device)
        impossible = (~model.is_possible(counts)).nonzero()[:1, 0].tolist()
        if not impossible:
            return counts
        where = f"crystal {dataset.ids[impossible[0]]} has more atoms or elements, or others,"
    else:
        where = f"Z = {max(dataset.elements)} is heavier"
    raise DatasetError(
        f"{dataset.name}: {where} than the composition model takes; make one with "
        "CompositionModel.for_dataset(dataset), or leave such crystals out"
    )


@torch.no_grad()
def posteriors(
    encoder: CDVAE, dataset: Dataset
) -> tuple[Float[Tensor, "crystals latent"], Float[Tensor, "crystals latent"]]:
    """Encode a data set: posterior mean and log-variance of every crystal, on the encoder's device."""
    parts = torch.arange(len(dataset)).split(ENCODED_AT_ONCE)
    encoded = [encoder.encode(dataset.crystals[part].to(encoder.device, encoder.lattice_mean.dtype)) for part in parts]
    return torch.cat([p.mu for p in encoded]), torch.cat([p.log_var for p in encoded])
