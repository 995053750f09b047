"""Figure of a training run: every term of the objective over the steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from cdvae_lab.errors import CheckpointError
from cdvae_lab.figures.style import COLORS, THEMES, Theme
from cdvae_lab.training.losses import TERMS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LABELS = {
    "coordinates": "coordinates (no unit)",
    "types": "types (nats / type sigma)",
    "num_atoms": "number of atoms (nats)",
    "lattice": "lattice (standardized)",
    "composition": "composition (nats)",
    "kl": "KL divergence (nats)",
    "property": "property (standardized)",
}


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a training log of `cdvae-lab train`: one JSON object a line.

    Raises:
        CheckpointError: naming the line that is not one. A last line that was cut off in writing is left out.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{path}: line {number} is no JSON object ({error}); restore or delete it") from error
    return records


RATE = "lr"  # key of the learning rate in a record
SPAN = 20  # records that the smooth line is a mean over, the newest counting most


def training_curve(
    records: Sequence[Mapping[str, Any]], theme: Theme = "light", columns: int = 4, *, rate: bool | None = None
) -> Figure:
    """Draw every term of the objective over the optimizer's steps, on logarithmic axes.

    Training is a faint line for what the batches gave and a strong one for their (geometric) moving average; validation
    is points.

    Args:
        records: of `read_log`; training records hold the terms by name, validation records as val_coordinates, ...
        rate: also a panel for the learning rate; by default if the records hold it, as `lr`.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    ink, paper = THEMES[theme].ink, THEMES[theme].paper
    training = [r for r in records if TERMS[0] in r]
    validation = [r for r in records if f"val_{TERMS[0]}" in r]
    rate = any(RATE in r for r in training) if rate is None else rate
    titles = [*(LABELS[t] for t in TERMS), *(["learning rate"] if rate else [])]
    rows = -(-len(titles) // columns)
    figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.26 / rows)
    where: list[Any] = [{"row": n // columns + 1, "col": n % columns + 1} for n in range(len(titles))]
    x = [r["step"] for r in training]
    for place, term, color in zip(where, TERMS, COLORS, strict=False):
        y = np.array([r[term] for r in training], dtype=float)
        raw = Scatter(
            x=x, y=y, name=f"{term}, training", mode="lines", line={"color": color, "width": 1}, opacity=0.35,
            hoverinfo="skip",
        )  # fmt: skip
        smoothed = Scatter(
            x=x, y=smooth_log(y), name=f"{term}, training, smoothed", mode="lines", line={"color": color, "width": 2},
            hovertemplate="step %{x}<br>training %{y:.3g}<extra></extra>",
        )  # fmt: skip
        points = Scatter(
            x=[r["step"] for r in validation], y=[r[f"val_{term}"] for r in validation],
            name=f"{term}, validation (averaged weights)", mode="markers+lines",
            marker={"color": color, "size": 6, "line": {"color": ink, "width": 1}}, line={"color": ink, "width": 1},
            hovertemplate="step %{x}<br>validation %{y:.3g}<extra></extra>",
        )  # fmt: skip
        figure.add_traces([raw, smoothed, points], rows=[place["row"]] * 3, cols=[place["col"]] * 3)
    if rate:
        line = Scatter(
            x=[r["step"] for r in training if RATE in r], y=[r[RATE] for r in training if RATE in r],
            name="learning rate", mode="lines", line={"color": ink, "width": 2},
            hovertemplate="step %{x}<br>learning rate %{y:.3g}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(line, **where[-1])
    figure.update_yaxes(type="log", gridcolor=THEMES[theme].grid, exponentformat="power", tickfont={"size": 10})
    figure.update_xaxes(gridcolor=THEMES[theme].grid, tickfont={"size": 10})
    for place in where[-columns:]:
        figure.update_xaxes(title={"text": "step", "standoff": 4}, **place)
    figure.update_annotations(font={"size": 12})
    figure.update_layout(
        template="none", showlegend=False, paper_bgcolor=paper, plot_bgcolor=paper, font={"color": ink, "size": 11},
        margin={"l": 50, "r": 20, "t": 40, "b": 50}, width=1200, height=270 * rows, uirevision="training",
    )  # fmt: skip
    return figure


def smooth(values: Float[np.ndarray, " records"], span: int = SPAN) -> Float[np.ndarray, " records"]:
    """Compute an exponential moving average with weights that add up to 1 from the start; skips non-finite numbers.

    Args:
        span: number of values that the average extends over, approximately.
    """
    keep, total, weight = 1 - 2 / (span + 1), 0.0, 0.0
    result = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        if weight:
            result[i] = total / weight
    return result


def smooth_log(values: Float[np.ndarray, " records"]) -> Float[np.ndarray, " records"]:
    """Smooth the logarithm, for a logarithmic axis: an arithmetic mean would lag where values fall fast."""
    return np.exp(smooth(np.log(np.where(values > 0, values, np.nan))))
