"""Property optimization as a generator: `optimize(...)` yields a `LatentStep` after every step of Adam on z.

The paper's procedure (section 5.3): z of crystals, Adam with learning rate 1e-3 on z alone, 5,000 steps down the
property that the model predicts from z; on the way z is decoded now and then. Nothing is decoded here: a step's z is
what `denoise` takes,

    for step in every(optimize(model, start=crystals, target="min"), 555):
        crystals = last(denoise(model, z=step.z)).crystals

and whoever judges those crystals should not be the network whose gradient was followed: a predictor is easily led to
where it was never trained. A pull towards the prior (`prior_weight`) keeps z where the training crystals are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.io.storage import read_tensors, write_tensors
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE, check_takes, read_for
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.models.latent_prior import LatentPrior, StandardNormal
from cdvae_lab.runtime.threads import one_thread

FORMAT_VERSION = 1
STEPS = 5000
SMALL_BATCH = 1000  # crystals; up to here one CPU thread is as fast as two
# Adam's, as everywhere (Kingma and Ba 2015).
BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


def check_target(target: str | float | int) -> None:
    """Refuse what is neither "min" nor "max" nor a finite number.

    Raises:
        SettingError: naming it.
    """
    if isinstance(target, str):
        if target not in ("min", "max"):
            raise SettingError(f"target must be 'min', 'max' or a number, not {target!r}")
    elif not math.isfinite(target):
        raise SettingError(f"target must be 'min', 'max' or a finite number, not {target}")


@dataclass(frozen=True)
class Objective:
    """What is minimized for each crystal: the property's part, and minus prior_weight times log p(z).

    Attributes:
        target: "min", "max" or a value in the property's own unit, whose squared distance is minimized.
        lr: Adam's learning rate.
        prior_weight: deviations of the property (in the training set) that a nat of log p(z) is worth; for a value
            as target, their squares.
        prior: over z.
    """

    target: str | float | int
    lr: float
    prior_weight: float | int
    prior: LatentPrior

    def __post_init__(self) -> None:
        check_target(self.target)
        if not 0 < self.lr < math.inf:
            raise SettingError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.prior_weight < math.inf:
            raise SettingError(f"prior_weight must be 0 or more, not {self.prior_weight}")


@dataclass(frozen=True)
class LatentStep:
    """The whole state after a step: enough to look at and to go on from, `optimize(model, step=step)`.

    Attributes:
        step: steps of Adam so far; 0 is the start.
        num_steps: of the whole run.
        z: the latents now.
        prediction: the property that the model predicts for them, in the property's own unit.
        gradient: of the objective, which the next step follows.
        mean, mean_square: Adam's moving averages of the gradients so far.
        objective: what is minimized, and how.
    """

    step: int
    num_steps: int
    z: Float[Tensor, "crystals latent"]
    prediction: Float[Tensor, " crystals"]
    gradient: Float[Tensor, "crystals latent"]
    mean: Float[Tensor, "crystals latent"]
    mean_square: Float[Tensor, "crystals latent"]
    objective: Objective

    @property
    def finished(self) -> bool:
        return self.step >= self.num_steps

    @property
    def log_prob(self) -> Float[Tensor, " crystals"]:
        """log p(z) under the prior, in nats: how usual the latents are still."""
        with torch.no_grad():
            return self.objective.prior.log_prob(self.z)

    @property
    def gradient_norm(self) -> Float[Tensor, " crystals"]:
        """Length of each crystal's gradient."""
        return self.gradient.norm(dim=-1)


def optimize(
    model: CDVAE,
    start: Any = None,
    *,
    step: LatentStep | None = None,
    target: str | float | int = "min",
    steps: int | None = None,
    lr: float = 1e-3,
    prior_weight: float | int = 0.0,
    prior: LatentPrior | None = None,
    seed: int = 0,
) -> Iterator[LatentStep]:
    """Move latents to where the model predicts another property; yields the start and then every step of Adam.

    Crystals do not influence each other. The model's weights are read only. A step of an interrupted run goes on
    exactly as the run would have, and an earlier step undoes the later ones; for another target start anew from its z.

    Args:
        start: crystals (files, pymatgen Structures, ASE Atoms, or Crystals, which are taken as they are), whose
            posterior mean is the start; or latents (crystals, latent); or a number of crystals to draw from the prior.
        step: where to go on, instead of `start`; brings its own settings, and only `steps` is given beside it.
        target: "min", "max", or a value to reach, in the property's own unit.
        steps: of the whole run, 5,000 by default.
        lr: Adam's learning rate.
        prior_weight: pull towards the prior, 0 for none (as in the paper): what a nat of log p(z) is worth, in
            standard deviations of the property in the training set.
        prior: by default the model's learned one, N(0, I) if it has none.
        seed: of the latents, where they are drawn.

    Raises:
        CrystalError: for crystals that the model cannot take.
        SettingError: for anything out of range, before any work.
    """
    if (start is None) == (step is None):
        raise SettingError("optimize starts from exactly one of start (crystals, z or a number) or step (to go on)")
    noise.check_seed(seed)
    if steps is not None and steps < 1:
        raise SettingError(f"steps must be at least 1, not {steps}")
    if step is not None:
        if (target, lr, prior_weight, prior, seed) != ("min", 1e-3, 0.0, None, 0):
            raise SettingError(
                "a step brings its own settings; give only steps beside it, or start anew: optimize(model, step.z, ...)"
            )
        check_latents(model, step.z)
        step = replace(step, num_steps=steps or step.num_steps)
        if step.finished:
            raise SettingError(f"the step is number {step.step} of {step.num_steps}: give more steps than that")
        return _run(model, step)
    dtype = model.lattice_mean.dtype
    prior = prior or model.prior or StandardNormal(model.config.latent_dim, dtype)
    objective = Objective(target, lr, prior_weight, prior)
    z = latents_of(model, start, prior, seed)
    zero = torch.zeros_like(z)
    prediction, gradient = evaluate(model, z, objective)
    return _run(model, LatentStep(0, steps or STEPS, z, prediction, gradient, zero, zero, objective), yield_first=True)


def latents_of(model: CDVAE, start: Any, prior: LatentPrior, seed: int) -> Float[Tensor, "crystals latent"]:
    """Where a search starts: posterior means of crystals, latents as they are, or so many from the prior.

    Raises:
        CrystalError: for crystals that the model cannot take.
        SettingError: for a number of crystals below 1, or latents of another size.
    """
    z = _latents(model, start, prior, seed).detach().to(model.device, model.lattice_mean.dtype)
    check_latents(model, z)
    return z


def _latents(model: CDVAE, start: Any, prior: LatentPrior, seed: int) -> Tensor:
    if isinstance(start, Tensor):
        return start
    if isinstance(start, int):
        if start < 1:
            raise SettingError(f"start, as a number of crystals, must be at least 1, not {start}")
        return prior.sample(seed, torch.arange(start, device=model.device))
    if isinstance(start, Crystals):
        check_takes(model, start)
        crystals = start.to(model.device, model.lattice_mean.dtype)
    else:
        crystals = read_for(model, start)
    with torch.no_grad():
        return model.encode(crystals).mu


def check_latents(model: CDVAE, z: Tensor) -> None:
    """Refuse latents that are not this model's. Raises SettingError with their shape."""
    if z.ndim != 2 or z.shape[0] < 1 or z.shape[1] != model.config.latent_dim:
        raise SettingError(f"z must be (crystals, {model.config.latent_dim}) with at least one, not {tuple(z.shape)}")


def slope(
    model: CDVAE, z: Float[Tensor, "crystals latent"], target: str | float | int
) -> tuple[Float[Tensor, " crystals"], Float[Tensor, "crystals latent"]]:
    """The predicted property, in its own unit, and the gradient with respect to z of what is small at the target.

    That is the property in its deviations, or for a value as target its squared distance in them.
    """
    # Whatever mode the caller is in; a gradient for z alone leaves nothing behind in the weights.
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        prediction = model.predict_property(z)
        if isinstance(target, str):
            loss = prediction / model.property_std * (1 if target == "min" else -1)
        else:
            loss = ((prediction - target) / model.property_std).square()
        (gradient,) = torch.autograd.grad(loss.sum(), z)
    return prediction.detach(), gradient


def evaluate(
    model: CDVAE, z: Float[Tensor, "crystals latent"], objective: Objective
) -> tuple[Float[Tensor, " crystals"], Float[Tensor, "crystals latent"]]:
    """The predicted property, in its own unit, and the gradient of the objective with respect to z."""
    prediction, gradient = slope(model, z, objective.target)
    if objective.prior_weight:
        with torch.no_grad():
            gradient = gradient - objective.prior_weight * objective.prior.score(z.detach())
    return prediction, gradient


@torch.no_grad()
def advance(model: CDVAE, now: LatentStep) -> LatentStep:
    """One step of Adam (Kingma and Ba 2015, algorithm 1): the pure step."""
    done = now.step + 1
    mean = BETA_1 * now.mean + (1 - BETA_1) * now.gradient
    mean_square = BETA_2 * now.mean_square + (1 - BETA_2) * now.gradient.square()
    unbiased, unbiased_square = mean / (1 - BETA_1**done), mean_square / (1 - BETA_2**done)
    z = now.z - now.objective.lr * unbiased / (unbiased_square.sqrt() + EPS)
    prediction, gradient = evaluate(model, z, now.objective)
    return replace(now, step=done, z=z, prediction=prediction, gradient=gradient, mean=mean, mean_square=mean_square)


def _run(model: CDVAE, step: LatentStep, yield_first: bool = False) -> Iterator[LatentStep]:
    if yield_first:
        yield step
    small = step.z.device.type == "cpu" and len(step.z) <= SMALL_BATCH
    while not step.finished:
        with one_thread(small):
            step = advance(model, step)
        yield step


# Keeping a run

_KEPT = ("z", "prediction", "gradient", "mean", "mean_square")


def save_steps(steps: Iterable[LatentStep], path: str | Path, model: CDVAE | None = None) -> Path:
    """Write steps of one run to a safetensors file; any of them goes on exactly, `optimize(model, step=step)`.

    A step of one crystal takes 4 kB with 256 latent dimensions: thin long runs, `save_steps(every(steps, 10), path)`.

    Args:
        steps: in order; consumed.
        model: the model of the run, so that `load_steps` can refuse another one.

    Raises:
        SettingError: without steps, or with steps of different runs.
        LabError: if the file cannot be written.
    """
    steps = list(steps)
    if not steps:
        raise SettingError("save_steps: there are no steps to save")
    first = steps[0]
    for step in steps:
        if step.z.shape != first.z.shape or step.objective != first.objective:
            raise SettingError(
                f"save_steps: steps {first.step} and {step.step} are of different runs; save each to its own file"
            )
    tensors = {name: torch.stack([getattr(step, name) for step in steps]) for name in _KEPT}
    tensors |= {name: torch.tensor([getattr(step, name) for step in steps]) for name in ("step", "num_steps")}
    o = first.objective
    standard = type(o.prior) is StandardNormal
    header = {"target": o.target, "lr": o.lr, "prior_weight": o.prior_weight}
    header |= {"prior": "standard normal" if standard else "of its own", "model": fingerprint(model) if model else ""}
    return write_tensors(path, "search", FORMAT_VERSION, tensors, header)


def load_steps(path: str | Path, model: CDVAE | None = None, prior: LatentPrior | None = None) -> list[LatentStep]:
    """The steps that `save_steps` wrote, in order.

    Args:
        model: what they are going to be used with, to be sure that they belong together; they come on its device.
        prior: that of the run, if it was neither N(0, I) nor the model's learned one: the file does not hold it.

    Raises:
        CheckpointError: if it is missing, truncated, not ours, of another version or of another model.
        SettingError: if a prior is needed and none was given, or the other way round.
    """
    _, tensors, header = read_tensors(path, {"search": [FORMAT_VERSION]})
    try:
        own = header["prior"] != "standard normal"
        if own and prior is None and model is not None:
            prior = model.prior
        if own != (prior is not None):
            needed = "has a prior of its own, which the file does not hold: give it" if own else "has N(0, I) as prior"
            raise SettingError(f"{path}: the run {needed}; load_steps(path, prior={'...' if own else 'None'})")
        if model is not None and header["model"] not in ("", fingerprint(model)):
            raise CheckpointError(
                f"{path}: steps of the model of fingerprint {header['model']}, but this model's is "
                f"{fingerprint(model)}; load the model that they were made with"
            )
        if model is not None:
            tensors = {name: tensor.to(model.device) for name, tensor in tensors.items()}
        z = tensors["z"]
        prior = prior or StandardNormal(z.shape[2], z.dtype)
        objective = Objective(header["target"], header["lr"], header["prior_weight"], prior)
        steps, num_steps = tensors["step"].tolist(), tensors["num_steps"].tolist()
        states = [{name: tensors[name][i] for name in _KEPT} for i in range(len(z))]
        counted = zip(steps, num_steps, states, strict=True)
        return [LatentStep(step, most, **state, objective=objective) for step, most, state in counted]
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, CheckpointError | SettingError):
            raise
        raise CheckpointError(f"{path}: lacks a part of a search ({error}); save it again") from error
