"""Pictures of the stops of a path while they are being decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from cdvae_lab.explore.interpolation import LatentPath
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.interpolation.results import places
from cdvae_lab.widgets.parts.filmstrip import path_pictures

_EVERY = 1.0  # s


class LivePictures:
    """Makes pictures of the current stops at intervals, in the worker thread, for the kernel's own thread to show."""

    def __init__(self) -> None:
        self._made: list[dict[str, Any]] | None = None

    def of(self, frames: Iterator[DenoisingFrame], path: LatentPath) -> Iterator[DenoisingFrame]:
        """Pass the frames of a path through, and make pictures of some."""
        due = 0.0
        for frame in frames:
            if time.monotonic() >= due:
                self._made = path_pictures(frame.crystals.to("cpu"), places(path))
                due = time.monotonic() + _EVERY
            yield frame

    def take(self) -> list[dict[str, Any]] | None:
        """The pictures that were made since the last call; None if there are none."""
        made, self._made = self._made, None
        return made
