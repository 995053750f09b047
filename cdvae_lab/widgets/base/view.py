"""Base of the views: a model, a state, runs, a status line, replay code, and an end that gives everything back."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import LabError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load
from cdvae_lab.widgets.base.background_task import BackgroundTask
from cdvae_lab.widgets.base.fields import descendants
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.state import ViewState
from cdvae_lab.widgets.base.still_picture import with_picture

_ERROR = "color:var(--jp-error-color1,#c62828)"
GIVEN_MODEL = "# `model` is the one that the view was given"


class View(ipywidgets.VBox):
    """A view of the laboratory. A subclass makes its controls, calls `show_rows`, and overrides `replay_code`.

    Args:
        model: a CDVAE, the name of a bundled one, a checkpoint's path, a model with the code that makes it, or None.
        state: the settings of the view.
        selection: the crystals chosen here and in other views; a new one by default.

    Attributes:
        model: the loaded model, or None.
        model_code: the statement that makes it.
        state, selection: as given.

    Raises:
        CheckpointError: if the model cannot be read.
    """

    _open = False

    def __init__(
        self,
        model: CDVAE | WithCode[CDVAE] | str | Path | None,
        state: ViewState,
        selection: Selection | None = None,
    ) -> None:
        known = with_code(model)
        self.model: CDVAE | None = None if known is None else known.value
        self.model_code = "" if known is None else known.code
        self.state = state
        self.selection = Selection() if selection is None else selection
        self._runs: list[RecordedRun] = []
        self._closables: list[Any] = []  # links, fields, and others that have a `close`
        self._observers: list[tuple[Any, Callable[[Any], None], str]] = []
        self.status_line = ipywidgets.HTML()
        self._code_view = ipywidgets.HTML(layout={"display": "none"})
        super().__init__()
        self.add_class("cdvae-panel")
        self._open = True
        self.listen(state, "show_code", lambda change: self.draw_code())

    # --- what a user can ask and do ---------------------------------------------------------------------

    @property
    def replay_code(self) -> ReplayCode:
        """Python code that repeats the actions in this view, in parts."""
        return ReplayCode()

    @property
    def code(self) -> str:
        """Python code that repeats the actions in this view."""
        return str(self.replay_code)

    @property
    def running(self) -> bool:
        """True while something is being computed in the background."""
        return any(run.running for run in self._runs)

    def wait(self, timeout: float | int | None = None) -> bool:
        """Draw, in a script, until all runs have ended or the timeout (s) has passed; True if they have ended."""
        for run in self._runs:
            run.wait(timeout)
        return not self.running

    def close(self) -> None:
        """Stop all runs, remove all observers, and release threads and the browser's WebGL contexts."""
        self._close_view(wait=True)
        super().close()

    def discard(self) -> None:
        """Close without waiting for the steps that are being computed: their threads end by themselves."""
        self._close_view(wait=False)
        super().close()

    def _close_view(self, wait: bool) -> None:
        if self._open:  # Python also calls this as it forgets a widget, even one that was never finished
            self._open = False
            for owner, act, name in self._observers:
                owner.unobserve(act, name)
            for run in self._runs:
                run.close(wait)
            for one in [*self._closables, *descendants(self)]:
                one.close()

    # --- the status line --------------------------------------------------------------------------------

    def show_message(self, text: str) -> None:
        """Show plain text in the status line."""
        self.status_line.value = html.escape(text)

    def show_error(self, error: BaseException, trace: str = "", kept: str = "") -> None:
        """Show an error in the status line.

        Args:
            trace: the traceback, to be unfolded; for errors that the package does not raise on purpose.
            kept: a sentence about the results that are kept.
        """
        if isinstance(error, LabError):
            trace = ""
        more = f"<details><summary>traceback</summary><pre>{html.escape(trace)}</pre></details>" if trace else ""
        text = f"<b style='{_ERROR}'>{type(error).__name__}</b>: {html.escape(str(error))}"
        self.status_line.value = " ".join(filter(None, [text, html.escape(kept)])) + more

    def show_export(self, status: RunStatus, export: RecordedRun[Any]) -> None:
        """Show in the status line how far the files of an export are written."""
        if status.error is not None:
            self.show_error(status.error, status.traceback)
        elif status.running:
            done = "" if status.step is None else f": {status.step} of {status.num_steps}"
            self.show_message(f"writing{done}")
        elif export.newest is not None:
            stopped = "stopped; " if status.state == "stopped" else ""
            self.show_message(f"{stopped}written: {export.newest}")

    def attempt(self, act: Callable[[], Any]) -> None:
        """Do what a button does; its error is shown in the status line, for a callback's is seen nowhere else."""
        try:
            act()
        except (LabError, OSError) as error:
            self.show_error(error)

    # --- for subclasses ---------------------------------------------------------------------------------

    def show_rows(self, rows: Sequence[ipywidgets.Widget], *closables: Any) -> None:
        """Show widgets from top to bottom, and below them the status line, unless it is among them, and the code.

        Args:
            closables: have a `close`, which is called when the view is closed.
        """
        self._closables += closables
        self.children = (*rows, *([] if self.status_line in rows else [self.status_line]), self._code_view)

    def listen(self, owner: Any, name: str, act: Callable[[Any], None]) -> None:
        """Observe a trait until the view is closed."""
        owner.observe(act, name)
        self._observers.append((owner, act, name))

    def when_picked(self, act: Callable[[Pick | None], Any]) -> None:
        """Call something with each crystal that is chosen, here or elsewhere, until the view is closed."""
        self.listen(self.selection, "pick", lambda change: act(change["new"]))

    def new_run(
        self,
        draw: Callable[[Sequence[Any]], Any] = lambda new: None,
        show: Callable[[RunStatus], Any] | None = None,
        **options: Any,
    ) -> RecordedRun[Any]:
        """A `RecordedRun` that ends with this view, which shows its errors.

        Args:
            draw: as for `RecordedRun`.
            show: as for `RecordedRun`; `show_status` by default.
            options: of `RecordedRun`.
        """
        run = RecordedRun[Any](draw, self.show_status if show is None else show, self.show_error, **options)
        self._runs.append(run)
        return run

    def new_task(self, doing: str, changed: Callable[[], None] = lambda: None) -> BackgroundTask[Any]:
        """A `BackgroundTask` that ends with this view, whose status line shows its progress and its errors.

        Args:
            doing, changed: as for `BackgroundTask`.
        """
        return BackgroundTask[Any](self.new_run, self.show_message, self.show_error, changed, doing)

    def show_status(self, status: RunStatus) -> None:
        """Show the state of a run in the status line."""
        if status.error is not None:
            self.show_error(status.error, status.traceback)
        else:
            self.show_message(str(status))

    def draw_code(self) -> None:
        """Bring the code on the screen up to date; it costs nothing while it is hidden."""
        shown = bool(self.state.show_code)
        self._code_view.layout.display = "" if shown else "none"
        if shown:
            self._code_view.value = f"<pre style='padding:6px 10px'>{html.escape(self.code)}</pre>"

    def picture(self) -> Crystals | None:
        """The crystals that a page that cannot run widgets shows instead; None for nothing."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_picture(super()._repr_mimebundle_(**kwargs), self.picture())


def with_code(model: CDVAE | WithCode[CDVAE] | str | Path | None) -> WithCode[CDVAE] | None:
    """A model with the statement that makes it. Raises CheckpointError if it cannot be read."""
    if model is None or isinstance(model, WithCode):
        return model
    if isinstance(model, CDVAE):
        return WithCode(model, GIVEN_MODEL)
    return WithCode(load(model), f"model = lab.load({str(model)!r})")
