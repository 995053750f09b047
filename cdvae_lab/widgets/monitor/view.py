"""Training live: the terms of the objective, the speed, and reconstructions of a few crystals."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cdvae_lab import datasets, figures
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import NonFiniteLossError, SettingError
from cdvae_lab.figures.style import Theme
from cdvae_lab.metrics.reconstruction import reconstruction
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.training.checks import check_fits
from cdvae_lab.training.loop import TrainingStep, fit
from cdvae_lab.training.settings import FitSettings, LossWeights
from cdvae_lab.training.validation import validation_losses
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.recorded_run import RunStatus
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.monitor.controls import MonitorControls
from cdvae_lab.widgets.monitor.reconstructions import Reconstructions
from cdvae_lab.widgets.monitor.record import TrainingRecord, Validation, duration
from cdvae_lab.widgets.monitor.state import MonitorState

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# What two CPU cores train in a minute or two; as in the notebook on training.
SMALL: dict[str, Any] = {
    "hidden_dim": 32,
    "latent_dim": 64,
    "head_dim": 128,
    "encoder_blocks": 1,
    "decoder_blocks": 3,
    "num_radial": 16,
    "num_neighbors": 12,
    "cutoff": 5.0,
    "sigma_max": 4.0,
}
SMALL_FIT: dict[str, Any] = {
    "lr": 5e-3,
    "warm_up": 100,
    "ema_decay": 0.99,
    "weights": LossWeights(kl=0.001, composition=5.0),
}
MAX_VALIDATED = 256  # crystals that the validation losses are computed on
_FPS = 3  # drawings of the curves a second: they cost the browser more than crystals do
_ISLICE = "from itertools import islice"
Result = TypeVar("Result")


class TrainingMonitor(View):
    """Runs `fit` in the background and shows it.

    Training can be stopped and resumed without losing a step: the numbers are those of an uninterrupted run. Every so
    many steps a few crystals are encoded and decoded again with the moving average of the weights, and shown beside
    the originals. Space runs and stops. Every button is also a method: `run`, `stop`, `resume`, `save_state`,
    `save_model`, `load_state`, `select`; every field is a trait of `state`. With `wait=True` a script waits for the end
    and gets errors raised.

    Args:
        model: a CDVAE, which is trained in place; the settings of a new one; the name or path of one to train further;
            or None for a new, small one that two CPU cores train in a minute or two, with settings to match.
        dataset: its name, a folder of CIF files, a table, or a Dataset. Of the named ones, crystals of the part `val`
            are held out and reconstructed.
        validation: crystals to reconstruct that are not trained on; without any, some of the training set are.
        epochs, steps: the length of the run, one of the two; 1,000 steps by default.
        batch_size: crystals a step.
        validate_every: steps.
        crystals: how many are reconstructed and shown.
        decode_steps: of the decoder's sampler.
        selection: shared with other views.
        device: for a new model; a given one stays where it is.
        settings: of `FitSettings`, as in `fit`.

    Raises:
        SettingError: for settings out of range.
        DatasetError: if the data cannot be read, or the model does not take them.
        CheckpointError: if a model cannot be read.
    """

    state: MonitorState

    def __init__(
        self,
        model: CDVAE | WithCode[CDVAE] | CDVAEConfig | str | Path | None = None,
        dataset: Dataset | str | Path = datasets.SYNTHETIC,
        *,
        validation: Dataset | str | Path | None = None,
        epochs: float | int | None = None,
        steps: int | None = None,
        batch_size: int = 64,
        validate_every: int = 100,
        crystals: int = 4,
        decode_steps: int = 60,
        selection: Selection | None = None,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> None:
        if crystals < 1:
            raise SettingError(f"crystals is {crystals}; reconstruct at least 1")
        if epochs is not None and steps is not None:
            raise SettingError("give the length of the run as epochs or as steps, not as both")
        self._settings = {**(SMALL_FIT if model is None else {}), **settings}
        weights = self._settings.get("weights") or LossWeights()
        state = MonitorState(
            batch_size=batch_size, validate_every=validate_every, lr=self._settings.get("lr", 1e-3), kl=weights.kl
        )
        super().__init__(None if isinstance(model, CDVAEConfig) else model, state, selection)
        self.dataset, self.dataset_code = _read(dataset, "train")
        self._config = model if isinstance(model, CDVAEConfig) else CDVAEConfig(1, **SMALL) if model is None else None
        self._small, self._device, self._decode_steps = model is None, device, decode_steps
        self.validation, self._validation_code = self._held_out(dataset, validation)
        self._originals = (self.validation or self.dataset).crystals[:crystals]
        self._validated = (self.validation or self.dataset)[:MAX_VALIDATED]
        self._record = TrainingRecord()
        self._fit: Any = None  # the generator itself: it stands still while training is stopped
        self._begun: Any = None  # the generator whose first step has been noted
        self._stream: Generator[TrainingStep] | None = None
        self._last: TrainingStep | None = None
        self._prelude: tuple[str, ...] = ()  # code before the call of `fit`
        self._call, self._before = "", 0  # that call, and the step that it starts after
        self._saved: tuple[int, Path] | None = None
        self._requests: deque[Callable[[], None]] = deque()  # to be done between two steps
        self._notice = ""  # result of the last request
        if epochs is not None:
            batch = min(max(batch_size, 1), len(self.dataset))
            steps = max(1, round(epochs * (len(self.dataset) // batch)))
        if steps is not None:
            state.steps = steps
        if self.model is None:
            self.model = self._new_model()
        check_fits(self.model, self._validated)
        self._options()  # raises errors about settings now rather than later
        self.recorded_run = self.new_run(self._draw, self._show_run, max_frames=1, fps=_FPS, share=0.25)
        self._writer = self.new_run(show=self._show_written, max_frames=1)
        names = [captions.formula(self._originals[k]) for k in range(len(self._originals))]
        held_out = self.validation is not None
        self.controls = MonitorControls(state, self, self._figure, names, held_out)
        self._reconstructions = Reconstructions(self.controls, state, self._originals, held_out, decode_steps)
        self.view = self.controls.view
        self.show_rows(self.controls.rows(), self.controls)
        self.listen(state, "crystal", lambda change: self._reconstructions.draw(self._record.validations))
        self.listen(state, "validation", lambda change: self._reconstructions.draw_pair(self._record.validations))
        self._show_run(self.recorded_run.status)

    # --- what can be done, by buttons and from code -----------------------------------------------------

    @property
    def step(self) -> TrainingStep:
        """The last step that was taken. Raises SettingError if there is none yet."""
        if self._last is None:
            raise SettingError("no step has been taken yet; press Run, or call run()")
        return self._last

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """Terms and learning rate of the steps, thinned in long runs, and of the validations; for `training_curve`."""
        return tuple(self._record.records)

    @property
    def validations(self) -> tuple[Validation, ...]:
        """The reconstructions of each validation, in order."""
        return tuple(self._record.validations)

    @property
    def finished(self) -> bool:
        """True once the run and its last validation have finished."""
        return self._last is not None and self._last.step >= self._last.num_steps and not _alive(self._stream)

    @property
    def can_resume(self) -> bool:
        """True if there is a run that was stopped or has finished; False after a run that failed."""
        return self._last is not None and (_alive(self._fit) or self.finished)

    @property
    def replay_code(self) -> ReplayCode:
        """The code that gives `step` and the trained `model`; of a stopped run, as far as it has come."""
        if not self._call:
            return ReplayCode()
        stopped = self._last is not None and self._last.step < self._last.num_steps and not self.running
        return self._code_until(self._last.step if stopped and self._last is not None else None)

    def run(self, wait: bool = False) -> None:
        """Begin a new run with the settings of `state`: of a new model, or of the given one as it is by now.

        Args:
            wait: return at the end, and raise what goes wrong.
        """
        options = self._options()
        self.recorded_run.cancel()
        if self._device is not None:
            options |= {"device": self._device}

        def begin() -> Iterator[TrainingStep]:
            if self._config is not None:
                self.model = self._new_model()
            steps = fit(self._need_model(), self.dataset, **options)
            self._record, self._last, self._saved, self._notice = TrainingRecord(), None, None, ""
            self._prelude, self._call = (self._model_code(),), f"lab.fit(model, data{_arguments(options)})"
            self._before = 0
            return steps

        self._begin(self._watched(begin), wait)

    def stop(self) -> None:
        """End the run after the current step; `resume` continues."""
        self.recorded_run.stop()

    def run_or_stop(self) -> None:
        """Stop if training is running; otherwise resume, or start a run."""
        if self.recorded_run.running:
            self.stop()
        elif self.can_resume:
            self.resume()
        else:
            self.run()

    def resume(self, wait: bool = False) -> None:
        """Continue exactly as the run would have continued; a finished run gets `state.steps` more.

        Args:
            wait: return at the end, and raise what goes wrong.

        Raises:
            SettingError: if there is no run to resume.
        """
        self.recorded_run.cancel()
        if not self.can_resume:
            raise SettingError("there is no run to resume; press Run, or load a state")
        step = self.step
        if self.finished:
            steps = step.step + self.state.steps

            def extend() -> Iterator[TrainingStep]:
                with tempfile.TemporaryDirectory() as folder:
                    path = step.save(Path(folder) / "state.safetensors")
                    extended = fit(path, self.dataset, device=self._device, steps=steps)
                self._prelude += (f"step = lab.last({self._call})", "path = step.save('out/state.safetensors')")
                self._call, self._before = f"lab.fit(path, data, steps={steps})", step.step
                return extended

            self._begin(self._watched(extend), wait)
        elif self._stream is not None and _alive(self._stream):
            self._begin(self._stream, wait)
        else:  # after an error that was not the training's
            suspended = self._fit
            self._begin(self._watched(lambda: suspended), wait)

    def save_state(self, path: str | Path | None = None, *, wait: bool = True) -> Path:
        """Write everything that is needed to resume later, with `load_state` or `fit`; also while training runs.

        Args:
            path: by default `state.state_path`.
            wait: False writes in the background, and the status line reports the end.

        Raises:
            SettingError: before the first step.
            LabError: if the file cannot be written.
        """
        path = Path(self.state.state_path if path is None else path)

        def save() -> Path:
            written = self.step.save(path)
            self._saved = (self.step.step, written)
            return written

        return self._write(save, path, wait)

    def save_model(self, path: str | Path | None = None, *, wait: bool = True) -> Path:
        """Write a model with the moving average of the weights, to generate with; also while training runs.

        Args:
            path: by default `state.model_path`.
            wait: False writes in the background, and the status line reports the end.

        Raises:
            SettingError: before the first step.
            LabError: if the file cannot be written.
        """
        path = Path(self.state.model_path if path is None else path)
        return self._write(lambda: self.averaged().save(path, steps=self.step.step), path, wait)

    def averaged(self) -> CDVAE:
        """Copy the model with the moving average of its weights. Raises SettingError before the first step."""
        model = self.step.averaged()
        data = {name: getattr(self.dataset, name) for name in ("name", "split", "source", "license")}
        data |= {"crystals": len(self.dataset), "property": self.dataset.label_name}
        model.metadata = {**model.metadata, "data": data | {"property_unit": self.dataset.label_unit}}
        return model

    def trained(self) -> tuple[WithCode[CDVAE], int]:
        """Copy the model as `averaged` does, with the code that trains it, and the number of its step.

        It can be called in any thread, also while training runs.
        """

        def copy() -> tuple[WithCode[CDVAE], int]:
            step = self.step
            code = self._code_until(step.step if step.step < step.num_steps else None)
            return WithCode(self.averaged(), code.as_setup()), step.step

        return self._between_steps(copy)

    def load_state(self, path: str | Path | None = None, wait: bool = False, **settings: Any) -> None:
        """Resume from a saved state.

        Args:
            path: by default `state.state_path`; then `state.new_rate` determines whether `state.lr` is used.
            wait: return at the end, and raise what goes wrong.
            settings: of `FitSettings`, instead of those that it was saved with: a smaller lr, more steps.

        Raises:
            CheckpointError: for a file that is no state. Without `wait` the status line shows it.
            DatasetError: if it was begun with other data. Without `wait` the status line shows it.
        """
        if path is None and self.state.new_rate:
            settings = {"lr": self.state.lr, **settings}
        path = Path(self.state.state_path if path is None else path)
        self.recorded_run.cancel()

        def load() -> Iterator[TrainingStep]:
            steps = fit(path, self.dataset, device=self._device, **settings)
            self._prelude, self._call = (), f"lab.fit({str(path)!r}, data{_arguments(settings)})"
            self._saved, self._notice = None, ""
            return steps

        self._begin(self._watched(load), wait)

    def select(self) -> Pick:
        """Select the reconstruction that is shown, for all views that share the selection.

        Raises:
            SettingError: before the first validation.
        """
        validations, k = self._record.validations, self.state.crystal
        if not validations:
            raise SettingError("nothing has been reconstructed yet; the first validation does it")
        one = validations[max(0, self.state.validation)]
        code = None
        if one.step > self._before:
            originals = f"{'data' if self.validation is None else 'validation'}.crystals[:{len(self._originals)}]"
            code = self._code_until(one.step).then(
                f"crystal = lab.last(lab.reconstruct(model, {originals}, steps={self._decode_steps}, allow_unseen=True)"
                f").crystals[{k}]"
            )
            if self.validation is not None:
                code = dataclasses.replace(code, setup={**code.setup, "validation": self._validation_code})
        name = f"{captions.formula(one.crystals[k])}, decoded at step {one.step} of a training"
        pick = Pick(name, one.crystals[k], replay=code)
        self.selection.choose(pick)
        self.show_message(f"selected: {name}")
        return pick

    # --- the run ----------------------------------------------------------------------------------------

    def _need_model(self) -> CDVAE:
        assert self.model is not None
        return self.model

    def _held_out(
        self, dataset: Dataset | str | Path, given: Dataset | str | Path | None
    ) -> tuple[Dataset | None, str]:
        """The crystals that are not trained on, and the statement that reads them."""
        named = isinstance(dataset, str) and (dataset in datasets.PUBLIC or dataset == datasets.SYNTHETIC)
        source = dataset if given is None and named else given
        if source is None:
            return None, ""
        found, code = _read(source, "val")
        return found, code.replace("data =", "validation =").replace("`data`", "`validation`")

    def _new_model(self) -> CDVAE:
        model = CDVAE.for_dataset(self.dataset, **self._own_config())
        return model if self._device is None else model.to(self._device)

    def _own_config(self) -> dict[str, Any]:
        assert self._config is not None
        own = dataclasses.asdict(self._config)
        if self._small:
            del own["max_atoms"]  # as the data need
        return own

    def _model_code(self) -> str:
        if self._config is None:
            return self.model_code
        return f"model = lab.CDVAE.for_dataset(data{_arguments(SMALL if self._small else self._own_config())})"

    def _code_until(self, step: int | None) -> ReplayCode:
        """The code that trains until a step of the current call of `fit`, or until its end."""
        call = self._call if step is None else f"islice({self._call}, {step - self._before})"
        return ReplayCode(
            () if step is None else (_ISLICE,),
            {"data": self.dataset_code},
            (*self._prelude, f"step = lab.last(lab.progress({call}))", "model = step.averaged()"),
        )

    def _options(self) -> dict[str, Any]:
        """The settings of `fit`."""
        state = self.state
        weights = dataclasses.replace(self._settings.get("weights") or LossWeights(), kl=state.kl)
        options = {**self._settings, "steps": state.steps, "batch_size": state.batch_size}
        options |= {"lr": state.lr, "weights": weights}
        known = {one.name for one in dataclasses.fields(FitSettings)} | {"weights"}
        if strange := sorted(set(options) - known):
            raise SettingError(f"fit has no setting {', '.join(strange)}; there are {', '.join(sorted(known))}")
        FitSettings(**{name: value for name, value in options.items() if name != "weights"})
        return options

    def _begin(self, stream: Generator[TrainingStep], wait: bool) -> None:
        self._stream = stream
        self._record.resume()
        self.recorded_run.start(stream, wait=wait)

    def _watched(self, begin: Callable[[], Iterator[TrainingStep]]) -> Generator[TrainingStep]:
        """Record every step in the worker thread, and validate when it is due. Suspended while training is stopped.

        Args:
            begin: gives the steps and notes how they were made; called in the worker thread, when no other run takes a
                step, since reading a state or making a model takes seconds.
        """
        self._fit = steps = begin()
        first, self._begun = steps is not self._begun, steps
        for step in steps:
            if first:
                first = False
                self.model, self._before = step.model, step.step - 1  # of a saved state, a new model
                self._record.until(self._before)
            self._last = step
            self._record.note(step)
            yield step
            self._do_requests()
            self._record.resume()  # a stop and the requests have taken time
            if step.step % self.state.validate_every == 0 or step.step == step.num_steps:
                yield from self._validate(step)
                self._record.resume()

    def _validate(self, step: TrainingStep) -> Iterator[TrainingStep]:
        model = step.averaged()
        losses = validation_losses(model, self._validated)
        frame = None
        for frame in reconstruct(model, self._originals, steps=self._decode_steps, allow_unseen=True):  # noqa: B007
            self._record.pause_in_validation()
            yield step  # so that Stop does not wait for the whole
            self._do_requests()
            self._record.resume()
        assert frame is not None
        rms = reconstruction(self._originals, frame.crystals, jobs=1).rms
        self._record.validated(losses, Validation(step.step, frame.crystals.to("cpu"), rms))
        yield step

    def _between_steps(self, act: Callable[[], Result]) -> Result:
        """Do something while no weight moves, and wait for it: between two steps, or here if no step is computed."""
        done: Future[Result] = Future()

        def request() -> None:
            try:
                done.set_result(act())
            except BaseException as error:  # noqa: BLE001 - for the thread that waits
                done.set_exception(error)

        self._requests.append(request)
        while not done.done():
            if not self.recorded_run.computing:
                self._do_requests()
            wait_for([done], timeout=0.02)
        return done.result()

    def _do_requests(self) -> None:
        with contextlib.suppress(IndexError):  # also if another thread does the last one
            while True:
                self._requests.popleft()()

    # --- files ------------------------------------------------------------------------------------------

    def _write(self, save: Callable[[], Path], path: Path, wait: bool) -> Path:
        self.step  # noqa: B018 - raises if there is none

        def write() -> Iterator[Path]:
            written = self._between_steps(save)
            self._notice = f"written: {written}"
            yield written

        if wait:
            [written] = write()
            self._show_run(self.recorded_run.status)
            return written
        self._writer.start(write())
        return path

    def _show_written(self, status: RunStatus) -> None:
        if status.error is not None:  # training continues without the file
            self._notice = f"{type(status.error).__name__}: {status.error}"
        if not status.running:
            self._show_text(self.recorded_run.status)

    # --- the screen -------------------------------------------------------------------------------------

    def _draw(self, new: Sequence[TrainingStep]) -> None:
        self.controls.curves.redraw()
        self._reconstructions.draw(self._record.validations)

    def _show_run(self, status: RunStatus) -> None:
        self.controls.enable(status.running, self._last is not None, self.can_resume, bool(self._record.validations))
        self._show_text(status)
        if not status.running:
            self._draw([])
            self.draw_code()

    def _show_text(self, status: RunStatus) -> None:
        step, record = self._last, self._record
        if status.error is not None:
            self.show_error(status.error, status.traceback, self._kept(status.error))
        elif step is None:
            n, kept = len(self.dataset), len(self.validation or ())
            size = sum(p.numel() for p in self._need_model().parameters())
            away = f", {kept:,} more held out" if kept else ""
            ready = f"{size:,} parameters, {n:,} crystals to train on{away}"
            self.show_message("starting" if status.running else f"press Run (or Space): {ready}")
        else:
            state = status.state if status.running else "finished" if self.finished else "stopped"
            text = f"{state}: step {step.step:,} of {step.num_steps:,}, epoch {step.epoch:.1f}"
            self.show_message("; ".join(filter(None, [text, self._notice])))
        if step is not None:
            rate = record.rate(step.batch_size)
            said = [f"loss {step.loss:.3g}", f"{rate:,.0f} structures/s"]
            if step.step < step.num_steps:
                said.append(f"about {duration(record.left(step))} left")
            self.controls.show_speed(", ".join(said))

    def _figure(self, theme: Theme) -> Figure:
        records = self._record.records
        figure: Any = figures.training_curve(records, theme, rate=True)
        if not records:  # an empty logarithmic axis goes from 0.1 to a million
            figure.update_yaxes(range=[-2, 1])
            figure.update_xaxes(range=[0, self.state.steps])
        figure.update_layout(width=None, autosize=True, height=470, margin={"l": 44, "r": 10, "t": 30, "b": 40})
        return figure

    def _kept(self, error: BaseException) -> str:
        """Sentence about the results that are kept after an error."""
        if self._last is None:
            return "Nothing was trained yet."
        kept = f"The curves and the weights of step {self._last.step} are kept: Save model writes them."
        if isinstance(error, NonFiniteLossError):
            kept += " This run cannot be resumed: train again with a smaller learning rate"
            kept += f", or load the state of step {self._saved[0]} with it ({self._saved[1]})." if self._saved else "."
        return kept

    def picture(self) -> Crystals | None:
        """The originals and their reconstructions, for a page that cannot run widgets."""
        return self.view.current() if self._record.validations else None


def _alive(generator: Any) -> bool:
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED


def _read(source: Dataset | str | Path, split: str) -> tuple[Dataset, str]:
    """A data set, and the statement that reads it as `data`."""
    if isinstance(source, Dataset):
        return source, "# `data` is the data set that the view was given"
    part = datasets.split_of(source, split)
    own = "" if part is None else f", {part!r}"
    return datasets.load(source, part), f"data = lab.datasets.load({str(source)!r}{own})"


def _arguments(options: dict[str, Any]) -> str:
    """Settings as a call has them; of the weights those that are not the default."""
    words = []
    for name, value in options.items():
        if isinstance(value, LossWeights):
            changed = {k: v for k, v in dataclasses.asdict(value).items() if v != getattr(LossWeights(), k)}
            if changed:
                words.append(f"{name}=lab.LossWeights({', '.join(f'{k}={v!r}' for k, v in changed.items())})")
        else:
            words.append(f"{name}={value!r}")
    return "".join(f", {word}" for word in words)
