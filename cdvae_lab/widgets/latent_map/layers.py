"""The layers and paths of a map view: their latents, their crystals, and the code that gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.models.familiarity import Unfamiliar
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.latent_map.controls import LatentMapControls
from cdvae_lab.widgets.latent_map.state import LatentMapState
from cdvae_lab.widgets.parts.map_figure import TRAINING, MapFigure
from cdvae_lab.widgets.parts.maps import place


@dataclass(frozen=True)
class Layer:
    """Points that are drawn on the map.

    Attributes:
        z: their latents; None for mere places.
        crystals: one a point; None if a click decodes.
        code: binds `made` to the crystals and `z` to the latents; None if there is none.
        unfamiliar: crystals that the model does not represent, by number.
    """

    z: Float[Tensor, "points latent"] | None
    crystals: Crystals | None
    code: ReplayCode | None
    unfamiliar: Mapping[int, Unfamiliar]

    def crystal_code(self, index: int) -> ReplayCode | None:
        """Code that binds `crystal` and `z` to those of one point."""
        if self.code is None:
            return None
        return self.code.then(f"crystal, z = made[{index}].trim(), z[{index}:{index + 1}]")


class Layers:
    """Layers and paths by their names, each with a box to tick.

    Args:
        plot: where they are drawn, at the places of its map.
        controls: with the boxes.
        state: with the names of those that are hidden.
    """

    def __init__(self, plot: MapFigure, controls: LatentMapControls, state: LatentMapState) -> None:
        self._plot, self._controls, self._state = plot, controls, state
        self._layers: dict[str, Layer] = {}
        self._controls.show_layers([*plot.layers])

    def __getitem__(self, name: str) -> Layer:
        return self._layers[name]

    def put(
        self,
        name: str,
        joined: bool,
        z: Tensor | None,
        xy: Any,
        texts: Sequence[str],
        crystals: Crystals | None,
        code: ReplayCode | None = None,
        unfamiliar: Iterable[Unfamiliar] = (),
    ) -> None:
        """Draw a layer or a path, new or instead of the one of that name.

        Args:
            joined: it is a path.
            z, xy, texts, crystals: as for `LatentMapView.set_layer`.
            code, unfamiliar: as for `Layer`.
        """
        new = name not in self._plot.layers
        self._plot.put(name, joined, place(self._plot.map, z, xy), texts)
        latents = None if z is None else z.detach().cpu().float()
        self._layers[name] = Layer(latents, crystals, code, {one.number: one for one in unfamiliar})
        if new:
            self._controls.show_layers([*self._plot.layers])
            self.show_ticked()

    def remove(self, name: str) -> None:
        """Remove a layer or path; does nothing if there is none of that name."""
        self._plot.drop(name)
        self._layers.pop(name, None)
        self._controls.show_layers([*self._plot.layers])

    def show_ticked(self) -> None:
        """Show and hide layers according to the state."""
        for name, shown in self._plot.layers.items():
            if shown != (name not in self._state.hidden):
                self._plot.show_layer(name, not shown)

    def place_of(self, name: str, index: int) -> tuple[float, float]:
        """The place of a point of a layer or path. Raises SettingError if there is no such layer or point."""
        if name not in self._plot.layers or name == TRAINING:
            raise SettingError(f"there is no layer {name!r}; there are {', '.join(self._plot.layers)}")
        places = self._plot.places(name)
        if not 0 <= index < len(places):
            raise SettingError(f"point {index}: the layer {name!r} has {len(places)}")
        x, y = places[index].tolist()
        return x, y
