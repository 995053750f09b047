"""Crystals that a model does not represent: what is predicted from their latents is another composition."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pymatgen.core import Lattice, Structure

import cdvae_lab as lab
from cdvae_lab.crystals.formulas import cell_formulas
from cdvae_lab.errors import UnfamiliarCrystalWarning
from cdvae_lab.models.familiarity import keeps_composition, models_that_keep
from cdvae_lab.models.latents import latents_of


def perovskite(length: float, *elements: str) -> Structure:
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(length), [*elements, elements[-1], elements[-1]], places)


FLUORIDE, OXIDE = perovskite(4.05, "K", "Zn", "F"), perovskite(3.905, "Sr", "Ti", "O")


@pytest.fixture(scope="module")
def model() -> lab.CDVAE:
    return lab.load("perov_5")


def test_encoding_warns_in_words_and_names_a_model_that_represents_the_crystal(model: lab.CDVAE) -> None:
    with pytest.warns(UnfamiliarCrystalWarning) as caught:
        lab.encode(model, [OXIDE, FLUORIDE])
    [warning] = caught
    text = str(warning.message)
    frame = next(iter(lab.denoise(model, z=lab.encode(model, FLUORIDE), steps=2)))
    assert f"1 of 2 crystals: crystal 1 is KZnF3, and its latent stands for {cell_formulas(frame.crystals)[0]}" in text
    assert "the bundled model inorganic or mp_20 represents it" in text


def test_what_starts_from_a_crystal_warns_as_well(model: lab.CDVAE) -> None:
    for act in (
        lambda: lab.reconstruct(model, FLUORIDE, steps=2),
        lambda: lab.optimize(model, FLUORIDE, steps=1),
        lambda: lab.interpolate(model, OXIDE, FLUORIDE, n=2, steps=2),
    ):
        with pytest.warns(UnfamiliarCrystalWarning, match="is KZnF3"):
            next(iter(act()))


@pytest.mark.parametrize(
    "act",
    [
        lambda model: lab.encode(model, FLUORIDE),
        lambda model: next(lab.reconstruct(model, FLUORIDE, steps=2)),
        lambda model: lab.last(lab.interpolate(model, OXIDE, FLUORIDE, n=2, steps=2)),
        lambda model: list(lab.optimize(model, FLUORIDE, steps=1)),
    ],
    ids=["encode", "reconstruct", "interpolate", "optimize"],
)
def test_the_warning_points_at_the_line_outside_the_package(model: lab.CDVAE, act: Callable[[lab.CDVAE], Any]) -> None:
    with pytest.warns(UnfamiliarCrystalWarning) as caught:
        act(model)
    [warning] = caught
    assert (warning.filename, warning.lineno) == (__file__, act.__code__.co_firstlineno)


def test_no_warning_for_known_crystals_untrained_models_and_whole_test_sets(model: lab.CDVAE) -> None:
    untrained = lab.CDVAE(model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnfamiliarCrystalWarning)
        lab.encode(model, OXIDE)
        latents_of(model, lab.read([OXIDE, FLUORIDE]), allow_unseen=True)
        latents_of(untrained, lab.read(OXIDE))


def test_a_kept_composition_is_that_of_the_first_frame(model: lab.CDVAE) -> None:
    crystals = lab.read([OXIDE, FLUORIDE, perovskite(4.2, "K", "Mn", "F"), perovskite(4.0, "Ba", "Ti", "O")])
    z = latents_of(model, crystals, allow_unseen=True)
    first = next(iter(lab.denoise(model, z=z, steps=2))).crystals
    expected = [sorted(a) == sorted(b) for a, b in zip(_symbols(first), _symbols(crystals), strict=True)]
    assert keeps_composition(model, crystals, z).tolist() == expected
    assert expected == [True, False, False, True]


def test_other_models_that_can_encode_a_crystal_and_keep_it(model: lab.CDVAE) -> None:
    assert models_that_keep(lab.read(FLUORIDE), model) == ["inorganic", "mp_20"]
    assert models_that_keep(lab.read(FLUORIDE), lab.load("mp_20")) == ["inorganic"]
    kept = models_that_keep(lab.read(OXIDE), lab.CDVAE(model.config))
    assert "perov_5" in kept
    assert "carbon_24" not in kept


def _symbols(crystals: lab.Crystals) -> list[list[int]]:
    return [torch.sort(row[row > 0]).values.tolist() for row in crystals.atomic_numbers]
