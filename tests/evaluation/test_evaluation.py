"""The report card against closed forms, and against pymatgen, smact and scipy called directly."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from cdvae_lab import cli, figures, pages
from cdvae_lab.cli.evaluate import predictor_named
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import density, reduced_formulas
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CrystalError, DatasetError, SettingError
from cdvae_lab.evaluation import batch_fingerprints
from cdvae_lab.evaluation.card import ReportCard
from cdvae_lab.evaluation.run import evaluate
from cdvae_lab.evaluation.scores import published_scores
from cdvae_lab.evaluation.sources import read_source
from cdvae_lab.io import assets, npz
from cdvae_lab.io.convert import read
from cdvae_lab.metrics.coverage import Fingerprints, coverage
from cdvae_lab.metrics.cutoffs import CUTOFFS, Cutoffs
from cdvae_lab.metrics.novelty import candidates, compare
from cdvae_lab.metrics.property_statistics import num_elements, sample, wasserstein
from cdvae_lab.metrics.success_rates import PERCENTILES, success_rates
from cdvae_lab.models.checkpoints import load, load_property_model
from cdvae_lab.models.configs import PropertyModelConfig
from cdvae_lab.models.property_model import PropertyModel
from cdvae_lab.runtime.result_cache import ResultCache
from cdvae_lab.sampling.frames import last, progress

CUTOFF = Cutoffs(0.2, 4.0)


def moved(crystals: Crystals, by: float, seed: int = 0) -> Crystals:
    """The same crystals with every atom moved at random, in Å."""
    generator = torch.Generator().manual_seed(seed)
    shift = by * torch.randn(crystals.frac_coords.shape, generator=generator)
    frac_coords = crystals.frac_coords + (shift @ torch.linalg.inv(crystals.lattice)) * crystals.mask[..., None]
    return crystals.replace(frac_coords=frac_coords % 1)


def of_volume(crystals: Crystals, factor: float) -> Crystals:
    return crystals.replace(lattice=crystals.lattice * factor ** (1 / 3))


def volume_per_atom(crystals: Crystals) -> torch.Tensor:
    """Predict the volume per atom, which can be checked by hand."""
    return torch.linalg.det(crystals.lattice).abs() / crystals.num_atoms


def dataset(crystals: Crystals, name: str = "perov_5", split: str = "test") -> Dataset:
    ids = tuple(f"{name}-{i}" for i in range(len(crystals)))
    return Dataset(name, split, crystals, ids, torch.full((len(ids),), torch.nan), "p", "eV/atom", "here", "none")


def column(card: ReportCard, name: str) -> list:
    return list(card.rows[name])


# Coverage and statistics


def test_a_set_covers_itself_and_nothing_far_away() -> None:
    rng = np.random.default_rng(0)
    prints = Fingerprints(rng.normal(size=(20, 61)), rng.normal(size=(20, 132)) * 100)
    own = coverage(prints, prints, Cutoffs(1e-9, 1e-9))
    assert own.recall == own.precision == 1
    far = Fingerprints(prints.structure + 100, prints.composition)
    assert coverage(prints, far, CUTOFF).recall == coverage(prints, far, CUTOFF).precision == 0


def test_coverage_of_a_small_example_has_its_own_nearest_in_structure_and_composition() -> None:
    structure, composition = np.zeros((3, 61)), np.zeros((3, 132))
    structure[:, 0] = [0.0, 0.15, 1.0]  # the first two within 0.2 of the reference at 0
    reference = Fingerprints(np.zeros((2, 61)), np.zeros((2, 132)))
    reference.structure[1, 0] = 1.3  # 0.3 from the nearest generated: not covered
    found = coverage(Fingerprints(structure, composition), reference, CUTOFF)
    assert found.recalled.tolist() == [True, False]
    assert found.precise.tolist() == [True, True, False]
    np.testing.assert_allclose(found.precision_structure, [0, 0.15, 0.3])
    np.testing.assert_allclose(found.recall_structure, [0, 0.3])


def test_crystals_without_a_fingerprint_count_and_are_far_from_all() -> None:
    prints = Fingerprints(np.zeros((4, 61)), np.zeros((4, 132)))
    prints.structure[1:] = np.nan
    found = coverage(prints, Fingerprints(np.zeros((1, 61)), np.zeros((1, 132))), CUTOFF)
    assert (found.recall, found.precision) == (1, 0.25)
    assert np.isinf(found.precision_composition[1:]).all()


@pytest.mark.parametrize("shift", [0.0, 0.5, -3.0])
def test_wasserstein_of_a_shifted_set_is_the_shift(shift: float) -> None:
    values = np.random.default_rng(0).normal(size=500)
    assert wasserstein(values, values + shift) == pytest.approx(abs(shift), abs=1e-9)
    assert wasserstein(np.zeros(3), np.array([0.0, 1, 2, 3])) == pytest.approx(1.5)
    assert math.isnan(wasserstein(np.array([]), values))
    assert math.isnan(wasserstein(np.array([1.0, math.nan]), values))


def test_density_and_number_of_elements_are_pymatgen_s(known_crystals: Crystals, random_dataset: Dataset) -> None:
    for crystals in (known_crystals, random_dataset.crystals):
        structures = crystals.to("cpu", torch.float64).to_structures()
        np.testing.assert_allclose(density(crystals), [float(s.density) for s in structures], rtol=1e-6)
        assert num_elements(crystals).tolist() == [len(s.composition) for s in structures]
        formulas = [Composition(formula) for formula in reduced_formulas(crystals)]
        assert formulas == [Composition(s.composition.get_integer_formula_and_factor()[0]) for s in structures]
    assert reduced_formulas(known_crystals) == ["SrTiO3", "NaCl", "C"]


def test_the_sample_is_drawn_by_seed_without_replacement() -> None:
    valid = np.arange(100) % 2 == 0
    chosen = sample(valid, 20, seed=1)
    assert len(set(chosen.tolist())) == 20
    assert valid[chosen].all()
    assert chosen.tolist() == sample(valid, 20, seed=1).tolist() != sample(valid, 20, seed=2).tolist()
    assert sample(valid, 51, seed=0).tolist() == list(range(0, 100, 2))


# Uniqueness and novelty


def test_duplicates_and_known_crystals_are_those_that_the_matcher_finds(srtio3: Crystals, tmp_path: Path) -> None:
    barium = srtio3.replace(atomic_numbers=torch.tensor([[56, 22, 8, 8, 8]]))
    tetragonal = srtio3.replace(lattice=srtio3.lattice * torch.tensor([[1.0], [1.0], [1.6]]))
    generated = Crystals.cat(
        [srtio3, moved(srtio3, 0.05), barium, tetragonal, of_volume(barium, 1.3), moved(srtio3, 0.9, seed=5)]
    )
    training = Crystals.cat([tetragonal, moved(barium, 0.03, seed=2), barium])
    considered = np.ones(6, bool)
    chosen = candidates(generated, considered, np.zeros((6, 61)), training)
    found = dict(compare(generated, considered, chosen, training, cache=ResultCache(tmp_path), jobs=1))

    matcher = StructureMatcher()
    ours, theirs = (c.to("cpu", torch.float64).to_structures() for c in (generated, training))
    for row, structure in enumerate(ours):
        same = [j for j in range(row) if matcher.fit(structure, ours[j])]
        assert found[row].duplicate_of == min(same, default=-1)
        known = {j: matcher.get_rms_dist(structure, s) for j, s in enumerate(theirs) if matcher.fit(structure, s)}
        assert found[row].novel == (not known)
        if known:
            best = min(known, key=lambda j: known[j][0])
            assert found[row].known_as == best
            assert found[row].rms == pytest.approx(known[best][0], abs=1e-6)
    assert [found[row].unique for row in range(6)] == [True, False, True, True, False, True]
    assert [found[row].known_as for row in range(6)] == [-1, -1, 2, 0, 2, -1]


def test_a_supercell_is_the_same_crystal(nacl: Crystals, tmp_path: Path) -> None:
    [structure] = nacl.to("cpu", torch.float64).to_structures()
    big = Crystals.from_lists(
        [torch.tensor((structure * 2).frac_coords)],
        [torch.tensor((structure * 2).atomic_numbers)],
        torch.tensor((structure * 2).lattice.matrix.copy())[None],
    )
    both = Crystals.cat([nacl.to("cpu", torch.float64), big])
    chosen = candidates(both, np.ones(2, bool), np.zeros((2, 61)))
    found = dict(compare(both, np.ones(2, bool), chosen, cache=ResultCache(tmp_path), jobs=1))
    assert (found[0].duplicate_of, found[1].duplicate_of) == (-1, 0)


def test_only_the_nearest_of_many_candidates_are_compared(diamond: Crystals) -> None:
    many = Crystals.cat([diamond] * 6)
    prints = np.zeros((6, 61))
    prints[:, 0] = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    chosen = candidates(many, np.ones(6, bool), prints, many, prints[::-1], most=2)
    assert chosen.earlier[5] == (4, 3)
    assert chosen.training[5] == (0, 1)
    assert chosen.cut == 6


# Optimization


def test_success_is_the_best_valid_decoding_against_each_threshold(srtio3: Crystals) -> None:
    flat = srtio3.replace(lattice=srtio3.lattice * 0)
    first = Crystals.cat([of_volume(srtio3, f) for f in (1.0, 2.0, 3.0)] + [flat])
    second = Crystals.cat([of_volume(srtio3, 2.0), flat, of_volume(srtio3, 2.5), flat])
    one = float(volume_per_atom(srtio3))
    score = success_rates([first, second], volume_per_atom, [0.9 * one, 1.1 * one, 2.2 * one, 2.6 * one])
    np.testing.assert_allclose(score.best.numpy(), [one, 2 * one, 2.5 * one, math.inf], rtol=1e-5)
    assert score.best_step.tolist()[:3] == [0, 0, 1]
    assert score.success == (0, 0.25, 0.5, 0.75)


def test_the_published_percentiles_are_inclusive_thresholds(srtio3: Crystals) -> None:
    for name, thresholds in PERCENTILES.items():
        for reached, threshold in enumerate(thresholds):
            found = success_rates([srtio3], lambda c, t=threshold: torch.full((len(c),), t, dtype=torch.float64), name)
            assert found.success == tuple(float(i >= reached) for i in range(3))
    with pytest.raises(SettingError, match="no published percentiles"):
        success_rates([srtio3], volume_per_atom, "mine")
    with pytest.raises(SettingError, match="one number for each"):
        success_rates([srtio3], lambda c: torch.zeros(len(c), 2), "perov_5")
    with pytest.raises(CrystalError, match="one crystal for each starting point"):
        success_rates([srtio3, Crystals.cat([srtio3] * 2)], volume_per_atom, "perov_5")


# The report card


@pytest.fixture
def crowd(srtio3: Crystals) -> Crystals:
    """Perovskites of several elements, and one of each kind of failure at the end."""
    kinds = [(38, 22, 8), (56, 22, 8), (20, 22, 8), (19, 73, 8), (37, 41, 8), (55, 82, 53)]
    good = Crystals.cat(
        [
            of_volume(moved(srtio3, 0.02, seed=i), 1 + 0.05 * i).replace(atomic_numbers=torch.tensor([[a, b, x, x, x]]))
            for i, (a, b, x) in enumerate(kinds)
        ]
    )
    close = srtio3.replace(frac_coords=srtio3.frac_coords * 0.1)
    unbalanced = srtio3.replace(atomic_numbers=torch.tensor([[38, 38, 8, 8, 8]]))
    lost = srtio3.replace(lattice=srtio3.lattice * torch.nan)
    flat = srtio3.replace(lattice=srtio3.lattice * torch.tensor([1.0, 1.0, 0.0]))
    empty = srtio3.replace(atomic_numbers=torch.zeros(1, 5, dtype=torch.long))
    return Crystals.cat([good, close, unbalanced, lost, flat, empty])


def test_crystals_against_themselves_and_failures_are_counted(crowd: Crystals, tmp_path: Path) -> None:
    good = crowd[:6]
    frames = list(
        progress(
            evaluate(
                crowd, dataset(good), train=dataset(good[:2], split="train"), predictor=volume_per_atom,
                predictor_name="volume", samples=1000, jobs=1, cache=tmp_path,
            )
        )
    )  # fmt: skip
    card = frames[-1]
    assert card.finished
    assert [f.step for f in frames] == sorted(f.step for f in frames)
    assert all(f.step < f.num_steps for f in frames[:-1])
    assert [s.key for s in frames[0].scores] == ["structure_valid", "composition_valid", "valid"]  # in the given order
    assert card["structure_valid"] == pytest.approx(100 * 7 / 11)
    assert card["valid"] == pytest.approx(100 * 6 / 11)
    assert card["cov_recall"] == 100
    # The unbalanced one is near too: coverage asks for no validity.
    near = column(card, "near_reference")
    assert near[:6] == [True] * 6
    assert not any(near[8:])
    assert card["cov_precision"] == pytest.approx(100 * sum(near) / 11)
    for key in ("density", "elements", "property"):
        assert card[f"wasserstein_{key}"] == pytest.approx(0, abs=1e-5)
    assert card["unique"] == 100
    assert card["novel"] == pytest.approx(100 * 5 / 7)
    assert card["valid_unique_novel"] == pytest.approx(100 * 4 / 11)
    assert column(card, "known_as")[:3] == ["perov_5-0", "perov_5-1", None]
    assert column(card, "nearest_training")[:2] == ["perov_5-0", "perov_5-1"]
    assert column(card, "property")[:6] == pytest.approx(volume_per_atom(good).tolist(), rel=1e-5)
    structures = good.to("cpu", torch.float64).to_structures()
    assert column(card, "space_group")[:6] == [SpacegroupAnalyzer(s, 0.1).get_space_group_number() for s in structures]
    assert column(card, "unique")[8:] == column(card, "novel")[8:] == [None] * 3
    assert "closer than 0.5" in column(card, "reason")[6]
    assert column(card, "reason")[0] is None
    assert any("only 6 crystals are valid" in note for note in card.notes)
    assert card.settings["seed"] == 0
    assert set(card.settings["versions"]) >= {"pymatgen", "scipy"}


def test_a_shifted_property_shows_as_its_shift(crowd: Crystals, tmp_path: Path) -> None:
    good, calls = crowd[:6], []

    def predictor(crystals: Crystals) -> torch.Tensor:
        calls.append(len(crystals))
        return torch.arange(len(crystals)) + 10.0 * (len(calls) == 1)

    card = last(evaluate(good, dataset(good), predictor=predictor, novelty=False, jobs=1, cache=tmp_path))
    assert card["wasserstein_property"] == pytest.approx(10)
    with pytest.raises(KeyError, match="wasserstein_density"):
        card["novel"]


def test_an_interrupted_evaluation_continues_where_it_stopped(
    crowd: Crystals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train": crowd[:3], "jobs": 1, "cache": tmp_path / "one"}
    whole = last(evaluate(crowd, dataset(crowd[:6]), **settings))
    monkeypatch.setattr("cdvae_lab.evaluation.batch_fingerprints._structure_rows", None)  # a call would fail
    monkeypatch.setattr("cdvae_lab.metrics.novelty._compare", None)
    again = last(evaluate(crowd, dataset(crowd[:6]), **settings))
    assert again.table() == whole.table()
    with pytest.raises(TypeError):
        last(evaluate(crowd, dataset(crowd[:6]), **settings | {"cache": tmp_path / "two"}))


def test_work_done_before_an_interruption_is_not_repeated(
    crowd: Crystals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Crystals.cat([moved(crowd[:6], 0.01, seed=i) for i in range(8)])  # three tasks of at most 16
    done: list[int] = []
    real = batch_fingerprints._structure_rows

    def counted(crystals: Crystals) -> list[np.ndarray]:
        done.append(len(crystals))
        return real(crystals)

    monkeypatch.setattr(batch_fingerprints, "_structure_rows", counted)
    frames = evaluate(many, dataset(crowd[:6]), novelty=False, jobs=1, cache=tmp_path)
    assert [next(frames).step for _ in range(2)] == [1, 17]
    frames.close()  # files that Ctrl-C leaves
    assert done == [16]
    again = list(evaluate(many, dataset(crowd[:6]), novelty=False, jobs=1, cache=tmp_path))
    assert done == [16, 16, 16, 6]
    assert again[1].step == 17
    assert again[-1].finished


def test_the_number_of_processes_and_the_backend_do_not_matter(crowd: Crystals, tmp_path: Path) -> None:
    many = Crystals.cat([crowd, *(moved(crowd[:8], 0.01, seed=i) for i in range(4))])
    tables = []
    for number, backend in enumerate(("loky", "threading")):
        with joblib.parallel_config(backend=backend):
            card = last(evaluate(many, dataset(crowd[:6]), jobs=2, cache=tmp_path / str(number)))
        tables.append(card.table())
    assert tables[0] == tables[1]


def test_reconstruction_is_the_metric_and_unmatched_pairs_count_as_stol(crowd: Crystals, tmp_path: Path) -> None:
    truth = crowd[:6]
    predicted = Crystals.cat(
        [moved(truth[:4], 0.1, seed=3), crowd[8], truth[0]]
    )  # one without a match, and a wrong one
    frames = list(evaluate(predicted, dataset(truth), task="reconstruction", jobs=1, cache=tmp_path))
    card = frames[-1]
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    sides = (c[:4].to("cpu", torch.float64).to_structures() for c in (predicted, truth))
    expected = [matcher.get_rms_dist(p, t)[0] for p, t in zip(*sides, strict=True)]
    assert column(card, "rms")[:4] == pytest.approx(expected, abs=1e-6)
    assert column(card, "rms")[4:] == [None, None]
    assert card["match_rate_structure"] == pytest.approx(100 * 4 / 6)
    assert card["rmse_structure"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert card["crmse"] == pytest.approx((sum(expected) + 2 * 0.5) / 6, abs=1e-6)
    assert "CDVAE" in card.table()
    with pytest.raises(CrystalError, match="5 reconstructed crystals for 6"):
        evaluate(predicted[:5], dataset(truth), task="reconstruction", cache=tmp_path)


def test_the_published_numbers_are_the_papers() -> None:
    scores = published_scores()
    rows = {(task, data, row["system"]): row for task in ("generation", "reconstruction", "optimization")
            for data, found in scores[task].items() for row in found}  # fmt: skip
    assert rows["generation", "mp_20", "CDVAE"] == {
        "system": "CDVAE", "structure_valid": 100.0, "composition_valid": 86.7, "cov_recall": 99.15,
        "cov_precision": 99.49, "wasserstein_density": 0.6875, "wasserstein_property": 0.2778,
        "wasserstein_elements": 1.432,
    }  # fmt: skip
    assert rows["reconstruction", "perov_5", "FTCP"] == {"system": "FTCP", "match_rate": 99.34, "rmse": 0.0259}
    assert rows["optimization", "carbon_24", "DiffCSP"] == {"system": "DiffCSP", "sr5": 50, "sr10": 69, "sr15": 69}
    assert (CUTOFFS["mp_20"].structure, CUTOFFS["mp_20"].composition) == (0.4, 10)


def test_written_reports_can_be_read_and_the_page_needs_no_network(crowd: Crystals, tmp_path: Path) -> None:
    card = last(evaluate(crowd, dataset(crowd[:6]), predictor=volume_per_atom, jobs=1, cache=tmp_path / "cache"))
    page = pages.write_evaluation(card, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    for part in ("prefers-color-scheme:dark", "DiffCSP", "COV-R", "Plotly.react"):
        assert part in text
    written = text.replace(text[text.index("<script>") : text.index("const S=[")], "")
    assert "http" not in written.split("const S=[")[0]
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {s["key"]: s["value"] for s in data["scores"]}["cov_recall"] == card["cov_recall"]
    with (tmp_path / "out" / "crystals.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["formula"] for row in rows] == column(card, "formula")
    assert rows[0]["valid"] == "True"
    assert rows[10]["unique"] == ""
    assert "nan" not in (tmp_path / "out" / "report.json").read_text().lower().replace("dominan", "")
    figure = figures.statistic_histogram(card, "density")
    assert sum(figure.data[1].y) == pytest.approx(1)
    assert set(figures.evaluation_figures(card, "dark")) == set(figures.evaluation_figures(card, "light"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "beauty"}, "give one of generation"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"thresholds": [1.0]}, "thresholds: no setting of task='generation'"),
        ({"judge": None}, "judge: no setting of task"),
        ({"task": "validity"}, "compares with no reference"),
        ({"task": "optimization"}, "sequence of batches"),
        ({"reference": "mine"}, "cutoffs: there are no published ones for mine"),
    ],
)
def test_bad_settings_are_refused_before_any_work(
    crowd: Crystals, tmp_path: Path, settings: dict, message: str
) -> None:
    reference = dataset(crowd[:6], settings.pop("reference", "perov_5"))
    with pytest.raises((SettingError, CrystalError), match=message):
        evaluate(crowd, reference, cache=tmp_path, **settings)


# Crystals of other models


def test_npz_brings_cells_and_atoms_back(random_dataset: Dataset, tmp_path: Path) -> None:
    crystals = random_dataset.crystals
    again = Crystals.load_npz(crystals.save_npz(tmp_path / "c.npz"))
    assert torch.equal(again.atomic_numbers, crystals.atomic_numbers)
    torch.testing.assert_close(again.frac_coords, crystals.frac_coords.double())
    for ours, theirs in zip(again.to_structures(), crystals.to_structures(), strict=True):
        np.testing.assert_allclose(ours.lattice.parameters, theirs.lattice.parameters, rtol=1e-4)
        np.testing.assert_allclose(ours.distance_matrix, theirs.distance_matrix, atol=1e-4)


def test_the_layout_of_the_papers_code_is_read_with_its_first_axis_and_its_failures(tmp_path: Path) -> None:
    arrays = {
        "frac_coords": np.array([[[0.0, 0, 0], [0.5, 0.5, 0.5], [0.1, 0.2, 0.3]]], np.float32),
        "atom_types": np.array([[55, 17, 6]], np.int32),
        "num_atoms": np.array([[2, 1, 0]], np.int32),
        "lengths": np.array([[[4.1, 4.1, 4.1], [-3, 3, 3], [3, 3, 3]]], np.float32),
        "angles": np.full((1, 3, 3), 90, np.float32),
    }
    np.savez(tmp_path / "reference.npz", **arrays)
    crystals = npz.load(tmp_path / "reference.npz")
    assert crystals.num_atoms.tolist() == [2, 1, 0]
    assert crystals[:1].to_structures()[0].reduced_formula == "CsCl"
    card = last(evaluate(tmp_path / "reference.npz", dataset(crystals[:1]), novelty=False, jobs=1, cache=tmp_path))
    assert column(card, "structure_valid") == [True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angles": None}, "has no array angles"),
        ({"num_atoms": [3]}, "num_atoms adds up to 3, but there are 2"),
        ({"lengths": [[4.0, 4, 4], [4, 4, 4]]}, "one entry a crystal"),
        ({"frac_coords": [[0.0, 0], [1, 1]]}, "frac_coords is float64 of shape"),
        ({"atom_types": [0, 17]}, "atomic numbers, from 1"),
        ({"atom_types": [[55, 17], [55, 17]]}, "holds 2 evaluations"),
        ({"atom_types": np.array([{}, {}], dtype=object)}, "plain numbers"),
    ],
)
def test_broken_npz_files_are_errors_that_name_the_array(tmp_path: Path, change: dict, message: str) -> None:
    arrays: dict = {"frac_coords": [[0.0, 0, 0], [0.5, 0.5, 0.5]], "atom_types": [55, 17], "num_atoms": [2]}
    arrays |= {"lengths": [[4.1, 4.1, 4.1]], "angles": [[90.0, 90, 90]]} | change
    np.savez(tmp_path / "c.npz", **{name: np.asarray(a) for name, a in arrays.items() if a is not None})
    with pytest.raises(CrystalError, match=message):
        npz.load(tmp_path / "c.npz")


def test_a_folder_of_cifs_is_read_as_it_is_and_broken_ones_count(known_crystals: Crystals, tmp_path: Path) -> None:
    known_crystals.write_cif(tmp_path)
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 0\n")
    source = read_source(tmp_path, jobs=1)
    assert source.ids == ("broken", "crystal_0000", "crystal_0001", "crystal_0002")
    assert [reason is None for reason in source.unreadable] == [False, True, True, True]
    assert source.crystals.num_atoms.tolist() == [0, 5, 2, 2]
    card = last(evaluate(tmp_path, dataset(known_crystals), novelty=False, jobs=1, cache=tmp_path / "cache"))
    assert card["structure_valid"] == 75
    assert card["cov_recall"] == 100
    assert column(card, "reason")[0]
    with pytest.raises(CrystalError, match=r"holds 0 \.cif and 0 \.npz"):
        read_source(tmp_path / "cache")


# The command


def test_the_command_writes_the_same_report(
    crowd: Crystals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reference").mkdir()
    crowd[:6].write_cif(tmp_path / "reference")
    crowd.save_npz(tmp_path / "c.npz")
    command = [
        "evaluate",
        "generation",
        "--crystals",
        str(tmp_path / "c.npz"),
        "--reference",
        str(tmp_path / "reference"),
    ]
    settings = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--jobs", "1"]
    assert cli.main([*command, *settings, "--cutoffs", "0.2", "4"]) == 0
    text = capsys.readouterr().out
    assert "COV-R                                  100.00 %   6 of 6" in text
    assert (tmp_path / "out" / "report.txt").read_text() == text
    assert (tmp_path / "out" / "report.html").is_file()
    assert cli.main([*command, *settings]) == 2
    assert "cutoffs" in capsys.readouterr().err


def test_the_command_evaluates_optimizations(
    crowd: Crystals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdvae_lab.cli.evaluate.predictor_named", lambda name: (volume_per_atom, "volume"))
    Crystals.cat([crowd[:2], crowd[2:4]]).save_npz(tmp_path / "c.npz")
    command = ["evaluate", "optimization", "--crystals", str(tmp_path / "c.npz"), "--reference", "perov_5"]
    command += ["--out", str(tmp_path / "out"), "--jobs", "1", "--predictor", "x"]
    assert cli.main([*command, "--starts", "2", "--thresholds", "1", "12.5", "100"]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["scores"][2]["value"] == 100
    assert "DiffCSP" in capsys.readouterr().out
    assert cli.main([*command, "--starts", "3"]) == 2
    assert "divides" in capsys.readouterr().err


def test_a_predictor_is_a_property_model_or_a_models_own_head(srtio3: Crystals, tmp_path: Path) -> None:
    predictor = PropertyModel(PropertyModelConfig(hidden_dim=8, blocks=1)).eval()
    found, name = predictor_named(str(predictor.save(tmp_path / "predictor.safetensors")))
    assert name == "the property model predictor.safetensors"
    assert torch.equal(found(srtio3), predictor(srtio3))
    bundled, name = predictor_named("perov_5")
    assert torch.equal(bundled(srtio3), load_property_model("perov_5")(srtio3))
    assert name == "the property model of perov_5"
    model = load("perov_5")
    head, name = predictor_named(str(model.save(tmp_path / "model.safetensors")))
    assert torch.equal(head(srtio3), model.predict_property(model.encode(srtio3).mu))
    assert name == f"the property head of {tmp_path / 'model.safetensors'}"
    with pytest.raises(SettingError, match="is bundled"):
        predictor_named("no_such_model")


# Validity alone


def test_validity_needs_no_reference(crowd: Crystals, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = last(evaluate(crowd, task="validity"))
    assert card["structure_valid"] == pytest.approx(100 * 7 / 11)
    assert card["valid"] == pytest.approx(100 * 6 / 11)
    assert card.title == "validity: 11 crystals"
    assert column(card, "valid") == [True] * 6 + [False] * 5
    assert "closer than 0.5" in column(card, "reason")[6]
    crowd.save_npz(tmp_path / "c.npz")
    command = ["evaluate", "validity", "--crystals", str(tmp_path / "c.npz"), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert "structure valid                         63.64 %   7 of 11" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()
    assert cli.main([*command, "--reference", "perov_5"]) == 2
    assert "leave it out" in capsys.readouterr().err
    assert cli.main(["evaluate", "generation", *command[2:]]) == 2
    assert "--reference" in capsys.readouterr().err


def test_the_paper_s_version_of_smact_can_be_chosen(srtio3: Crystals) -> None:
    """PmBr2 passes with SMACT 2.2.1, which ignores that promethium has no electronegativity."""
    numbers = torch.tensor([[61, 35, 35]])
    bromide = Crystals(srtio3.frac_coords[:, :3], numbers, srtio3.lattice)
    assert last(evaluate(bromide, task="validity"))["composition_valid"] == 0
    card = last(evaluate(bromide, task="validity", rules="paper"))
    assert card["composition_valid"] == 100
    assert "2.2.1" in card.settings["composition rules"]


def test_a_split_that_the_reference_lacks_is_refused(tmp_path: Path) -> None:
    text = assets.asset_path("examples/SrTiO3.cif").read_text(encoding="utf-8")
    table = tmp_path / "mine.csv"
    pandas.DataFrame({"cif": [text]}).to_csv(table, index=False)
    crystals = read(assets.asset_path("examples/SrTiO3.cif"))
    with pytest.raises(DatasetError, match="has no column split"):
        last(evaluate(crystals, str(table), task="reconstruction", split="test", jobs=1, cache=tmp_path))
    assert last(evaluate(crystals, str(table), task="reconstruction", jobs=1, cache=tmp_path)).crystals == 1
