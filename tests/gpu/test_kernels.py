"""The Triton kernels compute what the network's own sums compute, also inside compiled blocks and CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.models import gpu_kernels
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.painn import PairBasis, pair_basis_all_images

GPU = torch.device("cuda")
CUTOFF = 7.0


def crystals_of(sizes: list[int]) -> Crystals:
    """Random crystals with these numbers of atoms, as dense as real ones, in oblique cells."""
    sites = max(sizes)
    generator = torch.Generator().manual_seed(sum(sizes))
    count = torch.tensor(sizes)
    edge = (17.0 * count) ** (1 / 3)
    lattice = (torch.eye(3) + 0.2 * torch.randn(len(sizes), 3, 3, generator=generator)) * edge[:, None, None]
    exists = torch.arange(sites) < count[:, None]
    types = torch.randint(1, 90, (len(sizes), sites), generator=generator) * exists
    return Crystals(torch.rand(len(sizes), sites, 3, generator=generator) * exists[..., None], types, lattice)


def largest_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference, in units of the largest value, or of 1 if that is less."""
    return float((found.double().cpu() - exact).abs().max() / exact.abs().max().clamp_min(1))


@pytest.mark.parametrize("sizes", [[1], [2, 1], [5] * 40, [20, 7, 1, 13], [70, 3]])
def test_the_basis_is_that_of_the_cpu_in_float64(sizes: list[int]) -> None:
    crystals = crystals_of(sizes)
    exact = crystals.to(dtype=torch.float64)
    centers = torch.linspace(0, CUTOFF, 24)
    images = periodic_images(crystals.lattice, CUTOFF)
    assert gpu_kernels.usable(crystals.to(GPU).lattice)
    found = pair_basis_all_images(crystals.to(GPU), images.to(GPU), centers.to(GPU), CUTOFF)
    wanted = pair_basis_all_images(exact, images.double(), centers.double(), CUTOFF)
    assert largest_error(found.radial, wanted.radial) < 1e-5
    assert largest_error(found.directional, wanted.directional) < 1e-5


@pytest.mark.parametrize("hidden", [16, 48, 256])
@pytest.mark.parametrize("sizes", [[1], [5] * 40, [20, 7, 1, 13], [70, 3]])
def test_messages_are_those_of_the_cpu_in_float64(sizes: list[int], hidden: int) -> None:
    crystals = crystals_of(sizes)
    model = CDVAE(CDVAEConfig(max_atoms=80, hidden_dim=hidden, latent_dim=8, head_dim=16, decoder_blocks=2))
    n, sites = crystals.atomic_numbers.shape
    generator = torch.Generator().manual_seed(hidden)
    scalars, vectors = (torch.randn(n, sites, *more, hidden, generator=generator) for more in ([], [3]))
    condition = torch.randn(n, model.decoder.blocks[0].film.in_features, generator=generator)
    images = periodic_images(crystals.lattice, CUTOFF)
    basis = pair_basis_all_images(crystals, images, torch.linspace(0, CUTOFF, 24), CUTOFF)
    on_gpu = PairBasis(basis.radial.to(GPU), basis.directional.to(GPU))
    exact = PairBasis(basis.radial.double(), basis.directional.double())
    with torch.no_grad():
        for number in range(2):
            block = model.decoder.blocks[number].to(GPU)
            found = block(scalars.to(GPU), vectors.to(GPU), on_gpu, condition.to(GPU), None, True)
            wanted = block.double().cpu()(scalars.double(), vectors.double(), exact, condition.double())
            for ours, theirs in zip(found, wanted, strict=True):
                assert largest_error(ours, theirs) < 2e-5


@pytest.mark.parametrize("compiled", [False, True])
def test_the_decoder_predicts_what_it_does_on_a_cpu(compiled: bool) -> None:
    crystals = crystals_of([20, 7, 1, 13, 4])
    torch.manual_seed(0)
    model = CDVAE(CDVAEConfig(max_atoms=80, hidden_dim=64, latent_dim=8, head_dim=16, num_neighbors=0))
    z, sigma = torch.randn(5, 8), torch.full((5,), 0.3)
    with torch.no_grad():
        wanted = [x.double() for x in model.predict_noise(crystals, z, sigma)]
        model = model.to(GPU)
        if compiled:
            model.decoder.compile_blocks()
        found = model.predict_noise(crystals.to(GPU), z.to(GPU), sigma.to(GPU))
    for ours, theirs in zip(found, wanted, strict=True):
        assert largest_error(ours, theirs) < 1e-4


def test_gradients_come_from_the_networks_own_sums() -> None:
    crystals = crystals_of([5, 3]).to(GPU)
    torch.manual_seed(0)
    model = CDVAE(CDVAEConfig(max_atoms=80, hidden_dim=32, latent_dim=8, head_dim=16, num_neighbors=0)).to(GPU)
    moving = crystals.replace(frac_coords=crystals.frac_coords.clone().requires_grad_())
    model.encode(moving).mu.sum().backward()
    assert moving.frac_coords.grad is not None
    assert float(moving.frac_coords.grad.abs().max()) > 0
    assert all(p.grad is not None for p in model.encoder.blocks[0].parameters())
