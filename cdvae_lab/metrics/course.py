"""Course of a denoising run for one crystal: numbers that describe each frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.metrics.distances import closest_distance
from cdvae_lab.metrics.validity import structure_validity
from cdvae_lab.sampling.denoising import DenoisingFrame


@dataclass(frozen=True)
class Course:
    """Course of a crystal along a denoising run.

    Attributes:
        steps: network calls before each frame.
        sigmas: noise level of each frame, Å.
        closest_distance: between any two atoms, an atom and its own periodic images included, Å; NaN without a cell.
        changed_species: number of atoms whose element differs from the frame before; 0 in the first frame.
        structure_valid: whether distinct atoms are far enough apart; the composition is not tested.
        num_atoms: in the cell; constant along a run.
    """

    steps: Int[Tensor, " frames"]
    sigmas: Float[Tensor, " frames"]
    closest_distance: Float[Tensor, " frames"]
    changed_species: Int[Tensor, " frames"]
    structure_valid: Bool[Tensor, " frames"]
    num_atoms: int

    def __len__(self) -> int:
        return len(self.steps)


def course(frames: Iterable[DenoisingFrame], crystal: int = 0) -> Course:
    """Describe one crystal over the frames of a run: a `Trajectory`, or the frames that `denoise` yields.

    Args:
        frames: in order; an iterator is consumed.
        crystal: its number in the batch.

    Raises:
        SettingError: without frames, or with no crystal of that number.
    """
    frames = list(frames)
    if not frames:
        raise SettingError("the course of a run needs at least one frame")
    if not 0 <= crystal < len(frames[0].crystals):
        raise SettingError(f"crystal: {crystal}; the batch has crystals 0 to {len(frames[0].crystals) - 1}")
    crystals = Crystals.cat([frame.crystals[crystal] for frame in frames]).to("cpu")
    numbers = crystals.atomic_numbers
    changed = torch.zeros(len(frames), dtype=torch.long)
    changed[1:] = (numbers[1:] != numbers[:-1]).sum(1)
    return Course(
        torch.tensor([frame.step for frame in frames]),
        torch.tensor([frame.sigma for frame in frames], dtype=torch.float64),
        closest_distance(crystals),
        changed,
        structure_validity(crystals),
        int(crystals.num_atoms[0]),
    )
