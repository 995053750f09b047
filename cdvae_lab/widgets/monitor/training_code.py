"""Python code that repeats a training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cdvae_lab.widgets.base.replay_code import ReplayCode

_ISLICE = "from itertools import islice"
_STATE = "out/state.safetensors"


@dataclass(frozen=True)
class TrainingCode:
    """The code of one call of `fit`.

    Attributes:
        data: the statement that binds the data set to `data`.
        call: the call; empty before the first.
        before: lines that have to run first.
    """

    data: str
    call: str = ""
    before: tuple[str, ...] = ()

    def replay(self, steps: int | None = None) -> ReplayCode:
        """The code that gives `step` and the trained `model`.

        Args:
            steps: how many steps of the call are taken; None: all.
        """
        call = self.call if steps is None else f"islice({self.call}, {steps})"
        return ReplayCode(
            () if steps is None else (_ISLICE,),
            {"data": self.data},
            (*self.before, f"step = lab.last(lab.progress({call}))", "model = step.averaged()"),
        )

    def extended(self, steps: int) -> TrainingCode:
        """The code of the call that trains on after this one has ended, until a total number of steps."""
        before = (*self.before, f"step = lab.last({self.call})", f"path = step.save({_STATE!r})")
        return replace(self, call=f"lab.fit(path, data, steps={steps})", before=before)
