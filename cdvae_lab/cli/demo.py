"""`cdvae-lab demo`: the quickstart notebook without a browser, with a line for every step."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cdvae_lab.cli.command import command
from cdvae_lab.cli.notebooks import notebooks, require
from cdvae_lab.errors import LabError


def add(commands: Any) -> None:
    """Add the parser of `demo`."""
    parser = command(commands, "demo", demo, lambda args: "nothing was written")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help=(
        "for crystals, pages and the executed notebook (default %(default)s)"
    ))  # fmt: skip


def demo(args: argparse.Namespace) -> int:
    """Run the quickstart notebook without a browser: crystals, pages and a summary in a folder."""
    require("nbclient", "ipykernel")
    started = time.monotonic()
    print("running the quickstart notebook; on two CPU cores it takes about a minute", flush=True)
    with tempfile.TemporaryDirectory(prefix="cdvae_lab_demo_") as temporary:
        # The notebook writes to `out` beside its own folder.
        work = Path(temporary) / "notebooks"
        work.mkdir()
        executed = run_notebook(notebooks() / "00_quickstart.ipynb", work)
        shutil.copytree(Path(temporary) / "out", args.out, dirs_exist_ok=True)
        (args.out / "00_quickstart.ipynb").write_text(executed, encoding="utf-8")
    print(f"done in {time.monotonic() - started:.0f} s\n")
    print((args.out / "summary.txt").read_text(encoding="utf-8").rstrip())
    print(
        f"\nOpen {args.out / 'index.html'} in a browser: the crystals, the run as an animation, and how they were made."
        f"\nThe crystals are also in {args.out} as CIF files."
        "\nNext: `cdvae-lab lab` opens the tutorials, `cdvae-lab app` the laboratory on one page."
    )
    return 0


def run_notebook(path: Path, folder: Path) -> str:
    """Execute a notebook in a folder, with a line for each code cell, and return it with its outputs.

    Raises:
        LabError: if a cell fails, with its error.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    titles = _titles(notebook.cells)
    numbers = {cell.id: number for number, cell in enumerate(cells, 1)}
    begun: dict[str, float] = {}

    def starts(cell: Any, cell_index: int) -> None:
        if cell.id in numbers:
            begun[cell.id] = time.monotonic()
            print(f"  {numbers[cell.id]:>2} of {len(cells)}  {titles[cell.id]:<32}", end="", flush=True)

    def ends(cell: Any, cell_index: int, execute_reply: Any) -> None:
        print(f"{time.monotonic() - begun[cell.id]:5.1f} s", flush=True)

    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=starts,
        on_cell_executed=ends,
        # The kernel listens to this machine alone; its warning about unencrypted TCP does not apply.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(file=sys.stderr)
        raise LabError(f"{path.name}: a cell failed: {error.ename}: {error.evalue}") from error
    return nbformat.writes(notebook)


def _titles(cells: list[Any]) -> dict[str, str]:
    """Return the heading above each code cell."""
    title, found = "", {}
    for cell in cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            title = headings[-1].lstrip("# ") if headings else title
        else:
            found[cell.id] = title
    return found
