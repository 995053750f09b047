"""Latents decoded in the background and shown beside the map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.base.recorded_run import RecordedRun, RunStatus
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.parts.crystal_frames import CrystalFrames

MAX_FRAMES = 60  # kept frames of a run; the slider could not resolve more
MAX_DECODED = 500  # decoded crystals of the map that are kept


class Decoder:
    """One run of `denoise` at a time.

    Args:
        controls: with the crystals and the caption.
        new_run: makes the run, given what draws its frames and what shows its status.
        say: function that shows a text.
        fail: shows an error and its traceback.
        enable: called whenever a run begins or ends.

    Attributes:
        run: the recorded run.
        known: decoded crystals of the map, by number.
    """

    def __init__(
        self,
        controls: LatentMapControls,
        new_run: Callable[..., RecordedRun[DenoisingFrame]],
        say: Callable[[str], None],
        fail: Callable[[BaseException, str], None],
        enable: Callable[[], None],
    ) -> None:
        self._controls, self._say, self._fail, self._enable = controls, say, fail, enable
        self._shown = CrystalFrames(controls.view)
        self._then: Callable[[DenoisingFrame], Any] = lambda frame: None
        self.known: dict[int, Crystals] = {}
        self.run = new_run(self._shown.add, self._show, max_frames=MAX_FRAMES)

    def start(
        self,
        frames: Callable[[], Iterator[DenoisingFrame]],
        num_steps: int,
        title: str,
        then: Callable[[DenoisingFrame], Any],
        wait: bool,
    ) -> None:
        """Decode.

        Args:
            frames: makes the generator, in the worker thread.
            num_steps: of the run.
            title: HTML, for the caption.
            then: called with the last frame, if it comes to that.
            wait: until it has.
        """
        self.run.cancel()
        self._then = then
        self._shown.restart()
        self._controls.show_glance("", None)
        self._controls.show_caption(title, None)
        self.run.start(frames, num_steps=num_steps, wait=wait)

    def remember(self, index: int, crystal: Crystals) -> None:
        """Keep the decoded crystal of a number on the map; the oldest is forgotten when there are too many."""
        self.known[index] = crystal
        while len(self.known) > MAX_DECODED:
            self.known.pop(next(iter(self.known)))

    def _show(self, status: RunStatus) -> None:
        self._enable()
        if status.error is not None:
            self._fail(status.error, status.traceback)
        elif status.running:
            self._say("decoding" if status.step is None else f"decoding: step {status.step} of {status.num_steps}")
        elif status.state == "finished":
            self._then(self.run.newest)
            self._say("finished")
        else:
            self._say("stopped" if status.step is None else f"stopped after step {status.step}")
