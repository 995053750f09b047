"""The settings of the interpolation view."""

from __future__ import annotations

import traitlets

from cdvae_lab.explore.interpolation import PATHS
from cdvae_lab.widgets.base.state import Choice, ViewState

KEEP: dict[str, dict[str, str]] = {
    "nothing": {},
    "composition of a": {"keep_composition": "a"},
    "composition of b": {"keep_composition": "b"},
    "number of atoms of a": {"keep_num_atoms": "a"},
    "number of atoms of b": {"keep_num_atoms": "b"},
}
PREDICTED = "predicted"  # the quantity that the model predicts
QUANTITIES = {"density": "g/cm³", "volume per atom": "Å³", "number of atoms": "", "closest distance": "Å"}
MAX_STOPS = 41
LARGEST_SEED = 2**31 - 1


class InterpolationState(ViewState):
    """Every field of an `InterpolationView`.

    Attributes:
        a, b: name of an example or path of a file; empty for a crystal that was given in another way, or none.
        primitive_a, primitive_b: replace that end by its primitive cell.
        n: number of stops, with both ends.
        path: "straight" or "spherical".
        keep: what every stop keeps; one of `KEEP`.
        seed: of the decoder's noise.
        quantity: drawn along the path; "predicted", or one of `QUANTITIES`.
        folder: where exports go.
        stop: number of the stop that is shown; -1 for all side by side.
    """

    a = traitlets.Unicode("")
    b = traitlets.Unicode("")
    primitive_a = traitlets.Bool(False)
    primitive_b = traitlets.Bool(False)
    n = traitlets.Int(9, min=2, max=MAX_STOPS)
    path = Choice(PATHS)
    keep = Choice(KEEP)
    seed = traitlets.Int(0, min=0, max=LARGEST_SEED)
    quantity = Choice(QUANTITIES)
    folder = traitlets.Unicode("out/path")
    stop = traitlets.Int(-1, min=-1).tag(saved=False)
