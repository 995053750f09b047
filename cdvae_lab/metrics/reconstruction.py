"""Reconstruction: match rate and RMSE by pymatgen's StructureMatcher.

Two criteria decide which matches count. The CDVAE paper's also requires that the prediction pass SMACT's composition
test. Not all true crystals pass it, so that its match rate cannot reach 100 %. Structure validity alone has no such
ceiling. Both are always reported, each with its ceiling.

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError
from cdvae_lab.io.convert import is_usable, to_structures
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.validity import composition_validity, structure_validity
from cdvae_lab.runtime.parallel import computed
from cdvae_lab.runtime.result_cache import ResultCache, combined, keys

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

STOL, ANGLE_TOL, LTOL = 0.5, 10.0, 0.3
# Pairs per task: large enough that sending them to a process is cheap, small enough to see progress.
_PAIRS_PER_TASK = 16


@dataclass(frozen=True)
class CriterionScore:
    """Match rate and RMSE of a set of reconstructions by one criterion.

    Attributes:
        name: the criterion.
        crystals: number of pairs.
        matched: predictions that are valid by the criterion and match their true crystal.
        admitted: predictions that are valid by the criterion, matching or not.
        rmse: mean over the matched of StructureMatcher's RMS displacement, in units of (volume / atom)^(1/3);
            NaN if none matched.
        ceiling: share of the true crystals that are valid by the criterion, 0 to 1: the highest match rate that
            a perfect model can reach.
    """

    name: str
    crystals: int
    matched: int
    admitted: int
    rmse: float
    ceiling: float

    @property
    def match_rate(self) -> float:
        """Share of all the pairs that match, 0 to 1."""
        return self.matched / self.crystals


@dataclass(frozen=True)
class ReconstructionScore:
    """Scores by both criteria, and the RMS of every pair (None: no match by structure validity alone)."""

    structure: CriterionScore
    paper: CriterionScore
    rms: tuple[float | None, ...]

    def table(self) -> str:
        """Format the two criteria as a table of plain text."""
        head = f"{'criterion':<28} {'match rate':>10} {'ceiling':>9} {'RMSE':>8} {'matched':>15}"
        rows = [
            f"{one.name:<28} {one.match_rate:>10.2%} {one.ceiling:>9.2%} "
            f"{one.rmse:>8.4f} {f'{one.matched:,} of {one.crystals:,}':>15}"
            for one in (self.structure, self.paper)
        ]
        return "\n".join([head, *rows])


def match(
    truth: Crystals,
    predicted: Crystals,
    *,
    stol: float = STOL,
    angle_tol: float = ANGLE_TOL,
    ltol: float = LTOL,
    jobs: int = -1,
) -> Iterator[tuple[int, float | None]]:
    """Yield (index, RMS or None) for each pair in order, as the results come from `jobs` processes (-1: all cores).

    The RMS displacement is that of `StructureMatcher(stol, angle_tol, ltol).get_rms_dist`, in units of
    (volume / atom)^(1/3); angles in degrees. A structurally invalid crystal on either side is no match.

    Raises:
        CrystalError: the two batches differ in length.
    """
    # Not a generator itself, so that the error comes at the call.
    if len(truth) != len(predicted):
        raise CrystalError(f"{len(predicted)} predicted crystals for {len(truth)} true ones; give one for each")
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(stol=stol, angle_tol=angle_tol, ltol=ltol)
    return _match(truth, predicted, matcher, jobs)


def _match(
    truth: Crystals, predicted: Crystals, matcher: StructureMatcher, jobs: int
) -> Iterator[tuple[int, float | None]]:
    from joblib import Parallel, delayed

    truth, predicted = truth.to("cpu", torch.float64), predicted.to("cpu", torch.float64)
    comparable = torch.stack([structure_validity(side) & is_usable(side) for side in (truth, predicted)]).all(0)
    tasks = [
        (truth[part], predicted[part], comparable[part]) for part in torch.arange(len(truth)).split(_PAIRS_PER_TASK)
    ]
    if len(tasks) <= 2:
        jobs = 1  # starting processes takes longer than the work
    parallel = Parallel(n_jobs=jobs, return_as="generator")
    results = cast("Iterator[list[float | None]]", parallel(delayed(_rms_of_pairs)(*task, matcher) for task in tasks))
    index = 0
    for chunk in results:
        for rms in chunk:
            yield index, rms
            index += 1


def matched_rms(
    truth: Crystals, predicted: Crystals, *, cache: ResultCache, jobs: int = -1
) -> Iterator[tuple[list[int], list[float | None]]]:
    """Yield (pairs, RMS or None of each) as `match` gives them, in any order; cached pairs are not matched again.

    Raises:
        CrystalError: the two batches differ in length.
    """
    if len(truth) != len(predicted):
        raise CrystalError(f"{len(predicted)} predicted crystals for {len(truth)} true ones; give one for each")
    return _matched_rms(truth, predicted, cache, jobs)


def _matched_rms(
    truth: Crystals, predicted: Crystals, cache: ResultCache, jobs: int
) -> Iterator[tuple[list[int], list[float | None]]]:
    from importlib.metadata import version

    from joblib import delayed

    wanted = [combined(*pair) for pair in zip(keys(truth), keys(predicted), strict=True)]
    kind = f"match stol={STOL} angle_tol={ANGLE_TOL} ltol={LTOL} pymatgen {version('pymatgen')}"

    def task(rows: list[int]) -> Any:
        return delayed(_rms_rows)(truth[rows], predicted[rows])

    for rows, values in computed(cache, kind, wanted, task, jobs=jobs, chunk=_PAIRS_PER_TASK):
        yield rows, [None if math.isnan(value[0]) else float(value[0]) for value in values]


def _rms_rows(truth: Crystals, predicted: Crystals) -> list[np.ndarray]:
    return [np.array([math.nan if rms is None else rms]) for _, rms in match(truth, predicted, jobs=1)]


def reconstruction(
    truth: Crystals,
    predicted: Crystals,
    *,
    stol: float = STOL,
    angle_tol: float = ANGLE_TOL,
    ltol: float = LTOL,
    jobs: int = -1,
) -> ReconstructionScore:
    """Match every predicted crystal with its true one and score by both criteria; arguments as in `match`."""
    matches = match(truth, predicted, stol=stol, angle_tol=angle_tol, ltol=ltol, jobs=jobs)
    return score(truth, predicted, [rms for _, rms in matches])


def score(
    truth: Crystals, predicted: Crystals, rms: Sequence[float | None], rules: Rules = "current"
) -> ReconstructionScore:
    """Score by both criteria, from the RMS values that `match` gave for these pairs.

    Args:
        rules: the version of SMACT; see `composition_validity`.

    Raises:
        CrystalError: not one RMS value (or None) for each pair, or no pairs.
    """
    if not len(truth) == len(predicted) == len(rms) > 0:
        raise CrystalError(
            f"scoring needs one predicted crystal and one RMS for each true crystal, at least one; got "
            f"{len(truth)} true, {len(predicted)} predicted, {len(rms)} RMS values"
        )
    true_ok, predicted_ok = structure_validity(truth).cpu(), structure_validity(predicted).cpu()
    structure = _score("structure valid", true_ok.tolist(), predicted_ok.tolist(), rms)
    true_ok, predicted_ok = (
        true_ok & composition_validity(truth, rules).cpu(),
        predicted_ok & composition_validity(predicted, rules).cpu(),
    )
    paper = _score("and composition (the paper's)", true_ok.tolist(), predicted_ok.tolist(), rms)
    return ReconstructionScore(structure, paper, tuple(rms))


def _score(
    name: str, true_ok: Sequence[bool], predicted_ok: Sequence[bool], rms: Sequence[float | None]
) -> CriterionScore:
    matched = [value for value, admitted in zip(rms, predicted_ok, strict=True) if admitted and value is not None]
    return CriterionScore(
        name=name,
        crystals=len(rms),
        matched=len(matched),
        admitted=sum(predicted_ok),
        rmse=float(np.mean(matched)) if matched else math.nan,
        ceiling=sum(true_ok) / len(true_ok),
    )


def _rms_of_pairs(
    truth: Crystals, predicted: Crystals, comparable: Bool[Tensor, " pairs"], matcher: StructureMatcher
) -> list[float | None]:
    """Match the comparable pairs; runs in a separate process."""
    results: list[float | None] = [None] * len(truth)
    which = comparable.nonzero()[:, 0]
    sides = zip(which.tolist(), to_structures(predicted[which]), to_structures(truth[which]), strict=True)
    for number, one, other in sides:
        distances = matcher.get_rms_dist(one, other)
        results[number] = None if distances is None else float(distances[0])
    return results
