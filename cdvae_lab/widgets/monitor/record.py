"""The record of a training run: its terms and speed, thinned, and the reconstructions of its validations."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.training.loop import TrainingStep

MAX_RECORDS = 800  # more than a figure has pixels; of longer runs every second, fourth, ... step is kept


@dataclass(frozen=True)
class Validation:
    """A few crystals, reconstructed with the averaged weights.

    Attributes:
        step: of the optimizer.
        crystals: the reconstructions.
        rms: distance of each from its original by StructureMatcher, in (volume / atom)^(1/3); None: no match.
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
        validations: in order.
        training, whole: seconds spent in steps, and in steps and validations.
        done: steps since the clocks were started.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    thin: int = 1
    training: float = 0.0
    whole: float = 0.0
    done: int = 0
    _mark: float = math.nan

    def resume(self) -> None:
        """Start the clocks again."""
        self._mark = time.monotonic()

    def _passed(self) -> float:
        now = time.monotonic()
        passed, self._mark = now - self._mark, now
        return passed

    def note(self, step: TrainingStep) -> None:
        """Keep a step that has just been taken."""
        passed = self._passed()
        self.training, self.whole, self.done = self.training + passed, self.whole + passed, self.done + 1
        if step.step % self.thin == 0 or step.step == step.num_steps:
            row = {"step": step.step, "loss": step.loss, **step.terms, "lr": step.learning_rate}
            self.records = [*self.records, row]  # a new list: another thread may be drawing the old one
        if len(self.records) > 2 * MAX_RECORDS:
            self.thin *= 2
            self.records = [row for row in self.records if row["step"] % self.thin == 0 or "lr" not in row]

    def validated(self, losses: dict[str, float], validation: Validation) -> None:
        """Keep the losses and the reconstructions of a validation."""
        self.whole += self._passed()
        self.records = [
            *self.records,
            {"step": validation.step} | {f"val_{name}": value for name, value in losses.items()},
        ]
        self.validations = [*self.validations, validation]

    def pause_in_validation(self) -> None:
        """Count the time since the last record as that of a validation, not of a step."""
        self.whole += self._passed()

    def until(self, step: int) -> None:
        """Remove the records after a step: the steps after it are going to be taken again."""
        self.records = [row for row in self.records if row["step"] <= step]
        self.validations = [one for one in self.validations if one.step <= step]
        self.training, self.whole, self.done = 0.0, 0.0, 0

    def rate(self, batch_size: int) -> float:
        """Structures per second, validations not counted."""
        return self.done * batch_size / self.training if self.training else math.nan

    def left(self, step: TrainingStep) -> float:
        """Seconds to the end at the speed so far, validations included."""
        return (step.num_steps - step.step) * self.whole / self.done if self.done else math.nan

    def speed(self, step: TrainingStep) -> str:
        """Loss, speed and time left at a step, in words."""
        said = [f"loss {step.loss:.3g}"]
        if math.isfinite(rate := self.rate(step.batch_size)):
            said.append(f"{rate:,.0f} structures/s")
        if step.step < step.num_steps:
            said.append(f"about {duration(self.left(step))} left")
        return ", ".join(said)


def duration(seconds: float | int) -> str:
    """A duration in words: 45 s, 3 min, 2 h 10 min."""
    if not math.isfinite(seconds):
        return "some time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def verdicts(rms: tuple[float | None, ...]) -> list[str]:
    """The match of each crystal in words."""
    return ["no match" if value is None else f"match, RMSD {float(value):.3f}" for value in rms]
