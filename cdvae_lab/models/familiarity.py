"""Whether a model represents a crystal: what its latent shows, without decoding it.

A decoding starts with the elements that the model predicts from z. If these are not the crystal's, z stands for another
crystal, and neither its reconstruction nor a path or a search that starts from it has to do with the crystal.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import cell_formulas, same_atoms
from cdvae_lab.errors import CrystalError, UnfamiliarCrystalWarning, warn_user
from cdvae_lab.io import assets
from cdvae_lab.models.atom_types import predicted_types
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.models.encodable import check_encodable

_NAMED = 3  # crystals that a warning names


@dataclass(frozen=True)
class Unfamiliar:
    """A crystal that a model does not represent.

    Attributes:
        number: of the crystal in its batch.
        formula: of its cell.
        stands_for: formula of the cell that the model predicts from its latent.
    """

    number: int
    formula: str
    stands_for: str


@torch.no_grad()
def keeps_composition(
    model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"]
) -> Bool[Tensor, " crystals"]:
    """Tell which crystals have the number of atoms and the elements that the model predicts from their latents.

    Args:
        crystals: on the model's device.
        z: latents of the crystals, by the same model.
    """
    return same_atoms(predicted_types(model, model.aggregates(z)), crystals.atomic_numbers)


def models_that_keep(crystal: Crystals, other_than: CDVAE) -> list[str]:
    """List the bundled models that can encode a crystal and predict its composition from its latent.

    It loads all of them, which takes a second or two.

    Args:
        other_than: a model that is not listed.
    """
    found, left_out = [], fingerprint(other_than)
    for name in assets.models():
        model = load(name)
        if fingerprint(model) == left_out:
            continue
        try:
            check_encodable(model, crystal)
        except CrystalError:
            continue
        inside = crystal.to(model.device, model.lattice_mean.dtype)
        if bool(keeps_composition(model, inside, model.encode(inside).mu).all()):
            found.append(name)
    return found


@torch.no_grad()
def unfamiliar_crystals(model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"]) -> list[Unfamiliar]:
    """Find the crystals whose composition a model does not predict from their latents; none for an untrained model.

    Args:
        crystals: on the model's device.
        z: latents of the crystals, by the same model.
    """
    if not model.metadata.get("steps"):  # it represents nothing yet
        return []
    predicted = predicted_types(model, model.aggregates(z))
    lost = (~same_atoms(predicted, crystals.atomic_numbers)).nonzero()[:, 0].tolist()
    if not lost:
        return []
    formulas = zip(lost, cell_formulas(crystals[lost]), _formulas(predicted[lost]), strict=True)
    return [Unfamiliar(number, formula, stands_for) for number, formula, stands_for in formulas]


def warn_if_unfamiliar(model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"]) -> None:
    """Warn of crystals whose composition a trained model does not predict from their latents.

    Warns:
        UnfamiliarCrystalWarning: naming the crystals, what the model takes them for, and the bundled models that
            represent the first of them.
    """
    lost = unfamiliar_crystals(model, crystals, z)
    if not lost:
        return
    few = [
        f"crystal {one.number} is {one.formula}, and its latent stands for {one.stands_for}" for one in lost[:_NAMED]
    ]
    more = f", and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    first = lost[0].number
    others = models_that_keep(crystals[[first]].trim(), model)
    remedy = (
        f"the bundled model {' or '.join(others)} represents {'it' if len(lost) == 1 else 'the first'}"
        if others
        else "no bundled model represents it; train one on such crystals"
    )
    warn_user(
        f"the model does not represent {len(lost)} of {len(crystals)} crystals: {'; '.join(few)}{more}. Such a crystal "
        f"is far from its training data and does not come back when it is decoded; {remedy}",
        UnfamiliarCrystalWarning,
    )


def _formulas(atomic_numbers: Int[Tensor, "crystals sites"]) -> list[str]:
    """Spell the atoms of whole cells; positions and cells do not matter."""
    nowhere = torch.zeros(*atomic_numbers.shape, 3, device=atomic_numbers.device)
    return cell_formulas(Crystals(nowhere, atomic_numbers, torch.eye(3).expand(len(nowhere), 3, 3).to(nowhere)))
