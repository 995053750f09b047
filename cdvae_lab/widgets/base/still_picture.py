"""Static picture of a widget for a page that cannot run widgets."""

from __future__ import annotations

import base64
from typing import Any

from PIL import Image, ImageDraw

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.render.style import font_of

WHY = "A still picture: this page cannot run widgets."
WHERE = "Open the notebook in JupyterLab, Notebook 7 or Voila."


def with_picture(bundle: Any, crystals: Crystals | None) -> Any:
    """Add to what a widget sends to be displayed a picture, for pages that cannot run widgets, and the reason."""
    if not isinstance(bundle, dict):
        return bundle
    if crystals is None:
        return bundle | {"text/plain": f"This page cannot run widgets. {WHERE}"}
    columns = min(len(crystals), 4)
    one = render.grid(crystals, columns, size=240 if len(crystals) > 1 else 400)
    size = max(11.0, min(14.0, one.width / 28))
    sheet = Image.new("RGB", (one.width, one.height + round(3 * size) + 8), "white")
    sheet.paste(one)
    pen = ImageDraw.Draw(sheet)
    for line, words in enumerate((WHY, WHERE)):
        pen.text((one.width / 2, one.height + (line + 0.5) * 1.4 * size), words, "#475569", font_of(size), anchor="mm")
    return bundle | {"image/png": base64.b64encode(render.png_bytes(sheet)).decode(), "text/plain": f"{WHY} {WHERE}"}
