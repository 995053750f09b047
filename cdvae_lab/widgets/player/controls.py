"""The controls of the `TrajectoryPlayer`: fields and buttons, the slider of the frames, and the strips below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.widgets.base.fields import Fields, button, input_field, row
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.strips import StepButtons, Strips
from cdvae_lab.widgets.player.before_run import BeforeRun
from cdvae_lab.widgets.player.state import SPEEDS, PlayerState

_SELECT = "with its z, for the other views and for a new run"
_CHOOSE = "choose one under “show”"
_NO_FRAME = "there is no crystal yet: press Run"
_MUTED = "color:var(--jp-ui-font-color2,inherit);padding-right:8px"


@runtime_checkable
class Actions(Protocol):
    """Actions of the buttons."""

    def attempt(self, act: Callable[[], Any]) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def branch(self) -> None: ...
    def select(self) -> Any: ...
    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = ..., wait: bool = ...) -> Any: ...


class PlayerControls:
    """The widgets of one `TrajectoryPlayer`.

    Args:
        state: whose fields they show.
        actions: what the buttons do.
        can_run: there is a model to run.
        height: of the crystals, pixels.

    Attributes:
        view: the crystals.
        before_run: what is shown with them before the first frame.
        slider: number of the frame; its end moves as frames come.
    """

    def __init__(self, state: PlayerState, actions: Actions, can_run: bool, height: int) -> None:
        W, fields = ipywidgets, Fields(state)
        self._state, self._fields, self._can_run = state, fields, can_run
        self.n = fields.make("n", "crystals", "105px", tooltip="number of crystals of the next run")
        self.seed = fields.make("seed", "seed", "100px", tooltip="of everything random: the same seed, the same run")
        self.sampler = fields.make("sampler", "sampler", "160px", tooltip="the steps by which the noise is removed")
        self.pace = fields.make("pace", "pace", "165px", tooltip="steps a second of a run, at most")
        self.start = fields.make("start", "from", "170px", tooltip="where the latents z come from that are decoded")
        self.branch_seed = fields.make("branch_seed", "with seed", "150px", tooltip="of the next branch")
        self.folder = fields.make("folder", "into folder", "220px", tooltip="where files go, beside the notebook")
        self.speed = fields.make("speed", "speed", "110px", tooltip="of playing the frames again")
        self.crystal = input_field(W.Dropdown, "show", "140px", options=[("all", -1)])
        self.slider = W.IntSlider(max=0, description="frame", style={"description_width": "auto"}, layout={"flex": "1"})
        fields.bind("index", self.slider)
        self.view = CrystalView(height=height, slider=self.slider)
        self.before_run = BeforeRun(self.view)
        self.run = button(actions, "Run", "a new run", actions.run, "primary")
        self.stop = button(actions, "Stop", "after the current step", actions.stop)
        self.resume = button(actions, "Resume", "from the last frame", actions.resume)
        self.branch = button(actions, "Branch from this frame", "continue it with another seed", actions.branch)
        self.select = button(actions, "Select this crystal", _SELECT, actions.select)
        self._reason = W.HTML()  # why no crystal can be selected
        self.exports = {
            kind: button(actions, text, tip, lambda kind=kind: actions.export(kinds=[kind], wait=False))
            for kind, text, tip in (
                ("cif", "CIF", "this frame"),
                ("extxyz", "extended XYZ", "the whole run"),
                ("gif", "GIF", "the whole run, as an animation"),
                ("html", "HTML", "the whole run in 3D, as one page that needs no notebook and no network"),
            )
        }
        self.scores = fields.toggle("scores", "score arrows", "where the model predicts that each atom belongs")
        self.code = fields.code_button()
        self._play = W.Play(interval=SPEEDS[state.speed], max=0, show_repeat=True, layout={"width": "auto"})
        self.strips = Strips(slider=self.slider, play=self._play)
        self._steps = StepButtons(slider=self.slider, play=self._play)
        self._link = W.jslink((self._play, "value"), (self.slider, "value"))
        fields.bind("crystal", self.crystal)
        fields.observe("limits", lambda change: self._make_room())
        fields.observe("speed", lambda change: setattr(self._play, "interval", SPEEDS[change["new"]]))

    def rows(self) -> list[ipywidgets.Widget]:
        """The widgets from top to bottom."""
        run = row(self.run, self.stop, self.resume, self.n, self.start, self.seed, self.sampler, self.pace)
        play = ipywidgets.HBox([self._play, self._steps, self.slider, self.speed], layout={"align_items": "center"})
        return [
            *([run] if self._can_run else []),
            self.before_run.sentence,
            self.view,
            play,
            self.strips,
            row(self.crystal, self.select, self._reason, self.scores, self.branch, self.branch_seed),
            row(*self.exports.values(), self.folder, self.code),
        ]

    def pause(self) -> None:
        """Stop playing."""
        self._play.playing = False

    def enable(self, status: RunStatus, frames: int, finished: bool, exporting: bool, one_shown: bool) -> None:
        """Disable the buttons that could only raise an error.

        Args:
            status: of the run.
            frames: number of recorded frames.
            finished: the run has come to its end.
            exporting: files are being written.
            one_shown: a single crystal is shown.
        """
        idle, some = not status.running, frames > 0
        self.run.disabled = not (idle and self._can_run)
        self.stop.disabled = idle and not exporting
        self.resume.disabled = not (idle and some and not finished and self._can_run)
        self.branch.disabled = not (some and self._can_run)
        self.select.disabled = not (some and one_shown)
        reason = "" if one_shown and some else _CHOOSE if some else _NO_FRAME
        self.select.tooltip = reason or _SELECT
        self._reason.value = f"<span style='{_MUTED}'>{reason}</span>" if some else ""
        for one in self.exports.values():
            one.disabled = not some or exporting

    def _make_room(self) -> None:
        """Let the slider reach every frame, and the choice every crystal."""
        last, crystals = self._state.limits.get("index", 0), self._state.limits.get("crystal", -1) + 1
        self.slider.max = self._play.max = last
        options = [("all", -1), *((f"number {k}", k) for k in range(crystals))]
        self._fields.change_options("crystal", self.crystal, options)

    def close(self) -> None:
        """Listen no more."""
        self._link.close()
        self._fields.close()
