"""Triton kernels of PaiNN for a GPU: the pair basis and the messages, each in one pass over its inputs.

They compute what `painn.pair_basis_all_images` and the blocks' own sums compute, equal up to rounding. Nothing of the
size (pairs, images) or (pairs, channels) is stored, which is what those spend most of their time on. There are no
gradients, so that training computes its messages, and refinement its basis, without them.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportIndexIssue=false

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

PAIRS = 32  # per program of the basis
SENDERS = 16  # per matrix product of the messages: the least that Triton multiplies
CHANNELS = 64  # per program of the messages
# Each product in three of TF32, whose error is close to that of float32; TF32 alone keeps three decimal places.
PRECISION = "tf32x3"
LEAST_CAPABILITY = (8, 0)  # Ampere: the first with TF32


def usable(x: Tensor) -> bool:
    """True if the kernels can compute with this tensor: float32 on an NVIDIA GPU, and Triton is installed."""
    return x.is_cuda and x.dtype == torch.float32 and _supported(x.device)


@functools.cache
def _supported(device: torch.device) -> bool:
    return (
        torch.version.hip is None
        and importlib.util.find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
    )


# Schemas are written out: torch cannot infer them where the tests check every function's arguments.
@torch.library.custom_op(
    "cdvae_lab::pair_basis",
    mutates_args=(),
    schema="(Tensor delta, Tensor shift, Tensor exists, Tensor centers, float cutoff, float scale, float soft_length)"
    " -> (Tensor, Tensor)",
)
def pair_basis(
    delta: Tensor, shift: Tensor, exists: Tensor, centers: Tensor, cutoff: float, scale: float, soft_length: float
) -> tuple[Tensor, Tensor]:
    """Sum envelope, Gaussians and directions of every pair of atoms over periodic images.

    Args:
        delta: from atom i to atom j, Å (crystals, sites, sites, 3).
        shift: translations, Å, the first of them zero (crystals, images, 3).
        exists: True for pairs of atoms (crystals, sites, sites).
        centers: of the Gaussians, equally spaced, Å.
        cutoff: where the envelope ends, Å.
        scale: factor of every term.
        soft_length: below this distance, Å, directions go to zero.

    Returns:
        (crystals, sites, sites, radial) and (crystals, sites, sites, 3, radial), see `painn.PairBasis`.
    """
    import triton

    from cdvae_lab.models import triton_source

    n, sites, _, _ = delta.shape
    radial = delta.new_empty(n, sites, sites, len(centers))
    directional = delta.new_empty(n, sites, sites, 3, len(centers))
    grid = (n, triton.cdiv(sites * sites, PAIRS))
    triton_source.pair_basis[grid](
        delta.contiguous(), shift.contiguous(), exists.contiguous(), centers, radial, directional, sites,
        shift.shape[1], cutoff, scale, soft_length, len(centers), PAIRS, triton.next_power_of_2(len(centers)),
    )  # fmt: skip
    return radial, directional


@pair_basis.register_fake
def _(delta, shift, exists, centers, cutoff, scale, soft_length):
    n, sites, _, _ = delta.shape
    return delta.new_empty(n, sites, sites, len(centers)), delta.new_empty(n, sites, sites, 3, len(centers))


@torch.library.custom_op(
    "cdvae_lab::messages",
    mutates_args=(),
    schema="(Tensor radial, Tensor directional, Tensor sent, Tensor vectors, Tensor radial_filter, "
    "Tensor directional_filter) -> (Tensor, Tensor)",
)
def messages(
    radial: Tensor,
    directional: Tensor,
    sent: Tensor,
    vectors: Tensor,
    radial_filter: Tensor,
    directional_filter: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sum the messages to every atom: filters of all pairs, times what is sent.

    Args:
        radial, directional: the pair basis.
        sent: what every atom sends (crystals, sites, 2 or 3 hidden): to scalars, along the directions and, but for the
            first block, as factors of its vectors.
        vectors: of every atom (crystals, sites, 3, hidden).
        radial_filter: weights (hidden or, but for the first block, 2 hidden; radial).
        directional_filter: weights (hidden; radial).

    Returns:
        what scalars (crystals, sites, hidden) and vectors (crystals, sites, 3, hidden) receive.
    """
    import triton

    from cdvae_lab.models import triton_source

    n, sites, width = sent.shape
    hidden, num_radial = directional_filter.shape
    to_scalars = sent.new_empty(n, sites, hidden)
    to_vectors = sent.new_empty(n, sites, 3, hidden)
    channels = min(CHANNELS, max(16, triton.next_power_of_2(hidden)))
    grid = (n * sites, triton.cdiv(hidden, channels))
    triton_source.messages[grid](
        radial, directional, sent.contiguous(), vectors.contiguous(), radial_filter, directional_filter,
        to_scalars, to_vectors, sites, hidden, num_radial, width == 3 * hidden, SENDERS, channels,
        max(16, triton.next_power_of_2(num_radial)), PRECISION,
    )  # fmt: skip
    return to_scalars, to_vectors


@messages.register_fake
def _(radial, directional, sent, vectors, radial_filter, directional_filter):
    return vectors.new_empty(*sent.shape[:2], vectors.shape[-1]), torch.empty_like(vectors)
