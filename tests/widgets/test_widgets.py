"""The widgets' model side, without a browser: the runner, what is sent to the viewer, and the player."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Structure

import cdvae_lab as lab
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.render import FilmOrigin
from cdvae_lab.sampling.denoising import Schedule
from cdvae_lab.widgets import CrystalView, Panel, Pick, Selection, TrajectoryPlayer
from cdvae_lab.widgets.base.live import Live
from cdvae_lab.widgets.base.runner import Runner
from cdvae_lab.widgets.parts.strips import Course


def counting(seconds: float = 0.0, made: list[int] | None = None, n: int = 10**9) -> Iterator[int]:
    for i in range(n):
        time.sleep(seconds)
        if made is not None:
            made.append(i)
        yield i


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cdvae_lab runner"]


class TestRunner:
    def test_blocking_form_shows_the_last_item_and_raises(self) -> None:
        shown: list[int] = []
        runner = Runner(shown.append)
        runner.run_blocking(range(5))
        assert shown == [4]
        assert not runner.running

        def fails() -> Iterator[int]:
            yield 7
            raise ZeroDivisionError("on purpose")

        with pytest.raises(ZeroDivisionError, match="on purpose"):
            runner.run_blocking(fails())
        assert shown == [4, 7]

    def test_stop_lands_before_another_step(self) -> None:
        made: list[int] = []
        runner = Runner(lambda item: None)
        runner.start(counting(0.02, made))
        time.sleep(0.1)
        runner.stop()
        count = len(made)
        assert runner.wait(2)
        assert count <= len(made) <= count + 1
        assert runner.stopped
        assert not worker_threads()

    def test_the_newest_wins_and_the_last_is_always_shown(self) -> None:
        shown: list[int] = []
        runner = Runner(shown.append, fps=20)
        runner.start(counting(0.001, n=300))
        assert runner.wait(10)
        assert shown[-1] == 299
        assert len(shown) < 60
        assert shown == sorted(set(shown))
        assert not runner.stopped

    def test_an_error_is_kept_with_its_traceback_and_what_came_before_is_shown(self) -> None:
        shown: list[int] = []
        ends: list[str] = []
        runner = Runner(shown.append, lambda: ends.append(runner.traceback))

        def fails() -> Iterator[int]:
            yield 1
            raise RuntimeError("in step 2")

        runner.start(fails())
        assert runner.wait(5)
        assert shown == [1]
        assert len(ends) == 1
        assert "in step 2" in ends[0]
        assert "in fails" in ends[0]
        runner.start(counting(n=2))  # and another run can follow
        assert runner.wait(5)
        assert runner.error is None

    def test_a_second_run_has_to_wait(self) -> None:
        runner = Runner(lambda item: None)
        runner.start(counting(0.01))
        with pytest.raises(SettingError, match="stop it first"):
            runner.start(counting())
        runner.close()

    def test_pace(self) -> None:
        shown: list[int] = []
        runner = Runner(shown.append)
        started = time.monotonic()
        runner.start(counting(n=20), pace=100)
        assert runner.wait(5)
        assert 0.15 < time.monotonic() - started < 1

    def test_the_event_loop_shows_while_others_run(self) -> None:
        shown: list[int] = []
        others: list[float] = []

        async def notebook() -> None:
            runner = Runner(shown.append, fps=20)
            runner.start(counting(0.005, n=100))
            while runner.running:
                others.append(time.monotonic())
                await asyncio.sleep(0.01)

        # In a thread of its own: the browser tests leave a loop running in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(notebook())).result()
        assert shown[-1] == 99
        assert len(shown) >= 5
        assert len(others) >= 20

    @pytest.mark.parametrize("where", ["show", "ended"])
    def test_an_error_in_a_callback_ends_the_run_and_is_not_lost(self, where: str) -> None:
        told: list[str] = []

        def fails(*item: object) -> None:
            raise ZeroDivisionError(f"in {where}")

        def quiet(*item: object) -> None:
            pass

        async def notebook() -> Runner:
            runner = Runner(fails if where == "show" else quiet, fails if where == "ended" else quiet, fps=20)
            runner._failed = lambda: told.append(runner.traceback)
            runner.start(counting(0.005, n=20 if where == "ended" else 10**9))
            end = time.monotonic() + 5
            while runner.running and time.monotonic() < end:
                await asyncio.sleep(0.01)
            return runner

        with ThreadPoolExecutor(1) as pool:
            runner = pool.submit(lambda: asyncio.run(notebook())).result()
        assert not runner.running
        assert not worker_threads()
        assert "ZeroDivisionError" in runner.traceback
        assert len(told) == (where == "ended")
        with pytest.raises(ZeroDivisionError, match=where):
            runner.run_blocking(range(3))

    def test_twenty_runs_leave_no_thread(self) -> None:
        for _ in range(20):
            runner = Runner(lambda item: None)
            runner.start(counting(0.001))
            runner.close()
        assert not worker_threads()

    @pytest.mark.parametrize("fps", [0, -1, 61])
    def test_fps_out_of_range(self, fps: int) -> None:
        with pytest.raises(SettingError, match="fps"):
            Runner(lambda item: None, fps=fps)


@pytest.fixture(scope="module")
def player_model() -> CDVAE:
    return lab.load("perov_5")


@pytest.fixture
def player(player_model: CDVAE) -> Iterator[TrajectoryPlayer]:
    one = TrajectoryPlayer(player_model, n=2, seed=3, steps=12)
    yield one
    one.close()


class TestTrajectoryPlayer:
    def test_a_run_is_that_of_denoise(self, player: TrajectoryPlayer, player_model: CDVAE) -> None:
        player.run(wait=True)
        expected = list(lab.denoise(player_model, n=2, seed=3, steps=12))
        assert [f.step for f in player.frames] == [f.step for f in expected]
        for mine, theirs in zip(player.frames, expected, strict=True):
            assert torch.equal(mine.crystals.frac_coords, theirs.crystals.frac_coords)
            assert torch.equal(mine.crystals.atomic_numbers, theirs.crystals.atomic_numbers)
        assert player.index == len(expected) - 1
        assert len(player.view.frames) == len(expected)

    def test_stop_and_go_on_give_the_same_run(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        whole = player.frames
        player.run()
        player.stop()
        assert player.wait(10)
        assert 1 <= len(player.frames) < len(whole)
        player.go_on(wait=True)
        assert len(player.frames) == len(whole)
        assert torch.equal(player.frames[-1].crystals.frac_coords, whole[-1].crystals.frac_coords)

    def test_the_code_does_what_was_done(self, player: TrajectoryPlayer, player_model: CDVAE) -> None:
        player.run(wait=True)
        player.index = 5
        player.branch(9, wait=True)
        names: dict = {"model": player_model}
        exec(player.code, names)
        frames = names["frames"]
        assert [f.seed for f in frames] == [3] * 6 + [9] * (len(frames) - 6)
        assert torch.equal(frames[-1].crystals.frac_coords, player.frames[-1].crystals.frac_coords)
        assert len(player.view.frames) == len(player.frames)
        assert player.trajectory[-1].seed == 9

    def test_the_code_of_a_run_that_was_stopped_takes_what_there_is(
        self, player: TrajectoryPlayer, player_model: CDVAE
    ) -> None:
        player.run()
        player.stop()
        assert player.wait(10)
        stopped = len(player.frames)
        assert stopped < 13

        def again() -> list:
            names: dict = {"model": player_model}
            exec(player.code, names)
            assert [f.step for f in names["frames"]] == [f.step for f in player.frames]
            return names["frames"]

        assert len(again()) == stopped
        player.go_on(wait=True)
        assert len(again()) == 13
        player.index = stopped
        player.branch(7, wait=True)
        assert torch.equal(again()[-1].crystals.frac_coords, player.frames[-1].crystals.frac_coords)

    def test_a_ready_schedule_is_told(self, player_model: CDVAE) -> None:
        schedule = Schedule.ancestral(player_model.config, 5)
        one = TrajectoryPlayer(player_model, n=1, sampler=schedule)
        one.run(wait=True)
        names: dict = {"model": player_model, "schedule": schedule}
        exec(one.code, names)
        assert len(names["frames"]) == len(one.frames) == 6
        one.close()

    def test_named_settings_can_be_chosen_and_are_told(self, player_model: CDVAE) -> None:
        one = TrajectoryPlayer(player_model, n=1, sampler="preview", types="assigned")
        assert [value for _, value in one._looks.sampler.options][-3:] == ["preview", "standard", "paper"]
        one.run(wait=True)
        names: dict = {"model": player_model}
        exec(one.code, names)
        assert len(names["frames"]) == len(one.frames) == 51
        assert torch.equal(names["frames"][-1].crystals.frac_coords, one.frames[-1].crystals.frac_coords)
        assert names["frames"][-1].schedule.keep_composition
        one.close()

    @pytest.mark.parametrize("where", ["_draw_all", "_show_new"])
    def test_an_error_in_drawing_is_shown_and_buttons_stay_alive(
        self, player: TrajectoryPlayer, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        def fails(*args: object) -> None:
            raise RuntimeError("no <paper> left")

        monkeypatch.setattr(player, where, fails)
        player._worker._show = player._show_new
        player.run()
        assert player.wait(10)
        assert "no &lt;paper&gt; left" in player._status.value
        assert not player._looks._run.disabled
        assert player._looks._stop.disabled

    def test_an_error_in_a_run_is_shown_and_its_frames_are_kept(
        self, player: TrajectoryPlayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: object, **kwargs: object) -> Iterator:
            yield from itertools.islice(lab.denoise(player.model, n=2, steps=12), 4)
            raise RuntimeError("the <network> is on fire")

        monkeypatch.setattr("cdvae_lab.widgets.player.view.denoise", fails)
        player.run()
        assert player.wait(10)
        assert len(player.frames) == 4
        assert "the &lt;network&gt; is on fire" in player._status.value
        assert "Traceback" in player._status.value
        assert not player._looks._go.disabled

    def test_exports(self, player: TrajectoryPlayer, tmp_path: Path) -> None:
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

    def test_a_picture_where_widgets_cannot_run(self, player: TrajectoryPlayer) -> None:
        assert "image/png" not in player._repr_mimebundle_()
        player.run(wait=True)
        bundle = player._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")

    def test_a_recording_alone(self, player: TrajectoryPlayer, tmp_path: Path) -> None:
        player.run(wait=True)
        path = player.trajectory.save(tmp_path / "run.safetensors")
        shown = TrajectoryPlayer(trajectory=path)
        assert len(shown.frames) == len(player.frames)
        with pytest.raises(SettingError, match="no model here"):
            shown.run()
        shown.close()

    def test_the_screen_says_at_once_that_it_stops(self, player: TrajectoryPlayer) -> None:
        player.run()
        player.stop()
        assert "stopping" in player._status.value or not player.running
        assert player.wait(10)
        assert "stopped" in player._status.value

    def test_who_looks_elsewhere_is_left_there(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        player.index = 4
        player.branch(9)
        player.index = 2
        assert player.wait(10)
        assert player.index == 2
        assert len(player.view.frames) == len(player.frames)

    def test_what_is_shown_are_the_frames_moved_as_a_whole(self, player: TrajectoryPlayer) -> None:
        player.run(wait=True)
        for mine, shown in zip(player.frames, player.view.frames, strict=True):
            way = shown.crystals.frac_coords - mine.crystals.frac_coords
            apart = (way - way[:, :1]) % 1
            assert torch.minimum(apart, 1 - apart).max() < 1e-5
            assert torch.equal(mine.crystals.atomic_numbers, shown.crystals.atomic_numbers)

    def test_a_crystal_is_selected_with_its_z_and_a_run_starts_from_it(self, player_model: CDVAE) -> None:
        selection = Selection()
        one = TrajectoryPlayer(player_model, n=2, seed=3, steps=12, selection=selection)
        other = TrajectoryPlayer(player_model, n=3, seed=5, steps=12, selection=selection)
        one.run(wait=True)
        assert one._looks._select.disabled
        with pytest.raises(SettingError, match="several crystals"):
            one.select()
        one._looks.crystal.value = 1
        assert not one._looks._select.disabled
        one._looks._select.click()
        pick = selection.pick
        assert pick is not None
        assert torch.equal(pick.z, one.frame.z[1:2])
        assert torch.equal(pick.crystal.atomic_numbers, one.frame.crystals[1].atomic_numbers)
        names: dict = {"model": player_model}
        exec(one.code, names)
        assert torch.equal(eval(pick.code, names).atomic_numbers, pick.crystal.atomic_numbers)

        other._looks.start.value = True
        other.run(wait=True)
        assert torch.equal(other.frame.z, pick.z.repeat(3, 1))
        names = {"model": player_model, "selection": selection}
        exec(other.code, names)
        assert torch.equal(names["frames"][-1].crystals.frac_coords, other.frames[-1].crystals.frac_coords)
        one.close()
        other.close()
        selection.choose(Pick("none", pick.crystal))  # closed players no longer listen

    def test_a_crystal_without_z_is_encoded(self, player: TrajectoryPlayer, known_crystals: lab.Crystals) -> None:
        player._looks.start.value = False
        player.selection.choose(Pick("SrTiO3", known_crystals[0], code="crystals[0]"))
        player._looks.start.value = True
        player.run(wait=True)
        assert torch.equal(player.frame.z, lab.encode(player.model, known_crystals[0]).repeat(2, 1))
        assert "z = lab.encode(model, crystals[0])" in player.code

    def test_a_start_that_nobody_has_selected(self, player: TrajectoryPlayer) -> None:
        player._looks.start.value = True
        with pytest.raises(SettingError, match="no crystal is selected"):
            player.run()
        player._looks._run.click()
        assert "no crystal is selected" in player._status.value

    def test_refused_at_once(self, player_model: CDVAE) -> None:
        with pytest.raises(SettingError, match="needs a model"):
            TrajectoryPlayer()
        with pytest.raises(SettingError, match="sampler"):
            TrajectoryPlayer(player_model, steps_per_level=3)


class TestLive:
    def test_frames_are_sent_once_and_the_origin_never_jumps(
        self, player_model: CDVAE, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        view, panel = CrystalView(), Panel(player_model)
        monkeypatch.setattr(view.stage, "run", sent.append)
        live = Live(panel._runner, view, lambda: None, lambda: None)
        live.start(lab.denoise(player_model, n=2, seed=3, steps=60), 60)
        assert live._runner.wait(20)
        assert live.finished
        assert len([call for call in sent if "lab.begin(" in call]) == 1
        assert len(view.frames) == len(live.frames) == 61
        shown, origins = [frame.crystals for frame in view.frames], list(FilmOrigin.along(live.frames))
        for frame, origin, crystals in zip(live.frames, origins, shown, strict=True):
            assert torch.equal(origin.move(frame.crystals).frac_coords, crystals.frac_coords)
        last = shown[-1].frac_coords
        assert all((last[k] == 0).all(-1).any() for k in range(2))  # an atom has come to the origin
        panel.close()
        view.close()


class TestCourse:
    def test_against_the_frames_themselves(self, player_model: CDVAE) -> None:
        frames = list(lab.denoise(player_model, n=3, seed=1, steps=30))
        whole = Course.of(frames)
        parts = Course.of(frames[:7]).then(Course.of(frames[7:], frames[6]))
        for k in (0, 6, 7, 30):
            for c, structure in enumerate(frames[k].crystals.to_structures()):
                distances = structure.distance_matrix + 1e9 * np.eye(len(structure))
                assert float(whole.distance[k, c]) == pytest.approx(distances.min(), abs=1e-4)
        changed = (frames[7].crystals.atomic_numbers != frames[6].crystals.atomic_numbers).sum(1)
        assert torch.equal(parts.changed[7], changed)
        assert torch.equal(parts.valid, whole.valid)
        assert torch.equal(parts.changed, whole.changed)
        assert int(whole.changed.sum()) > 0


class TestCrystalView:
    def test_what_is_sent_holds_the_crystals(
        self, known_crystals: lab.Crystals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        view = CrystalView()
        monkeypatch.setattr(view.stage, "run", sent.append)
        view.show(known_crystals)
        call = sent[-1]
        scene, frames = json.loads("[" + call[call.index("begin(") + 6 : call.rindex("); }")] + "]")
        numbers = np.frombuffer(base64.b64decode(frames[0]["z"]), "u1").reshape(frames[0]["shape"])
        assert numbers[0].tolist() == [[38, 22, 8, 8, 8], [11, 17, 0, 0, 0], [6, 6, 0, 0, 0]]
        assert scene["cells"][0][:4] == [3.905, 0, 0, 0]
        elements = json.loads(call[call.index("lab.elements, {") + 14 : call.index("}); lab.begin") + 1])
        assert {row[4] for row in elements.values()} == {"Sr", "Ti", "O", "Na", "Cl", "C"}

    def test_no_threads(self) -> None:
        before = threading.active_count()
        views = [CrystalView() for _ in range(5)]
        assert threading.active_count() == before
        for view in views:
            view.close()

    def test_height_out_of_range(self) -> None:
        with pytest.raises(SettingError, match="height"):
            CrystalView(height=20)
