"""Chemical formulas: composition of crystals, writing and parsing of formulas, and mass density.

A formula names its elements in IUPAC's order (`elements.FORMULA_ORDER`): SrTiO3, NH3, LiFePO4. A *cell formula* counts
all atoms of the cell (Sr2Ti2O6). A *reduced formula* divides the counts by their greatest common divisor (SrTiO3),
except that the five elements and six compounds in `_MOLECULES` keep a molecule's count, as in pymatgen: O2, not O.
Counts are never grouped in parentheses, but `parse` reads these.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import re
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import (
    ATOMIC_NUMBERS,
    MASSES,
    MAX_ATOMIC_NUMBER,
    NUM_ELEMENTS,
    formula_order,
    symbol_of,
)
from cdvae_lab.errors import SettingError

Composition = tuple[tuple[int, int], ...]
"""Elements of a crystal as pairs (atomic number, count), in ascending order of the atomic number."""

G_PER_CM3 = 1.66053906660  # one u/Å^3 in g/cm^3 (CODATA 2018)
# Reduced formulas that name two atoms of each element, as `pymatgen.core.Composition.special_formulas` has them.
_MOLECULES = {"H": "H2", "N": "N2", "O": "O2", "F": "F2", "Cl": "Cl2", "LiO": "Li2O2", "NaO": "Na2O2", "KO": "K2O2"} | {
    "RbO": "Rb2O2", "CsO": "Cs2O2", "HO": "H2O2"
}  # fmt: skip
_TOKEN = re.compile(r"([A-Z][a-z]?)|([(\[])|([)\]])|(\d+)")


# Counting


def compositions(crystals: Crystals) -> list[Composition]:
    """Composition of each crystal with all atoms of its cell."""
    found = []
    for row in crystals.atomic_numbers.tolist():
        counts: dict[int, int] = {}
        for number in row:
            if number > 0:
                counts[number] = counts.get(number, 0) + 1
        found.append(tuple(sorted(counts.items())))
    return found


def reduced_compositions(crystals: Crystals) -> list[Composition]:
    """Composition of each crystal, with counts divided by their greatest common divisor."""
    return [reduce(composition) for composition in compositions(crystals)]


def reduce(composition: Composition) -> Composition:
    """Divide the counts of a composition by their greatest common divisor."""
    divisor = math.gcd(*(count for _, count in composition))
    return tuple((number, count // divisor) for number, count in composition)


def element_counts(atomic_numbers: Int[Tensor, "crystals sites"]) -> Int[Tensor, "crystals elements"]:
    """Count the atoms of the elements Z = 1..100 in each crystal; atomic number 0 marks a site without an atom."""
    counts = torch.zeros(len(atomic_numbers), NUM_ELEMENTS + 1, dtype=torch.int64, device=atomic_numbers.device)
    return counts.scatter_add_(1, atomic_numbers.long(), torch.ones_like(atomic_numbers, dtype=torch.int64))[:, 1:]


def same_atoms(
    one: Int[Tensor, "crystals sites"], other: Int[Tensor, "crystals other_sites"]
) -> Bool[Tensor, " crystals"]:
    """Tell which crystals of two batches have the same number of atoms of every element."""
    return (element_counts(one) == element_counts(other)).all(1)


def atoms_from_counts(counts: Int[Tensor, "crystals elements"]) -> Int[Tensor, "crystals sites"]:
    """List the atomic numbers of a composition's atoms, ascending, padded with 0 (waits for the device)."""
    sites = max(int(counts.sum(1).max()), 1)
    last = counts.cumsum(1)
    site = torch.arange(sites, device=counts.device)
    number = (last[:, None] <= site[:, None]).sum(-1) + 1
    return torch.where(site < last[:, -1:], number, 0)


# Writing


def cell_formulas(crystals: Crystals) -> list[str]:
    """Formula of each crystal with all atoms of its cell: Sr2Ti2O6. Empty for a crystal without atoms."""
    return [spell(composition) for composition in compositions(crystals)]


def reduced_formulas(crystals: Crystals) -> list[str]:
    """Reduced formula of each crystal: SrTiO3, O2. Empty for a crystal without atoms."""
    return [spell_reduced(composition) for composition in compositions(crystals)]


@lru_cache(maxsize=65536)
def spell(composition: Composition) -> str:
    """Write a composition as a formula with all its atoms, elements in IUPAC's order."""
    ordered = sorted(composition, key=lambda pair: formula_order(pair[0]))
    return "".join(symbol_of(number) + (str(count) if count > 1 else "") for number, count in ordered)


def spell_reduced(composition: Composition) -> str:
    """Write a composition as a reduced formula, elements in IUPAC's order."""
    text = spell(reduce(composition))
    return _MOLECULES.get(text, text)


def to_html(formula: str) -> str:
    """Write the counts of a formula as HTML subscripts."""
    return re.sub(r"(\d+)", r"<sub>\1</sub>", formula)


# Reading


@lru_cache(maxsize=65536)
def parse(formula: str) -> Composition:
    """Read a formula with whole counts, in any order of the elements: "SrTiO3", "Ca(NO3)2", "O3 Ti Sr".

    Raises:
        SettingError: for text that is not a formula, an unknown element, a fraction, or no atoms.
    """
    example = "give one with whole numbers of atoms, like SrTiO3"
    text = "".join(formula.split())
    tokens = list(_TOKEN.finditer(text))
    if sum(len(token[0]) for token in tokens) != len(text):
        wrong = _TOKEN.sub("", text)
        raise SettingError(f"{formula!r} is no chemical formula (it cannot have {wrong!r}); {example}")
    groups: list[dict[int, int]] = [{}]
    last: dict[int, int] = {}  # what a count after it multiplies
    for symbol, opening, closing, count in (token.groups() for token in tokens):
        if symbol and symbol not in ATOMIC_NUMBERS:
            raise SettingError(f"{formula!r} is no chemical formula ({symbol} is no element); {example}")
        if count and not last:
            raise SettingError(f"{formula!r} is no chemical formula (nothing stands before {count}); {example}")
        if count:
            _add(groups[-1], last, int(count) - 1)
            last = {}
        elif opening:
            groups.append({})
            last = {}
        elif closing and len(groups) == 1:
            raise SettingError(f"{formula!r} is no chemical formula (it closes a bracket that is not open); {example}")
        else:
            last = groups.pop() if closing else {ATOMIC_NUMBERS[symbol]: 1}
            _add(groups[-1], last, 1)
    if len(groups) > 1:
        raise SettingError(f"{formula!r} is no chemical formula (it leaves a bracket open); {example}")
    composition = tuple(sorted((number, count) for number, count in groups[0].items() if count))
    if not composition:
        raise SettingError(f"{formula!r} names no atoms; {example}")
    return composition


def respell(formula: str) -> str:
    """Write a formula of any order of the elements in the order of this module; other text is returned unchanged."""
    try:
        return spell(parse(formula))
    except SettingError:
        return formula


def parse_counts(formula: str) -> Int[Tensor, " elements"]:
    """Count the atoms of the elements Z = 1..100 that a formula names: "Sr2Ti2O6" has ten.

    Raises:
        SettingError: as `parse`, and for elements beyond Z = 100.
    """
    counts = torch.zeros(NUM_ELEMENTS, dtype=torch.int64)
    for number, count in parse(formula):
        if number > NUM_ELEMENTS:
            raise SettingError(
                f"{formula!r}: {symbol_of(number)} has Z = {number}; the models know elements up to Z = {NUM_ELEMENTS}"
            )
        counts[number - 1] = count
    return counts


def _add(total: dict[int, int], part: dict[int, int], times: int) -> None:
    for number, count in part.items():
        total[number] = total.get(number, 0) + times * count


# Mass


def density(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Mass density of each crystal in g/cm^3, float64 on the CPU.

    NaN for atomic numbers beyond 118; infinite or NaN for a cell without a volume.
    """
    numbers = crystals.atomic_numbers.cpu()
    masses = torch.tensor(MASSES, dtype=torch.float64)
    mass = torch.where(numbers <= MAX_ATOMIC_NUMBER, masses[numbers.clamp(max=MAX_ATOMIC_NUMBER)], torch.nan).sum(1)
    return G_PER_CM3 * mass / lat.volume(crystals.lattice.double().cpu())
