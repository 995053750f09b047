"""Property optimization by guided diffusion: `optimize_guided(...)` yields a `GuidedStep` after every denoising step.

`optimize` follows the gradient of the predicted property, which soon leaves the latents of the training crystals, where
a prediction means something. Here the learned prior moves z, and the prediction guides it. A round adds noise to z and
removes it again (SDEdit: Meng et al., ICLR 2022) with the score of

    p(z) exp(-guidance * property)

instead of p(z)'s (classifier guidance: Dhariwal and Nichol, NeurIPS 2021; DiffCSP optimizes so in the space of
crystals, Jiao et al., NeurIPS 2023, appendix), and the next round starts where it ended. Rounds are a chain of samples
of that density, each a little further from the crystal of the start: likely latents, no two of them alike.

    for step in optimize_guided(model, start=crystals, target="min"):
        if step.round_finished:
            crystals = last(denoise(model, z=step.z)).crystals

See docs/explanation/algorithm.md, departure D21.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.property_target import check_target, property_gradient
from cdvae_lab.explore.search_step import SearchStep, check_start, resumed
from cdvae_lab.explore.settings import GUIDANCE, NOISE_LEVEL, ROUNDS, STEPS_PER_ROUND
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.diffusion_prior import DiffusionPrior, noise_levels
from cdvae_lab.models.latent_prior import LatentPrior
from cdvae_lab.models.latents import crystal_numbers, latents_of
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed


@dataclass(frozen=True)
class Guidance:
    """Settings of `optimize_guided`.

    Attributes:
        prior: a learned one, over z.
        target: "min", "max" or a value in the property's own unit, whose squared distance is minimized.
        guidance: what a standard deviation of the property (in the training set) is worth in nats of log p(z); for a
            value as target, what its square is worth. 0 samples the prior alone.
        noise_level: of the noise that a round begins with, in standard deviations of the latents. Small levels stay
            near the crystal of the start.
        steps_per_round: denoising steps, one call of the prior's network each.
        seed: of the noise, and of the start where it was drawn.

    Raises:
        SettingError: for a setting out of range.
    """

    prior: DiffusionPrior
    target: str | float | int = "min"
    guidance: float | int = GUIDANCE
    noise_level: float | int = NOISE_LEVEL
    steps_per_round: int = STEPS_PER_ROUND
    seed: int = 0

    def __post_init__(self) -> None:
        check_target(self.target)
        check_seed(self.seed)
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


class GuidanceSettings(TypedDict, total=False):
    """Keyword arguments of `optimize_guided`: the fields of `Guidance`."""

    prior: LatentPrior | None
    target: str | float | int
    guidance: float | int
    noise_level: float | int
    steps_per_round: int
    seed: int


@dataclass(frozen=True, eq=False, repr=False)
class GuidedStep(SearchStep):
    """State of a guided search after a step; `optimize_guided(model, step=step)` resumes from it.

    Attributes:
        step: denoising steps so far; 0 is the start.
        num_steps: of the whole run.
        z: the latents denoised in a single step, to be decoded.
        noisy: the latents with the noise that is left; z itself at the end of a round.
        prediction: the property that the model predicts for z, in the property's own unit.
        numbers: of the crystals; with the seed and the step they determine the noise.
        guidance: the settings of the run.
    """

    step: int
    num_steps: int
    z: Float[Tensor, "crystals latent"]
    noisy: Float[Tensor, "crystals latent"]
    prediction: Float[Tensor, " crystals"]
    numbers: Int[Tensor, " crystals"]
    guidance: Guidance

    @property
    def round_finished(self) -> bool:
        """True where no noise is left, at the start as well."""
        return self.step % self.guidance.steps_per_round == 0

    @property
    def prior(self) -> LatentPrior:
        """Prior of the search."""
        return self.guidance.prior


def optimize_guided(
    model: ModelOrName,
    start: Any = None,
    *,
    step: GuidedStep | None = None,
    rounds: int | None = None,
    first_number: int | None = None,
    **settings: Unpack[GuidanceSettings],
) -> Iterator[GuidedStep]:
    """Guide the learned prior to latents with another predicted property; yields the start, then every step.

    Crystals do not influence each other: the noise of each is a function of the seed and its number, in every batch.
    The model's weights are only read. A step resumes as the run would have continued, `optimize_guided(model,
    step=step)`; only another number of `rounds` may be given beside it. For another target start a new run from its z.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        start: crystals (files, pymatgen Structures, ASE Atoms, or Crystals, which are taken as they are), of which the
            posterior mean is the start; or latents (crystals, latent); or a number of crystals to draw from the prior.
        step: where to resume; it carries its own settings.
        rounds: of noising and denoising in the whole run, 10 by default.
        first_number: number of the first crystal (0); crystals of other numbers have other noise.
        settings: `target` ("min" by default, "max", or a value to reach in the property's own unit), `guidance` (10),
            `noise_level` (4), `steps_per_round` (20), `prior` (a learned one; by default the model's) and `seed` (0);
            see `Guidance`.

    Raises:
        CrystalError: for crystals that the model cannot encode.
        SettingError: for anything out of range, that contradicts the step, or without a learned prior, before any work.
    """
    model = as_model(model)
    check_start("optimize_guided", start, step, rounds, "rounds")
    if step is not None:
        num_steps = None if rounds is None else rounds * step.guidance.steps_per_round
        return _run(model, resumed(model, step, num_steps, "rounds", vars(step.guidance), first_number, settings))
    prior = settings.get("prior") or model.prior
    if not isinstance(prior, DiffusionPrior):
        raise SettingError(
            "guided diffusion needs a learned prior: that of a bundled model, or one that `cdvae-lab prior` fitted; "
            "optimize() works without one"
        )
    guidance = Guidance(**{**settings, "prior": prior})
    seed, number = guidance.seed, first_number or 0
    z = latents_of(model, start, prior=prior, seed=seed, first_number=number)
    numbers = crystal_numbers(model, len(z), seed, number)
    with torch.no_grad():
        prediction = model.predict_property(z)
    first = GuidedStep(0, (rounds or ROUNDS) * guidance.steps_per_round, z, z, prediction, numbers, guidance)
    return _run(model, first, yield_first=True)


@torch.no_grad()
def advance(model: CDVAE, now: GuidedStep) -> GuidedStep:
    """Take a step of Euler's method along the guided probability flow (Karras et al. 2022, eq. 3): the pure step.

    The gradient of the property is taken at the denoised latents. Their derivative with respect to the noisy ones is
    1 / (1 + sigma^2) for a Gaussian of deviation 1, and this is used for every prior: then a linear property shifts a
    Gaussian exactly as it should.
    """
    settings, prior = now.guidance, now.guidance.prior
    done, place = divmod(now.step, settings.steps_per_round)
    sigma, then = settings.levels.to(now.z)[place : place + 2]
    u = (now.noisy - prior.mean) / prior.std
    if place == 0:
        u = u + sigma * noise.normal(settings.seed, Stream.ROUND, now.numbers, done, u.shape[1:], u.dtype)
    clean = prior.denoised(u, sigma.expand(len(u)))
    _, gradient = property_gradient(model, clean * prior.std + prior.mean, settings.target)
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
