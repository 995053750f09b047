"""Property optimization against closed forms and torch's Adam; steps that hold the whole state; a real model."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cdvae_lab
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, CrystalError, SettingError
from cdvae_lab.explore.optimization import LatentStep, optimize
from cdvae_lab.explore.saved_steps import load_steps, save_steps
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig, DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.latent_prior import StandardNormal
from cdvae_lab.models.latents import encode
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.sampling.frames import every, last

DIM = 4
SMALL = {
    "hidden_dim": 16,
    "latent_dim": DIM,
    "head_dim": 16,
    "encoder_blocks": 1,
    "decoder_blocks": 1,
    "num_radial": 8,
}
STD = 2.0


class Bowl(CDVAE):
    """Predicts 3 + curvature |z - center|^2 / 2, in a unit in which the training set's deviation is 2."""

    def __init__(self, curvature: float = 1.0) -> None:
        super().__init__(CDVAEConfig(max_atoms=3, **SMALL))
        self.curvature = curvature
        self.center = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
        self.property_std.fill_(STD)

    def predict_property(self, z: Tensor) -> Tensor:
        return 3 + 0.5 * self.curvature * (z - self.center).square().sum(-1)


@pytest.fixture
def bowl() -> CDVAE:
    return Bowl().double()


@pytest.fixture
def model() -> CDVAE:
    """A real network, untrained, in float64."""
    torch.manual_seed(1)
    return CDVAE(CDVAEConfig(max_atoms=6, **SMALL)).double()


def latents(n: int = 5) -> Tensor:
    return StandardNormal(DIM, torch.float64).sample(1, torch.arange(n))


def assert_same(a: LatentStep, b: LatentStep) -> None:
    for field in dataclasses.fields(LatentStep):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, field.name


def as_minimum(value: Tensor, target: str | float) -> Tensor:
    signs = {"min": 1, "max": -1}
    return signs[target] * value / STD if isinstance(target, str) else ((value - target) / STD) ** 2


# The end of a search


def test_it_finds_the_minimum(bowl: Bowl) -> None:
    end = last(optimize(bowl, latents(), steps=2000, lr=0.01))
    torch.testing.assert_close(end.z, bowl.center.expand(5, DIM), rtol=0, atol=1e-3)
    torch.testing.assert_close(end.prediction, torch.full((5,), 3.0).double(), rtol=0, atol=1e-5)
    assert end.gradient_norm.max() < 1e-3


@pytest.mark.parametrize("weight", [0.1, 1, 4.0])
def test_with_a_penalty_it_ends_between_the_minimum_and_the_prior(bowl: Bowl, weight: float) -> None:
    # (z - c) / std + weight z = 0
    end = last(optimize(bowl, latents(), steps=2000, lr=0.01, prior_weight=weight))
    expected = bowl.center / (1 + weight * STD)
    torch.testing.assert_close(end.z, expected.expand(5, DIM), rtol=0, atol=1e-3)


def test_a_maximum_is_a_minimum_upside_down() -> None:
    hill = Bowl(curvature=-1).double()
    end = last(optimize(hill, latents(), target="max", steps=2000, lr=0.01))
    torch.testing.assert_close(end.z, hill.center.expand(5, DIM), rtol=0, atol=1e-3)


@pytest.mark.parametrize("target", [5, 4.25])
def test_a_value_is_reached(bowl: Bowl, target: float) -> None:
    end = last(optimize(bowl, latents(), target=target, steps=2000, lr=0.01))
    torch.testing.assert_close(end.prediction, torch.full((5,), target).double(), rtol=0, atol=1e-3)
    assert (end.z - bowl.center).norm(dim=1).min() > 0.5


def test_another_prior_penalizes_other_latents(bowl: Bowl) -> None:
    class Shifted(StandardNormal):
        def score(self, z: Tensor) -> Tensor:
            return 7 - z

        def log_prob(self, z: Tensor) -> Tensor:
            return super().log_prob(z - 7)

    prior = Shifted(DIM, torch.float64)
    end = last(optimize(bowl, latents(), steps=4000, lr=0.01, prior_weight=1.0, prior=prior))
    torch.testing.assert_close(end.z, ((bowl.center + 7 * STD) / (1 + STD)).expand(5, DIM), rtol=0, atol=1e-3)
    torch.testing.assert_close(end.log_prob, prior.log_prob(end.z))


def test_the_bundled_models_prediction_improves() -> None:
    model = cdvae_lab.load("perov_5")
    for target, sign in (("min", -1), ("max", 1)):
        steps = list(every(optimize(model, 8, target=target, steps=200, seed=5), 50))
        predictions = torch.stack([s.prediction for s in steps])
        assert (sign * predictions.diff(dim=0) > 0).all()
        torch.testing.assert_close(predictions[-1], model.predict_property(steps[-1].z))


# The course of a search


@pytest.mark.parametrize("options", [{}, {"target": "max"}, {"target": 0.3}, {"prior_weight": 0.2}])
def test_steps_are_those_of_torchs_adam(model: CDVAE, options: dict) -> None:
    z = latents().requires_grad_()
    adam = torch.optim.Adam([z], lr=0.02)
    prior = StandardNormal(DIM, torch.float64)
    model.property_std.fill_(STD)
    for step in optimize(model, latents(), steps=30, lr=0.02, **options):
        torch.testing.assert_close(step.z, z.detach())
        torch.testing.assert_close(step.prediction, model.predict_property(z).detach())
        torch.testing.assert_close(step.log_prob, prior.log_prob(z).detach())
        value = model.predict_property(z)
        loss = as_minimum(value, options.get("target", "min"))
        adam.zero_grad()
        (loss - options.get("prior_weight", 0) * prior.log_prob(z)).sum().backward()
        torch.testing.assert_close(step.gradient, z.grad)
        torch.testing.assert_close(step.gradient_norm, z.grad.norm(dim=1))
        adam.step()


def test_the_default_is_the_papers(model: CDVAE) -> None:
    step = next(optimize(model, 3))
    assert (step.step, step.num_steps) == (0, 5000)
    assert (step.objective.target, step.objective.lr, step.objective.prior_weight) == ("min", 1e-3, 0)


def test_a_drawn_start_depends_on_the_number_of_the_crystal(model: CDVAE) -> None:
    whole = list(optimize(model, 6, steps=10, seed=3))
    alone = last(optimize(model, 2, steps=10, seed=3, first_number=4))
    for part in (alone, last(optimize(model, step=whole[0].select([4, 5])))):
        assert part.numbers.tolist() == [4, 5]
        torch.testing.assert_close(part.z, whole[-1].z[4:])


def test_crystals_do_not_know_each_other(model: CDVAE) -> None:
    together = last(optimize(model, latents(), steps=50)).z
    alone = torch.cat([last(optimize(model, latents()[i : i + 1], steps=50)).z for i in range(5)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("k", [0, 1, 7, 19])
def test_any_step_resumes_as_the_run_did(model: CDVAE, k: int) -> None:
    whole = list(optimize(model, latents(), target=0.1, steps=20, prior_weight=0.1, lr=0.01))
    assert [s.step for s in whole] == list(range(21))
    assert [s.finished for s in whole] == [False] * 20 + [True]
    rest = list(optimize(model, step=whole[k]))
    assert len(rest) == 20 - k
    for again, step in zip(rest, whole[k + 1 :], strict=True):
        assert_same(again, step)


def test_a_finished_run_resumes_with_more_steps(model: CDVAE) -> None:
    longer = list(optimize(model, latents(), steps=20))
    shorter = last(optimize(model, latents(), steps=12))
    with pytest.raises(SettingError, match="number 12 of 12: give more"):
        optimize(model, step=shorter)
    assert_same(last(optimize(model, step=shorter, steps=20)), longer[-1])


def test_steps_are_frozen_and_stay_as_they_were(model: CDVAE) -> None:
    steps, copies = [], []
    names = ("z", "prediction", "gradient", "mean", "mean_square")
    for step in optimize(model, latents(), steps=6):
        steps.append(step)
        copies.append([getattr(step, name).clone() for name in names])
    for step, kept in zip(steps, copies, strict=True):
        assert all(torch.equal(getattr(step, name), x) for name, x in zip(names, kept, strict=True))
    assert not torch.equal(copies[0][0], copies[-1][0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        steps[0].step = 3  # type: ignore[misc]


def test_the_weights_are_not_touched(model: CDVAE) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert all(p.requires_grad for p in model.parameters())
    last(optimize(model, latents(), steps=5))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_callers_mode_is_neither_needed_nor_changed(model: CDVAE, mode: type) -> None:
    expected = [s.z for s in optimize(model, latents(), steps=4)]
    with mode():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for step, z in zip(optimize(model, latents(), steps=4), expected, strict=True):
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
            assert torch.equal(step.z, z)
            assert not any(x.requires_grad for x in (step.z, step.prediction, step.gradient, step.log_prob))
    assert not next(optimize(model, latents().requires_grad_())).z.requires_grad


# The start of a search


def test_it_starts_from_the_prior_from_latents_or_from_crystals(random_dataset: Dataset, nacl: Crystals) -> None:
    model = CDVAE.for_dataset(random_dataset, **SMALL)
    assert torch.equal(next(optimize(model, 3, seed=9)).z, next(denoise(model, 3, seed=9)).z)
    z = latents().float()
    assert torch.equal(next(optimize(model, z)).z, z)
    crystals = random_dataset.crystals[:4]
    assert torch.equal(next(optimize(model, crystals)).z, model.encode(crystals).mu.detach())
    structures = crystals[2:].to_structures()
    torch.testing.assert_close(next(optimize(model, structures)).z, encode(model, structures))
    with pytest.raises(CrystalError, match="takes 6 atoms"):
        optimize(model, Crystals.cat([nacl, Crystals(torch.rand(1, 7, 3), torch.full((1, 7), 6), torch.eye(3)[None])]))
    with pytest.raises(CrystalError, match="Na"):
        optimize(model, nacl.to_structures())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of start"),
        ({"start": 0}, "at least 1, not 0"),
        ({"start": -3}, "at least 1, not -3"),
        ({"start": 1, "steps": 0}, "steps must be at least 1, not 0"),
        ({"start": 1, "seed": -1}, "seed must be 0 or more"),
        ({"start": 1, "target": "low"}, "'min', 'max' or a number, not 'low'"),
        ({"start": 1, "target": float("nan")}, "finite number, not nan"),
        ({"start": 1, "lr": 0.0}, "lr must be above 0, not 0.0"),
        ({"start": 1, "lr": float("nan")}, "lr must be above 0, not nan"),
        ({"start": 1, "prior_weight": -0.5}, "prior_weight must be 0 or more, not -0.5"),
        ({"start": torch.zeros(2, 7)}, r"z must be \(crystals, 4\).* not \(2, 7\)"),
        ({"start": torch.zeros(0, 4)}, "at least one"),
        ({"start": torch.zeros(4)}, r"not \(4,\)"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else None,
)
def test_settings_out_of_range_are_refused_at_the_call(model: CDVAE, arguments: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        optimize(model, **arguments)


def test_a_step_refuses_other_settings_and_takes_its_own(model: CDVAE, random_dataset: Dataset) -> None:
    step = next(optimize(model, 2, steps=5))
    for options in ({"target": "max"}, {"lr": 0.1}, {"prior_weight": 1.0}, {"seed": 3}):
        with pytest.raises(SettingError, match=f"its own settings, .* differ: {next(iter(options))} \\("):
            optimize(model, step=step, **options)
    with pytest.raises(SettingError, match="differ: prior"):
        optimize(model, step=step, prior=StandardNormal(DIM))
    with pytest.raises(SettingError, match="differ: numbers"):
        optimize(model, step=step, first_number=1)
    own = {"target": "min", "lr": 1e-3, "prior_weight": 0.0, "seed": 0, "first_number": 0}
    assert_same(next(optimize(model, step=step, **own)), next(optimize(model, step=step)))
    with pytest.raises(SettingError, match="exactly one of start"):
        optimize(model, 2, step=step)
    other = CDVAE.for_dataset(random_dataset, **{**SMALL, "latent_dim": 9})
    with pytest.raises(SettingError, match=r"z must be \(crystals, 9\)"):
        optimize(other, step=step)


# Saving and loading steps


@pytest.mark.parametrize("options", [{}, {"target": "max", "prior_weight": 0.2}, {"target": 0.1 + 0.2, "lr": 0.1 / 3}])
def test_a_saved_step_resumes_as_the_run_did(model: CDVAE, tmp_path: Path, options: dict) -> None:
    whole = list(optimize(model, latents(), steps=30, **options))
    path = save_steps(every(iter(whole[:18]), 5), tmp_path / "run.safetensors", model)
    kept = load_steps(path, model)
    assert [step.step for step in kept] == [0, 5, 10, 15, 17]
    for step in kept:
        assert_same(step, whole[step.step])
    rest = list(optimize(model, step=kept[2]))
    for again, step in zip(rest, whole[11:], strict=True):
        assert_same(again, step)


def test_a_lengthened_run_keeps_its_length_in_a_file(model: CDVAE, tmp_path: Path) -> None:
    short = list(optimize(model, latents(), steps=4))
    longer = short + list(optimize(model, step=short[-1], steps=9))
    kept = load_steps(save_steps(longer, tmp_path / "run.safetensors"))
    assert [step.num_steps for step in kept] == [4] * 5 + [9] * 5
    assert_same(last(optimize(model, step=kept[3], steps=9)), longer[-1])


def test_frames_of_different_runs_are_refused(model: CDVAE, bowl: Bowl, tmp_path: Path) -> None:
    steps = list(optimize(model, latents(), steps=3))
    path = save_steps(steps, tmp_path / "run.safetensors", model)
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_steps(path, bowl)
    with pytest.raises(SettingError, match="no steps"):
        save_steps([], path)
    with pytest.raises(SettingError, match="different runs"):
        save_steps([*steps, *optimize(model, latents(), target="max", steps=3)], path)
    with pytest.raises(SettingError, match="N\\(0, I\\) as prior"):
        load_steps(path, prior=DiffusionPrior(DiffusionPriorConfig(DIM, hidden_dim=8, blocks=1)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        load_steps(path)


def test_another_learned_prior_than_the_runs_is_refused(tmp_path: Path) -> None:
    model = cdvae_lab.load("perov_5")
    whole = list(optimize(model, 2, steps=6, prior_weight=0.1))
    path = save_steps(whole[:3], tmp_path / "run.safetensors", model)
    assert_same(last(optimize(model, step=load_steps(path, model)[-1])), whole[-1])
    assert model.prior is not None
    other = copy.deepcopy(model.prior)
    other.mean += 1
    with pytest.raises(CheckpointError, match=r"another prior \(\w{16}\) than this one \(\w{16}\)"):
        load_steps(path, model, other)
    model.prior = other  # fitted again
    with pytest.raises(CheckpointError, match="another prior"):
        load_steps(path, model)
    with pytest.raises(SettingError, match="custom prior"):
        load_steps(path)


def test_a_prior_of_ones_own_is_given_again(model: CDVAE, tmp_path: Path) -> None:
    class Wide(StandardNormal):
        def score(self, z: Tensor) -> Tensor:
            return -z / 4

    prior = Wide(DIM, torch.float64)
    whole = list(optimize(model, latents(), steps=8, prior_weight=0.1, prior=prior))
    path = save_steps(whole[:4], tmp_path / "run.safetensors")
    with pytest.raises(SettingError, match="does not hold"):
        load_steps(path)
    assert_same(last(optimize(model, step=load_steps(path, prior=prior)[-1])), whole[-1])
