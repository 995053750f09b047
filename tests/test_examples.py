"""The example crystals that come with the package, against pymatgen's symmetry and what is known of their bonds."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Structure

from cdvae_lab.io import assets
from cdvae_lab.io.convert import read
from cdvae_lab.metrics.distances import closest_distinct_distance
from cdvae_lab.metrics.validity import structure_validity

# Space group, density in g/cm^3, bonded neighbors of each atom, shortest bond in Å. The densities are those of
# handbooks; bct-C4, which was never weighed, is somewhat less dense than diamond.
CARBON = {
    "diamond": (227, 3.515, 4, 1.545),
    "graphite": (194, 2.26, 3, 1.423),
    "lonsdaleite": (194, 3.51, 4, 1.54),
    "bct_C4": (139, 3.42, 4, 1.52),
}


@pytest.mark.parametrize(("name", "group", "density", "neighbors", "bond"), [(k, *v) for k, v in CARBON.items()])
def test_the_carbon_examples_are_the_named_phases(
    name: str, group: int, density: float, neighbors: int, bond: float
) -> None:
    path = assets.asset_path(f"examples/{name}.cif")
    structure = Structure.from_file(path)
    assert {e.symbol for e in structure.composition.elements} == {"C"}
    assert structure.get_space_group_info(symprec=1e-3)[1] == group
    assert structure.density == pytest.approx(density, abs=0.05)
    bonds = structure.get_all_neighbors(1.7)
    assert {len(around) for around in bonds} == {neighbors}
    assert min(n.nn_distance for around in bonds for n in around) == pytest.approx(bond, abs=0.03)
    # Trigonal or nearly tetrahedral, but for the squares of bct-C4.
    first = np.array([n.coords - structure[0].coords for n in bonds[0]])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    angles = np.degrees(np.arccos((first @ first.T)[np.triu_indices(neighbors, 1)]))
    ideal = 120 if neighbors == 3 else 109.47
    assert angles.mean() == pytest.approx(ideal, abs=2.5)

    crystal = read(path)
    assert bool(structure_validity(crystal))
    assert float(closest_distinct_distance(crystal)) == pytest.approx(bond, abs=0.03)


@pytest.mark.parametrize("name", assets.names("examples/*.cif"))
def test_every_example_names_its_source(name: str) -> None:
    head = [line for line in assets.asset_path(name).read_text().splitlines() if line.startswith("#")]
    assert any("(19" in line or "(20" in line for line in head)


@pytest.mark.parametrize("name", ["SrTiO3", "BaTiO3", "KTaO3", "CaTiO3"])
def test_perovskites_are_cubic(name: str) -> None:
    structure = Structure.from_file(assets.asset_path(f"examples/{name}.cif"))
    assert structure.get_space_group_info(symprec=1e-3)[1] == 221
    assert structure.composition.reduced_formula == name


@pytest.mark.parametrize(
    ("name", "group", "density"), [("NaCl", 225, 2.164), ("ZnS", 216, 4.10), ("diamond_4H", 194, 3.515)]
)
def test_the_examples_at_the_ends_of_paths_are_the_named_crystals(name: str, group: int, density: float) -> None:
    structure = Structure.from_file(assets.asset_path(f"examples/{name}.cif"))
    assert structure.get_space_group_info(symprec=1e-3)[1] == group
    assert structure.density == pytest.approx(density, abs=0.01)
    if name == "diamond_4H":  # the bonds of diamond, all of one length
        bonds = structure.get_all_neighbors(1.7)
        assert {len(around) for around in bonds} == {4}
        assert {round(n.nn_distance, 3) for around in bonds for n in around} == {1.545}
