"""Report card of property optimization: success rates SR5, SR10 and SR15."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.evaluation.card import ReportCard, Score, count, percent, versions
from cdvae_lab.evaluation.validity import RULES
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.success_rates import SUCCESS, Predictor, success_rates
from cdvae_lab.metrics.validity import invalid_reasons

PREDICTORS = (
    "success rates depend on the predictor: published success rates were measured with other predictors, and one that "
    "learned from the labels of the optimized model is not independent of it."
)


@dataclass(frozen=True)
class Options:
    """Settings of the task; see `evaluate`."""

    predictor: Predictor
    predictor_name: str
    unit: str
    thresholds: tuple[float, ...]
    rules: Rules


def optimization(decodings: list[Crystals], name: str, options: Options) -> Iterator[ReportCard]:
    """Do the work of `evaluate(task="optimization")`: the best valid decoding of each starting point."""
    total = sum(map(len, decodings))
    settings = {
        "predictor": options.predictor_name or "not named",
        "decodings": f"{len(decodings[0]) if decodings else 0} starting points, decoded {len(decodings)} times",
        "composition rules": RULES[options.rules],
        "versions": versions(),
    }
    card = ReportCard(0, 1, "predicting", "optimization", name, "", total, settings=settings, notes=(PREDICTORS,))
    score = success_rates(decodings, options.predictor, options.thresholds, options.rules)
    starts = score.valid.shape[1]
    shares = SUCCESS if len(options.thresholds) == len(SUCCESS) else range(1, len(options.thresholds) + 1)
    scores = [
        Score(
            f"sr{share}", f"SR{share}", 100 * success, "%",
            "starting points whose best (lowest) predicted property over their valid decodings is at most "
            f"{threshold:g} {options.unit}".rstrip() + ".", f"{round(success * starts):,} of {starts:,}",
        )
        for share, threshold, success in zip(shares, options.thresholds, score.success, strict=True)
    ]  # fmt: skip
    valid = score.valid.flatten()
    scores.append(
        Score(
            "valid", "valid decodings", percent(valid), "%",
            "valid by structure and by composition (SMACT); the others do not count.", count(valid),
        )
    )  # fmt: skip
    crystals = Crystals.cat([part.to("cpu", torch.float64) for part in decodings])
    predicted = zip(score.predicted.flatten().tolist(), valid.tolist(), strict=True)
    rows = {
        "decoding": [i for i in range(len(decodings)) for _ in range(starts)],
        "start": [i for _ in decodings for i in range(starts)],
        "formula": reduced_formulas(crystals),
        "valid": valid.tolist(),
        "reason": invalid_reasons(crystals, options.rules),
        "property": [value if ok else None for value, ok in predicted],
    }
    best = score.best
    samples = {"best": best[best.isfinite()].numpy()}
    yield replace(card, step=1, doing="done", scores=tuple(scores), rows=rows, samples=samples)
