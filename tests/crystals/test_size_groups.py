"""Groups of crystals of similar size: every crystal once, and no division takes less time."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.size_groups import PAIRS_PER_CALL, SizeGroup, size_groups


def time_of(groups: tuple[SizeGroup, ...]) -> int:
    """Time of the calls, in pairs of atoms."""
    return sum(len(group.rows) * group.sites**2 + PAIRS_PER_CALL["cpu"] for group in groups)


@given(st.lists(st.integers(1, 60), max_size=40), st.none() | st.integers(1, 2000))
def test_every_crystal_is_in_one_group_that_holds_it(num_atoms: list[int], max_pairs: int | None) -> None:
    groups = size_groups(torch.tensor(num_atoms, dtype=torch.int64), max_pairs)
    assert sorted(row for group in groups for row in group.rows.tolist()) == list(range(len(num_atoms)))
    for group in groups:
        assert group.rows.tolist() == sorted(group.rows.tolist())
        assert group.sites == max(num_atoms[row] for row in group.rows.tolist())
        assert max_pairs is None or len(group.rows) == 1 or len(group.rows) * group.sites**2 <= max_pairs
    assert [group.sites for group in groups] == sorted(group.sites for group in groups)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_no_other_division_takes_less_time(num_atoms: list[int]) -> None:
    ordered = sorted(num_atoms)
    places = range(1, len(ordered))
    divisions = itertools.chain.from_iterable(itertools.combinations(places, k) for k in range(len(ordered)))
    least = min(
        sum((end - start) * ordered[end - 1] ** 2 + PAIRS_PER_CALL["cpu"] for start, end in itertools.pairwise(edges))
        for edges in ((0, *inner, len(ordered)) for inner in divisions)
    )
    assert time_of(size_groups(torch.tensor(num_atoms))) == least


def test_a_group_has_its_crystals_without_their_padding() -> None:
    sizes = [20, 3, 19, 3, 20]
    crystals = Crystals.from_lists(
        [torch.rand(n, 3) for n in sizes], [torch.full((n,), 6 + n) for n in sizes], torch.rand(5, 3, 3)
    )
    small, large = size_groups(torch.tensor(sizes))
    assert small.of(crystals) == crystals[[1, 3]]
    assert small.of(crystals).num_sites == 3
    assert large.of(crystals) == crystals[[0, 2, 4]]
    assert large.of(crystals).num_sites == 20


@pytest.mark.parametrize("num_atoms", [[], [7], [7, 7, 7]])
def test_crystals_of_one_size_are_one_group_in_their_order(num_atoms: list[int]) -> None:
    groups = size_groups(torch.tensor(num_atoms, dtype=torch.int64))
    assert [group.rows.tolist() for group in groups] == [list(range(len(num_atoms)))][: len(num_atoms)]
