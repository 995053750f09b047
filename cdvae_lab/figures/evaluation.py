"""Figures of a report card: histograms against the reference, reasons of invalidity, distances between the sets."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from cdvae_lab.errors import SettingError
from cdvae_lab.evaluation.card import ReportCard
from cdvae_lab.figures.style import THEMES, Theme, dress, with_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Name and unit of each statistic; the unit of a property is that of its score.
STATISTICS = {"density": ("density", "g/cm³"), "elements": ("number of elements", ""), "property": ("property", "")}
_BINS = 40
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def evaluation_figures(card: ReportCard, theme: Theme = "light") -> dict[str, Figure]:
    """Draw every figure that the report card has numbers for, by its caption."""
    figures = {}
    for key, (name, _) in STATISTICS.items():
        if f"{key} generated" in card.samples:
            figures[f"Generated against reference: {name}"] = statistic_histogram(card, key, theme)
    if "recall_structure" in card.samples:
        figures[
            "Distance to the nearest crystal of the other set; crystals left of the dotted line count as covered"
        ] = distance_curves(card, theme)
    if any(card.rows.get("reason", ())):
        figures["Reasons why crystals are invalid"] = invalid_reasons_chart(card, theme)
    if len(card.samples.get("rms", ())):
        figures["RMS displacement of the matched crystals, in units of (volume / atom)^(1/3)"] = one_histogram(
            card.samples["rms"], "RMS displacement", "", theme
        )
    if len(card.samples.get("best", ())):
        figures["Best predicted property of each starting point"] = one_histogram(
            card.samples["best"], "best property", "", theme
        )
    return figures


def statistic_histogram(card: ReportCard, key: str, theme: Theme = "light", height: int = 300) -> Figure:
    """Draw histograms of a property of generated and reference crystals, each as shares of its own set.

    Args:
        key: "density", "elements" or "property".

    Raises:
        SettingError: if the card has no such numbers (yet).
    """
    from plotly.graph_objects import Bar, Figure

    if f"{key} generated" not in card.samples:
        there = [name for name in STATISTICS if f"{name} generated" in card.samples]
        raise SettingError(f"key: {key!r}; the report has {', '.join(there) or 'no statistics'} (yet)")
    sets = {
        side: values[np.isfinite(values)]
        for side in ("reference", "generated")
        for values in [card.samples[f"{key} {side}"]]
    }
    name, unit = STATISTICS[key]
    unit = unit or next((score.unit for score in card.scores if score.key == f"wasserstein_{key}"), "")
    both = np.concatenate(list(sets.values()))
    if not len(both):
        edges = np.array([0.0, 1.0])
    elif key == "elements":
        edges = np.arange(both.min() - 0.5, both.max() + 1)
    else:
        edges = np.linspace(both.min(), max(both.max(), both.min() + 1e-9), _BINS + 1)
    figure = Figure()
    for color, (side, values) in zip(THEMES[theme].series, sets.items(), strict=False):
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        figure.add_trace(
            Bar(
                x=(edges[:-1] + edges[1:]) / 2, y=share, name=f"{side}, {len(values):,}", marker={"color": color},
                opacity=0.65, hovertemplate=f"{side}<br>{name} %{{x:.3g}} {unit}: %{{y:.1%}}<extra></extra>",
            )
        )  # fmt: skip
    dress(figure, theme, height)
    figure.update_layout(barmode="group" if key == "elements" else "overlay", bargap=0.02, legend=_LEGEND)
    figure.update_xaxes(title={"text": with_unit(name, unit), "standoff": 6})
    figure.update_yaxes(title={"text": "share of the set", "standoff": 6}, tickformat=".0%")
    if key == "elements":
        figure.update_xaxes(dtick=1)
    return figure


def distance_curves(card: ReportCard, theme: Theme = "light", height: int = 320) -> Figure:
    """Draw the share of crystals whose nearest one of the other set is within a distance: coverage at any cutoff.

    Structure and composition have an axis each.

    Raises:
        SettingError: if the card has no coverage (yet).
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    if "recall_structure" not in card.samples:
        raise SettingError("the report has no coverage (yet)")
    palette = THEMES[theme]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    sides = {"recall": "reference to generated (COV-R)", "precision": "generated to reference (COV-P)"}
    for column, kind in enumerate(("structure", "composition"), 1):
        cutoff = float(card.samples[f"cutoff_{kind}"][0])
        for color, dash, (side, label) in zip(palette.series, ("solid", "dash"), sides.items(), strict=False):
            distance = np.sort(card.samples[f"{side}_{kind}"])
            seen = distance[np.isfinite(distance)]
            # As many points as a screen can show.
            which = np.unique(np.linspace(0, max(len(seen) - 1, 0), min(len(seen), 500)).astype(int))
            figure.add_trace(
                Scatter(
                    x=[0.0, *seen[which]], y=[0.0, *((which + 1) / len(distance))], name=label, mode="lines",
                    legendgroup=side, showlegend=column == 1, line={"color": color, "dash": dash, "shape": "hv"},
                    hovertemplate=f"{label}<br>%{{y:.1%}} within %{{x:.3g}}<extra></extra>",
                ), 1, column,
            )  # fmt: skip
        figure.add_vline(cutoff, line={"color": palette.muted, "dash": "dot", "width": 1.5}, row=1, col=column)  # pyright: ignore
        longest = max(
            [3 * cutoff, *(np.quantile(d, 0.99) for s in sides if len(d := _finite(card.samples[f"{s}_{kind}"])))]
        )
        figure.update_xaxes(title={"text": f"{kind} distance", "standoff": 6}, range=[0, longest], row=1, col=column)
    dress(figure, theme, height)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(title={"text": "share within", "standoff": 6}, row=1, col=1)
    figure.update_layout(legend=_LEGEND)
    return figure


def invalid_reasons_chart(card: ReportCard, theme: Theme = "light", height: int = 0) -> Figure:
    """Draw how many crystals are invalid for each reason.

    Args:
        height: pixels; 0 for as many as the reasons need.
    """
    from plotly.graph_objects import Bar, Figure

    counts = Counter(part for reason in card.rows.get("reason", ()) if reason for part in reason.split("; "))
    common = counts.most_common(8)[::-1]
    figure = Figure(
        Bar(
            x=[count for _, count in common], y=[_wrapped(reason) for reason, _ in common], orientation="h",
            text=[f"{count:,}" for _, count in common], marker={"color": THEMES[theme].series[1]},
            hovertemplate="%{y}: %{x:,}<extra></extra>",
        )
    )  # fmt: skip
    dress(figure, theme, height or 110 + 60 * len(common))
    figure.update_layout(margin={"l": 300})
    figure.update_xaxes(title={"text": f"of {card.crystals:,} crystals", "standoff": 6}, rangemode="tozero")
    return figure


def one_histogram(values: np.ndarray, name: str, unit: str = "", theme: Theme = "light", height: int = 300) -> Figure:
    """Draw a histogram of one set of numbers."""
    from plotly.graph_objects import Figure, Histogram

    figure = Figure(
        Histogram(
            x=values, nbinsx=_BINS, marker={"color": THEMES[theme].series[0]},
            hovertemplate=f"{name} %{{x}}: %{{y:,}}<extra></extra>",
        )
    )  # fmt: skip
    dress(figure, theme, height)
    figure.update_xaxes(title={"text": with_unit(name, unit), "standoff": 6})
    figure.update_yaxes(title={"text": "crystals", "standoff": 6})
    return figure


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _wrapped(text: str, width: int = 44) -> str:
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines[: math.ceil(200 / width)])
