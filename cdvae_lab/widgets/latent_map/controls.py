"""The controls of the `LatentMapView`: fields and buttons, and text on the crystal that is shown."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.familiarity import Unfamiliar
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.fields import Attempts, Fields, button, row
from cdvae_lab.widgets.latent_map.lasso_table import lasso_html
from cdvae_lab.widgets.latent_map.state import LABEL, PREDICTED, LatentMapState
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.crystal_view import CrystalView

_GLANCE = 116  # pixels, of the small picture of the crystal under the mouse
_GLANCE_TEXT = 34  # pixels, of the two lines above it
_WARN = "color:var(--jp-error-color1,#c62828)"


@runtime_checkable
class Actions(Attempts, Protocol):
    """Actions of the buttons."""

    def generate(self) -> None: ...
    def add_own(self, source: Any = ..., wait: bool | None = ...) -> None: ...
    def stop(self) -> None: ...
    def clear(self) -> None: ...
    def export_table(self, path: str | Path | None = None, wait: bool = ...) -> Any: ...
    def export_cifs(self, folder: str | Path | None = None, wait: bool = ...) -> Any: ...


class LatentMapControls:
    """The widgets of one `LatentMapView`.

    Args:
        state: whose fields they show.
        actions: what the buttons do.
        map: the map that is shown.
        height: of the map, pixels.

    Attributes:
        view: the crystals.
        table: of the crystals in the lasso.
        layers: a box to tick for each layer.
        caption: text on the crystal that is shown.
        note: a warning below it, if the model does not represent the crystal.
        glance: a small picture of the crystal under the mouse.
    """

    def __init__(self, state: LatentMapState, actions: Actions, map: LatentMap, height: int) -> None:
        W, fields = ipywidgets, Fields(state)
        self._state, self._fields, self._map = state, fields, map
        options: list[tuple[str, str]] = [
            (map.label_name or "label", LABEL),
            ("atoms in the cell", "num_atoms"),
            ("density", "density"),
        ]
        if map.label_name:
            options.insert(1, (predicted_name(map.label_name), PREDICTED))
        state.offer("color", [*options, *((f"share of {symbol}", symbol) for symbol in map.elements)])
        self.view = CrystalView(height=max(200, min(340, height - 200)))
        self.table = W.HTML(layout={"max_height": "260px", "overflow": "auto", "width": "100%"})
        self.color = fields.make("color", "color", "250px")
        self.mouse = W.ToggleButtons(
            options=list(state.options("mouse")), tooltips=["drag moves the map", "drag selects crystals"],
            style={"button_width": "64px"},
        )  # fmt: skip
        fields.bind("mouse", self.mouse)
        self.find = fields.make(
            "find", "find", "230px", placeholder="formula or id, then Enter", continuous_update=False
        )
        self.layers = row()
        self.caption, self.note = W.HTML(layout={"margin": "4px 0"}), W.HTML(layout={"margin": "0"})
        # Of a fixed size, or the page would move whenever the mouse comes to a crystal.
        self.glance = W.HTML(
            layout={"height": f"{_GLANCE + _GLANCE_TEXT}px", "flex": f"0 0 {_GLANCE}px", "overflow": "hidden"}
        )
        self.n = fields.make("n", "", "70px")
        self.seed = fields.make("seed", "seed", "110px")
        self.file = fields.make("file", "or path", "230px", placeholder="my.cif")
        self.folder = fields.make("folder", "into folder", "200px")
        self.progress = W.IntProgress(min=0, max=1, layout={"width": "120px", "display": "none"})
        self.upload = files.upload_button(
            "own CIFs",
            lambda uploads: actions.attempt(lambda: actions.add_own(uploads, wait=None)),
            multiple=True,
        )
        self.generate = button(actions, "Generate", "crystals from the prior, onto the map", actions.generate)
        self.place = button(actions, "Place", "on the map", lambda: actions.add_own(wait=None))
        self.stop = button(actions, "Stop", "after the current step", actions.stop)
        self.csv = button(
            actions, "Table as CSV", "of all crystals in the lasso", lambda: actions.export_table(wait=False)
        )
        self.cifs = button(
            actions, "CIFs", "of all crystals in the lasso, decoded", lambda: actions.export_cifs(wait=False)
        )
        self.clear = button(actions, "Clear", "remove the lasso", actions.clear)
        self.code = fields.code_button()
        fields.observe("rows", lambda change: self._show_table())
        fields.observe("hidden", lambda change: self._tick())
        self._show_table()

    def rows(self, plot: ipywidgets.Widget) -> list[ipywidgets.Widget]:
        """The widgets from top to bottom.

        Args:
            plot: the map.
        """
        W = ipywidgets
        words = W.VBox([self.caption, self.note], layout={"flex": "1 1 0", "min_width": "0"})
        # The picture beside the words: below them it would leave the map's own column empty as far down.
        below = W.HBox([words, self.glance], layout={"grid_gap": "8px"})
        side = W.VBox([self.view, below], layout={"flex": "2 1 280px", "max_width": "460px"})
        return [
            row(self.color, self.mouse, self.find),
            self.layers,
            W.HBox([plot, side], layout={"flex_flow": "row wrap", "align_items": "flex-start"}),
            row(self.generate, self.n, self.seed, self.upload, self.file, self.place, self.stop),
            self.table,
            row(self.csv, self.cifs, self.clear, self.folder, self.progress, self.code),
        ]

    def enable(self, *, running: bool, writing: bool) -> None:
        """Disable the buttons that could only raise an error.

        Args:
            running: something is being decoded.
            writing: files are being written.
        """
        some = bool(self._state.rows)
        self.stop.disabled = not (running or writing)
        self.clear.disabled = not some
        self.csv.disabled = self.cifs.disabled = not some or writing
        self.progress.layout.display = "" if writing else "none"

    def show_layers(self, names: Sequence[str]) -> None:
        """Make a box to tick for every layer."""
        boxes = []
        for name in names:
            box = ipywidgets.Checkbox(
                value=name not in self._state.hidden, description=name, indent=False, layout={"width": "auto"}
            )
            box.observe(lambda change, name=name: self._ticked(name, change["new"]), "value")
            boxes.append(box)
        for old in self.layers.children:
            old.close()
        self.layers.children = tuple(boxes)

    def show_caption(self, title: str, crystal: Crystals | None) -> None:
        """Show text beside the map.

        Args:
            title: HTML.
            crystal: its facts are added.
        """
        more = ""
        if crystal is not None:
            formula = to_html(captions.formula(crystal))
            more = f"<br><b>{formula}</b>: {captions.facts(crystal)}"
        self.caption.value = f"<div style='line-height:1.4'>{title}{more}</div>"
        self.note.value = ""

    def show_unfamiliar(self, crystal: Unfamiliar, models: Sequence[str] | None) -> None:
        """Show below the caption that the model does not represent the crystal.

        Args:
            models: bundled models that represent it; None while they are being tried.
        """
        formula, other = to_html(crystal.formula), to_html(crystal.stands_for)
        if models is None:
            remedy = "The other bundled models are being tried …"
        elif models:
            remedy = f"Bundled models that represent it: {html.escape(', '.join(models))}."
        else:
            remedy = "No bundled model represents it; train one on such crystals."
        self.note.value = (
            f"<div style='line-height:1.4'><b style='{_WARN}'>Not represented</b>: {formula} is far from the training "
            f"data. Its latent stands for {other}, and its place on the map is that of such a crystal. {remedy}</div>"
        )

    def about(self, index: int) -> str:
        """Formula, id and label of a crystal of the map, as HTML."""
        map = self._map
        label = map.labels[index].item()
        value = "none" if label != label else f"{label:.3g} {map.label_unit}"
        data = map.metadata.get("data", {})
        where = f" of {data['name']}, {data['split']}" if {"name", "split"} <= data.keys() else ""
        return (
            f"<b>{to_html(map.formulas[index])}</b>, id {html.escape(map.ids[index] + where)}<br>"
            f"{html.escape(map.label_name or 'label')}: {value} (data)<br>"
        )

    def show_glance(self, text: str, crystal: Crystals | None) -> None:
        """Show a small picture of the crystal under the mouse; none without a crystal.

        Args:
            text: HTML.
        """
        picture = "" if crystal is None else captions.picture(crystal.trim(), _GLANCE)
        line = f"height:{_GLANCE_TEXT}px;line-height:{_GLANCE_TEXT // 2}px;white-space:nowrap"
        self.glance.value = f"<div style='{line}'>under the mouse:<br>{text}</div>{picture}" if picture else ""

    def close(self) -> None:
        """Listen no more."""
        self._fields.close()

    def _show_table(self) -> None:
        self.table.value = lasso_html(self._map, self._state.rows)

    def _ticked(self, name: str, shown: bool) -> None:
        hidden = [one for one in self._state.hidden if one != name]
        self._state.hidden = hidden if shown else [*hidden, name]

    def _tick(self) -> None:
        for box in self.layers.children:
            box.value = box.description not in self._state.hidden


def predicted_name(label: str) -> str:
    """Name of the values that the model predicts for a label."""
    return f"{label}, predicted from z"
