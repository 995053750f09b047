"""The trajectory player without a browser: runs, stops, branches, exports, and the code that repeats them."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from pymatgen.core import Structure

import cdvae_lab as lab
from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.widgets import Pick, Selection, TrajectoryPlayer
from cdvae_lab.widgets.player.before_run import example_for


@pytest.fixture(scope="module")
def model() -> lab.CDVAE:
    return lab.load("perov_5")


@pytest.fixture
def player(model: lab.CDVAE) -> Iterator[TrajectoryPlayer]:
    one = TrajectoryPlayer(model, n=2, seed=3, steps=12)
    yield one
    one.close()


def replayed(player: TrajectoryPlayer, **names: Any) -> dict[str, Any]:
    """Run the player's code; its frames must be those of the player."""
    names = {"model": player.model, **names}
    exec(player.code, names)
    same_frames(names["frames"], player.frames)
    return names


def same_frames(some: Any, others: Any) -> None:
    assert [f.step for f in some] == [f.step for f in others]
    assert [f.seed for f in some] == [f.seed for f in others]
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.crystals.frac_coords, other.crystals.frac_coords)
        assert torch.equal(one.crystals.atomic_numbers, other.crystals.atomic_numbers)


def stopped_run(player: TrajectoryPlayer) -> None:
    player.run()
    player.stop()
    assert player.wait(10)
    assert 1 <= len(player.frames) < 13


class TestRuns:
    def test_a_run_is_that_of_denoise(self, player: TrajectoryPlayer, model: lab.CDVAE) -> None:
        player.run(wait=True)
        same_frames(player.frames, list(lab.denoise(model, n=2, seed=3, steps=12)))
        assert player.index == len(player.frames) - 1
        assert len(player.view.frames) == len(player.frames)

    def test_stop_and_resume_give_the_same_run(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        whole = player.frames
        stopped_run(player)
        player.resume(wait=True)
        same_frames(player.frames, whole)

    def test_the_screen_says_at_once_that_it_stops(self, player: TrajectoryPlayer) -> None:
        player.run()
        player.stop()
        assert "stopping" in player.status_line.value or not player.running
        assert player.wait(10)
        assert "stopped: step" in player.status_line.value

    def test_a_user_who_looks_elsewhere_is_left_there(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        player.index = 4
        player.branch(9)
        player.index = 2
        assert player.wait(10)
        assert player.index == 2
        assert len(player.view.frames) == len(player.frames)

    def test_frames_are_drawn_moved_as_a_whole(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        for mine, shown in zip(player.frames, player.view.frames, strict=True):
            way = shown.crystals.frac_coords - mine.crystals.frac_coords
            apart = (way - way[:, :1]) % 1
            assert torch.minimum(apart, 1 - apart).max() < 1e-5
            assert torch.equal(mine.crystals.atomic_numbers, shown.crystals.atomic_numbers)

    def test_a_recording_alone(self, player: TrajectoryPlayer, tmp_path: Path) -> None:
        player.run(wait=True)
        trajectory = player.trajectory
        path = trajectory.save(tmp_path / "run.safetensors")
        for given, names in ((path, {}), (trajectory, {"trajectory": trajectory})):
            shown = TrajectoryPlayer(trajectory=given)
            same_frames(shown.frames, player.frames)
            assert shown.index == 12
            replayed(shown, **names)
            with pytest.raises(SettingError, match="no model here"):
                shown.run()
            shown.close()

    def test_a_recording_resumes_with_a_model(self, player: TrajectoryPlayer, model: lab.CDVAE, tmp_path: Path) -> None:
        stopped_run(player)
        path = player.trajectory.save(tmp_path / "run.safetensors")
        other = TrajectoryPlayer(model, path)
        other.resume(wait=True)
        player.resume(wait=True)
        same_frames(other.frames, player.frames)
        replayed(other)
        other.close()

    def test_refused_at_once(self, model: lab.CDVAE) -> None:
        with pytest.raises(SettingError, match="needs a model"):
            TrajectoryPlayer()
        with pytest.raises(SettingError, match="sampler"):
            TrajectoryPlayer(model, steps_per_level=3)
        with pytest.raises(SettingError, match="n is 99; choose a whole number from 1 to 64"):
            TrajectoryPlayer(model, n=99)
        with pytest.raises(SettingError, match="sampler"):
            TrajectoryPlayer(model, sampler="no such")


class TestState:
    def test_every_field_is_a_trait_and_can_be_saved(
        self, player: TrajectoryPlayer, model: lab.CDVAE, tmp_path: Path
    ) -> None:
        state = player.state
        state.update({"n": 3, "seed": 8, "sampler": "preview", "pace": "50 steps/s", "branch_seed": 5, "scores": True})
        assert player.controls.n.value == 3
        assert player.controls.sampler.value == "preview"
        assert player.view.scores
        player.controls.seed.value = 9
        assert state.seed == 9
        other = TrajectoryPlayer(model)
        other.state.load(state.save(tmp_path / "state.json"))
        assert other.state.values() == state.values()
        other.run(wait=True)
        assert other.frames[-1].num_steps == 50
        assert len(other.frame.crystals) == 3
        other.close()

    def test_a_frame_or_crystal_that_is_not_there_is_refused(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        with pytest.raises(SettingError, match="index is 13"):
            player.index = 13
        with pytest.raises(SettingError, match="crystal is 2"):
            player.state.crystal = 2
        player.state.crystal = 1
        assert player.view.choice == 1
        assert player.controls.crystal.value == 1
        player.state.n = 1
        player.run(wait=True)
        assert player.view.choice is None

    def test_a_closed_player_observes_its_state_no_longer(self, model: lab.CDVAE) -> None:
        one = TrajectoryPlayer(model)
        state, before = one.state, one.controls.n.value
        one.close()
        state.n = before + 1
        assert one.controls.n.value == before


class TestCode:
    def test_after_a_run_a_branch_and_a_second_branch(self, player: TrajectoryPlayer) -> None:
        assert "denoise" not in player.code
        player.run(wait=True)
        replayed(player)
        player.index = 5
        player.branch(9, wait=True)
        names = replayed(player)
        assert [f.seed for f in names["frames"]] == [3] * 6 + [9] * (len(player.frames) - 6)
        assert player.trajectory[-1].seed == 9
        assert player.state.branch_seed == 10
        player.index = 2
        player.branch(wait=True)
        assert replayed(player)["frames"][-1].seed == 10

    def test_after_a_stop_a_resume_and_a_branch(self, player: TrajectoryPlayer) -> None:
        stopped_run(player)
        replayed(player)
        player.index = len(player.frames) - 1
        player.resume(wait=True)
        replayed(player)
        player.index = 4
        player.branch(7, wait=True)
        replayed(player)

    def test_of_a_long_run_that_is_thinned_and_stopped(self, model: lab.CDVAE, monkeypatch: pytest.MonkeyPatch) -> None:
        one = TrajectoryPlayer(model, n=1, steps=2100)
        one.state.pace = "as fast as it goes"
        one.run()
        while len(one.frames) < 7:
            one.wait(0.02)
        one.stop()
        assert one.wait(10)
        replayed(one)
        one.index = 4
        one.branch(1)
        one.wait(0.1)
        one.stop()
        assert one.wait(10)
        replayed(one)
        one.close()

    def test_after_an_error(self, player: TrajectoryPlayer, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*args: object, **kwargs: object) -> Iterator:
            yield from itertools.islice(lab.denoise(player.model, n=2, seed=3, steps=12), 4)
            raise RuntimeError("the <network> is on fire")

        with monkeypatch.context() as patch:
            patch.setattr("cdvae_lab.widgets.player.view.denoise", fails)
            player.run()
            assert player.wait(10)
        assert len(player.frames) == 4
        assert "the &lt;network&gt; is on fire" in player.status_line.value
        assert "Traceback" in player.status_line.value
        assert "4 frames of the run are kept" in player.status_line.value
        replayed(player)
        player.controls.resume.click()
        assert player.wait(10)
        assert len(replayed(player)["frames"]) == 13

    def test_with_a_given_schedule(self, model: lab.CDVAE) -> None:
        schedule = Schedule.ancestral(model.config, 5)
        one = TrajectoryPlayer(model, n=1, sampler=schedule)
        one.run(wait=True)
        assert len(replayed(one, schedule=schedule)["frames"]) == 6
        one.state.sampler = "preview"
        one.run(wait=True)
        assert len(replayed(one)["frames"]) == 51
        one.close()

    def test_with_named_settings(self, model: lab.CDVAE) -> None:
        one = TrajectoryPlayer(model, n=1, sampler="preview", types="argmax")
        assert [word for _, word in one.state.options("sampler")][-3:] == ["preview", "standard", "paper"]
        one.run(wait=True)
        assert not replayed(one)["frames"][-1].schedule.keep_composition
        one.close()

    def test_it_is_shown_when_asked_for(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        shown = player.children[-1]
        assert shown.layout.display == "none"
        player.state.show_code = True
        assert shown.layout.display == ""
        assert "lab.denoise(model, n=2, seed=3, steps=12)" in shown.value


class TestBeforeTheFirstFrame:
    def test_a_sentence_says_what_run_shows(self, player: TrajectoryPlayer) -> None:
        sentence = player.controls.before_run.sentence
        assert sentence.layout.display == ""
        assert "<b>Run</b>" in sentence.value
        player.run(wait=True)
        assert sentence.layout.display == "none"

    def test_in_a_notebook_an_example_that_the_model_takes_is_shown(self, model: lab.CDVAE) -> None:
        async def notebook() -> TrajectoryPlayer:
            one = TrajectoryPlayer(model, n=2, seed=3, steps=12)
            while one.running:
                await asyncio.sleep(0.02)
            assert [len(shown) for shown in one.view.frames] == [1]
            assert "SrTiO<sub>3</sub>" in one.controls.before_run.sentence.value
            assert one.frames == ()
            one.run()
            while one.running:
                await asyncio.sleep(0.02)
            return one

        with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread
            one = pool.submit(lambda: asyncio.run(notebook())).result(60)
        assert len(one.view.frames) == len(one.frames) == 13
        assert len(one.controls.strips.data["distance"]) == 13
        one.close()

    def test_the_example_is_one_that_the_model_takes(self) -> None:
        carbon = example_for(lab.load("carbon_24"))
        assert carbon is not None
        assert set(carbon.atomic_numbers.flatten().tolist()) == {6}
        untrained = lab.CDVAE(lab.CDVAEConfig(max_atoms=1))
        assert example_for(untrained) is None


class TestSelection:
    def test_a_crystal_is_selected_with_its_z_and_a_run_starts_from_it(self, model: lab.CDVAE) -> None:
        selection = Selection()
        one = TrajectoryPlayer("perov_5", n=2, seed=3, steps=12, selection=selection)
        other = TrajectoryPlayer("perov_5", n=3, seed=5, steps=12, selection=selection)
        one.run(wait=True)
        assert one.controls.select.disabled
        assert "under “show”" in one.controls.select.tooltip
        assert "under “show”" in one.controls._reason.value
        with pytest.raises(SettingError, match="several crystals"):
            one.select()
        one.state.crystal = 1
        assert not one.controls.select.disabled
        assert "under “show”" not in one.controls.select.tooltip + one.controls._reason.value
        one.controls.select.click()
        pick = selection.pick
        assert torch.equal(pick.z, one.frame.z[1:2])
        assert torch.equal(pick.crystal.atomic_numbers, one.frame.crystals[1].atomic_numbers)
        names = replayed(one)
        assert torch.equal(eval(pick.code, names).atomic_numbers, pick.crystal.atomic_numbers)

        other.start_from_selection()
        assert pick.name.split(",")[0] in dict(map(reversed, other.state.options("start")))["selection"]
        other.run(wait=True)
        assert torch.equal(other.frame.z, pick.z.repeat(3, 1))
        one.run(wait=True)  # what was selected came from another run by now
        replayed(other)
        one.close()
        other.close()
        selection.choose(Pick("none", pick.crystal))  # closed players no longer listen

    def test_from_a_stopped_run_to_the_same_player(self, player: TrajectoryPlayer) -> None:
        stopped_run(player)
        player.select(0)
        player.start_from_selection()
        player.run(wait=True)
        replayed(player)

    def test_a_crystal_without_z_is_encoded(self, player: TrajectoryPlayer, known_crystals: lab.Crystals) -> None:
        player.selection.choose(Pick("SrTiO3", known_crystals[0], code="crystals[0]"))
        player.start_from_selection()
        player.run(wait=True)
        assert torch.equal(player.frame.z, lab.encode(player.model, known_crystals[0]).repeat(2, 1))
        replayed(player, crystals=known_crystals)

    def test_a_crystal_without_code_is_taken_from_the_selection(
        self, player: TrajectoryPlayer, known_crystals: lab.Crystals
    ) -> None:
        player.start_from_selection()
        for z in (None, lab.encode(player.model, known_crystals[0])):
            player.selection.choose(Pick("SrTiO3", known_crystals[0], z))
            player.run(wait=True)
            replayed(player, selection=player.selection)

    def test_a_start_that_is_not_selected(self, player: TrajectoryPlayer) -> None:
        player.state.start = "selection"
        with pytest.raises(SettingError, match="no crystal is selected"):
            player.run()
        player.controls.run.click()
        assert "no crystal is selected" in player.status_line.value


class TestErrors:
    def test_an_error_in_drawing_is_shown_and_buttons_stay_alive(
        self, player: TrajectoryPlayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: object, **kwargs: object) -> None:
            raise RuntimeError("no <paper> left")

        monkeypatch.setattr(player.view, "add", fails)
        player.run()
        assert player.wait(10)
        assert "no &lt;paper&gt; left" in player.status_line.value
        assert not player.controls.run.disabled
        assert player.controls.stop.disabled


class TestExports:
    def test_all_kinds(self, player: TrajectoryPlayer, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match="no frame yet"):
            player.export(tmp_path)
        player.run(wait=True)
        files = player.export(tmp_path)
        assert [f.suffix for f in files] == [".cif", ".cif", ".xyz", ".gif", ".html"]
        assert all(f.stat().st_size > 100 for f in files)
        again = Structure.from_file(files[0])  # twelve steps do not make a crystal that `lab.read` would accept
        assert sorted(again.atomic_numbers) == sorted(player.frame.crystals.atomic_numbers[0].tolist())
        with pytest.raises(SettingError, match="no kind 'mp4'"):
            player.export(tmp_path, ["mp4"])
        with pytest.raises(LabError):
            player.export("/proc/no/such/place", ["cif"])

    def test_a_button_writes_in_the_background_and_can_be_stopped(
        self, player: TrajectoryPlayer, tmp_path: Path
    ) -> None:
        player.run(wait=True)
        player.state.folder = str(tmp_path / "out")
        player.controls.exports["gif"].click()
        assert player.running
        assert player.controls.exports["gif"].disabled
        assert not player.controls.stop.disabled
        player.controls.stop.click()
        assert player.wait(10)
        assert "stopped; written: no file" in player.status_line.value
        player.controls.exports["gif"].click()
        assert player.wait(20)
        assert "run_crystal_0.gif" in player.status_line.value
        assert (tmp_path / "out" / "run_crystal_0.gif").is_file()
        player.state.folder = "/proc/no/such/place"
        player.controls.exports["cif"].click()
        assert player.wait(10)
        assert "Error" in player.status_line.value
        assert "Traceback" not in player.status_line.value

    def test_a_picture_where_widgets_cannot_run(self, player: TrajectoryPlayer) -> None:
        assert "image/png" not in player._repr_mimebundle_()
        player.run(wait=True)
        bundle = player._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
