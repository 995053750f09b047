"""The course of a denoising run, crystal by crystal: what can be said of every frame in one number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.metrics.validity import smallest_distance, structure_validity
from cdvae_lab.sampling.denoising import DenoisingFrame


@dataclass(frozen=True)
class Course:
    """One crystal along a run.

    Attributes:
        steps: calls of the network before each frame.
        sigmas: noise level of each frame, Å.
        smallest_distance: between distinct atoms, Å; NaN where there is none, as with a single atom.
        changed_species: atoms of another element than in the frame before; 0 in the first frame.
        valid: structure validity.
        num_atoms: in the cell; a run does not change it.
    """

    steps: Int[Tensor, " frames"]
    sigmas: Float[Tensor, " frames"]
    smallest_distance: Float[Tensor, " frames"]
    changed_species: Int[Tensor, " frames"]
    valid: Bool[Tensor, " frames"]
    num_atoms: int

    def __len__(self) -> int:
        return len(self.steps)


def course(frames: Iterable[DenoisingFrame], crystal: int = 0) -> Course:
    """The course of one crystal over the frames of a run: a `Trajectory`, or a list of what `denoise` yields.

    Args:
        frames: in order; consumed.
        crystal: its place in the batch.

    Raises:
        SettingError: without frames, or with no crystal of that number.
    """
    frames = list(frames)
    if not frames:
        raise SettingError("the course of a run needs at least one frame")
    if not 0 <= crystal < len(frames[0].crystals):
        raise SettingError(f"crystal {crystal} of a batch of {len(frames[0].crystals)}: give 0 or more, and less")
    crystals = Crystals.cat([frame.crystals[crystal] for frame in frames]).to("cpu")
    numbers = crystals.atomic_numbers
    changed = torch.zeros(len(frames), dtype=torch.long)
    changed[1:] = (numbers[1:] != numbers[:-1]).sum(1)
    distance = smallest_distance(crystals)
    return Course(
        torch.tensor([frame.step for frame in frames]),
        torch.tensor([frame.sigma for frame in frames], dtype=torch.float64),
        distance.masked_fill(distance.isinf(), torch.nan),
        changed,
        structure_validity(crystals),
        int(crystals.num_atoms[0]),
    )
