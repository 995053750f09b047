"""Themes and colors of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Theme = Literal["light", "dark"]

# Okabe and Ito's colors, which color-blind readers can distinguish; without black and yellow, which are invisible in
# one of the themes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")


@dataclass(frozen=True)
class Palette:
    """Colors of a theme.

    Attributes:
        ink: for text and outlines.
        muted: for captions and points without a value.
        paper: background.
        series: Okabe and Ito's colors, those with the best contrast first.
    """

    ink: str
    muted: str
    paper: str
    series: tuple[str, ...]

    @property
    def grid(self) -> str:
        """Color of grid lines: the ink at an eighth of its strength."""
        return translucent(self.ink, 0.13)


THEMES: dict[Theme, Palette] = {
    "light": Palette("#1f2328", "#6e7781", "#ffffff", COLORS),
    "dark": Palette("#e6edf3", "#8b949e", "#0d1117", ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00")),
}


def translucent(color: str, alpha: float) -> str:
    """Return a color "#rrggbb" with an opacity, as every version of plotly reads it (6 refuses "#rrggbbaa")."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def floats(values: Sequence | np.ndarray | Tensor) -> np.ndarray:
    """Convert numbers of any kind and device to floats for plotly; None becomes NaN."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)


def with_unit(name: str, unit: str) -> str:
    """Make the title of an axis: "heat_ref (eV/atom)", or the name alone."""
    return f"{name} ({unit})" if unit else name


def dress(figure: Figure, theme: Theme, height: int) -> None:
    """Apply a theme: its colors, a readable hover label, and room for the titles of the axes."""
    palette = THEMES[theme]
    figure.update_xaxes(gridcolor=palette.grid, zeroline=False, tickfont={"size": 10}, linecolor=palette.grid)
    figure.update_yaxes(gridcolor=palette.grid, zeroline=False, tickfont={"size": 10}, linecolor=palette.grid)
    figure.update_layout(
        template="none",
        paper_bgcolor=palette.paper,
        plot_bgcolor=palette.paper,
        font={"color": palette.ink, "size": 12},
        hoverlabel={"bgcolor": palette.paper, "bordercolor": palette.muted, "font": {"color": palette.ink}},
        margin={"l": 64, "r": 20, "t": 40, "b": 50},
        height=height,
    )
