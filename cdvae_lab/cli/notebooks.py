"""`cdvae-lab lab`: the tutorial notebooks in JupyterLab, and their location in a checkout and in a wheel."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command
from cdvae_lab.errors import SettingError

_PACKAGE = Path(__file__).resolve().parents[1]


def add(commands: Any) -> None:
    """Add the parser of `lab`."""
    parser = command(commands, "lab", lab, lambda args: "your notebooks are as you saved them")
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=(
        "for your copy of the notebooks, which is made where there is none (default: the checkout's own, or "
        "cdvae_lab_notebooks)"
    ))  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    parser.add_argument("--port", type=int, metavar="N", help="of the server (default: the first free one from 8888)")


def lab(args: argparse.Namespace) -> int:
    """Open the tutorial notebooks in JupyterLab."""
    require("jupyterlab")
    folder = args.folder
    if folder is None:
        folder = notebooks() if _is_checkout() else Path("cdvae_lab_notebooks")
    if not (folder / "00_quickstart.ipynb").is_file():
        copy_notebooks(folder)
        print(f"the notebooks are in {folder}", file=sys.stderr)
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", *root_flag()]
    command += ["--no-browser"] if args.no_browser else []
    command += [f"--ServerApp.port={args.port}"] if args.port else []
    return subprocess.call([*command, str(folder / "00_quickstart.ipynb")])


def notebooks() -> Path:
    """Return the folder of the tutorial notebooks.

    Raises:
        SettingError: if this copy of the package came without them.
    """
    places = (_PACKAGE / "_notebooks", _PACKAGE.parent / "notebooks")
    for place in places:
        if (place / "00_quickstart.ipynb").is_file():
            return place
    raise SettingError(
        f"this copy of cdvae_lab has no notebooks (looked for {places[0]} and {places[1]}); reinstall it"
    )


def copy_notebooks(folder: Path) -> None:
    """Copy the tutorial notebooks and the pictures that they show; existing files are not changed."""
    from cdvae_lab.io import assets

    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(notebooks().glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8")
        # In the repository the pictures lie beside the folder of notebooks.
        text = text.replace("../assets/pictures/", "pictures/")
        if not (folder / notebook.name).exists():
            (folder / notebook.name).write_text(text, encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    for name in assets.names("pictures/notebook_*.png"):
        shutil.copyfile(assets.asset_path(name), folder / "pictures" / Path(name).name)


def require(*modules: str) -> None:
    """Refuse to start without the packages of the extra `notebook`.

    Raises:
        SettingError: naming those that are missing, and how to install them.
    """
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise SettingError(
            f"this needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'cdvae_lab[notebook]'"
        )


def root_flag() -> list[str]:
    """Return the flag that lets root start a Jupyter server, as in a container; empty for other users."""
    return ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def _is_checkout() -> bool:
    return not (_PACKAGE / "_notebooks").is_dir()
