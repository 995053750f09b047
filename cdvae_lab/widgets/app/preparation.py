"""What a view needs, imported and read before it is made: seconds when a tab is first opened."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cdvae_lab import datasets, figures
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import LabError
from cdvae_lab.widgets.app.models import LoadedModel
from cdvae_lab.widgets.interpolation.path_end import default_ends
from cdvae_lab.widgets.parts.plot import prepare_figures


def prepare(name: str, loaded: LoadedModel, dataset: Dataset | str | Path) -> None:
    """Import and read what the view of a tab needs, in any thread.

    Args:
        name: of the tab.
        loaded: the model that it shows.
        dataset: what the training tab trains on.
    """
    with contextlib.suppress(LabError):  # the view raises it again, and the tab shows it
        prepare_figures()
        if loaded.map is not None and name != "monitor":
            figures.latent_map(loaded.map.value)
        if name == "interpolation":
            default_ends(loaded.model.value)
        elif name == "monitor" and not isinstance(dataset, Dataset):
            datasets.load(dataset)
