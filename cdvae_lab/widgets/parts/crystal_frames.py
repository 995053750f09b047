"""The frames of a denoising run in a `CrystalView`, moved so that no atom jumps across its cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.render import FrameOrigin
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.parts.crystal_view import CrystalView


class CrystalFrames:
    """Draws the frames of one run as they come.

    Args:
        view: where they are drawn.
    """

    def __init__(self, view: CrystalView) -> None:
        self.view = view
        self._moved: list[DenoisingFrame] = []
        self._origins: list[FrameOrigin] = []

    def __len__(self) -> int:
        """Number of frames that have been drawn."""
        return len(self._moved)

    def add(self, new: Sequence[DenoisingFrame], follow: bool = True) -> None:
        """Draw more frames.

        Args:
            follow: show the last of them; the slider of the view is not moved.
        """
        if not new:
            return
        origins = list(FrameOrigin.along(new, self._origins[-1] if self._origins else None))
        moved = [replace(f, crystals=origin.move(f.crystals)) for origin, f in zip(origins, new, strict=True)]
        self._origins += origins
        self._moved += moved
        self.view.add(moved, follow=follow)
        if follow and self.view.stage.slider is None:
            self.view.index = len(self._moved) - 1

    def restart(self, keep: int = 0) -> None:
        """Keep the first `keep` frames, and show the last of them."""
        del self._moved[keep:], self._origins[keep:]
        self.view.show_all(self._moved, index=max(keep - 1, 0))

    def crystals(self, index: int) -> Crystals:
        """The crystals of a frame, as they are drawn."""
        return self._moved[index].crystals
