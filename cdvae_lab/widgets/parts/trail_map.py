"""The latent map with the trails of a search on it, extended as the search proceeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab import figures
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.figures.style import Theme
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TRAIL, OTHERS = "the search", "the other crystals' searches"


class TrailMap(Plot):
    """A latent map with the trail of one crystal's search and, thinner, those of the others; no latent is placed twice.

    Args:
        map: the map to draw on.
        height: pixels.
    """

    def __init__(self, map: LatentMap, height: int) -> None:
        self._map, self._height = map, height
        self._of: object = None
        self._places: list[Tensor] = []
        self._steps: list[int] = []
        self._dots: set[int] = set()
        self._crystal, self._index = 0, 0
        super().__init__(self._make)

    def draw(
        self,
        of: object,
        latents: Sequence[Float[Tensor, "crystals latent"]],
        steps: Sequence[int],
        *,
        dots: Sequence[int],
        crystal: int,
        index: int,
    ) -> None:
        """Bring the trails up to date.

        Args:
            of: the search; latents of the same search as before are not placed again.
            latents: of each step, in order.
            steps: number of each step, for the hover.
            dots: numbers of the steps that are marked by a small dot.
            crystal: whose trail is drawn strongly.
            index: of the step that is marked by a large dot.
        """
        if of is not self._of:
            self._places = []
        self._of, self._steps, self._dots, self._crystal, self._index = of, list(steps), set(dots), crystal, index
        del self._places[len(latents) :]
        if new := latents[len(self._places) :]:
            z = torch.stack(list(new)).cpu().float()
            self._places.extend(self._map.place(z.flatten(0, 1)).reshape(*z.shape[:2], 2))
        trails = self._trails()
        figure: Any = self.figure
        if {str(trace.name) for trace in figure.data} & {TRAIL, OTHERS} != set(trails):
            self.redraw()
            return
        with figure.batch_update():
            for name, values in trails.items():
                figure.update_traces(values, selector={"name": name})

    def _make(self, theme: Theme) -> Figure:
        """The map with its trails: in WebGL, or the points would lie on them; plotly takes no empty line."""
        from plotly.graph_objects import Scattergl

        figure: Any = figures.latent_map(self._map, theme=theme, height=self._height)
        ink = figures.THEMES[theme].ink
        for name, values in self._trails().items():
            followed = name == TRAIL
            color, width = ("#D55E00", 3) if followed else ("#CC79A7", 1)
            trace: Any = Scattergl(
                name=name, mode="lines+markers" if followed else "lines", line={"color": color, "width": width},
                hovertemplate="%{text}" if followed else None, hoverinfo=None if followed else "skip", showlegend=True,
            )  # fmt: skip
            if followed:
                trace.update(marker={"color": color, "opacity": 1, "line": {"color": ink, "width": 1.2}})
            figure.add_trace(trace.update(values))
        figure.update_layout(showlegend=True, margin={"t": 64})
        return figure

    def _trails(self) -> dict[str, dict[str, Any]]:
        """The data of each trace of the search."""
        if len(self._places) < 2:
            return {}
        places, k = torch.stack(self._places), self._crystal
        size = np.array([6 if step in self._dots else 0 for step in self._steps[: len(places)]])
        size[min(self._index, len(size) - 1)] = 14
        others = np.delete(places.numpy(), k, axis=1)
        gap = np.full((1, others.shape[1], 2), np.nan)
        lines = np.concatenate([others, gap]).transpose(1, 0, 2).reshape(-1, 2)
        texts = [f"<b>{TRAIL}</b><br>step {step}<extra></extra>" for step in self._steps]
        x, y = places[:, k].numpy().T
        found: dict[str, dict[str, Any]] = {TRAIL: {"x": x, "y": y, "text": texts, "marker": {"size": size}}}
        if len(lines):
            found = {OTHERS: {"x": lines[:, 0], "y": lines[:, 1]}} | found
        return found
