"""A run as a film in one HTML file, and the frames in the form that browsers are given them."""

from __future__ import annotations

import base64
import html
import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import formula_order, symbol_of
from cdvae_lab.errors import SettingError
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.render.origin import FilmOrigin
from cdvae_lab.render.spheres import covalent_radius, element_color, sphere_radius
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.trajectory import Trajectory

_FURTHEST = 30.0  # Å: a longer way along the score is shortened, so that it fits in 16 bits of 0.001 Å


@cache
def script(name: str) -> str:
    """A file of JavaScript or HTML that lies beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def crystals_of(frame: DenoisingFrame | Crystals) -> Crystals:
    return frame if isinstance(frame, Crystals) else frame.crystals


def packed(frames: Sequence[DenoisingFrame | Crystals], scores: bool = True) -> list[dict[str, Any]]:
    """Frames for `cell.js`, base64 of little-endian numbers: batches of frames of equal shape.

    Args:
        frames: in order.
        scores: also sigma^2 * score, where the model thinks that an atom belongs.

    Returns:
        dicts with the `shape` (frames, crystals, sites), `x` (fractional coordinates, 16 bits), `z` (atomic numbers,
        8 bits; 0 for no atom) and `s` (0.001 Å, 16 bits). What is not finite is drawn at 0.
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
    """What `cell.js` must know of elements: color, radius (Å), symbol, place in formulas, covalent radius (Å)."""
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
    """The crystals of every frame, moved as `FilmOrigin` does it."""
    frames = list(run)
    return [o.move(frame.crystals) for o, frame in zip(FilmOrigin.along(frames), frames, strict=True)]


def write_html(
    run: Trajectory | Iterable[DenoisingFrame], path: str | Path, *, which: int | None = None, title: str | None = None
) -> Path:
    """Write a run as one HTML file that shows it in three dimensions, atomically; returns the path.

    The file needs nothing else and no network: play, step, scrub, turn, choose a crystal, in light and dark.

    Args:
        run: a recording, or what `denoise` yields; consumed.
        path: the file to write.
        which: only this crystal; all by default.
        title: of the page.

    Raises:
        SettingError: without frames.
        IndexError: no crystal of that number.
        LabError: the file cannot be written.
    """
    frames = list(run)
    if not frames:
        raise SettingError("a film needs at least one frame")
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
    parts = {
        "/*CELL*/": script("cell.js"),
        # JSON inside a script must not end it.
        "/*DATA*/null": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "<!--TITLE-->": html.escape(title),
    }
    page = script("animation.html")
    for place, text in parts.items():
        page = page.replace(place, text)
    with atomic_path(path, "the film") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def _numpy(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.nan_to_num(torch.stack([x.detach().cpu() for x in tensors]).double().numpy(), posinf=0.0, neginf=0.0)


def _base64(numbers: np.ndarray, kind: str) -> str:
    return base64.b64encode(numbers.astype(kind).tobytes()).decode()
