"""Animation of a denoising run on one HTML page, and the form in which frames are passed to a browser."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import formula_order, symbol_of
from cdvae_lab.errors import SettingError
from cdvae_lab.pages.shell import element, file, page, script, script_data, write_page
from cdvae_lab.render.origin import FrameOrigin
from cdvae_lab.render.spheres import covalent_radius, element_color, sphere_radius
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.trajectory import Trajectory

_FURTHEST = 30.0  # Å: a longer displacement is shortened, so that it fits in 16 bits of 0.001 Å


def crystals_of(frame: DenoisingFrame | Crystals) -> Crystals:
    return frame if isinstance(frame, Crystals) else frame.crystals


def packed(frames: Sequence[DenoisingFrame | Crystals], scores: bool = True) -> list[dict[str, Any]]:
    """Pack frames for `cell.js` as base64 of little-endian numbers, in batches of frames of equal shape.

    Args:
        frames: in order.
        scores: include sigma^2 * score, the displacement to where the model expects an atom.

    Returns:
        dicts with the `shape` (frames, crystals, sites), `x` (fractional coordinates, 16 bits), `z` (atomic numbers,
        8 bits; 0 for no atom) and `s` (0.001 Å, 16 bits). Numbers that are not finite become 0.
    """
    batches = []
    for shape, group in itertools.groupby(frames, lambda frame: crystals_of(frame).atomic_numbers.shape):
        some = list(group)
        frac = _numpy([crystals_of(frame).frac_coords for frame in some])
        batch: dict[str, Any] = {
            "shape": [len(some), *shape],
            # Just below 1 is 0: the other side of the same face.
            "x": _base64(np.round(frac % 1.0 * 65536).astype(np.int64) % 65536, "<u2"),
            "z": _base64(_numpy([crystals_of(frame).atomic_numbers for frame in some]), "u1"),
        }
        if scores:
            way = _numpy([
                torch.zeros_like(frame.frac_coords) if isinstance(frame, Crystals) else frame.sigma**2 * frame.score
                for frame in some
            ])  # fmt: skip
            length = np.linalg.norm(way, axis=-1, keepdims=True)
            batch["s"] = _base64(np.round(1000 * way * np.minimum(1, _FURTHEST / np.maximum(length, 1e-9))), "<i2")
        batches.append(batch)
    return batches


def element_table(numbers: Sequence[int]) -> dict[int, list]:
    """Table of elements for `cell.js`: color, radius (Å), symbol, place in formulas, covalent radius (Å)."""
    return {
        n: [
            *(round(c / 255, 4) for c in element_color(n)),
            round(sphere_radius(n), 3),
            symbol_of(n),
            formula_order(n),
            round(covalent_radius(n), 3),
        ]
        for n in numbers
    }


def steady(run: Trajectory | Iterable[DenoisingFrame]) -> list[Crystals]:
    """Move the crystals of every frame to the origin of `FrameOrigin`, so that they do not jump."""
    frames = list(run)
    return [o.move(frame.crystals) for o, frame in zip(FrameOrigin.along(frames), frames, strict=True)]


def write_html(
    run: Trajectory | Iterable[DenoisingFrame], path: str | Path, *, which: int | None = None, title: str | None = None
) -> Path:
    """Write a denoising run as one HTML page with an animation in three dimensions; returns the path.

    The page needs no other file and no network. It plays, steps, scrubs and turns, in light and dark, and shows all
    crystals or one.

    Args:
        run: a recording, or the frames of `denoise`; an iterator is consumed.
        path: the file to write.
        which: number of the only crystal to show; all by default.
        title: of the page.

    Raises:
        SettingError: without frames.
        IndexError: for a crystal that is not in the batch.
        LabError: if the file cannot be written.
    """
    frames = list(run)
    if not frames:
        raise SettingError("an animation needs at least one frame")
    crystals = steady(frames)
    if which is not None:
        crystals = [one[which] for one in crystals]
    lattice = crystals[0].lattice.double().nan_to_num(0.0, 0.0, 0.0)
    numbers = sorted({int(n) for one in crystals for n in one.atomic_numbers.unique().tolist()} - {0})
    last = frames[-1]
    data = {
        "frames": packed(crystals, scores=False),
        "cells": lattice.flatten(1).cpu().numpy().round(4).tolist(),
        "elements": element_table(numbers),
        "names": [f"crystal {k}" for k in (range(len(crystals[0])) if which is None else [which])],
        "steps": [frame.step for frame in frames],
        "sigmas": [float(f"{frame.sigma:.4g}") for frame in frames],
        "about": f"{last.schedule.name.replace('_', ' ')} sampler, {last.num_steps} steps, seed {last.seed}",
    }
    title = title or ("A crystal forms" if len(crystals[0]) == 1 else "Crystals form")
    play = script(file("cell.js"), f"const data = {script_data(data)};\n", file("animation.js"))
    return write_page(path, page(title, *_body(title), play, kind="animation"), "the animation")


def _body(title: str) -> list[str]:
    """The elements that `animation.js` fills and listens to."""
    speeds = [
        element("option", label, value=frames, selected=frames == 20)
        for frames, label in ((10, "½ ×"), (20, "1 ×"), (40, "2 ×"), (80, "4 ×"))
    ]
    back, following = "one frame back", "one frame forward"
    return [
        element("header", element("h1", title), element("p", id="about")),
        element("canvas", id="scene", role="img", aria_label="crystals in three dimensions; drag to turn"),
        element("div", id="legend"),
        element(
            "div",
            element("button", "◂", id="back", aria_label=back, title=f"{back} (left arrow; with shift ten)"),
            element("button", "▶", id="play", aria_label="play", title="play or pause (space)"),
            element("button", "▸", id="next", aria_label=following, title=f"{following} (right arrow; with shift ten)"),
            element("input", id="slider", type="range", min=0, value=0, aria_label="frame"),
            element("label", "speed ", element("select", speeds, id="speed")),
            element("label", "show ", element("select", id="crystal"), id="which"),
            class_="row",
        ),
        element("div", id="say", role="status"),
        element("canvas", id="noise", role="img", aria_label="noise level of every frame"),
    ]


def _numpy(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.nan_to_num(torch.stack([x.detach().cpu() for x in tensors]).double().numpy(), posinf=0.0, neginf=0.0)


def _base64(numbers: np.ndarray, kind: str) -> str:
    return base64.b64encode(numbers.astype(kind).tobytes()).decode()
