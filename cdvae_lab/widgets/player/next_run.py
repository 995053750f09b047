"""What the next run of the player begins with: a sampler and latents, each with the code that gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latents import encode
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.widgets.base.replay_code import ReplayCode, Sampler
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.player.state import CHOICES, GIVEN, PlayerState


class NextRun:
    """Reads the fields of the next run, and offers what can be chosen in them.

    Args:
        state: whose fields are read.
        model: None if there is none to run.
        sampler, settings: those that the player was given, of `denoise`.
        selection: the crystal that a run can start from.

    Raises:
        SettingError: for a sampler or a setting that does not exist.
    """

    def __init__(
        self,
        state: PlayerState,
        model: CDVAE | None,
        sampler: str | Schedule,
        settings: dict[str, Any],
        selection: Selection,
    ) -> None:
        self._state, self._model, self._selection = state, model, selection
        self._given, self._settings = sampler, settings
        if model is not None:
            Sampler(model, sampler, settings)  # raises errors about settings now rather than later
        if isinstance(sampler, Schedule):
            state.offer("sampler", [(f"{sampler.name} (given)", GIVEN), *CHOICES])
        state.sampler = sampler if isinstance(sampler, str) else GIVEN
        self.name_start()

    @property
    def model(self) -> CDVAE:
        """The model that runs. Raises SettingError if there is none."""
        if self._model is None:
            raise SettingError('there is no model here: TrajectoryPlayer(model="perov_5", trajectory=...) can run one')
        return self._model

    def sampler(self) -> Sampler:
        """The sampler; the settings that the player was given are those of the one it was given."""
        chosen = self._given if self._state.sampler == GIVEN else self._state.sampler
        return Sampler(self.model, chosen, self._settings if chosen == self._given else {})

    def start(self) -> tuple[Callable[[], Tensor] | None, ReplayCode]:
        """A function that gives the z to start from, None for the prior; and the code that gives this z.

        Raises:
            SettingError: without a selected crystal where the run is to start from it.
        """
        if self._state.start == "prior":
            return None, ReplayCode()
        pick: Pick | None = self._selection.pick
        if pick is None:
            raise SettingError("no crystal is selected to start from; select one, or start from the prior")
        before, z = pick.binding("crystal"), pick.z
        if z is not None:
            return lambda: z, before
        model = self.model
        return lambda: encode(model, pick.crystal), before.then("z = lab.encode(model, crystal)")

    def name_start(self) -> None:
        """Offer the selected crystal as a start by its name."""
        pick: Pick | None = self._selection.pick
        name = "the selected crystal's z" if pick is None else f"z of {pick.name.split(',')[0]}"
        self._state.offer("start", [("the prior", "prior"), (name, "selection")])
