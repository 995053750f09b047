"""An interactive latent map: crystals, layers and paths on it, and callbacks for clicks, hovering and lassos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.figures import GRID, POINTS, THEMES, Theme, empty_places, latent_map, layer_trace
from cdvae_lab.figures.maps import WITHOUT
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CHOSEN = "chosen"  # name of the trace that rings the chosen place
TRAINING = "training set"  # name of the map's own crystals, among the layers


@dataclass(frozen=True)
class Hit:
    """The target under the mouse: a crystal of the map, a point of a layer or path, or an empty place.

    Attributes:
        xy: the place.
        layer: name of the layer; None for a crystal of the map and for an empty place.
        index: number of the crystal on the map, or of the point in its layer; None for an empty place.
    """

    xy: tuple[float, float]
    layer: str | None = None
    index: int | None = None


@dataclass(frozen=True)
class Overlay:
    """A layer or a path: points with a text each."""

    joined: bool
    xy: Float[Tensor, "points 2"]
    texts: tuple[str, ...]
    number: int
    shown: bool = True


class MapFigure(Plot):
    """The latent map as a live figure.

    Args:
        map: the map to draw.
        color: as in `figures.latent_map`.
        height: pixels.
        clicked, hovered: called with a `Hit`.
        lassoed: called with the numbers of the map's crystals in a lasso; with none when it is removed.
    """

    def __init__(
        self,
        map: LatentMap,
        *,
        color: str | tuple[str, str, Tensor] = "label",
        height: int = 560,
        clicked: Callable[[Hit], Any] = lambda hit: None,
        hovered: Callable[[Hit], Any] = lambda hit: None,
        lassoed: Callable[[list[int]], Any] = lambda rows: None,
    ) -> None:
        self.map, self._color, self._height = map, color, height
        self._clicked, self._hovered, self._lassoed = clicked, hovered, lassoed
        self._overlays: dict[str, Overlay] = {}
        self._next = 0  # number of the next layer, which decides its color
        self._training = True
        self._chosen: tuple[float, float] | None = None
        self._part: tuple[tuple[float, float], tuple[float, float]] | None = None  # the visible ranges of x and y
        self._in_lasso: dict[str, list[int]] = {}
        super().__init__(self._make)
        for trace in self.figure.data:
            self._listen(trace)
        layout: Any = self.figure.layout
        layout.on_change(self._moved, "xaxis.range", "yaxis.range")

    # --- drawing ----------------------------------------------------------------------------------------

    @property
    def color(self) -> str | tuple[str, str, Tensor]:
        """The colors of the crystals, as `figures.latent_map` takes them; setting them redraws the map."""
        return self._color

    @property
    def chosen(self) -> tuple[float, float] | None:
        """The place with a ring around it."""
        return self._chosen

    @color.setter
    def color(self, value: str | tuple[str, str, Tensor]) -> None:
        before, self._color = self._color, value
        try:
            self.redraw()  # refuses before anything has changed
        except SettingError:
            self._color = before
            raise

    @property
    def layers(self) -> dict[str, bool]:
        """Names of the training set, the layers and the paths, and whether each is shown."""
        return {TRAINING: self._training} | {name: one.shown for name, one in self._overlays.items()}

    def show_layer(self, name: str, shown: bool) -> None:
        """Show or hide one of `layers`."""
        if name == TRAINING:
            self._training = shown
            with self.figure.batch_update():
                for trace in self.figure.data:
                    if trace.name in (POINTS, WITHOUT):
                        trace.visible = shown and len(trace.x) > 0
            return
        self._overlays[name] = replace(self._overlays[name], shown=shown)
        self._trace(name).visible = shown

    def put(self, name: str, joined: bool, xy: Float[Tensor, "points 2"], texts: Sequence[str] = ()) -> None:
        """Draw a layer or path; it replaces one of the same name.

        Raises:
            SettingError: for a name that is the map's own.
        """
        if name in (GRID, POINTS, WITHOUT, CHOSEN, TRAINING):
            raise SettingError(
                f"a layer cannot be called {name!r}, which is a name of the map's own; choose another name"
            )
        old = self._overlays.get(name)
        number = self._next if old is None else old.number
        self._next += old is None
        shown = True if old is None else old.shown
        self._overlays[name] = Overlay(joined, xy.detach().cpu().float(), tuple(texts), number, shown)
        made = self._overlay_trace(name)
        if old is None:
            self.figure.add_trace(made)
            self._listen(self._trace(name))
            return
        trace = self._trace(name)
        with self.figure.batch_update():
            trace.update(x=made.x, y=made.y, text=made.text, marker=made.marker)

    def places(self, name: str) -> Float[Tensor, "points 2"]:
        """The points of a layer or path."""
        return self._overlays[name].xy

    def drop(self, name: str) -> None:
        """Remove a layer or path; does nothing if there is none of that name."""
        if self._overlays.pop(name, None) is not None:
            self.figure.data = tuple(trace for trace in self.figure.data if trace.name != name)

    def mark(self, xy: tuple[float, float] | None) -> None:
        """Draw a ring around a place; None removes it."""
        self._chosen = xy
        trace = self._trace(CHOSEN)
        with self.figure.batch_update():
            trace.x, trace.y = ([], []) if xy is None else ([xy[0]], [xy[1]])

    def clear(self) -> None:
        """Remove the lasso."""
        with self.figure.batch_update():
            for trace in self.figure.data:
                trace.selectedpoints = None
            self.figure.update_layout(selections=[])

    def show_all(self) -> None:
        """Show the whole map again after a zoom."""
        self._part = None
        self.redraw()

    def _trace(self, name: str) -> Any:
        [found] = [trace for trace in self.figure.data if trace.name == name]
        return found

    def _overlay_trace(self, name: str) -> Any:
        one = self._overlays[name]
        trace = layer_trace((name, one.xy, one.texts), one.joined, one.number, self.theme)
        trace.visible = one.shown
        return trace

    def _make(self, theme: Theme) -> Figure:
        from plotly.graph_objects import Scattergl

        figure: Any = latent_map(self.map, self._color, theme=theme, height=self._height)
        x, y = ([], []) if self._chosen is None else ([self._chosen[0]], [self._chosen[1]])
        figure.add_trace(
            Scattergl(
                x=x, y=y, name=CHOSEN, mode="markers", hoverinfo="skip", showlegend=False,
                marker={"symbol": "circle-open", "size": 18, "color": THEMES[theme].ink, "line": {"width": 3}},
                # A lasso fades every trace that it does not hold a point of.
                selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}},
            )
        )  # fmt: skip
        for name, one in self._overlays.items():
            trace = layer_trace((name, one.xy, one.texts), one.joined, one.number, theme)
            trace.visible = one.shown
            figure.add_trace(trace)
        for trace in figure.data:
            if trace.name in (POINTS, WITHOUT):
                trace.visible = self._training and len(trace.x) > 0
        figure.update_layout(
            showlegend=True, margin={"t": 64}, modebar={"remove": ["toImage", "autoScale2d"]},
            legend={"itemclick": False, "itemdoubleclick": False},
        )  # fmt: skip
        if self._part is not None:
            figure.update_xaxes(range=self._part[0])
            figure.update_yaxes(range=self._part[1])
            figure.data[0].update(self._net())
        return figure

    # --- the mouse --------------------------------------------------------------------------------------

    def _listen(self, trace: Any) -> None:
        if trace.name == CHOSEN:
            return
        trace.on_click(lambda one, points, state: self._at(one, points, self._clicked))
        if trace.name != GRID:
            trace.on_hover(lambda one, points, state: self._at(one, points, self._hovered))
        if trace.name in (POINTS, WITHOUT):
            trace.on_selection(lambda one, points, selector: self._lasso(one, points))
            trace.on_deselect(lambda one, points: self._lasso(one, points))

    def _at(self, trace: Any, points: Any, tell: Callable[[Hit], Any]) -> None:
        if not points.point_inds:  # plotly calls every trace, also those that were not hit
            return
        index, xy = points.point_inds[0], (float(points.xs[0]), float(points.ys[0]))
        if trace.name == GRID:
            tell(Hit(xy))
        elif trace.name in (POINTS, WITHOUT):
            tell(Hit(xy, None, int(trace.customdata[index])))
        else:
            tell(Hit(xy, trace.name, index))

    def _lasso(self, trace: Any, points: Any) -> None:
        self._in_lasso[trace.name] = [int(trace.customdata[i]) for i in points.point_inds]
        # One message makes a call for each trace, in their order; POINTS is the later of the two.
        if trace.name == POINTS:
            self._lassoed(sorted(i for rows in self._in_lasso.values() for i in rows))

    def _moved(self, layout: Any, x: Any, y: Any) -> None:
        """Adapt the net of empty places to the zoom, so that it is as fine on the screen as before."""
        part = ((float(x[0]), float(x[1])), (float(y[0]), float(y[1])))
        if part != self._part:
            self._part = part
            net = self._net()
            with self.figure.batch_update():
                self.figure.data[0].update(net)

    def _net(self) -> dict[str, np.ndarray]:
        assert self._part is not None
        low, high = np.array(self._part).T
        places = empty_places(self.map, low, high)
        return {"x": places[:, 0], "y": places[:, 1]}
