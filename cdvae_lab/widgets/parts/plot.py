"""A plotly figure in a notebook: dark where the notebook is, and closed without leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
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


class Page(anywidget.AnyWidget):
    """Tells Python whether the page is dark, and keeps a closed figure from answering pending messages."""

    _esm = Path(__file__).with_name("page.js")
    dark = traitlets.Bool(False).tag(sync=True)
    figure: Any = traitlets.Instance(ipywidgets.DOMWidget).tag(sync=True, **ipywidgets.widget_serialization)


@cache
def _figure_widget() -> type:
    """Make the class of figures: plotly's FigureWidget, whose JavaScript (5 MB) a page reads once for all figures.

    anywidget gives up a widget that is not ready within two seconds, and after a reload of the page all come at once.
    """
    from plotly.graph_objects import FigureWidget

    source, name = json.dumps(str(FigureWidget._esm)), json.dumps(f"cdvae_plotly_{version('plotly')}")
    blob = f'new Blob([{source}], {{type: "text/javascript"}})'
    code = f"globalThis[{name}] ??= import(URL.createObjectURL({blob}));\n"
    code += f"export default async () => (await globalThis[{name}]).default();\n"  # which makes one figure's widget
    return type("Figure", (FigureWidget,), {"_esm": code})


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
