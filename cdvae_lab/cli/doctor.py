"""`cdvae-lab doctor`: check an installation, with a remedy for each problem."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from cdvae_lab.cli.command import command
from cdvae_lab.errors import LabError

# Packages whose versions explain most problems, and the purposes of the optional ones.
NEEDED = (
    "torch",
    "torch-geometric",
    "pymatgen",
    "ase",
    "numpy",
    "pandas",
    "plotly",
    "ipywidgets",
    "anywidget",
    "nglview",
    "umap-learn",
)
OPTIONAL = {
    "jupyterlab": "notebooks: pip install 'cdvae_lab[notebook]'",
    "voila": "cdvae-lab app: pip install 'cdvae_lab[notebook]'",
    "lightning-fabric": "several GPUs: pip install 'cdvae_lab[parallel]'",
}


@dataclass(frozen=True)
class Check:
    """Line of the report.

    Attributes:
        name: what was checked.
        status: "ok", "missing" (optional) or "problem".
        text: what was found, and the remedy of a problem.
    """

    name: str
    status: str
    text: str


def add(commands: Any) -> None:
    """Add the parser of `doctor`."""
    parser = command(commands, "doctor", doctor, lambda args: "nothing was changed")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def doctor(args: argparse.Namespace) -> int:
    """Check this installation: packages, devices, bundled files, cache, notebooks.

    Exits with 1 if there is a problem.
    """
    checks = []
    for check in found():
        checks.append(check)
        if not args.json:
            print(f"{check.status:<8} {check.name:<18} {check.text}", flush=True)
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    return int(any(check.status == "problem" for check in checks))


def found() -> Iterator[Check]:
    """Yield the checks in order."""
    import cdvae_lab

    yield Check("cdvae_lab", "ok", f"{cdvae_lab.__version__}, {os.path.dirname(cdvae_lab.__file__)}")
    yield Check(
        "Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}, {os.cpu_count()} cores"
    )
    for name in NEEDED:
        yield _package(name, "problem", "pip install --upgrade cdvae_lab")
    for name, remedy in OPTIONAL.items():
        yield _package(name, "missing", remedy)
    yield _device()
    yield from _files()
    yield _cache()
    yield _generation()


def _package(name: str, otherwise: str, remedy: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, otherwise, f"not installed ({remedy})")


def _device() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("GPU", "missing", f"none that torch {torch.__version__} can use; everything runs on the CPU")
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return Check("GPU", "ok", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}")


def _files() -> Iterator[Check]:
    from cdvae_lab.cli.notebooks import notebooks
    from cdvae_lab.io import assets

    for name, check in (
        ("bundled models", lambda: ", ".join(assets.models())),
        ("notebooks", lambda: str(notebooks())),
    ):
        try:
            yield Check(name, "ok", check())
        except LabError as error:
            yield Check(name, "problem", str(error))


def _cache() -> Check:
    from cdvae_lab.datasets.cache import users_cache

    folder = users_cache()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if os.access(there, os.W_OK):
        return Check("cache", "ok", str(folder))
    return Check("cache", "problem", f"{folder} cannot be written; give --cache FOLDER or cache= elsewhere")


def _generation() -> Check:
    from cdvae_lab import denoise, last, load
    from cdvae_lab.metrics.validity import structure_validity

    started = time.monotonic()
    try:
        crystals = last(denoise(load("perov_5"), n=4, seed=0, sampler="preview")).crystals
    except (LabError, RuntimeError) as error:
        return Check("generation", "problem", f"{type(error).__name__}: {error}")
    valid = int(structure_validity(crystals).sum())
    text = f"4 crystals in {time.monotonic() - started:.1f} s, {valid} with possible distances"
    return Check("generation", "ok" if valid == 4 else "problem", text)
