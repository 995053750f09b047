"""Guided diffusion against the closed form of a Gaussian; steps that hold the whole state; a real model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import cdvae_lab
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.guided import Guidance, GuidedStep, optimize_guided
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig, DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.sampling.frames import last

DIM = 4
SMALL = {"hidden_dim": 16, "head_dim": 16, "encoder_blocks": 1, "decoder_blocks": 1, "num_radial": 8}
STD = 2.0  # of the property in the training set


class Slope(CDVAE):
    """Predicts a property that is linear in z, or its square along one direction."""

    def __init__(self, power: int = 1) -> None:
        super().__init__(CDVAEConfig(max_atoms=3, latent_dim=DIM, **SMALL))
        self.direction = torch.tensor([1.0, -0.5, 0.0, 0.25], dtype=torch.float64)
        self.power = power
        self.property_std.fill_(STD)
        self.prior = gaussian()

    def predict_property(self, z: Tensor) -> Tensor:
        return 3 + (z @ self.direction) ** self.power


def gaussian() -> DiffusionPrior:
    """An untrained prior is the Gaussian of its buffers, exactly."""
    prior = DiffusionPrior(DiffusionPriorConfig(DIM, hidden_dim=8, blocks=1)).double()
    prior.mean.copy_(torch.tensor([1.0, 0.0, -1.0, 0.5]))
    prior.std.copy_(torch.tensor([0.5, 2.0, 1.0, 1.5]))
    return prior


@pytest.fixture
def slope() -> CDVAE:
    return Slope().double()


def assert_same(a: GuidedStep, b: GuidedStep) -> None:
    for field in dataclasses.fields(GuidedStep):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, field.name


# The distribution at the end


@pytest.mark.parametrize(("target", "sign"), [("min", 1), ("max", -1)])
def test_a_linear_property_shifts_a_gaussian_as_it_should(slope: CDVAE, target: str, sign: int) -> None:
    # N(m, S) exp(-g a.z / std) is N(m - g S a / std, S): here sampled from noise that has forgotten the start.
    n, strength, prior = 4000, 3.0, slope.prior
    start = torch.full((n, DIM), 2.0, dtype=torch.float64)
    settings = {"rounds": 1, "steps_per_round": 60, "noise_level": 100.0, "guidance": strength, "target": target}
    z = last(optimize_guided(slope, start, **settings)).z
    expected = prior.mean - sign * strength * prior.std**2 * slope.direction / STD
    assert (z.mean(0) - expected).abs().max() < 0.1
    torch.testing.assert_close(z.std(0), prior.std, rtol=0.06, atol=0)


def test_rounds_keep_the_density_that_they_sample(slope: CDVAE) -> None:
    # A chain from samples of the guided density, with small noise, still has its mean and deviation.
    n, strength, prior = 4000, 3.0, slope.prior
    expected = prior.mean - strength * prior.std**2 * slope.direction / STD
    start = expected + prior.std * torch.randn(n, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = last(optimize_guided(slope, start, rounds=5, steps_per_round=60, noise_level=1.0, guidance=strength, seed=2)).z
    assert (z.mean(0) - expected).abs().max() < 0.12
    torch.testing.assert_close(z.std(0), prior.std, rtol=0.06, atol=0)


def test_little_noise_stays_near_the_start(slope: CDVAE) -> None:
    start = slope.prior.sample(0, torch.arange(200))
    moved = [
        float((last(optimize_guided(slope, start, rounds=1, guidance=0, noise_level=s)).z - start).norm(dim=1).mean())
        for s in (0.1, 0.5, 4.0)
    ]
    assert 0 < moved[0] < 0.5 * moved[1] < 0.5 * moved[2]


def test_a_value_is_approached() -> None:
    model = Slope().double()
    end = last(optimize_guided(model, 200, target=2.0, guidance=20.0, rounds=3))
    unguided = last(optimize_guided(model, 200, target=2.0, guidance=0, rounds=3))
    assert (end.prediction - 2).abs().mean() < 0.3 * (unguided.prediction - 2).abs().mean()


def test_the_bundled_models_prediction_improves_and_latents_stay_likely() -> None:
    model = cdvae_lab.load("perov_5")
    first, *_, end = optimize_guided(model, 8, rounds=3)
    assert (end.prediction < first.prediction).all()
    assert end.prediction.mean() < first.prediction.mean() - 1.5 * float(model.property_std)
    followed = last(cdvae_lab.optimize(model, first.z, steps=600, lr=0.01))
    assert end.log_prob.mean() > followed.log_prob.mean() + 100


# Steps


@pytest.mark.parametrize("which", [[3], [4, 1], [2, 0, 4, 1, 3], slice(1, 3), [2, 2]])
def test_a_crystal_has_the_same_noise_in_any_selection(slope: CDVAE, which: list[int] | slice) -> None:
    whole = list(optimize_guided(slope, 5, rounds=2, seed=4))
    for step in (whole[0], whole[27]):
        some = last(optimize_guided(slope, step=step.select(which)))
        torch.testing.assert_close(some.z, whole[-1].z[which], rtol=1e-12, atol=1e-12)


def test_a_crystal_ends_at_the_same_latent_alone_and_in_a_batch(slope: CDVAE) -> None:
    start = slope.prior.sample(0, torch.arange(5))
    together = last(optimize_guided(slope, start, rounds=2)).z
    for number in range(5):
        alone = last(optimize_guided(slope, start[[number]], rounds=2, first_number=number))
        torch.testing.assert_close(alone.z, together[[number]], rtol=1e-12, atol=1e-12)
    elsewhere = last(optimize_guided(slope, start[[3]], rounds=2)).z
    assert not torch.allclose(elsewhere, together[[3]])
    drawn = last(optimize_guided(slope, 5, rounds=2)).z
    torch.testing.assert_close(last(optimize_guided(slope, 2, rounds=2, first_number=3)).z, drawn[3:])


@pytest.mark.parametrize("k", [0, 1, 20, 33, 59])
def test_any_step_resumes_as_the_run_did(k: int) -> None:
    model = Slope(power=2).double()
    whole = list(optimize_guided(model, 3, rounds=3, seed=5))
    assert [step.step for step in whole] == list(range(61))
    assert [step.step for step in whole if step.round_finished] == [0, 20, 40, 60]
    for again, step in zip(optimize_guided(model, step=whole[k]), whole[k + 1 :], strict=True):
        assert_same(again, step)


def test_a_finished_run_resumes_with_more_rounds(slope: CDVAE) -> None:
    whole, short = last(optimize_guided(slope, 3, rounds=3)), last(optimize_guided(slope, 3, rounds=2))
    assert short.finished
    with pytest.raises(SettingError, match="give more rounds"):
        optimize_guided(slope, step=short)
    assert_same(last(optimize_guided(slope, step=short, rounds=3)), whole)


def test_decoded_crystals_have_no_noise_left(slope: CDVAE) -> None:
    for step in optimize_guided(slope, 3, rounds=2):
        assert torch.equal(step.prediction, slope.predict_property(step.z))
        close = torch.allclose(step.z, step.noisy, rtol=1e-10, atol=1e-10)
        assert close == step.round_finished


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_callers_mode_is_neither_needed_nor_changed(slope: CDVAE, mode: type) -> None:
    expected = last(optimize_guided(slope, 2, rounds=1))
    with mode():
        end = last(optimize_guided(slope, 2, rounds=1))
        log_prob = end.log_prob
    assert torch.equal(end.z, expected.z)
    assert torch.equal(log_prob, expected.log_prob)
    assert not end.z.requires_grad
    assert all(parameter.grad is None for parameter in slope.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of start"),
        ({"start": 0}, "at least 1, not 0"),
        ({"start": 1, "rounds": 0}, "rounds must be at least 1, not 0"),
        ({"start": 1, "seed": -1}, "seed must be 0 or more"),
        ({"start": 1, "target": "low"}, "'min', 'max' or a number, not 'low'"),
        ({"start": 1, "guidance": -1.0}, "guidance must be 0 or more, not -1.0"),
        ({"start": 1, "guidance": float("nan")}, "guidance must be 0 or more, not nan"),
        ({"start": 1, "noise_level": 0.01}, "above the prior's least, 0.02, not 0.01"),
        ({"start": 1, "steps_per_round": 1}, "steps_per_round must be at least 2, not 1"),
        ({"start": torch.zeros(2, 7)}, r"z must be \(crystals, 4\).* not \(2, 7\)"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else None,
)
def test_settings_out_of_range_are_refused_at_the_call(slope: CDVAE, arguments: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        optimize_guided(slope, **arguments)


def test_it_needs_a_learned_prior(slope: CDVAE) -> None:
    slope.prior = None
    with pytest.raises(SettingError, match="needs a learned prior"):
        optimize_guided(slope, 1)
    other = gaussian()
    assert next(optimize_guided(slope, 1, prior=other)).guidance == Guidance(other, "min", 10.0, 4.0, 20, 0)


def test_a_step_refuses_other_settings_and_takes_its_own(slope: CDVAE) -> None:
    step = next(optimize_guided(slope, 2, rounds=1))
    for options in ({"target": "max"}, {"guidance": 1.0}, {"noise_level": 1.0}, {"seed": 3}, {"steps_per_round": 7}):
        with pytest.raises(SettingError, match=f"its own settings, .* differ: {next(iter(options))} \\("):
            optimize_guided(slope, step=step, **options)
    with pytest.raises(SettingError, match="differ: prior"):
        optimize_guided(slope, step=step, prior=gaussian())
    with pytest.raises(SettingError, match="differ: numbers"):
        optimize_guided(slope, step=step, first_number=1)
    own = {"target": "min", "guidance": 10.0, "seed": 0, "first_number": 0, "prior": slope.prior}
    assert_same(next(optimize_guided(slope, step=step, **own)), next(optimize_guided(slope, step=step)))
