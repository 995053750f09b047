"""Appearance of the elements: color, size, and a shaded sphere.

Colors are Jmol's, which most people know, moved in OKLab to a lightness and a strength that read on white and on
black, and as far apart as it takes to tell two elements from each other. Spheres are shaded once per element and scaled
when needed.
"""

from __future__ import annotations

import itertools
from functools import cache, lru_cache

import numpy as np
from PIL import Image

from cdvae_lab.render.style import Color

FADE = 0.055  # share of the fog's color that each step to the back adds
_APART = 0.042  # in OKLab, between any two elements' colors; twice what one can just see
_SPRITE = 256  # pixels across; scaled when drawn


@lru_cache(maxsize=4)
def _shading(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shade a unit sphere lit from the upper left: brightness, highlight, coverage and strength of the rim."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, -axis)
    distance = np.hypot(x, y)
    z = np.sqrt(np.clip(1 - distance**2, 0, 1))
    light = np.array([-0.45, 0.6, 0.75])
    light /= np.linalg.norm(light)
    half = np.add(light, [0, 0, 1])
    half /= np.linalg.norm(half)
    facing = x * light[0] + y * light[1] + z * light[2]
    bounce = np.clip(-0.6 * y - 0.3 * z + 0.2, 0, 1)  # what the ground would throw back
    brightness = (0.50 + 0.58 * np.clip(facing, -0.35, 1) + 0.10 * bounce) * (0.80 + 0.20 * np.sqrt(z))
    shine = np.clip(x * half[0] + y * half[1] + z * half[2], 0, 1)
    highlight = 0.62 * shine**70 + 0.16 * shine**14
    coverage = np.clip((1 - distance) * size / 2, 0, 1)
    rim = np.clip((distance - 0.955) / 0.03, 0, 1)
    return brightness, highlight, coverage, rim


@lru_cache(maxsize=512)
def _large_sprite(number: int, fog: int, fog_color: Color) -> Image.Image:
    brightness, highlight, coverage, rim = (a[..., None] for a in _shading(_SPRITE))
    color = np.array(element_color(number)) / 255
    deep = color * 0.55 * [0.9, 0.92, 1.06]  # shadows lean to blue and keep their color
    lit = np.where(brightness < 1, deep + (color - deep) * brightness, color * brightness)
    lit = lit + (1 - lit) * highlight
    lit = lit * (1 - 0.55 * rim)
    lit = lit + (np.array(fog_color) / 255 - lit) * FADE * fog
    pixels = np.concatenate([lit, coverage], -1)
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8), "RGBA")


@lru_cache(maxsize=2048)
def sprite(number: int, diameter: int, fog: int, fog_color: Color) -> Image.Image:
    """Draw a shaded sphere of this many pixels, faded towards the fog's color."""
    return _large_sprite(number, fog, fog_color).resize((diameter, diameter), Image.Resampling.BILINEAR)


@cache
def covalent_radius(number: int) -> float:
    from ase.data import covalent_radii

    return float(covalent_radii[min(number, len(covalent_radii) - 1)])


def sphere_radius(number: int) -> float:
    """Return the radius of an element's sphere (Å): between its covalent radius and a common radius."""
    return 0.24 + 0.33 * covalent_radius(number)


@cache
def element_color(number: int) -> Color:
    """Return Jmol's color of an element, adjusted to contrast with white, black and the other elements."""
    palette = _palette()
    r, g, b = (round(float(value)) for value in _from_oklab(palette[min(number, len(palette) - 1)]))
    return r, g, b


@cache
def _palette() -> np.ndarray:
    """Compute the color of each element in OKLab, by atomic number; the last is for elements that Jmol lacks."""
    from ase.data.colors import jmol_colors

    jmol = np.array([oklab(rgb * 255) for rgb in np.vstack([jmol_colors, [0.9, 0.2, 0.5]])])
    number = np.arange(len(jmol))
    # Hardly visible, so that those of one color part in different directions.
    colors = jmol + 1e-3 * np.stack([np.cos(number), np.sin(2 * number), np.cos(3 * number)], 1)
    moves = np.ones(len(jmol))
    moves[[1, 6, 7, 8]] = 0.05  # hydrogen to oxygen keep their customary colors
    for _ in range(150):
        colors[:, 0] = colors[:, 0].clip(0.50, 0.84)
        strength = np.hypot(colors[:, 1], colors[:, 2])
        colors[:, 1:] *= np.minimum(1, 0.175 / np.maximum(strength, 1e-9))[:, None]
        way = colors[:, None] - colors
        distance = np.linalg.norm(way, axis=-1) + np.eye(len(jmol))
        push = np.maximum(0, _APART - distance)
        colors += 0.25 * moves[:, None] * (way * (push / distance)[..., None]).sum(1)
    return colors


# Ottosson's OKLab: distances in it are close to perceived differences. Source: bottosson.github.io/posts/oklab.
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# What red- and green-blind eyes see of linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15, 1291 (2009).
_PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def oklab(rgb: np.ndarray, eyes: np.ndarray | None = None) -> np.ndarray:
    """Convert sRGB (0 to 255) to lightness and two color axes, as seen with normal or color-blind vision."""
    srgb = rgb / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if eyes is not None:
        linear = (eyes @ linear).clip(0, 1)
    return _TO_LAB @ np.cbrt(_TO_LMS @ linear)


def _from_oklab(lab: np.ndarray) -> np.ndarray:
    linear = (np.linalg.inv(_TO_LMS) @ (np.linalg.inv(_TO_LAB) @ lab) ** 3).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=1024)
def confusable(elements: tuple[int, ...]) -> bool:
    """True if two of these elements have colors that look the same to some people, color-blind ones included."""
    for eyes in (None, _PROTANOPIA, _DEUTERANOPIA):
        seen = [oklab(np.array(element_color(number), dtype=float), eyes) for number in elements]
        if any(np.linalg.norm(one - other) < 0.09 for one, other in itertools.combinations(seen, 2)):
            return True
    return False
