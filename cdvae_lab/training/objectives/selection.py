"""Selection of the objective of a model by its type."""

from __future__ import annotations

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import Trainable
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.training.objectives.cdvae import CDVAEObjective
from cdvae_lab.training.objectives.composition_model import CompositionObjective
from cdvae_lab.training.objectives.latent_prior import PriorObjective
from cdvae_lab.training.objectives.objective import Objective
from cdvae_lab.training.objectives.property_model import PropertyObjective
from cdvae_lab.training.settings import LossWeights


def objective_for(
    model: Trainable,
    dataset: Dataset,
    encoder: CDVAE | None = None,
    weights: LossWeights | None = None,
    strain: float = 0.0,
    rattle: float = 0.0,
) -> Objective:
    """Create the objective of a model.

    Args:
        encoder: the trained CDVAE whose latents a latent prior learns; None for every other model.
        weights: weights of a CDVAE's terms, the paper's by default; None for every other model, which has one term.
        strain, rattle: augmentation of the crystals of a CDVAE, as in `FitSettings`.

    Raises:
        SettingError: for a prior without an encoder, or for an encoder, weights or augmentation that it does not take.
        DatasetError: if the model cannot be trained on the data set.
    """
    if isinstance(model, DiffusionPrior) != (encoder is not None):
        raise SettingError("a latent prior is fitted to the latents of an encoder=, and no other model takes one")
    if weights is not None and not isinstance(model, CDVAE):
        raise SettingError(f"weights= are those of a CDVAE's loss terms; a {type(model).__name__} has a single term")
    if (strain or rattle) and not isinstance(model, CDVAE):
        raise SettingError(f"strain and rattle augment the crystals of a CDVAE; a {type(model).__name__} takes neither")
    if isinstance(model, CDVAE):
        return CDVAEObjective(model, dataset, weights or LossWeights(), strain, rattle)
    if isinstance(model, PropertyModel):
        return PropertyObjective(model, dataset)
    if isinstance(model, CompositionModel):
        return CompositionObjective(model, dataset)
    assert encoder is not None
    return PriorObjective(model, encoder, dataset)
