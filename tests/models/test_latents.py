"""`latents_of`: one rule for crystals, files, latents and numbers of crystals, and one message for refused input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.explore.guided import optimize_guided
from cdvae_lab.explore.interpolation import latent_path
from cdvae_lab.explore.optimization import optimize
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.latent_prior import StandardNormal
from cdvae_lab.models.latents import encode, latents_of
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.sampling.reconstruction import reconstruct
from tests.small_model import SMALL


@pytest.fixture
def model(random_dataset: Dataset) -> CDVAE:
    """An untrained model of up to six atoms of C, O and Ti."""
    model = CDVAE.for_dataset(random_dataset, **SMALL).eval().requires_grad_(False)
    model.prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=8, blocks=1))
    return model


def test_crystals_latents_and_numbers(model: CDVAE, random_dataset: Dataset) -> None:
    crystals = random_dataset.crystals[:4]
    mu = model.encode(crystals).mu
    assert torch.equal(latents_of(model, crystals), mu)
    torch.testing.assert_close(latents_of(model, crystals.to_structures()), encode(model, crystals))
    assert torch.equal(latents_of(model, mu.double()), mu)
    assert not latents_of(model, mu.clone().requires_grad_()).requires_grad
    assert model.prior is not None
    assert torch.equal(latents_of(model, 3, seed=2, first_number=5), model.prior.sample(2, torch.arange(5, 8)))
    normal = StandardNormal(8)
    assert torch.equal(latents_of(model, 3, prior=normal), normal.sample(0, torch.arange(3)))


def test_all_functions_draw_the_same_latents(model: CDVAE) -> None:
    z = latents_of(model, 3, seed=2, first_number=5)
    assert torch.equal(next(denoise(model, 3, seed=2, first_number=5)).z, z)
    assert torch.equal(next(optimize(model, 3, seed=2, first_number=5)).z, z)
    assert torch.equal(next(optimize_guided(model, 3, seed=2, first_number=5)).z, z)


@pytest.mark.parametrize("first", [0, 3])
def test_a_posterior_sample_depends_on_the_number_of_the_crystal(
    model: CDVAE, random_dataset: Dataset, first: int
) -> None:
    crystals = random_dataset.crystals[:6]
    whole = latents_of(model, crystals, sampled=True, seed=4, first_number=first)
    for number in range(6):
        alone = latents_of(model, crystals[number], sampled=True, seed=4, first_number=first + number)
        torch.testing.assert_close(alone, whole[[number]])


ENTRANCES: dict[str, Callable[[CDVAE, Any], Any]] = {
    "latents_of": latents_of,
    "encode": encode,
    "reconstruct": reconstruct,
    "optimize": optimize,
    "optimize_guided": optimize_guided,
    "latent_path": lambda model, source: latent_path(model, source, source),
}


@pytest.mark.parametrize("kind", ["Crystals", "Structures", "file"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_unseen_elements_are_refused_everywhere(
    model: CDVAE, nacl: Crystals, tmp_path: Path, entrance: str, kind: str
) -> None:
    source = {"Crystals": nacl, "Structures": nacl.to_structures(), "file": nacl.write_cif(tmp_path)[0]}[kind]
    with pytest.raises(CrystalError, match=r"the model has never seen Na, Cl; it knows C, O, Ti\. Use a crystal of"):
        ENTRANCES[entrance](model, source)


def test_allow_unseen_accepts_unseen_elements(model: CDVAE, nacl: Crystals) -> None:
    assert torch.equal(latents_of(model, nacl, allow_unseen=True), model.encode(nacl).mu)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (0, {}, "at least 1, not 0"),
        (torch.zeros(2, 7), {}, r"z must be \(crystals, 8\) .* not \(2, 7\)"),
        (torch.zeros(0, 8), {}, "at least one"),
        (2, {"seed": -1}, "seed must be 0 or more"),
        (2, {"first_number": -1}, "first_number must be 0 or more"),
        (2, {"prior": StandardNormal(9)}, r"z must be \(crystals, 8\)"),
    ],
)
def test_settings_out_of_range(model: CDVAE, source: Any, options: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        latents_of(model, source, **options)
