"""Crystals in three dimensions in a notebook: nglview's stage with species, positions and cells right in every frame.

nglview's own trajectories carry coordinates only. Here `scene.js` draws from buffers that each frame fills, and
keeps all frames in the browser, so that scrubbing through them does not wait for the kernel.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import traitlets

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.pages.animation import crystals_of, element_table, packed
from cdvae_lab.pages.shell import file as script
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.base.still_picture import with_picture

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="pkg_resources")  # nglview's warning, not for its users
    from nglview import NGLWidget


@cache
def _script() -> str:
    return script("cell.js") + Path(__file__).with_name("scene.js").read_text(encoding="utf-8")


class _Direct:
    """Replacement for nglview's queue, which a thread empties ten times a second as long as Python runs."""

    def __init__(self, view: NGLWidget) -> None:
        self._view = view

    @property
    def q(self) -> _Direct:
        return self

    def append(self, callback: Callable[[NGLWidget], None]) -> None:
        callback(self._view)


class Stage(NGLWidget):
    """nglview's widget without its threads, and without its archive of every message.

    `displayed` is called each time a browser shows it, also after a reload of the page.
    """

    at = traitlets.Int(0).tag(sync=True)  # number of the frame; nglview's own `frame` is its player's
    # Whose value is the number instead. The script reads it in the browser; a link would send a message each time.
    slider: Any = traitlets.Instance(ipywidgets.IntSlider, allow_none=True).tag(
        sync=True, **ipywidgets.widget_serialization
    )

    def __init__(self, displayed: Callable[[], None], height: int, slider: ipywidgets.IntSlider | None) -> None:
        self._displayed = displayed
        super().__init__()
        self.slider = slider
        self._view_height = f"{height}px"
        self.layout.width = "100%"

    def _initialize_threads(self) -> None:
        self.on_msg(self._handle_nglview_custom_msg)
        self._remote_call_thread = _Direct(self)

    def _handle_request_loaded(self) -> None:
        self._displayed()

    @traitlets.observe("loaded")
    def on_loaded(self, change: Any) -> None:
        """nglview waits 0.1 s here."""

    def _create_ibtn_fullscreen(self) -> None:
        self._ibtn_fullscreen = ipywidgets.Button(layout={"display": "none"})

    def _set_size(self, w: str, h: str) -> None:
        """Do nothing: the script sets the size."""

    def run(self, code: str) -> None:
        """Run JavaScript in every view of this widget, where `this` is the view."""
        self.send(
            {"type": "call_method", "target": "Widget", "methodName": "executeCode", "args": [code], "kwargs": {}}
        )


class CrystalView(ipywidgets.VBox):
    """Crystals in 3D: one, or several side by side, each turned about its own center by one camera.

    Drag to turn, scroll to zoom. Atoms on a face of the cell are drawn on the opposite face, too. Where widgets cannot
    run, a picture is shown.

    Args:
        what: Crystals or a DenoisingFrame to begin with.
        height: pixels.
        scores: draw arrows along the score.
        slider: whose value is the number of the frame, instead of `index`.

    Raises:
        SettingError: for a height out of range.
    """

    _open = False

    def __init__(
        self,
        what: Crystals | DenoisingFrame | None = None,
        *,
        height: int = 420,
        scores: bool = False,
        slider: ipywidgets.IntSlider | None = None,
    ) -> None:
        if not 100 <= height <= 2000:
            raise SettingError(f"height is {height} pixels; choose 100 to 2000")
        self._frames: list[DenoisingFrame | Crystals] = []
        self._choice: int | None = None
        self._scores = scores
        self._origin: Crystals | None = None
        self._known: set[int] = set()
        self.stage = Stage(self._send_all, height, slider)
        super().__init__([self.stage])
        self._open = True
        if what is not None:
            self.show(what)

    @property
    def frames(self) -> Sequence[DenoisingFrame | Crystals]:
        """The frames that the browser has; `index` is the one that it shows."""
        return tuple(self._frames)

    @property
    def index(self) -> int:
        return self.stage.at if self.stage.slider is None else self.stage.slider.value

    @index.setter
    def index(self, value: int) -> None:
        if self.stage.slider is None:
            self.stage.at = value
        else:
            self.stage.slider.value = value

    def show(self, what: DenoisingFrame | Crystals) -> None:
        """Show this frame alone."""
        self.show_all([what])

    def show_all(
        self, frames: Sequence[DenoisingFrame | Crystals], origin: Crystals | None = None, index: int = 0
    ) -> None:
        """Show these frames of one run.

        Args:
            frames: Crystals or DenoisingFrames.
            origin: move every frame as `render.at_atom(..., like=origin)` does.
            index: which to begin with.
        """
        if frames and self._frames and len(crystals_of(frames[0])) != len(crystals_of(self._frames[0])):
            self._choice = None
        self._frames, self._origin, self._known = list(frames), origin, set()
        self.index = index
        self._send_all()

    def add(self, frames: Sequence[DenoisingFrame | Crystals], follow: bool = False) -> None:
        """Add frames of the same run.

        Args:
            follow: show the last of them, unless the user has moved to another frame; `index` may be set later.
        """
        if not self._frames:
            self.show_all(frames)
            return
        first = len(self._frames)
        self._frames.extend(frames)
        seen = self.index if follow else None
        self._run("add", first, packed(self._moved(frames)), seen, elements=self._elements(frames))

    def put_origin(self, origin: Crystals | None) -> None:
        """Move every frame as `render.at_atom(..., like=origin)` does; None: leave atoms where they are."""
        self._origin = origin
        self._send_all()

    @property
    def choice(self) -> int | None:
        """The number of the one crystal that is shown; None for all, side by side."""
        return self._choice

    @choice.setter
    def choice(self, which: int | None) -> None:
        self._choice = which
        self._look()

    @property
    def scores(self) -> bool:
        """Arrows of sigma^2 * score (Å), where the model thinks that the atom belongs; 1.5 Å long at most."""
        return self._scores

    @scores.setter
    def scores(self, value: bool) -> None:
        self._scores = value
        self._look()

    def current(self) -> Crystals | None:
        """The crystals of the frame that is shown, as they are drawn."""
        if not self._frames:
            return None
        crystals = crystals_of(self._moved([self._frames[min(self.index, len(self._frames) - 1)]])[0])
        return crystals if self._choice is None else crystals[self._choice]

    def close(self) -> None:
        """Give the browser's WebGL context back."""
        if self._open:  # Python also calls this as it forgets a widget, even one that has never begun
            self._open = False
            self.stage.run("this.lab && this.lab.dispose()")
            self.stage.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_picture(super()._repr_mimebundle_(**kwargs), self.current())

    def _scene(self) -> dict[str, Any]:
        crystals = crystals_of(self._frames[0])
        lattice = crystals.lattice.double().cpu().numpy()
        return {
            "cells": [_numbers(cell.flatten(), 4) for cell in lattice],
            "choice": self._choice,
            "scores": self._scores,
            "rotation": _rotation(),
        }

    def _moved(self, frames: Sequence[DenoisingFrame | Crystals]) -> list[DenoisingFrame | Crystals]:
        """Move frames to where they are drawn."""
        if self._origin is None:
            return list(frames)
        placed = [render.at_atom(crystals_of(frame), like=self._origin) for frame in frames]
        return [
            one if isinstance(frame, Crystals) else replace(frame, crystals=one)
            for frame, one in zip(frames, placed, strict=True)
        ]

    def _elements(self, frames: Sequence[DenoisingFrame | Crystals]) -> dict[int, list]:
        """The colors and radii of elements that the script has not received yet."""
        found = {int(n) for frame in frames for n in crystals_of(frame).atomic_numbers.unique().tolist()}
        new = found - self._known - {0}
        self._known |= new
        return element_table(sorted(new))

    def _send_all(self) -> None:
        self.stage.run(_script())
        if self._frames:
            self._known = set()
            frames = packed(self._moved(self._frames))
            self._run("begin", self._scene(), frames, elements=self._elements(self._frames))

    def _look(self) -> None:
        if self._frames:
            self._run("begin", self._scene())

    def _run(self, method: str, *arguments: Any, elements: dict[int, list] | None = None) -> None:
        call = ", ".join(json.dumps(a, separators=(",", ":")) for a in arguments)
        table = f"Object.assign(lab.elements, {json.dumps(elements)}); " if elements else ""
        self.stage.run(f"const lab = this.lab; if (lab) {{ {table}lab.{method}({call}); }}")


def _numbers(values: Any, digits: int) -> list[float]:
    """Round numbers for JSON, which has no NaN: a number that is not finite becomes 0."""
    return [round(float(x), digits) if math.isfinite(x) else 0.0 for x in values]


def _rotation() -> list[float]:
    """The angle that pictures are taken from (`render.ROTATE`), as the columns of a matrix that turns space."""
    spin, tilt = (math.radians(angle) for angle in render.ROTATE)
    right = np.array([math.cos(spin), math.sin(spin), 0])
    away = np.array([-math.sin(spin), math.cos(spin), 0])
    upright = np.array([0, 0, 1.0])
    up = math.cos(tilt) * upright + math.sin(tilt) * away
    towards = math.sin(tilt) * upright - math.cos(tilt) * away
    return np.stack([right, up, towards]).T.flatten().tolist()
