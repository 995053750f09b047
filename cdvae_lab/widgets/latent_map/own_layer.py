"""The user's own crystals, as a layer of the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.latent_map.layers import Layers
from cdvae_lab.widgets.latent_map.own_crystals import Encoding, OwnCrystals, encode_own
from cdvae_lab.widgets.latent_map.record import Record

OWN = "own crystals"


class OwnLayer:
    """The layer of the crystals that a user has added one after another.

    Args:
        model: that encodes them.
        layers: of the map.
        record: of what is done.
        task: reads and encodes.
        show: shows the crystal of this number in the layer.
        say: shows a text in the status line.
    """

    def __init__(
        self,
        model: CDVAE,
        layers: Layers,
        record: Record,
        task: BackgroundTask[Encoding],
        show: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        self._model, self._layers, self._record, self._task = model, layers, record, task
        self._show, self._say = show, say
        self._own = OwnCrystals()
        self._adding: list[Any] = []  # sources that are being read

    def add(self, sources: list[Any], wait: bool | None) -> None:
        """Read, encode and draw more crystals; arguments and errors are those of `LatentMapView.add_own`."""
        self._adding = sources = [*(self._adding if self._task.running else []), *sources]
        self._task.start(lambda: encode_own(self._model, self._own, sources), self._put, wait)

    def forget(self) -> None:
        """Forget the crystals; the next ones are a new layer."""
        self._task.cancel()
        self._own = OwnCrystals()

    def _put(self, encoded: Encoding) -> None:
        """Draw the crystals, and show the last. Raises the error of the first source that cannot be used."""
        if encoded.z is not None:
            own, new = encoded.own, len(encoded.own) - len(self._own)
            self._own = own
            crystals, code = own.crystals, self._record.alone(*own.code_lines)
            stands_for = {one.number: f"<br>its latent stands for {one.stands_for}" for one in encoded.unfamiliar}
            texts = [text + stands_for.get(number, "") for number, text in enumerate(own.texts)]
            self._layers.put(OWN, False, encoded.z, None, texts, crystals, code, encoded.unfamiliar)
            self._record.add(*own.code_lines, "places = known.place(z)")
            if not encoded.wrong:
                self._show(len(crystals) - 1)
                lost = [one.formula for one in encoded.unfamiliar if one.number >= len(own) - new]
                warning = f"; the model does not represent {', '.join(lost)}" if lost else ""
                self._say(f"{'1 crystal is' if new == 1 else f'{new} crystals are'} placed on the map{warning}")
        if encoded.wrong:
            raise encoded.wrong[0]
