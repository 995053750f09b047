"""Elements: their symbols, atomic masses, and their order in a chemical formula.

The tables are part of the source, so that they need no import and change with no other library. A test compares them
with pymatgen's.
"""

from __future__ import annotations

MAX_ATOMIC_NUMBER = 118  # oganesson, the last element that has a name; ASE and pymatgen have none beyond
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)  # last atomic number of each period
GROUPS, PERIODS = 18, 7
NUM_ELEMENTS = 100  # classes Z = 1..100 of the models; heavier ones were never made in amounts that form a crystal

# Symbols in the order of atomic numbers, with the mass in u. Standard atomic weights as pymatgen has them; where an
# element has no stable isotope, the mass number of a long-lived one.
_TABLE = """
    H 1.00794  He 4.002602  Li 6.941  Be 9.012182  B 10.811  C 12.0107  N 14.0067  O 15.9994  F 18.9984032
    Ne 20.1797  Na 22.98976928  Mg 24.305  Al 26.9815386  Si 28.0855  P 30.973762  S 32.065  Cl 35.453  Ar 39.948
    K 39.0983  Ca 40.078  Sc 44.955912  Ti 47.867  V 50.9415  Cr 51.9961  Mn 54.938045  Fe 55.845  Co 58.933195
    Ni 58.6934  Cu 63.546  Zn 65.409  Ga 69.723  Ge 72.64  As 74.9216  Se 78.96  Br 79.904  Kr 83.798  Rb 85.4678
    Sr 87.62  Y 88.90585  Zr 91.224  Nb 92.90638  Mo 95.94  Tc 98  Ru 101.07  Rh 102.9055  Pd 106.42  Ag 107.8682
    Cd 112.411  In 114.818  Sn 118.71  Sb 121.76  Te 127.6  I 126.90447  Xe 131.293  Cs 132.9054519  Ba 137.327
    La 138.90547  Ce 140.116  Pr 140.90765  Nd 144.242  Pm 145  Sm 150.36  Eu 151.964  Gd 157.25  Tb 158.92535
    Dy 162.5  Ho 164.93032  Er 167.259  Tm 168.93421  Yb 173.04  Lu 174.967  Hf 178.49  Ta 180.94788  W 183.84
    Re 186.207  Os 190.23  Ir 192.217  Pt 195.084  Au 196.966569  Hg 200.59  Tl 204.3833  Pb 207.2  Bi 208.9804
    Po 210  At 210  Rn 220  Fr 223  Ra 226  Ac 227  Th 232.03806  Pa 231.03588  U 238.02891  Np 237  Pu 244  Am 243
    Cm 247  Bk 247  Cf 251  Es 252  Fm 257  Md 258  No 259  Lr 262  Rf 267  Db 268  Sg 269  Bh 270  Hs 270  Mt 278
    Ds 281  Rg 282  Cn 285  Nh 286  Fl 289  Mc 290  Lv 293  Ts 294  Og 294
"""

# IUPAC's series of electropositive to electronegative elements, which is the order in a formula: "Nomenclature of
# Inorganic Chemistry, IUPAC Recommendations 2005", Table VI. Its table ends at Z = 103; heavier elements follow their
# groups here.
_SERIES = """
    Og Rn Xe Kr Ar Ne He  Fr Cs Rb K Na Li  Ra Ba Sr Ca Mg Be
    Lr No Md Fm Es Cf Bk Cm Am Pu Np U Pa Th Ac  Lu Yb Tm Er Ho Dy Tb Gd Eu Sm Pm Nd Pr Ce La  Y Sc
    Rf Hf Zr Ti  Db Ta Nb V  Sg W Mo Cr  Bh Re Tc Mn  Hs Os Ru Fe  Mt Ir Rh Co  Ds Pt Pd Ni  Rg Au Ag Cu  Cn Hg Cd Zn
    Nh Tl In Ga Al B  Fl Pb Sn Ge Si C  Mc Bi Sb As P N  H  Lv Po Te Se S O  Ts At I Br Cl F
"""

SYMBOLS: tuple[str, ...] = ("", *_TABLE.split()[::2])
"""Symbols by atomic number, 1 to 118; number 0 is no element."""

MASSES: tuple[float, ...] = (0.0, *map(float, _TABLE.split()[1::2]))
"""Atomic masses in u by atomic number, 1 to 118; number 0 has none."""

ATOMIC_NUMBERS: dict[str, int] = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}
"""Atomic numbers by symbol."""

_PLACES = {symbol: place for place, symbol in enumerate(_SERIES.split())}
FORMULA_ORDER: tuple[int, ...] = (-1, *(_PLACES[symbol] for symbol in SYMBOLS[1:]))
"""Place of each element in a formula, by atomic number: Sr before Ti before O."""


def symbol_of(atomic_number: int) -> str:
    """Return the symbol of an element; "?" for a number that belongs to none."""
    return SYMBOLS[atomic_number] if 0 < atomic_number <= MAX_ATOMIC_NUMBER else "?"


def formula_order(atomic_number: int) -> int:
    """Sorting key of elements in a formula (IUPAC's series); a number that belongs to no element comes last."""
    return FORMULA_ORDER[atomic_number] if 0 < atomic_number <= MAX_ATOMIC_NUMBER else atomic_number


def group_and_period(atomic_number: int) -> tuple[int, int]:
    """Return the group (1 to 18) and period of an element; lanthanides and actinides are in group 3."""
    period = next(i for i, last in enumerate(NOBLE_GASES) if atomic_number <= last)
    place, length = atomic_number - NOBLE_GASES[period - 1], NOBLE_GASES[period] - NOBLE_GASES[period - 1]
    if place <= 2 and length > 2:
        return place, period
    if length == 2:
        return (1 if place == 1 else 18), period
    return max(place + 18 - length, 3), period
