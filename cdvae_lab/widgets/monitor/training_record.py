"""The record of a training run for people: terms and speed, thinned, and what the model made of a few crystals."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.training.loop import TrainingStep

MOST_RECORDS = 800  # more than a figure has pixels; of longer runs every second, fourth, ... step is kept


@dataclass(frozen=True)
class Looked:
    """What the averaged weights made of a few crystals, encoded and decoded again.

    Attributes:
        step: of the optimizer.
        crystals: what came back.
        rms: of each by StructureMatcher, in units of (volume / atom)^(1/3); None: no match.
    """

    step: int
    crystals: Crystals
    rms: tuple[float | None, ...]

    @property
    def matched(self) -> int:
        return sum(value is not None for value in self.rms)


@dataclass
class TrainingRecord:
    """Records as `figures.training_curve` takes them, and clocks that stand still while nothing is computed.

    Attributes:
        records: of every `thin`-th step, and of each validation.
        looked: what came back of the shown crystals, in order.
        training, whole: seconds spent in steps, and in steps and validations.
        done: steps since the clocks began.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    looked: list[Looked] = field(default_factory=list)
    thin: int = 1
    training: float = 0.0
    whole: float = 0.0
    done: int = 0
    _mark: float = math.nan

    def resume(self) -> None:
        """The clocks go on."""
        self._mark = time.monotonic()

    def _passed(self) -> float:
        now = time.monotonic()
        passed, self._mark = now - self._mark, now
        return passed

    def note(self, step: TrainingStep) -> None:
        """Keep a step that has just been done."""
        passed = self._passed()
        self.training, self.whole, self.done = self.training + passed, self.whole + passed, self.done + 1
        if step.step % self.thin == 0 or step.step == step.num_steps:
            row = {"step": step.step, "loss": step.loss, **step.terms, "lr": step.learning_rate}
            self.records = [*self.records, row]  # a new list: another thread may be drawing the old one
        if len(self.records) > 2 * MOST_RECORDS:
            self.thin *= 2
            self.records = [row for row in self.records if row["step"] % self.thin == 0 or "lr" not in row]

    def validated(self, step: int, losses: dict[str, float], looked: Looked) -> None:
        """Keep what a validation found."""
        self.whole += self._passed()
        self.records = [*self.records, {"step": step} | {f"val_{name}": value for name, value in losses.items()}]
        self.looked = [*self.looked, looked]

    def pause_in_validation(self) -> None:
        """Time that a validation has taken so far; it is no time of a step."""
        self.whole += self._passed()

    def until(self, step: int) -> None:
        """Forget what came after a step: it is going to be done again."""
        self.records = [row for row in self.records if row["step"] <= step]
        self.looked = [one for one in self.looked if one.step <= step]
        self.training, self.whole, self.done = 0.0, 0.0, 0

    def rate(self, batch_size: int) -> float:
        """Structures per second, validations not counted."""
        return self.done * batch_size / self.training if self.training else math.nan

    def left(self, step: TrainingStep) -> float:
        """Seconds to the end, as it has gone so far with validations."""
        return (step.num_steps - step.step) * self.whole / self.done if self.done else math.nan


def duration(seconds: float | int) -> str:
    """For people: 45 s, 3 min, 2 h 10 min."""
    if not math.isfinite(seconds):
        return "some time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def verdicts(rms: tuple[float | None, ...]) -> list[str]:
    """Of each crystal in words."""
    return ["no match" if value is None else f"match, RMSD {float(value):.3f}" for value in rms]
