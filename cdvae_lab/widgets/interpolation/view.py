"""Interpolation between two crystals in the latent space: reconstructions of both ends, and every stop on the path."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.explore.interpolation import ENDS, PATHS, LatentPath, decode_path, latent_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import DEFAULT
from cdvae_lab.widgets.base.recorded_run import RunStatus, in_event_loop
from cdvae_lab.widgets.base.replay_code import ReplayCode, Sampler, WithCode, arguments
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.interpolation.controls import PATH, InterpolationControls
from cdvae_lab.widgets.interpolation.end_check import EndsChecked, check_ends
from cdvae_lab.widgets.interpolation.exports import KINDS, write_path
from cdvae_lab.widgets.interpolation.path_end import PathEnd, default_ends, read_end
from cdvae_lab.widgets.interpolation.results import PathResults, path_results, places
from cdvae_lab.widgets.interpolation.state import KEEP, MAX_STOPS, InterpolationState
from cdvae_lab.widgets.parts.crystal_frames import CrystalFrames
from cdvae_lab.widgets.parts.filmstrip import path_pictures
from cdvae_lab.widgets.parts.labels import label_of
from cdvae_lab.widgets.parts.maps import MapSource, PathCanvas, find_map

MAX_FRAMES = 60  # kept frames of a run; the slider could not resolve more
_PICTURES_EVERY = 1.0  # s, of the filmstrip while the path is being decoded


class InterpolationView(View):
    """Two crystals, their reconstructions, and the crystals that the model decodes between them.

    Every button is also a method: `set_end`, `take_primitive`, `take_selected`, `run`, `stop`, `resume`, `choose`,
    `export`; every field is a trait of `state`. All stops are decoded as one batch with the same noise, so that
    neighbors differ by their latents alone.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        a, b: the ends: the name of an example, a file, a pymatgen Structure, ASE Atoms or Crystals of one; None takes
            an example that the model takes. One that cannot be used is refused in the view, with the remedy.
        map: to draw the path on: a LatentMap, its file or name, or a LatentMapView that is shown elsewhere; None takes
            the bundled map of this model, if there is one.
        selection: the crystals chosen here and in other views; a new one by default.
        n: number of stops with both ends.
        seed: of the noise.
        height: of the crystals, pixels.
        sampler, settings: of `denoise`.

    Attributes:
        ends: both ends, by letter.

    Raises:
        CheckpointError: if the map is of another model.
        SettingError: for n out of range, or a sampler or setting that does not exist.
    """

    state: InterpolationState
    model: CDVAE

    def __init__(
        self,
        model: CDVAE | WithCode[CDVAE] | str | Path = "perov_5",
        a: Any = None,
        b: Any = None,
        *,
        map: MapSource = None,
        selection: Selection | None = None,
        n: int = 9,
        seed: int = 0,
        height: int = 300,
        sampler: str | Schedule = DEFAULT,
        **settings: Any,
    ) -> None:
        if not 2 <= n <= MAX_STOPS:
            raise SettingError(f"n is {n} stops; choose 2 to {MAX_STOPS}")
        super().__init__(model, InterpolationState(n=n, seed=seed), selection)
        self._sampler = Sampler(self.model, sampler, settings)
        self._path: LatentPath | None = None
        self._setup = ReplayCode()
        self._call = ""  # of `interpolate`
        self._latents_code = ""  # an expression for the latents of the path
        self._waiting = False
        self._quiet = False  # whether the state is being updated to match an end
        self._run_when_read = False
        self._live_pictures: list[dict[str, Any]] | None = None  # made in the worker, not shown yet
        canvas = map if isinstance(map, PathCanvas) else None
        known = find_map(self.model, map)
        self._canvas = canvas
        self._on_map: LatentPath | None = None  # the path that is drawn on it
        self.ends = {letter: PathEnd(letter) for letter in ENDS}
        self._wanted: dict[str, Any] = dict.fromkeys(ENDS)  # sources of the ends, also while they are being read
        self._readers = {letter: self.new_task(f"reading end {letter}", self._enable) for letter in ENDS}
        self._check = self.new_run(self._draw_check, self._show_check, max_frames=1)
        self.recorded_run = self.new_run(self._draw, self._show_run, max_frames=MAX_FRAMES)
        self._results = self.new_run(self._draw_results, self._show_results, max_frames=1)
        self._export = self.new_run(show=self._show_export, max_frames=1)
        shown_map = known if canvas is None else None
        self.controls = InterpolationControls(self.state, self, height, shown_map, label_of(self.model))
        self.view = self.controls.view
        self._shown = CrystalFrames(self.view)
        self.show_rows(self.controls.rows(), self.controls)
        self.add_class("cdvae-interpolation")
        self.listen(self.state, "stop", lambda change: self._show_stop(change["new"]))
        for letter in ENDS:
            self.listen(self.state, letter, lambda change, letter=letter: self._source_set(letter))
            self.listen(self.state, f"primitive_{letter}", lambda change, letter=letter: self._primitive_set(letter))
        self.when_picked(lambda pick: self._offer_selected())
        self._offer_selected()
        self._enable()
        usual = iter([] if None not in (a, b) else default_ends(self.model))
        for letter, given in zip(ENDS, (a, b), strict=True):
            source = next(usual, None) if given is None else given
            if source is not None:
                self.attempt_end(lambda letter=letter, source=source: self.set_end(letter, source))

    # --- what can be done, by buttons and from code -------------------------------------------------------

    @property
    def crystals(self) -> Crystals:
        """The crystals along the path as they are now, a's end first. Raises SettingError before the first run."""
        if self.recorded_run.newest is None:
            raise SettingError("there is no path yet; press Run, or call run()")
        return self.recorded_run.newest.crystals

    @property
    def path(self) -> LatentPath:
        """The latents of the path. Raises SettingError before the first run."""
        if self._path is None:
            raise SettingError("there is no path yet; press Run, or call run()")
        return self._path

    @property
    def replay_code(self) -> ReplayCode:
        """The code that gives `crystals`."""
        if not self._call:
            return ReplayCode(setup={"model": self.model_code})
        parts = self.recorded_run.recording.segments
        if len(parts.parts) == 1 and (self.running or self.recorded_run.status.state == "finished"):
            return self._setup.then(f"crystals = lab.last({self._call}).crystals")
        replay = parts.replay()
        return self._setup.then(*replay.body, "crystals = frames[-1].crystals", imports=replay.imports)

    def set_end(self, letter: str, source: Any, wait: bool = True) -> None:
        """Choose an end.

        Args:
            letter: "a" or "b".
            source: the name of an example, a file, a pymatgen Structure, ASE Atoms, Crystals of one, or a Pick.
            wait: False: read it in the background; the error is shown below the picture.

        Raises:
            CrystalError: if it cannot be read, is not one crystal, or is none that the model takes. The remedy is also
                shown below the picture.
            SettingError: for another letter.
        """
        if letter not in ENDS:
            raise SettingError(f"an end is 'a' or 'b', not {letter!r}")
        self._read(letter, source, primitive=False, wait=wait)

    def take_primitive(self, letter: str, wait: bool = True) -> None:
        """Replace an end by its primitive cell; `wait` and errors are those of `set_end`."""
        if letter not in ENDS:
            raise SettingError(f"an end is 'a' or 'b', not {letter!r}")
        if self.ends[letter].structure is None:
            raise CrystalError(f"end {letter}: there is no crystal yet whose primitive cell could be taken")
        self._read(letter, self._wanted[letter], primitive=True, wait=wait)

    def take_selected(self, letter: str, wait: bool = True) -> None:
        """Make the selected crystal an end; as `set_end`, and raises SettingError if nothing is selected."""
        if self.selection.pick is None:
            raise SettingError("no crystal is chosen yet; choose one in any view")
        self.set_end(letter, self.selection.pick, wait)

    def run(self, wait: bool = False) -> None:
        """Decode the path with the settings of `state`; while an end is being read, as soon as it is.

        Args:
            wait: return at the end, and raise what goes wrong.

        Raises:
            CrystalError: if an end is missing or cannot be used.
            SettingError: for settings that do not go together.
        """
        if self._being_read and not wait:
            self._run_when_read = True
            return
        for one in self._readers.values():
            one.run.wait()
        crystals = [self._usable(letter) for letter in ENDS]
        state, schedule = self.state, self._sampler.schedule
        n, shape, seed, kept = state.n, state.path, state.seed, KEEP[state.keep]
        settings: Any = kept

        def frames() -> Iterator[DenoisingFrame]:  # in the worker thread: encoding the ends takes a while
            self._path = path = latent_path(self.model, *crystals, n=n, path=shape)
            yield from self._pictured(decode_path(self.model, path, seed=seed, sampler=schedule, **settings), path)

        for one in (self.recorded_run, self._results):
            one.cancel()
        self._path, self._waiting = None, wait
        self._write_code(kept)
        self.controls.clear()
        self._shown.restart()
        self.recorded_run.start(frames, self._call, num_steps=len(schedule), wait=wait)

    def stop(self) -> None:
        """End the reading, the run, or the export, after the current step; `resume` continues the run."""
        for letter, reader in self._readers.items():
            if reader.running:
                reader.cancel()
                self._follow(letter)
                self.show_message(f"stopped; end {letter} is as it was")
        self._run_when_read = False
        for one in (self.recorded_run, self._results, self._export):
            one.stop()

    def resume(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have continued.

        Args:
            wait: return at the end, and raise what goes wrong.
        """
        path = self.path
        self.recorded_run.cancel()
        self._results.cancel()
        self._waiting = wait
        frames = denoise(self.model, frame=self.recorded_run.newest)
        self.recorded_run.resume(self._pictured(frames, path), "lab.denoise(model, frame=frames[-1])", wait=wait)

    def choose(self) -> Pick:
        """Make the stop that is shown the selected crystal. Raises SettingError if all stops are shown."""
        k, crystals = self.state.stop, self.crystals
        if k < 0:
            raise SettingError("all stops are shown; choose one first, with the slider or by its picture")
        name = f"{reduced_formulas(crystals)[k]} (stop {k} of {len(crystals) - 1})"
        code = self.replay_code.then(f"crystal, z = crystals[{k}].trim(), {self._latents_code}[{k}:{k + 1}]")
        expression = "" if self._setup.before or self._setup.body else f"lab.last({self._call}).crystals[{k}]"
        pick = Pick(name, crystals[k].trim().to("cpu"), self.path.z[[k]].cpu(), expression, code)
        self.selection.choose(pick)
        return pick

    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = KINDS, wait: bool = True) -> list[Path]:
        """Write the path; returns the files.

        Args:
            folder: created if necessary; by default `state.folder`.
            kinds: "cif" of every stop, "extxyz" and "gif" with one stop after another, "png" the strip.
            wait: False: write in the background, and return nothing; the status line shows the files.

        Raises:
            SettingError: for another kind, or without a path.
            CrystalError: if a crystal cannot be exported.
            LabError: if a file cannot be written.
        """
        kinds = list(kinds)
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise SettingError(f"export: no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
        folder = Path(self.state.folder if folder is None else folder)
        work = write_path(self.crystals.to("cpu"), places(self.path), folder, kinds)
        self._export.start(work, wait=wait)
        return list(self._export.newest.files) if wait and self._export.newest is not None else []

    def attempt_end(self, act: Callable[[], Any]) -> None:
        """Change an end, whose error is shown below its picture."""

        def quietly() -> None:
            with contextlib.suppress(CrystalError):
                act()

        self.attempt(quietly)

    # --- the ends -----------------------------------------------------------------------------------------

    @property
    def _being_read(self) -> bool:
        return any(one.running for one in self._readers.values())

    def _usable(self, letter: str) -> Crystals:
        end = self.ends[letter]
        if end.crystal is None:
            raise end.error or CrystalError(f"end {letter}: choose a crystal first")
        return end.crystal

    def _source_set(self, letter: str) -> None:
        """Read an end whose source was set: `state.a` or `state.b`."""
        source = getattr(self.state, letter)
        if source and not self._quiet:
            self._reread(letter, source)

    def _primitive_set(self, letter: str) -> None:
        """Read an end again after a change of `state.primitive_a` or `state.primitive_b`."""
        if self._wanted[letter] is not None and not self._quiet:
            self._reread(letter, self._wanted[letter])

    def _reread(self, letter: str, source: Any) -> None:
        primitive = getattr(self.state, f"primitive_{letter}")
        self.attempt_end(lambda: self._read(letter, source, primitive, wait=not in_event_loop()))

    def _read(self, letter: str, source: Any, primitive: bool, wait: bool) -> None:
        """Read an end and show it; raises its error if it is waited for."""

        def take(end: PathEnd) -> None:
            self.ends[letter] = end
            self._end_changed(letter)
            if wait and end.error is not None:
                raise end.error

        self._wanted[letter], self._run_when_read = source, False
        self._readers[letter].start(lambda: [read_end(self.model, letter, source, primitive)], take, wait)

    def _follow(self, letter: str) -> None:
        """Bring state and fields back to the end that is there."""
        end = self.ends[letter]
        self._wanted[letter] = end.source
        self._quiet = True
        try:
            self.state.update({letter: end.path, f"primitive_{letter}": end.primitive})
        finally:
            self._quiet = False

    def _offer_selected(self) -> None:
        for one in self.controls.ends.values():
            one.take.disabled = self.selection.pick is None

    def _end_changed(self, letter: str) -> None:
        """Show an end, and begin to reconstruct both."""
        self._follow(letter)
        self.show_message("")
        self.controls.ends[letter].show(self.ends[letter])
        usable = [end for end in self.ends.values() if end.crystal is not None]
        if usable and not self.recorded_run.frames:  # until there is a path, its ends
            crystals = Crystals.cat([end.crystal for end in usable if end.crystal is not None])
            self.view.show_all([crystals], origin=crystals)
        ends = list(self.ends.values())
        self._check.start(check_ends(self.model, ends, self.state.seed, self._sampler.schedule))
        self._enable()
        if self._run_when_read and not self._being_read:
            self._run_when_read = False
            self.attempt(self.run)

    def _draw_check(self, new: Sequence[Any]) -> None:
        checked = new[-1] if new else None
        if isinstance(checked, EndsChecked):
            for letter, models in checked.models.items():
                self.controls.ends[letter].show_models(self.ends[letter], models)
            for letter, (decoded, rms) in checked.decoded.items():
                known_by = checked.known_by.get(letter, ())
                self.controls.ends[letter].show_reconstruction(self.ends[letter], decoded, rms, known_by)

    def _show_check(self, status: RunStatus) -> None:
        if status.error is not None:
            self.show_error(status.error, status.traceback)

    # --- the run ------------------------------------------------------------------------------------------

    def _pictured(self, frames: Iterator[DenoisingFrame], path: LatentPath) -> Iterator[DenoisingFrame]:
        """Pass frames through in the worker thread, and draw pictures of the current stops at intervals."""
        due = 0.0
        for frame in frames:
            if time.monotonic() >= due:
                self._live_pictures = path_pictures(frame.crystals.to("cpu"), places(path))
                due = time.monotonic() + _PICTURES_EVERY
            yield frame

    def _draw(self, new: Sequence[DenoisingFrame]) -> None:
        self._shown.add(new)
        if self._path is not self._on_map:
            self._draw_path()
        if self._live_pictures is not None:
            self.controls.show_pictures(self._live_pictures)
            self._live_pictures = None

    def _show_run(self, status: RunStatus) -> None:
        self._enable()
        frame = self.recorded_run.newest
        if status.error is not None:
            kept = "The crystals so far are kept." if frame is not None else ""
            self.show_error(status.error, status.traceback, kept)
        elif status.running:
            doing = f"decoding {self.state.n} stops" if frame is None else f"decoding {len(frame.crystals)} stops"
            self.show_message(doing if frame is None else f"{doing}: step {frame.step} of {frame.num_steps}")
        elif frame is not None:
            stopped = f"stopped after step {frame.step} of {frame.num_steps}"
            self.show_message("finished; a stop's picture or the slider shows it alone" if frame.finished else stopped)
        if not status.running:
            self.draw_code()
            if frame is not None:
                self._results.start(self._measured(self.path, frame.crystals), wait=self._waiting)

    def _measured(self, path: LatentPath, crystals: Crystals) -> Iterator[PathResults]:
        """Compute the results of a decoded path in the worker thread."""
        yield path_results(self.model, path, crystals)

    def _draw_results(self, new: Sequence[PathResults]) -> None:
        if new:
            self.controls.show_results(new[-1])
            self._draw_path(new[-1].formulas)

    def _show_results(self, status: RunStatus) -> None:
        self._enable()
        if status.error is not None:
            self.show_error(status.error, status.traceback)

    def _draw_path(self, formulas: Sequence[str] = ()) -> None:
        """Draw the path on the map, here or in another view."""
        path = self._on_map = self.path
        texts = list(formulas) or [""] * len(path)
        if self._canvas is not None:
            self._canvas.set_path(PATH, path.z, texts, crystals=self.crystals if formulas else None)
        elif self.controls.map is not None:
            self.controls.map.put(PATH, True, self.controls.map.map.place(path.z.cpu().float()), texts)

    def _show_stop(self, stop: int) -> None:
        self.view.choice = None if stop < 0 else stop
        if stop >= 0 and self.controls.map is not None and self._path is not None:
            x, y = self.controls.map.map.place(self._path.z[[stop]].cpu().float())[0].tolist()
            self.controls.map.mark((x, y))
        self._enable()

    def _enable(self) -> None:
        frame = self.recorded_run.newest
        self.controls.enable(
            ready=all(end.crystal is not None for end in self.ends.values()) and not self._being_read,
            running=self.recorded_run.running,
            busy=self._export.running or self._being_read,
            frames=frame is not None,
            finished=frame is not None and frame.finished,
        )

    def _write_code(self, keep: dict[str, str]) -> None:
        """Note how the run that begins is written in Python."""
        state = self.state
        a, b = (self.ends[letter].code for letter in ENDS)
        shape = {} if state.path == PATHS[0] else {"path": state.path}
        options = f", n={state.n}, seed={state.seed}{arguments(shape | keep)}{self._sampler.arguments}"
        self._call = f"lab.interpolate(model, {a}, {b}{options})"
        self._latents_code = f"lab.latent_path(model, {a}, {b}, n={state.n}{arguments(shape)}).z"
        before = [one for letter in ENDS if (one := self.ends[letter].replay) != ReplayCode()]
        self._setup = ReplayCode(setup={"model": self.model_code, **self._sampler.setup}, before=tuple(before))

    def _show_export(self, status: RunStatus) -> None:
        self._enable()
        self.show_export(status, self._export)

    def picture(self) -> Crystals | None:
        """The crystals that are shown."""
        return self.view.current()
