"""Property optimization in the latent space, step by step, with the crystals that are decoded on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.explore.saved_steps import load_steps
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.optimizer import verdict
from cdvae_lab.widgets.optimizer.controls import OptimizerControls
from cdvae_lab.widgets.optimizer.cursor import Cursor
from cdvae_lab.widgets.optimizer.decoding import Decoder
from cdvae_lab.widgets.optimizer.display import SearchDisplay
from cdvae_lab.widgets.optimizer.exports import KINDS, write_search
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Predictor, Search
from cdvae_lab.widgets.optimizer.region import Region
from cdvae_lab.widgets.optimizer.search_run import SearchRun
from cdvae_lab.widgets.optimizer.search_start import SearchStart, Start
from cdvae_lab.widgets.optimizer.start_check import StartCheck
from cdvae_lab.widgets.optimizer.state import GIVEN, PRIOR, SELECTION, OptimizerState, SearchSettings
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.labels import label_of
from cdvae_lab.widgets.parts.maps import MapSource, PathCanvas, find_map


class PropertyOptimizer(View):
    """Moves latents to where the model predicts another property, and shows the crystals that they decode to.

    A search along the gradient of a predictor easily leaves the region where the predictor was trained. So every so
    many steps the latents are decoded, and the property of the crystals is predicted: by `predictor`, if there is one,
    and by the model itself, which is not independent.

    Space runs and stops, arrows step (with shift ten at a time), Home and End. Every button is also a method: `run`,
    `stop`, `resume`, `restart`, `back`, `decode`, `choose`, `export`, `load`; every field is a trait of `state`. With
    `wait=True` a script waits for the end and gets errors raised; in a notebook errors appear in the view, and the
    steps so far are kept.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        start: as `optimize` takes it: crystals, a file, latents, or a number of crystals from the prior; by default the
            selected crystal, if there is one, or else an example.
        map: a LatentMap or its file, for the trail and for the region of the training crystals; or a widget with
            `set_path`; by default the bundled map of this model, if there is one.
        predictor: takes Crystals and returns a value for each, in the property's unit; best not this model.
        selection: the crystals chosen here and in other views; a new one by default.
        seed: of the prior's latents and of the decoder's noise.
        target, steps, lr, prior_weight: as in `optimize`; a weight of 0.01 and 400 steps of 0.02 by default.
        decode_every: steps between two decodings.
        decode_steps: of the decoder's sampler; few are quick, 200 are what `denoise` takes.

    Attributes:
        predictor: as given; it can be replaced.
        property_name, property_unit: name and unit of the optimized property.
        region: of the training crystals.
        course: the figure of the property and of |z|.
        map: the figure with the trail; None without a map, or if another view draws it.

    Raises:
        SettingError: for settings out of range.
        CrystalError: for crystals that the model cannot take.
        LabError: if a file cannot be read.
    """

    state: OptimizerState
    model: CDVAE

    def __init__(
        self,
        model: CDVAE | WithCode[CDVAE] | str | Path = "perov_5",
        start: Any = None,
        *,
        map: MapSource = None,
        predictor: Predictor | None = None,
        selection: Selection | None = None,
        seed: int = 0,
        target: str | float | int = "min",
        steps: int = 400,
        lr: float | int = 2e-2,
        prior_weight: float | int = 0.01,
        decode_every: int = 50,
        decode_steps: int = 100,
    ) -> None:
        state = OptimizerState(
            seed=seed, steps=steps, lr=lr, prior_weight=prior_weight, decode_every=decode_every,
            decode_steps=decode_steps, n=start if isinstance(start, int) else 4,
        )  # fmt: skip
        state.aim(target)
        super().__init__(model, state, selection)
        canvas = map if isinstance(map, PathCanvas) else None
        known = find_map(self.model, map)
        self.region = Region.of(known)
        name, self.property_unit = label_of(self.model, known)
        self.property_name = name or "property"
        label = (self.property_name, self.property_unit)
        self._start = SearchStart(state, self.model, start, self.selection)
        if state.start == GIVEN:
            self._start.reading()()  # raises errors about the start now rather than later
        self._check = StartCheck(self._start, self.new_task(""), self._show_problem)
        self._reader = self.new_task("reading", lambda: self._enable())  # of the start of a new search, or of steps
        self._cursor = Cursor(state)
        self._decoder = Decoder(self.model, predictor, state, self.property_unit)
        self._searches = SearchRun(
            self.model, self.model_code, state, self._decoder, self._cursor,
            lambda **options: self.new_run(self._draw, self._show_run, **options),
        )  # fmt: skip
        self.recorded_run = self._searches.recorded_run
        self._export = self.new_run(show=self._show_export, max_frames=1)
        self.controls = OptimizerControls(state, self, label)
        self.view = self.controls.view
        self._display = SearchDisplay(
            self.controls, label, self.region, known, canvas,
            lambda draw: self.new_run(draw, self._show_failure, max_frames=1),
        )  # fmt: skip
        self.course, self.map = self._display.course, self._display.map
        self.show_rows(self.controls.rows(self._display.figures), self.controls)
        self.listen(state, "index", lambda change: self._moved())
        self.listen(state, "crystal", lambda change: self._draw_all())
        for trait in ("start", "file", "n"):
            self.listen(state, trait, lambda change: self._check.begin())
        self.when_picked(lambda pick: self._picked())
        self._check.begin()
        self._refresh(self.recorded_run.status)

    # --- what can be done, by buttons and from code ---------------------------------------------------

    @property
    def predictor(self) -> Predictor | None:
        """Predicts the property of decoded crystals independently of the model; None for none."""
        return self._decoder.predictor

    @predictor.setter
    def predictor(self, predictor: Predictor | None) -> None:
        self._decoder.predictor = predictor

    @property
    def steps(self) -> tuple[LatentStep, ...]:
        """The kept steps of the search, in order."""
        return tuple(self._search.steps)

    @property
    def decoded(self) -> tuple[Decoded, ...]:
        """The decodings on the way, in order."""
        return tuple(self._search.decoded)

    @property
    def step(self) -> LatentStep:
        """The step that is shown. Raises SettingError if there is none yet."""
        if not self._search.steps:
            raise SettingError("there is no step yet; press Run, or call run()")
        return self._search.steps[self.index]

    @property
    def index(self) -> int:
        """Number of the step that is shown, among those that are kept."""
        return min(self.state.index, max(0, len(self._search.steps) - 1))

    @index.setter
    def index(self, value: int) -> None:
        self.state.index = value

    @property
    def replay_code(self) -> ReplayCode:
        """The code that gives `steps`, and `decoded`: the crystals by the number of their step."""
        return self._decoder.replay_code(self._search)

    def run(self, wait: bool = False, **settings: Unpack[SearchSettings]) -> None:
        """Begin a new search with the settings of `state`.

        Args:
            wait: return at the end, and raise what goes wrong.
            settings: put into `state` first.

        Raises:
            SettingError: for settings out of range, or without a start.
            CrystalError: for crystals that the model cannot take; without `wait` the status line shows it.
        """
        self.state.take(settings)
        read, options, seed = self._start.reading(), self.state.search_settings, self.state.seed

        def begin(start: Start) -> None:
            self._cancel()
            self._searches.begin(start, options, seed, wait)

        self._reader.start(lambda: [read()], begin, wait or self.state.start == PRIOR)

    def stop(self) -> None:
        """End what is being done after the current step; `resume` continues the search."""
        for one in self._work:
            one.stop()

    def resume(self, index: int | None = None, wait: bool = False) -> None:
        """Continue exactly as the search would have continued; steps after the one it resumes from are removed.

        A search that had reached its last step is extended by `state.steps` steps.

        Args:
            index: of the kept step to resume from; by default the one that is shown.
            wait: return at the end, and raise what goes wrong.
        """
        self._cancel()
        self.step  # noqa: B018 - raises if there is none
        self._searches.resume(self.index if index is None else range(len(self._search.steps))[index], wait)

    def restart(self, wait: bool = False, **settings: Unpack[SearchSettings]) -> None:
        """Start a new search from the latents that are shown, with the settings of `state`; arguments as for `run`."""
        self._cancel()
        self.state.take(settings)
        z, code = self.step.z, self._search.replay_code.then(f"z = steps[{self.index}].z")
        self._searches.begin(Start(z, len(z), "z", code), self.state.search_settings, 0, wait)

    def back(self) -> None:
        """Return to the search before this one. Raises SettingError if there was none."""
        self._cancel()
        self._searches.back()
        self._show_run(self.recorded_run.status)

    def decode(self, wait: bool = False) -> None:
        """Decode the step that is shown.

        Args:
            wait: return at the end, and raise what goes wrong.
        """
        step = self.step
        self._cancel()
        self._searches.decode(step, wait)

    def choose(self) -> Pick:
        """Make the crystal that is shown the selected one. Raises SettingError if nothing is decoded yet."""
        pick = self._decoder.pick(self._search, self.index, self.state.crystal)
        self.selection.choose(pick)
        return pick

    def upload(self, upload: files.Upload, wait: bool = True) -> None:
        """Start the next search from an uploaded file.

        Args:
            wait: False: read it in the background, and show beside its field why the model cannot take it.

        Raises:
            CrystalError: if the model cannot take it.
        """
        self._start.take(upload)
        self._check.begin()  # also if a file of the same name was uploaded before
        if wait:
            self._start.reading()()

    def start_from_selection(self) -> None:
        """Let the next search start from the selected crystal."""
        self._start.offer()
        self.state.start = SELECTION

    def show_decoded(self, place: int) -> None:
        """Show the step of a decoding, by its number among `decoded`."""
        if place < len(self._search.decoded):
            self.state.index = self._search.index(self._search.decoded[place].step)

    def run_or_stop(self) -> None:
        """Stop the search that runs, resume the one that was stopped, or run a new one."""
        if self._working:
            self.stop()
        elif self._search.steps and not self._search.steps[-1].finished:
            self.resume(-1)
        else:
            self.run()

    def table(self) -> Any:
        """A pandas table with a row for every kept step and crystal; log p(z) is known where something was decoded."""
        return self._search.table(self.property_unit)

    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = KINDS, wait: bool = True) -> list[Path]:
        """Write the results of the search; returns the files.

        Args:
            folder: created if necessary; by default `state.folder`.
            kinds: "cif", of all decoded crystals of the shown step; "csv", the `table`; "steps", to resume from
                (`load`, or `lab.load_steps`).
            wait: False: write in the background, and return nothing; the status line shows the files.

        Raises:
            SettingError: for another kind, or without a search.
            LabError: if a file cannot be written.
        """
        self.step  # noqa: B018 - raises if there is none
        kinds = list(kinds)
        folder = Path(self.state.folder if folder is None else folder)
        work = write_search(self.model, self._search, self.index, self.property_unit, folder, kinds)
        self._export.start(work, wait=wait)
        return list(self._export.newest.files) if wait and self._export.newest is not None else []

    def load(self, path: str | Path | None = None, wait: bool = True) -> None:
        """Show a search that was exported as "steps"; it can be resumed from any of its steps.

        Args:
            path: by default `state.steps_file`.
            wait: False: read it in the background; the status line shows the error.

        Raises:
            LabError: if it cannot be read, or is of another model.
        """
        path = self.state.steps_file if path is None else path
        self._cancel()

        def show(steps: list[LatentStep]) -> None:
            self._searches.load(steps, f"lab.load_steps({str(path)!r}, model)")
            self._show_run(self.recorded_run.status)

        self._reader.start(lambda: [load_steps(path, self.model)], show, wait)

    def picture(self) -> Crystals | None:
        """The crystals that are shown."""
        return self.view.current() if self._search.decoded else None

    # --- what runs -------------------------------------------------------------------------------------

    @property
    def _search(self) -> Search:
        """The search that is shown."""
        return self._searches.search

    @property
    def _work(self) -> tuple[RecordedRun, ...]:
        """Everything that `stop` ends."""
        return self._reader.run, self.recorded_run, self._searches.decoding, self._export

    @property
    def _working(self) -> bool:
        return any(one.running for one in self._work)

    def _cancel(self) -> None:
        """Stop all runs before another one starts."""
        for one in self._work:
            one.cancel()

    # --- drawing ----------------------------------------------------------------------------------------

    def _draw(self, new: Sequence[LatentStep]) -> None:
        if self._search.steps:
            self._cursor.grown(len(self._search.steps))
        self._draw_all()

    def _draw_all(self) -> None:
        steps = self._search.steps
        if steps and self.state.crystal < len(steps[0].z):
            self._display.draw(self._search, self.state.crystal, self.index, self.predictor is not None)

    def _moved(self) -> None:
        if self._cursor.moved(len(self._search.steps)):
            self._draw_all()

    def _show_run(self, status: RunStatus) -> None:
        if not status.running and self._search.steps:
            self._cursor.ended(len(self._search.steps))
            self._draw_all()
        self._refresh(status)

    def _refresh(self, status: RunStatus) -> None:
        """Bring buttons, status line and code up to date."""
        self._enable()
        if status.error is not None:
            self.show_error(status.error, status.traceback, verdict.kept(self._search))
        else:
            self.show_message(verdict.progress(self._search, status))
        if not status.running:
            self.draw_code()

    def _enable(self) -> None:
        search, others = self._search, [one for one in self._work if one is not self.recorded_run]
        self.controls.enable(
            self.recorded_run.status, busy=any(one.running for one in others), steps=len(search.steps),
            decoded=len(search.decoded), earlier=self._searches.earlier, startable=not self._check.problem,
        )  # fmt: skip

    def _show_failure(self, status: RunStatus) -> None:
        if status.error is not None:
            self.show_error(status.error, status.traceback)

    def _show_problem(self, text: str) -> None:
        self.controls.show_start_error(text)
        self._enable()

    def _show_export(self, status: RunStatus) -> None:
        self._enable()
        self.show_export(status, self._export)

    def _picked(self) -> None:
        """Start the next search from the crystal that was chosen, unless the start was given or a search runs."""
        self._start.offer()
        if self.selection.pick is not None and self.state.start != GIVEN and not self._working:
            self.state.start = SELECTION
        self._check.begin()
