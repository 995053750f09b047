"""Coverage of a reference set by generated crystals: COV-R (recall) and COV-P (precision).

As in the CDVAE paper's code (`eval_utils.compute_cov`), so that numbers compare; after Xu et al., ICLR 2021 (for
molecules) and Ganea et al., NeurIPS 2021.

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from cdvae_lab.metrics.cutoffs import Cutoffs
from cdvae_lab.metrics.fingerprints import standardized

# Rows of a distance matrix at a time; bounds its memory.
_ROWS = 1000


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of a set of crystals, one a row; NaN for a structure without one."""

    structure: Float[np.ndarray, "crystals 61"]
    composition: Float[np.ndarray, "crystals 132"]

    def __len__(self) -> int:
        return len(self.structure)

    @property
    def there(self) -> Bool[np.ndarray, " crystals"]:
        """True for crystals that can be compared."""
        return np.isfinite(self.structure.sum(1))


@dataclass(frozen=True)
class Coverage:
    """Distances to the nearest crystal of the other set, and COV-R and COV-P from them.

    The nearest structure and the nearest composition may be those of different crystals. A crystal without a
    fingerprint is infinitely far from all others.

    Attributes:
        cutoffs: largest distances that count as covered.
        recall_structure, recall_composition: from each reference crystal to the generated ones.
        precision_structure, precision_composition: from each generated crystal to the reference.
    """

    cutoffs: Cutoffs
    recall_structure: Float[np.ndarray, " reference"]
    recall_composition: Float[np.ndarray, " reference"]
    precision_structure: Float[np.ndarray, " generated"]
    precision_composition: Float[np.ndarray, " generated"]

    def _near(self, structure: np.ndarray, composition: np.ndarray) -> np.ndarray:
        return (structure <= self.cutoffs.structure) & (composition <= self.cutoffs.composition)

    @property
    def recalled(self) -> Bool[np.ndarray, " reference"]:
        """True for the reference crystals that are covered."""
        return self._near(self.recall_structure, self.recall_composition)

    @property
    def precise(self) -> Bool[np.ndarray, " generated"]:
        """True for the generated crystals that are near the reference."""
        return self._near(self.precision_structure, self.precision_composition)

    @property
    def recall(self) -> float:
        """COV-R, 0 to 1."""
        return float(self.recalled.mean())

    @property
    def precision(self) -> float:
        """COV-P, 0 to 1, over all generated crystals."""
        return float(self.precise.mean())


def coverage(generated: Fingerprints, reference: Fingerprints, cutoffs: Cutoffs) -> Coverage:
    """Compute the coverage of a reference set by generated crystals, from the raw fingerprints of both."""
    structure = _nearest(generated.structure, reference.structure, generated.there, reference.there)
    scaled = standardized(generated.composition), standardized(reference.composition)
    composition = _nearest(*scaled, generated.there, reference.there)
    return Coverage(cutoffs, structure[1], composition[1], structure[0], composition[0])


def _nearest(
    a: np.ndarray, b: np.ndarray, a_there: np.ndarray, b_there: np.ndarray
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
    """Distance from each row of a to the nearest of b, and from each row of b to the nearest of a."""
    from scipy.spatial.distance import cdist

    from_a, from_b = np.full(len(a), math.inf), np.full(len(b), math.inf)
    rows_a, rows_b = a_there.nonzero()[0], b_there.nonzero()[0]
    if len(rows_b):
        for start in range(0, len(rows_a), _ROWS):
            part = rows_a[start : start + _ROWS]
            distances = cdist(a[part], b[rows_b])
            from_a[part] = distances.min(1)
            from_b[rows_b] = np.minimum(from_b[rows_b], distances.min(0))
    return from_a, from_b
