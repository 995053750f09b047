"""Run a generator in the background, record its frames, and draw them at a limited rate.

A worker thread iterates and keeps the frames. The kernel's event loop draws new frames, at most about twelve times a
second. Everything on the screen thus happens in the kernel's own thread, sliders and other cells stay responsive, and
drawing never delays the computation.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from cdvae_lab.errors import SettingError
from cdvae_lab.runtime.threads import one_thread
from cdvae_lab.widgets.base.replay_code import Segments

Frame = TypeVar("Frame", bound=Any)
State = Literal["idle", "running", "stopping", "stopped", "finished", "failed"]
_END: Any = object()
_PUMP = 0.1  # s, largest interval between two checks of a run
THREAD = "cdvae_lab run"  # name of the worker threads


@dataclass(frozen=True)
class RunStatus:
    """State of a run, as its view shows it.

    Attributes:
        state: "idle" before the first run; then "running", "stopping" (until the current step has ended), and
            "stopped", "finished" or "failed".
        step, num_steps: of the newest frame; None before the first, or for frames without them.
        error: the exception that ended the run.
        traceback: of that exception, as Python prints it; empty without one.
    """

    state: State = "idle"
    step: int | None = None
    num_steps: int | None = None
    error: BaseException | None = None
    traceback: str = ""

    @property
    def running(self) -> bool:
        return self.state in ("running", "stopping")

    def __str__(self) -> str:
        if self.step is None:
            return "starting" if self.state == "running" else self.state
        return f"{self.state}: step {self.step:,} of {self.num_steps:,}"


@dataclass
class Recording(Generic[Frame]):
    """The kept frames of a run, and the calls that they came from.

    Attributes:
        frames: kept frames in order.
        segments: the code that produces them.
        thin: interval of the kept frames, in steps.
    """

    frames: list[Frame] = field(default_factory=list)
    segments: Segments = field(default_factory=Segments)
    thin: int = 1

    def cut(self, count: int) -> None:
        """Keep the first `count` frames and remove the others."""
        if count < len(self.frames):
            del self.frames[count:]
            self.segments.cut(count)


class Throttle:
    """Limits how often something is done.

    Args:
        interval: seconds between two beginnings, at least.
        share: of the time that it may take, at most.
    """

    def __init__(self, interval: float | int, share: float | int = 0.25) -> None:
        self._interval, self._share, self._due = interval, share, 0.0

    @property
    def wait(self) -> float:
        """Seconds until it may be done again."""
        return max(0.0, self._due - time.monotonic())

    def __call__(self, act: Callable[[], Any], now: bool = False) -> None:
        """Do it if it is time to, or in any case."""
        if now or not self.wait:
            started = time.monotonic()
            try:
                act()
            finally:
                took = time.monotonic() - started
                self._due = started + max(self._interval, took / self._share)


class RecordedRun(Generic[Frame]):
    """Runs one generator at a time in a worker thread, keeps its frames, and has them drawn.

    A generator may yield its newest frame again: nothing is recorded then, but the run can be stopped there, and the
    view is drawn. Long computations inside a step (a validation, the decoding of one step) do this.

    Args:
        draw: called with the frames recorded since the last call, never from the worker thread.
        show: called with the status at the start, after each drawing, and at the end of a run.
        report: called with an error that `show` or `draw` raised at the end of a run, and its traceback: in a notebook
            it would be seen nowhere else.
        name: of the list of frames in the replay code.
        max_frames: frames that are kept of a run; of a longer one every second, third, ... step. 1: only the newest.
        fps: drawings a second, at most.
        share: of the time that drawing may take, at most.
        alone: compute on one thread of the processor while the view is alive beside it.

    Attributes:
        recording: of the current run. Another recording can be put here while nothing runs.

    Raises:
        SettingError: for settings out of range.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[Frame]], Any] = lambda new: None,
        show: Callable[[RunStatus], Any] = lambda status: None,
        report: Callable[[BaseException, str], Any] = lambda error, trace: None,
        *,
        name: str = "frames",
        max_frames: int = 1000,
        fps: float | int = 12,
        share: float | int = 0.5,
        alone: bool = False,
    ) -> None:
        if not 0 < fps <= 60:
            raise SettingError(f"fps is {fps}; choose more than 0 and up to 60")
        if max_frames < 1:
            raise SettingError(f"max_frames is {max_frames}; keep at least 1")
        self.recording: Recording[Frame] = Recording(segments=Segments(name))
        self._draw, self._show, self._report = draw, show, report
        self._name, self._max, self._alone = name, max_frames, alone
        self._interval, self._share = min(1 / fps, _PUMP), share  # s; the end of a run is seen at once
        self._fps, self._throttle = fps, Throttle(1 / fps, share)
        self._status = RunStatus()
        self._lock = threading.Lock()  # between recording a frame and taking the new ones
        self._new: list[Frame] = []  # frames that have not been drawn
        self._changed = False  # whether something has come since the last drawing
        self._taken = 0  # frames of the current generator
        self._seen: Any = None  # the last of them
        self._left_out: Frame | None = None  # the same, while it is not kept
        self._error: BaseException | None = None
        self._exhausted = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._before: threading.Thread | None = None  # a cancelled run that still computes its last step
        self._task: asyncio.Task | None = None  # kept, or the loop might forget it

    # --- the recording ----------------------------------------------------------------------------------

    @property
    def frames(self) -> list[Frame]:
        """The kept frames, in order; not to be changed."""
        return self.recording.frames

    @property
    def newest(self) -> Any:
        """The last frame; None before the first."""
        return self.recording.frames[-1] if self.recording.frames else None

    @property
    def status(self) -> RunStatus:
        """The state of the run now."""
        newest = self.newest
        if self._thread is not None:
            state: State = "stopping" if self._stop.is_set() else "running"
        elif self._error is not None:
            state = "failed"
        else:
            state = self._status.state
        trace = "".join(traceback.format_exception(self._error)) if self._error else ""
        step, steps = getattr(newest, "step", None), getattr(newest, "num_steps", None)
        return RunStatus(state, step, steps, self._error, trace)

    @property
    def running(self) -> bool:
        """True from the start until the end has been drawn."""
        return self._thread is not None

    @property
    def computing(self) -> bool:
        """True while a step is computed in another thread, also the last one of a cancelled run."""
        threads = (self._thread, self._before)
        return any(one is not None and one is not threading.current_thread() and one.is_alive() for one in threads)

    @property
    def error(self) -> BaseException | None:
        """The exception that ended the last run; None if none did."""
        return self._error

    # --- actions -------------------------------------------------------------------------------

    def start(
        self,
        frames: Iterable[Frame] | Callable[[], Iterable[Frame]],
        call: str = "",
        *,
        num_steps: int = 1,
        thin: int | None = None,
        pace: float | int | None = None,
        wait: bool = False,
    ) -> None:
        """Start a new recording; a run that is not finished is cancelled.

        Returns at once: the new run begins when the step that is being computed has ended. In a notebook the event loop
        draws; in a script call `wait`.

        Args:
            frames: a generator, or a function that makes one, which is called in the worker thread.
            call: the expression that gives it, for the replay code.
            num_steps: steps of the whole run, which determine `thin`.
            thin: interval of the kept frames, in steps, instead of that from `num_steps`.
            pace: steps a second, at most.
            wait: run in this thread, return at the end, and raise what is raised.
        """
        self.cancel()
        thin = -(-num_steps // self._max) if thin is None else thin
        self.recording = Recording(segments=Segments(self._name), thin=1 if self._max == 1 else max(1, thin))
        self._begin(frames, call, pace, wait)

    def resume(
        self,
        frames: Iterable[Frame] | Callable[[], Iterable[Frame]],
        call: str = "",
        *,
        keep: int | None = None,
        pace: float | int | None = None,
        wait: bool = False,
    ) -> None:
        """Append to the recording, as `start` begins one.

        Args:
            frames: a generator that continues from the last frame that is kept, or a function that makes one.
            call: the expression that gives it, in which `frames[-1]` is that frame.
            keep: number of frames to keep; later ones are removed.
            pace: steps a second, at most.
            wait: run in this thread, return at the end, and raise what is raised.
        """
        self.cancel()
        if keep is not None:
            self.recording.cut(keep)
        self._begin(frames, call, pace, wait)

    def stop(self) -> None:
        """Ask the run to end after the current step; returns at once. `resume` can continue it."""
        if self.running and not self._stop.is_set():
            self._stop.set()
            self._show(self.status)

    def cancel(self, join: bool = False) -> None:
        """End the run without showing its end, because another one is to follow.

        Returns at once. The step that is being computed is not recorded any more, and the next run begins after it.

        Args:
            join: wait for that step.
        """
        if self.running:
            self._stop.set()
            if join:
                self._join(self._thread)
            with self._lock:
                self._before, self._thread, self._task = self._thread, None, None
                self._stop = threading.Event()  # which tells the old worker that its frames are not wanted
            self._keep_newest()
            self._new, self._changed = [], False
            self._close_segment()
        elif join:
            self._join(self._before)

    def pump(self) -> bool:
        """Draw new frames if a drawing is due; True while the run continues."""
        thread = self._thread
        if thread is None:
            return False
        alive = thread.is_alive()  # read before the new frames: a dead thread adds none
        if not alive:
            self._finish()
        elif self._changed and not self._throttle.wait:
            self._draw_new()
        return alive

    def wait(self, timeout: float | int | None = None) -> bool:
        """Draw new frames until the run has ended or the timeout has passed, in seconds; True if it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.pump():
            if end is not None and time.monotonic() >= end:
                return False
            thread = self._thread
            if thread is not None:
                thread.join(self._interval)
        return True

    def close(self, wait: bool = True) -> None:
        """Stop, and draw nothing more.

        Args:
            wait: for the current step.
        """
        self._draw, self._show, self._report = lambda new: None, lambda status: None, lambda error, trace: None
        if not wait:
            self.cancel()
            self._before = None
            return
        self._stop.set()
        self.wait()
        self._join(self._before)

    # --- the run ----------------------------------------------------------------------------------------

    def _begin(
        self,
        source: Iterable[Frame] | Callable[[], Iterable[Frame]],
        call: str,
        pace: float | int | None,
        wait: bool,
    ) -> None:
        frames = _made(source) if callable(source) else iter(source)
        self.recording.segments.add(call, len(self.recording.frames), self.recording.thin)
        self._error, self._exhausted, self._taken, self._new, self._changed = None, False, 0, [], False
        self._seen, self._left_out = self.newest, None
        self._throttle = Throttle(1 / self._fps, self._share)  # the first frame is drawn at once
        self._stop = stop = threading.Event()
        before, self._before = self._before, None
        arguments = (frames, pace, self._alone, stop, before)
        worker = threading.Thread(target=self._work, args=arguments, name=THREAD, daemon=True)
        self._thread = threading.current_thread() if wait else worker
        self._show(self.status)
        if wait:
            self._work(frames, None, False, stop, before)
            self._finish()
            if self._error is not None:
                raise self._error
            return
        worker.start()
        if in_event_loop():
            self._task = asyncio.get_running_loop().create_task(self._pump_in_loop(worker))

    def _work(
        self,
        frames: Iterator[Frame],
        pace: float | int | None,
        alone: bool,
        stop: threading.Event,
        before: threading.Thread | None,
    ) -> None:
        """Iterate in the worker thread until the generator ends or the run is stopped.

        Args:
            stop: of this run; that of the object belongs to a later run once this one is cancelled.
            before: the cancelled run, which ends first.
        """
        self._join(before)
        due = time.monotonic()
        try:
            while stop is self._stop:  # not cancelled
                with one_thread(alone):
                    frame = next(frames, _END)
                if frame is _END:
                    if stop is self._stop:
                        self._exhausted = True
                    break
                self._record(frame, stop)
                due = max(due, time.monotonic() - 0.1) + (1 / pace if pace else 0)
                if stop.wait(max(0.0, due - time.monotonic())):
                    break
        except BaseException as error:  # noqa: BLE001 - a thread's error is seen nowhere unless it is kept
            if stop is self._stop:
                self._keep(error)
        if stop is self._stop:
            self._keep_newest()

    def _record(self, frame: Frame, stop: threading.Event) -> None:
        with self._lock:
            if stop is not self._stop:  # cancelled
                return
            kept = self.recording.frames
            self._changed = True
            if frame is self._seen:
                return
            first, self._seen = self._taken == 0, frame
            self._taken += 1
            thin = self.recording.thin
            self._left_out = None
            if self._max == 1:
                kept[:] = self._new[:] = [frame]
            elif first or thin == 1 or frame.step % thin == 0:
                kept.append(frame)
                self._new.append(frame)
            else:
                self._left_out = frame

    def _keep_newest(self) -> None:
        """The newest frame is kept in any case: the run resumes from it."""
        with self._lock:
            if self._left_out is not None:
                self.recording.frames.append(self._left_out)
                self._new.append(self._left_out)
                self._left_out, self._changed = None, True

    async def _pump_in_loop(self, worker: threading.Thread) -> None:
        while self._thread is worker and self.pump():
            await asyncio.sleep(self._interval)

    def _draw_new(self) -> None:
        def draw() -> None:
            with self._lock:
                new, self._new, self._changed = self._new, [], False
            self._draw(new)
            self._show(self.status)

        try:
            self._throttle(draw)
        except Exception as error:  # noqa: BLE001 - in the event loop it would be lost, and the run never end
            self._keep(error)
            self._stop.set()

    def _finish(self) -> None:
        """Draw the remaining frames, and show the end of the run."""
        self._close_segment()
        with self._lock:
            new, self._new, left = self._new, [], self._changed
        try:
            if left:
                self._draw(new)
        except Exception as error:  # noqa: BLE001 - as above
            self._keep(error)
        finally:
            self._thread = self._task = None
        try:
            self._show(self.status)
        except Exception as error:  # noqa: BLE001 - as above
            self._keep(error)
            self._report(error, "".join(traceback.format_exception(error)))

    def _close_segment(self) -> None:
        """Note in the replay code and in the status how far the run came."""
        if not self._exhausted:
            self.recording.segments.leave(self._taken)
        finished = self._exhausted or bool(getattr(self.newest, "finished", False))
        self._status = RunStatus("finished" if finished else "stopped")

    @staticmethod
    def _join(thread: threading.Thread | None) -> None:
        """Wait for a thread other than this one."""
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _keep(self, error: BaseException) -> None:
        """Keep the first error of a run, which is the cause of later ones."""
        self._error = self._error or error


def _made(make: Callable[[], Iterable[Frame]]) -> Iterator[Frame]:
    """Make a generator when its first frame is wanted."""
    yield from make()


def in_event_loop() -> bool:
    """True in a notebook, whose event loop draws; False in a script."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
