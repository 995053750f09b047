"""`cdvae-lab property`: train a property model, the independent predictor for generated crystals."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from cdvae_lab import datasets
from cdvae_lab.cli import arguments
from cdvae_lab.cli.flags import shared
from cdvae_lab.cli.flags.property_model import state_of
from cdvae_lab.cli.train import begin, check_run, describe, stop_request
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.configs import PropertyModelConfig
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.sampling.frames import progress
from cdvae_lab.training.settings import FitSettings


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab property` with parsed flags and return the exit code."""
    state = state_of(args.out)
    if args.out.exists():
        raise SettingError(f"{args.out}: exists; choose another --out")
    if state.exists() and not args.resume:
        raise SettingError(f"{state}: the state of a stopped run; resume it with --resume, or remove it")
    resuming = state.exists()
    check_run(args, state if resuming else None, [*shared.given(args, PropertyModelConfig)])
    with arguments.processes(args) as processes:
        return _train(args, processes, resuming)


def _train(args: argparse.Namespace, processes: Processes, resuming: bool) -> int:
    state = state_of(args.out)
    dataset = arguments.read_data(args, args.data, processes=processes)
    if processes.first:
        print(dataset.summary(), file=sys.stderr)
    validation = _validation(args, processes)
    trained: PropertyModel | Path = state
    if not resuming:
        config = shared.given(args, PropertyModelConfig)
        trained = PropertyModel.for_dataset(dataset, seed=getattr(args, "seed", FitSettings.seed), **config)
        trained.metadata = describe(dataset)
    training = begin(args, processes, trained, dataset, state)
    step = None
    with stop_request() as stop:
        for step in progress(training) if processes.first else training:
            if processes.any(stop.asked) and step.step < step.num_steps:
                if not processes.first:
                    return 0
                step.save(state)
                kept = f"{step.step:,} of {step.num_steps:,} steps are saved in {state}"
                print(f"stopped: {kept}; the same command with --resume resumes", file=sys.stderr)
                return 130
    if step is None:
        raise SettingError(f"{state}: all of its steps are done; give more --steps, or remove it")
    if not processes.first:
        return 0
    model: PropertyModel = step.averaged()
    said = ""
    if validation is not None:
        error, labels = mean_absolute_error(model, validation)
        model.metadata["validation"] = {"mean_absolute_error": error, "labels": labels}
        unit = f" {dataset.label_unit}" if dataset.label_unit else ""
        said = f"mean absolute error {error:.4f}{unit} on {labels:,} validation labels; "
    model.save(args.out, half=args.half)
    state.unlink()
    print(f"done: {said}saved in {args.out}", file=sys.stderr)
    return 0


def mean_absolute_error(model: PropertyModel, dataset: Dataset) -> tuple[float, int]:
    """Mean absolute error of the property, in its own unit, over the labeled crystals, and their number."""
    wrong = (model(dataset.crystals) - dataset.labels).abs()
    wrong = wrong[torch.isfinite(dataset.labels)]
    return float(wrong.mean()), len(wrong)


def _validation(args: argparse.Namespace, processes: Processes) -> Dataset | None:
    if args.split == "val" or args.data not in (*datasets.PUBLIC, datasets.SYNTHETIC):
        return None
    return arguments.read_data(args, args.data, "val", processes=processes)
