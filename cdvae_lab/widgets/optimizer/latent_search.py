"""The record of a search in latent space: its steps, what was decoded on the way, and the lines that do it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.legs import Legs

if TYPE_CHECKING:
    import pandas as pd

Predictor = Callable[[Crystals], Float[Tensor, " crystals"]]
MOST_STEPS = 1000  # that are kept of a run; of longer ones every second, third, ...
MOST_LATENTS = 20_000  # that are kept, of all crystals together: some 80 MB with 256 dimensions


@dataclass(frozen=True)
class Decoded:
    """What one step's latents are as crystals, and what they are worth.

    Attributes:
        step: the step's number.
        crystals: decoded from its z.
        own: the model's own prediction for them, encoded again; NaN for a cell that is flat or not finite.
        independent: an independent predictor's value for them; None without one.
    """

    step: int
    crystals: Crystals
    own: Float[Tensor, " crystals"]
    independent: Float[Tensor, " crystals"] | None


@dataclass
class Search:
    """One run of `optimize`, kept thinned.

    Attributes:
        thin: every so many steps are kept.
        steps: those that are kept, in order.
        decoded: in order.
        legs: how to say in Python where the steps are from.
    """

    thin: int = 1
    steps: list[LatentStep] = field(default_factory=list)
    decoded: list[Decoded] = field(default_factory=list)
    legs: Legs = field(default_factory=lambda: Legs("steps"))

    @staticmethod
    def thinning(steps: int, crystals: int) -> int:
        """How many steps to leave out, for a run of so many steps."""
        return max(-(-steps // MOST_STEPS), -(-steps * crystals // MOST_LATENTS))

    def cut(self, count: int) -> None:
        """Forget the steps after the first so many, and what was decoded from them."""
        del self.steps[count:]
        last = self.steps[-1].step if self.steps else -1
        self.decoded = [one for one in self.decoded if one.step <= last]
        self.legs.cut(count)

    def index(self, step: int) -> int:
        """Of the last kept step that is not after the one of that number."""
        return max((i for i, one in enumerate(self.steps) if one.step <= step), default=0)

    def at(self, index: int) -> int | None:
        """Which of `decoded` belongs to a kept step: the newest that is not after it; None if there is none."""
        step = self.steps[index].step
        return max((i for i, one in enumerate(self.decoded) if one.step <= step), default=None)

    def add(self, one: Decoded) -> None:
        """Put a decoding where it belongs; another one of the same step gives way."""
        self.decoded = sorted([*(d for d in self.decoded if d.step != one.step), one], key=lambda d: d.step)

    def lines(self, running: bool = False) -> list[str]:
        """The Python that gives `steps`; of a run that was stopped those that there are."""
        whole = running or not self.steps or self.steps[-1].finished
        return self.legs.lines(len(self.steps), whole)

    def table(self, unit: str = "") -> pd.DataFrame:
        """A row for every kept step and crystal."""
        import pandas as pd

        of_step: dict[int, tuple[Decoded, list[str]]] = {}
        for one in self.decoded:
            formulas = [words.formula(one.crystals[k]) for k in range(len(one.crystals))]
            of_step[one.step] = (one, formulas)
        tail = f" ({unit})" if unit else ""
        rows = []
        for step in self.steps:
            known = of_step.get(step.step)
            lengths, log_prob = step.z.norm(dim=-1).tolist(), step.log_prob.tolist()
            for k, prediction in enumerate(step.prediction.tolist()):
                one, formulas = known or (None, [])
                rows.append(
                    {
                        "step": step.step,
                        "crystal": k,
                        f"predicted for z{tail}": prediction,
                        "length of z": lengths[k],
                        "log p(z) (nats)": log_prob[k],
                        "decoded formula": formulas[k] if one else None,
                        f"predicted for the decoded crystal{tail}": float(one.own[k]) if one else None,
                        f"independently predicted for the decoded crystal{tail}": (
                            float(one.independent[k]) if one and one.independent is not None else None
                        ),
                    }
                )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Region:
    """Where the crystals of a latent map are: what a search has left when it is outside.

    Attributes:
        labels: lowest and highest label.
        lengths: smallest and largest |z|.
    """

    labels: tuple[float, float] | None
    lengths: tuple[float, float] | None

    @classmethod
    def of(cls, map: LatentMap | None) -> Region:
        if map is None:
            return cls(None, None)
        labels = map.labels[torch.isfinite(map.labels)].float()
        lengths = map.latents.float().norm(dim=-1)
        low, high = (float(x) for x in labels.aminmax()) if len(labels) else (math.nan, math.nan)
        return cls((low, high) if len(labels) else None, tuple(float(x) for x in lengths.aminmax()))  # type: ignore[arg-type]

    def left_by(self, step: LatentStep, name: str, unit: str) -> list[str]:
        """In plain words, in which respect the latents of a step are outside; empty if they are inside."""
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
                        f"{_who(int(out.sum()), n, 'The prediction')} ({_value(extreme, unit)}) is {word} every "
                        f"label of the training crystals ({low:.2f} to {high:.2f}). The network has never seen such a "
                        f"{name}: do not believe the number."
                    )
        if self.lengths is not None:
            longest, length = self.lengths[1], step.z.norm(dim=-1)
            out = length > longest
            if bool(out.any()):
                found.append(
                    f"{_who(int(out.sum()), n, 'z')} is {float(length.max()):.1f} long, longer than that of any "
                    f"training crystal ({longest:.1f} at most): the decoder has never been there. A stronger pull to "
                    "the prior holds it back."
                )
        return found


def trail(map: LatentMap, steps: Sequence[LatentStep]) -> Float[Tensor, "steps crystals 2"]:
    """Where the latents of steps are on a map."""
    z = torch.stack([step.z for step in steps]).cpu().float()
    return map.place(z.flatten(0, 1)).reshape(*z.shape[:2], 2)


def _who(some: int, all_of: int, what: str) -> str:
    return what if all_of == 1 else f"{what} of {some} of the {all_of} crystals"


def _value(value: Tensor, unit: str) -> str:
    return f"{float(value):.2f} {unit}".strip()
