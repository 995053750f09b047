"""The looks of the `LatentMapView`: its fields and buttons, and what is said of what is shown."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.panel import field, row
from cdvae_lab.widgets.latent_map.lasso_table import LassoTable
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.crystal_view import CrystalView

if TYPE_CHECKING:
    from cdvae_lab.widgets.latent_map.view import LatentMapView


class MapLooks:
    """Parts of one `LatentMapView`; it decides, these show.

    Args:
        panel: whose parts they are.
        height: of the map, pixels.
    """

    def __init__(self, panel: LatentMapView, height: int) -> None:
        W, self._panel, known = ipywidgets, panel, panel.map
        options: list[tuple[str, Any]] = [
            (known.label_name or "label", "label"),
            ("atoms in the cell", "num_atoms"),
            ("density", "density"),
        ]
        if known.label_name:
            options.insert(1, (predicted_name(known.label_name), "predicted"))
        options += [(f"share of {symbol}", symbol) for symbol in known.elements]
        self.view = CrystalView(height=max(200, min(340, height - 200)))
        self.table = LassoTable(known)
        self.colors = field(W.Dropdown, "color", "250px", options=options)
        self._mouse = W.ToggleButtons(
            options=[("move", "pan"), ("lasso", "lasso")], tooltips=["drag moves the map", "drag selects crystals"],
            style={"button_width": "64px"},
        )  # fmt: skip
        self._find = field(W.Text, "find", "230px", placeholder="formula or id, then Enter", continuous_update=False)
        self.layers = row()
        self.words = W.HTML(layout={"margin": "4px 0"})
        self.glance = W.HTML()
        self._n = field(W.BoundedIntText, "", "70px", value=16, min=1, max=64)
        self._seed = field(W.BoundedIntText, "seed", "110px", value=0, min=0, max=2**31 - 1)
        self._path = field(W.Text, "or path", "230px", placeholder="my.cif")
        self._folder = field(W.Text, "into folder", "200px", value="out")
        self.progress = W.IntProgress(min=0, max=1, layout={"width": "120px"})
        button, act = panel._button, panel._try
        self._upload = files.upload_button(
            "own CIFs", lambda uploads: act(lambda: panel.add_own(uploads)), multiple=True
        )
        self._generate = button(
            "Generate", "crystals from the prior, onto the map", lambda: panel.generate(self._n.value, self._seed.value)
        )
        self._place = button("Place", "on the map", lambda: panel.add_own(self._path.value))
        self._stop = button("Stop", "after the step that is being computed", panel.stop)
        self._csv = button(
            "Table as CSV",
            "of all crystals in the lasso",
            lambda: panel._written([panel.export_table(Path(self._folder.value) / "latent_map_table.csv")]),
        )
        self._cifs = button(
            "CIFs",
            "of all crystals in the lasso, decoded",
            lambda: panel.export_cifs(Path(self._folder.value) / "map"),
        )
        self._clear = button("Clear", "take the lasso away", panel.clear)
        self.colors.observe(lambda change: act(lambda: panel._recolor(change["new"])), "value")
        self._mouse.observe(lambda change: panel.plot.figure.update_layout(dragmode=change["new"]), "value")
        self._find.observe(lambda change: change["new"] and act(lambda: panel.find(change["new"])), "value")

    def rows(self) -> list[ipywidgets.Widget]:
        """From top to bottom."""
        side = ipywidgets.VBox([self.view, self.words, self.glance], layout={"flex": "2 1 280px", "max_width": "460px"})
        return [
            row(self.colors, self._mouse, self._find),
            self.layers,
            ipywidgets.HBox([self._panel.plot, side], layout={"flex_flow": "row wrap", "align_items": "flex-start"}),
            row(self._generate, self._n, self._seed, self._upload, self._path, self._place, self._stop),
            self.table,
            row(self._csv, self._cifs, self._clear, self._folder, self.progress, self._panel._code_button),
        ]

    def refresh(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        writing, some = self._panel._cifs.running, bool(self.table.rows)
        self._stop.disabled = not (self._panel._live.running or writing)
        self._csv.disabled = self._clear.disabled = not some
        self._cifs.disabled = not some or writing
        self.progress.layout.display = "" if writing else "none"
        self._panel._draw_code()

    def draw_layers(self) -> None:
        """A box to tick for every layer."""
        plot, boxes = self._panel.plot, []
        for name, shown in plot.layers.items():
            box = ipywidgets.Checkbox(value=shown, description=name, indent=False, layout={"width": "auto"})
            box.observe(lambda change, name=name: plot.show_layer(name, change["new"]), "value")
            boxes.append(box)
        for old in self.layers.children:
            old.close()
        self.layers.children = tuple(boxes)

    def caption(self, title: str, crystal: Crystals | None) -> None:
        """What is said beside the map: HTML, and the facts of a crystal."""
        more = ""
        if crystal is not None:
            more = f"<br><b>{to_html(words.formula(crystal))}</b>: {words.facts(crystal)}"
        self.words.value = f"<div style='line-height:1.4'>{title}{more}</div>"

    def about(self, index: int) -> str:
        """Of a crystal of the map, as HTML: formula, id and the data's label."""
        known = self._panel.map
        label = known.labels[index].item()
        value = "none" if label != label else f"{label:.3g} {known.label_unit}"
        data = known.metadata.get("data", {})
        where = f" of {data['name']}, {data['split']}" if {"name", "split"} <= data.keys() else ""
        return (
            f"<b>{to_html(known.formulas[index])}</b>, id {html.escape(known.ids[index] + where)}<br>"
            f"{html.escape(known.label_name or 'label')}: {value} (data)<br>"
        )

    def glance_at(self, text: str, crystal: Crystals | None) -> None:
        """A small picture of what is under the mouse; none without a crystal."""
        picture = "" if crystal is None else words.picture(crystal.trim(), 130)
        self.glance.value = f"<div>under the mouse: {text}</div>{picture}" if picture else ""


def predicted_name(property_name: str) -> str:
    """What the model's own predictions are called."""
    return f"{property_name}, predicted from z"
