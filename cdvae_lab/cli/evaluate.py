"""`cdvae-lab evaluate`: the report card of any crystals, thin over `evaluate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cdvae_lab import datasets
from cdvae_lab.cli import arguments, reconstruct
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.evaluation.card import ReportCard
from cdvae_lab.evaluation.run import evaluate
from cdvae_lab.evaluation.sources import CrystalSource, read_source
from cdvae_lab.io import assets
from cdvae_lab.metrics.cutoffs import Cutoffs
from cdvae_lab.metrics.success_rates import Predictor
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load, load_property_model, read_checkpoint
from cdvae_lab.models.latents import posterior_of
from cdvae_lab.pages.evaluation_report import write_evaluation
from cdvae_lab.sampling.frames import last, progress
from cdvae_lab.sampling.trajectory import Trajectory


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab evaluate` with parsed flags and return the exit code."""
    if args.jobs == 0:
        raise SettingError("--jobs must be 1 or more, or -1 for all cores")
    card = last(progress(_cards(args)))
    page = write_evaluation(card, args.out)
    print((args.out / "report.json").read_text(encoding="utf-8") if args.json else card.table(), end="")
    print(f"{page}: the same with figures; {args.out / 'crystals.csv'}: crystal by crystal", file=sys.stderr)
    return 0


def _cards(args: argparse.Namespace) -> Iterator[ReportCard]:
    """Check what the task takes, read its files and start `evaluate`."""
    if args.predictor is not None and args.task not in ("generation", "optimization"):
        raise SettingError(f"--predictor: {args.task} predicts no property; leave it out")
    if len(args.crystals) > 1 and args.task != "optimization":
        raise SettingError(f"--crystals: {len(args.crystals)} paths; {args.task} takes one")
    common: dict[str, Any] = {"jobs": args.jobs, "rules": args.rules}
    if args.cache is not None:
        common["cache"] = args.cache / "evaluation"
    if args.task == "validity":
        if args.reference is not None:
            raise SettingError("--reference: validity compares with nothing; leave it out")
        return evaluate(_source(args.crystals[0], args.jobs), task="validity", **common)
    if args.reference is None:
        raise SettingError(f"--reference: {args.task} needs a data set to compare with, such as perov_5")
    if args.predictor is not None:
        common["predictor"], common["predictor_name"] = predictor_named(args.predictor)
    if args.task == "optimization":
        return evaluate(_decodings(args), args.reference, task="optimization", thresholds=args.thresholds, **common)
    if args.task == "reconstruction":
        source, reference = _reconstruction(args, args.reference)
        return evaluate(source, reference, task="reconstruction", **common)
    return evaluate(
        _source(args.crystals[0], args.jobs),
        arguments.read_data(args, args.reference),
        train=_training_set(args, args.reference),
        novelty=args.novelty,
        samples=args.samples,
        seed=args.seed,
        cutoffs=None if args.cutoffs is None else Cutoffs(*args.cutoffs),
        **common,
    )


def _reconstruction(args: argparse.Namespace, name: str) -> tuple[CrystalSource, Dataset]:
    """Read reconstructed crystals and the true ones, from what `cdvae-lab reconstruct` saved or from any files."""
    if not _is_reconstruction(args.crystals[0]):
        return _source(args.crystals[0], args.jobs), arguments.read_data(args, name)
    truth, predicted, about = reconstruct.read_store(args.crystals[0])
    if name in datasets.PUBLIC and about["data"] != f"{name} ({arguments.split(args)})":
        raise SettingError(
            f"{args.crystals[0]}: holds reconstructions of {about['data']}, not of {name} ({arguments.split(args)})"
        )
    ids = tuple(about["ids"][: len(predicted)])
    nothing = torch.full((len(ids),), torch.nan)
    pairs = Dataset(name, arguments.split(args), truth[: len(ids)], ids, nothing, "", "", about["data"], "")
    return CrystalSource(predicted, ids, (None,) * len(ids)), pairs


def _training_set(args: argparse.Namespace, name: str) -> Dataset | None:
    """Read the crystals that novelty is measured against; None without novelty or a training set."""
    if not args.novelty or (args.train is None and name not in datasets.PUBLIC):
        return None
    folder = args.folder if args.train in (None, name) else None
    return datasets.load(args.train or name, folder=folder, cache=args.cache)


def predictor_named(name: str) -> tuple[Predictor, str]:
    """Load a predictor of the property, and describe it: a property model, or else a CDVAE's own property head.

    Raises:
        SettingError: if nothing of that name is bundled.
        CheckpointError: for a file that is neither.
    """
    path = Path(name)
    if path.is_file():
        kind, _, _ = read_checkpoint(path, "property model", "model", "training state")
        if kind == "property model":
            return load_property_model(path), f"the property model {path.name}"
    elif f"{name}_property.safetensors" in assets.names("*.safetensors"):
        return load_property_model(name), f"the property model of {name}"
    return property_head(load(name)), f"the property head of {name}"


def property_head(model: CDVAE) -> Predictor:
    """Create a predictor: the property that a model's own head predicts from the posterior mean of a crystal."""

    @torch.no_grad()
    def predictor(crystals: Crystals) -> torch.Tensor:
        return model.predict_property(posterior_of(model, crystals).mu)

    return predictor


def _is_reconstruction(path: Path) -> bool:
    """True for a .safetensors file, which for reconstruction is one of `cdvae-lab reconstruct`."""
    return path.suffix == ".safetensors"


def _source(path: Path, jobs: int) -> CrystalSource:
    if path.suffix == ".safetensors":
        crystals = Trajectory.load(path)[-1].crystals.to("cpu")
        return CrystalSource(crystals, tuple(map(str, range(len(crystals)))), (None,) * len(crystals))
    return read_source(path, jobs=jobs)


def _decodings(args: argparse.Namespace) -> list[Crystals]:
    parts = [_source(path, args.jobs).crystals for path in args.crystals]
    if args.starts is None:
        return parts
    if len(parts) > 1 or args.starts < 1 or len(parts[0]) % args.starts:
        raise SettingError(
            f"--starts {args.starts}: takes one PATH whose number of crystals it divides; there are "
            f"{', '.join(str(len(part)) for part in parts)}"
        )
    return [parts[0][i : i + args.starts] for i in range(0, len(parts[0]), args.starts)]
