"""Values of the flags that several commands share: data set, device, processes, prior and schedule."""

from __future__ import annotations

import argparse
import contextlib

import torch

from cdvae_lab import datasets
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.models.latent_prior import LatentPrior, StandardNormal
from cdvae_lab.runtime.distributed import Processes, launched
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import SamplerSettings


def read_data(
    args: argparse.Namespace,
    name: str,
    split: str | None = None,
    limit: int | None = None,
    processes: Processes | None = None,
) -> Dataset:
    """Read the data set that the flags of `add_data` describe, or another split of it.

    Of several processes on a machine the first downloads and parses, and the others read its cache.

    Args:
        split: the part to read instead of that of `--split`.
        limit: largest number of crystals, instead of that of `--limit`.

    Raises:
        DatasetError: if the data cannot be read, or lack the part that `--split` or `split` asks for.
        SettingError: for flags out of range.
    """
    fabric = None if processes is None else processes.fabric
    prints = processes is None or processes.first
    with contextlib.nullcontext() if fabric is None else fabric.rank_zero_first(local=True):
        if args.split == datasets.JOINED:
            if name != "carbon_24":
                raise SettingError(f"--split {datasets.JOINED}: only carbon_24 has it; give train, val or test")
            if args.label is not None:
                raise SettingError(f"--label: --split {datasets.JOINED} has its own label; leave it out")
            both = datasets.carbon_24_protocol(folder=args.folder, cache=args.cache, progress=prints)
            chosen = both[1 if split == "val" else 0]
            return chosen[: limit or args.limit or len(chosen)]
        return datasets.load(
            name,
            split or args.split or datasets.split_of(name, args.default_split),
            folder=args.folder,
            label=args.label,
            cache=args.cache,
            progress=prints,
            limit=limit or args.limit,
        )


def split(args: argparse.Namespace) -> str:
    """Return the part of the data that the flags name, or the command's default."""
    return args.split or args.default_split


def device(args: argparse.Namespace, processes: Processes | None = None) -> torch.device:
    """Return the device that `--device` names, or that of this process among several.

    Raises:
        SettingError: if this machine has no such device.
    """
    if processes is not None and processes.fabric is not None:
        return processes.fabric.device
    if args.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(args.device)
    except RuntimeError as error:
        raise SettingError(f"--device {args.device}: no such kind of device; give cpu or cuda") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise SettingError(f"--device {args.device}: this machine has {torch.cuda.device_count()} GPUs; give cpu")
    return chosen


def processes(args: argparse.Namespace) -> contextlib.AbstractContextManager[Processes]:
    """Start the processes that `--devices` and `--nodes` ask for (`runtime.distributed.launched`)."""
    return launched(device(args), args.devices, args.nodes)


def prior(args: argparse.Namespace, model: CDVAE) -> tuple[LatentPrior, str | None]:
    """Return the prior that `--prior` names, and its fingerprint (None for N(0, I)).

    Raises:
        SettingError: if a learned prior is asked for and the model has none.
    """
    if args.prior == "learned" and model.prior is None:
        raise SettingError(
            f"{args.model}: has no learned prior; fit one with `cdvae-lab prior`, or give --prior normal"
        )
    if args.prior == "normal" or model.prior is None:
        return StandardNormal(model.config.latent_dim, model.lattice_mean.dtype), None
    return model.prior, fingerprint(model.prior)


def schedule(args: argparse.Namespace, model: CDVAE) -> Schedule:
    """Return the schedule that the flags of `add_sampler` describe.

    Raises:
        SettingError: for settings out of range.
    """
    if args.batch_size < 1 or args.seed < 0:
        raise SettingError(
            f"--batch-size must be at least 1 and --seed 0 or more, not {args.batch_size} and {args.seed}"
        )
    settings = {name: getattr(args, name) for name in SamplerSettings.__annotations__ if hasattr(args, name)}
    made = choose_schedule(model, args.sampler, **settings)
    return made.without_last() if args.without_last else made
