"""PaiNN on periodic crystals: one equivariant network for the encoder, the decoder and the property model.

Schütt, Unke and Gastegger, "Equivariant message passing for the prediction of tensorial properties and
molecular spectra" (ICML 2021), with three changes:

* A message is linear in the sending atom's features, so the filters of all periodic images of one neighbour
  can be added up first. Layers then work on pairs of atoms of the cell, (sites, sites), and never see the neighbour
  list; the radial basis and the directions are computed once per call and shared by all layers.
* Each atom's envelope goes to zero at its own radius (`Neighbors.radius`), so that a list of k neighbours is smooth.
* Every block can be conditioned on a vector per crystal (FiLM: Perez et al. 2018), here z and the noise level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cdvae_lab.neighbors import Neighbors

# Messages are sums over some 20 neighbours of independent sign; this keeps their variance near one.
MESSAGE_SCALE = 0.25
# Å. Below this the direction to an overlapping neighbour fades out instead of spinning round.
SOFT_LENGTH = 0.01


def envelope(ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """1 at 0 and 0 from 1 on, with two continuous derivatives (DimeNet, Gasteiger et al. 2020, eq. 8, p = 6)."""
    x = ratio.clamp(0, 1)
    x3 = x * x * x
    x6 = x3 * x3
    return 1 - x6 * (28 - 48 * x + 21 * x * x)


@dataclass(frozen=True)
class PairBasis:
    """What the filters are linear in, added up over the periodic images of each neighbour j of atom i.

    Attributes:
        radial: sum over images of envelope * radial basis.
        directional: the same times the unit vector from i to the image of j.
    """

    radial: Float[Tensor, "crystals sites sites radial"]
    directional: Float[Tensor, "crystals sites sites 3 radial"]


def pair_basis(neighbors: Neighbors, centres: Float[Tensor, " radial"]) -> PairBasis:
    """Gaussians of the distance, weighted with the envelope and collected by pairs of atoms.

    Args:
        centres: of the Gaussians, equally spaced, Å; their spacing is also their width.
    """
    n, sites, k = neighbors.index.shape
    width = centres[1] - centres[0]
    distance = neighbors.distance
    weight = envelope(distance / neighbors.radius.clamp_min(1e-3)[..., None]) * neighbors.mask * MESSAGE_SCALE
    gaussians = torch.exp(-0.5 * ((distance[..., None] - centres) / width) ** 2) * weight[..., None]
    unit = neighbors.vector / torch.sqrt(distance**2 + SOFT_LENGTH**2)[..., None]
    along = (unit[..., None] * gaussians[..., None, :]).reshape(n * sites, k, -1)
    of_site = neighbors.index[..., None, :] == torch.arange(sites, device=distance.device)[:, None]
    collect = of_site.to(distance.dtype).reshape(n * sites, sites, k)
    radial = collect @ gaussians.reshape(n * sites, k, -1)
    directional = collect @ along
    # Two contiguous tensors: views of one would send every layer's filters down a slow path of cuBLAS.
    return PairBasis(radial.reshape(n, sites, sites, -1), directional.reshape(n, sites, sites, 3, -1))


class Block(nn.Module):
    """A message between atoms and an update within them (PaiNN, section 3.2 and figure 2)."""

    def __init__(self, hidden_dim: int, num_radial: int, condition_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first  # its incoming vectors are zero, so it needs no message from them
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
    ) -> tuple[Float[Tensor, "crystals sites hidden"], Float[Tensor, "crystals sites 3 hidden"]]:
        hidden = s.shape[-1]
        h = self.norm(s)
        if self.film is not None:
            scale, shift = self.film(condition)[:, None].chunk(2, -1)
            h = h * (1 + scale) + shift

        sent = self.features(h)
        radial = self.radial_filter(basis.radial)
        directional = self.directional_filter(basis.directional)
        s = s + (radial[..., :hidden] * sent[:, None, :, :hidden]).sum(2)
        message = (directional * sent[:, None, :, None, hidden : 2 * hidden]).sum(2)
        if not self.first:
            carried = sent[:, :, None, 2 * hidden :] * v
            message = message + (radial[:, :, :, None, hidden:] * carried[:, None]).sum(2)
        v = v + message

        u, w = self.mix_vectors(v).chunk(2, -1)
        length = torch.sqrt((w * w).sum(-2) + 1e-6)
        of_s, of_product, of_v = self.update(torch.cat([s, length], -1)).chunk(3, -1)
        s = s + of_s + of_product * (u * w).sum(-2)
        v = v + of_v[..., None, :] * u
        return s, v


class PaiNN(nn.Module):
    """Scalars and vectors for every atom of every crystal, from its initial scalars and its neighbours.

    Args:
        hidden_dim: number of scalar features, and of vector features, per atom.
        blocks: number of message-passing blocks.
        num_radial: number of Gaussians between 0 and `cutoff` (Å).
        condition_dim: width of the vector that conditions every block; 0 for none.
    """

    centres: Tensor

    def __init__(self, hidden_dim: int, blocks: int, num_radial: int, cutoff: float, condition_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, cutoff, num_radial), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_dim, num_radial, condition_dim, first=b == 0) for b in range(blocks))
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(
        self,
        scalars: Float[Tensor, "crystals sites hidden"],
        neighbors: Neighbors,
        mask: Bool[Tensor, "crystals sites"],
        condition: Float[Tensor, "crystals condition"] | None = None,
    ) -> tuple[Float[Tensor, "crystals sites hidden"], Float[Tensor, "crystals sites 3 hidden"]]:
        """Invariant scalars and equivariant vectors; padded sites come out as zero."""
        basis = pair_basis(neighbors, self.centres)
        s = scalars
        v = s.new_zeros(*s.shape[:-1], 3, s.shape[-1])
        for block in self.blocks:
            s, v = block(s, v, basis, condition)
        exists = mask[..., None].to(s.dtype)
        return self.norm(s) * exists, v * exists[..., None]
