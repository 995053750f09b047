"""The latent map that belongs to a model, and the interface by which one view draws on the map of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.explore.latent_map import LatentMap, load_map, map_of
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.replay_code import WithCode

GIVEN = "# `known` is the map that the view was given"


@runtime_checkable
class PathCanvas(Protocol):
    """A widget that shows a latent map and lets others draw paths on it, such as `LatentMapView`."""

    def set_path(
        self,
        name: str,
        z: Float[Tensor, "points latent"] | None = None,
        texts: Sequence[str] = (),
        *,
        xy: Any = None,
        crystals: Crystals | None = None,
    ) -> None:
        """Draw a path, or replace the one of that name; see `LatentMapView.set_path`."""
        ...


MapSource = LatentMap | PathCanvas | str | Path | None


def find_map(model: CDVAE, source: Any) -> LatentMap | None:
    """Find the latent map of a model: the given one, or else the bundled one.

    Args:
        source: a LatentMap, its file or name, a widget with `set_path` and perhaps a `map`, or None.

    Returns:
        None if there is no map of this model.

    Raises:
        CheckpointError: if the map is of another model.
        SettingError: for any other type of source.
    """
    if source is None:
        return map_of(model)
    if isinstance(source, str | Path):
        return load_map(source, model)
    if isinstance(source, LatentMap):
        found = source
    elif isinstance(source, PathCanvas):
        found = getattr(source, "map", None)
        if not isinstance(found, LatentMap):
            return None
    else:
        raise SettingError(f"map: a {type(source).__name__}; give a LatentMap, its file, or a widget with set_path")
    found.check(model, "map")
    return found


def require_map(model: CDVAE, source: WithCode[LatentMap] | LatentMap | str | Path | None) -> WithCode[LatentMap]:
    """Find the latent map of a model, with the line of Python that gives it as `known`.

    Args:
        source: a LatentMap, also with its code, its file or name, or None for the bundled one.

    Raises:
        CheckpointError: if the map is of another model, or there is none of this model.
    """
    if isinstance(source, WithCode):
        source.value.check(model, "map")
        return source
    found = find_map(model, source)
    if found is None:
        raise CheckpointError("no map of this model is bundled; make one: map=lab.LatentMap.fit(model, dataset)")
    if isinstance(source, LatentMap):
        return WithCode(found, GIVEN)
    # The bundled map of a model has the name of the data set.
    name = found.metadata["data"]["name"] if source is None else source
    return WithCode(found, f"known = lab.load_map({str(name)!r}, model)")


def place(map: LatentMap, z: Tensor | None, xy: Any) -> Float[Tensor, "points 2"]:
    """Positions on a map, of latents or as given.

    Raises:
        SettingError: for both or neither of z and xy.
    """
    if (z is None) == (xy is None):
        raise SettingError("give either z, latents that are placed on the map, or xy, places")
    if z is not None:
        return map.place(z.detach())
    return torch.as_tensor(xy, dtype=torch.float32).reshape(-1, 2)
