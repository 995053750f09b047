"""The name of the property that a model predicts, and its unit."""

from __future__ import annotations

from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE


def label_of(model: CDVAE, map: LatentMap | None = None) -> tuple[str, str]:
    """Name and unit of the property that a model predicts.

    Args:
        map: map of the model, whose label is used if the model's metadata has none; the name is empty without both.
    """
    data = model.metadata.get("data", {})
    name = data.get("property") or ("" if map is None else map.label_name)
    return name or "", data.get("property_unit") or ("" if map is None else map.label_unit)
