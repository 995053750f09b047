"""Four strips below the player: noise level, distances, changed elements and validity of every frame; and keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import ipywidgets
import torch
import traitlets
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.metrics import distances, validity
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.parts.front_end import widget_code

_WIDGET: dict[str, Any] = {"sync": True, **ipywidgets.widget_serialization}


class Strips(anywidget.AnyWidget):
    """One canvas with the slider's frame marked; pointing at it, and keys, move the slider.

    Other widgets' values are read and set in the browser: a link would send a message for each change, twice.
    """

    _esm = widget_code("strips.js")
    data = traitlets.Dict().tag(sync=True)
    slider = traitlets.Instance(ipywidgets.IntSlider).tag(**_WIDGET)
    play = traitlets.Instance(ipywidgets.Play).tag(**_WIDGET)


class StepButtons(anywidget.AnyWidget):
    """Buttons for the previous and the next frame, which work while the kernel is busy, too."""

    _esm = widget_code("steps.js")
    slider = traitlets.Instance(ipywidgets.IntSlider).tag(**_WIDGET)
    play = traitlets.Instance(ipywidgets.Play).tag(**_WIDGET)


@dataclass(frozen=True)
class Course:
    """Values of the strips, for each frame and crystal.

    Attributes:
        distance: closest distance between two atoms, an atom and its own images included, Å.
        changed: number of atoms that are of another element than one frame before.
        valid: both structure and composition, by `metrics.validity`.
    """

    distance: Float[Tensor, "frames crystals"]
    changed: Int[Tensor, "frames crystals"]
    valid: Bool[Tensor, "frames crystals"]

    @classmethod
    def of(cls, frames: Sequence[DenoisingFrame], before: DenoisingFrame | None = None) -> Course:
        """Compute the strips of frames in order; the first is compared with the frame before them."""
        batches = [frame.crystals.to("cpu") for frame in frames]
        together, shape = Crystals.cat(batches), (len(batches), len(batches[0]))
        numbers = torch.stack([batch.atomic_numbers for batch in batches])
        first = batches[0] if before is None else before.crystals.to("cpu")
        earlier = torch.cat([first.atomic_numbers[None], numbers[:-1]])
        valid = validity.structure_validity(together) & validity.composition_validity(together)
        return cls(
            distances.closest_distance(together).reshape(shape),
            (numbers != earlier).sum(-1),
            valid.reshape(shape),
        )

    @classmethod
    def warm_up(cls) -> None:
        """Read the tables of oxidation states now, a third of a second that the first frame would wait for."""
        validity.formula_validity(((8, 3), (22, 1), (38, 1)))

    def then(self, later: Course) -> Course:
        """Append the strips of later frames."""
        return Course(*(torch.cat([getattr(self, k), getattr(later, k)]) for k in ("distance", "changed", "valid")))

    def until(self, length: int) -> Course:
        """Keep the first `length` frames."""
        return Course(self.distance[:length], self.changed[:length], self.valid[:length])

    def data(self, frames: Sequence[DenoisingFrame], choice: int | None, length: int) -> dict:
        """Return the values of the strips: of one crystal, or of all (closest distance, sum, share)."""
        chosen = slice(None) if choice is None else slice(choice, choice + 1)
        distance = self.distance[:, chosen].amin(1).tolist()
        levels = frames[0].schedule.sigma
        return {
            "sigma": [frame.sigma for frame in frames],
            "distance": [round(d, 3) if math.isfinite(d) else None for d in distance],
            "changed": self.changed[:, chosen].sum(1).tolist(),
            "valid": [round(v, 3) for v in self.valid[:, chosen].double().mean(1).tolist()],
            "lowest": float(levels.min()),
            "highest": float(levels.max()),
            "length": length,
        }
