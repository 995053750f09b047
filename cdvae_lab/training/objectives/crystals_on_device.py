"""The crystals of a data set on a device, from which a step takes its batch without waiting for the device."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import FAR, periodic_images
from cdvae_lab.crystals.size_groups import SizeGroup
from cdvae_lab.datasets.dataset import Dataset


class CrystalsOnDevice:
    """Crystals, labels and periodic images of a data set on a device, and the parts of them that make a batch."""

    def __init__(self, dataset: Dataset, device: torch.device, cutoff: float) -> None:
        self.crystals = dataset.crystals.to(device)
        self.labels = dataset.labels.to(device)
        self.images = periodic_images(self.crystals.lattice, cutoff)

    def images_for(self, sites: int) -> int:
        """Count the periodic images that the crystals of at most `sites` atoms need."""
        fitting = self.crystals.num_atoms <= sites
        return int((self.images[fitting][..., 0] < FAR).sum(1).max())

    def share(
        self, index: Int[Tensor, " batch"], mine: slice, sites: int, most_images: int
    ) -> tuple[Crystals, Float[Tensor, "share images 3"], Float[Tensor, " share"], Float[Tensor, ""]]:
        """Select a share of a batch: crystals, images and labels, and its part of the labeled crystals."""
        labels = self.labels[index]
        index, label = index[mine], labels[mine]
        # The property's term is a mean over labeled crystals, of which shares have more or fewer.
        labeled = torch.isfinite(labels).to(labels.dtype).sum().clamp_min(1) * (len(label) / len(labels))
        return SizeGroup(index, sites).of(self.crystals), self.images[index, :most_images], label, labeled
