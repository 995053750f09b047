"""Validity against pymatgen's distances and SMACT's own search."""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Element, Lattice, Structure
from smact.screening import smact_validity

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.metrics.validity import (
    composition_validity,
    formula_validity,
    invalid_reasons,
    reduced_formulas,
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
    assert reduced_formulas(one.pad(7)) == [((6, 1),)]


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


def smact_says(formula) -> bool:
    """SMACT's own search over all products of oxidation states."""
    composition = Composition({Element.from_Z(number).symbol: count for number, count in formula})
    return smact_validity(composition, oxidation_states_set="smact14")


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.integers(1, 100), st.integers(1, 9), min_size=1, max_size=4).map(
        lambda d: tuple(sorted(d.items()))
    )
)
def test_composition_validity_equals_smact_on_random_formulas(formula):
    divisor = math.gcd(*(count for _, count in formula))
    assert formula_validity(tuple((z, count // divisor) for z, count in formula)) == smact_says(formula)


# Cases in which the search is long, elements repeat a charge, or an electronegativity or a state is missing.
CHOSEN = [
    "LiFePO4",
    "KAl3Si3O12H2",
    "Ca5P3O13H",
    "Mn2FeCoNiO6",
    "PmCl3",
    "HeO",
    "LrF3",
    "XeF2",
    "H2O2",
    "BaO2",
    "CH3NH3PbI3",
]


@pytest.mark.parametrize("formula", CHOSEN)
def test_composition_validity_equals_smact_on_chosen_formulas(formula):
    crystals = of_formula(formula)
    assert composition_validity(crystals).tolist() == [smact_says(f) for f in reduced_formulas(crystals)]


def test_many_elements_take_no_time():
    # The product of oxidation states of these twelve elements has tens of millions of members.
    crystals = of_formula("LiMnFeCoNiCuVCrPSClO9")
    assert composition_validity(crystals).tolist() == [True]


@pytest.mark.parametrize("name", ["perov_5", "carbon_24", "mp_20"])
def test_composition_validity_equals_smact_on_every_benchmark_formula(name, shared_data: Path | None):
    if shared_data is not None:
        formulas = {formula for split in ("train", "val", "test") for formula in formulas_in(shared_data, name, split)}
        assert len(formulas) >= {"perov_5": 9_000, "carbon_24": 1, "mp_20": 20_000}[name]
    else:
        texts = {
            "perov_5": ["SrTiO3", "CaTiO2N", "NaTaO3", "LaAlO2N", "BaHfOFN", "InGaS2F", "TlPbN3"],
            "carbon_24": ["C6", "C24"],
            "mp_20": ["Ca2FeMoO6", "LiNbO3", "CsPbBr3", "Gd2Ti2O7", "Sr3Ir2", "Na3PS4", "GaAs", "Ce2CuGe6"],
        }[name]
        formulas = {formula for text in texts for formula in reduced_formulas(of_formula(text))}
    assert {formula for formula in formulas if formula_validity(formula) != smact_says(formula)} == set()


def formulas_in(folder: Path, name: str, split: str) -> set:
    """The reduced formulas of a public file, without parsing its crystals."""
    csv.field_size_limit(1_000_000)
    texts = set()
    with gzip.open(folder / name / f"{split}.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            lines = [line for line in row["cif"].splitlines() if "_chemical_formula_sum" in line]
            texts.add(lines[0].split(None, 1)[1].strip(" '") if lines else row["pretty_formula"])
    found = set()
    for text in texts:
        counts = {Element(symbol).Z: int(count) for symbol, count in Composition(text).as_dict().items()}
        divisor = math.gcd(*counts.values())
        found.add(tuple(sorted((number, count // divisor) for number, count in counts.items())))
    return found


def test_reasons_are_given_for_what_is_wrong():
    fine = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    collapsed = Structure(Lattice.cubic(5.6), ["Na", "Na", "Cl"], [[0, 0, 0], [0.01, 0, 0], [0.5, 0.5, 0.5]])
    tiny = Structure(Lattice.cubic(0.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    reasons = invalid_reasons(crystals_of(fine, collapsed, tiny))
    assert reasons[0] is None
    assert "closer than 0.5 Å" in reasons[1]
    assert "SMACT" in reasons[1]
    assert "volume below 0.1" in reasons[2]
    assert "SMACT" not in reasons[2]
