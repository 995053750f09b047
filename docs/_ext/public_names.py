"""Extension of Sphinx that writes the reference from the docstrings.

Docstrings are prose with names in backticks, not reStructuredText: |z| is a length there, not a substitution, and
`Crystals` may be followed by a letter.

References to a public class under the name of the module that defines it, resolved to its public name.

`cdvae_lab.Crystals` is documented once, and annotations say `cdvae_lab.crystals.batch.Crystals`. The table between
the two is `__init__.pyi`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.inspect import signature as inspect_signature
from sphinx.util.inspect import stringify_signature
from traitlets import HasTraits

import cdvae_lab


def public_names() -> dict[str, str]:
    """Return the public name of every object by the full name of its definition."""
    tree = ast.parse(Path(cdvae_lab.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        f"cdvae_lab.{node.module}.{alias.name}": f"cdvae_lab.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def _as_prose(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        if line.lstrip().startswith(">>>"):
            continue
        parts = line.split("`")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", "`".join(parts))


def _widget_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Return the signature of a widget's `__init__`: traitlets' `__new__`, which autodoc sees, takes anything."""
    if what != "class" or not issubclass(thing, HasTraits) or thing.__init__ is HasTraits.__init__:
        return None
    return stringify_signature(inspect_signature(thing.__init__, bound_method=True), unqualified_typehints=True), None


def _resolve(app: Sphinx, env: Any, node: Any, contnode: nodes.Element) -> nodes.Element | None:
    if node.get("refdomain") != "py":
        return None
    python, target = env.domains["py"], node.get("reftarget", "")
    public = _NAMES.get(target) or _BY_LAST.get(target.rsplit(".", 1)[-1])
    if public is None:
        return None
    found = python.find_obj(env, "", "", public, None, 0)
    if not found:
        return None
    name, entry = found[0]
    uri = app.builder.get_relative_uri(node.get("refdoc", env.docname), entry.docname)
    return nodes.reference("", "", contnode, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=name)


_NAMES = public_names()
_BY_LAST = {full.rsplit(".", 1)[-1]: public for full, public in _NAMES.items()}


def setup(app: Sphinx) -> dict[str, bool]:
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # Sphinx says "Variables"
    app.connect("autodoc-process-docstring", _as_prose)
    app.connect("autodoc-process-signature", _widget_signature)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
