"""A thread that iterates one generator and records its frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from cdvae_lab.runtime.threads import one_thread
from cdvae_lab.widgets.base.recording import Recorder

Frame = TypeVar("Frame", bound=Any)
THREAD = "cdvae_lab run"  # name of the threads
_END: Any = object()


class Worker(Generic[Frame]):
    """Iterates a generator, in a thread of its own or in the caller's, until it ends or is stopped.

    Args:
        frames: a generator, or a function that makes one, which is called in that thread.
        recorder: records the frames; once it is closed, nothing more is computed, and errors are not reported.
        fail: called in that thread with the error that ended it.

    Attributes:
        recorder: as given.
        exhausted: the generator has come to its end.
    """

    def __init__(
        self,
        frames: Iterable[Frame] | Callable[[], Iterable[Frame]],
        recorder: Recorder[Frame],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._frames = _made(frames) if callable(frames) else iter(frames)
        self.recorder, self._fail = recorder, fail
        self.exhausted = False
        self._stop = threading.Event()
        self._thread = threading.current_thread()

    @property
    def stopping(self) -> bool:
        """True once it has been asked to stop."""
        return self._stop.is_set()

    @property
    def alive(self) -> bool:
        """True from the start until its thread has ended, or, in the caller's thread, always."""
        return self._thread.is_alive()

    @property
    def computing(self) -> bool:
        """True while it computes in a thread other than this one."""
        return self._thread is not threading.current_thread() and self._thread.is_alive()

    def start(self, after: Worker[Frame] | None, pace: float | int | None, alone: bool) -> None:
        """Iterate in a thread of its own.

        Args:
            after: another one, which ends first.
            pace: frames a second, at most.
            alone: compute on one thread of the processor.
        """
        self._thread = threading.Thread(target=self._work, args=(after, pace, alone), name=THREAD, daemon=True)
        self._thread.start()

    def work(self, after: Worker[Frame] | None) -> None:
        """Iterate in this thread; the argument is that of `start`."""
        self._work(after, None, False)

    def stop(self) -> None:
        """End after the current step."""
        self._stop.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until its thread has ended, at most `timeout` seconds; not for the thread that calls."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _work(self, after: Worker[Frame] | None, pace: float | int | None, alone: bool) -> None:
        if after is not None:
            after.join()
        due = time.monotonic()
        try:
            while self.recorder.open:
                with one_thread(alone):
                    frame = next(self._frames, _END)
                if frame is _END:
                    self.exhausted = True
                    break
                self.recorder.add(frame)
                due = max(due, time.monotonic() - 0.1) + (1 / pace if pace else 0)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    break
        except BaseException as error:  # noqa: BLE001 - a thread's error is seen nowhere unless it is kept
            if self.recorder.open:
                self._fail(error)
        self.recorder.keep_newest()


def _made(make: Callable[[], Iterable[Frame]]) -> Iterator[Frame]:
    """Make a generator when its first frame is wanted."""
    yield from make()
