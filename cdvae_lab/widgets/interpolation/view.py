"""Interpolation between two crystals in the latent space: reconstructions of both ends, and every stop on the path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.explore.interpolation import ENDS, LatentPath, decode_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latents import latents_of
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import DEFAULT
from cdvae_lab.widgets.base.replay_code import ReplayCode, Sampler, WithCode
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.interpolation.controls import InterpolationControls
from cdvae_lab.widgets.interpolation.end_check import EndsCheck, EndsChecked
from cdvae_lab.widgets.interpolation.exports import KINDS, write_path
from cdvae_lab.widgets.interpolation.live_pictures import LivePictures
from cdvae_lab.widgets.interpolation.path_code import PathCode
from cdvae_lab.widgets.interpolation.path_end import default_ends
from cdvae_lab.widgets.interpolation.path_ends import PathEnds
from cdvae_lab.widgets.interpolation.path_map import PathMap
from cdvae_lab.widgets.interpolation.results import PathResults, path_results, places
from cdvae_lab.widgets.interpolation.state import KEEP, MAX_STOPS, InterpolationState
from cdvae_lab.widgets.parts.crystal_frames import CrystalFrames
from cdvae_lab.widgets.parts.labels import label_of
from cdvae_lab.widgets.parts.maps import MapSource, PathCanvas, find_map
from cdvae_lab.widgets.parts.writing import check_kinds

MAX_FRAMES = 60  # kept frames of a run; the slider could not resolve more


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
        self._code = PathCode(ReplayCode(setup={"model": self.model_code}))
        self._path: LatentPath | None = None
        self._waiting = False
        canvas = map if isinstance(map, PathCanvas) else None
        known = find_map(self.model, map)
        self._ends = PathEnds(
            self.model, self.state, lambda doing: self.new_task(doing, self._enable), self._end_changed
        )
        self.ends = self._ends.by_letter
        self._ends_check = EndsCheck(self.model, self._sampler.schedule)
        self._check = self.new_run(self._draw_check, self._show_failure, max_frames=1)
        self._live = LivePictures()
        self.recorded_run = self.new_run(self._draw, self._show_run, max_frames=MAX_FRAMES)
        self._results = self.new_run(self._draw_results, self._show_failure, max_frames=1)
        self._export = self.new_run(show=self._show_export, max_frames=1)
        shown_map = known if canvas is None else None
        self.controls = InterpolationControls(self.state, self, height, shown_map, label_of(self.model))
        self._map = PathMap(self.controls.map, canvas)
        self.view = self.controls.view
        self._shown = CrystalFrames(self.view)
        self.show_rows(self.controls.rows(), self.controls)
        self.add_class("cdvae-interpolation")
        self.listen(self.state, "stop", lambda change: self._show_stop(change["new"]))
        for letter in ENDS:
            for trait, read in ((letter, self._ends.source_set), (f"primitive_{letter}", self._ends.primitive_set)):
                act = partial(read, letter)
                self.listen(self.state, trait, lambda change, act=act: self.attempt_end(act))
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
        whole = self.running or self.recorded_run.status.state == "finished"
        return self._code.replay(self.recorded_run.recording.segments, whole)

    def set_end(self, letter: str, source: Any, wait: bool | None = True) -> None:
        """Choose an end.

        Args:
            letter: "a" or "b".
            source: the name of an example, a file, a pymatgen Structure, ASE Atoms, Crystals of one, or a Pick.
            wait: False: read it in the background; the error is shown below the picture. None: where an event loop
                runs, as in a notebook.

        Raises:
            CrystalError: if it cannot be read, is not one crystal, or is none that the model takes. The remedy is also
                shown below the picture.
            SettingError: for another letter.
        """
        self._ends.read(letter, source, wait)

    def take_primitive(self, letter: str, wait: bool | None = True) -> None:
        """Replace an end by its primitive cell; `wait` and errors are those of `set_end`."""
        self._ends.read_primitive(letter, wait)

    def take_selected(self, letter: str, wait: bool | None = True) -> None:
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
        if self._ends.being_read and not wait:
            self._ends.when_read(lambda: self.attempt(self.run))
            return
        crystals, state, schedule = self._ends.crystals(), self.state, self._sampler.schedule
        n, shape, seed = state.n, state.path, state.seed
        settings: Any = KEEP[state.keep]

        def frames() -> Iterator[DenoisingFrame]:  # in the worker thread: encoding the ends takes a while
            ends = Crystals.cat(crystals)
            # Without a warning of crystals that the model does not represent: the check says it below their pictures.
            z = latents_of(self.model, ends, allow_unseen=True)
            self._path = path = LatentPath.between(z, ends, n, shape)
            yield from self._live.of(decode_path(self.model, path, seed=seed, sampler=schedule, **settings), path)

        for one in (self.recorded_run, self._results):
            one.cancel()
        self._path, self._waiting = None, wait
        self._code = PathCode.of(self.model_code, self.ends.values(), state, self._sampler)
        self.controls.clear()
        self._shown.restart()
        self.recorded_run.start(frames, self._code.call, num_steps=len(schedule), wait=wait)

    def stop(self) -> None:
        """End the reading, the run, or the export, after the current step; `resume` continues the run."""
        for letter in self._ends.stop():
            self.show_message(f"stopped; end {letter} is as it was")
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
        self.recorded_run.resume(self._live.of(frames, path), "lab.denoise(model, frame=frames[-1])", wait=wait)

    def choose(self) -> Pick:
        """Make the stop that is shown the selected crystal. Raises SettingError if all stops are shown."""
        k, crystals = self.state.stop, self.crystals
        if k < 0:
            raise SettingError("all stops are shown; choose one first, with the slider or by its picture")
        pick = self._code.pick(self.path, crystals, k, self.replay_code)
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
        check_kinds(kinds, KINDS)
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

    def picture(self) -> Crystals | None:
        """The crystals that are shown."""
        return self.view.current()

    # --- the ends -----------------------------------------------------------------------------------------

    def _offer_selected(self) -> None:
        for one in self.controls.ends.values():
            one.take.disabled = self.selection.pick is None

    def _end_changed(self, letter: str) -> None:
        """Show an end, and begin to check both."""
        ends = list(self.ends.values())
        self.show_message("")
        self.controls.ends[letter].show(self.ends[letter])
        usable = [end.crystal for end in ends if end.crystal is not None]
        if usable and not self.recorded_run.frames:  # until there is a path, its ends
            crystals = Crystals.cat(usable)
            self.view.show_all([crystals], origin=crystals)
        self._check.start(self._ends_check.run(ends, self.state.seed))
        self._enable()

    def _draw_check(self, new: Sequence[Any]) -> None:
        checked = new[-1] if new else None
        if isinstance(checked, EndsChecked):
            for letter, models in checked.models.items():
                self.controls.ends[letter].show_models(self.ends[letter], models)
            for letter, (decoded, rms) in checked.decoded.items():
                known_by = checked.known_by.get(letter, ())
                self.controls.ends[letter].show_reconstruction(self.ends[letter], decoded, rms, known_by)

    # --- the run ------------------------------------------------------------------------------------------

    def _draw(self, new: Sequence[DenoisingFrame]) -> None:
        self._shown.add(new)
        if self._path is not self._map.path:
            self._map.draw(self.path)
        pictures = self._live.take()
        if pictures is not None:
            self.controls.show_pictures(pictures)

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
            self._map.draw(self.path, new[-1].formulas, self.crystals)

    def _show_failure(self, status: RunStatus) -> None:
        self._enable()
        if status.error is not None:
            self.show_error(status.error, status.traceback)

    def _show_export(self, status: RunStatus) -> None:
        self._enable()
        self.show_export(status, self._export)

    def _show_stop(self, stop: int) -> None:
        self.view.choice = None if stop < 0 else stop
        if stop >= 0:
            self._map.mark(stop)
        self._enable()

    def _enable(self) -> None:
        frame = self.recorded_run.newest
        self.controls.enable(
            ready=self._ends.ready,
            running=self.recorded_run.running,
            busy=self._export.running or self._ends.being_read,
            frames=frame is not None,
            finished=frame is not None and frame.finished,
        )
