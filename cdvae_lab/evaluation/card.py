"""Report card of a set of crystals: every number with its definition, and the published ones for comparison."""

from __future__ import annotations

import csv
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cdvae_lab.evaluation.scores import mean_of, our_scores, published_scores, system_name
from cdvae_lab.io.storage import atomic_path

WIDTH = 118


@dataclass(frozen=True)
class Score:
    """Number of a report card.

    Attributes:
        key: name in files, the same as that of published numbers.
        name: name in tables.
        value: in `unit`, a share in per cent; NaN if it could not be computed.
        unit: "%" or the unit; empty for none.
        definition: definition, with its thresholds.
        counted: number of crystals it is based on, as text.
    """

    key: str
    name: str
    value: float
    unit: str
    definition: str
    counted: str = ""

    @property
    def text(self) -> str:
        """Value as it is printed."""
        return written(self.value, self.unit)


@dataclass(frozen=True)
class ReportCard:
    """Scores of a set of crystals, as far as they are known at this step of `evaluate`.

    Attributes:
        step, num_steps: pieces of work done, and of all.
        doing: name of the present piece of work.
        task: "generation", "reconstruction", "optimization" or "validity".
        data: name of the reference set, by which published numbers are found; empty without a reference.
        split: of the reference set.
        crystals: number of evaluated crystals.
        scores: in the order in which they are printed.
        settings: seed, thresholds, versions, counts.
        notes: what a reader must know.
        rows: table of the crystals, by column; None for an empty cell.
        samples: numbers behind the figures, by name.

    >>> import cdvae_lab as lab
    >>> crystals = lab.read(sorted(lab.asset_path("examples").glob("*.cif")))
    >>> card = lab.last(lab.evaluate(crystals, task="validity"))
    >>> card.title
    'validity: 11 crystals'
    >>> card.scores[0].name, card.scores[0].text, card.scores[0].counted
    ('structure valid', '100.00 %', '11 of 11')
    """

    step: int
    num_steps: int
    doing: str
    task: str
    data: str
    split: str
    crystals: int
    scores: tuple[Score, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ReportCard({self.title}, {'finished' if self.finished else f'step {self.step} of {self.num_steps}'})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show the table in Jupyter."""
        return {"text/plain": self.table()}

    @property
    def finished(self) -> bool:
        return self.step >= self.num_steps

    def __getitem__(self, key: str) -> float:
        """Return the value of a score by its key.

        Raises:
            KeyError: for an unknown key; the message lists the known ones.
        """
        for score in self.scores:
            if score.key == key:
                return score.value
        raise KeyError(f"{key}; there are {', '.join(score.key for score in self.scores) or 'none yet'}")

    @property
    def published(self) -> list[dict[str, Any]]:
        """Published rows for this task and data: the system's name and its numbers by key."""
        return published_scores().get(self.task, {}).get(self.data, [])

    @property
    def bundled(self) -> list[dict[str, Any]]:
        """Rows of the bundled models for this task and data, as `published`; means over seeds."""
        keys = {key for row in self.published for key in row}
        return [
            {key: mean_of(value) for key, value in row.items() if key in keys and key != "system"}
            | {"system": system_name(row["system"])}
            for row in our_scores().get(self.task, {}).get(self.data, [])
        ]

    @property
    def columns(self) -> list[Score]:
        """Scores that a published system has too."""
        keys = {key for row in self.published for key in row}
        return [score for score in self.scores if score.key in keys]

    @property
    def title(self) -> str:
        split = f" ({self.split})" if self.split else ""
        data = f" on {self.data}{split}" if self.data else ""
        return f"{self.task}{data}: {self.crystals:,} crystals"

    def table(self) -> str:
        """Format the report card as plain text."""
        lines = [self.title, "=" * len(self.title)]
        if not self.finished:
            lines.append(f"not finished: {self.step:,} of {self.num_steps:,} pieces of work ({self.doing})")
        if self.columns:
            lines += ["", *self._compared()]
        lines.append("")
        for score in self.scores:
            lines.append(f"{score.name:<34} {score.text:>12}   {score.counted}")
            lines += textwrap.wrap(score.definition, WIDTH, initial_indent="    ", subsequent_indent="    ")
        for note in self.notes:
            lines += ["", *textwrap.wrap(f"Note: {note}", WIDTH)]
        lines.append("")
        for name, value in self.settings.items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
            lines += textwrap.wrap(f"{name}: {text}", WIDTH, subsequent_indent="    ")
        if self.columns:
            lines += ["", *textwrap.wrap(f"Published numbers: {published_scores()['source']}.", WIDTH)]
        return "\n".join(lines) + "\n"

    def _compared(self) -> list[str]:
        heads = [
            textwrap.wrap(f"{score.name}, {score.unit}" if score.unit else score.name, 14) for score in self.columns
        ]
        height = max(map(len, heads))
        ours: dict[str, Any] = {"system": "these crystals"} | {score.key: score.value for score in self.columns}
        systems = (ours, *self.published, *self.bundled)
        wide = max(16, *(len(row["system"]) + 1 for row in systems))
        lines = [
            f"{'':<{wide}}" + "".join(f"{(head[i] if i < len(head) else ''):>15}" for head in heads)
            for i in range(height)
        ]
        for row in systems:
            cells = (written(row.get(score.key), score.unit).removesuffix(" %") for score in self.columns)
            cells = (cell.removesuffix(f" {score.unit}") for cell, score in zip(cells, self.columns, strict=True))
            lines.append(f"{row['system']:<{wide}}" + "".join(f"{cell:>15}" for cell in cells))
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: all but rows and samples, NaN as None."""
        return {
            "task": self.task,
            "data": self.data,
            "split": self.split,
            "crystals": self.crystals,
            "finished": self.finished,
            "scores": [
                {
                    "key": score.key,
                    "name": score.name,
                    "value": score.value if math.isfinite(score.value) else None,
                    "unit": score.unit,
                    "definition": score.definition,
                    "counted": score.counted,
                }
                for score in self.scores
            ],
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "published": self.published,
            "published_source": published_scores()["source"],
            "bundled": self.bundled,
        }

    def write(self, folder: str | Path) -> Path:
        """Write report.txt, report.json and crystals.csv; returns the folder. See also `pages.write_evaluation`.

        Raises:
            LabError: if a file cannot be written.
        """
        folder = Path(folder)
        with atomic_path(folder / "report.txt", "the report") as temporary:
            temporary.write_text(self.table(), encoding="utf-8")
        with atomic_path(folder / "report.json", "the report") as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.rows:
            self.write_rows(folder / "crystals.csv")
        return folder

    def write_rows(self, path: str | Path) -> Path:
        """Write the table of crystals as CSV, one crystal a row.

        Raises:
            LabError: if it cannot be written.
        """
        with (
            atomic_path(path, "the table of crystals") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(self.rows)
            table.writerows([_cell(value) for value in row] for row in zip(*self.rows.values(), strict=True))
        return Path(path)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else value


def written(value: float | int | None, unit: str) -> str:
    """Format a number with its unit; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "%":
        return f"{value:.2f} %"
    return f"{value:.4g} {unit}".strip()


def versions() -> dict[str, str]:
    """Return the versions of the libraries that the numbers depend on."""
    from importlib.metadata import version

    import cdvae_lab

    libraries = ("pymatgen", "scipy", "numpy", "torch")
    return {"cdvae_lab": cdvae_lab.__version__} | {name: version(name) for name in libraries}


def percent(of: Tensor | np.ndarray) -> float:
    """Share of the true values, in per cent."""
    return 100 * float(np.mean(np.asarray(of)))


def count(of: Tensor | np.ndarray) -> str:
    """Number of the true values among all, as text."""
    return f"{int(np.asarray(of).sum()):,} of {len(of):,}"
