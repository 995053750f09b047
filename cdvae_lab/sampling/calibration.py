"""How likely a decoded crystal matches the one that was encoded, from its latent distance.

The curve of a model is a logistic function of the logarithm of the distance, fitted on validation crystals
(`python -m tools.calibrate`); what counts as a match is that of the result tables (`metrics.reconstruction`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.io import assets
from cdvae_lab.models.checkpoints import ModelOrName, as_model, fingerprint

FILE = "match_calibration.json"
UNLIKELY = 0.5  # below this probability a crystal is announced as one that does not come back
SURE = 0.9  # and from this one on nothing is said: between them it may or may not


@dataclass(frozen=True)
class Calibration:
    """A curve from latent distance to the probability of a match: 1 / (1 + exp(-(intercept + slope log(distance)))).

    Attributes:
        intercept, slope: coefficients.
        crystals: number of decodings that the curve is fitted to.
        matched: number of those that match.
        data: what they are.
    """

    intercept: float
    slope: float
    crystals: int
    matched: int
    data: str

    def __call__(self, distance: Float[Tensor, " crystals"]) -> Float[Tensor, " crystals"]:
        """Probability of a match; 0 at an infinite distance."""
        return torch.sigmoid(self.intercept + self.slope * distance.log())


def calibration_of(model: str, refined: bool = False) -> Calibration | None:
    """Find the curve of a model by its `fingerprint`; None if it has none.

    Args:
        refined: the curve for crystals that were refined, which come nearer to their latents.
    """
    return _calibrations().get((model, _kind(refined)))


def match_probability(
    model: ModelOrName, distance: Float[Tensor, " crystals"], *, refined: bool = False
) -> Float[Tensor, " crystals"]:
    """Estimate from the latent distance of decoded crystals how likely each matches the crystal that was encoded.

    It holds for the posterior mean as z, decoded by the default sampler or a better one, once or with retries, and for
    crystals like those that the curve was fitted to. Of crystals that are unlike them it expects too much, above all of
    those whose composition is not kept (`UnfamiliarCrystalWarning`).

    Args:
        model: a bundled model, or its name.
        distance: `latent_distance`, or `distance` of a `Decoded` state.
        refined: whether the crystals were refined.

    Raises:
        SettingError: if the model has no curve.

    Examples:
        >>> import cdvae_lab as lab, torch
        >>> (lab.match_probability("mp_20", torch.tensor([0.5, 2.0, 8.0])) > 0.5).tolist()
        [True, True, False]
    """
    found = calibration_of(fingerprint(as_model(model)), refined)
    if found is None:
        kind = _kind(refined)
        known = ", ".join(name for name, curves in _read().items() if kind in curves)
        raise SettingError(
            f"this model has no curve for {kind} crystals from latent distance to the probability of a match; "
            f"the bundled models with one are {known}"
        )
    return found(distance)


def _kind(refined: bool) -> str:
    return "refined" if refined else "decoded"


@cache
def _read() -> dict[str, dict[str, Any]]:
    return json.loads(assets.asset_path(FILE).read_text(encoding="utf-8"))


@cache
def _calibrations() -> dict[tuple[str, str], Calibration]:
    """All curves, by the model's fingerprint and "decoded" or "refined"."""
    return {
        (curves["fingerprint"], kind): Calibration(**curves[kind])
        for curves in _read().values()
        for kind in ("decoded", "refined")
        if kind in curves
    }
