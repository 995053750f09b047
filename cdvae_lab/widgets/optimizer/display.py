"""Everything that is drawn of a search: its course, its trail, the filmstrip, and the crystals of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.optimizer import verdict
from cdvae_lab.widgets.optimizer.controls import OptimizerControls
from cdvae_lab.widgets.optimizer.course import HEIGHT, Course
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Search
from cdvae_lab.widgets.optimizer.region import Region
from cdvae_lab.widgets.parts.maps import PathCanvas
from cdvae_lab.widgets.parts.trail_map import TRAIL, TrailMap


class SearchDisplay:
    """Draws one search at a time.

    Args:
        controls: with the filmstrip, the crystals and the texts.
        label: name and unit of the property.
        region: of the training crystals.
        map: for the trail; None without one.
        canvas: a view that draws the trail instead.
        new_run: makes the run in which missing pictures are made, given what draws them.

    Attributes:
        course: the figure of the property and of |z|.
        map: the figure with the trail; None without a map, or if another view draws it.
    """

    def __init__(
        self,
        controls: OptimizerControls,
        label: tuple[str, str],
        region: Region,
        map: LatentMap | None,
        canvas: PathCanvas | None,
        new_run: Callable[[Callable[[Sequence[Any]], Any]], RecordedRun[Any]],
    ) -> None:
        self._controls, self._label, self._region, self._canvas = controls, label, region, canvas
        self.course = Course(label, region)
        self.map = TrailMap(map, HEIGHT) if map is not None and canvas is None else None
        self._painter = new_run(lambda new: self._draw_film())
        self._search, self._crystal, self._index = Search(), 0, 0
        self._shown: Any = None

    @property
    def figures(self) -> list[Any]:
        """Course and map."""
        return [self.course] if self.map is None else [self.course, self.map]

    def draw(self, search: Search, crystal: int, index: int, independent: bool) -> None:
        """Bring everything up to date.

        Args:
            crystal: number of the crystal that is shown.
            index: of the kept step that is shown.
            independent: there is an independent predictor.
        """
        if crystal != self._crystal or search is not self._search:
            self._painter.cancel()
        self._search, self._crystal, self._index = search, crystal, index
        self.course.draw(search, crystal, index, independent)
        self._draw_trail()
        self._draw_film()
        self._draw_crystals()
        name, unit = self._label
        self._controls.where.value = verdict.position(search, index, crystal, unit)
        self._controls.show_warnings(self._region.warnings(search.steps[index], name, unit))

    def _draw_trail(self) -> None:
        search, k = self._search, self._crystal
        numbers = [step.step for step in search.steps]
        if self._canvas is not None:
            z = torch.stack([step.z[k] for step in search.steps])
            self._canvas.set_path(TRAIL, z, [f"step {number}" for number in numbers])
        if self.map is not None:
            self.map.draw(
                search, [step.z for step in search.steps], numbers,
                dots=[one.step for one in search.decoded], crystal=k, index=self._index,
            )  # fmt: skip

    def _draw_film(self) -> None:
        """Show the pictures made so far; the others are made in the background."""
        decoded, k, place = self._search.decoded, self._crystal, self._search.at(self._index)
        missing = [one for one in decoded if k not in one.pictures]
        if missing and not self._painter.running:
            self._painter.start(self._painted(missing, k))
        there = [one.pictures[k] for one in decoded if k in one.pictures]
        self._controls.show_film(there, -1 if place is None or missing else place)

    def _painted(self, decoded: Sequence[Decoded], k: int) -> Iterator[Decoded]:
        """Draw one crystal of several decodings in the worker thread."""
        for one in decoded:
            verdict.paint(one, k, self._label[1])
            yield one

    def _draw_crystals(self) -> None:
        search, k, place = self._search, self._crystal, self._search.at(self._index)
        if place is None:
            self._controls.caption.value = ""
            return
        one, first = search.decoded[place], search.decoded[0]
        shown = (id(one), id(first), k)
        if shown != self._shown:
            self._shown = shown
            self._controls.view.show(render.at_atom(Crystals.cat([first.crystals[k], one.crystals[k]])))
            self._controls.caption.value = verdict.caption(search, place, k, self._label[1])
