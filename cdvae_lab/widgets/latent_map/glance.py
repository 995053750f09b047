"""A small picture of the crystal under the mouse."""

from __future__ import annotations

import html
from collections.abc import Callable

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.latent_map.decoder import Decoder
from cdvae_lab.widgets.latent_map.layers import Layers
from cdvae_lab.widgets.parts.map_figure import Hit
from cdvae_lab.widgets.parts.originals import Originals


class Glance:
    """Shows a picture where the crystal is known already: decoding takes longer than a glance.

    Args:
        map, layers: whose crystals.
        originals: of the map's crystals.
        decoder: with those that have been decoded.
        controls: where the picture is.
        task: looks for the original.
        busy: tells whether a crystal is being decoded or looked for, which then has the place.
    """

    def __init__(
        self,
        map: LatentMap,
        layers: Layers,
        originals: Originals,
        decoder: Decoder,
        controls: LatentMapControls,
        task: BackgroundTask[Crystals | None],
        busy: Callable[[], bool],
    ) -> None:
        self._map, self._layers, self._originals, self._decoder = map, layers, originals, decoder
        self._controls, self._task, self._busy = controls, task, busy

    def show(self, hit: Hit) -> None:
        """Show what is under the mouse."""
        index = hit.index
        if index is None or self._busy():
            return
        if hit.layer is not None:
            batch = self._layers[hit.layer].crystals
            self._controls.show_glance(html.escape(hit.layer), None if batch is None else batch[index])
            return
        text, decoded = to_html(self._map.formulas[index]), self._decoder.known.get(index)
        if self._originals.there:  # if the data file is on this machine, it has been read by now
            self._task.start(
                lambda: [self._originals.get(index)],
                lambda original: self._controls.show_glance(text, original or decoded),
            )
        else:
            self._controls.show_glance(text, decoded)

    def cancel(self) -> None:
        """Show nothing that is still being looked for."""
        self._task.cancel()
