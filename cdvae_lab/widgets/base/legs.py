"""The former code of `Legs`, until the last view uses `Segments`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.schedules import Schedule, choose_schedule


def arguments(options: Mapping[str, Any]) -> str:
    """Settings as a call has them after its first argument."""
    return "".join(f", {name}={value!r}" for name, value in options.items())


class Sampler:
    """How a widget decodes, and how to say so.

    Args:
        sampler, settings: of `denoise`.

    Attributes:
        schedule: what that comes to.
        told: as a call of `denoise` has it.
        lines: that come before the call.

    Raises:
        SettingError: for a sampler or a setting that does not exist.
    """

    def __init__(self, model: CDVAE, sampler: str | Schedule, settings: Mapping[str, Any]) -> None:
        self.schedule = choose_schedule(model, sampler, **settings)
        ready = isinstance(sampler, Schedule)
        named = "" if sampler == "ancestral" else f", sampler={sampler!r}"
        self.told = (", sampler=schedule" if ready else named) + arguments(settings)
        self.lines = ["# `schedule` is the one that the widget was given"] if ready else []


@dataclass
class Legs:
    """How a list came to be: run, stopped, gone on with, cut off, gone on with another way.

    Attributes:
        name: of the list.
        before: lines that come first.
    """

    name: str
    before: list[str] = field(default_factory=list)
    _calls: list[tuple[str, int, int | None]] = field(default_factory=list)

    def add(self, call: str, first: int = 0, size: int | None = None) -> None:
        """Another leg.

        Args:
            call: the expression that gives its items.
            first: index of the first of them in the list; what was there is dropped.
            size: how many they are, where that is known beforehand.
        """
        self.cut(first)
        self._calls.append((call, first, size))

    def cut(self, count: int) -> None:
        """Forget the legs after the first so many items."""
        self._calls = [leg for leg in self._calls if leg[1] < count]

    def lines(self, count: int, whole: bool) -> list[str]:
        """The Python that makes the list; of a leg that was left early it takes the items that there are.

        Args:
            count: of the items that there are.
            whole: nothing of the last leg is left out.
        """
        lines = list(self.before)
        ends = [*(first for _, first, _ in self._calls[1:]), count]
        for (call, first, size), end in zip(self._calls, ends, strict=False):
            all_of_it = end - first == size or (whole and end == count)
            taken = call if all_of_it else f"islice({call}, {end - first})"
            lines.append(f"{self.name} {'+=' if first else '='} list({taken})")
        return ["from itertools import islice", *lines] if any("(islice(" in line for line in lines) else lines
