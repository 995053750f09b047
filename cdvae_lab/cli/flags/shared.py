"""Flags that several commands share, and flags made from the fields of a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdvae_lab.datasets.catalog import JOINED, SPLITS
from cdvae_lab.sampling.settings import DEFAULT, LEVELS, NAMED, SAMPLERS, TYPES


def add_settings(parser: Any, cls: type, texts: Mapping[str, str], prefix: str = "") -> None:
    """Add a flag for every field of a dataclass that has a help text; flags that are not given set nothing."""
    for field in dataclasses.fields(cls):
        if field.name not in texts:
            continue
        default = "" if field.default is dataclasses.MISSING else f" (default {field.default})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": texts[field.name] + default}
        if isinstance(field.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = float if isinstance(field.default, float) else int
            options["metavar"] = "X" if options["type"] is float else "N"
        flag = f"{prefix}{field.name}"
        parser.add_argument("--" + flag.replace("_", "-"), dest=flag, **options)


def given(args: argparse.Namespace, cls: type, prefix: str = "") -> dict[str, Any]:
    """Collect the fields of a dataclass for which a flag was given."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: getattr(args, prefix + name) for name in names if hasattr(args, prefix + name)}


def add_data(parser: argparse.ArgumentParser, split: str) -> None:
    """Add the flags for the source of a data set.

    Args:
        split: the part that is read if `--split` is not given, of data that have parts; `args.split` is None then.
    """
    group = parser.add_argument_group("data")
    group.add_argument("--folder", type=Path, help="where DATA/<split>.csv or .csv.gz lies; left out: downloaded")
    group.add_argument("--split", choices=(*SPLITS, JOINED), help=(
        f"part of the data (default {split}, or all of data without parts); {JOINED}: of carbon_24 train with most of "
        "val, on which its bundled model was trained"
    ))  # fmt: skip
    parser.set_defaults(default_split=split)
    group.add_argument("--label", metavar="COLUMN", help="column with the label (default: the set's own)")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N crystals (default: all)")
    group.add_argument("--cache", type=Path, metavar="FOLDER", help="for parsed files (default: the user's cache)")


def add_device(parser: Any) -> None:
    """Add the flags that choose the device and compiling."""
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile with torch.compile: slower to start, for long runs (default: training on a GPU only)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the number of devices and machines."""
    parser.add_argument("--devices", type=int, default=1, metavar="N", help=(
        "GPUs of a machine that compute together, with --device cpu processes (default 1)"
    ))  # fmt: skip
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help=(
        "machines, where SLURM or torchrun starts this command for every device of each (default 1)"
    ))  # fmt: skip


def add_prior(parser: Any, what: str) -> None:
    """Add the flag that chooses a prior over z.

    Args:
        what: the prior's use, for the help text.
    """
    parser.add_argument("--prior", choices=("learned", "normal"), help=(
        f"{what}: the model's learned prior, or N(0, I) (default: learned, where the model has one)"
    ))  # fmt: skip


def add_sampler(parser: argparse.ArgumentParser) -> None:
    """Add the flags that make a `Schedule`."""
    group = parser.add_argument_group("sampler")
    named = [
        f"{name} is {sampler} with {' and '.join(f'{key} {value}' for key, value in fixed.items())}"
        for name, (sampler, fixed) in NAMED.items()
    ]
    group.add_argument("--sampler", choices=(*SAMPLERS, *NAMED), default=DEFAULT, help=(
        "renoising (default), ancestral, langevin as in the paper, or probability_flow, which is deterministic; or by "
        "name: "
        + "; ".join(named).replace("_", " ")
    ))  # fmt: skip
    group.add_argument("--steps", type=int, default=argparse.SUPPRESS, metavar="N", help=(
        "calls of the network, for renoising and ancestral (default 200) and probability_flow (default 100)"
    ))  # fmt: skip
    group.add_argument("--levels", choices=LEVELS, default=argparse.SUPPRESS, help=(
        "spacing of the noise levels of renoising: dense (default), most of them between 1 and 0.1 Å, or geometric"
    ))  # fmt: skip
    group.add_argument("--steps-per-level", type=int, default=argparse.SUPPRESS, metavar="N", help=(
        "Langevin steps at each noise level (default 100)"
    ))  # fmt: skip
    group.add_argument("--step-size", type=float, default=argparse.SUPPRESS, metavar="X", help=(
        "of Langevin dynamics at the last level, Å^2 (default 1e-4)"
    ))  # fmt: skip
    group.add_argument("--types", choices=TYPES, default=argparse.SUPPRESS, help=(
        "elements at every step: assigned (default), the composition predicted from z, assigned to the sites again at "
        "every step; argmax, the most likely at every site, as in the paper"
    ))  # fmt: skip
    group.add_argument("--without-last", action="store_true", help="leave out the last, noise-free step")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default 0)")
    group.add_argument("--batch-size", type=int, default=64, metavar="N", help=(
        "crystals at a time (default 64; on a GPU 1024 is faster). Rounding depends on it, noise does not. Samplers "
        "amplify it, and single crystals then differ; ancestral does so little"
    ))  # fmt: skip
