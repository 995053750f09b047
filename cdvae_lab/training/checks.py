"""Checks that a model can be trained on a data set, before anything is computed."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.formulas import element_counts
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import DatasetError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.composition_model import CompositionModel


def check_fits(model: CDVAE, dataset: Dataset) -> None:
    """Check that a CDVAE has room for the crystals of a data set.

    Raises:
        DatasetError: naming a crystal or element that the model has no room for, and the remedy.
    """
    largest = int(dataset.crystals.num_atoms.max())
    if largest > model.config.max_atoms:
        where = dataset.ids[int(dataset.crystals.num_atoms.argmax())]
        raise DatasetError(
            f"{dataset.name}: crystal {where} has {largest} atoms, but the model takes {model.config.max_atoms} at "
            "most; make the model with CDVAE.for_dataset(dataset), or leave larger crystals out"
        )
    check_heaviest(dataset, "CDVAE")


def check_heaviest(dataset: Dataset, of: str) -> None:
    """Check that a data set has no elements beyond the last class of our networks.

    Raises:
        DatasetError: naming the heaviest element.
    """
    if (heaviest := max(dataset.elements)) > NUM_ELEMENTS:
        raise DatasetError(
            f"{dataset.name}: has Z = {heaviest}, but a {of} has classes for Z <= {NUM_ELEMENTS} only; leave its "
            "crystals out"
        )


def check_elements(model: CDVAE, dataset: Dataset) -> None:
    """Check that a CDVAE may generate all elements of a data set. Evaluation does not require it, training does.

    Raises:
        DatasetError: naming the elements.
    """
    if unknown := sorted(set(dataset.elements) - set(model.elements.nonzero()[:, 0].tolist())):
        raise DatasetError(
            f"{dataset.name}: has elements that the model does not know (Z = {', '.join(map(str, unknown))}); make the "
            "model with CDVAE.for_dataset(dataset), or leave those crystals out"
        )


def counts_for(model: CompositionModel, dataset: Dataset) -> Int[Tensor, "crystals elements"]:
    """Count the atoms of every element in each crystal of a data set, on the model's device.

    Raises:
        DatasetError: naming a crystal whose composition the model cannot represent.
    """
    if max(dataset.elements) <= NUM_ELEMENTS:
        counts = element_counts(dataset.crystals.atomic_numbers).to(model.device)
        impossible = (~model.is_possible(counts)).nonzero()[:1, 0].tolist()
        if not impossible:
            return counts
        where = f"crystal {dataset.ids[impossible[0]]} has more atoms or elements, or others,"
    else:
        where = f"Z = {max(dataset.elements)} is heavier"
    raise DatasetError(
        f"{dataset.name}: {where} than the composition model takes; make one with "
        "CompositionModel.for_dataset(dataset), or leave such crystals out"
    )
