"""The curves of a training, and what stands in their place before its first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets

from cdvae_lab import figures
from cdvae_lab.figures.style import Theme
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LEGEND = (
    "<div style='color:var(--jp-ui-font-color2,inherit);font-size:12px;line-height:1.4'>Each term of the objective "
    "over the optimizer's steps, on logarithmic axes. Faint: each batch; strong: its moving average; points: the "
    "averaged weights on {}.</div>"
)
_EMPTY = (
    "<div style='color:var(--jp-ui-font-color1,inherit);border:1px dashed var(--jp-border-color1,#9e9e9e);"
    "border-radius:3px;padding:40px 16px;margin:4px 0;text-align:center;line-height:1.6'><b>{}</b><br>"
    "Every term of the objective and the learning rate will be drawn here over the optimizer's steps.</div>"
)
_BEGIN = "Nothing is trained yet: press Run, or Space, to begin."
_BEGUN = "The first step is being computed."


class Curves(ipywidgets.VBox):
    """Every term of the objective over the steps; before the first, a sentence that says how to begin.

    Args:
        records: gives those to draw, as `figures.training_curve` takes them.
        held_out: validation is on crystals that are not trained on.

    Attributes:
        plot: of the curves; it is among the children when there are some.
        empty: the sentence.
    """

    def __init__(self, records: Callable[[], Sequence[Mapping[str, Any]]], held_out: bool) -> None:
        self._records = records
        self.plot = Plot(self._figure)
        self.plot.figure._config = {"displayModeBar": False, "responsive": True}  # it would lie on the titles
        self.empty = ipywidgets.HTML()
        seen = "crystals that are not trained on" if held_out else "crystals of the training set"
        legend = ipywidgets.HTML(_LEGEND.format(seen))
        self._drawn = (ipywidgets.HBox([self.plot]), legend)  # the size of a Plot is computed along a row
        super().__init__()
        self.show(running=False)

    def show(self, running: bool) -> None:
        """Draw the records, or say why there are none.

        Args:
            running: training is running.
        """
        if self._records():
            self.plot.redraw()
            shown = self._drawn
        else:
            self.empty.value = _EMPTY.format(_BEGUN if running else _BEGIN)
            shown = (self.empty,)
        if self.children != shown:
            self.children = shown

    def close(self) -> None:
        """Close also what is not shown at the moment."""
        for one in (self.plot, self.empty, *self._drawn):
            one.close()
        super().close()

    def _figure(self, theme: Theme) -> Figure:
        figure: Any = figures.training_curve(self._records(), theme, rate=True)
        figure.update_layout(width=None, autosize=True, height=470, margin={"l": 44, "r": 10, "t": 30, "b": 40})
        return figure
