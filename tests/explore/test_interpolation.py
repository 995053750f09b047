"""Paths against their geometry; the same noise at every point; fixed lattices and types; files; the bundled model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cdvae_lab
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.explore.interpolation import decode_path, interpolate, latent_path, spherical, straight
from cdvae_lab.io import assets
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.latents import encode
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.schedules import choose_schedule
from cdvae_lab.sampling.trajectory import Trajectory
from tests.small_model import SMALL


@pytest.fixture(scope="module")
def model() -> CDVAE:
    """Untrained, of up to eight atoms of the elements in the crystals of this file; in float64."""
    torch.manual_seed(3)
    model = CDVAE(CDVAEConfig(max_atoms=8, **SMALL)).eval()
    model.lattice_mean.copy_(torch.tensor([2.4, 2.4, 2.4, 90, 90, 90]))
    model.elements.zero_()
    model.elements[[6, 8, 11, 17, 22, 38]] = True
    with torch.no_grad():  # latents that distinguish crystals, and predicted sizes and types that depend on them
        for layer in (
            model.to_mu,
            model.num_atoms_head.hidden[-1],
            model.composition_head.hidden[-1],
            model.type_head[-1],
        ):
            layer.weight.mul_(20)
    return model.double()


def vectors(seed: int) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a, 3 * b


# Paths


@pytest.mark.parametrize("seed", range(3))
def test_a_straight_path_has_equal_steps_on_a_line(seed: int) -> None:
    a, b = vectors(seed)
    z = straight(a, b, torch.linspace(0, 1, 6, dtype=torch.float64))
    torch.testing.assert_close(z.diff(dim=0), ((b - a) / 5).expand(5, 8))
    torch.testing.assert_close(z[0], a)


@pytest.mark.parametrize("seed", range(3))
def test_a_spherical_path_turns_evenly_in_one_plane(seed: int) -> None:
    a, b = vectors(seed)
    z = spherical(a, b, torch.linspace(0, 1, 6, dtype=torch.float64))
    torch.testing.assert_close(z[0], a)
    torch.testing.assert_close(z[-1], b)
    torch.testing.assert_close(z.norm(dim=1).diff(), ((b.norm() - a.norm()) / 5).expand(5))
    turned = torch.arccos(torch.cosine_similarity(z[1:], z[:-1]))
    torch.testing.assert_close(turned, (torch.arccos(torch.cosine_similarity(a, b, 0)) / 5).expand(5))
    assert torch.linalg.matrix_rank(z) == 2


def test_a_spherical_path_between_neighbors_is_the_straight_one() -> None:
    a, b = vectors(0)
    w = torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(spherical(a, a + 1e-7 * b, w), straight(a, a + 1e-7 * b, w), rtol=0, atol=1e-12)
    torch.testing.assert_close(spherical(a, a, w), a.expand(5, 8))


def test_a_spherical_path_without_a_plane_is_refused() -> None:
    a, _ = vectors(0)
    w = torch.linspace(0, 1, 5, dtype=torch.float64)
    with pytest.raises(SettingError, match=r"opposite.*path='straight'"):
        spherical(a, -2 * a, w)
    with pytest.raises(SettingError, match=r"not zero.*path='straight'"):
        spherical(a, 0 * a, w)


@pytest.mark.parametrize("path", ["straight", "spherical"])
def test_a_path_leads_from_crystal_to_crystal(model: CDVAE, srtio3: Crystals, diamond: Crystals, path: str) -> None:
    stops = latent_path(model, srtio3, diamond, 5, path)
    assert len(stops) == 5
    assert stops.shape == path
    assert stops.weights.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.equal(stops.ends.num_atoms, torch.tensor([5, 2]))
    assert torch.equal(stops.z[[0, -1]], model.encode(stops.ends).mu)
    alone = torch.cat([encode(model, srtio3), encode(model, diamond)])
    torch.testing.assert_close(stops.z[[0, -1]], alone, rtol=0, atol=1e-5)
    back = latent_path(model, diamond, srtio3, 5, path)
    torch.testing.assert_close(back.z.flip(0), stops.z, rtol=0, atol=1e-9)


# Decoding


def run(model: CDVAE, a: Crystals, b: Crystals, n: int = 6, **options) -> list[DenoisingFrame]:
    return list(interpolate(model, a, b, n, **{"steps": 6, **options}))


def test_frames_are_those_of_one_run_of_all_stops(model: CDVAE, srtio3: Crystals, diamond: Crystals) -> None:
    frames = run(model, srtio3, diamond, seed=3)
    assert [f.step for f in frames] == list(range(7))
    stops = latent_path(model, srtio3, diamond, 6)
    for frame in frames:
        assert torch.equal(frame.z, stops.z)
        assert frame.numbers.tolist() == [0] * 6
        assert frame.seed == 3
    # The ends are the reconstructions of the two crystals, with the noise of crystal number 0.
    for stop in (0, -1):
        *_, alone = reconstruct(model, stops.ends[stop].trim(), seed=3, steps=6)
        decoded = frames[-1].crystals[stop].trim()
        assert torch.equal(decoded.atomic_numbers, alone.crystals.atomic_numbers)
        torch.testing.assert_close(decoded.frac_coords, alone.crystals.frac_coords, rtol=0, atol=1e-8)


def test_stops_with_equal_latents_become_equal_crystals(model: CDVAE, srtio3: Crystals) -> None:
    crystals = run(model, srtio3, srtio3)[-1].crystals
    for i in range(1, 6):
        assert torch.equal(crystals.atomic_numbers[i], crystals.atomic_numbers[0])
        torch.testing.assert_close(crystals.frac_coords[i], crystals.frac_coords[0])


def test_a_loaded_frame_is_resumed_and_recorded_like_any_other(
    model: CDVAE, srtio3: Crystals, diamond: Crystals, tmp_path: Path
) -> None:
    frames = run(model, srtio3, diamond, keep_composition="a")
    recorded = Trajectory.load(Trajectory.of(frames).save(tmp_path / "path.safetensors"))
    assert recorded.schedule.keep_types
    end = last(denoise(model, frame=recorded[2]))
    assert torch.equal(end.crystals.atomic_numbers, frames[-1].crystals.atomic_numbers)
    assert torch.equal(end.crystals.frac_coords, frames[-1].crystals.frac_coords)


@pytest.mark.parametrize("sampler", ["ancestral", "probability_flow"])
@pytest.mark.parametrize(("end", "atoms"), [("a", [8, 8, 8, 22, 38]), ("b", [6, 6])])
def test_a_kept_composition_is_kept(
    model: CDVAE, srtio3: Crystals, diamond: Crystals, sampler: str, end: str, atoms: list[int]
) -> None:
    free = run(model, srtio3, diamond, sampler=sampler)[-1].crystals
    kept = run(model, srtio3, diamond, sampler=sampler, keep_composition=end)
    assert len(kept[-1].crystals) == 6
    for frame in (kept[0], kept[3], kept[-1]):
        for i in range(6):
            assert sorted(frame.crystals[i].trim().atomic_numbers[0].tolist()) == atoms
    assert any(sorted(free[i].trim().atomic_numbers[0].tolist()) != atoms for i in range(6))


@pytest.mark.parametrize(("end", "size"), [("a", 5), ("b", 2)])
def test_a_kept_number_of_atoms_is_kept(model: CDVAE, srtio3: Crystals, diamond: Crystals, end: str, size: int) -> None:
    stops = latent_path(model, srtio3, diamond, 6)
    assert (model.aggregates(stops.z).num_atoms != size).any()
    frames = run(model, srtio3, diamond, keep_num_atoms=end)
    assert frames[-1].crystals.num_atoms.tolist() == [size] * 6
    lattice = model.predict_lattice(model.aggregates(stops.z), torch.full((6,), size))
    assert torch.equal(frames[-1].crystals.lattice, lattice)


def test_a_path_is_decoded_as_interpolation_decodes_it(model: CDVAE, srtio3: Crystals, diamond: Crystals) -> None:
    whole = run(model, srtio3, diamond, n=4, path="spherical", seed=2)[-1]
    stops = latent_path(model, srtio3, diamond, 4, "spherical")
    again = last(decode_path(model, stops, seed=2, sampler=choose_schedule(model, "renoising", steps=6)))
    assert torch.equal(again.crystals.frac_coords, whole.crystals.frac_coords)
    assert not again.z.requires_grad


def test_the_bundled_model_walks_from_file_to_file() -> None:
    model = cdvae_lab.load("perov_5")
    a, b = (assets.asset_path(f"examples/{name}.cif") for name in ("SrTiO3", "BaTiO3"))
    crystals = last(interpolate(model, a, b, 3, steps=60)).crystals
    formulas = [s.composition.reduced_formula for s in crystals.to_structures()]
    assert formulas[0] == "SrTiO3"
    assert formulas[-1] == "BaTiO3"
    kept = last(interpolate(model, a, b, 3, steps=60, keep_composition="a")).crystals
    for structure in kept.to_structures():
        assert structure.composition.reduced_formula == "SrTiO3"
        assert structure.distance_matrix[~torch.eye(5, dtype=torch.bool).numpy()].min() > 1.5  # no atoms on each other


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "at least 2, not 1"),
        ({"path": "round"}, "path must be one of straight, spherical, not 'round'"),
        ({"keep_composition": "c"}, "'a' or 'b', not 'c'"),
        ({"keep_num_atoms": "first"}, "'a' or 'b', not 'first'"),
        ({"keep_composition": "a", "keep_num_atoms": "b"}, "has 5 atoms and b has 2: both cannot be kept"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"sampler": "metropolis"}, "no sampler 'metropolis'"),
        ({"steps": 1}, "steps must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused_at_the_call(
    model: CDVAE, srtio3: Crystals, diamond: Crystals, options: dict, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        interpolate(model, srtio3, diamond, **options)


def test_ends_that_the_model_cannot_take_are_named(model: CDVAE, srtio3: Crystals, diamond: Crystals) -> None:
    supercell = diamond.to_structures()[0].make_supercell([3, 2, 1])
    with pytest.raises(CrystalError, match=r"end b: .*its primitive cell has 2: take it with .*primitive=True"):
        interpolate(model, srtio3, supercell)
    with pytest.raises(CrystalError, match="end a: holds 2 crystals"):
        interpolate(model, Crystals.cat([srtio3, diamond]), srtio3)
    with pytest.raises(CrystalError, match=r"end b: nowhere\.cif"):
        interpolate(model, srtio3, "nowhere.cif")


def test_a_path_of_another_model_is_refused(model: CDVAE, srtio3: Crystals, random_dataset: Dataset) -> None:
    other = CDVAE.for_dataset(random_dataset, **{**SMALL, "latent_dim": 4})
    with pytest.raises(SettingError, match="of 8 dimensions and the model 4: it is another model's"):
        decode_path(other, latent_path(model, srtio3, srtio3))


def test_angles_are_exact_near_both_ends() -> None:
    a = torch.zeros(8, dtype=torch.float64)
    a[0] = 1
    for angle in (2e-4, math.pi - 2e-4):
        b = torch.zeros(8, dtype=torch.float64)
        b[0], b[1] = math.cos(angle), math.sin(angle)
        middle = spherical(a, b, torch.tensor([0.5], dtype=torch.float64))[0]
        assert middle[0].item() == pytest.approx(math.cos(angle / 2), abs=1e-9)
        assert middle[1].item() == pytest.approx(math.sin(angle / 2), abs=1e-9)
