"""`cdvae-lab optimize`: search the latent space for a better property, and decode crystals along the way."""

from __future__ import annotations

import argparse
import sys

from torch import Tensor

from cdvae_lab.cli import arguments
from cdvae_lab.cli.flags.optimize import DEFAULTS, GRADIENT, GUIDED
from cdvae_lab.cli.generate import claim_folder, coefficients
from cdvae_lab.cli.reconstruct import read_crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.guided import optimize_guided
from cdvae_lab.explore.optimization import LatentStep, optimize
from cdvae_lab.explore.saved_steps import load_steps, save_steps
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.models.latent_prior import LatentPrior
from cdvae_lab.models.latents import latents_of
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.sampling.decoding import decode
from cdvae_lab.sampling.frames import last, progress


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab optimize` with parsed flags and return the exit code."""
    check(args)
    goal = target(args.target)
    model = load(args.model, arguments.device(args))
    schedule = arguments.schedule(args, model)
    prior, prior_id = arguments.prior(args, model)
    crystals, ids, data = read_crystals(args, model, Processes())
    # Files were refused if they had unseen elements; of a whole data set some crystals may.
    z = latents_of(model, crystals, allow_unseen=True)
    claim = {
        "model": fingerprint(model),
        "data": data,
        "ids": ids,
        "sampler": coefficients(schedule),
        "prior": prior_id,
    }
    claim |= {key: getattr(args, key) for key in ("seed", "target", *(GRADIENT if args.guidance is None else GUIDED))}
    if args.guidance is None:
        claim_folder(args.out, claim)
        stops = along_the_gradient(args, model, z, goal, prior, prior_id)
    else:
        settings = {key: getattr(args, key) for key in GUIDED}
        steps = optimize_guided(model, z, target=goal, prior=prior, seed=args.seed, **settings)
        claim_folder(args.out, claim)
        # Not stored: they take seconds, and decoding takes hours.
        stops = [step for step in progress(steps) if step.round_finished]
    decoding = {"seed": args.seed, "sampler": schedule, "batch_size": args.batch_size, "compile": bool(args.compile)}
    for number, stop in enumerate(stops):
        store = args.out / f"decoded_{number:03d}.npz"
        if not store.is_file():
            last(decode(model, stop.z, max_attempts=1, **decoding)).crystals.to("cpu").save_npz(store)
        mean = float(stop.prediction.mean())
        print(f"step {stop.step}: predicted {mean:.4f} on average; {store}", file=sys.stderr)
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse flags of the other kind of search, and a number of decodings that is out of range."""
    of_the_other = GUIDED if args.guidance is None else GRADIENT
    if wrong := [key for key in of_the_other if getattr(args, key) != DEFAULTS[key]]:
        flag = "--" + wrong[0].replace("_", "-")
        said = (
            "belongs to guided diffusion: give --guidance too"
            if args.guidance is None
            else "does nothing with --guidance"
        )
        raise SettingError(f"{flag} {said}; or leave it out")
    if args.guidance is None and not 2 <= args.decodings <= args.search_steps + 1:
        raise SettingError(f"--decodings must be from 2 to one more than --search-steps, not {args.decodings}")


def along_the_gradient(
    args: argparse.Namespace,
    model: CDVAE,
    z: Tensor,
    goal: str | float,
    prior: LatentPrior | None,
    prior_id: str | None,
) -> list[LatentStep]:
    """Load the steps to decode from the folder, or search along the gradient and save them."""
    path = args.out / "steps.safetensors"
    if path.is_file():
        return load_steps(path, model, None if prior_id is None else prior)
    wanted = decoded_at(args.search_steps, args.decodings)
    search = {"steps": args.search_steps, "lr": args.lr, "prior_weight": args.prior_weight, "prior": prior}
    stops = [step for step in progress(optimize(model, z, target=goal, **search)) if step.step in wanted]
    save_steps(stops, path, model)
    return stops


def target(text: str) -> str | float:
    """Parse a target: min, max or a number. Raises SettingError for anything else."""
    if text in ("min", "max"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise SettingError(f"--target {text}: give min, max or a number") from error


def decoded_at(steps: int, decodings: int) -> set[int]:
    """Choose the steps at which crystals are decoded: the first, the last, and evenly spaced ones, as in the paper."""
    every = max((steps - 1) // max(decodings - 2, 1), 1)
    return {0, steps} | {every * i for i in range(1, decodings - 1)}
