"""The model that every run of the monitor makes again, and the settings of `fit`; both also as code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.training.settings import FitSettings, LossWeights
from cdvae_lab.widgets.base.replay_code import arguments
from cdvae_lab.widgets.monitor.state import MonitorState

# What two CPU cores train in a minute or two; as in the notebook on training.
SMALL: dict[str, Any] = {
    "hidden_dim": 32,
    "latent_dim": 64,
    "head_dim": 128,
    "encoder_blocks": 1,
    "decoder_blocks": 3,
    "num_radial": 16,
    "num_neighbors": 12,
    "cutoff": 5.0,
    "sigma_max": 4.0,
}
SMALL_FIT: dict[str, Any] = {
    "lr": 5e-3,
    "warm_up": 100,
    "ema_decay": 0.99,
    "weights": LossWeights(kl=0.001, composition=5.0),
}


@dataclass(frozen=True)
class NewModel:
    """An untrained model of the data, with the same initial weights each time that it is made.

    Attributes:
        settings: of `CDVAE.for_dataset`.
        device: None for the CPU.
    """

    settings: Mapping[str, Any]
    device: str | torch.device | None = None

    @property
    def code(self) -> str:
        """The statement that makes it of `data`."""
        return f"model = lab.CDVAE.for_dataset(data{arguments(self.settings)})"

    def make(self, dataset: Dataset) -> CDVAE:
        """Make one. Raises SettingError for settings out of range."""
        model = CDVAE.for_dataset(dataset, **self.settings)
        return model if self.device is None else model.to(self.device)


def steps_of(epochs: float | int, batch_size: int, crystals: int) -> int:
    """Number of optimizer steps in a number of epochs; at least 1."""
    batch = min(max(batch_size, 1), crystals)
    return max(1, round(epochs * (crystals // batch)))


def fit_settings(given: Mapping[str, Any], state: MonitorState) -> dict[str, Any]:
    """The settings of `fit`: those that the view was given, and on top of them those on the screen.

    Raises:
        SettingError: for a setting that `fit` does not have, or a value out of range.
    """
    weights = dataclasses.replace(given.get("weights") or LossWeights(), kl=state.kl)
    settings = {**given, "steps": state.steps, "batch_size": state.batch_size, "lr": state.lr, "weights": weights}
    known = {one.name for one in dataclasses.fields(FitSettings)} | {"weights"}
    if strange := sorted(set(settings) - known):
        raise SettingError(f"fit has no setting {', '.join(strange)}; there are {', '.join(sorted(known))}")
    FitSettings(**{name: value for name, value in settings.items() if name != "weights"})
    return settings


def fit_arguments(settings: Mapping[str, Any]) -> str:
    """Settings of `fit` as a call has them after its first arguments; of the weights those that are not the default."""
    text = ""
    for name, value in settings.items():
        if isinstance(value, LossWeights):
            changed = {k: v for k, v in dataclasses.asdict(value).items() if v != getattr(LossWeights(), k)}
            text += f", {name}=lab.LossWeights({arguments(changed)[2:]})" if changed else ""
        else:
            text += arguments({name: value})
    return text
