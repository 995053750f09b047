"""The optimizer without a browser: the steps of `optimize`, undone and resumed, predicted, kept and exported."""

from __future__ import annotations

import dataclasses
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
from cdvae_lab.widgets import Pick, PropertyOptimizer, Selection
from cdvae_lab.widgets.optimizer.latent_search import MOST_STEPS, Search
from cdvae_lab.widgets.parts.files import Upload

QUICK = {"steps": 20, "decode_every": 10, "decode_steps": 4}


@pytest.fixture(scope="module")
def model() -> CDVAE:
    return lab.load("perov_5")


@pytest.fixture(scope="module")
def known(model: CDVAE) -> LatentMap:
    return lab.load_map("perov_5", model)


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


def trace(figure: object, name: str) -> object:
    return next(one for one in figure.data if one.name == name)  # type: ignore[attr-defined]


class TestTheSearch:
    def test_it_is_that_of_optimize(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search.run(wait=True)
        expected = list(lab.optimize(model, 3, seed=2, steps=20, lr=2e-2, prior_weight=0.01))
        assert_same(search.steps, expected)
        assert search.index == 20

    def test_stop_and_go_on_give_the_same(self, search: PropertyOptimizer) -> None:
        search._looks.count.value = 200
        search.run(wait=True)
        whole = list(search.steps)
        search.run()
        while not search.steps:  # the learned prior takes a moment to draw the start, and a stop before it leaves none
            assert not search.wait(0.01)
        search.stop()
        assert search.wait(20)
        assert 1 <= len(search.steps) < 201
        search.go_on(wait=True)
        assert_same(search.steps, whole)

    def test_going_on_from_an_earlier_step_drops_what_came_after(self, search: PropertyOptimizer) -> None:
        search.run(wait=True)
        whole = list(search.steps)
        search.index = 7
        search.go_on(wait=True)
        assert_same(search.steps, whole)
        assert search.steps[7] is whole[7]
        assert search.steps[8] is not whole[8]  # computed anew
        assert [one.step for one in search.decoded] == [0, 10, 20]
        search._looks.count.value = 5
        search.go_on(wait=True)  # at its end: five more
        assert [step.step for step in search.steps] == list(range(26))

    def test_anew_from_here_with_another_target_and_back(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search.run(wait=True)
        whole = list(search.steps)
        search.index = 12
        search._looks.target.value = "value"
        search._looks.value.value = 1.5
        search.start_anew(wait=True)
        expected = list(lab.optimize(model, whole[12].z, target=1.5, steps=20, lr=2e-2, prior_weight=0.01))
        assert_same(search.steps, expected)
        search.back()
        assert_same(search.steps, whole)
        with pytest.raises(SettingError, match="no search before"):
            search.back()

    def test_the_code_does_what_was_done(self, search: PropertyOptimizer, model: CDVAE) -> None:
        search._looks.count.value = 200
        search.run(wait=True)
        search.index = 12
        search.go_on()
        search.stop()
        assert search.wait(20)
        assert 13 <= len(search.steps) < 201
        names: dict = {"model": model}
        exec(search.code, names)
        assert_same(search.steps, names["steps"])
        search.index = 5
        search._looks.target.value = "max"
        search.start_anew(wait=True)
        names = {"model": model}
        exec(search.code, names)
        assert_same(search.steps, names["steps"])
        for one in search.decoded:
            assert torch.equal(names["decoded"][one.step].frac_coords, one.crystals.frac_coords)

    def test_long_runs_are_thinned(self, model: CDVAE) -> None:
        assert Search.thinning(MOST_STEPS, 1) == 1
        assert Search.thinning(5000, 1) == 5
        assert Search.thinning(1000, 32) == 2
        one = PropertyOptimizer(model, 1, steps=2 * MOST_STEPS + 50, decode_every=10**5, decode_steps=2)
        one.run(wait=True)
        assert [step.step for step in one.steps][:3] == [0, 3, 6]
        assert one.steps[-1].step == 2 * MOST_STEPS + 50
        names: dict = {"model": model}
        exec(one.code, names)
        assert_same(one.steps, names["steps"])
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
        assert "not independent" in str([trace.name for trace in search._looks._course.figure.data])

    def test_an_independent_predictor_is_drawn_beside_the_model(self, model: CDVAE, known: LatentMap) -> None:
        one = PropertyOptimizer(model, 2, map=known, predictor=lambda crystals: crystals.lattice.det(), **QUICK)
        one.run(wait=True)
        volumes = one.decoded[-1].crystals.lattice.det()
        assert torch.equal(one.decoded[-1].independent, volumes)
        drawn = trace(one._looks._course.figure, "independent predictor, decoded crystal")
        assert drawn.y[-1] == pytest.approx(float(volumes[0]))
        assert f"{float(volumes[0]):.2f}" in one._looks.film.items[-1]["lines"][2]
        one.close()

    def test_an_error_of_the_predictor_is_shown_and_the_steps_are_kept(self, search: PropertyOptimizer) -> None:
        search.predictor = lambda crystals: torch.zeros(7)
        search.run()
        assert search.wait(20)
        assert "value for each" in search._status.value
        assert "are kept" in search._status.value
        assert len(search.steps) == 1
        search.predictor = None
        search.go_on(wait=True)
        assert len(search.steps) == 21

    def test_a_step_between_is_decoded_when_asked(self, search: PropertyOptimizer) -> None:
        search.run(wait=True)
        search.index = 4
        search.decode(wait=True)
        assert [one.step for one in search.decoded] == [0, 4, 10, 20]
        assert search._looks.film.at == 1

    def test_a_chosen_crystal_is_the_selections(self, search: PropertyOptimizer, model: CDVAE) -> None:
        with pytest.raises(SettingError, match="nothing is decoded"):
            search.choose()
        search.run(wait=True)
        search.index, search.crystal = 13, 1
        pick = search.choose()
        assert search.selection.pick is pick
        assert torch.equal(pick.z, search.steps[10].z[1:2])
        names = {"lab": lab, "model": model, "steps": list(search.steps)}
        assert torch.equal(eval(pick.code, names).frac_coords, pick.crystal.frac_coords)


class TestTheRegionOfTheData:
    def test_a_search_that_leaves_it_is_told_so(self, model: CDVAE, known: LatentMap) -> None:
        one = PropertyOptimizer(model, map=known, steps=150, prior_weight=0.0, decode_every=500, decode_steps=2)
        one.run(wait=True)
        low, longest = float(known.labels.min()), float(known.latents.float().norm(dim=1).max())
        for index in (0, 20, 150):
            one.index = index
            text = one._looks._warning.value
            assert ("below every label" in text) == (float(one.step.prediction) < low)
            assert ("longer than that of any training crystal" in text) == (float(one.step.z.norm()) > longest)
        assert "Outside the data" in text
        one.close()

    def test_the_trail_is_where_the_map_places_the_latents(self, search: PropertyOptimizer, known: LatentMap) -> None:
        search.run(wait=True)
        search.crystal = 2
        z = torch.stack([step.z[2] for step in search.steps])
        drawn = trace(search._looks._map.figure, "the search")
        np.testing.assert_allclose(np.stack([drawn.x, drawn.y], 1), known.place(z).numpy(), atol=1e-5)

    def test_a_map_of_somebody_else_gets_the_path(self, model: CDVAE, known: LatentMap) -> None:
        class View:
            map = known
            paths: dict = {}  # noqa: RUF012

            def set_path(self, name: str, z: torch.Tensor, texts: list[str]) -> None:
                self.paths[name] = z

        one = PropertyOptimizer(model, 1, map=View(), **QUICK)
        one.run(wait=True)
        assert torch.equal(View.paths["the search"], torch.cat([step.z for step in one.steps]))
        assert one._looks._map is None
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
        other.index = 9
        other.go_on(wait=True)
        assert_same(other.steps, whole)
        with pytest.raises(CheckpointError, match="no such file"):
            other.load(tmp_path / "none")
        other.close()

    def test_a_picture_where_widgets_cannot_run(self, search: PropertyOptimizer) -> None:
        assert "image/png" not in search._repr_mimebundle_()
        search.run(wait=True)
        assert "image/png" in search._repr_mimebundle_()


class TestWhereItStarts:
    def test_an_example_a_file_an_upload_the_prior_and_the_selection(self, model: CDVAE, tmp_path: Path) -> None:
        one = PropertyOptimizer(model, **QUICK)
        assert one._start.kind.value == "examples/SrTiO3.cif"
        path = lab.asset_path("examples/KTaO3.cif")
        expected = lab.encode(model, path)
        one._start.kind.value = "file"
        with pytest.raises(SettingError, match="which file"):
            one.run(wait=True)
        one._start.path.value = str(path)
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, expected)
        one._start.path.value = ""
        one._start.take(Upload("mine.cif", path.read_text()))
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, expected)
        with pytest.raises(CrystalError):
            one._start.take(Upload("broken.cif", "data_x\nnothing\n"))
        one._start.kind.value = "selection"
        with pytest.raises(SettingError, match="no crystal is chosen"):
            one.run(wait=True)
        one.close()

    def test_what_others_chose(self, model: CDVAE) -> None:
        selection = Selection()
        one = PropertyOptimizer(model, selection=selection, **QUICK)
        crystal = lab.read(lab.asset_path("examples/BaTiO3.cif"))
        selection.choose(Pick("BaTiO3 from a file", crystal))
        assert one._start.kind.value == "selection"
        assert "BaTiO3 from a file" in str(one._start.kind.options)
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, model.encode(crystal).mu)
        one.close()
        selection.choose(Pick("another", crystal))  # nobody listens any more

    def test_latents(self, model: CDVAE, known: LatentMap) -> None:
        z = known.latents[:4].float()
        one = PropertyOptimizer(model, z, map=known, **QUICK)
        one.run(wait=True)
        assert torch.equal(one.steps[0].z, z)
        assert len(one._looks.crystal.options) == 4
        one.close()

    def test_refused_at_once(self, model: CDVAE) -> None:
        for options, message in (
            ({"target": "up"}, "target"),
            ({"lr": 0.0}, "lr"),
            ({"steps": 0}, "steps"),
            ({"decode_every": 0}, "decode_every"),
            ({"decode_steps": 1}, "steps must be at least 2"),
            ({"map": 3}, "set_path"),
        ):
            with pytest.raises(SettingError, match=message):
                PropertyOptimizer(model, **options)
        with pytest.raises(CrystalError):
            PropertyOptimizer(model, "no/such/file.cif")


def test_what_comes_out_far_outside_the_data_does_not_stop_the_panel(
    model: CDVAE, search: PropertyOptimizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def flat(*args: object, **kwargs: object) -> Iterator:
        for frame in lab.denoise(*args, **kwargs):
            yield dataclasses.replace(frame, crystals=frame.crystals.replace(lattice=0 * frame.crystals.lattice))

    monkeypatch.setattr("cdvae_lab.widgets.optimizer.view.denoise", flat)
    search.run(wait=True)
    assert len(search.decoded) == 3
    assert search.table()["decoded formula"].notna().sum() == 9
    with pytest.raises(CrystalError, match="flat or not finite"):
        search.export(tmp_path, ["cif"])
