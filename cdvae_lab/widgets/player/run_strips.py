"""The strips below the player: every frame of the run is measured for them in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.base.background_task import waits
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.parts.strips import Course, Strips

_AT_ONCE = 8  # frames that are measured before they are shown


class RunStrips:
    """Shows the frames of one run in strips.

    Measuring takes as long as some of the steps do, for many atoms tenths of a second a frame: in a notebook it is not
    done where the kernel answers, but in a thread, and strips follow the frames. A script waits.

    Args:
        strips: where they are shown.
        new_run: makes the run that measures, as `View.new_run`.
        fail: shows an error and its traceback.
    """

    def __init__(
        self,
        strips: Strips,
        new_run: Callable[..., RecordedRun[Course]],
        fail: Callable[[BaseException, str], Any],
    ) -> None:
        self._strips, self._fail = strips, fail
        self._frames: Sequence[DenoisingFrame] = ()
        self._choice: int | None = None
        self._length = 0
        self._course: Course | None = None  # of the frames that have been measured
        self._before: Course | None = None  # of those that had been when the measuring began
        self._run = new_run(self._take, self._measured, max_frames=1, alone=True)
        Course.warm_up()

    def restart(self, keep: int) -> None:
        """Forget all but the first `keep` frames."""
        self._run.cancel()
        self._course = self._course.until(keep) if self._course is not None and keep else None
        self._frames = self._frames[:keep]

    def show(self, frames: Sequence[DenoisingFrame], choice: int | None, length: int) -> None:
        """Bring the strips up to these frames.

        Args:
            frames: those shown before, and more.
            choice: number of the one crystal to show; None for all.
            length: number of frames that there is room for.
        """
        self._frames, self._choice, self._length = frames, choice, length
        self._send()
        self._measure()

    @property
    def _known(self) -> int:
        """Number of frames that have been measured."""
        return 0 if self._course is None else len(self._course.distance)

    def _measure(self) -> None:
        known, frames = self._known, self._frames
        if self._run.running or known >= len(frames):
            return
        self._before = self._course
        new, last = frames[known:], frames[known - 1] if known else None
        self._run.start(lambda: _courses(new, last), wait=waits(None))

    def _take(self, courses: Sequence[Course]) -> None:
        for course in courses:
            self._course = course if self._before is None else self._before.then(course)
        self._send()

    def _measured(self, status: RunStatus) -> None:
        if status.error is not None:
            self._fail(status.error, status.traceback)
        elif not status.running:
            self._measure()  # more frames may have come meanwhile

    def _send(self) -> None:
        known = self._known
        if self._course is None:
            self._strips.data = {}
        else:
            length = max(known, self._length)
            self._strips.data = self._course.data(self._frames[:known], self._choice, length)


def _courses(frames: Sequence[DenoisingFrame], before: DenoisingFrame | None) -> Iterator[Course]:
    """Measure frames, a few at a time; each yield holds all so far."""
    course: Course | None = None
    for first in range(0, len(frames), _AT_ONCE):
        some = frames[first : first + _AT_ONCE]
        new, before = Course.of(some, before), some[-1]
        course = new if course is None else course.then(new)
        yield course
