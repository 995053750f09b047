"""What the player shows before its first frame: a known crystal, and in words what a run will show."""

from __future__ import annotations

import html

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas, to_html
from cdvae_lab.errors import CrystalError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.render import at_atom
from cdvae_lab.render.spheres import element_color
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.crystal_view import CrystalView

_PREFERRED = ("SrTiO3", "NaCl", "diamond")
_SENTENCE = (
    "<div style='line-height:1.4'>{}Press <b>Run</b>: new crystals form here, out of atoms at random positions.</div>"
)
_EXAMPLE = "<b>{}</b>, an example: drag to turn it, scroll to zoom. "


class BeforeRun:
    """Shows an example in the view, and a sentence above it, until there is a frame.

    Args:
        view: where the frames will be drawn.
    """

    def __init__(self, view: CrystalView) -> None:
        self._view = view
        self._example: Crystals | None = None
        self.sentence = ipywidgets.HTML(_SENTENCE.format(""))

    def take(self, example: Crystals | None) -> None:
        """Take the example; None if there is none."""
        self._example = example
        if example is not None:
            name = to_html(html.escape(reduced_formulas(example)[0]))
            self.sentence.value = _SENTENCE.format(_EXAMPLE.format(name))

    def show(self, waiting: bool) -> None:
        """Show it, or nothing of it any more.

        Args:
            waiting: there is no frame yet, and none is being computed.
        """
        self.sentence.layout.display = "" if waiting else "none"
        if waiting and self._example is not None and not self._view.frames:
            self._view.show(self._example)


def example_for(model: CDVAE) -> Crystals | None:
    """One of the bundled examples that a model takes; None if it takes none.

    It imports, reads files, and computes the colors that the first drawing needs: seconds, in any thread.
    """
    element_color(1)
    examples = files.examples()
    for name in dict.fromkeys([*_PREFERRED, *examples]):
        [(structure, _), *_] = files.named_structures(examples[name])
        try:
            return at_atom(files.for_model(model, structure, name))
        except CrystalError:  # this model is for other crystals
            continue
    return None
