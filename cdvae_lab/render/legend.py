"""Text of a picture: the caption, and the legend with formula and elements."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw

from cdvae_lab.crystals.elements import formula_order, symbol_of
from cdvae_lab.crystals.formulas import spell_reduced
from cdvae_lab.render.spheres import sprite
from cdvae_lab.render.style import Color, Theme, composite, font_of

# Pillow's default font has little more than ASCII; these are the other characters that captions are likely to have.
_ASCII = {
    "σ": "sigma",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ρ": "rho",
    "μ": "mu",
    "×": "x",
    "–": "-",
    "—": "-",
}
_ASCII |= {"−": "-", "→": "->", "≈": "~", "≤": "<=", "≥": ">=", "’": "'", "Å": "A"}


def printable(text: str) -> str:
    """Replace characters that the font lacks, and drop accents."""
    plain = "".join(_ASCII.get(letter, letter) for letter in unicodedata.normalize("NFC", text))
    return "".join(letter for letter in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(letter))


def draw_caption(canvas: Image.Image, caption: str, style: Theme) -> None:
    """Draw one line of text at the top center, small enough to fit."""
    pen, size, text = ImageDraw.Draw(canvas), canvas.width, printable(caption)
    height = max(11.0, size * 0.04)
    height *= min(1.0, 0.94 * size / max(1.0, pen.textlength(text, font_of(height))))
    font, y = font_of(height), size * 0.048
    left = (size - pen.textlength(text, font)) / 2
    pen.text((left, y), text, fill=style.muted, font=font, anchor="lm")
    for place, letter in enumerate(caption):
        if letter == "Å":  # the font has an A; the ring is drawn here
            x = left + pen.textlength(printable(caption[:place]), font) + pen.textlength("A", font) / 2
            top, ring = y - 0.5 * height, max(1.0, 0.1 * height)
            pen.ellipse((x - ring, top - ring, x + ring, top + ring), outline=style.muted)


def draw_legend(canvas: Image.Image, numbers: Int[np.ndarray, " atoms"], height: int, style: Theme) -> None:
    """Draw the reduced formula with subscripts at the left, and a small sphere for each element at the right."""
    size = canvas.width
    pen = ImageDraw.Draw(canvas)
    middle, margin = size - height * 0.52, size * 0.04
    elements = sorted({int(n) for n in numbers}, key=formula_order)
    dot = max(8, round(size * 0.032))
    font = font_of(max(9.0, size * 0.03))
    widths = [dot * 1.35 + pen.textlength(symbol_of(n), font) + dot * 0.7 for n in elements]
    room = size - 2 * margin
    parts = _formula(numbers)
    formula_size = max(11.0, size * 0.044)
    while (width := _formula_width(pen, parts, formula_size)) > room * 0.6 and formula_size > 8:
        formula_size *= 0.9
    if width <= room * 0.75:
        _draw_formula(pen, parts, (margin, middle), formula_size, style.text)
        room -= width + dot
    shown = len(elements)
    while shown and sum(widths[:shown]) + (shown < len(elements)) * 2.4 * dot > room:
        shown -= 1
    x = size - margin - sum(widths[:shown]) + dot * 0.7
    if shown < len(elements):
        pen.text((size - margin, middle), f"+{len(elements) - shown}", fill=style.muted, font=font, anchor="rm")
        x -= 2.4 * dot
    for number, width in zip(elements[:shown], widths, strict=False):
        ball = sprite(number, dot * 3, 0, style.fog).reduce(3)
        composite(canvas, ball, (round(x), round(middle - ball.height / 2)))
        pen.text((x + dot * 1.35, middle), symbol_of(number), fill=style.muted, font=font, anchor="lm")
        x += width


def _formula(numbers: Int[np.ndarray, " atoms"]) -> list[tuple[str, str]]:
    """Split the reduced formula into (symbol, count as text)."""
    found, counts = np.unique(numbers, return_counts=True)
    text = spell_reduced(tuple(zip(found.tolist(), counts.tolist(), strict=True)))
    return re.findall(r"([A-Z][a-z]?|\?)(\d*)", text)


def _formula_width(pen: ImageDraw.ImageDraw, parts: list[tuple[str, str]], size: float) -> float:
    return sum((pen.textlength(a, font_of(size)) + pen.textlength(b, font_of(size * 0.68)) for a, b in parts), 0.0)


def _draw_formula(
    pen: ImageDraw.ImageDraw, parts: list[tuple[str, str]], at: tuple[float, float], size: float, ink: Color
) -> None:
    x, y = at[0], at[1] + 0.36 * size  # the baseline
    for element, count in parts:
        pen.text((x, y), element, fill=ink, font=font_of(size), anchor="ls")
        x += pen.textlength(element, font_of(size))
        pen.text((x, y + 0.2 * size), count, fill=ink, font=font_of(size * 0.68), anchor="ls")
        x += pen.textlength(count, font_of(size * 0.68))
