"""`cdvae-lab train`: `fit` with a log, validation, and a state to resume from."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cdvae_lab
from cdvae_lab import datasets
from cdvae_lab.cli import arguments
from cdvae_lab.cli.flags import shared
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import read_training_state
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.sampling.frames import progress
from cdvae_lab.training.loop import TrainingStep, fit
from cdvae_lab.training.settings import FitSettings, LossWeights
from cdvae_lab.training.validation import validation_losses


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab train` with parsed flags and return the exit code."""
    weights = shared.given(args, LossWeights, "weight_")
    config = shared.given(args, CDVAEConfig)
    resuming = args.resume and args.out.is_file()
    if args.out.exists() and not args.resume:
        raise SettingError(f"{args.out}: exists; resume it with --resume, or choose another --out")
    check_run(args, args.out if resuming else None, [*config, *(f"weight_{w}" for w in weights)])
    if args.log_every < 1 or args.validate_every < 0 or args.validate_limit < 1:
        raise SettingError("--log-every and --validate-limit must be at least 1, --validate-every 0 or more")
    with arguments.processes(args) as processes:
        return _train(args, processes, resuming)


def check_run(args: argparse.Namespace, resumed: Path | None, given: list[str]) -> None:
    """Check the settings of a run before its data are read or a model is made.

    Args:
        resumed: the state that it resumes from; None for a new run.
        given: names of the given flags that only a new run takes.

    Raises:
        SettingError: for a run without a length, settings out of range, or settings that a resumed run cannot change.
    """
    settings = shared.given(args, FitSettings)
    if resumed is not None:
        if given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise SettingError(f"{resumed}: a resumed run keeps the settings that it began with; leave out {flags}")
        return
    steps = settings.pop("steps", None)
    if (steps is None) == (args.epochs is None):
        raise SettingError("give the length of the run, either --steps or --epochs")
    FitSettings(steps=steps or 1, **settings)


def begin(
    args: argparse.Namespace, processes: Processes, model: Any, dataset: Dataset, checkpoint: Path, **settings: Any
) -> Iterator[TrainingStep]:
    """Start `fit` with the settings that a training command's flags give."""
    return fit(
        model,
        dataset,
        epochs=args.epochs,
        checkpoint=checkpoint,
        checkpoint_every=args.checkpoint_every,
        compile=args.compile,
        device=arguments.device(args, processes),
        fabric=processes.fabric,
        **shared.given(args, FitSettings),
        **settings,
    )


def _train(args: argparse.Namespace, processes: Processes, resuming: bool) -> int:
    weights = LossWeights(**shared.given(args, LossWeights, "weight_"))
    dataset = arguments.read_data(args, args.data, processes=processes)
    if processes.first:
        print(dataset.summary(), file=sys.stderr)
    validation = _validation(args, dataset, processes)

    model: CDVAE | Path = args.out
    if resuming:
        state = read_training_state(args.out)
        now = {"name": dataset.name, "split": dataset.split, "crystals": len(dataset)}
        if state.data != now:
            raise SettingError(f"{args.out}: was trained on {state.data}, not on {now}; give the same data again")
        weights = LossWeights(**state.fit["weights"])
    else:
        config = shared.given(args, CDVAEConfig)
        model = CDVAE.for_dataset(dataset, seed=getattr(args, "seed", FitSettings.seed), **config)
        model.metadata = describe(dataset)
    training = begin(args, processes, model, dataset, args.out, weights=weights)
    return _watch(args, processes, training, validation, weights)


def describe(dataset: Dataset) -> dict[str, Any]:
    """The description of the training data that a checkpoint carries."""
    data = {name: getattr(dataset, name) for name in ("name", "split", "source", "license")}
    data |= {"crystals": len(dataset), "property": dataset.label_name, "property_unit": dataset.label_unit}
    data["labels"] = int(torch.isfinite(dataset.labels).sum())
    return {"data": data, "version": cdvae_lab.__version__}


def _validation(args: argparse.Namespace, dataset: Dataset, processes: Processes) -> Dataset | None:
    named = args.data in datasets.PUBLIC or args.data == datasets.SYNTHETIC
    if not args.validate_every or args.validate_on == "none" or (args.validate_on is None and not named):
        return None
    if dataset.split == "val":
        raise SettingError("--validate-on val: that is the part to train on; give --validate-on none")
    return arguments.read_data(args, args.data, "val", args.validate_limit, processes)


def best_of(state: Path) -> Path:
    """The file of the averaged weights that validate best, beside the state of their run."""
    return state.with_suffix(".best.safetensors")


def _watch(
    args: argparse.Namespace,
    processes: Processes,
    training: Iterator[TrainingStep],
    validation: Dataset | None,
    weights: LossWeights,
) -> int:
    if not processes.first:
        return _follow(processes, training)
    started, before, step = time.monotonic(), None, None
    log = Log(args.out.with_suffix(".jsonl"))
    with stop_request() as stop:
        for step in progress(training):
            metadata = step.model.metadata
            if before is None:
                before = metadata.get("seconds", 0.0)
                log.cut(step.step)
            over = args.time_limit is not None and time.monotonic() - started > args.time_limit
            ending = processes.any(over or stop.asked) or step.step == step.num_steps
            if step.step % args.log_every == 0 or ending:
                metadata["seconds"] = round(before + time.monotonic() - started, 1)
                row = {"step": step.step, "epoch": round(step.epoch, 4), "loss": step.loss, **step.terms}
                row |= {"lr": step.learning_rate, "crystals_per_second": round(step.crystals_per_second, 1)}
                log.add(row | {"seconds": metadata["seconds"]})
            if validation is not None and (step.step % args.validate_every == 0 or step.step == step.num_steps):
                averaged = step.averaged()
                losses = validation_losses(averaged, validation)
                total = sum(getattr(weights, name) * value for name, value in losses.items())
                if total < log.lowest("val_loss"):
                    averaged.save(best_of(args.out), steps=step.step)
                log.add({"step": step.step, "val_loss": total} | {f"val_{k}": value for k, value in losses.items()})
            if ending:
                step.save(args.out)
                break
    if step is None:
        print(f"{args.out}: all of its steps are done; give more --steps to resume", file=sys.stderr)
        return 0
    done = f"{step.step:,} of {step.num_steps:,} steps are saved in {args.out}"
    if step.step == step.num_steps:
        print(f"done: {done}", file=sys.stderr)
        return 0
    print(f"stopped: {done}; the same command with --resume resumes", file=sys.stderr)
    return 130 if stop.asked else 0


def _follow(processes: Processes, training: Iterator[TrainingStep]) -> int:
    """Take every step that process 0 takes; that one writes, validates and prints."""
    with stop_request() as stop:
        for _ in training:
            if processes.any(stop.asked):
                break
    return 0


@dataclass
class Stop:
    """Set once Ctrl-C or SIGTERM has asked the run to stop."""

    asked: bool = False


@contextlib.contextmanager
def stop_request() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request, so that no step is cut in half; a second one stops at once."""
    stop = Stop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Log:
    """A log of JSON lines, each written whole as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, step: int) -> None:
        """Remove the lines of an interrupted run from this step on: those steps are done again."""
        kept = []
        if step > 1 and self.path.is_file():
            # The last line is empty, or half a line of a killed run.
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
            kept = [line for line in lines if json.loads(line)["step"] < step]
        with atomic_path(self.path, "the log") as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def lowest(self, name: str) -> float:
        """The lowest value of a name in all lines; infinity where no line has it."""
        if not self.path.is_file():
            return math.inf
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return min((row[name] for row in rows if name in row), default=math.inf)

    def add(self, row: dict[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
