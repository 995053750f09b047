"""Files written from a map in the background, with progress and Stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.latent_map.lasso_table import lasso_table
from cdvae_lab.widgets.parts.writing import Writing


def write_table(map: LatentMap, rows: Sequence[int], path: Path) -> Iterator[Writing]:
    """Write a table of some crystals of a map to a CSV file. Raises LabError if it cannot be written."""
    yield Writing(0, 1)
    with atomic_path(path, "the table") as temporary:
        lasso_table(map, rows).to_csv(temporary)
    yield Writing(1, 1, (path,))


class MapExport:
    """One export at a time.

    Args:
        controls: whose progress bar shows it.
        new_run: makes the run, given what shows its status.
        say: function that shows a text.
        fail: function that shows an error, its traceback, and a sentence about the results that are kept.
        enable: called whenever an export begins or ends.
    """

    def __init__(
        self,
        controls: LatentMapControls,
        new_run: Callable[[Callable[[RunStatus], None]], RecordedRun[Writing]],
        say: Callable[[str], None],
        fail: Callable[[BaseException, str, str], None],
        enable: Callable[[], None],
    ) -> None:
        self._progress, self._say, self._fail, self._enable = controls.progress, say, fail, enable
        self._when_written: Callable[[], None] = lambda: None
        self.run = new_run(self._show)

    def start(self, work: Iterator[Writing], pieces: int, then: Callable[[], None], wait: bool) -> None:
        """Write files.

        Args:
            pieces: number of files to write.
            then: called when all are written.
            wait: until they are.
        """
        self.run.cancel()
        self._when_written = then
        self._progress.max, self._progress.value = pieces, 0
        self.run.start(work, wait=wait)

    def _show(self, status: RunStatus) -> None:
        self._enable()
        progress: Writing | None = self.run.newest
        done, total = (0, 0) if progress is None else (progress.step, progress.num_steps)
        self._progress.value = done
        if status.error is not None:
            self._fail(status.error, status.traceback, f"{done} of {total} files are written.")
        elif status.running:
            self._say("writing" if progress is None else f"writing: {done} of {total} files")
        elif progress is not None:
            if status.state == "finished":
                self._when_written()
            where = f" to {progress.files[0].parent}" if progress.files else ""
            stopped = "stopped: " if status.state == "stopped" else ""
            self._say(f"{stopped}{done} of {total} files are written{where}")
