"""The reconstruction metric against RMS values worked out by hand and against StructureMatcher called directly."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError
from cdvae_lab.metrics.reconstruction import match, reconstruction, score
from cdvae_lab.metrics.validity import structure_validity


def crystals_of(*structures: Structure) -> Crystals:
    return Crystals.from_lists(
        [torch.tensor(s.frac_coords) for s in structures],
        [torch.tensor(s.atomic_numbers) for s in structures],
        torch.tensor(np.array([s.lattice.matrix for s in structures])),
    )


PEROVSKITE_SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
STRONTIUM_TITANATE = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE_SITES)
# Neutral only with mixed valence, so the paper's criterion counts it as invalid, in the truth too.
MAGNETITE_LIKE = Structure(
    Lattice.from_parameters(5, 5.5, 6, 80, 95, 100),
    ["Fe"] * 3 + ["O"] * 4,
    np.random.default_rng(7).permutation(np.stack(np.meshgrid([0, 0.5], [0, 0.5], [0, 0.5]), -1).reshape(8, 3))[:7],
)


def moved(structure: Structure, atom: int, by: float) -> Structure:
    copy = structure.copy()
    copy.translate_sites([atom], [by, 0, 0], frac_coords=False)
    return copy


def test_identical_crystals_match_perfectly_and_both_ceilings_are_reported():
    truth = crystals_of(STRONTIUM_TITANATE, MAGNETITE_LIKE)
    score = reconstruction(truth, truth, jobs=1)
    assert score.structure.match_rate == 1
    assert score.structure.ceiling == 1
    assert score.structure.rmse == pytest.approx(0, abs=1e-6)
    assert score.paper.match_rate == score.paper.ceiling == 0.5
    assert score.paper.matched == score.paper.admitted == 1


@pytest.mark.parametrize("atom", [0, 1, 3])
@pytest.mark.parametrize("by", [0.1, 0.4])
def test_rms_of_one_moved_atom_equals_the_closed_form(atom, by):
    # The matcher removes the mean displacement d/n, which leaves d(1 - 1/n) on one atom and -d/n on the others:
    # rms = d sqrt(n - 1) / n, in units of (volume / n)^(1/3).
    score = reconstruction(crystals_of(STRONTIUM_TITANATE), crystals_of(moved(STRONTIUM_TITANATE, atom, by)), jobs=1)
    by_hand = by * math.sqrt(4) / 5 / (3.9 / 5 ** (1 / 3))
    assert score.structure.rmse == pytest.approx(by_hand, rel=1e-4)
    assert score.rms == (pytest.approx(by_hand, rel=1e-4),)


def test_rmse_is_the_mean_over_the_matched_alone():
    titanate, wrong = STRONTIUM_TITANATE, STRONTIUM_TITANATE.copy()
    wrong.replace(0, "Ba")
    truth = crystals_of(titanate, titanate, titanate)
    score = reconstruction(truth, crystals_of(moved(titanate, 0, 0.1), wrong, moved(titanate, 0, 0.3)), jobs=1)
    assert score.rms[1] is None
    assert score.structure.matched == 2
    assert score.structure.match_rate == pytest.approx(2 / 3)
    assert score.structure.rmse == pytest.approx((score.rms[0] + score.rms[2]) / 2)
    assert score.structure.rmse == pytest.approx(0.2 * 2 / 5 / (3.9 / 5 ** (1 / 3)), rel=1e-4)


def test_the_order_of_atoms_the_origin_and_the_orientation_do_not_matter():
    order = [4, 1, 0, 3, 2]
    frac = np.add(PEROVSKITE_SITES, [0.21, 0.37, 0.73])[order]
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    other = Structure(Lattice(np.eye(3) * 3.9 @ turn), [STRONTIUM_TITANATE.species[i] for i in order], frac)
    score = reconstruction(crystals_of(STRONTIUM_TITANATE), crystals_of(other), jobs=1)
    assert score.structure.match_rate == 1
    assert score.structure.rmse == pytest.approx(0, abs=1e-5)


def test_invalid_predictions_are_no_match_and_no_crash():
    truth = crystals_of(*[STRONTIUM_TITANATE] * 4)
    predicted = truth.replace(frac_coords=truth.frac_coords.clone(), lattice=truth.lattice.clone())
    predicted.frac_coords[0, 3] = predicted.frac_coords[0, 2] + 0.05  # 0.34 Å apart
    predicted.lattice[1, 2] = predicted.lattice[1, 0]
    predicted.lattice[2, 0, 0] = math.nan
    score = reconstruction(truth, predicted, jobs=1)
    assert score.rms[:3] == (None, None, None)
    assert score.structure.matched == score.structure.admitted == 1
    assert score.structure.ceiling == 1


def test_padding_does_not_change_the_result():
    truth = crystals_of(STRONTIUM_TITANATE).pad(8)
    predicted = truth.replace(frac_coords=truth.frac_coords.clone())
    predicted.frac_coords[:, 5:] = 0.3
    assert reconstruction(truth, predicted, jobs=1).structure.match_rate == 1


def test_overlapping_atoms_are_refused_even_where_the_matcher_would_accept():
    # Both sides have the same two atoms on top of each other: StructureMatcher calls that a match.
    collapsed = Structure(Lattice.cubic(4), ["C", "C", "O"], [[0, 0, 0], [0.01, 0, 0], [0.5, 0.5, 0.5]])
    assert StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3).get_rms_dist(collapsed, collapsed) is not None
    score = reconstruction(crystals_of(collapsed), crystals_of(collapsed), jobs=1)
    assert score.structure.match_rate == 0
    assert score.structure.ceiling == 0
    assert math.isnan(score.structure.rmse)


def distorted(count: int) -> tuple[list[Structure], list[Structure]]:
    rng = np.random.default_rng(3)
    truth, predicted = [], []
    for number in range(count):
        lattice = Lattice.from_parameters(*rng.uniform(4, 6, 3), *rng.uniform(75, 105, 3))
        frac = np.array(PEROVSKITE_SITES)
        species = ["Ca", "Ti", "O", "O", "O"]
        truth.append(Structure(lattice, species, frac))
        strained = Lattice(lattice.matrix * rng.uniform(0.95, 1.05, (3, 1)))
        if number % 7 == 3:
            species = ["Ti", "Ca", "O", "O", "O"]  # a match only for the wrong sites: none
        predicted.append(Structure(strained, species, frac + rng.normal(0, 0.06 * rng.uniform(), (5, 3))))
    return truth, predicted


def test_processes_return_the_matchers_numbers_in_order():
    truth, predicted = distorted(70)
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    expected = [matcher.get_rms_dist(p, t) for t, p in zip(truth, predicted, strict=True)]
    assert structure_validity(crystals_of(*predicted)).all()
    assert expected.count(None) == 10
    got = list(match(crystals_of(*truth), crystals_of(*predicted), jobs=2))
    assert [index for index, _ in got] == list(range(70))
    for (_, rms), pair in zip(got, expected, strict=True):
        assert (rms is None) == (pair is None)
        if pair is not None:
            assert rms == pytest.approx(pair[0], abs=1e-6)


def test_results_come_one_at_a_time():
    truth, predicted = distorted(40)
    matches = match(crystals_of(*truth), crystals_of(*predicted), jobs=1)
    assert next(matches)[0] == 0
    assert next(matches)[0] == 1
    assert len(list(matches)) == 38


def test_tolerances_reach_the_matcher():
    truth, predicted = crystals_of(STRONTIUM_TITANATE), crystals_of(moved(STRONTIUM_TITANATE, 0, 0.4))
    assert reconstruction(truth, predicted, stol=0.01, jobs=1).structure.matched == 0
    assert reconstruction(truth, predicted, jobs=1).structure.matched == 1


def test_the_table_shows_both_criteria():
    truth = crystals_of(STRONTIUM_TITANATE, MAGNETITE_LIKE)
    lines = reconstruction(truth, truth, jobs=1).table().splitlines()
    assert len(lines) == 3
    assert "100.00%" in lines[1]
    assert "2 of 2" in lines[1]
    assert "50.00%" in lines[2]
    assert "1 of 2" in lines[2]


def test_scores_are_frozen():
    score = reconstruction(crystals_of(STRONTIUM_TITANATE), crystals_of(STRONTIUM_TITANATE), jobs=1)
    with pytest.raises(FrozenInstanceError):
        score.structure.matched = 5


def test_batches_of_different_length_are_refused_before_any_work():
    two, one = crystals_of(STRONTIUM_TITANATE, STRONTIUM_TITANATE), crystals_of(STRONTIUM_TITANATE)
    with pytest.raises(CrystalError, match="1 predicted crystals for 2"):
        match(two, one)
    with pytest.raises(CrystalError, match="2 true, 2 predicted, 1 RMS"):
        score(two, two, [0.0])
