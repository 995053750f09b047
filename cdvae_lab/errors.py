"""Errors of cdvae_lab; each message names the file or field and the remedy."""

from __future__ import annotations


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
