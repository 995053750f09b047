"""Noise: its levels, how it corrupts a crystal, and the random number generator.

Random numbers are a pure function of (seed, stream, crystal, step, atom, component), computed with a
counter-based generator in integer arithmetic. They are bitwise the same for every batching, on every device and in
every process, and resuming from a frame needs no generator state.

See docs/explanation/algorithm.md, section 3, and Reproducibility.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import enum
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat

# splitmix64 (Steele, Lea and Flood, OOPSLA 2014): increment and the two multipliers of its finalizer, as signed 64 bit.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
MIX_2 = 0x94D049BB133111EB - (1 << 64)
# One normal is the sum of two entries of this table of quantiles: 2^32 values, up to 6 standard deviations.
QUANTILE_BITS = 16
QUANTILE_SCALE = 1 << 20
STRIDE = 1024  # places along an axis after the first whose numbers do not depend on the axis's length
# Å, Å, and the share of the levels between these, of `dense_levels`; chosen on validation crystals of three data sets.
DENSE_FROM, DENSE_TO, DENSE_SHARE = 1.0, 0.1, 0.7
_TABLES: dict[torch.device, Tensor] = {}


class Stream(enum.IntEnum):
    """Purpose of a random number; different streams are independent."""

    LATENT = 1
    POSITION = 2
    TYPE = 3
    LEVEL = 4
    TYPE_LEVEL = 5
    START = 6
    COMPOSITION = 7
    STRAIN = 8
    PROBE = 9
    FORMULA = 10
    DROPOUT = 11
    NEARER = 12
    ROUND = 13
    RATTLE = 14


def _shift_right(x: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """Shift logically: torch's is arithmetic for signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Apply the finalizer of splitmix64, a bijection of 64-bit words: every output bit depends on every input bit."""
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def _word(x: int | Int[Tensor, ""]) -> int | Int[Tensor, ""]:
    """Wrap a Python integer to a signed 64-bit word; tensors wrap automatically."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63) if isinstance(x, int) else x


def random_bits(
    seed: int,
    stream: Stream,
    crystal: Int[Tensor, " crystals"],
    step: int | Int[Tensor, ""],
    shape: tuple[int, ...] = (),
) -> Int[Tensor, "crystals *shape"]:
    """Draw 64 random bits for each crystal and each place of `shape` (atoms, components).

    The number of a place is that of its multi-index, with strides that do not depend on the length of the first axis:
    padding a crystal to more sites leaves the bits of its atoms as they are. Different places have different numbers,
    for axes of any length.
    """
    key = _mix(crystal.to(torch.int64) * GOLDEN + _word(seed * 0x100 + int(stream)))
    key = _mix(key + _word(step * GOLDEN))
    place = torch.zeros((), dtype=torch.int64, device=crystal.device)
    for size in shape:
        place = place[..., None] * max(STRIDE, size) + torch.arange(size, device=crystal.device)
    # Exclusive or, not a sum: a compiler would fold a sum into its index arithmetic, which has fewer bits.
    return _mix(key.reshape(-1, *[1] * len(shape)) ^ place)


def uniform(
    seed: int,
    stream: Stream,
    crystal: Int[Tensor, " crystals"],
    step: int | Int[Tensor, ""],
    shape: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "crystals *shape"]:
    """Draw uniform numbers in the open interval (0, 1): odd multiples of 2^-24, exact in float32."""
    bits = _shift_right(random_bits(seed, stream, crystal, step, shape), 41)  # 23 bits
    return (2 * bits + 1).to(dtype) * (0.5**24)


def dropout_factors(
    share: float, seed: int, numbers: Int[Tensor, " crystals"], step: int | Int[Tensor, ""], shape: tuple[int, ...]
) -> Float[Tensor, "crystals *shape"]:
    """Draw dropout factors: 0 for a share of the channels, and 1 / (1 - share) for the others.

    Counter-based like all noise, so that a resumed run drops the channels that an uninterrupted one does.
    """
    draw = uniform(seed, Stream.DROPOUT, numbers, step, shape)
    return (draw > share).to(draw.dtype) / (1 - share)


def prepare(device: torch.device) -> None:
    """Create the table that `normal` reads on a device; call it before compiling a caller, which would trace it."""
    if device not in _TABLES:
        _TABLES[device] = _quantiles().to(device)


def _quantiles() -> Int[Tensor, " entries"]:
    """Compute quantiles of N(0, 1) at the middles of 2^16 equal steps, in units of 2^-20 and with variance 1."""
    entries = 1 << QUANTILE_BITS
    probability = (torch.arange(entries, dtype=torch.float64) + 0.5) / entries
    quantile = torch.special.ndtri(probability)
    quantile = quantile / quantile.square().mean().sqrt()
    return torch.round(quantile * QUANTILE_SCALE).to(torch.int32)


def normal(
    seed: int,
    stream: Stream,
    crystal: Int[Tensor, " crystals"],
    step: int | Int[Tensor, ""],
    shape: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "crystals *shape"]:
    """Draw standard normal numbers.

    Logarithms and cosines differ in the last bit between processors, so there are none here: two
    16-bit words choose two tabulated quantiles, whose sum (of variance 2) is an integer that float32 holds exactly.
    """
    bits = random_bits(seed, stream, crystal, step, shape)
    if bits.device not in _TABLES:
        prepare(bits.device)
    table = _TABLES[bits.device]
    last = (1 << QUANTILE_BITS) - 1
    total = table[bits & last] + table[(bits >> QUANTILE_BITS) & last]
    return total.to(dtype) * (0.5**0.5 / QUANTILE_SCALE)


def geometric_levels(sigma_max: float, sigma_min: float, levels: int) -> Float[Tensor, " levels"]:
    """Compute decreasing noise levels with a constant ratio, both ends included (float64; Song and Ermon 2019)."""
    if levels == 1:
        return torch.tensor([sigma_max], dtype=torch.float64)
    exponent = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    return sigma_max * (sigma_min / sigma_max) ** exponent


def dense_levels(sigma_max: float, sigma_min: float, levels: int) -> Float[Tensor, " levels"]:
    """Decreasing noise levels of which 70 % lie between 1 and 0.1 Å, both ends included (float64).

    There atoms find their places: a denser schedule helps where calls of the network are few
    (docs/results/samplers.md). Within and outside, the levels have a constant ratio. Where so few levels, or such
    ends, leave nothing to divide, all have a constant ratio.
    """
    if levels < 6 or not sigma_max > DENSE_FROM > DENSE_TO > sigma_min:
        return geometric_levels(sigma_max, sigma_min, levels)
    inside = round(DENSE_SHARE * levels)
    outside = levels - inside
    # Outside, as many levels above as below in proportion to the decades there, and at least one each.
    decades = math.log(sigma_max / DENSE_FROM), math.log(DENSE_TO / sigma_min)
    above = min(max(round(decades[0] / sum(decades) * outside), 1), outside - 1)
    return torch.cat([
        geometric_levels(sigma_max, DENSE_FROM, above + 1)[:-1],
        geometric_levels(DENSE_FROM, DENSE_TO, inside),
        geometric_levels(DENSE_TO, sigma_min, outside - above + 1)[1:],
    ])  # fmt: skip


def corrupt_coordinates(
    frac_coords: Float[Tensor, "crystals sites 3"],
    lattice: Float[Tensor, "crystals 3 3"],
    sigma: Float[Tensor, " crystals"],
    eps: Float[Tensor, "crystals sites 3"],
) -> tuple[Float[Tensor, "crystals sites 3"], Float[Tensor, "crystals sites 3"]]:
    """Add Gaussian noise of deviation sigma (Å) to fractional coordinates (paper, section 4.3).

    Returns:
        The noisy coordinates, wrapped into the cell, and the shortest displacement back, x - x~, over periodic images
        (Å).
    """
    noisy = frac_coords + lat.cart_to_frac(sigma[:, None, None] * eps, lattice)
    return lat.wrap(noisy), lat.minimum_image(frac_coords - noisy, lattice)


def corrupt_types(
    atomic_numbers: Int[Tensor, "crystals sites"],
    composition: Float[Tensor, "crystals classes"],
    sigma: Float[Tensor, " crystals"],
    which: Float[Tensor, "crystals sites"],
    draw: Float[Tensor, "crystals sites"],
) -> Int[Tensor, "crystals sites"]:
    """Draw atomic numbers from (onehot(A) + sigma * c) / (1 + sigma); padded sites stay padded (paper, section 4.3).

    Args:
        composition: probabilities c of the classes Z = 1..100, detached.
        which: uniform numbers that choose between keeping a type and drawing a new one.
        draw: uniform numbers that draw the new one.
    """
    drawn = draw_types(composition, draw)
    keep = which * (1 + sigma[:, None]) < 1
    return torch.where(keep, atomic_numbers, drawn) * (atomic_numbers > 0)


def draw_types(
    composition: Float[Tensor, "crystals classes"], draw: Float[Tensor, "crystals sites"]
) -> Int[Tensor, "crystals sites"]:
    """Draw atomic numbers whose frequencies are the probabilities `composition` of the classes Z = 1, 2, ...

    A class of probability 0 is never drawn.

    Args:
        draw: uniform numbers in (0, 1).
    """
    # A product with a triangle of ones: torch.cumsum has no deterministic form on a GPU.
    classes = composition.shape[-1]
    cumulative = composition @ torch.ones(classes, classes, dtype=composition.dtype, device=composition.device).triu()
    threshold = draw * cumulative[:, -1:]
    below = (cumulative[:, None, :] <= threshold[..., None]).sum(-1).clamp_max(classes - 1)
    # Rounding differs between the sums, so that the threshold may lie above all or between two equal ones: take the
    # class before, up to one that has a probability.
    number = torch.arange(classes, device=composition.device)
    possible = torch.where(composition > 0, number, -1).cummax(-1).values.clamp_min(0)
    return possible.gather(1, below) + 1
