"""The model in training, and the calls of `fit` that train it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.training.loop import TrainingStep, fit
from cdvae_lab.widgets.base.replay_code import WithCode
from cdvae_lab.widgets.monitor.files import TrainingFiles
from cdvae_lab.widgets.monitor.settings import NewModel, fit_arguments
from cdvae_lab.widgets.monitor.training_code import TrainingCode
from cdvae_lab.widgets.monitor.training_run import TrainingRun

Steps = Generator[TrainingStep]


class Trainer:
    """Makes the calls of `fit`, each as a generator of recorded steps together with its code.

    Args:
        model: what is trained: a model that is trained further, or one that each run makes again.
        data: what is trained on.
        run: records the steps.
        files: what is written of them.
        device: of a new model, and of a state that is loaded; None for where they are.
    """

    def __init__(
        self,
        model: WithCode[CDVAE] | NewModel,
        data: WithCode[Dataset],
        run: TrainingRun,
        files: TrainingFiles,
        device: str | torch.device | None,
    ) -> None:
        self._source, self._data, self._run, self._files = model, data, run, files
        self._device = device
        self._model = model.make(data.value) if isinstance(model, NewModel) else model.value

    @property
    def model(self) -> CDVAE:
        """The model in training, which a saved state brings along; before the first step the given or the new one."""
        return self._model if self._run.last is None else self._run.last.model

    def start(self, settings: Mapping[str, Any]) -> Steps:
        """Begin a new run: of a new model, or of the given one as it is by now.

        Args:
            settings: of `fit`.
        """
        source, given = self._source, dict(settings)
        if self._device is not None:
            given["device"] = self._device

        def begin() -> Iterator[TrainingStep]:
            model = source.make(self._data.value) if isinstance(source, NewModel) else self.model
            steps = fit(model, self._data.value, **given)
            self._model = model
            self._files.forget()
            return steps

        code = TrainingCode(self._data.code, f"lab.fit(model, data{fit_arguments(given)})", (source.code,))
        return self._run.start(begin, code)

    def extend(self, more: int) -> Steps:
        """Train on after a finished run, exactly as a longer one would have.

        Args:
            more: number of further steps.
        """
        step = self._run.step
        steps = step.step + more

        def extend() -> Iterator[TrainingStep]:
            with tempfile.TemporaryDirectory() as folder:
                path = step.save(Path(folder) / "state.safetensors")
                return fit(path, self._data.value, device=self._device, steps=steps)

        return self._run.start(extend, self._run.code.extended(steps), keep=True)

    def load(self, path: Path, settings: Mapping[str, Any]) -> Steps:
        """Resume from a saved state.

        Args:
            settings: of `FitSettings`, instead of those that it was saved with.
        """

        def load() -> Iterator[TrainingStep]:
            steps = fit(path, self._data.value, device=self._device, **settings)
            self._files.forget()
            return steps

        code = TrainingCode(self._data.code, f"lab.fit({str(path)!r}, data{fit_arguments(settings)})")
        return self._run.start(load, code, keep=True)

    def averaged(self) -> tuple[WithCode[CDVAE], int]:
        """Copy the model with its averaged weights, with the code that trains it, and the number of its step.

        It can be called in any thread, also while training runs.

        Raises:
            SettingError: before the first step.
        """

        def copy() -> tuple[WithCode[CDVAE], int]:
            step = self._run.step
            code = self._run.replay_code(step.step if step.step < step.num_steps else None)
            return WithCode(self._files.averaged(), code.as_setup()), step.step

        return self._run.between_steps(copy)
