"""The widgets' model side, without a browser: the runner, what is sent to the viewer, and the player."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from cdvae_lab.errors import SettingError
from cdvae_lab.widgets.runner import Runner


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

        asyncio.run(notebook())
        assert shown[-1] == 99
        assert len(shown) >= 5
        assert len(others) >= 20

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
