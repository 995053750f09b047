"""`cdvae-lab app`: the laboratory on one page, served by Voila."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

from cdvae_lab.cli.command import command
from cdvae_lab.cli.notebooks import notebooks, require


def add(commands: Any) -> None:
    """Add the parser of `app`."""
    parser = command(commands, "app", app, lambda args: "the page's kernels have ended")
    parser.add_argument("--theme", choices=("light", "dark"), default="light", help="colors (default %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    parser.add_argument("--port", type=int, metavar="N", help="of the server (default: the first free one from 8866)")


def app(args: argparse.Namespace) -> int:
    """Open the whole laboratory on one page in a browser."""
    require("voila")
    extra = ["--no-browser"] if args.no_browser else []
    extra += [f"--port={args.port}"] if args.port else []
    print("starting the server; the page opens in some seconds, and Ctrl-C ends it", file=sys.stderr)
    return subprocess.call([sys.executable, "-m", *voila_command(args.theme), *extra], env=environment())


def voila_command(theme: str = "light") -> list[str]:
    """Return the module and options that serve the page on this machine alone."""
    return [
        "voila",
        "--Voila.ip=127.0.0.1",
        "--template=cdvae_lab",
        f"--theme={theme}",
        # An extension of Notebook 7 that requests files that Voila does not serve.
        "--VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension",
        str(notebooks() / "app.ipynb"),
    ]


def environment() -> dict[str, str]:
    """Return the environment of the server, with the path of the page's template."""
    there = os.environ.get("JUPYTER_PATH")
    return os.environ | {"JUPYTER_PATH": os.pathsep.join(filter(None, [str(notebooks()), there]))}
