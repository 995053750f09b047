"""Validity: structures against pymatgen's distances, compositions of known formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.core import Composition, Element, Lattice, Structure

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_compositions
from cdvae_lab.metrics.validity import (
    composition_validity,
    invalid_reasons,
    structure_validity,
)


def crystals_of(*structures: Structure) -> Crystals:
    return Crystals.from_lists(
        [torch.tensor(s.frac_coords) for s in structures],
        [torch.tensor(s.atomic_numbers) for s in structures],
        torch.tensor(np.array([s.lattice.matrix for s in structures])),
    )


def of_formula(formula: str) -> Crystals:
    """A crystal with this composition; where its atoms are does not matter."""
    numbers = [Element(symbol).Z for symbol, n in Composition(formula).as_dict().items() for _ in range(int(n))]
    return Crystals.from_lists([torch.rand(len(numbers), 3)], [torch.tensor(numbers)], torch.eye(3)[None] * 10)


def pymatgen_says(structure: Structure) -> bool:
    distances = structure.distance_matrix
    distances = distances + np.diag(np.full(len(distances), 10.0))
    return bool(distances.min() >= 0.5 and structure.volume >= 0.1)


def random_structure(seed: int) -> Structure:
    """Cells from ordinary to very thin and skewed, crowded so that about half of them are invalid."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.3, 2.5, 3) if seed % 2 else rng.uniform(2, 6, 3)
    while True:
        angles = rng.uniform(25, 155, 3)
        cosines = np.cos(np.radians(angles))
        if 1 - (cosines**2).sum() + 2 * cosines.prod() > 1e-4:
            break
    atoms = int(rng.integers(1, 4 if seed % 2 else 13))
    frac = rng.uniform(-1, 2, (atoms, 3))
    return Structure(Lattice.from_parameters(*lengths, *angles), ["C"] * atoms, frac)


def test_structure_validity_equals_pymatgen_on_random_triclinic_cells():
    structures = [random_structure(seed) for seed in range(600)]
    expected = [pymatgen_says(s) for s in structures]
    assert 100 < sum(expected) < 500
    assert structure_validity(crystals_of(*structures)).tolist() == expected


def test_structure_validity_sees_close_images_across_several_thin_cells():
    # Along a the cell is 0.2 Å thick: the images that touch are many cells away from the rounded difference.
    lattice = Lattice([[5.0, 0, 0], [24.9, 0.2, 0], [0, 0, 5.0]])
    touching = Structure(lattice, ["C", "C"], [[0, 0, 0], [0.5, 0.5, 0.04]])
    apart = Structure(lattice, ["C", "C"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    expected = [pymatgen_says(touching), pymatgen_says(apart)]
    assert expected == [False, True]
    assert structure_validity(crystals_of(touching, apart)).tolist() == expected


def test_an_atom_close_to_its_own_image_is_valid_as_in_the_reference():
    wire = Structure(Lattice.orthorhombic(0.3, 5, 5), ["C"], [[0, 0, 0]])
    assert structure_validity(crystals_of(wire)).tolist() == [True]


@pytest.mark.parametrize("distance", [0.499, 0.501])
def test_structure_validity_at_the_threshold_through_a_face(distance):
    pair = Structure(Lattice.cubic(4), ["C", "O"], [[0.001, 0, 0], [1.001 - distance / 4, 0, 0]])
    assert structure_validity(crystals_of(pair)).tolist() == [distance > 0.5]


def test_thresholds_are_arguments():
    pair = crystals_of(Structure(Lattice.cubic(4), ["C", "O"], [[0, 0, 0], [0.25, 0, 0]]))
    assert structure_validity(pair, min_distance=0.99).tolist() == [True]
    assert structure_validity(pair, min_distance=1.01).tolist() == [False]
    assert structure_validity(pair, min_volume=64.1).tolist() == [False]


def test_degenerate_crystals_are_invalid_not_a_crash():
    good = torch.eye(3) * 4
    flat, zero, huge = good.clone(), torch.zeros(3, 3), good.clone()
    flat[2] = flat[0] + flat[1]
    huge[0, 0] = math.inf
    nan_cell, nan_atom = good.clone(), torch.rand(6, 2, 3)
    nan_cell[1, 2] = math.nan
    nan_atom[4, 1, 0] = math.nan
    batch = Crystals(nan_atom, torch.tensor([[6, 8]] * 6), torch.stack([flat, zero, huge, nan_cell, good, good]))
    batch = batch.replace(
        frac_coords=batch.frac_coords.index_put((torch.tensor(5),), torch.tensor([[0.0] * 3, [0.5] * 3]))
    )
    assert structure_validity(batch).tolist() == [False] * 5 + [True]
    no_atoms = Crystals(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), good[None])
    assert structure_validity(no_atoms).tolist() == composition_validity(no_atoms).tolist() == [False]


def test_padding_does_not_count_as_atoms():
    one = crystals_of(Structure(Lattice.cubic(4), ["C"], [[0, 0, 0]]))
    assert structure_validity(one.pad(7)).tolist() == [True]
    assert reduced_compositions(one.pad(7)) == [((6, 1),)]


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("SrTiO3", True),
        ("NaCl", True),
        ("Na2Cl", False),
        ("C24", True),
        ("CuZn", True),
        ("Fe3O4", False),
        ("Ar2", True),
    ],
)
def test_composition_validity_of_known_formulas(formula, valid):
    # Fe3O4 is mixed-valent, which this test cannot see: one oxidation state per element.
    assert composition_validity(of_formula(formula)).tolist() == [valid]


def test_many_elements_take_no_time():
    # The product of oxidation states of these twelve elements has tens of millions of members.
    crystals = of_formula("LiMnFeCoNiCuVCrPSClO9")
    assert composition_validity(crystals).tolist() == [True]


def test_reasons_of_invalidity_are_named():
    fine = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    collapsed = Structure(Lattice.cubic(5.6), ["Na", "Na", "Cl"], [[0, 0, 0], [0.01, 0, 0], [0.5, 0.5, 0.5]])
    tiny = Structure(Lattice.cubic(0.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    reasons = invalid_reasons(crystals_of(fine, collapsed, tiny))
    assert reasons[0] is None
    assert "closer than 0.5 Å" in reasons[1]
    assert "SMACT" in reasons[1]
    assert "volume below 0.1" in reasons[2]
    assert "SMACT" not in reasons[2]
