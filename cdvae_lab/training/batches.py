"""Batches of crystals of similar size, in a shuffled order that depends on the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Indices of crystals in the data set, and the padded number of sites that they share."""

    index: Int[Tensor, " crystals"]
    sites: int


class Batches:
    """Batches by step, `batches[step]`: a function of (seed, step), so that a checkpoint need not store their order.

    Every epoch is shuffled, cut to whole batches, and sorted into batches of crystals of similar size, whose order is
    shuffled too. Padded sizes are rounded up to multiples of 4, since every size needs its own CUDA graph.
    """

    def __init__(self, num_atoms: Int[Tensor, " crystals"], batch_size: int, seed: int, device: torch.device) -> None:
        self.num_atoms = num_atoms.cpu()
        self.most = int(self.num_atoms.max())
        self.batch_size = min(batch_size, len(num_atoms))
        self.per_epoch = len(num_atoms) // self.batch_size
        self.seed, self.device = seed, device
        self.epoch, self.order = -1, []

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self._epoch(epoch)
        return self.order[place]

    def _epoch(self, epoch: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(self.num_atoms), generator=generator)[: self.per_epoch * self.batch_size]
        padded = ((self.num_atoms[shuffled] + 3) // 4 * 4).clamp_max(self.most)
        groups = shuffled[padded.argsort(stable=True)].reshape(self.per_epoch, self.batch_size)
        sizes = ((self.num_atoms[groups].amax(1) + 3) // 4 * 4).clamp_max(self.most).tolist()
        on_device = groups.to(self.device)
        return [Batch(on_device[b], sizes[b]) for b in torch.randperm(self.per_epoch, generator=generator).tolist()]
