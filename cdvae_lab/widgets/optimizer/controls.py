"""The controls of the `PropertyOptimizer`: fields and buttons, the filmstrip, and text on the step that is shown."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.widgets.base.fields import Attempts, Fields, button, input_field, row
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.optimizer.state import FILE, PRIOR, OptimizerState
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.filmstrip import Film
from cdvae_lab.widgets.parts.keys import Keys

_NOTICE = (
    "<div role='status' style='border-left:4px solid {color};padding:4px 10px;line-height:1.45;"
    "color:var(--jp-ui-font-color1,inherit)'><b>{head}</b> {text}</div>"
)
_NOTHING_DECODED = (
    "On its way the search decodes crystals. They are shown here: the first beside that of the step that is shown, and "
    "all of them as small pictures in a row."
)
_WARN, _ERROR = "var(--jp-warn-color1,#f57c00)", "var(--jp-error-color1,#c62828)"
_LETTER = 7  # pixels, of a letter of a description
_DROPDOWN = 175  # pixels, of the longest target beside its description


@runtime_checkable
class Actions(Attempts, Protocol):
    """Actions of the buttons and keys."""

    def run(self) -> None: ...
    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def restart(self) -> None: ...
    def back(self) -> None: ...
    def decode(self) -> None: ...
    def choose(self) -> Any: ...
    def upload(self, upload: files.Upload, wait: bool = ...) -> None: ...
    def load(self, path: str | Path | None = ..., wait: bool = ...) -> None: ...
    def run_or_stop(self) -> None: ...
    def show_decoded(self, place: int) -> None: ...
    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = ..., wait: bool = ...) -> Any: ...


class OptimizerControls:
    """The widgets of one `PropertyOptimizer`.

    Args:
        state: whose fields they show.
        actions: what the buttons do.
        label: name and unit of the property.

    Attributes:
        view: the crystals.
        film: a picture of each decoding.
        place: the slider, and text on its step; hidden before there is one, as is the view of the crystals.
        slider: number of the kept step; its end moves as steps come.
        start_error: the reason why the search cannot start, beside its field.
        warning: text on a step outside the data.
    """

    def __init__(self, state: OptimizerState, actions: Actions, label: tuple[str, str]) -> None:
        W, fields = ipywidgets, Fields(state)
        name, unit = label
        self._state, self._fields, self._actions = state, fields, actions
        self.start = fields.make("start", "start from", "max-content")  # as wide as its longest option
        self.start.layout.max_width = "100%"
        self.n = fields.make("n", "how many", "130px")
        self.file = fields.make(
            "file", "file", "230px", placeholder="a CIF, POSCAR or XYZ file", continuous_update=False
        )
        self.upload = files.upload_button(
            "upload", lambda uploads: actions.attempt(lambda: actions.upload(uploads[0], wait=False))
        )
        self.start_error = W.HTML()
        # The name of a property can be long: a list beside it must stay wide enough to be read.
        self.target = fields.make("target", name, f"{_LETTER * len(name) + _DROPDOWN}px")
        reach = f"to reach ({unit})" if unit else "to reach"
        self.value = fields.make("value", reach, f"{_LETTER * len(reach) + 90}px")
        self.lr = fields.make("lr", "step length (Adam's learning rate)", "310px", step=1e-3)
        self.steps = fields.make("steps", "steps", "120px")
        self.prior_weight = fields.make(
            "prior_weight", "weight of the prior (deviations per nat)", "335px", step=0.01,
            tooltip="what a nat of log p(z) is worth, in standard deviations of the property in the training set; "
            "0: none",
        )  # fmt: skip
        self.decode_every = fields.make("decode_every", "decode every (steps)", "215px")
        self.pace = fields.make("pace", "speed", "190px")
        self.slider = W.IntSlider(
            max=0, description="step", readout=False, style={"description_width": "auto"}, layout={"flex": "1"}
        )
        fields.bind("index", self.slider)
        self.where = W.HTML(layout={"width": "auto"})
        self.crystal = input_field(W.Dropdown, "show", "150px", options=[("crystal 0", 0)], value=0)
        fields.bind("crystal", self.crystal)
        self.folder = fields.make("folder", "into folder", "220px")
        self.run = button(actions, "Run", "a new search with these settings", actions.run, "primary")
        self.stop = button(actions, "Stop", "after the current step", actions.stop)
        self.resume = button(
            actions, "Resume from here", "exactly as the search would have continued; later steps are removed",
            actions.resume,
        )  # fmt: skip
        self.restart = button(
            actions, "Restart from here", "from these latents, with the target and settings above", actions.restart
        )
        self.back = button(actions, "Back", "to the search before this one", actions.back)
        self.decode = button(actions, "Decode this step", "the crystals of the step that is shown", actions.decode)
        self.choose = button(actions, "Choose this crystal", "for the other views", actions.choose)
        self.exports = {
            kind: button(actions, text, tip, lambda kind=kind: actions.export(kinds=[kind], wait=False))
            for text, kind, tip in (
                ("CIF", "cif", "the decoded crystals of this step"),
                ("CSV", "csv", "the table of all steps"),
                ("steps", "steps", "a file from any step of which a search can be resumed"),
            )
        }
        self.steps_file = fields.make("steps_file", "steps from file", "300px", placeholder="out/search.safetensors")
        self.load = button(
            actions, "Load", "show a search that was exported as steps", lambda: actions.load(wait=False)
        )
        self.code = fields.code_button()
        self.warning, self.caption = W.HTML(), W.HTML(_NOTHING_DECODED)
        self.view = CrystalView(height=300)
        self.place = W.HBox([self.slider, self.where], layout={"align_items": "center"})
        self.place.layout.display = self.view.layout.display = "none"  # until there is something to show
        self.film = Film()
        self._keys = Keys(self._key)
        self._marking = False
        self.film.observe(lambda change: self._film_clicked(change["new"]), "at")
        fields.observe("limits", lambda change: self._make_room())
        for trait in ("start", "target"):
            fields.observe(trait, lambda change: self._show_fields())
        self._show_fields()

    def rows(self, figures: Sequence[ipywidgets.Widget]) -> list[ipywidgets.Widget]:
        """The widgets from top to bottom.

        Args:
            figures: course and map.
        """
        W = ipywidgets
        return [
            row(self.run, self.stop, self.resume, self.restart, self.back, self.pace),
            row(self.start, self.n, self.file, self.upload, self.start_error, self.target, self.value),
            row(self.steps, self.lr, self.prior_weight, self.decode_every),
            W.HBox(list(figures), layout={"flex_flow": "row wrap"}),
            self.place,
            self.warning,
            W.VBox([self.caption, self.view]),
            self.film,
            row(self.crystal, self.decode, self.choose),
            row(W.Label("export"), *self.exports.values(), self.folder),
            row(self.steps_file, self.load, self.code, self._keys),
        ]

    def enable(self, status: RunStatus, *, busy: bool, steps: int, decoded: int, earlier: int, startable: bool) -> None:
        """Disable the buttons that could only raise an error, and show the parts that have content.

        What was shown once stays, so that nothing jumps when another search begins.

        Args:
            status: of the search.
            busy: something else is being computed.
            steps, decoded: numbers of kept steps and of decodings.
            earlier: number of searches before this one.
            startable: the search has something to start from.
        """
        idle = not (status.running or busy)
        self.run.disabled = not (idle and startable)
        self.load.disabled = not idle
        self.stop.disabled = idle
        for one in (self.resume, self.restart, self.decode, *self.exports.values()):
            one.disabled = not (idle and steps)
        self.back.disabled = not (idle and earlier)
        self.choose.disabled = not decoded
        if steps:
            self.place.layout.display = ""
        if decoded:
            self.view.layout.display = ""

    def show_start_error(self, text: str) -> None:
        """Show beside its field why the search cannot start."""
        self.start_error.value = text and _NOTICE.format(color=_ERROR, head="Not usable:", text=html.escape(text))

    def show_warnings(self, sentences: Sequence[str]) -> None:
        """Show in which respects the step lies outside the data."""
        text = html.escape(" ".join(sentences))
        self.warning.value = text and _NOTICE.format(color=_WARN, head="Outside the data.", text=text)

    def show_film(self, items: list[dict[str, Any]], at: int) -> None:
        """Show a picture of each decoding, and mark one."""
        self._marking = True
        if self.film.items != items:
            self.film.items = items
        self.film.at = at
        self._marking = False

    def close(self) -> None:
        """Listen no more."""
        self._fields.close()

    def _make_room(self) -> None:
        """Let the slider reach every step, and the list every crystal."""
        self.slider.max = self._state.limits.get("index", 0)
        crystals = self._state.limits.get("crystal", 0) + 1
        self._fields.change_options("crystal", self.crystal, [(f"crystal {k}", k) for k in range(crystals)])

    def _show_fields(self) -> None:
        """Show the fields that the start and the target need."""
        state = self._state
        for one, when in (
            (self.n, state.start == PRIOR),
            (self.file, state.start == FILE),
            (self.upload, state.start == FILE),
            (self.value, state.target == "value"),
        ):
            one.layout.display = "" if when else "none"

    def _film_clicked(self, place: int) -> None:
        if not self._marking and place >= 0:
            self._actions.show_decoded(place)

    def _key(self, key: str, far: bool) -> None:
        if key == "space":
            self._actions.attempt(self._actions.run_or_stop)
            return
        last, hop = self._state.limits.get("index", 0), 10 if far else 1
        goal = {"left": self._state.index - hop, "right": self._state.index + hop, "home": 0, "end": last}[key]
        self._state.index = max(0, min(last, goal))
