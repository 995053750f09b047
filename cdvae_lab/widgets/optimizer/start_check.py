"""Whether the next search can start, found out in the background."""

from __future__ import annotations

from collections.abc import Callable

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.optimizer.search_start import SearchStart, Start


class StartCheck:
    """Reads the start that is chosen, and keeps the reason why the search cannot begin from it.

    Args:
        start: what is chosen.
        task: in which it is read.
        show: shows the reason; an empty one removes it.

    Attributes:
        problem: the reason; empty if there is none, and before anything is chosen.
    """

    def __init__(self, start: SearchStart, task: BackgroundTask[str], show: Callable[[str], None]) -> None:
        self._start, self._task, self._show = start, task, show
        self.problem = ""

    def begin(self) -> None:
        """Check what is chosen now; a check that is not finished is cancelled."""
        if not self._start.named:  # nothing is wrong before something has been written
            self._found("")
            return
        try:
            read = self._start.reading()
        except SettingError as error:
            self._found(str(error))
        else:
            self._task.start(lambda: [_problem(read)], self._found)

    def _found(self, problem: str) -> None:
        self._task.cancel()
        self.problem = problem
        self._show(problem)


def _problem(read: Callable[[], Start]) -> str:
    """The reason why a start cannot be read; empty if it can."""
    try:
        read()
    except LabError as error:
        return str(error)
    return ""
