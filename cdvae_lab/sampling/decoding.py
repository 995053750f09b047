"""Decoding with retries: decode z, encode the crystal again, and retry where it does not encode back to z.

If the decoder settles into a wrong arrangement at a high noise level, later steps cannot correct it. Such a crystal,
however, encodes to another z. By Bayes' rule p(x | z) is proportional to p(x) q(z | x): of several decodings of one z
the best is the one for which the encoder gives this z the highest likelihood, that is, the smallest `latent_distance`.
`refine` then moves its atoms and cell along the gradient of that likelihood: a correct crystal comes very close to its
z and a wrong one does not, so that they are easier to distinguish.

See docs/explanation/algorithm.md, departure D17.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.limits import MIN_DISTANCE
from cdvae_lab.crystals.neighbors import nearest_neighbors, periodic_images
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.latents import check_latents, crystal_numbers, latents_of
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise, initial_frame
from cdvae_lab.sampling.frames import Frame, last, refuse_contradictions
from cdvae_lab.sampling.refinement import latent_distance, refine
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import (
    BATCH_SIZE,
    DEFAULT,
    MAX_ATTEMPTS,
    RESTART_SIGMAS,
    TOLERANCE,
    TOLERANCE_REFINED,
    SamplerSettings,
)


@dataclass(frozen=True)
class DecodingSettings:
    """Settings of a decoding with retries; every state carries them.

    Attributes:
        schedule: schedule of the sampler.
        max_attempts: largest number of decodings of each z.
        tolerance: do not retry a crystal whose `latent_distance` is at most this. For samples of the posterior or of
            the prior, which are sqrt(latent_dim) away from the mean, choose about that. A crystal with two atoms closer
            than 0.5 Å is always retried; with infinity, only such are.
        restart_sigmas: noise levels, Å, at which the attempts start, in turn; infinity starts from noise alone.
        refine_steps: steps of `refine` after every attempt; 0 for none.
        seed: seed of the first attempt; the next ones use seed + 1, and so on.
        batch_size: crystals decoded at a time, of similar size.

    Raises:
        SettingError: for a setting out of range.
    """

    schedule: Schedule
    max_attempts: int = MAX_ATTEMPTS
    tolerance: float | int = TOLERANCE
    restart_sigmas: tuple[float | int, ...] = RESTART_SIGMAS
    refine_steps: int = 0
    seed: int = 0
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        for name, least in (("max_attempts", 1), ("refine_steps", 0), ("batch_size", 1), ("tolerance", 0)):
            if not getattr(self, name) >= least:
                raise SettingError(f"decode: {name} must be at least {least}, not {getattr(self, name)}")
        if not self.restart_sigmas or not min(self.restart_sigmas) > 0:
            raise SettingError(f"decode: restart_sigmas needs noise levels above 0 Å, not {self.restart_sigmas}")
        check_seed(self.seed)
        check_seed(self.seed + self.max_attempts - 1)


class DecodingOptions(SamplerSettings, total=False):
    """Keyword arguments of `decode`: the fields of `DecodingSettings`, with the sampler as in `denoise`."""

    sampler: str | Schedule
    max_attempts: int
    tolerance: float | int | None
    restart_sigmas: Sequence[float | int]
    refine_steps: int
    seed: int
    batch_size: int


@dataclass(frozen=True, eq=False, repr=False)
class Decoded(Frame):
    """State of a decoding: the best attempt of every crystal so far, and all that is needed to resume.

    Attributes:
        crystals: best attempt of each crystal; before the first attempt, its start.
        distance: `latent_distance` of each from its z; infinite before the first attempt, and with two atoms closer
            than 0.5 Å.
        attempts: number of decodings of each crystal.
        z: latents that are decoded.
        numbers: numbers of the crystals; with the seed they determine the noise.
        atomic_numbers: elements that every attempt starts with instead of those predicted from z, or None.
        settings: settings of the run.
    """

    crystals: Crystals
    distance: Float[Tensor, " crystals"]
    attempts: Int[Tensor, " crystals"]
    z: Float[Tensor, "crystals latent"]
    numbers: Int[Tensor, " crystals"]
    atomic_numbers: Int[Tensor, "crystals sites"] | None
    settings: DecodingSettings

    @property
    def pending(self) -> Bool[Tensor, " crystals"]:
        """True for the crystals that will be decoded (again)."""
        s = self.settings
        return (self.attempts < s.max_attempts) & ((self.distance > s.tolerance) | self.distance.isinf())

    @property
    def remaining(self) -> int:
        """Number of crystals that will be decoded (again); 0 in the last state."""
        return int(self.pending.sum())

    @property
    def step(self) -> int:
        """Crystals that are finished."""
        return self.num_steps - self.remaining

    @property
    def num_steps(self) -> int:
        """Crystals in all."""
        return len(self.z)


def decode(
    model: ModelOrName,
    z: Float[Tensor, "crystals latent"] | None = None,
    *,
    state: Decoded | None = None,
    atomic_numbers: Int[Tensor, "crystals sites"] | None = None,
    first_number: int | None = None,
    compile: bool = False,
    **settings: Unpack[DecodingOptions],
) -> Iterator[Decoded]:
    """Decode latents, and retry where a crystal does not encode back to its z; yields after every batch.

    The first attempt is what `denoise(model, z=z, seed=seed)` gives. Later ones start from noise, or add noise to the
    best crystal so far and denoise it from there, in turn: large cells improve part by part.

    A state resumes as the run would have continued, `decode(model, state=state)`; only a larger `max_attempts` may be
    given beside it.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        z: latents to decode.
        state: where to resume; it carries z, numbers and settings.
        atomic_numbers: elements to start with instead of those predicted from z; 0 for no atom, at the end.
        first_number: number of the first crystal (0); crystals of other numbers have other noise.
        compile: compile the model's networks with torch.compile, for good: for long runs on a GPU.
        settings: `max_attempts` (8), `tolerance` (2, or 0.3 where crystals are refined), `restart_sigmas`,
            `refine_steps` (0), `seed` (0) and `batch_size` (1024), see `DecodingSettings`; `sampler` and its settings
            as in `denoise`.

    Raises:
        SettingError: for settings out of range, or that contradict the state, before any work.

    Examples:
        >>> import cdvae_lab as lab
        >>> model = lab.load("perov_5")
        >>> z = lab.encode(model, lab.asset_path("examples/SrTiO3.cif"))
        >>> state = lab.last(lab.decode(model, z, max_attempts=3, tolerance=5, steps=20))
        >>> int(state.attempts) <= 3, state.remaining
        (True, 0)
        >>> state.crystals.to_structures()[0].formula
        'Sr1 Ti1 O3'
    """
    model = as_model(model)
    if state is not None:
        return _rounds(model, _resumed(model, state, z, atomic_numbers, first_number, settings), compile)
    if z is None:
        raise SettingError("decode starts from z (latents), or resumes from a state")
    check_latents(model, z)
    chosen = _settings(model, settings)
    z = latents_of(model, z)
    numbers = crystal_numbers(model, len(z), chosen.seed, first_number or 0)
    if atomic_numbers is not None:
        atomic_numbers = atomic_numbers.to(model.device)
    first = initial_frame(model, z, numbers, chosen.seed, chosen.schedule, atomic_numbers=atomic_numbers)
    none = torch.zeros(len(z), dtype=torch.int64, device=model.device)
    distance = torch.full_like(z[:, 0], torch.inf)
    return _rounds(model, Decoded(first.crystals, distance, none, z, numbers, atomic_numbers, chosen), compile)


def _fields(model: CDVAE, options: DecodingOptions) -> dict[str, Any]:
    """Collect the fields of `DecodingSettings` that were given, the sampler as a schedule."""
    given: dict[str, Any] = dict(options)
    fields = {name: given.pop(name) for name in DecodingSettings.__dataclass_fields__ if name in given}
    if given:
        fields["schedule"] = choose_schedule(model, given.pop("sampler", DEFAULT), **given)
    if "restart_sigmas" in fields:
        fields["restart_sigmas"] = tuple(fields["restart_sigmas"])
    return fields


def _settings(model: CDVAE, options: DecodingOptions) -> DecodingSettings:
    fields = _fields(model, options)
    if fields.get("tolerance") is None:
        fields["tolerance"] = TOLERANCE_REFINED if fields.get("refine_steps") else TOLERANCE
    schedule = fields.pop("schedule", None) or choose_schedule(model, DEFAULT)
    return DecodingSettings(schedule, **fields)


def _resumed(
    model: CDVAE,
    state: Decoded,
    z: Tensor | None,
    atomic_numbers: Tensor | None,
    first_number: int | None,
    options: DecodingOptions,
) -> Decoded:
    """Return the state, with a larger number of attempts where one was given."""
    check_latents(model, state.z)
    settings, given = state.settings, _fields(model, options)
    if given.get("max_attempts", 0) > settings.max_attempts:
        settings = replace(settings, max_attempts=given["max_attempts"])
    given |= {"z": z, "atomic_numbers": atomic_numbers}
    if first_number is not None:
        given["numbers"] = crystal_numbers(model, len(state.z), first_number=first_number)
    carried = {"z": state.z, "atomic_numbers": state.atomic_numbers, "numbers": state.numbers}
    refuse_contradictions("state", vars(settings) | carried, given)
    return replace(state, settings=settings)


def _rounds(model: CDVAE, state: Decoded, compile: bool) -> Iterator[Decoded]:
    # What comes next follows from the state alone, so that a run can be resumed from any of them.
    while not state.finished:
        state = attempt(model, state, compile)
        yield state


def attempt(model: CDVAE, state: Decoded, compile: bool = False) -> Decoded:
    """Decode the next batch once, and keep each crystal that is closer to its z than before (a pure function)."""
    settings = state.settings
    pending = state.pending.nonzero()[:, 0]
    number = int(state.attempts[pending].min())
    pending = pending[state.attempts[pending] == number]
    part = pending[state.crystals.num_atoms[pending].argsort(stable=True)[: settings.batch_size]]
    atoms = None if state.atomic_numbers is None else state.atomic_numbers[part]
    seed, z = settings.seed + number, state.z[part]
    frame = initial_frame(model, z, state.numbers[part], seed, settings.schedule, atomic_numbers=atoms)
    if number:
        sigma = settings.restart_sigmas[number % len(settings.restart_sigmas)]
        frame = restart(frame, state.crystals[part], sigma)
    decoded = last(denoise(model, frame=frame, compile=compile)).crystals
    distance = latent_distance(model, decoded, z)
    if settings.refine_steps:
        decoded, distance = refine(model, decoded, z, settings.refine_steps, compile)
    distance = torch.where(_too_close(decoded), torch.inf, distance)
    better = (distance < state.distance[part]) | (number == 0)
    which = torch.arange(len(state.z), device=part.device)
    which[part] = torch.where(better, len(which) + torch.arange(len(part), device=part.device), part)
    crystals = Crystals.cat([state.crystals, decoded])[which]
    distances, attempts = state.distance.clone(), state.attempts.clone()
    distances[part] = torch.where(better, distance, distances[part])
    attempts[part] += 1
    return replace(state, crystals=crystals, distance=distances, attempts=attempts)


def _too_close(crystals: Crystals) -> Bool[Tensor, " crystals"]:
    """True where two atoms are closer than 0.5 Å, or the cell is as thin as that."""
    images = periodic_images(crystals.lattice, MIN_DISTANCE)
    return nearest_neighbors(crystals, images, 1, MIN_DISTANCE).mask.flatten(1).any(1)


def restart(frame: DenoisingFrame, crystals: Crystals, sigma: float | int) -> DenoisingFrame:
    """Return a frame at the first step whose noise level is at most `sigma`, with noise of that level added.

    Args:
        frame: the start of the run; returned unchanged if `sigma` is above its schedule.
        crystals: crystals that noise is added to.
        sigma: noise level, Å.
    """
    levels = frame.schedule.sigma
    if sigma >= float(levels[0]):
        return frame
    step = min(int((levels > sigma).sum()), len(levels) - 1)
    sites = frame.crystals.num_sites
    crystals = Crystals(crystals.frac_coords[:, :sites], crystals.atomic_numbers[:, :sites], frame.crystals.lattice)
    eps = noise.normal(frame.seed, Stream.START, frame.numbers, 0, (sites, 3), frame.z.dtype)
    eps = eps * crystals.mask[..., None]
    noisy, _ = noise.corrupt_coordinates(
        crystals.frac_coords, crystals.lattice, torch.full_like(frame.z[:, 0], float(levels[step])), eps
    )
    return replace(frame, step=step, sigma=float(levels[step]), crystals=crystals.replace(frac_coords=noisy))
