"""Symmetries and smoothness of the network, and model files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from pymatgen.core import Lattice, Structure
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import nearest_neighbors, periodic_images
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, CrystalError, LabError, SettingError
from cdvae_lab.io import assets
from cdvae_lab.io.storage import write_tensors
from cdvae_lab.models import checkpoints, painn
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.latents import encode
from cdvae_lab.models.painn import Block, PaiNN, PairBasis, envelope, pair_basis, pair_basis_all_images

SMALL = {
    "hidden_dim": 16,
    "latent_dim": 8,
    "head_dim": 16,
    "encoder_blocks": 2,
    "decoder_blocks": 2,
    "num_radial": 8,
}
Outputs = dict[str, Tensor]


def make(seed: int = 0, **settings) -> CDVAE:
    torch.manual_seed(seed)
    model = CDVAE(CDVAEConfig(**{"max_atoms": 24, **SMALL, **settings})).eval().requires_grad_(False)
    model.lattice_mean.copy_(torch.tensor([2.5, 2.5, 2.5, 90, 90, 90]))
    return model


@pytest.fixture(scope="module")
def model() -> CDVAE:
    return make().double()


def random_crystals() -> Crystals:
    """Cells of 1 to 9 atoms, one of them flat and long, without equal interatomic distances."""
    generator = torch.Generator().manual_seed(3)
    sizes = [1, 3, 9, 4]
    cells = torch.eye(3) * torch.tensor([[3.0, 3.2, 2.9], [4, 5, 4.5], [6, 5, 5.5], [2.6, 2.7, 20]])[:, None]
    return Crystals.from_lists(
        [torch.rand(n, 3, generator=generator, dtype=torch.float64) for n in sizes],
        [torch.randint(1, 40, (n,), generator=generator) for n in sizes],
        (cells + 0.3 * torch.randn(4, 3, 3, generator=generator)).double(),
    )


@pytest.fixture(params=["random", "known"])
def crystals(request: pytest.FixtureRequest, known_crystals: Crystals) -> Crystals:
    """Crystals with atoms in general positions, and ideal ones with neighbors at equal distances."""
    return random_crystals() if request.param == "random" else known_crystals.to(dtype=torch.float64)


def z_and_sigma(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 8, generator=generator).double(), torch.logspace(-2, 1, n, dtype=torch.float64)


def outputs(model: CDVAE, crystals: Crystals) -> Outputs:
    z, sigma = z_and_sigma(len(crystals))
    posterior = model.encode(crystals)
    p, logits = model.predict_noise(crystals, z, sigma)
    return {
        "mu": posterior.mu,
        "log_var": posterior.log_var,
        "atom_features": model.atom_features(crystals),
        "p": p,
        "logits": logits,
    }


# Symmetries


def orthogonal(seed: int, reflect: bool) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q if (torch.det(q) < 0) == reflect else -q


@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("seed", range(3))
def test_rotating_a_crystal_rotates_its_score_and_nothing_else(
    model: CDVAE, crystals: Crystals, seed: int, reflect: bool
) -> None:
    q = orthogonal(seed, reflect)
    before, after = outputs(model, crystals), outputs(model, crystals.replace(lattice=crystals.lattice @ q.T))
    for name in before.keys() - {"p"}:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-9)
    torch.testing.assert_close(before["p"] @ q.T, after["p"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [(0.1, -0.37, 0.9), (0.5, 0.5, 0.5), (5.0, -3.0, 2.25)])
def test_translating_a_crystal_changes_nothing(model: CDVAE, crystals: Crystals, shift: tuple[float, ...]) -> None:
    moved = crystals.frac_coords + torch.tensor(shift, dtype=torch.float64)
    for frac in (moved, moved % 1):
        after = outputs(model, crystals.replace(frac_coords=frac * crystals.mask[..., None]))
        for name, before in outputs(model, crystals).items():
            torch.testing.assert_close(before, after[name], rtol=0, atol=1e-9)


def test_the_order_of_the_atoms_does_not_matter(model: CDVAE, crystals: Crystals) -> None:
    before = outputs(model, crystals)
    for c in range(len(crystals)):
        atoms = int(crystals.num_atoms[c])
        order = torch.arange(crystals.num_sites)
        order[:atoms] = torch.randperm(atoms, generator=torch.Generator().manual_seed(c))
        every = crystals.replace(
            frac_coords=crystals.frac_coords[:, order], atomic_numbers=crystals.atomic_numbers[:, order]
        )
        after = outputs(model, Crystals.cat([crystals[:c], every[c], crystals[c + 1 :]]) if c else every)
        for name in ("mu", "log_var"):
            torch.testing.assert_close(before[name][c], after[name][c], rtol=0, atol=1e-9)
        for name in ("atom_features", "p", "logits"):
            torch.testing.assert_close(before[name][c, order], after[name][c], rtol=0, atol=1e-9)


def test_batch_and_padding_do_not_matter(model: CDVAE, crystals: Crystals) -> None:
    together = outputs(model, crystals.pad(11))
    assert (together["p"][~crystals.pad(11).mask] == 0).all()
    assert (together["atom_features"][~crystals.pad(11).mask] == 0).all()
    z, sigma = z_and_sigma(len(crystals))
    for c in range(len(crystals)):
        alone = crystals[c].trim()
        p, logits = model.predict_noise(alone, z[c : c + 1], sigma[c : c + 1])
        torch.testing.assert_close(together["p"][c, : alone.num_sites], p[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together["logits"][c, : alone.num_sites], logits[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together["mu"][c], model.encode(alone).mu[0], rtol=0, atol=1e-9)


def test_the_score_of_an_ideal_crystal_is_zero_and_of_a_distorted_one_is_not(
    model: CDVAE, known_crystals: Crystals
) -> None:
    """The site symmetry of these crystals forbids a vector: an inversion center, or in diamond four threefold axes."""
    ideal = known_crystals.to(dtype=torch.float64)
    z, sigma = z_and_sigma(3)
    p, _ = model.predict_noise(ideal, z, sigma)
    assert p.abs().max() < 1e-9
    frac = ideal.frac_coords.clone()
    frac[:, 0, 0] += 0.03
    p, _ = model.predict_noise(ideal.replace(frac_coords=frac), z, sigma)
    assert (p.abs().amax((1, 2)) > 1e-5).all()


def test_z_and_the_noise_level_reach_the_score(model: CDVAE) -> None:
    crystals = random_crystals()
    z, sigma = z_and_sigma(4)
    p, _ = model.predict_noise(crystals, z, sigma)
    assert (model.predict_noise(crystals, z + 1, sigma)[0] - p).abs().max() > 1e-4
    assert (model.predict_noise(crystals, z, 2 * sigma)[0] - p).abs().max() > 1e-4


# Another description of the same crystal

UNIMODULAR = [
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    [[1, 0, 0], [-2, 1, 0], [1, 1, 1]],
    [[-1, 0, 0], [0, 1, 1], [0, 0, -1]],
]


@pytest.mark.parametrize("num_neighbors", [20, 2000, 0])
@pytest.mark.parametrize("transform", UNIMODULAR)
def test_atom_features_do_not_depend_on_the_choice_of_cell_vectors(
    model: CDVAE, crystals: Crystals, transform: list[list[int]], num_neighbors: int
) -> None:
    m = torch.tensor(transform, dtype=torch.float64)
    same = crystals.replace(lattice=m @ crystals.lattice, frac_coords=crystals.frac_coords @ torch.linalg.inv(m))
    before, after = (model.atom_features(c, num_neighbors=num_neighbors) for c in (crystals, same))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_neighbors", [20, 2000, 0])
@pytest.mark.parametrize("repeat", [(2, 1, 1), (1, 2, 2), (1, 1, 3)])
def test_atom_features_are_the_same_in_a_supercell(
    model: CDVAE, crystals: Crystals, repeat: tuple[int, int, int], num_neighbors: int
) -> None:
    shifts = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in repeat))
    scale = torch.tensor(repeat, dtype=torch.float64)
    for c in range(len(crystals)):
        one = crystals[c].trim()
        frac = (one.frac_coords[0][:, None] + shifts) / scale
        many = Crystals(
            frac.reshape(1, -1, 3),
            one.atomic_numbers.repeat_interleave(len(shifts), 1),
            one.lattice * scale[:, None],
        )
        before, after = (model.atom_features(x, num_neighbors=num_neighbors)[0] for x in (one, many))
        torch.testing.assert_close(before.repeat_interleave(len(shifts), 0), after, rtol=0, atol=1e-9)
        torch.testing.assert_close(before.mean(0), after.mean(0), rtol=0, atol=1e-9)


NEARLY = {
    "plain": (3.9, 4.6, 6.1, 71, 83, 64),
    "nearly cubic": (4.0, 4.0 + 1e-7, 4.0 - 1e-7, 90 + 1e-6, 90, 90 - 1e-6),
    "nearly hexagonal": (3.2, 3.2 + 1e-7, 5.1, 90, 90 + 1e-6, 120 - 1e-6),
    "nearly face-centerd": (4.0, 4.0 + 1e-7, 4.0, 60 + 1e-6, 60, 60 - 1e-6),
    "nearly body-centerd": (4.0, 4.0, 4.0 + 1e-7, 109.4712206 + 1e-6, 109.4712206, 109.4712206),
}


@pytest.mark.parametrize("cell", NEARLY)
def test_a_latent_does_not_depend_on_the_description_of_the_crystal(model: CDVAE, cell: str) -> None:
    lattice = Lattice.from_parameters(*NEARLY[cell])
    frac = np.array([[0.11, 0.2, 0.37], [0.6, 0.71, 0.9], [0.45, 0.02, 0.66]])
    species = ["Ti", "O", "C"]
    z = encode(model, Structure(lattice, species, frac))
    rng = np.random.default_rng(0)
    for transform in UNIMODULAR:
        m = np.array(transform, float)
        rotation = orthogonal(int(rng.integers(100)), reflect=False).numpy()
        order = rng.permutation(3)
        again = Structure(
            Lattice(m @ lattice.matrix @ rotation),
            [species[i] for i in order],
            (frac @ np.linalg.inv(m) + rng.uniform(-2, 2, 3))[order],
        )
        torch.testing.assert_close(encode(model, again), z, rtol=0, atol=1e-5)


# Smoothness


def swap_of_neighbors(model: CDVAE, crystals: Crystals, along: Tensor) -> float:
    """Find the displacement of atom 0 along `along` (fractional) at which its k-th and (k+1)-th neighbors swap."""
    c = model.config
    images = periodic_images(crystals.lattice, c.cutoff)

    def chosen(t: float) -> list[int]:
        found = nearest_neighbors(moved(crystals, along, t), images, c.num_neighbors, c.cutoff)
        return found.index[0, 0].sort().values.tolist()

    low, high = next((t, t + 0.01) for t in np.arange(0, 1, 0.01) if chosen(t) != chosen(t + 0.01))
    first = chosen(low)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if chosen(middle) == first else (low, middle)
    assert chosen(high + 1e-9) != chosen(low - 1e-9)
    return high


def moved(crystals: Crystals, along: Tensor, t: float) -> Crystals:
    frac = crystals.frac_coords.clone()
    frac[0, 0] += t * along
    return crystals.replace(frac_coords=frac)


@pytest.mark.parametrize("num_neighbors", [2, 6, 12])
def test_outputs_are_continuous_where_neighbors_swap(num_neighbors: int) -> None:
    model = make(num_neighbors=num_neighbors).double()
    crystals, along = random_crystals()[2], torch.tensor([0.3, 0.5, -0.2], dtype=torch.float64)
    at = swap_of_neighbors(model, crystals, along)

    def across(width: float) -> Outputs:
        before, after = (outputs(model, moved(crystals, along, at + s * width)) for s in (-1, 1))
        return {name: (after[name] - before[name]).abs().max() for name in before}

    wide, narrow = across(1e-4), across(1e-8)
    for name in wide:
        assert wide[name] > 0
        assert narrow[name] < 1e-2 * wide[name], f"{name} jumps by {narrow[name]:.2g}"


def test_the_envelope_is_that_of_dimenet_and_smooth_at_the_cutoff() -> None:
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    p = 6
    equation_8 = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    torch.testing.assert_close(envelope(x), equation_8)
    assert (envelope(torch.tensor([1.0, 1.5, 1e6])) == 0).all()
    edge = torch.tensor(1 - 1e-9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(envelope(edge), edge, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, edge)
    assert abs(slope.item()) < 1e-6
    assert abs(curvature.item()) < 1e-6


def test_derivatives_equal_finite_differences(model: CDVAE) -> None:
    crystals = random_crystals()[1].trim()
    z, sigma = z_and_sigma(1)
    images = periodic_images(crystals.lattice, model.config.cutoff)

    def both(frac: Tensor) -> tuple[Tensor, Tensor]:
        at = crystals.replace(frac_coords=frac)
        return model.encode(at, images).mu, model.predict_noise(at, z, sigma, images)[0]

    assert torch.autograd.gradcheck(both, crystals.frac_coords.clone().requires_grad_(), atol=1e-6)


def test_overlapping_atoms_give_finite_outputs() -> None:
    model = make().requires_grad_(True)
    crystals = Crystals(torch.full((1, 3, 3), 0.25), torch.tensor([[6, 6, 8]]), 3 * torch.eye(3)[None])
    z, sigma = torch.zeros(1, 8), torch.ones(1)
    p, logits = model.predict_noise(crystals, z, sigma)
    (p.square().sum() + logits.square().sum() + model.encode(crystals).mu.sum()).backward()
    assert torch.isfinite(p).all()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters() if w.grad is not None)


# Aggregates


def test_aggregates_are_valid_for_any_z(model: CDVAE) -> None:
    z = 100 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    aggregates = model.aggregates(z)
    assert aggregates.num_atoms.min() >= 1
    assert aggregates.num_atoms.max() <= 24
    torch.testing.assert_close(aggregates.composition.sum(-1), torch.ones(200, dtype=torch.float64))
    lattice = model.predict_lattice(aggregates)
    assert torch.isfinite(lattice).all()
    assert (torch.linalg.det(lattice).abs() > 0.1).all()


def test_zero_atoms_are_never_predicted(model: CDVAE) -> None:
    aggregates = model.aggregates(torch.zeros(1, 8, dtype=torch.float64))
    logits = torch.zeros_like(aggregates.num_atoms_logits)
    logits[0, 0], logits[0, 7] = 100, 1
    assert dataclasses.replace(aggregates, num_atoms_logits=logits).num_atoms.tolist() == [7]


def test_a_new_model_takes_sizes_elements_and_standardization_from_its_data(random_dataset: Dataset) -> None:
    model = CDVAE.for_dataset(random_dataset, **SMALL)
    assert model.config.max_atoms == 6
    assert model.elements.nonzero()[:, 0].tolist() == [6, 8, 22]
    standardized = model.standardized_lattice(random_dataset.crystals)
    torch.testing.assert_close(standardized.mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(standardized.std(0, correction=0), torch.ones(6), rtol=0, atol=1e-3)
    labels = random_dataset.labels[4:]
    assert model.property_mean.item() == pytest.approx(labels.mean().item(), rel=1e-5)
    assert model.property_std.item() == pytest.approx(labels.std(correction=0).item(), rel=1e-5)
    same = CDVAE.for_dataset(random_dataset, **SMALL).state_dict()
    assert all(torch.equal(v, same[k]) for k, v in model.state_dict().items())
    other = CDVAE.for_dataset(random_dataset, seed=1, **SMALL)
    assert not torch.equal(other.to_mu.weight, model.to_mu.weight)


def test_constant_lattice_parameters_are_standardized_safely(random_dataset: Dataset) -> None:
    cubes = random_dataset.crystals.replace(lattice=4.0 * torch.eye(3).repeat(20, 1, 1))
    model = CDVAE.for_dataset(dataclasses.replace(random_dataset, crystals=cubes), **SMALL)
    assert model.standardized_lattice(cubes)[:, 3:].abs().max() < 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_atoms": 0},
        {"latent_dim": 0},
        {"hidden_dim": -1},
        {"encoder_blocks": 0},
        {"num_radial": 1},
        {"num_neighbors": -1},
        {"cutoff": 0.0},
        {"cutoff": float("nan")},
        {"num_levels": 1},
        {"sigma_min": 20.0},
        {"sigma_min": 0.0},
        {"type_sigma_max": 0.001},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingError, match="CDVAEConfig"):
        CDVAEConfig(**{"max_atoms": 5, **wrong})


# Files


def test_a_saved_model_loads_exactly(random_dataset: Dataset, tmp_path: Path) -> None:
    model = CDVAE.for_dataset(random_dataset, **SMALL)
    model.metadata = {"data": "random", "steps": 0}
    path = model.save(tmp_path / "model.safetensors", scores={"match": 0.5})
    again = checkpoints.load(path)
    assert again.config == model.config
    assert again.metadata == {"data": "random", "steps": 0, "scores": {"match": 0.5}}
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(model.encode(random_dataset.crystals).mu, again.encode(random_dataset.crystals).mu)


def test_half_precision_is_half_the_size_and_close(random_dataset: Dataset, tmp_path: Path) -> None:
    model = CDVAE.for_dataset(random_dataset, **{**SMALL, "hidden_dim": 64})
    whole, half = model.save(tmp_path / "whole.safetensors"), model.save(tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    again = checkpoints.load(half)
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert torch.equal(again.lattice_std, model.lattice_std)
    a, b = (m.encode(random_dataset.crystals).mu for m in (model, again))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3)


def header_of(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["metadata"])
    return safetensors.torch.load_file(path), metadata


def damage(path: Path, how: str) -> None:
    tensors, metadata = header_of(path)
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "cut in its header":
        path.write_bytes(data[:100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a text file":
        path.write_text("not a model\n" * 100)
    elif how == "another program's":
        safetensors.torch.save_file(tensors, path)
    elif how == "another version":
        write_tensors(path, "model", 999, tensors, metadata)
    elif how == "another kind":
        write_tensors(path, "trajectory", 1, tensors, metadata)
    elif how == "a tensor short":
        del tensors["to_mu.weight"]
        write_tensors(path, "model", 1, tensors, metadata)
    elif how == "of other sizes":
        metadata["config"]["hidden_dim"] = 32
        write_tensors(path, "model", 1, tensors, metadata)
    elif how == "with strange settings":
        metadata["config"]["color"] = "blue"
        write_tensors(path, "model", 1, tensors, metadata)
    elif how == "without settings":
        write_tensors(path, "model", 1, tensors, {})
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "truncated, damaged"),
        ("cut in its header", "truncated, damaged"),
        ("empty", "truncated, damaged"),
        ("a text file", "truncated, damaged"),
        ("another program's", "not one of cdvae_lab's"),
        ("another version", "version 999"),
        ("another kind", "holds a trajectory"),
        ("a tensor short", "to_mu.weight"),
        ("of other sizes", "size mismatch"),
        ("with strange settings", "color"),
        ("without settings", "config"),
        ("missing", "no such file"),
    ],
)
def test_a_file_that_holds_no_model_is_refused(random_dataset: Dataset, tmp_path: Path, how: str, message: str) -> None:
    path = CDVAE.for_dataset(random_dataset, **SMALL).save(tmp_path / "mine.safetensors")
    damage(path, how)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(path)
    assert "mine.safetensors" in str(caught.value)


def test_bundled_models_load_by_name(random_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CDVAE.for_dataset(random_dataset, **SMALL).save(tmp_path / "perov_5.safetensors")
    monkeypatch.setattr(assets, "_PLACES", (tmp_path,))
    assert checkpoints.load("perov_5").config.max_atoms == 6
    with pytest.raises(LabError, match="'perov_6' is bundled; there are perov_5"):
        checkpoints.load("perov_6")


# Crystals that a model cannot take


@pytest.fixture
def trained_on_random(random_dataset: Dataset) -> CDVAE:
    """A model of C, O and Ti, with up to 6 atoms."""
    return CDVAE.for_dataset(random_dataset, **SMALL).eval().requires_grad_(False)


def write(path: Path, species: list[str]) -> Path:
    frac = [[i / len(species), 0, 0] for i in range(len(species))]
    Structure(Lattice.orthorhombic(3.0 * len(species), 3, 3), species, frac).to(str(path), "poscar")
    return path


def test_too_many_atoms_and_unseen_elements_are_refused_by_name(trained_on_random: CDVAE, tmp_path: Path) -> None:
    good = write(tmp_path / "good.vasp", ["Ti", "O", "O"])
    assert encode(trained_on_random, good).shape == (1, 8)
    big = write(tmp_path / "big.vasp", ["C", "O", "Ti", "O", "C", "C", "O"])
    with pytest.raises(CrystalError, match=r"big\.vasp.*7 atoms.*6"):
        encode(trained_on_random, [good, big])
    strange = write(tmp_path / "strange.vasp", ["Ti", "Xe"])
    with pytest.raises(CrystalError, match=r"strange\.vasp.*Xe.*C, O, Ti"):
        encode(trained_on_random, strange)


def test_the_basis_of_all_images_equals_that_of_a_long_neighbor_list(crystals: Crystals) -> None:
    centers = torch.linspace(0, 7, 24, dtype=torch.float64)
    images = periodic_images(crystals.lattice, 7.0)
    listed = pair_basis(nearest_neighbors(crystals, images, 2000, 7.0), centers)
    every = pair_basis_all_images(crystals, images, centers, 7.0)
    torch.testing.assert_close(every.radial, listed.radial, rtol=0, atol=1e-12)
    torch.testing.assert_close(every.directional, listed.directional, rtol=0, atol=1e-12)
    assert every.radial.abs().max() > 0.1


@pytest.mark.parametrize("why", ["gradients of the positions", "too many images"])
def test_gradients_and_very_large_batches_are_not_compiled(
    crystals: Crystals, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = PaiNN(8, 1, 6, 7.0).double()
    images = periodic_images(crystals.lattice, 7.0)
    expected = network.basis_for(crystals, images, 0, 7.0)

    def compiled(*_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(network, "basis_all_images", compiled)
    with pytest.raises(AssertionError, match="compiled"):
        network.basis_for(crystals, images, 0, 7.0)
    if why == "too many images":
        monkeypatch.setattr(painn, "MAX_COMPILED_SIZE", 1000)
    else:
        crystals = crystals.replace(frac_coords=crystals.frac_coords.clone().requires_grad_())
    seen = network.basis_for(crystals, images, 0, 7.0)
    assert torch.equal(seen.radial, expected.radial)
    assert torch.equal(seen.directional, expected.directional)


@pytest.mark.parametrize("first", [True, False])
def test_summing_over_senders_first_gives_the_same_messages_and_gradients(first: bool) -> None:
    torch.manual_seed(0)
    block = Block(16, 6, 0, first).double()
    basis = PairBasis(torch.randn(2, 7, 7, 6).double(), torch.randn(2, 7, 7, 3, 6).double())
    sent = [torch.randn(2, 7, 16).double().requires_grad_() for _ in range(2)]
    sent += [] if first else [torch.randn(2, 7, 3, 16).double().requires_grad_()]
    carried = None if first else sent[2]
    found = []
    for messages in (block._messages, block._messages_of_many):
        results = messages(basis, sent[0], sent[1], carried)
        loss = sum((result * torch.linspace(-1, 1, result.numel()).reshape(result.shape)).sum() for result in results)
        weights = [block.radial_filter.weight, block.directional_filter.weight]
        found.append([*results, *torch.autograd.grad(loss, [*sent, *weights])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_crystals_of_many_atoms_have_the_same_output_by_either_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sites = painn.MANY_SITES + 2
    crystals = Crystals(torch.rand(1, sites, 3), torch.randint(1, 80, (1, sites)), 9 * torch.eye(3)[None])
    model = CDVAE(CDVAEConfig(max_atoms=sites, hidden_dim=16, latent_dim=4, head_dim=8, num_neighbors=0))
    z, sigma = torch.randn(1, 4), torch.ones(1)
    with torch.no_grad():
        many = model.predict_noise(crystals, z, sigma)
        monkeypatch.setattr(painn, "MANY_SITES", sites + 1)
        few = model.predict_noise(crystals, z, sigma)
    for one, other in zip(many, few, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
