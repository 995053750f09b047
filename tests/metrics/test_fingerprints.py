"""Fingerprints against matminer itself, and order parameters against pymatgen's, on known and on random crystals."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Composition, Lattice, Structure

from cdvae_lab import datasets
from cdvae_lab.crystals import lattice
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_compositions
from cdvae_lab.evaluation.batch_fingerprints import composition_rows, structure_rows
from cdvae_lab.metrics import fingerprints
from cdvae_lab.metrics.fingerprints import composition_fingerprint, standardized, structure_fingerprint
from cdvae_lab.metrics.order_parameters import PARAMETERS, order_parameters
from cdvae_lab.runtime.result_cache import ResultCache

FEATURIZER = CrystalNNFingerprint.from_preset("ops")
MAGPIE = ElementProperty.from_preset("magpie", impute_nan=False)


def matminer_says(structure: Structure) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.mean([FEATURIZER.featurize(structure, site) for site in range(len(structure))], axis=0)


def ours(structure: Structure) -> np.ndarray:
    return structure_fingerprint(
        np.array(structure.atomic_numbers), structure.frac_coords, np.array(structure.lattice.matrix)
    )


def random_structure(seed: int) -> Structure:
    """Triclinic cells of one to six atoms, some sparse and some crowded."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    side = (n * rng.uniform(6, 30)) ** (1 / 3)
    cell = Lattice.from_parameters(*(side * rng.uniform(0.8, 1.25, 3)), *rng.uniform(65, 115, 3))
    return Structure(cell, rng.choice([1, 6, 8, 11, 18, 26, 38, 57, 92], n).tolist(), rng.uniform(0, 1, (n, 3)))


KNOWN = {
    "body-centered iron": Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "copper": Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]]),
    "zincblende": Structure.from_spacegroup("F-43m", Lattice.cubic(5.41), ["Zn", "S"], [[0, 0, 0], [0.25] * 3]),
    "rutile": Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    ),
    "graphite": Structure.from_spacegroup(
        "P6_3/mmc", Lattice.hexagonal(2.461, 6.708), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
    ),
    "caesium chloride": Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_structure_fingerprint_is_matminer_s_on_known_crystals(name: str) -> None:
    np.testing.assert_allclose(ours(KNOWN[name]), matminer_says(KNOWN[name]), atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_structure_fingerprint_is_matminer_s_on_random_crystals(seed: int) -> None:
    structure = random_structure(seed)
    np.testing.assert_allclose(ours(structure), matminer_says(structure), atol=1e-6)


@pytest.mark.parametrize("name", ["perov_5", "carbon_24", "mp_20"])
def test_structure_fingerprint_is_matminer_s_on_the_benchmark_sets(name: str, shared_data: Path | None) -> None:
    if shared_data is None:
        structures = [random_structure(seed) for seed in range(100, 103)]
    else:
        data = datasets.load(name, "val", folder=shared_data, limit=6, progress=False)
        structures = data.crystals.to_structures()
    for structure in structures:
        np.testing.assert_allclose(ours(structure), matminer_says(structure), atol=1e-6)


def test_an_open_voronoi_cell_is_left_to_pymatgen(monkeypatch: pytest.MonkeyPatch) -> None:
    # In a cell of 20 Å no other atom lies within 7 Å.
    lonely = Structure(Lattice.cubic(20), ["O"], [[0.0, 0.0, 0.0]])
    sites, real = [], fingerprints._by_pymatgen
    monkeypatch.setattr(fingerprints, "_by_pymatgen", lambda *site: sites.append(site) or real(*site))
    np.testing.assert_allclose(ours(lonely), matminer_says(lonely), atol=1e-6)
    assert len(sites) == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_fallback_is_matminer_s_on_ordinary_crystals_too(seed: int) -> None:
    structure = random_structure(seed)
    numbers, cell = np.array(structure.atomic_numbers), np.array(structure.lattice.matrix)
    found = [fingerprints._by_pymatgen(numbers, structure.frac_coords, cell, site) for site in range(len(numbers))]
    np.testing.assert_allclose(np.mean(found, axis=0), matminer_says(structure), atol=1e-6)


@pytest.mark.parametrize("neighbors", range(1, 13))
def test_order_parameters_are_pymatgen_s(neighbors: int) -> None:
    rng = np.random.default_rng(neighbors)
    corners = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], float)
    clouds = [rng.normal(size=(neighbors, 3)) for _ in range(5)]
    if neighbors <= 6:
        clouds += [2 * corners[:neighbors], 2 * corners[:neighbors] + rng.normal(0, 0.05, (neighbors, 3))]
    reference = [op for op in FEATURIZER.ops[neighbors] if op != "wt"]
    assert len(reference) == len(PARAMETERS[neighbors])
    for vectors in clouds:
        cluster = Structure(
            Lattice.cubic(30), ["C"] * (neighbors + 1), [[0, 0, 0], *vectors], coords_are_cartesian=True
        )
        expected = [
            op.get_order_parameters(list(cluster), 0, indices_neighs=list(range(1, neighbors + 1)))[0] or 0
            for op in reference
        ]
        np.testing.assert_allclose(order_parameters(vectors), expected, atol=1e-7)


@pytest.mark.parametrize("formula", ["SrTiO3", "C", "Fe2O3", "NaCl", "Og2O", "LuRhO2N", "HeNe", "PuO2", "Cs3Sb"])
def test_composition_fingerprint_is_matminer_s(formula: str) -> None:
    composition = Composition(formula)
    pairs = tuple(sorted((element.Z, int(count)) for element, count in composition.items()))
    expected = np.array(MAGPIE.featurize(composition), dtype=float)
    np.testing.assert_allclose(composition_fingerprint(pairs), expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_standardized_fingerprints_use_the_published_numbers_and_nan_becomes_zero() -> None:
    scaler = json.loads((Path(__file__).resolve().parents[2] / "assets" / "magpie_scaler.json").read_text())
    means, deviations = np.array(scaler["means"]), np.array(scaler["stds"])
    assert "txie-93/cdvae" in scaler["source"]
    rows = np.stack([means, means + deviations, np.full(132, np.nan)])
    np.testing.assert_allclose(standardized(rows), np.stack([np.zeros(132), np.ones(132), np.zeros(132)]), atol=1e-12)


def test_rows_of_impossible_crystals_are_empty_and_the_others_are_kept(
    known_crystals: Crystals, tmp_path: Path
) -> None:
    lost = known_crystals.replace(lattice=known_crystals.lattice * torch.nan)
    dense = known_crystals.replace(lattice=known_crystals.lattice * 0.05)
    batch = Crystals.cat([known_crystals, lost, dense]).to("cpu", torch.float64)
    cache = ResultCache(tmp_path)
    found: dict[int, np.ndarray] = {}
    for rows, values in structure_rows(batch, jobs=1, cache=cache):
        found |= dict(zip(rows, values, strict=True))
    assert sorted(found) == list(range(9))
    assert all(np.isnan(found[row]).all() for row in range(3, 9))
    for row, structure in enumerate(known_crystals.to("cpu", torch.float64).to_structures()):
        np.testing.assert_allclose(found[row][:-1], matminer_says(structure), atol=1e-6)
    assert [int(found[row][-1]) for row in range(3)] == [221, 225, 227]
    assert np.isfinite(composition_rows(batch)).all()


def test_cached_fingerprints_are_not_computed_again(
    known_crystals: Crystals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(structure_rows(known_crystals, jobs=1, cache=ResultCache(tmp_path)))
    monkeypatch.setattr(fingerprints, "_site_fingerprint", None)
    monkeypatch.setattr("cdvae_lab.evaluation.batch_fingerprints.structure_fingerprint", None)
    both = Crystals.cat([known_crystals, known_crystals])
    [(rows, values)] = structure_rows(both, jobs=1, cache=ResultCache(tmp_path))
    again = dict(zip(rows, values, strict=True))
    for parts in first:
        for row, value in zip(*parts, strict=True):
            np.testing.assert_array_equal(again[row], value)
            np.testing.assert_array_equal(again[row + 3], value)


def test_a_damaged_cache_is_renamed_and_replaced(known_crystals: Crystals, tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.warns(UserWarning, match="is damaged"):
        cache = ResultCache(tmp_path)
    cache.put("kind", {b"key": np.arange(3.0)})
    np.testing.assert_array_equal(ResultCache(tmp_path).get("kind", [b"key", b"other"])[b"key"], np.arange(3.0))
    assert (tmp_path / "results.damaged").is_file()


def test_without_a_writable_cache_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be used"):
        cache = ResultCache(tmp_path / "file" / "cache")
    cache.put("kind", {b"key": np.arange(3.0)})
    assert cache.get("kind", [b"key"]) == {}


def test_lattices_reach_matminer_in_the_same_orientation() -> None:
    """A turned crystal has the same fingerprint: what is compared does not depend on the orientation of rows."""
    structure = random_structure(3)
    lengths, angles = (torch.tensor([x]) for x in (structure.lattice.abc, structure.lattice.angles))
    turned = lattice.from_parameters(lengths.double(), angles.double())[0].numpy()
    numbers = np.array(structure.atomic_numbers)
    np.testing.assert_allclose(
        structure_fingerprint(numbers, structure.frac_coords, turned), ours(structure), atol=1e-5
    )
    assert reduced_compositions(Crystals(torch.zeros(1, 1, 3), torch.tensor([[6]]), torch.eye(3)[None])) == [((6, 1),)]
