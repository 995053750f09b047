"""The tutorials of the documentation: `python -m tools.tutorials` executes the notebooks into docs/tutorials/.

A page of the site shows what a widget showed as a picture and a plotly figure as a figure, and asks nothing of the
network: widget states, for which a reader's browser would fetch scripts, are left out, and plotly's script comes from
the site itself. A notebook is executed again only when its cells or the package changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import plotly.io
import plotly.offline
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import cdvae_lab as lab
from cdvae_lab.io.storage import atomic_path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
TUTORIALS = ROOT / "docs" / "tutorials"
WORK = ROOT / "docs" / "_build" / "tutorials" / "notebooks"  # the kernels' folder: they write to ../out
STATIC = ROOT / "docs" / "_static" / "generated"
TIMEOUT = 600  # seconds a cell
AT_ONCE = 2  # notebooks, each in a kernel of its own; most of their time they use one core
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"


def digest(notebook: Path) -> str:
    """Return a hash of a notebook and of the package that it runs."""
    files = [notebook, *sorted((ROOT / "cdvae_lab").rglob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def execute(notebook: Any) -> None:
    """Run all cells, in place.

    Raises:
        CellExecutionError: for the first cell that fails.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK.parent / "out").mkdir(exist_ok=True)
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        resources={"metadata": {"path": str(WORK)}},
        # The kernel listens to this machine alone; its warning about unencrypted TCP is not for readers.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute()


def offline(notebook: Any) -> None:
    """Replace each output by what a page can show by itself, in place."""
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../assets/", "](../../assets/")
        elif cell.cell_type == "code":
            shown = [_shown(output, f"figure-{number}-{i}") for i, output in enumerate(cell.outputs)]
            cell.outputs = [output for output in shown if output is not None]


def _shown(output: Any, name: str) -> Any:
    """Return an output without the parts that need a kernel or the network; None if nothing is left of it."""
    data = output.get("data")
    if data is None:
        # A bar of `progress` and a library's remark are of no use to a reader.
        return None if output.get("name") == "stderr" else output
    if WIDGET in data:
        del data[WIDGET]
        if "image/png" not in data:
            return None
    if PLOTLY in data:
        figure = data.pop(PLOTLY)
        figure.get("layout", {}).pop("width", None)
        html = plotly.io.to_html(
            figure, include_plotlyjs=False, full_html=False, config={"responsive": True}, div_id=name, validate=False
        )
        data["text/html"] = f'<script src="../_static/generated/plotly.min.js"></script>\n{html}'
    if "image/jpeg" in data and "image/png" in data:
        del data["image/jpeg"]  # the same picture
    return output


def build(source: Path, target: Path, execute_changed: bool) -> float:
    """Write one tutorial and return the seconds that its execution took, 0 where nothing had to be executed."""
    key = digest(source)
    if target.exists():
        made = json.loads(target.read_text(encoding="utf-8"))["metadata"].get("cdvae_lab", {}).get("digest")
        if made == key or (made and not execute_changed):
            return 0.0
    notebook = nbformat.read(source, as_version=4)
    started = time.perf_counter()
    if execute_changed:
        execute(notebook)
        offline(notebook)
        notebook.metadata["cdvae_lab"] = {"digest": key}
    else:
        offline(notebook)
    with atomic_path(target, "a tutorial") as temporary:
        nbformat.write(notebook, temporary)
    return time.perf_counter() - started if execute_changed else 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-execute", action="store_true", help="keep what was executed before; show cells otherwise")
    execute_changed = not parser.parse_args(arguments).no_execute
    STATIC.mkdir(parents=True, exist_ok=True)
    with atomic_path(STATIC / "plotly.min.js", "a script") as temporary:
        temporary.write_text(plotly.offline.get_plotlyjs(), encoding="utf-8")
    frames = lab.denoise(lab.load("perov_5"), n=4, seed=11)
    lab.pages.write_html(frames, STATIC / "run.html", title="Four crystals form")
    failed = False
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sources = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
        runs = [pool.submit(build, source, TUTORIALS / source.name, execute_changed) for source in sources]
        for source, run in zip(sources, runs, strict=True):
            try:
                seconds = run.result()
            except CellExecutionError as error:
                sys.stderr.write(f"{source.name}: {error}\n")
                failed = True
                continue
            print(f"{source.name}: {f'executed in {seconds:.0f} s' if seconds else 'not executed again'}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
