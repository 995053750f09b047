"""Pictures of crystals without a browser: shaded spheres, bonds, the cell and a legend, drawn with Pillow.

A picture takes about ten milliseconds, fast enough for every frame of a denoising run.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.render.legend import draw_caption, draw_legend
from cdvae_lab.render.origin import FrameOrigin, at_atom
from cdvae_lab.render.scene import Camera, Scene, bonded_pairs, image_atoms
from cdvae_lab.render.spheres import confusable
from cdvae_lab.render.style import THEMES, font_of

__all__ = [
    "ROTATE",
    "FrameOrigin",
    "at_atom",
    "gif",
    "grid",
    "image_atoms",
    "picture",
    "png_bytes",
    "strip",
]

ROTATE = (-24.0, 16.0)  # degrees: shows three faces of a cell whose c is upright, none of its edges hidden


def picture(
    crystals: Crystals,
    which: int = 0,
    *,
    size: int = 480,
    theme: str = "light",
    rotate: tuple[float | int, float | int] = ROTATE,
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
        bonds: join atoms closer than 1.15 times the sum of their covalent radii, nearest neighbors only.
        labels: write element symbols on the spheres; None: where two elements' colors are hard to tell apart
            for red- or green-blind eyes.
        legend: formula and elements below the crystal (left out below 120 pixels).
        caption: a line of text above the crystal.
        steady: choose the scale so that the cell fits from every angle, for pictures that turn.

    Raises:
        SettingError: size or theme out of range.
        IndexError: no crystal of that number.
    """
    if theme not in THEMES:
        raise SettingError(f"theme is {theme!r}; choose one of {', '.join(THEMES)}")
    if not 48 <= size <= 4096:
        raise SettingError(f"size is {size} pixels; choose 48 to 4096")
    style = THEMES[theme]
    crystal = crystals[which]
    numbers = crystal.atomic_numbers[0][crystal.mask[0]].cpu().numpy()
    frac = crystal.frac_coords[0][crystal.mask[0]].double().cpu().numpy()
    lattice = crystal.lattice[0].double().cpu().numpy()

    sampling = 3 if size <= 640 else 2
    canvas = Image.new("RGBA", (size * sampling, size * sampling), style.background)
    top = round(size * 0.075) if caption else 0
    bottom = round(size * 0.095) if legend and size >= 120 else 0
    # A frame with a cell that is not finite gives a picture that says so, not an error.
    drawable = np.isfinite(lattice).all() and np.isfinite(frac).all() and np.abs(lattice).sum() > 1e-6
    if drawable:
        area = (0, top * sampling, size * sampling, (size - bottom) * sampling)
        camera = Camera.fit(lattice, (float(rotate[0]), float(rotate[1])), area, steady)
        if labels is None:
            labels = confusable(tuple(sorted({int(n) for n in numbers})))
        places, kinds = image_atoms(frac, numbers, images)
        cart = places @ lattice
        pairs = bonded_pairs(cart, kinds) if bonds else []
        Scene(canvas, camera, lattice, cart, kinds, pairs, style, labels).paint()
    canvas = canvas.reduce(sampling)
    if not drawable:
        font = font_of(size * 0.04)
        ImageDraw.Draw(canvas).text((size / 2, size / 2), "no finite cell", style.muted, font, anchor="mm")
    if caption:
        draw_caption(canvas, caption, style)
    if bottom:
        draw_legend(canvas, numbers, bottom, style)
    return canvas if theme == "transparent" else canvas.convert("RGB")


def grid(
    crystals: Crystals, columns: int | None = None, *, captions: Sequence[str] | None = None, size: int = 240, **options
) -> Image.Image:
    """Draw all crystals of a batch in rows; `size` is that of one picture, and options are those of `picture`.

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
        THEMES[options.get("theme", "light")].background,
    )
    for n, one in enumerate(pictures):
        sheet.paste(one, (n % columns * size, n // columns * size))
    return sheet


def strip(
    frames: Sequence[Crystals], which: int = 0, *, captions: Sequence[str] | None = None, size: int = 240, **options
) -> Image.Image:
    """Draw a filmstrip: one crystal in several frames from left to right, with arrows; options are those of `picture`.

    Raises:
        SettingError: no frames, or not one caption for each.
    """
    if not frames:
        raise SettingError("a strip needs at least one frame")
    pictures = [
        picture(frame, which, size=size, caption=text, **options)
        for frame, text in zip(frames, _captions(frames, captions), strict=True)
    ]
    theme, gap = THEMES[options.get("theme", "light")], size // 10
    filmstrip = Image.new(pictures[0].mode, (len(pictures) * (size + gap) - gap, size), theme.background)
    pen, half = ImageDraw.Draw(filmstrip), max(3, size // 48)
    for n, one in enumerate(pictures):
        filmstrip.paste(one, (n * (size + gap), 0))
        if n:
            x, y = n * (size + gap) - gap / 2, size * 0.46
            points = [(x - half / 2, y - half), (x + half / 2, y), (x - half / 2, y + half)]
            pen.line(points, fill=theme.muted, width=max(2, size // 120), joint="curve")
    return filmstrip


def gif(
    frames: Iterable[Crystals | Image.Image],
    path: str | Path,
    *,
    fps: float | int = 12,
    which: int = 0,
    turn: float | int = 0,
    captions: Sequence[str] | None = None,
    size: int = 320,
    **options,
) -> Path:
    """Write an animated GIF that repeats indefinitely, one picture a frame, atomically; return the path.

    Args:
        frames: batches, of which crystal `which` is drawn, or finished pictures.
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
        LabError: the file cannot be written.
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
    # One palette for all frames, from a sheet of some of them: with one each, the colors would flicker.
    sample = pictures[:: max(1, len(pictures) // 12)]
    sheet = Image.new("RGB", (sample[0].width, sum(one.height for one in sample)))
    for one, y in zip(sample, itertools.accumulate([0, *(one.height for one in sample)]), strict=False):
        sheet.paste(one, (0, y))
    palette = sheet.quantize(255, method=Image.Quantize.MAXCOVERAGE)
    # The exact background: another shade would show as a box on the page.
    palette.putpalette([*(palette.getpalette() or [])[: 3 * 255], *_most_frequent(sheet)])
    indexed = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]

    with atomic_path(path, "the GIF") as temporary:
        indexed[0].save(
            temporary, "GIF", save_all=True, append_images=indexed[1:], duration=round(1000 / fps), loop=0, disposal=1
        )
    return Path(path)


def png_bytes(crystals: Crystals | Image.Image, which: int = 0, **options) -> bytes:
    """Draw a picture as the bytes of a PNG file, for HTML; options are those of `picture`."""
    one = crystals if isinstance(crystals, Image.Image) else picture(crystals, which, **options)
    buffer = io.BytesIO()
    one.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _most_frequent(image: Image.Image) -> list[int]:
    """Find the most frequent color of an RGB picture.

    The three bytes of a color are counted as one number: sorting rows takes seconds, in which no other thread runs.
    """
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.uint32), -1, 0)
    colors, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    most = int(colors[counts.argmax()])
    return [most >> 16, most >> 8 & 255, most & 255]


def _captions(items: Sequence | Crystals, captions: Sequence[str] | None) -> Sequence[str | None]:
    if captions is None:
        return [None] * len(items)
    if len(captions) != len(items):
        raise SettingError(f"captions: {len(captions)} for {len(items)} pictures; give one for each")
    return captions
