"""A plotly figure in a notebook: dark where the notebook is, the same in every view, and closed without leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from cdvae_lab.figures import Theme

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_EDITS = [f"_py2js_{name}" for name in ("addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update")]


class Page(anywidget.AnyWidget):
    """Tells Python whether the page is dark, and keeps a closed figure from answering pending messages."""

    _esm = Path(__file__).with_name("page.js")
    dark = traitlets.Bool(False).tag(sync=True)
    figure: Any = traitlets.Instance(ipywidgets.DOMWidget).tag(sync=True, **ipywidgets.widget_serialization)


@cache
def _figure_widget() -> type:
    """Make the class of figures: plotly's FigureWidget with two faults of it mended.

    - Its five megabytes of JavaScript are read once for a page and not once for each figure: anywidget gives up a
      widget that is not ready within two seconds, and after a reload of the page all figures come at once.
    - A view shows the changes that were sent before it was ready (`figure.js`).
    """
    from plotly.graph_objects import FigureWidget

    source, name = json.dumps(str(FigureWidget._esm)), json.dumps(f"cdvae_plotly_{version('plotly')}")
    blob = f'new Blob([{source}], {{type: "text/javascript"}})'
    code = f"const plotly = () => (globalThis[{name}] ??= import(URL.createObjectURL({blob})));\n"

    class LabFigure(FigureWidget):
        _esm = code + Path(__file__).with_name("figure.js").read_text(encoding="utf-8")
        edits_in_state = traitlets.Int().tag(sync=True)  # number of edits that are in what new views are drawn from
        edits = 0  # messages that have changed the figure so far

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.observe(self._count, _EDITS)
            self.on_msg(self._view_made)

        def _count(self, change: Any) -> None:
            self.edits += change["new"] is not None

        def _view_made(self, widget: Any, content: Any, buffers: Any) -> None:
            """Send the whole figure to a view that has missed something."""
            if content.get("edits") != self.edits:
                # plotly keeps these two for new views only, and does not bring them up to date by itself.
                self._widget_layout, self._widget_data = deepcopy(self._layout_obj._props), deepcopy(self._data)
                self.edits_in_state = self.edits
                self.send({"view": content["view"]})

    return LabFigure


class Plot(ipywidgets.Box):
    """One figure that is redrawn for another theme.

    Args:
        draw: makes the figure for a theme.
    """

    _open = False

    def __init__(self, draw: Callable[[Theme], Figure]) -> None:
        self._given = draw
        self.figure: Any = _figure_widget()(  # a FigureWidget; plotly's classes confuse type checkers
            self._draw("light")
        )
        self.page = Page(figure=self.figure)
        self.figure._config = {"scrollZoom": True, "displaylogo": False, "responsive": True}
        self.page.observe(lambda change: self.redraw(), "dark")
        super().__init__(
            [self.figure, self.page],
            layout={"width": "100%", "flex": "3 1 420px", "min_width": "0", "display": "block"},
        )
        self.add_class("cdvae-figure")
        self._open = True

    @property
    def theme(self) -> Theme:
        """The theme of the page."""
        return "dark" if self.page.dark else "light"

    def redraw(self) -> None:
        """Draw everything again; the zoomed part and the mouse's mode stay as the user has chosen."""
        new: Any = self._draw(self.theme)
        shown = self.figure
        with shown.batch_update():
            keep = len(new.data) if len(new.data) == len(shown.data) else 0
            for old, trace in zip(shown.data[:keep], new.data[:keep], strict=True):
                values = trace.to_plotly_json()
                old.update({k: v for k, v in values.items() if k not in ("type", "uid")}, overwrite=True)
            layout = new.layout.to_plotly_json()
            layout.pop("dragmode", None)
            shown.update_layout(layout, overwrite=True)
        if not keep:
            shown.data = ()
            shown.add_traces(new.data)

    def _draw(self, theme: Theme) -> Figure:
        figure = self._given(theme)
        # The page's own color is behind it, which is never quite that of a figure alone.
        figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
        return figure

    def close(self) -> None:
        """Close the figure and the watcher of the page's theme."""
        if self._open:
            self._open = False
            self.page.close()
            self.figure.close()
        super().close()
