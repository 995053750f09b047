"""The training objective of a property model."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.training.checks import check_heaviest
from cdvae_lab.training.losses import property_loss
from cdvae_lab.training.objectives.crystals_on_device import CrystalsOnDevice


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
        self.data = CrystalsOnDevice(self.dataset, self.model.device, self.model.config.cutoff)

    def images_for(self, sites: int) -> int:
        return self.data.images_for(sites)

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        batch, images, label, labeled = self.data.share(index, mine, sites, most_images)
        target = (label - self.model.property_mean) / self.model.property_std
        return {"property": property_loss(self.model.standardized(batch, images), target, labeled)}
