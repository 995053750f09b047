"""Write the score tables into Markdown files, from assets/our_scores.json and published_scores.json.

    python -m tools.tables                      # README.md and docs/results/tables.md
    python -m tools.tables FILE.md ...          # any other files

A table replaces what is between its two markers, each on a line of its own:

    <!-- headline: begin -->        <!-- headline: end -->        three data sets, five columns
    <!-- tables: begin -->          <!-- tables: end -->          legend and the three tables, with sections
    <!-- reconstruction: begin -->  <!-- reconstruction: end -->  one of them; also generation, optimization
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.evaluation.headline import headline
from cdvae_lab.evaluation.score_tables import ABOUT, DATA, LEGEND, METRICS, score_table
from cdvae_lab.evaluation.scores import published_scores
from cdvae_lab.io.storage import atomic_path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "tables.md"
README = ROOT / "README.md"
WHERE = (
    "`lab.score_table(task)` gives each of them in Python; the tutorial [evaluation](../tutorials/06_evaluation.ipynb) "
    "explains how to read them, and where each number misleads."
)
TITLES = {
    "reconstruction": "Reconstruction",
    "generation": "Generation",
    "optimization": "Property optimization",
}
# Heads of the headline table, with the page that explains each; relative to the documentation's folder.
HEADS = {
    "match rate / RMSE, paper's protocol": "results/tables.md#reconstruction",
    "match rate / RMSE, with retries": "explanation/decoding.md",
    "COV-P, %": "results/tables.md#generation",
    "energy distance, eV/atom": "results/tables.md#generation",
    "SR5, guided": "results/tables.md#property-optimization",
}


def full_tables(_: Path) -> str:
    """Write the legend, the three tables under headings, and how our rows were made."""
    parts = [_wrapped(LEGEND), _wrapped(WHERE)]
    for task in METRICS:
        parts += [f"## {TITLES[task]}", one_table(task)]
    parts.append(_wrapped(f"Published numbers: {published_scores()['source']}."))
    return "\n\n".join(parts)


def one_table(task: str) -> str:
    """Write the table of a task, what it measures and how our rows were made."""
    table = score_table(task)
    parts = [_wrapped(ABOUT[task]), table.markdown()]
    if table.made:
        parts.append("\n".join(_wrapped(text, "- ") for text in table.made))
    return "\n\n".join(parts)


def headline_table(file: Path) -> str:
    """Write the headline table with links relative to the folder of a file."""
    docs = Path(os.path.relpath(ROOT / "docs", file.resolve().parent)).as_posix()
    lines = [
        ["", *(f"[{head}]({docs}/{page})" for head, page in HEADS.items())],
        ["---"] * (len(HEADS) + 1),
    ]
    for (name, cells), key in zip(headline().items(), DATA, strict=True):
        lines.append([f"[{name}]({docs}/results/{key}.md)", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "headline": headline_table,
    "tables": full_tables,
    "reconstruction": lambda _: one_table("reconstruction"),
    "generation": lambda _: one_table("generation"),
    "optimization": lambda _: one_table("optimization"),
}


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, 118, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False)


def replaced(text: str, file: Path) -> str:
    """Return the text of a file with every block between markers written from the scores.

    Raises:
        SettingError: for a marker without its other one, in the wrong order or twice; or without any marker.
    """
    found = False
    for name, write in BLOCKS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin not in text and end not in text:
            continue
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise SettingError(f"{file.name} must have a line {begin} and after it a line {end}, once each")
        text = f"{text[: text.index(begin)]}{begin}\n\n{write(file)}\n\n{text[text.index(end) :]}"
        found = True
    if not found:
        markers = ", ".join(f"<!-- {name}: begin -->" for name in BLOCKS)
        raise SettingError(f"{file.name} has no marker of a table; put one of {markers} and its end where it belongs")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.tables", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "files", type=Path, nargs="*", metavar="FILE", help="default: README.md, docs/results/tables.md"
    )
    try:
        for file in parser.parse_args(argv).files or (README, PAGE):
            new = replaced(file.read_text(encoding="utf-8"), file)
            with atomic_path(file, "the tables") as temporary:
                temporary.write_text(new, encoding="utf-8")
    except (LabError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
