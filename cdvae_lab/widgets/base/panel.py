"""What the laboratory's widgets share: a line that says what is going on, errors shown where they happen, the lines of
code that repeat what was done, files, and an end that gives everything back.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import LabError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load
from cdvae_lab.widgets.base.runner import Runner
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.still_picture import with_picture

_ERROR = "color:var(--jp-error-color1,#c62828)"


class Panel(ipywidgets.VBox):
    """A widget of the laboratory. Subclasses make their parts, call `_show`, and keep `_code` or `_lines` up to date.

    Args:
        model: a CDVAE, the name of a bundled one, a checkpoint's path, or None.
        selection: what is chosen here and elsewhere; a new one by default.
    """

    _open = False

    def __init__(self, model: CDVAE | str | Path | None, selection: Selection | None = None) -> None:
        self._name = None if isinstance(model, CDVAE) else model
        self.model = model if isinstance(model, CDVAE) or model is None else load(model)
        self.selection = Selection() if selection is None else selection
        self._picked: Callable[[Any], None] | None = None
        self._code: list[str] = []
        self._runners: list[Runner] = []
        self._links: list[Any] = []  # of `jslink`, and others that have a `close`
        self._status = ipywidgets.HTML()
        self._code_button = ipywidgets.ToggleButton(
            description="show code", tooltip="lines that do the same", layout={"width": "auto"}
        )
        self._code_view = ipywidgets.HTML(layout={"display": "none"})
        self._code_button.observe(lambda change: self._draw_code(), "value")
        super().__init__()
        self.add_class("cdvae-panel")
        self._open = True

    @property
    def code(self) -> str:
        """Lines of Python that do again what was done here."""
        lines = self._lines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        return "\n".join([*imports, "import cdvae_lab as lab", "", *(line for line in lines if line not in imports)])

    @property
    def running(self) -> bool:
        """Whether something is being computed in the background."""
        return any(runner.running for runner in self._runners)

    def wait(self, timeout: float | int | None = None) -> bool:
        """In a script: show what comes until all runs have ended, or for so many seconds; True if they have."""
        return all(runner.wait(timeout) for runner in self._runners)

    def close(self) -> None:
        """Stop what runs, listen no more, and give threads and the browser's WebGL contexts back."""
        if self._open:  # Python also calls this as it forgets a widget, even one that has never begun
            self._open = False
            if self._picked is not None:
                self.selection.unobserve(self._picked, "pick")
            for runner in self._runners:
                runner.close()
            for child in [*self._links, *below(self)]:
                child.close()
        super().close()

    def _show(self, *rows: ipywidgets.Widget) -> None:
        """The parts from top to bottom; the line of words and the code come last."""
        self.children = (*rows, self._status, self._code_view)

    @property
    def _the_model(self) -> CDVAE:
        """Of a widget that always has one."""
        assert self.model is not None
        return self.model

    def _when_picked(self, act: Callable[[Pick | None], None]) -> None:
        """Listen to what is chosen, until this widget is closed."""
        self._picked = lambda change: act(change["new"])
        self.selection.observe(self._picked, "pick")

    def _stop_first(self) -> None:
        """What runs must end before something else begins."""
        for runner in self._runners:
            if runner.running:
                runner.stop()
                runner.wait()

    def _runner(self, show: Callable[[Any], None], ended: Callable[[], None], fps: float | int = 12) -> Runner:
        """A `Runner` that ends with this widget, which shows what goes wrong in `ended` itself."""
        runner = Runner(show, ended, lambda: self._complain(cast(Exception, runner.error), runner.traceback), fps=fps)
        self._runners.append(runner)
        return runner

    def _model_line(self) -> str:
        return (
            f"model = lab.load({str(self._name)!r})" if self._name else "# `model` is the one that the widget was given"
        )

    def _lines(self) -> list[str]:
        """What `code` tells, after the import of this package."""
        return self._code

    def _draw_code(self) -> None:
        self._code_view.layout.display = "" if self._code_button.value else "none"
        self._code_view.value = f"<pre style='padding:6px 10px'>{html.escape(self.code)}</pre>"

    def _say(self, text: str) -> None:
        """Plain words in the line at the bottom."""
        self._status.value = html.escape(text)

    def _complain(self, error: BaseException, trace: str = "", kept: str = "") -> None:
        """An error in the line at the bottom.

        Args:
            trace: the traceback, to be unfolded; for errors that are not about what was asked.
            kept: a sentence on what is not lost.
        """
        more = f"<details><summary>traceback</summary><pre>{html.escape(trace)}</pre></details>" if trace else ""
        what = f"<b style='{_ERROR}'>{type(error).__name__}</b>: {html.escape(str(error))}"
        self._status.value = " ".join(filter(None, [what, html.escape(kept)])) + more

    def _try(self, act: Callable[[], Any]) -> None:
        """What a button does. An error in a callback is shown nowhere else."""
        try:
            act()
        except (LabError, OSError) as error:
            self._complain(error)

    def _written(self, files: Iterable[Path]) -> None:
        self._say("written: " + ", ".join(str(path) for path in files))

    def _button(self, text: str, tip: str, act: Callable[[], Any], style: str = "") -> ipywidgets.Button:
        one = ipywidgets.Button(description=text, tooltip=tip, button_style=style, layout={"width": "auto"})
        one.on_click(lambda _: self._try(act))
        return one

    def _export_buttons(
        self, export: Callable[..., Iterable[Path]], *kinds: tuple[str, str, str]
    ) -> list[ipywidgets.Button]:
        """A button for each (text, kind, what it writes) of a method `export(kinds=...)`."""
        return [
            self._button(text, tip, lambda kind=kind: self._written(export(kinds=[kind]))) for text, kind, tip in kinds
        ]

    def _picture(self) -> Crystals | None:
        """What a page that cannot run widgets shows instead; None for nothing."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_picture(super()._repr_mimebundle_(**kwargs), self._picture())


def field(kind: Any, text: str, width: str, **options: Any) -> Any:
    """An input of ipywidgets with its description as wide as it needs to be."""
    return kind(description=text, style={"description_width": "auto"}, layout={"width": width}, **options)


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Side by side, and below each other where the page is narrow."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px"})


def below(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """All widgets inside one; first a widget and then its parts, so that it can close them as they want it."""
    for child in getattr(widget, "children", ()):
        yield child
        yield from below(child)
