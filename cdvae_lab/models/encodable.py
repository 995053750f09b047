"""Crystals that a model can encode: reading them, and refusing others with a message that names the crystal."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.errors import CrystalError
from cdvae_lab.io import convert
from cdvae_lab.io.canonical import unseen_elements
from cdvae_lab.models.cdvae import CDVAE


def read_encodable(model: CDVAE, source: object) -> Crystals:
    """Read crystals that the model can encode, on the model's device, from anything that `convert.read` takes.

    Raises:
        CrystalError: naming the file, for input that `convert.read` refuses, more atoms than the model's largest cell,
            or elements that its training set lacks.
    """
    seen = frozenset(model.elements.nonzero()[:, 0].tolist())
    dtype = model.lattice_mean.dtype
    return convert.read(source, max_atoms=model.config.max_atoms, elements=seen, dtype=dtype).to(model.device)


def check_encodable(model: CDVAE, crystals: Crystals, *, allow_unseen: bool = False) -> None:
    """Refuse crystals that the model cannot encode.

    Args:
        allow_unseen: accept elements that the training set lacks, so that one crystal does not end the evaluation of a
            whole test set. The model cannot reconstruct them.

    Raises:
        CrystalError: naming the crystal by its number.
    """
    most = model.config.max_atoms
    too_large, too_heavy = crystals.num_atoms > most, crystals.atomic_numbers.amax(1) > NUM_ELEMENTS
    for number in (too_large | too_heavy).nonzero()[:1, 0].tolist():
        raise CrystalError(
            f"crystal {number}: has {int(crystals.num_atoms[number])} atoms up to Z = "
            f"{int(crystals.atomic_numbers[number].max())}, but the model takes {most} atoms up to Z = {NUM_ELEMENTS}; "
            "leave it out, or use a model that was trained on such crystals"
        )
    if allow_unseen:
        return
    unseen = ~model.elements.to(crystals.device)[crystals.atomic_numbers] & crystals.mask
    for number in unseen.any(1).nonzero()[:1, 0].tolist():
        found = crystals.atomic_numbers[number][unseen[number]].unique().tolist()
        known = model.elements.nonzero()[:, 0].tolist()
        raise CrystalError(unseen_elements(f"crystal {number}", found, known))
