"""Training while one watches: the terms as they fall, the speed, and what the model makes of crystals by now."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.errors import NonFiniteLossError, SettingError
from cdvae_lab.metrics.reconstruction import reconstruction
from cdvae_lab.models.cdvae import CDVAE, CDVAEConfig
from cdvae_lab.sampling.denoising import reconstruct
from cdvae_lab.training.loop import TrainingStep, fit
from cdvae_lab.training.losses import LossWeights
from cdvae_lab.training.objectives import check_fits
from cdvae_lab.training.settings import FitSettings
from cdvae_lab.training.validation import validation_losses
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.panel import Panel
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.monitor.controls import MonitorLooks
from cdvae_lab.widgets.monitor.training_record import Looked, TrainingRecord

# What two CPU cores train while one watches; as in the notebook on training.
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
VALIDATED = 256  # crystals that the terms are validated on


class TrainingMonitor(Panel):
    """Runs `fit` in the background and shows it.

    Training can be stopped and gone on with without losing a step: the numbers are those of an uninterrupted run. Every
    so many steps a few crystals are encoded and decoded again with the moving average of the weights, and shown beside
    the originals. Space runs and stops. Every button is also a method: `run`, `stop`, `go_on`, `save_state`,
    `save_model`, `load_state`, `choose`. With `wait=True` a script waits for the end and gets errors raised.

    Args:
        model: a CDVAE, which is trained in place; the settings of a new one; the name or path of one to train further;
            or None for a new, small one that two CPU cores train in a minute or two, with settings to match.
        dataset: its name, a folder of CIF files, a table, or a Dataset. Of the named ones, crystals of the part `val`
            are kept away and looked at.
        validation: crystals to look at that are not trained on; without any, those trained on are looked at.
        epochs, steps: the length of the run, one of the two; 1,000 steps by default.
        batch_size: crystals a step.
        validate_every: steps.
        crystals: how many are decoded and shown.
        decode_steps: of the decoder's sampler.
        selection: shared with other widgets.
        device: for a new model; a given one stays where it is.
        settings: of `FitSettings`, as in `fit`.

    Raises:
        SettingError: for settings out of range.
        DatasetError: if the data cannot be read, or the model does not take them.
        CheckpointError: if a model cannot be read.
    """

    def __init__(
        self,
        model: CDVAE | CDVAEConfig | str | Path | None = None,
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
        super().__init__(None if isinstance(model, CDVAEConfig) else model, selection)
        if validate_every < 1 or crystals < 1:
            raise SettingError(f"validate_every and crystals must be at least 1, not {validate_every} and {crystals}")
        if epochs is not None and steps is not None:
            raise SettingError("give the length of the run as epochs or as steps, not as both")
        self.dataset, self._data_line = _read(dataset, "train")
        self._config = model if isinstance(model, CDVAEConfig) else CDVAEConfig(1, **SMALL) if model is None else None
        self._small = model is None
        self._settings = {**(SMALL_FIT if model is None else {}), **settings}
        self._device = device
        self.validation = self._validation(dataset, validation)
        self._shown = (self.validation or self.dataset).crystals[:crystals]
        self._judged = (self.validation or self.dataset)[:VALIDATED]
        self._decode_steps = decode_steps
        self._record = TrainingRecord()
        self._fit: Any = None  # the generator itself: it stands still while training is stopped
        self._stream: Generator[TrainingStep] | None = None
        self._last: TrainingStep | None = None
        self._before_call, self._call, self._before = list[str](), "", 0  # what `code` tells
        self._saved: tuple[int, Path] | None = None
        self._due = 0.0
        self._worker = self._runner(self._show_new, self._ended, fps=8)
        if epochs is not None:
            batch = min(max(batch_size, 1), len(self.dataset))
            steps = max(1, round(epochs * (len(self.dataset) // batch)))
        self._looks = MonitorLooks(self, steps or 1000, batch_size, validate_every)
        if self.model is None:
            self.model = self._new_model()
        check_fits(self.model, self._judged)
        self._options()  # refuses now what it would refuse later
        self._show(*self._looks.rows())
        self._looks.refresh()

    # --- what can be done, by buttons and from code ---------------------------------------------------

    @property
    def step(self) -> TrainingStep:
        """The last step that was done. Raises SettingError if there is none yet."""
        if self._last is None:
            raise SettingError("no step has been done yet; press Run, or call run()")
        return self._last

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """Terms and learning rate of the steps, thinned in long runs, and of the validations; for `training_curve`."""
        return tuple(self._record.records)

    @property
    def looked(self) -> tuple[Looked, ...]:
        """What came back of the shown crystals at each validation."""
        return tuple(self._record.looked)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, with the validation there."""
        return self._last is not None and self._last.step >= self._last.num_steps and not _alive(self._stream)

    @property
    def can_go_on(self) -> bool:
        """Whether there is a run that was stopped, or that has reached its end, but not one that failed."""
        return self._last is not None and (_alive(self._fit) or self.finished)

    def run(self, wait: bool = False) -> None:
        """A new run with the settings of the fields: of a new model, or of the given one as it is by now."""
        self._stop_first()
        options = self._options()
        if self._config is not None:
            self.model = self._new_model()
        assert self.model is not None
        if self._device is not None:
            options |= {"device": self._device}
        self._fit = fit(self.model, self.dataset, **options)
        self._record, self._last, self._saved = TrainingRecord(), None, None
        self._before_call, self._call = [self._data_line, *self._make_line()], f"lab.fit(model, data{_told(options)})"
        self._stream = self._watched()
        self._begin(wait)

    def stop(self) -> None:
        """End the run after the step that it is in; `go_on` continues."""
        self._worker.stop()

    def go_on(self, wait: bool = False) -> None:
        """Continue exactly as the run would have gone; at its end it gets as many steps more as the field says."""
        self._stop_first()
        if not self.can_go_on:
            raise SettingError("there is no run to go on with; press Run, or load a state")
        step = self.step
        if self.finished:
            with tempfile.TemporaryDirectory() as folder:
                steps = step.step + self._looks.steps.value
                self._resume(step.save(Path(folder) / "state.safetensors"), {"steps": steps})
                self._before_call += [f"step = lab.last({self._call})", "path = step.save('out/state.safetensors')"]
                self._call = f"lab.fit(path, data, steps={steps})"
        elif not _alive(self._stream):
            self._stream = self._watched()  # after an error that was not the training's
        self._begin(wait)

    def save_state(self, path: str | Path | None = None) -> Path:
        """Write everything that it takes to go on later, with `load_state` or `fit`; also while it runs.

        Raises:
            SettingError: before the first step.
            LabError: if the file cannot be written.
        """
        path = Path(self._looks.state_path.value if path is None else path)
        written = self._between_steps(lambda: self.step.save(path))
        self._saved = (self.step.step, written)
        return written

    def save_model(self, path: str | Path | None = None) -> Path:
        """Write a model with the moving average of the weights, to generate with; also while it runs.

        Raises:
            SettingError: before the first step.
            LabError: if the file cannot be written.
        """
        path = Path(self._looks.model_path.value if path is None else path)
        return self._between_steps(lambda: self.averaged().save(path, steps=self.step.step))

    def averaged(self) -> CDVAE:
        """A copy of the model with the moving average of its weights. Raises SettingError before the first step."""
        model = self.step.averaged()
        data = {name: getattr(self.dataset, name) for name in ("name", "split", "source", "license")}
        data |= {"crystals": len(self.dataset), "property": self.dataset.label_name}
        model.metadata = {**model.metadata, "data": data | {"property_unit": self.dataset.label_unit}}
        return model

    def load_state(self, path: str | Path | None = None, wait: bool = False, **settings: Any) -> None:
        """Go on from a saved state.

        Args:
            path: of the state; by default what the field says.
            wait: return at the end.
            settings: of `FitSettings`, instead of those that it was saved with: a smaller lr, more steps.

        Raises:
            CheckpointError: for a file that is no state.
            DatasetError: if it was begun with other data.
        """
        self._stop_first()
        path = Path(self._looks.state_path.value if path is None else path)
        self._resume(path, settings)
        self._before_call, self._call = [self._data_line], f"lab.fit({str(path)!r}, data{_told(settings)})"
        self._saved = None
        self._begin(wait)

    def choose(self) -> Pick:
        """Make the crystal that is shown, as it came back, the selection's, for other widgets."""
        looked = self._looks.looked()
        if looked is None:
            raise SettingError("nothing has come back yet; the first crystals do after the first validation")
        k = self._looks.crystal.value
        pick = Pick(
            f"{words.formula(looked.crystals[k])}, decoded at step {looked.step} of a training", looked.crystals[k]
        )
        self.selection.choose(pick)
        return pick

    # --- the run ----------------------------------------------------------------------------------------

    def _validation(self, dataset: Dataset | str | Path, given: Dataset | str | Path | None) -> Dataset | None:
        if given is not None:
            return _read(given, "val")[0]
        if isinstance(dataset, str) and (dataset in datasets.PUBLIC or dataset == datasets.SYNTHETIC):
            return datasets.load(dataset, "val")
        return None

    def _new_model(self) -> CDVAE:
        assert self._config is not None
        own = dataclasses.asdict(self._config)
        if self._small:
            del own["max_atoms"]  # what the data need
        model = CDVAE.for_dataset(self.dataset, **own)
        return model if self._device is None else model.to(self._device)

    def _make_line(self) -> list[str]:
        if self._small:
            return [f"model = lab.CDVAE.for_dataset(data{_told(SMALL)})"]
        if self._config is not None:
            return [f"model = lab.CDVAE.for_dataset(data{_told(dataclasses.asdict(self._config))})"]
        return [self._model_line()]

    def _options(self) -> dict[str, Any]:
        """Of `fit`, as the fields have them."""
        looks = self._looks
        weights = dataclasses.replace(self._settings.get("weights", LossWeights()), kl=looks.kl.value)
        options = {**self._settings, "steps": looks.steps.value, "batch_size": looks.batch_size.value}
        options |= {"lr": looks.lr.value, "weights": weights}
        known = {one.name for one in dataclasses.fields(FitSettings)} | {"weights"}
        if strange := sorted(set(options) - known):
            raise SettingError(f"fit has no setting {', '.join(strange)}; there are {', '.join(sorted(known))}")
        FitSettings(**{name: value for name, value in options.items() if name != "weights"})
        return options

    def _resume(self, path: Path, settings: dict[str, Any]) -> None:
        self._fit = fit(path, self.dataset, device=self._device, **settings)
        self._stream = self._watched()

    def _begin(self, wait: bool) -> None:
        assert self._stream is not None
        self._record.resume()
        if wait:
            self._looks.refresh()
            self._worker.run_blocking(self._stream)
        else:
            self._worker.start(self._stream)
            self._looks.refresh()

    def _watched(self) -> Generator[TrainingStep]:
        """In the worker: note every step, and validate where it is time to. Suspended while training is stopped."""
        assert self._fit is not None
        for step in self._fit:
            if self._last is None or step.model is not self._last.model or step.step != self._last.step + 1:
                self.model, self._before = step.model, step.step - 1
                self._record.until(self._before)
            self._last = step
            self._record.note(step)
            yield step
            self._record.resume()  # whoever looked, or stopped it, has taken time
            if step.step % self._looks.validate_every.value == 0 or step.step == step.num_steps:
                yield from self._validate(step)
                self._record.resume()

    def _validate(self, step: TrainingStep) -> Iterator[TrainingStep]:
        model = step.averaged()
        losses = validation_losses(model, self._judged)
        frame = None
        for frame in reconstruct(model, self._shown, steps=self._decode_steps, allow_unseen=True):  # noqa: B007
            self._record.pause_in_validation()
            yield step  # so that Stop does not wait for the whole
            self._record.resume()
        assert frame is not None
        rms = reconstruction(self._shown, frame.crystals, jobs=1).rms
        self._record.validated(step.step, losses, Looked(step.step, frame.crystals.to("cpu"), rms))
        yield step

    def _between_steps(self, act: Callable[[], Any]) -> Any:
        """While no weight moves."""
        running = self.running
        self._stop_first()
        try:
            return act()
        finally:
            if running and self.can_go_on and not self.finished:
                self.go_on()

    def _show_new(self, newest: TrainingStep | None = None) -> None:
        if time.monotonic() >= self._due:
            started = time.monotonic()
            self._looks.draw()
            # At most three times a second, and no more than a quarter of the time.
            self._due = started + max(0.33, 4 * (time.monotonic() - started))

    def _ended(self) -> None:
        self._looks.refresh()
        self._looks.draw()

    def _lines(self) -> list[str]:
        """The Python that does the same; of a run that was stopped, the steps that there are."""
        if not self._call:
            return []
        done = 0 if self._last is None else self._last.step - self._before
        stopped = self._last is not None and self._last.step < self._last.num_steps and not self.running
        call = f"islice({self._call}, {done})" if stopped else self._call
        return [
            *(["from itertools import islice"] if stopped else []),
            *self._before_call,
            f"step = lab.last(lab.progress({call}))",
            "model = step.averaged()",
        ]

    def _kept(self) -> str:
        """What is not lost after an error."""
        if self._last is None:
            return "Nothing was trained yet."
        kept = f"The curves and the weights of step {self._last.step} are kept: Save model writes them."
        if isinstance(self._worker.error, NonFiniteLossError):
            kept += " This run cannot go on: train again with a smaller learning rate"
            kept += f", or load the state of step {self._saved[0]} with it ({self._saved[1]})." if self._saved else "."
        return kept

    def _picture(self) -> Crystals | None:
        return self._looks.view.current() if self._record.looked else None


def _alive(generator: Any) -> bool:
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED


def _read(source: Dataset | str | Path, split: str) -> tuple[Dataset, str]:
    """A data set, and the line of Python that reads it."""
    if isinstance(source, Dataset):
        return source, "# `data` is the data set that the widget was given"
    own = "" if Path(source).is_dir() else f", {split!r}"
    return datasets.load(source, split), f"data = lab.datasets.load({str(source)!r}{own})"


def _told(options: dict[str, Any]) -> str:
    """Settings as a call has them; of the weights those that are not the default."""
    told = []
    for name, value in options.items():
        if isinstance(value, LossWeights):
            changed = {k: v for k, v in dataclasses.asdict(value).items() if v != getattr(LossWeights(), k)}
            if changed:
                told.append(f"{name}=lab.LossWeights({', '.join(f'{k}={v!r}' for k, v in changed.items())})")
        else:
            told.append(f"{name}={value!r}")
    return "".join(f", {word}" for word in told)
