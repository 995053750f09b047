"""A training run that can be left after any step and resumed, and that does requests between its steps."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

from cdvae_lab.errors import SettingError
from cdvae_lab.training.loop import TrainingStep
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.monitor.record import TrainingRecord, Validation
from cdvae_lab.widgets.monitor.training_code import TrainingCode

Result = TypeVar("Result")
Validate = Callable[[TrainingStep], Iterator[tuple[dict[str, float], Validation] | None]]
_POLL = 0.02  # s between two attempts to do a request oneself


class TrainingRun:
    """The steps of `fit`, recorded and validated.

    `start` and `resume` return a generator of steps. It may be iterated in any thread, one generator at a time, and be
    left at any step: `fit` itself then stands still, and `resume` takes the next step. A step is yielded again during
    its validation, so that one need not wait for the end to leave it.

    Args:
        validate: computes the losses and reconstructions of a step; yields None as often as it can be left, then them.
        validate_every: gives the number of steps between two validations; called at each step, for it may change.
        code: the code of the data, to begin with.

    Attributes:
        record: of the current training.
        last: the last step that was taken; None before the first.
        before: number of the step that the current call of `fit` starts after.
        code: the code of that call.
    """

    def __init__(self, validate: Validate, validate_every: Callable[[], int], code: TrainingCode) -> None:
        self._validate, self._validate_every = validate, validate_every
        self.code = code
        self.record = TrainingRecord()
        self.last: TrainingStep | None = None
        self.before = 0
        self._fit: Any = None  # the generator of `fit`: it stands still while training is stopped
        self._stepped = False  # whether it has given its first step
        self._steps: Generator[TrainingStep] | None = None  # the one that was returned last
        self._requests: deque[Callable[[], None]] = deque()
        self._weights = threading.Lock()  # held by the thread that takes a step, and by the one that does requests

    @property
    def step(self) -> TrainingStep:
        """The last step that was taken. Raises SettingError if there is none yet."""
        if self.last is None:
            raise SettingError("no step has been taken yet; press Run, or call run()")
        return self.last

    @property
    def finished(self) -> bool:
        """True once the run and its last validation have finished."""
        return self.last is not None and self.last.step >= self.last.num_steps and not _alive(self._steps)

    @property
    def can_resume(self) -> bool:
        """True if there is a run that was left or has finished; False after one that failed."""
        return self.last is not None and (_alive(self._fit) or self.finished)

    def replay_code(self, step: int | None = None) -> ReplayCode:
        """The code that trains until a step of the current call of `fit`, or until its end."""
        return self.code.replay(None if step is None else step - self.before)

    def start(
        self, fit: Callable[[], Iterator[TrainingStep]], code: TrainingCode, *, keep: bool = False
    ) -> Generator[TrainingStep]:
        """Return the steps of another call of `fit`. If the call fails, nothing has changed.

        Args:
            fit: makes the call. It is called with the first `next`, in that thread, since it may take seconds to read
                a state or to make a model.
            code: of the call.
            keep: keep the records until the step that the call starts after; False: of another training.
        """

        def begin() -> None:
            self._fit, self._stepped = fit(), False
            self.code = code
            if not keep:
                self.record, self.last, self.before = TrainingRecord(), None, 0
            self.record.resume()

        return self._return(self._watched(begin))

    def resume(self) -> Generator[TrainingStep]:
        """Return the steps that follow those taken so far. Raises SettingError if there are none."""
        if self.finished or not self.can_resume:
            raise SettingError("there is no run to resume; press Run, or load a state")
        if self._steps is not None and _alive(self._steps):
            return self._return(self._steps)
        return self._return(self._watched(lambda: None))  # a validation has failed

    def between_steps(self, act: Callable[[], Result]) -> Result:
        """Do something while no weight moves, return what it returns, and raise what it raises.

        Can be called in any thread. It is done between two steps, or at once if no step is being taken.
        """
        done: Future[Result] = Future()

        def request() -> None:
            try:
                done.set_result(act())
            except BaseException as error:  # noqa: BLE001 - for the thread that waits
                done.set_exception(error)

        self._requests.append(request)
        while not done.done():
            if self._weights.acquire(blocking=False):
                try:
                    self._do_requests()
                finally:
                    self._weights.release()
            else:
                wait_for([done], timeout=_POLL)
        return done.result()

    def _return(self, steps: Generator[TrainingStep]) -> Generator[TrainingStep]:
        self._steps = steps
        self.record.resume()
        return steps

    def _watched(self, begin: Callable[[], None]) -> Generator[TrainingStep]:
        """Record every step, and validate when it is due."""
        step = self._next(begin)
        while step is not None:
            yield step
            self._pause()
            if step.step % self._validate_every() == 0 or step.step == step.num_steps:
                for found in self._validate(step):
                    if found is None:
                        self.record.pause_in_validation()
                    else:
                        self.record.validated(*found)
                    yield step
                    self._pause()
            step = self._next()

    def _next(self, begin: Callable[[], None] = lambda: None) -> TrainingStep | None:
        """Take a step; None at the end."""
        with self._weights:
            begin()
            step: TrainingStep | None = next(self._fit, None)
            if step is not None:
                if not self._stepped:
                    self._stepped, self.before = True, step.step - 1
                    self.record.until(self.before)
                self.last = step
                self.record.note(step)
        return step

    def _pause(self) -> None:
        """Do the requests; their time, and that of a stop, is not that of the training."""
        with self._weights:
            self._do_requests()
        self.record.resume()

    def _do_requests(self) -> None:
        while self._requests:
            self._requests.popleft()()


def _alive(generator: Any) -> bool:
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED
