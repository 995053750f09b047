"""A crystal as a picture, without a browser: shaded spheres, bonds, the cell and a legend, drawn with Pillow.

Everything is painted from back to front: spheres, halves of bonds and short pieces of the cell's edges are
sorted by depth. Spheres are shaded once per element and scaled when needed, so that a picture takes
a few milliseconds and can be made for every frame of a denoising run.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont

from cdvae_lab.crystals import Crystals
from cdvae_lab.errors import SettingError

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Theme:
    background: tuple[int, int, int, int]
    fog: Colour  # what far things fade to
    edge: Colour
    text: Colour
    muted: Colour


_THEMES = {
    "light": _Theme((255, 255, 255, 255), (255, 255, 255), (71, 85, 105), (15, 23, 42), (100, 116, 139)),
    "dark": _Theme((17, 20, 28, 255), (17, 20, 28), (160, 174, 196), (237, 241, 247), (148, 163, 184)),
    # Nothing is known of what will be behind: greys that can be read on white and on black.
    "transparent": _Theme((0, 0, 0, 0), (140, 144, 152), (118, 128, 146), (118, 128, 146), (128, 136, 150)),
}
ROTATE = (-24.0, 16.0)  # degrees: shows three faces of a cell whose c is upright, none of its edges hidden
_FACE_TOLERANCE = 0.02  # fractional; an atom this close to a face is drawn on the opposite face too
_MARGIN = 1.0  # Å around the cell; larger than any sphere, so that the scale does not depend on the elements
_PIECES = 14  # of a cell edge, each with its own depth
_FOG_STEPS = 6
_AXES = ((213, 94, 0), (0, 158, 115), (0, 114, 178))  # a, b, c: Okabe and Ito's colours for everyone's eyes


def picture(
    crystals: Crystals,
    which: int = 0,
    *,
    size: int = 480,
    theme: str = "light",
    rotate: tuple[float, float] = ROTATE,
    images: bool = True,
    bonds: bool = True,
    labels: bool | None = None,
    legend: bool = True,
    caption: str | None = None,
    steady: bool = False,
) -> Image.Image:
    """Draw one crystal of a batch in perspective, `size` pixels square (RGB; RGBA where transparent).

    Args:
        crystals: the batch.
        which: the crystal's number in it.
        size: width and height in pixels, 48 to 4096.
        theme: "light", "dark" or "transparent".
        rotate: turn about the upright axis and tilt towards the viewer, degrees.
        images: draw atoms on the cell's faces, edges and corners on the opposite ones too.
        bonds: join atoms closer than 1.15 times the sum of their covalent radii, nearest neighbours only.
        labels: write element symbols on the spheres; None: where two elements' colours are hard to tell apart
            for red- or green-blind eyes.
        legend: formula and elements below the crystal (left out below 120 pixels).
        caption: a line of text above the crystal.
        steady: choose the scale so that the cell fits from every angle, for pictures that turn.

    Raises:
        SettingError: size or theme out of range.
        IndexError: no crystal of that number.
    """
    if theme not in _THEMES:
        raise SettingError(f"theme is {theme!r}; choose one of {', '.join(_THEMES)}")
    if not 48 <= size <= 4096:
        raise SettingError(f"size is {size} pixels; choose 48 to 4096")
    style = _THEMES[theme]
    crystal = crystals[which]
    numbers = crystal.atomic_numbers[0][crystal.mask[0]].cpu().numpy()
    frac = crystal.frac_coords[0][crystal.mask[0]].double().cpu().numpy()
    lattice = crystal.lattice[0].double().cpu().numpy()

    sampling = 2 if size > 300 else 3
    canvas = Image.new("RGBA", (size * sampling, size * sampling), style.background)
    top = round(size * 0.075) if caption else 0
    bottom = round(size * 0.095) if legend and size >= 120 else 0
    # A frame of a run that went wrong is shown as such; it must not take the display down with it.
    drawable = np.isfinite(lattice).all() and np.isfinite(frac).all() and np.abs(lattice).sum() > 1e-6
    if drawable:
        area = (0, top * sampling, size * sampling, (size - bottom) * sampling)
        camera = _Camera.fit(lattice, rotate, area, steady)
        if labels is None:
            labels = _confusable(tuple(sorted({int(n) for n in numbers})))
        _draw_crystal(canvas, camera, *image_atoms(frac, numbers, images), lattice, style, bonds, labels)
    canvas = canvas.reduce(sampling)
    if not drawable:
        font = _font(size * 0.04)
        ImageDraw.Draw(canvas).text((size / 2, size / 2), "no finite cell", style.muted, font, anchor="mm")
    if caption:
        _draw_caption(canvas, caption, style)
    if bottom:
        _draw_legend(canvas, numbers, bottom, style)
    return canvas if theme == "transparent" else canvas.convert("RGB")


def grid(
    crystals: Crystals, columns: int | None = None, *, captions: Sequence[str] | None = None, size: int = 240, **options
) -> Image.Image:
    """All crystals of a batch in rows; `size` is that of one picture, and options are those of `picture`.

    Raises:
        SettingError: columns out of range, or not one caption for each crystal.
    """
    columns = columns or math.ceil(math.sqrt(len(crystals)))
    if columns < 1:
        raise SettingError(f"columns is {columns}; choose 1 or more")
    pictures = [
        picture(crystals, n, size=size, caption=text, **options) for n, text in enumerate(_captions(crystals, captions))
    ]
    sheet = Image.new(
        pictures[0].mode,
        (min(columns, len(pictures)) * size, math.ceil(len(pictures) / columns) * size),
        _THEMES[options.get("theme", "light")].background,
    )
    for n, one in enumerate(pictures):
        sheet.paste(one, (n % columns * size, n // columns * size))
    return sheet


def strip(
    frames: Sequence[Crystals], which: int = 0, *, captions: Sequence[str] | None = None, size: int = 240, **options
) -> Image.Image:
    """One crystal in several frames from left to right, with arrows between; options are those of `picture`.

    Raises:
        SettingError: no frames, or not one caption for each.
    """
    if not frames:
        raise SettingError("a strip needs at least one frame")
    theme = _THEMES[options.setdefault("theme", "light")] if options.get("theme", "light") in _THEMES else None
    pictures = [
        picture(frame, which, size=size, caption=text, **options)
        for frame, text in zip(frames, _captions(frames, captions), strict=True)
    ]
    assert theme is not None  # `picture` has checked it
    gap = size // 10
    film = Image.new(pictures[0].mode, (len(pictures) * (size + gap) - gap, size), theme.background)
    pen, half = ImageDraw.Draw(film), max(3, size // 48)
    for n, one in enumerate(pictures):
        film.paste(one, (n * (size + gap), 0))
        if n:
            x, y = n * (size + gap) - gap / 2, size * 0.46
            points = [(x - half / 2, y - half), (x + half / 2, y), (x - half / 2, y + half)]
            pen.line(points, fill=theme.muted, width=max(2, size // 120), joint="curve")
    return film


def gif(
    frames: Iterable[Crystals | Image.Image],
    path: str | Path,
    *,
    fps: float = 12,
    which: int = 0,
    turn: float = 0,
    captions: Sequence[str] | None = None,
    size: int = 320,
    **options,
) -> Path:
    """Write an animated GIF that repeats for ever, one picture a frame, atomically; returns the path.

    Args:
        frames: batches, of which crystal `which` is drawn, or pictures that are there already.
        path: the file to write.
        fps: frames a second, up to 50.
        which: the crystal's number in each batch.
        turn: degrees that the crystal turns from one frame to the next.
        captions: a line of text for each frame.
        size: width and height in pixels.
        options: those of `picture`.

    Raises:
        SettingError: no frames, fps out of range, a transparent theme (a GIF's edges would be jagged), or
            not one caption for each frame.
    """
    if not 0 < fps <= 50:
        raise SettingError(f"fps is {fps}; choose more than 0 and up to 50")
    if options.get("theme") == "transparent":
        raise SettingError('a GIF has no soft transparency; choose theme="light" or theme="dark"')
    frames = list(frames)
    if not frames:
        raise SettingError("a GIF needs at least one frame")
    spin, tilt = options.pop("rotate", ROTATE)
    options.setdefault("steady", turn != 0)
    pictures = [
        frame.convert("RGB")
        if isinstance(frame, Image.Image)
        else picture(frame, which, size=size, rotate=(spin + turn * n, tilt), caption=text, **options)
        for n, (frame, text) in enumerate(zip(frames, _captions(frames, captions), strict=True))
    ]
    # One palette for all frames, from a sheet of some of them: with one each, the colours would flicker.
    sample = pictures[:: max(1, len(pictures) // 12)]
    sheet = Image.new("RGB", (sample[0].width, sum(one.height for one in sample)))
    for one, y in zip(sample, itertools.accumulate([0, *(one.height for one in sample)]), strict=False):
        sheet.paste(one, (0, y))
    palette = sheet.quantize(255, method=Image.Quantize.MEDIANCUT)
    indexed = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".gif", delete=False) as file:
        try:
            indexed[0].save(
                file, "GIF", save_all=True, append_images=indexed[1:], duration=round(1000 / fps), loop=0, disposal=1
            )
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
    return path


def png_bytes(crystals: Crystals | Image.Image, which: int = 0, **options) -> bytes:
    """A picture as the bytes of a PNG file, for hover pictures and HTML; options are those of `picture`."""
    one = crystals if isinstance(crystals, Image.Image) else picture(crystals, which, **options)
    buffer = io.BytesIO()
    one.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _captions(items: Sequence | Crystals, captions: Sequence[str] | None) -> Sequence[str | None]:
    if captions is None:
        return [None] * len(items)
    if len(captions) != len(items):
        raise SettingError(f"captions: {len(captions)} for {len(items)} pictures; give one for each")
    return captions


# --- geometry ----------------------------------------------------------------------------------------


def image_atoms(
    frac_coords: Float[np.ndarray, "atoms 3"], atomic_numbers: Int[np.ndarray, " atoms"], images: bool = True
) -> tuple[Float[np.ndarray, "drawn 3"], Int[np.ndarray, " drawn"]]:
    """The atoms to draw: each wrapped into the cell, and once more for every face that it lies on.

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
class _Camera:
    """Perspective from Å to pixels of the canvas."""

    rotation: Float[np.ndarray, "3 3"]  # columns: right, up, towards the viewer
    centre: Float[np.ndarray, " 3"]  # Å
    radius: float  # Å, of the sphere around the cell
    scale: float  # pixels per Å at the centre
    offset: Float[np.ndarray, " 2"]  # pixels

    @classmethod
    def fit(
        cls, lattice: Float[np.ndarray, "3 3"], rotate: tuple[float, float], area: tuple[int, ...], steady: bool
    ) -> _Camera:
        spin, tilt = math.radians(rotate[0]), math.radians(rotate[1])
        # y points away from a viewer who stands in front; z is up.
        right = np.array([math.cos(spin), math.sin(spin), 0])
        away = np.array([-math.sin(spin), math.cos(spin), 0])
        upright = np.array([0, 0, 1.0])
        up = math.cos(tilt) * upright + math.sin(tilt) * away
        towards = math.sin(tilt) * upright - math.cos(tilt) * away
        corners = np.array(list(itertools.product((0, 1), repeat=3))) @ lattice
        centre = corners.mean(0)
        radius = float(np.linalg.norm(corners - centre, axis=1).max()) + _MARGIN
        camera = cls(np.stack([right, up, towards], 1), centre, radius, 1.0, np.zeros(2))
        flat, _, zoom = camera.project(corners)
        low, high = (flat - _MARGIN * zoom[:, None]).min(0), (flat + _MARGIN * zoom[:, None]).max(0)
        if steady:
            low, high = np.array([-1.0, -1.0]) * radius * 1.03, np.array([1.0, 1.0]) * radius * 1.03
        box = np.array([area[2] - area[0], area[3] - area[1]])
        scale = float((box / (high - low)).min()) * 0.98
        middle = np.array([area[0] + area[2], area[1] + area[3]]) / 2
        return cls(camera.rotation, centre, radius, scale, middle - scale * (low + high) / 2)

    def project(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Pixels (y downwards), depth (Å towards the viewer) and pixels per Å of each point."""
        view = (points - self.centre) @ self.rotation
        distance = 5 * self.radius
        zoom = self.scale * distance / np.maximum(distance - view[:, 2], 0.5 * self.radius)
        return view[:, :2] * zoom[:, None] * [1, -1] + self.offset, view[:, 2], zoom

    def fog(self, depth: float) -> int:
        """How far back, in steps from 0 (front) to _FOG_STEPS - 1."""
        return min(max(int((1 - depth / self.radius) / 2 * _FOG_STEPS), 0), _FOG_STEPS - 1)


def _bonds(
    cart: Float[np.ndarray, "drawn 3"], numbers: Int[np.ndarray, " drawn"]
) -> list[tuple[int, int]]:
    """Pairs closer than 1.15 sums of covalent radii and nearly as close as each one's nearest neighbour.

    The second condition keeps the picture of an oxide to its polyhedra: Ti-O and not Sr-O, Sr-Ti or O-O.
    """
    if len(cart) < 2:
        return []
    distance = np.linalg.norm(cart[:, None] - cart[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    radii = np.array([_covalent_radius(int(n)) for n in numbers])
    nearest = distance.min(1)
    close = (distance < 1.15 * (radii[:, None] + radii)) & (distance < 1.2 * np.minimum(nearest[:, None], nearest))
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(close & (distance > 0.3)))]


# --- drawing -----------------------------------------------------------------------------------------


def _draw_crystal(
    canvas: Image.Image,
    camera: _Camera,
    frac: Float[np.ndarray, "drawn 3"],
    numbers: Int[np.ndarray, " drawn"],
    lattice: Float[np.ndarray, "3 3"],
    style: _Theme,
    bonds: bool,
    labels: bool,
) -> None:
    cart = frac @ lattice
    pen = ImageDraw.Draw(canvas)
    jobs = [*_edge_jobs(pen, camera, lattice, style)]
    if bonds:
        jobs += _bond_jobs(pen, camera, cart, numbers, style)
    places, depths, zooms = camera.project(cart)
    for place, depth, zoom, number in zip(places, depths, zooms, numbers.tolist(), strict=True):
        jobs.append((depth, _sphere_job(canvas, pen, place, zoom, number, camera.fog(depth), style, labels)))
    for _, job in sorted(jobs, key=lambda pair: pair[0]):
        job()
    _draw_axes(pen, camera, lattice, style)


def _edge_jobs(pen: ImageDraw.ImageDraw, camera: _Camera, lattice: Float[np.ndarray, "3 3"], style: _Theme):
    """The twelve edges in pieces; the three from the origin carry the colours of a, b and c."""
    steps = np.linspace(0, 1, _PIECES + 1)[:, None]
    for axis in range(3):
        others = [lattice[k] for k in range(3) if k != axis]
        for i, j in itertools.product((0, 1), repeat=2):
            points = i * others[0] + j * others[1] + steps * lattice[axis]
            flat, depth, zoom = camera.project(points)
            colour = _AXES[axis] if i == j == 0 else style.edge
            for k in range(_PIECES):
                back = (1 - (depth[k] + depth[k + 1]) / 2 / camera.radius) / 2
                ink = _mix(colour, style.fog, 0.1 + 0.6 * back)
                width = max(2, round(0.055 * zoom[k]))
                line = (*flat[k], *flat[k + 1])
                yield (depth[k] + depth[k + 1]) / 2, lambda p=line, c=ink, w=width: pen.line(p, fill=c, width=w)


def _bond_jobs(pen: ImageDraw.ImageDraw, camera: _Camera, cart, numbers: Int[np.ndarray, " drawn"], style: _Theme):
    """Each bond as two halves in its atoms' colours, from the surface of each sphere to the middle."""
    for i, j in _bonds(cart, numbers):
        middle = (cart[i] + cart[j]) / 2
        for atom in (i, j):
            along = middle - cart[atom]
            start = cart[atom] + along * min(0.9 * _sphere_radius(int(numbers[atom])) / np.linalg.norm(along), 1.0)
            flat, depth, zoom = camera.project(np.stack([start, middle]))
            colour = _mix(_colour(int(numbers[atom])), style.fog, 0.09 * camera.fog(depth.mean()))
            yield depth.mean(), lambda f=flat, c=colour, z=zoom.mean(): _draw_stick(pen, f, c, z)


def _draw_stick(pen: ImageDraw.ImageDraw, flat: Float[np.ndarray, "2 2"], colour: Colour, zoom: float) -> None:
    direction = flat[1] - flat[0]
    across = np.array([-direction[1], direction[0]]) / max(float(np.linalg.norm(direction)), 1e-6)
    across = across if across @ (-0.5, -0.8) > 0 else -across  # towards the light
    # Three lines inside each other: a dark outline, the body, and a streak of light.
    for width, ink, shift in ((0.20, _mix(colour, (0, 0, 0), 0.45), 0), (0.15, _mix(colour, (0, 0, 0), 0.12), 0),
                              (0.05, _mix(colour, (255, 255, 255), 0.45), 0.03)):
        ends = flat + across * shift * zoom
        pen.line((*ends[0], *ends[1]), fill=ink, width=max(1, round(width * zoom)))


def _sphere_job(canvas, pen, place, zoom: float, number: int, fog: int, style: _Theme, label: bool):
    def job() -> None:
        diameter = max(4, 2 * round(_sphere_radius(number) * zoom))
        sprite = _sprite(number, diameter, fog, style.fog)
        corner = (round(place[0] - sprite.width / 2), round(place[1] - sprite.height / 2))
        canvas.paste(sprite, corner, sprite) if style.background[3] else _composite(canvas, sprite, corner)
        if label and diameter > 24:
            colour = _colour(number)
            ink = (20, 24, 32) if _oklab(np.array(colour))[0] > 0.62 else (255, 255, 255)
            pen.text(tuple(place), _symbol(number), fill=ink, font=_font(diameter * 0.42), anchor="mm")

    return job


def _composite(canvas: Image.Image, sprite: Image.Image, corner: tuple[int, int]) -> None:
    """Lay a sprite over a canvas that is transparent itself, cut where it sticks out."""
    left, top = max(0, -corner[0]), max(0, -corner[1])
    if left < sprite.width and top < sprite.height:
        canvas.alpha_composite(sprite, (max(0, corner[0]), max(0, corner[1])), (left, top))


def _draw_axes(pen: ImageDraw.ImageDraw, camera: _Camera, lattice: Float[np.ndarray, "3 3"], style: _Theme) -> None:
    """The letters a, b, c beyond the ends of the lattice vectors."""
    lengths = np.linalg.norm(lattice, axis=1, keepdims=True)
    ends = lattice * (1 + 0.0 / np.maximum(lengths, 1e-6)) + lattice / np.maximum(lengths, 1e-6) * 1.05
    flat, _, _ = camera.project(ends)
    for place, letter, colour in zip(flat, "abc", _AXES, strict=True):
        ink = _mix(colour, style.text, 0.15)
        pen.text(tuple(place), letter, fill=ink, font=_font(pen.im.size[0] * 0.034), anchor="mm")


def _draw_caption(canvas: Image.Image, caption: str, style: _Theme) -> None:
    pen, size = ImageDraw.Draw(canvas), canvas.width
    font = _font(max(10, size * 0.034))
    font = _font(font.size * min(1, 0.94 * size / max(1, pen.textlength(caption, font))))
    pen.text((size / 2, size * 0.048), caption, fill=style.muted, font=font, anchor="mm")


def _draw_legend(canvas: Image.Image, numbers: Int[np.ndarray, " atoms"], height: int, style: _Theme) -> None:
    """The reduced formula with its subscripts at the left, a small sphere for each element at the right."""
    size = canvas.width
    pen = ImageDraw.Draw(canvas)
    middle, margin = size - height * 0.52, size * 0.04
    elements = sorted({int(n) for n in numbers}, key=_electronegativity)
    dot = max(8, round(size * 0.032))
    font = _font(max(9, size * 0.03))
    widths = [dot * 1.35 + pen.textlength(_symbol(n), font) + dot * 0.7 for n in elements]
    room = size - 2 * margin
    parts = _formula(numbers)
    formula_size = max(11, size * 0.044)
    while (width := _formula_width(pen, parts, formula_size)) > room * 0.6 and formula_size > 8:
        formula_size *= 0.9
    if width <= room * 0.75:
        _draw_formula(pen, parts, (margin, middle), formula_size, style.text)
        room -= width + dot
    shown = len(elements)
    while shown and sum(widths[:shown]) + (shown < len(elements)) * 2 * dot > room:
        shown -= 1
    x = size - margin - sum(widths[:shown]) + dot * 0.7
    if shown < len(elements):
        pen.text((size - margin, middle), f"+{len(elements) - shown}", fill=style.muted, font=font, anchor="rm")
        x -= 2 * dot
    for number, width in zip(elements[:shown], widths, strict=False):
        sprite = _sprite(number, dot * 3, 0, style.fog).reduce(3)
        _composite(canvas, sprite, (round(x), round(middle - sprite.height / 2)))
        pen.text((x + dot * 1.35, middle), _symbol(number), fill=style.muted, font=font, anchor="lm")
        x += width


def _formula(numbers: Int[np.ndarray, " atoms"]) -> list[tuple[str, str]]:
    """(symbol, count as text) of the reduced formula, least electronegative element first."""
    found, counts = np.unique(numbers, return_counts=True)
    divisor = math.gcd(*counts.tolist()) if len(found) > 1 else 1  # C24 says more than C
    pairs = sorted(zip(found.tolist(), counts.tolist(), strict=True), key=lambda pair: _electronegativity(pair[0]))
    return [(_symbol(number), str(count // divisor) if count > divisor else "") for number, count in pairs]


def _formula_width(pen: ImageDraw.ImageDraw, parts: list[tuple[str, str]], size: float) -> float:
    return sum(pen.textlength(a, _font(size)) + pen.textlength(b, _font(size * 0.68)) for a, b in parts)


def _draw_formula(
    pen: ImageDraw.ImageDraw, parts: list[tuple[str, str]], at: tuple[float, float], size: float, ink: Colour
) -> None:
    x, y = at[0], at[1] + 0.36 * size  # the baseline
    for symbol, count in parts:
        pen.text((x, y), symbol, fill=ink, font=_font(size), anchor="ls")
        x += pen.textlength(symbol, _font(size))
        pen.text((x, y + 0.2 * size), count, fill=ink, font=_font(size * 0.68), anchor="ls")
        x += pen.textlength(count, _font(size * 0.68))


# --- spheres and colours -----------------------------------------------------------------------------

_SPRITE = 256  # pixels across; scaled to what is needed


@lru_cache(maxsize=4)
def _shading(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a unit sphere lit from the upper left: brightness, highlight, coverage and the rim's strength."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, -axis)
    distance = np.hypot(x, y)
    z = np.sqrt(np.clip(1 - distance**2, 0, 1))
    light = np.array([-0.45, 0.6, 0.75])
    light /= np.linalg.norm(light)
    half = light + [0, 0, 1]
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
def _large_sprite(number: int, fog: int, fog_colour: Colour) -> Image.Image:
    brightness, highlight, coverage, rim = (a[..., None] for a in _shading(_SPRITE))
    colour = np.array(_colour(number)) / 255
    deep = colour * 0.55 * [0.9, 0.92, 1.06]  # shadows lean to blue and keep their colour
    lit = np.where(brightness < 1, deep + (colour - deep) * brightness, colour * brightness)
    lit = lit + (1 - lit) * highlight
    lit = lit * (1 - 0.55 * rim)
    lit = lit + (np.array(fog_colour) / 255 - lit) * 0.085 * fog
    pixels = np.concatenate([lit, coverage], -1)
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8), "RGBA")


@lru_cache(maxsize=2048)
def _sprite(number: int, diameter: int, fog: int, fog_colour: Colour) -> Image.Image:
    """A shaded sphere of this many pixels, faded towards the fog's colour."""
    return _large_sprite(number, fog, fog_colour).resize((diameter, diameter), Image.Resampling.BILINEAR)


@lru_cache(maxsize=128)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(round(max(6.0, size), 1))


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return r, g, b


@lru_cache(maxsize=None)
def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[number]


@lru_cache(maxsize=None)
def _covalent_radius(number: int) -> float:
    from ase.data import covalent_radii

    return float(covalent_radii[number])


def _sphere_radius(number: int) -> float:
    """Å: between the covalent radius, which hides everything, and dots of one size, which tell nothing."""
    return 0.24 + 0.33 * _covalent_radius(number)


@lru_cache(maxsize=None)
def _electronegativity(number: int) -> tuple[float, int]:
    """To order a formula by; noble gases, which have none, come last."""
    from pymatgen.core import Element

    value = Element.from_Z(number)._data.get("X") or 9.0
    return float(value), number


@lru_cache(maxsize=None)
def _colour(number: int) -> Colour:
    """Jmol's colour of an element, brought to a lightness and strength that read on white and on black."""
    from ase.data.colors import jmol_colors

    rgb = jmol_colors[number] if number < len(jmol_colors) else (0.9, 0.2, 0.5)
    lightness, a, b = _oklab(np.array(rgb) * 255)
    strength = math.hypot(a, b)
    shrink = min(1.0, 0.155 / strength) if strength > 0 else 1.0
    rgb = _from_oklab(np.array([min(max(lightness, 0.50), 0.84), a * shrink, b * shrink]))
    r, g, b = (round(float(value)) for value in rgb)
    return r, g, b


# Ottosson's OKLab: distances in it are close to what the eye sees. Source: bottosson.github.io/posts/oklab.
_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])
_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])
# What red- and green-blind eyes see of linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15, 1291 (2009).
_PROTANOPIA = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
_DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])


def _oklab(rgb: np.ndarray, eyes: np.ndarray | None = None) -> np.ndarray:
    """Lightness and two colour axes of sRGB from 0 to 255, as these eyes see it."""
    srgb = rgb / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if eyes is not None:
        linear = (eyes @ linear).clip(0, 1)
    return _TO_LAB @ np.cbrt(_TO_LMS @ linear)


def _from_oklab(lab: np.ndarray) -> np.ndarray:
    linear = (np.linalg.inv(_TO_LMS) @ (np.linalg.inv(_TO_LAB) @ lab) ** 3).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=1024)
def _confusable(elements: tuple[int, ...]) -> bool:
    """Whether two of these elements have colours that somebody would take for the same."""
    for eyes in (None, _PROTANOPIA, _DEUTERANOPIA):
        seen = [_oklab(np.array(_colour(number), dtype=float), eyes) for number in elements]
        if any(np.linalg.norm(one - other) < 0.09 for one, other in itertools.combinations(seen, 2)):
            return True
    return False
