"""`cdvae-lab optimize`: search the latent space for a better property, and decode crystals along the way."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cdvae_lab.cdvae import fingerprint, load
from cdvae_lab.cli import arguments
from cdvae_lab.cli.generate import claim_folder, coefficients
from cdvae_lab.cli.reconstruct import read_crystals
from cdvae_lab.cycle import decode
from cdvae_lab.errors import SettingError
from cdvae_lab.optimization import load_steps, optimize, save_steps
from cdvae_lab.parallel import Processes
from cdvae_lab.trajectory import last, progress


def add(commands: Any) -> None:
    """The parser of `optimize`."""
    parser = arguments.command(
        commands, "optimize", run, lambda args: f"what was decoded is in {args.out}; the same command goes on"
    )
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=(
        "where to start: crystal files (.cif, POSCAR, .xyz), or one data set, as for `cdvae-lab reconstruct`"
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=(
        "for the latents (steps.safetensors) and the crystals of each decoding (.npz), as `cdvae-lab evaluate "
        "optimization --starts` wants them"
    ))  # fmt: skip
    group = parser.add_argument_group("search")
    group.add_argument("--target", default="min", metavar="T", help="min (default), max, or a value to reach")
    group.add_argument("--search-steps", type=int, default=5000, metavar="N", help="of Adam (default %(default)s)")
    group.add_argument("--lr", type=float, default=1e-3, metavar="X", help="of Adam (default %(default)s)")
    group.add_argument("--prior-weight", type=float, default=0.0, metavar="X", help=(
        "pull towards the prior: a nat's worth in standard deviations of the property (default 0, as in the paper)"
    ))  # fmt: skip
    arguments.add_prior(group, "whose pull")
    group.add_argument("--decodings", type=int, default=11, metavar="N", help=(
        "how often crystals are decoded, the start and the end included (default %(default)s, as in the paper)"
    ))  # fmt: skip
    arguments.add_data(parser, "test")
    arguments.add_sampler(parser)
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Climb a predicted property in the latent space, from given crystals, and decode crystals along the way.

    What is there already is not done again, so that the same command goes on after an interruption.
    """
    if not 2 <= args.decodings <= args.search_steps + 1:
        raise SettingError(f"--decodings must be from 2 to one more than --search-steps, not {args.decodings}")
    goal = target(args.target)
    model = load(args.model, arguments.device(args))
    schedule = arguments.schedule(args, model)
    prior, pulls = arguments.prior(args, model)
    crystals, ids, data = read_crystals(args, model, Processes())
    claim = {"model": fingerprint(model), "data": data, "ids": ids, "sampler": coefficients(schedule), "prior": pulls}
    claim |= {key: getattr(args, key) for key in ("seed", "target", "search_steps", "lr", "prior_weight", "decodings")}
    claim_folder(args.out, claim)
    path = args.out / "steps.safetensors"
    if path.is_file():
        stops = load_steps(path, model, None if pulls is None else prior)
    else:
        wanted = decoded_at(args.search_steps, args.decodings)
        search = {"steps": args.search_steps, "lr": args.lr, "prior_weight": args.prior_weight, "prior": prior}
        steps = progress(optimize(model, crystals, target=goal, **search))
        stops = [step for step in steps if step.step in wanted]
        save_steps(stops, path, model)
    decoding = {"seed": args.seed, "sampler": schedule, "batch_size": args.batch_size, "fuse": bool(args.fuse)}
    for number, stop in enumerate(stops):
        store = args.out / f"decoded_{number:03d}.npz"
        if not store.is_file():
            last(decode(model, stop.z, tries=1, **decoding)).crystals.to("cpu").save_npz(store)
        mean = float(stop.prediction.mean())
        print(f"step {stop.step}: predicted {mean:.4f} on average; {store}", file=sys.stderr)
    return 0


def target(text: str) -> str | float:
    """min, max, or a number. Raises SettingError for anything else."""
    if text in ("min", "max"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise SettingError(f"--target {text}: give min, max or a number") from error


def decoded_at(steps: int, decodings: int) -> set[int]:
    """The steps at which crystals are decoded: the first, the last, and equal distances between, as the paper does."""
    every = max((steps - 1) // max(decodings - 2, 1), 1)
    return {0, steps} | {every * i for i in range(1, decodings - 1)}
