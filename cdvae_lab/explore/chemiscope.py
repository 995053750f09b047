"""Latent maps in the JSON format of chemiscope, the structure-property explorer (Fraux et al., JOSS 5, 2117, 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from cdvae_lab.explore.latent_map import LatentMap


def chemiscope_map(latent_map: LatentMap, crystals: Crystals) -> dict[str, Any]:
    """Return the JSON object of a map with the structures of its points.

    Raises:
        SettingError: if there is not one crystal for each point.
        CrystalError: for crystals that cannot be exported.
    """
    if len(crystals) != len(latent_map):
        raise SettingError(f"the map has {len(latent_map):,} points, and needs as many crystals, not {len(crystals):,}")
    columns: dict[str, tuple[list[Any], str]] = {
        "map 1": (latent_map.xy[:, 0].tolist(), ""),
        "map 2": (latent_map.xy[:, 1].tolist(), ""),
        "id": (list(latent_map.ids), ""),
        "formula": (list(latent_map.formulas), ""),
        "number of atoms": (latent_map.num_atoms.tolist(), ""),
        "density": (latent_map.density.tolist(), "g/cm^3"),
    }
    if latent_map.label_name:
        columns[latent_map.label_name] = latent_map.labels.tolist(), latent_map.label_unit
    return {
        "meta": {
            "name": str(latent_map.metadata.get("data", {}).get("name", "latent map")),
            "description": repr(latent_map),
        },
        "structures": [_structure(structure) for structure in crystals.to_structures()],
        "properties": {
            name: {"target": "structure", "values": values} | ({"units": unit} if unit else {})
            for name, (values, unit) in columns.items()
        },
        "settings": {
            "target": "structure",
            "map": {"x": {"property": "map 1"}, "y": {"property": "map 2"}},
            "structure": [{"unitCell": True}],
        },
    }


def _structure(structure: Structure) -> dict[str, Any]:
    positions = structure.cart_coords.T.tolist()
    return {
        "size": len(structure),
        "names": [site.specie.symbol for site in structure],
        **dict(zip("xyz", positions, strict=True)),
        "cell": structure.lattice.matrix.flatten().tolist(),
    }
