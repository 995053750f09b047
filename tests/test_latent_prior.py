"""The prior against torch's own normal distribution, and its samples against what `denoise` starts from."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from cdvae_lab.cdvae import CDVAE, CDVAEConfig
from cdvae_lab.denoising import denoise
from cdvae_lab.errors import SettingError
from cdvae_lab.latent_prior import LatentPrior, StandardNormal

DIM = 6


@pytest.fixture
def prior() -> StandardNormal:
    return StandardNormal(DIM, torch.float64)


@pytest.fixture
def z() -> torch.Tensor:
    return 3 * torch.randn(20, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_standard_normal_fulfils_the_protocol(prior: StandardNormal) -> None:
    assert isinstance(prior, LatentPrior)
    assert not isinstance(torch.nn.Identity(), LatentPrior)


def test_log_prob_is_that_of_torch(prior: StandardNormal, z: torch.Tensor) -> None:
    reference = Independent(Normal(torch.zeros(DIM).double(), torch.ones(DIM).double()), 1)
    torch.testing.assert_close(prior.log_prob(z), reference.log_prob(z))


def test_the_score_is_the_gradient_of_log_prob(prior: StandardNormal, z: torch.Tensor) -> None:
    at = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(at).sum(), at)
    torch.testing.assert_close(prior.score(z), gradient)


def test_samples_have_mean_zero_and_no_correlation(prior: StandardNormal) -> None:
    n = 5000
    z = prior.sample(0, torch.arange(n))
    assert z.mean(0).abs().max() < 4.5 / n**0.5
    assert (z.T @ z / n - torch.eye(DIM)).abs().max() < 4.5 * 2**0.5 / n**0.5


def test_a_sample_depends_on_seed_and_number_alone(prior: StandardNormal) -> None:
    z = prior.sample(3, torch.arange(10))
    assert torch.equal(prior.sample(3, torch.tensor([7, 2])), z[[7, 2]])
    assert not torch.equal(prior.sample(4, torch.arange(10)), z)
    assert len(z.unique(dim=0)) == 10
    assert StandardNormal(DIM).sample(3, torch.arange(2)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_what_generation_starts_from(dtype: torch.dtype) -> None:
    model = CDVAE(CDVAEConfig(max_atoms=3, latent_dim=DIM, hidden_dim=8, head_dim=8, num_radial=4)).to(dtype)
    frame = next(denoise(model, n=4, seed=11, first_number=5))
    assert torch.equal(frame.z, StandardNormal(DIM, dtype).sample(11, torch.arange(5, 9)))


def test_bad_settings_are_refused(prior: StandardNormal) -> None:
    with pytest.raises(SettingError, match="latent_dim must be at least 1, not 0"):
        StandardNormal(0)
    with pytest.raises(SettingError, match="seed must be 0 or more"):
        prior.sample(-1, torch.arange(2))
