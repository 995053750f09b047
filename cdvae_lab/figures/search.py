"""Figure of a search in latent space: predicted property, decoded crystals, and the distance of z from the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.figures.style import THEMES, Theme, dress, floats, with_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PREDICTED, LENGTH, OTHERS = "predicted for z", "length of z", "the other crystals"
_ABOVE, _ROW = 26, 19  # pixels above the axes: for the notes, and for a row of the legend
MOST_POINTS = 4000  # that are drawn for the other crystals

Decodings = Sequence[tuple[int, Float[Tensor, " crystals"]]]
Range = tuple[float | int, float | int]


def search_course(
    steps: Sequence[LatentStep],
    name: str,
    unit: str = "",
    *,
    crystal: int = 0,
    decoded: Mapping[str, Decodings] | None = None,
    labels: Range | None = None,
    lengths: Range | None = None,
    current: int | None = None,
    theme: Theme = "light",
    height: int = 430,
) -> Figure:
    """Draw the course of a search: the property over the steps of `optimize` above, and the length of z below.

    The length |z| is the distance from the center of the prior N(0, I): log p(z) = -|z|^2 / 2 + const. Gray bands show
    the range of the training crystals, outside of which the network has seen nothing.

    Args:
        steps: of one run, in order; at least one.
        name, unit: of the property.
        crystal: number of the crystal that is emphasized.
        decoded: (step, value for each decoded crystal), by the name of the predictor.
        labels: lowest and highest label of the training crystals.
        lengths: smallest and largest |z| of the training crystals.
        current: step to mark by a vertical line.
        height: pixels.

    Raises:
        SettingError: without steps, or with no crystal of that number.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    if not steps or not 0 <= crystal < len(steps[0].z):
        raise SettingError(f"search_course: no crystal {crystal} in {len(steps)} steps; give steps of one run")
    palette = THEMES[theme]
    x = np.array([step.step for step in steps])
    predicted = floats(torch.stack([step.prediction for step in steps]))
    length = floats(torch.stack([step.z for step in steps]).norm(dim=-1))
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.62, 0.38])
    colors = palette.series
    for row, (values, what, color) in enumerate(((predicted, PREDICTED, colors[0]), (length, LENGTH, colors[3])), 1):
        rest = np.delete(values, crystal, axis=1)
        thin = max(1, rest.size // MOST_POINTS)
        gap = np.full((1, rest.shape[1]), np.nan)
        figure.add_trace(
            Scatter(
                x=np.tile(np.append(x[::thin], x[-1]), rest.shape[1]), y=np.vstack([rest[::thin], gap]).T.ravel(),
                name=OTHERS, mode="lines", line={"color": color, "width": 1}, opacity=0.3, hoverinfo="skip",
                showlegend=row == 1 and rest.shape[1] > 0,
            ), row=row, col=1,
        )  # fmt: skip
        shown = f"{what}: %{{y:.3g}} {unit if row == 1 else ''}"
        figure.add_trace(
            Scatter(
                x=x, y=values[:, crystal], name=what, mode="lines", line={"color": color, "width": 2.5},
                hovertemplate=f"step %{{x}}<br>{shown}<extra></extra>", showlegend=row == 1,
            ), row=row, col=1,
        )  # fmt: skip
    for number, (who, points) in enumerate((decoded or {}).items(), 1):
        figure.add_trace(
            Scatter(
                x=[step for step, _ in points], y=[float(values[crystal]) for _, values in points], name=who,
                mode="lines+markers", showlegend=True, line={"color": colors[number], "width": 1, "dash": "dot"},
                marker={"symbol": "circle" if number == 1 else "diamond", "size": 9, "color": colors[number]},
                hovertemplate=f"step %{{x}}<br>{who}: %{{y:.3g}} {unit}<extra></extra>",
            ), row=1, col=1,
        )  # fmt: skip
    target = steps[-1].objective.target
    everything = [predicted.ravel()] + [floats(values) for points in (decoded or {}).values() for _, values in points]
    for row, band, text, values in (
        (1, labels, "training labels", everything),
        (2, lengths, "training crystals", [length]),
    ):
        notes: list[str] = []
        if band is not None:
            figure.add_hrect(
                *band, row=row, col=1, fillcolor=palette.muted, opacity=0.13, line_width=0,  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
            notes.append(f"gray: {text}, {band[0]:.2f} to {band[1]:.2f}")
            values.append(np.array(band, dtype=float))
        if row == 1 and not isinstance(target, str):
            line: Any = {"color": palette.ink, "dash": "dash", "width": 1}
            figure.add_hline(target, row=row, col=1, line=line)  # pyright: ignore[reportArgumentType]
            notes.append(f"dashed: target {target:g}")
            values.append(np.array([target], dtype=float))
        _fit_range(figure, row, np.concatenate([v.ravel() for v in values]), from_zero=row == 2)
        if notes:
            _note(figure, row, "; ".join(notes), palette.muted)
    if current is not None:
        figure.add_vline(current, line={"color": palette.ink, "width": 1.5})
    dress(figure, theme, height)
    figure.update_yaxes(title={"text": with_unit(name, unit), "standoff": 6}, row=1, col=1)
    figure.update_yaxes(title={"text": "length of z", "standoff": 6}, row=2, col=1)
    figure.update_xaxes(range=[int(x[0]) - 0.5, max(int(x[-1]), int(x[0]) + 1) + 0.5])
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=2, col=1)
    traces: Any = figure.data  # plotly's own type does not say that they are traces
    entries = sum(bool(one.showlegend) for one in traces)  # in a row each, on a narrow page
    figure.update_layout(
        hovermode="closest", uirevision="search", showlegend=True,
        margin={"t": _ABOVE + _ROW * entries, "r": 12, "b": 40},
        # At the top of the figure, whose place stays when it is made wider; between are the notes.
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )  # fmt: skip
    return figure


def _note(figure: Figure, row: int, text: str, color: str) -> None:
    """Write above the axes, where no curve and no line runs through the text."""
    figure.add_annotation(
        text=text, row=row, col=1, xref="x domain", x=1, xanchor="right", yref="y domain", y=1, yanchor="bottom",
        showarrow=False, font={"size": 11, "color": color},
    )  # fmt: skip


def _fit_range(figure: Figure, row: int, values: Float[np.ndarray, " values"], from_zero: bool) -> None:
    """Set the range explicitly, since plotly ignores bands."""
    values = values[np.isfinite(values)]
    if len(values):
        low, high = (0.0 if from_zero else values.min()), values.max()
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        figure.update_yaxes(range=[low if from_zero else low - room, high + room], row=row, col=1)
