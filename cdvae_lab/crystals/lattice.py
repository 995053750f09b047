"""Lattices: lengths and angles, fractional and Cartesian coordinates, wrapping, minimum image.

Everything is plain elementwise arithmetic on (..., 3, 3) tensors, without calls that wait for the device.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Lengths (Å) and angles (degrees) that a lattice predicted by a network is brought into before it is used.
MIN_LENGTH, MAX_LENGTH = 1.5, 100.0
MIN_ANGLE, MAX_ANGLE = 20.0, 160.0
# Squared volume of the cell with the same angles and unit lengths: keeps predicted cells from being flat.
MIN_FLATNESS = 0.05


def from_parameters(lengths: Float[Tensor, "*n 3"], angles: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Build a lattice with rows a, b, c from lengths (Å) and angles (degrees), in pymatgen's standard orientation.

    a lies in the x-z plane and c along z, as `pymatgen.core.Lattice.from_parameters` has it.
    Impossible angles give a flat cell rather than NaN; see `possible_parameters`.
    """
    a, b, c = lengths.unbind(-1)
    cosines, sines = torch.cos(torch.deg2rad(angles)), torch.sin(torch.deg2rad(angles))
    cos_alpha, cos_beta, cos_gamma = cosines.unbind(-1)
    sin_alpha, sin_beta, _ = sines.unbind(-1)
    cos_gamma_star = ((cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)).clamp(-1, 1)
    sin_gamma_star = torch.sqrt((1 - cos_gamma_star**2).clamp_min(0))
    zero = torch.zeros_like(a)
    rows = [
        torch.stack([a * sin_beta, zero, a * cos_beta], -1),
        torch.stack([-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * cos_alpha], -1),
        torch.stack([zero, zero, c], -1),
    ]
    return torch.stack(rows, -2)


def to_parameters(lattice: Float[Tensor, "*n 3 3"]) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 3"]]:
    """Convert to lengths (Å) and angles (degrees; alpha between b and c, beta a and c, gamma a and b)."""
    lengths = lattice.norm(dim=-1)
    unit = lattice / lengths[..., None]
    a, b, c = unit.unbind(-2)
    cosines = torch.stack([(b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)], -1)
    return lengths, torch.rad2deg(torch.acos(cosines.clamp(-1, 1)))


def possible_parameters(
    lengths: Float[Tensor, "*n 3"], angles: Float[Tensor, "*n 3"]
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 3"]]:
    """Correct lengths and angles to the nearest ones of a cell with a volume.

    Lengths and angles are clamped; angles that no cell can have are moved towards 90 degrees by the smallest
    of eleven fixed fractions that gives a volume.
    """
    lengths = torch.nan_to_num(lengths, nan=1.0, posinf=MAX_LENGTH, neginf=MIN_LENGTH).clamp(MIN_LENGTH, MAX_LENGTH)
    angles = torch.nan_to_num(angles, nan=90.0).clamp(MIN_ANGLE, MAX_ANGLE)
    towards = torch.linspace(0, 1, 11, dtype=angles.dtype, device=angles.device)
    trial = angles[..., None, :] + towards[:, None] * (90 - angles[..., None, :])
    cos = torch.cos(torch.deg2rad(trial))
    squared_volume = 1 - (cos**2).sum(-1) + 2 * cos.prod(-1)  # of a cell with unit lengths
    first = (squared_volume > MIN_FLATNESS).to(torch.int8).argmax(-1, keepdim=True)
    return lengths, torch.gather(trial, -2, first[..., None].expand(*first.shape, 3)).squeeze(-2)


def volume(lattice: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n"]:
    """Compute the volume of the cell, Å^3 (positive for either handedness)."""
    a, b, c = lattice.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs()


def inverse(lattice: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Invert a lattice matrix by cross products: unlike `torch.linalg.inv` it never waits for the device."""
    a, b, c = lattice.unbind(-2)
    columns = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
    return columns / (a * columns[..., 0]).sum(-1)[..., None, None]


def plane_spacings(lattice: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3"]:
    """Compute the distances between the lattice planes that bound the cell, Å."""
    return 1 / inverse(lattice).norm(dim=-2)


def frac_to_cart(
    frac_coords: Float[Tensor, "*n sites 3"], lattice: Float[Tensor, "*n 3 3"]
) -> Float[Tensor, "*n sites 3"]:
    """Convert fractional coordinates to Cartesian ones, Å."""
    return frac_coords @ lattice


def cart_to_frac(
    cart_coords: Float[Tensor, "*n sites 3"], lattice: Float[Tensor, "*n 3 3"]
) -> Float[Tensor, "*n sites 3"]:
    """Convert Cartesian coordinates (Å) to fractional ones, without wrapping."""
    return cart_coords @ inverse(lattice)


def wrap(frac_coords: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Wrap fractional coordinates into [0, 1)."""
    wrapped = frac_coords - torch.floor(frac_coords)
    return torch.where(wrapped >= 1, torch.zeros_like(wrapped), wrapped)  # -1e-9 rounds up to 1


def nearest_offsets(device: torch.device, dtype: torch.dtype, reach: int = 1) -> Float[Tensor, "images 3"]:
    """List all integer triples between -reach and reach."""
    span = torch.arange(-reach, reach + 1, device=device, dtype=dtype)
    return torch.cartesian_prod(span, span, span)


def minimum_image(
    frac_delta: Float[Tensor, "crystals *n 3"], lattice: Float[Tensor, "crystals 3 3"], reach: int = 1
) -> Float[Tensor, "crystals *n 3"]:
    """Find the shortest Cartesian vector (Å) among the periodic images of fractional differences.

    After rounding to [-1/2, 1/2], images up to `reach` cells away are compared: with 1 the result is exact for
    Niggli-reduced cells, which is what `convert` makes of every crystal.
    """
    flat = (frac_delta - torch.round(frac_delta)).flatten(1, -2)
    offsets = nearest_offsets(flat.device, flat.dtype, reach)
    candidates = (flat[:, :, None] + offsets) @ lattice[:, None]
    closest = (candidates**2).sum(-1).argmin(-1)
    chosen = torch.gather(candidates, 2, closest[..., None, None].expand(-1, -1, 1, 3))
    return chosen.reshape(frac_delta.shape)
