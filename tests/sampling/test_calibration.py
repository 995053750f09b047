"""The probability that a decoded crystal matches, from its latent distance."""

from __future__ import annotations

import json
import math

import pytest
import torch

import cdvae_lab as lab
from cdvae_lab.errors import SettingError
from cdvae_lab.io import assets
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.sampling.calibration import FILE, Calibration, calibration_of


def test_the_curve_is_logistic_in_the_logarithm_of_the_distance() -> None:
    curve = Calibration(intercept=2.0, slope=-1.5, crystals=1, matched=1, data="")
    distance = torch.tensor([0.0, 0.5, math.exp(2 / 1.5), 9.0, math.inf], dtype=torch.float64)
    expected = [1.0, 1 / (1 + math.exp(-2 + 1.5 * math.log(0.5))), 0.5, 1 / (1 + math.exp(-2 + 1.5 * math.log(9))), 0.0]
    assert curve(distance).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", assets.models())
def test_every_bundled_model_has_a_curve_of_its_own_weights(name: str) -> None:
    known = json.loads(assets.asset_path(FILE).read_text())
    model = lab.load(name)
    assert known[name]["fingerprint"] == fingerprint(model)
    curve = calibration_of(fingerprint(model))
    assert curve is not None
    assert curve.slope < 0  # the farther, the less likely
    assert 100 < curve.matched <= curve.crystals
    distance = torch.tensor([0.1, 1.0, 10.0])
    assert torch.equal(lab.match_probability(model, distance), curve(distance))


def test_refined_crystals_have_another_curve() -> None:
    distance = torch.tensor([1.5])
    assert lab.match_probability("mp_20", distance, refined=True) < lab.match_probability("mp_20", distance)


def test_a_model_without_a_curve_is_refused() -> None:
    model = lab.CDVAE(lab.load("perov_5").config)
    with pytest.raises(SettingError, match=r"no curve for decoded crystals.*with one are carbon_24, .*mp_20"):
        lab.match_probability(model, torch.ones(1))
    assert calibration_of(fingerprint(model)) is None
