"""The crystals of one step of a search, and the values that are predicted for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep
from cdvae_lab.io import convert
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Predictor


def decode_step(
    model: CDVAE, step: LatentStep, predictor: Predictor | None, seed: int, steps: int
) -> Iterator[Decoded | None]:
    """Decode a step, and predict the property of its crystals.

    Yields None at every step of the decoder, so that it can be stopped, and the result in the end.

    Args:
        predictor: independent of the model; None without one.
        seed: of the decoder's noise.
        steps: of the decoder.

    Raises:
        SettingError: if the predictor does not give one value for each crystal.
    """
    frame = None
    for frame in denoise(model, z=step.z, seed=seed, steps=steps):  # noqa: B007
        yield None
    assert frame is not None
    crystals = frame.crystals
    # Far outside the data a cell can come out flat: then nothing can be predicted.
    usable = convert.is_usable(crystals)
    own = torch.full((len(crystals),), torch.nan)
    independent = None if predictor is None else own.clone()
    if bool(usable.any()):
        with torch.no_grad():
            own[usable.cpu()] = model.predict_property(model.encode(crystals[usable]).mu).cpu().float()
        if independent is not None and predictor is not None:
            independent[usable.cpu()] = _predicted(predictor, crystals[usable])
    yield None
    yield Decoded(step.step, crystals.to("cpu"), own, independent, step.log_prob.cpu())


def _predicted(predictor: Predictor, crystals: Crystals) -> Tensor:
    values = torch.as_tensor(predictor(crystals)).detach().cpu().float()
    if values.shape != (len(crystals),):
        raise SettingError(
            f"predictor: returned {tuple(values.shape)} for {len(crystals)} crystals; it must give one value for each"
        )
    return values
