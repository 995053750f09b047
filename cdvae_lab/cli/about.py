"""`cdvae-lab info` and `export`: what a model says of itself, and how it is released."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cdvae_lab.cli import arguments
from cdvae_lab.errors import SettingError
from cdvae_lab.io.storage import read_tensors
from cdvae_lab.models.cdvae import CDVAE, load
from cdvae_lab.training.loop import STATE_VERSION


def add_info(commands: Any) -> None:
    """The parser of `info`."""
    parser = arguments.command(commands, "info", info, lambda args: "nothing was changed")
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("--json", action="store_true", help="settings and metadata as JSON")


def info(args: argparse.Namespace) -> int:
    """Say what a model was trained on, its sizes, settings, scores and license."""
    model = load(args.model)
    if args.json:
        print(json.dumps({"config": vars(model.config), "metadata": model.metadata}, indent=2))
    else:
        print("\n".join(f"{name:<12} {text}" for name, text in lines(model)))
    return 0


def lines(model: CDVAE) -> list[tuple[str, str]]:
    """What there is to say of a model, as (name, text)."""
    from ase.data import chemical_symbols

    c, about = model.config, model.metadata
    data = about.get("data", {})
    elements = model.elements.nonzero()[:, 0].tolist()
    symbols = [chemical_symbols[z] for z in elements if z]
    parameters = sum(p.numel() for p in model.parameters())
    found = [
        ("model", f"CDVAE, {parameters / 1e6:.2f} M parameters, width {c.hidden_dim}, z of {c.latent_dim} numbers")
    ]
    if data:
        found.append(("data", f"{data['name']} ({data['split']}), {data['crystals']:,} crystals"))
        unit = f" ({data['property_unit']})" if data["property_unit"] else ""
        found.append(
            ("property", f"{data['property']}{unit}, {data['labels']:,} labels" if data["property"] else "none")
        )
        found.append(("source", data["source"]))
        found.append(("license", f"of the data: {data['license']}"))
    found.append(("crystals", f"up to {c.max_atoms} atoms of {len(symbols)} elements: {' '.join(symbols)}"))
    noise = f"{c.sigma_max:g} to {c.sigma_min:g} Å in coordinates"
    found.append(("noise", f"{noise}, {c.type_sigma_max:g} to {c.type_sigma_min:g} in types"))
    found.append(("neighbors", f"{c.num_neighbors or 'all'} within {c.cutoff:g} Å"))
    found.append(("prior", prior_of(model)))
    if "steps" in about:
        fit = about.get("fit", {})
        found.append(("training", (
            f"{about['steps']:,} steps of {fit.get('batch_size')} crystals in {about.get('seconds', 0):,.0f} s, "
            f"learning rate {fit.get('lr')}, seed {fit.get('seed')}"
        )))  # fmt: skip
    found += [("score", score) for score in about.get("scores", [])]
    found += [(key, str(value)) for key, value in about.get("notes", {}).items()]
    if "version" in about:
        found.append(("made with", f"cdvae_lab {about['version']}"))
    return found


def prior_of(model: CDVAE) -> str:
    """What z of new crystals is drawn from."""
    prior = model.prior
    if prior is None:
        return "N(0, I)"
    said = f"learned, {int(prior.active.sum())} of {prior.config.latent_dim} numbers in use"
    return said if prior.composition_model is None else f"{said}; the composition is drawn first"


def add_export(commands: Any) -> None:
    """The parser of `export`."""
    parser = arguments.command(commands, "export", export, lambda args: f"{args.out} is as it was")
    parser.add_argument("state", type=Path, metavar="STATE", help="training state of `cdvae-lab train`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model, .safetensors")
    parser.add_argument("--half", action="store_true", help="store the weights as float16 (default: float32)")
    parser.add_argument("--score", action="append", default=[], metavar="TEXT", help=(
        'a line for the metadata, such as "match rate 97.6 %% on val"; may be repeated'
    ))  # fmt: skip
    parser.add_argument("--note", action="append", default=[], metavar="KEY=TEXT", help=(
        "another, such as commit=1a2b3c4; may be repeated"
    ))  # fmt: skip


def export(args: argparse.Namespace) -> int:
    """Make a model to release of a training state: averaged weights without the optimizer, and where they come from."""
    if strange := [note for note in args.note if "=" not in note]:
        raise SettingError(f"--note {strange[0]}: give it as KEY=TEXT")
    _, _, header = read_tensors(args.state, "training state", STATE_VERSION)
    model = load(args.state)
    notes = dict(note.split("=", 1) for note in args.note)
    path = model.save(args.out, args.half, steps=header["step"], fit=header["fit"], scores=args.score, notes=notes)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return 0
