"""Run a generator in the background, record its frames, and draw them at a limited rate.

A worker thread iterates and keeps the frames. The kernel's event loop draws new frames, at most about twelve times a
second. Everything on the screen thus happens in the kernel's own thread, sliders and other cells stay responsive, and
drawing never delays the computation.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from cdvae_lab.errors import SettingError
from cdvae_lab.widgets.base.recording import Recorder, Recording
from cdvae_lab.widgets.base.replay_code import Segments
from cdvae_lab.widgets.base.run_status import RunStatus, State
from cdvae_lab.widgets.base.throttle import Throttle
from cdvae_lab.widgets.base.worker import Worker

Frame = TypeVar("Frame", bound=Any)
_PUMP = 0.1  # s, largest interval between two checks of a run


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
        self._error: BaseException | None = None
        self._worker: Worker[Frame] | None = None  # of the run, until its end has been drawn
        self._before: Worker[Frame] | None = None  # of a cancelled run that still computes its last step
        self._task: asyncio.Task | None = None  # kept, or the loop might forget it

    # --- the recording ----------------------------------------------------------------------------------

    @property
    def frames(self) -> list[Frame]:
        """The kept frames, in order; not to be changed."""
        return self.recording.frames

    @property
    def newest(self) -> Any:
        """The last frame; None before the first."""
        return self.recording.newest

    @property
    def status(self) -> RunStatus:
        """The state of the run now."""
        newest = self.newest
        if self._worker is not None:
            state: State = "stopping" if self._worker.stopping else "running"
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
        return self._worker is not None

    @property
    def computing(self) -> bool:
        """True while a step is computed in another thread, also the last one of a cancelled run."""
        return any(one is not None and one.computing for one in (self._worker, self._before))

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
        if self._worker is not None and not self._worker.stopping:
            self._worker.stop()
            self._show(self.status)

    def cancel(self, join: bool = False) -> None:
        """End the run without showing its end, because another one is to follow.

        Returns at once. The step that is being computed is not recorded any more, and the next run begins after it.

        Args:
            join: wait for that step.
        """
        worker = self._worker
        if worker is not None:
            worker.stop()
            if join:
                worker.join()
            worker.recorder.close()
            self._before, self._worker, self._task = worker, None, None
            self._close_segment(worker)
        elif join and self._before is not None:
            self._before.join()

    def pump(self) -> bool:
        """Draw new frames if a drawing is due; True while the run continues."""
        worker = self._worker
        if worker is None:
            return False
        alive = worker.alive  # read before the new frames: a dead thread adds none
        if not alive:
            self._finish(worker)
        elif worker.recorder.changed and not self._throttle.wait:
            self._draw_new(worker)
        return alive

    def wait(self, timeout: float | int | None = None) -> bool:
        """Draw new frames until the run has ended or the timeout has passed, in seconds; True if it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.pump():
            if end is not None and time.monotonic() >= end:
                return False
            if self._worker is not None:
                self._worker.join(self._interval)
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
        if self._worker is not None:
            self._worker.stop()
        self.wait()
        if self._before is not None:
            self._before.join()

    # --- the run ----------------------------------------------------------------------------------------

    def _begin(
        self,
        source: Iterable[Frame] | Callable[[], Iterable[Frame]],
        call: str,
        pace: float | int | None,
        wait: bool,
    ) -> None:
        self.recording.segments.add(call, len(self.recording.frames), self.recording.thin)
        self._error = None
        self._throttle = Throttle(1 / self._fps, self._share)  # the first frame is drawn at once
        self._worker = worker = Worker(source, Recorder(self.recording, self._max == 1), self._keep)
        before, self._before = self._before, None
        self._show(self.status)
        if wait:
            worker.work(before)
            self._finish(worker)
            if self._error is not None:
                raise self._error
            return
        worker.start(before, pace, self._alone)
        if in_event_loop():
            self._task = asyncio.get_running_loop().create_task(self._pump_in_loop(worker))

    async def _pump_in_loop(self, worker: Worker[Frame]) -> None:
        while self._worker is worker and self.pump():
            await asyncio.sleep(self._interval)

    def _draw_new(self, worker: Worker[Frame]) -> None:
        def draw() -> None:
            self._draw(worker.recorder.take())
            self._show(self.status)

        try:
            self._throttle(draw)
        except Exception as error:  # noqa: BLE001 - in the event loop it would be lost, and the run never end
            self._keep(error)
            worker.stop()

    def _finish(self, worker: Worker[Frame]) -> None:
        """Draw the remaining frames, and show the end of the run."""
        self._close_segment(worker)
        try:
            if worker.recorder.changed:
                self._draw(worker.recorder.take())
        except Exception as error:  # noqa: BLE001 - as above
            self._keep(error)
        finally:
            self._worker = self._task = None
        try:
            self._show(self.status)
        except Exception as error:  # noqa: BLE001 - as above
            self._keep(error)
            self._report(error, "".join(traceback.format_exception(error)))

    def _close_segment(self, worker: Worker[Frame]) -> None:
        """Note in the replay code and in the status how far the run came."""
        if not worker.exhausted:
            self.recording.segments.leave(worker.recorder.taken)
        finished = worker.exhausted or bool(getattr(self.newest, "finished", False))
        self._status = RunStatus("finished" if finished else "stopped")

    def _keep(self, error: BaseException) -> None:
        """Keep the first error of a run, which is the cause of later ones."""
        self._error = self._error or error


def in_event_loop() -> bool:
    """True in a notebook, whose event loop draws; False in a script."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
