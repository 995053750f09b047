"""Uniqueness and novelty: is a crystal another one than those generated before it and those of the training set?

Two crystals are the same if pymatgen's StructureMatcher, with its own default tolerances (stol 0.3, ltol 0.2,
angle_tol 5°, primitive cells, volumes scaled), says so; they then have the same reduced formula. Crystals are reduced
once and compared only where their primitive cells have the same number of atoms, since the matcher refuses others. Of a
formula with very many crystals (all of Carbon-24) only those with the nearest structure fingerprints are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import Composition, reduced_compositions
from cdvae_lab.io.convert import is_usable, to_structures
from cdvae_lab.metrics.fingerprints import composition_fingerprint, standardized
from cdvae_lab.runtime.parallel import computed
from cdvae_lab.runtime.result_cache import ResultCache, combined, keys

VERSION = 1
STOL, LTOL, ANGLE_TOL = 0.3, 0.2, 5.0
# Crystals of the same formula that one is compared with, at most, on each side.
MOST_CANDIDATES = 50
_CHUNK = 16


@dataclass(frozen=True)
class Candidates:
    """Crystals that each generated crystal is compared with.

    Attributes:
        earlier: for each generated crystal, numbers of those generated before it, nearest first.
        training: for each generated crystal, numbers of training crystals, nearest first.
        cut: number of crystals with more candidates of either kind than are compared.
    """

    earlier: tuple[tuple[int, ...], ...]
    training: tuple[tuple[int, ...], ...]
    cut: int


@dataclass(frozen=True)
class Comparison:
    """Result of comparing one generated crystal; -1 for no crystal.

    Attributes:
        duplicate_of: number of the first generated crystal that is the same.
        known_as: number of the training crystal that is the same, with the smallest RMS.
        rms: displacement from that one, in units of (volume / atom)^(1/3); NaN without one.
    """

    duplicate_of: int
    known_as: int
    rms: float

    @property
    def unique(self) -> bool:
        return self.duplicate_of < 0

    @property
    def novel(self) -> bool:
        return self.known_as < 0


def nearest_formulas(
    generated: Sequence[Composition], training: Sequence[Composition]
) -> tuple[dict[Composition, Composition], dict[Composition, float]]:
    """Find the training formula nearest to each generated one by standardized Magpie fingerprint, and its distance."""
    from scipy.spatial.distance import cdist

    ours, theirs = sorted(set(generated) - {()}), sorted(set(training))
    known = standardized(np.stack([composition_fingerprint(f) for f in theirs]))
    nearest, distance = {}, {}
    for start in range(0, len(ours), 500):
        part = ours[start : start + 500]
        distances = cdist(standardized(np.stack([composition_fingerprint(f) for f in part])), known)
        for formula, row, i in zip(part, distances, distances.argmin(1).tolist(), strict=True):
            nearest[formula], distance[formula] = theirs[i], float(row[i])
    return nearest, distance


def members(formulas: Sequence[Composition], chosen: Sequence[bool] | np.ndarray) -> dict[Composition, np.ndarray]:
    """Group the numbers of the chosen crystals by formula."""
    found: dict[Composition, list[int]] = {}
    for number, (formula, ok) in enumerate(zip(formulas, chosen, strict=True)):
        if ok:
            found.setdefault(formula, []).append(number)
    return {formula: np.array(numbers) for formula, numbers in found.items()}


def candidates(
    generated: Crystals,
    considered: Bool[np.ndarray, " generated"],
    fingerprints: Float[np.ndarray, "generated 61"],
    training: Crystals | None = None,
    training_fingerprints: Float[np.ndarray, "training 61"] | None = None,
    most: int = MOST_CANDIDATES,
) -> Candidates:
    """Choose the crystals to compare: those of the same reduced formula, nearest by structure fingerprint first.

    Args:
        considered: True for the generated crystals that are compared: those that are valid.
        fingerprints: of their structures.
        training_fingerprints: NaN for a structure without one; if None, the order is that of the training set.
        most: largest number of candidates of either kind; crystals with more are counted in `cut`.
    """
    formulas = reduced_compositions(generated)
    ours = members(formulas, considered)
    theirs: dict[Composition, np.ndarray] = {}
    if training is not None:
        theirs = members(reduced_compositions(training), is_usable(training).tolist())
    earlier, known, cut = [], [], 0
    for number, formula in enumerate(formulas):
        before = ours[formula][ours[formula] < number] if considered[number] else np.array([], int)
        same = theirs.get(formula, np.array([], int)) if considered[number] else np.array([], int)
        cut += len(before) > most or len(same) > most
        own = fingerprints[number]
        earlier.append(_nearest(before, own, fingerprints, most))
        known.append(_nearest(same, own, training_fingerprints, most))
    return Candidates(tuple(earlier), tuple(known), cut)


def _nearest(numbers: np.ndarray, own: np.ndarray, fingerprints: np.ndarray | None, most: int) -> tuple[int, ...]:
    if fingerprints is not None and len(numbers) > 1:
        distance = np.linalg.norm(fingerprints[numbers] - own, axis=1)
        numbers = numbers[np.argsort(np.nan_to_num(distance, nan=math.inf), kind="stable")]
    return tuple(numbers[:most].tolist())


def compare(
    generated: Crystals,
    considered: Bool[np.ndarray, " generated"],
    chosen: Candidates,
    training: Crystals | None = None,
    *,
    cache: ResultCache,
    jobs: int = -1,
) -> Iterator[tuple[int, Comparison]]:
    """Yield (number, comparison) for each considered crystal, in any order."""
    from joblib import delayed

    rows = considered.nonzero()[0]
    # Neighbors in this order have the same candidates, which a task reduces once.
    formulas = reduced_compositions(generated)
    rows = np.array(sorted(rows.tolist(), key=lambda row: formulas[row]), dtype=int)
    own = keys(generated)
    theirs = [] if training is None else keys(training)

    def task(part: list[int]):
        numbers = rows[part].tolist()
        pool_ours = sorted({*numbers, *(c for row in numbers for c in chosen.earlier[row])})
        pool_theirs = sorted({c for row in numbers for c in chosen.training[row]})
        place = {n: i for i, n in enumerate(pool_ours)}
        place_theirs = {n: len(pool_ours) + i for i, n in enumerate(pool_theirs)}
        pool = generated[pool_ours].to("cpu", torch.float64)
        if training is not None and pool_theirs:
            pool = Crystals.cat([pool, training[pool_theirs].to("cpu", torch.float64)])
        jobs_of = [
            (place[n], [place[c] for c in chosen.earlier[n]], [place_theirs[c] for c in chosen.training[n]])
            for n in numbers
        ]
        return delayed(_compare)(pool, jobs_of)

    wanted = [
        combined(own[n], *(own[c] for c in chosen.earlier[n]), b"training", *(theirs[c] for c in chosen.training[n]))
        for n in rows
    ]
    kind = f"novelty {VERSION} stol={STOL} ltol={LTOL} angle_tol={ANGLE_TOL} {_pymatgen()}"
    for part, values in computed(cache, kind, wanted, task, jobs=jobs, chunk=_CHUNK):
        for row, (duplicate, known, rms) in zip(rows[part].tolist(), values, strict=True):
            yield (
                row,
                Comparison(
                    -1 if duplicate < 0 else chosen.earlier[row][int(duplicate)],
                    -1 if known < 0 else chosen.training[row][int(known)],
                    float(rms),
                ),
            )


def _pymatgen() -> str:
    from importlib.metadata import version

    return f"pymatgen {version('pymatgen')}"


def _compare(pool: Crystals, tasks: list[tuple[int, list[int], list[int]]]) -> list[Float[np.ndarray, " 3"]]:
    """Compare the crystals of each task (crystal, earlier, training).

    Returns:
        for each the place of the first same crystal in `earlier` and of the best in `training`, and the latter's RMS.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(stol=STOL, ltol=LTOL, angle_tol=ANGLE_TOL)
    reduced = [
        structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
        for structure in to_structures(pool)
    ]

    def same(a: int, b: int) -> bool:
        if len(reduced[a]) != len(reduced[b]):
            return False
        return bool(matcher.fit(reduced[a], reduced[b], skip_structure_reduction=True))

    found = []
    for own, earlier, training in tasks:
        # The first one generated, so that all copies of a crystal name the same original.
        duplicates = [place for place, other in enumerate(earlier) if same(own, other)]
        duplicate = min(duplicates, key=lambda place: earlier[place], default=-1)
        known, best = -1, math.nan
        for place, other in enumerate(training):
            if same(own, other):
                distances = matcher.get_rms_dist(reduced[own], reduced[other])
                rms = math.inf if distances is None else float(distances[0])
                if known < 0 or rms < best:
                    known, best = place, rms
        found.append(np.array([duplicate, known, best], dtype=np.float64))
    return found
