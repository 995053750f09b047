"""Themes, fonts and mixtures of colors for the pictures of crystals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageFont

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Theme:
    """The colors of a picture apart from the elements'."""

    background: tuple[int, int, int, int]
    fog: Color  # color that distant objects fade to
    edge: Color
    text: Color
    muted: Color


THEMES = {
    "light": Theme((255, 255, 255, 255), (255, 255, 255), (71, 85, 105), (15, 23, 42), (100, 116, 139)),
    "dark": Theme((17, 20, 28, 255), (17, 20, 28), (160, 174, 196), (237, 241, 247), (148, 163, 184)),
    # The background is unknown: grays that are legible on white and on black.
    "transparent": Theme((0, 0, 0, 0), (140, 144, 152), (118, 128, 146), (118, 128, 146), (128, 136, 150)),
}


def lift(color: Color, style: Theme) -> Color:
    """Lighten a color for backgrounds other than white."""
    return color if style is THEMES["light"] else mix(color, (255, 255, 255), 0.3)


def mix(color: Color, other: Color, share: float) -> Color:
    """Mix a color with another by a share of 0 to 1."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(color, other, strict=True))
    return r, g, b


@lru_cache(maxsize=128)
def font_of(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load Pillow's default font at a height in pixels."""
    return ImageFont.load_default(round(max(6.0, size), 1))


def composite(canvas: Image.Image, sprite: Image.Image, corner: tuple[int, int]) -> None:
    """Paste a sprite on a canvas, opaque or transparent, and crop it at the edges."""
    left, top = max(0, -corner[0]), max(0, -corner[1])
    inside = corner[0] < canvas.width and corner[1] < canvas.height
    if inside and left < sprite.width and top < sprite.height:
        canvas.alpha_composite(sprite, (max(0, corner[0]), max(0, corner[1])), (left, top))
