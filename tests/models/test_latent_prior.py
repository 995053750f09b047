"""Priors against torch's normal distribution, closed forms of Gaussians, and the latents that `denoise` starts from."""

from __future__ import annotations

import copy
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal

from cdvae_lab.crystals.formulas import element_counts
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import PriorWarning, SettingError
from cdvae_lab.explore.optimization import optimize
from cdvae_lab.io import assets
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load, read_checkpoint
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import CDVAEConfig, DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.latent_prior import LatentPrior, StandardNormal, default_prior
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.training.loop import fit
from tests.small_model import SMALL

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
def test_denoise_starts_from_samples_of_the_prior(dtype: torch.dtype) -> None:
    model = CDVAE(CDVAEConfig(max_atoms=3, latent_dim=DIM, hidden_dim=8, head_dim=8, num_radial=4)).to(dtype)
    frame = next(denoise(model, n=4, seed=11, first_number=5))
    assert torch.equal(frame.z, StandardNormal(DIM, dtype).sample(11, torch.arange(5, 9)))


def test_invalid_settings_are_refused(prior: StandardNormal) -> None:
    with pytest.raises(SettingError, match="latent_dim must be at least 1, not 0"):
        StandardNormal(0)
    with pytest.raises(SettingError, match="seed must be 0 or more"):
        prior.sample(-1, torch.arange(2))


# The learned prior. Untrained it is exactly a Gaussian, so every error of a sampler shows against a closed form.

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


def test_a_latent_does_not_depend_on_the_batch(gaussian: DiffusionPrior) -> None:
    together = gaussian.sample(3, torch.arange(6))
    torch.testing.assert_close(gaussian.sample(3, torch.tensor([4])), together[4:5], rtol=0, atol=1e-12)
    assert not torch.equal(gaussian.sample(4, torch.tensor([4])), together[4:5])
    with pytest.raises(SettingError, match="seed"):
        gaussian.sample(-1, torch.arange(2))


def test_the_score_is_that_of_the_blurred_gaussian(gaussian: DiffusionPrior) -> None:
    at = gaussian.sample(0, torch.arange(5)).requires_grad_()
    expected = blurred(gaussian, gaussian.config.sigma_score)
    (gradient,) = torch.autograd.grad(expected.log_prob(at).sum(), at)
    torch.testing.assert_close(gaussian.score(at.detach()).detach(), gradient)


def test_log_prob_is_that_of_the_gaussian(gaussian: DiffusionPrior) -> None:
    z = gaussian.sample(0, torch.arange(5))
    z = torch.cat([z, 3 * z])  # usual and unusual ones
    expected = blurred(gaussian, gaussian.config.sigma_min).log_prob(z)
    torch.testing.assert_close(gaussian.log_prob(z), expected)


def test_log_prob_of_a_stretched_gaussian() -> None:
    """A network that is linear in w makes p a Gaussian of another width, whose log-density is known."""
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


def test_the_loss_of_gaussian_data_is_one(gaussian: DiffusionPrior) -> None:
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


def test_a_fitted_prior_learns_a_density_that_is_not_gaussian(random_dataset: Dataset) -> None:
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
    untrained.standardize_with(mu, torch.full_like(mu, -8.0))
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
    # Used by default; N(0, I) can still be chosen.
    assert torch.equal(next(denoise(again, n=3, seed=1)).z, again.prior.sample(1, numbers))
    plain = StandardNormal(8)
    assert torch.equal(next(denoise(again, n=3, seed=1, prior=plain)).z, plain.sample(1, numbers))
    assert next(optimize(again, 3, prior_weight=0.1)).objective.prior is again.prior
    # Training moves the latents, so it removes the prior.
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


# The prior that draws the composition first


def elements_model(dataset: Dataset) -> CDVAE:
    """Latents of four numbers that encode the composition and little else: C, O and Ti, and the number of atoms."""
    model = small_model(dataset)
    shares = model.config.max_atoms + 1 + 6
    with torch.no_grad():
        for part in (model.to_mu, model.to_log_var):
            part.weight.zero_()
            part.bias.zero_()
        model.to_log_var.bias.fill_(-6.0)
        assert model.direct_to_mu is not None
        weight = model.direct_to_mu.weight
        weight.zero_()
        for row, z in enumerate((6, 8, 22)):
            weight[row, shares + z - 1] = 3
        weight[3, : model.config.max_atoms + 1] = torch.arange(model.config.max_atoms + 1.0)
    return model


def compositions_of(dataset: Dataset, steps: int) -> CompositionModel:
    model = CompositionModel.for_dataset(dataset, hidden_dim=16, blocks=1, heads=2, dropout=0.0)
    return list(fit(model, dataset, steps=steps, batch_size=20, warm_up=10, lr=2e-2, ema_decay=0.9))[-1].averaged()


def test_a_conditional_prior_draws_z_of_the_composition(random_dataset: Dataset, tmp_path: Path) -> None:
    model = elements_model(random_dataset)
    prior = DiffusionPrior.for_compositions(compositions_of(random_dataset, 200), 8, hidden_dim=64, blocks=2)
    learned = copy.deepcopy(prior.composition_model)
    assert learned is not None
    steps = list(fit(prior, random_dataset, encoder=model, steps=300, batch_size=20, warm_up=20, lr=3e-3))
    model.prior = steps[-1].averaged()
    again = load(model.save(tmp_path / "m.safetensors")).prior
    assert again is not None
    assert again.config == prior.config
    assert again.composition_model is not None
    for a, b in zip(learned.parameters(), again.composition_model.parameters(), strict=True):
        assert torch.equal(a, b)  # fitting the prior leaves it as it is

    counts = element_counts(random_dataset.crystals.atomic_numbers)
    with torch.no_grad():
        mu = model.encode(random_dataset.crystals).mu[:, :4]
    numbers = torch.arange(100, 100 + len(counts))
    given = again.sample(0, numbers, counts)[:, :4]
    away = ((given - mu) / mu.std(0)).square().mean().sqrt()
    shuffled = ((given - mu.roll(1, 0)) / mu.std(0)).square().mean().sqrt()
    assert away < 0.35 < 1 < shuffled
    # By default the composition is drawn with the same seed and number.
    drawn = again.sample(5, numbers)
    assert torch.equal(drawn, again.sample(5, numbers, again.composition_model.sample(5, numbers)))
    torch.testing.assert_close(again.sample(5, numbers[3:4]), drawn[3:4], atol=1e-4, rtol=1e-4)
    # The marginal density is higher at a latent of the data than far from them.
    z = torch.nn.functional.pad(mu[:2], (0, 4))
    assert (again.log_prob(z) > again.log_prob(z + 4 * again.std * again.active)).all()
    # A single given formula.
    carbon = again.given("C3")
    assert isinstance(carbon, LatentPrior)
    z = carbon.sample(2, numbers)
    six = torch.zeros(len(z), 100, dtype=torch.int64)
    six[:, 5] = 3
    assert torch.equal(z, again.sample(2, numbers, six))
    assert z[:, 0].min() > 2 > 0.8 > z[:, 1:3].abs().median()
    assert carbon.log_prob(z).mean() > again.given("TiO2").log_prob(z).mean() + 2
    oxide = again.given("TiO2")
    of_oxide = oxide.sample(2, numbers)
    assert carbon.score(of_oxide)[:, 0].mean() > 3 * oxide.score(of_oxide)[:, 0].abs().mean()  # towards more carbon
    strange = torch.zeros(1, 100, dtype=torch.int64)
    strange[0, 12] = 1
    with pytest.raises(SettingError, match="unknown to this prior"):
        again.sample(0, numbers[:1], strange)


def test_a_prior_at_another_temperature_draws_other_compositions(random_dataset: Dataset, tmp_path: Path) -> None:
    model = elements_model(random_dataset)
    prior = DiffusionPrior.for_compositions(compositions_of(random_dataset, 20), 8, hidden_dim=16, blocks=1)
    numbers = torch.arange(200)
    cold = prior.at_temperature(1e-3)
    usual, one = (p.composition_model.sample(0, numbers) for p in (prior, cold) if p.composition_model is not None)
    assert len(one.unique(dim=0)) < 0.2 * len(usual.unique(dim=0))
    assert torch.equal(cold.sample(0, numbers), prior.sample(0, numbers, one))
    model.prior = cold
    again = load(model.save(tmp_path / "m.safetensors")).prior
    assert again is not None
    assert torch.equal(again.sample(0, numbers), cold.sample(0, numbers))
    assert prior.config.composition is not None
    assert prior.config.composition.temperature == 1
    with pytest.raises(SettingError, match="temperature"):
        prior.at_temperature(0.0)
    with pytest.raises(SettingError, match="no compositions"):
        DiffusionPrior(DiffusionPriorConfig(8)).at_temperature(0.5)


def test_without_a_condition_the_network_is_that_of_the_marginal(random_dataset: Dataset) -> None:
    prior = DiffusionPrior.for_compositions(compositions_of(random_dataset, 1), 8, hidden_dim=16, blocks=1)
    torch.nn.init.normal_(prior.leave.weight)
    w, sigma = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.5)
    known = prior.known(element_counts(random_dataset.crystals.atomic_numbers[:4]))
    assert torch.equal(prior.network(w, sigma), prior.network(w, sigma, 0 * known))
    assert not torch.allclose(prior.network(w, sigma), prior.network(w, sigma, known))


def test_a_resumed_fit_is_the_uninterrupted_one(random_dataset: Dataset, tmp_path: Path) -> None:
    model, compositions = small_model(random_dataset), compositions_of(random_dataset, 1)
    settings = {"encoder": model, "steps": 6, "batch_size": 10, "warm_up": 2}
    torch.manual_seed(0)
    prior = DiffusionPrior.for_compositions(compositions, 8, hidden_dim=16, blocks=1)
    whole = list(fit(copy.deepcopy(prior), random_dataset, **settings))
    for step in fit(prior, random_dataset, **settings):
        if step.step == 2:
            step.save(tmp_path / "half.safetensors")
            break
    rest = list(fit(tmp_path / "half.safetensors", random_dataset, encoder=model))
    assert [step.loss for step in rest] == [step.loss for step in whole[2:]]
    end, expected = rest[-1].averaged().state_dict(), whole[-1].averaged().state_dict()
    assert end.keys() == expected.keys()
    assert all(torch.equal(end[name], expected[name]) for name in end)
    assert any(name.startswith("composition_model.") for name in end)


def test_a_prior_without_compositions_takes_none(gaussian: DiffusionPrior, random_dataset: Dataset) -> None:
    with pytest.raises(SettingError, match="composition-steps"):
        gaussian.sample(0, torch.arange(20), element_counts(random_dataset.crystals.atomic_numbers))


# Drawn with seed 0 before priors could be conditional on compositions.
BEFORE = [[1.8167195, -0.7905934], [-0.0420615, 2.5198646], [-1.4024128, -0.7010724]]


def test_a_file_without_compositions_draws_the_same_latents_as_before() -> None:
    """The bundled model of carbon, whose prior has no compositions."""
    model = load("carbon_24")
    assert model.prior is not None
    assert "composition" not in read_checkpoint(assets.asset_path("carbon_24.safetensors"), "model")[2]["prior"]
    z = model.prior.sample(0, torch.arange(3))
    torch.testing.assert_close(z[:, :2], torch.tensor(BEFORE), rtol=1e-4, atol=1e-4)


def test_several_threads_evaluate_densities_at_the_same_time() -> None:
    """Widgets do this: a worker thread computes while the kernel draws."""
    prior = load("carbon_24").prior
    assert prior is not None
    z = prior.sample(0, torch.arange(2))
    alone = prior.log_prob(z)
    with ThreadPoolExecutor(3) as threads:
        for density in threads.map(lambda _: prior.log_prob(z), range(9)):
            torch.testing.assert_close(density, alone)


# The default prior


def test_a_trained_model_without_a_learned_prior_warns(random_dataset: Dataset) -> None:
    model = CDVAE.for_dataset(random_dataset, **SMALL).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(default_prior(model), StandardNormal)  # untrained: nothing to draw well
        for frame in denoise(model, n=1, steps=2):
            assert len(frame.crystals) == 1
    *_, step = fit(model, random_dataset, steps=1)
    trained = step.averaged()
    for each in (model, trained):
        with pytest.warns(PriorWarning, match=r"no learned prior.*fit_prior") as caught:
            next(denoise(each, n=1, steps=2))
        assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(denoise(trained, n=1, steps=2, prior=StandardNormal(8)))
        next(denoise(trained, z=torch.zeros(1, 8), steps=2))
        trained.prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=8, blocks=1, steps=4))
        assert default_prior(trained) is trained.prior
        next(denoise(trained, n=1, steps=2))


def test_a_loaded_training_state_without_a_prior_warns(random_dataset: Dataset, tmp_path: Path) -> None:
    for _ in fit(CDVAE.for_dataset(random_dataset, **SMALL), random_dataset, steps=1, checkpoint=tmp_path / "s"):
        pass
    with pytest.warns(PriorWarning):
        default_prior(load(tmp_path / "s"))
