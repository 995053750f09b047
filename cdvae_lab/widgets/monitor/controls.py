"""The controls of the `TrainingMonitor`: fields, buttons, curves and the filmstrip."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.widgets.base.fields import Fields, button, input_field, row
from cdvae_lab.widgets.monitor.curves import Curves
from cdvae_lab.widgets.monitor.state import MonitorState
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.filmstrip import Film
from cdvae_lab.widgets.parts.keys import Keys

_STATE, _MODEL = "all that is needed to resume later", "the averaged weights, to generate with"
_SELECT = "the reconstruction, for the other views"
_NO_STEP = "there is nothing to save before the first step: press Run"
_NO_VALIDATION = "there is no reconstruction before the first validation"


@runtime_checkable
class Actions(Protocol):
    """Actions of the buttons and keys."""

    def attempt(self, act: Callable[[], Any]) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def run_or_stop(self) -> None: ...
    def save_state(self, *, wait: bool = ...) -> Any: ...
    def save_model(self, *, wait: bool = ...) -> Any: ...
    def load_state(self) -> None: ...
    def select(self) -> Any: ...


class MonitorControls:
    """The widgets of one `TrainingMonitor`.

    Args:
        state: whose fields they show.
        actions: what the buttons and keys do.
        curves: of the training.
        crystals: names of the crystals to reconstruct.

    Attributes:
        caption, view, film: originals and reconstructions.
    """

    def __init__(self, state: MonitorState, actions: Actions, curves: Curves, crystals: list[str]) -> None:
        W, fields = ipywidgets, Fields(state)
        self._state, self._fields, self._curves = state, fields, curves
        self.steps = fields.make("steps", "steps", "140px", tooltip="of the optimizer")
        self.batch_size = fields.make("batch_size", "crystals a step", "175px", tooltip="the batch size")
        self.lr = fields.make("lr", "highest learning rate", "230px", step=1e-3, tooltip="after the warm-up")
        self.kl = fields.make("kl", "weight of the KL term", "230px", step=1e-3, tooltip="keeps z close to N(0, I)")
        self.validate_every = fields.make(
            "validate_every", "validate every (steps)", "225px", tooltip="reconstruct the crystals below"
        )
        self.state_path = fields.make("state_path", "state file", "290px")
        self.new_rate = fields.make("new_rate", "with the learning rate above", "auto")
        self.model_path = fields.make("model_path", "model file", "290px")
        self.run = button(actions, "Run", "train from the first step on", actions.run, "primary")
        self.stop = button(actions, "Stop", "after the current step; nothing is lost", actions.stop)
        self.resume = button(actions, "Resume", "exactly as the run would have continued", actions.resume)
        self.save_state = button(actions, "Save state", _STATE, lambda: actions.save_state(wait=False))
        self.load_state = button(
            actions, "Load state and resume", "with the settings that it was saved with", actions.load_state
        )
        self.save_model = button(actions, "Save model", _MODEL, lambda: actions.save_model(wait=False))
        self.select = button(actions, "Select this crystal", _SELECT, actions.select)
        names = [(f"crystal {k}: {name}", k) for k, name in enumerate(crystals)]
        self.crystal = input_field(W.Dropdown, "filmstrip of", "220px", options=names)
        fields.bind("crystal", self.crystal)
        self.code = fields.code_button()
        self._speed, self.caption = W.HTML(), W.HTML()
        self._keys = Keys(lambda key, far: self._pressed(actions, key))
        self.view = CrystalView(height=340)
        self.film = Film()
        fields.bind("validation", self.film, "at")

    def rows(self) -> list[ipywidgets.Widget]:
        """The widgets from top to bottom."""
        return [
            row(self.run, self.stop, self.resume, self._speed),
            row(self.steps, self.batch_size, self.lr, self.kl, self.validate_every),
            self._curves,
            self.caption,
            self.view,
            self.film,
            row(self.crystal, self.select, self.code, self._keys),
            row(self.state_path, self.save_state, self.load_state, self.new_rate),
            row(self.model_path, self.save_model),
        ]

    def show_speed(self, text: str) -> None:
        """Show loss, speed and time left beside the buttons."""
        self._speed.value = f"<span style='padding-left:10px'>{html.escape(text)}</span>"

    def enable(self, running: bool, stepped: bool, can_resume: bool, validated: bool) -> None:
        """Disable the buttons that could only raise an error; those that need a first step or validation say so.

        Args:
            running: training is running.
            stepped: there has been a step.
            can_resume: there is a run to resume.
            validated: there is a reconstruction.
        """
        self.run.disabled = self.load_state.disabled = running
        self.stop.disabled = not running
        self.resume.disabled = running or not can_resume
        self.save_state.disabled = self.save_model.disabled = not stepped
        self.select.disabled = not validated
        self.save_state.tooltip, self.save_model.tooltip = (_STATE, _MODEL) if stepped else (_NO_STEP, _NO_STEP)
        self.select.tooltip = _SELECT if validated else _NO_VALIDATION

    def close(self) -> None:
        """Listen no more."""
        self._fields.close()

    def _pressed(self, actions: Actions, key: str) -> None:
        if key == "space":
            actions.attempt(actions.run_or_stop)
            return
        at, last = self._state.validation, len(self.film.items) - 1
        goal = {"left": at - 1, "right": at + 1, "home": 0, "end": last}[key]
        if self._state.limits.get("validation", -1) >= 0:
            self._state.validation = max(0, min(last, goal))
