"""Fit the learned prior over z to a trained CDVAE's latents, in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Unpack

import torch

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.training.checks import check_elements, check_fits
from cdvae_lab.training.loop import TrainingStep, fit
from cdvae_lab.training.settings import FitOptions, FitSettings

LATENTS = 1024  # default batch size of the prior's fit
# For compositions: after 4,000 such steps the validation loss of MP-20's compositions falls no further.
COMPOSITION_FIT: FitOptions = {"batch_size": 256, "lr": 2e-3, "ema_decay": 0.998}


def fit_prior(
    model: CDVAE,
    dataset: Dataset,
    *,
    steps: int = 10_000,
    composition_steps: int = 0,
    composition_model: CompositionModel | None = None,
    config: DiffusionPriorConfig | None = None,
    **options: Unpack[FitOptions],
) -> Iterator[TrainingStep]:
    """Fit a learned prior to a trained model's latents of a data set; at the end it is set as `model.prior`.

    Crystals are then generated from where those of the data set lie in latent space, rather than from N(0, I), which
    encoded crystals are far from filling (COV-P on Perov-5: 98 % instead of 22 %). 10,000 steps take about a minute on
    a GPU. The prior is that of the last step, with averaged weights; it is set just before this step is yielded, and
    not at all if the loop ends earlier.

    Where the data have many compositions, as MP-20 has, a continuous density blurs them. With `composition_steps` a
    model of the compositions is fitted first (its steps come first, with the term `negative_log_likelihood`), and the
    prior then draws a composition and z given it.

    Args:
        model: the trained CDVAE; its weights stay as they are.
        dataset: the data that the model was trained on.
        steps: optimizer steps of the prior's fit.
        composition_steps: optimizer steps of the composition model's fit (MP-20: 5,000); 0 for none.
        composition_model: a trained composition model instead.
        config: settings of the prior; the defaults of `DiffusionPriorConfig` otherwise.
        options: fields of `FitSettings` for the prior's fit; `batch_size` is 1,024 by default, and `seed` also
            determines the initial weights.

    Raises:
        SettingError: for settings out of range.
        DatasetError: for crystals that the model does not take.
        NonFiniteLossError: when a loss is not finite.

    Examples:
        >>> import cdvae_lab as lab, torch
        >>> data = lab.datasets.load("synthetic_perovskites", limit=16)
        >>> model = lab.CDVAE.for_dataset(data, hidden_dim=8, latent_dim=4, head_dim=8, decoder_blocks=1)
        >>> for step in lab.fit_prior(model, data, steps=2):
        ...     print(step.step, list(step.terms))
        1 ['prior']
        2 ['prior']
        >>> model.prior.sample(seed=0, numbers=torch.arange(3)).shape
        torch.Size([3, 4])
    """
    given: FitOptions = {"batch_size": LATENTS, **options}
    settings = FitSettings(steps=steps, **given)  # raises errors about settings before anything is computed
    if composition_steps < 0:
        raise SettingError(f"fit_prior: composition_steps must be 0 or more, not {composition_steps}")
    if composition_steps and composition_model is not None:
        raise SettingError("fit_prior takes composition_steps or composition_model, not both")
    if config is None:
        config = DiffusionPriorConfig(model.config.latent_dim)
    if (mine := config.latent_dim) != (its := model.config.latent_dim):
        raise SettingError(f"the prior is over {mine} numbers and the model's z has {its}; give latent_dim={its}")
    if config.composition is not None:
        raise SettingError("fit_prior: give composition_model or composition_steps instead of config.composition")
    check_fits(model, dataset)
    check_elements(model, dataset)
    return _steps(model, dataset, settings, given, composition_steps, composition_model, config)


def _steps(
    model: CDVAE,
    dataset: Dataset,
    settings: FitSettings,
    options: FitOptions,
    composition_steps: int,
    composition_model: CompositionModel | None,
    config: DiffusionPriorConfig,
) -> Iterator[TrainingStep]:
    if composition_steps:
        compositions: FitOptions = {**COMPOSITION_FIT, "seed": settings.seed}
        untrained = CompositionModel.for_dataset(dataset, settings.seed).to(model.device)
        for step in fit(untrained, dataset, steps=composition_steps, **compositions):
            if step.step == step.num_steps:
                composition_model = step.averaged()
            yield step
    prior = new_prior(config, composition_model, settings.seed).to(model.device)
    for step in fit(prior, dataset, encoder=model, steps=settings.steps, **options):
        if step.step == step.num_steps:
            model.prior = step.averaged()
        yield step


def new_prior(config: DiffusionPriorConfig, composition_model: CompositionModel | None, seed: int) -> DiffusionPrior:
    """Create an untrained prior, conditional if there is a composition model; the seed determines its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if composition_model is None:
            return DiffusionPrior(config)
        conditional = DiffusionPrior(replace(config, composition=composition_model.config))
    assert conditional.composition_model is not None
    conditional.composition_model.load_state_dict(composition_model.state_dict())
    conditional.composition_model.metadata = composition_model.metadata
    return conditional
