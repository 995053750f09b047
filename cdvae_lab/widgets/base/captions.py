"""Captions of a crystal: its formula, facts and a small picture, as text and HTML."""

from __future__ import annotations

import base64
import html

from cdvae_lab import render
from cdvae_lab.crystals import formulas
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.io.convert import is_usable
from cdvae_lab.metrics import validity


def formula(crystal: Crystals) -> str:
    """Reduced formula of the first crystal."""
    return formulas.reduced_formulas(crystal[:1])[0]


def facts(crystal: Crystals) -> str:
    """Number of atoms, density and validity of one crystal, as HTML."""
    if not bool(is_usable(crystal)[0]):
        return f"{int(crystal.num_atoms)} atoms; the cell is flat or not finite, so that no other program could read it"
    [wrong] = validity.invalid_reasons(crystal)
    verdict = f"not valid: {html.escape(wrong)}" if wrong else "valid: atoms apart, charges can balance"
    return f"{int(crystal.num_atoms)} atoms, {float(formulas.density(crystal)[0]):.2f} g/cm³<br>{verdict}"


def picture(crystal: Crystals, size: int = 150) -> str:
    """A small picture as HTML, for light and dark pages."""
    return f"<img width='{size}' height='{size}' alt='' src='{picture_source(crystal, size)}'>"


def picture_source(crystal: Crystals, size: int = 150) -> str:
    """A small picture as a data URL."""
    # With the origin on an atom, translated copies of a crystal give the same picture.
    png = render.png_bytes(render.at_atom(crystal), size=size, theme="transparent", legend=False)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
