"""Uniqueness and novelty of generated crystals, as columns and scores of a report card."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_compositions
from cdvae_lab.evaluation.card import Score, count, percent
from cdvae_lab.io.convert import is_usable
from cdvae_lab.metrics import novelty
from cdvae_lab.metrics.novelty import Comparison, members, nearest_formulas


def relevant_training(formulas: list, training: Crystals | None) -> tuple[np.ndarray, dict]:
    """Find the training crystals whose formula is the nearest to some generated one, and those formulas."""
    if training is None or not any(formulas):
        return np.array([], int), {}
    theirs = reduced_compositions(training)
    known = [formula if formula[-1][0] <= 118 else () for formula in formulas if formula]
    nearest, _ = nearest_formulas(known, theirs)
    groups = members(theirs, is_usable(training).tolist())
    wanted = [groups[formula] for formula in sorted(set(nearest.values())) if formula in groups]
    return np.sort(np.concatenate(wanted)) if wanted else np.array([], int), nearest


def closest_training(
    formulas: list, nearest: dict, training: Crystals | None, prints: np.ndarray | None, own: np.ndarray
) -> list[int | None]:
    """Find the nearest training crystal of each: of the nearest formula, the one with the nearest fingerprint."""
    if training is None or prints is None:
        return [None] * len(formulas)
    groups = members(reduced_compositions(training), is_usable(training).tolist())
    found: list[int | None] = []
    for row, formula in enumerate(formulas):
        group = groups.get(nearest.get(formula, ()))
        if group is None:
            found.append(None)
            continue
        distances = np.nan_to_num(np.linalg.norm(prints[group] - own[row], axis=1), nan=math.inf)
        found.append(int(group[distances.argmin()]))
    return found


def novelty_rows(
    n: int,
    compared: dict[int, Comparison],
    trained: bool,
    known_ids: tuple[str, ...],
    ids: list[str],
    closest: list[int | None],
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: [None] * n for name in ("unique", "duplicate_of", "novel", "known_as", "known_rms")
    }
    for row, one in compared.items():
        columns["unique"][row] = one.unique
        columns["duplicate_of"][row] = None if one.unique else ids[one.duplicate_of]
        if trained:
            columns["novel"][row] = one.novel
            columns["known_as"][row] = None if one.novel else known_ids[one.known_as]
            columns["known_rms"][row] = None if one.novel else one.rms
    columns["nearest_training"] = [None if i is None else known_ids[i] for i in closest]
    return columns


def novelty_scores(
    n: int, compared: dict[int, Comparison], valid: Bool[np.ndarray, " crystals"], training: Crystals | None
) -> tuple[Score, ...]:
    unique = np.zeros(n, bool)
    novel = np.zeros(n, bool)
    for row, one in compared.items():
        unique[row], novel[row] = one.unique, one.novel
    total = len(compared)
    tolerances = f"stol={novelty.STOL}, ltol={novelty.LTOL}, angle_tol={novelty.ANGLE_TOL}"
    same = f"StructureMatcher({tolerances}), pymatgen's defaults"

    def share(of: np.ndarray) -> float:
        return 100 * float(of.sum()) / total if total else math.nan

    scores = [
        Score(
            "unique", "unique", share(unique), "%",
            f"structurally valid crystals that are not the same as one generated before them, by {same}.",
            f"{unique.sum():,} of {total:,}",
        )
    ]  # fmt: skip
    if training is not None:
        together = valid & unique & novel
        scores += [
            Score(
                "novel", "novel", share(novel), "%",
                f"structurally valid crystals that are not the same as one of {len(training):,} training crystals.",
                f"{novel.sum():,} of {total:,}",
            ),
            Score(
                "valid_unique_novel", "valid, unique and novel", percent(together), "%",
                "of all generated crystals, those that are all three.", count(together),
            ),
        ]  # fmt: skip
    return tuple(scores)
