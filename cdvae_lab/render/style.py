"""Themes, fonts and mixtures of colours for the pictures of crystals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageFont

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Theme:
    """The colours of a picture apart from the elements'."""

    background: tuple[int, int, int, int]
    fog: Colour  # what far things fade to
    edge: Colour
    text: Colour
    muted: Colour


THEMES = {
    "light": Theme((255, 255, 255, 255), (255, 255, 255), (71, 85, 105), (15, 23, 42), (100, 116, 139)),
    "dark": Theme((17, 20, 28, 255), (17, 20, 28), (160, 174, 196), (237, 241, 247), (148, 163, 184)),
    # Nothing is known of what will be behind: greys that can be read on white and on black.
    "transparent": Theme((0, 0, 0, 0), (140, 144, 152), (118, 128, 146), (118, 128, 146), (128, 136, 150)),
}


def lift(colour: Colour, style: Theme) -> Colour:
    """A colour meant for white paper, made lighter where the background is not."""
    return colour if style is THEMES["light"] else mix(colour, (255, 255, 255), 0.3)


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """A colour moved towards another by a share of the way, 0 to 1."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return r, g, b


@lru_cache(maxsize=128)
def font_of(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a height in pixels."""
    return ImageFont.load_default(round(max(6.0, size), 1))


def composite(canvas: Image.Image, sprite: Image.Image, corner: tuple[int, int]) -> None:
    """Lay a sprite over a canvas, cut where it sticks out; right for a canvas that is transparent itself, too."""
    left, top = max(0, -corner[0]), max(0, -corner[1])
    inside = corner[0] < canvas.width and corner[1] < canvas.height
    if inside and left < sprite.width and top < sprite.height:
        canvas.alpha_composite(sprite, (max(0, corner[0]), max(0, corner[1])), (left, top))
