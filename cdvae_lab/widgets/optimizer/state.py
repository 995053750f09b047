"""The settings of the property optimizer."""

from __future__ import annotations

from typing import Any, TypedDict

import traitlets

from cdvae_lab.errors import SettingError
from cdvae_lab.widgets.base.state import Choice, ViewState

PACES: dict[str, int | None] = {"40 steps/s": 40, "100 steps/s": 100, "as fast as it goes": None}
# Starts that are not the name of an example.
GIVEN, PRIOR, SELECTION, FILE = "given", "prior", "selection", "file"
LARGEST_SEED = 2**31 - 1
MAX_CRYSTALS = 32
MAX_STEPS = 100_000


class SearchSettings(TypedDict, total=False):
    """The settings of `optimize` that `run` and `restart` take."""

    target: str | float | int
    steps: int
    lr: float
    prior_weight: float | int


class OptimizerState(ViewState):
    """Every setting of a `PropertyOptimizer`; all but `seed` and `decode_steps` are fields on the screen.

    Attributes:
        start: of the next search: the name of an example, "prior", "selection", "file", or "given".
        n: number of crystals from the prior.
        file: path of the file to start from.
        target: "min", "max", or "value" to reach `value`.
        value: of the property, in its unit.
        steps: of the next search.
        lr: learning rate of Adam.
        prior_weight: standard deviations of the property that a nat of log p(z) is worth; 0 for none.
        decode_every: steps between two decodings.
        decode_steps: of the decoder's sampler.
        seed: of latents from the prior, and of the decoder's noise.
        pace: steps a second, at most.
        folder: where exports go.
        steps_file: the file of steps to load.
        index: number of the kept step that is shown.
        crystal: number of the crystal that is shown.
    """

    start = Choice([("crystals from the prior", PRIOR), ("the chosen crystal", SELECTION), ("a file", FILE)])
    n = traitlets.Int(4, min=1, max=MAX_CRYSTALS)
    file = traitlets.Unicode("")
    target = Choice([("minimize", "min"), ("maximize", "max"), ("a value", "value")])
    value = traitlets.Float(0.0)
    steps = traitlets.Int(400, min=1, max=MAX_STEPS)
    lr = traitlets.Float(0.02, min=1e-6, max=1.0)
    prior_weight = traitlets.Float(0.01, min=0.0, max=100.0)
    decode_every = traitlets.Int(50, min=1, max=MAX_STEPS)
    decode_steps = traitlets.Int(100, min=2, max=1000)
    seed = traitlets.Int(0, min=0, max=LARGEST_SEED)
    pace = Choice(PACES, "100 steps/s")
    folder = traitlets.Unicode("out")
    steps_file = traitlets.Unicode("")
    index = traitlets.Int(0, min=0).tag(saved=False)
    crystal = traitlets.Int(0, min=0).tag(saved=False)

    @property
    def goal(self) -> str | float:
        """The target as `optimize` takes it."""
        return self.value if self.target == "value" else self.target

    @property
    def search_settings(self) -> dict[str, Any]:
        """The settings of the next search as `optimize` takes them."""
        return {"target": self.goal, "steps": self.steps, "lr": self.lr, "prior_weight": self.prior_weight}

    def take(self, settings: SearchSettings) -> None:
        """Set settings as `optimize` takes them. Raises SettingError for others, and for values that it refuses."""
        values: dict[str, Any] = dict(settings)
        if "target" in values:
            self.aim(values.pop("target"))
        known = ("steps", "lr", "prior_weight")
        if strange := sorted(set(values) - set(known)):
            raise SettingError(f"a search has no setting {', '.join(strange)}; there are target, {', '.join(known)}")
        self.update(values)

    def aim(self, target: str | float | int) -> None:
        """Set the target as `optimize` takes it. Raises SettingError for one that it does not take."""
        if isinstance(target, str):
            self.target = target
        else:
            self.update({"target": "value", "value": float(target)})
