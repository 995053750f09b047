"""Property optimization as a generator: `optimize(...)` yields a `LatentStep` after every step of Adam on z.

The paper's procedure (section 5.3): Adam with learning rate 1e-3 on z alone, 5,000 steps down the gradient of the
property that the model predicts from z. Nothing is decoded here; a step's z is what `denoise` takes,

    for step in every(optimize(model, start=crystals, target="min"), 555):
        crystals = last(denoise(model, z=step.z)).crystals

Evaluate those crystals with another predictor than the one whose gradient was followed: a gradient soon leads to where
a predictor was never trained. The penalty `prior_weight` keeps z at latents that are likely under the prior.

See docs/explanation/algorithm.md, section 4; departure D20.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.property_target import check_target, property_gradient
from cdvae_lab.explore.search_step import SearchStep, check_start, resumed
from cdvae_lab.explore.settings import STEPS
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.latent_prior import LatentPrior
from cdvae_lab.models.latents import crystal_numbers, latents_of, prior_of
from cdvae_lab.models.seeds import check_seed
from cdvae_lab.runtime.threads import one_thread

SMALL_BATCH = 1000  # crystals; up to here one CPU thread is as fast as two
# Adam's, as everywhere (Kingma and Ba 2015).
BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Objective:
    """Settings of `optimize`: for each crystal, the property's loss minus prior_weight times log p(z) is minimized.

    Attributes:
        prior: over z.
        target: "min", "max" or a value in the property's own unit, whose squared distance is minimized.
        lr: Adam's learning rate.
        prior_weight: what a nat of log p(z) is worth in standard deviations of the property (in the training set); for
            a value as target, in their squares.
        seed: of the start, where it was drawn.

    Raises:
        SettingError: for a setting out of range.
    """

    prior: LatentPrior
    target: str | float | int = "min"
    lr: float | int = 1e-3
    prior_weight: float | int = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        check_seed(self.seed)
        if not 0 < self.lr < math.inf:
            raise SettingError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.prior_weight < math.inf:
            raise SettingError(f"prior_weight must be 0 or more, not {self.prior_weight}")


class OptimizationSettings(TypedDict, total=False):
    """Keyword arguments of `optimize`: the fields of `Objective`."""

    prior: LatentPrior | None
    target: str | float | int
    lr: float | int
    prior_weight: float | int
    seed: int


@dataclass(frozen=True, eq=False, repr=False)
class LatentStep(SearchStep):
    """State of a search after a step; `optimize(model, step=step)` resumes from it.

    Attributes:
        step: steps of Adam so far; 0 is the start.
        num_steps: of the whole run.
        z: the latents now.
        prediction: the property that the model predicts for them, in the property's own unit.
        gradient: of the objective, which the next step follows.
        mean, mean_square: Adam's moving averages of the gradients so far.
        numbers: of the crystals.
        objective: the settings of the run.
    """

    step: int
    num_steps: int
    z: Float[Tensor, "crystals latent"]
    prediction: Float[Tensor, " crystals"]
    gradient: Float[Tensor, "crystals latent"]
    mean: Float[Tensor, "crystals latent"]
    mean_square: Float[Tensor, "crystals latent"]
    numbers: Int[Tensor, " crystals"]
    objective: Objective

    @property
    def prior(self) -> LatentPrior:
        """Prior of the search."""
        return self.objective.prior

    @property
    def gradient_norm(self) -> Float[Tensor, " crystals"]:
        """Length of each crystal's gradient."""
        return self.gradient.norm(dim=-1)


def optimize(
    model: ModelOrName,
    start: Any = None,
    *,
    step: LatentStep | None = None,
    steps: int | None = None,
    first_number: int | None = None,
    **settings: Unpack[OptimizationSettings],
) -> Iterator[LatentStep]:
    """Move latents down the gradient of the predicted property; yields the start and then every step of Adam.

    Crystals do not influence each other, and the model's weights are only read. A step resumes as the run would have
    continued, `optimize(model, step=step)`; only another number of `steps` may be given beside it. For another target
    start a new run from its z.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        start: crystals (files, pymatgen Structures, ASE Atoms, or Crystals, which are taken as they are), of which the
            posterior mean is the start; or latents (crystals, latent); or a number of crystals to draw from the prior.
        step: where to resume; it carries its own settings.
        steps: of the whole run, 5,000 by default.
        first_number: number of the first crystal (0); a drawn start depends on it.
        settings: `target` ("min" by default, "max", or a value to reach in the property's own unit), `lr` (1e-3),
            `prior_weight` (0, no penalty, as in the paper), `prior` (by default the model's learned one, N(0, I)
            without) and `seed` (0); see `Objective`.

    Raises:
        CrystalError: for crystals that the model cannot encode.
        SettingError: for anything out of range, or that contradicts the step, before any work.

    Examples:
        >>> import cdvae_lab as lab
        >>> model = lab.load("perov_5")
        >>> steps = list(lab.optimize(model, 2, target="min", steps=50, lr=0.01))
        >>> steps[-1]
        <LatentStep: step 50 of 50, 2 crystals>
        >>> bool((steps[-1].prediction < steps[0].prediction).all())
        True
    """
    model = as_model(model)
    check_start("optimize", start, step, steps, "steps")
    if step is not None:
        return _run(model, resumed(model, step, steps, "steps", vars(step.objective), first_number, settings))
    matters = isinstance(start, int) or settings.get("prior_weight", 0.0) > 0
    prior = prior_of(model, settings.get("prior"), matters=matters)
    objective = Objective(**{**settings, "prior": prior})
    seed, number = objective.seed, first_number or 0
    z = latents_of(model, start, prior=objective.prior, seed=seed, first_number=number)
    zero = torch.zeros_like(z)
    prediction, gradient = objective_gradient(model, z, objective)
    numbers = crystal_numbers(model, len(z), seed, number)
    first = LatentStep(0, steps or STEPS, z, prediction, gradient, zero, zero, numbers, objective)
    return _run(model, first, yield_first=True)


def objective_gradient(
    model: CDVAE, z: Float[Tensor, "crystals latent"], objective: Objective
) -> tuple[Float[Tensor, " crystals"], Float[Tensor, "crystals latent"]]:
    """Predict the property, in its own unit, and the gradient of the objective with respect to z."""
    prediction, gradient = property_gradient(model, z, objective.target)
    if objective.prior_weight:
        with torch.no_grad():
            gradient = gradient - objective.prior_weight * objective.prior.score(z.detach())
    return prediction, gradient


@torch.no_grad()
def advance(model: CDVAE, now: LatentStep) -> LatentStep:
    """Take a step of Adam (Kingma and Ba 2015, algorithm 1): the pure step."""
    done = now.step + 1
    mean = BETA_1 * now.mean + (1 - BETA_1) * now.gradient
    mean_square = BETA_2 * now.mean_square + (1 - BETA_2) * now.gradient.square()
    unbiased, unbiased_square = mean / (1 - BETA_1**done), mean_square / (1 - BETA_2**done)
    z = now.z - now.objective.lr * unbiased / (unbiased_square.sqrt() + EPS)
    prediction, gradient = objective_gradient(model, z, now.objective)
    return replace(now, step=done, z=z, prediction=prediction, gradient=gradient, mean=mean, mean_square=mean_square)


def _run(model: CDVAE, step: LatentStep, yield_first: bool = False) -> Iterator[LatentStep]:
    if yield_first:
        yield step
    small = step.z.device.type == "cpu" and len(step.z) <= SMALL_BATCH
    while not step.finished:
        with one_thread(small):
            step = advance(model, step)
        yield step
