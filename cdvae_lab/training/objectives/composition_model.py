"""The training objective of a composition model."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models import noise
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.training.checks import counts_for


class CompositionObjective:
    """The objective of a composition model: the negative log-likelihood of the data set's compositions, in nats.

    Raises:
        DatasetError: naming a crystal whose composition the model cannot represent.
    """

    def __init__(self, model: CompositionModel, dataset: Dataset) -> None:
        counts_for(model, dataset)
        self.model, self.dataset = model, dataset
        self.terms, self.weights = ("negative_log_likelihood",), {"negative_log_likelihood": 1.0}
        self.sizes = torch.ones(len(dataset), dtype=torch.int64)

    def prepare(self) -> None:
        self.model.train().requires_grad_(True)
        self.sequences = self.model.sequences(counts_for(self.model, self.dataset))

    def images_for(self, sites: int) -> int:
        return 0

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        index, c = index[mine], self.model.config
        keep = noise.dropout_factors(c.dropout, seed, index, step, (2 * c.blocks + 1, c.hidden_dim))
        return {"negative_log_likelihood": -self.model.log_prob_of_sequences(self.sequences[index], keep).mean()}
