"""Mathematics as MathML, which browsers typeset without a script or a network.

docutils has the converter from LaTeX; Sphinx only lacks the renderer that calls it.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def _converted(node: nodes.Element, as_block: bool) -> str:
    r"""Convert LaTeX to MathML, with `\tfrac12` and exponents without a base written for docutils."""
    text = re.sub(r"\\([td]?frac)\s*(\w)(\w)", r"\\\1{\2}{\3}", node.astext())
    return tex2mathml("{}" + text if text.startswith(("^", "_")) else text, as_block=as_block)


def _inline(visitor: Any, node: nodes.math) -> None:
    visitor.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def _block(visitor: Any, node: nodes.math_block) -> None:
    visitor.body.append(f'<div class="math">{_converted(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))  # type: ignore[arg-type]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
