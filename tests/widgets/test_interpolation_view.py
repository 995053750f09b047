"""The interpolation view without a browser: its ends, its runs, its text, its code, and its files."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from PIL import Image
from pymatgen.core import Lattice, Structure

import cdvae_lab as lab
from cdvae_lab.crystals.formulas import cell_formulas
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError, UnfamiliarCrystalWarning
from cdvae_lab.figures.paths import CURRENT
from cdvae_lab.metrics import reconstruction
from cdvae_lab.models.familiarity import models_that_keep
from cdvae_lab.widgets import InterpolationView, LatentMapView, Pick, Selection
from cdvae_lab.widgets.interpolation.path_end import default_ends
from cdvae_lab.widgets.interpolation.path_map import PATH
from cdvae_lab.widgets.parts.files import Upload
from tests.small_model import SMALL

PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
STEPS = 24  # enough for what is tested here; 200 make better crystals


@pytest.fixture(scope="module")
def model() -> lab.CDVAE:
    return lab.load("perov_5")


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    return {name: lab.asset_path(f"examples/{name}.cif") for name in ("SrTiO3", "KTaO3", "BaTiO3", "diamond")}


@pytest.fixture
def view(model: lab.CDVAE, files: dict[str, Path]) -> Iterator[InterpolationView]:
    one = InterpolationView(model, files["SrTiO3"], files["KTaO3"], n=5, steps=STEPS)
    yield one
    one.close()


def run_code(view: InterpolationView, **given: object) -> lab.Crystals:
    """The crystals that the view's code makes."""
    names: dict = {"model": view.model, **given}
    exec(view.code, names)
    return names["crystals"]


def caption(view: InterpolationView, letter: str) -> str:
    return view.controls.ends[letter].caption.value


def click_on_path(figure, number: int) -> None:
    [line] = [one for one in figure.data if one.name == PATH]
    line._dispatch_on_click(SimpleNamespace(point_inds=[number], xs=[0.0], ys=[0.0]), None)


@pytest.fixture
def big(files: dict[str, Path], tmp_path: Path) -> Path:
    """Eight cells of KTaO3 in one file."""
    structure = Structure.from_file(files["KTaO3"])
    structure.make_supercell(2)
    structure.to(filename=str(tmp_path / "big.cif"))
    return tmp_path / "big.cif"


class TestEnds:
    def test_both_are_reconstructed_at_once(self, view: InterpolationView, model: lab.CDVAE) -> None:
        assert view.wait(60)
        for letter, end in view.ends.items():
            truth = end.crystal
            decoded = lab.last(lab.reconstruct(model, truth, steps=STEPS)).crystals
            [(_, rms)] = reconstruction.match(truth, decoded)
            expected = "Not reconstructed" if rms is None else f"off by {rms:.4f}"
            assert expected in caption(view, letter)
        assert len(view.view.current()) == 2

    def test_a_crystal_that_is_not_reconstructed_gets_a_warning(
        self, view: InterpolationView, srtio3: lab.Crystals
    ) -> None:
        view.wait(60)
        end, controls = view.ends["a"], view.controls.ends["a"]
        controls.show_reconstruction(end, srtio3, None)
        assert "Not reconstructed" in caption(view, "a")
        assert "SrTiO<sub>3</sub>" in caption(view, "a")
        assert "bundled models" not in caption(view, "a")
        controls.show_reconstruction(end, srtio3, None, ["inorganic", "mp_20"])
        assert "Other bundled models that keep its composition: inorganic, mp_20." in caption(view, "a")
        controls.show_reconstruction(end, srtio3, 0.2)
        assert "roughly" in caption(view, "a")

    def test_models_are_looked_for_once_for_a_crystal_that_this_one_does_not_represent(
        self,
        model: lab.CDVAE,
        files: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        sought: list[str] = []

        def counted(crystal: lab.Crystals, other_than: lab.CDVAE) -> list[str]:
            sought.append(cell_formulas(crystal)[0])
            return models_that_keep(crystal, other_than)

        for module in ("models.familiarity", "widgets.interpolation.end_check"):
            monkeypatch.setattr(f"cdvae_lab.{module}.models_that_keep", counted)
        fluoride = Structure(Lattice.cubic(4.05), ["K", "Zn", "F", "F", "F"], PEROVSKITE)
        view = InterpolationView(model, fluoride, files["SrTiO3"], n=2, steps=STEPS)
        assert view.wait(60)
        view.set_end("b", files["KTaO3"])
        view.run(wait=True)
        assert view.wait(60)
        assert "Other bundled models that keep its composition: inorganic, mp_20." in caption(view, "a")
        assert sought.count("KZnF3") == 1
        assert not [
            one for one in recwarn if issubclass(one.category, UnfamiliarCrystalWarning)
        ]  # it would not be seen
        view.close()

    def test_a_cell_too_large_offers_its_primitive_cell(
        self, view: InterpolationView, big: Path, model: lab.CDVAE
    ) -> None:
        with pytest.raises(CrystalError, match=r"end b: big\.cif: has 40 atoms, more than the 5"):
            view.set_end("b", big)
        assert view.wait(60)
        reduce = view.controls.ends["b"].reduce
        assert "40 atoms" in caption(view, "b")
        assert "perov_5 (its primitive cell)" in caption(view, "b")
        assert reduce.layout.display == ""
        assert view.controls.run.disabled
        with pytest.raises(CrystalError, match="40 atoms"):
            view.run()
        reduce.click()
        assert int(view.ends["b"].crystal.num_atoms) == 5
        assert view.state.primitive_b
        assert not view.controls.run.disabled
        view.run(wait=True)
        assert torch.equal(run_code(view).frac_coords, view.crystals.frac_coords)
        view.state.primitive_b = False
        assert view.ends["b"].crystal is None
        view.state.update({"b": str(big), "primitive_b": True})
        assert int(view.ends["b"].crystal.num_atoms) == 5

    def test_a_cell_that_is_not_primitive_is_said_to_be_so(
        self, random_dataset: lab.Dataset, files: dict[str, Path]
    ) -> None:
        carbon = lab.CDVAE.for_dataset(random_dataset, max_atoms=8, **SMALL)
        view = InterpolationView(carbon, files["diamond"], lab.asset_path("examples/graphite.cif"), steps=4)
        assert "one of 2 atoms is the same crystal" in caption(view, "a")
        assert "not primitive" not in caption(view, "b")
        view.take_primitive("a")
        assert int(view.ends["a"].crystal.num_atoms) == 2
        assert view.controls.map is None  # no map of this model is bundled
        view.close()

    def test_elements_that_the_model_does_not_know(self, view: InterpolationView, files: dict[str, Path]) -> None:
        with pytest.raises(CrystalError, match=r"end a: diamond\.cif"):
            view.set_end("a", files["diamond"])
        assert view.ends["a"].crystal is None
        view.wait(60)
        assert "carbon_24" in caption(view, "a")

    def test_from_a_file_that_was_sent_a_structure_and_a_pick(
        self, view: InterpolationView, files: dict[str, Path], srtio3: lab.Crystals
    ) -> None:
        view.set_end("a", Upload("mine.cif", files["BaTiO3"].read_text()))
        assert view.ends["a"].name == "mine.cif"
        view.set_end("b", Structure.from_file(files["KTaO3"]))
        view.run(wait=True)
        assert "# `a` is mine.cif" in view.code
        given = {"a": files["BaTiO3"], "b": files["KTaO3"]}
        assert torch.equal(run_code(view, **given).frac_coords, view.crystals.frac_coords)
        assert view.controls.ends["b"].take.disabled
        view.selection.choose(Pick("theirs", srtio3))
        view.controls.ends["b"].take.click()
        assert view.ends["b"].name == "theirs"
        with pytest.raises(CrystalError, match=r"holds 2 crystals"):
            view.set_end("a", lab.read([files["SrTiO3"], files["KTaO3"]]))
        with pytest.raises(CrystalError, match="broken"):
            view.set_end("a", Upload("broken.cif", "data_x\n"))
        with pytest.raises(SettingError, match="'a' or 'b'"):
            view.set_end("c", files["KTaO3"])

    def test_a_bad_file_at_the_start_is_shown(self, model: lab.CDVAE, big: Path) -> None:
        view = InterpolationView(model, big, steps=STEPS)
        view.wait(60)
        assert "40 atoms" in caption(view, "a")
        assert view.ends["b"].crystal is not None  # an example
        view.close()

    def test_examples_and_paths_in_the_fields(self, view: InterpolationView, files: dict[str, Path]) -> None:
        view.state.a = "BaTiO3"
        assert view.controls.ends["a"].examples.value == "BaTiO3"
        view.controls.ends["b"].path.value = str(files["SrTiO3"])
        assert view.state.b == str(files["SrTiO3"])
        assert view.ends["b"].name == "SrTiO3.cif"
        view.run(wait=True)
        assert torch.equal(run_code(view).frac_coords, view.crystals.frac_coords)

    @pytest.mark.parametrize("name", ["perov_5", "mp_20", "carbon_24"])
    def test_a_bundled_model_reconstructs_its_default_ends(self, name: str) -> None:
        model = lab.load(name)
        ends = default_ends(model)
        distances = []
        for end in ends:  # each with the noise of crystal 0, as in the view
            truth = lab.read(lab.asset_path(f"examples/{end}.cif"))
            decoded = lab.last(lab.reconstruct(model, truth)).crystals
            distances += [rms for _, rms in reconstruction.match(truth, decoded, jobs=1)]
        assert len(ends) == 2
        assert all(rms is not None and rms < 0.02 for rms in distances), dict(zip(ends, distances, strict=True))


class TestRun:
    def test_it_is_that_of_interpolate(self, view: InterpolationView, model: lab.CDVAE, files: dict[str, Path]) -> None:
        view.run(wait=True)
        expected = lab.last(lab.interpolate(model, files["SrTiO3"], files["KTaO3"], n=5, steps=STEPS)).crystals
        assert torch.equal(view.crystals.frac_coords, expected.frac_coords)
        assert torch.equal(view.crystals.atomic_numbers, expected.atomic_numbers)
        assert torch.equal(run_code(view).frac_coords, expected.frac_coords)

    def test_stop_and_resume_give_the_same_and_the_code_what_there_is(self, view: InterpolationView) -> None:
        view.run(wait=True)
        whole = view.crystals
        view.run()
        view.stop()
        assert view.wait(30)
        assert "stopped" in view.status_line.value
        assert not torch.equal(view.crystals.frac_coords, whole.frac_coords)
        assert torch.equal(run_code(view).frac_coords, view.crystals.frac_coords)
        assert not view.controls.resume.disabled
        view.resume(wait=True)
        assert torch.equal(view.crystals.frac_coords, whole.frac_coords)
        assert torch.equal(run_code(view).frac_coords, whole.frac_coords)
        assert view.controls.resume.disabled

    def test_the_film_and_the_jumps_say_what_is_there(self, view: InterpolationView) -> None:
        view.run(wait=True)
        formulas = [s.composition.reduced_formula for s in view.crystals.to_structures()]
        shown = [item["title"].replace("<sub>", "").replace("</sub>", "") for item in view.controls.film.items]
        assert shown == formulas
        assert all("5 atoms" in item["lines"][0] for item in view.controls.film.items)
        changes = sum(one != other for one, other in itertools.pairwise(formulas))
        assert changes > 0
        assert view.controls.changes.value.count(": ") - 1 == changes

    def test_kept_atoms(self, view: InterpolationView) -> None:
        view.state.update({"keep": "composition of a", "path": "spherical"})
        view.run(wait=True)
        assert view.controls.changes.value.startswith("The same atoms at every stop: SrTiO<sub>3</sub>")
        assert "keep_composition='a'" in view.code
        assert "path='spherical'" in view.code
        assert torch.equal(run_code(view).frac_coords, view.crystals.frac_coords)

    def test_the_slider_shows_a_stop_everywhere(self, view: InterpolationView) -> None:
        with pytest.raises(SettingError, match="no path yet"):
            view.choose()
        view.run(wait=True)
        with pytest.raises(SettingError, match="choose one first"):
            view.choose()
        view.controls.slider.value = 3
        assert (view.state.stop, view.view.choice, view.controls.film.at) == (3, 3, 3)
        [line] = [shape for shape in view.controls.plot.figure.layout.shapes if shape.name == CURRENT]
        assert (line.x0, line.x1, line.visible) == (3, 3, True)
        expected = view.controls.map.map.place(view.path.z[[3]])[0].tolist()
        assert view.controls.map.chosen == pytest.approx(expected)
        view.choose()
        pick = view.selection.pick
        assert torch.equal(pick.z, view.path.z[[3]])
        assert torch.equal(pick.crystal.frac_coords, view.crystals[3].frac_coords)
        again = eval(pick.code, {"lab": lab, "model": view.model})
        assert torch.equal(again.frac_coords, pick.crystal.frac_coords)
        names: dict = {"model": view.model}
        exec(str(pick.replay), names)
        assert torch.equal(names["crystal"].frac_coords, pick.crystal.frac_coords)
        assert torch.equal(names["z"], pick.z)
        click_on_path(view.controls.map.figure, 1)
        assert view.state.stop == 1
        view.state.stop = -1
        assert view.view.choice is None

    def test_what_is_along_the_way(self, view: InterpolationView, model: lab.CDVAE) -> None:
        view.run(wait=True)
        lines = {one.name: np.asarray(one.y) for one in view.controls.plot.figure.data}
        np.testing.assert_allclose(lines["predicted from z"], model.predict_property(view.path.z), atol=1e-4)
        view.state.quantity = "volume per atom"
        expected = [s.volume / len(s) for s in view.crystals.to_structures()]
        np.testing.assert_allclose(view.controls.plot.figure.data[0].y, expected, rtol=1e-4)
        view.state.quantity = "number of atoms"
        assert set(view.controls.plot.figure.data[0].y) == {5}

    def test_an_error_is_shown_and_the_frames_are_kept(
        self, view: InterpolationView, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        view.wait(60)

        def fails(model: lab.CDVAE, path: lab.LatentPath, **settings: object) -> Iterator:
            yield from list(lab.decode_path(model, path, steps=6))[:3]
            raise RuntimeError("the network is on fire")

        monkeypatch.setattr("cdvae_lab.widgets.interpolation.view.decode_path", fails)
        view.run()
        assert view.wait(30)
        assert "the network is on fire" in view.status_line.value
        assert len(view.crystals) == 5


class TestExport:
    def test_every_kind(self, view: InterpolationView, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match="no path yet"):
            view.export(tmp_path)
        view.run(wait=True)
        written = view.export(tmp_path)
        assert [path.suffix for path in written] == [".cif"] * 5 + [".xyz", ".png", ".gif"]
        formulas = [s.composition.reduced_formula for s in view.crystals.to_structures()]
        assert [Structure.from_file(path).composition.reduced_formula for path in written[:5]] == formulas
        assert len(ase.io.read(written[5], index=":")) == 5
        with Image.open(written[6]) as strip, Image.open(written[7]) as film:
            assert strip.width > 5 * 200
            assert film.n_frames > 1
        with pytest.raises(SettingError, match="no kind 'mp4'"):
            view.export(tmp_path, ["mp4"])

    def test_a_button_writes_in_the_background(self, view: InterpolationView, tmp_path: Path) -> None:
        view.run(wait=True)
        view.state.folder = str(tmp_path / "new")
        started = time.monotonic()
        view.controls.exports["gif"].click()
        assert time.monotonic() - started < 0.2
        assert view.running
        assert view.wait(60)
        assert (tmp_path / "new" / "path.gif").is_file()
        assert "path.gif" in view.status_line.value

    def test_the_fields_are_saved_and_restored(self, view: InterpolationView, tmp_path: Path) -> None:
        view.state.update({"n": 3, "keep": "composition of b", "quantity": "density", "a": "BaTiO3"})
        other = InterpolationView(view.model, steps=STEPS)
        other.state.load(view.state.save(tmp_path / "path.json"))
        assert (other.controls.n.value, other.controls.keep.value) == (3, "composition of b")
        assert other.ends["a"].name == "BaTiO3.cif"
        assert other.ends["b"].name == "KTaO3.cif"
        other.close()


class TestMaps:
    def test_a_map_that_is_shown_elsewhere(self, model: lab.CDVAE, files: dict[str, Path]) -> None:
        selection = Selection()
        shown = LatentMapView(model, selection=selection, steps=STEPS)
        view = InterpolationView(
            model, files["SrTiO3"], files["KTaO3"], map=shown, selection=selection, n=3, steps=STEPS
        )
        view.run(wait=True)
        [line] = [one for one in shown.plot.figure.data if one.name == PATH]
        np.testing.assert_allclose(line.x, shown.map.place(view.path.z)[:, 0], atol=1e-5)
        click_on_path(shown.plot.figure, 2)
        assert torch.equal(selection.pick.crystal.frac_coords, view.crystals[2].frac_coords)
        view.close()
        shown.close()

    def test_refusals(self, model: lab.CDVAE, random_dataset: lab.Dataset) -> None:
        other = lab.CDVAE.for_dataset(random_dataset, **SMALL)
        with pytest.raises(CheckpointError, match="fingerprint"):
            InterpolationView(other, map="perov_5")
        with pytest.raises(SettingError, match="stops"):
            InterpolationView(model, n=1)
        with pytest.raises(SettingError, match="steps_per_level"):
            InterpolationView(model, steps_per_level=3)
