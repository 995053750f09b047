"""Flags of `cdvae-lab optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared
from cdvae_lab.explore.settings import NOISE_LEVEL, ROUNDS, STEPS

TEXT = """Optimize the predicted property of crystals in latent space; decode on the way.

Decodings that exist are not done again, so that the same command resumes after an interruption."""

DEFAULTS = {
    "search_steps": STEPS, "lr": 1e-3, "prior_weight": 0.0, "decodings": 11,
    "guidance": None, "noise_level": NOISE_LEVEL, "rounds": ROUNDS,
}  # fmt: skip
GRADIENT = ("search_steps", "lr", "prior_weight", "decodings")
GUIDED = ("guidance", "noise_level", "rounds")


def add(commands: Any) -> None:
    """Add the parser of `optimize`."""
    parser = command(
        commands,
        "optimize",
        later("optimize", TEXT),
        lambda args: f"the decoded crystals are in {args.out}; the same command resumes",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=(
        "where to start: crystal files (.cif, POSCAR, .xyz), or one data set, as for `cdvae-lab reconstruct`"
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=(
        "for the crystals of each decoding (.npz), as `cdvae-lab evaluate optimization --starts` wants them, and the "
        "latents along the gradient (steps.safetensors)"
    ))  # fmt: skip
    group = parser.add_argument_group("search")
    group.add_argument("--target", default="min", metavar="T", help="min (default), max, or a value to reach")
    group.add_argument(
        "--search-steps", type=int, default=DEFAULTS["search_steps"], metavar="N", help="of Adam (default %(default)s)"
    )
    group.add_argument("--lr", type=float, default=DEFAULTS["lr"], metavar="X", help="of Adam (default %(default)s)")
    group.add_argument("--prior-weight", type=float, default=DEFAULTS["prior_weight"], metavar="X", help=(
        "penalty for low log p(z): a nat's worth in standard deviations of the property (default 0, as in the paper)"
    ))  # fmt: skip
    shared.add_prior(group, "prior of the penalty")
    group.add_argument("--decodings", type=int, default=DEFAULTS["decodings"], metavar="N", help=(
        "how often crystals are decoded, the start and the end included (default %(default)s, as in the paper)"
    ))  # fmt: skip
    group = parser.add_argument_group("guided diffusion, in place of the search along the gradient")
    group.add_argument("--guidance", type=float, metavar="X", help=(
        "guidance of the learned prior by the predicted property: nats of log p(z) that a standard deviation of the "
        "property is worth (try 10 to 30; not given: the search follows the gradient)"
    ))  # fmt: skip
    group.add_argument("--noise-level", type=float, default=DEFAULTS["noise_level"], metavar="X", help=(
        "of the noise that a round begins with, in standard deviations of the latents; a small one stays near the "
        "start (default %(default)s)"
    ))  # fmt: skip
    group.add_argument("--rounds", type=int, default=DEFAULTS["rounds"], metavar="N", help=(
        "of noising and denoising, after each of which crystals are decoded (default %(default)s)"
    ))  # fmt: skip
    shared.add_data(parser, "test")
    shared.add_sampler(parser)
    shared.add_device(parser)
