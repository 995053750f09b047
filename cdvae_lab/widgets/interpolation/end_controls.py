"""The widgets of one end of a path: the source of its crystal, its picture, and its reconstruction."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import to_html
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.fields import Attempts, button, input_field, row
from cdvae_lab.widgets.interpolation.path_end import PathEnd
from cdvae_lab.widgets.interpolation.state import InterpolationState
from cdvae_lab.widgets.parts import files

# In (volume / atom)^(1/3), beyond which a match is rough: ten times the deviation of most reconstructions.
ROUGH = 0.05
_WARN = "color:var(--jp-error-color1,#c62828)"
_LENGTH = "(volume/atom)<sup>⅓</sup>"
_OTHER = "(another crystal)"
_STYLE = "<div style='line-height:1.4'>{}</div>"


@runtime_checkable
class EndActions(Attempts, Protocol):
    """Actions of the widgets of an end."""

    def attempt_end(self, act: Callable[[], Any]) -> None: ...
    def set_end(self, letter: str, source: Any, wait: bool | None = ...) -> None: ...
    def take_primitive(self, letter: str, wait: bool | None = ...) -> None: ...
    def take_selected(self, letter: str, wait: bool | None = ...) -> None: ...


class EndControls(ipywidgets.VBox):
    """The widgets of one end.

    Args:
        letter: "a" or "b", also the trait of the state.
        state: of the view.
        actions: what the widgets do.

    Attributes:
        caption: text on the crystal, and on its reconstruction.
        uploads: button that takes a file of the user's.
        take: button that takes the selected crystal.
        reduce: button that takes the primitive cell; shown where there is a smaller one.
    """

    def __init__(self, letter: str, state: InterpolationState, actions: EndActions) -> None:
        W = ipywidgets
        self._letter, self._state, self._filling = letter, state, False
        self.examples = input_field(
            W.Dropdown, f"{letter}:", "230px", options=[_OTHER, *files.examples()], value=_OTHER
        )
        self.uploads = files.upload_button(
            "upload",
            lambda uploads: actions.attempt_end(lambda: actions.set_end(letter, uploads[0], wait=None)),
        )
        self.path = input_field(
            W.Text, "file", "230px", placeholder="a CIF, POSCAR or XYZ file", continuous_update=False
        )
        self.take = button(
            actions,
            "take the chosen crystal",
            "the crystal that was last chosen in any view",
            lambda: actions.attempt_end(lambda: actions.take_selected(letter, wait=None)),
        )
        self.reduce = button(
            actions,
            "take the primitive cell",
            "",
            lambda: actions.attempt_end(lambda: actions.take_primitive(letter, wait=None)),
            "info",
        )
        self.reduce.layout.align_self = self.take.layout.align_self = "flex-start"
        self._pictures, self.caption = W.HTML(), W.HTML()
        self.examples.observe(lambda change: change["new"] != _OTHER and self._choose(change["new"]), "value")
        self.path.observe(lambda change: change["new"] and self._choose(change["new"]), "value")
        super().__init__(
            [row(self.examples, self.uploads), row(self.path, self.take), self._pictures, self.caption, self.reduce],
            layout={"flex": "1 1 320px", "min_width": "0"},
        )
        self.add_class(f"cdvae-end-{letter}")

    def show(self, end: PathEnd) -> None:
        """Show an end as it is, before anything is known of its reconstruction."""
        source = getattr(self._state, self._letter)
        self._filling = True
        self.examples.value = source if source in files.examples() else _OTHER
        self.path.value = "" if source in files.examples() else source
        self._filling = False
        smaller = not end.primitive and 0 < end.primitive_size < end.size
        self.reduce.layout.display = "" if smaller else "none"
        if end.crystal is not None:
            self._pictures.value = captions.picture(end.crystal, 140)
            self.caption.value = f"{_about(end)}<br>is being decoded …"
            return
        self._pictures.value = ""
        self.caption.value = "" if end.error is None else self._refusal(end)

    def show_models(self, end: PathEnd, models: Sequence[str]) -> None:
        """Show which bundled models take a crystal that this one does not."""
        self.caption.value = self._refusal(
            end, f"<br>Bundled models that take it: {html.escape(', '.join(models) or 'none')}."
        )

    def show_reconstruction(
        self, end: PathEnd, decoded: Crystals, rms: float | None, known_by: Sequence[str] = ()
    ) -> None:
        """Show the reconstruction of a crystal.

        Args:
            decoded: the reconstruction.
            rms: of `metrics.reconstruction.match`; None if it does not match.
            known_by: other bundled models that keep the composition of a crystal that does not match.
        """
        assert end.crystal is not None
        pair = [(f"{html.escape(end.name)}", end.crystal), ("reconstruction", decoded)]
        self._pictures.value = (
            "<div style='display:flex;gap:8px;flex-wrap:wrap;text-align:center'>"
            + "".join(f"<div>{captions.picture(one, 140)}<div>{text}</div></div>" for text, one in pair)
            + "</div>"
        )
        if rms is None:
            text = (
                f"<b style='{_WARN}'>Not reconstructed</b>: the model decodes "
                f"{to_html(captions.formula(decoded))} instead. The model does not represent this crystal, "
                "and the stops near it are not similar to it."
            )
            if known_by:
                text += f" Other bundled models that keep its composition: {html.escape(', '.join(known_by))}."
        elif rms > ROUGH:
            text = f"<b style='{_WARN}'>Reconstructed roughly</b>: atoms are off by {rms:.3f} {_LENGTH}."
        else:
            text = f"Reconstructed: atoms are off by {rms:.4f} {_LENGTH}."
        self.caption.value = _STYLE.format(f"{_about(end)}<br>{text}")

    def _choose(self, source: str) -> None:
        if not self._filling:
            setattr(self._state, self._letter, source)

    @staticmethod
    def _refusal(end: PathEnd, more: str = "") -> str:
        return _STYLE.format(f"<b style='{_WARN}'>Not usable</b>: {html.escape(str(end.error))}{more}")


def _about(end: PathEnd) -> str:
    """Formula and size of a crystal, as HTML."""
    assert end.crystal is not None
    formula = to_html(captions.formula(end.crystal))
    text = f"<b>{formula}</b>, {int(end.crystal.num_atoms)} atoms in the cell"
    if end.primitive:
        text += f" (the primitive cell; the file's has {end.size})"
    elif end.primitive_size < end.size:
        text += f". The cell is not primitive: one of {end.primitive_size} atoms is the same crystal"
    return text
