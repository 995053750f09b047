"""A plotly figure in a notebook: dark where the notebook is, and closed without leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from cdvae_lab.figures import THEMES, Theme
from cdvae_lab.widgets.parts.front_end import widget_code

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


CLEAR = "rgba(0,0,0,0)"


class Page(anywidget.AnyWidget):
    """Tells Python whether the page is dark, and keeps a closed figure from answering pending messages."""

    _esm = widget_code("page.js")
    dark = traitlets.Bool(False).tag(sync=True)
    figure: Any = traitlets.Instance(ipywidgets.DOMWidget).tag(sync=True, **ipywidgets.widget_serialization)


def prepare_figures() -> None:
    """Import what figures and tables need, which takes seconds; also in another thread."""
    import pandas  # noqa: F401

    _figure_widget()


@cache
def _figure_widget() -> type:
    """Make the class of figures: plotly's FigureWidget, of which every view shows the figure as it is now.

    - The front end gets the whole figure when it makes its model, also after a reload of the page. plotly sends the
      traces afterwards, when a slow page may have drawn a view without them, and a reloaded page the figure as it was
      made.
    - A page reads plotly's JavaScript (5 MB) once for all figures, and `figure.js` keeps the edits that come meanwhile.
    """
    from plotly.graph_objects import FigureWidget
    from plotly.serializers import custom_serializers

    source, name = json.dumps(str(FigureWidget._esm)), json.dumps(f"cdvae_plotly_{version('plotly')}")
    blob = f'new Blob([{source}], {{type: "text/javascript"}})'
    code = f"const plotly = () => (globalThis[{name}] ??= import(URL.createObjectURL({blob})));\n"

    def current(name: str) -> Any:
        """The state of plotly's traits is the figure itself whenever it is sent."""
        send: Any = custom_serializers["to_json"]
        return {**custom_serializers, "to_json": lambda value, figure: send(getattr(figure, name), figure)}

    class LabFigure(FigureWidget):
        _esm = code + widget_code("figure.js")
        _widget_layout = traitlets.Dict().tag(sync=True, **current("_layout"))
        _widget_data = traitlets.List().tag(sync=True, **current("_data"))
        _complete = False

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._complete = True
            self.open()

        def open(self) -> None:
            if self._complete:
                super().open()

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
            layout = {"annotations": (), "shapes": ()} | layout  # those of the last drawing do not stay
            shown.update_layout(layout, overwrite=True)
        if not keep:
            shown.data = ()
            shown.add_traces(new.data)

    def _draw(self, theme: Theme) -> Figure:
        figure = self._given(theme)
        # The page's own color is behind it, which is never quite that of a figure alone.
        figure.update_layout(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR)
        # Otherwise plotly takes half-transparent black for the buttons above the figure, which hides what is below.
        palette = THEMES[theme]
        figure.update_layout(modebar={"bgcolor": CLEAR, "color": palette.muted, "activecolor": palette.ink})
        return figure

    def close(self) -> None:
        """Close the figure and the watcher of the page's theme."""
        if self._open:
            self._open = False
            self.page.close()
            self.figure.close()
        super().close()
