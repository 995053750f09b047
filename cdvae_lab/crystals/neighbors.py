"""Neighbor lists: the k nearest periodic images of every atom, as dense tensors of fixed shape.

The search has two halves. `periodic_images` depends on the cell alone: it lists every lattice translation that
can bring an atom within the cutoff of another, as many as the lattice needs; call it once where the cell does not
change. `nearest_neighbors` depends on the positions: it measures all pairs under all those translations and
keeps the k nearest, without waiting for the device.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError

FAR = 1e4  # a fractional translation beyond every cutoff: padding for `periodic_images`
MAX_REACH = 60  # cells along one axis; a cell thinner than cutoff / 60 is not a crystal's


@dataclass(frozen=True)
class Neighbors:
    """Neighbors of every atom, nearest first.

    Attributes:
        index: the site of the neighbor in its crystal.
        vector: from the atom to the image of its neighbor, Å.
        distance: its length, Å.
        mask: True where there is a neighbor (the atom exists, and the image is within the cutoff).
        radius: the distance at which the envelope of an atom's messages reaches zero, Å: the cutoff, or the
            distance of the first image that was left out, whichever is smaller. No neighbor can enter or leave
            the list without having no weight there, so the network does not jump, and a shell of equivalent
            neighbors is never cut in the middle.
    """

    index: Int[Tensor, "crystals sites k"]
    vector: Float[Tensor, "crystals sites k 3"]
    distance: Float[Tensor, "crystals sites k"]
    mask: Bool[Tensor, "crystals sites k"]
    radius: Float[Tensor, "crystals sites"]


def periodic_images(lattice: Float[Tensor, "crystals 3 3"], cutoff: float) -> Float[Tensor, "crystals images 3"]:
    """List all integer translations under which two atoms of the cell can be within `cutoff` (Å).

    Differences of fractional coordinates are understood to be rounded to [-1/2, 1/2]. A translation n can matter only
    if the slab |n_i| - 1/2 is within the cutoff for each of the three plane spacings, and if the lattice vector
    itself is no longer than the cutoff plus half the cell's longest diagonal. Crystals that need fewer
    translations than others are padded with one that is out of reach.

    Raises:
        CrystalError: for a cell without volume, or one so thin that it cannot be a crystal.
    """
    spacing = lat.plane_spacings(lattice)
    if not bool(torch.isfinite(spacing).all() & (spacing > 0).all()):
        bad = (~torch.isfinite(spacing).all(-1) | (spacing <= 0).any(-1)).nonzero()[:, 0].tolist()
        raise CrystalError(f"crystals {bad[:10]} of the batch have a cell without volume; check their lattice vectors")
    reach = int(torch.floor(cutoff / spacing + 0.5).max())
    if reach > MAX_REACH:
        raise CrystalError(
            f"a cell of the batch is only {float(spacing.min()):.3g} Å thick, too thin for a search within "
            f"{cutoff:g} Å; reduce it (cdvae_lab.convert does) or leave the crystal out"
        )
    axes = torch.floor(cutoff / spacing + 0.5).amax(0).to(torch.long).tolist()
    spans = [torch.arange(-n, n + 1, device=lattice.device, dtype=lattice.dtype) for n in axes]
    offsets = torch.cartesian_prod(*spans)
    offsets = offsets[(offsets**2).sum(-1).argsort(stable=True)]
    corners = lat.nearest_offsets(lattice.device, lattice.dtype) / 2 @ lattice
    half_diagonal = corners.norm(dim=-1).amax(-1)
    tolerance = 1e-4  # Å; rounding may keep an image too many, never one too few
    in_slabs = ((offsets.abs() - 0.5) * spacing[:, None] <= cutoff + tolerance).all(-1)
    in_sphere = (offsets @ lattice).norm(dim=-1) <= (cutoff + half_diagonal + tolerance)[:, None]
    keep = in_slabs & in_sphere
    most = int(keep.sum(1).max())
    # Stable sorting puts the translations to keep first, short ones before long ones.
    order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    kept = torch.gather(keep, 1, order)
    return torch.where(kept[..., None], offsets[order], torch.full_like(offsets[order], FAR))


def nearest_neighbors(
    crystals: Crystals,
    images: Float[Tensor, "crystals images 3"],
    k: int = 20,
    cutoff: float = 7.0,
) -> Neighbors:
    """Find the k nearest periodic images within `cutoff` (Å) of every atom, without itself but with its images.

    Args:
        crystals: positions need not be wrapped.
        images: of `periodic_images` for these lattices and at least this cutoff.
        k: neighbors kept per atom; fewer exist for an isolated atom, see `Neighbors.mask`.
    """
    n, sites = crystals.atomic_numbers.shape
    mask = crystals.mask
    frac = crystals.frac_coords
    delta = frac[:, None, :, :] - frac[:, :, None, :]  # [c, i, j] = x_j - x_i
    delta = (delta - torch.round(delta)) @ crystals.lattice[:, None]
    shift = images @ crystals.lattice
    # |d + s|^2 as a sum of three terms: one matrix product instead of a (pairs, images, 3) tensor.
    pairs = delta.reshape(n, sites * sites, 3)
    squared = (pairs**2).sum(-1)[:, :, None] + (shift**2).sum(-1)[:, None] + 2 * pairs @ shift.transpose(1, 2)
    squared = squared.reshape(n, sites, sites, -1)
    nowhere = torch.finfo(squared.dtype).max
    exists = mask[:, :, None] & mask[:, None, :]
    squared = torch.where(exists[..., None], squared, nowhere)
    # `images` begins with the zero translation, which takes an atom to itself.
    itself = torch.eye(sites, dtype=torch.bool, device=squared.device)[None, :, :, None]
    first = torch.arange(squared.shape[-1], device=squared.device) == 0
    squared = torch.where(itself & first, nowhere, squared).flatten(2)

    wanted = min(k + 1, squared.shape[-1])
    near, where = torch.topk(squared, wanted, dim=-1, largest=False, sorted=True)
    if wanted == k + 1:
        radius = near[..., -1].clamp(0, cutoff**2).sqrt()
        where = where[..., :k]
    else:
        radius = torch.full_like(near[..., 0], cutoff)
    index = where // images.shape[1]
    image = where % images.shape[1]
    row = torch.arange(n, device=index.device)[:, None, None]
    site = torch.arange(sites, device=index.device)[None, :, None]
    vector = delta[row, site, index] + shift[row, image]
    squared_distance = (vector**2).sum(-1)
    # Distances are computed again from the vectors, without the cancellation in the three-term sum.
    found = torch.gather(squared, -1, where) < nowhere
    inside = found & (squared_distance <= cutoff**2)
    vector = torch.where(inside[..., None], vector, 0.0)
    distance = torch.where(inside, squared_distance, 1.0).sqrt() * inside
    return Neighbors(index, vector, distance, inside, radius)
