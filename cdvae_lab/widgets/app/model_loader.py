"""Reading of the models that the app is to use, in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cdvae_lab.widgets.app.models import LoadedModel
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.run_status import RunStatus


class ModelLoader:
    """Reads one model at a time, and has the one that was asked for last used.

    Args:
        new_run: makes the run that reads, given what shows its status.
        say: shows a text.
        fail: shows an error and its traceback.
        use: called with the model that has been read.
        refused: called if it could not be read; the one before stays in use.
    """

    def __init__(
        self,
        new_run: Callable[..., RecordedRun[LoadedModel]],
        say: Callable[[str], None],
        fail: Callable[[BaseException, str], None],
        use: Callable[[LoadedModel], None],
        refused: Callable[[], None],
    ) -> None:
        self._say, self._fail, self._use, self._refused = say, fail, use, refused
        self._label, self._said = "", ""  # of the model that is being read, and what to say at the end
        self._run = new_run(show=self._show, max_frames=1)

    def load(self, label: str, read: Callable[[], LoadedModel], wait: bool, said: str = "") -> None:
        """Read a model, and use it then.

        Args:
            label: says what is being read.
            read: reads it, in any thread.
            wait: return at the end, and raise what goes wrong.
            said: at the end, with the label that the model then has.
        """

        def frames() -> Iterator[LoadedModel]:
            yield read()

        self._label, self._said = label, said
        self._run.start(frames(), wait=wait)

    def stop(self) -> None:
        """Use nothing that is being read."""
        self._run.stop()

    def _show(self, status: RunStatus) -> None:
        loaded: Any = self._run.newest
        if status.running:
            self._say(f"reading the model {self._label}")
        elif status.error is not None:
            self._fail(status.error, status.traceback)
            self._refused()
        elif loaded is not None:
            self._use(loaded)
            self._say(self._said.format(loaded.label))
