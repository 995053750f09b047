"""The settings of the trajectory player."""

from __future__ import annotations

import traitlets

from cdvae_lab.sampling.settings import NAMED, SAMPLERS
from cdvae_lab.widgets.base.state import Choice, ViewState

PACES: dict[str, int | None] = {"25 steps/s": 25, "50 steps/s": 50, "as fast as it goes": None}
CHOICES = (*SAMPLERS, *NAMED)
GIVEN = "given"  # the sampler that is a Schedule
SPEEDS = {"½ ×": 160, "1 ×": 80, "2 ×": 40, "4 ×": 20}  # ms a frame
LARGEST_SEED = 2**31 - 1


class PlayerState(ViewState):
    """Every field of a `TrajectoryPlayer`.

    Attributes:
        n: number of crystals of the next run.
        start: "prior", or "selection": the z of the selected crystal.
        seed: of the next run.
        sampler: of the next run; "given" is the Schedule that the player was made with.
        pace: steps a second of a run, at most.
        branch_seed: of the next branch.
        folder: where exports go.
        scores: draw the score as arrows.
        speed: of playing.
        index: number of the frame that is shown.
        crystal: number of the crystal that is shown; -1 for all side by side.
    """

    n = traitlets.Int(4, min=1, max=64)
    start = Choice([("the prior", "prior"), ("the selected crystal's z", "selection")])
    seed = traitlets.Int(0, min=0, max=LARGEST_SEED)
    sampler = Choice(CHOICES)
    pace = Choice(PACES)
    branch_seed = traitlets.Int(1, min=0, max=LARGEST_SEED)
    folder = traitlets.Unicode("out")
    scores = traitlets.Bool(False)
    speed = Choice(SPEEDS, "1 ×")
    index = traitlets.Int(0, min=0).tag(saved=False)
    crystal = traitlets.Int(-1, min=-1).tag(saved=False)
