"""`cdvae-lab prior`: fit the learned prior over z to a trained model's latents."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from cdvae_lab.cli import arguments
from cdvae_lab.cli.command import command
from cdvae_lab.errors import SettingError
from cdvae_lab.models.checkpoints import load
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.sampling.frames import last, progress
from cdvae_lab.training.prior import fit_prior

PRIOR = {"hidden_dim": "width of its network", "blocks": "residual blocks of its network", "posterior_share": (
    "share of the posteriors' standard deviation in the latents that it learns: 1 for samples, less for near the means"
)}  # fmt: skip


def add(commands: Any) -> None:
    """Add the parser of `prior`."""
    parser = command(commands, "prior", run, lambda args: "nothing was written")
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("data", metavar="DATA", help="the data that it was trained on, as for `cdvae-lab train`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model with its prior")
    parser.add_argument("--half", action="store_true", help="store weights as float16, half the size")
    parser.add_argument("--steps", type=int, default=10000, metavar="N", help="optimizer steps (default %(default)s)")
    parser.add_argument("--composition-steps", type=int, default=0, metavar="N", help=(
        "first fit a composition model for this many steps; the prior then draws a composition and z given it: for "
        "data of many compositions (default 0: none)"
    ))  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, default=1024, metavar="N", help="latents a step (default %(default)s)"
    )
    parser.add_argument(
        "--lr", type=float, default=1e-3, metavar="X", help="highest learning rate (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default 0)")
    arguments.add_settings(parser.add_argument_group("network"), DiffusionPriorConfig, PRIOR)
    arguments.add_data(parser, "train")
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Fit a learned prior to a model's latents, and save both as one model.

    The prior is a small diffusion model over z, fitted in a minute or two on a GPU. MODEL itself is not changed.
    """
    if args.composition_steps < 0:
        raise SettingError(f"--composition-steps must be 0 or more, not {args.composition_steps}")
    if args.out.exists():
        raise SettingError(f"{args.out}: exists; choose another --out")
    model = load(args.model, arguments.device(args))
    dataset = arguments.read_data(args, args.data)
    print(dataset.summary(), file=sys.stderr)
    steps = fit_prior(
        model,
        dataset,
        steps=args.steps,
        composition_steps=args.composition_steps,
        config=DiffusionPriorConfig(model.config.latent_dim, **arguments.given(args, DiffusionPriorConfig)),
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
    )
    if args.composition_steps:
        compositions = last(progress(itertools.islice(steps, args.composition_steps)))
        print(f"compositions: {compositions.loss:.3f} nats each (negative log-likelihood in training)", file=sys.stderr)
    done = last(progress(steps))
    model.save(args.out, half=args.half)
    print(f"done: loss {done.loss:.3f} (1: no better than a Gaussian); saved in {args.out}", file=sys.stderr)
    return 0
