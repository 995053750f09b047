"""Figure of a property along a path through latent space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.figures.style import THEMES, Theme, dress, floats, with_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Values = Sequence[float | int | None] | np.ndarray | Tensor

VALID = "structure valid"
INVALID = "not valid"
CURRENT = "now"  # name of the shape that marks the current stop
DASHES = ("solid", "dash", "dot", "dashdot")


def along_path(
    values: Values | Mapping[str, Values],
    name: str,
    unit: str = "",
    *,
    at: Values | None = None,
    at_name: str = "stop",
    texts: Sequence[str] | None = None,
    valid: Sequence[bool] | np.ndarray | Tensor | None = None,
    reference: Mapping[str, float | int] | None = None,
    current: float | int | None = None,
    theme: Theme = "light",
    height: int = 300,
) -> Figure:
    """Draw a property at every stop of a path: one line, or several by name, such as two predictions.

    Args:
        values: NaN (or None) leaves a gap.
        name, unit: of the property.
        at: places of the stops on the x axis; 0, 1, 2, ... by default.
        at_name: name of the x axis.
        texts: shown on hover, one a stop, such as formulas.
        valid: structure validity of each stop's crystal: filled points are valid, open ones not.
        reference: values with a horizontal line, by name: a target, the true values of the ends.
        current: stop to mark by a vertical line.
        height: pixels.

    Raises:
        SettingError: if the sequences are not of one length.
    """
    from plotly.graph_objects import Figure, Scatter

    given = values if isinstance(values, Mapping) else {name: values}
    lines = {label: floats(line) for label, line in given.items()}
    stops = max((len(line) for line in lines.values()), default=0)
    x = np.arange(stops) if at is None else floats(at)
    lengths = {len(one) for one in (*lines.values(), x, texts, valid) if one is not None}
    if lengths != {stops} or not stops:
        raise SettingError(f"along_path needs values, at, texts and valid of one length, at least 1; got {lengths}")
    palette = THEMES[theme]
    words = ["" if text is None else f"<b>{text}</b><br>" for text in texts or [None] * stops]
    if valid is not None:
        words = [word + (VALID if ok else INVALID) + "<br>" for word, ok in zip(words, valid, strict=True)]
    figure = Figure()
    for number, (label, line) in enumerate(lines.items()):
        color = palette.series[number % len(palette.series)]
        symbols = ["circle" if ok else "circle-open" for ok in ([True] * stops if valid is None else valid)]
        figure.add_trace(
            Scatter(
                x=x, y=line, name=label, mode="lines+markers", text=words,
                hovertemplate=f"%{{text}}{label}: %{{y:.4g}} {unit}<br>{at_name} %{{x}}<extra></extra>",
                line={"color": color, "width": 2, "dash": DASHES[number % len(DASHES)]},
                marker={"symbol": symbols, "size": 9, "color": color, "line": {"width": 2, "color": color}},
            )
        )  # fmt: skip
    if valid is not None and not all(valid):
        figure.add_trace(
            Scatter(
                x=[None], y=[None], name=INVALID, mode="markers",
                marker={"symbol": "circle-open", "size": 9, "color": palette.ink, "line": {"width": 2}},
            )
        )  # fmt: skip
    for label, value in (reference or {}).items():
        figure.add_hline(
            value, line={"color": palette.muted, "dash": "dash", "width": 1}, annotation_text=label,
            annotation_position="top left", annotation_font={"size": 11, "color": palette.muted},
        )  # fmt: skip
    if current is not None:
        figure.add_vline(current, name=CURRENT, line={"color": palette.ink, "width": 1.5})
    dress(figure, theme, height)
    figure.update_xaxes(title={"text": at_name, "standoff": 6})
    shown = np.concatenate([*lines.values(), floats(list((reference or {}).values()))])
    if np.isfinite(shown).any():
        # Set explicitly, since plotly would put a reference line on the edge.
        low, high = np.nanmin(shown), np.nanmax(shown)
        room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        figure.update_yaxes(range=[low - room, high + room])
    figure.update_yaxes(title={"text": with_unit(name, unit), "standoff": 6})
    figure.update_layout(
        hovermode="closest", showlegend=len(lines) > 1 or (valid is not None and not all(valid)),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, uirevision="path",
    )  # fmt: skip
    return figure
