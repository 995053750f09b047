"""Crystals that were chosen in another view, placed on the map."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

from cdvae_lab.errors import CrystalError, LabError, SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.familiarity import Unfamiliar, unfamiliar_crystals
from cdvae_lab.models.latents import posterior_of
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.latent_map.shown_crystal import ShownCrystal
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.map_figure import MapFigure


@dataclass(frozen=True)
class Placed:
    """A crystal on the map.

    Attributes:
        xy: its place.
        unfamiliar: says so if the model does not represent it.
    """

    xy: tuple[float, float]
    unfamiliar: Unfamiliar | None


class ForeignPicks:
    """Marks the places of crystals that are chosen in other views, and shows them.

    Args:
        model: that encodes them.
        plot: the map.
        shown: shows them.
        finder: task that encodes one.
        fail: shows the reason why one has no place, and a sentence about it.
    """

    def __init__(
        self,
        model: CDVAE,
        plot: MapFigure,
        shown: ShownCrystal,
        finder: BackgroundTask,
        fail: Callable[..., None],
    ) -> None:
        self._model, self._plot, self._shown, self._finder, self._fail = model, plot, shown, finder, fail

    def show(self, pick: Pick) -> None:
        """Place a crystal, in the background, and show it."""

        def show(placed: Placed | LabError) -> None:
            if isinstance(placed, LabError):
                self._fail(placed, kept="It cannot be placed on this map.")
                return
            self._plot.mark(placed.xy)
            title = f"<b>{html.escape(pick.name)}</b><br>chosen in another view"
            self._shown.present(title, pick.crystal, placed.unfamiliar)

        self._shown.interrupt()
        self._finder.start(lambda: [self._place(pick)], show)

    def _place(self, pick: Pick) -> Placed | LabError:
        """The place of a crystal on the map, or the reason why it has none."""
        crystal, z, device = pick.crystal, pick.z, self._model.device
        try:
            if z is None:
                crystal = files.for_model(self._model, pick.crystal.to_structures()[0], pick.name)
                z = posterior_of(self._model, crystal).mu
            # A crystal that was decoded can have other elements than those predicted from z: its prior's, for instance.
            encoded = pick.z is None or pick.encoded
            unfamiliar = unfamiliar_crystals(self._model, crystal.to(device), z.to(device)) if encoded else []
            [(x, y)] = self._plot.map.place(z.detach().cpu().float()).tolist()
        except (CrystalError, SettingError) as error:
            return error
        return Placed((x, y), unfamiliar[0] if unfamiliar else None)
