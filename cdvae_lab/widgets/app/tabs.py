"""Views as tabs, of which each is made when its tab is first opened."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ipywidgets

from cdvae_lab.errors import LabError
from cdvae_lab.widgets.app.state import TABS, AppState
from cdvae_lab.widgets.base.fields import Fields
from cdvae_lab.widgets.base.recorded_run import RecordedRun, in_event_loop


class Tabs:
    """The views, and the tabs that show them. Hidden tabs are not drawn, which saves WebGL contexts.

    Args:
        state: whose `tab` is open.
        fields: of that state.
        run: reads in the background what a view needs; at its end call `prepared`.
        prepare: reads it, by the name of the tab.
        make: gives the view of a tab, by calling `view`.
        below_view: what a tab shows below its view.
        below_error: what it shows below the reason why there is no view.

    Attributes:
        views: those that have been made, by the names of their tabs.
        widget: shows them.
    """

    def __init__(
        self,
        state: AppState,
        fields: Fields,
        run: RecordedRun[str],
        prepare: Callable[[str], Any],
        make: Callable[[str], ipywidgets.Widget],
        below_view: Mapping[str, ipywidgets.Widget],
        below_error: Mapping[str, ipywidgets.Widget],
    ) -> None:
        self._state, self._run, self._prepare, self._make = state, run, prepare, make
        self._below_view, self._below_error = below_view, below_error
        self._ready = {"player"}  # tabs whose data are read, and whose modules are imported
        self.views: dict[str, Any] = {}
        self._boxes = {name: ipywidgets.VBox(layout={"min_height": "200px"}) for name in TABS}
        names, boxes = list(TABS), list(self._boxes.values())
        self.widget = ipywidgets.Tab(boxes, titles=list(TABS.values()), selected_index=names.index(state.tab))
        self.widget.observe(lambda change: setattr(state, "tab", names[change["new"] or 0]), "selected_index")
        fields.observe("tab", lambda change: setattr(self.widget, "selected_index", names.index(change["new"])))

    def view(self, name: str, make: Callable[[], Any]) -> Any:
        """The view of a tab; made if there is none yet."""
        if name not in self.views:
            self.views[name] = make()
            self.views[name].add_class(f"cdvae-{name}")
        return self.views[name]

    def open_chosen(self) -> None:
        """Show the view of the open tab, or the reason why there is none.

        In a notebook the data and modules of the view are first read in the background, so that the page stays
        responsive; `prepared` opens it then. A script waits, except for the data to train on.
        """
        name = self._state.tab
        box = self._boxes[name]
        if box.children and box.children[0] is self.views.get(name):
            return
        if name not in self.views:
            box.children = (ipywidgets.HTML("opening … the first time it takes a few seconds"),)
            if name not in self._ready and (name == "monitor" or in_event_loop()):
                self._run.start(lambda: self._prepared(name))
                return
        try:
            shown, below = self._make(name), self._below_view.get(name)
        except LabError as error:
            shown, below = ipywidgets.HTML(f"<p>{html.escape(str(error))}.</p>"), self._below_error.get(name)
        box.children = (shown,) if below is None else (shown, below)

    def prepared(self, name: str) -> None:
        """Open the tab that is open, now that what a view needs has been read."""
        self._ready.add(name)
        self.open_chosen()

    def forget(self, names: Iterable[str]) -> None:
        """Close views; those of open tabs are made again by `open`."""
        for name in names:
            self._boxes[name].children = ()
            self._ready.discard(name)
            if name in self.views:
                self.views.pop(name).discard()

    def close(self) -> None:
        """Close all views, and stop their runs."""
        for view in self.views.values():
            view.close()

    def _prepared(self, name: str) -> Iterator[str]:
        self._prepare(name)
        yield name
