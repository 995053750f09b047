"""SMACT's test of a composition: charge neutrality and the order of electronegativities (Pauling test).

Oxidation states, electronegativities and the list of metals are SMACT's own (`data/smact.csv`), so that numbers compare
with the CDVAE paper's. SMACT itself is not needed: its search over all products of oxidation states takes minutes for
eight elements, where the search here takes microseconds. Source: Davies et al., Chem 1, 617 (2016).

Two versions of SMACT differ (`Rules`):

- "current": SMACT 2.8 to 4.0.2 with the oxidation states of 2014 (`oxidation_states_set="smact14"`). Equal to
  `smact.screening.smact_validity` of 4.0.2 on every formula of the benchmark files.
- "paper": SMACT 2.2.1, which the CDVAE paper's code requires, as its `eval_utils.smact_validity` calls it. Iridium has
  the state -2 instead of -3, zirconium the electronegativity 0.33 instead of 1.33, and an element without an
  electronegativity (promethium) can pass. 13 of the 8,534 formulas of MP-20's test file differ.

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from cdvae_lab.crystals.formulas import Composition

Rules = Literal["current", "paper"]


@dataclass(frozen=True)
class ElementData:
    """SMACT's data of an element.

    Attributes:
        states: oxidation states, ascending; none for an element without compounds.
        electronegativity: Pauling's; None where SMACT has none.
        metal: whether SMACT lists it as a metal.
    """

    states: tuple[int, ...]
    electronegativity: float | None
    metal: bool


UNKNOWN = ElementData((), None, False)
# SMACT 2.2.1's `data/oxidation_states.txt` and `data/element_data.txt`, where they differ from 4.0.2's.
_PAPER = {
    40: ElementData((1, 2, 3, 4), 0.33, True),
    77: ElementData((-2, -1, 1, 2, 3, 4, 5, 6, 7, 8), 2.2, True),
}


@cache
def _table() -> dict[int, ElementData]:
    """Read SMACT 4.0.2's data by atomic number, hydrogen to lawrencium."""
    text = (files("cdvae_lab.metrics") / "data" / "smact.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")][1:]
    table = {}
    for number, _, electronegativity, metal, states in (line.split(",") for line in lines):
        table[int(number)] = ElementData(
            tuple(map(int, states.split())), float(electronegativity) if electronegativity else None, metal == "1"
        )
    return table


def element_data(atomic_number: int, rules: Rules = "current") -> ElementData:
    """Return SMACT's data of an element; no state and no electronegativity beyond lawrencium."""
    if rules == "paper" and atomic_number in _PAPER:
        return _PAPER[atomic_number]
    return _table().get(atomic_number, UNKNOWN)


@cache
def formula_validity(composition: Composition, rules: Rules = "current") -> bool:
    """Test whether oxidation states exist that are neutral and in the order of the electronegativities.

    A single element passes, and so do metals alone.

    Args:
        composition: reduced, as sorted pairs of atomic number and count.
        rules: the version of SMACT; see this module.

    >>> formula_validity(((11, 1), (17, 1)))  # NaCl
    True
    >>> formula_validity(((11, 1), (17, 2)))  # NaCl2
    False
    """
    elements = [element_data(number, rules) for number, _ in composition]
    counts = [count for _, count in composition]
    if len(elements) == 1 or all(element.metal for element in elements):
        return True
    if not all(element.states for element in elements):
        return False
    if any(element.electronegativity is None for element in elements):
        return rules == "paper" and _passes_without_electronegativity(elements, counts)
    # The Pauling test asks that every cation be less electronegative than every anion. So there is a threshold,
    # one of the electronegativities themselves, with the cations at or below it and the anions above it. For
    # each threshold each element's states have one sign (or are 0, which the test ignores), and the charges that
    # can be reached element by element are few, where the products of states would be many.
    scale = [element.electronegativity or 0.0 for element in elements]
    for threshold in set(scale):
        allowed = [
            [state for state in element.states if state * (1 if value <= threshold else -1) >= 0]
            for element, value in zip(elements, scale, strict=True)
        ]
        if 0 in _charges(allowed, counts):
            return True
    return False


def _charges(states: list[list[int]], counts: list[int]) -> set[int]:
    """Compute the total charges that can be reached with one state for each element."""
    charges = {0}
    for choices, count in zip(states, counts, strict=True):
        charges = {charge + count * state for charge in charges for state in choices}
    return charges


def _passes_without_electronegativity(elements: list[ElementData], counts: list[int]) -> bool:
    """Return SMACT 2.2.1's result, as in the paper's code, for a formula with an element without electronegativity.

    SMACT compares the elements pair by pair: the first with the second, with the third, and so on. A pair with an
    unknown electronegativity fails if its charges have one sign, and raises TypeError if they have two, which the
    paper's code counts as a pass. So the first element, the first one without electronegativity and those between them
    decide, and the states of all others are free.
    """
    first = elements[0]
    unknown = next(
        k for k, other in enumerate(elements) if k and None in (first.electronegativity, other.electronegativity)
    )
    for state in first.states:
        allowed = [[state]]
        for k, element in enumerate(elements[1:], 1):
            if k == unknown:
                allowed.append([other for other in element.states if state * other < 0])
            elif k < unknown:
                allowed.append([other for other in element.states if _in_order(first, state, element, other)])
            else:
                allowed.append(list(element.states))
        if 0 in _charges(allowed, counts):
            return True
    return False


def _in_order(one: ElementData, state: int, other: ElementData, other_state: int) -> bool:
    """True if the cation of two ions is the less electronegative one, or if both have the same sign."""
    assert one.electronegativity is not None
    assert other.electronegativity is not None
    if state > 0 > other_state:
        return one.electronegativity < other.electronegativity
    if state < 0 < other_state:
        return one.electronegativity > other.electronegativity
    return True
