"""Crystals beside their reconstructions at each validation, and one of them as a filmstrip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.monitor.controls import MonitorControls
from cdvae_lab.widgets.monitor.record import Validation, verdicts
from cdvae_lab.widgets.monitor.state import MonitorState
from cdvae_lab.widgets.monitor.training_run import TrainingRun
from cdvae_lab.widgets.parts.filmstrip import film_picture


class Reconstructions:
    """Drawing of a run's validations; it follows the newest unless another is selected.

    Args:
        controls: whose caption, view and filmstrip are drawn.
        state: which validation and which crystal is shown.
        originals: the crystals that are reconstructed.
        held_out: what they are the first of, if they are not trained on, with its code; None if they are.
        decode_steps: of the decoder's sampler.
    """

    def __init__(
        self,
        controls: MonitorControls,
        state: MonitorState,
        originals: Crystals,
        held_out: WithCode[Dataset] | None,
        decode_steps: int,
    ) -> None:
        self._controls, self._state, self._originals = controls, state, originals
        self._held, self._seen = held_out, "of the training set" if held_out is None else "not trained on"
        self._decode_steps = decode_steps
        self._filmed: tuple[Any, ...] = ()  # of which validations and crystal the filmstrip is
        self._drawn: Validation | None = None

    def draw(self, validations: Sequence[Validation]) -> None:
        """Bring filmstrip and crystals up to these validations."""
        k, state, film = self._state.crystal, self._state, self._controls.film
        filmed = tuple((id(one), k) for one in validations)
        if filmed != self._filmed or not film.items:
            known = dict(zip(self._filmed, film.items, strict=False))
            newest = state.limits.get("validation", -1)
            follow = state.validation >= newest or newest < 0
            film.items = [known.get((id(one), k)) or self._picture(one, k) for one in validations] or [
                film_picture(self._originals[k], ["given", captions.formula(self._originals[k])])
            ]
            self._filmed = filmed
            state.limit("validation", len(validations) - 1)
            if follow:
                state.validation = len(validations) - 1
        self.draw_pair(validations)

    def draw_pair(self, validations: Sequence[Validation]) -> None:
        """Show the crystals and their reconstructions at the validation that the state names."""
        caption, view, n = self._controls.caption, self._controls.view, len(self._originals)
        if not validations:
            self._drawn = None
            caption.value = f"<b>{n} crystals {self._seen}</b>, to be encoded and decoded again:"
            view.show(render.at_atom(self._originals))
            return
        one = validations[min(max(self._state.validation, 0), len(validations) - 1)]
        if one is self._drawn:
            return
        self._drawn = one
        view.show(Crystals.cat([render.at_atom(self._originals), render.at_atom(one.crystals)]))
        found = [value for value in one.rms if value is not None]
        rms = f", mean RMSD {sum(found) / len(found):.3f} (volume/atom)<sup>1/3</sup>" if found else ""
        caption.value = (
            f"<b>{n} crystals {self._seen}, then their reconstructions at step {one.step:,}</b> (averaged weights, "
            f"{self._decode_steps} denoising steps): {one.matched} of {n} match{rms}"
        )

    def pick(self, validations: Sequence[Validation], training: TrainingRun) -> Pick:
        """The reconstruction that is shown, with the code that trains the model and makes it, as long as there is one.

        Args:
            training: whose validations they are.

        Raises:
            SettingError: before the first validation.
        """
        if not validations:
            raise SettingError("nothing has been reconstructed yet; the first validation does it")
        one, k = validations[max(0, self._state.validation)], self._state.crystal
        code = self._code_of(one, k, training) if one.step > training.before else None
        name = f"{captions.formula(one.crystals[k])}, decoded at step {one.step} of a training"
        return Pick(name, one.crystals[k], replay=code)

    def _code_of(self, one: Validation, k: int, training: TrainingRun) -> ReplayCode:
        """The code that gives a reconstruction of the current call of `fit` as `crystal`."""
        name = "data" if self._held is None else "validation"
        originals = f"{name}.crystals[:{len(self._originals)}]"
        code = training.replay_code(one.step).then(
            f"crystal = lab.last(lab.reconstruct(model, {originals}, steps={self._decode_steps}, allow_unseen=True)"
            f").crystals[{k}]"
        )
        return code if self._held is None else replace(code, setup={**code.setup, name: self._held.code})

    @staticmethod
    def _picture(one: Validation, k: int) -> dict[str, Any]:
        crystal = one.crystals[k]
        return film_picture(crystal, [f"step {one.step:,}", captions.formula(crystal), verdicts(one.rms)[k]])
