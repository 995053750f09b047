"""A bar with the selected crystal, those selected before it, and the views that can use it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, cast

import ipywidgets

from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.fields import row
from cdvae_lab.widgets.base.selection import Pick, Selection

USES = {
    "player": ("denoise from its z", "a run that starts from the latent of this crystal"),
    "a": ("path from it", "end a of an interpolation"),
    "b": ("path to it", "end b of an interpolation"),
    "optimizer": ("optimize it", "the start of a search for another property"),
    "map": ("show on the map", "where it lies among the training crystals"),
}
BEFORE, NOTHING = "chosen so far", "(choose one)"


class SelectionBar(ipywidgets.HBox):
    """Shows a selection, and offers the uses of its newest crystal.

    Args:
        selection: whose pick and history are shown.
        use: called with a name of `USES` when that button is pressed.
    """

    _open = False

    def __init__(self, selection: Selection, use: Callable[[str], Any]) -> None:
        self._selection, self._drawing = selection, False
        self._image = ipywidgets.HTML(layout={"flex": "0 0 auto", "width": "92px", "height": "92px"})
        self._words = ipywidgets.HTML(layout={"flex": "1 1 260px", "min_width": "0"})
        # Without a description, beside which ipywidgets shows no tooltip: the whole of a name that does not fit.
        self._history = ipywidgets.Dropdown(options=[(NOTHING, -1)], layout={"flex": "1 1 auto", "min_width": "0"})
        self._before = ipywidgets.HBox(
            [ipywidgets.Label(BEFORE), self._history], layout={"flex": "1 1 340px", "max_width": "640px"}
        )
        self.buttons: dict[str, ipywidgets.Button] = {}
        for name, (text, tip) in USES.items():
            one = ipywidgets.Button(description=text, tooltip=tip, layout={"width": "auto"})
            one.on_click(lambda _, name=name: use(name))
            self.buttons[name] = one
        self._history.observe(lambda change: self._go_back(change["new"]), "value")
        right = ipywidgets.VBox(
            [row(self._words, self._before), row(*self.buttons.values())],
            layout={"flex": "1 1 auto", "min_width": "0"},
        )
        super().__init__(
            [self._image, right], layout={"align_items": "center", "border": "1px solid var(--jp-border-color2,#bbb)"}
        )
        self.add_class("cdvae-selection")
        self._open = True
        selection.observe(self._changed, "pick")  # the history has changed by then
        self._draw()

    def close(self) -> None:
        """Listen no more."""
        if self._open:  # Python also calls this as it forgets a widget, even one that has never begun
            self._open = False
            self._selection.unobserve(self._changed, "pick")
        super().close()

    def _changed(self, change: Any) -> None:
        self._draw()

    def _go_back(self, number: int) -> None:
        history = self._selection.history
        if not self._drawing and 0 <= number < len(history):
            self._selection.choose(history[number])

    def _draw(self) -> None:
        pick = cast("Pick | None", self._selection.pick)
        history = self._selection.history
        self._drawing = True
        numbered = [(f"{number + 1}: {one.name}", number) for number, one in enumerate(history)][::-1]
        at = [number for number, one in enumerate(history) if one is pick]
        self._history.options = numbered if at else [(NOTHING, -1), *numbered]
        self._history.value = at[0] if at else -1
        self._history.tooltip = pick.name if pick is not None else NOTHING
        self._drawing = False
        self._before.layout.display = "" if history else "none"
        for one in self.buttons.values():
            one.disabled = pick is None
        if pick is None:
            self._image.value = ""
            self._words.value = (
                "<b>No crystal is chosen yet.</b> Click on the map, or choose one that was generated, found on a path, "
                "optimized or decoded: it appears here, and every tab can use it."
            )
            return
        self._image.value = captions.picture(pick.crystal, 90)
        self._words.value = (
            f"<div style='line-height:1.35'><b>{to_html(captions.formula(pick.crystal))}</b> "
            f"{captions.facts(pick.crystal)}<br>from: {html.escape(pick.name)}</div>"
        )
