"""HTML shell of every page: one document, one stylesheet, and the only place where text becomes HTML.

A page is one file that needs no other file and no network. It follows the reader's light or dark theme.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from cdvae_lab.io.storage import atomic_path


class Markup(str):
    """Text that is HTML already; any other text is escaped where it enters a page."""

    __slots__ = ()


# Elements that have no content and no end tag.
_VOID = {"img", "input", "source", "br"}


def escape(content: Any) -> Markup:
    """Turn anything into HTML: text is escaped, Markup kept, None left out, and the parts of a list joined."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup("")
    if isinstance(content, list | tuple):
        return Markup("".join(map(escape, content)))
    return Markup(html.escape(str(content)))


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """Make an HTML element; children and attributes are escaped.

    Attributes that are None or False are left out, True stands alone, and `class_` and `for_` lose their underscore.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    parts = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(name)
        elif value is not None and value is not False:
            parts.append(f'{name}="{html.escape(str(value))}"')
    start = f"<{' '.join(parts)}>"
    return Markup(start if tag in _VOID else f"{start}{escape(children)}</{tag}>")


def script(*parts: str) -> Markup:
    """Make a script element of JavaScript; data in it come from `script_data`."""
    return Markup(f"<script>{''.join(parts)}</script>")


def script_data(value: Any) -> str:
    """Write data as JSON for a script, in which no text can end the script or begin a comment."""
    return escape_json(json.dumps(value, separators=(",", ":")))


def escape_json(text: str) -> str:
    """Make JSON safe inside a script: "<" occurs only in its strings, where it may be written as an escape."""
    return text.replace("<", "\\u003c")


def data_uri(content: bytes, kind: str) -> str:
    """Write a file's content as a link that contains it; `kind` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def definitions(rows: Iterable[tuple[Any, Any]], **attributes: Any) -> Markup:
    """Make a list of terms and their descriptions."""
    return element("dl", [[element("dt", term), element("dd", text)] for term, text in rows], **attributes)


def page(title: str, *body: Any, kind: str = "report") -> str:
    """Make a whole document.

    Args:
        title: of the page, as text.
        body: its content; text is escaped.
        kind: "report" scrolls; "animation" fills the window.
    """
    head = [
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<link rel="icon" href="data:,">'),
        element("title", title),
        Markup(f"<style>{file('page.css')}</style>"),
    ]
    content = element("main", body) if kind == "report" else escape(body)
    return f'<!doctype html><html lang="en">{element("head", head)}{element("body", content, class_=kind)}</html>\n'


def write_page(path: str | Path, text: str, what: str) -> Path:
    """Write a page atomically; returns its path.

    Raises:
        LabError: if it cannot be written; the message names `what`.
    """
    with atomic_path(path, what) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


@cache
def file(name: str) -> str:
    """Read a file of JavaScript or CSS that is part of this package."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
