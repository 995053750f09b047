"""Short representations of models: a line of text, and a small table for a notebook."""

from __future__ import annotations

import html
from typing import Any

from torch import nn


class Described(nn.Module):
    """A module that shows itself by a few facts (`facts`) instead of the tree of its layers."""

    metadata: dict[str, Any]

    def facts(self) -> dict[str, str]:
        """Facts to show: name and value."""
        facts = {"parameters": f"{sum(p.numel() for p in self.parameters()):,}"}
        data = self.metadata.get("data", {}).get("name")
        return facts | ({"data": str(data)} if data else {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}: {value}' for name, value in self.facts().items())})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.facts().items()
        )
        table = f"<table><caption>{type(self).__name__}</caption>{rows}</table>"
        return {"text/plain": repr(self), "text/html": table}
