"""Property model: a PaiNN that predicts a property from a crystal, independent of the CDVAE and its latents.

It evaluates generated crystals: the energy statistic and the success rates of property optimization, which must not
use the network whose gradient the search followed. It is a callable from crystals to the property in its unit, so it
can be passed wherever a function takes a predictor.

See docs/explanation/algorithm.md, departure D3 and section 7.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.neighbors import MAX_REACH, periodic_images
from cdvae_lab.crystals.size_groups import MAX_PAIRS, size_groups
from cdvae_lab.errors import DatasetError
from cdvae_lab.models.configs import PropertyModelConfig
from cdvae_lab.models.display import Described
from cdvae_lab.models.painn import PaiNN

if TYPE_CHECKING:
    from cdvae_lab.datasets.dataset import Dataset


class PropertyModel(Described):
    """Predictor of an intensive property: the mean of a contribution of every atom.

    It does not depend on the choice of the unit cell. `for_dataset` creates a model, `cdvae_lab.load_property_model`
    loads a trained one.
    """

    property_mean: Tensor
    property_std: Tensor

    def __init__(self, config: PropertyModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.metadata: dict[str, Any] = {}
        self.register_buffer("property_mean", torch.zeros(()))
        self.register_buffer("property_std", torch.ones(()))
        self.types = nn.Embedding(NUM_ELEMENTS + 1, c.hidden_dim, padding_idx=0)
        self.network = PaiNN(c.hidden_dim, c.blocks, c.num_radial, c.cutoff)
        self.head = nn.Sequential(nn.Linear(c.hidden_dim, c.hidden_dim), nn.SiLU(), nn.Linear(c.hidden_dim, 1))

    @classmethod
    def for_dataset(cls, dataset: Dataset, seed: int = 0, **settings: Any) -> PropertyModel:
        """Create an untrained model with the standardization of a data set's labels.

        Args:
            seed: seed of the initial weights.
            settings: fields of `PropertyModelConfig`.

        Raises:
            DatasetError: with fewer than two labels, or with elements beyond Z = 100.
            SettingError: for settings out of range.
        """
        labels = dataset.labels[torch.isfinite(dataset.labels)]
        if len(labels) < 2:
            raise DatasetError(f"{dataset.name}: has {len(labels)} labels; a property model needs at least 2")
        if max(dataset.elements) > NUM_ELEMENTS:
            raise DatasetError(f"{dataset.name}: has Z = {max(dataset.elements)}; leave crystals beyond Z = 100 out")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(PropertyModelConfig(**settings))
        model.property_mean.copy_(labels.mean())
        model.property_std.copy_(labels.std(correction=0).clamp_min(1e-6))
        return model

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.property_mean.device

    def standardized(
        self, crystals: Crystals, images: Float[Tensor, "crystals images 3"] | None = None
    ) -> Float[Tensor, " crystals"]:
        """Predict the property, standardized with the training set's mean and deviation.

        Args:
            images: periodic images as `periodic_images` lists them; by default computed here.
        """
        c = self.config
        if images is None:
            images = periodic_images(crystals.lattice, c.cutoff)
        basis = self.network.basis_for(crystals, images, c.num_neighbors, c.cutoff)
        s, _ = self.network(self.types(crystals.atomic_numbers), basis, crystals.mask)
        weight = crystals.mask.to(s.dtype) / crystals.mask.sum(1, keepdim=True).clamp_min(1)
        return (self.head(s).squeeze(-1) * weight).sum(1)

    @torch.no_grad()
    def forward(self, crystals: Crystals) -> Float[Tensor, " crystals"]:
        """Predict the property of any number of crystals, in the unit of the training set's labels.

        The result is NaN for a crystal without atoms or volume, with a value that is not finite, with a cell so thin
        that the cutoff spans too many periodic images, or with an element beyond Z = 100.
        """
        spacing = lat.plane_spacings(crystals.lattice.double())
        known = crystals.mask.any(1) & (crystals.atomic_numbers <= NUM_ELEMENTS).all(1)
        thick = torch.isfinite(spacing).all(1) & (spacing > self.config.cutoff / MAX_REACH).all(1)
        usable = known & thick & torch.isfinite(crystals.frac_coords).flatten(1).all(1)
        result = crystals.lattice.new_full((len(crystals),), torch.nan, dtype=self.property_mean.dtype)
        rows, some = usable.nonzero()[:, 0], crystals[usable]
        for group in size_groups(some.num_atoms, MAX_PAIRS):
            part = group.of(some).to(self.device, self.property_mean.dtype)
            predicted = self.standardized(part) * self.property_std + self.property_mean
            result[rows[group.rows]] = predicted.to(result.device)
        return result

    def save(self, path: str | Path, half: bool = False, **metadata: Any) -> Path:
        """Write the model to one safetensors file; arguments and errors are those of `checkpoints.save_model`."""
        from cdvae_lab.models.checkpoints import save_model  # imports this module

        return save_model(self, path, half, **metadata)
