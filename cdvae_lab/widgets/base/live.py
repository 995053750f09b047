"""A run's frames, recorded as they are computed and shown in a view at the eye's pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.render import FilmOrigin
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.frames import every
from cdvae_lab.widgets.base.runner import Runner
from cdvae_lab.widgets.parts.crystal_view import CrystalView

FRAMES = 60  # that are shown of a run; more could not be told apart


class Live:
    """One run at a time. A new one ends the old one.

    Args:
        runner: makes the `Runner`, as `Panel._runner` does.
        view: where the frames are shown.
        moved: called each time that something new is shown.
        ended: called after each run that was not replaced by another.
    """

    def __init__(
        self,
        runner: Callable[[Callable[[Any], None], Callable[[], None]], Runner],
        view: CrystalView,
        moved: Callable[[], Any],
        ended: Callable[[], Any],
    ) -> None:
        self.frames: list[DenoisingFrame] = []
        self._view, self._moved, self._tell_end = view, moved, ended
        self._origins: list[FilmOrigin] = []  # of the frames that the view has
        self._replaced = False
        self._runner = runner(self._show, self._ended)

    @property
    def running(self) -> bool:
        return self._runner.running

    @property
    def error(self) -> BaseException | None:
        return self._runner.error

    @property
    def traceback(self) -> str:
        return self._runner.traceback

    @property
    def finished(self) -> bool:
        """Whether the last run came to its end."""
        return bool(self.frames) and self.frames[-1].finished and not self.running

    @property
    def crystals(self) -> Crystals:
        """The newest."""
        return self.frames[-1].crystals

    def start(self, frames: Iterable[DenoisingFrame], steps: int, *, after: bool = False, wait: bool = False) -> None:
        """Run.

        Args:
            frames: a generator.
            steps: of the whole run.
            after: the frames go on from those that there are.
            wait: return at the end, and raise what the run raises.
        """
        self.stop(wait=True)
        if not after:
            self.frames, self._origins = [], []
            self._view.show_all([])
        recorded = self._record(every(frames, -(-steps // FRAMES)))
        if wait:
            self._runner.run_blocking(recorded)
        else:
            self._runner.start(recorded)

    def stop(self, wait: bool = False) -> None:
        """End the run after the step that it is in.

        Args:
            wait: until it has, without a word to whoever waits for its end: another run is to follow.
        """
        if self._runner.running:
            self._replaced = wait
            self._runner.stop()
            if wait:
                self._runner.wait()
            self._replaced = False

    def _record(self, frames: Iterator[DenoisingFrame]) -> Iterator[DenoisingFrame]:
        for frame in frames:
            self.frames.append(frame)
            yield frame

    def _show(self, newest: DenoisingFrame | None = None) -> None:
        new = self.frames[len(self._origins) :]
        if new:
            origins = list(FilmOrigin.along(new, self._origins[-1] if self._origins else None))
            self._origins += origins
            moved = [o.move(frame.crystals) for o, frame in zip(origins, new, strict=True)]
            self._view.add([replace(frame, crystals=one) for frame, one in zip(new, moved, strict=True)])
            self._view.index = len(self._origins) - 1
            self._moved()

    def _ended(self) -> None:
        self._show()
        if not self._replaced:
            self._tell_end()
