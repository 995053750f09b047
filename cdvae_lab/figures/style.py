"""What all figures share: the two themes and the colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Theme = Literal["light", "dark"]

# Okabe and Ito's colors, told apart by color-blind readers; black and yellow left out, which one theme would swallow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")


@dataclass(frozen=True)
class Palette:
    """The colors of a theme.

    Attributes:
        ink: for text and outlines.
        muted: for what is there but not meant: captions, points without a value.
        paper: behind everything.
        series: Okabe and Ito's, those first that stand out on the paper.
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
    """A color "#rrggbb" with an opacity, as every version of plotly reads it (6 refuses "#rrggbbaa")."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def floats(values: Sequence | np.ndarray | Tensor) -> np.ndarray:
    """Numbers of any kind, wherever they are, as plotly takes them; None becomes NaN."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)


def with_unit(name: str, unit: str) -> str:
    """The title of an axis: "heat_ref (eV/atom)", or the name alone."""
    return f"{name} ({unit})" if unit else name


def dress(figure: Figure, theme: Theme, height: int) -> None:
    """Give a figure the theme's colors, a hover label that can be read on them, and room for its axes' titles."""
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
