"""Decoding with retries: latent distances, retries that never make it worse, refinement, resuming."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.lattice import minimum_image
from cdvae_lab.errors import SettingError
from cdvae_lab.metrics.validity import structure_validity
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.sampling import decoding
from cdvae_lab.sampling.decoding import Decoded, decode, restart
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.refinement import latent_distance, refine
from tests.small_model import SMALL


@pytest.fixture(scope="module")
def model() -> CDVAE:
    torch.manual_seed(1)
    model = CDVAE(CDVAEConfig(max_atoms=6, **SMALL)).eval().requires_grad_(False)
    model.lattice_mean.copy_(torch.tensor([3.2, 3.2, 3.2, 90, 90, 90]))
    model.elements.zero_()
    model.elements[[8, 22, 38]] = True
    model.to_mu.weight.mul_(20)
    return model.double()


@pytest.fixture(scope="module")
def z(model: CDVAE) -> torch.Tensor:
    return 2 * torch.randn(5, model.config.latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_crystal_is_at_no_distance_from_its_own_z_however_it_is_written(model: CDVAE, z: torch.Tensor) -> None:
    crystals = last(denoise(model, z=z, steps=4)).crystals
    mu = model.encode(crystals).mu
    assert latent_distance(model, crystals, mu).max() < 1e-9
    order = torch.randperm(crystals.num_sites, generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    other = Crystals(
        ((crystals.frac_coords + 0.3) % 1 * crystals.mask[..., None])[:, order],
        crystals.atomic_numbers[:, order],
        crystals.lattice @ turned,
    )
    assert latent_distance(model, other, mu).max() < 1e-6


def test_a_distance_counts_deviations_of_the_posterior(model: CDVAE, z: torch.Tensor) -> None:
    crystals = last(denoise(model, z=z, steps=4)).crystals
    posterior = model.encode(crystals)
    away = torch.zeros_like(z)
    away[:, 3] = 2.0
    shifted = posterior.mu + away * torch.exp(0.5 * posterior.log_var)
    torch.testing.assert_close(latent_distance(model, crystals, shifted), torch.full_like(z[:, 0], 2.0))
    broken = crystals.replace(frac_coords=crystals.frac_coords * torch.nan)
    assert torch.isinf(latent_distance(model, broken, posterior.mu)).all()


def test_the_first_attempt_equals_denoising(model: CDVAE, z: torch.Tensor) -> None:
    state = last(decode(model, z, max_attempts=1, seed=3, steps=4))
    frame = last(denoise(model, z=z, seed=3, steps=4))
    assert torch.equal(state.crystals.atomic_numbers, frame.crystals.atomic_numbers)
    torch.testing.assert_close(state.crystals.frac_coords, frame.crystals.frac_coords)
    assert state.attempts.tolist() == [1] * 5
    assert state.remaining == 0


FROM_NOISE = (float("inf"),)


def test_the_best_of_all_attempts_is_kept(model: CDVAE, z: torch.Tensor) -> None:
    alone = [last(denoise(model, z=z, seed=seed, steps=4)).crystals for seed in range(4)]
    distances = torch.stack([latent_distance(model, crystals, z) for crystals in alone])
    state = last(decode(model, z, max_attempts=4, tolerance=0.0, restart_sigmas=FROM_NOISE, steps=4, batch_size=2))
    torch.testing.assert_close(state.distance, distances.amin(0))
    for i, seed in enumerate(distances.argmin(0).tolist()):
        torch.testing.assert_close(state.crystals[i].trim().frac_coords, alone[seed][i].trim().frac_coords)
    assert len(set(distances.argmin(0).tolist())) > 1  # or nothing was chosen


def test_a_crystal_within_the_tolerance_is_not_retried(model: CDVAE, z: torch.Tensor) -> None:
    first = last(decode(model, z, max_attempts=1, steps=4)).distance
    tolerance = float(first.sort().values[2])
    state = last(decode(model, z, max_attempts=3, tolerance=tolerance, steps=4))
    assert torch.equal(state.attempts == 1, first <= tolerance)
    assert torch.equal(state.distance[first <= tolerance], first[first <= tolerance])


def test_atoms_in_one_place_are_retried_however_near_they_encode(
    model: CDVAE, z: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"tolerance": math.inf, "restart_sigmas": FROM_NOISE, "steps": 4}
    second = last(decode(model, z, max_attempts=1, seed=1, restart_sigmas=FROM_NOISE, steps=4))
    collapsed = [1, 4]

    def once_collapsed(model: CDVAE, frame: DenoisingFrame, compile: bool) -> Iterator[DenoisingFrame]:
        for frame in denoise(model, frame=frame, compile=compile):  # noqa: B020
            if frame.finished and frame.seed == 0:
                frac_coords = frame.crystals.frac_coords.clone()
                which = torch.isin(frame.numbers, torch.tensor(collapsed))
                frac_coords[which, 1] = frac_coords[which, 0] + 1  # another image of the same place
                frame = replace(frame, crystals=frame.crystals.replace(frac_coords=frac_coords))
            yield frame

    monkeypatch.setattr(decoding, "denoise", once_collapsed)
    one = last(decode(model, z, max_attempts=1, **settings))
    assert structure_validity(one.crystals).logical_not().nonzero()[:, 0].tolist() == collapsed
    assert one.distance.isinf().nonzero()[:, 0].tolist() == collapsed
    two = last(decode(model, z, max_attempts=2, **settings))
    assert two.attempts.tolist() == [1, 2, 1, 1, 2]
    assert structure_validity(two.crystals).all()
    torch.testing.assert_close(
        two.crystals[collapsed].trim().frac_coords, second.crystals[collapsed].trim().frac_coords
    )


RUN = {"max_attempts": 2, "tolerance": 0.0, "steps": 3, "batch_size": 2}


def assert_same(a: Decoded, b: Decoded) -> None:
    for name in ("frac_coords", "atomic_numbers", "lattice"):
        assert torch.equal(getattr(a.crystals, name), getattr(b.crystals, name)), name
    for name in ("distance", "attempts", "z", "numbers"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.settings, a.step, a.num_steps) == (b.settings, b.step, b.num_steps)


def test_a_run_resumes_from_any_state_alone(model: CDVAE, z: torch.Tensor) -> None:
    states = list(decode(model, z, first_number=3, seed=4, **RUN))
    assert [state.remaining for state in states] == [5, 5, 5, 3, 1, 0]
    assert [state.step for state in states] == [0, 0, 0, 2, 4, 5]
    for state in states[:-1]:
        assert_same(last(decode(model, state=state)), states[-1])
    assert_same(last(decode(model, z, state=states[2], first_number=3, seed=4, **RUN)), states[-1])  # the same settings


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 1},
        {"tolerance": 1.0},
        {"refine_steps": 3},
        {"restart_sigmas": [0.5]},
        {"batch_size": 3},
        {"first_number": 1},
        {"max_attempts": 1},
        {"steps": 4},
        {"sampler": "langevin"},
        {"types": "argmax", "steps": 3},
    ],
    ids=lambda given: " ".join(given),
)
def test_a_state_refuses_other_settings(model: CDVAE, z: torch.Tensor, given: dict) -> None:
    state = next(decode(model, z, **RUN))
    name = {"first_number": "numbers", "steps": "schedule", "sampler": "schedule", "types": "schedule"}
    with pytest.raises(SettingError, match=f"carries its own settings, .*: {name.get(*[next(iter(given))] * 2)} \\("):
        decode(model, state=state, **given)


def test_a_state_refuses_other_latents_and_atoms(model: CDVAE, z: torch.Tensor) -> None:
    state = next(decode(model, z, **RUN))
    with pytest.raises(SettingError, match=r"differ: z \("):
        decode(model, z + 1, state=state)
    with pytest.raises(SettingError, match=r"differ: z \("):
        decode(model, z[:3], state=state)
    with pytest.raises(SettingError, match=r"differ: atomic_numbers"):
        decode(model, state=state, atomic_numbers=state.crystals.atomic_numbers)
    with pytest.raises(SettingError, match="starts from z"):
        decode(model)


def test_a_finished_run_resumes_with_more_attempts(model: CDVAE, z: torch.Tensor) -> None:
    settings = {"tolerance": 0.0, "steps": 3}
    short, whole = (last(decode(model, z, max_attempts=n, **settings)) for n in (2, 4))
    assert short.finished
    assert_same(last(decode(model, state=short, max_attempts=4)), whole)
    assert list(decode(model, state=short)) == []


@pytest.mark.parametrize("which", [[4, 1], [3], [0, 2, 1, 4, 3]])
def test_a_crystal_has_the_same_noise_in_any_selection(model: CDVAE, z: torch.Tensor, which: list[int]) -> None:
    settings = {"max_attempts": 3, "tolerance": 0.0, "steps": 4, "refine_steps": 2, "seed": 7}
    states = list(decode(model, z, **settings))
    some = last(decode(model, state=states[0].select(which)))
    torch.testing.assert_close(some.distance, states[-1].distance[which])
    for place, number in enumerate(which):
        one, other = some.crystals[place].trim(), states[-1].crystals[number].trim()
        assert torch.equal(one.atomic_numbers, other.atomic_numbers)
        assert minimum_image(one.frac_coords - other.frac_coords, one.lattice).abs().max() < 1e-6
    alone = last(decode(model, z[[2]], first_number=2, **settings))
    torch.testing.assert_close(alone.distance, states[-1].distance[[2]])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_refining_works_in_every_mode_of_the_caller(model: CDVAE, z: torch.Tensor, mode: type) -> None:
    settings = {"max_attempts": 1, "steps": 3, "refine_steps": 3}
    expected = last(decode(model, z, **settings))
    with mode():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        again = last(decode(model, z.clone(), **settings))
        crystals, distance = refine(model, again.crystals, again.z, steps=2)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
        assert_same(again, expected)
    assert not crystals.frac_coords.requires_grad
    assert (distance <= expected.distance).all()
    with pytest.raises(SettingError, match="one z for each of the 5 crystals, not 2"):
        refine(model, expected.crystals, z[:2])


def test_a_restart_adds_noise_to_the_best_to_a_level_of_the_schedule(model: CDVAE) -> None:
    number = torch.arange(400)
    z = torch.zeros(400, model.config.latent_dim, dtype=torch.float64)
    first = next(iter(denoise(model, z=z, steps=20)))
    best = first.crystals.replace(frac_coords=first.crystals.frac_coords[:1].expand_as(first.crystals.frac_coords))
    levels = first.schedule.sigma
    frame = restart(first, best, 0.1)
    assert levels[frame.step] <= 0.1 < levels[frame.step - 1]
    assert torch.equal(frame.numbers, number)
    moved = minimum_image(frame.crystals.frac_coords - best.frac_coords, best.lattice)[best.mask]
    assert abs(float(moved.std()) / float(levels[frame.step]) - 1) < 0.05
    assert restart(first, best, 100.0) is first
    assert restart(first, best, 1e-9).step == len(levels) - 1


def test_large_crystals_get_better_from_where_they_are(model: CDVAE, z: torch.Tensor) -> None:
    """A restart is an attempt like any other: never worse than the best before it, and part of the same run."""
    states = list(decode(model, z, max_attempts=6, tolerance=0.0, restart_sigmas=[0.3], steps=6))
    distances = torch.stack([state.distance for state in states])
    assert (distances.diff(dim=0) <= 0).all()
    assert (distances[-1] < distances[0]).any()
    torch.testing.assert_close(states[-1].distance, latent_distance(model, states[-1].crystals, z))


def test_right_crystals_of_a_trained_model_are_near_and_wrong_ones_far() -> None:
    import cdvae_lab as lab

    model = lab.load("perov_5")
    truth = lab.read("assets/examples/SrTiO3.cif")
    z = lab.encode(model, truth)
    right = last(reconstruct(model, truth, sampler="langevin", steps_per_level=4)).crystals
    wrong = right.replace(frac_coords=right.frac_coords.roll(1, 2) * 0.7)
    near, far = (float(latent_distance(model, c, z)) for c in (right, wrong))
    assert near < 4 < far


@pytest.fixture(scope="module")
def shaken() -> tuple[CDVAE, Crystals, Crystals]:
    """A trained model, crystals of different sizes, and the same with atoms and cells slightly displaced."""
    import cdvae_lab as lab

    model = lab.load("carbon_24").double()
    names = ("diamond", "bct_C4", "lonsdaleite")
    truth = Crystals.cat([lab.read(f"assets/examples/{name}.cif").to("cpu", torch.float64) for name in names])
    noise = torch.Generator().manual_seed(0)
    away = 0.03 * torch.randn(truth.frac_coords.shape, generator=noise, dtype=torch.float64) * truth.mask[..., None]
    strain = 0.003 * torch.randn(truth.lattice.shape, generator=noise, dtype=torch.float64)
    moved = truth.frac_coords + away @ torch.linalg.inv(truth.lattice)
    return model, truth, truth.replace(frac_coords=moved, lattice=truth.lattice + truth.lattice @ strain)


def test_refining_takes_shaken_crystals_back_to_where_they_were(shaken: tuple[CDVAE, Crystals, Crystals]) -> None:
    from cdvae_lab.metrics.reconstruction import match

    model, truth, near = shaken
    z = model.encode(truth).mu
    refined, distance = refine(model, near, z, steps=60)
    before = latent_distance(model, near, z)
    assert (distance < 0.1 * before).all()
    torch.testing.assert_close(distance, latent_distance(model, refined, z))
    assert torch.equal(refined.atomic_numbers, truth.atomic_numbers)
    rms_before, rms = ([value for _, value in match(truth, c, jobs=1)] for c in (near, refined))
    assert all(after < 0.5 * start for start, after in zip(rms_before, rms, strict=True))  # pymatgen's own measure


def test_refining_a_crystal_does_not_depend_on_its_batch(shaken: tuple[CDVAE, Crystals, Crystals]) -> None:
    model, truth, near = shaken
    z = model.encode(truth).mu
    together, _ = refine(model, near, z, steps=5)
    for i in range(len(near)):
        alone, _ = refine(model, near[[i]].trim(), z[[i]], steps=5)
        torch.testing.assert_close(alone.lattice[0], together.lattice[i], rtol=1e-8, atol=1e-8)
        apart = minimum_image(alone.frac_coords - together[[i]].trim().frac_coords, alone.lattice)
        assert apart.abs().max() < 1e-6
    assert (together.frac_coords[~together.mask] == 0).all()


def test_refined_attempts_are_nearer(model: CDVAE, z: torch.Tensor) -> None:
    plain = last(decode(model, z, max_attempts=1, steps=4))
    refined = last(decode(model, z, max_attempts=1, steps=4, refine_steps=10))
    assert (refined.distance < plain.distance).all()
    torch.testing.assert_close(refined.distance, latent_distance(model, refined.crystals, z))


@pytest.mark.parametrize(
    "settings",
    [{"max_attempts": 0}, {"batch_size": 0}, {"tolerance": -1.0}, {"restart_sigmas": []}, {"refine_steps": -1}],
)
def test_settings_out_of_range(model: CDVAE, z: torch.Tensor, settings: dict) -> None:
    with pytest.raises(SettingError, match=r"at least|above 0"):
        decode(model, z, **settings)
