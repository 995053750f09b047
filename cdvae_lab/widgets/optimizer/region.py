"""The region of the training crystals: a search that leaves it is not to be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.explore.optimization import LatentStep


@dataclass(frozen=True)
class Region:
    """The ranges in which the crystals of a latent map lie.

    Attributes:
        labels: lowest and highest label; None where there is none.
        lengths: smallest and largest |z|.
    """

    labels: tuple[float, float] | None
    lengths: tuple[float, float] | None

    @classmethod
    def of(cls, map: LatentMap | None) -> Region:
        """The region of a map; unknown without one."""
        if map is None:
            return cls(None, None)
        labels = map.labels[torch.isfinite(map.labels)].float()
        lengths = map.latents.float().norm(dim=-1)
        low, high = (float(x) for x in labels.aminmax()) if len(labels) else (math.nan, math.nan)
        return cls((low, high) if len(labels) else None, (float(lengths.min()), float(lengths.max())))

    def warnings(self, step: LatentStep, name: str, unit: str) -> list[str]:
        """Sentences on the respects in which the latents of a step lie outside; empty if they lie inside.

        Args:
            name, unit: of the property.
        """
        found = []
        n = len(step.prediction)
        if self.labels is not None:
            low, high = self.labels
            for out, word, extreme in (
                (step.prediction < low, "below", step.prediction.min()),
                (step.prediction > high, "above", step.prediction.max()),
            ):
                if bool(out.any()):
                    found.append(
                        f"{_which(int(out.sum()), n, 'The prediction')} ({_value(extreme, unit)}) is {word} every "
                        f"label of the training crystals ({low:.2f} to {high:.2f}). The network has never seen such a "
                        f"{name}: do not believe the number."
                    )
        if self.lengths is not None:
            longest, length = self.lengths[1], step.z.norm(dim=-1)
            out = length > longest
            if bool(out.any()):
                found.append(
                    f"{_which(int(out.sum()), n, 'z')} is {float(length.max()):.1f} long, longer than that of any "
                    f"training crystal ({longest:.1f} at most): the decoder was never trained there. A larger weight "
                    "of the prior keeps it closer."
                )
        return found


def _which(some: int, total: int, what: str) -> str:
    return what if total == 1 else f"{what} of {some} of the {total} crystals"


def _value(value: Tensor, unit: str) -> str:
    return f"{float(value):.2f} {unit}".strip()
