"""Report card of reconstructed crystals: match rate and RMSE, by two criteria."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.evaluation.card import ReportCard, Score, versions
from cdvae_lab.evaluation.sources import CrystalSource
from cdvae_lab.evaluation.validity import RULES, reasons
from cdvae_lab.metrics import reconstruction as matching
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.validity import composition_validity, structure_validity
from cdvae_lab.runtime.result_cache import ResultCache

PROTOCOL = (
    "the CDVAE paper decodes one sample of the posterior of each crystal, once; the published numbers compare with "
    "crystals that were made so."
)


@dataclass(frozen=True)
class Options:
    """Settings of the task; see `evaluate`."""

    rules: Rules
    jobs: int


def reconstruction(
    source: CrystalSource, truth: Crystals, name: str, split: str, options: Options, store: ResultCache
) -> Iterator[ReportCard]:
    """Do the work of `evaluate(task="reconstruction")`: match each crystal with the true one."""
    predicted, total = source.crystals, len(truth)
    tolerances = f"stol={matching.STOL}, angle_tol={matching.ANGLE_TOL}, ltol={matching.LTOL}"
    settings = {
        "StructureMatcher": tolerances,
        "composition rules": RULES[options.rules],
        "versions": versions(),
    }
    card = ReportCard(0, total, "matching", "reconstruction", name, split, total, settings=settings, notes=(PROTOCOL,))
    rms: list[float | None] = [None] * total
    step = 0
    for part, values in matching.matched_rms(truth, predicted, jobs=options.jobs, cache=store):
        for row, value in zip(part, values, strict=True):
            rms[row] = value
        step += len(part)
        if step < total:
            yield replace(card, step=step)
    score = matching.score(truth, predicted, rms, options.rules)
    rows = {
        "id": list(source.ids),
        "formula": reduced_formulas(truth),
        "reconstructed": reduced_formulas(predicted),
        "structure_valid": structure_validity(predicted).tolist(),
        "composition_valid": composition_validity(predicted, options.rules).tolist(),
        "reason": reasons(source, options.rules),
        "matched": [value is not None for value in rms],
        "rms": rms,
    }
    samples = {"rms": torch.tensor([value for value in rms if value is not None], dtype=torch.float64).numpy()}
    yield replace(card, step=total, doing="done", scores=_scores(score, tolerances), rows=rows, samples=samples)


def _scores(score: matching.ReconstructionScore, tolerances: str) -> tuple[Score, ...]:
    structure, paper, total = score.structure, score.paper, len(score.rms)
    penalized = [matching.STOL if value is None else value for value in score.rms]
    match = f"pymatgen's StructureMatcher({tolerances}).get_rms_dist finds a match"
    return (
        Score(
            "match_rate", "match rate, paper's criterion", 100 * paper.match_rate, "%",
            f"{match}, and the prediction is valid by structure and by composition (SMACT). Of the true crystals "
            f"{paper.ceiling:.2%} are valid so.", f"{paper.matched:,} of {total:,}",
        ),
        Score(
            "rmse", "RMSE, paper's criterion", paper.rmse, "",
            "mean over the matched of the RMS displacement, in units of (volume / atom)^(1/3).",
            f"{paper.matched:,} matched",
        ),
        Score(
            "match_rate_structure", "match rate, structure alone", 100 * structure.match_rate, "%",
            f"{match}, and the prediction is valid by structure. Of the true crystals {structure.ceiling:.2%} are.",
            f"{structure.matched:,} of {total:,}",
        ),
        Score(
            "rmse_structure", "RMSE, structure alone", structure.rmse, "", "as above, over these matched.",
            f"{structure.matched:,} matched",
        ),
        Score(
            "crmse", "cRMSE, structure alone", sum(penalized) / total, "",
            f"mean over all pairs, where an unmatched one counts as stol = {matching.STOL}: match rate and RMSE in one "
            "number, which a model cannot lower by matching only the easy crystals. After cRMSE of Martirossyan et "
            "al., arXiv 2509.12178, here of each crystal with its own reconstruction.", f"{total:,} pairs",
        ),
    )  # fmt: skip
