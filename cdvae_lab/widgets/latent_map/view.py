"""The latent space as a map: click on a crystal to see it, and on an empty place to decode the latent there."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas, to_html
from cdvae_lab.errors import CrystalError, LabError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.metrics import validity
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latents import posterior_of
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import DEFAULT
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.recorded_run import in_event_loop
from cdvae_lab.widgets.base.replay_code import ReplayCode, Sampler, WithCode
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.latent_map.cifs import cifs_code, write_cifs
from cdvae_lab.widgets.latent_map.controls import LatentMapControls, predicted_name
from cdvae_lab.widgets.latent_map.decoder import Decoder
from cdvae_lab.widgets.latent_map.exports import MapExport, write_table
from cdvae_lab.widgets.latent_map.lasso_table import lasso_table
from cdvae_lab.widgets.latent_map.layers import Layers
from cdvae_lab.widgets.latent_map.own_crystals import Encoding, OwnCrystals, encode_own
from cdvae_lab.widgets.latent_map.state import PREDICTED, LatentMapState
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.map_figure import TRAINING, Hit, MapFigure
from cdvae_lab.widgets.parts.maps import require_map
from cdvae_lab.widgets.parts.originals import Originals

if TYPE_CHECKING:
    import pandas as pd

GENERATED, OWN = "generated", "own crystals"


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
        self._sampler = Sampler(self.model, sampler, settings)
        known = require_map(self.model, map)
        self.map = known.value
        self._setup = {"model": self.model_code, "known": known.code, **self._sampler.setup}
        self._code = ReplayCode(setup=self._setup)
        self._originals = Originals(self.model, self.map, data_folder)
        self._own = OwnCrystals()
        self._adding: list[Any] = []  # sources of own crystals that are being read
        self._mine: Pick | None = None
        self.controls = LatentMapControls(self.state, self, self.map, height)
        self.view = self.controls.view
        self.plot = MapFigure(
            self.map, height=height, clicked=self._click, hovered=self._hover, lassoed=lambda rows: self.select(rows)
        )
        self._layers = Layers(self.map, self.plot)
        self._finder = self.new_task("looking for the crystal", self._enable)  # that is to be shown next
        self._glancer = self.new_task("")  # of the crystal under the mouse
        self._encoder = self.new_task("reading", self._enable)  # of own crystals
        self._decoder = Decoder(self.controls, self.new_run, self.show_message, self.show_error, self._enable)
        self.recorded_run = self._decoder.run
        self._export = MapExport(
            self.controls, lambda show: self.new_run(show=show, max_frames=1), self.show_message, self.show_error,
            self._enable,
        )  # fmt: skip
        self._reader = self.new_run(show=lambda status: None, max_frames=1)
        if self._originals.file:  # a table of thousands of texts, which the first click need not wait for
            self._reader.start(self._originals.get(i) for i in range(1))
        self.controls.show_layers([*self.plot.layers])
        self.show_rows(self.controls.rows(self.plot), self.controls)
        self.add_class("cdvae-map")
        self.listen(self.state, "color", lambda change: self.attempt(lambda: self._recolor(change["new"])))
        self.listen(self.state, "mouse", lambda change: self.plot.figure.update_layout(dragmode=change["new"]))
        self.listen(self.state, "find", lambda change: change["new"] and self.attempt(lambda: self.find(change["new"])))
        self.listen(self.state, "hidden", lambda change: self._show_layers())
        self.listen(self.state, "rows", lambda change: self._rows_changed())
        self.when_picked(self._chosen_elsewhere)
        self._enable()
        self.show_message("click on a crystal to see it, on an empty place to decode the latent there")
        self._chosen_elsewhere(self.selection.pick)

    # --- what can be done, by the mouse and from code -----------------------------------------------------

    @property
    def replay_code(self) -> ReplayCode:
        """Python code that repeats the actions in this view, in order."""
        return self._code

    @property
    def color(self) -> str | tuple[str, str, Tensor]:
        """The color of the crystals, as in `figures.latent_map`; a word is also the state's."""
        return self.plot.color

    @color.setter
    def color(self, value: str | tuple[str, str, Tensor]) -> None:
        if not isinstance(value, str):
            self.plot.color = value
            self._did(f"figure = lab.figures.latent_map(known, ({value[0]!r}, {value[1]!r}, values))")
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
        if not 0 <= index < len(self.map):
            raise SettingError(f"crystal {index}: the map has {len(self.map)}, from 0 to {len(self.map) - 1}")
        self._interrupt()
        x, y = self.map.xy[index].tolist()
        self.plot.mark((x, y))
        if self._originals.file:
            self._finder.start(
                lambda: [self._originals.get(index)], lambda found: self._show_chosen(index, found, wait),
                wait or not in_event_loop(),
            )  # fmt: skip
        else:
            self._show_chosen(index, None, wait)

    def _show_chosen(self, index: int, original: Crystals | None, wait: bool) -> None:
        """Show a crystal of the map: its original, or else what the model decodes from its latent."""
        z = self.map.latents[[index]].float()
        z_code = f"known.latents[[{index}]].float()"
        title = self.controls.about(index)
        if original is not None:
            code = self._originals.code(index)
            lines = (f"crystal = {code}", f"z = {z_code}")
            self._did(*lines)
            self._present(title + "Shown: the crystal of the data file.", original)
            self._pick(self.map.formulas[index], original, z, code, ReplayCode(setup=self._setup, body=lines))
            return
        title += "Shown: the crystal that the model <b>decodes from its latent</b>; the original is in the data file."
        self._decode(z, z_code, title, f"{self.map.formulas[index]}, decoded", wait, index)

    def decode_at(self, x: float | int, y: float | int, wait: bool = False) -> None:
        """Decode a place of the map: the mean latent of the crystals nearest to it, weighted by distance.

        Args:
            x, y: the place.
            wait: until it is decoded.
        """
        xy = torch.tensor([[float(x), float(y)]])
        self.plot.mark((float(x), float(y)))
        near = [self.map.formulas[i] for i in self.map.nearest(xy, k=3)[0][0].tolist()]
        title = f"<b>An empty place</b>, between {', '.join(map(to_html, near))}"
        code = f"known.latent_at(torch.tensor({xy.tolist()}))"
        self._decode(self.map.latent_at(xy), code, title, "decoded from an empty place", wait)

    def stop(self) -> None:
        """End the decoding, the export or the reading of own crystals after the current step."""
        for run in (self.recorded_run, self._export.run, self._finder.run, self._encoder.run):
            run.stop()

    def _interrupt(self) -> None:
        """End what was to be shown, because something else is."""
        self.recorded_run.cancel()
        self._finder.cancel()
        self._glancer.cancel()

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
            write_cifs(self.map, rows, folder, self._originals, self._decoding),
            len(rows),
            lambda: self._did(f"rows = {rows}", *cifs_code(rows, folder, self._sampler.arguments)),
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
        title = f"<b>{n} crystals from the prior</b>, seed {seed}<br>"
        lines = (
            f"frame = lab.last(lab.denoise(model, n={n}, seed={seed}{self._sampler.arguments}))",
            "made, z = frame.crystals, frame.z",
        )
        schedule = self._sampler.schedule
        self._interrupt()
        self._decoder.start(
            lambda: denoise(self.model, n, seed=seed, sampler=schedule), len(schedule), title,
            lambda last: self._generated(last, title, lines), wait,
        )  # fmt: skip

    def add_own(self, source: Any = None, wait: bool = True) -> None:
        """Place the user's own crystals on the map, which stays as it is, as the layer "own crystals".

        Args:
            source: files, or what `convert.read` takes; by default the file of `state`. Of several files those that
                can be used are placed, before the error of the first that cannot is raised.
            wait: False: read and encode in the background; the status line shows the error.

        Raises:
            CrystalError: naming the file, the problem and the remedy.
        """
        if source is None:
            source = self.state.file.strip()
            if not source:
                raise SettingError("which file? Upload one, or write its path")
        sources = list(source) if isinstance(source, list | tuple) else [source]
        self._adding = sources = [*(self._adding if self._encoder.running else []), *sources]
        self._encoder.start(lambda: encode_own(self.model, self._own, sources), self._put_own, wait)

    def _put_own(self, encoded: Encoding) -> None:
        """Draw the user's crystals, and show the last. Raises the error of the first source that cannot be used."""
        if encoded.z is not None:
            own = self._own = encoded.own
            crystals, code = own.crystals, own.code(self._setup)
            self._put(OWN, False, encoded.z, None, own.texts, crystals, code)
            self._did(*code.body, "places = known.place(z)")
            if not encoded.wrong:
                self._click(Hit(tuple(self.plot.places(OWN)[-1].tolist()), OWN, len(crystals) - 1))
        if encoded.wrong:
            raise encoded.wrong[0]

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
        self._put(name, False, z, xy, texts, crystals)

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
        self._put(name, True, z, xy, texts, crystals)

    def remove(self, name: str) -> None:
        """Remove a layer or path; does nothing if there is none of that name."""
        self._layers.remove(name)
        if name == OWN:
            self._encoder.cancel()
            self._own = OwnCrystals()
        self.controls.show_layers([*self.plot.layers])

    def _put(
        self,
        name: str,
        joined: bool,
        z: Tensor | None,
        xy: Any,
        texts: Sequence[str],
        crystals: Crystals | None,
        code: ReplayCode | None = None,
    ) -> None:
        if self._layers.put(name, joined, z, xy, texts, crystals, code):
            self.controls.show_layers([*self.plot.layers])
            self._show_layers()

    def _show_layers(self) -> None:
        """Show and hide layers according to the state."""
        for name, shown in self.plot.layers.items():
            if shown != (name not in self.state.hidden):
                self.plot.show_layer(name, not shown)

    # --- the mouse --------------------------------------------------------------------------------------------

    def _click(self, hit: Hit) -> None:
        self.attempt(lambda: self._click_on(hit))

    def _click_on(self, hit: Hit) -> None:
        if hit.index is None:
            self.decode_at(*hit.xy)
        elif hit.layer is None:
            self.choose(hit.index)
        else:
            self.choose_in(hit.layer, hit.index, hit.xy)

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
        if name not in self.plot.layers or name == TRAINING:
            raise SettingError(f"there is no layer {name!r}; there are {', '.join(self.plot.layers)}")
        places = self.plot.places(name)
        if not 0 <= index < len(places):
            raise SettingError(f"point {index}: the layer {name!r} has {len(places)}")
        layer = self._layers[name]
        x, y = places[index].tolist() if xy is None else xy
        title = f"<b>{html.escape(name)}</b>, {index + 1}<br>"
        if layer.crystals is not None:
            self._interrupt()
            self.plot.mark((x, y))
            crystal = layer.crystals[index].trim()
            z = None if layer.z is None else layer.z[[index]]
            self._present(title + ("Shown: your crystal, as it was read." if name == OWN else ""), crystal)
            self._pick(f"{captions.formula(crystal)} ({name})", crystal, z, "", layer.crystal_code(index))
        elif layer.z is None:
            self.decode_at(x, y, wait)
        else:
            self.plot.mark((x, y))
            z = layer.z[[index]]
            title += "Shown: decoded from its latent."
            self._decode(z, f"torch.tensor({z.tolist()})", title, f"{name}, {index + 1}", wait)

    def _hover(self, hit: Hit) -> None:
        """Show a small picture, where the crystal is known already: decoding takes longer than a glance."""
        index = hit.index
        if self.recorded_run.running or self._finder.running or index is None:
            return
        if hit.layer is not None:
            batch = self._layers[hit.layer].crystals
            self.controls.show_glance(html.escape(hit.layer), None if batch is None else batch[index])
            return
        text, decoded = to_html(self.map.formulas[index]), self._decoder.known.get(index)
        if self._originals.there:  # if the data file is on this machine, it has been read by now
            self._glancer.start(
                lambda: [self._originals.get(index)],
                lambda original: self.controls.show_glance(text, original or decoded),
                wait=not in_event_loop(),
            )
        else:
            self.controls.show_glance(text, decoded)

    def _chosen_elsewhere(self, pick: Pick | None) -> None:
        """Mark the place of a crystal that was chosen in another view, and show it."""
        if pick is None or pick is self._mine:
            return

        def show(place: tuple[float, float] | LabError) -> None:
            if isinstance(place, LabError):
                self.show_error(place, kept="It cannot be placed on this map.")
                return
            self.plot.mark(place)
            self._present(f"<b>{html.escape(pick.name)}</b><br>chosen in another view", pick.crystal)

        self._interrupt()
        self._finder.start(lambda: [self._place_of(pick)], show, wait=not in_event_loop())

    def _place_of(self, pick: Pick) -> tuple[float, float] | LabError:
        """The place of a crystal on the map, or the reason why it has none."""
        z = pick.z
        try:
            if z is None:
                crystal = files.for_model(self.model, pick.crystal.to_structures()[0], pick.name)
                z = posterior_of(self.model, crystal).mu
            [(x, y)] = self.map.place(z.detach().cpu().float()).tolist()
        except (CrystalError, SettingError) as error:
            return error
        return x, y

    def _rows(self) -> list[int]:
        if not self.state.rows:
            raise SettingError("the table is empty; draw a lasso around some crystals, or call select([...])")
        return list(self.state.rows)

    def _rows_changed(self) -> None:
        if self.state.rows:
            self._did(f"rows = {self.state.rows}")
        self._enable()

    # --- the runs ---------------------------------------------------------------------------------------------

    def _decode(self, z: Tensor, z_code: str, title: str, name: str, wait: bool, index: int | None = None) -> None:
        """Decode one latent.

        Args:
            z_code: an expression for it.
            title: HTML, for the caption.
            name: of the crystal, after its formula.
            index: number on the map of the crystal whose latent it is.
        """
        call = f"lab.last(lab.denoise(model, z={{}}{self._sampler.arguments})).crystals"
        lines = (f"z = {z_code}", f"crystal = {call.format('z')}")
        imports = ("import torch",) if "torch." in z_code else ()
        expression = "" if imports else call.format(z_code)

        def then(last: DenoisingFrame) -> None:
            crystal = last.crystals.to("cpu")
            if index is not None:
                self._decoder.remember(index, crystal)
            self.controls.show_caption(title + self._prediction(z), crystal)
            self._did(*lines, imports=imports)
            code = ReplayCode(imports, self._setup, lines)
            self._pick(f"{captions.formula(crystal)} ({name})", crystal, z.cpu(), expression, code)

        schedule = self._sampler.schedule
        self._interrupt()
        self._decoder.start(lambda: denoise(self.model, z=z, sampler=schedule), len(schedule), title, then, wait)

    def _generated(self, last: DenoisingFrame, title: str, lines: tuple[str, ...]) -> None:
        crystals = last.crystals.to("cpu")
        code = ReplayCode(setup=self._setup, body=lines)
        self._put(GENERATED, False, last.z, None, reduced_formulas(crystals), crystals, code)
        self._did(*lines, "places = known.place(z)")
        valid = sum(reason is None for reason in validity.invalid_reasons(crystals))
        text = f"{title}{valid} of {len(crystals)} valid; click on one on the map to see it alone."
        self.controls.show_caption(text, None)

    def _decoding(self, rows: list[int]) -> Iterator[DenoisingFrame]:
        return denoise(self.model, z=self.map.latents[rows].float(), sampler=self._sampler.schedule)

    # --- text -------------------------------------------------------------------------------------------------

    def _prediction(self, z: Tensor) -> str:
        """The property that the model predicts from a latent, as HTML."""
        name = self.map.label_name
        if not name:
            return ""
        with torch.no_grad():
            value = float(self.model.predict_property(z.to(self.model.device)))
        return f"<br>{html.escape(name)} predicted from z: {value:.3g} {self.map.label_unit}"

    def _pick(self, name: str, crystal: Crystals, z: Tensor | None, code: str, replay: ReplayCode | None) -> None:
        self._mine = Pick(name, crystal.to("cpu"), z, code, replay)
        self.selection.choose(self._mine)

    def _did(self, *lines: str, imports: Sequence[str] = ()) -> None:
        """Add lines to the code; the same twice in a row only once."""
        if self._code.body[-len(lines) :] != lines:
            self._code = self._code.then(*lines, imports=imports)
        self.draw_code()

    def _present(self, title: str, crystal: Crystals) -> None:
        self.view.show_all([crystal], origin=crystal)
        self.controls.show_glance("", None)
        self.controls.show_caption(title, crystal)
        self.show_message("")
        self._enable()

    def _recolor(self, value: str) -> None:
        if value != PREDICTED:
            self.plot.color = value
            self._did(f"figure = lab.figures.latent_map(known, {value!r})")
            return
        with torch.no_grad():
            values = self.model.predict_property(self.map.latents.float().to(self.model.device)).cpu()
        name, unit = predicted_name(self.map.label_name), self.map.label_unit
        self.plot.color = (name, unit, values)
        self._did(
            "values = model.predict_property(known.latents.float())",
            f"figure = lab.figures.latent_map(known, ({name!r}, {unit!r}, values))",
        )

    def _enable(self) -> None:
        working = any(one.running for one in (self.recorded_run, self._finder, self._encoder))
        self.controls.enable(running=working, writing=self._export.run.running)

    def picture(self) -> Crystals | None:
        """The crystals that are shown."""
        return self.view.current()
