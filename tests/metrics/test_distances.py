"""Closest distances against pymatgen's neighbor search, with and without an atom's own images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.metrics.distances import closest_distance, closest_distinct_distance, closest_pair


def crystal_of(structure: Structure) -> Crystals:
    return Crystals.from_lists(
        [torch.tensor(structure.frac_coords)],
        [torch.tensor(structure.atomic_numbers)],
        torch.tensor(structure.lattice.matrix.copy())[None],
    )


def pymatgen_says(structure: Structure) -> float:
    """Return the closest of all neighbors within a radius that certainly holds one, own images included."""
    radius = min(structure.lattice.abc) + 1e-6
    return min(n.nn_distance for neighbors in structure.get_all_neighbors(radius) for n in neighbors)


def random_structure(seed: int) -> Structure:
    """Cells from ordinary to thin and skewed, with one to five atoms."""
    rng = np.random.default_rng(seed)
    while True:
        angles = rng.uniform(30, 150, 3)
        cosines = np.cos(np.radians(angles))
        if 1 - (cosines**2).sum() + 2 * cosines.prod() > 1e-2:
            break
    lengths, atoms = rng.uniform(1.5, 7, 3), int(rng.integers(1, 6))
    return Structure(Lattice.from_parameters(*lengths, *angles), ["C"] * atoms, rng.uniform(0, 1, (atoms, 3)))


@pytest.mark.parametrize("seed", range(25))
def test_the_closest_distance_is_pymatgen_s(seed: int) -> None:
    structure = random_structure(seed)
    crystal = crystal_of(structure)
    assert closest_distance(crystal).item() == pytest.approx(pymatgen_says(structure), rel=1e-6)
    first, second = closest_pair(crystal)
    distances = [n.nn_distance for n in structure.get_neighbors(structure[first], 8) if n.index == second]
    assert min(distances) == pytest.approx(closest_distance(crystal).item(), rel=1e-6)


def test_an_atom_s_own_images_count() -> None:
    """A cell 1.6 Å wide: the atoms are 4.32 Å apart, but each is 1.6 Å from its own image."""
    cell = Lattice.orthorhombic(1.6, 8.64, 9)
    narrow = crystal_of(Structure(cell, ["O", "Sr"], [[0, 0, 0], [0, 0.5, 0]]))
    assert closest_distance(narrow).item() == pytest.approx(1.6)
    assert closest_distinct_distance(narrow).item() == pytest.approx(4.32)
    assert closest_pair(narrow) in ((0, 0), (1, 1))


def test_a_single_atom_has_its_images_and_an_impossible_cell_nothing() -> None:
    alone = Crystals(torch.zeros(1, 1, 3), torch.tensor([[8]]), torch.eye(3)[None] * 3)
    assert closest_distance(alone).tolist() == [3]
    assert closest_distinct_distance(alone).tolist() == [math.inf]
    flat = alone.replace(lattice=torch.zeros(1, 3, 3))
    assert closest_distance(flat).isnan().all()
    with pytest.raises(ValueError, match="a cell of some volume"):
        closest_pair(flat)


def test_the_closest_distinct_distance_of_known_crystals(known_crystals):
    expected = [3.905 / 2, 5.640 / 2, 3.567 * math.sqrt(3) / 4]
    np.testing.assert_allclose(closest_distinct_distance(known_crystals), expected, rtol=1e-5)
    alone = Crystals(torch.zeros(1, 1, 3), torch.tensor([[8]]), torch.eye(3)[None])
    assert closest_distinct_distance(alone).tolist() == [math.inf]
    assert closest_distinct_distance(alone.replace(lattice=torch.zeros(1, 3, 3))).isnan().all()
    # A cell so flat that the nearest image of the other atom is two cells away along the short axis.
    flat = Crystals(
        torch.tensor([[[0.0, 0, 0], [0.5, 0, 0]]]),
        torch.tensor([[6, 6]]),
        torch.tensor([[[10.0, 0, 0], [2.4, 0.3, 0], [0, 0, 8]]]),
    )
    [structure] = flat.to_structures()
    assert closest_distinct_distance(flat).item() == pytest.approx(math.hypot(0.2, 0.6), rel=1e-5)
    assert closest_distinct_distance(flat).item() == pytest.approx(structure.distance_matrix[0, 1], rel=1e-5)
