"""The crystal that is shown beside the map, with a ring around its place."""

from __future__ import annotations

import html
from collections.abc import Callable

import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.errors import SettingError
from cdvae_lab.models.familiarity import Unfamiliar
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.latent_map.decoder import Decoder
from cdvae_lab.widgets.latent_map.glance import Glance
from cdvae_lab.widgets.latent_map.layers import Layers
from cdvae_lab.widgets.latent_map.own_layer import OWN
from cdvae_lab.widgets.latent_map.record import Record
from cdvae_lab.widgets.latent_map.unfamiliar_note import UnfamiliarNote
from cdvae_lab.widgets.parts.map_figure import MapFigure
from cdvae_lab.widgets.parts.originals import Originals


class ShownCrystal:
    """Shows one crystal at a time, of the map, of a layer or of an empty place, and picks it.

    Args:
        plot: the map, with the ring.
        layers: on it.
        originals: of its crystals.
        controls: with the crystal and its caption.
        record: of what is done.
        decoder: shows what has only a latent.
        glance: of the crystal under the mouse.
        note: warns of a crystal that the model does not represent.
        finder: task that looks for the crystal that is to be shown next.
        say: shows a text in the status line.
    """

    def __init__(
        self,
        plot: MapFigure,
        layers: Layers,
        originals: Originals,
        controls: LatentMapControls,
        record: Record,
        decoder: Decoder,
        glance: Glance,
        note: UnfamiliarNote,
        finder: BackgroundTask,
        say: Callable[[str], None],
    ) -> None:
        self._plot, self._map, self._layers, self._originals = plot, plot.map, layers, originals
        self._controls, self._record, self._decoder = controls, record, decoder
        self._glance, self._note, self._finder, self._say = glance, note, finder, say

    def interrupt(self) -> None:
        """End what was to be shown, because something else is."""
        for one in (self._decoder, self._finder, self._glance, self._note):
            one.cancel()

    def present(self, title: str, crystal: Crystals, unfamiliar: Unfamiliar | None = None) -> None:
        """Show a crystal that is known.

        Args:
            title: HTML, for the caption.
            unfamiliar: says so if the model does not represent it.
        """
        self._controls.view.show_all([crystal], origin=crystal)
        self._controls.show_glance("", None)
        self._controls.show_caption(title, crystal)
        self._say(f"{captions.formula(crystal)} is shown")
        if unfamiliar is not None:
            self._note.show(crystal, unfamiliar)

    def show_crystal(self, index: int, wait: bool) -> None:
        """Show a crystal of the map; arguments and errors are those of `LatentMapView.choose`."""
        if not 0 <= index < len(self._map):
            raise SettingError(f"crystal {index}: the map has {len(self._map)}, from 0 to {len(self._map) - 1}")
        self.interrupt()
        x, y = self._map.xy[index].tolist()
        self._plot.mark((x, y))
        if self._originals.file:
            self._finder.start(
                lambda: [self._originals.get(index)], lambda found: self._show_found(index, found, wait),
                wait or None,
            )  # fmt: skip
        else:
            self._show_found(index, None, wait)

    def show_place(self, x: float, y: float, wait: bool) -> None:
        """Decode a place of the map; arguments are those of `LatentMapView.decode_at`."""
        xy = torch.tensor([[x, y]])
        self._plot.mark((x, y))
        near = [self._map.formulas[i] for i in self._map.nearest(xy, k=3)[0][0].tolist()]
        title = f"<b>An empty place</b>, between {', '.join(map(to_html, near))}"
        code = f"known.latent_at(torch.tensor({xy.tolist()}))"
        self.interrupt()
        self._decoder.decode(self._map.latent_at(xy), code, title, "decoded from an empty place", wait)

    def show_point(self, name: str, index: int, xy: tuple[float, float] | None, wait: bool) -> None:
        """Show a point of a layer; arguments and errors are those of `LatentMapView.choose_in`."""
        place = self._layers.place_of(name, index)
        x, y = place if xy is None else xy
        layer = self._layers[name]
        title = f"<b>{html.escape(name)}</b>, {index + 1}<br>"
        if layer.crystals is not None:
            self.interrupt()
            self._plot.mark((x, y))
            crystal = layer.crystals[index].trim()
            z = None if layer.z is None else layer.z[[index]]
            own = name == OWN
            title += "Shown: your crystal, as it was read." if own else ""
            self.present(title, crystal, layer.unfamiliar.get(index))
            code = layer.crystal_code(index)
            self._record.pick(f"{captions.formula(crystal)} ({name})", crystal, z, "", code, encoded=own)
        elif layer.z is None:
            self.show_place(x, y, wait)
        else:
            self.interrupt()
            self._plot.mark((x, y))
            z = layer.z[[index]]
            title += "Shown: decoded from its latent."
            self._decoder.decode(z, f"torch.tensor({z.tolist()})", title, f"{name}, {index + 1}", wait)

    def _show_found(self, index: int, original: Crystals | None, wait: bool) -> None:
        """Show a crystal of the map: its original, or else what the model decodes from its latent."""
        z = self._map.latents[[index]].float()
        z_code = f"known.latents[[{index}]].float()"
        title = self._controls.about(index)
        if original is not None:
            code = self._originals.code(index)
            lines = (f"crystal = {code}", f"z = {z_code}")
            self._record.add(*lines)
            self.present(title + "Shown: the crystal of the data file.", original)
            self._record.pick(self._map.formulas[index], original, z, code, self._record.alone(*lines), encoded=True)
            return
        title += "Shown: the crystal that the model <b>decodes from its latent</b>; the original is in the data file."
        self._decoder.decode(z, z_code, title, f"{self._map.formulas[index]}, decoded", wait, index)
