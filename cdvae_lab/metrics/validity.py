"""Validity of crystals: atoms far enough apart, and a composition whose charges can balance.

Both tests are the CDVAE paper's (`eval_utils.py` of its code), so that numbers compare. Structure validity tests
distances and volume. Composition validity is SMACT's test of charge neutrality and electronegativities
(`metrics.charge_balance`).

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_compositions
from cdvae_lab.crystals.limits import MIN_DISTANCE, MIN_VOLUME
from cdvae_lab.metrics.charge_balance import Rules, formula_validity
from cdvae_lab.metrics.distances import (
    MAX_DISTANCES,
    distinct_distance_reduced,
    distinct_distance_within,
    possible_cells,
)

# Cells so thin that atoms more than this many cells away can be too close go to pymatgen, one by one: they are rare,
# and reducing the lattice first is cheaper than comparing all these images.
_MAX_REACH = 2


def structure_validity(
    crystals: Crystals, min_distance: float = MIN_DISTANCE, min_volume: float = MIN_VOLUME
) -> Bool[Tensor, " crystals"]:
    """Test that distinct atoms are at least `min_distance` (Å) apart and the cell has `min_volume` (Å^3).

    Distances are to the nearest periodic image. An atom's distance to its own images does not count, as in the paper's
    code. A crystal without atoms, with an unknown element, a number that is not finite or a flat cell is invalid.
    """
    return possible_cells(crystals, min_volume) & _atoms_apart(crystals, min_distance, min_volume)


def composition_validity(crystals: Crystals, rules: Rules = "current") -> Bool[Tensor, " crystals"]:
    """Test each composition with SMACT's charge neutrality and Pauling test, with the oxidation states of 2014.

    A single element passes, and so do metals alone. An element without a state or an electronegativity in SMACT fails.
    A crystal without atoms fails. Source: Davies et al., Chem 1, 617 (2016).

    Args:
        rules: "current" equals `smact.screening.smact_validity(..., oxidation_states_set="smact14")` of smact 2.8 to
            4.0.2; "paper" equals the CDVAE paper's code with smact 2.2.1. See `metrics.charge_balance`.
    """
    valid = [bool(formula) and formula_validity(formula, rules) for formula in reduced_compositions(crystals)]
    return torch.tensor(valid, dtype=torch.bool, device=crystals.device)


def invalid_reasons(crystals: Crystals, rules: Rules = "current") -> list[str | None]:
    """Explain why each crystal is invalid, in words; None if it is valid by structure and composition."""
    plausible = possible_cells(crystals, MIN_VOLUME).tolist()
    apart = _atoms_apart(crystals, MIN_DISTANCE, MIN_VOLUME).tolist()
    neutral = composition_validity(crystals, rules).tolist()
    reasons = []
    for cell_ok, atoms_ok, charges_ok in zip(plausible, apart, neutral, strict=True):
        wrong = []
        if not cell_ok:
            wrong.append(
                f"no atoms, an unknown element, a number that is not finite, or a volume below {MIN_VOLUME} Å^3"
            )
        elif not atoms_ok:
            wrong.append(f"two atoms closer than {MIN_DISTANCE} Å")
        if not charges_ok:
            wrong.append("no choice of oxidation states is neutral and follows the electronegativities (SMACT)")
        reasons.append("; ".join(wrong) or None)
    return reasons


# --- structure ---------------------------------------------------------------------------------------


def _atoms_apart(crystals: Crystals, min_distance: float, min_volume: float) -> Bool[Tensor, " crystals"]:
    """Test that no two distinct atoms are too close; False for a cell that is not possible."""
    apart = possible_cells(crystals, min_volume)
    # With differences rounded into [-1/2, 1/2], an image n cells away along an axis is at least |n| - 1/2 plane
    # spacings away: in all but thin cells only the image that rounding chose can be too close (reach 0).
    spacings = lat.plane_spacings(crystals.lattice.double())
    reach = torch.ceil(min_distance / spacings - 0.5).amax(-1).nan_to_num(nan=0.0).clamp(0, _MAX_REACH + 1)
    for images in range(_MAX_REACH + 1):
        chosen = (apart & (reach == images)).nonzero()[:, 0]
        per_crystal = crystals.num_sites**2 * (2 * images + 1) ** 3
        for part in chosen.split(max(1, MAX_DISTANCES // per_crystal)):
            apart[part] = distinct_distance_within(crystals[part], images) >= min_distance
    for number in (apart & (reach > _MAX_REACH)).nonzero()[:, 0].tolist():
        apart[number] = distinct_distance_reduced(crystals[number]) >= min_distance
    return apart


# --- composition -------------------------------------------------------------------------------------
