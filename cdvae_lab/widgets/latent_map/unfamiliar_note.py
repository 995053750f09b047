"""A note on a crystal that the model does not represent: what its latent stands for, and which models represent it."""

from __future__ import annotations

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.familiarity import Unfamiliar, models_that_keep
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.latent_map.controls import LatentMapControls


class UnfamiliarNote:
    """Warns at once, and names the models when they have been tried.

    Args:
        model: that does not represent the crystals.
        controls: where the note is, until another crystal is shown.
        task: tries the bundled models, which takes seconds.
    """

    def __init__(self, model: CDVAE, controls: LatentMapControls, task: BackgroundTask[list[str]]) -> None:
        self._model, self._controls, self._task = model, controls, task

    def show(self, crystal: Crystals, unfamiliar: Unfamiliar) -> None:
        """Warn of the crystal that is shown."""
        self._controls.show_unfamiliar(unfamiliar, None)
        self._task.start(
            lambda: [models_that_keep(crystal, self._model)],
            lambda models: self._controls.show_unfamiliar(unfamiliar, models),
        )

    def cancel(self) -> None:
        """Try no more models."""
        self._task.cancel()
