"""Lattices against pymatgen and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymatgen.core import Lattice

from cdvae_lab.crystals import lattice as lat

# Unit-length cells flatter than this are left to `possible_parameters`.
FLAT = 0.02


def squared_unit_volume(angles: np.ndarray) -> float:
    cos = np.cos(np.radians(angles))
    return 1 - (cos**2).sum() + 2 * cos.prod()


lengths_st = arrays(float, 3, elements=st.floats(1.5, 60))
angles_st = arrays(float, 3, elements=st.floats(25, 155)).filter(lambda a: squared_unit_volume(a) > FLAT)
matrices = arrays(float, (3, 3), elements=st.floats(-10, 10)).filter(
    lambda m: abs(np.dot(m[0], np.cross(m[1], m[2]))) > 1
)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x, dtype=float))


@given(lengths_st, angles_st)
def test_lattice_from_parameters_equals_pymatgen(lengths: np.ndarray, angles: np.ndarray) -> None:
    ours = lat.from_parameters(tensor(lengths), tensor(angles)).numpy()
    theirs = Lattice.from_parameters(*lengths, *angles).matrix
    np.testing.assert_allclose(ours, theirs, atol=1e-9 * lengths.max())


@given(matrices)
def test_parameters_of_a_lattice_equal_pymatgen(matrix: np.ndarray) -> None:
    lengths, angles = lat.to_parameters(tensor(matrix))
    theirs = Lattice(matrix)
    np.testing.assert_allclose(lengths, theirs.abc, rtol=1e-12)
    np.testing.assert_allclose(angles, theirs.angles, atol=1e-5)


def test_parameters_survive_the_way_there_and_back_for_any_leading_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = 2 + 20 * torch.rand(3, 4, 3, generator=generator, dtype=torch.float64)
    angles = 65 + 50 * torch.rand(3, 4, 3, generator=generator, dtype=torch.float64)
    again = lat.to_parameters(lat.from_parameters(lengths, angles))
    torch.testing.assert_close(again, (lengths, angles), rtol=1e-10, atol=1e-10)


def test_impossible_angles_give_a_flat_cell_not_nan() -> None:
    lattice = lat.from_parameters(torch.tensor([[3.0, 4, 5]]), torch.tensor([[30.0, 30, 150]]))
    assert torch.isfinite(lattice).all()
    assert lat.volume(lattice).item() == pytest.approx(0, abs=1e-4)


@given(lengths_st, arrays(float, 3, elements=st.floats(25, 155)).filter(lambda a: squared_unit_volume(a) > 0.0501))
def test_possible_parameters_are_left_untouched(lengths: np.ndarray, angles: np.ndarray) -> None:
    after = lat.possible_parameters(tensor(lengths), tensor(angles))
    np.testing.assert_array_equal(after[0], lengths)
    np.testing.assert_array_equal(after[1], angles)


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=300)
@given(arrays(np.float32, 3, elements=anything), arrays(np.float32, 3, elements=anything | st.floats(0, 180, width=32)))
def test_any_prediction_becomes_a_cell_with_a_volume(lengths: np.ndarray, angles: np.ndarray) -> None:
    lattice = lat.from_parameters(*lat.possible_parameters(torch.from_numpy(lengths), torch.from_numpy(angles)))
    assert torch.isfinite(lattice).all()
    abc, _ = lat.to_parameters(lattice)
    assert ((abc > 0.999 * lat.MIN_LENGTH) & (abc < 1.001 * lat.MAX_LENGTH)).all()
    assert lat.volume(lattice) > 0.95 * np.sqrt(lat.MIN_FLATNESS) * abc.prod()


def test_impossible_angles_move_no_further_towards_90_than_they_must() -> None:
    _, angles = lat.possible_parameters(torch.full((1, 3), 5.0), torch.tensor([[130.0, 130, 130]]))
    # With 120 degrees each the cell is flat; a tenth of the way to 90 at a time: 126, 122, 118.
    torch.testing.assert_close(angles, torch.full((1, 3), 118.0))


@given(matrices)
def test_inverse_volume_and_plane_spacings_equal_numpy(matrix: np.ndarray) -> None:
    inverse = np.linalg.inv(matrix)
    scale = np.abs(inverse).max()
    np.testing.assert_allclose(lat.inverse(tensor(matrix)), inverse, atol=1e-9 * scale * np.linalg.cond(matrix))
    volume = abs(np.linalg.det(matrix))
    assert lat.volume(tensor(matrix)).item() == pytest.approx(volume, rel=1e-9)
    a, b, c = matrix
    areas = [np.linalg.norm(np.cross(x, y)) for x, y in ((b, c), (c, a), (a, b))]
    np.testing.assert_allclose(lat.plane_spacings(tensor(matrix)), volume / np.array(areas), rtol=1e-7)


def test_cartesian_coordinates_equal_pymatgen_and_round_trip() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(4, 3, 3)) * 4
    frac = rng.uniform(-2, 2, size=(4, 7, 3))
    cart = lat.frac_to_cart(tensor(frac), tensor(matrices))
    theirs = [Lattice(m).get_cartesian_coords(x) for m, x in zip(matrices, frac, strict=True)]
    np.testing.assert_allclose(cart, theirs, atol=1e-12)
    np.testing.assert_allclose(lat.cart_to_frac(cart, tensor(matrices)), frac, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrapping_ends_in_the_half_open_interval(dtype: torch.dtype) -> None:
    hard = [-1e-9, -1e-20, 1.0, -1.0, 0.0, 0.99999999, 3.25, -0.25, 1e4 + 0.5]
    wrapped = lat.wrap(torch.tensor(hard, dtype=dtype)[:, None].expand(-1, 3))
    assert ((wrapped >= 0) & (wrapped < 1)).all()
    # The same place: the difference is a whole number of cells.
    difference = wrapped[:, 0] - torch.tensor(hard, dtype=dtype)
    torch.testing.assert_close(difference, torch.round(difference), rtol=0, atol=1e-7)
    assert lat.wrap(torch.tensor([[-0.25, 3.25, 1.0]], dtype=dtype)).tolist() == [[0.75, 0.25, 0.0]]


@settings(max_examples=50, deadline=None)
@given(lengths_st, angles_st, st.integers(0, 2**31))
def test_minimum_image_equals_pymatgen_in_niggli_cells(lengths: np.ndarray, angles: np.ndarray, seed: int) -> None:
    cell = Lattice.from_parameters(*lengths, *angles).get_niggli_reduced_lattice()
    rng = np.random.default_rng(seed)
    here, there = rng.uniform(-3, 3, size=(2, 12, 3))
    vectors = lat.minimum_image(tensor(there - here)[None], tensor(cell.matrix)[None])[0].numpy()
    shortest = np.diag(cell.get_all_distances(here, there))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), shortest, atol=1e-8)
    shift = cell.get_fractional_coords(vectors) - (there - here)
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-9)


def test_minimum_image_keeps_the_shape_of_pairs() -> None:
    delta = torch.rand(2, 4, 5, 3, dtype=torch.float64)
    lattice = torch.stack([3.0 * torch.eye(3), 5.0 * torch.eye(3)]).double()
    vectors = lat.minimum_image(delta, lattice)
    assert vectors.shape == delta.shape
    torch.testing.assert_close(vectors, (delta - torch.round(delta)) * torch.tensor([3.0, 5.0])[:, None, None, None])
