"""`cdvae-lab info`: metadata and settings of a model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from cdvae_lab.cli.command import command
from cdvae_lab.crystals.elements import symbol_of

if TYPE_CHECKING:
    from cdvae_lab.models.cdvae import CDVAE


def add(commands: Any) -> None:
    """Add the parser of `info`."""
    parser = command(commands, "info", info, lambda args: "nothing was changed")
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (perov_5), or a .safetensors file")
    parser.add_argument("--json", action="store_true", help="print settings and metadata as JSON")


def info(args: argparse.Namespace) -> int:
    """Show what a model was trained on, its sizes, settings, scores and license."""
    from cdvae_lab.models.checkpoints import load

    model = load(args.model)
    if args.json:
        print(json.dumps({"config": vars(model.config), "metadata": model.metadata}, indent=2))
    else:
        print("\n".join(f"{name:<12} {text}" for name, text in lines(model)))
    return 0


def lines(model: CDVAE) -> list[tuple[str, str]]:
    """Describe a model in lines of (name, text)."""
    c, about = model.config, model.metadata
    data = about.get("data", {})
    elements = model.elements.nonzero()[:, 0].tolist()
    symbols = [symbol_of(z) for z in elements if z]
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
    """Describe the prior that latents of new crystals are drawn from."""
    prior = model.prior
    if prior is None:
        return "N(0, I)"
    described = f"learned, {int(prior.active.sum())} of {prior.config.latent_dim} dimensions in use"
    return described if prior.composition_model is None else f"{described}; the composition is drawn first"
