"""Schedule of the learning rate.

See docs/explanation/algorithm.md, departure D10.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.training.settings import FitSettings


def learning_rate(settings: FitSettings, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """Compute the learning rate: linear warm-up, then half a cosine; part of the CUDA graph of a step."""
    done = step.to(torch.float32)
    rising = (done + 1) / max(settings.warm_up, 1)
    after = ((done - settings.warm_up) / max(settings.steps - settings.warm_up, 1)).clamp(0, 1)
    falling = settings.final_lr + (settings.lr - settings.final_lr) * 0.5 * (1 + torch.cos(math.pi * after))
    return torch.where(rising < 1, rising * settings.lr, falling)
