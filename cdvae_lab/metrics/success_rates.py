"""Success rates of property optimization: SR5, SR10 and SR15 of the CDVAE paper (section 5.3, `OptEval` of its code).

For each starting point the best (lowest) predicted property over its valid decodings is compared with percentiles of
the training set's property. The predictor should not be the network whose gradient was followed.

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.validity import composition_validity, structure_validity

# The predictor: predicts the property, in its own unit, of crystals that are possible.
Predictor = Callable[[Crystals], Tensor]

SUCCESS = (5, 10, 15)
# The published 5, 10 and 15 % percentiles of the training sets' properties, in the properties' units.
PERCENTILES = {
    "perov_5": (0.43925, 0.61202, 0.73646),
    "carbon_24": (-154.52709, -154.45866, -154.44207),
    "mp_20": (-3.17562, -2.82197, -2.52815),
}
# Crystals per call of a predictor.
_BATCH = 256


@dataclass(frozen=True)
class SuccessRates:
    """Share of the starting points that reached each percentile.

    Attributes:
        thresholds: the property counts as a success at or below it.
        predicted: property of each decoding, in its unit; infinite where the decoding is not valid.
        valid: the decodings that count.
    """

    thresholds: tuple[float, ...]
    predicted: Float[Tensor, "steps starts"]
    valid: Bool[Tensor, "steps starts"]

    @property
    def best(self) -> Float[Tensor, " starts"]:
        """Lowest predicted property of each starting point; infinite without a valid decoding."""
        return self.predicted.amin(0)

    @property
    def best_step(self) -> Int[Tensor, " starts"]:
        """Number of the decoding with the lowest property, for each starting point."""
        return self.predicted.argmin(0)

    @property
    def success(self) -> tuple[float, ...]:
        """Share of the starting points, 0 to 1, for each threshold."""
        return tuple(float((self.best <= threshold).double().mean()) for threshold in self.thresholds)


def success_rates(
    decodings: Sequence[Crystals],
    predictor: Predictor,
    thresholds: Sequence[float] | str,
    rules: Rules = "current",
) -> SuccessRates:
    """Compute the success rates of crystals that were decoded along an optimization.

    Args:
        decodings: the crystals of every starting point, in the same order, once for each time they were decoded.
        predictor: predicts the property of valid crystals, in its own unit.
        thresholds: ascending, or the name of a public data set for the published ones.

    Raises:
        CrystalError: without decodings, or with another number of starting points in one of them.
        SettingError: for a data set without published percentiles.
    """
    sizes = {len(crystals) for crystals in decodings}
    if len(sizes) != 1:
        raise CrystalError(
            f"the decodings hold {sorted(sizes) or 'no'} crystals; give one crystal for each starting point every time"
        )
    crystals = Crystals.cat([part.to("cpu", torch.float64) for part in decodings])
    valid = structure_validity(crystals) & composition_validity(crystals, rules)
    predicted = torch.full((len(crystals),), math.inf, dtype=torch.float64)
    predicted[valid] = predictions(crystals[valid], predictor)
    shape = len(decodings), sizes.pop()
    return SuccessRates(chosen_thresholds(thresholds), predicted.reshape(shape), valid.reshape(shape))


def chosen_thresholds(thresholds: Sequence[float] | str) -> tuple[float, ...]:
    """Return thresholds as they are, or the published ones of a data set.

    Raises:
        SettingError: for a data set without published percentiles.
    """
    if not isinstance(thresholds, str):
        return tuple(thresholds)
    if thresholds not in PERCENTILES:
        raise SettingError(
            f"there are no published percentiles for {thresholds}, only for {', '.join(PERCENTILES)}; give the "
            "thresholds as numbers, in the property's unit"
        )
    return PERCENTILES[thresholds]


def predictions(crystals: Crystals, predictor: Predictor) -> Float[Tensor, " crystals"]:
    """Predict the property of crystals in batches, as float64; a prediction of NaN counts as infinite.

    Raises:
        SettingError: if it does not return one number for each crystal.
    """
    if not len(crystals):
        return torch.zeros(0, dtype=torch.float64)
    parts = []
    for part in torch.arange(len(crystals)).split(_BATCH):
        found = predictor(crystals[part].to(dtype=torch.float32))
        if not isinstance(found, Tensor) or found.shape != (len(part),):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise SettingError(f"predictor returned {got} for {len(part)} crystals; it must return one number for each")
        parts.append(found.detach().to("cpu", torch.float64))
    return torch.cat(parts).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
