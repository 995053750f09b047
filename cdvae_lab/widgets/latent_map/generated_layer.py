"""Crystals generated from the prior, as a layer of the map."""

from __future__ import annotations

from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.metrics import validity
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.latent_map.decoder import Decoder
from cdvae_lab.widgets.latent_map.layers import Layers
from cdvae_lab.widgets.latent_map.record import Record

GENERATED = "generated"


class GeneratedLayer:
    """The layer of the crystals that were generated last.

    Args:
        layers: of the map.
        decoder: that generates.
        arguments: of its sampler, as a call of `denoise` has them.
        controls: with the caption.
        record: of what is done.
    """

    def __init__(
        self, layers: Layers, decoder: Decoder, arguments: str, controls: LatentMapControls, record: Record
    ) -> None:
        self._layers, self._decoder, self._arguments = layers, decoder, arguments
        self._controls, self._record = controls, record

    def generate(self, n: int, seed: int, wait: bool) -> None:
        """Generate crystals, and draw them instead of those before; arguments as of `LatentMapView.generate`."""
        title = f"<b>{n} crystals from the prior</b>, seed {seed}<br>"
        lines = (
            f"frame = lab.last(lab.denoise(model, n={n}, seed={seed}{self._arguments}))",
            "made, z = frame.crystals, frame.z",
        )
        self._decoder.start(
            lambda: self._decoder.generated(n, seed), title, lambda last: self._put(last, title, lines), wait
        )

    def _put(self, last: DenoisingFrame, title: str, lines: tuple[str, ...]) -> str:
        """Draw what was generated; gives what the status line says of it."""
        crystals = last.crystals.to("cpu")
        code = self._record.alone(*lines)
        self._layers.put(GENERATED, False, last.z, None, reduced_formulas(crystals), crystals, code)
        self._record.add(*lines, "places = known.place(z)")
        valid = sum(reason is None for reason in validity.invalid_reasons(crystals))
        text = f"{title}{valid} of {len(crystals)} valid; click on one on the map to see it alone."
        self._controls.show_caption(text, None)
        made = "1 crystal is" if len(crystals) == 1 else f"{len(crystals)} crystals are"
        return f"{made} generated and placed on the map"
