"""The files of a training: states to resume from, and models to generate with."""

from __future__ import annotations

from pathlib import Path

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import NonFiniteLossError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.monitor.training_run import TrainingRun


class TrainingFiles:
    """Writes the weights of a run between two of its steps, so that training need not be stopped.

    Args:
        training: the run.
        dataset: what is trained on, for the metadata of a model.

    Attributes:
        message: the result of the last writing, for the status line.
    """

    def __init__(self, training: TrainingRun, dataset: Dataset) -> None:
        self._training, self._dataset = training, dataset
        self._saved: tuple[int, Path] | None = None  # step and file of the last state
        self.message = ""

    def forget(self) -> None:
        """Forget what was written: another training begins."""
        self._saved, self.message = None, ""

    def averaged(self) -> CDVAE:
        """Copy the model with the moving average of its weights. Raises SettingError before the first step."""
        model, dataset = self._training.step.averaged(), self._dataset
        data = {name: getattr(dataset, name) for name in ("name", "split", "source", "license")}
        data |= {"crystals": len(dataset), "property": dataset.label_name, "property_unit": dataset.label_unit}
        model.metadata = {**model.metadata, "data": data}
        return model

    def save_state(self, path: Path) -> Path:
        """Write a state to resume from. Raises LabError if the file cannot be written."""

        def save() -> Path:
            step = self._training.step
            written = step.save(path)
            self._saved = (step.step, written)
            return written

        return self._written(self._training.between_steps(save))

    def save_model(self, path: Path) -> Path:
        """Write the model with the moving average of its weights. Raises LabError if the file cannot be written."""
        return self._written(
            self._training.between_steps(lambda: self.averaged().save(path, steps=self._training.step.step))
        )

    def kept(self, error: BaseException) -> str:
        """Say what is left after an error that ended the run."""
        if self._training.last is None:
            return "Nothing was trained yet."
        kept = f"The curves and the weights of step {self._training.last.step} are kept: Save model writes them."
        if isinstance(error, NonFiniteLossError):
            kept += " This run cannot be resumed: train again with a smaller learning rate"
            kept += f", or load the state of step {self._saved[0]} with it ({self._saved[1]})." if self._saved else "."
        return kept

    def _written(self, path: Path) -> Path:
        self.message = f"written: {path}"
        return path
