"""The JavaScript of the widgets, as anywidget takes it."""

from __future__ import annotations

from pathlib import Path


def widget_code(name: str) -> str:
    """Read a file beside this one whose default export is `heard({...})`, and put `listening.js` before it."""
    folder = Path(__file__).parent
    return "".join((folder / one).read_text(encoding="utf-8") for one in ("listening.js", name))
