"""The mean over the nearest points, with weights 1 / distance^2 (Shepard, ACM National Conference 1968).

It gives a point's own value at the point itself.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 1024  # queries whose distances to all points are in memory


def nearest_points(
    points: Float[Tensor, "points dims"], queries: Float[Tensor, "queries dims"], k: int
) -> tuple[Int[Tensor, "queries k"], Float[Tensor, "queries k"]]:
    """Find the k nearest points of each query, nearest first: their numbers and their distances.

    Args:
        k: at most all points are given.
    """
    k = min(k, len(points))
    rows, distances = [], []
    for part in queries.split(AT_ONCE):
        found = torch.cdist(part, points).topk(k, largest=False).indices
        # Exactly: the fast formula, |a|^2 - 2ab + |b|^2, does not distinguish points at distance 0 from near ones.
        exact, order = (points[found] - part[:, None]).norm(dim=-1).sort(-1)
        rows.append(found.gather(-1, order))
        distances.append(exact)
    if not rows:
        return torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k)
    return torch.cat(rows), torch.cat(distances)


def mean_of_nearest(
    values: Float[Tensor, "points dims"], rows: Int[Tensor, "queries k"], distances: Float[Tensor, "queries k"]
) -> Float[Tensor, "queries dims"]:
    """Average the values of the points that `nearest_points` found; those at distance 0 share the whole weight."""
    # Relative to the nearest, so that no square leaves the range of a float.
    nearest = distances.amin(-1, keepdim=True)
    weights = torch.where(nearest > 0, (nearest / distances) ** 2, (distances == 0).to(distances.dtype))
    weights = weights / weights.sum(-1, keepdim=True)
    return (values[rows].float() * weights[..., None]).sum(1)
