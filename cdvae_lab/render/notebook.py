"""Crystals as HTML for the output of a notebook's cell."""

from __future__ import annotations

import base64
import html

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.io.convert import is_usable
from cdvae_lab.render import at_atom, png_bytes

MOST_PICTURES = 6
SIZE = 150  # pixels


def pictures_html(crystals: Crystals, most: int = MOST_PICTURES) -> str:
    """Draw the first crystals of a batch side by side, with the batch's text below."""
    images = []
    for number in range(min(most, len(crystals))):
        crystal = crystals[number].to("cpu")
        if bool(is_usable(crystal)[0]):
            png = base64.b64encode(png_bytes(at_atom(crystal), size=SIZE, theme="transparent")).decode()
            images.append(f"<img width='{SIZE}' height='{SIZE}' alt='' src='data:image/png;base64,{png}'>")
        else:
            images.append("<span>no picture: the cell is flat or not finite</span>")
    row = f"<div style='display:flex;flex-wrap:wrap;gap:4px'>{''.join(images)}</div>"
    return f"{row}<p>{html.escape(repr(crystals))}</p>"
