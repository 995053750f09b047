"""Figure of a latent map: crystals, layers and paths, over a grid of invisible points that receive clicks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.figures.style import THEMES, Theme, dress, floats, with_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scattergl

# Names of traces, for handlers of clicks. Points have their number on the map as `customdata`, in both traces.
POINTS = "crystals"
WITHOUT = "crystals without a value"
GRID = "empty places"
CELLS = 80  # of the grid, along the longer side
MARGIN = 0.06  # of the map's extent, on each side
DENSE = 40  # points of a path, above which their outlines would cover it
WRAP = 62  # characters in a line of the caption, which fit half a page
SYMBOLS = ("diamond", "star", "square", "triangle-up", "cross", "hexagram")

Places = Tensor | np.ndarray | Sequence[Sequence[float]]
Layer = tuple[str, Places] | tuple[str, Places, Sequence[str]]


def latent_map(
    map: LatentMap,
    color: str | tuple[str, str, Tensor] = "label",
    layers: Sequence[Layer] = (),
    paths: Sequence[Layer] = (),
    theme: Theme = "light",
    height: int = 620,
) -> Figure:
    """Draw the crystals of a latent map as colored points, with further crystals as layers and paths.

    The trace named `GRID` is invisible and beneath the others: plotly reports no click on an empty place, but it does
    on the nearest point of that trace, whose x and y are the place. A lasso selects its points too; the crystals are
    those of `POINTS` and `WITHOUT`, with their number on the map as `customdata`.

    Args:
        color: "label" (the label of the map), "num_atoms", "density", an element's symbol (its share of the atoms),
            or (name, unit, one value for each point). Points whose value is NaN are gray.
        layers: (name, xy), or (name, xy, a text for each point), for instance of generated crystals.
        paths: the same, joined by a line in the order of the points.
        height: pixels.

    Raises:
        SettingError: for an unknown color, or values of another length than the map's.
    """
    from plotly.graph_objects import Figure, Scattergl

    palette = THEMES[theme]
    name, unit, values = _color(map, color)
    low, high = _extent(map)
    figure = Figure()
    empty = empty_places(map, low, high)
    figure.add_trace(
        Scattergl(
            x=empty[:, 0], y=empty[:, 1], name=GRID, mode="markers", showlegend=False, hoverinfo="none",
            marker={"size": 8, "opacity": 0}, selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
        )
    )  # fmt: skip
    texts = np.array(_hover_texts(map, name, unit, values if color not in ("label", "num_atoms", "density") else None))
    known = np.isfinite(values)
    figure.add_trace(_points(map, WITHOUT, ~known, texts, {"size": 3, "color": palette.muted, "opacity": 0.3}))
    marker = {
        "size": 5, "color": values[known], "colorscale": _colorscale(theme), "opacity": 0.9,
        "colorbar": {"title": {"text": with_unit(name, unit), "side": "right"}, "thickness": 14, "outlinewidth": 0},
        **_range(values[known]),
    }  # fmt: skip
    figure.add_trace(_points(map, POINTS, known, texts, marker))
    number = 0
    for joined, group in ((True, paths), (False, layers)):
        for layer in group:
            figure.add_trace(layer_trace(layer, joined, number, theme))
            number += 1
    # Both axes keep their range; otherwise one would extend beyond the grid in a wide or a narrow window.
    figure.update_xaxes(visible=False, range=[low[0], high[0]], constrain="domain")
    figure.update_yaxes(visible=False, range=[low[1], high[1]], scaleanchor="x", constrain="domain")
    dress(figure, theme, height)
    caption = _caption(map, color)
    figure.update_layout(
        title={"text": _title(map), "x": 0.01, "xanchor": "left", "y": 0.985, "yanchor": "top", "font": {"size": 14}},
        hovermode="closest", dragmode="pan", uirevision="map", showlegend=bool(number),
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        margin={"l": 10, "r": 10, "t": 64 if number else 40, "b": 20 + 14 * (1 + caption.count("<br>"))},
    )  # fmt: skip
    figure.add_annotation(
        text=caption, xref="paper", yref="paper", x=0, y=0, xanchor="left", yanchor="top", yshift=-6,
        showarrow=False, align="left", font={"size": 11, "color": palette.muted},
    )  # fmt: skip
    return figure


def _color(map: LatentMap, color: str | tuple[str, str, Tensor]) -> tuple[str, str, Float[np.ndarray, " points"]]:
    """Return name, unit and values of a color."""
    if isinstance(color, tuple):
        name, unit, values = color
        if values.shape != (len(map),):
            raise SettingError(f"color {name!r}: {tuple(values.shape)} values for a map of {len(map)} points")
    elif color == "label":
        name, unit, values = map.label_name or "label", map.label_unit, map.labels
    elif color == "num_atoms":
        name, unit, values = "atoms in the cell", "", map.num_atoms
    elif color == "density":
        name, unit, values = "density", "g/cm³", map.density
    elif color in map.elements:
        share = 100 * map.share(color)
        name, unit, values = color, "% of the atoms", share.masked_fill(share == 0, torch.nan)
    else:
        raise SettingError(
            f"color: {color!r}; give label, num_atoms, density, (name, unit, values), or one of the map's elements: "
            f"{', '.join(map.elements)}"
        )
    return name, unit, values.detach().cpu().double().numpy()


def _colorscale(theme: Theme) -> list[tuple[float, str]]:
    """Return the color scale: cividis; in the dark theme without its darkest part."""
    from plotly.colors import sample_colorscale

    start = 0.0 if theme == "light" else 0.3
    places = np.linspace(0, 1, 11)
    colors = sample_colorscale("Cividis", list(start + (1 - start) * places))
    return [(float(place), str(color)) for place, color in zip(places, colors, strict=True)]


def _range(values: Float[np.ndarray, " values"]) -> dict[str, float]:
    """Return the limits of the color scale without the outermost 1 %, so that few extremes do not take the colors."""
    if not len(values):
        return {}
    low, high = np.percentile(values, [0.5, 99.5]).tolist()
    return {"cmin": low, "cmax": high} if high > low else {"cmin": low - 0.5, "cmax": low + 0.5}


def _extent(map: LatentMap) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    low, high = (ends.double().numpy() for ends in map.xy.aminmax(dim=0))
    room = MARGIN * max(*(high - low), 1e-3)
    return low - room, high + room


def empty_places(
    map: LatentMap, low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "places 2"]:
    """Compute the points of `GRID`: a square grid over a part of the map, without those next to a crystal.

    Points next to a crystal would receive its clicks. A zoomed map needs a finer grid: the same over the visible part.

    Args:
        low, high: corners of the part.
    """
    return _empty_places(map, tuple(low.tolist()), tuple(high.tolist()))


@lru_cache(maxsize=16)  # a redrawn map has the same ones, and finding them takes a quarter of a second
def _empty_places(map: LatentMap, low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    spacing = (np.array(high) - np.array(low)).max() / CELLS
    sides = [np.arange(start, end + spacing, spacing) for start, end in zip(low, high, strict=True)]
    net = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
    _, distances = map.nearest(torch.from_numpy(net).float())
    return net[distances[:, 0].numpy() > 0.5 * spacing]


def _points(map: LatentMap, name: str, which: np.ndarray, texts: np.ndarray, marker: Mapping[str, Any]) -> Scattergl:
    from plotly.graph_objects import Scattergl

    return Scattergl(
        x=map.xy[:, 0].numpy()[which], y=map.xy[:, 1].numpy()[which], name=name, mode="markers", showlegend=False,
        customdata=np.flatnonzero(which), text=texts[which], hovertemplate="%{text}<extra></extra>",
        marker=dict(marker), visible=bool(which.any()),
    )  # fmt: skip


def layer_trace(layer: Layer, joined: bool, number: int, theme: Theme = "light") -> Scattergl:
    """Create the trace of a layer: outlined points of one shape; a path also has a line and a marked end.

    Args:
        layer: (name, xy), or (name, xy, a text for each point).
        joined: whether the layer is a path.
        number: of the layer; determines its color and shape.
    """
    from plotly.graph_objects import Scattergl

    name, places, texts = (*layer, ())[:3]
    xy = floats(places).reshape(-1, 2)
    palette = THEMES[theme]
    # Vermillion first, since cividis runs from blue to yellow.
    color = ("#D55E00", "#CC79A7", "#009E73", "#56B4E9", "#E69F00")[number % 5]
    hover = [f"<b>{name}</b>" + (f"<br>{text}" if text else "") for text in [*texts, *[""] * len(xy)][: len(xy)]]
    dense = joined and len(xy) > DENSE
    size = np.full(len(xy), 3.0 if dense else 7.0 if joined else 12.0)
    outline = np.full(len(xy), 0.0 if dense else 1.2)
    if joined:
        outline[-1:] = 1.2
        hover = [f"{text}<br>{i + 1} of {len(xy)}" for i, text in enumerate(hover)]
        size[-1:] = 13
    return Scattergl(
        x=xy[:, 0], y=xy[:, 1], name=name, mode="lines+markers" if joined else "markers",
        text=hover, hovertemplate="%{text}<extra></extra>", line={"color": color, "width": 3},
        marker={
            "size": size, "symbol": "circle" if joined else SYMBOLS[number % len(SYMBOLS)], "color": color,
            "line": {"color": palette.ink, "width": outline}, "opacity": 1,
        },
        selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}},  # a lasso selects map crystals
    )  # fmt: skip


def _hover_texts(map: LatentMap, name: str, unit: str, values: Float[np.ndarray, " points"] | None) -> list[str]:
    """Write the hover texts: formula, label with its unit, size, density, id, and the values if they are others."""
    shown = [
        f"{_subscripts(formula)}<br>{map.label_name or 'label'}: {_number(label, map.label_unit)}<br>"
        f"{count} atoms, {density:.2f} g/cm³<br>id {identity}"
        for formula, label, count, density, identity in zip(
            map.formulas, map.labels.tolist(), map.num_atoms.tolist(), map.density.tolist(), map.ids, strict=True
        )
    ]
    if values is None:
        return shown
    return [f"{text}<br>{name}: {_number(value, unit)}" for text, value in zip(shown, values.tolist(), strict=True)]


def _number(value: float, unit: str) -> str:
    return "none" if np.isnan(value) else f"{value:.3g} {unit}".strip()


def _subscripts(formula: str) -> str:
    return f"<b>{to_html(formula)}</b>"


def _title(map: LatentMap) -> str:
    data = map.metadata.get("data", {})
    where = f"{data['name']}, {data['split']}: " if {"name", "split"} <= data.keys() else ""
    return f"Latent map ({where}{len(map):,} crystals)"


def _caption(map: LatentMap, color: object) -> str:
    """Write the caption: how to read the map, and the map's note on its labels, if it has one."""
    lines = textwrap.wrap("UMAP of the latents: neighbors are alike; axes and far distances have no meaning.", WRAP)
    if color == "label" and (note := map.metadata.get("notes", {}).get("labels")):
        lines += textwrap.wrap(note, WRAP)
    return "<br>".join(lines)
