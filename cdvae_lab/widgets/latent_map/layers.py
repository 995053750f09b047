"""The layers and paths of a map view: their latents, their crystals, and the code that gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.parts.map_figure import MapFigure
from cdvae_lab.widgets.parts.maps import place


@dataclass(frozen=True)
class Layer:
    """Points that are drawn on the map.

    Attributes:
        z: their latents; None for mere places.
        crystals: one a point; None if a click decodes.
        code: binds `made` to the crystals and `z` to the latents; None if there is none.
    """

    z: Float[Tensor, "points latent"] | None
    crystals: Crystals | None
    code: ReplayCode | None

    def crystal_code(self, index: int) -> ReplayCode | None:
        """Code that binds `crystal` and `z` to those of one point."""
        if self.code is None:
            return None
        return self.code.then(f"crystal, z = made[{index}].trim(), z[{index}:{index + 1}]")


class Layers:
    """Layers and paths by their names.

    Args:
        map: whose places they have.
        plot: where they are drawn.
    """

    def __init__(self, map: LatentMap, plot: MapFigure) -> None:
        self._map, self._plot = map, plot
        self._layers: dict[str, Layer] = {}

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
    ) -> bool:
        """Draw a layer or a path, new or instead of the one of that name; True if it is new.

        Args:
            joined: it is a path.
            z, xy, texts, crystals: as for `LatentMapView.set_layer`.
            code: as for `Layer`.
        """
        new = name not in self._plot.layers
        self._plot.put(name, joined, place(self._map, z, xy), texts)
        self._layers[name] = Layer(None if z is None else z.detach().cpu().float(), crystals, code)
        return new

    def remove(self, name: str) -> None:
        """Remove a layer or path; does nothing if there is none of that name."""
        self._plot.drop(name)
        self._layers.pop(name, None)
