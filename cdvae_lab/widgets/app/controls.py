"""The controls of the `App` around its tabs."""

from __future__ import annotations

import html
from typing import Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.app.state import AppState
from cdvae_lab.widgets.base.fields import Attempts, Fields, button, row
from cdvae_lab.widgets.base.selection import Selection
from cdvae_lab.widgets.parts.selection_bar import SelectionBar

_USE = "with the averaged weights as they are now"
_NO_MODEL = "there is no trained model yet: press Run above"
_MUTED = "color:var(--jp-ui-font-color2,inherit)"


@runtime_checkable
class Actions(Attempts, Protocol):
    """Actions of the buttons."""

    def use(self, where: str) -> None: ...
    def use_trained(self, wait: bool = ...) -> None: ...
    def make_map(self, dataset: Any = ...) -> None: ...
    def stop(self) -> None: ...


class AppControls:
    """The widgets of one `App` around its tabs.

    Args:
        state: whose fields they show.
        actions: what the buttons do.
        selection: that of all tabs.

    Attributes:
        fields: bound to the state.
        bar: the selected crystal.
        new_map: makes a map where there is none.
        trained: takes the model of the training tab.
    """

    def __init__(self, state: AppState, actions: Actions, selection: Selection) -> None:
        self.fields = fields = Fields(state)
        self._models = fields.make("model", "model", "320px")
        self._checkpoint = fields.make(
            "own_checkpoint", "own checkpoint", "330px", placeholder="path, then Enter", continuous_update=False
        )
        self._about = ipywidgets.HTML()
        self.bar = SelectionBar(selection, lambda where: actions.attempt(lambda: actions.use(where)))
        source = fields.make(
            "map_source", "data set, or folder of CIFs", "360px", placeholder="what the model was trained on"
        )
        self._map = button(
            actions,
            "Make a map",
            "half a minute",
            lambda: actions.make_map(state.map_source.strip() or None),
            "primary",
        )
        self._map_stop = button(actions, "Stop", "make no map", actions.stop)
        self.enable_map(running=False)
        self.new_map = row(source, self._map, self._map_stop)
        self._use_trained = button(
            actions, "Use this model in the other tabs", _USE, lambda: actions.use_trained(wait=False), "info"
        )
        self._no_model = ipywidgets.HTML(f"<span style='{_MUTED}'>{_NO_MODEL}</span>")
        self.enable_trained(stepped=False)
        self.trained = row(self._use_trained, self._no_model)

    def rows(self) -> list[ipywidgets.Widget]:
        """The widgets above the tabs."""
        return [row(self._models, self._checkpoint, self._about, self.fields.code_button()), self.bar]

    def show_model(self, label: str, model: CDVAE, several: bool) -> None:
        """Show which model is used.

        Args:
            several: there are others to choose from.
        """
        self._models.layout.display = "" if several else "none"
        data = model.metadata.get("data", {}).get("name", "unknown data")
        size = sum(one.numel() for one in model.parameters())
        shown = "" if several else f"<b>{html.escape(label)}</b>: "
        self._about.value = (
            f"<span style='padding:0 8px'>{shown}{size:,} parameters, trained on {html.escape(data)}</span>"
        )

    def enable_map(self, running: bool) -> None:
        """Disable the buttons that could only raise an error.

        Args:
            running: a map is being made.
        """
        self._map.disabled, self._map_stop.disabled = running, not running

    def enable_trained(self, stepped: bool) -> None:
        """Disable the button that takes the model of the training tab, and say why.

        Args:
            stepped: that model has been trained for a step.
        """
        self._use_trained.disabled = not stepped
        self._use_trained.tooltip = _USE if stepped else _NO_MODEL
        self._no_model.layout.display = "none" if stepped else ""

    def close(self) -> None:
        """Listen no more."""
        self.fields.close()
