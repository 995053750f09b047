"""Handlers of buttons and traits return before the work that they begin is done: the page stays responsive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

import cdvae_lab as lab
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets import App, Pick, interpolation, latent_map, monitor, optimizer, player
from cdvae_lab.widgets.app import preparation
from cdvae_lab.widgets.interpolation import exports as path_exports
from cdvae_lab.widgets.interpolation import view as interpolation_view  # noqa: F401 - `interpolation.view` is used
from cdvae_lab.widgets.latent_map import exports as map_exports
from cdvae_lab.widgets.latent_map import own_crystals
from cdvae_lab.widgets.optimizer import exports as search_exports
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.map_figure import Hit
from cdvae_lab.widgets.parts.originals import Originals

Slow = Callable[[Any, str], "Gate"]


class Gate:
    """A function that waits until it is opened, and notes the threads that call it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._opened = function, threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.append(threading.current_thread())
        assert self._opened.wait(60), "the handler waits for the work"
        return self._function(*args, **kwargs)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    gates: list[Gate] = []

    def make(owner: Any, name: str) -> Gate:
        gates.append(Gate(getattr(owner, name)))
        monkeypatch.setattr(owner, name, gates[-1])
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture(scope="module")
def model() -> CDVAE:
    return lab.load("perov_5")


@pytest.fixture
def app(model: CDVAE, random_dataset: Dataset, tmp_path: Path) -> Iterator[App]:
    one = App(model, dataset=random_dataset)
    one.player.state.update({"n": 1, "sampler": "preview", "folder": str(tmp_path)})
    yield one
    one.close()


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """KZnF3, which this model does not represent."""
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    Structure(Lattice.cubic(4.05), ["K", "Zn", "F", "F", "F"], places).to(str(tmp_path / "KZnF3.cif"))
    return tmp_path / "KZnF3.cif"


def returns_before(act: Callable[[], Any], gate: Gate, view: Any) -> None:
    """Do something, and check that its work is done later and in another thread."""
    act()  # fails in this thread, after a minute, if the work is done here
    assert view.running
    gate.open()
    assert view.wait(120)
    assert gate.threads
    assert threading.main_thread() not in gate.threads


def leaves_the_loop_free(act: Callable[[], Any], gate: Gate, view: Any) -> None:
    """Do something where an event loop runs, as in a notebook, and check that its work is done in another thread."""
    loops: list[threading.Thread] = []

    async def notebook() -> None:
        loops.append(threading.current_thread())
        act()  # fails in this thread, after a minute, if the work is done here
        assert view.running
        gate.open()
        while view.running:
            await asyncio.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread
        pool.submit(lambda: asyncio.run(notebook())).result(120)
    assert gate.threads
    assert not {loops[0], threading.main_thread()} & set(gate.threads)


def upload(button: Any, path: Path) -> None:
    """Do what the browser does when a file is chosen."""
    content = path.read_bytes()
    file = {"name": path.name, "type": "", "size": len(content), "content": memoryview(content)}
    button.value = ({**file, "last_modified": datetime.now(UTC)},)


def test_denoising(app: App, slow: Slow) -> None:
    returns_before(app.player.controls.run.click, slow(player.view, "denoise"), app.player)


def test_the_strips_of_a_run(app: App, slow: Slow) -> None:
    leaves_the_loop_free(app.player.controls.run.click, slow(player.run_strips, "_courses"), app.player)


def test_the_files_of_a_run(app: App, slow: Slow) -> None:
    app.player.run(wait=True)
    returns_before(lambda: app.player.export(wait=False), slow(player.exports.pages, "write_html"), app.player)


def test_generating_onto_the_map(app: App, slow: Slow) -> None:
    app.map_view.state.n = 1
    returns_before(app.map_view.controls.generate.click, slow(latent_map.decoder, "denoise"), app.map_view)


def test_the_table_of_the_map(app: App, slow: Slow, tmp_path: Path) -> None:
    app.map_view.state.folder = str(tmp_path)
    app.map_view.select([1, 2])
    returns_before(app.map_view.controls.csv.click, slow(map_exports, "lasso_table"), app.map_view)


def test_a_search(app: App, slow: Slow) -> None:
    app.optimizer.state.update({"steps": 2, "decode_every": 2, "decode_steps": 2})
    returns_before(app.optimizer.controls.run.click, slow(optimizer.search_run, "optimize"), app.optimizer)


def test_the_table_of_a_search(app: App, slow: Slow, tmp_path: Path) -> None:
    app.optimizer.run(wait=True, steps=2)
    gate = slow(search_exports, "save_steps")
    returns_before(lambda: app.optimizer.export(tmp_path, ["csv", "steps"], wait=False), gate, app.optimizer)


def test_a_path_and_its_files(app: App, slow: Slow, tmp_path: Path) -> None:
    view = app.interpolation
    view.wait(60)
    view.state.update({"n": 2, "folder": str(tmp_path)})
    returns_before(view.controls.run.click, slow(interpolation.view, "path_results"), view)
    returns_before(lambda: view.export(wait=False), slow(path_exports.render, "strip"), view)


def test_training_and_its_files(app: App, slow: Slow, tmp_path: Path) -> None:
    view = app.monitor
    view.state.update({"steps": 3, "batch_size": 8, "state_path": str(tmp_path / "state.safetensors")})
    returns_before(view.controls.run.click, slow(monitor.trainer, "fit"), view)
    returns_before(view.controls.save_state.click, slow(lab.TrainingStep, "save"), view)
    returns_before(view.controls.load_state.click, slow(monitor.trainer, "fit"), view)


def test_the_trained_model_in_the_other_tabs_and_its_map(app: App, slow: Slow) -> None:
    view = app.monitor
    view.state.update({"steps": 3, "batch_size": 8})
    view.run(wait=True)
    returns_before(lambda: app.use_trained(wait=False), slow(view._files, "averaged"), app)
    assert app.state.model == "trained here, step 3"
    returns_before(app.make_map, slow(LatentMap, "fit"), app)
    assert app.map is not None


def test_a_map_that_is_stopped_is_not_taken(app: App, slow: Slow, random_dataset: Dataset) -> None:
    gate = slow(LatentMap, "fit")
    before = app.map
    app.make_map(random_dataset)
    app.stop()
    assert not app.running
    assert "no map was made" in app.status_line.value
    gate.open()
    assert app.map is before


def test_a_tab_opens_in_the_background(model: CDVAE, slow: Slow) -> None:
    gate = slow(preparation, "prepare_figures")

    async def notebook() -> None:
        app = App(model)
        app.tab = "map"
        assert app.views.keys() == {"player"}
        assert app.running
        gate.open()
        while "map" not in app.views:
            await asyncio.sleep(0.05)
        app.close()

    with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread
        pool.submit(lambda: asyncio.run(notebook())).result(120)
    assert gate.threads


def test_own_crystals_on_the_map(app: App, slow: Slow) -> None:
    view = app.map_view
    view.state.file = str(lab.asset_path("examples/KTaO3.cif"))
    leaves_the_loop_free(view.controls.place.click, slow(own_crystals, "posterior_of"), view)
    assert "KTaO3" in view.selection.pick.name
    file = lab.asset_path("examples/BaTiO3.cif")
    leaves_the_loop_free(lambda: upload(view.controls.upload, file), slow(files, "named_structures"), view)
    assert len(view.plot.places(latent_map.view.OWN)) == 2


def test_the_models_for_an_own_crystal_that_is_far_from_the_training_data(app: App, slow: Slow, far: Path) -> None:
    view = app.map_view
    view.state.file = str(far)
    leaves_the_loop_free(view.controls.place.click, slow(latent_map.unfamiliar_note, "models_that_keep"), view)
    assert "inorganic, mp_20" in view.controls.note.value


def test_the_models_for_a_crystal_of_another_view(app: App, slow: Slow, far: Path) -> None:
    view = app.map_view
    gate = slow(latent_map.unfamiliar_note, "models_that_keep")
    leaves_the_loop_free(lambda: app.selection.choose(Pick("theirs", lab.read(far))), gate, view)
    assert "inorganic, mp_20" in view.controls.note.value


def test_own_crystals_added_while_others_are_read_are_added_to_them(app: App, slow: Slow) -> None:
    view = app.map_view
    gate = slow(files, "named_structures")
    view.add_own(lab.asset_path("examples/KTaO3.cif"), wait=False)
    view.add_own(lab.asset_path("examples/BaTiO3.cif"), wait=False)
    gate.open()
    assert view.wait(60)
    assert len(view.plot.places(latent_map.view.OWN)) == 2


def test_own_crystals_that_are_stopped_are_not_added(app: App, slow: Slow, tmp_path: Path) -> None:
    view = app.map_view
    gate = slow(files, "named_structures")
    view.add_own([tmp_path / "none.cif", lab.asset_path("examples/KTaO3.cif")], wait=False)
    assert not view.controls.stop.disabled
    view.controls.stop.click()
    gate.open()
    assert view.wait(60)
    assert latent_map.view.OWN not in view.plot.layers
    assert "stopped" in view.status_line.value
    view.add_own(tmp_path / "none.cif", wait=False)
    assert view.wait(60)
    assert "none.cif" in view.status_line.value  # the error


def test_a_crystal_chosen_elsewhere_on_the_map(app: App, slow: Slow, srtio3: Crystals) -> None:
    view = app.map_view
    gate = slow(latent_map.foreign_picks, "posterior_of")
    leaves_the_loop_free(lambda: app.selection.choose(Pick("theirs", srtio3)), gate, view)
    assert "theirs" in view.controls.caption.value
    assert view.plot.chosen is not None


def test_an_original_of_the_map(app: App, slow: Slow, srtio3: Crystals, monkeypatch: pytest.MonkeyPatch) -> None:
    view = app.map_view
    for name, value in {"file": True, "there": True, "code": lambda self, index: "here"}.items():
        monkeypatch.setattr(Originals, name, value)
    monkeypatch.setattr(view._originals, "get", lambda index: srtio3)
    leaves_the_loop_free(lambda: view.choose(3), slow(view._originals, "get"), view)
    assert "the crystal of the data file" in view.controls.caption.value
    leaves_the_loop_free(lambda: view._glance.show(Hit((0.0, 0.0), None, 4)), slow(view._originals, "get"), view)
    assert "<img" in view.controls.glance.value


def test_the_ends_of_a_path(app: App, slow: Slow, srtio3: Crystals) -> None:
    view = app.interpolation
    view.wait(60)
    a, file = view.controls.ends["a"], lab.asset_path("examples/KTaO3.cif")
    for act, name in (
        (lambda: setattr(view.state, "a", "BaTiO3"), "BaTiO3.cif"),
        (lambda: upload(a.uploads, file), "KTaO3.cif"),
        (a.reduce.click, "KTaO3.cif"),
        (a.take.click, "theirs"),
        (lambda: app.use("a"), "theirs"),
    ):
        app.selection.choose(Pick("theirs", srtio3))
        leaves_the_loop_free(act, slow(files, "named_structures"), view)
        assert view.ends["a"].name == name
    gate = slow(files, "named_structures")
    view.set_end("a", file, wait=False)
    assert view.controls.run.disabled
    view.controls.stop.click()
    gate.open()
    assert view.wait(60)
    assert view.ends["a"].name == "theirs"
    view.set_end("a", lab.asset_path("examples/diamond.cif"), wait=False)
    assert view.wait(60)
    assert "Not usable" in a.caption.value


def test_a_run_that_waits_for_an_end(app: App, slow: Slow) -> None:
    view = app.interpolation
    view.wait(60)
    view.state.n = 2
    gate = slow(files, "named_structures")
    view.set_end("a", "KTaO3", wait=False)
    view.run()
    assert not view.recorded_run.running
    gate.open()
    assert view.wait(120)
    assert "KTaO3.cif" in view.ends["a"].name
    assert "examples/KTaO3.cif" in view.code
    assert len(view.crystals) == 2


def test_the_latents_of_a_path(app: App, slow: Slow) -> None:
    view = app.interpolation
    view.wait(60)
    view.state.n = 2
    returns_before(view.controls.run.click, slow(interpolation.view, "latents_of"), view)


def test_the_start_of_a_search(app: App, slow: Slow, srtio3: Crystals) -> None:
    view, file = app.optimizer, lab.asset_path("examples/KTaO3.cif")
    view.state.update({"steps": 2, "decode_every": 2, "decode_steps": 2})
    for act in (
        lambda: setattr(view.state, "start", "BaTiO3"),
        lambda: upload(view.controls.upload, file),
        lambda: app.selection.choose(Pick("theirs", srtio3)),
        view.controls.run.click,
    ):
        leaves_the_loop_free(act, slow(files, "named_structures"), view)
    assert len(view.steps) == 3
    assert not view.controls.start_error.value
    diamond = lab.asset_path("examples/diamond.cif")
    leaves_the_loop_free(lambda: upload(view.controls.upload, diamond), slow(files, "named_structures"), view)
    assert "diamond" in view.controls.start_error.value


def test_the_steps_of_a_search(app: App, slow: Slow, tmp_path: Path) -> None:
    view = app.optimizer
    view.run(wait=True, steps=2)
    view.export(tmp_path, ["steps"])
    view.state.steps_file = str(tmp_path / "search.safetensors")
    returns_before(view.controls.load.click, slow(optimizer.view, "load_steps"), view)
    assert "load_steps" in view.code
    view.load(tmp_path / "none", wait=False)
    assert view.wait(60)
    assert "no such file" in view.status_line.value
    assert len(view.steps) == 3
