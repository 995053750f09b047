"""The figure of a search: the predicted property and the length of z over its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdvae_lab import figures
from cdvae_lab.figures.search import Decodings
from cdvae_lab.figures.style import Theme, dress
from cdvae_lab.widgets.optimizer.latent_search import Search
from cdvae_lab.widgets.optimizer.region import Region
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

OWN = "same model, decoded crystal (not independent)"
INDEPENDENT = "independent predictor, decoded crystal"
HEIGHT = 430  # pixels


class Course(Plot):
    """The course of one search.

    Args:
        label: name and unit of the property.
        region: of the training crystals.
    """

    def __init__(self, label: tuple[str, str], region: Region) -> None:
        self._label, self._region, self._independent = label, region, False
        self._search, self._crystal, self._index = Search(), 0, 0
        super().__init__(self._make)

    def draw(self, search: Search, crystal: int, index: int, independent: bool) -> None:
        """Bring the figure up to date.

        Args:
            crystal: number of the crystal that is drawn strongly.
            index: of the kept step that is marked.
            independent: there is an independent predictor.
        """
        self._search, self._crystal, self._index, self._independent = search, crystal, index, independent
        self.redraw()

    def _make(self, theme: Theme) -> Figure:
        from plotly.graph_objects import Scatter
        from plotly.subplots import make_subplots

        search, (name, unit) = self._search, self._label
        if not search.steps:
            figure: Any = make_subplots(2, 1, shared_xaxes=True)
            rows = [1, 1, 2, 2, 1]
            figure.add_traces([Scatter(x=[], y=[], showlegend=False) for _ in rows], rows=rows, cols=[1] * len(rows))
            dress(figure, theme, HEIGHT)
            figure.update_xaxes(visible=False, range=[0, 1]).update_yaxes(visible=False, range=[0, 1])
            text = f"Run begins a search and draws here, step by step,<br>{name} and the length of z"
            figure.add_annotation(text=text, xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False)
            return figure
        decoded: dict[str, Decodings] = {OWN: [(one.step, one.own) for one in search.decoded]}
        if self._independent:
            decoded[INDEPENDENT] = [
                (one.step, one.independent) for one in search.decoded if one.independent is not None
            ]
        return figures.search_course(
            search.steps, name, unit, crystal=self._crystal, decoded=decoded, labels=self._region.labels,
            lengths=self._region.lengths, current=search.steps[self._index].step, theme=theme, height=HEIGHT,
        )  # fmt: skip
