"""SMACT's test of a composition against SMACT itself: its tables, and its search over all products of states."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import random
import sys
from pathlib import Path

import pytest
from pymatgen.core import Composition, Element

from cdvae_lab.metrics.charge_balance import UNKNOWN, element_data, formula_validity

if sys.version_info >= (3, 14):  # which smact 4.0.2 refuses
    smact = pytest.importorskip("smact")
else:
    import smact
from smact.screening import smact_validity

Formula = tuple[tuple[int, int], ...]


def smact_says(formula: Formula) -> bool:
    """Search all products of oxidation states with SMACT itself."""
    composition = Composition({Element.from_Z(number).symbol: count for number, count in formula})
    return smact_validity(composition, oxidation_states_set="smact14")


def paper_says(formula: Formula) -> bool:
    """Search as `smact_validity` of the CDVAE paper's `eval_utils.py` does with SMACT 2.2.1's `eneg_states_test`."""
    elements = [element_data(number, "paper") for number, _ in formula]
    if len(elements) == 1 or all(element.metal for element in elements):
        return True

    def in_order(states: tuple[int, ...]) -> bool:
        ions = [(state, element.electronegativity) for state, element in zip(states, elements, strict=True)]
        for (state1, x1), (state2, x2) in itertools.combinations(ions, 2):
            if (state1 > 0 and state2 < 0 and x1 >= x2) or (state1 < 0 and state2 > 0 and x1 <= x2):
                return False
            if x1 is None or x2 is None:
                return False
        return True

    for states in itertools.product(*(element.states for element in elements)):
        if sum(count * state for (_, count), state in zip(formula, states, strict=True)) == 0:
            try:
                if in_order(states):
                    return True
            except TypeError:  # None against a number, which the paper's code counts as a pass
                return True
    return False


def reduced(formula: Formula) -> Formula:
    divisor = math.gcd(*(count for _, count in formula))
    return tuple((number, count // divisor) for number, count in sorted(formula))


def random_formulas(number: int, sizes: tuple[int, ...], seed: int, most: int = 9, last: int = 103) -> set[Formula]:
    rng = random.Random(seed)
    found = set()
    for _ in range(number):
        chosen = rng.sample(range(1, last + 1), rng.choice(sizes))
        found.add(reduced(tuple((z, rng.randint(1, most)) for z in chosen)))
    return found


def test_the_table_is_smact_s() -> None:
    for number in range(1, 104):
        element = smact.Element(Element.from_Z(number).symbol)
        ours = element_data(number)
        assert ours.states == tuple(element.oxidation_states_smact14 or ()), number
        assert ours.electronegativity == element.pauling_eneg, number
        assert ours.metal == (element.symbol in smact.metals), number
    assert element_data(104) == UNKNOWN


def test_all_pairs_of_elements_equal_smact() -> None:
    rng = random.Random(0)
    pairs = {
        reduced(((a, rng.randint(1, 4)), (b, rng.randint(1, 4)))) for a, b in itertools.combinations(range(1, 104), 2)
    }
    assert len(pairs) == 5253
    assert {formula for formula in pairs if formula_validity(formula) != smact_says(formula)} == set()


def test_random_formulas_of_three_and_four_elements_equal_smact() -> None:
    formulas = random_formulas(2500, (3, 3, 3, 4), seed=1)
    assert {formula for formula in formulas if formula_validity(formula) != smact_says(formula)} == set()


# Long searches, several elements of one charge, a missing electronegativity or state.
CHOSEN = [
    "LiFePO4", "KAl3Si3O12H2", "Ca5P3O13H", "Mn2FeCoNiO6", "PmCl3", "HeO", "LrF3", "XeF2", "H2O2", "BaO2", "CH3NH3PbI3",
]  # fmt: skip


@pytest.mark.parametrize("text", CHOSEN)
def test_chosen_formulas_equal_smact(text: str) -> None:
    formula = reduced(tuple((element.Z, int(count)) for element, count in Composition(text).items()))
    assert formula_validity(formula) == smact_says(formula)


@pytest.mark.parametrize("name", ["perov_5", "carbon_24", "mp_20"])
def test_every_formula_of_a_test_file_equals_smact(name: str, shared_data: Path | None) -> None:
    if shared_data is None:
        pytest.skip("the benchmark files are not here")
    formulas = formulas_in(shared_data, name, "test")
    assert len(formulas) == {"perov_5": 3409, "carbon_24": 1, "mp_20": 8534}[name]
    assert {formula for formula in formulas if formula_validity(formula) != smact_says(formula)} == set()


# The paper's version


def test_the_paper_s_rules_equal_a_search_with_its_version() -> None:
    """Formulas with promethium, iridium, zirconium and elements without electronegativity are most of them."""
    rng = random.Random(2)
    special = [61, 61, 77, 40, 86, 8, 17, 26, 1, 6, 7, 9, 84, 85, 58, 98]
    formulas = random_formulas(500, (2, 3, 4), seed=3)
    for _ in range(2500):
        chosen = set(rng.sample(special, rng.randint(2, 4)))
        formulas.add(reduced(tuple((z, rng.randint(1, 5)) for z in chosen)))
    formulas -= {()}
    assert {f for f in formulas if formula_validity(f, "paper") != paper_says(f)} == set()


def test_the_versions_differ_in_thirteen_formulas_of_mp_20(shared_data: Path | None) -> None:
    if shared_data is None:
        pytest.skip("the benchmark files are not here")
    formulas = formulas_in(shared_data, "mp_20", "test")
    different = [f for f in formulas if formula_validity(f) != formula_validity(f, "paper")]
    assert (len(formulas), len(different)) == (8534, 13)
    assert all({61, 77} & {number for number, _ in formula} for formula in different)  # Pm or Ir
    assert {formula for formula in different if formula_validity(formula, "paper") != paper_says(formula)} == set()


def formulas_in(folder: Path, name: str, split: str) -> set:
    """The reduced formulas of a public file, without parsing its crystals."""
    csv.field_size_limit(1_000_000)
    texts = set()
    with gzip.open(folder / name / f"{split}.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            lines = [line for line in row["cif"].splitlines() if "_chemical_formula_sum" in line]
            texts.add(lines[0].split(None, 1)[1].strip(" '") if lines else row["pretty_formula"])
    found = set()
    for text in texts:
        counts = {Element(symbol).Z: int(count) for symbol, count in Composition(text).as_dict().items()}
        divisor = math.gcd(*counts.values())
        found.add(tuple(sorted((number, count // divisor) for number, count in counts.items())))
    return found
