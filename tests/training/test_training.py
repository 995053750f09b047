"""Training: resuming bit for bit, batches, learning, and refused input."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, DatasetError, LabError, NonFiniteLossError, PriorWarning, SettingError
from cdvae_lab.io.storage import write_tensors
from cdvae_lab.models import checkpoints
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import read_checkpoint
from cdvae_lab.models.configs import CDVAEConfig, DiffusionPriorConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.training.batches import Batches
from cdvae_lab.training.checks import check_fits
from cdvae_lab.training.learning_rate import learning_rate
from cdvae_lab.training.loop import TrainingStep, fit
from cdvae_lab.training.losses import TERMS
from cdvae_lab.training.objectives.selection import objective_for
from cdvae_lab.training.run import Run
from cdvae_lab.training.settings import FitOptions, FitSettings, LossWeights
from cdvae_lab.training.validation import validation_losses
from tests.small_model import SMALL

STEPS = 11


@pytest.fixture
def model(random_dataset: Dataset) -> CDVAE:
    return CDVAE.for_dataset(random_dataset, **SMALL)


def run(model: CDVAE | CDVAEConfig | str | Path, dataset: Dataset, **settings) -> Iterator[TrainingStep]:
    """A data set of three batches per epoch, so that STEPS is a little more than three epochs."""
    return fit(model, dataset, **{"steps": STEPS, "batch_size": 6, "warm_up": 3, "ema_decay": 0.9, **settings})


def weights(model: CDVAE) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


# Resuming


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    model: CDVAE, random_dataset: Dataset, tmp_path: Path, stop: int
) -> None:
    start = tmp_path / "start.safetensors"
    model.save(start)
    whole = [step.losses for step in run(model, random_dataset, checkpoint=tmp_path / "whole.safetensors")]

    halves, other = [], checkpoints.load(start)
    for step in run(other, random_dataset):
        halves.append(step.losses)
        if step.step == stop:
            step.save(tmp_path / "half.safetensors")
            break
    del other
    for step in fit(tmp_path / "half.safetensors", random_dataset, checkpoint=tmp_path / "rest.safetensors"):
        halves.append(step.losses)
        assert step.step == len(halves)
        assert step.num_steps == STEPS

    assert torch.equal(torch.stack(halves), torch.stack(whole))
    _, tensors, metadata = read_checkpoint(tmp_path / "rest.safetensors", "training state")
    _, expected, expected_metadata = read_checkpoint(tmp_path / "whole.safetensors", "training state")
    assert_same(tensors, expected)
    assert metadata == expected_metadata
    assert {name.split(".")[0] for name in tensors} == {"model", "average", "adam"}
    assert_same(weights(model), {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})


def test_a_state_loads_as_the_averaged_model(model: CDVAE, random_dataset: Dataset, tmp_path: Path) -> None:
    *_, last = run(model, random_dataset, checkpoint=tmp_path / "state.safetensors")
    loaded = checkpoints.load(tmp_path / "state.safetensors")
    assert_same(weights(loaded), weights(last.averaged()))
    assert not torch.equal(loaded.to_mu.weight, model.to_mu.weight)


def test_a_resumed_run_can_be_extended(model: CDVAE, random_dataset: Dataset, tmp_path: Path) -> None:
    for _ in run(model, random_dataset, checkpoint=tmp_path / "state.safetensors"):
        pass
    more = [step.step for step in fit(tmp_path / "state.safetensors", random_dataset, steps=STEPS + 4)]
    assert more == [STEPS + 1, STEPS + 2, STEPS + 3, STEPS + 4]


def test_the_seed_determines_the_run(random_dataset: Dataset) -> None:
    config = CDVAEConfig(max_atoms=6, **SMALL)
    one, two, other = (
        torch.stack([step.losses for step in run(config, random_dataset, seed=seed, steps=4)]) for seed in (5, 5, 6)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_moving_average_equals_the_recursion_by_hand(model: CDVAE, random_dataset: Dataset) -> None:
    average = {name: p.detach().double() for name, p in model.named_parameters()}
    for done, step in enumerate(run(model, random_dataset)):
        decay = min(0.9, (1 + done) / (10 + done))
        for name, p in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * p.detach().double()
        averaged = step.averaged()
        for name, p in averaged.named_parameters():
            torch.testing.assert_close(p.double(), average[name], rtol=1e-5, atol=1e-6)
    assert averaged.state_dict()["lattice_mean"].equal(model.lattice_mean)
    assert not averaged.training
    assert model.training


# Contents of a step


def test_steps_carry_their_number_and_terms(model: CDVAE, random_dataset: Dataset) -> None:
    loss_weights = LossWeights(kl=0.5, property=2.0)
    steps = list(run(model, random_dataset, weights=loss_weights))
    assert [s.step for s in steps] == list(range(1, STEPS + 1))
    assert steps[-1].epoch == pytest.approx(STEPS / 3)
    for step in steps:
        assert tuple(step.terms) == TERMS
        total = sum(getattr(loss_weights, name) * value for name, value in step.terms.items())
        assert step.loss == pytest.approx(total, rel=1e-5)
        assert not step.losses.requires_grad
        assert step.crystals_per_second > 0
    assert len({step.loss for step in steps}) == STEPS  # what was yielded is not overwritten


def test_each_step_comes_after_its_update(model: CDVAE, random_dataset: Dataset) -> None:
    before = weights(model)
    for step in run(model, random_dataset):
        after = weights(model)
        assert not torch.equal(after["to_mu.weight"], before["to_mu.weight"])
        before = after
        if step.step == 3:
            break


def test_the_consumers_loop_keeps_its_gradients_and_its_precision(model: CDVAE, random_dataset: Dataset) -> None:
    precision = torch.get_float32_matmul_precision()
    for _ in run(model, random_dataset, steps=2):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert torch.get_float32_matmul_precision() == precision


def test_epochs_are_passes_through_the_data(model: CDVAE, random_dataset: Dataset) -> None:
    assert sum(1 for _ in fit(model, random_dataset, epochs=1.5, batch_size=5)) == 6
    assert sum(1 for _ in fit(model, random_dataset, epochs=2.0)) == 2  # batches no larger than the data


def test_the_learning_rate_rises_falls_and_ends(model: CDVAE, random_dataset: Dataset) -> None:
    settings = FitSettings(steps=110, warm_up=10, lr=1e-2, final_lr=1e-4)
    rates = torch.stack([learning_rate(settings, torch.tensor(step)) for step in range(111)])
    assert rates[0].item() == pytest.approx(1e-3)
    assert rates[9].item() == pytest.approx(1e-2)
    assert rates[10].item() == pytest.approx(1e-2)
    assert rates[60].item() == pytest.approx((1e-2 + 1e-4) / 2, rel=1e-4)
    assert rates[110].item() == pytest.approx(1e-4, rel=1e-4)
    assert (rates[:10].diff() > 0).all()
    assert (rates[10:].diff() < 0).all()
    assert learning_rate(FitSettings(steps=5, warm_up=0), torch.tensor(0)).item() == pytest.approx(1e-3)


def test_the_optimizer_uses_the_learning_rate_that_a_step_reports(model: CDVAE, random_dataset: Dataset) -> None:
    options: FitOptions = {"batch_size": 10, "lr": 3e-3, "warm_up": 3}
    settings = FitSettings(steps=6, **options)
    reported = [step.learning_rate for step in fit(model, random_dataset, steps=6, **options)]
    objective = objective_for(model, random_dataset)
    objective.prepare()
    whole = Run(objective, random_dataset, settings, compile=False, processes=Processes())
    for step, rate in enumerate(reported):
        whole.advance(whole.batches[step])
        assert whole.optimizer.param_groups[0]["lr"].item() == pytest.approx(rate)


# Batches

SIZES = torch.tensor([1, 2, 3, 5, 5, 6, 7, 9, 12, 12, 13, 14, 20, 20, 19, 1, 4, 4, 8, 8, 16, 17, 11])


def test_every_epoch_takes_every_crystal_once() -> None:
    batches = Batches(SIZES, 5, 0, torch.device("cpu"))
    assert batches.per_epoch == 4
    orders = []
    for epoch in range(3):
        seen = torch.cat([batches[4 * epoch + i].index for i in range(4)])
        assert len(seen.unique()) == 20  # of 23: three wait for another epoch
        orders.append(seen.tolist())
    assert len({tuple(sorted(order)) for order in orders}) > 1
    assert len({tuple(order) for order in orders}) == 3


def test_batches_hold_crystals_of_similar_size() -> None:
    batches = Batches(SIZES, 5, 1, torch.device("cpu"))
    epoch = [batches[i] for i in range(4)]
    for batch in epoch:
        assert batch.sites >= SIZES[batch.index].max()
        assert batch.sites - SIZES[batch.index].max() < 4
        assert batch.sites % 4 == 0
    spans = sorted((int((SIZES[b.index].min() + 3) // 4), b.sites // 4) for b in epoch)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(spans))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    there = Batches(SIZES, 5, 7, torch.device("cpu"))
    back = Batches(SIZES, 5, 7, torch.device("cpu"))
    forwards = [there[i] for i in range(12)]
    for step in reversed(range(12)):
        assert torch.equal(back[step].index, forwards[step].index)
        assert back[step].sites == forwards[step].sites
    other = Batches(SIZES, 5, 8, torch.device("cpu"))
    assert any(not torch.equal(other[i].index, forwards[i].index) for i in range(4))


def test_a_padded_size_never_exceeds_the_largest_crystal() -> None:
    batches = Batches(torch.tensor([5, 5, 5, 5]), 99, 0, torch.device("cpu"))
    assert batches.batch_size == 4
    assert batches[0].sites == 5


# Learning


def test_training_learns(model: CDVAE, random_dataset: Dataset) -> None:
    few = random_dataset[4:12]
    before = validation_losses(model, few)
    *_, last = run(model, few, steps=200, batch_size=8, lr=5e-3, warm_up=20, weights=LossWeights(kl=1e-4))
    for trained in (model, last.averaged()):
        after = validation_losses(trained, few)
        for name in ("types", "num_atoms", "lattice", "composition", "property"):
            assert after[name] < 0.5 * before[name], name
        assert after["coordinates"] < before["coordinates"]


def test_validation_is_the_same_every_time_and_for_every_batch_size(model: CDVAE, random_dataset: Dataset) -> None:
    labeled = random_dataset[4:]
    one = validation_losses(model, labeled)
    assert one == validation_losses(model, labeled)
    assert set(one) == set(TERMS)
    for name, value in validation_losses(model, labeled, batch_size=16).items():
        assert value == pytest.approx(one[name], rel=1e-4)


def test_unlabeled_crystals_train_every_term_but_the_property(model: CDVAE, random_dataset: Dataset) -> None:
    before = weights(model)
    unlabeled = random_dataset[:4]
    assert torch.isnan(unlabeled.labels).all()
    for step in run(model, unlabeled, steps=3):
        assert step.terms["property"] == 0
        assert math.isfinite(step.loss)
    after = weights(model)
    for name, _ in model.named_parameters():
        changed = not torch.equal(before[name], after[name])
        assert changed != name.startswith("property_head"), name


# Invalid input


@pytest.fixture
def poisoned(random_dataset: Dataset) -> Dataset:
    """A data set with one coordinate that is NaN."""
    frac = random_dataset.crystals.frac_coords.clone()
    frac[13, 0, 0] = torch.nan
    return dataclasses.replace(random_dataset, crystals=random_dataset.crystals.replace(frac_coords=frac))


def test_a_loss_that_is_not_finite_ends_the_run_without_changing_the_weights(
    model: CDVAE, poisoned: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    steps, after = [], [weights(model)]
    training_run = run(model, poisoned, checkpoint=path, checkpoint_every=0.0, steps=30)

    def consume() -> None:
        for step in training_run:
            steps.append(step.step)
            after.append(weights(model))

    with pytest.raises(NonFiniteLossError) as caught:
        consume()
    bad = len(steps) + 1
    batches = Batches(poisoned.crystals.num_atoms, 6, 0, torch.device("cpu"))
    assert 13 in batches[bad - 1].index.tolist()
    assert all(13 not in batches[i].index.tolist() for i in range(bad - 1))
    message = str(caught.value)
    assert f"step {bad};" in message
    assert all(f"random-{i}" in message for i in batches[bad - 1].index.tolist())
    assert_same(weights(model), after[-1])
    assert all(torch.isfinite(p).all() for p in model.parameters())
    if steps:
        _, tensors, metadata = read_checkpoint(path, "training state")
        assert metadata["step"] == bad - 1
        assert_same({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, after[-1])
        assert all(torch.isfinite(v).all() for v in tensors.values())
    else:
        assert not path.exists()


@pytest.mark.parametrize("seed", range(4))
def test_a_crystal_that_is_not_finite_is_found_at_any_step(
    model: CDVAE, poisoned: Dataset, tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "state.safetensors"
    batches = Batches(poisoned.crystals.num_atoms, 6, seed, torch.device("cpu"))
    first = next(i for i in range(30) if 13 in batches[i].index.tolist())
    with pytest.raises(NonFiniteLossError, match=f"step {first + 1};.*random-13"):
        list(run(model, poisoned, checkpoint=path, checkpoint_every=0.0, steps=30, seed=seed))
    assert path.exists() == (first > 0)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"steps": -3}, "steps >= 1"),
        ({"steps": None}, "either epochs or steps"),
        ({"epochs": 1.0}, "either epochs or steps"),
        ({"steps": None, "epochs": 0.0}, "epochs"),
        ({"steps": None, "epochs": -1.0}, "epochs"),
        ({"steps": None, "epochs": math.nan}, "epochs"),
        ({"steps": None, "epochs": math.inf}, "epochs"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"steps": None, "epochs": 1.0, "batch_size": 0}, "batch_size >= 1"),
        ({"warm_up": -1}, "warm_up >= 0"),
        ({"lr": 0.0}, "final_lr <= lr"),
        ({"lr": math.nan}, "final_lr <= lr"),
        ({"final_lr": 1.0}, "final_lr <= lr"),
        ({"clip": 0.0}, "clip > 0"),
        ({"ema_decay": 1.0}, "ema_decay < 1"),
        ({"seed": -1}, "seed"),
        ({"learning_rate": 1e-3}, "no setting learning_rate; there are .*lr"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_before_any_work(
    model: CDVAE, random_dataset: Dataset, settings: dict, message: str
) -> None:
    before, mode = weights(model), model.eval().training
    with pytest.raises(SettingError, match=message):
        run(model, random_dataset, **settings)
    assert_same(weights(model), before)
    assert model.training == mode


def test_data_that_the_model_cannot_take_is_refused_before_any_work(random_dataset: Dataset) -> None:
    small = CDVAE.for_dataset(random_dataset[torch.tensor([0, 1, 2])], **SMALL)
    with pytest.raises(DatasetError, match=r"random: crystal random-5 has 6 atoms, but the model takes 3"):
        run(small, random_dataset)
    with pytest.raises(DatasetError, match="model takes 4"):
        run(CDVAEConfig(max_atoms=4, **SMALL), random_dataset)


def of_element(dataset: Dataset, number: int) -> Dataset:
    numbers = dataset.crystals.atomic_numbers.clone()
    numbers[7, 0] = number
    return dataclasses.replace(dataset, crystals=dataset.crystals.replace(atomic_numbers=numbers))


@pytest.mark.parametrize("number", [26, 101, 118])
def test_elements_that_the_model_does_not_know_are_refused(model: CDVAE, random_dataset: Dataset, number: int) -> None:
    with pytest.raises(DatasetError, match=f"random: .*Z = {number}"):
        run(model, of_element(random_dataset, number))


def test_a_model_can_be_validated_on_unseen_elements(model: CDVAE, random_dataset: Dataset) -> None:
    strange = of_element(random_dataset, 26)
    check_fits(model, strange)
    assert all(math.isfinite(value) for value in validation_losses(model, strange).values())
    with pytest.raises(DatasetError, match="Z = 101"):
        check_fits(model, of_element(random_dataset, 101))


def test_elements_without_a_class_are_refused(random_dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="Z = 101"):
        run(CDVAEConfig(max_atoms=6, **SMALL), of_element(random_dataset, 101))
    assert CDVAE.for_dataset(of_element(random_dataset, 100), **SMALL).elements[100]


def test_a_cell_without_volume_is_refused_before_any_work(model: CDVAE, random_dataset: Dataset) -> None:
    lattice = random_dataset.crystals.lattice.clone()
    lattice[4] = 0
    flat = dataclasses.replace(random_dataset, crystals=random_dataset.crystals.replace(lattice=lattice))
    with pytest.raises(LabError, match=r"\[4\].*without volume"):
        run(model, flat)


def test_a_full_disk_leaves_the_last_checkpoint(
    model: CDVAE, random_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    steps = run(model, random_dataset, checkpoint=path, checkpoint_every=0.0)
    next(steps)
    next(steps)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LabError, match=r"state\.safetensors: No space left"):
        next(steps)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    assert next(fit(path, random_dataset)).step == 3


def test_released_models_and_damaged_states_are_refused_as_states(
    model: CDVAE, random_dataset: Dataset, tmp_path: Path
) -> None:
    path = model.save(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds a model without.*cdvae_lab\.load"):
        fit(path, random_dataset)
    state = next(run(model, random_dataset)).save(tmp_path / "state.safetensors")
    _, tensors, metadata = read_checkpoint(state, "training state")
    metadata["config"]["hidden_dim"] = 24
    write_tensors(state, "training state", 1, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"state\.safetensors: .*size mismatch"):
        fit(state, random_dataset)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        fit(state, random_dataset)


def test_resuming_on_other_data_is_refused(tmp_path: Path, random_dataset: Dataset) -> None:
    path = tmp_path / "run.safetensors"
    for step in fit(CDVAE.for_dataset(random_dataset, **SMALL), random_dataset, steps=1, batch_size=4):
        step.save(path)
    with pytest.raises(DatasetError, match=r"started with 20 crystals.*10 of"):
        fit(path, random_dataset[:10], steps=2)


# Settings and validation


def test_the_options_of_fit_are_the_fields_of_its_settings() -> None:
    fields = {field.name for field in dataclasses.fields(FitSettings)} - {"steps"}
    assert set(FitOptions.__annotations__) == fields


def test_a_step_carries_its_settings_and_no_run(model: CDVAE, random_dataset: Dataset) -> None:
    *_, step = run(model, random_dataset, lr=2e-3)
    assert step.settings == FitSettings(steps=STEPS, batch_size=6, warm_up=3, ema_decay=0.9, lr=2e-3)
    assert step.num_steps == STEPS
    assert step.model is model
    assert not any(isinstance(getattr(step, name), Run) for name in dir(step))
    assert "Parameter" not in repr(step)


@pytest.mark.parametrize("labeled", [0, 1, 10, 20])
def test_validation_losses_do_not_depend_on_the_batch_size(model: CDVAE, random_dataset: Dataset, labeled: int) -> None:
    """Labels come first, so that small batches are labeled completely, in part or not at all."""
    labels = torch.linspace(-3, -1, 20)
    labels[labeled:] = torch.nan
    dataset = dataclasses.replace(random_dataset, labels=labels)
    whole = validation_losses(model, dataset, batch_size=20)
    for batch_size in (1, 3, 7, 512):
        for name, value in validation_losses(model, dataset, batch_size=batch_size).items():
            assert value == pytest.approx(whole[name], rel=1e-4, abs=1e-6), (name, batch_size)
    if labeled:
        alone = validation_losses(model, dataset[:labeled], batch_size=3)
        assert whole["property"] == pytest.approx(alone["property"], rel=1e-4)
    else:
        assert whole["property"] == 0


def test_validation_losses_take_the_path_of_a_model(model: CDVAE, random_dataset: Dataset, tmp_path: Path) -> None:
    path = model.save(tmp_path / "model.safetensors")
    assert validation_losses(path, random_dataset) == validation_losses(model.eval(), random_dataset)
    with pytest.raises(SettingError, match="batch_size must be at least 1"):
        validation_losses(model, random_dataset, batch_size=0)


# Effects of fitting on a model


def test_fit_warns_that_it_removes_a_learned_prior(model: CDVAE, random_dataset: Dataset) -> None:
    model.prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=8, blocks=1, steps=4))
    with pytest.warns(PriorWarning, match="removes the model's learned prior.*fit_prior") as caught:
        run(model, random_dataset)
    assert [warning.filename for warning in caught] == [__file__]
    assert model.prior is None


def test_a_refused_run_leaves_the_model_as_it_was(model: CDVAE, random_dataset: Dataset) -> None:
    model.prior = prior = DiffusionPrior(DiffusionPriorConfig(8, hidden_dim=8, blocks=1, steps=4))
    model.eval().requires_grad_(False)
    with pytest.raises(SettingError):
        run(model, random_dataset, lr=-1.0)
    strange = dataclasses.replace(
        random_dataset,
        crystals=random_dataset.crystals.replace(atomic_numbers=random_dataset.crystals.atomic_numbers * 2),
    )
    with pytest.raises(DatasetError, match="does not know"):
        run(model, strange)
    assert model.prior is prior
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_loss_weights_are_refused_for_other_models(random_dataset: Dataset) -> None:
    other = PropertyModel.for_dataset(random_dataset, hidden_dim=8, blocks=1)
    with pytest.raises(SettingError, match="weights= are those of a CDVAE's loss terms; a PropertyModel"):
        fit(other, random_dataset, steps=1, weights=LossWeights())
