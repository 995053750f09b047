"""The crystals along a path as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cdvae_lab import render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.widgets.parts.writing import Writing

KINDS = ("cif", "extxyz", "png", "gif")


def write_path(crystals: Crystals, texts: Sequence[str], folder: Path, kinds: Sequence[str]) -> Iterator[Writing]:
    """Write the crystals along a path; yields the progress after each kind, and after each picture of the animation.

    Args:
        crystals: of the stops, on the CPU.
        texts: a caption for each.
        folder: created if necessary.
        kinds: of `KINDS`.

    Raises:
        CrystalError: if a crystal cannot be exported.
        LabError: if a file cannot be written.
    """
    placed = render.at_atom(crystals)
    each = [placed[k] for k in range(len(placed))]
    progress = Writing(0, len(kinds) + (len(each) if "gif" in kinds else 0))
    yield progress
    for kind in kinds:
        if kind == "cif":
            names = [f"stop_{k:02d}_{formula}" for k, formula in enumerate(reduced_formulas(placed))]
            written = placed.write_cif(folder, names)
        elif kind == "extxyz":
            written = [placed.write_extxyz(folder / "path.xyz")]
        elif kind == "png":
            strip = render.strip(each, captions=texts, size=200)
            with atomic_path(folder / "path.png", "the strip") as temporary:
                temporary.write_bytes(render.png_bytes(strip))
            written = [folder / "path.png"]
        else:
            pictures = []
            for one, text in zip(each, texts, strict=True):
                pictures.append(render.picture(one, size=320, caption=text))
                progress = replace(progress, step=progress.step + 1)
                yield progress
            written = [render.gif(pictures, folder / "path.gif", fps=2)]
        progress = replace(progress, step=progress.step + 1, files=(*progress.files, *written))
        yield progress
