"""A crystal in space: which atoms to draw, the camera, and everything painted from back to front.

Spheres, halves of bonds and short pieces of the cell's edges are sorted by their depth and drawn in that order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw

from cdvae_lab.crystals.elements import symbol_of
from cdvae_lab.render.spheres import FADE, covalent_radius, element_color, oklab, sphere_radius, sprite
from cdvae_lab.render.style import Color, Theme, composite, font_of, lift, mix

Job = tuple[float, Callable[[], None]]  # depth, and what to draw at it

_FACE_TOLERANCE = 0.02  # fractional; an atom this close to a face is drawn on the opposite face too
_MARGIN = 1.0  # Å around the cell; larger than most spheres, so that the scale does not depend on the elements
_PIECES = 16  # of a cell edge, each with its own depth
_FOG_STEPS = 6
_AXES = ((213, 94, 0), (0, 158, 115), (0, 114, 178))  # a, b, c: Okabe and Ito's colors, distinct for all eyes
_LETTER_AT = 1.15  # Å beyond the end of a lattice vector, clear of most spheres


def image_atoms(
    frac_coords: Float[np.ndarray, "atoms 3"], atomic_numbers: Int[np.ndarray, " atoms"], images: bool = True
) -> tuple[Float[np.ndarray, "drawn 3"], Int[np.ndarray, " drawn"]]:
    """List the atoms to draw: each wrapped into the cell, and once more for every face that it lies on.

    An atom at a corner becomes eight, on an edge four, on a face two.
    """
    frac = frac_coords - np.floor(frac_coords)
    drawn, numbers = [], []
    for place, number in zip(frac, atomic_numbers, strict=True):
        # An atom just below 1 is drawn just below 0 as well, not only one at exactly 0 at 1.
        choices = [
            (x, x + 1) if images and x < _FACE_TOLERANCE else (x, x - 1) if images and x > 1 - _FACE_TOLERANCE else (x,)
            for x in place
        ]
        for copy in itertools.product(*choices):
            drawn.append(copy)
            numbers.append(number)
    return np.array(drawn, dtype=float).reshape(-1, 3), np.array(numbers, dtype=atomic_numbers.dtype)


@dataclass(frozen=True)
class Camera:
    """Perspective from Å to pixels of the canvas."""

    rotation: Float[np.ndarray, "3 3"]  # columns: right, up, towards the viewer
    center: Float[np.ndarray, " 3"]  # Å
    radius: float  # Å, of the sphere around the cell
    scale: float  # pixels per Å at the center
    offset: Float[np.ndarray, " 2"]  # pixels
    width: int  # pixels, of the canvas

    @classmethod
    def fit(
        cls, lattice: Float[np.ndarray, "3 3"], rotate: tuple[float, float], area: tuple[int, ...], steady: bool
    ) -> Camera:
        spin, tilt = math.radians(rotate[0]), math.radians(rotate[1])
        # y points away from a viewer who stands in front; z is up.
        right = np.array([math.cos(spin), math.sin(spin), 0])
        away = np.array([-math.sin(spin), math.cos(spin), 0])
        upright = np.array([0, 0, 1.0])
        up = math.cos(tilt) * upright + math.sin(tilt) * away
        towards = math.sin(tilt) * upright - math.cos(tilt) * away
        corners = np.array(list(itertools.product((0, 1), repeat=3))) @ lattice
        center = corners.mean(0)
        radius = float(np.linalg.norm(corners - center, axis=1).max()) + _MARGIN
        camera = cls(np.stack([right, up, towards], 1), center, radius, 1.0, np.zeros(2), area[2])
        flat, _, zoom = camera.project(corners)
        letters = camera.letters(lattice)
        low = np.minimum((flat - _MARGIN * zoom[:, None]).min(0), letters.min(0) - 0.2)
        high = np.maximum((flat + _MARGIN * zoom[:, None]).max(0), letters.max(0) + 0.2)
        if steady:
            low, high = np.array([-1.0, -1.0]) * radius * 1.03, np.array([1.0, 1.0]) * radius * 1.03
        box = np.array([area[2] - area[0], area[3] - area[1]])
        scale = float((box / (high - low)).min()) * 0.98
        middle = np.array([area[0] + area[2], area[1] + area[3]]) / 2
        return cls(camera.rotation, center, radius, scale, middle - scale * (low + high) / 2, area[2])

    def project(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Project points: pixels (y downwards), depth (Å towards the viewer) and pixels per Å of each point."""
        view = (points - self.center) @ self.rotation
        distance = 5 * self.radius
        zoom = self.scale * distance / np.maximum(distance - view[:, 2], 0.5 * self.radius)
        return view[:, :2] * zoom[:, None] * [1, -1] + self.offset, view[:, 2], zoom

    def letters(self, lattice: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 2"]:
        """Compute the places of the letters a, b and c: beyond the ends of the projected lattice vectors."""
        flat, _, zoom = self.project(np.concatenate([np.zeros((1, 3)), lattice]))
        along = flat[1:] - flat[0]
        return flat[1:] + along / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None] * _LETTER_AT * zoom[1:, None]

    def fog(self, depth: float) -> int:
        """Convert a depth to steps of fog, from 0 (front) to _FOG_STEPS - 1 (back)."""
        return min(max(int((1 - depth / self.radius) / 2 * _FOG_STEPS), 0), _FOG_STEPS - 1)


def bonded_pairs(cart: Float[np.ndarray, "drawn 3"], numbers: Int[np.ndarray, " drawn"]) -> list[tuple[int, int]]:
    """Find pairs closer than 1.15 sums of covalent radii and nearly as close as each one's nearest neighbor.

    The second condition keeps the picture of an oxide to its polyhedra: Ti-O and not Sr-O, Sr-Ti or O-O.
    """
    if len(cart) < 2:
        return []
    distance = np.linalg.norm(cart[:, None] - cart[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    radii = np.array([covalent_radius(int(n)) for n in numbers])
    nearest = distance.min(1)
    close = (distance < 1.15 * (radii[:, None] + radii)) & (distance < 1.2 * np.minimum(nearest[:, None], nearest))
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(close & (distance > 0.3)))]


@dataclass(frozen=True)
class Scene:
    """Crystal in front of a camera, ready to be painted on a canvas."""

    canvas: Image.Image
    camera: Camera
    lattice: Float[np.ndarray, "3 3"]
    cart: Float[np.ndarray, "drawn 3"]  # Å
    numbers: Int[np.ndarray, " drawn"]
    pairs: list[tuple[int, int]]  # bonds
    style: Theme
    labels: bool

    def paint(self) -> None:
        """Draw all parts, the farthest first."""
        pen = ImageDraw.Draw(self.canvas)
        jobs = [*self._edges(pen), *self._sticks(pen), *self._spheres(pen)]
        for _, job in sorted(jobs, key=lambda pair: pair[0]):
            job()
        self._letters(pen)

    def _edges(self, pen: ImageDraw.ImageDraw) -> Iterator[Job]:
        """List the cell's edges in pieces, without those inside a sphere or bond; a, b, c from the origin in color."""
        camera, style = self.camera, self.style
        radii = np.array([sphere_radius(n) for n in self.numbers.tolist()])
        for axis in range(3):
            along, others = self.lattice[axis], np.delete(self.lattice, axis, 0)
            for corner in itertools.product((0, 1), repeat=2):
                start = corner @ others
                points = start + _cut(start, along, self.cart, radii)[:, None] * along
                flat, depth, zoom = camera.project(points)
                middles, depths = (points[1:] + points[:-1]) / 2, (depth[1:] + depth[:-1]) / 2
                hidden = (np.linalg.norm(middles[:, None] - self.cart, axis=-1) < radii).any(1)
                for one, other in self.pairs:
                    hidden |= _distance_to_segment(middles, self.cart[one], self.cart[other]) < 0.1
                color = style.edge if any(corner) else lift(_AXES[axis], style)
                for k in np.flatnonzero(~hidden):
                    ink = mix(color, style.fog, 0.05 + 0.25 * (1 - depths[k] / camera.radius))
                    width = max(2, round(0.0045 * self.canvas.width * zoom[k] / camera.scale))
                    line = (*flat[k], *flat[k + 1])
                    yield depths[k], lambda p=line, c=ink, w=width: pen.line(p, fill=c, width=w)

    def _sticks(self, pen: ImageDraw.ImageDraw) -> Iterator[Job]:
        """Draw each bond as two halves in its atoms' colors, from the surface of each sphere to the middle."""
        for pair in self.pairs:
            middle = self.cart[list(pair)].mean(0)
            for atom in pair:
                number = int(self.numbers[atom])
                along = middle - self.cart[atom]
                start = self.cart[atom] + along * min(0.9 * sphere_radius(number) / float(np.linalg.norm(along)), 1.0)
                flat, depth, zoom = self.camera.project(np.stack([start, middle]))
                back, scale = float(depth.mean()), float(zoom.mean())
                color = mix(element_color(number), self.style.fog, FADE * self.camera.fog(back))
                yield back, lambda f=flat, c=color, z=scale: _draw_stick(pen, f, c, z)

    def _spheres(self, pen: ImageDraw.ImageDraw) -> Iterator[Job]:
        places, depths, zooms = self.camera.project(self.cart)
        for place, depth, zoom, number in zip(places, depths, zooms, self.numbers.tolist(), strict=True):
            diameter = max(4, 2 * round(sphere_radius(number) * zoom))
            ball = sprite(number, diameter, self.camera.fog(depth), self.style.fog)
            yield depth, lambda b=ball, p=(place[0], place[1]), n=number: self._draw_sphere(pen, b, p, n)

    def _draw_sphere(
        self, pen: ImageDraw.ImageDraw, ball: Image.Image, place: tuple[float, float], number: int
    ) -> None:
        composite(self.canvas, ball, (round(place[0] - ball.width / 2), round(place[1] - ball.height / 2)))
        if self.labels and ball.width > 24:
            pale = oklab(np.array(element_color(number)))[0] > 0.62
            ink = (20, 24, 32) if pale else (255, 255, 255)
            pen.text(place, symbol_of(number), fill=ink, font=font_of(ball.width * 0.38), anchor="mm")

    def _letters(self, pen: ImageDraw.ImageDraw) -> None:
        """Draw a, b, c beyond the ends of the lattice vectors, with a seam that keeps them legible on spheres."""
        width = self.canvas.width
        seam = round(width * 0.005) if self.style.background[3] else 0
        for place, letter, color in zip(self.camera.letters(self.lattice), "abc", _AXES, strict=True):
            ink, font = lift(color, self.style), font_of(width * 0.036)
            at = (place[0], place[1])
            pen.text(at, letter, fill=ink, font=font, anchor="mm", stroke_width=seam, stroke_fill=self.style.fog)


def _cut(
    start: Float[np.ndarray, " 3"],
    along: Float[np.ndarray, " 3"],
    centers: Float[np.ndarray, "drawn 3"],
    radii: Float[np.ndarray, " drawn"],
) -> Float[np.ndarray, " cuts"]:
    """Compute where to cut an edge, 0 to 1: into even pieces, and where it enters or leaves a sphere."""
    square = max(float(along @ along), 1e-12)
    nearest = (centers - start) @ along / square
    miss = ((start + nearest[:, None] * along - centers) ** 2).sum(-1)
    half = np.sqrt(np.maximum(radii**2 - miss, 0) / square)
    crossings = np.concatenate([(nearest - half)[half > 0], (nearest + half)[half > 0]])
    return np.unique(np.concatenate([np.linspace(0, 1, _PIECES + 1), crossings[(crossings > 0) & (crossings < 1)]]))


def _distance_to_segment(
    points: Float[np.ndarray, "n 3"], one: Float[np.ndarray, " 3"], other: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, " n"]:
    along = other - one
    share = ((points - one) @ along / (along @ along)).clip(0, 1)
    return np.linalg.norm(points - one - share[:, None] * along, axis=-1)


def _draw_stick(pen: ImageDraw.ImageDraw, flat: Float[np.ndarray, "2 2"], color: Color, zoom: float) -> None:
    direction = flat[1] - flat[0]
    across = np.array([-direction[1], direction[0]]) / max(float(np.linalg.norm(direction)), 1e-6)
    across = across if across @ (-0.5, -0.8) > 0 else -across  # towards the light
    # Three lines inside each other: a dark outline, the body, and a streak of light.
    for width, ink, shift in (
        (0.20, mix(color, (0, 0, 0), 0.45), 0),
        (0.15, mix(color, (0, 0, 0), 0.12), 0),
        (0.05, mix(color, (255, 255, 255), 0.45), 0.03),
    ):
        ends = flat + across * shift * zoom
        pen.line((*ends[0], *ends[1]), fill=ink, width=max(1, round(width * zoom)))
