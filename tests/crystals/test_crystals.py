"""The batch of crystals: choosing, joining, padding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.indexing import Index, chosen_rows
from cdvae_lab.errors import CrystalError

FIELDS = ("frac_coords", "atomic_numbers", "lattice")


def assert_same(a: Crystals, b: Crystals) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.fixture
def batch() -> Crystals:
    """Five crystals of 1 to 5 atoms; crystal i has i + 1 atoms of atomic number i + 1."""
    sizes = range(1, 6)
    return Crystals.from_lists(
        [torch.rand(n, 3) for n in sizes],
        [torch.full((n,), n) for n in sizes],
        torch.eye(3) * torch.arange(3.0, 8.0)[:, None, None],
    )


def test_lists_are_padded_at_the_end_with_zeros(batch: Crystals) -> None:
    assert len(batch) == 5
    assert batch.num_sites == 5
    assert batch.num_atoms.tolist() == [1, 2, 3, 4, 5]
    assert batch.atomic_numbers[2].tolist() == [3, 3, 3, 0, 0]
    assert (batch.frac_coords[~batch.mask] == 0).all()
    assert batch.mask.tolist() == [[i < n for i in range(5)] for n in range(1, 6)]


def test_crystal_index_gives_the_crystal_of_each_atom(batch: Crystals) -> None:
    assert batch.crystal_index.tolist() == [i for i in range(5) for _ in range(i + 1)]
    flat = batch.atomic_numbers[batch.mask]
    assert torch.equal(flat, batch.crystal_index + 1)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (0, [0]),
        (3, [3]),
        (-1, [4]),
        (-5, [0]),
        (-2, [3]),
        (torch.tensor(2), [2]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, 2), [0, 2, 4]),
        ([4, 0, 0], [4, 0, 0]),
        ((1, 2), [1, 2]),
        (torch.tensor([2, 1]), [2, 1]),
        (torch.tensor([-1, 0]), [4, 0]),
        (torch.tensor([True, False, False, True, False]), [0, 3]),
        ([False, True, False, False, False], [1]),
        (np.int64(2), [2]),
        (np.array(2), [2]),
        (np.uint8(3), [3]),
        (torch.tensor(-1, dtype=torch.int16), [4]),
        (np.array([3, 1]), [3, 1]),
        (torch.tensor([3, 1], dtype=torch.uint8), [3, 1]),
        (np.array([True, False, False, False, True]), [0, 4]),
        (range(1, 3), [1, 2]),
        ([], []),
        (np.array([], dtype=bool)[:0].nonzero()[0], []),
    ],
)
def test_every_index_gives_a_batch(batch: Crystals, which: Index, expected: list[int]) -> None:
    chosen = batch[which]
    assert len(chosen) == len(expected)
    for name in FIELDS:
        assert torch.equal(getattr(chosen, name), getattr(batch, name)[torch.tensor(expected, dtype=torch.int64)]), name


@pytest.mark.parametrize("which", [5, -6])
def test_an_index_out_of_range_is_an_index_error(batch: Crystals, which: int) -> None:
    with pytest.raises(IndexError, match="of 5 crystals"):
        batch[which]


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ([1, 7], IndexError, "number 7 of 5 crystals"),
        (torch.tensor([-6]), IndexError, "number -6 of 5 crystals; give one from -5 to 4"),
        (np.int64(5), IndexError, "number 5 of 5"),
        (torch.tensor([True, False]), IndexError, r"a mask of shape \(2,\) for 5 crystals"),
        (True, IndexError, "a mask of shape"),
        ([0.5], TypeError, r"\[0\.5\] chooses no crystals; give a number"),
        (1.0, TypeError, "chooses no crystals"),
        ("a", TypeError, "'a' chooses no crystals"),
        (None, TypeError, "None chooses no crystals"),
        ([[0, 1]], TypeError, "chooses no crystals"),
        (["a"], TypeError, "chooses no crystals"),
    ],
)
def test_an_invalid_index_is_a_clear_error(which: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        chosen_rows(which, 5, torch.device("cpu"))


def test_equality_is_exact_and_ignores_padding(batch: Crystals) -> None:
    assert batch == batch.pad(9)
    assert hash(batch) == hash(batch.pad(9))
    assert batch[[]] == batch[:0]
    assert batch[[]] != batch
    assert batch[0] != batch[1]
    assert batch[:2] != batch[:3]
    assert batch != batch.to(dtype=torch.float64)
    assert batch != "batch"
    moved = batch.frac_coords.clone()
    moved[1, 0, 2] += 1e-6
    assert batch != batch.replace(frac_coords=moved)
    assert batch != batch.replace(lattice=batch.lattice * torch.nan)
    assert len({batch, batch.pad(12), batch[:2]}) == 2


def test_text_is_short_and_notebooks_get_pictures(known_crystals: Crystals) -> None:
    assert repr(known_crystals) == "Crystals(3 of 2 to 5 atoms: SrTiO3, NaCl, C)"
    assert repr(known_crystals[[]]) == "Crystals(none)"
    many = Crystals.cat([known_crystals] * 500)
    assert repr(many) == "Crystals(1,500 of 2 to 5 atoms: SrTiO3, NaCl, C, SrTiO3, ...)"
    shown = many._repr_mimebundle_()
    assert shown["text/plain"] == repr(many)
    assert shown["text/html"].count("data:image/png;base64,") == 6
    broken = known_crystals.replace(lattice=torch.zeros_like(known_crystals.lattice))
    assert "no picture" in broken._repr_mimebundle_()["text/html"]


def test_structures_of_pymatgen_are_converted_and_a_crystal_is_shown_by_nglview(known_crystals: Crystals) -> None:
    back = Crystals.from_structures(known_crystals.to_structures())
    assert [s.composition for s in back.to_structures()] == [s.composition for s in known_crystals.to_structures()]
    assert known_crystals.to_nglview(1)._ngl_component_ids
    with pytest.raises(IndexError, match="number 3 of 3"):
        known_crystals.to_nglview(3)


def test_iterating_ends(batch: Crystals) -> None:
    assert [c.num_atoms.item() for c in batch] == [1, 2, 3, 4, 5]


def test_joining_pads_to_the_largest_and_keeps_the_order(batch: Crystals) -> None:
    parts = [batch[:2].trim(), batch[4], batch[2:4].trim()]
    assert [p.num_sites for p in parts] == [2, 5, 4]
    assert_same(Crystals.cat(parts), batch[[0, 1, 4, 2, 3]])
    with pytest.raises(CrystalError, match="empty"):
        Crystals.cat([])


def test_padding_and_trimming_undo_each_other(batch: Crystals) -> None:
    padded = batch.pad(9)
    assert padded.num_sites == 9
    assert padded.num_atoms.tolist() == batch.num_atoms.tolist()
    assert (padded.frac_coords[:, 5:] == 0).all()
    assert_same(padded.trim(), batch)
    assert_same(batch.pad(3), batch)
    assert batch[:3].trim().num_sites == 3


@pytest.mark.parametrize(
    ("positions", "numbers", "cells", "message"),
    [
        ([], [], 0, "at least one"),
        ([1, 2], [1], 2, "2 frac_coords, 1 atomic_numbers, 2 lattice"),
        ([1, 2], [1, 2], 1, "2 frac_coords, 2 atomic_numbers, 1 lattice"),
        ([1, 2], [1, 3], 2, "crystal 1 .* 2 positions"),
        ([1, 0], [1, 0], 2, "crystal 1 .* at least one"),
    ],
)
def test_lists_that_do_not_fit_are_refused(positions: list[int], numbers: list[int], cells: int, message: str) -> None:
    with pytest.raises(CrystalError, match=message):
        Crystals.from_lists(
            [torch.rand(n, 3) for n in positions],
            [torch.ones(n, dtype=torch.int64) for n in numbers],
            torch.eye(3).expand(cells, 3, 3),
        )


def test_an_atomic_number_below_one_is_refused() -> None:
    with pytest.raises(CrystalError, match=r"crystal 0 .*\[6, 0, 6\]"):
        Crystals.from_lists([torch.rand(3, 3)], [torch.tensor([6, 0, 6])], torch.eye(3)[None])


def test_a_batch_is_frozen(batch: Crystals) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.lattice = torch.eye(3)[None]  # type: ignore[misc]
    moved = batch.replace(frac_coords=batch.frac_coords + 0.1)
    assert moved.lattice is batch.lattice
    assert not torch.equal(moved.frac_coords, batch.frac_coords)


def test_another_float_type_leaves_the_atomic_numbers(batch: Crystals) -> None:
    double = batch.to(dtype=torch.float64)
    assert double.frac_coords.dtype == double.lattice.dtype == torch.float64
    assert double.atomic_numbers.dtype == torch.int64
    assert_same(double.to(dtype=torch.float32), batch)
