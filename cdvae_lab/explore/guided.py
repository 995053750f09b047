"""Property optimization by guided diffusion: `optimize_guided(...)` yields a `GuidedStep` after every denoising step.

`optimize` follows the gradient of the predicted property, which soon leaves the training crystals: there the
prediction promises what no crystal keeps. Here the learned prior moves z, and the prediction only leads it. A round
adds noise to z and takes it away again (SDEdit: Meng et al., ICLR 2022) with the score of

    p(z) exp(-guidance * property)

in place of p(z)'s (classifier guidance: Dhariwal and Nichol, NeurIPS 2021; DiffCSP optimizes so in the space of
crystals, Jiao et al., NeurIPS 2023, appendix), and the next round starts where it ended. Rounds are a chain of samples
of that density, each a little further from the crystal that the first began with: usual latents, of which no two are
alike.

    for step in optimize_guided(model, start=crystals, target="min"):
        if step.round_finished:
            crystals = last(denoise(model, z=step.z)).crystals
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import check_latents, check_target, latents_of, slope
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latent_prior import DiffusionPrior, LatentPrior, noise_levels
from cdvae_lab.models.noise import Stream

ROUNDS = 10
NOISE_LEVEL = 4.0
GUIDANCE = 10.0
STEPS_PER_ROUND = 20


@dataclass(frozen=True)
class Guidance:
    """What leads the prior, and how far a round goes.

    Attributes:
        target: "min", "max" or a value in the property's own unit, whose squared distance is minimized.
        guidance: nats of log p(z) that a standard deviation of the property (in the training set) is worth; for a
            value as target, of their squares. 0 samples the prior alone.
        noise_level: of the noise that a round begins with, in standard deviations of the latents. Small: near the
            crystal it started from.
        steps_per_round: denoising steps, one call of the prior's network each.
        seed: of the noise.
        prior: over z.
    """

    target: str | float | int
    guidance: float | int
    noise_level: float | int
    steps_per_round: int
    seed: int
    prior: DiffusionPrior

    def __post_init__(self) -> None:
        check_target(self.target)
        noise.check_seed(self.seed)
        if not 0 <= self.guidance < math.inf:
            raise SettingError(f"guidance must be 0 or more, not {self.guidance}")
        least = self.prior.config.sigma_min
        if not least < self.noise_level < math.inf:
            raise SettingError(f"noise_level must be above the prior's least, {least}, not {self.noise_level}")
        if self.steps_per_round < 2:
            raise SettingError(f"steps_per_round must be at least 2, not {self.steps_per_round}")

    @cached_property
    def levels(self) -> Float[Tensor, " levels"]:
        """Noise levels of a round, in standard deviations of the latents: before each step, and 0 at the end."""
        levels = noise_levels(self.noise_level, self.prior.config.sigma_min, self.steps_per_round, torch.float64)
        return torch.cat([levels, levels.new_zeros(1)])


@dataclass(frozen=True)
class GuidedStep:
    """The whole state after a step: enough to look at and to go on from, `optimize_guided(model, step=step)`.

    Attributes:
        step: denoising steps so far; 0 is the start.
        num_steps: of the whole run.
        z: the latents as they would be if the noise were taken away at once: what can be decoded.
        noisy: the latents with the noise that is left; z itself at the end of a round.
        prediction: the property that the model predicts for z, in the property's own unit.
        guidance: what leads them.
    """

    step: int
    num_steps: int
    z: Float[Tensor, "crystals latent"]
    noisy: Float[Tensor, "crystals latent"]
    prediction: Float[Tensor, " crystals"]
    guidance: Guidance

    @property
    def finished(self) -> bool:
        return self.step >= self.num_steps

    @property
    def round_finished(self) -> bool:
        """Whether no noise is left; true of the start as well."""
        return self.step % self.guidance.steps_per_round == 0

    @property
    def log_prob(self) -> Float[Tensor, " crystals"]:
        """log p(z) under the prior, in nats: how usual the latents are still."""
        with torch.no_grad():
            return self.guidance.prior.log_prob(self.z)


def optimize_guided(
    model: CDVAE,
    start: Any = None,
    *,
    step: GuidedStep | None = None,
    target: str | float | int = "min",
    rounds: int | None = None,
    guidance: float | int = GUIDANCE,
    noise_level: float | int = NOISE_LEVEL,
    steps_per_round: int = STEPS_PER_ROUND,
    prior: LatentPrior | None = None,
    seed: int = 0,
) -> Iterator[GuidedStep]:
    """Lead the prior from latents to where the model predicts another property; yields the start, then every step.

    Crystals do not influence each other. The model's weights are read only. A step of an interrupted run goes on
    exactly as the run would have; for another target start anew from its z.

    Args:
        start: crystals (files, pymatgen Structures, ASE Atoms, or Crystals, which are taken as they are), whose
            posterior mean is the start; or latents (crystals, latent); or a number of crystals to draw from the prior.
        step: where to go on, instead of `start`; brings its own settings, and only `rounds` is given beside it.
        target: "min", "max", or a value to reach, in the property's own unit.
        rounds: of noising and denoising in the whole run, 10 by default.
        guidance, noise_level, steps_per_round: see `Guidance`.
        prior: a learned one; by default the model's.
        seed: of all noise, and of the latents where they are drawn.

    Raises:
        CrystalError: for crystals that the model cannot take.
        SettingError: for anything out of range, or without a learned prior, before any work.
    """
    if (start is None) == (step is None):
        raise SettingError(
            "optimize_guided starts from exactly one of start (crystals, z or a number) or step (to go on)"
        )
    if rounds is not None and rounds < 1:
        raise SettingError(f"rounds must be at least 1, not {rounds}")
    if step is not None:
        defaults = ("min", GUIDANCE, NOISE_LEVEL, STEPS_PER_ROUND, None, 0)
        if (target, guidance, noise_level, steps_per_round, prior, seed) != defaults:
            raise SettingError(
                "a step brings its own settings; give only rounds beside it, or start anew: "
                "optimize_guided(model, step.z, ...)"
            )
        check_latents(model, step.z)
        step = replace(step, num_steps=rounds * step.guidance.steps_per_round if rounds else step.num_steps)
        if step.finished:
            raise SettingError(f"the step is number {step.step} of {step.num_steps}: give more rounds than that")
        return _run(model, step)
    prior = prior or model.prior
    if not isinstance(prior, DiffusionPrior):
        raise SettingError(
            "guided diffusion needs a learned prior: that of a bundled model, or one that `cdvae-lab prior` fitted; "
            "optimize() does without"
        )
    settings = Guidance(target, guidance, noise_level, steps_per_round, seed, prior)
    z = latents_of(model, start, prior, seed)
    with torch.no_grad():
        prediction = model.predict_property(z)
    first = GuidedStep(0, (rounds or ROUNDS) * steps_per_round, z, z, prediction, settings)
    return _run(model, first, yield_first=True)


def advance(model: CDVAE, now: GuidedStep) -> GuidedStep:
    """One step of Euler's method along the guided probability flow (Karras et al. 2022, eq. 3): the pure step.

    The property is asked for at the denoised latents. Their derivative by the noisy ones is 1 / (1 + sigma^2) for
    a Gaussian of deviation 1, and taken to be so: then a linear property shifts a Gaussian as it should, exactly.
    """
    settings, prior = now.guidance, now.guidance.prior
    done, place = divmod(now.step, settings.steps_per_round)
    sigma, then = settings.levels.to(now.z)[place : place + 2]
    with torch.no_grad():
        u = (now.noisy - prior.mean) / prior.std
        if place == 0:
            numbers = torch.arange(len(u), device=u.device)
            u = u + sigma * noise.normal(settings.seed, Stream.ROUND, numbers, done, u.shape[1:], u.dtype)
        clean = prior.denoised(u, sigma.expand(len(u)))
        _, gradient = slope(model, clean * prior.std + prior.mean, settings.target)
        clean = clean - settings.guidance * sigma**2 / (1 + sigma**2) * (gradient * prior.std)
        noisy = clean + then / sigma * (u - clean)
        z = clean * prior.std + prior.mean
        prediction = model.predict_property(z)
    return replace(now, step=now.step + 1, z=z, noisy=noisy * prior.std + prior.mean, prediction=prediction)


def _run(model: CDVAE, step: GuidedStep, yield_first: bool = False) -> Iterator[GuidedStep]:
    if yield_first:
        yield step
    while not step.finished:
        step = advance(model, step)
        yield step
