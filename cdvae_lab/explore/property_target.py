"""Targets of a search, and the gradient of the predicted property with respect to z: for both kinds of search."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE


def check_target(target: str | float | int) -> None:
    """Refuse a target that is not "min", "max" or a finite number.

    Raises:
        SettingError: naming it.
    """
    if isinstance(target, str):
        if target not in ("min", "max"):
            raise SettingError(f"target must be 'min', 'max' or a number, not {target!r}")
    elif not math.isfinite(target):
        raise SettingError(f"target must be 'min', 'max' or a finite number, not {target}")


def property_gradient(
    model: CDVAE, z: Float[Tensor, "crystals latent"], target: str | float | int
) -> tuple[Float[Tensor, " crystals"], Float[Tensor, "crystals latent"]]:
    """Predict the property from z, and the gradient with respect to z of the loss that is smallest at the target.

    The loss is the property in standard deviations of the training set, with a minus sign for "max"; for a value as
    target, the squared distance from it in standard deviations.

    Returns:
        The prediction in the property's own unit, and the gradient.
    """
    # In every mode of the caller, inference mode too. A gradient for z alone leaves none in the weights.
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        prediction = model.predict_property(z)
        if isinstance(target, str):
            loss = prediction / model.property_std * (1 if target == "min" else -1)
        else:
            loss = ((prediction - target) / model.property_std).square()
        (gradient,) = torch.autograd.grad(loss.sum(), z)
    return prediction.detach(), gradient
