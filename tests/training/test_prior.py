"""`fit_prior`: a learned prior in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import DatasetError, SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.training.loop import fit
from cdvae_lab.training.prior import fit_prior
from tests.small_model import SMALL

TINY = DiffusionPriorConfig(8, hidden_dim=16, blocks=1, steps=4)


@pytest.fixture
def model(random_dataset: Dataset) -> CDVAE:
    return CDVAE.for_dataset(random_dataset, **SMALL).eval()


def test_the_prior_is_set_at_the_last_step_and_not_before(model: CDVAE, random_dataset: Dataset) -> None:
    before = fingerprint(model)
    steps = fit_prior(model, random_dataset, steps=3, config=TINY)
    seen = [(step.step, step.num_steps, list(step.terms), model.prior is None) for step in steps]
    assert seen == [(1, 3, ["prior"], True), (2, 3, ["prior"], True), (3, 3, ["prior"], False)]
    assert model.prior is not None
    assert model.prior.config == TINY
    assert not model.prior.training
    assert fingerprint(model) == before
    assert model.prior.sample(0, torch.arange(2)).shape == (2, 8)


def test_it_equals_the_sequence_of_fits_that_it_replaces(model: CDVAE, random_dataset: Dataset) -> None:
    for _ in fit_prior(model, random_dataset, steps=3, config=TINY, seed=4, lr=2e-3):
        pass
    torch.manual_seed(4)
    prior = DiffusionPrior(TINY)
    *_, last = fit(prior, random_dataset, encoder=model, steps=3, batch_size=1024, seed=4, lr=2e-3)
    assert model.prior is not None
    assert fingerprint(model.prior) == fingerprint(last.averaged())


def test_the_initial_weights_come_from_the_seed_alone(model: CDVAE, random_dataset: Dataset) -> None:
    marks = []
    for seed in (0, 0, 1):
        torch.rand(5)  # the global generator is somewhere else at every call
        for _ in fit_prior(model, random_dataset, steps=1, config=TINY, seed=seed):
            pass
        assert model.prior is not None
        marks.append(fingerprint(model.prior))
    assert marks[0] == marks[1] != marks[2]


def test_composition_steps_come_first(model: CDVAE, random_dataset: Dataset) -> None:
    phases = [
        (step.step, *step.terms) for step in fit_prior(model, random_dataset, steps=2, composition_steps=2, config=TINY)
    ]
    assert phases == [(1, "negative_log_likelihood"), (2, "negative_log_likelihood"), (1, "prior"), (2, "prior")]
    assert model.prior is not None
    assert model.prior.composition_model is not None
    compositions = model.prior.composition_model.sample(0, torch.arange(4))
    assert (compositions.sum(1) > 0).all()


def test_a_trained_composition_model_may_be_given(model: CDVAE, random_dataset: Dataset) -> None:
    compositions = CompositionModel.for_dataset(random_dataset, seed=3, hidden_dim=8, blocks=1).eval()
    for _ in fit_prior(model, random_dataset, steps=2, composition_model=compositions, config=TINY):
        pass
    assert model.prior is not None
    assert model.prior.composition_model is not None
    assert fingerprint(model.prior.composition_model) == fingerprint(compositions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"lr": -1.0}, "lr"),
        ({"composition_steps": -1}, "composition_steps must be 0 or more"),
        ({"config": DiffusionPriorConfig(4)}, "the prior is over 4 numbers"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(
    model: CDVAE, random_dataset: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        fit_prior(model, random_dataset, **{"steps": 2, "config": TINY, **options})


def test_crystals_that_the_model_does_not_take_are_refused_at_once(model: CDVAE, random_dataset: Dataset) -> None:
    model.elements[6] = False
    with pytest.raises(DatasetError, match="does not know"):
        fit_prior(model, random_dataset, steps=2, config=TINY)
