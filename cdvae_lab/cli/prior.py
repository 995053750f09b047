"""`cdvae-lab prior`: fit the learned prior over z to a trained model's latents."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cdvae_lab.cdvae import load
from cdvae_lab.cli import arguments
from cdvae_lab.errors import SettingError
from cdvae_lab.latent_prior import DiffusionPrior, DiffusionPriorConfig
from cdvae_lab.training import fit
from cdvae_lab.trajectory import last, progress

PRIOR = {"hidden_dim": "width of its network", "blocks": "of its network"}


def add(commands: Any) -> None:
    """The parser of `prior`."""
    parser = arguments.command(commands, "prior", run, lambda args: "nothing was written")
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("data", metavar="DATA", help="the data that it was trained on, as for `cdvae-lab train`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model with its prior")
    parser.add_argument("--half", action="store_true", help="store weights as float16, half the size")
    parser.add_argument("--steps", type=int, default=10000, metavar="N", help="optimiser steps (default %(default)s)")
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
    """Learn where the crystals of a data set lie in a model's latent space, so that new ones are drawn from there.

    A small diffusion model over z, fitted in a minute or so on a GPU. MODEL itself is not changed.
    """
    if args.out.exists():
        raise SettingError(f"{args.out}: is there already; choose another --out")
    device = arguments.device(args)
    model = load(args.model, device)
    config = DiffusionPriorConfig(model.config.latent_dim, **arguments.given(args, DiffusionPriorConfig))
    dataset = arguments.read_data(args, args.data)
    print(dataset.summary(), file=sys.stderr)
    prior = DiffusionPrior(config).to(device)
    settings = {"steps": args.steps, "batch_size": args.batch_size, "lr": args.lr, "seed": args.seed}
    done = last(progress(fit(prior, dataset, encoder=model, **settings)))
    model.prior = done.averaged()
    model.save(args.out, half=args.half)
    print(f"done: loss {done.loss:.3f} (1: no better than a Gaussian); kept in {args.out}", file=sys.stderr)
    return 0
