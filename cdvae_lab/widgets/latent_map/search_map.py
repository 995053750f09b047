"""The latent map with the trail of a search on it, as it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cdvae_lab import figures
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.figures.style import Theme
from cdvae_lab.widgets.optimizer.latent_search import Search, trail
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TRAIL, OTHERS = "the search", "the other crystals' searches"


class SearchMap(Plot):
    """A map that a search is drawn on; nothing is placed twice.

    Args:
        map: where.
        height: pixels.
    """

    def __init__(self, map: LatentMap, height: int) -> None:
        self._map, self._height = map, height
        self._search, self._crystal, self._index = Search(), 0, 0
        self._places: list[torch.Tensor] = []
        super().__init__(self._make)

    def draw(self, search: Search, crystal: int, index: int) -> None:
        """Bring the trail up to the steps of a search.

        Args:
            crystal: whose trail is followed.
            index: of the step that is marked.
        """
        if search is not self._search:
            self._places = []
        self._search, self._crystal, self._index = search, crystal, index
        del self._places[len(search.steps) :]
        if new := search.steps[len(self._places) :]:
            self._places.extend(trail(self._map, new))
        trails = self._trails()
        figure: Any = self.figure
        if {str(trace.name) for trace in figure.data} & {TRAIL, OTHERS} != set(trails):
            self.redraw()
            return
        with figure.batch_update():
            for name, values in trails.items():
                figure.update_traces(values, selector={"name": name})

    def _make(self, theme: Theme) -> Figure:
        """The map with the trails there are: in WebGL, or the points would lie on them; plotly takes no empty line."""
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
        """What the traces of the search show."""
        if len(self._places) < 2:
            return {}
        search, places, k = self._search, torch.stack(self._places), self._crystal
        decoded = {one.step for one in search.decoded}
        size = np.array([6 if step.step in decoded else 0 for step in search.steps[: len(places)]])
        size[min(self._index, len(size) - 1)] = 14
        others = np.delete(places.numpy(), k, axis=1)
        gap = np.full((1, others.shape[1], 2), np.nan)
        lines = np.concatenate([others, gap]).transpose(1, 0, 2).reshape(-1, 2)
        texts = [f"<b>{TRAIL}</b><br>step {step.step}<extra></extra>" for step in search.steps]
        x, y = places[:, k].numpy().T
        found: dict[str, dict[str, Any]] = {TRAIL: {"x": x, "y": y, "text": texts, "marker": {"size": size}}}
        if len(lines):
            found = {OTHERS: {"x": lines[:, 0], "y": lines[:, 1]}} | found
        return found
