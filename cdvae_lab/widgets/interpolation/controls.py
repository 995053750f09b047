"""The looks of the `InterpolationView`: its fields and buttons, the film, and what changes along the path."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import ipywidgets
import torch

from cdvae_lab.crystals.formulas import density, reduced_formulas, to_html
from cdvae_lab.crystals.lattice import volume
from cdvae_lab.explore.interpolation import ENDS, PATHS
from cdvae_lab.figures import Theme, along_path
from cdvae_lab.figures.paths import CURRENT
from cdvae_lab.metrics import distances, validity
from cdvae_lab.widgets.base.panel import field, row
from cdvae_lab.widgets.latent_map.figure import Hit, MapFigure, chosen_map
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.filmstrip import Film, path_pictures
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from cdvae_lab.crystals.batch import Crystals
    from cdvae_lab.widgets.interpolation.view import InterpolationView

PATH = "path"  # name of the line on the map
KEEP = {
    "nothing": {},
    "composition of a": {"keep_composition": "a"},
    "composition of b": {"keep_composition": "b"},
    "number of atoms of a": {"keep_num_atoms": "a"},
    "number of atoms of b": {"keep_num_atoms": "b"},
}
_WHY_STRAIGHT = (
    "straight: the crystals' latents are spread in few of their dimensions, where nothing speaks for going around; "
    "spherical keeps the length of z, which matters for latents spread like the prior"
)
_MADE = {
    "density": density,
    "volume per atom": lambda crystals: volume(crystals.lattice) / crystals.num_atoms,
    "number of atoms": lambda crystals: crystals.num_atoms,
    "closest distance": distances.closest_distance,
}
_UNITS = {"density": "g/cm³", "volume per atom": "Å³", "number of atoms": "", "closest distance": "Å"}


class PathLooks:
    """Parts of one `InterpolationView`; it decides, these show.

    Args:
        panel: whose parts they are.
        n, seed: to begin with.
        height: of the crystals, pixels.
        map: as of the `InterpolationView`.

    Raises:
        CheckpointError: if the map is of another model.
    """

    def __init__(self, panel: InterpolationView, n: int, seed: int, height: int, map: Any) -> None:
        W, self._panel = ipywidgets, panel
        known = chosen_map(panel._the_model, map)
        self._elsewhere = map if hasattr(map, "set_path") else None
        self.map = None
        if known is not None and self._elsewhere is None:
            self.map = MapFigure(known, height=430, clicked=self._click)
        self.view = CrystalView(height=height)
        self.n = field(W.BoundedIntText, "stops", "105px", value=n, min=2, max=41)
        self.seed = field(W.BoundedIntText, "seed", "110px", value=seed, min=0, max=2**31 - 1)
        self.shape = field(W.Dropdown, "path", "140px", options=list(PATHS), tooltip=_WHY_STRAIGHT)
        self.keep = field(W.Dropdown, "keep", "210px", options=list(KEEP))
        self.film = Film()
        self.slider = field(W.IntSlider, "stop", "60%", value=0, min=0, max=1)
        self.changes = W.HTML()
        self.what = field(W.Dropdown, "along the way", "330px", options=list(self._quantities()))
        self.plot = Plot(self._curve)
        self.plot.layout.flex = "0 0 auto"  # it stands in a column, where the basis would be a height
        self.folder = field(W.Text, "into folder", "200px", value="out/path")
        button = panel._button
        self._run = button("Run", "decode the path", panel.run, "primary")
        self._stop = button("Stop", "after the step that is being computed", panel.stop)
        self._go = button("Go on", "from the last frame", panel.go_on)
        self._all = button("all side by side", "every stop at once", lambda: setattr(self.film, "at", -1))
        self._use = button("use this stop", "as the chosen crystal of all views", panel.choose)
        self._exports = panel._export_buttons(
            panel.export,
            ("CIFs", "cif", "one of every stop"),
            ("extended XYZ", "extxyz", "all stops in one file"),
            ("PNG", "png", "the strip"),
            ("GIF", "gif", "one stop after another"),
        )
        self.film.observe(lambda change: self._show_stop(change["new"]), "at")
        self.slider.observe(lambda change: setattr(self.film, "at", change["new"]), "value")
        self.what.observe(lambda change: self.plot.redraw(), "value")

    def rows(self) -> list[ipywidgets.Widget]:
        """From top to bottom."""
        W, panel = ipywidgets, self._panel
        why = W.HTML(f"<details><summary>why straight?</summary>{_WHY_STRAIGHT}.</details>")
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "8px"}
        below = [W.VBox([self.what, self.plot], layout={"flex": "1 1 380px", "min_width": "0"})]
        below += [] if self.map is None else [self.map]
        return [
            W.HBox([*panel.ends.values()], layout=wrap),
            row(self._run, self._stop, self._go, self.n, self.shape, self.keep, self.seed, why),
            self.view,
            row(self.slider, self._all, self._use),
            self.film,
            self.changes,
            W.HBox(below, layout=wrap),
            row(*self._exports, self.folder, panel._code_button),
        ]

    def refresh(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        live = self._panel._live
        some = bool(live.frames)
        ready = all(end.crystal is not None for end in self._panel.ends.values())
        self._run.disabled = live.running or not ready
        self._stop.disabled = not live.running
        self._go.disabled = live.running or not some or live.finished
        self.slider.disabled = self._all.disabled = live.running or not some
        self._use.disabled = live.running or self.film.at < 0
        for one in self._exports:
            one.disabled = live.running or not some
        self._panel._draw_code()

    def clear(self) -> None:
        """Another path, of which nothing is decoded yet."""
        self.film.at = -1
        self.film.items = []
        self.draw_path()

    def draw_film(self) -> None:
        """The stops as they are by now."""
        crystals = self._panel.crystals.to("cpu")
        self.film.items = path_pictures(crystals, self.places())
        self.slider.max = len(crystals) - 1

    def draw_path(self) -> None:
        """On the map, here or elsewhere."""
        live, path = self._panel._live, self._panel.path
        done = live.crystals if live.frames and len(live.crystals) == len(path) else None
        texts = [""] * len(path) if done is None else reduced_formulas(done)
        if self._elsewhere is not None:
            self._elsewhere.set_path(PATH, path.z, texts, crystals=done)
        elif self.map is not None:
            self.map.put(PATH, True, self.map.map.place(path.z.cpu().float()), texts)

    def draw_results(self) -> None:
        """All that there is to say of the path as it is now."""
        self.draw_film()
        self.draw_path()
        self.plot.redraw()
        self.changes.value = _jumps(self._panel.crystals)

    def places(self) -> list[str]:
        """How far along the path each stop is."""
        return [f"{weight:.0%}" for weight in self._panel.path.weights.tolist()]

    def _show_stop(self, k: int) -> None:
        self.view.choice = None if k < 0 else k
        if k >= 0:
            self.slider.value = k
        layout: Any = self.plot.figure.layout
        with self.plot.figure.batch_update():
            for shape in layout.shapes:
                if shape.name == CURRENT:
                    shape.x0 = shape.x1 = max(k, 0)
                    shape.visible = k >= 0
        if k >= 0 and self.map is not None and self._panel._path is not None:
            x, y = self.map.map.place(self._panel._path.z[[k]].cpu().float())[0].tolist()
            self.map.mark((x, y))
        self.refresh()

    def _click(self, hit: Hit) -> None:
        if hit.layer == PATH and hit.index is not None:
            self.film.at = hit.index

    def _quantities(self) -> dict[str, str]:
        """What can be drawn along the path, with its unit."""
        data = self._panel._the_model.metadata.get("data", {})
        name, unit = data.get("property") or "", data.get("property_unit") or ""
        return ({f"{name} as the model predicts it": unit} if name else {}) | _UNITS

    def _curve(self, theme: Theme) -> Figure:
        panel, what = self._panel, self.what.value
        unit = self._quantities()[what]
        if panel._path is None or not panel._live.frames:
            return along_path([float("nan")] * 2, what.partition(" as the")[0], unit, theme=theme)
        crystals = panel.crystals.to("cpu")
        finite = validity.structure_validity(crystals)
        reference: dict[str, float | int] | None = None
        if what in _MADE:
            lines: Any = _MADE[what](crystals)
            ends = _MADE[what](panel._path.ends.to("cpu")).tolist()
            reference = {f"{letter}, as given": value for letter, value in zip(ENDS, ends, strict=True)}
        else:
            what = str(panel._the_model.metadata["data"]["property"])
            lines = {"predicted from z": self._property(panel._path.z)}
            again = torch.full((len(crystals),), torch.nan)
            if bool(finite.any()):
                with torch.no_grad():
                    mu = panel._the_model.encode(crystals[finite].to(panel._the_model.device)).mu
                again[finite] = self._property(mu)
            lines["from the decoded crystal"] = again
        at = self.film.at
        figure = along_path(
            lines, what, unit, texts=reduced_formulas(crystals), valid=finite, reference=reference, theme=theme,
            current=max(at, 0),
        )  # fmt: skip
        figure.update_shapes(visible=at >= 0, selector={"name": CURRENT})
        return figure

    def _property(self, z: torch.Tensor) -> torch.Tensor:
        model = self._panel._the_model
        with torch.no_grad():
            return model.predict_property(z.to(model.device)).cpu().float()


def _jumps(crystals: Crystals) -> str:
    """Where composition or number of atoms changes: there is nothing between one element and another."""
    names = [
        f"{to_html(formula)} ({count} atoms)"
        for formula, count in zip(reduced_formulas(crystals), crystals.num_atoms.tolist(), strict=True)
    ]
    steps = [
        f"{k} → {k + 1}: {one} → {other}" for k, (one, other) in enumerate(itertools.pairwise(names)) if one != other
    ]
    if not steps:
        return f"The same atoms at every stop: {names[0]}."
    return f"<b>Jumps</b>, where what the crystal is made of changes between two stops: {'; '.join(steps)}."
