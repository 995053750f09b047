"""The crystals to train on and those that are held out, with the statements that read them."""

from __future__ import annotations

from pathlib import Path

from cdvae_lab import datasets
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.widgets.base.replay_code import WithCode

Source = Dataset | str | Path


def training_set(source: Source) -> WithCode[Dataset]:
    """The data set to train on, of a named one its training part, with the statement that binds it to `data`.

    Raises:
        DatasetError: if it cannot be read.
    """
    return _read(source, "train", "data")


def held_out(source: Source, given: Source | None) -> WithCode[Dataset] | None:
    """Crystals that are not trained on, with the statement that binds them to `validation`; None if there are none.

    Args:
        source: what is trained on; of a named data set the part `val` is held out.
        given: other crystals to hold out.

    Raises:
        DatasetError: if they cannot be read.
    """
    named = isinstance(source, str) and (source in datasets.PUBLIC or source == datasets.SYNTHETIC)
    chosen = source if given is None and named else given
    return None if chosen is None else _read(chosen, "val", "validation")


def _read(source: Source, split: str, name: str) -> WithCode[Dataset]:
    if isinstance(source, Dataset):
        return WithCode(source, f"# `{name}` is the data set that the view was given")
    part = datasets.split_of(source, split)
    own = "" if part is None else f", {part!r}"
    return WithCode(datasets.load(source, part), f"{name} = lab.datasets.load({str(source)!r}{own})")
