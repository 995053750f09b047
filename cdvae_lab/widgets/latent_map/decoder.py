"""Latents decoded in the background and shown beside the map."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.replay_code import Sampler
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.latent_map.record import Record
from cdvae_lab.widgets.parts.crystal_frames import CrystalFrames

MAX_FRAMES = 60  # kept frames of a run; the slider could not resolve more
MAX_DECODED = 500  # decoded crystals of the map that are kept


class Decoder:
    """One run of `denoise` at a time.

    Args:
        model: that decodes.
        map: with the name and unit of the property that the model predicts.
        sampler: of every run.
        controls: with the crystals and the caption.
        record: of what is decoded.
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
        model: CDVAE,
        map: LatentMap,
        sampler: Sampler,
        controls: LatentMapControls,
        record: Record,
        new_run: Callable[..., RecordedRun[DenoisingFrame]],
        say: Callable[[str], None],
        fail: Callable[[BaseException, str], None],
        enable: Callable[[], None],
    ) -> None:
        self._model, self._map, self._sampler = model, map, sampler
        self._controls, self._record = controls, record
        self._say, self._fail, self._enable = say, fail, enable
        self._shown = CrystalFrames(controls.view)
        self._then: Callable[[DenoisingFrame], str] = lambda frame: ""
        self.known: dict[int, Crystals] = {}
        self.run = new_run(self._shown.add, self._show, max_frames=MAX_FRAMES)

    def decode(
        self, z: Float[Tensor, "1 latent"], z_code: str, title: str, name: str, wait: bool, index: int | None = None
    ) -> None:
        """Decode one latent, and pick its crystal.

        Args:
            z_code: an expression of Python for it.
            title: HTML, for the caption.
            name: of the crystal, after its formula.
            wait: until it is decoded.
            index: number on the map of the crystal whose latent it is.
        """
        call = f"lab.last(lab.denoise(model, z={{}}{self._sampler.arguments})).crystals"
        lines = (f"z = {z_code}", f"crystal = {call.format('z')}")
        imports = ("import torch",) if "torch." in z_code else ()
        expression = "" if imports else call.format(z_code)

        def then(last: DenoisingFrame) -> str:
            crystal = last.crystals.to("cpu")
            if index is not None:
                self._remember(index, crystal)
            self._controls.show_caption(title + self._prediction(z), crystal)
            self._record.add(*lines, imports=imports)
            code = self._record.alone(*lines, imports=imports)
            formula = captions.formula(crystal)
            self._record.pick(f"{formula} ({name})", crystal, z.cpu(), expression, code)
            return f"{formula} is decoded"

        self.start(lambda: self.frames(z), title, then, wait)

    def frames(self, z: Float[Tensor, "crystals latent"]) -> Iterator[DenoisingFrame]:
        """The frames of decoding latents."""
        return denoise(self._model, z=z, sampler=self._sampler.schedule)

    def generated(self, n: int, seed: int) -> Iterator[DenoisingFrame]:
        """The frames of generating n crystals from the prior."""
        return denoise(self._model, n, seed=seed, sampler=self._sampler.schedule)

    def start(
        self,
        frames: Callable[[], Iterator[DenoisingFrame]],
        title: str,
        then: Callable[[DenoisingFrame], str],
        wait: bool,
    ) -> None:
        """Show a run of the sampler.

        Args:
            frames: makes the generator, in the worker thread.
            title: HTML, for the caption.
            then: called with the last frame, if it comes to that; gives what the status line says of it.
            wait: until it has.
        """
        self.run.cancel()
        self._then = then
        self._shown.restart()
        self._controls.show_glance("", None)
        self._controls.show_caption(title, None)
        self.run.start(frames, num_steps=len(self._sampler.schedule), wait=wait)

    def cancel(self) -> None:
        """End the run without showing its end."""
        if self.run.running:
            self.run.cancel()
            self._enable()

    def _remember(self, index: int, crystal: Crystals) -> None:
        """Keep the decoded crystal of a number on the map; the oldest is forgotten when there are too many."""
        self.known[index] = crystal
        while len(self.known) > MAX_DECODED:
            self.known.pop(next(iter(self.known)))

    def _prediction(self, z: Float[Tensor, "1 latent"]) -> str:
        """The property that the model predicts from a latent, as HTML."""
        name = self._map.label_name
        if not name:
            return ""
        with torch.no_grad():
            value = float(self._model.predict_property(z.to(self._model.device)))
        return f"<br>{html.escape(name)} predicted from z: {value:.3g} {self._map.label_unit}"

    def _show(self, status: RunStatus) -> None:
        self._enable()
        if status.error is not None:
            self._fail(status.error, status.traceback)
        elif status.running:
            self._say("decoding" if status.step is None else f"decoding: step {status.step} of {status.num_steps}")
        elif status.state == "finished":
            self._say(self._then(self.run.newest))
        else:
            self._say("stopped" if status.step is None else f"stopped after step {status.step}")
