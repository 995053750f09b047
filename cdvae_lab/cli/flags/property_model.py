"""Flags of `cdvae-lab property`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command, later
from cdvae_lab.cli.flags import shared
from cdvae_lab.cli.flags.train import FIT
from cdvae_lab.models.configs import PropertyModelConfig
from cdvae_lab.training.settings import FitSettings

TEXT = """Train a property model, an independent predictor for `evaluate`.

Give it labels that the evaluated model was not trained on, or report that beside its numbers. The state of the run
lies beside FILE until the run is finished; Ctrl-C and SIGTERM stop after the current step, with the state saved."""

NETWORK = {
    "hidden_dim": "width of the network",
    "blocks": "message-passing blocks",
    "num_radial": "radial functions of a distance",
    "cutoff": "of the neighbor graph, Å",
    "num_neighbors": "largest number of neighbors of an atom; 0: all within the cutoff",
}


def add(commands: Any) -> None:
    """Add the parser of `property`."""
    parser = command(
        commands,
        "property",
        later("property_model", TEXT),
        lambda args: f"the last saved state is in {state_of(args.out)}",
    )
    parser.add_argument("data", metavar="DATA", help="crystals with labels, as for `cdvae-lab train`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the property model, .safetensors")
    parser.add_argument("--half", action="store_true", help="store weights as float16, half the size")
    parser.add_argument("--resume", action="store_true", help="resume from the state beside --out if it exists")
    parser.add_argument("--epochs", type=float, metavar="X", help="instead of --steps: passes through the data")
    parser.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help=(
        "time between saved states (default %(default)s)"
    ))  # fmt: skip
    shared.add_data(parser, "train")
    shared.add_device(parser)
    shared.add_processes(parser)
    shared.add_settings(parser.add_argument_group("training"), FitSettings, FIT)
    shared.add_settings(parser.add_argument_group("network (of a new run)"), PropertyModelConfig, NETWORK)


def state_of(out: Path) -> Path:
    """Return the path of a run's state, which is kept until its model is written."""
    return out.with_suffix(".state.safetensors")
