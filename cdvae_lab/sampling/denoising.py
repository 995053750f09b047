"""Denoising as a generator: `denoise(...)` yields a `DenoisingFrame` after every call of the network.

The start is decoded from z alone: number of atoms, lattice and composition by the model's heads, positions uniform in
the cell (paper, section 4.3). Every sampler then takes the same step,

    x      <-  x + drift * score(x, sigma) + diffusion * eps,       eps ~ N(0, I),
    types  <-  argmax of the type logits,

with the coefficients of its `Schedule`; the loop is the same for all samplers.

Random numbers are a function of (seed, crystal number, atom, step) alone, so that a crystal has the same noise in
every batch, on every device and in a resumed run.

See docs/explanation/algorithm.md, section 4; departures D15, D16, D18, D19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.crystals.size_groups import size_groups
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.atom_types import assign_types, predicted_types
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.latent_prior import LatentPrior
from cdvae_lab.models.latents import check_latents, crystal_numbers, draw_latents, latents_of
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed
from cdvae_lab.runtime.cuda_graphs import Graphed
from cdvae_lab.runtime.threads import fast_matmul, one_thread
from cdvae_lab.sampling.frames import Frame, last, refuse_contradictions
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import DEFAULT, SamplerSettings

SMALL_BATCH = 50  # sites in all; up to here one CPU thread is as fast as two, or faster


@dataclass(frozen=True, eq=False, repr=False)
class DenoisingFrame(Frame):
    """State of a run after a step, complete enough to resume from.

    Attributes:
        step: calls of the network so far; 0 is the start.
        sigma: noise level of the step before this frame, Å; in frame 0, of the first step.
        crystals: positions, types and lattices now.
        score: the gradient of the log-density that the step followed, 1/Å; zero in frame 0.
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


def denoise(
    model: ModelOrName,
    n: int | None = None,
    *,
    z: Float[Tensor, "crystals latent"] | None = None,
    frame: DenoisingFrame | None = None,
    seed: int | None = None,
    sampler: str | Schedule | None = None,
    prior: LatentPrior | None = None,
    first_number: int | None = None,
    compile: bool = False,
    **settings: Unpack[SamplerSettings],
) -> Iterator[DenoisingFrame]:
    """Generate crystals; yields the start and then a frame after every call of the network.

    Start from the prior (`n`), from latents (`z`), or resume from a frame: exactly as the run would have continued at
    the same batching, or with another `seed` on a branch of it.

    A crystal has the same noise in every batch. Positions then differ between batches, and between a CPU and a GPU, by
    rounding, which "renoising" and "langevin" amplify from step to step, so that single crystals differ and statistics
    do not. "ancestral" amplifies it little (crystals of few atoms agree to 1e-3 Å in float32).

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        n: number of crystals to draw from the prior.
        z: latents to decode.
        frame: where to resume; it carries its own sampler and numbers.
        seed: of everything random; 0 by default, the frame's own when a run is resumed.
        sampler: "renoising" (default, 200 calls), "ancestral" (200 calls), "probability_flow" (100 calls) or "langevin"
            (the paper's: 50 levels of 100 calls); a named setting: "preview" (50 calls of renoising), "standard" (200)
            or "paper"; or a `Schedule`.
        prior: what the latents of `n` crystals are drawn from; by default the model's learned one, N(0, I) without. If
            it draws a composition first, crystals begin with that, and `types="assigned"` keeps to it.
        first_number: number of the first crystal (0); crystals of other numbers have other noise.
        compile: compile the model's decoder with torch.compile, for good: about a minute before the first frame, for
            long runs on a GPU.
        settings: of the sampler, such as `steps` and `types`; see `SamplerSettings`.

    Raises:
        SettingError: for anything out of range, or that contradicts the frame, before any work.

    Examples:
        >>> import cdvae_lab as lab
        >>> model = lab.load("perov_5")
        >>> frames = list(lab.denoise(model, n=2, seed=0, steps=20))
        >>> frames[-1]
        <DenoisingFrame: step 20 of 20, 2 crystals, sigma 0.01 Å>

        Resume from any frame, or branch with another seed:

        >>> again = lab.last(lab.denoise(model, frame=frames[10]))
        >>> bool((again.crystals.frac_coords == frames[-1].crystals.frac_coords).all())
        True
        >>> branch = lab.last(lab.denoise(model, frame=frames[10], seed=1))
    """
    model = as_model(model)
    if sum(given is not None for given in (n, z, frame)) != 1:
        raise SettingError("denoise starts from exactly one of n (crystals from the prior), z (latents) or frame")
    if prior is not None and n is None:
        raise SettingError("a prior is what n crystals are drawn from; z or a frame has its latents already")
    check_seed(seed or 0)
    if frame is not None:
        return _resumed(model, frame, seed, sampler, first_number, compile, settings)
    seed, first_number = seed or 0, first_number or 0
    schedule = choose_schedule(model, sampler or DEFAULT, **settings)
    atoms = None
    if z is None:
        assert n is not None
        z, atoms = draw_latents(model, n, prior, seed, first_number)
    z = latents_of(model, z)
    numbers = crystal_numbers(model, len(z), seed, first_number)
    first = initial_frame(model, z, numbers, seed, schedule, atomic_numbers=atoms)
    return _run(model, first, compile, yield_first=True)


def _resumed(
    model: CDVAE,
    frame: DenoisingFrame,
    seed: int | None,
    sampler: str | Schedule | None,
    first_number: int | None,
    compile: bool,
    settings: SamplerSettings,
) -> Iterator[DenoisingFrame]:
    check_latents(model, frame.z)
    given: dict[str, Any] = {}
    if sampler is not None or settings:
        given["sampler"] = choose_schedule(model, sampler or DEFAULT, **settings)
    if first_number is not None:
        given["numbers"] = crystal_numbers(model, len(frame.numbers), 0, first_number).to(frame.numbers.device)
    refuse_contradictions("frame", {"sampler": frame.schedule, "numbers": frame.numbers}, given)
    if frame.finished:
        raise SettingError(
            f"the frame is the last of its {frame.num_steps} steps; resume from an earlier one, or start a new run "
            "from its z"
        )
    return _run(model, frame if seed is None else replace(frame, seed=seed), compile)


@torch.no_grad()
def initial_frame(
    model: CDVAE,
    z: Float[Tensor, "crystals latent"],
    numbers: Int[Tensor, " crystals"],
    seed: int,
    schedule: Schedule,
    *,
    num_atoms: Int[Tensor, " crystals"] | None = None,
    atomic_numbers: Int[Tensor, "crystals sites"] | None = None,
) -> DenoisingFrame:
    """Create frame 0: number of atoms, lattice and elements predicted from z, uniform positions (paper, section 4.3).

    Args:
        num_atoms: number of atoms, instead of that predicted from z; the lattice is scaled to it.
        atomic_numbers: elements, and with them number of atoms, instead of those of z; 0 for no atom, at the end.
            A schedule with `keep_types` does not change them.
    """
    aggregates = model.aggregates(z)
    if atomic_numbers is not None:
        num_atoms = (atomic_numbers > 0).sum(1)
    elif num_atoms is None:
        num_atoms = aggregates.num_atoms
    sites = int(num_atoms.max())
    exists = torch.arange(sites, device=z.device) < num_atoms[:, None]
    frac = noise.uniform(seed, Stream.START, numbers, 0, (sites, 3), z.dtype) * exists[..., None]
    types = predicted_types(model, aggregates, num_atoms) if atomic_numbers is None else atomic_numbers[:, :sites]
    crystals = Crystals(frac, types, model.predict_lattice(aggregates, num_atoms))
    return DenoisingFrame(0, float(schedule.sigma[0]), crystals, torch.zeros_like(frac), z, numbers, seed, schedule)


def noise_predictor(model: CDVAE, crystals: Crystals) -> Callable[[Crystals, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return `model.predict_noise` for crystals that keep their cells and numbers of atoms, in groups of similar size.

    Args:
        crystals: the batch; the function takes it with other positions and elements, z and one sigma for all.
    """
    groups = size_groups(crystals.num_atoms)
    images = [periodic_images(crystals.lattice[group.rows], model.config.cutoff) for group in groups]

    def predict(crystals: Crystals, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.zeros_like(crystals.frac_coords)
        logits = p.new_zeros(*crystals.atomic_numbers.shape, NUM_ELEMENTS)
        for group, near in zip(groups, images, strict=True):
            part, rows = group.of(crystals), group.rows
            p[rows, : group.sites], logits[rows, : group.sites] = model.predict_noise(
                part, z[rows], sigma.expand(len(part)), near
            )
        return p, logits

    return predict


def denoising_step(
    model: CDVAE, seed: int, schedule: Schedule, crystals: Crystals
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return the pure step of a schedule: tensors to tensors, without waiting for the device.

    Args:
        crystals: the batch; the step takes it with other positions and elements.
    """
    predict_noise = noise_predictor(model, crystals)
    unseen = ~model.elements[1:]
    keep_types, keep_composition = schedule.keep_types, schedule.keep_composition

    @torch.no_grad()
    def step(
        frac_coords: Tensor,
        atomic_numbers: Tensor,
        lattice: Tensor,
        z: Tensor,
        numbers: Tensor,
        index: Tensor,
        sigma: Tensor,
        drift: Tensor,
        diffusion: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        crystals = Crystals(frac_coords, atomic_numbers, lattice)
        with fast_matmul(frac_coords.device):
            p, logits = predict_noise(crystals, z, sigma)
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
    noise.prepare(device)
    index = torch.arange(len(schedule), device=device)
    coefficients = [x.to(device=device, dtype=dtype) for x in (schedule.sigma, schedule.drift, schedule.diffusion)]
    levels = [float(sigma) for sigma in schedule.sigma]
    if compile:
        # The network's blocks and not the step: they serve batches of any size, where a step would be compiled for
        # each size again.
        model.decoder.compile_blocks()
    step = Graphed(denoising_step(model, frame.seed, schedule, frame.crystals), device)
    small = device.type == "cpu" and frame.crystals.atomic_numbers.numel() <= SMALL_BATCH
    if yield_first:
        yield frame
    while not frame.finished:
        i = frame.step
        crystals = frame.crystals
        now = (index[i], *(x[i] for x in coefficients))
        with one_thread(small):
            frac, types, score = step(
                crystals.frac_coords, crystals.atomic_numbers, crystals.lattice, frame.z, frame.numbers, *now
            )
        frame = replace(
            frame,
            step=i + 1,
            sigma=levels[i],
            crystals=crystals.replace(frac_coords=frac, atomic_numbers=types),
            score=score,
        )
        yield frame


def generate(
    model: ModelOrName,
    n: int,
    *,
    seed: int = 0,
    sampler: str | Schedule | None = None,
    prior: LatentPrior | None = None,
    first_number: int = 0,
    compile: bool = False,
    **settings: Unpack[SamplerSettings],
) -> Crystals:
    """Generate crystals from the prior and return them: the last frame's crystals of `denoise`.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        n: number of crystals.
        seed, sampler, prior, first_number, compile, settings: as in `denoise`.

    Raises:
        SettingError: for settings out of range.

    Examples:
        >>> import cdvae_lab as lab
        >>> crystals = lab.generate(lab.load("perov_5"), 3, steps=20)
        >>> len(crystals)
        3
    """
    frames = denoise(
        model, n, seed=seed, sampler=sampler, prior=prior, first_number=first_number, compile=compile, **settings
    )
    return last(frames).crystals
