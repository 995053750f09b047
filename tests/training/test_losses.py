"""Loss terms of a CDVAE: each against a computation by hand, and training on a few crystals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models.aggregates import composition
from cdvae_lab.models.cdvae import CDVAE, Posterior
from cdvae_lab.models.noise import Stream
from cdvae_lab.training import losses
from cdvae_lab.training.settings import LossWeights

SMALL = {
    "hidden_dim": 16,
    "latent_dim": 8,
    "head_dim": 32,
    "encoder_blocks": 1,
    "decoder_blocks": 2,
    "num_radial": 8,
}
MASK = torch.tensor([[True, True, True], [True, False, False]])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Single terms


def test_coordinate_loss_is_equation_8_of_the_paper() -> None:
    p, delta, sigma = randn(2, 3, 3), randn(2, 3, 3, seed=1), torch.tensor([0.1, 5.0], dtype=torch.float64)
    atoms = [0.5 * ((delta[c, i] / sigma[c] - p[c, i]) ** 2).sum() for c, i in MASK.nonzero().tolist()]
    by_hand = ((atoms[0] + atoms[1] + atoms[2]) / 3 + atoms[3]) / 2
    assert losses.coordinate_loss(p, delta, sigma, MASK).item() == pytest.approx(by_hand.item(), rel=1e-12)
    best = delta / sigma[:, None, None]
    assert losses.coordinate_loss(best, delta, sigma, MASK).item() == 0


def test_type_loss_is_a_cross_entropy_over_the_noise() -> None:
    logits, sigma = randn(2, 3, 100), torch.tensor([0.5, 4.0], dtype=torch.float64)
    truth = torch.tensor([[1, 38, 100], [8, 0, 0]])
    log_p = Categorical(logits=logits).log_prob((truth - 1).clamp_min(0))
    by_hand = (-log_p[0].mean() / 0.5 - log_p[1, 0] / 4.0) / 2
    assert losses.type_loss(logits, truth, sigma).item() == pytest.approx(by_hand.item(), rel=1e-10)


def test_number_of_atoms_is_a_cross_entropy() -> None:
    logits, truth = randn(4, 7), torch.tensor([1, 6, 3, 3])
    by_hand = -Categorical(logits=logits).log_prob(truth).mean()
    assert losses.num_atoms_loss(logits, truth).item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_lattice_loss_is_a_mean_square() -> None:
    a, b = randn(3, 6), randn(3, 6, seed=1)
    assert losses.lattice_loss(a, b).item() == pytest.approx(sum(((a - b) ** 2).flatten().tolist()) / 18, rel=1e-12)


def test_composition_is_the_mean_cross_entropy_of_every_atoms_element(known_crystals: Crystals) -> None:
    logits = randn(3, 100)
    shares = composition(known_crystals, torch.float64)
    assert shares[0, 37].item() == pytest.approx(0.2)
    assert shares[0, 7].item() == pytest.approx(0.6)
    log_p = Categorical(logits=logits[:, None].expand(-1, 5, -1)).log_prob(
        (known_crystals.atomic_numbers - 1).clamp_min(0)
    )
    by_hand = -(log_p[0].mean() + log_p[1, :2].mean() + log_p[2, :2].mean()) / 3
    assert losses.composition_loss(logits, shares).item() == pytest.approx(by_hand.item(), rel=1e-10)
    # The optimum is the composition itself, with the entropy of the composition as the value.
    at_best = losses.composition_loss(torch.log(shares[:1] + 1e-300), shares[:1])
    assert at_best.item() == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.2)), rel=1e-6)


def test_kl_equals_torch() -> None:
    mu, log_var = randn(5, 8), randn(5, 8, seed=1)
    theirs = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    assert losses.kl_loss(Posterior(mu, log_var)).item() == pytest.approx(theirs.sum(1).mean().item(), rel=1e-10)
    assert losses.kl_loss(Posterior(torch.zeros(1, 8), torch.zeros(1, 8))).item() == 0


def test_posterior_samples_are_reparameterized() -> None:
    posterior = Posterior(torch.full((4000, 2), 3.0), torch.full((4000, 2), math.log(0.25)))
    z = posterior.sample(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)))
    assert z.mean().item() == pytest.approx(3, abs=0.05)
    assert z.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(posterior.sample(torch.zeros(4000, 2)), posterior.mu)


def test_unlabeled_crystals_do_not_count_for_the_property() -> None:
    predicted = randn(4).requires_grad_()
    target = torch.tensor([1.0, torch.nan, -2.0, torch.nan], dtype=torch.float64)
    loss = losses.property_loss(predicted, target)
    loss.backward()
    a, b = predicted[0] - 1, predicted[2] + 2
    assert loss.item() == pytest.approx(((a**2 + b**2) / 2).item(), rel=1e-12)
    torch.testing.assert_close(predicted.grad, torch.stack([a, 0 * a, b, 0 * b]).detach())


def test_the_property_loss_without_labels_is_zero() -> None:
    predicted = randn(3).requires_grad_()
    loss = losses.property_loss(predicted, torch.full((3,), torch.nan, dtype=torch.float64))
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


# The whole objective


def terms_of(model: CDVAE, dataset: Dataset, step: int = 0, seed: int = 0) -> dict[str, Tensor]:
    crystals = dataset.crystals
    images = periodic_images(crystals.lattice, model.config.cutoff)
    numbers = torch.arange(len(dataset))
    return losses.loss_terms(model, crystals, images, dataset.labels.to(crystals.lattice.dtype), numbers, step, seed)


@pytest.fixture
def model(random_dataset: Dataset) -> CDVAE:
    return CDVAE.for_dataset(random_dataset, **SMALL)


def test_terms_are_finite_named_and_reproducible(model: CDVAE, random_dataset: Dataset) -> None:
    one, again, next_step, other_seed = (terms_of(model, random_dataset, *x) for x in ((3, 0), (3, 0), (4, 0), (3, 1)))
    assert tuple(one) == losses.TERMS
    assert all(torch.isfinite(x) for x in one.values())
    assert all(torch.equal(one[name], again[name]) for name in one)
    for name in ("coordinates", "types", "lattice"):
        assert one[name] != next_step[name], name
        assert one[name] != other_seed[name], name


def test_a_batch_is_the_mean_of_its_crystals(model: CDVAE, random_dataset: Dataset) -> None:
    """Noise depends on the crystal, not on its place in a batch, so each term is the mean over single crystals."""
    model = model.double()
    labeled = random_dataset[4:]
    labeled = dataclasses.replace(labeled, crystals=labeled.crystals.to(dtype=torch.float64))
    images = periodic_images(labeled.crystals.lattice, model.config.cutoff)
    together = terms_of(model, labeled)
    alone = []
    for i in range(len(labeled)):
        one, which = labeled.crystals[i].trim(), torch.tensor([i])
        alone.append(losses.loss_terms(model, one, images[which], labeled.labels[which].double(), which, 0, 0))
    for name, value in together.items():
        mean = sum(x[name] for x in alone) / len(alone)
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=1e-9)


def test_labels_affect_the_property_term_alone(model: CDVAE, random_dataset: Dataset) -> None:
    no_labels = dataclasses.replace(random_dataset, labels=torch.full((20,), torch.nan))
    with_labels, without = terms_of(model, random_dataset), terms_of(model, no_labels)
    assert without["property"].item() == 0
    assert with_labels["property"].item() > 0
    for name in set(losses.TERMS) - {"property"}:
        assert torch.equal(with_labels[name], without[name]), name


def test_the_type_noise_sends_no_gradient_to_the_composition_head(model: CDVAE, random_dataset: Dataset) -> None:
    terms_of(model, random_dataset)["types"].backward()
    assert all(p.grad is None for p in model.composition_head.parameters())
    assert model.type_head[0].weight.grad.abs().max() > 0


def test_points_between_mean_and_sample_train_the_heads_and_not_the_encoder(
    model: CDVAE, random_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = random_dataset[4:10]
    uniform = losses.noise.uniform

    def gradients(share: float) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the composition term, with all points at this fraction of the way from mean to sample."""

        def fixed(seed: int, stream: Stream, *args: Any, **kwargs: Any) -> Tensor:
            drawn = uniform(seed, stream, *args, **kwargs)
            return torch.full_like(drawn, share) if stream == Stream.NEARER else drawn

        monkeypatch.setattr(losses.noise, "uniform", fixed)
        model.zero_grad()
        value = terms_of(model, few)["composition"]
        value.backward()
        return value.detach(), model.composition_head.linear.weight.grad.clone(), model.to_mu.weight.grad.clone()

    value, of_both, encoder = gradients(0.0)
    same_value, twice_the_sample, same_encoder = gradients(1.0)
    model.zero_grad()
    with torch.no_grad():
        mu = model.encode(few.crystals).mu
    losses.composition_loss(model.aggregates(mu).composition_logits, composition(few.crystals, mu.dtype)).backward()
    torch.testing.assert_close(of_both, twice_the_sample / 2 + model.composition_head.linear.weight.grad)
    assert torch.equal(value, same_value)
    torch.testing.assert_close(encoder, same_encoder)


def test_every_term_falls_on_a_few_crystals(model: CDVAE, random_dataset: Dataset) -> None:
    few = random_dataset[4:10]
    weights = LossWeights(kl=1e-4)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    first = terms_of(model, few)
    for _ in range(150):
        terms = terms_of(model, few)  # always the same noise, so that even the score can be learned by heart
        total = sum(getattr(weights, name) * value for name, value in terms.items())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    last = terms_of(model, few)
    for name in set(losses.TERMS) - {"kl"}:
        assert last[name] < 0.5 * first[name], name


def test_the_kl_term_alone_can_be_minimized(model: CDVAE, random_dataset: Dataset) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    values = []
    for step in range(40):
        loss = terms_of(model, random_dataset, step)["kl"]
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.1 * values[0]
