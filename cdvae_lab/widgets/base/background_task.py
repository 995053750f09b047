"""One piece of work in the background, of which only the result matters: reading a file, encoding a crystal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from cdvae_lab.widgets.base.recorded_run import RecordedRun, in_event_loop
from cdvae_lab.widgets.base.run_status import RunStatus

Result = TypeVar("Result", bound=Any)


def waits(wait: bool | None) -> bool:
    """Decide whether work is done before its call returns: as asked, and with None in a script.

    There no event loop would draw the result later, and an error that is only shown would be missed.
    """
    return not in_event_loop() if wait is None else wait


class BackgroundTask(Generic[Result]):
    """Does one piece of work at a time in a worker thread, and uses its result in the kernel's own thread.

    Args:
        new_run: makes the run, given what shows its status.
        say: shows a text.
        fail: shows an error and its traceback.
        changed: called whenever work begins or ends.
        doing: a word for the work, shown with its progress; empty: the status line is left to others.

    Attributes:
        run: the recorded run, of which the last frame is the result.
    """

    def __init__(
        self,
        new_run: Callable[..., RecordedRun[Result]],
        say: Callable[[str], None],
        fail: Callable[[BaseException, str], None],
        changed: Callable[[], None],
        doing: str,
    ) -> None:
        self._say, self._fail, self._changed, self._doing = say, fail, changed, doing
        self._then: Callable[[Result], Any] = lambda result: None
        self.run = new_run(show=self._show, max_frames=1)

    @property
    def running(self) -> bool:
        """True until the result has been used."""
        return self.run.running

    def start(self, work: Callable[[], Iterable[Any]], then: Callable[[Result], Any], wait: bool | None = None) -> None:
        """Begin; work that is not finished is cancelled.

        Args:
            work: called in the worker thread. The last of what it gives is the result, what comes before can have the
                `step` and `num_steps` of its progress; it can be stopped between two of them.
            then: called with the result, unless the work is stopped or fails.
            wait: do everything in this thread, and raise what is raised; by default in a script, where no event loop
                would draw the result.
        """
        self.run.cancel()
        if waits(wait):
            *_, result = work()
            then(result)
            return
        self._then = then
        self.run.start(work)

    def cancel(self) -> None:
        """End the work without its result, and show nothing of it any more."""
        if self.running:
            self.run.cancel()
            self._changed()

    def _show(self, status: RunStatus) -> None:
        self._changed()
        if status.error is not None:
            self._fail(status.error, status.traceback)
        elif status.state == "finished":
            self._tell("")
            self._then(self.run.newest)
        elif status.running:
            done = "" if status.step is None else f": {status.step} of {status.num_steps}"
            self._tell(f"{self._doing}{done}")
        else:
            self._tell(f"{self._doing}: stopped")

    def _tell(self, text: str) -> None:
        if self._doing:
            self._say(text)
