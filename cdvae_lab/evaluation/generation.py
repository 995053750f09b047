"""The report card of generated crystals: validity, coverage, property statistics, uniqueness and novelty."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.evaluation.card import ReportCard, Score, chemical_formulas, versions
from cdvae_lab.io.convert import is_usable
from cdvae_lab.metrics import novelty
from cdvae_lab.metrics.batch_fingerprints import composition_rows, structure_rows
from cdvae_lab.metrics.coverage import (
    Coverage,
    Cutoffs,
    Fingerprints,
    coverage,
    density,
    num_elements,
    sample,
    wasserstein,
)
from cdvae_lab.metrics.fingerprints import STRUCTURE_LENGTH
from cdvae_lab.metrics.novelty import Comparison, candidates, compare, members, nearest_formulas
from cdvae_lab.metrics.result_cache import ResultCache
from cdvae_lab.metrics.success_rates import Predictor, predictions
from cdvae_lab.metrics.validity import composition_validity, invalid_reasons, reduced_formulas, structure_validity


@dataclass(frozen=True)
class GenerationSettings:
    """How generated crystals are judged; see `evaluate`."""

    cutoffs: Cutoffs
    samples: int
    seed: int
    predictor: Predictor | None
    predictor_name: str
    unit: str
    novelty: bool
    jobs: int


def percent(of: Tensor | np.ndarray) -> float:
    """The share of what is true, in per cent."""
    return 100 * float(np.mean(np.asarray(of)))


def _count(of: Tensor | np.ndarray) -> str:
    return f"{int(np.asarray(of).sum()):,} of {len(of):,}"


def generation(
    crystals: Crystals,
    truth: Crystals,
    train: Dataset | Crystals | None,
    name: str,
    split: str,
    ids: list[str],
    unreadable: Sequence[str | None],
    settings: GenerationSettings,
    store: ResultCache,
) -> Iterator[ReportCard]:
    """The work of `evaluate(task="generation")`, whose arguments these are."""
    training = train.crystals if isinstance(train, Dataset) else train
    training = None if training is None else training.to("cpu", torch.float64)
    formulas = reduced_formulas(crystals)
    relevant, nearest = _relevant(formulas, training)
    n, m, t = len(crystals), len(truth), len(relevant)
    looked_at = n if settings.novelty else 0
    card = ReportCard(0, n + m + t + looked_at + 3, "validity", "generation", name, split, n)
    card = replace(
        card,
        settings={
            "cutoffs": f"d_s {settings.cutoffs.structure:g}, d_c {settings.cutoffs.composition:g}",
            "seed": settings.seed,
            "samples": settings.samples,
            "predictor": settings.predictor_name or ("none" if settings.predictor is None else "not named"),
            "reference crystals": m,
            "training crystals": 0 if training is None else len(training),
            "versions": versions(),
        },
    )

    structure, composition = structure_validity(crystals).numpy(), composition_validity(crystals).numpy()
    reasons = [given or found for given, found in zip(unreadable, invalid_reasons(crystals), strict=True)]
    rows: dict[str, list[Any]] = {
        "id": ids,
        "formula": chemical_formulas(crystals),
        "num_atoms": crystals.num_atoms.tolist(),
        "structure_valid": structure.tolist(),
        "composition_valid": composition.tolist(),
        "reason": list(reasons),
    }
    card = replace(card, step=1, scores=_validity(structure, composition), rows=dict(rows))
    yield card

    sets: list[np.ndarray] = []
    groups = np.full(n, math.nan)
    for label, batch in (("generated", crystals), ("reference", truth), ("training", None)):
        if batch is None:
            batch = training[torch.from_numpy(relevant)] if training is not None and t else None
        prints = np.full((0 if batch is None else len(batch), STRUCTURE_LENGTH), math.nan)
        sets.append(prints)
        if batch is None:
            continue
        for part, values in structure_rows(batch, jobs=settings.jobs, cache=store):
            prints[part] = [value[:-1] for value in values]
            if label == "generated":
                groups[part] = [value[-1] for value in values]
            card = replace(card, step=card.step + len(part), doing=f"fingerprints of {label} crystals")
            yield card
    ours = Fingerprints(sets[0], composition_rows(crystals))
    valid = structure & composition & ours.there
    for row in (structure & composition & ~ours.there).nonzero()[0]:
        reasons[row] = "no structure fingerprint: its Voronoi cells cannot be found"
    rows |= {"reason": reasons, "valid": valid.tolist()}
    rows["space_group"] = [None if math.isnan(group) else int(group) for group in groups]

    cover = coverage(ours, Fingerprints(sets[1], composition_rows(truth)), settings.cutoffs)
    rows |= {
        "distance_structure": cover.precision_structure.tolist(),
        "distance_composition": cover.precision_composition.tolist(),
        "near_reference": cover.precise.tolist(),
    }
    samples = {
        "recall_structure": cover.recall_structure,
        "recall_composition": cover.recall_composition,
        "precision_structure": cover.precision_structure,
        "precision_composition": cover.precision_composition,
        "cutoff_structure": np.array([cover.cutoffs.structure]),
        "cutoff_composition": np.array([cover.cutoffs.composition]),
    }
    scores = _validity(structure, composition, valid) + _coverage(cover)
    card = replace(card, step=card.step + 1, doing="properties", scores=scores, rows=dict(rows), samples=dict(samples))
    yield card

    statistics, notes = _properties(crystals, truth, valid, settings, rows, samples)
    notes += _missing_notes(settings, training, sets[1])
    scores += statistics
    card = replace(card, step=card.step + 1, scores=scores, notes=notes, rows=dict(rows), samples=dict(samples))
    if not settings.novelty:
        yield replace(card, step=card.num_steps, doing="done")
        return
    yield replace(card, doing="duplicates and known crystals")

    all_prints = None
    if training is not None:
        all_prints = np.full((len(training), STRUCTURE_LENGTH), math.nan)
        all_prints[relevant] = sets[2]
    considered = structure & is_usable(crystals).numpy()
    chosen = candidates(crystals, considered, ours.structure, training, all_prints)
    compared: dict[int, Comparison] = {}
    card = replace(card, step=card.step + n - int(considered.sum()))
    for row, comparison in compare(crystals, considered, chosen, training, cache=store, jobs=settings.jobs):
        compared[row] = comparison
        card = replace(card, step=card.step + 1, doing="duplicates and known crystals")
        if len(compared) < considered.sum():
            yield card
    known_ids = (
        train.ids if isinstance(train, Dataset) else tuple(map(str, range(0 if training is None else len(training))))
    )
    closest = _closest(formulas, nearest, training, all_prints, ours.structure)
    rows |= _novelty_rows(n, compared, training is not None, known_ids, ids, closest)
    if chosen.cut:
        notes += (
            f"{chosen.cut:,} crystals have more than {novelty.MOST_CANDIDATES} of their formula to be compared with; "
            f"of these the {novelty.MOST_CANDIDATES} with the nearest structure fingerprints were.",
        )
    scores += _novelty(n, compared, valid, training)
    yield replace(card, step=card.num_steps, doing="done", scores=scores, notes=notes, rows=rows)


def _relevant(formulas: list, training: Crystals | None) -> tuple[np.ndarray, dict]:
    """The training crystals whose formula is the nearest to some generated one, and those formulas."""
    if training is None or not any(formulas):
        return np.array([], int), {}
    theirs = reduced_formulas(training)
    known = [formula if formula[-1][0] <= 118 else () for formula in formulas if formula]
    nearest, _ = nearest_formulas(known, theirs)
    groups = members(theirs, is_usable(training).tolist())
    wanted = [groups[formula] for formula in sorted(set(nearest.values())) if formula in groups]
    return np.sort(np.concatenate(wanted)) if wanted else np.array([], int), nearest


def _validity(structure: np.ndarray, composition: np.ndarray, valid: np.ndarray | None = None) -> tuple[Score, ...]:
    both = structure & composition if valid is None else valid
    return (
        Score(
            "structure_valid", "structure valid", percent(structure), "%",
            "distances between distinct atoms at least 0.5 Å, volume at least 0.1 Å³.", _count(structure),
        ),
        Score(
            "composition_valid", "composition valid", percent(composition), "%",
            "SMACT: oxidation states of 2014 exist that are neutral and in the order of the electronegativities; a "
            "single element, or metals alone, always pass.", _count(composition),
        ),
        Score(
            "valid", "valid", percent(both), "%", "both, and the structure has a fingerprint.", _count(both),
        ),
    )  # fmt: skip


def _coverage(cover: Coverage) -> tuple[Score, ...]:
    near = (
        f"structure fingerprint (CrystalNN ops, mean over sites) within {cover.cutoffs.structure:g} and nearest "
        f"composition fingerprint (Magpie, standardized as the paper does) within {cover.cutoffs.composition:g}"
    )
    return (
        Score(
            "cov_recall", "COV-R", 100 * cover.recall, "%",
            f"reference crystals with their nearest generated {near}.", _count(cover.recalled),
        ),
        Score(
            "cov_precision", "COV-P", 100 * cover.precision, "%",
            f"generated crystals, valid or not, with their nearest reference {near}.", _count(cover.precise),
        ),
    )  # fmt: skip


def _properties(
    crystals: Crystals,
    truth: Crystals,
    valid: Bool[np.ndarray, " crystals"],
    settings: GenerationSettings,
    rows: dict[str, list[Any]],
    samples: dict[str, np.ndarray],
) -> tuple[tuple[Score, ...], tuple[str, ...]]:
    """Wasserstein distances; adds the columns and the numbers behind the histograms."""
    chosen = sample(valid, settings.samples, settings.seed)
    counted = f"{len(chosen):,} valid against {len(truth):,}"
    between = "1-D Wasserstein distance between valid generated crystals and all reference crystals, of "
    scores, notes = [], ()
    if len(chosen) < settings.samples:
        notes = (
            f"only {len(chosen):,} crystals are valid; property statistics use them all, where the paper uses "
            f"{settings.samples:,}.",
        )
    values = {"density": (density(crystals), density(truth)), "elements": (num_elements(crystals), num_elements(truth))}
    of = {"density": ("density", "g/cm³", "mass density."), "elements": ("# elements", "", "the number of elements.")}
    rows |= {"density": values["density"][0].tolist(), "num_elements": values["elements"][0].tolist()}
    if settings.predictor is not None:
        # All valid crystals, for the table; those that are compared are among them.
        predicted = torch.full((len(crystals),), math.nan, dtype=torch.float64)
        predicted[torch.from_numpy(valid)] = predictions(crystals[torch.from_numpy(valid)], settings.predictor)
        values["property"] = predicted, predictions(truth, settings.predictor)
        named = f"the property that {settings.predictor_name or 'the predictor'} predicts for both."
        of["property"] = "property", settings.unit, named
        rows["property"] = [None if math.isnan(value) else value for value in predicted.tolist()]
    for key, (ours, theirs) in values.items():
        label, unit, text = of[key]
        a, b = ours.double().numpy()[chosen], theirs.double().numpy()
        samples |= {f"{key} generated": a, f"{key} reference": b}
        scores.append(
            Score(f"wasserstein_{key}", f"Wasserstein, {label}", wasserstein(a, b), unit, between + text, counted)
        )
    rows["sampled"] = np.isin(np.arange(len(crystals)), chosen).tolist()
    return tuple(scores), notes


def _missing_notes(settings: GenerationSettings, training: Crystals | None, reference: np.ndarray) -> tuple[str, ...]:
    notes = [
        "coverage and novelty depend on how many crystals there are: the papers generate 10,000 and compare with all "
        "of test."
    ]
    if settings.predictor is None:
        notes.append("no predictor was given, so there is no statistic of a predicted property.")
    if settings.novelty and training is None:
        notes.append("no training set was given, so novelty is not known.")
    if without := int(np.isnan(reference).any(1).sum()):
        notes.append(f"{without:,} reference crystals have no structure fingerprint and count as not covered.")
    return tuple(notes)


def _closest(
    formulas: list, nearest: dict, training: Crystals | None, prints: np.ndarray | None, own: np.ndarray
) -> list[int | None]:
    """The nearest training crystal of each: the nearest formula, and of that the nearest structure fingerprint."""
    if training is None or prints is None:
        return [None] * len(formulas)
    groups = members(reduced_formulas(training), is_usable(training).tolist())
    found: list[int | None] = []
    for row, formula in enumerate(formulas):
        group = groups.get(nearest.get(formula, ()))
        if group is None:
            found.append(None)
            continue
        distances = np.nan_to_num(np.linalg.norm(prints[group] - own[row], axis=1), nan=math.inf)
        found.append(int(group[distances.argmin()]))
    return found


def _novelty_rows(
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


def _novelty(
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
                "of all generated crystals, those that are all three.", _count(together),
            ),
        ]  # fmt: skip
    return tuple(scores)
