"""Training as a generator: `fit(...)` updates the model in place and yields a `TrainingStep` after every update.

A step draws its crystals and its noise from (seed, step) alone and runs without waiting for the device: the batch is an
index into data that live there, and on a GPU the whole step, optimizer included, is one CUDA graph. Several processes
take the same steps together, each with a share of every batch.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.errors import DatasetError, NonFiniteLossError, SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE, CDVAEConfig
from cdvae_lab.models.checkpoints import Trainable, TrainingState, read_training_state, write_training_state
from cdvae_lab.models.latent_prior import DiffusionPrior
from cdvae_lab.models.painn import PaiNN
from cdvae_lab.runtime.cuda_graphs import Graphed, fast_matmul
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.training.batches import Batch, Batches
from cdvae_lab.training.losses import TERMS, LossWeights, objective
from cdvae_lab.training.objectives import task_for

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class FitSettings:
    """How to train; kept in the checkpoint, so that a resumed run goes on as it began.

    Attributes:
        steps: optimizer steps of the whole run; the learning rate's schedule ends there.
        lr, final_lr: Adam's learning rate rises over `warm_up` steps to `lr` and falls on a half cosine to `final_lr`.
        clip: the gradient's norm is clipped to this.
        ema_decay: of the moving average of the weights, per step.
        seed: of batches and noise.
    """

    steps: int
    batch_size: int = 512
    lr: float = 1e-3
    final_lr: float = 1e-5
    warm_up: int = 500
    clip: float = 10.0
    ema_decay: float = 0.9995
    seed: int = 0
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.warm_up < 0:
            raise SettingError("fit needs steps >= 1 (or epochs >= 1), batch_size >= 1 and warm_up >= 0")
        if not (0 < self.final_lr <= self.lr and self.clip > 0 and 0 <= self.ema_decay < 1):
            raise SettingError("fit needs 0 < final_lr <= lr, clip > 0 and 0 <= ema_decay < 1")
        noise.check_seed(self.seed)


@dataclass(frozen=True)
class TrainingStep:
    """What has just happened.

    Attributes:
        step: optimizer steps done so far.
        num_steps: of the whole run.
        epoch: passes through the data set, as a fraction.
        losses: the weighted total and then every term unweighted (of `losses.TERMS`, for a CDVAE); looking at them
            waits for the GPU.
        crystals_per_second: since the run started or went on.
    """

    step: int
    num_steps: int
    epoch: float
    losses: Float[Tensor, " terms"]
    crystals_per_second: float
    run: Run = dataclasses.field(repr=False)

    @property
    def loss(self) -> float:
        """The weighted total."""
        return float(self.losses[0])

    @property
    def terms(self) -> dict[str, float]:
        """Every term, unweighted, by name."""
        return dict(zip(self.run.task.terms, self.losses[1:].tolist(), strict=True))

    @property
    def learning_rate(self) -> float:
        return float(learning_rate(self.run.settings, torch.tensor(self.step - 1)))

    def averaged(self) -> Any:
        """A copy of the model with the moving average of the weights *as they are now*: what to generate with."""
        return self.run.averaged()

    def save(self, path: str | Path) -> Path:
        """Write everything that it takes to go on from here, `fit(path, dataset)`; also loads as a model."""
        return self.run.save(path)


def learning_rate(settings: FitSettings, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """Linear warm-up, then half a cosine; on the device, so that it can be part of a CUDA graph."""
    done = step.to(torch.float32)
    rising = (done + 1) / max(settings.warm_up, 1)
    after = ((done - settings.warm_up) / max(settings.steps - settings.warm_up, 1)).clamp(0, 1)
    falling = settings.final_lr + (settings.lr - settings.final_lr) * 0.5 * (1 + torch.cos(math.pi * after))
    return torch.where(rising < 1, rising * settings.lr, falling)


class Run:
    """A training run: the model, the averaged weights, the optimizer and the data, all on one device.

    Of several processes each has all of these, and after every step they are the same.
    """

    def __init__(
        self,
        model: Trainable,
        dataset: Dataset,
        settings: FitSettings,
        compile: bool | None,
        encoder: CDVAE | None = None,
        fabric: Fabric | None = None,
    ) -> None:
        self.model, self.dataset, self.settings = model, dataset, settings
        self.processes = Processes(fabric)
        self.task = task_for(model, dataset, encoder)
        self.device = next(model.parameters()).device
        self.batches = Batches(self.task.sizes, settings.batch_size, settings.seed, self.device)
        if self.batches.batch_size % self.processes.size:
            raise SettingError(
                f"a batch of {self.batches.batch_size} crystals cannot be shared out evenly among "
                f"{self.processes.size} processes; give a batch_size that is a multiple of their number"
            )
        # Of crystals sorted by size: every share has small ones and large ones.
        self.mine = slice(self.processes.rank, None, self.processes.size)
        self.processes.share([*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())])
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.params]
        self.step = torch.zeros((), dtype=torch.int64, device=self.device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)
        self.lr = torch.tensor(settings.lr, device=self.device)
        on_gpu = self.device.type == "cuda"
        self.copied = torch.cuda.Event() if on_gpu else None
        self.seen = torch.full((), -1, dtype=torch.int64, pin_memory=on_gpu)
        self.optimizer = torch.optim.Adam(self.params, lr=self.lr, fused=True, capturable=on_gpu)
        compile = on_gpu if compile is None else compile
        noise.prepare(self.device)
        if compile:
            for network in model.modules():
                if isinstance(network, PaiNN):
                    network.compile_blocks()
        self.graphs: dict[int, Graphed] = {}

    def _losses(
        self, index: Int[Tensor, " crystals"], step: Int[Tensor, ""], sites: int, most_images: int
    ) -> Float[Tensor, " terms"]:
        terms = self.task.losses(index, self.mine, step, sites, most_images, self.settings.seed)
        weights = self.settings.weights
        unweighted = torch.stack([terms[name] for name in self.task.terms])
        # The weights are a CDVAE's; the single term of another model needs none.
        weighted = [getattr(weights, name) * terms[name] if name in TERMS else terms[name] for name in self.task.terms]
        return torch.cat([torch.stack(weighted).sum()[None], unweighted])

    def _update(self, index: Int[Tensor, " crystals"], sites: int, most_images: int) -> tuple[Tensor]:
        """One optimizer step, without waiting for the device."""
        with fast_matmul():
            self.optimizer.zero_grad(set_to_none=True)
            losses = self._losses(index, self.step, sites, most_images)
            losses[0].backward()
        if self.processes.size > 1:
            gradients = [p.grad for p in self.params if p.grad is not None]
            *means, losses = self.processes.average([*gradients, losses.detach()])
            torch._foreach_copy_(gradients, means)
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.settings.clip, foreach=True)
        finite = torch.isfinite(losses[0]) & torch.isfinite(norm)
        self.bad_step.copy_(torch.where((self.bad_step < 0) & ~finite, self.step, self.bad_step))
        # From the first bad step on no weight changes any more, however late the loop reads of it.
        self.optimizer.found_inf = (self.bad_step >= 0).to(torch.float32)  # type: ignore[attr-defined]
        self.lr.copy_(learning_rate(self.settings, self.step))
        self.optimizer.step()
        done = self.step.to(torch.float32)
        weight = 1 - torch.minimum(torch.full_like(done, self.settings.ema_decay), (1 + done) / (10 + done))
        change = torch._foreach_sub([p.detach() for p in self.params], self.average)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(self.average, change)
        self.step += 1
        return (losses.detach(),)

    def advance(self, batch: Batch) -> Float[Tensor, " terms"]:
        """One step on one batch; its losses."""
        if batch.sites not in self.graphs:
            most_images = self.task.images_for(batch.sites)
            update = lambda index: self._update(index, batch.sites, most_images)  # noqa: E731
            self.graphs[batch.sites] = Graphed(update, self.device)
        return self.graphs[batch.sites](batch.index)[0]

    def watch(self) -> None:
        """`check`, a few steps late on a GPU, so that it never waits: the flag is copied, and read once it is there."""
        if self.copied is None:
            self.check()
            return
        bad = False
        if self.copied.query():
            bad = int(self.seen) >= 0
            self.seen.copy_(self.bad_step, non_blocking=True)
            self.copied.record()
        # One process may know earlier than another, but none may leave the others in a step.
        if self.processes.any(bad):
            self.check()

    def check(self) -> None:
        """Raise if any step so far had a loss or a gradient that is not finite (waits for the device)."""
        bad = int(self.bad_step)
        if bad >= 0:
            index = self.batches[bad].index.tolist()
            names = [self.dataset.ids[i] for i in index]
            raise NonFiniteLossError(
                f"the loss or its gradient is not finite at step {bad + 1}; the weights are those before it. "
                f"Its crystals: {', '.join(names[:20])}{f' and {len(names) - 20} more' if len(names) > 20 else ''}. "
                "Look at them, or train with a smaller lr; an earlier checkpoint is untouched"
            )

    def averaged(self) -> Any:
        """A copy of the model, of its own class, with the moving average of the weights."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, average in zip(self.names, self.average, strict=True):
                model.get_parameter(name).copy_(average)
        return model.eval().requires_grad_(False)

    def save(self, path: str | Path) -> Path:
        """Write the state to go on from."""
        self.check()
        tensors = {f"average.{k}": v for k, v in zip(self.names, self.average, strict=True)}
        for name, p in zip(self.names, self.params, strict=True):
            for key, value in self.optimizer.state[p].items():
                tensors[f"adam.{key}.{name}"] = value
        data = {"name": self.dataset.name, "split": self.dataset.split, "crystals": len(self.dataset)}
        fit = dataclasses.asdict(self.settings)
        return write_training_state(path, TrainingState(self.model, tensors, fit, int(self.step), data))

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Put optimizer, average and step counter where a saved state had them (the model's weights are there)."""
        self.step.fill_(step)
        for name, p, average in zip(self.names, self.params, self.average, strict=True):
            average.copy_(tensors[f"average.{name}"])
            state = {k: tensors[f"adam.{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            on_device = {k: v.to(self.device).clone() for k, v in state.items()}
            self.optimizer.state[p] = on_device


def fit(
    model: Trainable | CDVAEConfig | str | Path,
    dataset: Dataset,
    *,
    encoder: CDVAE | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    compile: bool | None = None,
    device: str | torch.device | None = None,
    fabric: Fabric | None = None,
    **settings,
) -> Iterator[TrainingStep]:
    """Train a model in place, one `TrainingStep` per optimizer step.

    Args:
        model: the CDVAE, property model, composition model or latent prior to train; or the settings of a new CDVAE;
            or the path of a training state, to go on from (its settings then hold, but for `steps` or `epochs` where
            given, which move the end of the schedule).
        dataset: crystals without a label take part in every term but the property's.
        encoder: for a latent prior, the trained CDVAE whose latents of the data set it learns.
        epochs, steps: the length of the whole run, one of the two.
        checkpoint: where to write the state every `checkpoint_every` seconds and at the end.
        compile: compile the step with torch.compile; by default on a GPU only.
        device: for a new model or a resumed one; a given model stays where it is.
        fabric: of lightning-fabric, launched. Its processes all call `fit` alike, each computes a share of every batch,
            and the steps are those of one process, up to rounding. It brings the device, and process 0 writes the
            checkpoint. A loop over the steps that is left early is left by all at the same step.
        settings: of `FitSettings`.

    Raises:
        SettingError: for settings out of range.
        DatasetError: for crystals larger than the model takes, or with elements that it does not know.
        NonFiniteLossError: when a loss is not finite, some steps after it; the weights are those before it.
        CheckpointError: for a state that cannot be read.
    """
    tensors, done = None, 0
    if isinstance(model, str | Path):
        state = read_training_state(model)
        model, tensors, saved = state.model, state.tensors, state.fit
        settings = {**saved, "weights": LossWeights(**saved["weights"]), **settings}
        done = state.step
        _check_same_data(state.data, dataset)
        if epochs is None and steps is None:
            steps = saved["steps"]
        settings.pop("steps")
    elif isinstance(model, CDVAEConfig):
        model = CDVAE.for_dataset(dataset, **dataclasses.asdict(model))
    if (epochs is None) == (steps is None):
        raise SettingError("fit needs the length of the run: either epochs or steps")
    known = {field.name for field in dataclasses.fields(FitSettings)}
    if strange := sorted(set(settings) - known):
        raise SettingError(f"fit has no setting {', '.join(strange)}; there are {', '.join(sorted(known))}")
    if steps is None and epochs is not None:
        if not 0 < epochs < math.inf:
            raise SettingError(f"epochs must be more than 0, not {epochs}")
        batch = min(max(settings.get("batch_size", FitSettings.batch_size), 1), len(dataset))
        steps = math.ceil(epochs * (len(dataset) // batch))
    assert steps is not None
    chosen = FitSettings(steps=steps, **settings)
    if isinstance(model, DiffusionPrior) != (encoder is not None):
        raise SettingError("a latent prior is fitted to the latents of an encoder=, and nothing else takes one")
    for judged in (model, encoder):
        if isinstance(judged, CDVAE):
            check_fits(judged, dataset)
            check_elements(judged, dataset)
    if isinstance(model, DiffusionPrior) and encoder is not None:
        mine, its = model.config.latent_dim, encoder.config.latent_dim
        if mine != its:
            raise SettingError(f"the prior is over {mine} numbers and the encoder's z has {its}; make it with {its}")
    if fabric is not None:
        device = fabric.device
    if device is not None:
        model = model.to(device)
    if isinstance(model, CDVAE):
        model.prior = None  # of latents that will be others
    model.train().requires_grad_(True)
    if isinstance(model, DiffusionPrior) and model.composition_model is not None:
        model.composition_model.eval().requires_grad_(False)  # learned before
    run = Run(model, dataset, chosen, compile, encoder, fabric)
    if tensors is not None:
        run.restore(tensors, done)
    return _steps(run, done, checkpoint if run.processes.first else None, checkpoint_every)


def _steps(run: Run, done: int, checkpoint: str | Path | None, every: float) -> Iterator[TrainingStep]:
    started = saved = time.monotonic()
    try:
        for step in range(done, run.settings.steps):
            losses = run.advance(run.batches[step])
            run.watch()
            now = time.monotonic()
            if checkpoint is not None and (now - saved > every or step + 1 == run.settings.steps):
                run.save(checkpoint)
                saved = now
            rate = (step + 1 - done) * run.batches.batch_size / max(now - started, 1e-9)
            yield TrainingStep(step + 1, run.settings.steps, (step + 1) / run.batches.per_epoch, losses, rate, run)
        run.check()
    finally:
        run.graphs.clear()  # NCCL waits for graphs with its transfers in them before it lets processes part


def check_fits(model: CDVAE, dataset: Dataset) -> None:
    """Refuse a data set that the model cannot be trained on.

    Raises:
        DatasetError: naming the crystals, and the setting or the model that would take them.
    """
    largest = int(dataset.crystals.num_atoms.max())
    if largest > model.config.max_atoms:
        where = dataset.ids[int(dataset.crystals.num_atoms.argmax())]
        raise DatasetError(
            f"{dataset.name}: crystal {where} has {largest} atoms, but the model takes {model.config.max_atoms} at "
            "most; make the model with CDVAE.for_dataset(dataset), or leave larger crystals out"
        )
    if (heaviest := max(dataset.elements)) > NUM_ELEMENTS:
        raise DatasetError(
            f"{dataset.name}: has Z = {heaviest}, but a CDVAE has classes for Z <= {NUM_ELEMENTS} only; leave it out"
        )


def check_elements(model: CDVAE, dataset: Dataset) -> None:
    """Refuse to train on elements that the model may not generate (to be judged on them is another matter).

    Raises:
        DatasetError: naming the elements.
    """
    if strange := sorted(set(dataset.elements) - set(model.elements.nonzero()[:, 0].tolist())):
        raise DatasetError(
            f"{dataset.name}: has elements that the model does not know (Z = {', '.join(map(str, strange))}); make the "
            "model with CDVAE.for_dataset(dataset), or leave those crystals out"
        )


def _check_same_data(saved: Mapping[str, Any], dataset: Dataset) -> None:
    """A run goes on with the data that it began with: the order of its batches depends on them."""
    given = {"name": dataset.name, "split": dataset.split, "crystals": len(dataset)}
    if any(saved.get(key) != value for key, value in given.items()):
        raise DatasetError(
            f"the run was begun with {saved.get('crystals')} crystals of {saved.get('name')} ({saved.get('split')}), "
            f"and {given['crystals']} of {given['name']} ({given['split']}) are given; go on with those, or train the "
            "loaded model on the new ones: fit(cdvae_lab.load(path), dataset)"
        )


@torch.no_grad()
def validation_losses(model: CDVAE, dataset: Dataset, batch_size: int = 512, seed: int = 0) -> dict[str, float]:
    """The mean of every term over a data set, with noise that is the same at every call."""
    device = model.device
    totals = dict.fromkeys(TERMS, 0.0)
    for start in range(0, len(dataset), batch_size):
        index = torch.arange(start, min(start + batch_size, len(dataset)))
        part = dataset[index].to(device)
        images = periodic_images(part.crystals.lattice, model.config.cutoff)
        terms = objective(model, part.crystals.trim(), images, part.labels, index.to(device), 0, seed)
        for name in TERMS:
            totals[name] += float(terms[name]) * len(index) / len(dataset)
    return totals
