"""Crystals as small pictures in a row, each with a few lines of text, of which one is looked at."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from cdvae_lab import render
from cdvae_lab.crystals import Crystals

SIZE = 110  # pixels; below 120 a picture has no legend, which could not be read


class Film(anywidget.AnyWidget):
    """`at` is the picture that is looked at; -1 for none."""

    _esm = Path(__file__).with_name("film.js")
    pictures = traitlets.List().tag(sync=True)
    at = traitlets.Int(-1).tag(sync=True)


def formula(crystal: Crystals) -> str:
    """Of the first crystal, also where its cell is none that could be exported: far outside the data it may be flat."""
    from ase.data import chemical_symbols
    from pymatgen.core import Composition

    counts = Counter(crystal.atomic_numbers[0][crystal.mask[0]].tolist())
    return Composition({chemical_symbols[n]: k for n, k in counts.items()}).reduced_formula


def film_picture(crystal: Crystals, lines: Sequence[str]) -> dict[str, Any]:
    """One picture of a `Film`: the first crystal, on any paper, and what is written below it."""
    # The origin on an atom, so that a crystal that was merely moved looks the same.
    png = render.png_bytes(render.at_atom(crystal), size=SIZE, theme="transparent")
    return {"image": f"data:image/png;base64,{base64.b64encode(png).decode()}", "lines": list(lines)}
