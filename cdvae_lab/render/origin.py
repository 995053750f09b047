"""Where to put the origin of a crystal that has none of its own: generated crystals lie anywhere in their cell."""

from __future__ import annotations

import torch

from cdvae_lab import lattice as lat
from cdvae_lab.crystals import Crystals


def at_atom(crystals: Crystals, like: Crystals | None = None) -> Crystals:
    """The same crystals, each moved so that one of its atoms lies at the origin: the heaviest of its rarest element.

    A generated perovskite is then seen as one, with an atom at every corner of the cell.

    Args:
        crystals: what to move.
        like: take the atom, and the way that it has to go, from these instead; the frames of a run all moved like
            its last one keep the motion that there was.
    """
    model = crystals if like is None else like
    numbers, mask = model.atomic_numbers, model.mask
    count = (numbers[:, :, None] == numbers[:, None, :]).sum(-1)
    # Rarest first, then heaviest; padding never.
    rank = torch.where(mask, count * 1000 - numbers, 10**9)
    site = rank.argmin(1)
    shift = model.frac_coords[torch.arange(len(model), device=model.device), site]
    moved = crystals.frac_coords - shift[:, None]
    # An atom a rounding error below a face belongs on it.
    moved = torch.where((moved - moved.round()).abs() < 1e-6, moved.round(), moved)
    return crystals.replace(frac_coords=lat.wrap(moved) * crystals.mask[..., None])
