"""Closest distance between atoms of a periodic crystal, in Å.

`closest_distance` counts every pair of atoms, an atom and its own periodic images included. `closest_distinct_distance`
leaves an atom's own images out, as the CDVAE paper's structure validity does.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import MAX_ATOMIC_NUMBER
from cdvae_lab.crystals.limits import MIN_VOLUME

# Distances computed at once; bounds the memory of the (crystals, sites, sites, images) array.
MAX_DISTANCES = 4_000_000


def closest_distance(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Closest distance (Å) between two atoms of each crystal, an atom and its own periodic images included.

    NaN for a crystal without atoms, with an unknown element, a number that is not finite, or a cell without volume.
    """
    return torch.minimum(closest_distinct_distance(crystals), _own_image_distance(crystals))


def closest_distinct_distance(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Closest distance (Å) between distinct atoms of each crystal, to the nearest periodic image.

    This is the CDVAE paper's definition: an atom's own images do not count. Infinite with a single atom, otherwise as
    `closest_distance`.
    """
    smallest = torch.full((len(crystals),), math.nan, dtype=torch.float64, device=crystals.device)
    rows = possible_cells(crystals).nonzero()[:, 0]
    for part in rows.split(max(1, MAX_DISTANCES // (crystals.num_sites**2 * 27))):
        smallest[part] = distinct_distance_within(crystals[part], 1)
    # An image two cells away is at least 3/2 plane spacings away: in flat cells it may still be the nearest.
    thin = 1.5 * lat.plane_spacings(crystals.lattice.double()).amin(-1) < smallest
    for number in (thin & (crystals.num_atoms > 1)).nonzero()[:, 0].tolist():
        smallest[number] = distinct_distance_reduced(crystals[number])
    return smallest


def closest_pair(crystal: Crystals) -> tuple[int, int]:
    """Sites of the two closest atoms of one crystal; the same site twice where an atom's own image is the closest.

    Raises:
        ValueError: for more than one crystal, or one whose closest distance is not a number.
    """
    if len(crystal) != 1 or bool(closest_distance(crystal).isnan().any()):
        raise ValueError("closest_pair takes one crystal with atoms in a cell of some volume")
    distances = distance_matrix(crystal)
    first, second = divmod(int(distances.argmin()), len(distances))
    return first, second


def distance_matrix(crystal: Crystals) -> Float[np.ndarray, "atoms atoms"]:
    """Distances (Å) between all atoms of one crystal, to the nearest image; on the diagonal to an image of its own."""
    from pymatgen.core import Lattice

    frac = crystal.frac_coords[0][crystal.mask[0]].double().cpu().numpy()
    distances = Lattice(crystal.lattice[0].double().cpu().numpy()).get_all_distances(frac, frac)
    np.fill_diagonal(distances, float(_own_image_distance(crystal)))
    return distances


def possible_cells(crystals: Crystals, min_volume: float = MIN_VOLUME) -> Bool[Tensor, " crystals"]:
    """Test that each crystal has atoms, known elements, finite numbers and a cell of `min_volume` (Å^3)."""
    lattice = crystals.lattice.double()
    positions = crystals.frac_coords.double().masked_fill(~crystals.mask[..., None], 0.0)
    finite = lattice.isfinite().flatten(1).all(1) & positions.isfinite().flatten(1).all(1)
    elements = crystals.mask.any(1) & (crystals.atomic_numbers <= MAX_ATOMIC_NUMBER).all(1)
    return elements & finite & (lat.volume(lattice) >= min_volume)  # a volume of NaN is not >=


def _own_image_distance(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Length (Å) of the shortest lattice vector of each crystal; NaN as in `closest_distance`."""
    lattice = crystals.lattice.double()
    possible = possible_cells(crystals)
    safe = torch.where(possible[:, None, None], lattice, torch.eye(3, dtype=lattice.dtype, device=lattice.device))
    offsets = lat.nearest_offsets(lattice.device, lattice.dtype, 1)
    lengths = (offsets @ safe).norm(dim=-1)
    lengths[:, (offsets == 0).all(1)] = math.inf
    shortest = lengths.amin(1)
    # An image n cells away is at least n plane spacings away: beyond the nearest images only in thin cells.
    thin = 2 * lat.plane_spacings(safe).amin(-1) < shortest
    for number in thin.nonzero()[:, 0].tolist():
        from pymatgen.core import Lattice

        # The first vector of a Niggli cell is the shortest one of the lattice.
        shortest[number] = min(Lattice(safe[number].cpu().numpy()).get_niggli_reduced_lattice().abc)
    return shortest.masked_fill(~possible, math.nan)


def distinct_distance_within(crystals: Crystals, reach: int) -> Float[Tensor, " crystals"]:
    """Closest distance (Å) between distinct atoms, with images up to `reach` cells away; infinite for one atom."""
    lattice, frac = crystals.lattice.double(), crystals.frac_coords.double()
    delta = frac[:, :, None] - frac[:, None]
    delta = delta - torch.round(delta)
    pair = crystals.mask[:, :, None] & crystals.mask[:, None]
    pair = pair & ~torch.eye(crystals.num_sites, dtype=torch.bool, device=frac.device)
    offsets = lat.nearest_offsets(frac.device, frac.dtype, reach)
    vectors = (delta[:, :, :, None] + offsets).flatten(1, 3) @ lattice
    squared = (vectors**2).sum(-1).unflatten(1, (*pair.shape[1:], len(offsets))).amin(-1)
    return squared.masked_fill(~pair, math.inf).flatten(1).amin(1).sqrt()


def distinct_distance_reduced(crystal: Crystals) -> float:
    """Closest distance (Å) between distinct atoms of one crystal by pymatgen, which reduces the lattice first."""
    from pymatgen.core import Lattice

    frac = crystal.frac_coords[0][crystal.mask[0]].double().cpu().numpy()
    distances = Lattice(crystal.lattice[0].double().cpu().numpy()).get_all_distances(frac, frac)
    distances[range(len(frac)), range(len(frac))] = math.inf
    return float(distances.min())
