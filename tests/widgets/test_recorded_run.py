"""Runs in the background: stops, errors, drawing, recording, and the code that repeats a recording."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import cdvae_lab as lab
from cdvae_lab.errors import SettingError
from cdvae_lab.widgets import RecordedRun
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.worker import THREAD


@dataclass(frozen=True, eq=False)
class Frame:
    step: int
    num_steps: int = 10**9

    @property
    def finished(self) -> bool:
        return self.step == self.num_steps


def counting(
    first: int = 0, n: int = 10**9, seconds: float | int = 0, made: list[int] | None = None
) -> Iterator[Frame]:
    """Frames of the steps `first` to `n`."""
    for step in range(first, n + 1):
        time.sleep(seconds)
        if made is not None:
            made.append(step)
        yield Frame(step, n)


def failing(after: int = 1) -> Iterator[Frame]:
    yield from counting(n=after - 1)
    raise ZeroDivisionError("on purpose")


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def steps_of(run: RecordedRun[Frame]) -> list[int]:
    return [frame.step for frame in run.frames]


class TestRunning:
    def test_blocking_run_records_draws_and_raises(self) -> None:
        drawn: list[int] = []
        run: RecordedRun[Frame] = RecordedRun(lambda new: drawn.extend(f.step for f in new))
        run.start(counting(n=4), wait=True)
        assert steps_of(run) == drawn == [0, 1, 2, 3, 4]
        assert not run.running
        assert run.status.state == "finished"
        with pytest.raises(ZeroDivisionError, match="on purpose"):
            run.start(failing(2), wait=True)
        assert steps_of(run) == [0, 1]
        assert run.status.state == "failed"

    def test_stop_ends_within_one_step(self) -> None:
        made: list[int] = []
        run: RecordedRun[Frame] = RecordedRun()
        run.start(counting(seconds=0.02, made=made))
        time.sleep(0.1)
        run.stop()
        count = len(made)
        assert run.status.state == "stopping"
        assert run.wait(2)
        assert count <= len(made) <= count + 1
        assert run.status.state == "stopped"
        assert not worker_threads()

    @pytest.mark.parametrize("num_steps", [100, 100_000])
    def test_stop_ends_within_one_step_of_a_thinned_run_and_keeps_the_newest(self, num_steps: int) -> None:
        run: RecordedRun[Frame] = RecordedRun(max_frames=10)
        made: list[int] = []
        run.start(counting(seconds=0.005, made=made), num_steps=num_steps)
        while len(made) < 8:
            time.sleep(0.005)
        run.stop()
        assert run.wait(2)
        assert len(made) < 100
        assert steps_of(run)[-1] == made[-1]

    def test_drawing_is_throttled_and_misses_nothing(self) -> None:
        calls: list[list[int]] = []
        run: RecordedRun[Frame] = RecordedRun(lambda new: calls.append([f.step for f in new]), fps=20)
        run.start(counting(n=300, seconds=0.001))
        assert run.wait(10)
        assert [step for call in calls for step in call] == list(range(301))
        assert len(calls) < 60

    def test_slow_drawing_takes_its_share_of_the_time_at_most(self) -> None:
        calls: list[float] = []

        def draw(new: Sequence[Frame]) -> None:
            calls.append(time.monotonic())
            time.sleep(0.05)

        run: RecordedRun[Frame] = RecordedRun(draw, fps=60, share=0.25)
        run.start(counting(seconds=0.005))
        run.wait(1)
        assert 2 <= len(calls) <= 6
        run.close()

    def test_an_error_is_kept_with_its_traceback_and_the_frames_before_it(self) -> None:
        seen: list[RunStatus] = []
        run: RecordedRun[Frame] = RecordedRun(show=seen.append)
        run.start(failing(3))
        assert run.wait(5)
        assert steps_of(run) == [0, 1, 2]
        assert isinstance(run.error, ZeroDivisionError)
        assert seen[-1].state == "failed"
        assert "on purpose" in seen[-1].traceback
        assert "in failing" in seen[-1].traceback
        assert [one.state for one in seen].count("failed") == 1
        run.start(counting(n=2))  # and another run can follow
        assert run.wait(5)
        assert run.error is None
        assert seen[-1].state == "finished"

    def test_a_new_run_replaces_the_old_one_whose_end_is_not_shown(self) -> None:
        seen: list[str] = []
        run: RecordedRun[Frame] = RecordedRun(show=lambda status: seen.append(status.state))
        run.start(counting(seconds=0.01))
        run.wait(0.1)
        run.start(counting(n=3))
        assert run.wait(5)
        assert steps_of(run) == [0, 1, 2, 3]
        assert "stopped" not in seen
        assert seen[-1] == "finished"
        assert not worker_threads()

    def test_a_new_run_is_started_at_once_and_begins_when_the_step_of_the_old_one_has_ended(self) -> None:
        computing, go_on = threading.Event(), threading.Event()
        order: list[str] = []

        def slow() -> Iterator[Frame]:
            yield Frame(0)
            computing.set()
            assert go_on.wait(20)
            order.append("the old step ended")
            yield Frame(1)

        def new() -> Iterator[Frame]:
            order.append("the new run began")
            yield Frame(7)

        run: RecordedRun[Frame] = RecordedRun()
        run.start(slow())
        assert computing.wait(20)
        run.start(new())  # would hang here if it waited for the step
        assert run.running
        assert order == []
        go_on.set()
        assert run.wait(20)
        assert order == ["the old step ended", "the new run began"]
        assert steps_of(run) == [7]

    def test_a_cancelled_run_is_resumed_from_its_newest_frame_although_it_computes_another(self) -> None:
        computing, go_on = threading.Event(), threading.Event()

        def slow() -> Iterator[Frame]:
            yield from counting(n=2)
            computing.set()
            assert go_on.wait(20)
            yield Frame(3)

        run: RecordedRun[Frame] = RecordedRun()
        run.start(slow(), "slow()", thin=5)  # frame 2 is not one of those that are kept regularly
        assert computing.wait(20)
        run.cancel()
        assert not run.running
        assert steps_of(run) == [0, 2]
        run.resume(counting(3, n=4), "counting(3)")
        go_on.set()
        assert run.wait(20)
        assert steps_of(run) == [0, 2, 3, 4]
        run.close()
        assert not worker_threads()

    def test_pace(self) -> None:
        run: RecordedRun[Frame] = RecordedRun()
        started = time.monotonic()
        run.start(counting(n=19), pace=100)
        assert run.wait(5)
        assert 0.15 < time.monotonic() - started < 1

    def test_the_event_loop_draws_while_other_cells_run(self) -> None:
        calls: list[int] = []
        others: list[float] = []

        async def notebook() -> None:
            run: RecordedRun[Frame] = RecordedRun(lambda new: calls.append(new[-1].step), fps=20)
            run.start(counting(n=99, seconds=0.005))
            while run.running:
                others.append(time.monotonic())
                await asyncio.sleep(0.01)

        # In a thread of its own: the browser tests leave a loop running in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(notebook())).result()
        assert calls[-1] == 99
        assert len(calls) >= 5
        assert len(others) >= 20

    @pytest.mark.parametrize("where", ["draw", "show"])
    def test_an_error_in_a_callback_ends_the_run_and_is_reported(self, where: str) -> None:
        reported: list[str] = []

        def draw(new: Sequence[Frame]) -> None:
            if where == "draw":
                raise ZeroDivisionError("in draw")

        def show(status: RunStatus) -> None:
            if where == "show" and not status.running:
                raise ZeroDivisionError("in show")

        async def notebook() -> RecordedRun[Frame]:
            run: RecordedRun[Frame] = RecordedRun(draw, show, lambda error, trace: reported.append(trace), fps=20)
            run.start(counting(n=20 if where == "show" else 10**9, seconds=0.005))
            end = time.monotonic() + 5
            while run.running and time.monotonic() < end:
                await asyncio.sleep(0.01)
            return run

        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(lambda: asyncio.run(notebook())).result()
        assert not run.running
        assert not worker_threads()
        assert "ZeroDivisionError" in run.status.traceback
        assert len(reported) == (where == "show")
        with pytest.raises(ZeroDivisionError, match=where):
            run.start(counting(n=3), wait=True)

    def test_twenty_runs_leave_no_thread(self) -> None:
        for _ in range(20):
            run: RecordedRun[Frame] = RecordedRun()
            run.start(counting(seconds=0.001))
            run.close()
        assert not worker_threads()

    def test_nothing_is_drawn_after_close(self) -> None:
        calls: list[Any] = []
        run: RecordedRun[Frame] = RecordedRun(calls.append, calls.append)
        run.start(counting(seconds=0.001))
        run.close()
        count = len(calls)
        time.sleep(0.1)
        assert len(calls) == count

    @pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1}, {"fps": 61}, {"max_frames": 0}])
    def test_settings_out_of_range(self, options: dict[str, int]) -> None:
        with pytest.raises(SettingError, match=next(iter(options))):
            RecordedRun(**options)  # type: ignore[arg-type]


class TestRecording:
    def test_a_frame_yielded_again_is_a_place_to_stop_and_to_draw(self) -> None:
        drawn: list[int] = []

        def one_step_with_a_long_validation() -> Iterator[Frame]:
            frame = Frame(0)
            while True:
                time.sleep(0.005)
                yield frame

        run: RecordedRun[Frame] = RecordedRun(lambda new: drawn.append(len(new)))
        run.start(one_step_with_a_long_validation(), "steps")
        run.wait(0.5)
        run.stop()
        assert run.wait(2)
        assert len(run.frames) == 1
        assert sum(drawn) == 1
        assert len(drawn) > 2
        assert run.recording.segments.replay().body == ("frames = list(islice(steps, 1))",)

    def test_only_the_newest(self) -> None:
        drawn: list[int] = []
        run: RecordedRun[Frame] = RecordedRun(lambda new: drawn.extend(f.step for f in new), max_frames=1)
        run.start(counting(n=50, seconds=0.005), num_steps=50)
        assert run.wait(5)
        assert steps_of(run) == [50]
        assert drawn[-1] == 50
        assert 1 < len(drawn) < 50

    @pytest.mark.parametrize("max_frames", [1000, 20])
    def test_the_code_gives_the_recording_after_stops_and_a_cut(self, max_frames: int) -> None:
        run: RecordedRun[Frame] = RecordedRun(max_frames=max_frames)

        def check() -> None:
            names: dict[str, Any] = {"counting": counting}
            exec(str(run.recording.segments.replay()), names)
            assert [frame.step for frame in names["frames"]] == steps_of(run)

        run.start(counting(n=60, seconds=0.003), "counting(n=60)", num_steps=60)
        time.sleep(0.05)
        run.stop()
        run.wait()
        check()
        for _ in range(2):
            run.resume(counting(run.frames[-1].step + 1, 60, 0.003), "counting(frames[-1].step + 1, 60)")
            time.sleep(0.05)
            run.stop()
            run.wait()
            check()
        run.resume(counting(run.frames[-1].step + 1, 60), "counting(frames[-1].step + 1, 60)", wait=True)
        assert steps_of(run)[-1] == 60
        check()
        for keep in (len(run.frames) - 2, 4, 2):
            run.resume(counting(run.frames[keep - 1].step + 1, 60), "counting(frames[-1].step + 1, 60)", keep=keep)
            run.wait()
            assert run.frames[-1].step == 60
            check()

    def test_another_recording_can_be_taken_up_again(self) -> None:
        run: RecordedRun[Frame] = RecordedRun()
        run.start(counting(n=3), "counting(n=3)", wait=True)
        first = run.recording
        run.start(counting(n=5), "counting(n=5)", wait=True)
        run.recording = first
        run.resume(counting(4, 6), "counting(4, 6)", wait=True)
        assert steps_of(run) == [0, 1, 2, 3, 4, 5, 6]
        assert run.recording.segments.replay().body[-1] == "frames += list(counting(4, 6))"

    def test_frames_of_denoise(self) -> None:
        model = lab.load("perov_5")
        run: RecordedRun[lab.DenoisingFrame] = RecordedRun(max_frames=4)
        run.start(lab.denoise(model, n=1, steps=12), "lab.denoise(model, n=1, steps=12)", num_steps=12, wait=True)
        names: dict[str, Any] = {"lab": lab, "model": model}
        exec(str(run.recording.segments.replay()), names)
        assert [frame.step for frame in names["frames"]] == [0, 3, 6, 9, 12]
