"""Denoising as a generator: `denoise(...)` yields a `DenoisingFrame` after every call of the network.

All samplers are the same step with other coefficients,

    x  <-  x + drift * score(x, sigma) + diffusion * eps,        types  <-  argmax of the type logits,

so a sampler is a `Schedule` of three numbers a step, and the loop does not know which one it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE, CDVAEConfig, check_takes, read_for
from cdvae_lab.models.latent_prior import LatentPrior, StandardNormal, draw
from cdvae_lab.models.noise import Stream, geometric_levels
from cdvae_lab.runtime.cuda_graphs import Graphed
from cdvae_lab.runtime.threads import fast_matmul, one_thread

SMALL_BATCH = 50  # sites in all; up to here one CPU thread is as fast as two, or faster


@dataclass(frozen=True)
class Schedule:
    """The coefficients of every step, in order; the last step adds no noise.

    Attributes:
        name: of the sampler, for captions.
        sigma: the noise level that the network is told, Å.
        drift: what the score is multiplied with, Å^2.
        diffusion: what the noise is multiplied with, Å.
        keep_types: leave every atom the type that it starts with, and move positions alone.
        keep_composition: let types change places only: the starting composition is assigned anew to the sites at every
            step, to those that want it most. Otherwise every site takes the likeliest type, as in the paper.
    """

    name: str
    sigma: Float[Tensor, " steps"]
    drift: Float[Tensor, " steps"]
    diffusion: Float[Tensor, " steps"]
    keep_types: bool = False
    keep_composition: bool = False

    def __len__(self) -> int:
        return len(self.sigma)

    def without_last(self) -> Schedule:
        """The same without the noise-free step, as the reference ends: for comparison."""
        return replace(self, sigma=self.sigma[:-1], drift=self.drift[:-1], diffusion=self.diffusion[:-1])

    @classmethod
    def _ending_clean(cls, name: str, sigma: Tensor, drift: Tensor, diffusion: Tensor, left: float) -> Schedule:
        # Tweedie's formula, E[x0 | x] = x + sigma^2 score(x), at the noise that is really left.
        last = torch.tensor([left], dtype=torch.float64)
        return cls(
            name,
            torch.cat([sigma, last]),
            torch.cat([drift, last**2]),
            torch.cat([diffusion, torch.zeros(1, dtype=torch.float64)]),
        )

    @classmethod
    def langevin(cls, config: CDVAEConfig, steps_per_level: int = 100, step_size: float = 1e-4) -> Schedule:
        """Annealed Langevin dynamics, as in the paper (algorithm 1; Song and Ermon 2019).

        At level sigma a step is a = step_size * (sigma / sigma_min)^2. A Gaussian of variance sigma^2 under steps of
        r = a / sigma^2 keeps the variance 2 sigma^2 / (2 - r), which is what the last step removes.
        """
        ratio = step_size / config.sigma_min**2
        if steps_per_level < 1 or not 0 < ratio < 2:
            raise SettingError(
                f"Langevin dynamics needs steps_per_level >= 1 and 0 < step_size < {2 * config.sigma_min**2:g} Å^2 "
                f"(beyond, it diverges), not {steps_per_level} and {step_size:g}"
            )
        levels = geometric_levels(config.sigma_max, config.sigma_min, config.num_levels)
        sigma = levels.repeat_interleave(steps_per_level)
        a = step_size * (sigma / config.sigma_min) ** 2
        return cls._ending_clean("langevin", sigma, a, (2 * a).sqrt(), config.sigma_min * (2 / (2 - ratio)) ** 0.5)

    @classmethod
    def ancestral(cls, config: CDVAEConfig, steps: int = 200) -> Schedule:
        """Ancestral sampling of the variance-exploding process (Song et al. 2021, appendix F, eq. 47)."""
        sigma, down = cls._descent(config, steps)
        diffusion = down[1] * (down[0] ** 2 - down[1] ** 2).sqrt() / down[0]
        return cls._ending_clean("ancestral", sigma, down[0] ** 2 - down[1] ** 2, diffusion, config.sigma_min)

    @classmethod
    def probability_flow(cls, config: CDVAEConfig, steps: int = 100) -> Schedule:
        """Euler steps of the probability-flow equation, without noise but for the start (Song et al. 2021, eq. 13)."""
        sigma, down = cls._descent(config, steps)
        drift = 0.5 * (down[0] ** 2 - down[1] ** 2)
        return cls._ending_clean("probability_flow", sigma, drift, torch.zeros_like(drift), config.sigma_min)

    @staticmethod
    def _descent(config: CDVAEConfig, steps: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if steps < 2:
            raise SettingError(f"steps must be at least 2, not {steps}")
        levels = geometric_levels(config.sigma_max, config.sigma_min, steps)
        return levels[:-1], (levels[:-1], levels[1:])


@dataclass(frozen=True)
class DenoisingFrame:
    """The whole state of a run after a step: enough to look at and to go on from.

    Attributes:
        step: calls of the network so far; 0 is the start.
        sigma: the noise level of the step that led here, Å (of the first step, in frame 0).
        crystals: positions, types and lattices now.
        score: gradient of the log-density that the step followed, 1/Å; zero in frame 0.
        z: the latents that the crystals are decoded from.
        numbers: of the crystals; with the seed and the step they determine the noise.
        seed: of the noise.
        schedule: the sampler.
    """

    step: int
    sigma: float
    crystals: Crystals
    score: Float[Tensor, "crystals sites 3"]
    z: Float[Tensor, "crystals latent"]
    numbers: Int[Tensor, " crystals"]
    seed: int
    schedule: Schedule

    @property
    def num_steps(self) -> int:
        """Calls of the network in the whole run."""
        return len(self.schedule)

    @property
    def finished(self) -> bool:
        return self.step >= self.num_steps


# Every sampler: what makes its schedule, and the settings that it takes.
SAMPLERS = {
    "langevin": (Schedule.langevin, {"steps_per_level", "step_size"}),
    "ancestral": (Schedule.ancestral, {"steps"}),
    "probability_flow": (Schedule.probability_flow, {"steps"}),
}
# Samplers with settings that have a name of their own, from the quickest to the paper's.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "preview": ("ancestral", {"steps": 50}),
    "standard": ("langevin", {"steps_per_level": 10}),
    "paper": ("langevin", {"steps_per_level": 100}),
}
TYPES = ("argmax", "assigned")


def choose_schedule(model: CDVAE, sampler: str | Schedule, **settings: Any) -> Schedule:
    """A schedule by name, with its own settings; those of a named setting ("preview", ...) are in `NAMED`.

    Every sampler takes `types`: "argmax" (default) gives every site its likeliest element at every step, as in the
    paper; "assigned" keeps the composition of the start and assigns it anew to the sites at every step.

    Raises:
        SettingError: for a sampler or a setting that does not exist.
    """
    if isinstance(sampler, Schedule):
        if settings:
            raise SettingError(f"a ready Schedule takes no further settings, but got {', '.join(settings)}")
        return sampler
    if sampler in NAMED:
        name, fixed = NAMED[sampler]
        if more := sorted(set(settings) - {"types"}):
            raise SettingError(
                f"{sampler!r} is a named setting, which takes no settings but types, and got {', '.join(more)}; "
                f"give sampler={name!r} to choose them"
            )
        sampler, settings = name, fixed | settings
    if sampler not in SAMPLERS:
        raise SettingError(f"no sampler {sampler!r}; there are {', '.join([*SAMPLERS, *NAMED])}")
    types = settings.pop("types", "argmax")
    if types not in TYPES:
        raise SettingError(f"types is {' or '.join(map(repr, TYPES))}, not {types!r}")
    make, takes = SAMPLERS[sampler]
    if strange := sorted(set(settings) - takes):
        raise SettingError(f"the {sampler} sampler takes {', '.join(sorted(takes))}, not {', '.join(strange)}")
    return replace(make(model.config, **settings), keep_composition=types == "assigned")


def denoise(
    model: CDVAE,
    n: int | None = None,
    *,
    z: Float[Tensor, "crystals latent"] | None = None,
    frame: DenoisingFrame | None = None,
    seed: int | None = None,
    sampler: str | Schedule = "ancestral",
    prior: LatentPrior | None = None,
    first_number: int = 0,
    compile: bool = False,
    **settings: Any,
) -> Iterator[DenoisingFrame]:
    """Generate crystals; yields the start and then a frame after every call of the network.

    Start from the prior (`n`), from latents (`z`), or from a frame: the frame of an interrupted run goes on
    exactly as the run would have, and with another `seed` it branches.

    Args:
        n: number of crystals to draw from the prior.
        z: latents to decode.
        frame: where to go on; brings its own schedule and, unless given, its seed.
        seed: of everything random, 0 by default.
        sampler: "ancestral" (200 calls, `steps=`), "langevin" (the paper's: 50 levels of `steps_per_level=100`,
            `step_size=1e-4` Å^2), "probability_flow" (100 calls, `steps=`), or a `Schedule`; or one of these with
            settings that have a name: "preview", "standard", "paper" (`NAMED`).
        prior: what the latents of `n` crystals are drawn from: by default the model's learned one, N(0, I) without. If
            it draws a composition first, crystals begin with that, and `types="assigned"` keeps to it.
        first_number: number of the first crystal; crystals of other numbers have other noise.
        compile: compile the model's decoder with torch.compile, for good: about a minute before the first frame, for
            long runs on a GPU.
        settings: the sampler's, as above, and `types`: "argmax" (default), the likeliest element at every site, as in
            the paper, or "assigned", the composition that z says, assigned anew to the sites at every step.

    Raises:
        SettingError: for anything out of range, before any work.
    """
    if sum(given is not None for given in (n, z, frame)) != 1:
        raise SettingError("denoise starts from exactly one of n (crystals from the prior), z (latents) or frame")
    if prior is not None and n is None:
        raise SettingError("a prior is what n crystals are drawn from; z or a frame has its latents already")
    noise.check_seed(seed or 0)
    if first_number < 0:
        raise SettingError(f"first_number must be 0 or more, not {first_number}")
    if frame is not None:
        if frame.z.shape[1] != model.config.latent_dim:
            raise SettingError(
                f"the frame has latents of {frame.z.shape[1]} numbers and the model {model.config.latent_dim}: it is "
                "another model's; load the one that made it"
            )
        if frame.finished:
            raise SettingError(
                f"the frame is the last of its {frame.num_steps} steps; go on from an earlier one, or start anew "
                "from its z"
            )
        if settings or sampler != "ancestral" or first_number:
            raise SettingError("a frame brings its own sampler and numbers; give only the seed beside it")
        return _run(model, frame if seed is None else replace(frame, seed=seed), compile)
    seed = seed or 0
    schedule = choose_schedule(model, sampler, **settings)
    atoms = None
    if z is None:
        assert n is not None
        if n < 1:
            raise SettingError(f"n, the number of crystals, must be at least 1, not {n}")
        numbers = torch.arange(first_number, first_number + n, device=model.device)
        prior = prior or model.prior or StandardNormal(model.config.latent_dim, model.lattice_mean.dtype)
        z, atoms = draw(prior, seed, numbers)
        z = z.to(model.lattice_mean.dtype)
    if z.ndim != 2 or z.shape[0] < 1 or z.shape[1] != model.config.latent_dim:
        raise SettingError(f"z must be (crystals, {model.config.latent_dim}) with at least one, not {tuple(z.shape)}")
    z = z.detach().to(model.device)
    numbers = torch.arange(first_number, first_number + len(z), device=model.device)
    return _run(model, start(model, z, numbers, seed, schedule, atomic_numbers=atoms), compile, yield_first=True)


@torch.no_grad()
def start(
    model: CDVAE,
    z: Float[Tensor, "crystals latent"],
    numbers: Int[Tensor, " crystals"],
    seed: int,
    schedule: Schedule,
    *,
    num_atoms: Int[Tensor, " crystals"] | None = None,
    atomic_numbers: Int[Tensor, "crystals sites"] | None = None,
) -> DenoisingFrame:
    """Frame 0: number of atoms, lattice and types from z, uniform positions (paper, section 4.3).

    Args:
        num_atoms: instead of what z says; the lattice is that of z for as many atoms.
        atomic_numbers: instead of what z says, and with them the number of atoms; 0 for no atom, at the end.
            A schedule that has `keep_types` leaves them so.
    """
    aggregates = model.aggregates(z)
    if atomic_numbers is not None:
        num_atoms = (atomic_numbers > 0).sum(1)
    elif num_atoms is None:
        num_atoms = aggregates.num_atoms
    sites = int(num_atoms.max())
    exists = torch.arange(sites, device=z.device) < num_atoms[:, None]
    frac = noise.uniform(seed, Stream.START, numbers, 0, (sites, 3), z.dtype) * exists[..., None]
    if atomic_numbers is not None:
        types = atomic_numbers[:, :sites]
    else:
        composition = aggregates.composition_logits.masked_fill(~model.elements[1:], -torch.inf).softmax(-1)
        types = initial_types(composition, num_atoms, sites) * exists
    crystals = Crystals(frac, types, model.predict_lattice(aggregates, num_atoms))
    return DenoisingFrame(0, float(schedule.sigma[0]), crystals, torch.zeros_like(frac), z, numbers, seed, schedule)


def initial_types(
    composition: Float[Tensor, "crystals elements"], num_atoms: Int[Tensor, " crystals"], sites: int
) -> Int[Tensor, "crystals sites"]:
    """Whole counts nearest to c * N that add up to N (the largest remainders go up), the most frequent element first.

    The paper rounds and draws what is missing; the largest remainder is right more often where one atom is missing.
    """
    wanted = composition * num_atoms[:, None]
    counts = torch.floor(wanted)
    missing = num_atoms - counts.sum(-1).long()
    rank = (wanted - counts).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    counts, order = (counts + (rank < missing[:, None])).sort(dim=-1, descending=True, stable=True)
    ends = counts.long().cumsum(-1)
    site = torch.arange(sites, device=composition.device)
    place = (ends[:, None, :] <= site[:, None]).sum(-1)
    return torch.gather(order, 1, place.clamp_max(order.shape[1] - 1)) + 1


def assign_types(
    logits: Float[Tensor, "crystals sites elements"], atomic_numbers: Int[Tensor, "crystals sites"]
) -> Int[Tensor, "crystals sites"]:
    """The same atomic numbers on other sites: again and again the likeliest pair of a site and a number is taken.

    Nearly the assignment of greatest likelihood, without waiting for the device; padded sites stay padded.
    """
    exists = atomic_numbers > 0
    wanted = logits.log_softmax(-1)
    number = (atomic_numbers - 1).clamp_min(0)[:, None].expand(-1, logits.shape[1], -1)
    gain = torch.gather(wanted, 2, number)  # [c, site, place in the list of numbers]
    gain = gain.masked_fill(~(exists[:, :, None] & exists[:, None, :]), -torch.inf)
    assigned = torch.zeros_like(atomic_numbers)
    sites = logits.shape[1]
    places = torch.arange(sites, device=logits.device)
    for _ in range(sites):
        best, where = gain.flatten(1).max(-1)
        found = torch.isfinite(best)[:, None]
        site, place = (where // sites)[:, None] == places, (where % sites)[:, None] == places
        taken = (atomic_numbers * place).sum(1, keepdim=True)
        assigned = torch.where(found & site, taken, assigned)
        gain = gain.masked_fill(site[:, :, None] | place[:, None, :], -torch.inf)
    return assigned


def make_step(model: CDVAE, seed: int, keep_types: bool = False, keep_composition: bool = False):
    """The pure step: tensors in, tensors out, no waiting for the device."""
    unseen = ~model.elements[1:]

    @torch.no_grad()
    def step(
        frac_coords: Tensor,
        atomic_numbers: Tensor,
        lattice: Tensor,
        images: Tensor,
        z: Tensor,
        numbers: Tensor,
        index: Tensor,
        sigma: Tensor,
        drift: Tensor,
        diffusion: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        crystals = Crystals(frac_coords, atomic_numbers, lattice)
        with fast_matmul(frac_coords.device):
            p, logits = model.predict_noise(crystals, z, sigma.expand(len(crystals)), images)
        score = p / sigma
        eps = noise.normal(seed, Stream.POSITION, numbers, index, (crystals.num_sites, 3), p.dtype)
        moved = frac_coords + lat.cart_to_frac(drift * score + diffusion * eps, lattice)
        mask = crystals.mask
        if keep_types:
            types = atomic_numbers
        elif keep_composition:
            types = assign_types(logits, atomic_numbers)
        else:
            types = logits.masked_fill(unseen, -torch.inf).argmax(-1) + 1
        return lat.wrap(moved) * mask[..., None], types * mask, score * mask[..., None]

    return step


def _run(model: CDVAE, frame: DenoisingFrame, compile: bool, yield_first: bool = False) -> Iterator[DenoisingFrame]:
    device, dtype = frame.z.device, frame.z.dtype
    schedule = frame.schedule
    images = periodic_images(frame.crystals.lattice, model.config.cutoff)
    noise.prepare(device)
    index = torch.arange(len(schedule), device=device)
    coefficients = [x.to(device=device, dtype=dtype) for x in (schedule.sigma, schedule.drift, schedule.diffusion)]
    levels = schedule.sigma.tolist()
    if compile:
        # Its parts and not the step: they serve batches of any size, where a step would be compiled for each anew.
        model.decoder.compile_blocks()
    step = Graphed(make_step(model, frame.seed, schedule.keep_types, schedule.keep_composition), device)
    small = device.type == "cpu" and frame.crystals.atomic_numbers.numel() <= SMALL_BATCH
    if yield_first:
        yield frame
    while not frame.finished:
        i = frame.step
        crystals = frame.crystals
        now = (index[i], *(x[i] for x in coefficients))
        with one_thread(small):
            frac, types, score = step(
                crystals.frac_coords, crystals.atomic_numbers, crystals.lattice, images, frame.z, frame.numbers, *now
            )
        frame = replace(
            frame,
            step=i + 1,
            sigma=levels[i],
            crystals=crystals.replace(frac_coords=frac, atomic_numbers=types),
            score=score,
        )
        yield frame


def reconstruct(
    model: CDVAE,
    source: object,
    *,
    sampled: bool = False,
    seed: int = 0,
    sampler: str | Schedule = "ancestral",
    first_number: int = 0,
    compile: bool = False,
    **settings: Any,
) -> Iterator[DenoisingFrame]:
    """Encode crystals and decode them again; yields frames like `denoise`, the last one holds the result.

    Args:
        source: files, pymatgen Structures or ASE Atoms, as `convert.read` takes them; Crystals are taken as they are.
        sampled: decode a sample of the posterior, as the reference does, instead of its mean.
        seed, sampler, first_number, compile, settings: of `denoise`.

    Raises:
        CrystalError: for crystals that the model cannot take.
        SettingError: for settings out of range.
    """
    z = posterior_latents(model, source, sampled, seed, first_number)
    return denoise(model, z=z, seed=seed, sampler=sampler, first_number=first_number, compile=compile, **settings)


@torch.no_grad()
def posterior_latents(
    model: CDVAE, source: object, sampled: bool = False, seed: int = 0, first_number: int = 0
) -> Float[Tensor, "crystals latent"]:
    """The latents that `reconstruct` decodes; arguments and errors are its own."""
    if isinstance(source, Crystals):
        check_takes(model, source)
        crystals = source.to(model.device, model.lattice_mean.dtype)
    else:
        crystals = read_for(model, source)
    posterior = model.encode(crystals)
    if not sampled:
        return posterior.mu
    numbers = torch.arange(first_number, first_number + len(crystals), device=model.device)
    shape = (model.config.latent_dim,)
    return posterior.sample(noise.normal(seed, Stream.LATENT, numbers, 0, shape, posterior.mu.dtype))
