"""A generator that runs in the background, can be stopped between two steps, and is shown at the eye's pace.

One worker thread iterates and leaves the newest item in a slot. The kernel's event loop empties the slot some twelve
times a second into `show`, so that everything on the screen happens in the kernel's own thread, sliders and other cells
stay alive, and a step that nobody could see costs nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from cdvae_lab.errors import SettingError

_EMPTY = object()


class Runner:
    """Runs one generator at a time.

    Args:
        show: called with the newest item, never from the worker thread.
        ended: called once after each run, also one that failed. An error that `show` raises ends the run, too.
        failed: called after an `ended` that itself raised: nobody else would tell in a notebook.
        fps: how often the slot is emptied, a second.
    """

    def __init__(
        self,
        show: Callable[[Any], None],
        ended: Callable[[], None] = lambda: None,
        failed: Callable[[], None] = lambda: None,
        *,
        fps: float | int = 12,
    ) -> None:
        if not 0 < fps <= 60:
            raise SettingError(f"fps is {fps}; choose more than 0 and up to 60")
        self.error: BaseException | None = None  # that ended the last run, if one did
        self.stopped = False  # whether the last run was stopped before its end
        self._show, self._ended, self._failed, self._interval = show, ended, failed, 1 / fps
        self._slot: Any = _EMPTY
        self._lock = threading.Lock()  # an item that comes while the slot is emptied must not be lost
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task | None = None  # kept, or the loop might forget it

    @property
    def running(self) -> bool:
        """From start until `ended` has been called."""
        return self._thread is not None

    @property
    def stopping(self) -> bool:
        """Between `stop` and the end of the step that was being computed."""
        return self.running and self._stop.is_set()

    @property
    def traceback(self) -> str:
        """The last run's error as Python prints it; empty if there was none."""
        return "".join(traceback.format_exception(self.error)) if self.error else ""

    def start(self, items: Iterable[Any], pace: float | int | None = None) -> None:
        """Run in the background; in a notebook the event loop does the rest, elsewhere call `wait` or `pump`.

        Args:
            items: a generator.
            pace: items a second at most.

        Raises:
            SettingError: if a run is going on.
        """
        self._prepare()
        self._thread = threading.Thread(target=self._work, args=(items, pace), name="cdvae_lab runner", daemon=True)
        self._thread.start()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a script
            return
        self._task = loop.create_task(self._drain())

    def run_blocking(self, items: Iterable[Any]) -> None:
        """The same in this thread: returns at the end, and raises what the generator, `show` or `ended` raises."""
        self._prepare()
        self._thread = threading.current_thread()
        self._work(items, None)
        self._finish()
        if self.error:
            raise self.error

    def stop(self) -> None:
        """Ask the run to end after the step that it is in; returns at once."""
        self._stop.set()

    def pump(self) -> bool:
        """Show the newest item, if there is a new one; True while the run goes on."""
        thread = self._thread
        if thread is None:
            return False
        alive = thread.is_alive()  # before the slot is looked at: what a dead thread left is there
        self._empty_slot()
        if not alive:
            self._finish()
        return alive

    def wait(self, timeout: float | int | None = None) -> bool:
        """Pump until the run has ended, or for so many seconds; True if it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.pump():
            if end is not None and time.monotonic() >= end:
                return False
            thread = self._thread
            if thread is not None:
                thread.join(self._interval)
        return True

    def close(self) -> None:
        """Stop, and wait for the step that is being computed."""
        self._show, self._ended, self._failed = lambda item: None, lambda: None, lambda: None
        self.stop()
        self.wait()

    def _prepare(self) -> None:
        if self.running:
            raise SettingError("a run is going on; stop it first")
        self.error, self.stopped, self._slot = None, False, _EMPTY
        self._stop.clear()

    def _work(self, items: Iterable[Any], pace: float | int | None) -> None:
        due = time.monotonic()
        try:
            for item in items:
                with self._lock:
                    self._slot = item
                due = max(due, time.monotonic() - 0.1) + (1 / pace if pace else 0)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    self.stopped = True
                    break
        except BaseException as error:  # noqa: BLE001 - a thread's error is seen nowhere unless it is kept
            self._keep(error)

    async def _drain(self) -> None:
        while self.pump():
            await asyncio.sleep(self._interval)

    def _empty_slot(self) -> None:
        with self._lock:
            item, self._slot = self._slot, _EMPTY
        if item is _EMPTY:
            return
        try:
            self._show(item)
        except Exception as error:  # noqa: BLE001 - in the event loop it would be lost, and the run never end
            self._keep(error)
            self._stop.set()

    def _finish(self) -> None:
        try:
            self._empty_slot()
        finally:
            self._thread = self._task = None
        try:
            self._ended()
        except Exception as error:  # noqa: BLE001 - as above
            self._keep(error)
            self._failed()

    def _keep(self, error: BaseException) -> None:
        """The first error of a run is the one that says what went wrong."""
        self.error = self.error or error
