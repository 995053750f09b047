"""Crystals beside their reconstructions at each validation, and one of them as a filmstrip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.monitor.controls import MonitorControls
from cdvae_lab.widgets.monitor.record import Validation, verdicts
from cdvae_lab.widgets.monitor.state import MonitorState
from cdvae_lab.widgets.parts.filmstrip import film_picture


class Reconstructions:
    """Drawing of a run's validations; it follows the newest unless another is selected.

    Args:
        controls: whose caption, view and filmstrip are drawn.
        state: which validation and which crystal is shown.
        originals: the crystals that are reconstructed.
        held_out: they are not trained on.
        decode_steps: of the decoder's sampler.
    """

    def __init__(
        self, controls: MonitorControls, state: MonitorState, originals: Crystals, held_out: bool, decode_steps: int
    ) -> None:
        self._controls, self._state, self._originals = controls, state, originals
        self._seen = "not trained on" if held_out else "of the training set"
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

    @staticmethod
    def _picture(one: Validation, k: int) -> dict[str, Any]:
        crystal = one.crystals[k]
        return film_picture(crystal, [f"step {one.step:,}", captions.formula(crystal), verdicts(one.rms)[k]])
