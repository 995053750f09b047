"""Property optimization in the latent space, step by step, with the crystals that are decoded on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep, optimize
from cdvae_lab.explore.saved_steps import load_steps
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.frames import every
from cdvae_lab.widgets.base.recorded_run import RecordedRun, RunStatus, in_event_loop
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode, arguments
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.optimizer import verdict
from cdvae_lab.widgets.optimizer.controls import OptimizerControls
from cdvae_lab.widgets.optimizer.decoding import decode_step
from cdvae_lab.widgets.optimizer.display import SearchDisplay
from cdvae_lab.widgets.optimizer.exports import KINDS, write_search
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Predictor, Search
from cdvae_lab.widgets.optimizer.region import Region
from cdvae_lab.widgets.optimizer.search_start import SearchStart, Start
from cdvae_lab.widgets.optimizer.state import GIVEN, PACES, PRIOR, OptimizerState
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.labels import label_of
from cdvae_lab.widgets.parts.maps import MapSource, PathCanvas, find_map

_REMEMBERED = 5  # searches before this one


class SearchSettings(TypedDict, total=False):
    """The settings of `optimize` that `run` and `restart` take."""

    target: str | float | int
    steps: int
    lr: float
    prior_weight: float | int


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
        self.predictor = predictor
        canvas = map if isinstance(map, PathCanvas) else None
        known = find_map(self.model, map)
        self.region = Region.of(known)
        name, self.property_unit = label_of(self.model, known)
        self.property_name = name or "property"
        label = (self.property_name, self.property_unit)
        self._search, self._earlier = Search(), list[Search]()
        self._following = True  # whether the newest step is shown
        self._moving = False  # whether the slider is moved by the view itself
        self._start = SearchStart(state, self.model, start, self.selection)
        if state.start == GIVEN:
            self._start.reading()()  # raises errors about the start now rather than later
        self._checker = self.new_task("")  # of the start
        self._reader = self.new_task("reading", lambda: self._enable())  # of the start of a new search, or of steps
        self.recorded_run = self.new_run(self._draw, self._show_run, name="steps", fps=4, share=0.25)
        self._decoder = self.new_run(self._draw, self._show_run, max_frames=1)
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
        self.listen(state, "crystal", lambda change: self._another_crystal())
        for trait in ("start", "file", "n"):
            self.listen(state, trait, lambda change: self._check_start())
        self.when_picked(lambda pick: self._picked())
        self._check_start()
        self._refresh(self.recorded_run.status)

    # --- what can be done, by buttons and from code ---------------------------------------------------

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
        code = self._search.replay_code
        if not code.setup and not code.before:
            code = replace(code, setup={"model": self.model_code})
        if not self._search.decoded:
            return code
        wanted = sorted({one.step for one in self._search.decoded})
        call = f"lab.last({self._denoise_call('s.z')}).crystals"
        return code.then(f"decoded = {{s.step: {call} for s in steps if s.step in {wanted}}}")

    def run(self, wait: bool = False, **settings: Unpack[SearchSettings]) -> None:
        """Begin a new search with the settings of `state`.

        Args:
            wait: return at the end, and raise what goes wrong.
            settings: put into `state` first.

        Raises:
            SettingError: for settings out of range, or without a start.
            CrystalError: for crystals that the model cannot take; without `wait` the status line shows it.
        """
        self._set(settings)
        read, options, seed = self._start.reading(), self._options(), self.state.seed

        def begin(start: Start) -> None:
            tail = f", seed={seed}" if isinstance(start.source, int) and seed else ""
            setup = ReplayCode(setup={"model": self.model_code}, before=(start.before,))
            call = f"lab.optimize(model, {start.code}{arguments(options)}{tail})"
            self._begin(
                lambda: optimize(self.model, start.source, seed=seed, **options), call, setup, start.crystals, wait
            )

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
        index = self.index if index is None else range(len(self._search.steps))[index]
        step = self.step and self._search.steps[index]
        more = step.step + self.state.steps if step.finished else None
        items = optimize(self.model, step=step, steps=more)
        self._search.forget_after(index)
        self._following = True
        call = self._search.thinned(f"lab.optimize(model, step=steps[-1]{f', steps={more}' if more else ''})")
        self._make_room(step.num_steps if more is None else more)
        searched = self._searched(every(items, self._search.thin), self._search)
        self.recorded_run.resume(searched, call, keep=index + 1, pace=PACES[self.state.pace], wait=wait)

    def restart(self, wait: bool = False, **settings: Unpack[SearchSettings]) -> None:
        """Start a new search from the latents that are shown, with the settings of `state`; arguments as for `run`."""
        self._cancel()
        self._set(settings)
        z, options = self.step.z, self._options()
        setup = ReplayCode(
            setup={"model": self.model_code}, before=(self._search.replay_code.then(f"z = steps[{self.index}].z"),)
        )
        call = f"lab.optimize(model, z{arguments(options)})"
        self._begin(lambda: optimize(self.model, z, **options), call, setup, len(z), wait)

    def back(self) -> None:
        """Return to the search before this one. Raises SettingError if there was none."""
        self._cancel()
        if not self._earlier:
            raise SettingError("there was no search before this one")
        self._show_search(self._earlier.pop())

    def decode(self, wait: bool = False) -> None:
        """Decode the step that is shown.

        Args:
            wait: return at the end, and raise what goes wrong.
        """
        step = self.step
        self._cancel()
        self._decoder.start(self._decoding(step, self._search), wait=wait)

    def choose(self) -> Pick:
        """Make the crystal that is shown the selected one. Raises SettingError if nothing is decoded yet."""
        place = self._search.at(self.index)
        if place is None:
            raise SettingError("nothing is decoded yet; press Run, or decode this step")
        one, k = self._search.decoded[place], self.state.crystal
        index = self._search.index(one.step)
        expression = f"lab.last({self._denoise_call(f'steps[{index}].z')}).crystals[{k}]"
        code = self._search.replay_code.then(f"crystal, z = {expression}, steps[{index}].z[{k}:{k + 1}]")
        z = self._search.steps[index].z[k][None]
        pick = Pick(verdict.pick_name(one, k), one.crystals[k], z, expression, code)
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
        self._check_start()  # also if a file of the same name was uploaded before
        if wait:
            self._start.reading()()

    def start_from_selection(self) -> None:
        """Let the next search start from the selected crystal."""
        self._start.offer()
        self.state.start = "selection"

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
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise SettingError(f"export: no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
        if "cif" in kinds and self._search.at(self.index) is None:
            raise SettingError("nothing is decoded yet at this step; decode it first")
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
            self._keep_earlier()
            search = Search(setup=ReplayCode(setup={"model": self.model_code}))
            search.thin = Search.thinning(steps[-1].num_steps, len(steps[-1].z))
            search.steps.extend(steps)
            search.recording.segments.add(f"lab.load_steps({str(path)!r}, model)")
            self._show_search(search)

        self._reader.start(lambda: [load_steps(path, self.model)], show, wait)

    # --- the search -------------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        """The settings of `optimize`."""
        state = self.state
        return {"target": state.goal, "steps": state.steps, "lr": state.lr, "prior_weight": state.prior_weight}

    def _set(self, settings: SearchSettings) -> None:
        values: dict[str, Any] = dict(settings)
        if "target" in values:
            self.state.aim(values.pop("target"))
        known = {"steps", "lr", "prior_weight"}
        if strange := sorted(set(values) - known):
            raise SettingError(f"a search has no setting {', '.join(strange)}; there are target, {', '.join(known)}")
        self.state.update(values)

    @property
    def _work(self) -> tuple[RecordedRun, ...]:
        """Everything that `stop` ends."""
        return self._reader.run, self.recorded_run, self._decoder, self._export

    @property
    def _working(self) -> bool:
        return any(one.running for one in self._work)

    def _cancel(self) -> None:
        """Stop all runs before another one starts."""
        for one in self._work:
            one.cancel()

    def _keep_earlier(self) -> None:
        if self._search.steps:
            self._earlier = [*self._earlier, self._search][-_REMEMBERED:]

    def _begin(
        self, make: Callable[[], Iterator[LatentStep]], call: str, setup: ReplayCode, crystals: int, wait: bool
    ) -> None:
        """Begin a new search.

        Args:
            make: makes the generator; called in the worker, since latents from the prior take a while.
            call: its expression.
            setup: the code that has to run before that.
            crystals: number of them.
        """
        self._cancel()
        self._keep_earlier()
        steps = self.state.steps
        search = Search(setup=setup, thin=Search.thinning(steps, crystals))
        self._show_new(search, crystals)
        self._make_room(steps)

        def items() -> Iterator[LatentStep]:
            yield from every(make(), search.thin)

        self.recorded_run.start(
            self._searched(items(), search), search.thinned(call), thin=1, pace=PACES[self.state.pace], wait=wait
        )

    def _show_new(self, search: Search, crystals: int) -> None:
        """Prepare the screen for another search."""
        self._search, self._following = search, True
        self.state.limit("crystal", 0)
        self.state.limit("crystal", crystals - 1)
        self._move(0)

    def _show_search(self, search: Search) -> None:
        """Show a search that has been run already."""
        self._show_new(search, len(search.steps[0].z))
        self.recorded_run.recording = search.recording
        self.state.limit("index", len(search.steps) - 1)
        self._move(len(search.steps) - 1)
        self._draw_all()
        self._refresh(self.recorded_run.status)

    def _make_room(self, steps: int) -> None:
        """Let the slider reach the last step of the whole run."""
        self.state.limit("index", max(1, -(-steps // self._search.thin)))

    def _searched(self, items: Iterator[LatentStep], search: Search) -> Iterator[LatentStep]:
        """Take the steps in the worker thread, and decode one when it is due."""
        search.recording = self.recorded_run.recording
        often = self.state.decode_every
        last = max((one.step // often for one in search.decoded), default=-1)
        for step in items:
            yield step
            if step.step // often > last or step.finished:
                last = step.step // often
                yield from self._decoding(step, search)

    def _decoding(self, step: LatentStep, search: Search) -> Iterator[LatentStep]:
        """Decode a step in the worker thread; yields the step at every step of the decoder."""
        state = self.state
        for one in decode_step(self.model, step, self.predictor, state.seed, state.decode_steps):
            if one is not None:
                verdict.paint(one, state.crystal, self.property_unit)
                search.add(one)
            yield step

    def _denoise_call(self, z: str) -> str:
        return f"lab.denoise(model, z={z}, seed={self.state.seed}, steps={self.state.decode_steps})"

    # --- drawing ----------------------------------------------------------------------------------------

    def _draw(self, new: Sequence[LatentStep]) -> None:
        search = self._search
        search.recording = self.recorded_run.recording
        if self._following and search.steps:
            self._move(len(search.steps) - 1)
        self._draw_all()

    def _draw_all(self) -> None:
        if self._search.steps:
            self._display.draw(self._search, self.state.crystal, self.index, self.predictor is not None)

    def _show_run(self, status: RunStatus) -> None:
        if not status.running and self._search.steps:
            self.state.limit("index", len(self._search.steps) - 1)
            self._draw_all()
        self._refresh(status)

    def _refresh(self, status: RunStatus) -> None:
        """Bring buttons, status line and code up to date."""
        search = self._search
        self._enable()
        if status.error is not None:
            kept = f"The {len(search.steps)} steps and {len(search.decoded)} decodings so far are kept."
            self.show_error(status.error, status.traceback, kept if search.steps else "")
        elif search.steps:
            last = search.steps[-1]
            state = status.state if status.running else "finished" if last.finished else "stopped"
            self.show_message(f"{state}: step {last.step} of {last.num_steps}, decodings: {len(search.decoded)}")
        else:
            self.show_message("starting" if status.running else "press Run (or Space)")
        if not status.running:
            self.draw_code()

    def _enable(self) -> None:
        search, others = self._search, (self._reader, self._decoder, self._export)
        self.controls.enable(
            self.recorded_run.status, busy=any(one.running for one in others), steps=len(search.steps),
            decoded=len(search.decoded), earlier=len(self._earlier), startable=not self.controls.start_error.value,
        )  # fmt: skip

    def _show_failure(self, status: RunStatus) -> None:
        if status.error is not None:
            self.show_error(status.error, status.traceback)

    # --- the actions of the user -----------------------------------------------------------------------------

    def _move(self, index: int) -> None:
        """Move the slider without taking it for the user's wish."""
        self._moving = True
        if index > self.state.limits.get("index", 0):
            self.state.limit("index", index)
        self.state.index = index
        self._moving = False

    def _moved(self) -> None:
        if not self._moving and self._search.steps:
            self._following = self.state.index >= len(self._search.steps) - 1
            self._draw_all()

    def _another_crystal(self) -> None:
        if self._search.steps and self.state.crystal < len(self._search.steps[0].z):
            self._draw_all()

    def _picked(self) -> None:
        """Start the next search from the crystal that was chosen, unless the start was given or a search runs."""
        self._start.offer()
        if self.selection.pick is not None and self.state.start != GIVEN and not self._working:
            self.state.start = "selection"
        self._check_start()

    def _check_start(self) -> None:
        """Find out in the background why the search cannot start, and show it beside the field."""
        if not self._start.named:  # nothing is wrong before something has been written
            self._show_problem("")
            return
        try:
            read = self._start.reading()
        except SettingError as error:
            self._show_problem(str(error))
        else:
            self._checker.start(lambda: [self._start.problem(read)], self._show_problem, not in_event_loop())

    def _show_problem(self, text: str) -> None:
        self._checker.cancel()
        self.controls.show_start_error(text)
        self._enable()

    def _show_export(self, status: RunStatus) -> None:
        self._enable()
        self.show_export(status, self._export)

    def picture(self) -> Crystals | None:
        """The crystals that are shown."""
        return self.view.current() if self._search.decoded else None
