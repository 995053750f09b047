"""From one crystal to another through the latent space: both ends judged, every stop seen, jumps named."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import torch

from cdvae_lab import render
from cdvae_lab.cdvae import CDVAE
from cdvae_lab.crystals import Crystals
from cdvae_lab.denoising import DenoisingFrame, Schedule, denoise
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.figures import Theme, along_path
from cdvae_lab.figures.paths import CURRENT
from cdvae_lab.interpolation import ENDS, PATHS, LatentPath, decode_path, latent_path
from cdvae_lab.latent_map import LatentMap, densities, load_map, map_of
from cdvae_lab.lattice import volume
from cdvae_lab.metrics import reconstruction, validity
from cdvae_lab.storage import atomic_path
from cdvae_lab.widgets import files, words
from cdvae_lab.widgets.film import Film, path_pictures
from cdvae_lab.widgets.latent_map_view import LatentMapView
from cdvae_lab.widgets.live import Live, Sampler
from cdvae_lab.widgets.map_figure import Hit, MapFigure
from cdvae_lab.widgets.panel import Panel, field, row
from cdvae_lab.widgets.path_end import PathEnd
from cdvae_lab.widgets.plot import Plot
from cdvae_lab.widgets.selection import Pick, Selection
from cdvae_lab.widgets.viewer import CrystalView

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PATH = "path"  # name of the line on the map
_KEEP = {
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


class InterpolationView(Panel):
    """Two crystals, whether the model gives each back, and what it makes of the way between them.

    Every button is also a method: `set_end`, `take_primitive`, `run`, `stop`, `go_on`, `export`. All stops are decoded
    as one batch with the same noise, so that neighbours differ by their latents alone.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        a, b: the ends: a file, a pymatgen Structure, ASE Atoms or Crystals of one; None takes an example that comes
            with the package. One that cannot be used is refused in the widget, with what can be done.
        map: where to draw the path: a LatentMap, its file or name, a LatentMapView that is shown elsewhere; None takes
            the bundled map of this model, if there is one.
        selection: what is chosen here and elsewhere; a new one by default.
        n: number of stops with both ends.
        seed: of the noise.
        height: of the crystals, pixels.
        sampler, settings: of `denoise`.

    Raises:
        CheckpointError: if the map is of another model.
        SettingError: for n out of range, or a sampler or setting that does not exist.
    """

    def __init__(
        self,
        model: CDVAE | str | Path = "perov_5",
        a: Any = None,
        b: Any = None,
        *,
        map: LatentMap | LatentMapView | str | Path | None = None,
        selection: Selection | None = None,
        n: int = 9,
        seed: int = 0,
        height: int = 300,
        sampler: str | Schedule = "ancestral",
        **settings: Any,
    ) -> None:
        if not 2 <= n <= 41:
            raise SettingError(f"n is {n} stops; choose 2 to 41")
        super().__init__(model)
        self._sampler = Sampler(self._the_model, sampler, settings)
        self.selection = selection or Selection()
        self._path: LatentPath | None = None
        self._due = 0.0  # when the film is drawn again
        self._told = ""  # the call of `interpolate`, for picks
        self.view = CrystalView(height=height)
        self._live = Live(self._runner, self.view, self._moved, self._ended)
        self._judge = self._runner(lambda frame: self._keep_judged(frame), self._judged)
        self._to_judge: list[PathEnd] = []
        self._back: DenoisingFrame | None = None
        self._elsewhere = map if isinstance(map, LatentMapView) else None
        self._map = self._own_map(map)
        self.ends = {letter: PathEnd(self._the_model, letter, self.selection, self._end_changed) for letter in ENDS}
        self._make_controls(n, seed)
        self.add_class("cdvae-interpolation")
        self._refresh()
        for letter, given in zip(ENDS, self._examples(a, b), strict=True):
            if given is not None:
                self.ends[letter].attempt(given)

    # --- what can be done, by buttons and from code -------------------------------------------------------

    @property
    def crystals(self) -> Crystals:
        """The crystals along the path as they are now, a's end first. Raises SettingError before the first run."""
        if not self._live.frames:
            raise SettingError("there is no path yet; press Run, or call run()")
        return self._live.crystals

    @property
    def path(self) -> LatentPath:
        """The latents of the path. Raises SettingError before the first run."""
        if self._path is None:
            raise SettingError("there is no path yet; press Run, or call run()")
        return self._path

    @property
    def stop_shown(self) -> int:
        """Number of the stop that is shown; -1 for all side by side."""
        return self._film.at

    @stop_shown.setter
    def stop_shown(self, value: int) -> None:
        self._film.at = value

    def set_end(self, letter: str, source: Any) -> None:
        """Choose an end.

        Args:
            letter: "a" or "b".
            source: a file, a pymatgen Structure, ASE Atoms, Crystals of one, or a Pick.

        Raises:
            CrystalError: if it cannot be read, is not one, or is none that the model takes.
            SettingError: for another letter.
        """
        self._end(letter).choose(source)

    def take_primitive(self, letter: str) -> None:
        """Replace an end by its primitive cell; errors as of `set_end`."""
        self._end(letter).take_primitive()

    def run(self, wait: bool = False) -> None:
        """Lay the path with the settings of the fields, and decode it.

        Raises:
            CrystalError: if an end is missing or cannot be used.
            SettingError: for settings that do not go together.
        """
        crystals = [self._usable(letter) for letter in ENDS]
        n, seed, shape, keep = self._n.value, self._seed.value, self._shape.value, _KEEP[self._keep.value]
        path = latent_path(self._the_model, *crystals, n=n, path=shape)
        frames = decode_path(self._the_model, path, seed=seed, sampler=self._sampler.schedule, **keep)
        self._path = path
        self._write_code(n, seed, shape, keep)
        self._film.at = -1
        self._film.items = []
        self._draw_path()
        self._live.start(frames, len(self._sampler.schedule), wait=wait)
        self._refresh()

    def stop(self) -> None:
        """End the run after the step that it is in; `go_on` continues."""
        self._live.stop()

    def go_on(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have gone."""
        if not self._live.frames:
            raise SettingError("there is no path yet; press Run, or call run()")
        last = self._live.frames[-1]
        self._live.start(denoise(self._the_model, frame=last), last.num_steps, after=True, wait=wait)
        self._refresh()

    def export(
        self, folder: str | Path | None = None, kinds: Iterable[str] = ("cif", "extxyz", "png", "gif")
    ) -> list[Path]:
        """Write the path: "cif" of every stop, "extxyz" and "gif" with one stop after another, "png" the strip.

        Raises:
            SettingError: for another kind, or without a path.
            CrystalError: if a crystal cannot be exported.
            LabError: if a file cannot be written.
        """
        folder = Path(self._folder.value if folder is None else folder)
        placed = render.at_atom(self.crystals.to("cpu"))
        formulas = words.formulas(placed)
        written: list[Path] = []
        for kind in kinds:
            if kind == "cif":
                names = [f"stop_{k:02d}_{formula}" for k, formula in enumerate(formulas)]
                written += placed.write_cif(folder, names)
            elif kind == "extxyz":
                written.append(placed.write_extxyz(folder / "path.xyz"))
            elif kind == "png":
                strip = render.strip([placed[k] for k in range(len(placed))], captions=self._places(), size=200)
                with atomic_path(folder / "path.png", "the strip") as temporary:
                    temporary.write_bytes(render.png_bytes(strip))
                written.append(folder / "path.png")
            elif kind == "gif":
                frames = [placed[k] for k in range(len(placed))]
                written.append(render.gif(frames, folder / "path.gif", fps=2, captions=self._places()))
            else:
                raise SettingError(f"export: no kind {kind!r}; there are cif, extxyz, png, gif")
        return written

    def choose(self) -> None:
        """Make the stop that is shown the pick of the selection. Raises SettingError if none is."""
        k, crystals = self.stop_shown, self.crystals
        if k < 0:
            raise SettingError("all stops are shown; choose one first, with the slider or by its picture")
        formula = words.formulas(crystals)[k]
        code = f"lab.last({self._told}).crystals[{k}]" if self._told else ""
        name = f"{formula} (stop {k} of {len(crystals) - 1})"
        self.selection.choose(Pick(name, crystals[k].trim().to("cpu"), self.path.z[[k]].cpu(), code))

    # --- the ends -----------------------------------------------------------------------------------------

    @property
    def _the_model(self) -> CDVAE:
        assert self.model is not None
        return self.model

    def _end(self, letter: str) -> PathEnd:
        if letter not in ENDS:
            raise SettingError(f"an end is 'a' or 'b', not {letter!r}")
        return self.ends[letter]

    def _usable(self, letter: str) -> Crystals:
        end = self.ends[letter]
        if end.crystal is None:
            raise end.error or CrystalError(f"end {letter}: choose a crystal first")
        return end.crystal

    def _examples(self, a: Any, b: Any) -> list[Any]:
        """The given ends, or examples that the model takes."""
        given = [a, b]
        if None in given:
            usable = []
            for path in files.examples().values():
                [(structure, name), *_] = files.named_structures(path)
                try:
                    files.for_model(self._the_model, structure, name)
                except CrystalError:  # this model is for others
                    continue
                usable.append(path)
            # The two first that are not given: far enough apart to see something.
            rest = iter(usable[-1:] + usable[:-1])
            given = [next(rest, None) if one is None else one for one in given]
        return given

    def _end_changed(self) -> None:
        """Decode what has been chosen, to see whether it comes back."""
        if not self._open:
            return
        if self._judge.running:
            self._judge.stop()
            self._judge.wait()
        self._to_judge = [end for end in self.ends.values() if end.crystal is not None]
        if self._to_judge:
            crystals = Crystals.cat([end.crystal for end in self._to_judge if end.crystal is not None])
            if not self._live.frames:  # until there is a path, its ends
                self.view.show_all([crystals], origin=crystals)
            self._judge.start(self._again(crystals))
        self._refresh()

    def _again(self, crystals: Crystals) -> Iterator[DenoisingFrame]:
        with torch.no_grad():
            z = self._the_model.encode(crystals).mu
        # As the ends of a path: with the noise of crystal 0 both.
        path = LatentPath(z, torch.linspace(0, 1, len(z)).to(z), crystals, PATHS[0])
        return decode_path(self._the_model, path, seed=self._seed.value, sampler=self._sampler.schedule)

    def _keep_judged(self, frame: DenoisingFrame) -> None:
        self._back = frame

    def _judged(self) -> None:
        if self._judge.error is not None:
            self._complain(self._judge.error, self._judge.traceback)
        elif self._back is not None and self._back.finished and len(self._back.crystals) == len(self._to_judge):
            decoded = self._back.crystals.to("cpu")
            truth = Crystals.cat([end.crystal.to("cpu") for end in self._to_judge if end.crystal is not None])
            for k, rms in reconstruction.match(truth, decoded, jobs=1):
                self._to_judge[k].judge(decoded[k].trim(), rms)
        self._refresh()

    # --- the run ------------------------------------------------------------------------------------------

    def _moved(self) -> None:
        frame = self._live.frames[-1]
        self._say(f"decoding {len(frame.crystals)} stops: step {frame.step} of {frame.num_steps}")
        if time.monotonic() >= self._due:
            self._draw_film()
            self._due = time.monotonic() + 1.0

    def _ended(self) -> None:
        if self._live.error is not None:
            self._complain(self._live.error, self._live.traceback)
        elif self._live.frames:
            last = self._live.frames[-1]
            self._draw_film()
            self._draw_path()
            self._plot.redraw()
            self._changes.value = self._jumps()
            done = f"stopped after step {last.step} of {last.num_steps}"
            self._say("finished; a stop's picture or the slider shows it alone" if last.finished else done)
        self._refresh()

    def _write_code(self, n: int, seed: int, shape: str, keep: dict[str, str]) -> None:
        a, b = (self.ends[letter].code for letter in ENDS)
        options = "".join(
            f", {name}={value!r}" for name, value in ({"path": shape} | keep).items() if value != PATHS[0]
        )
        call = f"lab.interpolate(model, {a}, {b}, n={n}, seed={seed}{options}{self._sampler.told})"
        self._told = "" if {a, b} & set(ENDS) else call
        given = [f"# `{x}` is {self.ends[x].name}" for x in ENDS if self.ends[x].code == x]
        self._code = [self._model_line(), *given, f"crystals = lab.last({call}).crystals"]

    # --- the looks ----------------------------------------------------------------------------------------

    def _own_map(self, given: Any) -> MapFigure | None:
        if isinstance(given, LatentMapView):
            given.map.check(self._the_model)
            return None
        if isinstance(given, LatentMap):
            given.check(self._the_model)
        elif given is not None:
            given = load_map(given, self._the_model)
        else:
            given = map_of(self._the_model)
        return None if given is None else MapFigure(given, height=430, clicked=self._click)

    def _make_controls(self, n: int, seed: int) -> None:
        W = ipywidgets
        self._run_button = self._button("Run", "decode the path", self.run, "primary")
        self._stop_button = self._button("Stop", "after the step that is being computed", self.stop)
        self._go_button = self._button("Go on", "from the last frame", self.go_on)
        self._n = field(W.BoundedIntText, "stops", "105px", value=n, min=2, max=41)
        self._seed = field(W.BoundedIntText, "seed", "110px", value=seed, min=0, max=2**31 - 1)
        self._shape = field(W.Dropdown, "path", "140px", options=list(PATHS), tooltip=_WHY_STRAIGHT)
        self._keep = field(W.Dropdown, "keep", "210px", options=list(_KEEP))
        self._film = Film()
        self._slider = field(W.IntSlider, "stop", "60%", value=0, min=0, max=1)
        self._all = self._button("all side by side", "every stop at once", lambda: setattr(self._film, "at", -1))
        self._use = self._button("use this stop", "as the chosen crystal of all views", self.choose)
        self._changes = W.HTML()
        self._what = field(W.Dropdown, "along the way", "330px", options=list(self._quantities()))
        self._plot = Plot(self._curve)
        self._folder = field(W.Text, "into folder", "200px", value="out/path")
        self._exports = [
            self._button(text, tip, lambda kind=kind: self._written(self.export(kinds=[kind])))
            for text, kind, tip in (
                ("CIFs", "cif", "one of every stop"),
                ("extended XYZ", "extxyz", "all stops in one file"),
                ("PNG", "png", "the strip"),
                ("GIF", "gif", "one stop after another"),
            )
        ]
        self._film.observe(lambda change: self._show_stop(change["new"]), "at")
        self._slider.observe(lambda change: setattr(self._film, "at", change["new"]), "value")
        self._what.observe(lambda change: self._plot.redraw(), "value")
        why = W.HTML(f"<details><summary>why straight?</summary>{_WHY_STRAIGHT}.</details>")
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "8px"}
        below = [W.VBox([self._what, self._plot], layout={"flex": "1 1 380px", "min_width": "0"})]
        below += [] if self._map is None else [self._map]
        self._show(
            W.HBox([*self.ends.values()], layout=wrap),
            row(
                self._run_button, self._stop_button, self._go_button, self._n, self._shape, self._keep, self._seed, why
            ),
            self.view,
            row(self._slider, self._all, self._use),
            self._film,
            self._changes,
            W.HBox(below, layout=wrap),
            row(*self._exports, self._folder, self._code_button),
        )

    def _show_stop(self, k: int) -> None:
        self.view.choice = None if k < 0 else k
        if k >= 0:
            self._slider.value = k
        layout: Any = self._plot.figure.layout
        with self._plot.figure.batch_update():
            for shape in layout.shapes:
                if shape.name == CURRENT:
                    shape.x0 = shape.x1 = max(k, 0)
                    shape.visible = k >= 0
        if k >= 0 and self._map is not None and self._path is not None:
            x, y = self._map.map.place(self._path.z[[k]].cpu().float())[0].tolist()
            self._map.mark((x, y))
        self._refresh()

    def _click(self, hit: Hit) -> None:
        if hit.layer == PATH and hit.index is not None:
            self._film.at = hit.index

    def _places(self) -> list[str]:
        return [f"{weight:.0%}" for weight in self.path.weights.tolist()]

    def _draw_film(self) -> None:
        self._film.items = path_pictures(self._live.crystals.to("cpu"), self._places())
        self._slider.max = len(self._live.crystals) - 1

    def _draw_path(self) -> None:
        done = self._live.frames and len(self._live.crystals) == len(self.path)
        texts = words.formulas(self._live.crystals) if done else [""] * len(self.path)
        if self._elsewhere is not None:
            self._elsewhere.set_path(PATH, self.path.z, texts, crystals=self._live.crystals if done else None)
        elif self._map is not None:
            self._map.put(PATH, True, self._map.map.place(self.path.z.cpu().float()), texts)

    def _jumps(self) -> str:
        """Where composition or number of atoms changes: there is nothing between one element and another."""
        crystals = self.crystals
        names = [
            f"{words.subscripts(formula)} ({count} atoms)"
            for formula, count in zip(words.formulas(crystals), crystals.num_atoms.tolist(), strict=True)
        ]
        steps = [
            f"{k} → {k + 1}: {one} → {other}"
            for k, (one, other) in enumerate(itertools.pairwise(names))
            if one != other
        ]
        if not steps:
            return f"The same atoms at every stop: {names[0]}."
        return f"<b>Jumps</b>, where what the crystal is made of changes between two stops: {'; '.join(steps)}."

    def _quantities(self) -> dict[str, str]:
        data = self._the_model.metadata.get("data", {})
        name, unit = data.get("property") or "", data.get("property_unit") or ""
        first = {f"{name} as the model predicts it": unit} if name else {}
        return first | {"density": "g/cm³", "volume per atom": "Å³", "number of atoms": "", "smallest distance": "Å"}

    def _curve(self, theme: Theme) -> Figure:
        what = self._what.value
        unit = self._quantities()[what]
        crystals = self._live.crystals.to("cpu") if self._live.frames else None
        if crystals is None or self._path is None:
            return along_path([float("nan")] * 2, what.partition(" as the")[0], unit, theme=theme)
        finite = validity.structure_validity(crystals)
        made = {
            "density": densities,
            "volume per atom": lambda c: volume(c.lattice) / c.num_atoms,
            "number of atoms": lambda c: c.num_atoms,
            "smallest distance": validity.smallest_distance,
        }
        reference: dict[str, float | int] | None = None
        if what in made:
            lines: Any = made[what](crystals)
            ends = made[what](self._path.ends.to("cpu")).tolist()
            reference = {f"{letter}, as given": value for letter, value in zip(ENDS, ends, strict=True)}
        else:
            name = str(self._the_model.metadata["data"]["property"])
            lines = {"predicted from z": self._property(self._path.z)}
            again = torch.full((len(crystals),), torch.nan)
            if bool(finite.any()):
                with torch.no_grad():
                    mu = self._the_model.encode(crystals[finite].to(self._the_model.device)).mu
                again[finite] = self._property(mu)
            lines["from the decoded crystal"] = again
            what = name
        figure = along_path(
            lines, what, unit, texts=words.formulas(crystals), valid=finite, reference=reference, theme=theme,
            current=max(self.stop_shown, 0),
        )  # fmt: skip
        figure.update_shapes(visible=self.stop_shown >= 0, selector={"name": CURRENT})
        return figure

    def _property(self, z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._the_model.predict_property(z.to(self._the_model.device)).cpu().float()

    def _refresh(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        live, some = self._live, bool(self._live.frames)
        ready = all(end.crystal is not None for end in self.ends.values())
        self._run_button.disabled = live.running or not ready
        self._stop_button.disabled = not live.running
        self._go_button.disabled = live.running or not some or live.finished
        self._slider.disabled = self._all.disabled = live.running or not some
        self._use.disabled = live.running or self.stop_shown < 0
        for one in self._exports:
            one.disabled = live.running or not some
        self._draw_code()

    def _picture(self) -> Crystals | None:
        return self.view.current()
