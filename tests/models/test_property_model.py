"""Property model: invariances, learning, and refused input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, DatasetError, SettingError
from cdvae_lab.models.checkpoints import load_property_model
from cdvae_lab.models.configs import PropertyModelConfig
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.training.loop import fit


@pytest.fixture
def model(random_dataset: Dataset) -> PropertyModel:
    return PropertyModel.for_dataset(random_dataset, hidden_dim=16, blocks=2).eval()


def test_equivalent_descriptions_have_the_same_property(model: PropertyModel, known_crystals: Crystals) -> None:
    model, crystals = model.double(), known_crystals.to("cpu", torch.float64)
    expected = model(crystals)
    assert expected.std() > 1e-4
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    shift = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64)
    order = torch.tensor([1, 0, 2, 3, 4])
    same = {
        "rotated": crystals.replace(lattice=crystals.lattice @ rotation),
        "moved": crystals.replace(frac_coords=(crystals.frac_coords + shift) * crystals.mask[..., None]),
        "permuted": crystals.replace(
            frac_coords=crystals.frac_coords[:, order], atomic_numbers=crystals.atomic_numbers[:, order]
        ),
        "padded": crystals.pad(9),
    }
    for how, changed in same.items():
        torch.testing.assert_close(model(changed), expected, rtol=0, atol=1e-9, msg=how)


def test_a_supercell_has_the_property_per_atom_of_its_cell(model: PropertyModel, nacl: Crystals) -> None:
    model, one = model.double(), nacl.to("cpu", torch.float64)
    twice = Crystals(
        torch.cat([one.frac_coords, one.frac_coords + torch.tensor([1.0, 0, 0])], 1) * torch.tensor([0.5, 1, 1]),
        one.atomic_numbers.repeat(1, 2),
        one.lattice * torch.tensor([2.0, 1, 1]).double()[:, None],
    )
    torch.testing.assert_close(model(twice), model(one), rtol=0, atol=1e-9)


def test_it_learns_a_property_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    data = datasets.load("synthetic_perovskites")[:96]
    settings = {"batch_size": 32, "steps": 120, "lr": 3e-3, "warm_up": 10, "ema_decay": 0.95}
    first = PropertyModel.for_dataset(data, hidden_dim=16, blocks=1)
    before = (first(data.crystals) - data.labels).abs().mean()
    whole = list(fit(first, data, **settings))
    assert list(whole[0].terms) == ["property"]
    after = (whole[-1].averaged()(data.crystals) - data.labels).abs().mean()
    assert after < 0.4 * before

    second = PropertyModel.for_dataset(data, hidden_dim=16, blocks=1)
    for step in fit(second, data, **settings):
        if step.step == 50:
            step.save(tmp_path / "state.safetensors")
            break
    resumed = list(fit(tmp_path / "state.safetensors", data))
    assert resumed[0].step == 51
    for ours, theirs in zip(resumed[-1].model.parameters(), whole[-1].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_invalid_crystals_have_the_property_nan(model: PropertyModel, known_crystals: Crystals) -> None:
    flat, heavy, lost = (known_crystals[k].pad(5) for k in (0, 1, 2))
    flat = flat.replace(lattice=flat.lattice * torch.tensor([1.0, 1, 0])[:, None])
    heavy = heavy.replace(atomic_numbers=torch.where(heavy.atomic_numbers == 17, 117, heavy.atomic_numbers))
    lost = lost.replace(frac_coords=torch.full_like(lost.frac_coords, torch.nan))
    result = model(Crystals.cat([flat, heavy, lost, known_crystals]))
    assert result[:3].isnan().all()
    torch.testing.assert_close(result[3:], model(known_crystals))


def test_a_saved_property_model_loads_unchanged(model: PropertyModel, known_crystals: Crystals, tmp_path: Path) -> None:
    model.metadata = {"data": {"name": "random"}}
    path = model.save(tmp_path / "p.safetensors", test_mae=0.1)
    again = load_property_model(path)
    assert torch.equal(again(known_crystals), model(known_crystals))
    assert again.metadata == {"data": {"name": "random"}, "test_mae": 0.1}
    half = load_property_model(model.save(tmp_path / "half.safetensors", half=True))
    torch.testing.assert_close(half(known_crystals), model(known_crystals), rtol=0, atol=0.02)
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_property_model(tmp_path / "none.safetensors")
    with pytest.raises(SettingError, match="is bundled"):
        load_property_model("no_such_set")


def test_data_without_labels_or_with_unknown_elements_are_refused(random_dataset: Dataset) -> None:
    unlabeled = dataclasses.replace(random_dataset, labels=torch.full((20,), torch.nan))
    with pytest.raises(DatasetError, match="0 labels"):
        PropertyModel.for_dataset(unlabeled)
    for wrong in ({"hidden_dim": 0}, {"blocks": 0}, {"num_radial": 1}, {"num_neighbors": -1}, {"cutoff": 0.0}):
        with pytest.raises(SettingError, match="PropertyModelConfig"):
            PropertyModelConfig(**wrong)
