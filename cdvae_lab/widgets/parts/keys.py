"""Keys that are pressed anywhere in a view."""

from __future__ import annotations

from collections.abc import Callable

import anywidget

from cdvae_lab.widgets.parts.front_end import widget_code


class Keys(anywidget.AnyWidget):
    """Listens to keys; invisible, and anywhere in the view.

    Args:
        pressed: called with "space", "left", "right", "home" or "end", and whether shift was held.
    """

    _esm = widget_code("keys.js")

    def __init__(self, pressed: Callable[[str, bool], None]) -> None:
        super().__init__()
        self.on_msg(lambda _, content, buffers: pressed(content["key"], content["far"]))
