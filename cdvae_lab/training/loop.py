"""Training as a generator: `fit` updates the model in place and yields a `TrainingStep` after every optimizer step.

See docs/explanation/algorithm.md, section 3; departures D9, D10.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import DatasetError, SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import Trainable, as_model, read_training_state
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.training.learning_rate import learning_rate
from cdvae_lab.training.objectives.selection import objective_for
from cdvae_lab.training.run import Run
from cdvae_lab.training.settings import FitOptions, FitSettings, LossWeights

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """Optimizer step that has been taken.

    Attributes:
        step: optimizer steps taken so far.
        epoch: passes through the data set, as a fraction.
        losses: the weighted total, then every term unweighted; reading a value waits for the GPU.
        names: names of the terms, for a CDVAE those of `losses.TERMS`.
        crystals_per_second: speed since the run started or was resumed.
        settings: settings of the run.
        batch_size: crystals per step; no more than there are.
        model: the model in training, which later steps update in place.
    """

    step: int
    epoch: float
    losses: Float[Tensor, " terms"]
    names: tuple[str, ...]
    crystals_per_second: float
    settings: FitSettings
    batch_size: int
    model: Any = dataclasses.field(repr=False)
    _averaged: Callable[[], Any] = dataclasses.field(repr=False)
    _save: Callable[[str | Path], Path] = dataclasses.field(repr=False)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.steps

    @property
    def loss(self) -> float:
        """The weighted total."""
        return float(self.losses[0])

    @property
    def terms(self) -> dict[str, float]:
        """Every term, unweighted, by name."""
        return dict(zip(self.names, self.losses[1:].tolist(), strict=True))

    @property
    def learning_rate(self) -> float:
        """Learning rate of this step."""
        return float(learning_rate(self.settings, torch.tensor(self.step - 1)))

    def averaged(self) -> Any:
        """Copy the model with the moving average of its weights *as they are now*: the one to generate with."""
        return self._averaged()

    def save(self, path: str | Path) -> Path:
        """Write the state of the run *as it is now*, to resume from: `fit(path, dataset)`. It also loads as a model.

        Raises:
            LabError: if the file cannot be written.
            NonFiniteLossError: if the loss of a step was not finite.
        """
        return self._save(path)


def fit(
    model: Trainable | CDVAEConfig | str | Path,
    dataset: Dataset,
    *,
    encoder: CDVAE | str | Path | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    weights: LossWeights | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    compile: bool | None = None,
    device: str | torch.device | None = None,
    fabric: Fabric | None = None,
    **settings: Unpack[FitOptions],
) -> Iterator[TrainingStep]:
    """Train a model in place, yielding a `TrainingStep` after every optimizer step.

    Training a CDVAE removes its learned prior, with a `PriorWarning`: the prior describes latents that training
    changes. `fit_prior` fits another one afterwards. A latent prior is first standardized with the encoded data set,
    and its composition model is not trained with it.

    Args:
        model: the CDVAE, property model, composition model or latent prior to train; or the settings of a new CDVAE;
            or the path of a training state to resume from. Its settings then hold, except those that are given here;
            another `steps` or `epochs` moves the end of the learning rate's schedule.
        dataset: the crystals. Those without a label take part in every term but the property's.
        encoder: for a latent prior, the trained CDVAE whose latents it learns, or its name or path.
        epochs, steps: the length of the whole run; one of the two.
        weights: weights of a CDVAE's loss terms; the paper's by default.
        checkpoint: file to write the state to, every `checkpoint_every` seconds and at the end.
        compile: compile the networks with torch.compile; by default on a GPU only.
        device: device for a new or resumed model; by default a model stays where it is.
        fabric: a launched lightning-fabric `Fabric`. All its processes call `fit` alike, each computes a share of every
            batch, and the steps are those of one process up to rounding. It determines the device, and process 0
            writes the checkpoint. If the loop over the steps ends early, all processes end it at the same step.
        settings: fields of `FitSettings`.

    Raises:
        SettingError: for settings out of range.
        DatasetError: for crystals larger than the model takes, or with elements that it does not know.
        NonFiniteLossError: a few steps after a loss that is not finite; the weights are those before that step.
        CheckpointError: for a state that cannot be read.

    Examples:
        >>> import cdvae_lab as lab
        >>> data = lab.datasets.load("synthetic_perovskites", limit=16)
        >>> model = lab.CDVAE.for_dataset(data, hidden_dim=8, latent_dim=4, head_dim=8, decoder_blocks=1)
        >>> for step in lab.fit(model, data, steps=2, batch_size=8):
        ...     print(step.step, step.epoch)
        1 0.5
        2 1.0
        >>> trained = step.averaged()
    """
    state = None
    options: dict[str, Any] = {**settings}
    if isinstance(model, str | Path):
        state = read_training_state(model)
        model, saved = state.model, dict(state.fit)
        _check_same_data(state.data, dataset)
        saved_weights, saved_steps = saved.pop("weights", None), saved.pop("steps")
        if weights is None and isinstance(model, CDVAE) and saved_weights is not None:
            weights = LossWeights(**saved_weights)
        if epochs is None and steps is None:
            steps = saved_steps
        options = {**saved, **settings}
    elif isinstance(model, CDVAEConfig):
        model = CDVAE.for_dataset(dataset, **dataclasses.asdict(model))
    chosen = _settings(dataset, epochs, steps, options)
    encoder = None if encoder is None else as_model(encoder)
    objective = objective_for(model, dataset, encoder, weights, chosen.strain, chosen.rattle)
    if fabric is not None:
        device = fabric.device
    if device is not None:
        model.to(device)
    objective.prepare()
    run = Run(objective, dataset, chosen, compile, Processes(fabric))
    done = 0
    if state is not None:
        run.restore(state.tensors, state.step)
        done = state.step
    return _steps(run, done, checkpoint if run.processes.first else None, checkpoint_every)


def _settings(dataset: Dataset, epochs: float | None, steps: int | None, options: dict[str, Any]) -> FitSettings:
    """Settings of a run whose length is given in epochs or steps."""
    if (epochs is None) == (steps is None):
        raise SettingError("fit needs the length of the run: either epochs or steps")
    known = FitOptions.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise SettingError(f"fit has no setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if steps is None and epochs is not None:
        if not 0 < epochs < math.inf:
            raise SettingError(f"epochs must be more than 0, not {epochs}")
        batch = min(max(options.get("batch_size", FitSettings.batch_size), 1), len(dataset))
        steps = math.ceil(epochs * (len(dataset) // batch))
    assert steps is not None
    return FitSettings(steps=steps, **options)


def _steps(run: Run, done: int, checkpoint: str | Path | None, every: float) -> Iterator[TrainingStep]:
    """Take the remaining steps of a run, and write its state every `every` seconds and at the end."""
    started = saved = time.monotonic()
    names, size, metadata = run.objective.terms, run.batches.batch_size, run.model.metadata
    try:
        for step in range(done, run.settings.steps):
            losses = run.advance(run.batches[step])
            run.watch()
            metadata["steps"] = step + 1
            now = time.monotonic()
            if checkpoint is not None and (now - saved > every or step + 1 == run.settings.steps):
                run.save(checkpoint)
                saved = now
            rate = (step + 1 - done) * size / max(now - started, 1e-9)
            epoch = (step + 1) / run.batches.per_epoch
            yield TrainingStep(
                step + 1, epoch, losses, names, rate, run.settings, size, run.model, run.averaged, run.save
            )
        run.check()
    finally:
        run.graphs.clear()  # NCCL waits for graphs with its transfers in them before it lets processes end


def _check_same_data(saved: Mapping[str, Any], dataset: Dataset) -> None:
    """Check that a run is resumed with its own data, on which the order of its batches depends.

    Raises:
        DatasetError: naming both data sets.
    """
    given = {"name": dataset.name, "split": dataset.split, "crystals": len(dataset)}
    if any(saved.get(key) != value for key, value in given.items()):
        raise DatasetError(
            f"the run was started with {saved.get('crystals')} crystals of {saved.get('name')} ({saved.get('split')}) "
            f"and {given['crystals']} of {given['name']} ({given['split']}) are given; resume it with those, or train "
            "the loaded model on the new ones: fit(cdvae_lab.load(path), dataset)"
        )
