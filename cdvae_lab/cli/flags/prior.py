"""Flags of `cdvae-lab prior`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared
from cdvae_lab.models.configs import DiffusionPriorConfig

TEXT = """Fit a learned prior to a model's latents, and save both as one model.

The prior is a small diffusion model over z, fitted in a minute or two on a GPU. MODEL itself is not changed."""

PRIOR = {"hidden_dim": "width of its network", "blocks": "residual blocks of its network", "posterior_share": (
    "share of the posteriors' standard deviation in the latents that it learns: 1 for samples, less for near the means"
)}  # fmt: skip


def add(commands: Any) -> None:
    """Add the parser of `prior`."""
    run = later("prior", TEXT)
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
    shared.add_settings(parser.add_argument_group("network"), DiffusionPriorConfig, PRIOR)
    shared.add_data(parser, "train")
    shared.add_device(parser)
