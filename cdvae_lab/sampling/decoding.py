"""Decode, encode again, compare, and try again: a sampler that took a wrong turn can be told by the model itself.

What z says of positions the decoder follows from noise downwards, and where it settles into a wrong arrangement early
on, no later step mends it. But the encoder then gives another z. By Bayes' rule p(x | z) is proportional to
p(x) q(z | x): of several decodings of one z the best is that which the encoder would give this z most likely. That
likelihood has a gradient besides, along which atoms and cell slide the last hundredths of an Å: a right crystal then
comes very near its z, a wrong one does not, and the two are easier to tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.limits import MIN_DISTANCE
from cdvae_lab.crystals.neighbors import nearest_neighbors, periodic_images
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.noise import Stream
from cdvae_lab.sampling.denoising import DenoisingFrame, Schedule, choose_schedule, denoise, start

WITHIN, WITHIN_REFINED = 2.0, 0.3  # see `decode`
# Å. Where the tries begin, in turn: anew, or from the best so far, blurred so far that it can become another.
BACK_TO = (float("inf"), 0.5, 1.0, 2.0)

STEP = 0.03  # Å, of `refine`, at its beginning
BETA_1, BETA_2 = 0.9, 0.99
STRAIN = 0.2  # 1/Å: what its cells stretch while its atoms move
MARGIN = 0.5  # Å beyond the cutoff in which it looks for neighbors, once: its cells change little
REFINED_AT_ONCE = 256


@dataclass(frozen=True)
class Decoded:
    """Crystals decoded so far, each the best of its tries: enough to look at and to go on from.

    Attributes:
        crystals: of those tries; before the first, the start of one.
        distance: of each from its z (`latent_distance`); infinite before the first try, and with two atoms closer than
            0.5 Å.
        tries: how often each was decoded.
        z: what they are decoded from.
        left: how many crystals will be tried again; 0 in the last one.
    """

    crystals: Crystals
    distance: Float[Tensor, " crystals"]
    tries: Int[Tensor, " crystals"]
    z: Float[Tensor, "crystals latent"]
    left: int

    @property
    def step(self) -> int:
        """Crystals that are done with."""
        return len(self.z) - self.left

    @property
    def num_steps(self) -> int:
        """Crystals in all."""
        return len(self.z)

    @property
    def finished(self) -> bool:
        return self.left == 0


@torch.no_grad()
def latent_distance(
    model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"]
) -> Float[Tensor, " crystals"]:
    """How far crystals encode from given latents, in the deviations of their posterior; infinite where impossible."""
    posterior = model.encode(crystals)
    squared = ((posterior.mu - z).square() * torch.exp(-posterior.log_var)).sum(-1)
    finite = torch.isfinite(crystals.frac_coords).all(-1).all(-1) & torch.isfinite(crystals.lattice).all(-1).all(-1)
    return torch.where(finite, squared.sqrt(), torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)


def refine(
    model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"], steps: int = 100, compile: bool = False
) -> tuple[Crystals, Float[Tensor, " crystals"]]:
    """Slide atoms and cells so that the crystals encode nearer to given latents: descent of `latent_distance`.

    Elements stay what they are. It mends small errors of a right arrangement; a wrong one it leaves wrong. It is for a
    z that is a posterior mean: a sample of the posterior, or of the prior, holds noise that no crystal encodes to.

    Args:
        steps: of the descent; each takes the time of two or three calls of the decoder.
        compile: compile the model's encoder with torch.compile, for good: for many crystals on a GPU.

    Returns:
        The nearest crystals on the way, and their `latent_distance`.
    """
    if steps < 1:
        raise SettingError(f"refine: steps must be at least 1, not {steps}")
    if compile:
        model.encoder.compile_blocks()
    parts = [
        _refined(model, crystals[part], z[part], steps)
        for part in torch.arange(len(crystals), device=z.device).split(REFINED_AT_ONCE)
    ]
    refined = Crystals.cat([part for part, _ in parts])
    return refined, torch.cat([distance for _, distance in parts])


def _refined(
    model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"], steps: int
) -> tuple[Crystals, Float[Tensor, " crystals"]]:
    images = periodic_images(crystals.lattice, model.config.cutoff + MARGIN)
    precision = torch.exp(-model.encode(crystals, images).log_var).detach()
    to_frac = lat.inverse(crystals.lattice)
    eye = torch.eye(3, device=z.device, dtype=z.dtype)
    shift = torch.zeros_like(crystals.frac_coords).requires_grad_()
    stretch = torch.zeros_like(crystals.lattice).requires_grad_()
    moment = torch.zeros_like(torch.cat([shift, stretch], 1))
    power = torch.zeros_like(moment[:, :1, :1])
    best, nearest = crystals, torch.full_like(z[:, 0], torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            strain = STRAIN * 0.5 * (stretch + stretch.transpose(1, 2))  # symmetric: without the rotations
            moved = crystals.replace(
                frac_coords=crystals.frac_coords + (shift @ to_frac) * crystals.mask[..., None],
                lattice=crystals.lattice @ (eye + strain),
            )
            squared = ((model.encode(moved, images).mu - z).square() * precision).sum(-1)
            # By its logarithm a crystal is as steep far away as it is near.
            slope = torch.cat(torch.autograd.grad(torch.log1p(squared).sum(), [shift, stretch]), 1)
        with torch.no_grad():
            better = squared < nearest
            nearest = torch.where(better, squared, nearest)
            best = best.replace(
                frac_coords=torch.where(better[:, None, None], moved.frac_coords, best.frac_coords),
                lattice=torch.where(better[:, None, None], moved.lattice, best.lattice),
            )
            # Adam, but with one second moment for the whole crystal: with one for each coordinate those that z says
            # nothing of (symmetry forbids a slope) would wander with the rounding errors.
            moment = BETA_1 * moment + (1 - BETA_1) * slope
            power = BETA_2 * power + (1 - BETA_2) * slope.square().amax((1, 2), keepdim=True)
            unbiased = (power / (1 - BETA_2 ** (step + 1))).sqrt().clamp_min(1e-12)
            rate = STEP * 0.5 * (1 + math.cos(math.pi * step / steps))
            change = rate * moment / (1 - BETA_1 ** (step + 1)) / unbiased
            shift -= change[:, :-3]
            stretch -= change[:, -3:]
    best = best.replace(frac_coords=lat.wrap(best.frac_coords))
    return best, latent_distance(model, best, z)


def decode(
    model: CDVAE,
    z: Float[Tensor, "crystals latent"],
    *,
    tries: int = 8,
    within: float | None = None,
    back_to: Sequence[float] = BACK_TO,
    refine_steps: int = 0,
    atomic_numbers: Int[Tensor, "crystals sites"] | None = None,
    seed: int = 0,
    sampler: str | Schedule = "ancestral",
    first_number: int = 0,
    batch_size: int = 1024,
    state: Decoded | None = None,
    compile: bool = False,
    **settings: Any,
) -> Iterator[Decoded]:
    """Decode every z, again and again where the crystal does not encode back; yields after every batch.

    The first try is what `denoise(model, z=z, seed=seed)` gives. Later ones (with `seed + 1`, and so on) begin anew, or
    take the best so far back to a noise level and denoise it from there, in turn: large cells get better part by part.
    Batches hold crystals of similar size.

    Args:
        tries: at most so many for each.
        within: a crystal whose `latent_distance` is smaller is not tried again. Decoded from its posterior mean a right
            crystal has 0 to 4 and a wrong one 4 to 30; from a sample of the posterior, or of the prior, both have
            sqrt(latent_dim) more or so. By default 2, or 0.3 where crystals are refined. A crystal with two atoms
            closer than 0.5 Å is always tried again, however near it encodes; with infinity, only such are.
        back_to: noise levels, Å, at which the tries begin, in turn; infinity begins anew.
        refine_steps: of `refine`, after every try; 0 leaves crystals as the sampler gives them.
        atomic_numbers: what to begin with instead of the atoms that z says, as in `denoising.start`.
        seed, sampler, first_number, compile, settings: of `denoise`.
        batch_size: crystals at a time.
        state: what an interrupted run yielded last, to go on from.

    Raises:
        SettingError: for settings out of range, before any work.
    """
    if within is None:
        within = WITHIN_REFINED if refine_steps else WITHIN
    if refine_steps < 0:
        raise SettingError(f"decode: refine_steps must be at least 0, not {refine_steps}")
    if tries < 1 or batch_size < 1 or not within >= 0:
        raise SettingError(
            f"decode needs tries and batch_size of at least 1 and within >= 0, not {tries}, {batch_size} and {within}"
        )
    if not back_to or not min(back_to) > 0:
        raise SettingError(f"back_to: needs noise levels above 0 Å, not {tuple(back_to)}")
    noise.check_seed(seed + tries - 1)
    if state is not None and not torch.equal(state.z.to(z), z):
        raise SettingError("the state is of other latents than the z that are given; go on with its own")
    schedule = choose_schedule(model, sampler, **settings)
    numbers = torch.arange(first_number, first_number + len(z), device=model.device)
    if state is None:
        z = z.detach().to(model.device)
        crystals = start(model, z, numbers, seed, schedule, atomic_numbers=atomic_numbers).crystals
        none = torch.zeros(len(z), dtype=torch.int64, device=model.device)
        state = Decoded(crystals, torch.full_like(z[:, 0], torch.inf), none, z, len(z))
    return _rounds(
        model,
        state,
        numbers,
        schedule,
        seed,
        tries,
        within,
        tuple(back_to),
        refine_steps,
        atomic_numbers,
        batch_size,
        compile,
    )


def _rounds(
    model: CDVAE,
    state: Decoded,
    numbers: Int[Tensor, " crystals"],
    schedule: Schedule,
    seed: int,
    tries: int,
    within: float,
    back_to: tuple[float, ...],
    refine_steps: int,
    atoms: Int[Tensor, "crystals sites"] | None,
    batch_size: int,
    compile: bool,
) -> Iterator[Decoded]:
    while True:
        pending = _unfinished(state.distance, state.tries, within, tries).nonzero()[:, 0]
        if len(pending) == 0:
            return
        # What is next follows from the state alone, so that a run can go on from any of them.
        attempt = int(state.tries[pending].min())
        pending = pending[state.tries[pending] == attempt]
        part = pending[state.crystals.num_atoms[pending].argsort(stable=True)[:batch_size]]
        given = None if atoms is None else atoms[part]
        frame = start(model, state.z[part], numbers[part], seed + attempt, schedule, atomic_numbers=given)
        if attempt:
            frame = go_back(frame, state.crystals[part], back_to[attempt % len(back_to)])
        for frame in denoise(model, frame=frame, compile=compile):  # noqa: B007, B020
            pass  # the last one counts
        decoded, distance = frame.crystals, latent_distance(model, frame.crystals, frame.z)
        if refine_steps:
            decoded, distance = refine(model, decoded, frame.z, refine_steps, compile)
        distance = torch.where(_too_close(decoded), torch.inf, distance)
        better = (distance < state.distance[part]) | (attempt == 0)
        which = torch.arange(len(state.z), device=part.device)
        which[part] = torch.where(better, len(which) + torch.arange(len(part), device=part.device), part)
        crystals = Crystals.cat([state.crystals, decoded])[which]
        distances, counts = state.distance.clone(), state.tries.clone()
        distances[part] = torch.where(better, distance, distances[part])
        counts[part] += 1
        left = int(_unfinished(distances, counts, within, tries).sum())
        state = replace(state, crystals=crystals, distance=distances, tries=counts, left=left)
        yield state


def _unfinished(
    distance: Float[Tensor, " crystals"], count: Int[Tensor, " crystals"], within: float, tries: int
) -> Bool[Tensor, " crystals"]:
    return (count < tries) & ((distance > within) | distance.isinf())


def _too_close(crystals: Crystals) -> Bool[Tensor, " crystals"]:
    """Whether two atoms have nearly the same place, or the cell is as thin as that."""
    images = periodic_images(crystals.lattice, MIN_DISTANCE)
    return nearest_neighbors(crystals, images, 1, MIN_DISTANCE).mask.flatten(1).any(1)


def go_back(frame: DenoisingFrame, crystals: Crystals, sigma: float) -> DenoisingFrame:
    """A frame at the first step of at most so much noise (Å), of these crystals, blurred accordingly.

    Args:
        frame: the start of their run; comes back as it is where `sigma` is beyond its schedule.
    """
    levels = frame.schedule.sigma
    if sigma >= float(levels[0]):
        return frame
    step = min(int((levels > sigma).sum()), len(levels) - 1)
    sites = frame.crystals.num_sites
    crystals = Crystals(crystals.frac_coords[:, :sites], crystals.atomic_numbers[:, :sites], frame.crystals.lattice)
    eps = noise.normal(frame.seed, Stream.START, frame.numbers, 0, (sites, 3), frame.z.dtype)
    eps = eps * crystals.mask[..., None]
    blurred, _ = noise.corrupt_coordinates(
        crystals.frac_coords, crystals.lattice, torch.full_like(frame.z[:, 0], float(levels[step])), eps
    )
    return replace(frame, step=step, sigma=float(levels[step]), crystals=crystals.replace(frac_coords=blurred))
