"""Augmentation of training crystals: random strain of the cell, and random displacements of the encoder's atoms.

Strain makes another crystal of a crystal: encoder, decoder and the target of the lattice head have the strained cell.
The displacements ("rattle") make the encoder's input imprecise, as in a denoising autoencoder (Vincent et al. 2008):
the target is the crystal without them. The decoder's positions have noise of their own at every level.

The random numbers are a function of (seed, step, crystal number), like all noise.

See docs/explanation/algorithm.md, departure D10.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.models import noise
from cdvae_lab.models.noise import Stream


def strain_cells(
    crystals: Crystals, strain: float, seed: int, numbers: Int[Tensor, " crystals"], step: int | Int[Tensor, ""]
) -> Crystals:
    """Strain every cell at random; fractional coordinates stay as they are.

    The lattice L becomes L (1 + e), where e is symmetric and its six components are uniform between -strain and strain.
    """
    dtype = crystals.lattice.dtype
    drawn = strain * (2 * noise.uniform(seed, Stream.STRAIN, numbers, step, (3, 3), dtype) - 1)
    upper = drawn.triu()
    return crystals.replace(lattice=crystals.lattice + crystals.lattice @ (upper + upper.triu(1).transpose(1, 2)))


def cutoff_before_strain(cutoff: float, strain: float) -> float:
    """Compute the cutoff (Å) whose periodic images include those within `cutoff` after any strain of `strain_cells`.

    A symmetric 3 x 3 matrix with entries of at most s shortens no vector to less than 1 - 3 s of its length.
    """
    return cutoff / (1 - 3 * strain)


def rattle_atoms(
    crystals: Crystals, rattle: float, seed: int, numbers: Int[Tensor, " crystals"], step: int | Int[Tensor, ""]
) -> Crystals:
    """Displace every atom by Gaussian noise.

    Args:
        rattle: standard deviation of each Cartesian component, Å.
    """
    shape, dtype = (crystals.num_sites, 3), crystals.lattice.dtype
    moved = rattle * noise.normal(seed, Stream.RATTLE, numbers, step, shape, dtype)
    frac_coords = lat.wrap(crystals.frac_coords + lat.cart_to_frac(moved, crystals.lattice))
    return crystals.replace(frac_coords=frac_coords * crystals.mask[..., None])
