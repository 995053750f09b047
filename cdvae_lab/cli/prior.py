"""`cdvae-lab prior`: fit the learned prior over z to a trained model's latents."""

from __future__ import annotations

import argparse
import itertools
import sys

from cdvae_lab.cli import arguments
from cdvae_lab.cli.flags import shared
from cdvae_lab.errors import SettingError
from cdvae_lab.models.checkpoints import load
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.sampling.frames import last, progress
from cdvae_lab.training.prior import fit_prior


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab prior` with parsed flags and return the exit code."""
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
        config=DiffusionPriorConfig(model.config.latent_dim, **shared.given(args, DiffusionPriorConfig)),
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
