"""Headline numbers of the bundled models, the table of the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdvae_lab.evaluation.score_tables import DATA, METRICS, SHOWN, Metric
from cdvae_lab.evaluation.scores import mean_of, our_scores, published_scores

HEADLINE = ("paper's protocol", "retries", "COV-P", "energy distance", "SR5")


def headline() -> dict[str, tuple[str, ...]]:
    """Headline numbers of the bundled models by data set, with CDVAE's published ones in parentheses.

    The columns are `HEADLINE`: match rate and RMSE by the paper's protocol, the same with retries, COV-P, Wasserstein
    distance of the energy in eV/atom, and SR5.
    """
    rows = {}
    for key, name in DATA.items():
        ours = {row["headline"]: row for sets in our_scores().values() for row in sets[key] if row.get("headline")}
        paper = {task: _system(task, key, SHOWN[0]) for task in METRICS}
        rate, error, *_ = METRICS["reconstruction"]
        cov, energy = METRICS["generation"][3], METRICS["generation"][5]
        success = METRICS["optimization"][0]

        def pair(row: Mapping[str, Any], rate: Metric = rate, error: Metric = error) -> str:
            return f"{_printed(rate, row)} % / {_printed(error, row)}"

        def beside(metric: Metric, task: str, ours: Mapping[str, Any] = ours, paper: Mapping[str, Any] = paper) -> str:
            return f"{_printed(metric, ours[task])} ({_printed(metric, paper[task])})"

        rows[name] = (
            f"{pair(ours['reconstruction'])} ({pair(paper['reconstruction']).replace(' %', '')})",
            pair(ours["retries"]),
            beside(cov, "generation"),
            beside(energy, "generation"),
            beside(success, "optimization"),
        )
    return rows


def _system(task: str, data: str, system: str) -> Mapping[str, Any]:
    return next(row for row in published_scores()[task][data] if row["system"] == system)


def _printed(metric: Metric, row: Mapping[str, Any]) -> str:
    return metric.text(metric.scale * mean_of(row[metric.key]), row.get("decimals", {}).get(metric.key))
