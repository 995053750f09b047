"""Property statistics of generated crystals: how far their distribution of a property is from the reference's.

As in the CDVAE paper's code (`compute_metrics.GenEval`): the 1-D Wasserstein distance between 1,000 valid generated
crystals and all reference crystals.

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals


def wasserstein(a: Float[np.ndarray, " a"], b: Float[np.ndarray, " b"]) -> float:
    """Compute the 1-D Wasserstein distance between two sets of numbers, in their unit.

    NaN if either is empty or has a number that is not finite.
    """
    from scipy.stats import wasserstein_distance

    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    return float(wasserstein_distance(a, b))


def num_elements(crystals: Crystals) -> Int[Tensor, " crystals"]:
    """Count the different elements of each crystal."""
    ordered = crystals.atomic_numbers.cpu().sort(1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return (new & (ordered > 0)).sum(1)


def sample(valid: Bool[np.ndarray, " crystals"], number: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """Draw the crystals whose properties are compared: `number` of the valid ones, without replacement; or all."""
    rows = valid.nonzero()[0]
    if len(rows) <= number:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))
