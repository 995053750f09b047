"""Synthetic perovskites from ionic radii, for tutorials, tests and work offline. Nothing here was measured.

The compositions are charge-neutral ABX3 of ions in common oxidation states whose Shannon radii allow a perovskite:
Goldschmidt's tolerance factor t = (rA + rX) / (sqrt(2) (rB + rX)) and the octahedral factor rB / rX lie within the
limits below (Li et al., J. Phys. Chem. Solids 67, 2310, 2006). The label is the electrostatic energy of the ions as
point charges.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.catalog import SYNTHETIC
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.io.canonical import canonical, from_canonical

SYNTHETIC_LABEL = "electrostatic_energy_per_atom"
ANIONS = {"O": -2, "F": -1, "Cl": -1, "Br": -1, "I": -1, "S": -2, "Se": -2}
TOLERANCE_FACTOR = (0.82, 1.06)
OCTAHEDRAL_FACTOR = (0.41, 0.75)
HEAVIEST = 83  # bismuth; all heavier elements are radioactive
# Crystals per composition; the first is the ideal cubic one.
VARIANTS = 8
# Å; ions of ferroelectric perovskites are displaced by some 0.1 to 0.3 Å.
MAX_SHIFT = 0.35
# e^2 / (4 pi epsilon_0) in eV Å.
COULOMB = 14.399645478


@dataclass(frozen=True)
class Composition:
    """Ions of an ABX3 perovskite: symbols, charges in e, Shannon radii in Å (12-fold A, 6-fold B and X)."""

    symbols: tuple[str, str, str]
    charges: tuple[int, int, int]
    radii: tuple[float, float, float]

    @property
    def tolerance_factor(self) -> float:
        a, b, x = self.radii
        return (a + x) / (math.sqrt(2) * (b + x))

    @property
    def octahedral_factor(self) -> float:
        return self.radii[1] / self.radii[2]


def compositions() -> list[Composition]:
    """Enumerate the ABX3 compositions within the limits, each once, with the charges that bring t closest to 1."""
    found: dict[tuple[str, str, str], Composition] = {}
    a_ions, b_ions = list(_cations("XII")), list(_cations("VI"))
    for x, charge_x in ANIONS.items():
        radius_x = _radius(x, charge_x, "VI")
        for (a, charge_a, radius_a), (b, charge_b, radius_b) in itertools.product(a_ions, b_ions):
            if a == b or radius_x is None or charge_a + charge_b + 3 * charge_x != 0:
                continue
            new = Composition((a, b, x), (charge_a, charge_b, charge_x), (radius_a, radius_b, radius_x))
            fits = TOLERANCE_FACTOR[0] <= new.tolerance_factor <= TOLERANCE_FACTOR[1]
            fits &= OCTAHEDRAL_FACTOR[0] <= new.octahedral_factor <= OCTAHEDRAL_FACTOR[1]
            known = found.get(new.symbols)
            if fits and (known is None or abs(new.tolerance_factor - 1) < abs(known.tolerance_factor - 1)):
                found[new.symbols] = new
    return sorted(found.values(), key=lambda c: c.symbols)


def perovskites(seed: int = 0) -> tuple[Crystals, Float[Tensor, " crystals"], list[Composition]]:
    """Generate crystals, electrostatic energies (eV/atom, float64) and compositions, `VARIANTS` rows per composition.

    The cell length a = max(2 (rB + rX), sqrt(2) (rA + rX)) is the shortest without overlapping ions. One cation, B for
    t > 1 and A for t < 1, then has free space around it. In every variant but the first it is displaced along [001],
    [011] or [111] by 20 to 80 % of that space, the anions by a tenth of the displacement in the opposite direction, and
    the cell is strained along it, at constant volume to first order.
    """
    from pymatgen.core import Lattice, Structure

    rng = np.random.default_rng(seed)
    ideal = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    directions = [np.array(d) / np.linalg.norm(d) for d in ((0, 0, 1), (0, 1, 1), (1, 1, 1))]
    checked, charges, labels = [], [], []
    for composition in compositions():
        radius_a, radius_b, radius_x = composition.radii
        room = math.sqrt(2) * (radius_a + radius_x) - 2 * (radius_b + radius_x)
        length = 2 * (radius_b + radius_x) + max(room, 0)
        slack = room / 2 if room > 0 else -room / math.sqrt(2)
        a, b, x = composition.symbols
        for variant in range(VARIANTS):
            # Drawn for the first variant too, so that the random numbers of a crystal depend on its index alone.
            direction, share = directions[rng.integers(3)], rng.uniform(0.2, 0.8)
            shift = 0.0 if variant == 0 else min(share * slack, MAX_SHIFT)
            moved = np.zeros((5, 3))
            moved[1 if room > 0 else 0] = shift * direction
            moved[2:] = -0.1 * shift * direction
            strain = 0.25 * shift / length * (3 * np.outer(direction, direction) - np.eye(3))
            cell = length * (np.eye(3) + strain)
            structure = Structure(Lattice(cell), [a, b, x, x, x], ideal + moved @ np.linalg.inv(cell))
            checked.append(canonical(structure, f"{a}{b}{x}3 ({variant})"))
            charges.append([composition.charges[i] for i in (0, 1, 2, 2, 2)])
            labels.append(composition)
    crystals = from_canonical(checked, dtype=torch.float64)
    energies = electrostatic_energy(crystals, torch.tensor(charges, dtype=torch.float64))
    return crystals.to(dtype=torch.float32), energies, labels


@cache
def synthetic_perovskites(seed: int = 0) -> Dataset:
    """Generate some thousands of ABX3 perovskites from ionic radii, labeled with their electrostatic energy (eV/atom).

    The first call takes a few seconds; later calls return the same object. Nothing in it was measured or computed with
    quantum mechanics.

    Raises:
        SettingError: if the seed is negative.
    """
    if seed < 0:
        raise SettingError(f"seed: {seed}; give 0 or more")
    crystals, energies, labels = perovskites(seed)
    return Dataset(
        SYNTHETIC,
        "all",
        crystals,
        tuple(f"{a}{b}{x}3-{i % VARIANTS}" for i, c in enumerate(labels) for a, b, x in [c.symbols]),
        energies.to(torch.float32),
        SYNTHETIC_LABEL,
        "eV/atom",
        "SYNTHETIC: generated by cdvae_lab from Shannon radii with Goldschmidt's tolerance factor, not measured",
        "MIT (cdvae_lab)",
    )


def split_perovskites(split: str) -> Dataset:
    """Select "train", "val" or "test": 80, 10 and 10 % of the compositions, each with all its variants."""
    everything = synthetic_perovskites()
    groups = np.random.default_rng(0).permutation(len(everything) // VARIANTS)
    train, val = int(0.8 * len(groups)), int(0.9 * len(groups))
    chosen = np.sort({"train": groups[:train], "val": groups[train:val], "test": groups[val:]}[split])
    rows = (chosen[:, None] * VARIANTS + np.arange(VARIANTS)).ravel()
    # Shuffled, so that the first rows are not all of one composition.
    rows = np.random.default_rng(0).permutation(rows)
    return replace(everything[torch.from_numpy(rows)], split=split)


def electrostatic_energy(
    crystals: Crystals, charges: Float[Tensor, "crystals sites"], reach: int = 3
) -> Float[Tensor, " crystals"]:
    """Electrostatic energy of neutral crystals of point charges (in e), eV/atom, by Ewald summation.

    Both sums extend `reach` cells in each direction; the width of the screening charges balances them (de Leeuw et al.,
    Proc. R. Soc. A 373, 27, 1980). For nearly cubic cells, 3 gives a relative accuracy of 1e-9.
    """
    parts = zip(crystals.frac_coords.split(256), crystals.lattice.split(256), charges.split(256), strict=True)
    total = torch.cat([_ewald(*part, reach) for part in parts])
    return total / crystals.num_atoms


def _ewald(
    frac_coords: Float[Tensor, "crystals sites 3"],
    lattice: Float[Tensor, "crystals 3 3"],
    charges: Float[Tensor, "crystals sites"],
    reach: int,
) -> Float[Tensor, " crystals"]:
    volume = lat.volume(lattice)
    width = math.sqrt(math.pi) / volume ** (1 / 3)  # 1/Å
    steps = lat.nearest_offsets(lattice.device, lattice.dtype, reach)
    delta = frac_coords[:, :, None] - frac_coords[:, None]
    pairs = charges[:, :, None] * charges[:, None]

    distance = ((delta[:, :, :, None] + steps) @ lattice[:, None, None]).norm(dim=-1)
    screened = torch.erfc(width[:, None, None, None] * distance) / distance
    screened = torch.where(
        distance > 1e-6, screened, torch.zeros_like(distance)
    )  # no interaction of an ion with itself
    near = 0.5 * (pairs * screened.sum(-1)).sum((1, 2))

    waves = steps[steps.any(1)]
    squared = ((waves @ lat.inverse(lattice).mT) ** 2).sum(-1) * (2 * math.pi) ** 2
    damping = torch.exp(-squared / (4 * width[:, None] ** 2)) / squared
    phase = 2 * math.pi * frac_coords @ waves.T
    amplitude = (charges[:, :, None] * torch.cos(phase)).sum(1) ** 2 + (charges[:, :, None] * torch.sin(phase)).sum(
        1
    ) ** 2
    far = 2 * math.pi / volume * (damping * amplitude).sum(-1)

    itself = width / math.sqrt(math.pi) * (charges**2).sum(-1)
    return COULOMB * (near + far - itself)


def _cations(coordination: str) -> Iterator[tuple[str, int, float]]:
    """Yield symbol, charge and Shannon radius (Å) of each cation listed for a coordination ("VI", "XII")."""
    from pymatgen.core import Element

    for number in range(1, HEAVIEST + 1):
        element = Element.from_Z(number)
        for charge in element.common_oxidation_states:
            radius = _radius(element.symbol, charge, coordination) if charge > 0 else None
            if radius is not None:
                yield element.symbol, charge, radius


def _radius(symbol: str, charge: int, coordination: str) -> float | None:
    """Shannon ionic radius (Å), of the high-spin state if there are two; None if not listed."""
    from pymatgen.core import Element

    states = (Element(symbol).data.get("Shannon radii") or {}).get(str(charge), {}).get(coordination, {})
    radii = [states[spin]["ionic_radius"] for spin in ("", "High Spin", "Low Spin") if spin in states]
    return float(radii[0]) if radii else None
