"""The event loop of a real kernel ticks on while long work is done: each action's own work is held back for a while.

What is measured is the longest time between two ticks. It would be at least as long as the work is held back, were it
done in the handler; all else that a handler does takes a fraction of this.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

HELD = 6.0  # s, that the work of an action is held back

SETUP = f"""
import asyncio, importlib, time
from datetime import UTC, datetime
from pathlib import Path
from pymatgen.core import Lattice, Structure
import cdvae_lab as lab
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.widgets import App, Pick

def hold(where, name):
    # The one function that does the work, as the module finds it; it is held back in the thread that calls it.
    module = importlib.import_module("cdvae_lab." + where)
    function = getattr(module, name)
    def held(*args, **kwargs):
        setattr(module, name, function)
        held.called = True
        time.sleep({HELD})
        return function(*args, **kwargs)
    held.called = False
    setattr(module, name, held)
    return held

async def longest_gap(view, act, held):
    gaps = []
    async def tick():
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.1)
    act()
    assert view.running, view.status_line.value
    while view.running:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    ticking.cancel()
    assert held.called
    assert "Error" not in view.status_line.value, view.status_line.value
    print("gap", max(gaps))

def upload(button, path):
    content = path.read_bytes()
    file = dict(name=path.name, type="", size=len(content), content=memoryview(content))
    button.value = (dict(file, last_modified=datetime.now(UTC)),)

folder = Path(FOLDER)
example = lab.asset_path("examples/KTaO3.cif")
far = folder / "KZnF3.cif"
places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
Structure(Lattice.cubic(4.05), ["K", "Zn", "F", "F", "F"], places).to(str(far))
app = App("perov_5")
map, path, player, search = app.map_view, app.interpolation, app.player, app.optimizer
for view in (map, path, player, search):
    view.state.folder = str(folder)
path.state.n = 2
player.state.update(dict(n=1, sampler="preview"))
player.run(wait=True)
search.state.update(dict(steps=2, decode_every=2, decode_steps=2))
search.run(wait=True)
path.run(wait=True)
map.select([1, 2])
search.export(folder, ["steps"])
search.state.steps_file = str(folder / "search.safetensors")
for view in (map, path, player, search):
    view.wait()
    view.recorded_run.wait()
print("ready", 0)
"""

# What is done, in which view, and the function that does its work.
ACTIONS = {
    "own crystals are read": ("map", "upload(map.controls.upload, example)", "widgets.parts.files", "named_structures"),
    "own crystals are encoded": (
        "map", "upload(map.controls.upload, example)", "widgets.latent_map.own_crystals", "posterior_of",
    ),
    "a crystal chosen elsewhere": (
        "map", "app.selection.choose(Pick('theirs', lab.read(example)))",
        "widgets.latent_map.foreign_picks", "posterior_of",
    ),
    "the models for a crystal that this one does not represent": (
        "map", "upload(map.controls.upload, far)", "widgets.latent_map.unfamiliar_note", "models_that_keep",
    ),
    "an end that is uploaded": (
        "path", "upload(path.controls.ends['a'].uploads, example)", "widgets.parts.files", "named_structures",
    ),
    "an end from the list": ("path", "path.state.b = 'KTaO3'", "widgets.parts.files", "named_structures"),
    "the chosen crystal as an end": (
        "path", "(app.selection.choose(Pick('theirs', lab.read(example))), path.controls.ends['a'].take.click())",
        "widgets.parts.files", "named_structures",
    ),
    "the latents of a path": ("path", "path.controls.run.click()", "widgets.interpolation.view", "latents_of"),
    "the start of a search": (
        "search", "upload(search.controls.upload, example)", "widgets.parts.files", "named_structures",
    ),
    "a search": ("search", "search.controls.run.click()", "widgets.parts.files", "named_structures"),
    "the steps of a search": ("search", "search.controls.load.click()", "widgets.optimizer.view", "load_steps"),
    "the table of a search": (
        "search", "search.controls.exports['csv'].click()", "widgets.optimizer.exports", "atomic_path",
    ),
    "the table of the map": ("map", "map.controls.csv.click()", "widgets.latent_map.exports", "lasso_table"),
    "the strip of a path": ("path", "path.controls.exports['png'].click()", "render", "strip"),
    "the animation of a path": ("path", "path.controls.exports['gif'].click()", "render", "gif"),
    "the strips of a run": ("player", "player.controls.run.click()", "widgets.player.run_strips", "_courses"),
    "the animation of a run": ("player", "player.controls.exports['gif'].click()", "render", "gif"),
    "the page of a run": ("player", "player.controls.exports['html'].click()", "pages", "write_html"),
}  # fmt: skip


def number(kernel: BlockingKernelClient, code: str) -> float:
    """Run code in the kernel, and read the number after the word that it prints last."""
    sent = kernel.execute(code, store_history=False)
    printed, end = "", time.monotonic() + 400
    while time.monotonic() < end:
        try:
            message = kernel.get_iopub_msg(timeout=5)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != sent:
            continue
        content = message["content"]
        if message["msg_type"] == "error":
            raise AssertionError("\n".join(content["traceback"]))
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            printed += content["text"]
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return float(printed.split()[-1])
    raise AssertionError("the kernel does not answer")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingKernelClient]:
    folder = tmp_path_factory.mktemp("kernel")
    manager, client = start_new_kernel(startup_timeout=300, cwd=str(Path(__file__).resolve().parents[2]))
    try:
        number(client, SETUP.replace("FOLDER", repr(str(folder))))
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_kernel_answers_while_there_is_work(kernel: BlockingKernelClient, name: str) -> None:
    view, act, where, function = ACTIONS[name]
    held = f"held = hold({where!r}, {function!r})"
    gap = number(kernel, f"{held}\nawait longest_gap({view}, lambda: {lambda_of(act)}, held)")
    assert gap < HELD / 2


def lambda_of(act: str) -> str:
    """A statement that sets something, as an expression."""
    target, equals, value = act.partition(" = ")
    if not equals:
        return act
    owner, _, trait = target.rpartition(".")
    return f"setattr({owner}, {trait!r}, {value})"
