"""Compute fingerprints and space groups of many crystals, in parallel and cached."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import MAX_ATOMIC_NUMBER
from cdvae_lab.crystals.formulas import reduced_compositions
from cdvae_lab.io.convert import is_usable, to_structures
from cdvae_lab.metrics.fingerprints import (
    COMPOSITION_LENGTH,
    STRUCTURE_LENGTH,
    VERSION,
    composition_fingerprint,
    structure_fingerprint,
)
from cdvae_lab.metrics.symmetry import SYMPREC, space_group
from cdvae_lab.runtime.parallel import computed
from cdvae_lab.runtime.result_cache import ResultCache, keys

_CHUNK = 16
# Atoms within CrystalNN's 7 Å beyond which a crystal is denser than any matter and its tessellation takes minutes.
_MOST_NEIGHBORS = 20_000


def structure_rows(
    crystals: Crystals, *, jobs: int, cache: ResultCache
) -> Iterator[tuple[list[int], list[Float[np.ndarray, " 62"]]]]:
    """Yield (rows, structure fingerprint and space group of each) in any order; NaN where there is none."""
    from importlib.metadata import version

    from joblib import delayed

    def task(rows: list[int]) -> Any:
        return delayed(_structure_rows)(crystals[rows])

    kind = f"structure {VERSION} symprec={SYMPREC} pymatgen {version('pymatgen')}"
    return computed(cache, kind, keys(crystals), task, jobs=jobs, chunk=_CHUNK)


def _structure_rows(crystals: Crystals) -> list[Float[np.ndarray, " 62"]]:
    rows = [np.full(STRUCTURE_LENGTH + 1, math.nan) for _ in range(len(crystals))]
    sphere = 4 / 3 * math.pi * 7**3
    crowded = crystals.num_atoms * sphere > _MOST_NEIGHBORS * lat.volume(crystals.lattice)
    which = (is_usable(crystals) & ~crowded).nonzero()[:, 0]
    for row, structure in zip(which.tolist(), to_structures(crystals[which]) if len(which) else [], strict=True):
        numbers = np.array(structure.atomic_numbers)
        # A crystal without a fingerprint keeps NaN: the paper's code counts it as invalid.
        with contextlib.suppress(ArithmeticError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            rows[row][:-1] = structure_fingerprint(numbers, structure.frac_coords, structure.lattice.matrix)
        rows[row][-1] = space_group(structure) or math.nan
    return rows


def composition_rows(crystals: Crystals) -> Float[np.ndarray, "crystals 132"]:
    """Compute composition fingerprints, not standardized; NaN without atoms, or with an unknown element."""
    rows = np.full((len(crystals), COMPOSITION_LENGTH), math.nan)
    for row, formula in enumerate(reduced_compositions(crystals)):
        if formula and formula[-1][0] <= MAX_ATOMIC_NUMBER:
            rows[row] = composition_fingerprint(formula)
    return rows
