"""Samplers against distributions of known score; frames that hold the whole state; settings refused at the call."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.models.aggregates import Aggregates
from cdvae_lab.models.atom_types import assign_types, initial_types
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.latent_prior import StandardNormal
from cdvae_lab.models.latents import encode
from cdvae_lab.models.noise import dense_levels, geometric_levels
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise, generate, initial_frame
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import NAMED
from tests.small_model import SMALL

PAPER = CDVAEConfig(max_atoms=5)
SAMPLERS = {
    "langevin": {"steps_per_level": 1},
    "ancestral": {"steps": 12},
    "renoising": {"steps": 12},
    "probability_flow": {"steps": 12},
}


# A Gaussian, whose score every textbook has

LENGTH = 34.64  # Å; uniform positions in such a cell have the variance of the largest noise level, 10 Å
ATOMS = 4
CENTER = 0.5


class Gaussian(CDVAE):
    """Knows the score of atoms that are normal around the middle of a cubic cell, with a deviation in Å."""

    def __init__(self, deviation: float) -> None:
        super().__init__(CDVAEConfig(max_atoms=ATOMS, **{**SMALL, "latent_dim": 1}))
        self.deviation = deviation

    def aggregates(self, z: Tensor) -> Aggregates:
        n = len(z)
        sizes = torch.zeros(n, ATOMS + 1, dtype=z.dtype)
        sizes[:, ATOMS] = 1
        length, angle = torch.full((n, 3), LENGTH / ATOMS ** (1 / 3)), torch.full((n, 3), 90.0)
        return Aggregates(sizes, torch.cat([length, angle], 1).to(z), z.new_zeros(n, 100), z.new_zeros(n))

    def predict_noise(
        self, crystals: Crystals, z: Tensor, sigma: Tensor, images: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        away = offset(crystals)
        variance = (self.deviation**2 + sigma**2)[:, None, None]
        return -away / variance * sigma[:, None, None], z.new_zeros(*crystals.atomic_numbers.shape, 100)


def offset(crystals: Crystals) -> Tensor:
    """Return the offset of atoms from the middle of the cell, Å."""
    return lat.minimum_image(crystals.frac_coords - CENTER, crystals.lattice)


def sample(deviation: float, schedule: Schedule, n: int = 150) -> list[DenoisingFrame]:
    return list(denoise(Gaussian(deviation).double(), n=n, seed=1, sampler=schedule))


def assert_spread(x: Tensor, expected: float) -> None:
    """Mean 0 and the expected deviation, within four standard errors."""
    x, n = x.flatten(), x.numel()
    assert abs(x.mean().item()) < 4 * expected / n**0.5
    assert x.std().item() == pytest.approx(expected, rel=4 / (2 * n) ** 0.5)


@pytest.mark.parametrize(
    "schedule",
    [Schedule.langevin(PAPER, 10), Schedule.ancestral(PAPER, 300), Schedule.probability_flow(PAPER, 300)],
    ids=lambda s: s.name,
)
@pytest.mark.parametrize("deviation", [0.05, 0.5])
def test_every_sampler_ends_in_the_distribution_whose_score_it_follows(schedule: Schedule, deviation: float) -> None:
    x = offset(sample(deviation, schedule)[-1].crystals).flatten()
    assert abs(x.mean().item()) < 4 * deviation / len(x) ** 0.5
    # The steps are finite: a tenth of the deviation is theirs.
    assert x.std().item() == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 1.5])
def test_langevin_leaves_the_variance_that_its_last_step_removes(ratio: float) -> None:
    schedule = Schedule.langevin(PAPER, 10, step_size=ratio * PAPER.sigma_min**2)
    *_, before_last, cleaned = sample(0.0, schedule)
    left = PAPER.sigma_min * (2 / (2 - ratio)) ** 0.5
    assert_spread(offset(before_last.crystals), left)
    assert schedule.sigma[-1].item() == pytest.approx(left)
    # The cleaned positions are the posterior mean: of atoms that were not spread at all, their place.
    assert offset(cleaned.crystals).abs().max() < 1e-9


def test_a_schedule_without_its_last_step_ends_one_frame_earlier() -> None:
    schedule = Schedule.ancestral(PAPER, 8)
    whole, shorter = (sample(0.1, s, n=2) for s in (schedule, schedule.without_last()))
    assert len(shorter) == len(whole) - 1
    assert shorter[-1].finished
    assert torch.equal(shorter[-1].crystals.frac_coords, whole[-2].crystals.frac_coords)


def test_ancestral_steps_keep_the_variance_of_their_level_exactly() -> None:
    schedule = Schedule.ancestral(PAPER, 60)
    frames = sample(0.0, schedule)
    assert_spread(offset(frames[-2].crystals), PAPER.sigma_min)
    for step in (20, 40):
        assert_spread(offset(frames[step].crystals), schedule.sigma[step].item())
    assert offset(frames[-1].crystals).abs().max() < 1e-9


def test_renoising_has_the_noise_of_every_level_around_a_point() -> None:
    schedule = Schedule.renoising(PAPER, 60)
    frames = sample(0.0, schedule)
    for step in (20, 40, 59):
        assert_spread(offset(frames[step].crystals), schedule.sigma[step].item())
    assert offset(frames[-1].crystals).abs().max() < 1e-9


@pytest.mark.parametrize("deviation", [0.05, 0.5])
def test_renoising_has_the_variances_that_its_steps_give_a_gaussian(deviation: float) -> None:
    # x <- E[x0 | x] + sigma' eps, and E[x0 | x] = x s^2 / (s^2 + sigma^2).
    schedule = Schedule.renoising(PAPER, 80)
    frames = sample(deviation, schedule, n=400)
    variance = LENGTH**2 / 12
    levels = [*schedule.sigma.tolist()[1:], 0.0]
    for step, (sigma, then) in enumerate(zip(schedule.sigma.tolist(), levels, strict=True), start=1):
        variance = variance * (deviation**2 / (deviation**2 + sigma**2)) ** 2 + then**2
        if step in (40, 60, 79, 80):
            assert_spread(offset(frames[step].crystals), variance**0.5)


def test_many_renoising_steps_keep_half_the_variance_of_a_gaussian() -> None:
    x = offset(sample(0.5, Schedule.renoising(PAPER, 800), n=100)[-1].crystals)
    assert_spread(x, 0.5 / 2**0.5)


@pytest.mark.parametrize("steps", [6, 7, 25, 50, 200, 501])
def test_dense_levels_descend_from_end_to_end_with_most_of_them_in_the_middle(steps: int) -> None:
    sigma = Schedule.renoising(PAPER, steps).sigma
    assert len(sigma) == steps
    assert (sigma[0].item(), sigma[-1].item()) == pytest.approx((10, 0.01))
    assert (sigma.diff() < 0).all()
    assert int(((sigma <= 1 + 1e-9) & (sigma >= 0.1 - 1e-9)).sum()) == round(0.7 * steps)


def test_levels_are_geometric_where_they_are_asked_for_or_nothing_is_in_the_middle() -> None:
    geometric = geometric_levels(10.0, 0.01, 50)
    assert torch.equal(Schedule.renoising(PAPER, 50, "geometric").sigma, geometric)
    assert torch.equal(dense_levels(10.0, 0.01, 5), geometric_levels(10.0, 0.01, 5))
    assert torch.equal(dense_levels(0.9, 0.01, 50), geometric_levels(0.9, 0.01, 50))
    with pytest.raises(SettingError, match="levels is 'dense' or 'geometric', not 'rho'"):
        Schedule.renoising(PAPER, 50, "rho")


def test_probability_flow_is_the_deterministic_shrinking_that_it_should_be() -> None:
    frames = sample(0.0, Schedule.probability_flow(PAPER, 100), n=20)
    ratio = (PAPER.sigma_min / PAPER.sigma_max) ** (1 / 99)
    shrunk = offset(frames[0].crystals) * (0.5 * (1 + ratio**2)) ** 99
    torch.testing.assert_close(offset(frames[-2].crystals), shrunk, rtol=1e-6, atol=1e-12)
    assert offset(frames[-1].crystals).abs().max() < 1e-9


@pytest.mark.parametrize(
    "maker", [Schedule.langevin, Schedule.ancestral, Schedule.renoising, Schedule.probability_flow]
)
def test_the_last_step_is_tweedies_formula(maker) -> None:
    schedule, deviation = maker(PAPER, 10), 0.02
    *_, before, after = sample(deviation, schedule, n=5)
    left = schedule.sigma[-1].item()
    posterior_mean = offset(before.crystals) * deviation**2 / (deviation**2 + left**2)
    torch.testing.assert_close(offset(after.crystals), posterior_mean, rtol=1e-9, atol=1e-12)


def test_schedules_have_the_papers_numbers() -> None:
    langevin = Schedule.langevin(PAPER)
    assert len(langevin) == 50 * 100 + 1
    assert len(Schedule.ancestral(PAPER)) == len(Schedule.renoising(PAPER)) == 200
    assert len(Schedule.probability_flow(PAPER)) == 100
    assert langevin.sigma[0] == 10
    assert langevin.sigma[4999].item() == pytest.approx(0.01)
    assert len(langevin.sigma[:-1].unique()) == 50
    # a = 1e-4 (sigma / 0.01)^2, and sqrt(2 a) for the noise.
    torch.testing.assert_close(langevin.drift[:-1], 1e-4 * (langevin.sigma[:-1] / 0.01) ** 2)
    torch.testing.assert_close(langevin.diffusion[:-1] ** 2, 2 * langevin.drift[:-1])
    for schedule in (langevin, *(make(PAPER) for make in (Schedule.ancestral, Schedule.renoising))):
        assert schedule.diffusion[-1] == 0
        assert (schedule.sigma[:-1].diff() <= 0).all()
        assert schedule.drift[-1] == schedule.sigma[-1] ** 2
        assert len(schedule.without_last()) == len(schedule) - 1


# The real network, untrained: what does not depend on what it has learned


@pytest.fixture(scope="module")
def model() -> CDVAE:
    """Crystals of several sizes, a few elements, in float64."""
    torch.manual_seed(3)
    model = CDVAE(CDVAEConfig(max_atoms=8, **SMALL)).eval()
    model.lattice_mean.copy_(torch.tensor([2.4, 2.4, 2.4, 90, 90, 90]))
    model.elements.zero_()
    model.elements[[3, 8, 22, 56]] = True
    with torch.no_grad():  # latents that tell crystals apart, and scores that move them
        for head in (model.num_atoms_head.hidden, model.composition_head.hidden, model.type_head):
            head[-1].weight.mul_(20)
        model.score_gate[-1].weight.mul_(5)
    return model.double()


def final(frames: Iterator[DenoisingFrame]) -> DenoisingFrame:
    *_, frame = frames
    return frame


def assert_same(a: DenoisingFrame, b: DenoisingFrame) -> None:
    assert (a.step, a.sigma, a.seed, a.finished) == (b.step, b.sigma, b.seed, b.finished)
    for name in ("frac_coords", "atomic_numbers", "lattice"):
        assert torch.equal(getattr(a.crystals, name), getattr(b.crystals, name)), name
    assert torch.equal(a.score, b.score)
    assert torch.equal(a.z, b.z)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_count_the_calls_of_the_network(model: CDVAE, sampler: str) -> None:
    frames = list(denoise(model, n=2, sampler=sampler, **SAMPLERS[sampler]))
    calls = 51 if sampler == "langevin" else 12
    assert [f.step for f in frames] == list(range(calls + 1))
    assert {f.num_steps for f in frames} == {calls}
    assert [f.finished for f in frames] == [False] * calls + [True]
    assert [f.sigma for f in frames[1:]] == frames[0].schedule.sigma.tolist()
    assert frames[0].sigma == 10
    assert (frames[0].score == 0).all()


def test_the_default_is_two_hundred_steps_of_renoising(model: CDVAE) -> None:
    frame = next(denoise(model, n=1))
    assert frame.num_steps == 200
    assert frame.schedule.name == "renoising"
    assert frame.schedule.keep_composition
    assert torch.equal(frame.schedule.sigma, choose_schedule(model, "standard").sigma)
    assert frame.seed == 0


def test_a_frame_holds_the_score_that_its_step_followed(model: CDVAE) -> None:
    frames = list(denoise(model, n=3, sampler="probability_flow", steps=6, types="argmax"))
    for before, after in itertools.pairwise(frames):
        sigma = torch.full((3,), after.sigma, dtype=torch.float64)
        p, logits = model.predict_noise(before.crystals, before.z, sigma)
        torch.testing.assert_close(after.score, (p / after.sigma).detach())
        drift = after.schedule.drift[before.step]
        step = lat.minimum_image(after.crystals.frac_coords - before.crystals.frac_coords, after.crystals.lattice, 3)
        expected = lat.minimum_image(
            lat.cart_to_frac(drift * after.score, after.crystals.lattice), after.crystals.lattice, 3
        )
        mask = after.crystals.mask
        torch.testing.assert_close(step[mask], expected[mask], rtol=0, atol=1e-9)
        allowed = torch.tensor([3, 8, 22, 56])
        best = allowed[logits[..., allowed - 1].argmax(-1)]
        assert torch.equal(after.crystals.atomic_numbers[mask], best[mask])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_crystals_stay_possible_all_the_way(model: CDVAE, sampler: str) -> None:
    frames = list(denoise(model, n=20, seed=3, sampler=sampler, **SAMPLERS[sampler]))
    sizes = frames[0].crystals.num_atoms
    assert sizes.min() >= 1
    assert len(sizes.unique()) > 1
    for frame in frames:
        crystals = frame.crystals
        assert torch.equal(crystals.num_atoms, sizes)
        assert set(crystals.atomic_numbers.unique().tolist()) <= {0, 3, 8, 22, 56}
        assert ((crystals.frac_coords >= 0) & (crystals.frac_coords < 1)).all()
        assert (crystals.frac_coords[~crystals.mask] == 0).all()
        assert (frame.score[~crystals.mask] == 0).all()
        assert torch.equal(crystals.lattice, frames[0].crystals.lattice)
    assert len(frames[-1].crystals.to_structures()) == 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_frame_resumes_as_the_run_did(model: CDVAE, sampler: str) -> None:
    whole = list(denoise(model, n=3, seed=5, sampler=sampler, **SAMPLERS[sampler]))
    for k in (0, 1, len(whole) // 2, len(whole) - 2):
        rest = list(denoise(model, frame=whole[k]))
        assert len(rest) == len(whole) - 1 - k
        for again, frame in zip(rest, whole[k + 1 :], strict=True):
            assert_same(again, frame)


def test_another_seed_branches_and_the_same_does_not(model: CDVAE) -> None:
    frames = list(denoise(model, n=3, seed=5, steps=12))
    same, branch = (final(denoise(model, frame=frames[6], seed=seed)) for seed in (5, 6))
    assert_same(same, frames[-1])
    assert branch.seed == 6
    assert not torch.allclose(branch.crystals.frac_coords, frames[-1].crystals.frac_coords, atol=1e-3)
    assert torch.equal(branch.crystals.lattice, frames[-1].crystals.lattice)


def test_a_latent_alone_decides_the_cell_and_a_seed_the_rest(model: CDVAE) -> None:
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, again, other = (final(denoise(model, z=z, seed=seed, steps=5)) for seed in (1, 1, 2))
    assert_same(one, again)
    assert torch.equal(one.crystals.lattice, other.crystals.lattice)
    assert not torch.equal(one.crystals.frac_coords, other.crystals.frac_coords)
    prior = next(denoise(model, n=500, seed=3))
    assert abs(prior.z.mean().item()) < 0.05
    assert prior.z.std().item() == pytest.approx(1, abs=0.05)


def test_frames_are_frozen_and_stay_as_they_were(model: CDVAE) -> None:
    frames, copies = [], []
    for frame in denoise(model, n=3, steps=8):
        frames.append(frame)
        copies.append([frame.crystals.frac_coords.clone(), frame.crystals.atomic_numbers.clone(), frame.score.clone()])
    for frame, (frac, numbers, score) in zip(frames, copies, strict=True):
        assert torch.equal(frame.crystals.frac_coords, frac)
        assert torch.equal(frame.crystals.atomic_numbers, numbers)
        assert torch.equal(frame.score, score)
    assert not torch.equal(copies[0][0], copies[-1][0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        frames[0].step = 3  # type: ignore[misc]


def test_the_consumers_loop_keeps_its_gradients(model: CDVAE) -> None:
    precision = torch.get_float32_matmul_precision()
    z = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    for frame in denoise(model, z=z, steps=4):
        assert torch.is_grad_enabled()
        assert (2 * torch.ones(1, requires_grad=True)).requires_grad
        assert torch.get_float32_matmul_precision() == precision
        for tensor in (frame.score, frame.z, frame.crystals.frac_coords, frame.crystals.lattice):
            assert not tensor.requires_grad


def test_crystals_are_drawn_from_the_prior_that_is_given(model: CDVAE) -> None:
    class Doubled(StandardNormal):
        def sample(self, seed: int, numbers: Tensor) -> Tensor:
            return 2 * super().sample(seed, numbers)

    standard = StandardNormal(8, torch.float64)
    plain = next(denoise(model, n=3, seed=4, first_number=2)).z
    assert torch.equal(next(denoise(model, n=3, seed=4, first_number=2, prior=standard)).z, plain)
    assert torch.equal(next(denoise(model, n=3, seed=4, first_number=2, prior=Doubled(8, torch.float64))).z, 2 * plain)
    assert next(denoise(model, n=1, prior=StandardNormal(8))).z.dtype == torch.float64
    with pytest.raises(SettingError, match=r"z must be \(crystals, 8\)"):
        denoise(model, n=1, prior=StandardNormal(7))
    with pytest.raises(SettingError, match="has its latents already"):
        denoise(model, z=plain, prior=standard)


# Settings by name


@pytest.mark.parametrize(
    ("name", "calls", "same"),
    [
        ("preview", 50, Schedule.renoising(PAPER, 50)),
        ("standard", 200, Schedule.renoising(PAPER)),
        ("paper", 5001, Schedule.langevin(PAPER)),
    ],
)
def test_a_named_setting_is_its_sampler_with_its_settings(model: CDVAE, name: str, calls: int, same: Schedule) -> None:
    schedule = choose_schedule(model, name)
    assert len(schedule) == calls
    assert (schedule.name, schedule.keep_types, schedule.keep_composition) == (same.name, False, name != "paper")
    for part in ("sigma", "drift", "diffusion"):
        assert torch.equal(getattr(schedule, part), getattr(same, part))
    assert choose_schedule(model, name, types="assigned").keep_composition
    assert not choose_schedule(model, name, types="argmax").keep_composition
    assert next(denoise(model, n=1, sampler=name)).num_steps == calls


def test_choosing_a_named_setting_leaves_the_table_as_it_is(model: CDVAE) -> None:
    before = {name: dict(settings) for name, (_, settings) in NAMED.items()}
    for name in NAMED:
        choose_schedule(model, name, types="assigned")
    assert {name: settings for name, (_, settings) in NAMED.items()} == before


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_types_are_the_likeliest_or_the_compositions_of_z(model: CDVAE, sampler: str) -> None:
    runs = {
        types: list(denoise(model, n=20, seed=3, sampler=sampler, **SAMPLERS[sampler], **given))
        for types, given in (("default", {}), ("argmax", {"types": "argmax"}), ("assigned", {"types": "assigned"}))
    }
    assert_same(runs["default"][-1], runs["assigned"][-1])
    begun = runs["assigned"][0].crystals.atomic_numbers
    assert torch.equal(begun, runs["argmax"][0].crystals.atomic_numbers)
    for frame in runs["assigned"]:
        assert torch.equal(frame.crystals.atomic_numbers.sort(1).values, begun.sort(1).values)
    assert any(not torch.equal(frame.crystals.atomic_numbers, begun) for frame in runs["assigned"])
    assert not torch.equal(runs["argmax"][-1].crystals.atomic_numbers.sort(1).values, begun.sort(1).values)


# What is held instead of predicted


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_types_stay_where_the_schedule_keeps_them(model: CDVAE, sampler: str) -> None:
    schedule = choose_schedule(model, sampler, **SAMPLERS[sampler])
    schedule = dataclasses.replace(schedule, keep_composition=False)
    free = list(denoise(model, n=20, seed=3, sampler=schedule))
    kept = list(denoise(model, n=20, seed=3, sampler=dataclasses.replace(schedule, keep_types=True)))
    assert torch.equal(kept[0].crystals.atomic_numbers, free[0].crystals.atomic_numbers)
    assert not torch.equal(free[-1].crystals.atomic_numbers, free[0].crystals.atomic_numbers)
    for frame in kept:
        assert torch.equal(frame.crystals.atomic_numbers, kept[0].crystals.atomic_numbers)
    assert not torch.equal(kept[-1].crystals.frac_coords, kept[0].crystals.frac_coords)
    assert_same(final(denoise(model, frame=kept[2])), kept[-1])
    assert schedule.without_last().keep_types is False
    assert dataclasses.replace(schedule, keep_types=True).without_last().keep_types


def test_given_atoms_replace_those_predicted_from_z(model: CDVAE) -> None:
    z = StandardNormal(8, torch.float64).sample(0, torch.arange(4))
    numbers, schedule = torch.arange(4), Schedule.ancestral(PAPER, 5)
    aggregates = model.aggregates(z)
    sizes = torch.tensor([1, 8, 3, 5])
    frame = initial_frame(model, z, numbers, 0, schedule, num_atoms=sizes)
    assert torch.equal(frame.crystals.num_atoms, sizes)
    assert torch.equal(frame.crystals.lattice, model.predict_lattice(aggregates, sizes))
    types = torch.tensor([[3, 8, 0, 0], [8, 8, 22, 0], [56, 0, 0, 0], [3, 3, 3, 0]])
    frame = initial_frame(model, z, numbers, 0, schedule, atomic_numbers=types)
    assert torch.equal(frame.crystals.atomic_numbers, types[:, :3])
    assert torch.equal(frame.crystals.lattice, model.predict_lattice(aggregates, torch.tensor([2, 3, 1, 3])))


# Batching


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_float64_a_crystal_does_not_know_its_batch(model: CDVAE, sampler: str) -> None:
    settings = {"seed": 9, "sampler": sampler, **SAMPLERS[sampler]}
    together = list(denoise(model, n=6, **settings))
    parts = [list(denoise(model, n=2, first_number=2 * i, **settings)) for i in range(3)]
    alone = [list(denoise(model, z=together[0].z[i : i + 1], first_number=i, **settings)) for i in range(6)]
    for step in (0, 1, -1):
        for i in range(6):
            whole = together[step].crystals[i].trim()
            for other in (parts[i // 2][step].crystals[i % 2].trim(), alone[i][step].crystals):
                assert torch.equal(other.atomic_numbers, whole.atomic_numbers)
                torch.testing.assert_close(other.lattice, whole.lattice)
                moved = lat.minimum_image(other.frac_coords - whole.frac_coords, whole.lattice)
                assert moved.abs().max() < 1e-8


def test_in_float32_few_crystals_depend_on_their_batch(model: CDVAE) -> None:
    single = CDVAE(model.config)
    single.load_state_dict(model.state_dict())
    single.eval()
    together = final(denoise(single, n=120, seed=4, steps=20)).crystals
    parts = [final(denoise(single, n=30, seed=4, steps=20, first_number=30 * i)).crystals for i in range(4)]
    again = Crystals.cat(parts).pad(together.num_sites)
    away = lat.minimum_image(again.frac_coords - together.frac_coords, together.lattice).norm(dim=-1).amax(1)
    same = (away < 1e-3) & (again.atomic_numbers == together.atomic_numbers).all(1)
    assert same.double().mean() >= 0.99


@pytest.mark.parametrize("which", [[5, 0, 3], [2], slice(1, 4), [4, 4]])
def test_a_selection_of_a_frame_has_the_noise_of_its_crystals(model: CDVAE, which: list[int] | slice) -> None:
    frames = list(denoise(model, n=6, seed=3, steps=12, first_number=2))
    some = final(denoise(model, frame=frames[2].select(which)))
    rows = list(range(6))[which] if isinstance(which, slice) else which
    assert some.numbers.tolist() == [row + 2 for row in rows]
    assert torch.equal(some.crystals.atomic_numbers, frames[-1].crystals.atomic_numbers[rows])
    moved = some.crystals.frac_coords - frames[-1].crystals.frac_coords[rows]
    assert lat.minimum_image(moved, some.crystals.lattice).abs().max() < 1e-8


def test_generating_is_the_end_of_denoising(model: CDVAE) -> None:
    settings = {"seed": 3, "sampler": "renoising", "steps": 5, "first_number": 2, "prior": StandardNormal(8)}
    crystals, frame = generate(model, 3, **settings), final(denoise(model, 3, **settings))
    assert torch.equal(crystals.frac_coords, frame.crystals.frac_coords)


# Types at the start


def types_for(shares: dict[int, float], num_atoms: int, n: int = 1) -> Tensor:
    composition = torch.zeros(n, 100, dtype=torch.float64)
    for number, share in shares.items():
        composition[:, number - 1] = share
    return initial_types(composition, torch.full((n,), num_atoms), num_atoms)


def test_a_composition_that_fits_is_taken_as_it_is() -> None:
    assert types_for({8: 0.6, 22: 0.2, 38: 0.2}, 5)[0].sort().values.tolist() == [8, 8, 8, 22, 38]
    assert types_for({6: 1.0}, 3).tolist() == [[6, 6, 6]]
    assert types_for({8: 0.58, 22: 0.23, 38: 0.19}, 5)[0].sort().values.tolist() == [8, 8, 8, 22, 38]


def test_counts_add_up_and_the_largest_remainders_go_up() -> None:
    types = types_for({8: 0.52, 22: 0.25, 38: 0.23}, 5)[0]  # 2.6, 1.25 and 1.15 atoms: 3, 1 and 1
    assert types.tolist() == [8, 8, 8, 22, 38]
    types = types_for({8: 0.48, 22: 0.28, 38: 0.24}, 5)[0]  # 2.4, 1.4 and 1.2: rounding would leave one out
    assert sorted(types.tolist()) in ([8, 8, 8, 22, 38], [8, 8, 22, 22, 38])
    types = types_for({8: 0.56, 22: 0.44}, 7)[0].sort().values  # 3.92 and 3.08: 4 and 3
    assert types.tolist() == [8, 8, 8, 8, 22, 22, 22]
    types = types_for({8: 0.52, 22: 0.24, 38: 0.24}, 3)[0]  # 1.56, 0.72 and 0.72: rounding would give one too many
    assert types.tolist() == [8, 22, 38]


def test_counts_are_never_more_than_one_off() -> None:
    generator = torch.Generator().manual_seed(0)
    composition = torch.rand(500, 100, generator=generator, dtype=torch.float64).pow(20)
    composition = composition / composition.sum(-1, keepdim=True)
    num_atoms = torch.randint(1, 21, (500,), generator=generator)
    types = initial_types(composition, num_atoms, 20)
    counts = torch.zeros(500, 101, dtype=torch.float64)
    for row, n in zip(range(500), num_atoms.tolist(), strict=True):
        counts[row] = torch.bincount(types[row, :n], minlength=101)
    assert (counts[:, 1:] - composition * num_atoms[:, None]).abs().max() < 1


def test_a_composition_without_any_known_element_still_gives_known_ones(model: CDVAE) -> None:
    aggregates = model.aggregates(torch.zeros(3, 8, dtype=torch.float64))
    logits = torch.full_like(aggregates.composition_logits, -1e4)
    logits[:, 91] = 1e4  # uranium, which it never saw
    certain = dataclasses.replace(aggregates, composition_logits=logits)
    stubborn = CDVAE(model.config).double()
    stubborn.load_state_dict(model.state_dict())
    stubborn.aggregates = lambda z: certain  # type: ignore[method-assign]
    frame = next(denoise(stubborn, n=3))
    assert set(frame.crystals.atomic_numbers[frame.crystals.mask].tolist()) <= {3, 8, 22, 56}


# Reconstruction


@pytest.fixture
def trained_on_random(random_dataset: Dataset) -> CDVAE:
    return CDVAE.for_dataset(random_dataset, **SMALL).eval().requires_grad_(False)


def test_reconstruction_decodes_the_mean_or_a_sample(trained_on_random: CDVAE, random_dataset: Dataset) -> None:
    crystals = random_dataset.crystals[:6]
    posterior = trained_on_random.encode(crystals)
    mean = next(reconstruct(trained_on_random, crystals, steps=5))
    assert torch.equal(mean.z, posterior.mu)
    samples = [next(reconstruct(trained_on_random, crystals, sampled=True, seed=s)).z for s in range(60)]
    eps = ((torch.stack(samples) - posterior.mu) * torch.exp(-0.5 * posterior.log_var)).flatten()
    assert eps.mean().item() == pytest.approx(0, abs=4 / len(eps) ** 0.5)
    assert eps.std().item() == pytest.approx(1, rel=4 / (2 * len(eps)) ** 0.5)
    again = next(reconstruct(trained_on_random, crystals, sampled=True, seed=7)).z
    assert torch.equal(again, samples[7])
    part = next(reconstruct(trained_on_random, crystals[4:], sampled=True, seed=7, first_number=4)).z
    torch.testing.assert_close(part, samples[7][4:])
    decoded = final(denoise(trained_on_random, z=posterior.mu, seed=2, steps=5))
    assert_same(final(reconstruct(trained_on_random, crystals, seed=2, steps=5)), decoded)


def test_a_reconstruction_takes_named_settings_and_types(trained_on_random: CDVAE, random_dataset: Dataset) -> None:
    crystals = random_dataset.crystals[:3]
    z = trained_on_random.encode(crystals).mu
    frame = final(reconstruct(trained_on_random, crystals, sampler="preview", types="assigned"))
    assert (frame.num_steps, frame.schedule.keep_composition) == (50, True)
    assert_same(frame, final(denoise(trained_on_random, z=z, steps=50, types="assigned")))


def test_a_file_is_encoded_as_the_crystal_in_it(trained_on_random: CDVAE, tmp_path: Path) -> None:
    rutile = Crystals(
        torch.tensor([[[0.0, 0, 0], [0.5, 0.5, 0.5], [0.3, 0.3, 0], [0.7, 0.7, 0], [0.2, 0.8, 0.5], [0.8, 0.2, 0.5]]]),
        torch.tensor([[22, 22, 8, 8, 8, 8]]),
        torch.diag(torch.tensor([4.6, 4.6, 2.96]))[None],
    )
    (path,) = rutile.write_cif(tmp_path)
    z = encode(trained_on_random, rutile)
    torch.testing.assert_close(next(reconstruct(trained_on_random, path)).z, z, rtol=0, atol=1e-4)


def test_elements_that_the_model_never_saw_are_refused_unless_they_are_allowed(
    trained_on_random: CDVAE, nacl: Crystals
) -> None:
    with pytest.raises(CrystalError, match="crystal 0: the model has never seen Na, Cl; it knows C, O, Ti"):
        reconstruct(trained_on_random, nacl)
    frame = next(reconstruct(trained_on_random, nacl, allow_unseen=True, steps=2))
    assert torch.equal(frame.z, trained_on_random.encode(nacl).mu)
    with pytest.raises(CrystalError, match="never seen Na, Cl"):
        reconstruct(trained_on_random, nacl.to_structures(), allow_unseen=True)


def test_crystals_that_the_model_has_no_room_for_are_refused(trained_on_random: CDVAE, random_dataset: Dataset) -> None:
    large = Crystals(torch.rand(1, 7, 3), torch.full((1, 7), 6), 6 * torch.eye(3)[None])
    with pytest.raises(CrystalError, match=r"crystal 2: has 7 atoms .* takes 6 atoms"):
        reconstruct(trained_on_random, Crystals.cat([random_dataset.crystals[:2], large]))
    heavy = Crystals(torch.rand(1, 1, 3), torch.full((1, 1), 101), 6 * torch.eye(3)[None])
    with pytest.raises(CrystalError, match="up to Z = 101"):
        reconstruct(trained_on_random, heavy)
    with pytest.raises(CrystalError, match="7 atoms"):
        reconstruct(
            trained_on_random,
            large.replace(frac_coords=torch.arange(7)[None, :, None] / 7.0 + torch.zeros(3)).to_structures(),
        )


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of n"),
        ({"n": 2, "z": torch.zeros(1, 8).double()}, "exactly one of n"),
        ({"n": 0}, "at least 1, not 0"),
        ({"n": -4}, "at least 1, not -4"),
        ({"n": 1, "seed": -1}, "seed must be 0 or more"),
        ({"n": 1, "first_number": -1}, "first_number must be 0 or more"),
        ({"n": 1, "steps": 1}, "steps must be at least 2"),
        ({"n": 1, "steps": -5}, "steps must be at least 2"),
        ({"n": 1, "sampler": "probability_flow", "steps": 0}, "steps must be at least 2"),
        ({"n": 1, "sampler": "langevin", "steps_per_level": 0}, "steps_per_level >= 1"),
        ({"n": 1, "sampler": "langevin", "step_size": 2e-4}, "diverges"),
        ({"n": 1, "sampler": "langevin", "step_size": 0.0}, "diverges"),
        ({"n": 1, "sampler": "langevin", "step_size": float("nan")}, "diverges"),
        ({"n": 1, "sampler": "metropolis"}, "no sampler 'metropolis'; there are renoising, ancestral"),
        ({"n": 1, "sampler": "metropolis"}, "probability_flow, langevin, preview, standard, paper"),
        ({"n": 1, "steps_per_level": 3}, "renoising sampler takes levels, steps, not steps_per_level"),
        ({"n": 1, "sampler": "preview", "steps": 7}, "'preview' is a named setting, .* got steps; give sampler='reno"),
        ({"n": 1, "sampler": "paper", "step_size": 1e-4, "types": "assigned"}, "got step_size; give sampler='lang"),
        ({"n": 1, "types": "likeliest"}, "types is 'assigned' or 'argmax', not 'likeliest'"),
        ({"n": 1, "sampler": Schedule.ancestral(PAPER, 5), "types": "argmax"}, "takes no further settings"),
        ({"n": 1, "sampler": Schedule.ancestral(PAPER, 5), "steps": 7}, "takes no further settings"),
        ({"z": torch.zeros(2, 7).double()}, r"z must be \(crystals, 8\)"),
        ({"z": torch.zeros(0, 8).double()}, "at least one"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else None,
)
def test_settings_out_of_range_are_refused_at_the_call(model: CDVAE, arguments: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        denoise(model, **arguments)


def test_a_frame_refuses_other_settings_and_takes_its_own(model: CDVAE) -> None:
    frames = list(denoise(model, n=1, steps=3, first_number=4))
    with pytest.raises(SettingError, match="last of its 3 steps"):
        denoise(model, frame=frames[-1])
    message = r"frame carries its own settings, and these differ: sampler \(renoising \(composition kept, 3"
    for settings in (
        {"steps": 9},
        {"sampler": "langevin"},
        {"sampler": "renoising"},
        {"types": "argmax", "steps": 3},
    ):
        with pytest.raises(SettingError, match=message):
            denoise(model, frame=frames[1], **settings)
    with pytest.raises(SettingError, match="differ: numbers"):
        denoise(model, frame=frames[1], first_number=2)
    with pytest.raises(SettingError, match="exactly one"):
        denoise(model, n=2, frame=frames[1])
    own = {"sampler": "renoising", "steps": 3, "first_number": 4}
    assert_same(final(denoise(model, frame=frames[1], **own)), frames[-1])


def test_reconstruction_refuses_settings_at_the_call(trained_on_random: CDVAE, random_dataset: Dataset) -> None:
    for settings in ({"seed": -1}, {"steps": 1}, {"sampler": "none"}, {"first_number": -1}):
        with pytest.raises(SettingError):
            reconstruct(trained_on_random, random_dataset.crystals, **settings)


# Types that change places


def test_types_change_places_as_the_best_assignment_has_it() -> None:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.tensor([[8, 8, 22, 38, 0, 0], [3, 3, 3, 3, 9, 11]])
    logits = torch.randn(2, 6, 100, generator=generator, dtype=torch.float64)
    # Every site has a favorite, and together these are the composition: then no other assignment is as good.
    favorite = torch.tensor([[38, 8, 8, 22, 1, 1], [11, 3, 9, 3, 3, 3]])
    logits.scatter_(2, favorite[..., None] - 1, 20.0)
    assigned = assign_types(logits, numbers)
    assert assigned.tolist() == [[38, 8, 8, 22, 0, 0], [11, 3, 9, 3, 3, 3]]


def test_types_that_change_places_stay_the_same_types_and_are_nearly_the_best() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(50, 8, 100, generator=generator, dtype=torch.float64) * 3
    numbers = torch.randint(1, 101, (50, 8), generator=generator)
    assigned = assign_types(logits, numbers)
    assert torch.equal(assigned.sort(1).values, numbers.sort(1).values)
    wanted = logits.log_softmax(-1)
    for row in range(50):
        gain = wanted[row][:, numbers[row] - 1].numpy()
        best = gain[linear_sum_assignment(gain, maximize=True)].sum()
        kept = float(wanted[row][torch.arange(8), numbers[row] - 1].sum())
        ours = float(wanted[row][torch.arange(8), assigned[row] - 1].sum())
        assert best - ours <= 0.35 * (best - kept) + 1e-9


def test_a_run_may_keep_its_composition(model: CDVAE) -> None:
    schedule = dataclasses.replace(choose_schedule(model, "ancestral", steps=12), keep_composition=True)
    start_types = torch.tensor([[3, 8, 22, 56, 8]]).expand(4, -1)
    z, numbers = torch.zeros(4, 8, dtype=torch.float64), torch.arange(4)
    begun = initial_frame(model, z, numbers, 2, schedule, atomic_numbers=start_types)
    frames = [begun, *denoise(model, frame=begun)]
    first, last = frames[0].crystals.atomic_numbers, frames[-1].crystals.atomic_numbers
    assert torch.equal(first.sort(1).values, last.sort(1).values)
    assert any(not torch.equal(f.crystals.atomic_numbers, first) for f in frames)
    again = list(denoise(model, frame=frames[5]))[-1]
    assert torch.equal(again.crystals.atomic_numbers, last)
