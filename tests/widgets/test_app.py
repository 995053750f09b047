"""All widgets on one page without a browser: what they share, what is made when, and what another model changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.io import assets
from cdvae_lab.widgets import App, Pick
from cdvae_lab.widgets.optimizer.region import Region
from cdvae_lab.widgets.parts.selection_bar import USES
from tests.small_model import SMALL


@pytest.fixture(scope="module")
def model() -> lab.CDVAE:
    return lab.load("perov_5")


@pytest.fixture
def app(model: lab.CDVAE) -> Iterator[App]:
    one = lab.app(model)
    yield one
    one.close()


def a_pick(model: lab.CDVAE, name: str = "KTaO3") -> Pick:
    path = assets.asset_path(f"examples/{name}.cif")
    return Pick(f"{name}, a file", lab.read(path), lab.encode(model, path), f"lab.asset_path('examples/{name}.cif')")


def another(model: lab.CDVAE, folder: Path) -> Path:
    """A checkpoint of another model: the same with other weights."""
    other = lab.load("perov_5")
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.01)
    return other.save(folder / "other.safetensors", steps=1)


class TestTabs:
    def test_only_the_first_is_there_at_once(self, app: App) -> None:
        assert list(app._panels) == ["player"]
        assert app.player.model is app.model
        app.tab = "map"
        assert list(app._panels) == ["player", "map"]
        assert app._boxes["map"].children == (app.map_view,)
        assert not app._boxes["optimizer"].children

    def test_model_map_and_selection_are_the_same_in_all(self, app: App) -> None:
        panels: list[Any] = [app.player, app.map_view, app.interpolation, app.optimizer]
        assert all(one.model is app.model for one in panels)
        assert all(one.selection is app.selection for one in panels)
        assert app.map_view.map is app.map
        assert app.optimizer.region == Region.of(app.map)
        assert app.interpolation.controls.map is None  # it draws on the shared one

    def test_what_a_hidden_tab_needs_is_made_but_not_drawn(self, app: App) -> None:
        app.tab = "interpolation"
        assert "map" in app._panels
        assert not app._boxes["map"].children  # no WebGL contexts for it

    def test_training_opens_when_its_data_are_there(self, model: lab.CDVAE) -> None:
        app = lab.app(model, tab="monitor")
        assert app._reader.running
        app.wait(60)
        assert app._boxes["monitor"].children[0] is app.monitor
        app.close()

    def test_data_that_cannot_be_read_are_named_in_the_tab(self, model: lab.CDVAE) -> None:
        app = lab.app(model, tab="monitor", dataset="no such data")
        app.wait(60)
        assert "no such data" in app._boxes["monitor"].children[0].value
        app.close()

    def test_settings_that_cannot_be(self, model: lab.CDVAE) -> None:
        with pytest.raises(SettingError, match="tab 'mapp'"):
            lab.app(model, tab="mapp")
        with pytest.raises(SettingError, match="perov_6"):
            lab.app("perov_6")


class TestTheChosenCrystal:
    def test_buttons_wait_for_one(self, app: App) -> None:
        assert all(one.disabled for one in app.bar.buttons.values())
        with pytest.raises(SettingError, match="no crystal is chosen"):
            app.use("player")
        app.selection.choose(a_pick(app._the_model))
        assert not any(one.disabled for one in app.bar.buttons.values())
        assert "KTaO3, a file" in app.bar._words.value
        assert "<img" in app.bar._image.value

    def test_it_reaches_every_tab(self, app: App) -> None:
        pick = a_pick(app._the_model)
        app.selection.choose(pick)
        for name in USES:
            app.bar.buttons[name].click()
            assert "Error" not in app._status.value
        app.interpolation.wait()
        assert app.interpolation.ends["a"].name == app.interpolation.ends["b"].name == pick.name
        app.player.run(wait=True)
        assert torch.equal(app.player.frame.z, pick.z.repeat(4, 1))
        app.optimizer.run(wait=True, steps=2)
        assert torch.equal(app.optimizer.steps[0].z, pick.z)
        x, y = app.map_view.plot.chosen
        [place] = app.map.place(pick.z).tolist()
        assert [x, y] == pytest.approx(place, abs=1e-4)
        assert app.tab == "map"

    def test_back_to_an_earlier_one(self, app: App) -> None:
        first, second = a_pick(app._the_model, "KTaO3"), a_pick(app._the_model, "BaTiO3")
        app.selection.choose(first)
        app.selection.choose(second)
        assert app.bar._history.label == "2: BaTiO3, a file"
        app.bar._history.value = 0
        assert app.selection.pick is first
        assert app.selection.history == (second, first)
        assert app.bar._history.label == "2: KTaO3, a file"

    def test_what_the_model_cannot_take_is_said(self, app: App, nacl: lab.Crystals) -> None:
        app.selection.choose(Pick("rock salt", nacl))
        with pytest.raises(CrystalError, match="end a"):
            app.use("a")
        app.bar.buttons["a"].click()
        assert "CrystalError" in app._status.value

    def test_paths_are_drawn_on_the_one_map(self, app: App) -> None:
        app.optimizer.run(wait=True, steps=2)
        app.interpolation.wait()
        app.interpolation.state.n = 3
        app.interpolation.run(wait=True)
        assert {"path", "the search"} <= set(app.map_view.plot.layers)


class TestCode:
    def test_it_is_that_of_the_tabs_and_runs(self) -> None:
        app = lab.app("perov_5")
        app.player.state.n = 1
        app.player.run(wait=True)
        app.player.select()
        app.optimizer.run(wait=True, steps=2)
        app.map_view.choose(3, wait=True)
        told = app.code
        assert told.count("lab.load('perov_5')") == 1
        assert told.count("lab.load_map('perov_5', model)") == 1
        there: dict[str, Any] = {}
        exec(told, there)
        assert torch.equal(there["frames"][-1].crystals.frac_coords, app.player.frames[-1].crystals.frac_coords)
        # Encoding what was decoded gives the latent back only nearly.
        assert there["steps"][-1].z.shape == app.optimizer.steps[-1].z.shape
        assert "# Denoise" in told
        assert "# Optimize" in told
        app.close()


class TestModels:
    def test_an_own_checkpoint_and_back(self, model: lab.CDVAE, tmp_path: Path) -> None:
        app = lab.app("perov_5")
        app.selection.choose(a_pick(model))
        old = app.player
        path = another(model, tmp_path)
        assert app._models.options == ("carbon_24", "mp_20", "perov_5")
        app._path.value = str(path)
        assert app.player is not old
        assert app.player.model is app.model
        assert app.map is None  # the bundled one is of other latents
        assert app.selection.pick.z is None  # so are those of the picks
        assert app._models.value == str(path)
        assert app._models.layout.display == ""
        app.tab = "map"
        assert "no map" in app._boxes["map"].children[0].value
        app.optimizer.run(wait=True, steps=1)
        assert repr(str(path)) in app.code
        app._models.value = "perov_5"
        assert app.map is not None
        assert app._boxes["map"].children == (app.map_view,)
        app.close()

    def test_one_that_cannot_be_read_changes_nothing(self, app: App, tmp_path: Path) -> None:
        (tmp_path / "broken.safetensors").write_bytes(b"nothing")
        player, known = app.player, app.model
        app._path.value = str(tmp_path / "broken.safetensors")
        assert "CheckpointError" in app._status.value
        with pytest.raises(CheckpointError):
            app.use_model(tmp_path / "broken.safetensors")
        with pytest.raises(CheckpointError):
            app.use_model(another(app._the_model, tmp_path), map="perov_5")
        assert app.player is player
        assert app.model is known

    def test_what_was_trained_is_taken_over_and_mapped(self, random_dataset: Dataset) -> None:
        app = lab.app("perov_5", dataset=random_dataset)
        app.monitor._config, app.monitor._small = lab.CDVAEConfig(6, **SMALL), False
        with pytest.raises(SettingError, match="no step"):
            app.use_trained()
        app.monitor.state.steps = 3
        app.monitor.state.batch_size = 8
        app.monitor.run(wait=True)
        monitor = app.monitor
        app.use_trained()
        assert app.monitor is monitor
        expected = monitor.averaged().state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in app._the_model.state_dict().items())
        assert app._models.value == "trained here, step 3"
        with pytest.raises(CheckpointError, match="no map"):
            app.map_view  # noqa: B018
        app.make_map(wait=True)
        assert isinstance(app.map, LatentMap)
        assert len(app.map_view.map) == 20
        compile(app.code, "code", "exec")
        app.close()


def test_close_ends_threads_and_listens_no_more(model: lab.CDVAE) -> None:
    before = threading.active_count()
    app = lab.app(model)
    for name in ("interpolation", "optimizer", "map"):
        app.tab = name
    app.player.run()
    app.interpolation.wait()
    app.close()
    assert threading.active_count() == before
    app.selection.choose(a_pick(model))  # nobody answers
    assert not app.selection._trait_notifiers.get("pick", {}).get("change")
    assert not app.player.view.stage.comm


def test_the_picture_for_pages_without_widgets(app: App) -> None:
    assert "JupyterLab" in app._repr_mimebundle_()["text/plain"]
    assert "image/png" not in app._repr_mimebundle_()
    app.selection.choose(a_pick(app._the_model))
    assert "image/png" in app._repr_mimebundle_()
