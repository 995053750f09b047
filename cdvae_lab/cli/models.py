"""`cdvae-lab models`: the bundled models as a table."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cdvae_lab.cli.command import command
from cdvae_lab.io import assets


def add(commands: Any) -> None:
    """Add the parser of `models`."""
    parser = command(commands, "models", models, lambda args: "nothing was changed")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def models(args: argparse.Namespace) -> int:
    """List the bundled models: data, crystals they take, files."""
    found = [row(name) for name in assets.models()]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    columns = ["name", "trained on", "crystals", "atoms", "elements", "property", "MB", "beside it"]
    cells = [columns, *([str(one[column]) for column in columns] for one in found)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print("\n".join("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
                    for line in cells))  # fmt: skip
    print("\ncdvae-lab info NAME shows more about a model; cdvae-lab generate NAME -n 8 --out crystals/ uses it.")
    return 0


def row(name: str) -> dict[str, Any]:
    """Return the line of a model in the table."""
    from cdvae_lab.models.checkpoints import load

    model = load(name)
    data = model.metadata.get("data", {})
    beside = [kind for kind in ("map", "property") if f"{name}_{kind}.safetensors" in assets.names("*.safetensors")]
    return {
        "name": name,
        "trained on": f"{data.get('name', 'unknown')} ({data.get('split', '?')})",
        "crystals": data.get("crystals", 0),
        "atoms": f"up to {model.config.max_atoms}",
        "elements": int(model.elements[1:].sum()),
        "property": data.get("property") or "none",
        "MB": round(assets.asset_path(f"{name}.safetensors").stat().st_size / 1e6, 1),
        "beside it": " and ".join({"map": "latent map", "property": "property model"}[kind] for kind in beside),
    }
