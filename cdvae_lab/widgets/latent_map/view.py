"""The latent space as a map: click on a crystal to see it, click where none is to decode what would be there."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas, to_html
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.legs import Sampler
from cdvae_lab.widgets.base.live import Live
from cdvae_lab.widgets.base.panel import Panel
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.latent_map.cifs import CifWriter
from cdvae_lab.widgets.latent_map.controls import MapLooks, predicted_name
from cdvae_lab.widgets.latent_map.figure import Hit, MapFigure, chosen_map, place
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.originals import Originals

if TYPE_CHECKING:
    import pandas as pd

GENERATED, OWN = "generated", "own crystals"
REMEMBERED = 500  # decoded crystals


class LatentMapView(Panel):
    """A map of the latents of a data set, colored by what is asked for, with everything else that has a latent on it.

    Whatever the mouse does can be done by a method, too: `choose` a crystal of the map, `decode_at` an empty place,
    `select` crystals for the table, `generate`, `add_own`, `export_table`, `export_cifs`. Other widgets and scripts
    draw on it with `set_layer` and `set_path`. Something chosen becomes the `pick` of the selection.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        map: the LatentMap, its file, or a bundled one's name; None takes the bundled one of this model.
        selection: what is chosen here and elsewhere; a new one by default.
        height: of the map, pixels.
        data_folder: where the public data files lie, as `folder` of `datasets.load`; None looks where that keeps what
            it has downloaded. With them the data's own crystals are shown; nothing is ever downloaded here.
        sampler, settings: of `denoise`.

    Raises:
        CheckpointError: if the map is of another model, or there is none of this model.
        SettingError: for a height out of range, or a sampler or setting that does not exist.
    """

    def __init__(
        self,
        model: CDVAE | str | Path = "perov_5",
        map: LatentMap | str | Path | None = None,
        *,
        selection: Selection | None = None,
        height: int = 560,
        data_folder: str | Path | None = None,
        sampler: str | Schedule = "ancestral",
        **settings: Any,
    ) -> None:
        if not 200 <= height <= 2000:
            raise SettingError(f"height is {height} pixels; choose 200 to 2000")
        super().__init__(model, selection)
        self._sampler = Sampler(self._the_model, sampler, settings)
        self.map, map_line = the_map(self._the_model, map, self._name)
        self._code = [self._model_line(), map_line, *self._sampler.lines]
        self._z: dict[str, Tensor | None] = {}  # of layers and paths
        self._crystals: dict[str, Crystals | None] = {}
        self._decoded: dict[int, Crystals] = {}
        self._originals = Originals(self._the_model, self.map, data_folder)
        self._then: Callable[[], None] = lambda: None
        self._title = ""
        self._mine: Pick | None = None
        self._own: list[tuple[str, Crystals]] = []
        self._looks = MapLooks(self, height)
        self.view = self._looks.view
        self.plot = MapFigure(
            self.map, height=height, clicked=self._click, hovered=self._hover, lassoed=lambda rows: self.select(rows)
        )
        self._live = Live(self._runner, self.view, self._moved, self._live_ended)
        self._cifs = CifWriter(
            self._runner, self.map, self._originals, self._decoding, self._cif_written, self._cifs_ended
        )
        if self._originals.file:  # a table of thousands of texts, which the first click need not wait for
            self._runner(lambda crystal: None, lambda: None).start(self._originals.get(i) for i in range(1))
        self._looks.draw_layers()
        self._show(*self._looks.rows())
        self.add_class("cdvae-map")
        self._when_picked(self._chosen_elsewhere)
        self._looks.refresh()
        self._say("click on a crystal to see it, on an empty place to decode what would be there")
        self._chosen_elsewhere(cast("Pick | None", self.selection.pick))

    # --- what can be done, by the mouse and from code -----------------------------------------------------

    @property
    def color(self) -> str | tuple[str, str, Tensor]:
        """What the crystals are colored by, as in `figures.latent_map`."""
        return self.plot.color

    @color.setter
    def color(self, value: str | tuple[str, str, Tensor]) -> None:
        colors = self._looks.colors
        listed = isinstance(value, str) and value in [known for _, known in colors.options]
        if listed and colors.value != value:
            colors.value = value  # which comes back here
            return
        self.plot.color = value
        told = repr(value) if isinstance(value, str) else f"({value[0]!r}, {value[1]!r}, values)"
        predicted = not isinstance(value, str) and value[0] == predicted_name(self.map.label_name)
        lines = ["values = model.predict_property(known.latents.float())"] if predicted else []
        self._did(*lines, f"figure = lab.figures.latent_map(known, {told})")

    def choose(self, index: int, wait: bool = False) -> None:
        """Show a crystal of the map: the data's own where the public file is there, else what its latent decodes to.

        Args:
            index: its number on the map.
            wait: until it is decoded.

        Raises:
            SettingError: for a number that the map does not have.
        """
        if not 0 <= index < len(self.map):
            raise SettingError(f"crystal {index}: the map has {len(self.map)}, from 0 to {len(self.map) - 1}")
        self._live.stop(wait=True)
        x, y = self.map.xy[index].tolist()
        self.plot.mark((x, y))
        z = self.map.latents[[index]].float()
        title = self._looks.about(index)
        true = self._originals.get(index)
        if true is not None:
            code = self._originals.code(index)
            self._did(f"crystal = {code}")
            self._present(title + "Shown: the crystal of the data file.", true)
            self._pick(self.map.formulas[index], true, z, code)
            return
        code = f"known.latents[[{index}]].float()"
        title += "Shown: what the model <b>decodes from its latent</b>; the crystal itself is in the data file only."
        self._decode(z, code, title, f"{self.map.formulas[index]}, decoded", wait, index)

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
        code = f"known.latent_at(torch.tensor([[{float(x):.4f}, {float(y):.4f}]]))"
        self._decode(self.map.latent_at(xy), code, title, "decoded from an empty place", wait)

    def stop(self) -> None:
        """End what is being decoded or written, after the step that it is in."""
        self._live.stop()
        self._cifs.runner.stop()

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
        self._looks.table.show(rows)
        if rows:
            told = str(self._looks.table.rows) if len(rows) <= 20 else f"[...]  # {len(rows)} crystals"
            self._did(f"rows = {told}")
        self._looks.refresh()

    def clear(self) -> None:
        """Take the lasso away, and empty the table."""
        self.plot.clear()
        self.select([])

    @property
    def table(self) -> pd.DataFrame:
        """The crystals in the lasso: id, formula, property, number of atoms, density in g/cm³; indexed by number."""
        return self._looks.table.frame()

    def export_table(self, path: str | Path) -> Path:
        """Write the table to a CSV file. Raises SettingError if it is empty, LabError if it cannot be written."""
        return self._looks.table.write(path)

    def export_cifs(self, folder: str | Path, wait: bool = False) -> None:
        """Write the crystals of the table as CIFs, decoded where the data file is not there; `stop` ends it.

        Raises:
            SettingError: if the table is empty, or another export is going on.
        """
        rows = self._looks.table.some()
        self._looks.progress.max, self._looks.progress.value = len(rows), 0
        self._did(
            f"crystals = lab.last(lab.denoise(model, z=known.latents[rows].float(){self._sampler.told})).crystals",
            f"crystals.write_cif({str(folder)!r})",
        )
        self._cifs.start(Path(folder), rows, wait)
        self._looks.refresh()

    def generate(self, n: int = 16, seed: int = 0, wait: bool = False) -> None:
        """Generate crystals from the prior and put them on the map as the layer "generated"."""
        frames = denoise(self._the_model, n, seed=seed, sampler=self._sampler.schedule)
        self._begin(f"<b>{n} crystals from the prior</b>, seed {seed}<br>")
        self._did(
            f"made = lab.last(lab.denoise(model, n={n}, seed={seed}{self._sampler.told}))",
            "places = known.place(made.z)",
        )
        self._then = self._generated
        self._live.start(frames, len(self._sampler.schedule), wait=wait)
        self._looks.refresh()

    def add_own(self, source: Any) -> None:
        """Place crystals of one's own on the map, which stays as it is, as the layer "own crystals".

        Args:
            source: files, or what `convert.read` takes. Of several files those that can be used are placed, before
                the error of the first that cannot is raised.

        Raises:
            CrystalError: naming the file, what is wrong with it, and the remedy.
        """
        sources = source if isinstance(source, list | tuple) else [source]
        wrong: list[CrystalError] = []
        for one in sources:
            try:
                for structure, name in files.named_structures(one):
                    self._own.append((name, files.for_model(self._the_model, structure, name)))
            except CrystalError as error:
                wrong.append(error)
        if self._own:
            crystals = Crystals.cat([crystal.to("cpu") for _, crystal in self._own])
            with torch.no_grad():
                z = self._the_model.encode(crystals.to(self._the_model.device)).mu.cpu()
            texts = [f"{f} ({name})" for f, (name, _) in zip(reduced_formulas(crystals), self._own, strict=True)]
            self.set_layer(OWN, z, texts, crystals=crystals)
            told = [str(s) for s in sources if isinstance(s, str | Path) and "\n" not in str(s)]
            self._did(f"z = lab.encode(model, {told or '[...]'})", "places = known.place(z)")
            if not wrong:
                self._click(Hit(tuple(place(self.map, z[-1:], None)[0].tolist()), OWN, len(crystals) - 1))
        if wrong:
            raise wrong[0]

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
        """Draw points joined by a line in their order, the last one larger; arguments as of `set_layer`.

        Called again with the same name, only that line is drawn anew, which is cheap enough for every step of a run.
        """
        self._put(name, True, z, xy, texts, crystals)

    def remove(self, name: str) -> None:
        """Take a layer or path away; nothing happens if there is none of that name."""
        self.plot.drop(name)
        self._z.pop(name, None)
        self._crystals.pop(name, None)
        if name == OWN:
            self._own = []
        self._looks.draw_layers()

    def _put(
        self, name: str, joined: bool, z: Tensor | None, xy: Any, texts: Sequence[str], crystals: Crystals | None
    ) -> None:
        new = name not in self.plot.layers
        self.plot.put(name, joined, place(self.map, z, xy), texts)
        self._z[name] = None if z is None else z.detach().cpu().float()
        self._crystals[name] = crystals
        if new:
            self._looks.draw_layers()

    # --- the mouse --------------------------------------------------------------------------------------------

    def _click(self, hit: Hit) -> None:
        self._try(lambda: self._click_on(hit))

    def _click_on(self, hit: Hit) -> None:
        if hit.index is None:
            self.decode_at(*hit.xy)
        elif hit.layer is None:
            self.choose(hit.index)
        else:
            self._choose_in(hit.layer, hit.index, hit.xy)

    def _choose_in(self, layer: str, index: int, xy: tuple[float, float]) -> None:
        z, crystals = self._z[layer], self._crystals[layer]
        title = f"<b>{html.escape(layer)}</b>, {index + 1}<br>"
        if crystals is not None:
            self._live.stop(wait=True)
            self.plot.mark(xy)
            crystal = crystals[index].trim()
            formula = words.formula(crystal)
            z_one = None if z is None else z[[index]]
            told = title + ("Shown: your crystal, as it was read." if layer == OWN else "")
            self._present(told, crystal)
            self._pick(f"{formula} ({layer})", crystal, z_one, "")
        elif z is None:
            self.decode_at(*xy)
        else:
            self.plot.mark(xy)
            self._decode(z[[index]], "z", title + "Shown: decoded from its latent.", f"{layer}, {index + 1}", False)

    def _hover(self, hit: Hit) -> None:
        """A small picture, where the crystal is known already: decoding takes longer than a glance."""
        if self._live.running or hit.index is None:
            return
        if hit.layer is None:
            # Where the data file is there, it has been read by now.
            original = self._originals.get(hit.index) if self._originals.there else None
            crystal = original or self._decoded.get(hit.index)
            text = to_html(self.map.formulas[hit.index])
        else:
            batch = self._crystals[hit.layer]
            crystal = None if batch is None else batch[hit.index]
            text = html.escape(hit.layer)
        self._looks.glance_at(text, crystal)

    def _chosen_elsewhere(self, pick: Pick | None) -> None:
        """Somebody else chose a crystal: ring where it is, and show it."""
        if pick is None or pick is self._mine:
            return
        z = pick.z
        try:
            if z is None:
                crystal = files.for_model(self._the_model, pick.crystal.to_structures()[0], pick.name)
                with torch.no_grad():
                    z = self._the_model.encode(crystal).mu
            [xy] = self.map.place(z.detach().cpu().float()).tolist()
        except (CrystalError, SettingError) as error:
            self._complain(error, kept="It cannot be placed on this map.")
            return
        self._live.stop(wait=True)
        self.plot.mark((xy[0], xy[1]))
        self._present(f"<b>{html.escape(pick.name)}</b><br>chosen in another view", pick.crystal)

    # --- the runs ---------------------------------------------------------------------------------------------

    def _decode(self, z: Tensor, z_code: str, title: str, name: str, wait: bool, index: int | None = None) -> None:
        self._begin(title)
        frames = denoise(self._the_model, z=z, sampler=self._sampler.schedule)
        code = f"lab.last(lab.denoise(model, z={z_code}{self._sampler.told})).crystals"
        self._did(f"z = {z_code}", f"crystal = lab.last(lab.denoise(model, z=z{self._sampler.told})).crystals")

        def then() -> None:
            crystal = self._live.crystals.to("cpu")
            if index is not None:
                self._decoded[index] = crystal
                while len(self._decoded) > REMEMBERED:
                    self._decoded.pop(next(iter(self._decoded)))
            self._looks.caption(title + self._promise(z), crystal)
            formula = words.formula(crystal)
            self._pick(f"{formula} ({name})", crystal, z.cpu(), code if "torch." not in code else "")

        self._then = then
        self._live.start(frames, len(self._sampler.schedule), wait=wait)
        self._looks.refresh()

    def _begin(self, title: str) -> None:
        self._live.stop(wait=True)
        self._title = title
        self._looks.glance.value = ""
        self._looks.caption(title, None)

    def _moved(self) -> None:
        frame = self._live.frames[-1]
        self._say(f"decoding: step {frame.step} of {frame.num_steps}")

    def _live_ended(self) -> None:
        self._looks.refresh()
        if self._live.error is not None:
            self._complain(self._live.error, self._live.traceback)
        elif self._live.finished:
            self._then()
            self._say("finished")
        elif self._live.frames:
            self._say(f"stopped after step {self._live.frames[-1].step}")

    def _generated(self) -> None:
        last = self._live.frames[-1]
        crystals = last.crystals.to("cpu")
        self.set_layer(GENERATED, last.z, reduced_formulas(crystals), crystals=crystals)
        good = sum(reason is None for reason in words.validity.invalid_reasons(crystals))
        self._looks.caption(
            f"{self._title}{good} of {len(crystals)} valid; click on one on the map to see it alone.", None
        )

    def _decoding(self, rows: list[int]) -> Iterator[DenoisingFrame]:
        return denoise(self._the_model, z=self.map.latents[rows].float(), sampler=self._sampler.schedule)

    def _cif_written(self, done: int) -> None:
        self._looks.progress.value = done
        self._say(f"writing: {done} of {self._cifs.count} CIFs")

    def _cifs_ended(self) -> None:
        self._looks.refresh()
        writer, count = self._cifs.runner, self._cifs.result()
        if writer.error is not None:
            self._complain(writer.error, writer.traceback, f"{count}.")
        else:
            where = f" to {self._cifs.files[0].parent}" if self._cifs.files else ""
            self._say(f"{'stopped: ' if writer.stopped else ''}{count}{where}")

    # --- words ------------------------------------------------------------------------------------------------

    def _promise(self, z: Tensor) -> str:
        name = self.map.label_name
        if not name:
            return ""
        with torch.no_grad():
            value = float(self._the_model.predict_property(z.to(self._the_model.device)))
        return f"<br>{html.escape(name)} predicted from z: {value:.3g} {self.map.label_unit}"

    def _pick(self, name: str, crystal: Crystals, z: Tensor | None, code: str) -> None:
        self._mine = Pick(name, crystal.to("cpu"), z, code)
        self.selection.choose(self._mine)

    def _did(self, *lines: str) -> None:
        """Lines for `code`; what they need is imported, and the same twice in a row is said once."""
        if any("torch." in line for line in lines) and "import torch" not in self._code:
            self._code.append("import torch")
        if tuple(self._code[-len(lines) :]) != lines:
            self._code += lines
        self._draw_code()

    def _present(self, title: str, crystal: Crystals) -> None:
        self.view.show_all([crystal], origin=crystal)
        self._looks.glance.value = ""
        self._looks.caption(title, crystal)
        self._say("")
        self._looks.refresh()

    def _recolor(self, value: str) -> None:
        if value == "predicted":
            with torch.no_grad():
                values = self._the_model.predict_property(self.map.latents.float().to(self._the_model.device)).cpu()
            self.color = (predicted_name(self.map.label_name), self.map.label_unit, values)
        else:
            self.color = value

    def _picture(self) -> Crystals | None:
        return self.view.current()


def the_map(model: CDVAE, map: LatentMap | str | Path | None, name: str | Path | None) -> tuple[LatentMap, str]:
    """The map that goes with a model, and the line of code that gives it as `known`.

    Raises:
        CheckpointError: if it is of another model, or there is none of this model.
    """
    found = chosen_map(model, map)
    if isinstance(map, LatentMap):
        return map, "# `known` is the map that the widget was given"
    if found is None:
        raise CheckpointError(
            f"no map of the model {str(name) if name else 'given'} is bundled; make one: "
            "map=lab.LatentMap.fit(model, dataset)"
        )
    told = name if map is None else map
    return (
        found,
        f"known = lab.load_map({str(told)!r}, model)" if told else "known = lab.explore.latent_map.map_of(model)",
    )
