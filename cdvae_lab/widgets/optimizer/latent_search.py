"""The record of a search in latent space: its steps, the crystals decoded on the way, and the code that repeats it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.widgets.base.recording import Recording
from cdvae_lab.widgets.base.replay_code import ReplayCode, Segments

if TYPE_CHECKING:
    import pandas as pd

Predictor = Callable[[Crystals], Float[Tensor, " crystals"]]
MOST_STEPS = 1000  # that are kept of a run; of longer ones every second, third, ...
MOST_LATENTS = 20_000  # that are kept, of all crystals together: some 80 MB with 256 dimensions


@dataclass(frozen=True)
class Decoded:
    """The crystals of one step, and their predicted properties.

    Attributes:
        step: the step's number.
        crystals: decoded from its z.
        own: the model's own prediction for them, encoded again; NaN for a cell that is flat or not finite.
        independent: an independent predictor's value for them; None without one.
        log_prob: log p(z) of the step under the prior, in nats. It is an integral that takes as long as hundreds of
            steps of the search, so it is known where something is decoded only.
        pictures: of the filmstrip, by the number of the crystal; they are added when they are first needed.
    """

    step: int
    crystals: Crystals
    own: Float[Tensor, " crystals"]
    independent: Float[Tensor, " crystals"] | None
    log_prob: Float[Tensor, " crystals"]
    pictures: dict[int, dict[str, Any]] = field(default_factory=dict)


def _recording() -> Recording[LatentStep]:
    return Recording(segments=Segments("steps"))


@dataclass
class Search:
    """One run of `optimize`, kept thinned.

    Attributes:
        recording: its steps, as recorded by a `RecordedRun`.
        setup: the code that has to run before that of the recording.
        thin: interval of the kept steps.
        decoded: in order.
    """

    recording: Recording[LatentStep] = field(default_factory=_recording)
    setup: ReplayCode = field(default_factory=ReplayCode)
    thin: int = 1
    decoded: list[Decoded] = field(default_factory=list)

    @staticmethod
    def thinning(steps: int, crystals: int) -> int:
        """Compute the interval of the kept steps from the number of steps and of crystals."""
        return max(-(-steps // MOST_STEPS), -(-steps * crystals // MOST_LATENTS))

    def kept(self, steps: int) -> int:
        """Compute how many steps are kept of a run, without the first."""
        return -(-steps // self.thin)

    @property
    def steps(self) -> list[LatentStep]:
        """The kept steps, in order."""
        return self.recording.frames

    @property
    def replay_code(self) -> ReplayCode:
        """The code that gives `steps`."""
        segments = self.recording.segments.replay()
        return self.setup.then(*segments.body, imports=segments.imports)

    def thinned(self, call: str) -> str:
        """The expression for the kept steps of a call."""
        return call if self.thin == 1 else f"lab.every({call}, {self.thin})"

    def forget_after(self, index: int) -> None:
        """Forget the crystals that were decoded after a kept step."""
        last = self.steps[index].step
        self.decoded = [one for one in self.decoded if one.step <= last]

    def index(self, step: int) -> int:
        """Index of the last kept step that is not after the one of that number."""
        return max((i for i, one in enumerate(self.steps) if one.step <= step), default=0)

    def at(self, index: int) -> int | None:
        """Index in `decoded` of the newest decoding that is not after a kept step; None if there is none."""
        if not self.steps:
            return None
        step = self.steps[index].step
        return max((i for i, one in enumerate(self.decoded) if one.step <= step), default=None)

    def add(self, one: Decoded) -> None:
        """Insert a decoding in order; it replaces another one of the same step."""
        self.decoded = sorted([*(d for d in self.decoded if d.step != one.step), one], key=lambda d: d.step)

    def table(self, unit: str = "") -> pd.DataFrame:
        """A table with a row for every kept step and crystal; arguments and columns are those of `rows`."""
        import pandas as pd

        return pd.DataFrame(self.rows(unit))

    def rows(self, unit: str = "") -> list[dict[str, Any]]:
        """The values of every kept step and crystal, by column; log p(z) and crystals where something was decoded.

        Args:
            unit: of the property, for the names of the columns.
        """
        of_step = {one.step: (one, reduced_formulas(one.crystals)) for one in self.decoded}
        tail = f" ({unit})" if unit else ""
        rows = []
        for step in self.steps:
            known = of_step.get(step.step)
            lengths = step.z.norm(dim=-1).tolist()
            for k, prediction in enumerate(step.prediction.tolist()):
                one, formulas = known or (None, [])
                rows.append(
                    {
                        "step": step.step,
                        "crystal": k,
                        f"predicted for z{tail}": prediction,
                        "length of z": lengths[k],
                        "log p(z) (nats)": float(one.log_prob[k]) if one else None,
                        "decoded formula": formulas[k] if one else None,
                        f"predicted for the decoded crystal{tail}": float(one.own[k]) if one else None,
                        f"independently predicted for the decoded crystal{tail}": (
                            float(one.independent[k]) if one and one.independent is not None else None
                        ),
                    }
                )
        return rows
