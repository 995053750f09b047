"""Source of the Triton kernels, which `gpu_kernels` imports on a GPU only: Triton is not installed everywhere."""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pair_basis(
    delta, shift, exists, centers, radial, directional, sites, images, cutoff, scale, soft_length,
    num_radial: tl.constexpr, PAIRS: tl.constexpr, RADIAL: tl.constexpr,
):  # fmt: skip
    """One program for each block of pairs of a crystal: all images in turn, with sums in registers."""
    crystal = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    inside = pair < sites * sites
    place = crystal * sites * sites + pair
    x = tl.load(delta + place * 3, mask=inside, other=0.0)
    y = tl.load(delta + place * 3 + 1, mask=inside, other=0.0)
    z = tl.load(delta + place * 3 + 2, mask=inside, other=0.0)
    pair_exists = tl.load(exists + place, mask=inside, other=0) != 0
    apart = pair // sites != pair % sites  # an atom is no neighbor of itself, but of its images
    r = tl.arange(0, RADIAL)
    center = tl.load(centers + r, mask=r < num_radial, other=0.0)
    width = tl.load(centers + 1) - tl.load(centers)
    total = tl.zeros([PAIRS, RADIAL], tl.float32)
    along_x = tl.zeros([PAIRS, RADIAL], tl.float32)
    along_y = tl.zeros([PAIRS, RADIAL], tl.float32)
    along_z = tl.zeros([PAIRS, RADIAL], tl.float32)
    for image in range(images):
        translation = shift + (crystal * images + image) * 3
        dx = x + tl.load(translation)
        dy = y + tl.load(translation + 1)
        dz = z + tl.load(translation + 2)
        squared = dx * dx + dy * dy + dz * dz
        counts = pair_exists & (squared < cutoff * cutoff) & ((image > 0) | apart)
        if tl.max(counts.to(tl.int32), 0) > 0:
            distance = tl.sqrt(tl.where(counts, squared, 1.0))
            ratio = distance / cutoff
            cube = ratio * ratio * ratio
            envelope = 1 - cube * cube * (28 - 48 * ratio + 21 * ratio * ratio)
            weight = tl.where(counts, envelope * scale, 0.0)
            deviation = (distance[:, None] - center[None, :]) / width
            gaussians = tl.exp(-0.5 * deviation * deviation) * weight[:, None]
            length = tl.sqrt(squared + soft_length * soft_length)
            total += gaussians
            along_x += gaussians * (dx / length)[:, None]
            along_y += gaussians * (dy / length)[:, None]
            along_z += gaussians * (dz / length)[:, None]
    writes = inside[:, None] & (r < num_radial)[None, :]
    tl.store(radial + place[:, None] * num_radial + r[None, :], total, mask=writes)
    into = directional + place[:, None] * (3 * num_radial) + r[None, :]
    tl.store(into, along_x, mask=writes)
    tl.store(into + num_radial, along_y, mask=writes)
    tl.store(into + 2 * num_radial, along_z, mask=writes)


@triton.jit
def messages(
    radial, directional, sent, vectors, radial_filter, directional_filter, to_scalars, to_vectors, sites, hidden,
    num_radial: tl.constexpr, HAS_VECTORS: tl.constexpr, SENDERS: tl.constexpr, CHANNELS: tl.constexpr,
    RADIAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program for each receiving atom and block of channels: blocks of senders in turn, with sums in registers."""
    receiver = tl.program_id(0).to(tl.int64)  # of all atoms of the batch
    h = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    r = tl.arange(0, RADIAL)
    weighs = (r < num_radial)[:, None] & (h < hidden)[None, :]
    of_scalars = tl.load(radial_filter + h[None, :] * num_radial + r[:, None], mask=weighs, other=0.0)
    of_directions = tl.load(directional_filter + h[None, :] * num_radial + r[:, None], mask=weighs, other=0.0)
    scalar = tl.zeros([CHANNELS], tl.float32)
    x = tl.zeros([CHANNELS], tl.float32)
    y = tl.zeros([CHANNELS], tl.float32)
    z = tl.zeros([CHANNELS], tl.float32)
    if HAS_VECTORS:
        of_vectors = tl.load(radial_filter + (hidden + h)[None, :] * num_radial + r[:, None], mask=weighs, other=0.0)
        width = 3 * hidden
    else:
        width = 2 * hidden
    for start in range(0, sites, SENDERS):
        j = start + tl.arange(0, SENDERS)
        sends = (j < sites)[:, None] & (h < hidden)[None, :]
        sender = receiver // sites * sites + j
        pair = (receiver * sites + j)[:, None] * num_radial
        reads = (j < sites)[:, None] & (r < num_radial)[None, :]
        basis = tl.load(radial + pair + r[None, :], mask=reads, other=0.0)
        what = sent + sender[:, None] * width + h[None, :]
        filters = tl.dot(basis, of_scalars, input_precision=PRECISION)
        scalar += tl.sum(filters * tl.load(what, mask=sends, other=0.0), 0)
        along = tl.load(what + hidden, mask=sends, other=0.0)
        to = directional + 3 * pair + r[None, :]
        basis_x = tl.load(to, mask=reads, other=0.0)
        basis_y = tl.load(to + num_radial, mask=reads, other=0.0)
        basis_z = tl.load(to + 2 * num_radial, mask=reads, other=0.0)
        x += tl.sum(tl.dot(basis_x, of_directions, input_precision=PRECISION) * along, 0)
        y += tl.sum(tl.dot(basis_y, of_directions, input_precision=PRECISION) * along, 0)
        z += tl.sum(tl.dot(basis_z, of_directions, input_precision=PRECISION) * along, 0)
        if HAS_VECTORS:
            filters = tl.dot(basis, of_vectors, input_precision=PRECISION)
            filters *= tl.load(what + 2 * hidden, mask=sends, other=0.0)
            vector = vectors + sender[:, None] * (3 * hidden) + h[None, :]
            x += tl.sum(filters * tl.load(vector, mask=sends, other=0.0), 0)
            y += tl.sum(filters * tl.load(vector + hidden, mask=sends, other=0.0), 0)
            z += tl.sum(filters * tl.load(vector + 2 * hidden, mask=sends, other=0.0), 0)
    writes = h < hidden
    tl.store(to_scalars + receiver * hidden + h, scalar, mask=writes)
    into = to_vectors + receiver * (3 * hidden) + h
    tl.store(into, x, mask=writes)
    tl.store(into + hidden, y, mask=writes)
    tl.store(into + 2 * hidden, z, mask=writes)
