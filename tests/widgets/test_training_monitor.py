"""The training monitor without a browser: the numbers of `fit`, stops that lose nothing, errors, and code."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch

import cdvae_lab as lab
from cdvae_lab import figures
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, DatasetError, NonFiniteLossError, SettingError
from cdvae_lab.figures.training import smooth, smooth_log
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import read_training_state
from cdvae_lab.training.loop import TrainingStep
from cdvae_lab.training.losses import TERMS
from cdvae_lab.widgets import Selection, TrainingMonitor
from cdvae_lab.widgets.base.fields import descendants
from cdvae_lab.widgets.monitor.record import MAX_RECORDS, TrainingRecord, duration
from cdvae_lab.widgets.parts.plot import Plot
from tests.small_model import SMALL

OPTIONS = {"steps": 12, "batch_size": 5, "warm_up": 2, "seed": 4}
VIEW = {"validate_every": 5, "crystals": 3, "decode_steps": 4}


def new_model(dataset: Dataset) -> CDVAE:
    return CDVAE.for_dataset(dataset, **SMALL)


@pytest.fixture
def monitor(random_dataset: Dataset) -> Iterator[TrainingMonitor]:
    one = TrainingMonitor(new_model(random_dataset), random_dataset, **OPTIONS, **VIEW)
    yield one
    one.close()


@pytest.fixture
def uninterrupted(random_dataset: Dataset) -> list[TrainingStep]:
    return list(lab.fit(new_model(random_dataset), random_dataset, **OPTIONS))


def assert_same_weights(one: TrainingStep, other: TrainingStep) -> None:
    """Bitwise, of the model, its average and the optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (
            read_training_state(step.save(Path(folder) / f"{i}.safetensors")) for i, step in enumerate((one, other))
        )
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())


class TestTheRun:
    def test_it_is_that_of_fit(self, monitor: TrainingMonitor, uninterrupted: list[TrainingStep]) -> None:
        monitor.run(wait=True)
        assert_same_weights(monitor.step, uninterrupted[-1])
        training = [row for row in monitor.records if "lr" in row]
        assert [row["step"] for row in training] == list(range(1, 13))
        for row, step in zip(training, uninterrupted, strict=True):
            assert {name: row[name] for name in TERMS} == step.terms
            assert row["lr"] == step.learning_rate

    def test_a_run_stopped_and_resumed_at_every_step_is_the_same(
        self, monitor: TrainingMonitor, uninterrupted: list[TrainingStep]
    ) -> None:
        monitor.run()
        stops = 0
        while not monitor.finished:
            monitor.stop()
            assert monitor.wait(20)
            if not monitor.finished:
                stops += 1
                monitor.resume()
        assert stops > 5
        assert_same_weights(monitor.step, uninterrupted[-1])
        assert [row["step"] for row in monitor.records if "lr" in row] == list(range(1, 13))
        assert [one.step for one in monitor.validations] == [5, 10, 12]

    def test_a_saved_state_resumes_in_another_monitor(
        self, monitor: TrainingMonitor, random_dataset: Dataset, uninterrupted: list[TrainingStep], tmp_path: Path
    ) -> None:
        monitor.run()
        monitor.stop()
        assert monitor.wait(20)
        at = monitor.step.step
        assert 1 <= at < 12
        path = monitor.save_state(tmp_path / "state.safetensors")
        other = TrainingMonitor(new_model(random_dataset), random_dataset, **OPTIONS, **VIEW)
        other.load_state(path, wait=True)
        assert_same_weights(other.step, uninterrupted[-1])
        assert other.model is other.step.model
        assert [row["step"] for row in other.records if "lr" in row] == list(range(at + 1, 13))
        with pytest.raises(CheckpointError, match="no such file"):
            other.load_state(tmp_path / "none.safetensors", wait=True)
        other.close()

    def test_saving_in_a_run_does_not_change_it(
        self, monitor: TrainingMonitor, uninterrupted: list[TrainingStep], tmp_path: Path
    ) -> None:
        monitor.run()
        while not monitor.records:
            monitor.wait(0.02)
        monitor.save_state(tmp_path / "state.safetensors")
        monitor.save_model(tmp_path / "model.safetensors")
        assert monitor.wait(20)
        assert_same_weights(monitor.step, uninterrupted[-1])
        model = lab.load(tmp_path / "model.safetensors")
        assert model.metadata["data"]["name"] == "random"

    def test_a_finished_run_gets_more_steps(self, monitor: TrainingMonitor, random_dataset: Dataset) -> None:
        monitor.run(wait=True)
        monitor.state.steps = 3
        monitor.resume(wait=True)
        assert (monitor.step.step, monitor.step.num_steps) == (15, 15)
        assert [row["step"] for row in monitor.records if "lr" in row] == list(range(1, 16))

    def test_the_code_does_what_was_done(self, random_dataset: Dataset, tmp_path: Path) -> None:
        torch.manual_seed(0)
        start = new_model(random_dataset).save(tmp_path / "start.safetensors")
        one = TrainingMonitor(start, random_dataset, **OPTIONS, **VIEW)
        one.run()
        one.stop()
        assert one.wait(20)
        names: dict = {"data": random_dataset}
        exec(one.code, names)
        assert_same_weights(names["step"], one.step)
        one.close()


class TestCode:
    """The code is executed after every kind of action, and must give the same weights."""

    @pytest.fixture
    def from_file(self, random_dataset: Dataset, tmp_path: Path) -> Iterator[TrainingMonitor]:
        torch.manual_seed(0)
        start = new_model(random_dataset).save(tmp_path / "start.safetensors")
        one = TrainingMonitor(start, random_dataset, **OPTIONS, **VIEW)
        yield one
        one.close()

    def replayed(self, one: TrainingMonitor, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict:
        monkeypatch.chdir(folder)
        names: dict = {"data": one.dataset}
        exec(one.code, names)
        assert_same_weights(names["step"], one.step)
        return names

    def stopped(self, one: TrainingMonitor) -> None:
        one.run()
        one.stop()
        assert one.wait(20)
        assert not one.finished

    def test_nothing_before_the_first_run(self, monitor: TrainingMonitor) -> None:
        assert "fit" not in monitor.code

    def test_run_stop_resume_and_more_steps(
        self, from_file: TrainingMonitor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.stopped(from_file)
        self.replayed(from_file, monkeypatch, tmp_path)
        from_file.resume(wait=True)
        self.replayed(from_file, monkeypatch, tmp_path)
        from_file.state.steps = 3
        from_file.resume(wait=True)
        self.replayed(from_file, monkeypatch, tmp_path)

    def test_a_loaded_state(self, from_file: TrainingMonitor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.stopped(from_file)
        from_file.save_state(tmp_path / "state.safetensors")
        from_file.load_state(tmp_path / "state.safetensors", wait=True)
        self.replayed(from_file, monkeypatch, tmp_path)

    def test_a_selected_reconstruction(self, from_file: TrainingMonitor) -> None:
        from_file.run(wait=True)
        for number in range(3):
            from_file.state.validation = number
            pick = from_file.select()
            names: dict = {"data": from_file.dataset}
            exec(str(pick.replay), names)
            assert torch.equal(names["crystal"].frac_coords, pick.crystal.frac_coords)

    def test_a_model_that_is_taken_while_it_is_trained(self, from_file: TrainingMonitor) -> None:
        self.stopped(from_file)
        trained, step = from_file.trained()
        assert step == from_file.step.step
        names: dict = {"lab": lab, "data": from_file.dataset}
        exec(trained.code, names)
        assert all(
            torch.equal(a, b) for a, b in zip(names["model"].parameters(), trained.value.parameters(), strict=True)
        )


class TestFiles:
    def test_buttons_write_in_the_background_also_while_training_runs(
        self, monitor: TrainingMonitor, uninterrupted: list[TrainingStep], tmp_path: Path
    ) -> None:
        monitor.state.update(
            {"state_path": str(tmp_path / "s.safetensors"), "model_path": str(tmp_path / "m.safetensors")}
        )
        monitor.run()
        while not monitor.records:
            monitor.wait(0.02)
        monitor.controls.save_state.click()
        monitor.controls.save_model.click()
        assert monitor.running
        assert monitor.wait(20)
        assert "written: " in monitor.status_line.value
        assert (tmp_path / "s.safetensors").is_file()
        assert lab.load(tmp_path / "m.safetensors").metadata["data"]["name"] == "random"
        assert_same_weights(monitor.step, uninterrupted[-1])
        monitor.state.model_path = "/proc/no/such/place.safetensors"
        monitor.controls.save_model.click()
        assert monitor.wait(20)
        assert "Error" in monitor.status_line.value

    def test_every_field_is_a_trait_and_can_be_saved(
        self, monitor: TrainingMonitor, random_dataset: Dataset, tmp_path: Path
    ) -> None:
        monitor.state.update({"steps": 7, "lr": 2e-3, "kl": 0.5, "validate_every": 3})
        assert monitor.controls.lr.value == 2e-3
        other = TrainingMonitor(new_model(random_dataset), random_dataset, **VIEW)
        other.state.load(monitor.state.save(tmp_path / "state.json"))
        assert other.controls.steps.value == 7
        other.run(wait=True)
        assert other.step.settings.lr == 2e-3
        assert "weights=lab.LossWeights(kl=0.5)" in other.code
        assert [one.step for one in other.validations] == [3, 6, 7]
        other.close()


class TestWhatIsShown:
    def test_reconstructions_have_the_rms_of_the_metric(
        self, monitor: TrainingMonitor, random_dataset: Dataset
    ) -> None:
        monitor.run(wait=True)
        assert [one.step for one in monitor.validations] == [5, 10, 12]
        assert [row["step"] for row in monitor.records if "val_types" in row] == [5, 10, 12]
        last = monitor.validations[-1]
        truth = random_dataset.crystals[:3]
        again = lab.last(lab.reconstruct(monitor.averaged(), truth, steps=4)).crystals
        assert torch.equal(again.frac_coords, last.crystals.frac_coords)
        assert lab.metrics.reconstruction.reconstruction(truth, again).rms == last.rms
        assert len(monitor.view.current() or ()) == 6
        assert len(monitor.controls.film.items) == 3
        assert "crystals of the training set" in monitor.controls.caption.value

    def test_before_the_first_step_it_says_how_to_begin(self, monitor: TrainingMonitor) -> None:
        def texts() -> str:
            shown = [one for one in descendants(monitor) if isinstance(one, ipywidgets.HTML)]
            return " ".join(one.value for one in shown)

        def plots() -> list[Plot]:
            return [one for one in descendants(monitor) if isinstance(one, Plot)]

        assert "press Run, or Space, to begin" in texts()
        assert plots() == []  # empty axes tell nothing
        assert "structures/s" not in texts()
        monitor.run(wait=True)
        assert "to begin" not in texts()
        [plot] = plots()
        assert len(plot.figure.data) == 3 * len(TERMS) + 1
        assert "structures/s" in texts()
        assert "nan" not in texts()  # the speed of the first run was

    def test_close_also_closes_what_is_not_shown(self, monitor: TrainingMonitor) -> None:
        plot = monitor._curves.plot
        assert plot.figure.comm is not None
        monitor.close()
        assert plot.figure.comm is None
        assert monitor._curves.empty.comm is None

    def test_the_curves_have_a_faint_and_a_smooth_line_and_a_learning_rate(self, monitor: TrainingMonitor) -> None:
        monitor.run(wait=True)
        figure = figures.training_curve(monitor.records)
        names = [trace.name for trace in figure.data]
        assert names[-1] == "learning rate"
        assert len(names) == 3 * len(TERMS) + 1
        raw, smoothed = figure.data[0], figure.data[1]
        assert raw.opacity < 0.5
        np.testing.assert_allclose(smoothed.y, np.exp(smooth(np.log(np.asarray(raw.y)))))
        assert {axis.type for axis in figure.select_yaxes()} == {"log"}

    def test_smoothing_keeps_a_constant_and_passes_over_gaps(self) -> None:
        np.testing.assert_allclose(smooth_log(np.array([0.0, 4.0, -1.0, 4.0]))[1:], 4.0)
        np.testing.assert_allclose(smooth(np.array([2.0, np.nan, 2.0, 2.0])), 2.0)
        # against the definition, weights (1 - 2 / 6)^age
        values, keep = np.array([1.0, 5.0, 3.0]), 1 - 2 / 6
        weights = keep ** np.array([2.0, 1, 0])
        assert smooth(values, span=5)[-1] == pytest.approx((values * weights).sum() / weights.sum())

    def test_a_selected_crystal_goes_to_the_selection(self, random_dataset: Dataset) -> None:
        selection = Selection()
        one = TrainingMonitor(new_model(random_dataset), random_dataset, selection=selection, **OPTIONS, **VIEW)
        with pytest.raises(SettingError, match="nothing has been reconstructed"):
            one.select()
        one.run(wait=True)
        one.state.crystal = 1
        pick = one.select()
        assert selection.pick is pick
        n = int(one.validations[-1].crystals[1].num_atoms)
        assert int(pick.crystal.num_atoms) == n
        one.close()

    def test_long_runs_are_thinned(self, uninterrupted: list[TrainingStep]) -> None:
        record = TrainingRecord()
        record.resume()
        settings = dataclasses.replace(uninterrupted[0].settings, steps=4 * MAX_RECORDS)
        for number in range(1, 4 * MAX_RECORDS + 1):
            step = dataclasses.replace(uninterrupted[0], step=number, settings=settings)
            record.note(step)
        assert MAX_RECORDS <= len(record.records) <= 2 * MAX_RECORDS
        assert record.done == 4 * MAX_RECORDS
        assert record.left(step) == 0
        assert record.rate(10) == pytest.approx(10 * record.done / record.training)

    def test_time_left_in_words(self) -> None:
        assert [duration(x) for x in (45, 200, 7800, float("nan"))] == ["45 s", "3 min", "2 h 10 min", "some time"]


class TestErrors:
    def test_a_loss_that_is_not_finite_is_shown(self, random_dataset: Dataset, tmp_path: Path) -> None:
        one = TrainingMonitor(new_model(random_dataset), random_dataset, **OPTIONS, **VIEW)
        one.run()
        while not one.records:
            one.wait(0.02)
        path = one.save_state(tmp_path / "state.safetensors")
        one.stop()
        one.wait(20)
        with torch.no_grad():
            next(one.step.model.parameters())[6:9].fill_(torch.inf)
        one.resume()
        assert one.wait(20)
        assert isinstance(one.recorded_run.error, NonFiniteLossError)
        assert "NonFiniteLossError" in one.status_line.value
        assert "Save model" in one.status_line.value
        assert str(path) in one.status_line.value
        assert not one.can_resume
        one.load_state(path, wait=True, lr=1e-4, final_lr=1e-5)
        assert one.step.step == 12
        assert one.step.settings.lr == 1e-4
        one.close()

    def test_another_error_leaves_the_run_as_it_is(
        self, monitor: TrainingMonitor, uninterrupted: list[TrainingStep], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("cdvae_lab.widgets.monitor.validator.reconstruct", lambda *a, **k: itertools.repeat(1 / 0))
            monitor.run()
            assert monitor.wait(20)
        assert "ZeroDivisionError" in monitor.status_line.value
        assert monitor.step.step == 5
        monitor.resume(wait=True)
        assert_same_weights(monitor.step, uninterrupted[-1])

    def test_refused_at_once(self, random_dataset: Dataset, tmp_path: Path) -> None:
        model = new_model(random_dataset)
        for options, message in (
            ({"epochs": 1, "steps": 3}, "not as both"),
            ({"validate_every": 0}, "validate_every is 0"),
            ({"crystals": 0}, "at least 1"),
            ({"final_lr": 5.0}, "final_lr"),
            ({"color": 1}, "no setting color"),
        ):
            with pytest.raises(SettingError, match=message):
                TrainingMonitor(model, random_dataset, **options)
        with pytest.raises(DatasetError):
            TrainingMonitor(model, tmp_path)
        with pytest.raises(DatasetError, match="6 atoms"):
            TrainingMonitor(CDVAE.for_dataset(random_dataset[:1], **SMALL), random_dataset)


class TestWhereItStarts:
    def test_a_folder_a_config_and_epochs(self, tmp_path: Path, srtio3: lab.Crystals) -> None:
        srtio3.write_cif(tmp_path, ["a"])
        srtio3.replace(lattice=1.03 * srtio3.lattice).write_cif(tmp_path, ["b"])
        config = lab.CDVAEConfig(max_atoms=5, **SMALL)
        one = TrainingMonitor(config, tmp_path, epochs=3, batch_size=2, crystals=1, decode_steps=3)
        assert one.validation is None
        one.run(wait=True)
        assert one.step.num_steps == 3
        names: dict = {}
        exec(one.code, names)
        assert_same_weights(names["step"], one.step)
        one.close()

    def test_the_named_data_keep_crystals_away_and_a_small_model_is_made(self) -> None:
        one = TrainingMonitor(steps=2, crystals=2, decode_steps=3)
        assert one.validation is not None
        assert not set(one.validation.formulas) & set(one.dataset.formulas)
        one.run(wait=True)
        assert one.step.settings.lr == 5e-3
        bundle = one._repr_mimebundle_()
        assert "image/png" in bundle
        one.close()
