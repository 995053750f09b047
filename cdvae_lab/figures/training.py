"""The course of a training run: every term of the objective over the steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvae_lab.errors import CheckpointError
from cdvae_lab.figures.style import COLOURS, THEMES, Theme
from cdvae_lab.losses import TERMS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LABELS = {
    "coordinates": "coordinates (no unit)",
    "types": "types (nats / type sigma)",
    "num_atoms": "number of atoms (nats)",
    "lattice": "lattice (standardised)",
    "composition": "composition (nats)",
    "kl": "KL divergence (nats)",
    "property": "property (standardised)",
}


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a training log, as `cdvae-lab train` writes it: one JSON object a line.

    Raises:
        CheckpointError: naming the line that is not one. A last line that was cut off in writing is left out.
    """
    lines = Path(path).read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{path}: line {number} is no JSON object ({error}); restore or delete it") from error
    return records


def training_curve(records: Sequence[Mapping[str, Any]], theme: Theme = "light", columns: int = 4) -> Figure:
    """Every term of the objective over the optimiser's steps, training as a line and validation as points.

    Args:
        records: of `read_log`; training records hold the terms by name, validation records as val_coordinates, ...
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    ink, paper = THEMES[theme].ink, THEMES[theme].paper
    rows = -(-len(TERMS) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[LABELS[t] for t in TERMS], horizontal_spacing=0.06)
    training = [r for r in records if TERMS[0] in r]
    validation = [r for r in records if f"val_{TERMS[0]}" in r]
    for number, (term, colour) in enumerate(zip(TERMS, COLOURS, strict=True)):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        line = Scatter(
            x=[r["step"] for r in training], y=[r[term] for r in training], name=f"{term}, training", mode="lines",
            line={"color": colour, "width": 1}, opacity=0.55,
        )  # fmt: skip
        points = Scatter(
            x=[r["step"] for r in validation], y=[r[f"val_{term}"] for r in validation],
            name=f"{term}, validation (averaged weights)", mode="markers+lines",
            marker={"color": colour, "size": 6, "line": {"color": ink, "width": 1}}, line={"color": ink, "width": 1},
        )  # fmt: skip
        figure.add_traces([line, points], rows=[where["row"]] * 2, cols=[where["col"]] * 2)
    figure.update_yaxes(type="log", gridcolor=ink + "22", exponentformat="power", tickfont={"size": 10})
    figure.update_xaxes(title={"text": "step", "standoff": 4}, gridcolor=ink + "22", tickfont={"size": 10})
    figure.update_annotations(font={"size": 12})
    figure.update_layout(
        template="none", showlegend=False, paper_bgcolor=paper, plot_bgcolor=paper, font={"color": ink, "size": 11},
        margin={"l": 50, "r": 20, "t": 40, "b": 50}, width=1200, height=270 * rows,
    )  # fmt: skip
    return figure
