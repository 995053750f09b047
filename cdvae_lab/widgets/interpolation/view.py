"""From one crystal to another through the latent space: both ends judged, every stop seen, jumps named."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.explore.interpolation import ENDS, PATHS, LatentPath, decode_path, latent_path
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.metrics import reconstruction
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.widgets.base.legs import Sampler, arguments
from cdvae_lab.widgets.base.live import Live
from cdvae_lab.widgets.base.panel import Panel
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.interpolation.controls import KEEP, PathLooks
from cdvae_lab.widgets.interpolation.path_end import PathEnd
from cdvae_lab.widgets.latent_map.view import LatentMapView
from cdvae_lab.widgets.parts import files


class InterpolationView(Panel):
    """Two crystals, whether the model gives each back, and what it makes of the way between them.

    Every button is also a method: `set_end`, `take_primitive`, `run`, `stop`, `go_on`, `export`. All stops are decoded
    as one batch with the same noise, so that neighbors differ by their latents alone.

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
        super().__init__(model, selection)
        self._sampler = Sampler(self._the_model, sampler, settings)
        self._path: LatentPath | None = None
        self._due = 0.0  # when the film is drawn again
        self._told = ""  # the call of `interpolate`, for picks
        self._looks = PathLooks(self, n, seed, height, map)
        self.view = self._looks.view
        self._live = Live(self._runner, self.view, self._moved, self._ended)
        self._judge = self._runner(self._keep_judged, self._judged)
        self._to_judge: list[PathEnd] = []
        self._back: DenoisingFrame | None = None
        self.ends = {letter: PathEnd(self._the_model, letter, self.selection, self._end_changed) for letter in ENDS}
        self._show(*self._looks.rows())
        self.add_class("cdvae-interpolation")
        self._looks.refresh()
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
        return self._looks.film.at

    @stop_shown.setter
    def stop_shown(self, value: int) -> None:
        self._looks.film.at = value

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
        looks = self._looks
        n, seed, shape, keep = looks.n.value, looks.seed.value, looks.shape.value, KEEP[looks.keep.value]
        path = latent_path(self._the_model, *crystals, n=n, path=shape)
        frames = decode_path(self._the_model, path, seed=seed, sampler=self._sampler.schedule, **keep)
        self._path = path
        self._write_code(n, seed, shape, keep)
        looks.clear()
        self._live.start(frames, len(self._sampler.schedule), wait=wait)
        self._looks.refresh()

    def stop(self) -> None:
        """End the run after the step that it is in; `go_on` continues."""
        self._live.stop()

    def go_on(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have gone."""
        if not self._live.frames:
            raise SettingError("there is no path yet; press Run, or call run()")
        last = self._live.frames[-1]
        self._live.start(denoise(self._the_model, frame=last), last.num_steps, after=True, wait=wait)
        self._looks.refresh()

    def export(
        self, folder: str | Path | None = None, kinds: Iterable[str] = ("cif", "extxyz", "png", "gif")
    ) -> list[Path]:
        """Write the path: "cif" of every stop, "extxyz" and "gif" with one stop after another, "png" the strip.

        Raises:
            SettingError: for another kind, or without a path.
            CrystalError: if a crystal cannot be exported.
            LabError: if a file cannot be written.
        """
        folder = Path(self._looks.folder.value if folder is None else folder)
        placed = render.at_atom(self.crystals.to("cpu"))
        formulas = reduced_formulas(placed)
        each, places = [placed[k] for k in range(len(placed))], self._looks.places()
        written: list[Path] = []
        for kind in kinds:
            if kind == "cif":
                names = [f"stop_{k:02d}_{formula}" for k, formula in enumerate(formulas)]
                written += placed.write_cif(folder, names)
            elif kind == "extxyz":
                written.append(placed.write_extxyz(folder / "path.xyz"))
            elif kind == "png":
                strip = render.strip(each, captions=places, size=200)
                with atomic_path(folder / "path.png", "the strip") as temporary:
                    temporary.write_bytes(render.png_bytes(strip))
                written.append(folder / "path.png")
            elif kind == "gif":
                written.append(render.gif(each, folder / "path.gif", fps=2, captions=places))
            else:
                raise SettingError(f"export: no kind {kind!r}; there are cif, extxyz, png, gif")
        return written

    def choose(self) -> None:
        """Make the stop that is shown the pick of the selection. Raises SettingError if none is."""
        k, crystals = self.stop_shown, self.crystals
        if k < 0:
            raise SettingError("all stops are shown; choose one first, with the slider or by its picture")
        formula = reduced_formulas(crystals)[k]
        code = f"lab.last({self._told}).crystals[{k}]" if self._told else ""
        name = f"{formula} (stop {k} of {len(crystals) - 1})"
        self.selection.choose(Pick(name, crystals[k].trim().to("cpu"), self.path.z[[k]].cpu(), code))

    # --- the ends -----------------------------------------------------------------------------------------

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
        self._looks.refresh()

    def _again(self, crystals: Crystals) -> Iterator[DenoisingFrame]:
        with torch.no_grad():
            z = self._the_model.encode(crystals).mu
        # As the ends of a path: with the noise of crystal 0 both.
        path = LatentPath(z, torch.linspace(0, 1, len(z)).to(z), crystals, PATHS[0])
        return decode_path(self._the_model, path, seed=self._looks.seed.value, sampler=self._sampler.schedule)

    def _keep_judged(self, frame: DenoisingFrame) -> None:
        self._back = frame

    def _judged(self) -> None:
        self._looks.refresh()
        if self._judge.error is not None:
            self._complain(self._judge.error, self._judge.traceback)
        elif self._back is not None and self._back.finished and len(self._back.crystals) == len(self._to_judge):
            decoded = self._back.crystals.to("cpu")
            truth = Crystals.cat([end.crystal.to("cpu") for end in self._to_judge if end.crystal is not None])
            for k, rms in reconstruction.match(truth, decoded, jobs=1):
                self._to_judge[k].judge(decoded[k].trim(), rms)

    # --- the run ------------------------------------------------------------------------------------------

    def _moved(self) -> None:
        frame = self._live.frames[-1]
        self._say(f"decoding {len(frame.crystals)} stops: step {frame.step} of {frame.num_steps}")
        if time.monotonic() >= self._due:
            self._looks.draw_film()
            self._due = time.monotonic() + 1.0

    def _ended(self) -> None:
        self._looks.refresh()
        if self._live.error is not None:
            self._complain(self._live.error, self._live.traceback)
        elif self._live.frames:
            last = self._live.frames[-1]
            self._looks.draw_results()
            done = f"stopped after step {last.step} of {last.num_steps}"
            self._say("finished; a stop's picture or the slider shows it alone" if last.finished else done)

    def _write_code(self, n: int, seed: int, shape: str, keep: dict[str, str]) -> None:
        a, b = (self.ends[letter].code for letter in ENDS)
        options = arguments(({} if shape == PATHS[0] else {"path": shape}) | keep)
        call = f"lab.interpolate(model, {a}, {b}, n={n}, seed={seed}{options}{self._sampler.told})"
        self._told = "" if {a, b} & set(ENDS) else call
        given = [f"# `{x}` is {self.ends[x].name}" for x in ENDS if self.ends[x].code == x]
        self._code = [self._model_line(), *self._sampler.lines, *given, f"crystals = lab.last({call}).crystals"]

    def _picture(self) -> Crystals | None:
        return self.view.current()
