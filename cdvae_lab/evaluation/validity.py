"""Report card of validity alone, which needs no reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.evaluation.card import ReportCard, Score, count, percent, versions
from cdvae_lab.evaluation.sources import CrystalSource
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.distances import closest_distance, closest_distinct_distance
from cdvae_lab.metrics.property_statistics import num_elements
from cdvae_lab.metrics.validity import composition_validity, invalid_reasons, structure_validity


def validity(source: CrystalSource, rules: Rules) -> Iterator[ReportCard]:
    """Do the work of `evaluate(task="validity")`: which crystals are valid, and why the others are not."""
    crystals, total = source.crystals, len(source.crystals)
    card = ReportCard(0, 1, "validity", "validity", "", "", total)
    structure, composition = structure_validity(crystals), composition_validity(crystals, rules)
    both = structure & composition
    rows: dict[str, list[Any]] = {
        "id": list(source.ids),
        "formula": reduced_formulas(crystals),
        "num_atoms": crystals.num_atoms.tolist(),
        "num_elements": num_elements(crystals).tolist(),
        "closest_distance": closest_distance(crystals).tolist(),
        "closest_distinct_distance": closest_distinct_distance(crystals).tolist(),
        "structure_valid": structure.tolist(),
        "composition_valid": composition.tolist(),
        "valid": both.tolist(),
        "reason": reasons(source, rules),
    }
    scores = (
        *validity_scores(structure, composition, rules),
        Score("valid", "valid", percent(both), "%", "valid structure and valid composition.", count(both)),
    )
    settings = {"composition rules": RULES[rules], "versions": versions()}
    yield ReportCard(
        1, 1, "done", card.task, "", "", total, scores=scores, settings=settings, notes=(STABILITY,), rows=rows
    )


STABILITY = "validity does not imply stability."
RULES: dict[Rules, str] = {
    "current": "SMACT 2.8 to 4.0.2, oxidation states of 2014",
    "paper": "SMACT 2.2.1, as the CDVAE paper's code calls it",
}


def validity_scores(structure: Any, composition: Any, rules: Rules) -> tuple[Score, Score]:
    """The two tests of validity, as every task reports them."""
    return (
        Score(
            "structure_valid", "structure valid", percent(structure), "%",
            "distances between distinct atoms at least 0.5 Å, volume at least 0.1 Å³.", count(structure),
        ),
        Score(
            "composition_valid", "composition valid", percent(composition), "%",
            f"oxidation states exist that are neutral and in the order of the electronegativities ({RULES[rules]}); a "
            "single element passes, and so do metals alone.", count(composition),
        ),
    )  # fmt: skip


def reasons(source: CrystalSource, rules: Rules) -> list[str | None]:
    """List why each crystal could not be read or is invalid; None for a valid one."""
    found = invalid_reasons(source.crystals, rules)
    return [unreadable or reason for unreadable, reason in zip(source.unreadable, found, strict=True)]
