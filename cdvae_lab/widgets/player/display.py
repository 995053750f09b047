"""The frames of a run on the screen: crystals, slider and strips."""

from __future__ import annotations

from collections.abc import Sequence

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.throttle import Throttle
from cdvae_lab.widgets.parts.crystal_frames import CrystalFrames
from cdvae_lab.widgets.player.controls import PlayerControls
from cdvae_lab.widgets.player.run_strips import RunStrips
from cdvae_lab.widgets.player.state import PlayerState

_SLOW = 0.4  # s between two drawings of slider and strips: they cost the browser more than the crystals do


class RunDisplay:
    """Draws the frames of a run as they come, and follows the newest unless the user looks at another.

    Args:
        state: whose `index` is the frame that is shown.
        controls: where they are drawn.
        run: whose frames they are.
        strips: measures them.
    """

    def __init__(
        self, state: PlayerState, controls: PlayerControls, run: RecordedRun[DenoisingFrame], strips: RunStrips
    ) -> None:
        self._state, self._controls, self._run, self._strips = state, controls, run, strips
        self._frames = CrystalFrames(controls.view)
        self._slow = Throttle(_SLOW)
        self._followed = 0  # where the slider was put last; elsewhere the user has moved it

    def __len__(self) -> int:
        """Number of frames that have been drawn."""
        return len(self._frames)

    def crystals(self, index: int) -> Crystals:
        """The crystals of a frame, as they are drawn."""
        return self._frames.crystals(index)

    def restart(self, keep: int, last: int) -> None:
        """Prepare for more frames after the first `keep`.

        Args:
            last: number that the last frame will have.
        """
        self._strips.restart(keep)
        self._frames.restart(keep)
        self._followed = max(keep - 1, 0)
        self._controls.pause()
        self._state.limit("index", last)
        self._slow = Throttle(_SLOW)

    def add(self, new: Sequence[DenoisingFrame]) -> None:
        """Draw new frames."""
        follow = self._following
        self._frames.add(new, follow=follow)
        self._slow(lambda: self._move(follow))

    def finish(self) -> None:
        """Show that no more frames come."""
        self._move(self._following)
        self._state.limit("index", max(0, len(self._run.frames) - 1))
        self.draw_strips()

    def draw_strips(self) -> None:
        """Bring the strips up to the frames that are drawn, and to the crystal that is shown."""
        room = self._state.limits.get("index", 0) + 1
        self._strips.show(self._run.frames[: len(self._frames)], self._controls.view.choice, room)

    @property
    def _following(self) -> bool:
        return self._state.index == self._followed or self._state.index >= len(self._frames) - 1

    def _move(self, follow: bool) -> None:
        """Bring slider and strips up to the frames that are drawn."""
        if follow and len(self._frames):
            self._state.index = self._followed = len(self._frames) - 1
        self.draw_strips()
