"""Regularization of training: weight decay, dropout in the decoder, and augmentation by strain and rattle."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import read_training_state
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.training.augmentation import cutoff_before_strain, rattle_atoms, strain_cells
from cdvae_lab.training.loop import fit
from cdvae_lab.training.objectives.selection import objective_for
from cdvae_lab.training.run import Run
from cdvae_lab.training.settings import FitOptions, FitSettings
from cdvae_lab.training.validation import validation_losses
from tests.small_model import SMALL

ALL: FitOptions = {"weight_decay": 0.5, "strain": 0.02, "rattle": 0.05}
SHORT: FitOptions = {"batch_size": 6, "warm_up": 2, "lr": 2e-3}


def new_model(dataset: Dataset, **settings: float) -> CDVAE:
    return CDVAE.for_dataset(dataset, **{**SMALL, **settings})


def trained(model: CDVAE, dataset: Dataset, steps: int = 4, **settings: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of every step, and the weights at the end."""
    options: dict = {**SHORT, **settings}
    losses = torch.stack([step.losses for step in fit(model, dataset, steps=steps, **options)])
    return losses, {name: value.detach().clone() for name, value in model.state_dict().items()}


# Settings at 0 change nothing


def test_without_weight_decay_the_optimizer_is_adam_bit_for_bit(
    random_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, weights = trained(new_model(random_dataset), random_dataset)

    def adam(groups: list[dict], **settings: object) -> torch.optim.Adam:
        return torch.optim.Adam([p for group in groups for p in group["params"]], **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim, "AdamW", adam)
    expected_losses, expected = trained(new_model(random_dataset), random_dataset)
    assert torch.equal(losses, expected_losses)
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("setting", ["weight_decay", "strain", "rattle", "decoder_dropout"])
def test_each_setting_changes_the_run(random_dataset: Dataset, setting: str) -> None:
    losses, weights = trained(new_model(random_dataset), random_dataset)
    if setting == "decoder_dropout":
        others, changed = trained(new_model(random_dataset, decoder_dropout=0.2), random_dataset)
    else:
        others, changed = trained(new_model(random_dataset), random_dataset, **{setting: ALL.get(setting, 0.0)})
    assert not torch.equal(weights["decoder.blocks.0.update.0.weight"], changed["decoder.blocks.0.update.0.weight"])
    # Weight decay acts after the first loss, the others within it.
    assert torch.equal(losses[0], others[0]) == (setting == "weight_decay")


# Weight decay


def test_weight_decay_shrinks_matrices_and_nothing_else(random_dataset: Dataset) -> None:
    """With the same gradient, the first step differs by lr * weight_decay * weight."""
    model, lr, decay = new_model(random_dataset), 2e-3, 0.5
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after = []
    for weight_decay in (0.0, decay):
        model = new_model(random_dataset)
        for _ in fit(model, random_dataset, steps=1, batch_size=6, lr=lr, warm_up=0, weight_decay=weight_decay):
            pass
        after.append(dict(model.named_parameters()))
    embeddings = {"encoder_types.weight", "decoder_types.weight"}
    shrunk = set()
    for name, start in before.items():
        difference = (after[0][name] - after[1][name]).detach()
        if difference.any():
            shrunk.add(name)
            torch.testing.assert_close(difference, lr * decay * start, rtol=0, atol=1e-6)
    matrices = {name for name, p in before.items() if p.ndim == 2} - embeddings
    assert shrunk == matrices
    assert {"to_mu.weight", "decoder.blocks.1.radial_filter.weight"} <= shrunk
    assert isinstance(model.encoder_types, nn.Embedding)


# Dropout


def test_the_decoder_stays_equivariant_with_dropout(random_dataset: Dataset) -> None:
    model = new_model(random_dataset).double()
    crystals = random_dataset.crystals[:4].to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, SMALL["latent_dim"], generator=generator).double()
    sigma = torch.full((4,), 0.3, dtype=torch.float64)
    shape = (4, SMALL["decoder_blocks"], 2, SMALL["hidden_dim"])
    keep = (torch.rand(shape, generator=generator) > 0.3).double() / 0.7
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    p, logits = model.predict_noise(crystals, z, sigma, keep=keep)
    turned, same = model.predict_noise(crystals.replace(lattice=crystals.lattice @ q), z, sigma, keep=keep)
    torch.testing.assert_close(turned, p @ q, rtol=0, atol=1e-9)
    torch.testing.assert_close(same, logits, rtol=0, atol=1e-9)
    assert (p - model.predict_noise(crystals, z, sigma)[0]).abs().max() > 1e-3
    nothing_dropped, _ = model.predict_noise(crystals, z, sigma, keep=torch.ones_like(keep))
    assert torch.equal(nothing_dropped, model.predict_noise(crystals, z, sigma)[0])


def test_dropout_belongs_to_training_alone(random_dataset: Dataset) -> None:
    """Validation of a model in training mode drops nothing, since no state of the model decides it."""
    with_dropout, without = new_model(random_dataset, decoder_dropout=0.5), new_model(random_dataset)
    assert validation_losses(with_dropout.train(), random_dataset) == validation_losses(without, random_dataset)


# Augmentation


def test_a_strain_is_symmetric_and_bounded_and_keeps_fractional_coordinates(random_dataset: Dataset) -> None:
    crystals, numbers = random_dataset.crystals.to(dtype=torch.float64), torch.arange(len(random_dataset))
    strained = strain_cells(crystals, 0.02, 0, numbers, 7)
    strain = torch.linalg.solve(crystals.lattice, strained.lattice) - torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(strain, strain.transpose(1, 2), rtol=0, atol=1e-12)
    assert 0.01 < strain.abs().max() <= 0.02
    assert torch.equal(strained.frac_coords, crystals.frac_coords)
    assert torch.equal(strained.atomic_numbers, crystals.atomic_numbers)


def test_the_images_of_the_unstrained_cell_reach_every_neighbor_of_the_strained_one(random_dataset: Dataset) -> None:
    model = new_model(random_dataset, num_neighbors=0).double()
    crystals, strain = random_dataset.crystals.to(dtype=torch.float64), 0.1
    images = periodic_images(crystals.lattice, cutoff_before_strain(model.config.cutoff, strain))
    for step in range(5):
        strained = strain_cells(crystals, strain, 0, torch.arange(len(crystals)), step)
        given, computed = model.encode(strained, images).mu, model.encode(strained).mu
        torch.testing.assert_close(given, computed, rtol=0, atol=1e-9)


def test_a_rattle_has_its_standard_deviation_and_leaves_padding_alone(random_dataset: Dataset) -> None:
    crystals, numbers = random_dataset.crystals.to(dtype=torch.float64), torch.arange(len(random_dataset))
    moved = []
    for step in range(40):
        rattled = rattle_atoms(crystals, 0.05, 0, numbers, step)
        assert (rattled.frac_coords[~crystals.mask] == 0).all()
        delta = rattled.frac_coords - crystals.frac_coords
        moved.append(((delta - delta.round()) @ crystals.lattice)[crystals.mask])
    assert torch.cat(moved).std().item() == pytest.approx(0.05, rel=0.05)


def test_an_augmentation_is_a_function_of_seed_step_and_crystal_number(random_dataset: Dataset) -> None:
    crystals, numbers = random_dataset.crystals, torch.arange(len(random_dataset))
    for change in (strain_cells, rattle_atoms):
        whole, again = (change(crystals, 0.02, 3, numbers, 5) for _ in range(2))
        part = change(crystals[4:7], 0.02, 3, numbers[4:7], 5)
        for name in ("lattice", "frac_coords"):
            assert torch.equal(getattr(whole, name), getattr(again, name))
            assert torch.equal(getattr(whole, name)[4:7], getattr(part, name))
        later = change(crystals, 0.02, 3, numbers, 6)
        assert not (torch.equal(whole.lattice, later.lattice) and torch.equal(whole.frac_coords, later.frac_coords))


# Runs


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(random_dataset: Dataset, tmp_path: Path, stop: int) -> None:
    options: dict = {**SHORT, **ALL, "steps": 8}
    whole_model = new_model(random_dataset, decoder_dropout=0.2)
    whole = [step.losses for step in fit(whole_model, random_dataset, **options)]
    halves = []
    for step in fit(new_model(random_dataset, decoder_dropout=0.2), random_dataset, **options):
        halves.append(step.losses)
        if step.step == stop:
            step.save(tmp_path / "half.safetensors")
            break
    assert read_training_state(tmp_path / "half.safetensors").fit["strain"] == 0.02
    last = None
    for last in fit(tmp_path / "half.safetensors", random_dataset):
        halves.append(last.losses)
    assert torch.equal(torch.stack(halves), torch.stack(whole))
    assert last is not None
    assert last.settings == FitSettings(**options)
    for (name, value), other in zip(whole_model.state_dict().items(), last.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_share_of_a_batch_has_the_augmentation_of_the_whole(random_dataset: Dataset) -> None:
    objective = objective_for(new_model(random_dataset, decoder_dropout=0.2), random_dataset, strain=0.02, rattle=0.05)
    objective.prepare()
    index, step, images = torch.arange(8), torch.tensor(3), objective.images_for(6)
    whole = objective.losses(index, slice(None), step, 6, images, 0)
    shares = [objective.losses(index, slice(rank, None, 2), step, 6, images, 0) for rank in range(2)]
    for name, value in whole.items():
        mean = (shares[0][name] + shares[1][name]).item() / 2
        assert mean == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_a_run_keeps_its_averaged_model_without_augmentation(random_dataset: Dataset) -> None:
    settings = FitSettings(steps=3, batch_size=6, **ALL)
    objective = objective_for(new_model(random_dataset), random_dataset, strain=settings.strain, rattle=settings.rattle)
    objective.prepare()
    run = Run(objective, random_dataset, settings, compile=False, processes=Processes())
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.5, 0.0]
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == len(run.params)


@pytest.mark.parametrize("settings", [{"weight_decay": -0.1}, {"strain": 0.2}, {"strain": -0.01}, {"rattle": math.nan}])
def test_settings_out_of_range_are_refused(settings: FitOptions) -> None:
    with pytest.raises(SettingError, match=r"weight_decay >= 0, rattle >= 0 and 0 <= strain <= 0\.1"):
        FitSettings(steps=1, **settings)


def test_a_dropout_out_of_range_is_refused(random_dataset: Dataset) -> None:
    with pytest.raises(SettingError, match="decoder_dropout must be 0 or more and below 1, not 1"):
        dataclasses.replace(new_model(random_dataset).config, decoder_dropout=1.0)


def test_augmentation_is_refused_for_other_models(random_dataset: Dataset) -> None:
    other = PropertyModel.for_dataset(random_dataset, hidden_dim=8, blocks=1)
    with pytest.raises(SettingError, match="strain and rattle augment the crystals of a CDVAE; a PropertyModel"):
        fit(other, random_dataset, steps=1, strain=0.01)
