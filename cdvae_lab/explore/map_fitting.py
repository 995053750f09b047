"""What a latent map is fitted to, and the fit: a choice of crystals, and the places that UMAP gives their latents.

McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection" (arXiv 1802.03426).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import DatasetError, SettingError
from cdvae_lab.runtime.threads import threads_kept

FEWEST = 8  # crystals; UMAP needs at least these


def check_settings(seed: int, n_neighbors: int, min_dist: float, limit: int | None) -> None:
    """Refuse settings of `LatentMap.fit` that are out of range. Raises SettingError."""
    if seed < 0 or n_neighbors < 2 or not 0 <= min_dist <= 1 or (limit is not None and limit < FEWEST):
        raise SettingError(
            f"a map needs seed >= 0, n_neighbors >= 2, min_dist from 0 to 1 and limit >= {FEWEST} or None, not "
            f"{seed}, {n_neighbors}, {min_dist:g} and {limit}"
        )


def crystals_of_map(dataset: Dataset, seed: int, limit: int | None) -> Dataset:
    """Choose the crystals of a map: all, or as many as the limit at random.

    Raises:
        DatasetError: with too few crystals to make a map of.
    """
    if len(dataset) < FEWEST:
        raise DatasetError(f"{dataset.name}: has {len(dataset)} crystals; a map needs at least {FEWEST}")
    if limit is None or limit >= len(dataset):
        return dataset
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), limit, replace=False))
    return dataset[torch.from_numpy(chosen)]


def umap_places(
    latents: Float[Tensor, "points latent"], seed: int, n_neighbors: int, min_dist: float
) -> Float[Tensor, "points 2"]:
    """Fit UMAP to latents; results are reproducible on one machine."""
    from umap import UMAP

    # A spectral start needs more points than a handful, and principal components are as good a start.
    fitted = UMAP(n_neighbors=n_neighbors, min_dist=min_dist, init="pca", random_state=seed, n_jobs=1)
    with threads_kept():
        return torch.from_numpy(np.asarray(fitted.fit_transform(latents.numpy()), dtype=np.float32))
