"""Formulas, counts and densities against pymatgen; limits are defined once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from cdvae_lab.crystals import elements, formulas
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError

PACKAGE = Path(formulas.__file__).parents[1]

counts = st.dictionaries(st.integers(1, 103), st.integers(1, 30), min_size=1, max_size=6)


def of_counts(found: dict[int, int]) -> Crystals:
    """One crystal with these atoms, in a cell of 10 Å."""
    numbers = torch.tensor([z for z, count in found.items() for _ in range(count)])
    return Crystals.from_lists([torch.rand(len(numbers), 3)], [numbers], 10 * torch.eye(3)[None])


def pymatgen_cell_formula(found: dict[int, int]) -> str:
    """pymatgen's formula in IUPAC's order, without its spaces and ones: "Sr1 Ti1 O3" is SrTiO3."""
    text = Composition({Element.from_Z(z): count for z, count in found.items()}).iupac_formula
    return "".join(
        symbol + (count if count != "1" else "") for symbol, count in re.findall(r"([A-Z][a-z]?)(\d+)", text)
    )


def test_elements_equal_pymatgen() -> None:
    known = [Element.from_Z(z) for z in range(1, elements.MAX_ATOMIC_NUMBER + 1)]
    assert list(elements.SYMBOLS[1:]) == [element.symbol for element in known]
    assert {element.symbol: element.Z for element in known} == elements.ATOMIC_NUMBERS
    np.testing.assert_allclose(elements.MASSES[1:], [float(element.atomic_mass) for element in known], rtol=2e-3)
    ordered = sorted(range(1, 104), key=elements.formula_order)  # pymatgen's table ends there
    assert ordered == sorted(range(1, 104), key=lambda z: Element.from_Z(z).iupac_ordering)
    assert sorted(elements.FORMULA_ORDER[1:]) == list(range(118))
    assert (elements.symbol_of(0), elements.symbol_of(119)) == ("?", "?")


@given(counts)
def test_formulas_of_the_cell_equal_pymatgen(found: dict[int, int]) -> None:
    crystals = of_counts(found)
    assert formulas.cell_formulas(crystals) == [pymatgen_cell_formula(found)]
    assert formulas.compositions(crystals.pad(40)) == [tuple(sorted(found.items()))]


@given(counts)
def test_reduced_formulas_equal_pymatgen(found: dict[int, int]) -> None:
    [text] = formulas.reduced_formulas(of_counts(found))
    composition = Composition({Element.from_Z(z): count for z, count in found.items()})
    expected, _ = composition.get_reduced_formula_and_factor(iupac_ordering=True)
    assert Composition(text) == Composition(expected)  # the same counts, those of O2 and Na2O2 included
    if "(" not in expected:  # a polyanion, which pymatgen groups
        assert text == expected


def test_molecules_equal_pymatgen() -> None:
    spelled = {text: formulas.spell_reduced(formulas.parse(text)) for text in Composition.special_formulas}
    assert spelled == Composition.special_formulas


@pytest.mark.parametrize(
    ("text", "cell", "reduced"),
    [
        ("O6Sr2Ti2", "Sr2Ti2O6", "SrTiO3"),
        ("H3N", "NH3", "NH3"),
        ("O", "O", "O2"),
        ("C24", "C24", "C"),
        ("Na2O2", "Na2O2", "Na2O2"),
        ("OH", "HO", "H2O2"),
        ("LiFePO4", "LiFePO4", "LiFePO4"),
        ("Ca(NO3)2", "CaN2O6", "CaN2O6"),
        (" O3 Ti Sr ", "SrTiO3", "SrTiO3"),
    ],
)
def test_the_spelling_of_known_compounds(text: str, cell: str, reduced: str) -> None:
    assert formulas.spell(formulas.parse(text)) == formulas.respell(text) == cell
    assert formulas.spell_reduced(formulas.parse(text)) == reduced


nested = st.recursive(
    st.tuples(st.sampled_from(elements.SYMBOLS[1:]), st.integers(1, 12)).map(lambda p: p[0] + (str(p[1]) * (p[1] > 1))),
    lambda part: st.tuples(st.lists(part, min_size=1, max_size=3).map("".join), st.integers(2, 5)).map(
        lambda p: f"({p[0]}){p[1]}"
    ),
    max_leaves=6,
)


@given(st.lists(nested, min_size=1, max_size=4).map("".join))
def test_formulas_are_read_as_by_pymatgen(text: str) -> None:
    expected = Composition(text).get_el_amt_dict()
    found = formulas.parse(text)
    assert {elements.symbol_of(number): count for number, count in found} == expected
    assert formulas.parse(formulas.spell(found)) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no atoms"),
        ("O0", "names no atoms"),
        ("SrTi?", r"cannot have '\?'"),
        ("Fe0.5O", r"cannot have '\.'"),
        ("Xx2", "Xx is no element"),
        ("2H", "nothing stands before 2"),
        ("Sr(", "leaves a bracket open"),
        ("Sr)2", "closes a bracket"),
    ],
)
def test_text_that_is_no_formula_is_refused(text: str, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        formulas.parse(text)
    assert formulas.respell(text) == text


def test_counts_by_element() -> None:
    one = formulas.parse_counts("Sr2(TiO3)2")
    assert {z + 1: int(one[z]) for z in one.nonzero()[:, 0].tolist()} == {38: 2, 22: 2, 8: 6}
    crystals = of_counts({38: 2, 22: 2, 8: 6})
    assert torch.equal(formulas.element_counts(crystals.pad(14).atomic_numbers), one[None])
    with pytest.raises(SettingError, match="Og has Z = 118"):
        formulas.parse_counts("OgO")


def test_densities_equal_pymatgen(known_crystals: Crystals) -> None:
    expected = [float(structure.density) for structure in known_crystals.to_structures()]
    np.testing.assert_allclose(formulas.density(known_crystals), expected, rtol=1e-6)
    assert formulas.density(known_crystals)[2] == pytest.approx(3.515, abs=0.01)  # diamond, as in the handbooks
    unknown = known_crystals.replace(atomic_numbers=known_crystals.atomic_numbers.masked_fill(known_crystals.mask, 119))
    assert formulas.density(unknown).isnan().all()


def test_a_crystal_without_atoms_has_an_empty_formula() -> None:
    nothing = Crystals(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), torch.eye(3)[None])
    assert formulas.cell_formulas(nothing) == formulas.reduced_formulas(nothing) == [""]
    assert formulas.reduced_compositions(nothing) == [()]


def test_limits_masses_and_spellings_are_defined_once() -> None:
    limits = {"MIN_DISTANCE", "MIN_VOLUME", "MAX_ATOMIC_NUMBER", "NUM_ELEMENTS", "HEAVIEST"}
    owners = {"elements.py", "limits.py", "synthetic.py"}  # the synthetic crystals end at bismuth
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assigned = {
            target.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        assert path.name in owners or not assigned & limits, path
        other = re.search(r"chemical_symbols|atomic_mass\b|atomic_masses|1\.66053|\.reduced_formula\b", text)
        assert path.name == "formulas.py" or not other, f"{path}: {other}"


def test_formulas_need_no_heavy_import() -> None:
    code = (
        "import sys, torch; from cdvae_lab.crystals import formulas; from cdvae_lab import Crystals;"
        "c = Crystals(torch.zeros(1, 1, 3), torch.tensor([[6]]), 3 * torch.eye(3)[None]);"
        "formulas.reduced_formulas(c), formulas.density(c), formulas.parse('SrTiO3');"
        "print([name for name in ('pymatgen', 'ase', 'scipy', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert found.stdout.strip() == "[]"
