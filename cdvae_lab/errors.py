"""Errors and warnings of cdvae_lab; each message names the file or field and the remedy."""

from __future__ import annotations

import inspect
import warnings

# Modules whose functions stand between a user's line and a warning: the package, and what decorates its functions.
_PASSED = ("cdvae_lab", "torch", "jaxtyping")


class LabError(Exception):
    """Base class of the errors of cdvae_lab."""


class CrystalError(LabError, ValueError):
    """A crystal, or the file that it came from, cannot be used."""


class DatasetError(LabError, ValueError):
    """A data set cannot be found, downloaded, checked or read."""


class CheckpointError(LabError, ValueError):
    """A checkpoint or a recording was not written by cdvae_lab, is damaged, or of another format version."""


class SettingError(LabError, ValueError):
    """An argument is out of its range."""


class NonFiniteLossError(LabError, ArithmeticError):
    """Training met a loss that is not a finite number; the weights are those before that step."""


class PriorWarning(UserWarning):
    """A trained model draws latents from N(0, I) for want of a learned prior, or training removes its learned prior."""


class UnfamiliarCrystalWarning(UserWarning):
    """A crystal is far from what a model was trained on: its latent stands for another one."""


def warn_user(text: str, category: type[Warning]) -> None:
    """Warn, and point at the line outside the package that led here, however deep in it the warning is given."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
