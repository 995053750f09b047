"""The stops of a path as a strip of pictures that can be clicked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import anywidget
import traitlets

from cdvae_lab import render
from cdvae_lab.crystals import Crystals
from cdvae_lab.metrics import validity
from cdvae_lab.widgets import words


class Film(anywidget.AnyWidget):
    """One row of pictures. `at` is the one that is marked, -1 for none; a click and the arrow keys change it."""

    _esm = Path(__file__).with_name("film.js")
    items = traitlets.List().tag(sync=True)
    at = traitlets.Int(-1).tag(sync=True)

    def show(self, crystals: Crystals, places: Sequence[str], size: int = 150) -> None:
        """One picture a crystal, with formula, number of atoms and what is wrong.

        Args:
            crystals: in their order.
            places: where on the path each is, for people.
            size: of a picture, pixels.
        """
        placed = render.at_atom(crystals)
        valid = validity.structure_validity(crystals).tolist()
        neutral = validity.composition_validity(crystals).tolist()
        items = []
        for number, formula in enumerate(words.formulas(crystals)):
            png = render.png_bytes(placed, number, size=size, theme="transparent", legend=False)
            wrong = "not valid" if not valid[number] else "" if neutral[number] else "charges do not balance"
            atoms = f"{int(crystals.num_atoms[number])} atoms"
            items.append(
                {
                    "src": f"data:image/png;base64,{base64.b64encode(png).decode()}",
                    "title": words.subscripts(formula),
                    "more": " · ".join(filter(None, [places[number], atoms, wrong])),
                    "warn": bool(wrong),
                }
            )
        self.items = items
