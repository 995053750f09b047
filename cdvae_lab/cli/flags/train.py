"""Flags of `cdvae-lab train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared
from cdvae_lab.datasets.catalog import PUBLIC, SYNTHETIC
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.training.settings import FitSettings, LossWeights

TEXT = """Train a model on a data set; the state is saved during the run, and loads as a model.

Where the run is validated, FILE.best.safetensors has the averaged weights of the lowest validation loss.
Ctrl-C and SIGTERM stop after the current step, with the state saved."""

FIT = {
    "steps": "optimizer steps of the whole run; the learning rate's schedule ends there",
    "batch_size": "crystals a step",
    "lr": "highest learning rate, after the warm-up",
    "final_lr": "learning rate at the end",
    "warm_up": "steps of rising learning rate",
    "clip": "the gradient's norm is clipped to this",
    "ema_decay": "of the moving average of the weights, a step",
    "seed": "of the initial weights, the batches and the noise",
    "weight_decay": "decoupled weight decay of the weight matrices",
}
AUGMENTATION = {
    "strain": "largest component of a random strain of the crystals",
    "rattle": "random displacements of the atoms that the encoder receives, standard deviation in Å",
}
MODEL = {
    "max_atoms": "most atoms in a cell (default: those of the data)",
    "latent_dim": "numbers in z",
    "hidden_dim": "width of the networks",
    "encoder_blocks": "message-passing blocks of the encoder",
    "decoder_blocks": "message-passing blocks of the decoder",
    "head_dim": "width of the heads",
    "num_radial": "radial functions of a distance",
    "cutoff": "of the neighbor graph, Å",
    "num_neighbors": "largest number of neighbors of an atom; 0: all within the cutoff",
    "encoder_sees_aggregates": "mu and log-variance also see number of atoms, lattice and composition",
    "sigma_max": "largest coordinate noise, Å",
    "sigma_min": "smallest coordinate noise, Å",
    "type_sigma_max": "largest type noise, no unit",
    "type_sigma_min": "smallest type noise, no unit",
    "num_levels": "noise levels of the paper's sampler",
    "decoder_dropout": "share of the decoder's hidden channels that training drops",
}
WEIGHTS = {name: f"weight of the {name} loss" for name in LossWeights.__dataclass_fields__}


def add(commands: Any) -> None:
    """Add the parser of `train`."""
    run = later("train", TEXT)
    parser = command(commands, "train", run, lambda args: f"the last saved state is in {args.out}")
    parser.add_argument("data", metavar="DATA", help=(
        f"{', '.join([*PUBLIC, SYNTHETIC])}, a folder of CIF files, or a .csv table with a column cif"
    ))  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="training state, .safetensors")
    parser.add_argument("--resume", action="store_true", help="resume from --out if it exists")
    parser.add_argument("--epochs", type=float, metavar="X", help="instead of --steps: passes through the data")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help=(
        "stop after this time, with the state saved; the schedule still ends at --steps"
    ))  # fmt: skip
    parser.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help=(
        "time between saved states (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--log-every", type=int, default=50, metavar="N", help=(
        "steps between lines of the log, FILE with the ending .jsonl (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--validate-every", type=int, default=1000, metavar="N", help=(
        "steps between validations of the averaged weights; 0 for none (default %(default)s)"
    ))  # fmt: skip
    parser.add_argument("--validate-on", choices=("val", "none"), help="(default: val, where the data have splits)")
    parser.add_argument("--validate-limit", type=int, default=1000, metavar="N", help=(
        "validation crystals (default %(default)s)"
    ))  # fmt: skip
    shared.add_data(parser, "train")
    shared.add_device(parser)
    shared.add_processes(parser)
    shared.add_settings(parser.add_argument_group("training"), FitSettings, FIT | AUGMENTATION)
    shared.add_settings(parser.add_argument_group("loss"), LossWeights, WEIGHTS, "weight_")
    shared.add_settings(parser.add_argument_group("model (of a new run)"), CDVAEConfig, MODEL)
