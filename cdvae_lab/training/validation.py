"""Losses of a CDVAE on data that it is not trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import as_model
from cdvae_lab.training.checks import check_fits
from cdvae_lab.training.losses import TERMS, loss_terms


@torch.no_grad()
def validation_losses(
    model: CDVAE | str | Path, dataset: Dataset, batch_size: int = 512, seed: int = 0
) -> dict[str, float]:
    """Compute the mean of every loss term over a data set, unweighted, with the same noise at every call.

    The property's term is a mean over the labeled crystals, and 0 if there are none; every other term is a mean over
    all crystals. The batch size changes nothing but rounding.

    Args:
        model: a CDVAE, or the name or path of one.
        dataset: crystals that the model was not trained on.
        batch_size: crystals per call of the networks.
        seed: seed of the noise.

    Raises:
        DatasetError: for crystals that the model has no room for.
        SettingError: for a batch size below 1 or a seed out of range.
    """
    if batch_size < 1:
        raise SettingError(f"validation_losses: batch_size must be at least 1, not {batch_size}")
    model = as_model(model)
    check_fits(model, dataset)
    labeled = torch.isfinite(dataset.labels)
    # Number of crystals that each term is a mean over, in a batch and in all.
    counted = {name: labeled if name == "property" else torch.ones_like(labeled) for name in TERMS}
    totals = dict.fromkeys(TERMS, 0.0)
    for start in range(0, len(dataset), batch_size):
        index = torch.arange(start, min(start + batch_size, len(dataset)))
        part = dataset[index].to(model.device)
        images = periodic_images(part.crystals.lattice, model.config.cutoff)
        terms = loss_terms(model, part.crystals.trim(), images, part.labels, index.to(model.device), 0, seed)
        for name in TERMS:
            here, all_of_them = int(counted[name][index].sum()), int(counted[name].sum())
            totals[name] += float(terms[name]) * here / max(all_of_them, 1)
    return totals
