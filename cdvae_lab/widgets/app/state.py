"""The tabs and the settings of the app."""

from __future__ import annotations

import traitlets

from cdvae_lab.widgets.base.state import Choice, ViewState

TABS = {
    "player": "Denoise",
    "map": "Latent map",
    "interpolation": "Interpolate",
    "optimizer": "Optimize",
    "monitor": "Train",
}


class AppState(ViewState):
    """Every field of an `App`.

    Attributes:
        tab: the open tab.
        model: the model of all tabs but training, by its label.
        own_checkpoint: path of a checkpoint to take as the model.
        map_source: data set, or folder of CIFs, to make a map of; empty: what the model was trained on.
    """

    tab = Choice([(title, name) for name, title in TABS.items()])
    model = Choice(["perov_5"]).tag(saved=False)
    own_checkpoint = traitlets.Unicode("").tag(saved=False)
    map_source = traitlets.Unicode("")
