"""Score tables: the CDVAE paper's three tables with the bundled models, from the files of scores."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cdvae_lab.errors import SettingError
from cdvae_lab.evaluation.scores import mean_of, our_scores, published_scores

if TYPE_CHECKING:
    from pandas import DataFrame

DATA = {"perov_5": "Perov-5", "carbon_24": "Carbon-24", "mp_20": "MP-20"}
BEST = "best of those listed"
# Published systems that always have a row; the others appear only where they are the best.
SHOWN = ("CDVAE", "DiffCSP")
REACHES_BEST = "†"
LEGEND = (
    f"Bold: at least as good as CDVAE; {REACHES_BEST}: at least as good as the best published number of those listed. "
    "Both compare numbers as printed, at the mean over the seeds, and only rows that were made as the published ones "
    f"were: the other rows name the difference below the table. ↑: higher is better, ↓: lower. {BEST.capitalize()} is "
    "the best of each column over FTCP, Cond-DFC-VAE, G-SchNet, P-G-SchNet, CDVAE, DiffCSP and UniMat, as far as "
    "published; no one system has them all. ±: standard deviation over seeds. Empty: not published, or not measured."
)
ABOUT = {
    "reconstruction": (
        "Match rate and RMSE of the test file by the paper's criterion: the prediction is valid by structure and by "
        "composition (SMACT), and StructureMatcher finds a match. 'Structure alone' asks for a valid structure only. "
        "The paper decodes one sample of the posterior, once. Our encoder is given the number of atoms, the cell and "
        "the composition, with a linear path to z, which CDVAE's is not: reconstruction tests mostly whether these "
        "pass through z. Our training files are not the official ones."
    ),
    "generation": (
        "Validity, coverage, and Wasserstein distances of density, predicted energy and number of elements, of 10,000 "
        "crystals against the test file. Each system's energies are predicted by a property model of its own. Our "
        "training files are not the official ones."
    ),
    "optimization": (
        "Share of 100 starting points whose best valid decoding is among the best 5, 10 and 15 % of the training set, "
        "as each system's own property model predicts."
    ),
}


@dataclass(frozen=True)
class Metric:
    """Column of a score table.

    Attributes:
        key: as in report cards and in the files of scores.
        name: with its unit, for people.
        higher: whether more is better; None for a column that is not compared.
        decimals: of shares; None for four significant digits, as the papers give distances.
        scale: factor of a number; the papers give success rates as fractions.
    """

    key: str
    name: str
    higher: bool | None
    decimals: int | None = 2
    scale: float = 1

    @property
    def head(self) -> str:
        """Name of the column, with an arrow to the better side."""
        return self.name if self.higher is None else f"{self.name} {'↑' if self.higher else '↓'}"

    def digits(self, value: float) -> int:
        """Number of decimals with which a number of this size is printed."""
        if self.decimals is not None:
            return self.decimals
        return 4 if abs(value) < 1 else max(0, 4 - len(str(int(abs(value)))))

    def text(self, value: float, decimals: int | None = None) -> str:
        """Format a number, with the given number of decimals or the column's default."""
        return f"{value:.{self.digits(value) if decimals is None else decimals}f}"

    def at_least(self, value: float, other: float, decimals: int | None = None) -> bool:
        """Test whether a number is as good as another or better, as both are printed."""
        a, b = float(self.text(value, decimals)), float(self.text(other))
        return self.higher is not None and (a >= b if self.higher else a <= b)


METRICS = {
    "reconstruction": (
        Metric("match_rate", "match rate, %", True),
        Metric("rmse", "RMSE", False, None),
        Metric("match_rate_structure", "match rate, structure alone, %", None),
    ),
    "generation": (
        Metric("structure_valid", "structure valid, %", True),
        Metric("composition_valid", "composition valid, %", True),
        Metric("cov_recall", "COV-R, %", True),
        Metric("cov_precision", "COV-P, %", True),
        Metric("wasserstein_density", "density, g/cm³", False, None),
        Metric("wasserstein_property", "energy, eV/atom", False, None),
        Metric("wasserstein_elements", "# elements", False, None),
    ),
    "optimization": tuple(Metric(f"sr{share}", f"SR{share}", True, scale=0.01) for share in (5, 10, 15)),
}


@dataclass(frozen=True)
class Cell:
    """Number of a score table.

    Attributes:
        text: as printed, with its deviation or with the systems that have it.
        value: in the papers' unit.
        reaches_cdvae, reaches_best: for our numbers, whether they are at least as good.
    """

    text: str
    value: float
    reaches_cdvae: bool = False
    reaches_best: bool = False

    def marked(self, bold: str) -> str:
        """The text with its marks; `bold` is a format, such as "**{}**"."""
        text = bold.format(self.text) if self.reaches_cdvae else self.text
        return f"{text} {REACHES_BEST}" if self.reaches_best else text


@dataclass(frozen=True)
class Row:
    """Row of a score table: a system on a data set, with a cell for each metric, None where there is no number."""

    data: str
    system: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """One of the three tables; Jupyter shows it as a table.

    Attributes:
        task: "reconstruction", "generation" or "optimization".
        metrics: its columns.
        rows: by data set: CDVAE, the best of those listed in each column, DiffCSP, and ours.
        made: protocol of our rows, and its differences from the paper's.
    """

    task: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    made: tuple[str, ...]

    def dataframe(self) -> DataFrame:
        """Return the numbers in the papers' units: a row by data set and system, a column by metric; NaN for none."""
        import pandas

        index = pandas.MultiIndex.from_tuples([(row.data, row.system) for row in self.rows], names=["data", "system"])
        numbers = [[float("nan") if cell is None else cell.value for cell in row.cells] for row in self.rows]
        return pandas.DataFrame(numbers, index=index, columns=pandas.Index([m.name for m in self.metrics]))

    def markdown(self) -> str:
        """Format the table in Markdown, with its marks."""
        lines = [["", "", *(metric.head for metric in self.metrics)], ["---", "---", *["---:"] * len(self.metrics)]]
        lines += [[data, system, *texts] for data, system, texts in self._written("**{}**")]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(text)}</th>" for text in ("", "", *(metric.head for metric in self.metrics)))
        lines = (
            f'<tr><th style="text-align:left">{data}</th><td style="text-align:left">{system}</td>'
            f"{''.join(f'<td>{text}</td>' for text in texts)}</tr>"
            for data, system, texts in self._written("<strong>{}</strong>", html.escape)
        )
        made = "".join(f"<li>{html.escape(text)}</li>" for text in self.made)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
            f"<p><small>{html.escape(ABOUT[self.task])} {html.escape(LEGEND)}</small></p>"
            f"{f'<ul>{made}</ul>' if made else ''}"
        )

    def _written(self, bold: str, clean: Callable[[str], str] = str) -> list[tuple[str, str, list[str]]]:
        """Return the texts of each row: the data set (in its first row only), the system and the cells."""
        lines, before = [], ""
        for row in self.rows:
            texts = ["" if cell is None else replace(cell, text=clean(cell.text)).marked(bold) for cell in row.cells]
            lines.append((row.data if row.data != before else "", clean(row.system), texts))
            before = row.data
        return lines


def score_table(task: str) -> ScoreTable:
    """Return the paper's table of a task: CDVAE, the best of those listed, DiffCSP and the bundled models.

    The numbers are those of published_scores.json and our_scores.json, which report cards show too.

    Args:
        task: "reconstruction", "generation" or "optimization".

    Raises:
        SettingError: for another task.

    >>> import cdvae_lab as lab
    >>> table = lab.score_table("reconstruction")
    >>> float(table.dataframe().loc[("MP-20", "CDVAE"), "match rate, %"])
    45.43
    """
    if task not in METRICS:
        raise SettingError(f"task: {task!r}; give one of {', '.join(METRICS)}")
    return compare(task, published_scores()[task], our_scores()[task])


def compare(
    task: str, published: Mapping[str, Sequence[Mapping[str, Any]]], ours: Mapping[str, Sequence[Mapping[str, Any]]]
) -> ScoreTable:
    """Make a table of given rows by data set, in the layouts of published_scores.json and our_scores.json."""
    metrics = METRICS[task]
    rows: list[Row] = []
    made: dict[tuple[str, str], list[str]] = {}
    for key, name in DATA.items():
        theirs = {row["system"]: row for row in published.get(key, [])}
        best = [_best(metric, theirs) for metric in metrics]
        for system in SHOWN:
            if system in theirs:
                values = [_scaled(metric, theirs[system].get(metric.key)) for metric in metrics]
                cells = [None if v is None else Cell(m.text(v), v) for m, v in zip(metrics, values, strict=True)]
                rows.append(Row(name, system, tuple(cells)))
            if system == SHOWN[0]:
                rows.append(Row(name, BEST, tuple(best)))
        reference = theirs.get(SHOWN[0], {})
        for row in ours.get(key, []):
            cells = [
                _ours(metric, row, _scaled(metric, reference.get(metric.key)), record)
                if record is not None or metric.higher is None
                else None
                for metric, record in zip(metrics, best, strict=True)
            ]
            rows.append(Row(name, row["system"], tuple(cells)))
            made.setdefault((name, row.get("note", "")), []).append(_made(row))
    sentences = (f"{name}: {'; '.join(parts)}. {note}".rstrip() for (name, note), parts in made.items())
    return ScoreTable(task, metrics, tuple(rows), tuple(sentences))


def _scaled(metric: Metric, value: float | None) -> float | None:
    return None if value is None else metric.scale * value


def _best(metric: Metric, systems: Mapping[str, Mapping[str, Any]]) -> Cell | None:
    """Find the best published number of a column, with every system that has it."""
    values = {name: metric.scale * row[metric.key] for name, row in systems.items() if metric.key in row}
    if not values:
        return None
    value = max(values.values()) if metric.higher else min(values.values())
    return Cell(f"{metric.text(value)} ({', '.join(name for name, v in values.items() if v == value)})", value)


def _ours(metric: Metric, row: Mapping[str, Any], cdvae: float | None, best: Cell | None) -> Cell | None:
    """Create the cell of one of our numbers; it is marked only in rows of the published protocol."""
    score = row.get(metric.key)
    if score is None:
        return None
    value, decimals = metric.scale * mean_of(score), row.get("decimals", {}).get(metric.key)
    text = metric.text(value, decimals)
    if isinstance(score, Mapping):
        text += f" ± {metric.scale * score['std']:.{metric.digits(value)}f}"
    alike = not row.get("unlike")
    reaches = [
        alike and other is not None and metric.at_least(value, other, decimals)
        for other in (cdvae, best and best.value)
    ]
    return Cell(text, value, *reaches)


def _made(row: Mapping[str, Any]) -> str:
    seeds, counts = row["seeds"], row["crystals"]
    parts = [
        row["system"],
        f"{counts[0]:,} crystals" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,} crystals",
    ]
    parts.append("one seed" if len(seeds) == 1 else f"each of {len(seeds)} seeds")
    if row.get("seconds"):
        parts.append(f"{row['seconds']:,g} s" + (f" on {row['hardware']}" if row.get("hardware") else ""))
    elif row.get("hardware"):
        parts.append(row["hardware"])
    unlike = f" (not compared: {row['unlike']})" if row.get("unlike") else ""
    return ", ".join(parts) + unlike
