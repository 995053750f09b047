"""`cdvae-lab export`: make a model to release from a training state."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command
from cdvae_lab.errors import SettingError


def add(commands: Any) -> None:
    """Add the parser of `export`."""
    parser = command(commands, "export", export, lambda args: f"{args.out} is as it was")
    parser.add_argument("state", type=Path, metavar="STATE", help="training state of `cdvae-lab train`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model, .safetensors")
    parser.add_argument("--half", action="store_true", help="store the weights as float16 (default: float32)")
    parser.add_argument("--score", action="append", default=[], metavar="TEXT", help=(
        'a line for the metadata, such as "match rate 97.6 %% on val"; may be repeated'
    ))  # fmt: skip
    parser.add_argument("--note", action="append", default=[], metavar="KEY=TEXT", help=(
        "another entry of the metadata, such as commit=1a2b3c4; may be repeated"
    ))  # fmt: skip


def export(args: argparse.Namespace) -> int:
    """Make a model to release from a training state: averaged weights, no optimizer."""
    from cdvae_lab.models.checkpoints import load, read_training_state

    if wrong := [note for note in args.note if "=" not in note]:
        raise SettingError(f"--note {wrong[0]}: give it as KEY=TEXT")
    state = read_training_state(args.state)
    model = load(args.state)
    notes = dict(note.split("=", 1) for note in args.note)
    path = model.save(args.out, args.half, steps=state.step, fit=dict(state.fit), scores=args.score, notes=notes)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return 0
