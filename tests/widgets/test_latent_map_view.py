"""The map view without a browser: clicks, lassos, files, and the code that repeats them."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

import cdvae_lab as lab
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError
from cdvae_lab.explore.latent_map import LatentMap, load_map, map_of
from cdvae_lab.figures import GRID, POINTS, THEMES
from cdvae_lab.figures.maps import WITHOUT
from cdvae_lab.widgets import LatentMapView, Pick, Selection
from cdvae_lab.widgets.base.worker import THREAD
from cdvae_lab.widgets.parts.files import Upload
from cdvae_lab.widgets.parts.map_figure import TRAINING
from tests.small_model import SMALL

MAPS: list[LatentMap] = []  # that of the fixture
STEPS = 24  # enough for what is tested here; 200 make better crystals


@pytest.fixture(scope="module")
def model() -> lab.CDVAE:
    return lab.load("perov_5")


@pytest.fixture(scope="module")
def known(model: lab.CDVAE) -> LatentMap:
    """A hundred points of the bundled map: quick to draw. Ten have no label."""
    whole = load_map("perov_5", model)
    parts = {n: getattr(whole, n)[:100] for n in ("xy", "latents", "labels", "num_atoms", "density", "ids", "formulas")}
    parts["labels"] = torch.where(torch.arange(100) < 10, torch.nan, parts["labels"])
    MAPS[:] = [dataclasses.replace(whole, **parts)]
    return MAPS[0]


@pytest.fixture
def view(model: lab.CDVAE, known: LatentMap, tmp_path: Path) -> Iterator[LatentMapView]:
    one = LatentMapView(model, known, data_folder=tmp_path / "no data here", steps=STEPS)
    yield one
    one.close()


def trace(view: LatentMapView, name: str):
    [found] = [one for one in view.plot.figure.data if one.name == name]
    return found


def run_code(view: LatentMapView) -> dict:
    """The names that the view's code binds; the map of the fixture has no name of its own."""
    names: dict = {"model": view.model, "known": view.map}
    exec(view.code, names)
    return names


def assert_replays(pick: Pick) -> None:
    """Run the code of a pick alone, and compare its crystal."""
    names: dict = {"model": lab.load("perov_5"), "known": MAPS[0]}
    exec(str(pick.replay), names)
    assert torch.equal(names["crystal"].frac_coords, pick.crystal.frac_coords)
    assert torch.equal(names["z"], pick.z)


def points(*numbers: int, **places) -> SimpleNamespace:
    """The points of one trace in a message of plotly."""
    return SimpleNamespace(point_inds=list(numbers), **{"xs": [0.0], "ys": [0.0]} | places)


class TestClicks:
    def test_a_crystal_is_decoded_from_its_latent_and_that_is_said(
        self, view: LatentMapView, model: lab.CDVAE, known: LatentMap
    ) -> None:
        clicked = trace(view, POINTS)
        clicked._dispatch_on_click(points(3), None)  # its number on the map is in customdata
        assert view.running
        assert view.wait(30)
        index = int(clicked.customdata[3])
        assert index == 13
        expected = lab.last(lab.denoise(model, z=known.latents[[index]].float(), steps=STEPS)).crystals
        pick = view.selection.pick
        assert torch.equal(pick.crystal.frac_coords, expected.frac_coords)
        assert torch.equal(pick.z, known.latents[[index]].float())
        assert "decodes from its latent" in view.controls.caption.value
        assert known.ids[index] in view.controls.caption.value
        assert len(view.view.frames) > 20  # live
        assert view.status_line.value == f"{reduced_formulas(expected)[0]} is decoded"

    def test_the_picks_code_gives_its_crystal(self, view: LatentMapView, model: lab.CDVAE, known: LatentMap) -> None:
        view.choose(5, wait=True)
        pick = view.selection.pick
        assert_replays(pick)
        names = {"lab": lab, "model": model, "known": known}
        assert torch.equal(eval(pick.code, names).frac_coords, view.selection.pick.crystal.frac_coords)
        names = run_code(view)
        assert torch.equal(names["crystal"].frac_coords, view.selection.pick.crystal.frac_coords)

    def test_an_empty_place_is_decoded_from_the_latents_around(
        self, view: LatentMapView, model: lab.CDVAE, known: LatentMap
    ) -> None:
        net = trace(view, GRID)
        x, y = float(net.x[7]), float(net.y[7])
        net._dispatch_on_click(points(7, xs=[x], ys=[y]), None)
        assert view.wait(30)
        z = known.latent_at(torch.tensor([[x, y]]))
        assert torch.equal(view.selection.pick.z, z)
        assert "An empty place" in view.controls.caption.value
        names = run_code(view)
        assert torch.equal(names["z"], z)
        assert torch.equal(names["crystal"].frac_coords, view.selection.pick.crystal.frac_coords)
        assert_replays(view.selection.pick)

    def test_traces_that_were_not_hit_say_nothing(self, view: LatentMapView) -> None:
        for one in view.plot.figure.data:
            one._dispatch_on_click(points(), None)
        assert not view.running
        assert view.selection.pick is None

    def test_a_new_click_ends_the_old_decoding(self, view: LatentMapView, known: LatentMap) -> None:
        view.choose(20)
        view.choose(21)
        assert view.wait(30)
        assert [pick.z.equal(known.latents[[21]].float()) for pick in view.selection.history] == [True]
        assert not [t for t in threading.enumerate() if t.name == THREAD]

    def test_stop_after_which_the_code_still_runs(self, view: LatentMapView) -> None:
        view.decode_at(5.0, 5.0, wait=True)
        view.selection.pick = None
        view.choose(20)
        view.stop()
        assert view.wait(10)
        assert view.selection.pick is None
        assert "stopped" in view.status_line.value
        assert torch.equal(run_code(view)["z"], view.map.latent_at(torch.tensor([[5.0, 5.0]])))

    def test_an_error_is_shown(self, view: LatentMapView, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*args: object, **kwargs: object) -> Iterator:
            yield from list(lab.denoise(view.model, n=1, steps=4))[:2]
            raise RuntimeError("the <network> is on fire")

        monkeypatch.setattr("cdvae_lab.widgets.latent_map.decoder.denoise", fails)
        view.choose(2)
        assert view.wait(10)
        assert "the &lt;network&gt; is on fire" in view.status_line.value


class TestTheDataItself:
    @pytest.fixture
    def folder(self, known: LatentMap, model: lab.CDVAE, tmp_path: Path) -> Path:
        """A "public file" of other ids, with two crystals of one formula; the second is that of the map's point 0."""
        made = lab.last(lab.denoise(model, z=known.latents[:1].float())).crystals
        [structure] = made.to_structures()
        other = structure.copy()
        other.perturb(0.4)
        (tmp_path / "perov_5").mkdir()
        with gzip.open(tmp_path / "perov_5" / "train.csv.gz", "wt", newline="") as file:
            table = csv.writer(file)
            table.writerow(["material_id", "cif", "heat_ref"])
            table.writerow(["x", str(CifWriter(other)), 0])
            table.writerow(["y", str(CifWriter(structure)), 0])
        return tmp_path

    def test_it_is_shown_where_its_file_is(self, known: LatentMap, model: lab.CDVAE, folder: Path) -> None:
        # The map's latent is that of the crystal in the file, so that it is the same crystal.
        made = lab.datasets.find_crystals("perov_5", "train", "y", "?", folder=folder)
        latents = torch.cat([lab.encode(model, made).half(), known.latents[1:]])
        view = LatentMapView(model, dataclasses.replace(known, latents=latents), data_folder=folder, steps=STEPS)
        view.choose(0)
        assert "crystal of the data file" in view.controls.caption.value
        assert torch.equal(view.selection.pick.crystal.frac_coords, made.frac_coords)
        again = eval(view.selection.pick.code, {"lab": lab})
        assert torch.equal(again.frac_coords, made.frac_coords)
        view.choose(1, wait=True)  # which the file lacks
        assert "decodes from its latent" in view.controls.caption.value
        view.close()

    def test_another_crystal_of_the_formula_is_not_taken_for_it(
        self, known: LatentMap, model: lab.CDVAE, folder: Path
    ) -> None:
        far = dataclasses.replace(known, latents=known.latents + 1)
        view = LatentMapView(model, far, data_folder=folder, steps=STEPS)
        view.choose(0, wait=True)
        assert "decodes from its latent" in view.controls.caption.value
        view.close()


class TestLassoAndExport:
    def test_a_lasso_makes_a_table(self, view: LatentMapView, known: LatentMap, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match="table is empty"):
            view.export_table(tmp_path / "t.csv")
        # One message from the browser reaches every trace, in their order.
        trace(view, WITHOUT)._dispatch_on_selection(points(1, 2), None)
        trace(view, POINTS)._dispatch_on_selection(points(0, 5), None)
        assert view.table.index.tolist() == [1, 2, 10, 15]
        assert view.table["formula"].tolist() == [known.formulas[i] for i in (1, 2, 10, 15)]
        assert view.table["heat_ref (eV/atom)"].isna().tolist() == [True, True, False, False]
        written = list(csv.DictReader(view.export_table(tmp_path / "t.csv").read_text().splitlines()))
        assert [row["id"] for row in written] == [known.ids[i] for i in (1, 2, 10, 15)]
        assert float(written[2]["density (g/cm³)"]) == pytest.approx(float(known.density[10]), abs=1e-3)
        view.clear()
        assert len(view.table) == 0

    def test_cifs_of_the_lasso_and_their_code(self, view: LatentMapView, known: LatentMap, tmp_path: Path) -> None:
        view.select([3, 4, 50])
        view.export_cifs(tmp_path, wait=True)
        files = sorted(tmp_path.glob("*.cif"))
        texts = [file.read_text() for file in files]
        for file in files:
            file.unlink()
        run_code(view)
        assert [file.read_text() for file in sorted(tmp_path.glob("*.cif"))] == texts
        assert [f.stem for f in files] == sorted(f"{known.formulas[i]}_{known.ids[i]}_decoded" for i in (3, 4, 50))
        assert all(len(Structure.from_file(f)) == 5 for f in files)
        assert "3 of 3 files" in view.status_line.value

    def test_an_export_can_be_stopped(self, view: LatentMapView, tmp_path: Path) -> None:
        view.select(range(100))
        view.export_cifs(tmp_path)
        view.stop()
        assert view.wait(30)
        assert "stopped: 0 of 100" in view.status_line.value
        assert not list(tmp_path.glob("*.cif"))


class TestLayers:
    def test_a_path_of_latents_and_one_of_places(self, view: LatentMapView, known: LatentMap) -> None:
        view.set_path("mine", known.latents[[4, 9]].float(), ["one", "two"])
        line = trace(view, "mine")
        np.testing.assert_allclose(line.x, known.xy[[4, 9], 0], atol=1e-5)
        assert line.mode == "lines+markers"
        assert "one" in line.text[0]
        view.set_path("mine", xy=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        assert list(trace(view, "mine").x) == [1, 3, 5]
        assert [box.description for box in view.controls.layers.children] == [TRAINING, "mine"]
        view.remove("mine")
        view.remove("mine")
        assert [box.description for box in view.controls.layers.children] == [TRAINING]
        assert "mine" not in {t.name for t in view.plot.figure.data}

    def test_a_click_on_a_layer(self, view: LatentMapView, known: LatentMap, srtio3: lab.Crystals) -> None:
        view.set_layer("shown", xy=[[1.0, 2.0]], crystals=srtio3)
        trace(view, "shown")._dispatch_on_click(points(0, xs=[1.0], ys=[2.0]), None)
        assert torch.equal(view.selection.pick.crystal.atomic_numbers, srtio3.atomic_numbers)
        view.set_layer("decoded", known.latents[:3].float())
        trace(view, "decoded")._dispatch_on_click(points(2), None)
        assert view.wait(30)
        assert torch.equal(view.selection.pick.z, known.latents[[2]].float())
        assert torch.equal(run_code(view)["crystal"].frac_coords, view.selection.pick.crystal.frac_coords)
        with pytest.raises(SettingError, match="no layer 'else'"):
            view.choose_in("else", 0)
        with pytest.raises(SettingError, match="point 3"):
            view.choose_in("decoded", 3)

    def test_a_layer_can_be_hidden_and_stays_so(self, view: LatentMapView) -> None:
        view.set_layer("mine", xy=[[1.0, 2.0]])
        training, mine = view.controls.layers.children
        training.value = mine.value = False
        view.color = "density"
        assert not trace(view, POINTS).visible
        assert not trace(view, "mine").visible
        assert view.state.hidden == [TRAINING, "mine"]
        view.state.hidden = ["mine"]
        assert trace(view, POINTS).visible
        assert training.value

    def test_refusals(self, view: LatentMapView, known: LatentMap) -> None:
        with pytest.raises(SettingError, match="either z"):
            view.set_path("p")
        with pytest.raises(SettingError, match="either z"):
            view.set_path("p", known.latents[:2].float(), xy=[[0.0, 0.0]])
        with pytest.raises(SettingError, match="name of the map's own"):
            view.set_layer(GRID, xy=[[0.0, 0.0]])
        with pytest.raises(SettingError, match="5 dimensions"):
            view.set_layer("l", torch.zeros(1, 5))

    def test_generated_crystals(self, view: LatentMapView, model: lab.CDVAE) -> None:
        view.generate(3, seed=2, wait=True)
        made = lab.last(lab.denoise(model, n=3, seed=2, steps=STEPS))
        assert len(trace(view, "generated").x) == 3
        assert view.status_line.value == "3 crystals are generated and placed on the map"
        trace(view, "generated")._dispatch_on_click(points(1), None)
        assert torch.equal(view.selection.pick.crystal.frac_coords, made.crystals[1].trim().frac_coords)
        assert torch.equal(view.selection.pick.z, made.z[[1]])
        assert_replays(view.selection.pick)
        assert torch.equal(run_code(view)["z"], made.z)


class TestOwnCrystals:
    def test_they_are_placed_and_the_broken_one_is_named(self, view: LatentMapView, tmp_path: Path) -> None:
        before = view.map.xy.clone()
        (tmp_path / "broken.cif").write_text("data_x\n")
        good = [lab.asset_path(f"examples/{name}.cif") for name in ("SrTiO3", "KTaO3")]
        with pytest.raises(CrystalError, match=r"broken\.cif"):
            view.add_own([good[0], tmp_path / "broken.cif", good[1]])
        placed = trace(view, "own crystals")
        expected = view.map.place(lab.encode(view.model, good))
        np.testing.assert_allclose(np.stack([placed.x, placed.y], 1), expected, atol=1e-5)
        assert "SrTiO3" in placed.text[0]
        assert torch.equal(view.map.xy, before)
        np.testing.assert_allclose(run_code(view)["places"], expected, atol=1e-5)

    def test_uploads(self, view: LatentMapView) -> None:
        content = lab.asset_path("examples/BaTiO3.cif").read_bytes()
        one = {"name": "mine.cif", "type": "", "size": len(content), "content": memoryview(content)}
        view.add_own(Upload.of([one]))
        assert "BaTiO3 (mine.cif)" in trace(view, "own crystals").text[0]
        assert view.selection.pick.name == "BaTiO3 (own crystals)"
        names = run_code(view)
        assert torch.equal(names["made"].frac_coords[0], view.selection.pick.crystal.frac_coords[0])
        assert_replays(view.selection.pick)

    def test_a_path_from_the_field_and_a_structure(self, view: LatentMapView) -> None:
        with pytest.raises(SettingError, match="which file"):
            view.add_own()
        view.state.file = str(lab.asset_path("examples/KTaO3.cif"))
        view.controls.place.click()
        view.add_own(Structure.from_file(lab.asset_path("examples/SrTiO3.cif")))
        assert "KTaO3" in trace(view, "own crystals").text[0]
        assert "SrTiO3" in trace(view, "own crystals").text[1]
        names = {"model": view.model, "known": view.map, "given_0": lab.asset_path("examples/SrTiO3.cif")}
        exec(view.code, names)
        assert len(names["places"]) == 2
        view.remove("own crystals")
        view.add_own(lab.asset_path("examples/BaTiO3.cif"))
        assert len(trace(view, "own crystals").x) == 1

    def test_one_that_the_model_does_not_take(self, view: LatentMapView) -> None:
        with pytest.raises(CrystalError, match="diamond"):
            view.add_own(lab.asset_path("examples/diamond.cif"))


class TestCrystalsFarFromTheTrainingData:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """KZnF3, whose latent stands for another composition with this model, and not with two others."""
        places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        path = tmp_path / "KZnF3.cif"
        Structure(Lattice.cubic(4.05), ["K", "Zn", "F", "F", "F"], places).to(str(path))
        return path

    def test_own_ones_are_placed_with_a_warning_in_words(self, view: LatentMapView, file: Path) -> None:
        view.add_own([lab.asset_path("examples/SrTiO3.cif"), file])
        note = view.controls.note
        assert "Not represented" in note.value
        assert "its place on the map is that of such a crystal" in note.value
        assert "latent stands for K<sub>2</sub>ZnOF" in note.value
        assert "Bundled models that represent it: inorganic, mp_20." in note.value
        assert view.status_line.value == "2 crystals are placed on the map; the model does not represent KZnF3"
        known, far = trace(view, "own crystals").text
        assert "stands for" not in known
        assert "its latent stands for K2ZnOF" in far
        view.choose_in("own crystals", 0)
        assert "Shown: your crystal" in view.controls.caption.value
        assert note.value == ""
        view.choose_in("own crystals", 1)  # said again
        assert "K<sub>2</sub>ZnOF" in note.value
        view.choose(3, wait=True)
        assert note.value == ""

    def test_so_are_those_of_other_views(self, view: LatentMapView, srtio3: lab.Crystals, file: Path) -> None:
        far = lab.read(file)
        z = view.map.latents[:1].float()
        view.selection.choose(Pick("theirs", far))
        assert "inorganic, mp_20" in view.controls.note.value
        view.selection.choose(Pick("also theirs", srtio3))
        assert "also theirs" in view.controls.caption.value
        assert view.controls.note.value == ""
        view.selection.choose(Pick("decoded", far, z))  # whose elements need not be those predicted from z
        assert view.controls.note.value == ""
        view.selection.choose(Pick("encoded", far, z, encoded=True))
        assert "Not represented" in view.controls.note.value

    def test_own_ones_that_are_chosen_again_later(self, view: LatentMapView, srtio3: lab.Crystals, file: Path) -> None:
        view.add_own(file)
        own = view.selection.pick
        view.selection.choose(Pick("theirs", srtio3))
        view.selection.choose(own)
        assert f"<b>{own.name}</b>" in view.controls.caption.value
        assert "Not represented" in view.controls.note.value


class TestControls:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_the_figure_follows_the_theme_and_keeps_the_place(self, view: LatentMapView, theme: str) -> None:
        view.plot.page.dark = theme == "light"
        view.plot.figure.update_layout(xaxis_range=[1.0, 2.0], yaxis_range=[3.0, 4.0])
        view.plot.page.dark = theme == "dark"
        assert view.plot.figure.layout.font.color == THEMES[theme].ink
        assert view.plot.figure.layout.xaxis.range == (1.0, 2.0)

    def test_closer_the_net_is_finer(self, view: LatentMapView) -> None:
        coarse = trace(view, GRID)
        assert coarse.x.max() - coarse.x.min() > 4
        view.plot.figure.update_layout(xaxis_range=[4.0, 5.0], yaxis_range=[4.0, 5.0])
        fine = trace(view, GRID)
        assert fine.x.max() - fine.x.min() < 1.1
        assert len(fine.x) > 1000

    def test_colors(self, view: LatentMapView, model: lab.CDVAE, known: LatentMap) -> None:
        view.state.color = "num_atoms"  # always 5: the bar must have a width
        assert trace(view, POINTS).marker.cmin < 5 < trace(view, POINTS).marker.cmax
        view.controls.color.value = "predicted"
        values = model.predict_property(known.latents.float())
        assert torch.allclose(torch.tensor(trace(view, POINTS).marker.color, dtype=torch.float32), values, atol=1e-4)
        run_code(view)
        with pytest.raises(SettingError, match="no such"):
            view.color = "no such"
        # An element whose share is the same wherever it occurs.
        same = next(e for e in known.elements if len(known.share(e)[known.share(e) > 0].unique()) == 1)
        view.color = same
        assert trace(view, POINTS).marker.cmax - trace(view, POINTS).marker.cmin > 0.5

    def test_what_others_choose_is_ringed(self, model: lab.CDVAE, known: LatentMap, srtio3: lab.Crystals) -> None:
        selection = Selection()
        view = LatentMapView(model, known, selection=selection)
        selection.choose(Pick("theirs", srtio3))
        [expected] = known.place(lab.encode(model, srtio3)).tolist()
        assert view.plot.chosen == pytest.approx(tuple(expected), abs=1e-4)
        assert "theirs" in view.controls.caption.value
        view.close()
        selection.choose(Pick("later", srtio3))  # a closed one listens no more
        assert "later" not in view.controls.caption.value

    def test_the_mark_is_seen_while_there_is_a_lasso(self, view: LatentMapView, known: LatentMap) -> None:
        # plotly fades all that is not in a lasso, whatever the trace.
        trace(view, POINTS)._dispatch_on_selection(points(0, 5), None)
        view.find(known.ids[33], wait=True)
        [mark] = [one for one in view.plot.figure.data if list(one.x) == [float(known.xy[33, 0])]]
        assert mark.unselected.marker.opacity == mark.selected.marker.opacity == 1

    def test_the_fields_are_saved_and_restored(self, view: LatentMapView, tmp_path: Path) -> None:
        view.state.update({"color": "density", "hidden": [TRAINING], "n": 3, "mouse": "lasso"})
        other = LatentMapView(view.model, view.map)
        other.state.load(view.state.save(tmp_path / "map.json"))
        assert other.color == "density"
        assert other.plot.figure.layout.dragmode == "lasso"
        assert not trace(other, POINTS).visible
        assert other.controls.n.value == 3
        other.close()

    def test_the_picture_under_the_mouse_takes_no_more_room_than_none(self, view: LatentMapView) -> None:
        view.choose(12, wait=True)
        empty = view.controls.glance.layout.height
        trace(view, POINTS)._dispatch_on_hover(points(2), None)
        assert "img" in view.controls.glance.value
        assert view.controls.glance.layout.height == empty is not None

    def test_find(self, view: LatentMapView, known: LatentMap) -> None:
        assert view.find(known.ids[33], wait=True) == [33]
        assert view.table.index.tolist() == [33]
        with pytest.raises(SettingError, match="no crystal"):
            view.find("Xx9")

    def test_a_picture_where_widgets_cannot_run(self, view: LatentMapView) -> None:
        view.choose(1, wait=True)
        assert "image/png" in view._repr_mimebundle_()


class TestWhichMap:
    def test_a_formula_is_found_in_any_order(self, known: LatentMap) -> None:
        assert 5 in known.find("O2AuGaS")
        assert known.find("o2") == []

    def test_the_bundled_map_of_a_model(self, model: lab.CDVAE, random_dataset: lab.Dataset) -> None:
        found = map_of(model)
        assert found is not None
        assert found.model == load_map("perov_5").model
        other = lab.CDVAE.for_dataset(random_dataset, **SMALL)
        assert map_of(other) is None
        with pytest.raises(CheckpointError, match=r"LatentMap\.fit"):
            LatentMapView(other)
        with pytest.raises(CheckpointError, match="fingerprint"):
            LatentMapView(other, found)

    def test_height_out_of_range(self, model: lab.CDVAE) -> None:
        with pytest.raises(SettingError, match="height"):
            LatentMapView(model, height=20)
