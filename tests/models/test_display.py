"""Representations of models: one line of text, and a small table in a notebook."""

from __future__ import annotations

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.property_model import PropertyModel
from tests.small_model import SMALL


def test_every_model_is_one_short_line(random_dataset: Dataset) -> None:
    model = CDVAE.for_dataset(random_dataset, **SMALL)
    model.metadata["data"] = {"name": "random <b>"}
    size = sum(p.numel() for p in model.parameters())
    assert repr(model) == f"CDVAE(parameters: {size:,}, data: random <b>, latent_dim: 8, prior: N(0, I))"
    assert "random &lt;b&gt;" in model._repr_mimebundle_()["text/html"]
    model.prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=8, blocks=1, steps=4))
    assert repr(model).endswith("prior: learned)")
    others = [PropertyModel.for_dataset(random_dataset), CompositionModel.for_dataset(random_dataset), model.prior]
    for other in others:
        assert repr(other).startswith(f"{type(other).__name__}(parameters: ")
        assert "\n" not in repr(other)
    assert "Linear" in repr(model.encoder)  # parts still show their layers
