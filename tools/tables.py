"""Write the three tables of docs/results/tables.md from the files of scores: `python -m tools.tables`."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.evaluation.score_tables import LEGEND, METRICS, score_table
from cdvae_lab.evaluation.scores import published_scores
from cdvae_lab.io.storage import atomic_path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "tables.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
WHERE = (
    "`lab.score_table(task)` gives each of them in Python; the tutorial [evaluation](../tutorials/06_evaluation.ipynb) "
    "explains how to read them, and where each number misleads."
)
TITLES = {
    "reconstruction": "Reconstruction",
    "generation": "Generation",
    "optimization": "Property optimization",
}
HEADS = {
    "reconstruction": (
        "Reconstruction of the test file. Match rate and RMSE by the paper's judge, which counts what fails "
        "SMACT's composition test as no match; structure alone asks for possible distances only."
    ),
    "generation": (
        "Validity, coverage, and Wasserstein distances of density, predicted energy and number of "
        "elements, of 10,000 crystals against the test file."
    ),
    "optimization": (
        "The share of starting points whose best valid decoding is among the best 5, 10 and 15 % of the training set."
    ),
}


def block() -> str:
    """Return what belongs between the markers: legend, the tables, and how our rows were made."""
    parts = [_wrapped(LEGEND), _wrapped(WHERE)]
    for task in METRICS:
        table = score_table(task)
        parts += [f"## {TITLES[task]}", _wrapped(HEADS[task]), table.markdown()]
        if table.made:
            parts.append("\n".join(_wrapped(text, "- ") for text in table.made))
    parts.append(_wrapped(f"Published numbers: {published_scores()['source']}."))
    return "\n\n".join(parts)


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, 118, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False)


def replaced(text: str, new: str) -> str:
    """Return a text with what is between its markers replaced.

    Raises:
        SettingError: unless each marker is there once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SettingError(f"{PAGE.name} must have a line {BEGIN} and after it a line {END}, once each")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n\n{new}\n\n{after}"


def main() -> int:
    try:
        new = replaced(PAGE.read_text(encoding="utf-8"), block())
        with atomic_path(PAGE, "the tables") as temporary:
            temporary.write_text(new, encoding="utf-8")
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
