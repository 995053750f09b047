"""Inputs of ipywidgets that show and set the traits of a view's state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import ipywidgets
import traitlets

from cdvae_lab.errors import SettingError
from cdvae_lab.widgets.base.state import Choice, ViewState


@runtime_checkable
class Attempts(Protocol):
    """Protocol of a view for its buttons: run an action and show its errors."""

    def attempt(self, act: Callable[[], Any]) -> None: ...


def input_field(kind: Any, text: str, width: str, **options: Any) -> Any:
    """Create an input of ipywidgets whose description is as wide as its text."""
    return kind(description=text, style={"description_width": "auto"}, layout={"width": width}, **options)


def button(view: Attempts, text: str, tip: str, act: Callable[[], Any], style: str = "") -> ipywidgets.Button:
    """A button that does something, and shows an error in its view."""
    one = ipywidgets.Button(description=text, tooltip=tip, button_style=style, layout={"width": "auto"})
    one.on_click(lambda _: view.attempt(act))
    return one


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side, and below each other where the page is narrow."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px"})


def descendants(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """All widgets inside one; first a widget and then its parts, so that it can close them in its own way."""
    for child in getattr(widget, "children", ()):
        yield child
        yield from descendants(child)


class Fields:
    """Makes inputs that are bound to the traits of one state, both ways, until `close`.

    Args:
        state: whose traits they show.
    """

    def __init__(self, state: ViewState) -> None:
        self.state = state
        self._observers: list[tuple[Callable[[Any], None], str]] = []
        self._changing: Any = None  # the dropdown whose options are being changed

    def make(self, name: str, text: str, width: str, **options: Any) -> Any:
        """The input that suits a trait: for a number (with its range), a `Choice`, a text, or a yes or no.

        Args:
            name: of the trait.
            text: description.
            width: CSS.
            options: of the ipywidgets class.
        """
        W = ipywidgets
        trait: Any = self.state.traits()[name]
        value: Any = getattr(self.state, name)
        tip = {"tooltip": trait.help} if trait.help else {}
        options = {**tip, **options}
        if isinstance(trait, Choice):
            one = input_field(W.Dropdown, text, width, options=list(self.state.options(name)), value=value, **options)
            self.observe("choices", lambda change: self.change_options(name, one, self.state.options(name)))
        elif isinstance(trait, traitlets.Bool):
            one = W.Checkbox(value=value, description=text, indent=False, layout={"width": width}, **options)
        elif isinstance(trait, traitlets.Unicode):
            one = input_field(W.Text, text, width, value=value, **options)
        else:
            whole = isinstance(trait, traitlets.Int)
            limits = {"min": trait.min, "max": trait.max}
            if all(one is not None and math.isfinite(one) for one in limits.values()):
                kind: Any = W.BoundedIntText if whole else W.BoundedFloatText
                options |= limits
            else:
                kind = W.IntText if whole else W.FloatText
            one = input_field(kind, text, width, value=value, **options)
        self.bind(name, one)
        return one

    def toggle(self, name: str, text: str, tip: str) -> ipywidgets.ToggleButton:
        """A button that stays pressed while a trait is True."""
        one = ipywidgets.ToggleButton(
            value=getattr(self.state, name), description=text, tooltip=tip, layout={"width": "auto"}
        )
        self.bind(name, one)
        return one

    def code_button(self) -> ipywidgets.ToggleButton:
        """Shows and hides the replay code of the view."""
        return self.toggle("show_code", "show code", "lines that do the same")

    def bind(self, name: str, widget: Any, trait: str = "value") -> None:
        """Keep a trait of a widget and one of the state equal; a value that the state refuses is taken back."""

        def to_state(change: Any) -> None:
            if widget is self._changing:
                return
            try:
                setattr(self.state, name, change["new"])
            except SettingError:
                setattr(widget, trait, getattr(self.state, name))

        def to_widget(change: Any) -> None:
            if getattr(widget, trait) != change["new"]:
                setattr(widget, trait, change["new"])

        setattr(widget, trait, getattr(self.state, name))
        widget.observe(to_state, trait)
        self.observe(name, to_widget)

    def change_options(self, name: str, dropdown: Any, options: Iterable[tuple[str, Any]]) -> None:
        """Change the options of a bound dropdown, which alone would go to its first option."""
        options, value = tuple(options), getattr(self.state, name)
        if tuple(dropdown.options) != options:
            self._changing = dropdown
            try:
                dropdown.options = options
                dropdown.value = value if value in [word for _, word in options] else options[0][1]
            finally:
                self._changing = None

    def observe(self, name: str, act: Callable[[Any], None]) -> None:
        """Listen to a trait of the state until `close`."""
        self.state.observe(act, name)
        self._observers.append((act, name))

    def close(self) -> None:
        """Listen no more."""
        for act, name in self._observers:
            self.state.unobserve(act, name)
        self._observers = []
