"""Decoding that checks itself: what a distance is, and that more tries are never worse."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.lattice import minimum_image
from cdvae_lab.errors import SettingError
from cdvae_lab.metrics.validity import structure_validity
from cdvae_lab.models.cdvae import CDVAE, CDVAEConfig
from cdvae_lab.sampling import decoding as cycle
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise, reconstruct
from cdvae_lab.sampling.trajectory import last
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
    assert cycle.latent_distance(model, crystals, mu).max() < 1e-9
    order = torch.randperm(crystals.num_sites, generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    other = Crystals(
        ((crystals.frac_coords + 0.3) % 1 * crystals.mask[..., None])[:, order],
        crystals.atomic_numbers[:, order],
        crystals.lattice @ turned,
    )
    assert cycle.latent_distance(model, other, mu).max() < 1e-6


def test_a_distance_counts_deviations_of_the_posterior(model: CDVAE, z: torch.Tensor) -> None:
    crystals = last(denoise(model, z=z, steps=4)).crystals
    posterior = model.encode(crystals)
    away = torch.zeros_like(z)
    away[:, 3] = 2.0
    shifted = posterior.mu + away * torch.exp(0.5 * posterior.log_var)
    torch.testing.assert_close(cycle.latent_distance(model, crystals, shifted), torch.full_like(z[:, 0], 2.0))
    broken = crystals.replace(frac_coords=crystals.frac_coords * torch.nan)
    assert torch.isinf(cycle.latent_distance(model, broken, posterior.mu)).all()


def test_one_try_is_what_denoising_gives(model: CDVAE, z: torch.Tensor) -> None:
    state = last(cycle.decode(model, z, tries=1, seed=3, steps=4))
    frame = last(denoise(model, z=z, seed=3, steps=4))
    assert torch.equal(state.crystals.atomic_numbers, frame.crystals.atomic_numbers)
    torch.testing.assert_close(state.crystals.frac_coords, frame.crystals.frac_coords)
    assert state.tries.tolist() == [1] * 5
    assert state.left == 0


ANEW = (float("inf"),)


def test_the_best_of_all_tries_is_kept(model: CDVAE, z: torch.Tensor) -> None:
    alone = [last(denoise(model, z=z, seed=seed, steps=4)).crystals for seed in range(4)]
    distances = torch.stack([cycle.latent_distance(model, crystals, z) for crystals in alone])
    state = last(cycle.decode(model, z, tries=4, within=0.0, back_to=ANEW, steps=4, batch_size=2))
    torch.testing.assert_close(state.distance, distances.amin(0))
    for i, seed in enumerate(distances.argmin(0).tolist()):
        torch.testing.assert_close(state.crystals[i].trim().frac_coords, alone[seed][i].trim().frac_coords)
    assert len(set(distances.argmin(0).tolist())) > 1  # or nothing was chosen


def test_what_is_near_enough_is_not_tried_again(model: CDVAE, z: torch.Tensor) -> None:
    first = last(cycle.decode(model, z, tries=1, steps=4)).distance
    within = float(first.sort().values[2])
    state = last(cycle.decode(model, z, tries=3, within=within, steps=4))
    assert torch.equal(state.tries == 1, first <= within)
    assert torch.equal(state.distance[first <= within], first[first <= within])


def test_atoms_in_one_place_are_tried_again_however_near_they_encode(
    model: CDVAE, z: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"within": math.inf, "back_to": ANEW, "steps": 4}
    second = last(cycle.decode(model, z, tries=1, seed=1, back_to=ANEW, steps=4))
    collapsed = [1, 4]

    def once_collapsed(model: CDVAE, frame: DenoisingFrame, compile: bool) -> Iterator[DenoisingFrame]:
        for frame in denoise(model, frame=frame, compile=compile):  # noqa: B020
            if frame.finished and frame.seed == 0:
                frac_coords = frame.crystals.frac_coords.clone()
                which = torch.isin(frame.numbers, torch.tensor(collapsed))
                frac_coords[which, 1] = frac_coords[which, 0] + 1  # another image of the same place
                frame = replace(frame, crystals=frame.crystals.replace(frac_coords=frac_coords))
            yield frame

    monkeypatch.setattr(cycle, "denoise", once_collapsed)
    one = last(cycle.decode(model, z, tries=1, **settings))
    assert structure_validity(one.crystals).logical_not().nonzero()[:, 0].tolist() == collapsed
    assert one.distance.isinf().nonzero()[:, 0].tolist() == collapsed
    two = last(cycle.decode(model, z, tries=2, **settings))
    assert two.tries.tolist() == [1, 2, 1, 1, 2]
    assert structure_validity(two.crystals).all()
    torch.testing.assert_close(
        two.crystals[collapsed].trim().frac_coords, second.crystals[collapsed].trim().frac_coords
    )


def test_a_run_goes_on_from_any_state(model: CDVAE, z: torch.Tensor) -> None:
    settings = {"tries": 2, "within": 0.0, "steps": 3, "batch_size": 2}
    states = list(cycle.decode(model, z, **settings))
    assert [state.left for state in states] == [5, 5, 5, 3, 1, 0]
    resumed = last(cycle.decode(model, z, **settings, state=states[2]))
    assert torch.equal(resumed.crystals.frac_coords, states[-1].crystals.frac_coords)
    assert torch.equal(resumed.distance, states[-1].distance)
    with pytest.raises(SettingError, match="other latents"):
        cycle.decode(model, z + 1, state=states[2])


def test_going_back_blurs_the_best_to_a_level_of_the_schedule(model: CDVAE) -> None:
    number = torch.arange(400)
    z = torch.zeros(400, model.config.latent_dim, dtype=torch.float64)
    first = next(iter(denoise(model, z=z, steps=20)))
    best = first.crystals.replace(frac_coords=first.crystals.frac_coords[:1].expand_as(first.crystals.frac_coords))
    levels = first.schedule.sigma
    frame = cycle.go_back(first, best, 0.1)
    assert levels[frame.step] <= 0.1 < levels[frame.step - 1]
    assert torch.equal(frame.numbers, number)
    moved = minimum_image(frame.crystals.frac_coords - best.frac_coords, best.lattice)[best.mask]
    assert abs(float(moved.std()) / float(levels[frame.step]) - 1) < 0.05
    assert cycle.go_back(first, best, 100.0) is first
    assert cycle.go_back(first, best, 1e-9).step == len(levels) - 1


def test_large_crystals_get_better_from_where_they_are(model: CDVAE, z: torch.Tensor) -> None:
    """Going back is a start like any other: never worse than the best before it, and part of the same run."""
    states = list(cycle.decode(model, z, tries=6, within=0.0, back_to=[0.3], steps=6))
    distances = torch.stack([state.distance for state in states])
    assert (distances.diff(dim=0) <= 0).all()
    assert (distances[-1] < distances[0]).any()
    torch.testing.assert_close(states[-1].distance, cycle.latent_distance(model, states[-1].crystals, z))


def test_right_crystals_of_a_trained_model_are_near_and_wrong_ones_far() -> None:
    import cdvae_lab as lab

    model = lab.load("perov_5")
    truth = lab.read("assets/examples/SrTiO3.cif")
    z = lab.encode(model, truth)
    right = last(reconstruct(model, truth, sampler="langevin", steps_per_level=4)).crystals
    wrong = right.replace(frac_coords=right.frac_coords.roll(1, 2) * 0.7)
    near, far = (float(cycle.latent_distance(model, c, z)) for c in (right, wrong))
    assert near < 4 < far


@pytest.fixture(scope="module")
def shaken() -> tuple[CDVAE, Crystals, Crystals]:
    """A trained model, crystals of different sizes, and the same with atoms and cells a little off."""
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
    refined, distance = cycle.refine(model, near, z, steps=60)
    before = cycle.latent_distance(model, near, z)
    assert (distance < 0.1 * before).all()
    torch.testing.assert_close(distance, cycle.latent_distance(model, refined, z))
    assert torch.equal(refined.atomic_numbers, truth.atomic_numbers)
    rms_before, rms = ([value for _, value in match(truth, c, jobs=1)] for c in (near, refined))
    assert all(after < 0.5 * start for start, after in zip(rms_before, rms, strict=True))  # pymatgen's own measure


def test_refining_a_crystal_does_not_depend_on_its_batch(shaken: tuple[CDVAE, Crystals, Crystals]) -> None:
    model, truth, near = shaken
    z = model.encode(truth).mu
    together, _ = cycle.refine(model, near, z, steps=5)
    for i in range(len(near)):
        alone, _ = cycle.refine(model, near[[i]].trim(), z[[i]], steps=5)
        torch.testing.assert_close(alone.lattice[0], together.lattice[i], rtol=1e-8, atol=1e-8)
        apart = minimum_image(alone.frac_coords - together[[i]].trim().frac_coords, alone.lattice)
        assert apart.abs().max() < 1e-6
    assert (together.frac_coords[~together.mask] == 0).all()


def test_refined_tries_are_nearer(model: CDVAE, z: torch.Tensor) -> None:
    plain = last(cycle.decode(model, z, tries=1, steps=4))
    refined = last(cycle.decode(model, z, tries=1, steps=4, refine_steps=10))
    assert (refined.distance < plain.distance).all()
    torch.testing.assert_close(refined.distance, cycle.latent_distance(model, refined.crystals, z))


@pytest.mark.parametrize(
    "settings", [{"tries": 0}, {"batch_size": 0}, {"within": -1.0}, {"back_to": []}, {"refine_steps": -1}]
)
def test_settings_out_of_range(model: CDVAE, z: torch.Tensor, settings: dict) -> None:
    with pytest.raises(SettingError, match=r"at least|above 0"):
        cycle.decode(model, z, **settings)
