"""The optimizer without a browser: the steps of `optimize`, undone and resumed, predicted, kept and exported."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Structure

import cdvae_lab as lab
from cdvae_lab import figures
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.figures.search import LENGTH, OTHERS, PREDICTED
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.models.latent_prior import StandardNormal
from cdvae_lab.widgets import Pick, PropertyOptimizer, Selection
from cdvae_lab.widgets.optimizer import verdict
from cdvae_lab.widgets.optimizer.latent_search import MOST_STEPS, Search
from cdvae_lab.widgets.parts.files import Upload
from cdvae_lab.widgets.parts.maps import find_map

QUICK = {"steps": 20, "decode_every": 10, "decode_steps": 4}


@pytest.fixture(scope="module")
def model() -> CDVAE:
    """With N(0, I) as prior: samples and log p(z) of the learned one take seconds, and nothing here depends on it."""
    one = lab.load("perov_5")
    one.prior = None
    return one


@pytest.fixture(scope="module")
def known(model: CDVAE) -> LatentMap:
    return dataclasses.replace(lab.load_map("perov_5"), model=fingerprint(model))


@pytest.fixture
def search(model: CDVAE, known: LatentMap) -> Iterator[PropertyOptimizer]:
    one = PropertyOptimizer(model, 3, map=known, seed=2, **QUICK)
    yield one
    one.close()


def assert_same(ours: tuple[LatentStep, ...], theirs: list[LatentStep]) -> None:
    assert [step.step for step in ours] == [step.step for step in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.z, b.z)
        assert torch.equal(a.prediction, b.prediction)
        assert torch.equal(a.mean_square, b.mean_square)


def run_code(search: PropertyOptimizer, **given: object) -> dict:
    """The names that the view's code binds."""
    names: dict = {"model": search.model, **given}
    exec(search.code, names)
    return names


def trace(figure: object, name: str) -> object:
    return next(one for one in figure.data if one.name == name)  # type: ignore[attr-defined]


class TestTheSearch:
    def test_it_is_that_of_optimize(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search.run(wait=True)
        expected = list(lab.optimize(model, 3, seed=2, steps=20, lr=2e-2, prior_weight=0.01))
        assert_same(search.steps, expected)
        assert search.index == 20

    def test_stop_and_resume_give_the_same(self, search: PropertyOptimizer) -> None:
        search.state.steps = 200
        search.run(wait=True)
        whole = list(search.steps)
        search.run()
        while not search.steps:  # the learned prior takes a moment to draw the start, and a stop before it leaves none
            assert not search.wait(0.01)
        search.stop()
        assert search.wait(20)
        assert 1 <= len(search.steps) < 201
        search.resume(wait=True)
        assert_same(search.steps, whole)

    def test_resuming_from_an_earlier_step_removes_later_ones(self, search: PropertyOptimizer) -> None:
        search.run(wait=True)
        whole = list(search.steps)
        search.index = 7
        search.resume(wait=True)
        assert_same(search.steps, whole)
        assert search.steps[7] is whole[7]
        assert search.steps[8] is not whole[8]  # computed again
        assert [one.step for one in search.decoded] == [0, 10, 20]
        search.state.steps = 5
        search.resume(wait=True)  # at its end: five more
        assert [step.step for step in search.steps] == list(range(26))

    def test_restart_from_here_with_another_target_and_back(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search.run(wait=True)
        whole = list(search.steps)
        search.index = 12
        search.controls.target.value = "value"
        search.controls.value.value = 1.5
        search.controls.restart.click()
        assert search.wait(30)
        expected = list(lab.optimize(model, whole[12].z, target=1.5, steps=20, lr=2e-2, prior_weight=0.01))
        assert_same(search.steps, expected)
        search.back()
        assert_same(search.steps, whole)
        with pytest.raises(SettingError, match="no search before"):
            search.back()

    def test_the_code_does_what_was_done(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search.state.steps = 200
        search.run(wait=True)
        search.index = 12
        search.resume()
        search.stop()
        assert search.wait(20)
        assert 13 <= len(search.steps) < 201
        assert_same(search.steps, run_code(search)["steps"])
        search.index = 5
        search.restart(wait=True, target="max")
        names = run_code(search)
        assert_same(search.steps, names["steps"])
        for one in search.decoded:
            assert torch.equal(names["decoded"][one.step].frac_coords, one.crystals.frac_coords)
        search.back()
        assert_same(search.steps, run_code(search)["steps"])

    def test_long_runs_are_thinned(self, model: CDVAE) -> None:
        assert Search.thinning(MOST_STEPS, 1) == 1
        assert Search.thinning(5000, 1) == 5
        assert Search.thinning(1000, 32) == 2
        one = PropertyOptimizer(model, 1, steps=2 * MOST_STEPS + 50, decode_every=10**5, decode_steps=2)
        one.run(wait=True)
        assert [step.step for step in one.steps][:3] == [0, 3, 6]
        assert one.steps[-1].step == 2 * MOST_STEPS + 50
        assert_same(one.steps, run_code(one)["steps"])
        one.close()


class TestWhatIsDecoded:
    def test_crystals_and_what_they_are_worth(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search.run(wait=True)
        assert [one.step for one in search.decoded] == [0, 10, 20]
        last = search.decoded[-1]
        crystals = lab.last(lab.denoise(model, z=search.steps[-1].z, seed=2, steps=4)).crystals
        assert torch.equal(crystals.frac_coords, last.crystals.frac_coords)
        torch.testing.assert_close(model.predict_property(model.encode(crystals).mu), last.own)
        assert last.independent is None
        assert "not independent" in str([trace.name for trace in search.course.figure.data])

    def test_an_independent_predictor_is_drawn_beside_the_model(self, model: CDVAE, known: LatentMap) -> None:
        one = PropertyOptimizer(model, 2, map=known, predictor=lambda crystals: crystals.lattice.det(), **QUICK)
        one.run(wait=True)
        volumes = one.decoded[-1].crystals.lattice.det()
        assert torch.equal(one.decoded[-1].independent, volumes)
        drawn = trace(one.course.figure, "independent predictor, decoded crystal")
        assert drawn.y[-1] == pytest.approx(float(volumes[0]))
        assert f"{float(volumes[0]):.2f}" in one.controls.film.items[-1]["lines"][2]
        one.close()

    def test_an_error_of_the_predictor_is_shown_and_the_steps_are_kept(self, search: PropertyOptimizer) -> None:
        search.predictor = lambda crystals: torch.zeros(7)
        search.run()
        assert search.wait(20)
        assert "value for each" in search.status_line.value
        assert "are kept" in search.status_line.value
        assert len(search.steps) == 1
        search.predictor = None
        search.resume(wait=True)
        assert len(search.steps) == 21

    def test_a_step_between_is_decoded_when_asked(self, search: PropertyOptimizer) -> None:
        search.run(wait=True)
        search.index = 4
        search.decode(wait=True)
        assert [one.step for one in search.decoded] == [0, 4, 10, 20]
        assert search.controls.film.at == 1

    def test_a_chosen_crystal_is_the_selections(self, search: PropertyOptimizer, model: CDVAE) -> None:
        with pytest.raises(SettingError, match="nothing is decoded"):
            search.choose()
        search.run(wait=True)
        search.index, search.state.crystal = 13, 1
        pick = search.choose()
        assert search.selection.pick is pick
        assert torch.equal(pick.z, search.steps[10].z[1:2])
        names: dict = {"model": model}
        exec(str(pick.replay), names)
        assert torch.equal(names["crystal"].frac_coords, pick.crystal.frac_coords)
        assert torch.equal(names["z"], pick.z)


class TestWhatIsShown:
    def test_no_room_is_kept_for_what_is_not_there_yet(self, search: PropertyOptimizer) -> None:
        controls = search.controls
        assert {one.layout.display for one in (controls.place, controls.view)} == {"none"}
        assert "decodes crystals" in controls.caption.value
        [hint] = search.course.figure.layout.annotations
        assert "draws here" in hint.text
        search.run(wait=True)
        assert {one.layout.display for one in (controls.place, controls.view)} == {""}
        assert "decoded at step 20" in controls.caption.value
        search.run()
        assert {one.layout.display for one in (controls.place, controls.view)} == {""}  # nothing jumps

    def test_what_an_error_leaves_is_only_said_if_there_is_something(self, search: PropertyOptimizer) -> None:
        assert verdict.kept(Search()) == ""
        search.run(wait=True)
        assert verdict.kept(Search(search.recorded_run.recording)) == "The 21 steps and 0 decodings so far are kept."


class TestHandlersAreQuick:
    """No button, slider or list may hold up the kernel: log p(z) alone takes as long as hundreds of steps."""

    @pytest.fixture
    def no_integral(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let log p(z) be computed in worker threads only."""
        log_prob = LatentStep.log_prob.fget

        def guarded(step: LatentStep) -> torch.Tensor:
            assert threading.current_thread() is not threading.main_thread(), "log p(z) is computed in a handler"
            return log_prob(step)

        monkeypatch.setattr(LatentStep, "log_prob", property(guarded))

    def test_csv_slider_and_crystal(self, model: CDVAE, known: LatentMap, no_integral: None, tmp_path: Path) -> None:
        one = PropertyOptimizer(model, 3, map=known, seed=2, **QUICK)
        one.run()
        assert one.wait(60)
        one.state.folder = str(tmp_path)
        one.controls.slider.value = 13
        one.state.crystal = 2
        assert "log p(z)" in one.controls.where.value
        assert "at step 10" in one.controls.where.value
        started = time.monotonic()
        one.controls.exports["csv"].click()
        assert time.monotonic() - started < 0.2
        assert one.wait(30)
        assert "search.csv" in one.status_line.value
        table = pd.read_csv(tmp_path / "search.csv")
        assert sorted(table.step[table["log p(z) (nats)"].notna()].unique()) == [0, 10, 20]
        expected = StandardNormal(one.steps[10].z.shape[1]).log_prob(one.steps[10].z)
        np.testing.assert_allclose(table["log p(z) (nats)"][table.step == 10], expected, rtol=1e-4)
        one.close()

    def test_latents_from_the_prior_are_drawn_in_the_background(
        self, model: CDVAE, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sample = StandardNormal.sample

        def guarded(*args: object, **kwargs: object) -> torch.Tensor:
            assert threading.current_thread() is not threading.main_thread(), "latents are drawn in a handler"
            return sample(*args, **kwargs)

        monkeypatch.setattr(StandardNormal, "sample", guarded)
        one = PropertyOptimizer(model, 2, seed=2, **QUICK)
        one.controls.run.click()
        assert one.wait(60)
        assert len(one.steps) == 21
        one.close()

    def test_pictures_of_another_crystal_are_made_in_the_background(self, search: PropertyOptimizer) -> None:
        search.run(wait=True)
        search.state.crystal = 1
        assert search.wait(30)
        assert [item["lines"][0] for item in search.controls.film.items] == ["step 0", "step 10", "step 20"]
        assert search.controls.film.at == 2


class TestTheRegionOfTheData:
    def test_a_search_that_leaves_it_is_warned_of(self, model: CDVAE, known: LatentMap) -> None:
        one = PropertyOptimizer(model, map=known, steps=150, prior_weight=0.0, decode_every=500, decode_steps=2)
        one.run(wait=True)
        low, longest = float(known.labels.min()), float(known.latents.float().norm(dim=1).max())
        for index in (0, 20, 150):
            one.index = index
            text = one.controls.warning.value
            assert ("below every label" in text) == (float(one.step.prediction) < low)
            assert ("longer than that of any training crystal" in text) == (float(one.step.z.norm()) > longest)
        assert "Outside the data" in text
        one.close()

    def test_the_trail_is_where_the_map_places_the_latents(self, search: PropertyOptimizer, known: LatentMap) -> None:
        search.run(wait=True)
        search.state.crystal = 2
        z = torch.stack([step.z[2] for step in search.steps])
        drawn = trace(search.map.figure, "the search")
        np.testing.assert_allclose(np.stack([drawn.x, drawn.y], 1), known.place(z).numpy(), atol=1e-5)

    def test_another_widget_that_shows_a_map_gets_the_path(self, model: CDVAE, known: LatentMap) -> None:
        class View:
            map = known
            paths: dict = {}  # noqa: RUF012

            def set_path(
                self, name: str, z: object = None, texts: object = (), *, xy: object = None, crystals: object = None
            ) -> None:
                self.paths[name] = z

        one = PropertyOptimizer(model, 1, map=View(), **QUICK)
        one.run(wait=True)
        assert torch.equal(View.paths["the search"], torch.cat([step.z for step in one.steps]))
        assert one.map is None
        one.close()

    def test_the_course_as_a_figure(self, model: CDVAE) -> None:
        steps = list(lab.optimize(model, 3, target=2, steps=6))
        decoded = {"another": [(0, torch.tensor([1.0, 2.0, 3.0]))]}
        figure = figures.search_course(
            steps,
            "heat_ref",
            "eV/atom",
            crystal=1,
            decoded=decoded,
            labels=(-1, 5),
            lengths=(3, 8),
            current=4,
            theme="dark",
        )
        np.testing.assert_allclose(trace(figure, PREDICTED).y, [float(s.prediction[1]) for s in steps])
        np.testing.assert_allclose(trace(figure, LENGTH).y, [float(s.z[1].norm()) for s in steps], rtol=1e-6)
        assert list(trace(figure, "another").y) == [2.0]
        assert np.isnan(trace(figure, OTHERS).y).sum() == 2
        texts = " ".join(one.text for one in figure.layout.annotations)
        assert "training labels, -1.00 to 5.00" in texts
        assert "target 2" in texts
        assert figure.layout.yaxis.title.text == "heat_ref (eV/atom)"
        for one in figure.layout.annotations:  # above the axes, where no line runs through them
            assert (one.yref.endswith(" domain"), one.y, one.yanchor) == (True, 1, "bottom")
        with pytest.raises(SettingError, match="no crystal 3"):
            figures.search_course(steps, "heat_ref", crystal=3)


class TestFiles:
    def test_exports(self, search: PropertyOptimizer, model: CDVAE, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match="no step yet"):
            search.export(tmp_path)
        search.run(wait=True)
        files = search.export(tmp_path)
        assert [path.suffix for path in files] == [".cif"] * 3 + [".csv", ".safetensors"]
        kinds = sorted(Structure.from_file(files[0]).atomic_numbers)
        own = search.decoded[-1].crystals
        assert kinds == sorted(own.atomic_numbers[0][own.mask[0]].tolist())
        table = pd.read_csv(tmp_path / "search.csv")
        assert len(table) == 21 * 3
        assert (tmp_path / "search.csv").read_text() == search.table().to_csv(index=False)
        row = table[(table.step == 10) & (table.crystal == 2)].iloc[0]
        assert row["predicted for z (eV/atom)"] == pytest.approx(float(search.steps[10].prediction[2]), abs=1e-5)
        assert row["length of z"] == pytest.approx(float(search.steps[10].z[2].norm()), abs=1e-4)
        value = row["predicted for the decoded crystal (eV/atom)"]
        assert value == pytest.approx(float(search.decoded[1].own[2]), abs=1e-4)
        with pytest.raises(SettingError, match="no kind 'gif'"):
            search.export(tmp_path, ["gif"])

        whole = list(search.steps)
        other = PropertyOptimizer(model, 1, **QUICK)
        other.load(tmp_path / "search.safetensors")
        assert_same(other.steps, whole)
        assert_same(other.steps, run_code(other)["steps"])
        other.index = 9
        other.resume(wait=True)
        assert_same(other.steps, whole)
        assert_same(other.steps, run_code(other)["steps"])
        with pytest.raises(CheckpointError, match="no such file"):
            other.load(tmp_path / "none")
        other.close()

    def test_the_fields_are_saved_and_restored(self, search: PropertyOptimizer, tmp_path: Path) -> None:
        search.state.update({"target": "value", "value": 2.5, "start": "KTaO3", "lr": 0.01})
        other = PropertyOptimizer(search.model, **QUICK)
        other.state.load(search.state.save(tmp_path / "search.json"))
        assert (other.controls.target.value, other.controls.value.value) == ("value", 2.5)
        assert other.controls.start.value == "KTaO3"
        assert other.controls.value.layout.display == ""
        other.close()

    @pytest.mark.parametrize("name", ["perov_5", "mp_20", "carbon_24"])
    def test_the_list_of_targets_has_room_beside_the_name_of_the_property(self, name: str) -> None:
        one = PropertyOptimizer(name, **QUICK)
        label, width = one.controls.target.description, int(one.controls.target.layout.width.removesuffix("px"))
        assert width - 7 * len(label) >= 150  # pixels, with letters of 7
        one.close()

    def test_a_picture_where_widgets_cannot_run(self, search: PropertyOptimizer) -> None:
        assert "image/png" not in search._repr_mimebundle_()
        search.run(wait=True)
        assert "image/png" in search._repr_mimebundle_()


class TestWhereItStarts:
    def test_an_example_a_file_an_upload_the_prior_and_the_selection(self, model: CDVAE, tmp_path: Path) -> None:
        one = PropertyOptimizer(model, **QUICK)
        assert one.state.start == "SrTiO3"
        assert "press Run" in one.status_line.value
        path = lab.asset_path("examples/KTaO3.cif")
        expected = lab.encode(model, path)
        one.state.start = "file"
        with pytest.raises(SettingError, match="which file"):
            one.run(wait=True)
        one.state.file = str(path)
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, expected)
        assert_same(one.steps, run_code(one)["steps"])
        one.state.file = ""
        one.upload(Upload("mine.cif", path.read_text()))
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, expected)
        assert_same(one.steps, run_code(one, crystals=path)["steps"])
        with pytest.raises(CrystalError):
            one.upload(Upload("broken.cif", "data_x\nnothing\n"))
        assert "broken.cif" in one.controls.start_error.value
        one.state.start = "selection"
        with pytest.raises(SettingError, match="no crystal is chosen"):
            one.run(wait=True)
        one.close()

    def test_what_others_chose(self, model: CDVAE) -> None:
        selection = Selection()
        one = PropertyOptimizer(model, selection=selection, **QUICK)
        crystal = lab.read(lab.asset_path("examples/BaTiO3.cif"))
        selection.choose(Pick("BaTiO3 from a file", crystal))
        assert one.state.start == "selection"
        assert "BaTiO3 from a file" in str(one.controls.start.options)
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, model.encode(crystal).mu)
        one.close()
        selection.choose(Pick("another", crystal))  # no observer is left

    def test_latents(self, model: CDVAE, known: LatentMap) -> None:
        z = known.latents[:4].float()
        one = PropertyOptimizer(model, z, map=known, **QUICK)
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, z)
        assert len(one.controls.crystal.options) == 4
        one.close()

    def test_refused_at_once(self, model: CDVAE) -> None:
        for options, message in (
            ({"target": "up"}, "target"),
            ({"lr": 0.0}, "lr"),
            ({"steps": 0}, "steps"),
            ({"decode_every": 0}, "decode_every"),
            ({"decode_steps": 1}, "decode_steps"),
        ):
            with pytest.raises(SettingError, match=message):
                PropertyOptimizer(model, **options)
        with pytest.raises(CrystalError):
            PropertyOptimizer(model, "no/such/file.cif")
        with pytest.raises(SettingError, match="set_path"):
            find_map(model, 3)

    def test_elements_that_the_model_never_saw_are_refused_beside_the_field(self) -> None:
        carbon = lab.load("carbon_24")
        one = PropertyOptimizer(carbon, **QUICK)
        assert not one.controls.start_error.value
        one.selection.choose(Pick("SrTiO3", lab.read(lab.asset_path("examples/SrTiO3.cif"))))
        assert one.state.start == "selection"
        assert "never seen O, Ti, Sr" in one.controls.start_error.value
        assert one.controls.run.disabled
        with pytest.raises(CrystalError, match="Sr"):
            one.run(wait=True)
        one.state.start = "diamond"
        assert not one.controls.start_error.value
        assert not one.controls.run.disabled
        one.close()
        with pytest.raises(CrystalError, match="Sr"):
            PropertyOptimizer(carbon, lab.read(lab.asset_path("examples/SrTiO3.cif")), **QUICK)


def test_what_comes_out_far_outside_the_data_does_not_stop_the_panel(
    model: CDVAE, search: PropertyOptimizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def flat(*args: object, **kwargs: object) -> Iterator:
        for frame in lab.denoise(*args, **kwargs):
            yield dataclasses.replace(frame, crystals=frame.crystals.replace(lattice=0 * frame.crystals.lattice))

    monkeypatch.setattr("cdvae_lab.widgets.optimizer.decoding.denoise", flat)
    search.run(wait=True)
    assert len(search.decoded) == 3
    assert search.table()["decoded formula"].notna().sum() == 9
    with pytest.raises(CrystalError, match="flat or not finite"):
        search.export(tmp_path, ["cif"])
