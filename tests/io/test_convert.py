"""Canonical cells, files, conversion to other libraries, and errors for invalid input."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import DummySpecies, Lattice, Structure
from pymatgen.io.cif import CifWriter
from torch_geometric.data import Batch

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals import niggli as reduction
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, LabError, SettingError
from cdvae_lab.io import convert, writing

CIF = """data_test
_symmetry_space_group_name_H-M 'P 1'
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""
SITES = ("Na Na0 0 0 0 1", "Cl Cl1 0.5 0.5 0.5 1")


def cif(*sites: str, c: str = "4.0", gamma: str = "90") -> str:
    return CIF.format(sites="\n".join(sites or SITES), c=c, gamma=gamma)


def parameters(crystals: Crystals) -> np.ndarray:
    return torch.cat(lat.to_parameters(crystals.lattice), -1).numpy()


# The same crystal described differently

steps = st.tuples(st.permutations([0, 1, 2]), st.integers(-2, 2))
directions = arrays(float, 4, elements=st.floats(-1, 1)).filter(lambda q: q @ q > 0.01)
# Far from or near to a tie, on both sides, but not where a tie begins (`reduction.TOLERANCE`).
offsets = st.sampled_from([0.0, 1e-9, -1e-9, 1e-7, -1e-6, 1e-5, -2e-5, 1e-3, -1e-3, 3e-3, -0.02])


@st.composite
def nearly_degenerate_cells(draw: st.DrawFn) -> np.ndarray:
    length = draw(st.floats(3, 8))
    ratios = [1.0, draw(st.sampled_from([1.0, 1.4])), draw(st.sampled_from([1.0, 1.4, 2**0.5, 2.3]))]
    angles = [draw(st.sampled_from([60.0, 90.0, 109.47122063449069, 120.0, 75.0, 101.0])) for _ in range(3)]
    lengths = [length * r * (1 + draw(offsets)) for r in ratios]
    angles = [a + np.degrees(draw(offsets)) for a in angles]
    matrix = lat.from_parameters(torch.tensor(lengths, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
    return matrix.numpy()


@st.composite
def changes_of_basis(draw: st.DrawFn) -> np.ndarray:
    matrix = np.eye(3)
    for (i, j, _), factor in draw(st.lists(steps, max_size=4)):
        shear = np.eye(3)
        shear[i, j] = factor
        matrix = shear @ matrix
    return np.eye(3)[draw(st.permutations([0, 1, 2]))] @ matrix


def rotation(q: np.ndarray) -> np.ndarray:
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def shells(crystals: Crystals, index: int) -> np.ndarray:
    """Sorted distances of all pairs of atoms and images, with their elements: the input of an invariant network."""
    structure = convert.to_structures(crystals)[index]
    i, j, _, d = structure.get_neighbor_list(6.0)
    z = np.array(structure.atomic_numbers)
    return np.array(sorted(zip(z[i], z[j], d.round(3), strict=True)))


@settings(max_examples=150, deadline=None)
@given(nearly_degenerate_cells(), changes_of_basis(), directions, st.permutations([0, 1, 2]), st.integers(0, 99))
def test_same_crystal_same_cell(matrix, basis, quaternion, order, seed):
    volume = abs(np.linalg.det(matrix))
    assume(volume > 0.1 * np.prod(np.linalg.norm(matrix, axis=1)))  # otherwise the angles made no valid cell
    frac = np.array([[0, 0, 0], [0.5, 0.45, 0.52], [0.24, 0.7, 0.1]]) + np.random.default_rng(seed).uniform(0, 0.02, 3)
    species = ["Na", "Cl", "O"]
    one = Structure(Lattice(matrix), species, frac)
    other_cell = basis @ matrix
    other = Structure(
        Lattice(other_cell @ rotation(quaternion)),
        [species[i] for i in order],
        (frac @ np.linalg.inv(basis))[list(order)],
    )
    try:
        crystals = convert.from_structures([one, other], dtype=torch.float64)
    except CrystalError as error:
        if "on top of each other" not in str(error):
            raise
        reject()  # a flat cell can bring the three atoms that near
    first, second = parameters(crystals)
    np.testing.assert_allclose(first, second, rtol=1e-3)
    # Positions too: the same distances between the same elements. Shells at the cutoff may come and go, so count most.
    a, b = shells(crystals, 0), shells(crystals, 1)
    near_a, near_b = a[a[:, 2] < 5.9], b[b[:, 2] < 5.9]
    assert abs(len(near_a) - len(near_b)) <= 0.02 * len(near_a)
    if len(near_a) == len(near_b):
        np.testing.assert_allclose(np.sort(near_a[:, 2]), np.sort(near_b[:, 2]), atol=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_exact_reduction_equals_spglib(monkeypatch, seed):
    """Away from ties there is one Niggli cell, and spglib's own algorithm finds the same."""
    monkeypatch.setattr(reduction, "TOLERANCE", 1e-9)
    rng = np.random.default_rng(seed)
    compared = 0
    while compared < 300:
        matrix = rng.normal(size=(3, 3)) * rng.uniform(1, 5, size=(3, 1))
        expected = spglib.niggli_reduce(matrix, 1e-8)
        if abs(np.linalg.det(matrix)) < 1 or expected is None:
            continue
        reduced, transform = reduction.niggli(matrix)
        np.testing.assert_allclose(Lattice(reduced).parameters, Lattice(expected).parameters, rtol=1e-6)
        np.testing.assert_allclose(transform @ matrix, reduced)
        assert np.allclose(transform, np.round(transform))
        assert np.linalg.det(reduced) > 0
        compared += 1


@pytest.mark.parametrize(
    ("given_cell", "niggli"),
    [
        ((4, 4, 4, 60, 60, 60), (4, 4, 4, 60, 60, 60)),  # face-centered cubic
        ((4, 4, 4, 120, 120, 90), (4, 4, 4, 60, 60, 60)),  # the same in another cell
        ((4, 4, 4, 109.47122063, 109.47122063, 109.47122063), (4, 4, 4, 109.47122063, 109.47122063, 109.47122063)),
        ((3, 3, 5, 90, 90, 60), (3, 3, 5, 90, 90, 120)),  # hexagonal
        ((6, 5, 7, 80, 90, 90), (5, 6, 7, 90, 100, 90)),  # monoclinic
        ((5, 5, 5, 33, 33, 33), (2.84015345, 2.84015345, 5, 73.5, 73.5, 60)),  # rhombohedral
    ],
)
def test_niggli_cells_of_the_tables(given_cell, niggli):
    reduced, _ = reduction.niggli(Lattice.from_parameters(*given_cell).matrix)
    np.testing.assert_allclose(Lattice(reduced).parameters, niggli, atol=1e-4)


def test_rounded_coordinates_give_the_same_cell():
    """Files with four decimals: rounding must not flip a face-centered or a hexagonal cell."""
    for matrix in (2.0253 * (np.ones((3, 3)) - np.eye(3)), Lattice.hexagonal(3.1907, 5.1811).matrix):
        exact = Lattice(reduction.niggli(matrix)[0]).parameters
        for seed in range(20):
            noise = np.random.default_rng(seed).uniform(-5e-5, 5e-5, (3, 3))
            rounded = Lattice(reduction.niggli(matrix + noise)[0]).parameters
            np.testing.assert_allclose(rounded, exact, rtol=1e-3)


def test_handedness_is_preserved():
    """A left-handed description is the same crystal, not its mirror image."""
    cell = np.array([[5.0, 0, 0], [0.4, 6.0, 0], [0.9, 0.7, 7.0]])
    frac = np.array([[0.1, 0.2, 0.3], [0.45, 0.6, 0.2], [0.7, 0.15, 0.85], [0.3, 0.8, 0.6]])
    species = ["Na", "Cl", "O", "S"]
    swapped = Structure(Lattice(cell[[1, 0, 2]]), species, frac[:, [1, 0, 2]])
    mirrored = Structure(Lattice(cell * [1, 1, -1]), species, frac)
    crystals = convert.from_structures([Structure(Lattice(cell), species, frac), swapped, mirrored])

    def chirality(i: int) -> float:
        delta = crystals.frac_coords[i, 1:] - crystals.frac_coords[i, :1]
        vectors = lat.minimum_image(delta[None], crystals.lattice[i : i + 1])[0]
        return float(torch.linalg.det(vectors))

    assert chirality(0) == pytest.approx(chirality(1), rel=1e-4)
    assert chirality(0) == pytest.approx(-chirality(2), rel=1e-4)


def test_canonical_orientation_and_range():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 3)) + 5 * np.eye(3)
    structure = Structure(Lattice(matrix), ["Na", "Cl"], [[-1e-9, 3.2, -0.4], [0.5, 0.5, 0.5]])
    crystals = convert.from_structures([structure])
    a, _, c = crystals.lattice[0]
    assert crystals.lattice.dtype == torch.float32
    assert abs(a[1]) < 1e-6
    assert c[:2].abs().max() < 1e-6
    assert ((crystals.frac_coords >= 0) & (crystals.frac_coords < 1)).all()
    again = convert.read(crystals)
    np.testing.assert_allclose(parameters(again), parameters(crystals), rtol=1e-5)
    assert StructureMatcher(primitive_cell=False).fit(structure, convert.to_structures(crystals)[0])


# Reading and writing


@pytest.mark.parametrize("fmt", ["cif", "poscar"])
def test_files_round_trip(known_crystals, tmp_path, fmt):
    paths = writing.write(known_crystals, tmp_path / "new" / "folder", fmt)
    assert [p.name for p in paths] == [
        f"crystal_{i:04d}.{'cif' if fmt == 'cif' else 'vasp'}" for i in range(len(paths))
    ]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(p.name for p in paths)  # no temporary files
    same_crystals(convert.read([str(p) for p in paths]), known_crystals)


def same_crystals(found: Crystals, expected: Crystals) -> None:
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, primitive_cell=False, scale=False)
    assert len(found) == len(expected)
    for one, other in zip(found.to_structures(), expected.to_structures(), strict=True):
        assert matcher.fit(one, other)


def test_extxyz_ase_and_pymatgen_round_trip(known_crystals, tmp_path):
    same_crystals(convert.read(writing.write_extxyz(known_crystals, tmp_path / "all.xyz")), known_crystals)
    same_crystals(convert.read(known_crystals.to_ase()), known_crystals)
    same_crystals(convert.read(known_crystals.to_structures()), known_crystals)
    mixed = [known_crystals[0], known_crystals[1].to_ase()[0], known_crystals[2:].to_structures()]
    same_crystals(convert.read(mixed), known_crystals)


def test_text_is_read_like_a_file(known_crystals, tmp_path):
    for path in (
        writing.write(known_crystals[:1], tmp_path, "cif")[0],
        writing.write(known_crystals[:1], tmp_path, "poscar")[0],
        writing.write_extxyz(known_crystals[:1], tmp_path / "one.extxyz"),
    ):
        same_crystals(convert.read(path.read_text()), known_crystals[:1])


def test_pyg_round_trip(known_crystals):
    data = known_crystals.to_pyg()
    batch = Batch.from_data_list(data)
    assert batch.num_nodes == int(known_crystals.num_atoms.sum())
    assert batch.lattice.shape == (len(known_crystals), 3, 3)
    assert torch.equal(batch.num_atoms, known_crystals.num_atoms)
    for back in (convert.from_pyg(data), convert.from_pyg(batch)):
        assert torch.equal(back.frac_coords, known_crystals.frac_coords)
        assert torch.equal(back.atomic_numbers, known_crystals.atomic_numbers)
        assert torch.equal(back.lattice, known_crystals.lattice)
    assert len(convert.from_pyg(data[0])) == 1
    del data[1].lattice
    with pytest.raises(CrystalError, match=r"crystal 1.*no lattice"):
        convert.from_pyg(data)


def test_symmetric_cif_is_expanded():
    """A CIF with a space group and only the inequivalent atoms."""
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    text = str(CifWriter(rock_salt, symprec=0.01))
    assert "F m -3 m" in text or "Fm-3m" in text
    assert convert.read(text).num_atoms.tolist() == [8]
    primitive = convert.read(text, primitive=True)
    np.testing.assert_allclose(parameters(primitive), [[3.98808, 3.98808, 3.98808, 60, 60, 60]], rtol=1e-5)


def test_several_crystals_in_one_cif():
    text = cif() + cif(c="5.0").replace("data_test", "data_other")
    np.testing.assert_allclose(parameters(convert.read(text))[:, 2], [4, 5], rtol=1e-6)


def test_deuterium_is_hydrogen_and_charges_are_dropped():
    crystals = convert.read(cif("Na1+ Na0 0 0 0 1", "D D1 0.5 0.5 0.5 1"))
    assert sorted(crystals.atomic_numbers[0].tolist()) == [1, 11]


# Invalid input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"bad\.cif: the file is empty"),
        ("  \n\n", r"bad\.cif: the file is empty"),
        ("this is no crystal\n", r"bad\.cif: cannot be read as CIF.*correct it"),
        (cif()[:-25], r"bad\.cif: cannot be read as CIF"),  # cut off
        (cif("Na Na0 0 0 0 0.5", SITES[1]), r"bad\.cif: site \d is partly occupied.*ordered cell"),
        (cif("Na Na0 0 0 0 0.5", "K K0 0 0 0 0.5", SITES[1]), r"bad\.cif: site \d is partly occupied or mixed"),
        (cif("Na Na0 0 0 0 0", SITES[1]), r"bad\.cif: _atom_site_occupancy is 0.*remove it"),
        (cif("Xx Xx0 0 0 0 1", SITES[1]), r"bad\.cif: _atom_site_type_symbol: 'Xx' is no element"),
        (cif("Va Va0 0 0 0 1", SITES[1]), r"bad\.cif: _atom_site_type_symbol: 'Va' is no element"),
        (cif("Wat Wat0 0 0 0 1", SITES[1]), r"bad\.cif: _atom_site_type_symbol: 'Wat' is no element"),
        (cif("Na Na0 . . . 1", SITES[1]), r"bad\.cif: _atom_site_fract_x is unknown"),
        (cif(c="0"), r"bad\.cif: _cell_length_c is 0; it must be positive"),
        (cif(c="-4"), r"bad\.cif: _cell_length_c is -4"),
        (cif(gamma="0.001"), r"bad\.cif: the cell's volume is .* as good as zero.*correct its lengths"),
        (cif("Na Na0 0 0 0 1", "Na Na1 0 0 0 1"), r"bad\.cif: some atoms lie on top of each other.*remove"),
        (cif("Na Na0 0 0 0 1", "Cl Cl1 0.05 0 0 1"), r"bad\.cif: atoms 0 \(\w+\) and 1 \(\w+\) lie on top of each"),
        (cif("Na Na0 0 0 0 1", "Cl Cl1 0.95 0 0 1"), r"bad\.cif: atoms .* 0\.200 Å apart"),  # across the cell's face
        (cif("Na Na0 0 0 0 1", c="0.3"), r"bad\.cif: the cell repeats after 0\.300 Å"),
    ],
)
def test_bad_cif(tmp_path, text, message):
    path = tmp_path / "bad.cif"
    path.write_text(text)
    with pytest.raises(CrystalError, match=message):
        convert.read(path)


def test_bad_files(tmp_path):
    with pytest.raises(CrystalError, match=r"gone\.cif: no such file"):
        convert.read(tmp_path / "gone.cif")
    (tmp_path / "binary.cif").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CrystalError, match=r"binary\.cif: is not a text file"):
        convert.read(tmp_path / "binary.cif")
    (tmp_path / "crystal.pdb").write_text("x")
    with pytest.raises(CrystalError, match=r"crystal\.pdb: the name gives no format; use \.cif"):
        convert.read(tmp_path / "crystal.pdb")
    (tmp_path / "POSCAR").write_text("x\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n")
    with pytest.raises(CrystalError, match=r"POSCAR: does not say its elements"):
        convert.read(tmp_path / "POSCAR")
    (tmp_path / "molecule.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    with pytest.raises(CrystalError, match=r"molecule\.xyz: is not periodic"):
        convert.read(tmp_path / "molecule.xyz")
    (tmp_path / "unknown.xyz").write_text('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nQq 0 0 0\n')
    with pytest.raises(CrystalError, match=r"unknown\.xyz: cannot be read as EXTXYZ"):
        convert.read(tmp_path / "unknown.xyz")


def test_bad_objects():
    cubic = Lattice.cubic(4)
    with pytest.raises(CrystalError, match="crystal 0: site 1 holds 'X', which is no element"):
        convert.read([Structure(cubic, ["Na", DummySpecies("X")], [[0, 0, 0], [0.5, 0.5, 0.5]])])
    with pytest.raises(CrystalError, match="has a dummy atom"):
        convert.read(Atoms("X", cell=[4, 4, 4], pbc=True))
    with pytest.raises(CrystalError, match="has no atoms"):
        convert.read(Atoms(cell=[4, 4, 4], pbc=True))
    with pytest.raises(CrystalError, match="volume"):
        convert.read(Atoms("Na", cell=[4, 4, 0], pbc=True))
    with pytest.raises(CrystalError, match="coordinate of atom 1 is not a finite number"):
        convert.read(Structure(cubic, ["Na", "Cl"], [[0, 0, 0], [0.5, float("nan"), 0.5]]))
    with pytest.raises(CrystalError, match="cannot make a crystal of int"):
        convert.read(7)
    with pytest.raises(CrystalError, match="no crystals were given"):
        convert.read([])
    with pytest.raises(CrystalError, match="names: 1 names for 2"):
        convert.from_structures([Structure(cubic, ["Na"], [[0, 0, 0]])] * 2, names=["one"])


def test_too_many_atoms_are_refused(srtio3):
    supercell = srtio3.to_structures()[0].make_supercell([2, 1, 1])
    with pytest.raises(CrystalError, match=r"has 10 atoms, more than the 5 .* primitive cell has 5: .*primitive=True"):
        convert.read(supercell, max_atoms=5)
    same_crystals(convert.read(supercell, max_atoms=5, primitive=True), srtio3)
    with pytest.raises(CrystalError, match=r"primitive cell has 5, still more\); use a smaller crystal"):
        convert.read(supercell, max_atoms=4)
    assert len(convert.read(supercell, max_atoms=10)) == 1


def test_unseen_elements_are_refused(srtio3):
    with pytest.raises(CrystalError, match=r"crystal 0: the model has never seen Sr; it knows O, Ti"):
        convert.read(srtio3, elements={8, 22})
    same_crystals(convert.read(srtio3, elements={8, 22, 38}), srtio3)


def test_unusable_crystals_are_detected(srtio3):
    flat, undefined = srtio3.lattice.clone(), srtio3.lattice.clone()
    flat[0, 2] = flat[0, 1]
    undefined[0, 0, 0] = float("nan")
    crystals = Crystals.cat([srtio3, srtio3.replace(lattice=flat), srtio3.replace(lattice=undefined)])
    assert convert.is_usable(crystals).tolist() == [True, False, False]
    for leave in (convert.to_structures, convert.to_ase, lambda c: writing.write_extxyz(c, "never.xyz")):
        with pytest.raises(CrystalError, match=r"crystal 1: .*is_usable"):
            leave(crystals)
    assert not Path("never.xyz").exists()
    assert len(convert.to_structures(crystals[convert.is_usable(crystals)])) == 1


def test_bad_names_and_formats(known_crystals, tmp_path):
    with pytest.raises(SettingError, match="fmt: 'pdb'; give one of cif, poscar"):
        writing.write(known_crystals, tmp_path, "pdb")
    with pytest.raises(SettingError, match="names: 1 different names"):
        writing.write(known_crystals, tmp_path, names=["same"] * len(known_crystals))
    with pytest.raises(SettingError, match="no plain file name"):
        writing.write(known_crystals[:1], tmp_path, names=["../up"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="cannot write"):
        writing.write(known_crystals, tmp_path / "file")


def test_steps_cover_all_vectors_that_can_be_shorter():
    """The neighbors that `reduction` considers are one of each pair of the 26 around the origin."""
    everything = {s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)}
    listed = {tuple(s) for s in reduction.STEPS.tolist()}
    assert listed | {tuple(-x for x in s) for s in listed} == everything
    assert len(listed) == 13


@pytest.mark.parametrize("name", ["broken.cif", "BROKEN.CIF"])
def test_text_of_a_broken_cif_is_reported_as_a_cif(name: str) -> None:
    """An uploaded file has a name and a text but no path; without a cell its text does not look like a CIF."""
    from cdvae_lab.io.parsing import parse

    with pytest.raises(CrystalError) as caught:
        parse("data_broken\n_cell_length 3.9\n", name)
    assert name in str(caught.value)
    assert "POSCAR" not in str(caught.value)
