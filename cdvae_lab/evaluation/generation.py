"""Report card of generated crystals: validity, coverage, property statistics, uniqueness and novelty."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import density, reduced_compositions, reduced_formulas
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.evaluation.batch_fingerprints import composition_rows, structure_rows
from cdvae_lab.evaluation.card import ReportCard, Score, count, percent, versions
from cdvae_lab.evaluation.novelty import closest_training, novelty_rows, novelty_scores, relevant_training
from cdvae_lab.evaluation.sources import CrystalSource
from cdvae_lab.evaluation.validity import RULES, reasons, validity_scores
from cdvae_lab.io.convert import is_usable
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.coverage import Coverage, Fingerprints, coverage
from cdvae_lab.metrics.cutoffs import Cutoffs
from cdvae_lab.metrics.fingerprints import STRUCTURE_LENGTH
from cdvae_lab.metrics.novelty import MOST_CANDIDATES, Comparison, candidates, compare
from cdvae_lab.metrics.property_statistics import num_elements, sample, wasserstein
from cdvae_lab.metrics.success_rates import Predictor, predictions
from cdvae_lab.metrics.validity import composition_validity, structure_validity
from cdvae_lab.runtime.result_cache import ResultCache


@dataclass(frozen=True)
class Options:
    """Settings of the task; see `evaluate`."""

    cutoffs: Cutoffs
    samples: int
    seed: int
    predictor: Predictor | None
    predictor_name: str
    unit: str
    novelty: bool
    rules: Rules
    jobs: int


def generation(
    source: CrystalSource,
    truth: Crystals,
    train: Dataset | Crystals | None,
    name: str,
    split: str,
    options: Options,
    store: ResultCache,
) -> Iterator[ReportCard]:
    """Do the work of `evaluate(task="generation")`, whose arguments these are."""
    crystals, ids = source.crystals, list(source.ids)
    training = train.crystals if isinstance(train, Dataset) else train
    training = None if training is None else training.to("cpu", torch.float64)
    formulas = reduced_compositions(crystals)
    relevant, nearest = relevant_training(formulas, training)
    n, m, t = len(crystals), len(truth), len(relevant)
    compared_with = n if options.novelty else 0
    card = ReportCard(0, n + m + t + compared_with + 3, "validity", "generation", name, split, n)
    card = replace(
        card,
        settings={
            "cutoffs": f"d_s {options.cutoffs.structure:g}, d_c {options.cutoffs.composition:g}",
            "seed": options.seed,
            "samples": options.samples,
            "predictor": options.predictor_name or ("none" if options.predictor is None else "not named"),
            "reference crystals": m,
            "training crystals": 0 if training is None else len(training),
            "composition rules": RULES[options.rules],
            "versions": versions(),
        },
    )

    structure = structure_validity(crystals).numpy()
    composition = composition_validity(crystals, options.rules).numpy()
    invalid = reasons(source, options.rules)
    rows: dict[str, list[Any]] = {
        "id": ids,
        "formula": reduced_formulas(crystals),
        "num_atoms": crystals.num_atoms.tolist(),
        "structure_valid": structure.tolist(),
        "composition_valid": composition.tolist(),
        "reason": list(invalid),
    }
    card = replace(card, step=1, scores=_validity(structure, composition, options.rules), rows=dict(rows))
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
        for part, values in structure_rows(batch, jobs=options.jobs, cache=store):
            prints[part] = [value[:-1] for value in values]
            if label == "generated":
                groups[part] = [value[-1] for value in values]
            card = replace(card, step=card.step + len(part), doing=f"fingerprints of {label} crystals")
            yield card
    ours = Fingerprints(sets[0], composition_rows(crystals))
    valid = structure & composition & ours.there
    for row in (structure & composition & ~ours.there).nonzero()[0]:
        invalid[row] = "no structure fingerprint: its Voronoi cells cannot be found"
    rows |= {"reason": invalid, "valid": valid.tolist()}
    rows["space_group"] = [None if math.isnan(group) else int(group) for group in groups]

    cover = coverage(ours, Fingerprints(sets[1], composition_rows(truth)), options.cutoffs)
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
    scores = _validity(structure, composition, options.rules, valid) + _coverage(cover)
    card = replace(card, step=card.step + 1, doing="properties", scores=scores, rows=dict(rows), samples=dict(samples))
    yield card

    statistics, notes = _properties(crystals, truth, valid, options, rows, samples)
    notes += _missing_notes(options, training, sets[1])
    scores += statistics
    card = replace(card, step=card.step + 1, scores=scores, notes=notes, rows=dict(rows), samples=dict(samples))
    if not options.novelty:
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
    for row, comparison in compare(crystals, considered, chosen, training, cache=store, jobs=options.jobs):
        compared[row] = comparison
        card = replace(card, step=card.step + 1, doing="duplicates and known crystals")
        if len(compared) < considered.sum():
            yield card
    known_ids = (
        train.ids if isinstance(train, Dataset) else tuple(map(str, range(0 if training is None else len(training))))
    )
    closest = closest_training(formulas, nearest, training, all_prints, ours.structure)
    rows |= novelty_rows(n, compared, training is not None, known_ids, ids, closest)
    if chosen.cut:
        notes += (
            f"{chosen.cut:,} crystals have more than {MOST_CANDIDATES} of their formula to be compared with; "
            f"of these the {MOST_CANDIDATES} with the nearest structure fingerprints were.",
        )
    scores += novelty_scores(n, compared, valid, training)
    yield replace(card, step=card.num_steps, doing="done", scores=scores, notes=notes, rows=rows)


def _validity(
    structure: np.ndarray, composition: np.ndarray, rules: Rules, valid: np.ndarray | None = None
) -> tuple[Score, ...]:
    both = structure & composition if valid is None else valid
    text = "valid structure and valid composition, and the structure has a fingerprint."
    return (
        *validity_scores(structure, composition, rules),
        Score("valid", "valid", percent(both), "%", text, count(both)),
    )


def _coverage(cover: Coverage) -> tuple[Score, ...]:
    near = (
        f"structure fingerprint (CrystalNN ops, mean over sites) within {cover.cutoffs.structure:g} and nearest "
        f"composition fingerprint (Magpie, standardized as the paper does) within {cover.cutoffs.composition:g}"
    )
    return (
        Score(
            "cov_recall", "COV-R", 100 * cover.recall, "%",
            f"reference crystals with their nearest generated {near}.", count(cover.recalled),
        ),
        Score(
            "cov_precision", "COV-P", 100 * cover.precision, "%",
            f"generated crystals, valid or not, with their nearest reference {near}.", count(cover.precise),
        ),
    )  # fmt: skip


def _properties(
    crystals: Crystals,
    truth: Crystals,
    valid: Bool[np.ndarray, " crystals"],
    options: Options,
    rows: dict[str, list[Any]],
    samples: dict[str, np.ndarray],
) -> tuple[tuple[Score, ...], tuple[str, ...]]:
    """Compute the Wasserstein distances; adds the columns and the numbers behind the histograms."""
    chosen = sample(valid, options.samples, options.seed)
    counted = f"{len(chosen):,} valid against {len(truth):,}"
    between = "1-D Wasserstein distance between valid generated crystals and all reference crystals, of "
    scores, notes = [], ()
    if len(chosen) < options.samples:
        notes = (
            f"only {len(chosen):,} crystals are valid; property statistics use them all, where the paper uses "
            f"{options.samples:,}.",
        )
    values = {"density": (density(crystals), density(truth)), "elements": (num_elements(crystals), num_elements(truth))}
    of = {"density": ("density", "g/cm³", "mass density."), "elements": ("# elements", "", "the number of elements.")}
    rows |= {"density": values["density"][0].tolist(), "num_elements": values["elements"][0].tolist()}
    if options.predictor is not None:
        # All valid crystals, for the table; those that are compared are among them.
        predicted = torch.full((len(crystals),), math.nan, dtype=torch.float64)
        predicted[torch.from_numpy(valid)] = predictions(crystals[torch.from_numpy(valid)], options.predictor)
        values["property"] = predicted, predictions(truth, options.predictor)
        named = f"the property that {options.predictor_name or 'the predictor'} predicts for both."
        of["property"] = "property", options.unit, named
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


def _missing_notes(options: Options, training: Crystals | None, reference: np.ndarray) -> tuple[str, ...]:
    notes = [
        "coverage and novelty depend on how many crystals there are: the papers generate 10,000 and compare with all "
        "of test."
    ]
    if options.predictor is not None:
        notes.append("published energy distances were measured with other predictors, each system with its own.")
    else:
        notes.append("no predictor was given, so there is no statistic of a predicted property.")
    if options.novelty and training is None:
        notes.append("no training set was given, so novelty was not measured.")
    if without := int(np.isnan(reference).any(1).sum()):
        notes.append(f"{without:,} reference crystals have no structure fingerprint and count as not covered.")
    return tuple(notes)
