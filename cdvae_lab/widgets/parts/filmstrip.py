"""Crystals as small pictures in a row, each with a few lines of text, of which one is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas, to_html
from cdvae_lab.metrics import validity
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.parts.front_end import widget_code


class Film(anywidget.AnyWidget):
    """One row of pictures. `at` is the one that is marked, -1 for none; a click and the arrow keys change it."""

    _esm = widget_code("filmstrip.js")
    items = traitlets.List().tag(sync=True)
    at = traitlets.Int(-1).tag(sync=True)


def film_picture(crystal: Crystals, lines: Sequence[str], title: str = "", warn: bool = False) -> dict[str, Any]:
    """Describe one picture of a `Film`: the first crystal on a transparent background, and the lines below it.

    Args:
        lines: plain text.
        title: HTML, above them.
        warn: write the lines in the color of errors.
    """
    return {"image": captions.picture_source(crystal), "title": title, "lines": list(lines), "warn": warn}


def path_pictures(crystals: Crystals, places: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the stops of a path: formula, place on the path, number of atoms, and the problem of an invalid one."""
    valid = validity.structure_validity(crystals).tolist()
    neutral = validity.composition_validity(crystals).tolist()
    pictures = []
    for number, formula in enumerate(reduced_formulas(crystals)):
        wrong = "not valid" if not valid[number] else "" if neutral[number] else "charges do not balance"
        line = " · ".join(filter(None, [places[number], f"{int(crystals.num_atoms[number])} atoms", wrong]))
        pictures.append(film_picture(crystals[number], [line], to_html(formula), bool(wrong)))
    return pictures
