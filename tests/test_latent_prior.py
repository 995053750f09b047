"""The prior against torch's own normal distribution, and its samples against what `denoise` starts from."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal

from cdvae_lab.cdvae import CDVAE, CDVAEConfig, fingerprint, load
from cdvae_lab.datasets import Dataset
from cdvae_lab.denoising import denoise
from cdvae_lab.errors import SettingError
from cdvae_lab.latent_prior import DiffusionPrior, DiffusionPriorConfig, LatentPrior, StandardNormal
from cdvae_lab.optimization import optimize
from cdvae_lab.training import fit

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


# The learned prior. Untrained it is a Gaussian, exactly, so all that a sampler can do wrong shows in closed form.

WIDE = 24


@pytest.fixture
def gaussian() -> DiffusionPrior:
    generator = torch.Generator().manual_seed(2)
    prior = DiffusionPrior(DiffusionPriorConfig(WIDE, hidden_dim=16, blocks=1)).double()
    prior.mean.copy_(torch.randn(WIDE, generator=generator))
    prior.std.copy_(torch.rand(WIDE, generator=generator) + 0.2)
    return prior


def blurred(prior: DiffusionPrior, sigma: float) -> Independent:
    return Independent(Normal(prior.mean, prior.std * (1 + sigma**2) ** 0.5), 1)


def test_an_untrained_learned_prior_draws_from_its_gaussian(gaussian: DiffusionPrior) -> None:
    z = gaussian.sample(0, torch.arange(4000))
    away = (z.mean(0) - gaussian.mean) / gaussian.std
    assert away.abs().max() < 5 / 4000**0.5
    assert (z.std(0) / gaussian.std - 1).abs().max() < 5 / 8000**0.5
    assert isinstance(gaussian, LatentPrior)


def test_a_crystal_number_has_its_latent_in_every_batch(gaussian: DiffusionPrior) -> None:
    together = gaussian.sample(3, torch.arange(6))
    torch.testing.assert_close(gaussian.sample(3, torch.tensor([4])), together[4:5], rtol=0, atol=1e-12)
    assert not torch.equal(gaussian.sample(4, torch.tensor([4])), together[4:5])
    with pytest.raises(SettingError, match="seed"):
        gaussian.sample(-1, torch.arange(2))


def test_its_score_is_that_of_the_blurred_gaussian(gaussian: DiffusionPrior) -> None:
    at = gaussian.sample(0, torch.arange(5)).requires_grad_()
    expected = blurred(gaussian, gaussian.config.sigma_score)
    (gradient,) = torch.autograd.grad(expected.log_prob(at).sum(), at)
    torch.testing.assert_close(gaussian.score(at.detach()).detach(), gradient)


def test_its_log_prob_is_that_of_the_gaussian(gaussian: DiffusionPrior) -> None:
    z = gaussian.sample(0, torch.arange(5))
    z = torch.cat([z, 3 * z])  # usual and unusual ones
    expected = blurred(gaussian, gaussian.config.sigma_min).log_prob(z)
    torch.testing.assert_close(gaussian.log_prob(z), expected)


def test_log_prob_of_a_stretched_gaussian() -> None:
    """A network that is linear in w by hand: then p is a Gaussian of another width, whose log-density is known."""
    prior = DiffusionPrior(DiffusionPriorConfig(3, hidden_dim=3, blocks=1, steps=400)).double()
    with torch.no_grad():
        for layer in prior.layers[0]:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
                layer.bias.zero_()
        prior.enter.weight.copy_(torch.eye(3))
        prior.enter.bias.zero_()
        prior.leave.weight.copy_(0.1 * torch.eye(3))
    z = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.5, 0.1]], dtype=torch.float64)
    # dw / dtheta = -0.1 w from theta = arctan(sigma_max), where w is N(0, 1), down to arctan(sigma_min).
    low, high = (math.atan(s) for s in (prior.config.sigma_min, prior.config.sigma_max))
    width = math.exp(0.1 * (high - low)) * (1 + prior.config.sigma_min**2) ** 0.5
    expected = Independent(Normal(torch.zeros(3).double(), torch.full((3,), width).double()), 1)
    torch.testing.assert_close(prior.log_prob(z), expected.log_prob(z), rtol=1e-4, atol=1e-4)


def test_a_gaussian_has_the_loss_of_what_cannot_be_known(gaussian: DiffusionPrior) -> None:
    generator = torch.Generator().manual_seed(0)
    z = gaussian.mean + gaussian.std * torch.randn(4000, WIDE, generator=generator, dtype=torch.float64)
    eps = torch.randn(4000, WIDE, generator=generator, dtype=torch.float64)
    level = torch.randn(4000, generator=generator, dtype=torch.float64)
    assert float(gaussian.loss(z, eps, level).detach()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "wrong", [{"latent_dim": 0}, {"blocks": 0}, {"steps": 1}, {"sigma_min": 0.0}, {"sigma_score": 30.0}], ids=str
)
def test_settings_of_a_learned_prior_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingError, match="DiffusionPriorConfig"):
        DiffusionPriorConfig(**{"latent_dim": 8, **wrong})


def small_model(dataset: Dataset) -> CDVAE:
    model = CDVAE.for_dataset(dataset, hidden_dim=16, latent_dim=8, head_dim=16, encoder_blocks=1, decoder_blocks=1)
    return model.eval()


def test_it_learns_what_a_gaussian_cannot_be(random_dataset: Dataset) -> None:
    """Latents of twenty crystals are twenty points: a fitted prior draws near them, a Gaussian does not."""
    model = small_model(random_dataset)
    with torch.no_grad():
        model.to_mu.weight.mul_(100)
        model.to_log_var.weight.zero_()
        model.to_log_var.bias.fill_(-8.0)
    torch.manual_seed(0)
    prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=64, blocks=2))
    untrained = copy.deepcopy(prior)
    steps = list(fit(prior, random_dataset, encoder=model, steps=1500, batch_size=20, warm_up=20, lr=3e-3))
    assert steps[-1].terms.keys() == {"prior"}
    assert steps[-1].loss < 0.7 * steps[0].loss
    with torch.no_grad():
        mu = model.encode(random_dataset.crystals).mu
    untrained.standardise_with(mu, torch.full_like(mu, -8.0))
    near = [
        float(torch.cdist(one.sample(0, torch.arange(200)) / prior.std, mu / prior.std).amin(1).median())
        for one in (steps[-1].averaged(), untrained)
    ]
    assert near[0] < 0.6 * near[1]


def test_a_model_carries_its_prior(random_dataset: Dataset, tmp_path: Path) -> None:
    model = small_model(random_dataset)
    before = fingerprint(model)
    model.prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=16, blocks=1))
    model.prior.mean.fill_(0.3)
    assert fingerprint(model) == before  # latents and maps stay what they are
    again = load(model.save(tmp_path / "m.safetensors"))
    assert again.prior is not None
    assert again.prior.config == model.prior.config
    numbers = torch.arange(3)
    torch.testing.assert_close(again.prior.sample(1, numbers), model.prior.sample(1, numbers))
    # Used where nothing is said; N(0, I) stays to be chosen.
    assert torch.equal(next(denoise(again, n=3, seed=1)).z, again.prior.sample(1, numbers))
    plain = StandardNormal(8)
    assert torch.equal(next(denoise(again, n=3, seed=1, prior=plain)).z, plain.sample(1, numbers))
    assert next(optimize(again, 3, prior_weight=0.1)).objective.prior is again.prior
    # Training moves the latents, so the prior goes.
    next(fit(again, random_dataset, steps=1, batch_size=4))
    assert again.prior is None


def test_a_prior_is_fitted_to_an_encoder_of_its_size(random_dataset: Dataset) -> None:
    model = small_model(random_dataset)
    prior = DiffusionPrior(DiffusionPriorConfig(6))
    with pytest.raises(SettingError, match="over 6 numbers"):
        fit(prior, random_dataset, encoder=model, steps=1)
    with pytest.raises(SettingError, match="encoder"):
        fit(prior, random_dataset, steps=1)
    with pytest.raises(SettingError, match="encoder"):
        fit(model, random_dataset, encoder=model, steps=1)
