"""The controls of the `InterpolationView`: fields and buttons, the filmstrip, and the curve along the path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.explore.interpolation import ENDS
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.figures import Theme, along_path
from cdvae_lab.figures.paths import CURRENT
from cdvae_lab.widgets.base.fields import Fields, button, row
from cdvae_lab.widgets.interpolation.end_controls import EndActions, EndControls
from cdvae_lab.widgets.interpolation.path_map import PATH
from cdvae_lab.widgets.interpolation.results import PathResults
from cdvae_lab.widgets.interpolation.state import PREDICTED, QUANTITIES, InterpolationState
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.filmstrip import Film
from cdvae_lab.widgets.parts.map_figure import Hit, MapFigure
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WHY_STRAIGHT = (
    "straight: the crystals' latents are spread in few of their dimensions, where nothing speaks for going around; "
    "spherical keeps the length of z, which matters for latents spread like the prior"
)
_WRAP = {"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "8px"}


@runtime_checkable
class Actions(EndActions, Protocol):
    """Actions of the buttons."""

    def run(self) -> None: ...
    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def choose(self) -> Any: ...
    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = ..., wait: bool = ...) -> Any: ...


class InterpolationControls:
    """The widgets of one `InterpolationView`.

    Args:
        state: whose fields they show.
        actions: what the buttons do.
        height: of the crystals, pixels.
        map: to draw the path on; None for no map here.
        label: name and unit of the property that the model predicts; the name is empty if there is none.

    Attributes:
        view: the crystals.
        film: a picture of each stop.
        changes: text on where the composition changes.
        plot: a quantity along the path.
        map: the latent map; None without one.
        ends: the widgets of both ends, by letter.
    """

    def __init__(
        self, state: InterpolationState, actions: Actions, height: int, map: LatentMap | None, label: tuple[str, str]
    ) -> None:
        W, fields = ipywidgets, Fields(state)
        self._state, self._fields, self._label = state, fields, label
        self._results: PathResults | None = None
        name, _ = label
        quantities = [(one, one) for one in QUANTITIES]
        state.offer("quantity", [(f"{name} as the model predicts it", PREDICTED), *quantities] if name else quantities)
        state.quantity = PREDICTED if name else quantities[0][1]
        self.ends = {letter: EndControls(letter, state, actions) for letter in ENDS}
        self.map = None if map is None else MapFigure(map, height=430, clicked=self._click)
        self.view = CrystalView(height=height)
        self.n = fields.make("n", "stops", "105px")
        self.seed = fields.make("seed", "seed", "110px")
        self.path = fields.make("path", "path", "140px", tooltip=_WHY_STRAIGHT)
        self.keep = fields.make("keep", "keep", "210px")
        self.film = Film()
        self.slider = W.IntSlider(
            max=1, description="stop", style={"description_width": "auto"}, layout={"width": "60%"}
        )
        self.changes = W.HTML()
        self.quantity = fields.make("quantity", "along the path", "max-content")  # as wide as its longest option
        self.plot = Plot(self._curve)
        self.plot.layout.flex = "0 0 auto"  # it stands in a column, where the basis would be a height
        self.folder = fields.make("folder", "into folder", "200px")
        self.run = button(actions, "Run", "decode the path", actions.run, "primary")
        self.stop = button(actions, "Stop", "after the current step", actions.stop)
        self.resume = button(actions, "Resume", "from the last frame", actions.resume)
        self.all = button(actions, "all side by side", "every stop at once", lambda: setattr(state, "stop", -1))
        self.choose = button(actions, "choose this stop", "as the chosen crystal of all views", actions.choose)
        self.exports = {
            kind: button(actions, text, tip, lambda kind=kind: actions.export(kinds=[kind], wait=False))
            for text, kind, tip in (
                ("CIFs", "cif", "one of every stop"),
                ("extended XYZ", "extxyz", "all stops in one file"),
                ("PNG", "png", "the strip"),
                ("GIF", "gif", "one stop after another"),
            )
        }
        self.code = fields.code_button()
        fields.bind("stop", self.film, "at")
        self.slider.observe(lambda change: setattr(state, "stop", change["new"]), "value")
        fields.observe("quantity", lambda change: self.plot.redraw())
        fields.observe("stop", lambda change: self._mark_stop(change["new"]))

    def rows(self) -> list[ipywidgets.Widget]:
        """The widgets from top to bottom."""
        W = ipywidgets
        why = W.HTML(f"<details><summary>why straight?</summary>{_WHY_STRAIGHT}.</details>")
        below = [W.VBox([self.quantity, self.plot], layout={"flex": "1 1 380px", "min_width": "0"})]
        below += [] if self.map is None else [self.map]
        return [
            W.HBox([*self.ends.values()], layout=_WRAP),
            row(self.run, self.stop, self.resume, self.n, self.path, self.keep, self.seed, why),
            self.view,
            row(self.slider, self.all, self.choose),
            self.film,
            self.changes,
            W.HBox(below, layout=_WRAP),
            row(W.Label("export"), *self.exports.values(), self.folder, self.code),
        ]

    def enable(self, *, ready: bool, running: bool, busy: bool, frames: bool, finished: bool) -> None:
        """Disable the buttons that could only raise an error.

        Args:
            ready: both ends have a crystal.
            running: the path is being decoded.
            busy: something else is being computed that `stop` ends.
            frames: there are decoded stops.
            finished: the run has come to its end.
        """
        self.run.disabled = running or not ready
        self.stop.disabled = not (running or busy)
        self.resume.disabled = running or not frames or finished
        self.slider.disabled = self.all.disabled = running or not frames
        self.choose.disabled = running or not frames or self._state.stop < 0
        for one in self.exports.values():
            one.disabled = running or busy or not frames

    def clear(self) -> None:
        """Remove everything of the last path."""
        self._state.stop = -1
        self.film.items = []
        self._results = None

    def show_pictures(self, items: list[dict[str, Any]]) -> None:
        """Show a picture of each stop."""
        self.film.items = items
        self._state.limit("stop", len(items) - 1)
        self.slider.max = max(1, len(items) - 1)

    def show_results(self, results: PathResults) -> None:
        """Show everything of a decoded path."""
        self._results = results
        self.show_pictures(results.pictures)
        self.changes.value = results.jumps
        self.plot.redraw()

    def close(self) -> None:
        """Listen no more."""
        self._fields.close()

    def _mark_stop(self, stop: int) -> None:
        if stop >= 0:
            self.slider.value = stop
        layout: Any = self.plot.figure.layout
        with self.plot.figure.batch_update():
            for shape in layout.shapes:
                if shape.name == CURRENT:
                    shape.x0 = shape.x1 = max(stop, 0)
                    shape.visible = stop >= 0

    def _click(self, hit: Hit) -> None:
        if hit.layer == PATH and hit.index is not None:
            self._state.stop = hit.index

    def _curve(self, theme: Theme) -> Figure:
        quantity, results = self._state.quantity, self._results
        name, unit = self._label if quantity == PREDICTED else (quantity, QUANTITIES[quantity])
        if results is None:
            return _no_path(along_path([float("nan")] * 2, name, unit, theme=theme), name)
        lines: Any = dict(results.lines[quantity])
        lines = lines if quantity == PREDICTED else lines[quantity]
        stop = self._state.stop
        figure = along_path(
            lines, name, unit, texts=results.formulas, valid=results.finite,
            reference=dict(results.reference.get(quantity, {})) or None, theme=theme, current=max(stop, 0),
        )  # fmt: skip
        figure.update_shapes(visible=stop >= 0, selector={"name": CURRENT})
        return figure


def _no_path(figure: Figure, name: str) -> Figure:
    """Say in an empty figure what it will show."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    text = f"Run decodes the path and shows here<br>how {name} changes along it"
    figure.add_annotation(text=text, xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False)
    return figure
