"""Steps of a search in latent space, along the gradient or guided: their common base class, start and resuming."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latent_prior import LatentPrior
from cdvae_lab.models.latents import check_latents, crystal_numbers
from cdvae_lab.sampling.frames import Frame, refuse_contradictions

AnyStep = TypeVar("AnyStep", bound=Any)  # a LatentStep or a GuidedStep


class SearchStep(Frame):
    """Base class of the steps of both searches, which are frozen dataclasses with these attributes.

    Attributes:
        z: the latents now.
        prior: the prior of the search.
    """

    z: Float[Tensor, "crystals latent"]

    @property
    def prior(self) -> LatentPrior:
        """Prior of the search, a part of its settings."""
        raise NotImplementedError

    @property
    def log_prob(self) -> Float[Tensor, " crystals"]:
        """log p(z) under the prior, in nats: high for latents that are typical of the training set."""
        with torch.no_grad():
            return self.prior.log_prob(self.z)


def check_start(function: str, start: Any, step: Any, length: int | None, counted: str) -> None:
    """Check that a search has one start and a possible length.

    Args:
        function: name of the search, for the message.
        counted: name of the setting for the length.

    Raises:
        SettingError: for a start and a step to resume from, for neither, or for a length below 1.
    """
    if (start is None) == (step is None):
        raise SettingError(f"{function} starts from exactly one of start (crystals, z or a number) or step (to resume)")
    if length is not None and length < 1:
        raise SettingError(f"{counted} must be at least 1, not {length}")


def resumed(
    model: CDVAE,
    step: AnyStep,
    num_steps: int | None,
    counted: str,
    carried: dict[str, Any],
    first_number: int | None,
    settings: Any,
) -> AnyStep:
    """Return the step to resume from, with another length of the run where one was given.

    Args:
        counted: name of the setting for the length of the run, for the message.
        carried: the settings of the step.

    Raises:
        SettingError: for another model's step, settings that contradict it, or a run that is finished.
    """
    check_latents(model, step.z)
    given = dict(settings)
    if first_number is not None:
        given["numbers"] = crystal_numbers(model, len(step.z), first_number=first_number)
    refuse_contradictions("step", carried | {"numbers": step.numbers}, given)
    step = replace(step, num_steps=num_steps or step.num_steps)
    if step.finished:
        raise SettingError(f"the step is number {step.step} of {step.num_steps}: give more {counted} to resume it")
    return step
