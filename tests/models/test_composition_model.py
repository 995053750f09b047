"""Tests of the composition model against the enumeration of all compositions, and against its training data."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from pymatgen.core import Element
from torch.utils._python_dispatch import TorchDispatchMode

from cdvae_lab.crystals.elements import group_and_period
from cdvae_lab.crystals.formulas import atoms_from_counts, element_counts
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, DatasetError, SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load_composition_model
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import CompositionModelConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.training.loop import fit
from cdvae_lab.training.objectives.selection import objective_for
from tests.small_model import SMALL as SMALL_CDVAE

SMALL = {"hidden_dim": 16, "blocks": 2, "heads": 2}


def random_model(
    most_atoms: int, most_elements: int, elements: tuple[int, ...], temperature: float = 1.0
) -> CompositionModel:
    """A model whose probabilities are far from uniform."""
    config = CompositionModelConfig(most_atoms, most_elements, elements, temperature=temperature, **SMALL)
    model = CompositionModel(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.25 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.requires_grad_(False)


def every_composition(most_atoms: int, elements: tuple[int, ...]) -> torch.Tensor:
    """Enumerate all compositions of the elements with 1 to most_atoms atoms, as rows over Z = 1..100."""
    choices = itertools.product(range(most_atoms + 1), repeat=len(elements))
    chosen = torch.tensor([c for c in choices if 1 <= sum(c) <= most_atoms])
    counts = torch.zeros(len(chosen), 100, dtype=torch.int64)
    counts[:, torch.tensor(elements) - 1] = chosen
    return counts


TINY = [
    (6, 3, (22, 8, 6)),
    (8, 2, (22, 8, 6, 1)),
    (7, 9, (3, 9)),
    (6, 1, (6, 7)),
    (6, 4, (6,)),
    (4, 3, (3, 5, 7, 9, 8)),
]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize(("most_atoms", "most_elements", "elements"), TINY)
def test_the_probabilities_of_all_compositions_add_up_to_one(
    most_atoms: int, most_elements: int, elements: tuple[int, ...], temperature: float
) -> None:
    model = random_model(most_atoms, most_elements, elements, temperature)
    counts = every_composition(most_atoms, elements)
    possible = (counts > 0).sum(1) <= most_elements
    assert torch.equal(model.is_possible(counts), possible)
    log_p = model.log_prob(counts)
    assert torch.equal(torch.isfinite(log_p), possible)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.8, 1.0])
def test_samples_have_the_frequencies_of_their_probabilities(temperature: float) -> None:
    model = random_model(6, 3, (22, 8, 6), temperature)
    counts = every_composition(6, (22, 8, 6))
    p, n = model.log_prob(counts).exp(), 20000
    drawn = model.sample(1, torch.arange(n))
    seen = (drawn[:, None] == counts).all(-1).sum(0)
    assert int(seen.sum()) == n
    expected = n * p
    often = expected > 5
    chi_squared = ((seen - expected)[often].square() / expected[often]).sum()
    freedom = int(often.sum())
    assert freedom > 20
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


def test_temperature_raises_probabilities_to_its_inverse_power() -> None:
    # With a single element the number of atoms is the only choice.
    model, cold = random_model(6, 1, (6,)), random_model(6, 1, (6,), temperature=0.5)
    counts = every_composition(6, (6,))
    p = model.log_prob(counts).exp()
    torch.testing.assert_close(cold.log_prob(counts).exp(), p**2 / (p**2).sum())
    frozen = random_model(6, 3, (22, 8, 6), temperature=1e-3).sample(0, torch.arange(50))
    assert len(frozen.unique(dim=0)) == 1


def test_a_composition_does_not_depend_on_the_batch() -> None:
    model = random_model(12, 4, (11, 22, 26, 8, 9)).float()
    together = model.sample(3, torch.arange(50))
    assert torch.equal(model.sample(3, torch.tensor([41, 7])), together[[41, 7]])
    assert not torch.equal(model.sample(4, torch.arange(50)), together)
    assert len(together.unique(dim=0)) > 10
    with pytest.raises(SettingError, match="seed"):
        model.sample(-1, torch.arange(2))


def test_impossible_compositions_have_probability_zero() -> None:
    model = random_model(6, 2, (22, 8, 6))
    counts = torch.zeros(5, 100, dtype=torch.int64)
    counts[1, [21, 7]] = torch.tensor([2, 5])  # seven atoms
    counts[2, [21, 7, 5]] = 1  # three elements
    counts[3, [21, 12]] = 1  # aluminium
    counts[4, [21, 7]] = torch.tensor([1, 2])
    assert torch.isfinite(model.log_prob(counts)).tolist() == [False] * 4 + [True]
    assert model.is_possible(model.sample(0, torch.arange(500))).all()


def test_atoms_and_counts_convert_into_each_other(random_dataset: Dataset) -> None:
    numbers = random_dataset.crystals.atomic_numbers
    counts = element_counts(numbers)
    assert torch.equal(element_counts(atoms_from_counts(counts)), counts)
    assert counts.sum(1).equal(random_dataset.crystals.num_atoms)
    assert atoms_from_counts(counts[:1])[0].tolist() == sorted(numbers[0][numbers[0] > 0].tolist())


def test_groups_and_periods_equal_pymatgen() -> None:
    for z in range(1, 101):
        element = Element.from_Z(z)
        assert group_and_period(z) == (element.group, element.row), element.symbol


def test_it_learns_the_compositions_of_its_data(random_dataset: Dataset) -> None:
    model = CompositionModel.for_dataset(random_dataset, **SMALL, dropout=0.0)
    assert model.config.elements == (22, 6, 8)  # along the groups
    steps = list(fit(model, random_dataset, steps=400, batch_size=20, warm_up=10, lr=2e-2, ema_decay=0.9))
    assert steps[0].terms.keys() == {"negative_log_likelihood"}
    learned = steps[-1].averaged()
    counts = element_counts(random_dataset.crystals.atomic_numbers)
    kinds, often = counts.unique(dim=0, return_counts=True)
    share = often / len(counts)
    entropy = -float((share * share.log()).sum())
    assert entropy < -float(learned.log_prob(counts).mean()) < entropy + 0.1
    drawn = learned.sample(0, torch.arange(300))
    assert (drawn[:, None] == kinds).all(-1).any(1).float().mean() > 0.9


def test_a_resumed_run_is_the_uninterrupted_one(random_dataset: Dataset, tmp_path: Path) -> None:
    """Dropout, too, is a function of the seed and the step."""
    settings = {"steps": 7, "batch_size": 6, "warm_up": 2}
    whole = list(fit(CompositionModel.for_dataset(random_dataset, **SMALL), random_dataset, **settings))
    for step in fit(CompositionModel.for_dataset(random_dataset, **SMALL), random_dataset, **settings):
        if step.step == 3:
            step.save(tmp_path / "half.safetensors")
            break
    rest = list(fit(tmp_path / "half.safetensors", random_dataset))
    assert [step.loss for step in rest] == [step.loss for step in whole[3:]]
    for a, b in zip(rest[-1].averaged().parameters(), whole[-1].averaged().parameters(), strict=True):
        assert torch.equal(a, b)


class NoValues(TorchDispatchMode):
    """Refuse operations that would wait for a GPU: reading a value, or a shape that depends on one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device(random_dataset: Dataset) -> None:
    model = CompositionModel.for_dataset(random_dataset, **SMALL)
    prior = DiffusionPrior.for_compositions(model, 8, hidden_dim=16, blocks=1)
    encoder = CDVAE.for_dataset(random_dataset, **SMALL_CDVAE).eval()
    index, step = torch.arange(6), torch.tensor(2)
    for one in (model, prior):
        objective = objective_for(one, random_dataset, encoder if one is prior else None)
        objective.prepare()
        with NoValues():
            (loss,) = objective.losses(index, slice(0, None), step, 1, 0, 0).values()
            loss.backward()
        assert torch.isfinite(loss)
    with pytest.raises(AssertionError), NoValues():
        float(torch.ones(()))


def test_a_saved_model_loads_unchanged(tmp_path: Path) -> None:
    model = random_model(6, 3, (22, 8, 6)).float()
    again = load_composition_model(model.save(tmp_path / "c.safetensors", data="toy"))
    assert again.config == model.config
    assert again.metadata == {"data": "toy"}
    counts = every_composition(6, (22, 8, 6))
    assert torch.equal(again.log_prob(counts), model.log_prob(counts))
    halved = load_composition_model(model.save(tmp_path / "h.safetensors", half=True))
    torch.testing.assert_close(halved.log_prob(counts), model.log_prob(counts), atol=0.1, rtol=0)
    with pytest.raises(CheckpointError, match="no such file"):
        load_composition_model(tmp_path / "none.safetensors")


def test_data_that_the_model_cannot_represent_are_refused(random_dataset: Dataset) -> None:
    model = CompositionModel.for_dataset(random_dataset, **SMALL, elements=(6, 8))
    with pytest.raises(DatasetError, match="for_dataset"):
        fit(model, random_dataset, steps=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_atoms": 0},
        {"elements": ()},
        {"elements": (6, 6)},
        {"elements": (101,)},
        {"heads": 5},
        {"dropout": 1.0},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingError, match="CompositionModelConfig"):
        CompositionModelConfig(**{"max_atoms": 6, "max_elements": 3, "elements": (6, 8), **wrong})
