"""The latent space as a map: click on a crystal to see it, and on an empty place to decode the latent there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import DEFAULT
from cdvae_lab.widgets.base.replay_code import ReplayCode, Sampler, WithCode
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.latent_map.cifs import cifs_code, write_cifs
from cdvae_lab.widgets.latent_map.controls import LatentMapControls, predicted_name
from cdvae_lab.widgets.latent_map.decoder import Decoder
from cdvae_lab.widgets.latent_map.exports import MapExport, write_table
from cdvae_lab.widgets.latent_map.foreign_picks import ForeignPicks
from cdvae_lab.widgets.latent_map.generated_layer import GeneratedLayer
from cdvae_lab.widgets.latent_map.glance import Glance
from cdvae_lab.widgets.latent_map.lasso_table import lasso_table
from cdvae_lab.widgets.latent_map.layers import Layers
from cdvae_lab.widgets.latent_map.own_layer import OWN, OwnLayer
from cdvae_lab.widgets.latent_map.record import Record
from cdvae_lab.widgets.latent_map.shown_crystal import ShownCrystal
from cdvae_lab.widgets.latent_map.state import PREDICTED, LatentMapState
from cdvae_lab.widgets.latent_map.unfamiliar_note import UnfamiliarNote
from cdvae_lab.widgets.parts.map_figure import Hit, MapFigure
from cdvae_lab.widgets.parts.maps import require_map
from cdvae_lab.widgets.parts.originals import Originals

if TYPE_CHECKING:
    import pandas as pd


class LatentMapView(View):
    """A map of the latents of a data set, and of everything else that has a latent.

    Every action of the mouse is also a method: `choose` a crystal of the map, `decode_at` an empty place,
    `find`, `select` crystals for the table, `generate`, `add_own`, `export_table`, `export_cifs`; every field is a
    trait of `state`. Other views and scripts draw on the map with `set_layer` and `set_path`. A crystal that is chosen
    becomes the `pick` of the selection.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        map: the LatentMap, its file, or a bundled one's name; None takes the bundled one of this model.
        selection: the crystals chosen here and in other views; a new one by default.
        height: of the map, pixels.
        data_folder: where the public data files lie, as `folder` of `datasets.load`; None looks where that keeps what
            it has downloaded. With them the data's own crystals are shown; nothing is ever downloaded here.
        sampler, settings: of `denoise`.

    Attributes:
        map: the map that is shown.
        plot: its figure.
        view: the crystals beside it.

    Raises:
        CheckpointError: if the map is of another model, or there is none of this model.
        SettingError: for a height out of range, or a sampler or setting that does not exist.
    """

    state: LatentMapState
    model: CDVAE

    def __init__(
        self,
        model: CDVAE | WithCode[CDVAE] | str | Path = "perov_5",
        map: LatentMap | WithCode[LatentMap] | str | Path | None = None,
        *,
        selection: Selection | None = None,
        height: int = 560,
        data_folder: str | Path | None = None,
        sampler: str | Schedule = DEFAULT,
        **settings: Any,
    ) -> None:
        if not 200 <= height <= 2000:
            raise SettingError(f"height is {height} pixels; choose 200 to 2000")
        super().__init__(model, LatentMapState(), selection)
        known = require_map(self.model, map)
        self.map = known.value
        self._sampler = Sampler(self.model, sampler, settings)
        setup = {"model": self.model_code, "known": known.code, **self._sampler.setup}
        self._record = Record(setup, self.selection, self.draw_code)
        self._originals = Originals(self.model, self.map, data_folder)
        self.controls = LatentMapControls(self.state, self, self.map, height)
        self.view = self.controls.view
        self.plot = MapFigure(
            self.map, height=height, clicked=lambda hit: self.attempt(lambda: self._click(hit)),
            hovered=lambda hit: self._glance.show(hit), lassoed=lambda rows: self.select(rows),
        )  # fmt: skip
        self._layers = Layers(self.plot, self.controls, self.state)
        self._decoder = Decoder(
            self.model, self.map, self._sampler, self.controls, self._record, self.new_run, self.show_message,
            self.show_error, self._enable,
        )  # fmt: skip
        self.recorded_run = self._decoder.run
        self._finder = self.new_task("looking for the crystal", self._enable)  # that is to be shown next
        self._glance = Glance(
            self.map, self._layers, self._originals, self._decoder, self.controls, self.new_task(""),
            lambda: self.recorded_run.running or self._finder.running,
        )  # fmt: skip
        note = UnfamiliarNote(self.model, self.controls, self.new_task(""))
        self._shown = ShownCrystal(
            self.plot, self._layers, self._originals, self.controls, self._record, self._decoder, self._glance,
            note, self._finder, self.show_message,
        )  # fmt: skip
        self._foreign = ForeignPicks(self.model, self.plot, self._shown, self._finder, self.show_error)
        self._generated = GeneratedLayer(
            self._layers, self._decoder, self._sampler.arguments, self.controls, self._record
        )
        self._encoder = self.new_task("reading", self._enable)
        self._own = OwnLayer(
            self.model, self._layers, self._record, self._encoder,
            lambda index: self.attempt(lambda: self.choose_in(OWN, index)), self.show_message,
        )  # fmt: skip
        self._export = MapExport(
            self.controls, lambda show: self.new_run(show=show, max_frames=1), self.show_message, self.show_error,
            self._enable,
        )  # fmt: skip
        self._reader = self.new_run(show=lambda status: None, max_frames=1)
        if self._originals.file:  # a table of thousands of texts, which the first click need not wait for
            self._reader.start(self._originals.get(i) for i in range(1))
        self.show_rows(self.controls.rows(self.plot), self.controls)
        self.add_class("cdvae-map")
        self.listen(self.state, "color", lambda change: self.attempt(lambda: self._recolor(change["new"])))
        self.listen(self.state, "mouse", lambda change: self.plot.figure.update_layout(dragmode=change["new"]))
        self.listen(self.state, "find", lambda change: change["new"] and self.attempt(lambda: self.find(change["new"])))
        self.listen(self.state, "hidden", lambda change: self._layers.show_ticked())
        self.listen(self.state, "rows", lambda change: self._rows_changed())
        self.when_picked(self._picked)
        self._enable()
        self.show_message("click on a crystal to see it, on an empty place to decode the latent there")
        self._picked(self.selection.pick)

    # --- what can be done, by the mouse and from code -----------------------------------------------------

    @property
    def replay_code(self) -> ReplayCode:
        """Python code that repeats the actions in this view, in order."""
        return self._record.code

    @property
    def color(self) -> str | tuple[str, str, Tensor]:
        """The color of the crystals, as in `figures.latent_map`; a word is also the state's."""
        return self.plot.color

    @color.setter
    def color(self, value: str | tuple[str, str, Tensor]) -> None:
        if not isinstance(value, str):
            self.plot.color = value
            self._record.add(f"figure = lab.figures.latent_map(known, ({value[0]!r}, {value[1]!r}, values))")
        elif value == self.state.color:
            self._recolor(value)
        else:
            self.state.color = value

    def choose(self, index: int, wait: bool = False) -> None:
        """Show a crystal of the map: from the public data file if it is on this machine, else decoded from its latent.

        Args:
            index: its number on the map.
            wait: until it is shown.

        Raises:
            SettingError: for a number that the map does not have.
        """
        self._shown.show_crystal(index, wait)

    def decode_at(self, x: float | int, y: float | int, wait: bool = False) -> None:
        """Decode a place of the map: the mean latent of the crystals nearest to it, weighted by distance.

        Args:
            x, y: the place.
            wait: until it is decoded.
        """
        self._shown.show_place(float(x), float(y), wait)

    def stop(self) -> None:
        """End the decoding, the export or the reading of own crystals after the current step."""
        for run in (self.recorded_run, self._export.run, self._finder.run, self._encoder.run):
            run.stop()

    def find(self, text: str, wait: bool = False) -> list[int]:
        """Choose the first crystal of this id or formula, and put all into the table; returns their numbers.

        Raises:
            SettingError: if there is none.
        """
        found = self.map.find(text.strip())
        if not found:
            raise SettingError(f"no crystal of this map has the id or formula {text.strip()!r}")
        self.select(found)
        self.choose(found[0], wait)
        return found

    def select(self, rows: Sequence[int]) -> None:
        """Put crystals of the map into the table, as a lasso does; `table` has them."""
        self.state.rows = [int(row) for row in rows]

    def clear(self) -> None:
        """Remove the lasso, and empty the table."""
        self.plot.clear()
        self.select([])

    @property
    def table(self) -> pd.DataFrame:
        """The crystals in the lasso: id, formula, label, number of atoms, density in g/cm³; indexed by number."""
        return lasso_table(self.map, self.state.rows)

    def export_table(self, path: str | Path | None = None, wait: bool = True) -> Path:
        """Write the table to a CSV file.

        Args:
            path: by default "latent_map_table.csv" in `state.folder`.
            wait: False: write in the background; the status line shows the file.

        Raises:
            SettingError: if the table is empty.
            LabError: if the file cannot be written.
        """
        rows = self._rows()
        path = Path(self.state.folder) / "latent_map_table.csv" if path is None else Path(path)

        self._export.start(write_table(self.map, rows, path), 1, lambda: None, wait)
        return path

    def export_cifs(self, folder: str | Path | None = None, wait: bool = False) -> None:
        """Write the crystals of the table as CIFs, decoded where the data file is not there; `stop` ends it.

        Args:
            folder: created if necessary; by default "map" in `state.folder`.
            wait: until all are written.

        Raises:
            SettingError: if the table is empty.
        """
        rows = self._rows()
        folder = Path(self.state.folder) / "map" if folder is None else Path(folder)
        self._export.start(
            write_cifs(self.map, rows, folder, self._originals, self._decode_rows),
            len(rows),
            lambda: self._record.add(f"rows = {rows}", *cifs_code(rows, folder, self._sampler.arguments)),
            wait,
        )

    def generate(self, n: int | None = None, seed: int | None = None, wait: bool = False) -> None:
        """Generate crystals from the prior and put them on the map as the layer "generated".

        Args:
            n, seed: by default those of `state`.
            wait: until they are generated.
        """
        n = self.state.n if n is None else n
        seed = self.state.seed if seed is None else seed
        self._shown.interrupt()
        self._generated.generate(n, seed, wait)

    def add_own(self, source: Any = None, wait: bool | None = True) -> None:
        """Place the user's own crystals on the map, which stays as it is, as the layer "own crystals".

        Args:
            source: files, or what `convert.read` takes; by default the file of `state`. Of several files those that
                can be used are placed, before the error of the first that cannot is raised.
            wait: False: read and encode in the background; the status line shows the error. None: where an event loop
                runs, as in a notebook.

        Raises:
            CrystalError: naming the file, the problem and the remedy.
        """
        if source is None:
            source = self.state.file.strip()
            if not source:
                raise SettingError("which file? Upload one, or write its path")
        self._own.add(list(source) if isinstance(source, list | tuple) else [source], wait)

    # --- what others draw on it -----------------------------------------------------------------------------

    def set_layer(
        self,
        name: str,
        z: Float[Tensor, "points latent"] | None = None,
        texts: Sequence[str] = (),
        *,
        xy: Any = None,
        crystals: Crystals | None = None,
    ) -> None:
        """Draw points, new or instead of those of that name.

        Args:
            name: of the layer, as it is written beside the map.
            z: latents, which are placed on the map; a click on one decodes it.
            texts: for the hover, one a point.
            xy: places (points, 2), instead of z; a click on one decodes the place.
            crystals: one a point, which a click shows instead of decoding.

        Raises:
            SettingError: for both or neither of z and xy, latents of another model's size, or a name that the map
                itself uses.
        """
        self._layers.put(name, False, z, xy, texts, crystals)

    def set_path(
        self,
        name: str,
        z: Float[Tensor, "points latent"] | None = None,
        texts: Sequence[str] = (),
        *,
        xy: Any = None,
        crystals: Crystals | None = None,
    ) -> None:
        """Draw points joined by a line in their order, the last one larger; arguments are those of `set_layer`.

        Called again with the same name, it redraws only that line, which is cheap enough for every step of a run.
        """
        self._layers.put(name, True, z, xy, texts, crystals)

    def remove(self, name: str) -> None:
        """Remove a layer or path; does nothing if there is none of that name."""
        self._layers.remove(name)
        if name == OWN:
            self._own.forget()

    def choose_in(self, name: str, index: int, xy: tuple[float, float] | None = None, wait: bool = False) -> None:
        """Show a point of a layer or path: its crystal, or else its decoded latent or place.

        Args:
            name: of the layer.
            index: number of the point.
            xy: its place, if that is known.
            wait: until it is decoded.

        Raises:
            SettingError: if there is no such layer or point.
        """
        self._shown.show_point(name, index, xy, wait)

    # --- what is heard ----------------------------------------------------------------------------------------

    def _click(self, hit: Hit) -> None:
        if hit.index is None:
            self.decode_at(*hit.xy)
        elif hit.layer is None:
            self.choose(hit.index)
        else:
            self.choose_in(hit.layer, hit.index, hit.xy)

    def _picked(self, pick: Pick | None) -> None:
        if pick is not None and not self._record.picking:
            self._foreign.show(pick)

    def _rows(self) -> list[int]:
        if not self.state.rows:
            raise SettingError("the table is empty; draw a lasso around some crystals, or call select([...])")
        return list(self.state.rows)

    def _rows_changed(self) -> None:
        if self.state.rows:
            self._record.add(f"rows = {self.state.rows}")
        self._enable()

    def _decode_rows(self, rows: list[int]) -> Iterator[DenoisingFrame]:
        return self._decoder.frames(self.map.latents[rows].float())

    def _recolor(self, value: str) -> None:
        if value != PREDICTED:
            self.plot.color = value
            self._record.add(f"figure = lab.figures.latent_map(known, {value!r})")
            return
        with torch.no_grad():
            values = self.model.predict_property(self.map.latents.float().to(self.model.device)).cpu()
        name, unit = predicted_name(self.map.label_name), self.map.label_unit
        self.plot.color = (name, unit, values)
        self._record.add(
            "values = model.predict_property(known.latents.float())",
            f"figure = lab.figures.latent_map(known, ({name!r}, {unit!r}, values))",
        )

    def _enable(self) -> None:
        working = any(one.running for one in (self.recorded_run, self._finder, self._encoder))
        self.controls.enable(running=working, writing=self._export.run.running)

    def picture(self) -> Crystals | None:
        """The crystals that are shown."""
        return self.view.current()
