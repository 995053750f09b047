"""Training live: the terms of the objective, the speed, and reconstructions of a few crystals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import traitlets

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.training.checks import check_fits
from cdvae_lab.training.loop import TrainingStep
from cdvae_lab.training.settings import LossWeights
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.monitor.controls import MonitorControls
from cdvae_lab.widgets.monitor.curves import Curves
from cdvae_lab.widgets.monitor.data import held_out, training_set
from cdvae_lab.widgets.monitor.files import TrainingFiles
from cdvae_lab.widgets.monitor.reconstructions import Reconstructions
from cdvae_lab.widgets.monitor.record import Validation
from cdvae_lab.widgets.monitor.settings import SMALL, SMALL_FIT, NewModel, fit_settings, steps_of
from cdvae_lab.widgets.monitor.state import MonitorState
from cdvae_lab.widgets.monitor.trainer import Trainer
from cdvae_lab.widgets.monitor.training_code import TrainingCode
from cdvae_lab.widgets.monitor.training_run import TrainingRun
from cdvae_lab.widgets.monitor.validator import Validator

MAX_VALIDATED = 256  # crystals that the validation losses are computed on
_FPS = 3  # drawings of the curves a second: they cost the browser more than crystals do


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

    Attributes:
        stepped: a step has been taken, so that there is something to save or to use.

    Raises:
        SettingError: for settings out of range.
        DatasetError: if the data cannot be read, or the model does not take them.
        CheckpointError: if a model cannot be read.
    """

    state: MonitorState
    stepped: Any = traitlets.Bool(False)

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
        kl = (self._settings.get("weights") or LossWeights()).kl
        lr = self._settings.get("lr", 1e-3)
        state = MonitorState(batch_size=batch_size, validate_every=validate_every, lr=lr, kl=kl)
        super().__init__(None if isinstance(model, CDVAEConfig) else model, state, selection)
        data, held = training_set(dataset), held_out(dataset, validation)
        self.dataset, self.dataset_code = data.value, data.code
        self.validation = None if held is None else held.value
        shown = self.validation or self.dataset
        validated, originals = shown[:MAX_VALIDATED], shown.crystals[:crystals]
        if epochs is not None:
            steps = steps_of(epochs, batch_size, len(self.dataset))
        if steps is not None:
            state.steps = steps
        validate = Validator(validated, originals, decode_steps)
        self._training = TrainingRun(validate, lambda: state.validate_every, TrainingCode(self.dataset_code))
        self._files = TrainingFiles(self._training, self.dataset)
        new = dataclasses.asdict(model) if isinstance(model, CDVAEConfig) else SMALL
        source = NewModel(new, device) if self.model is None else WithCode(self.model, self.model_code)
        self._trainer = Trainer(source, data, self._training, self._files, device)
        self.model = self._trainer.model
        check_fits(self._trainer.model, validated)
        fit_settings(self._settings, state)  # raises errors about settings now rather than later
        self.recorded_run = self.new_run(self._draw, self._show_run, max_frames=1, fps=_FPS, share=0.25)
        self._writer = self.new_run(show=self._show_writing, max_frames=1)
        names = [captions.formula(originals[k]) for k in range(len(originals))]
        self._curves = Curves(lambda: self._training.record.records, held is not None)
        self.controls = MonitorControls(state, self, self._curves, names)
        self._reconstructions = Reconstructions(self.controls, state, originals, held, decode_steps)
        self.view = self.controls.view
        self.show_rows(self.controls.rows(), self.controls)
        self.listen(state, "crystal", lambda change: self._reconstructions.draw(self.validations))
        self.listen(state, "validation", lambda change: self._reconstructions.draw_pair(self.validations))
        self._show_run(self.recorded_run.status)

    # --- what can be done, by buttons and from code -----------------------------------------------------

    @property
    def step(self) -> TrainingStep:
        """The last step that was taken. Raises SettingError if there is none yet."""
        return self._training.step

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """Terms and learning rate of the steps, thinned in long runs, and of the validations; for `training_curve`."""
        return tuple(self._training.record.records)

    @property
    def validations(self) -> tuple[Validation, ...]:
        """The reconstructions of each validation, in order."""
        return tuple(self._training.record.validations)

    @property
    def finished(self) -> bool:
        """True once the run and its last validation have finished."""
        return self._training.finished

    @property
    def can_resume(self) -> bool:
        """True if there is a run that was stopped or has finished; False after a run that failed."""
        return self._training.can_resume

    @property
    def replay_code(self) -> ReplayCode:
        """The code that gives `step` and the trained `model`; of a stopped run, as far as it has come."""
        if not self._training.code.call:
            return ReplayCode()
        last = self._training.last
        stopped = last is not None and last.step < last.num_steps and not self.running
        return self._training.replay_code(last.step if stopped and last is not None else None)

    def run(self, wait: bool = False) -> None:
        """Begin a new run with the settings of `state`: of a new model, or of the given one as it is by now.

        Args:
            wait: return at the end, and raise what goes wrong.
        """
        settings = fit_settings(self._settings, self.state)
        self.recorded_run.cancel()
        self.recorded_run.start(self._trainer.start(settings), wait=wait)

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
        steps = self._trainer.extend(self.state.steps) if self.finished else self._training.resume()
        self.recorded_run.start(steps, wait=wait)

    def save_state(self, path: str | Path | None = None, *, wait: bool = True) -> Path:
        """Write everything that is needed to resume later, with `load_state` or `fit`; also while training runs.

        Args:
            path: by default `state.state_path`.
            wait: False writes in the background, and the status line reports the end.

        Raises:
            SettingError: before the first step.
            LabError: if the file cannot be written.
        """
        return self._write(self._files.save_state, Path(self.state.state_path if path is None else path), wait)

    def save_model(self, path: str | Path | None = None, *, wait: bool = True) -> Path:
        """Write a model with the moving average of the weights, to generate with; also while training runs.

        Args:
            path: by default `state.model_path`.
            wait: False writes in the background, and the status line reports the end.

        Raises:
            SettingError: before the first step.
            LabError: if the file cannot be written.
        """
        return self._write(self._files.save_model, Path(self.state.model_path if path is None else path), wait)

    def averaged(self) -> CDVAE:
        """Copy the model with the moving average of its weights. Raises SettingError before the first step."""
        return self._files.averaged()

    def trained(self) -> tuple[WithCode[CDVAE], int]:
        """Copy the model as `averaged` does, with the code that trains it, and the number of its step.

        It can be called in any thread, also while training runs.
        """
        return self._trainer.averaged()

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
        self.recorded_run.start(self._trainer.load(path, settings), wait=wait)

    def select(self) -> Pick:
        """Select the reconstruction that is shown, for all views that share the selection.

        Raises:
            SettingError: before the first validation.
        """
        pick = self._reconstructions.pick(self.validations, self._training)
        self.selection.choose(pick)
        self.show_message(f"selected: {pick.name}")
        return pick

    # --- files ------------------------------------------------------------------------------------------

    def _write(self, save: Callable[[Path], Path], path: Path, wait: bool) -> Path:
        self.step  # noqa: B018 - raises if there is none

        def write() -> Iterator[Path]:
            yield save(path)

        if wait:
            [path] = write()
            self._show_run(self.recorded_run.status)
        else:
            self._writer.start(write())
        return path

    def _show_writing(self, status: RunStatus) -> None:
        if status.error is not None:  # training continues without the file
            self._files.message = f"{type(status.error).__name__}: {status.error}"
        if not status.running:
            self._show_text(self.recorded_run.status)

    # --- the screen -------------------------------------------------------------------------------------

    def _draw(self, new: Sequence[TrainingStep]) -> None:
        self._curves.show(self.recorded_run.running)
        self._reconstructions.draw(self.validations)

    def _show_run(self, status: RunStatus) -> None:
        self.model = self._trainer.model
        self.stepped = self._training.last is not None
        self.controls.enable(status.running, self.stepped, self.can_resume, bool(self.validations))
        self._show_text(status)
        if not status.running:
            self._draw([])
            self.draw_code()
        elif not self.records:
            self._curves.show(running=True)

    def _show_text(self, status: RunStatus) -> None:
        step = self._training.last
        if status.error is not None:
            self.show_error(status.error, status.traceback, self._files.kept(status.error))
        elif step is None:
            n, kept = len(self.dataset), len(self.validation or ())
            size = sum(p.numel() for p in self._trainer.model.parameters())
            away = f", {kept:,} more held out" if kept else ""
            ready = f"{size:,} parameters, {n:,} crystals to train on{away}"
            self.show_message("starting" if status.running else f"press Run (or Space): {ready}")
        else:
            state = status.state if status.running else "finished" if self.finished else "stopped"
            text = f"{state}: step {step.step:,} of {step.num_steps:,}, epoch {step.epoch:.1f}"
            self.show_message("; ".join(filter(None, [text, self._files.message])))
        if step is not None:
            self.controls.show_speed(self._training.record.speed(step))

    def picture(self) -> Crystals | None:
        """The originals and their reconstructions, for a page that cannot run widgets."""
        return self.view.current() if self.validations else None
