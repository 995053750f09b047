"""PaiNN on periodic crystals: the equivariant graph network of the encoder, the decoder and the property model.

Schütt, Unke and Gastegger, "Equivariant message passing for the prediction of tensorial properties and
molecular spectra" (ICML 2021), with three changes:

* A message is linear in the sending atom's features, so the filters of all periodic images of one neighbor are summed
  first. Layers then work on pairs of atoms of the cell, (sites, sites), instead of a neighbor list; the radial basis
  and the directions are computed once per call and shared by all layers.
* Each atom's envelope goes to zero at its own radius (`Neighbors.radius`), so that the output is a smooth function of
  the positions although the list of neighbors is cut at k.
* Every block can be conditioned on a vector per crystal (FiLM: Perez et al. 2018), here on z and the noise level.

See docs/explanation/algorithm.md, departures D3, D4.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import Neighbors, nearest_neighbors
from cdvae_lab.models import gpu_kernels

# Messages are sums over about 20 neighbors of independent sign; this factor keeps their variance near one.
MESSAGE_SCALE = 0.25
# Å. Below this distance the unit vector to a neighbor goes smoothly to zero: it has no direction at distance 0.
SOFT_LENGTH = 0.01
# Values in the largest tensor of `pair_basis_all_images` on a GPU without compilation, which works in chunks.
CHUNK_SIZE = 1 << 26
# Values (pairs times images times Gaussians) above which the basis is not compiled: the compiler may materialize them.
MAX_COMPILED_SIZE = 1 << 33
MANY_SITES = 40  # from here on summing over the sending atoms first is faster, on a CPU
RECOMPILE_LIMIT = 64  # kinds of blocks times padded sizes, with and without gradients; beyond it dynamo gives up


def envelope(ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Evaluate the smooth cutoff function: 1 at 0, and 0 from 1 on, with two continuous derivatives.

    DimeNet (Gasteiger et al. 2020), eq. 8 with p = 6.
    """
    x = ratio.clamp(0, 1)
    x3 = x * x * x
    x6 = x3 * x3
    return 1 - x6 * (28 - 48 * x + 21 * x * x)


@dataclass(frozen=True)
class PairBasis:
    """Radial and directional basis of every pair of atoms (i, j), summed over the periodic images of j.

    Attributes:
        radial: sum over images of envelope * Gaussians of the distance.
        directional: the same, times the unit vector from i to the image of j.
    """

    radial: Float[Tensor, "crystals sites sites radial"]
    directional: Float[Tensor, "crystals sites sites 3 radial"]


def pair_basis(neighbors: Neighbors, centers: Float[Tensor, " radial"]) -> PairBasis:
    """Compute the pair basis from a neighbor list.

    Args:
        centers: centers of the Gaussians, equally spaced, Å; their spacing is also their width.
    """
    n, sites, k = neighbors.index.shape
    width = centers[1] - centers[0]
    distance = neighbors.distance
    weight = envelope(distance / neighbors.radius.clamp_min(1e-3)[..., None]) * neighbors.mask * MESSAGE_SCALE
    gaussians = torch.exp(-0.5 * ((distance[..., None] - centers) / width) ** 2) * weight[..., None]
    unit = neighbors.vector / torch.sqrt(distance**2 + SOFT_LENGTH**2)[..., None]
    along = (unit[..., None] * gaussians[..., None, :]).reshape(n * sites, k, -1)
    of_site = neighbors.index[..., None, :] == torch.arange(sites, device=distance.device)[:, None]
    collect = of_site.to(distance.dtype).reshape(n * sites, sites, k)
    radial = collect @ gaussians.reshape(n * sites, k, -1)
    directional = collect @ along
    # Two contiguous tensors: with views of a single one, cuBLAS takes a slow path in every layer's filters.
    return PairBasis(radial.reshape(n, sites, sites, -1), directional.reshape(n, sites, sites, 3, -1))


def pair_basis_all_images(
    crystals: Crystals,
    images: Float[Tensor, "crystals images 3"],
    centers: Float[Tensor, " radial"],
    cutoff: float,
) -> PairBasis:
    """Compute the pair basis over all periodic images within a cutoff, without a limit on the number of neighbors.

    On a GPU `gpu_kernels` sums over the images without storing a tensor of the size (pairs, images); where they cannot
    be used, compiling this function has the same effect. On a CPU, and where gradients with respect to the positions
    are needed (a GPU would store such tensors for them), only the images within the cutoff are used, about one in ten.

    Args:
        images: periodic images as `periodic_images` lists them, for at least this cutoff.
        centers: as for `pair_basis`.
        cutoff: Å.
    """
    frac = crystals.frac_coords
    delta = frac[:, None, :, :] - frac[:, :, None, :]  # [c, i, j] = x_j - x_i
    delta = (delta - torch.round(delta)) @ crystals.lattice[:, None]
    shift = images @ crystals.lattice
    exists = crystals.mask[:, :, None] & crystals.mask[:, None, :]
    if gpu_kernels.usable(delta) and not _needs_gradients(crystals):
        return PairBasis(*gpu_kernels.pair_basis(delta, shift, exists, centers, cutoff, MESSAGE_SCALE, SOFT_LENGTH))
    itself = torch.eye(delta.shape[1], dtype=torch.bool, device=delta.device)
    first = torch.arange(shift.shape[1], device=delta.device) == 0  # the zero translation takes an atom to itself
    width = centers[1] - centers[0]

    def shells(vector: Float[Tensor, "*n 3"], counts: Bool[Tensor, "*n"]) -> tuple[Tensor, Tensor]:
        squared = (vector * vector).sum(-1)
        distance = torch.sqrt(torch.where(counts, squared, 1.0))
        weight = envelope(distance / cutoff) * counts * MESSAGE_SCALE
        gaussians = torch.exp(-0.5 * ((distance[..., None] - centers) / width) ** 2) * weight[..., None]
        return gaussians, vector / torch.sqrt(squared + SOFT_LENGTH**2)[..., None]

    if delta.device.type == "cpu" or _needs_gradients(crystals):
        pairs = delta.reshape(len(delta), -1, 3)
        squared = (pairs**2).sum(-1)[..., None] + (shift**2).sum(-1)[:, None] + 2 * pairs @ shift.transpose(1, 2)
        near = squared <= cutoff**2
        near &= (exists[..., None] & ~(itself[..., None] & first)).reshape(near.shape)
        crystal, pair, image = near.nonzero().unbind(1)
        vector = pairs[crystal, pair] + shift[crystal, image]
        gaussians, unit = shells(vector, torch.ones_like(crystal, dtype=torch.bool))
        both = torch.cat([gaussians[:, None], unit[..., None] * gaussians[:, None]], 1)
        summed = both.new_zeros(len(pairs) * pairs.shape[1], 4, len(centers))
        summed = summed.index_add(0, crystal * pairs.shape[1] + pair, both).reshape(*exists.shape, 4, -1)
        return PairBasis(summed[..., 0, :].contiguous(), summed[..., 1:, :].contiguous())

    def summed_over(part: slice) -> tuple[Tensor, Tensor]:
        counts = exists[..., None] & ~(itself[..., None] & first[part])
        gaussians, unit = shells(delta[:, :, :, None] + shift[:, None, None, part], counts)
        return gaussians.sum(3), torch.stack([(unit[..., k, None] * gaussians).sum(3) for k in range(3)], 3)

    if torch.compiler.is_compiling():
        return PairBasis(*summed_over(slice(None)))
    chunk = max(1, CHUNK_SIZE // (exists.numel() * len(centers)))
    parts = [summed_over(slice(start, start + chunk)) for start in range(0, shift.shape[1], chunk)]
    radial, along = zip(*parts, strict=True)
    return PairBasis(torch.stack(radial).sum(0), torch.stack(along).sum(0))


def _needs_gradients(crystals: Crystals) -> bool:
    """True if gradients with respect to the positions or the lattice are needed."""
    return crystals.frac_coords.requires_grad or crystals.lattice.requires_grad


class Block(nn.Module):
    """Message between atoms, then update of each atom (PaiNN, section 3.2 and figure 2)."""

    def __init__(self, hidden_dim: int, num_radial: int, condition_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first  # the first block's vectors are zero, so it needs no message from them
        self.norm = nn.LayerNorm(hidden_dim)
        self.film = nn.Linear(condition_dim, 2 * hidden_dim) if condition_dim else None
        self.features = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, (2 if first else 3) * hidden_dim)
        )
        self.radial_filter = nn.Linear(num_radial, (1 if first else 2) * hidden_dim, bias=False)
        self.directional_filter = nn.Linear(num_radial, hidden_dim, bias=False)
        self.mix_vectors = nn.Linear(hidden_dim, 2 * hidden_dim, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * hidden_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 3 * hidden_dim)
        )

    def forward(
        self,
        s: Float[Tensor, "crystals sites hidden"],
        v: Float[Tensor, "crystals sites 3 hidden"],
        basis: PairBasis,
        condition: Float[Tensor, "crystals condition"] | None,
        keep: Float[Tensor, "crystals 2 hidden"] | None = None,
        kernels: bool = False,
    ) -> tuple[Float[Tensor, "crystals sites hidden"], Float[Tensor, "crystals sites 3 hidden"]]:
        hidden = s.shape[-1]
        h = self.norm(s)
        if self.film is not None:
            scale, shift = self.film(condition)[:, None].chunk(2, -1)
            h = h * (1 + scale) + shift

        sent = _perceptron(self.features, h, None if keep is None else keep[:, 0])
        if kernels:
            of_scalars, of_vectors = gpu_kernels.messages(
                basis.radial, basis.directional, sent, v, self.radial_filter.weight, self.directional_filter.weight
            )
        else:
            carried = None if self.first else sent[:, :, None, 2 * hidden :] * v
            messages = self._messages if s.shape[1] < MANY_SITES else self._messages_of_many
            of_scalars, of_vectors = messages(basis, sent[..., :hidden], sent[..., hidden : 2 * hidden], carried)
        s = s + of_scalars
        v = v + of_vectors

        u, w = self.mix_vectors(v).chunk(2, -1)
        length = torch.sqrt((w * w).sum(-2) + 1e-6)
        updated = _perceptron(self.update, torch.cat([s, length], -1), None if keep is None else keep[:, 1])
        of_s, of_product, of_v = updated.chunk(3, -1)
        s = s + of_s + of_product * (u * w).sum(-2)
        v = v + of_v[..., None, :] * u
        return s, v

    def _messages(
        self,
        basis: PairBasis,
        scalars: Float[Tensor, "crystals sites hidden"],
        along: Float[Tensor, "crystals sites hidden"],
        carried: Float[Tensor, "crystals sites 3 hidden"] | None,
    ) -> tuple[Float[Tensor, "crystals sites hidden"], Float[Tensor, "crystals sites 3 hidden"]]:
        """Sum the messages to every atom: filters of all pairs, times what is sent.

        Args:
            scalars: sent to scalars, weighted by the distance.
            along: sent to vectors, along the direction from the receiver.
            carried: vectors that are sent, weighted by the distance; None in the first block.
        """
        hidden = scalars.shape[-1]
        radial = self.radial_filter(basis.radial)
        directional = self.directional_filter(basis.directional)
        to_scalars = (radial[..., :hidden] * scalars[:, None]).sum(2)
        to_vectors = (directional * along[:, None, :, None]).sum(2)
        if carried is not None:
            to_vectors = to_vectors + (radial[:, :, :, None, hidden:] * carried[:, None]).sum(2)
        return to_scalars, to_vectors

    def _messages_of_many(
        self,
        basis: PairBasis,
        scalars: Float[Tensor, "crystals sites hidden"],
        along: Float[Tensor, "crystals sites hidden"],
        carried: Float[Tensor, "crystals sites 3 hidden"] | None,
    ) -> tuple[Float[Tensor, "crystals sites hidden"], Float[Tensor, "crystals sites 3 hidden"]]:
        """Compute what `_messages` does, equal up to rounding, with less work and memory for crystals of many atoms.

        Filters are linear in the basis, so that the sum over the sending atoms can be taken first:
        sum_j (sum_r W_rh b_ijr) x_jh = sum_r W_rh (sum_j b_ijr x_jh). The inner sum is a matrix product, and nothing
        of the size (pairs, hidden) is stored.
        """
        n, sites, hidden = scalars.shape
        num_radial = basis.radial.shape[-1]
        weights = self.radial_filter.weight.T  # (radial, hidden) or, with those of carried vectors, (radial, 2 hidden)
        values, filters = scalars[:, :, None], weights[:, None, :hidden]
        if carried is not None:
            values = torch.cat([values, carried], 2)
            filters = torch.cat([filters, weights[:, None, hidden:].expand(-1, 3, -1)], 1)
        summed = basis.radial.transpose(2, 3).reshape(n, sites * num_radial, sites) @ values.flatten(2)
        summed = (summed.reshape(n, sites, num_radial, *filters.shape[1:]) * filters).sum(2)
        directions = basis.directional.permute(0, 1, 3, 4, 2).reshape(n, sites * 3 * num_radial, sites) @ along
        directions = (directions.reshape(n, sites, 3, num_radial, hidden) * self.directional_filter.weight.T).sum(3)
        return summed[:, :, 0], directions if carried is None else directions + summed[:, :, 1:]


def _perceptron(
    layers: nn.Sequential, x: Float[Tensor, "crystals sites inputs"], keep: Float[Tensor, "crystals hidden"] | None
) -> Float[Tensor, "crystals sites outputs"]:
    """Apply a perceptron with one hidden layer, whose channels are multiplied by dropout factors if there are any."""
    if keep is None:
        return layers(x)
    into, activation, out = layers
    return out(activation(into(x)) * keep[:, None])


class PaiNN(nn.Module):
    """Polarizable atom interaction network: scalar and vector features of every atom, from its initial scalars.

    Args:
        hidden_dim: number of scalar features, and of vector features, per atom.
        blocks: number of message-passing blocks.
        num_radial: number of Gaussians between 0 and `cutoff` (Å).
        condition_dim: width of the vector that conditions every block; 0 for none.
    """

    centers: Tensor

    def __init__(self, hidden_dim: int, blocks: int, num_radial: int, cutoff: float, condition_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0, cutoff, num_radial), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_dim, num_radial, condition_dim, first=b == 0) for b in range(blocks))
        self.norm = nn.LayerNorm(hidden_dim)
        self.basis_all_images = pair_basis_all_images

    def compile_blocks(self) -> None:
        """Compile the basis and the blocks, which take most of the time; blocks of one kind share their code.

        It takes effect from the next call on and cannot be undone. Calling it again changes nothing.
        """
        if self.basis_all_images is not pair_basis_all_images:
            return
        from torch._dynamo import config  # slow to import

        # Beyond its limit dynamo stops compiling without an error.
        config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
        self.basis_all_images = torch.compile(pair_basis_all_images)
        for block in self.blocks:
            block.compile()

    def basis_for(
        self, crystals: Crystals, images: Float[Tensor, "crystals images 3"], num_neighbors: int, cutoff: float
    ) -> PairBasis:
        """Compute the pair basis of crystals.

        Args:
            images: periodic images as `periodic_images` lists them, for at least this cutoff.
            num_neighbors: largest number of neighbors of an atom, nearest first; 0 for all within the cutoff.
            cutoff: Å.
        """
        if num_neighbors == 0:
            pairs = crystals.atomic_numbers.numel() * crystals.num_sites
            # With gradients the basis uses a list whose length differs between calls, which would recompile every time.
            eager = (
                _needs_gradients(crystals)
                or gpu_kernels.usable(crystals.lattice)  # nothing is left to compile
                or pairs * images.shape[1] * len(self.centers) > MAX_COMPILED_SIZE  # one very thin cell suffices
            )
            basis = pair_basis_all_images if eager else self.basis_all_images
            return basis(crystals, images, self.centers, cutoff)
        return pair_basis(nearest_neighbors(crystals, images, num_neighbors, cutoff), self.centers)

    def forward(
        self,
        scalars: Float[Tensor, "crystals sites hidden"],
        basis: PairBasis,
        mask: Bool[Tensor, "crystals sites"],
        condition: Float[Tensor, "crystals condition"] | None = None,
        keep: Float[Tensor, "crystals blocks 2 hidden"] | None = None,
    ) -> tuple[Float[Tensor, "crystals sites hidden"], Float[Tensor, "crystals sites 3 hidden"]]:
        """Compute invariant scalars and equivariant vectors of every atom; those of padded sites are zero.

        Args:
            keep: dropout factors of the hidden channels of the two perceptrons of every block; None for no dropout.
                These channels are invariant scalars, and all atoms of a crystal have the same factors ("variational
                dropout", Gal and Ghahramani 2016), so that the network stays equivariant under rotation and
                permutation, and equivalent atoms stay equivalent.
        """
        s = scalars
        v = s.new_zeros(*s.shape[:-1], 3, s.shape[-1])
        kernels = gpu_kernels.usable(s) and not torch.is_grad_enabled()
        for number, block in enumerate(self.blocks):
            s, v = block(s, v, basis, condition, None if keep is None else keep[:, number], kernels)
        exists = mask[..., None].to(s.dtype)
        return self.norm(s) * exists, v * exists[..., None]
