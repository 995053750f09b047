"""The frames of a run that are kept, thinned, and those of them that are still to be drawn."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cdvae_lab.widgets.base.replay_code import Segments

Frame = TypeVar("Frame", bound=Any)


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

    @property
    def newest(self) -> Any:
        """The last frame; None before the first."""
        return self.frames[-1] if self.frames else None

    def cut(self, count: int) -> None:
        """Keep the first `count` frames and remove the others."""
        if count < len(self.frames):
            del self.frames[count:]
            self.segments.cut(count)


class Recorder(Generic[Frame]):
    """Adds the frames of one generator to a recording, and hands them out to be drawn.

    One thread adds frames while another takes them. The same frame added again is not recorded, but there is something
    to draw.

    Args:
        recording: added to.
        only_newest: replace the last frame by each new one.

    Attributes:
        recording: as given.
        taken: number of frames that the generator gave.
        changed: something has come since frames were taken last.
    """

    def __init__(self, recording: Recording[Frame], only_newest: bool) -> None:
        self.recording, self._only_newest = recording, only_newest
        self.taken, self.changed = 0, False
        self._new: list[Frame] = []  # frames that have not been taken
        self._seen = recording.newest
        self._left_out: Frame | None = None  # the same, while it is not kept
        self._open = True
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """False once no more frames are wanted."""
        return self._open

    def add(self, frame: Frame) -> None:
        """Record a frame, unless it is left out, or none is wanted any more."""
        with self._lock:
            if not self._open:
                return
            self.changed = True
            if frame is self._seen:
                return
            first, self._seen = self.taken == 0, frame
            self.taken += 1
            kept, thin, self._left_out = self.recording.frames, self.recording.thin, None
            if self._only_newest:
                kept[:] = self._new[:] = [frame]
            elif first or thin == 1 or frame.step % thin == 0:
                kept.append(frame)
                self._new.append(frame)
            else:
                self._left_out = frame

    def keep_newest(self) -> None:
        """Record the newest frame in any case: a run resumes from it."""
        with self._lock:
            self._keep_newest()

    def take(self) -> list[Frame]:
        """The frames that were recorded since the last call."""
        with self._lock:
            new, self._new, self.changed = self._new, [], False
        return new

    def close(self) -> None:
        """Record the newest frame, and none that comes later."""
        with self._lock:
            self._keep_newest()
            self._open, self._new, self.changed = False, [], False

    def _keep_newest(self) -> None:
        if self._left_out is not None:
            self.recording.frames.append(self._left_out)
            self._new.append(self._left_out)
            self._left_out, self.changed = None, True
