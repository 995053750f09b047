"""The settings of the latent map view."""

from __future__ import annotations

import traitlets

from cdvae_lab.widgets.base.state import Choice, ViewState

LABEL, PREDICTED = "label", "predicted"
LARGEST_SEED = 2**31 - 1


class LatentMapState(ViewState):
    """Every field of a `LatentMapView`.

    Attributes:
        color: of the crystals: "label", "predicted", "num_atoms", "density", or the symbol of an element.
        mouse: "pan" moves the map, "lasso" selects crystals.
        find: a formula or id to find.
        hidden: names of the layers that are not shown.
        n: number of crystals to generate.
        seed: of their generation.
        file: path of the crystals to place on the map.
        folder: where exports go.
        rows: numbers of the crystals in the table.
    """

    color = Choice([LABEL, "num_atoms", "density"])
    mouse = Choice([("move", "pan"), ("lasso", "lasso")])
    find = traitlets.Unicode("").tag(saved=False)
    hidden = traitlets.List(traitlets.Unicode())
    n = traitlets.Int(16, min=1, max=64)
    seed = traitlets.Int(0, min=0, max=LARGEST_SEED)
    file = traitlets.Unicode("")
    folder = traitlets.Unicode("out")
    rows = traitlets.List(traitlets.Int(min=0)).tag(saved=False)
