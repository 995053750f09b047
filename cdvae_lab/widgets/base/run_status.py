"""The state of a run, as its view shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["idle", "running", "stopping", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """State of a run, as its view shows it.

    Attributes:
        state: "idle" before the first run; then "running", "stopping" (until the current step has ended), and
            "stopped", "finished" or "failed".
        step, num_steps: of the newest frame; None before the first, or for frames without them.
        error: the exception that ended the run.
        traceback: of that exception, as Python prints it; empty without one.
    """

    state: State = "idle"
    step: int | None = None
    num_steps: int | None = None
    error: BaseException | None = None
    traceback: str = ""

    @property
    def running(self) -> bool:
        return self.state in ("running", "stopping")

    def __str__(self) -> str:
        if self.step is None:
            return "starting" if self.state == "running" else self.state
        return f"{self.state}: step {self.step:,} of {self.num_steps:,}"
