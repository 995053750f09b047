"""Is a crystal possible at all: do its atoms keep apart, and can its charges balance?

The two tests are those of the CDVAE paper (ALGORITHM.md, section 5; `eval_utils.py` of its code), so that
numbers compare: structure validity looks at distances and volume, composition validity is SMACT's charge
neutrality and electronegativity test with the oxidation states that the paper used.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.metrics.charge_balance import Rules, formula_validity

MIN_DISTANCE = 0.5  # Å
MIN_VOLUME = 0.1  # Å^3
MAX_ATOMIC_NUMBER = 118

# Cells so thin that atoms more than this many cells away could be too close go to pymatgen, one by one:
# they are rare, and reducing the lattice first is cheaper than comparing so many images.
_MAX_REACH = 2
# Crystals compared at once; bounds the memory of the (crystals, sites, sites, images) distances.
_MAX_DISTANCES = 4_000_000

Formula = tuple[tuple[int, int], ...]


def structure_validity(
    crystals: Crystals, min_distance: float = MIN_DISTANCE, min_volume: float = MIN_VOLUME
) -> Bool[Tensor, " crystals"]:
    """True where all distinct atoms are at least `min_distance` (Å) apart and the cell has `min_volume` (Å^3).

    Distances are to the nearest periodic image; an atom's distance to its own images does not count, as in
    the paper's code. No atoms, no such element, a number that is not finite, or a flat cell: invalid.
    """
    return _plausible_cell(crystals, min_volume) & _atoms_apart(crystals, min_distance, min_volume)


def smallest_distance(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Smallest distance (Å) between distinct atoms, to the nearest periodic image; an atom's own images do not count.

    Infinite with a single atom; NaN for a crystal without atoms, with a number that is not finite, or with a flat cell.
    """
    possible = _plausible_cell(crystals, MIN_VOLUME)
    smallest = torch.full((len(crystals),), math.nan, dtype=torch.float64, device=crystals.device)
    rows = possible.nonzero()[:, 0]
    for part in rows.split(max(1, _MAX_DISTANCES // (crystals.num_sites**2 * 27))):
        smallest[part] = _smallest_distance(crystals[part], 1)
    # An image two cells away is at least 3/2 plane spacings away: in flat cells it may still be the nearest.
    thin = 1.5 * lat.plane_spacings(crystals.lattice.double()).amin(-1) < smallest
    for number in (thin & (crystals.num_atoms > 1)).nonzero()[:, 0].tolist():
        smallest[number] = _smallest_distance_reduced(crystals[number])
    return smallest


def composition_validity(crystals: Crystals, rules: Rules = "current") -> Bool[Tensor, " crystals"]:
    """Test each composition with SMACT's charge neutrality and Pauling test, with the oxidation states of 2014.

    A single element passes, and so do metals alone. An element without a state or an electronegativity in SMACT fails.
    A crystal without atoms fails. Source: Davies et al., Chem 1, 617 (2016).

    Args:
        rules: "current" equals `smact.screening.smact_validity(..., oxidation_states_set="smact14")` of smact 2.8 to
            4.0.2; "paper" equals the CDVAE paper's code with smact 2.2.1. See `metrics.charge_balance`.
    """
    valid = [bool(formula) and formula_validity(formula, rules) for formula in reduced_formulas(crystals)]
    return torch.tensor(valid, dtype=torch.bool, device=crystals.device)


def invalid_reasons(crystals: Crystals) -> list[str | None]:
    """For each crystal what is wrong with it, in words, or None if it is valid by both tests."""
    plausible = _plausible_cell(crystals, MIN_VOLUME).tolist()
    apart = _atoms_apart(crystals, MIN_DISTANCE, MIN_VOLUME).tolist()
    neutral = composition_validity(crystals).tolist()
    reasons = []
    for cell_ok, atoms_ok, charges_ok in zip(plausible, apart, neutral, strict=True):
        wrong = []
        if not cell_ok:
            wrong.append(f"no atoms, no such element, a number that is not finite, or a volume below {MIN_VOLUME} Å^3")
        elif not atoms_ok:
            wrong.append(f"two atoms closer than {MIN_DISTANCE} Å")
        if not charges_ok:
            wrong.append("no choice of oxidation states is neutral and follows the electronegativities (SMACT)")
        reasons.append("; ".join(wrong) or None)
    return reasons


# --- structure ---------------------------------------------------------------------------------------


def _plausible_cell(crystals: Crystals, min_volume: float) -> Bool[Tensor, " crystals"]:
    lattice = crystals.lattice.double()
    positions = crystals.frac_coords.double().masked_fill(~crystals.mask[..., None], 0.0)
    finite = lattice.isfinite().flatten(1).all(1) & positions.isfinite().flatten(1).all(1)
    elements = crystals.mask.any(1) & (crystals.atomic_numbers <= MAX_ATOMIC_NUMBER).all(1)
    return elements & finite & (lat.volume(lattice) >= min_volume)  # a volume of NaN is not >=


def _atoms_apart(crystals: Crystals, min_distance: float, min_volume: float) -> Bool[Tensor, " crystals"]:
    """False for crystals with two atoms too close, and for those whose cell allows no distances."""
    apart = _plausible_cell(crystals, min_volume)
    # With differences rounded into [-1/2, 1/2], an image n cells away along an axis is at least |n| - 1/2 plane
    # spacings away: in all but thin cells only the image that rounding chose can be too close (reach 0).
    spacings = lat.plane_spacings(crystals.lattice.double())
    reach = torch.ceil(min_distance / spacings - 0.5).amax(-1).nan_to_num(nan=0.0).clamp(0, _MAX_REACH + 1)
    for images in range(_MAX_REACH + 1):
        chosen = (apart & (reach == images)).nonzero()[:, 0]
        per_crystal = crystals.num_sites**2 * (2 * images + 1) ** 3
        for part in chosen.split(max(1, _MAX_DISTANCES // per_crystal)):
            apart[part] = _smallest_distance(crystals[part], images) >= min_distance
    for number in (apart & (reach > _MAX_REACH)).nonzero()[:, 0].tolist():
        apart[number] = _smallest_distance_reduced(crystals[number]) >= min_distance
    return apart


def _smallest_distance(crystals: Crystals, reach: int) -> Float[Tensor, " crystals"]:
    """Smallest distance (Å) between distinct atoms, images up to `reach` cells away; infinite for one atom."""
    lattice, frac = crystals.lattice.double(), crystals.frac_coords.double()
    delta = frac[:, :, None] - frac[:, None]
    delta = delta - torch.round(delta)
    pair = crystals.mask[:, :, None] & crystals.mask[:, None]
    pair = pair & ~torch.eye(crystals.num_sites, dtype=torch.bool, device=frac.device)
    offsets = lat.nearest_offsets(frac.device, frac.dtype, reach)
    vectors = (delta[:, :, :, None] + offsets).flatten(1, 3) @ lattice
    squared = (vectors**2).sum(-1).unflatten(1, (*pair.shape[1:], len(offsets))).amin(-1)
    return squared.masked_fill(~pair, math.inf).flatten(1).amin(1).sqrt()


def _smallest_distance_reduced(crystal: Crystals) -> float:
    """The same for one crystal by pymatgen, which reduces the lattice before it looks at images."""
    from pymatgen.core import Lattice

    frac = crystal.frac_coords[0][crystal.mask[0]].double().cpu().numpy()
    distances = Lattice(crystal.lattice[0].double().cpu().numpy()).get_all_distances(frac, frac)
    distances[range(len(frac)), range(len(frac))] = math.inf
    return float(distances.min())


# --- composition -------------------------------------------------------------------------------------


def reduced_formulas(crystals: Crystals) -> list[Formula]:
    """Per crystal its elements as sorted pairs (atomic number, count), counts divided by their common divisor."""
    formulas = []
    for row in crystals.atomic_numbers.tolist():
        counts: dict[int, int] = {}
        for number in row:
            if number > 0:
                counts[number] = counts.get(number, 0) + 1
        divisor = math.gcd(*counts.values())
        formulas.append(tuple((number, count // divisor) for number, count in sorted(counts.items())))
    return formulas
