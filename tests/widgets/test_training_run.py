"""A training run without a view: steps that can be left, requests between them, and errors that lose nothing."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.training.loop import TrainingStep
from cdvae_lab.training.losses import TERMS
from cdvae_lab.training.settings import FitSettings
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.monitor.record import Validation
from cdvae_lab.widgets.monitor.training_code import TrainingCode
from cdvae_lab.widgets.monitor.training_run import TrainingRun

CODE = TrainingCode("data = ...", "lab.fit(model, data)", ("model = ...",))
WAIT = 60  # s, of a busy machine


@dataclass
class Fit:
    """A training whose one weight is the number of the step.

    Attributes:
        waits_at: the step that is being computed, as `entered` says, until `go_on` is set.
        fails_at: the step that raises.
    """

    steps: int = 6
    first: int = 1
    waits_at: int = 0
    fails_at: int = 0
    weight: int = 0
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> Iterator[TrainingStep]:
        for number in range(self.first, self.steps + 1):
            if number == self.waits_at:
                self.entered.set()
                assert self.go_on.wait(WAIT)
            if number == self.fails_at:
                raise ZeroDivisionError("the step")
            self.weight = number
            yield TrainingStep(
                number, number / 2, torch.ones(1 + len(TERMS)), TERMS, 1.0, FitSettings(steps=self.steps), 4,
                self, lambda: None, Path,
            )  # fmt: skip


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as one:
        yield one


@pytest.fixture
def found(srtio3: Crystals) -> Callable[[TrainingStep], Iterator[Any]]:
    def validate(step: TrainingStep) -> Iterator[Any]:
        yield None
        yield dict.fromkeys(TERMS, 1.0), Validation(step.step, srtio3, (0.1,))

    return validate


@pytest.fixture
def run(found: Callable[[TrainingStep], Iterator[Any]]) -> TrainingRun:
    return TrainingRun(found, lambda: 4, TrainingCode("data = ..."))


def numbers(run: TrainingRun) -> list[int]:
    return [row["step"] for row in run.record.records if "lr" in row]


def taken(steps: Iterator[TrainingStep], count: int | None = None) -> list[int]:
    return [step.step for step in itertools.islice(steps, count)]


def asked(run: TrainingRun, pool: ThreadPoolExecutor, act: Callable[[], Any]) -> Future[Any]:
    """A request of another thread that has been made, but need not be done."""
    before = len(run._requests)
    future = pool.submit(run.between_steps, act)
    while len(run._requests) == before and not future.done():
        pass
    return future


class TestSteps:
    def test_they_are_recorded_and_validated_when_it_is_due(self, run: TrainingRun) -> None:
        assert taken(run.start(Fit(), CODE)) == [1, 2, 3, 4, 4, 4, 5, 6, 6, 6]
        assert numbers(run) == [1, 2, 3, 4, 5, 6]
        assert [one.step for one in run.record.validations] == [4, 6]
        assert run.finished
        assert run.can_resume
        assert run.step.step == 6

    def test_left_anywhere_and_resumed_none_is_lost_or_taken_twice(self, run: TrainingRun) -> None:
        steps = run.start(Fit(), CODE)
        while not run.finished:
            taken(steps, 1)  # also in the middle of a validation
            steps = run.resume() if not run.finished else steps
        assert numbers(run) == [1, 2, 3, 4, 5, 6]
        assert [one.step for one in run.record.validations] == [4, 6]
        with pytest.raises(SettingError, match="no run to resume"):
            run.resume()

    def test_the_speed_is_known_from_the_first_run_on(self, run: TrainingRun) -> None:
        taken(run.start(Fit(), CODE), 2)
        assert math.isfinite(run.record.rate(4))
        assert "structures/s" in run.record.speed(run.step)

    def test_a_later_call_keeps_the_records_before_it(self, run: TrainingRun) -> None:
        taken(run.start(Fit(), CODE), 5)
        other = Fit(first=3, steps=5)
        taken(run.start(other, CODE.extended(5), keep=True))
        assert numbers(run) == [1, 2, 3, 4, 5]
        assert run.before == 2
        assert "islice(lab.fit(path, data, steps=5), 1)" in str(run.replay_code(3))
        taken(run.start(Fit(steps=2), CODE))
        assert numbers(run) == [1, 2]
        assert run.before == 0

    def test_a_call_that_fails_changes_nothing(self, run: TrainingRun) -> None:
        def no_fit() -> Iterator[TrainingStep]:
            raise FileNotFoundError("no state")

        taken(run.start(Fit(), CODE), 2)
        with pytest.raises(FileNotFoundError):
            next(run.start(no_fit, TrainingCode("other", "other")))
        assert run.code == CODE
        assert taken(run.resume(), 1) == [3]
        assert numbers(run) == [1, 2, 3]

    def test_after_a_validation_that_failed_the_next_step_is_taken(
        self, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(run, "_validate", lambda step: iter([1 / 0]))
            with pytest.raises(ZeroDivisionError):
                taken(run.start(Fit(), CODE))
        assert run.can_resume
        assert taken(run.resume(), 1) == [5]

    def test_after_a_step_that_failed_there_is_nothing_to_resume(self, run: TrainingRun) -> None:
        with pytest.raises(ZeroDivisionError):
            taken(run.start(Fit(fails_at=3), CODE))
        assert numbers(run) == [1, 2]
        assert not run.can_resume
        with pytest.raises(SettingError, match="no run to resume"):
            run.resume()


class TestRequests:
    def test_without_any_step_it_is_done_here(self, run: TrainingRun) -> None:
        assert run.between_steps(threading.current_thread) is threading.current_thread()
        with pytest.raises(SettingError, match="no step has been taken"):
            run.between_steps(lambda: run.step)

    def test_it_waits_for_the_step_that_is_being_taken(self, run: TrainingRun, pool: ThreadPoolExecutor) -> None:
        fit = Fit(waits_at=2)
        steps = run.start(fit, CODE)
        next(steps)
        step = pool.submit(next, steps)
        assert fit.entered.wait(WAIT)
        requests = [asked(run, pool, lambda: (fit.weight, run.step.step)) for _ in range(2)]
        assert not any(one.done() for one in requests)
        fit.go_on.set()
        assert [one.result(WAIT) for one in requests] == [(2, 2), (2, 2)]
        assert step.result(WAIT).step == 2

    def test_no_step_is_taken_while_it_is_done(self, run: TrainingRun, pool: ThreadPoolExecutor) -> None:
        """Training that was resumed meanwhile moved the weights while they were being written."""
        fit = Fit(waits_at=2)
        fit.go_on.set()
        taken(run.start(fit, CODE), 1)
        begun, may_end = threading.Event(), threading.Event()

        def write() -> tuple[int, int]:
            before = fit.weight
            begun.set()
            assert may_end.wait(WAIT)
            return before, fit.weight

        written = pool.submit(run.between_steps, write)
        assert begun.wait(WAIT)
        step = pool.submit(next, run.resume())
        assert not fit.entered.wait(0.2)
        may_end.set()
        assert written.result(WAIT) == (1, 1)
        assert step.result(WAIT).step == 2

    def test_the_one_who_waits_gets_the_error_and_training_none(
        self, run: TrainingRun, pool: ThreadPoolExecutor
    ) -> None:
        fit = Fit(waits_at=2)
        steps = run.start(fit, CODE)
        next(steps)
        others = pool.submit(taken, steps)
        assert fit.entered.wait(WAIT)
        request = asked(run, pool, lambda: 1 / 0)
        fit.go_on.set()
        with pytest.raises(ZeroDivisionError):
            request.result(WAIT)
        assert others.result(WAIT)[-1] == 6
        assert run.finished

    @pytest.mark.parametrize("fails_at", [0, 2])
    def test_it_is_done_when_the_run_is_stopped_or_fails(
        self, run: TrainingRun, pool: ThreadPoolExecutor, fails_at: int
    ) -> None:
        fit = Fit(waits_at=2, fails_at=fails_at)
        recorded: RecordedRun[TrainingStep] = RecordedRun(max_frames=1)
        recorded.start(run.start(fit, CODE))
        assert fit.entered.wait(WAIT)
        request = asked(run, pool, lambda: run.step.step)
        recorded.stop()
        fit.go_on.set()
        assert recorded.wait(WAIT)
        assert request.result(WAIT) == fit.weight == (1 if fails_at else 2)
        assert run.between_steps(lambda: run.step.step) == fit.weight
        recorded.close()
        if not fails_at:
            taken(run.resume())
            assert numbers(run) == [1, 2, 3, 4, 5, 6]

    def test_many_threads_at_once(self, run: TrainingRun, pool: ThreadPoolExecutor) -> None:
        fit = Fit(steps=300)
        steps = pool.submit(taken, run.start(fit, CODE))
        while run.last is None:
            pass
        requests = [pool.submit(run.between_steps, lambda: (fit.weight, run.step.step)) for _ in range(60)]
        assert all(weight == step for weight, step in (one.result(WAIT) for one in requests))
        assert steps.result(WAIT)[-1] == 300
        assert numbers(run) == list(range(1, 301))
