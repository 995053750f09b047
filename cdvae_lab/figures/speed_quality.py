"""Figure of speed against quality of samplers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cdvae_lab.figures.style import THEMES, Theme, dress
from cdvae_lab.sampling.settings import NAMED, TYPES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Symbol and color number of each sampler; with types by argmax the symbol is open.
MARKERS = {
    "renoising": ("circle", 0),
    "langevin": ("square", 1),
    "probability_flow": ("diamond", 2),
    "ancestral": ("triangle-up", 3),
}
RING = "a named setting"
WRAP = 150  # characters in a line of the caption


def speed_quality(measured: Mapping[str, Any], theme: Theme = "light", height: int = 460) -> Figure:
    """Draw seconds per 1,000 crystals against match rate and RMSE; named settings have a ring.

    Args:
        measured: `rows`, one for each setting: its `sampler`, the sampler's `settings`, `calls` of the network,
            `seconds` per 1,000 crystals, `match_rate` (0 to 1) and `rmse` ((volume / atom)^(1/3), None if nothing
            matched), and the standard errors of both, `match_rate_error` and `rmse_error`; and `about`: the number
            of `crystals`, the `data` that they are from, `batch_size` and `device`.
        height: pixels.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    palette, rows, about = THEMES[theme], measured["rows"], measured["about"]
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    for sampler, types in sorted({(row["sampler"], types_of(row)) for row in rows}):
        symbol, place = MARKERS[sampler]
        name = sampler.replace("_", " ") + (", types argmax" if types == "argmax" else "")
        mine = sorted(
            (row for row in rows if (row["sampler"], types_of(row)) == (sampler, types)), key=lambda row: row["calls"]
        )
        labels = [
            f"<b>{known}</b><br>{row['calls']:,}" if (known := name_of(row)) else f"{row['calls']:,}" for row in mine
        ]
        for column, (key, factor) in enumerate((("match_rate", 100), ("rmse", 1)), 1):
            values, errors = (
                [math.nan if row[k] is None else factor * row[k] for row in mine] for k in (key, f"{key}_error")
            )
            # Labels are on the outer side of their line; renoising is the best for its time.
            inner = sampler != "renoising"
            side = (
                ("bottom right" if inner else "top left") if column == 1 else ("top right" if inner else "bottom left")
            )
            figure.add_trace(
                Scatter(
                    x=[row["seconds"] for row in mine], y=values, name=name, mode="lines+markers+text", text=labels,
                    textposition=side, textfont={"size": 11, "color": palette.ink},
                    error_y={"array": errors, "thickness": 1, "width": 3}, legendgroup=name, showlegend=column == 1,
                    line={"color": palette.series[place], "width": 1, "dash": "dash" if types == "argmax" else None},
                    marker={
                        "symbol": symbol + ("-open" if types == "argmax" else ""), "size": 10,
                        "color": palette.series[place], "line": {"width": 2, "color": palette.series[place]},
                    },
                    customdata=[row["calls"] for row in mine],
                    hovertemplate=f"{name}, %{{customdata:,}} calls<br>%{{x:.3g}} s per 1,000 crystals<br>"
                    + ("match rate %{y:.2f} %" if column == 1 else "RMSE %{y:.4f}") + "<extra></extra>",
                ), 1, column,
            )  # fmt: skip
    named = [row for row in rows if name_of(row)]
    for column, (key, factor) in enumerate((("match_rate", 100), ("rmse", 1)), 1):
        figure.add_trace(
            Scatter(
                x=[row["seconds"] for row in named], text=[name_of(row) for row in named],
                y=[math.nan if row[key] is None else factor * row[key] for row in named], name=RING, mode="markers",
                marker={"symbol": "circle-open", "size": 22, "color": palette.ink, "line": {"width": 2}},
                legendgroup=RING, showlegend=column == 1 and bool(named), hoverinfo="skip",
            ), 1, column,
        )  # fmt: skip
    dress(figure, theme, height)
    seconds = [row["seconds"] for row in rows]
    for column in (1, 2):
        figure.update_xaxes(
            title={"text": "time (s per 1,000 crystals)", "standoff": 6}, **_logarithmic(seconds, 0.25), col=column
        )
    figure.update_yaxes(title={"text": "match rate, structure valid (%)", "standoff": 6}, col=1)
    rmse = [row["rmse"] for row in rows if row["rmse"]]
    figure.update_yaxes(
        title={"text": "RMSE ((volume / atom)<sup>1/3</sup>)", "standoff": 6}, **_logarithmic(rmse), col=2
    )
    caption = textwrap.wrap(_caption(about), WRAP)
    figure.update_layout(
        hovermode="closest", legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        margin={"b": 70 + 15 * len(caption)},
    )  # fmt: skip
    figure.add_annotation(
        text="<br>".join(caption), xref="paper", yref="paper", x=0, y=0, xanchor="left", yanchor="top", yshift=-52,
        showarrow=False, align="left", font={"size": 11, "color": palette.muted},
    )  # fmt: skip
    return figure


def types_of(row: Mapping[str, Any]) -> str:
    """Return how a measured setting chooses types."""
    return row["settings"].get("types", TYPES[0])


def name_of(row: Mapping[str, Any]) -> str | None:
    """Return the name in `NAMED` of a measured setting, if it has one."""
    mine = (row["sampler"], row["settings"])
    return next((name for name, setting in NAMED.items() if setting == mine), None)


def _caption(about: Mapping[str, Any]) -> str:
    return (
        f"{about['crystals']:,} crystals of {about['data']}, encoded and decoded again in batches of "
        f"{about['batch_size']:,} on {about['device']}; numbers are calls of the network, bars one standard error. "
        "Times are without compiling and without capturing the first batch's CUDA graph."
    )


def _logarithmic(values: Sequence[float], room: float = 0.1) -> dict[str, Any]:
    """Set a logarithmic axis with ticks at 1, 2 and 5, and room for labels at either end, in decades."""
    seen = [math.log10(value) for value in values if value > 0]
    low, high = (min(seen), max(seen)) if seen else (0.0, 0.0)
    ticks = [digit * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 2) for digit in (1, 2, 5)]
    return {
        "type": "log",
        "range": [low - room - 0.1 * (high - low), high + room + 0.1 * (high - low)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
