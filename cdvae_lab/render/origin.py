"""Choose the origin of crystals for display: generated crystals lie anywhere in their cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals

if TYPE_CHECKING:
    from cdvae_lab.sampling.denoising import DenoisingFrame

_LEFT = 0.8  # share of the way to the origin that remains after each frame of an animation
_THERE = 0.004  # fractional; a smaller offset is invisible


def at_atom(crystals: Crystals, like: Crystals | None = None) -> Crystals:
    """Move each crystal so that an atom of its rarest element lies at the origin; of several elements, the heaviest.

    A generated perovskite is then seen as one, with an atom at every corner of the cell.

    Args:
        crystals: crystals to move.
        like: choose the atom and its displacement from these crystals instead; frames that are all moved like the
            last one keep their relative motion.
    """
    model = crystals if like is None else like
    site = _ranks(model).argmin(1)
    return _moved(crystals, model.frac_coords[torch.arange(len(model), device=model.device), site])


@dataclass(frozen=True)
class FrameOrigin:
    """Origin of the crystals in one frame of an animation that is shown while it is computed.

    In every frame an atom of the rarest element lies at the origin, as by `at_atom`, but the end of the run need not
    be known and nothing jumps: the atom stays the same for as long as its element is one of the rarest and half as
    heavy as the heaviest of them. When another takes its place, that one glides to the origin over the next frames.

    Attributes:
        site: the atom of each crystal that is at the origin, or on its way.
        left: how far it still has to go, fractional.
    """

    site: Int[Tensor, " crystals"]
    left: Float[Tensor, "crystals 3"]

    @classmethod
    def of(cls, crystals: Crystals) -> FrameOrigin:
        """Create the origin of the first frame."""
        return cls(_ranks(crystals).argmin(1), torch.zeros_like(crystals.frac_coords[:, 0]))

    @classmethod
    def along(cls, frames: Iterable[DenoisingFrame], before: FrameOrigin | None = None) -> Iterator[FrameOrigin]:
        """Yield the origins of consecutive frames, after a frame whose origin was `before`."""
        for frame in frames:
            before = cls.of(frame.crystals) if before is None else before.then(frame.crystals, frame.finished)
            yield before

    def then(self, crystals: Crystals, last: bool = False) -> FrameOrigin:
        """Return the origin of the next frame; in the last one every atom has arrived."""
        rows, best = torch.arange(len(crystals), device=crystals.device), _ranks(crystals).argmin(1)
        count, number = _count(crystals), crystals.atomic_numbers
        rare = count[rows, self.site] == count[rows, best]
        # A metal takes the place of a single fluorine; of two metals the first stays.
        stays = rare & (2 * number[rows, self.site] >= number[rows, best])
        site = torch.where(stays, self.site, best)
        apart = crystals.frac_coords[rows, site] - crystals.frac_coords[rows, self.site]
        left = _LEFT * (self.left + torch.where(stays[:, None], 0.0, apart - apart.round()))
        arrived = (left.abs().amax(-1, keepdim=True) < _THERE) | last
        return replace(self, site=site, left=left.masked_fill(arrived, 0.0))

    def move(self, crystals: Crystals) -> Crystals:
        """Move a frame's crystals to this origin."""
        rows = torch.arange(len(crystals), device=crystals.device)
        return _moved(crystals, crystals.frac_coords[rows, self.site] - self.left)


def _count(crystals: Crystals) -> Int[Tensor, "crystals sites"]:
    """Count, for each atom, the atoms of its element in its crystal."""
    numbers = crystals.atomic_numbers
    return (numbers[:, :, None] == numbers[:, None, :]).sum(-1)


def _ranks(crystals: Crystals) -> Int[Tensor, "crystals sites"]:
    """Rank atoms: rarest element first, then heaviest; padded sites last."""
    return torch.where(crystals.mask, _count(crystals) * 1000 - crystals.atomic_numbers, 10**9)


def _moved(crystals: Crystals, shift: Float[Tensor, "crystals 3"]) -> Crystals:
    moved = crystals.frac_coords - shift[:, None]
    # An atom a rounding error below a face belongs on it.
    moved = torch.where((moved - moved.round()).abs() < 1e-6, moved.round(), moved)
    return crystals.replace(frac_coords=lat.wrap(moved) * crystals.mask[..., None])
