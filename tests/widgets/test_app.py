"""All widgets on one page without a browser: what they share, what is made when, and what another model changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.io import assets
from cdvae_lab.widgets import App, Pick
from cdvae_lab.widgets.base.fields import descendants
from cdvae_lab.widgets.optimizer.region import Region
from cdvae_lab.widgets.parts.selection_bar import USES


@pytest.fixture(scope="module")
def model() -> lab.CDVAE:
    return lab.load("perov_5")


@pytest.fixture
def app(model: lab.CDVAE) -> Iterator[App]:
    one = lab.app(model)
    yield one
    one.close()


def shown(app: App) -> tuple[Any, ...]:
    """What the open tab shows."""
    [tabs] = [one for one in app.children if isinstance(one, ipywidgets.Tab)]
    return tabs.children[tabs.selected_index].children


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
        assert list(app.views) == ["player"]
        assert app.player.model is app.model
        app.tab = "map"
        assert list(app.views) == ["player", "map"]
        assert shown(app) == (app.map_view,)
        assert "optimizer" not in app.views

    def test_model_map_and_selection_are_the_same_in_all(self, app: App) -> None:
        panels: list[Any] = [app.player, app.map_view, app.interpolation, app.optimizer]
        assert all(one.model is app.model for one in panels)
        assert all(one.selection is app.selection for one in panels)
        assert app.map_view.map is app.map
        assert app.optimizer.region == Region.of(app.map)
        assert app.interpolation.controls.map is None  # it draws on the shared one

    def test_what_a_hidden_tab_needs_is_made_but_not_drawn(self, app: App) -> None:
        app.tab = "interpolation"
        assert "map" in app.views
        assert app.map_view not in descendants(app)  # no WebGL contexts for it

    def test_training_opens_when_its_data_are_there(self, model: lab.CDVAE) -> None:
        app = lab.app(model, tab="monitor")
        assert app.running
        app.wait(60)
        assert shown(app)[0] is app.monitor
        app.close()

    def test_data_that_cannot_be_read_are_named_in_the_tab(self, model: lab.CDVAE) -> None:
        app = lab.app(model, tab="monitor", dataset="no such data")
        app.wait(60)
        assert "no such data" in shown(app)[0].value
        app.close()

    def test_settings_that_cannot_be(self, model: lab.CDVAE) -> None:
        with pytest.raises(SettingError, match="tab is 'mapp'"):
            lab.app(model, tab="mapp")
        with pytest.raises(SettingError, match="perov_6"):
            lab.app("perov_6")


class TestTheChosenCrystal:
    def test_buttons_wait_for_one(self, app: App) -> None:
        assert all(one.disabled for one in app.bar.buttons.values())
        with pytest.raises(SettingError, match="no crystal is selected"):
            app.use("player")
        app.selection.choose(a_pick(app.model))
        assert not any(one.disabled for one in app.bar.buttons.values())
        assert "KTaO3, a file" in app.bar._words.value
        assert "<img" in app.bar._image.value

    def test_it_reaches_every_tab(self, app: App) -> None:
        pick = a_pick(app.model)
        app.selection.choose(pick)
        for name in USES:
            app.bar.buttons[name].click()
            assert "Error" not in app.status_line.value
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

    def test_those_before_are_offered_once_there_are_some_with_their_whole_names(self, app: App) -> None:
        assert app.bar._before.layout.display == "none"
        long = replace(a_pick(app.model), name="KTaO3 (a name that is " + "very " * 20 + "long)")
        app.selection.choose(long)
        assert app.bar._before.layout.display == ""
        assert app.bar._history.tooltip == long.name
        app.selection.pick = None  # one before can be chosen again
        assert app.bar._history.label == "(choose one)"
        app.bar._history.value = 0
        assert app.selection.pick is long

    def test_back_to_an_earlier_one(self, app: App) -> None:
        first, second = a_pick(app.model, "KTaO3"), a_pick(app.model, "BaTiO3")
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
        assert "CrystalError" in app.status_line.value

    def test_paths_are_drawn_on_the_one_map(self, app: App) -> None:
        app.optimizer.run(wait=True, steps=2)
        app.interpolation.wait()
        app.interpolation.state.n = 3
        app.interpolation.run(wait=True)
        assert {"path", "the search"} <= set(app.map_view.plot.layers)


def replayed(app: App, **names: Any) -> dict[str, Any]:
    """Run the code of all tabs."""
    exec(app.code, names)
    return names


class TestCode:
    """The code is executed after every kind of action; the imports of one tab serve all."""

    @pytest.fixture
    def lab_app(self) -> Iterator[App]:
        one = lab.app("perov_5")
        one.player.state.update({"n": 1, "sampler": "preview"})
        yield one
        one.close()

    def test_of_several_tabs_in_one_program(self, lab_app: App) -> None:
        lab_app.player.run(wait=True)
        lab_app.player.select()
        lab_app.optimizer.run(wait=True, steps=2)
        lab_app.map_view.choose(3, wait=True)
        code = lab_app.code
        assert code.count("lab.load('perov_5')") == 1
        assert code.count("lab.load_map('perov_5', model)") == 1
        assert "# Denoise" in code
        assert "# Optimize" in code
        there = replayed(lab_app)
        last = lab_app.player.frames[-1].crystals
        assert there["steps"][-1].z.shape == lab_app.optimizer.steps[-1].z.shape
        frames = there["frames"]
        assert torch.equal(frames[-1].crystals.frac_coords, last.frac_coords)

    def test_after_a_stop(self, lab_app: App) -> None:
        """The line that imports islice was cut off."""
        lab_app.player.run()
        lab_app.player.stop()
        lab_app.player.wait()
        there = replayed(lab_app)
        assert len(there["frames"]) == len(lab_app.player.frames) < 51
        lab_app.player.resume(wait=True)
        assert len(replayed(lab_app)["frames"]) == 51

    def test_after_decoding_an_empty_place(self, lab_app: App) -> None:
        """The line that imports torch was cut off."""
        lab_app.map_view.decode_at(0.5, 0.25, wait=True)
        lab_app.player.run(wait=True)
        there = replayed(lab_app)
        assert torch.equal(there["z"], lab_app.selection.pick.z)

    def test_a_crystal_of_one_tab_used_in_others(self, lab_app: App) -> None:
        lab_app.optimizer.run(wait=True, steps=3)
        lab_app.optimizer.choose()
        lab_app.use("player")  # whose code comes before that of the optimizer
        lab_app.player.run(wait=True)
        there = replayed(lab_app)
        assert torch.allclose(there["frames"][-1].z, lab_app.player.frames[-1].z)
        lab_app.player.select()
        for end in ("a", "b"):
            lab_app.use(end)
        lab_app.interpolation.wait()
        lab_app.interpolation.state.n = 2
        lab_app.interpolation.run(wait=True)
        replayed(lab_app)

    def test_a_model_that_was_trained_stopped_and_used_in_other_tabs(self, random_dataset: Dataset) -> None:
        app = lab.app("perov_5", dataset=random_dataset)
        app.monitor.state.update({"steps": 400, "batch_size": 8, "validate_every": 500})
        app.monitor.run()
        while not app.monitor.records:
            app.monitor.wait(0.02)
        app.monitor.stop()
        app.monitor.wait()
        app.use_trained()
        app.player.state.update({"n": 1, "sampler": "preview"})
        app.player.run(wait=True)
        there = replayed(app, data=random_dataset)
        assert there["step"].step == app.monitor.step.step
        assert app.code.count("lab.fit(") == 1  # the training is not done twice
        # Weights of another initialization: the frames are of the same run of another model.
        assert len(there["frames"]) == len(app.player.frames)
        app.monitor.resume()
        app.monitor.stop()
        app.monitor.wait()
        replayed(app, data=random_dataset)
        app.close()

    def test_after_a_change_of_the_model(self, lab_app: App) -> None:
        lab_app.player.run(wait=True)
        lab_app.player.select()
        lab_app.use_model("carbon_24")
        lab_app.player.state.update({"n": 1, "sampler": "preview"})
        lab_app.player.run(wait=True)
        there = replayed(lab_app)
        assert torch.equal(there["frames"][-1].z, lab_app.player.frames[-1].z)


class TestState:
    def test_tab_and_fields_are_traits(self, app: App) -> None:
        app.state.tab = "optimizer"
        assert shown(app) == (app.optimizer,)
        with pytest.raises(SettingError, match="tab is 'no such'"):
            app.tab = "no such"
        assert app.tab == "optimizer"
        with pytest.raises(SettingError, match="model is 'no such'"):
            app.state.model = "no such"

    def test_a_model_is_read_in_the_background(self) -> None:
        app = lab.app("perov_5")
        app.state.model = "carbon_24"
        assert app.running
        assert "reading the model carbon_24" in app.status_line.value
        assert app.wait(30)
        assert app.player.model is app.model
        assert app.model.metadata["data"]["name"] == "carbon_24"
        app.close()


class TestModels:
    def test_an_own_checkpoint_and_back(self, model: lab.CDVAE, tmp_path: Path) -> None:
        app = lab.app("perov_5")
        app.selection.choose(a_pick(model))
        old = app.player
        path = another(model, tmp_path)
        assert [word for _, word in app.state.options("model")] == assets.models()
        app.state.own_checkpoint = str(path)
        assert app.wait(20)
        assert app.player is not old
        assert app.player.model is app.model
        assert app.map is None  # the bundled one is of other latents
        assert app.selection.pick.z is None  # so are those of the picks
        assert app.state.model == str(path)
        app.tab = "map"
        assert "no map" in shown(app)[0].value
        app.optimizer.run(wait=True, steps=1)
        assert repr(str(path)) in app.code
        app.state.model = "perov_5"
        assert app.wait(20)
        assert app.map is not None
        assert shown(app) == (app.map_view,)
        app.close()

    def test_one_that_cannot_be_read_changes_nothing(self, app: App, tmp_path: Path) -> None:
        (tmp_path / "broken.safetensors").write_bytes(b"nothing")
        player, known = app.player, app.model
        app.state.own_checkpoint = str(tmp_path / "broken.safetensors")
        assert app.wait(20)
        assert app.state.model == "given model"
        assert "CheckpointError" in app.status_line.value
        with pytest.raises(CheckpointError):
            app.use_model(tmp_path / "broken.safetensors")
        with pytest.raises(CheckpointError):
            app.use_model(another(app.model, tmp_path), map="perov_5")
        assert app.player is player
        assert app.model is known

    def test_what_was_trained_is_taken_over_and_mapped(self, random_dataset: Dataset) -> None:
        app = lab.app("perov_5", dataset=random_dataset)
        take = app.controls._use_trained
        assert take.disabled
        assert "no trained model yet" in take.tooltip
        with pytest.raises(SettingError, match="no step"):
            app.use_trained()
        app.monitor.state.steps = 3
        app.monitor.state.batch_size = 8
        app.monitor.run(wait=True)
        monitor = app.monitor
        assert not take.disabled
        assert app.controls._no_model.layout.display == "none"
        app.use_trained()
        assert app.monitor is monitor
        expected = monitor.averaged().state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in app.model.state_dict().items())
        assert app.state.model == "trained here, step 3"
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
    app.selection.choose(a_pick(model))  # no observer is left
    assert not app.selection._trait_notifiers.get("pick", {}).get("change")
    assert not app.player.view.stage.comm


def test_the_picture_for_pages_without_widgets(app: App) -> None:
    assert "JupyterLab" in app._repr_mimebundle_()["text/plain"]
    assert "image/png" not in app._repr_mimebundle_()
    app.selection.choose(a_pick(app.model))
    assert "image/png" in app._repr_mimebundle_()
