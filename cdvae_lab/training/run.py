"""Training run: optimizer steps on a device, the moving average of the weights, and the state to resume from.

A step draws its crystals and its noise from (seed, step) alone and never waits for the device: a batch is an index into
data that are on the device, and on a GPU the whole step, optimizer included, is one CUDA graph. Several processes take
the same steps together, each with a share of every batch.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import NonFiniteLossError, SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.checkpoints import Trainable, TrainingState, write_training_state
from cdvae_lab.models.painn import PaiNN
from cdvae_lab.runtime.cuda_graphs import Graphed
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.runtime.threads import fast_matmul
from cdvae_lab.training.batches import Batch, Batches
from cdvae_lab.training.learning_rate import learning_rate
from cdvae_lab.training.objectives.objective import Objective
from cdvae_lab.training.settings import FitSettings

NAMED_AT_MOST = 20  # crystals in an error message


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trainable parameters for an optimizer: weight matrices decay; biases, scales and embeddings do not."""
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim > 1 and p not in embeddings]
    others = [p for p in trained if p.ndim <= 1 or p in embeddings]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Run:
    """Model, averaged weights, optimizer and data of a training run, all on one device.

    Each of several processes has all of these, and after every step they are equal.

    Args:
        objective: prepared; its model is updated in place.
        compile: compile the networks with torch.compile; by default on a GPU only.
        processes: those that take the steps together.

    Raises:
        SettingError: if the processes cannot share a batch evenly.
    """

    def __init__(
        self, objective: Objective, dataset: Dataset, settings: FitSettings, compile: bool | None, processes: Processes
    ) -> None:
        model = objective.model
        self.model, self.dataset, self.settings = model, dataset, settings
        self.objective, self.processes = objective, processes
        self.device = next(model.parameters()).device
        self.batches = Batches(objective.sizes, settings.batch_size, settings.seed, self.device)
        if self.batches.batch_size % self.processes.size:
            raise SettingError(
                f"a batch of {self.batches.batch_size} crystals cannot be shared out evenly among "
                f"{self.processes.size} processes; give a batch_size that is a multiple of their number"
            )
        # Every n-th of the crystals, which are sorted by size: every share has small and large ones.
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
        groups = parameter_groups(model, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True, capturable=on_gpu)
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
        """Compute the weighted total, and then every term unweighted."""
        names, weights = self.objective.terms, self.objective.weights
        terms = self.objective.losses(index, self.mine, step, sites, most_images, self.settings.seed)
        weighted = torch.stack([weights[name] * terms[name] for name in names])
        return torch.cat([weighted.sum()[None], torch.stack([terms[name] for name in names])])

    def _update(self, index: Int[Tensor, " crystals"], sites: int, most_images: int) -> tuple[Tensor]:
        """Take one optimizer step, without waiting for the device."""
        with fast_matmul(self.device):
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
        # From the first step on whose loss is not finite no weight changes, however late the loop reads the flag. A
        # fused optimizer skips its step where `found_inf`, the attribute that torch.amp.GradScaler sets, is 1; torch
        # does not document it, and tests/training/test_found_inf.py checks that it still holds.
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
        """Take one step on one batch and return its losses: the weighted total, then every term unweighted."""
        if batch.sites not in self.graphs:
            most_images = self.objective.images_for(batch.sites)
            update = lambda index: self._update(index, batch.sites, most_images)  # noqa: E731
            self.graphs[batch.sites] = Graphed(update, self.device)
        return self.graphs[batch.sites](batch.index)[0]

    def watch(self) -> None:
        """Run `check` a few steps late on a GPU: the flag is copied and read once the copy is done, without waiting."""
        if self.copied is None:
            self.check()
            return
        bad = False
        if self.copied.query():
            bad = int(self.seen) >= 0
            self.seen.copy_(self.bad_step, non_blocking=True)
            self.copied.record()
        # One process may know earlier than another, but all must leave at the same step.
        if self.processes.any(bad):
            self.check()

    def check(self) -> None:
        """Raise an error if any step so far had a loss or a gradient that is not finite (waits for the device).

        Raises:
            NonFiniteLossError: naming the step and its crystals.
        """
        bad = int(self.bad_step)
        if bad >= 0:
            index = self.batches[bad].index.tolist()
            names = [self.dataset.ids[i] for i in index]
            more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
            raise NonFiniteLossError(
                f"the loss or its gradient is not finite at step {bad + 1}; the weights are those before it. "
                f"Its crystals: {', '.join(names[:NAMED_AT_MOST])}{more}. "
                "Inspect them, or train with a smaller lr; an earlier checkpoint is unchanged"
            )

    def averaged(self) -> Trainable:
        """Copy the model, with the moving average of its weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, average in zip(self.names, self.average, strict=True):
                model.get_parameter(name).copy_(average)
        return model.eval().requires_grad_(False)

    def save(self, path: str | Path) -> Path:
        """Write the state to resume from; arguments and errors as for `write_training_state`."""
        self.check()
        tensors = {f"average.{k}": v for k, v in zip(self.names, self.average, strict=True)}
        for name, p in zip(self.names, self.params, strict=True):
            for key, value in self.optimizer.state[p].items():
                tensors[f"adam.{key}.{name}"] = value
        data = {"name": self.dataset.name, "split": self.dataset.split, "crystals": len(self.dataset)}
        fit = {**dataclasses.asdict(self.settings), "weights": dict(self.objective.weights)}
        return write_training_state(path, TrainingState(self.model, tensors, fit, int(self.step), data))

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Set optimizer, averaged weights and step counter to those of a saved state (the model has its weights)."""
        self.step.fill_(step)
        for name, p, average in zip(self.names, self.params, self.average, strict=True):
            average.copy_(tensors[f"average.{name}"])
            state = {k: tensors[f"adam.{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            on_device = {k: v.to(self.device).clone() for k, v in state.items()}
            self.optimizer.state[p] = on_device
