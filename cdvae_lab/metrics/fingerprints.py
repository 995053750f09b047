"""Fingerprints of crystals: 61 numbers for the structure and 132 for the composition.

They are matminer's `CrystalNNFingerprint.from_preset("ops")`, averaged over the sites, and `ElementProperty` with the
preset "magpie", as in the CDVAE paper's code (`eval_utils.py`). Most of the time goes there into Python objects for
every image of an atom and Python loops over every triple of neighbors; here the same tessellation is read as arrays. In
a symmetric crystal a Voronoi cell has faces without area, whose solid angle is rounding noise that is then divided by
that area. So the same numbers pass through the same operations in the same order, and a site with an unusual
tessellation (an open cell, a face without area) goes to pymatgen's own CrystalNN.

matminer itself is not needed: its table of Magpie's element properties is `data/magpie.csv`, and the tests compare with
matminer.

See docs/explanation/algorithm.md, section 5.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from cdvae_lab.crystals.formulas import Composition
from cdvae_lab.io import assets
from cdvae_lab.metrics.order_parameters import PARAMETERS, order_parameters

# Part of the keys of cached results: increase it when the same crystal gives other numbers.
VERSION = 1
STRUCTURE_LENGTH = 61
COMPOSITION_LENGTH = 132
MAX_COORDINATION = 24

# CrystalNN's defaults: Å, and the weight of the electronegativity difference.
_CUTOFF = 7.0
_DISTANCE_CUTOFFS = (0.5, 1.0)
_X_DIFF_WEIGHT = 3.0

MAGPIE = (
    "Number", "MendeleevNumber", "AtomicWeight", "MeltingT", "Column", "Row", "CovalentRadius", "Electronegativity",
    "NsValence", "NpValence", "NdValence", "NfValence", "NValence", "NsUnfilled", "NpUnfilled", "NdUnfilled",
    "NfUnfilled", "NUnfilled", "GSvolume_pa", "GSbandgap", "GSmagmom", "SpaceGroupNumber",
)  # fmt: skip


class UnusualSiteError(Exception):
    """Site whose tessellation is left to pymatgen."""


def structure_fingerprint(
    numbers: Int[np.ndarray, " atoms"], frac_coords: Float[np.ndarray, "atoms 3"], lattice: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " 61"]:
    """Compute the mean over the sites of matminer's CrystalNNFingerprint("ops") of one crystal.

    Args:
        lattice: rows are the vectors, Å.

    Raises:
        Exception: any error of pymatgen for a crystal without a Voronoi tessellation.
    """
    from pymatgen.core import Lattice

    cell, matrix = Lattice(lattice), np.ascontiguousarray(lattice, dtype=float)
    frac_coords = np.ascontiguousarray(frac_coords, dtype=float)
    sites = []
    for site in range(len(numbers)):
        try:
            sites.append(_site_fingerprint(numbers, frac_coords, matrix, cell, site))
        except UnusualSiteError:
            sites.append(_by_pymatgen(numbers, frac_coords, lattice, site))
    return np.mean(sites, axis=0)


def _site_fingerprint(numbers, frac_coords, matrix, cell, site: int) -> list[float]:
    """Compute the fingerprint of one site, as `CrystalNNFingerprint.featurize` does."""
    center = np.dot(frac_coords[site], matrix)
    images, distances, indices, _ = cell.get_points_in_sphere(frac_coords, center, _CUTOFF, zip_results=False)
    order = np.argsort(distances, kind="stable")
    points = np.matmul(images[order][:, None], matrix)[:, 0]
    elements = numbers[indices[order]]
    neighbors, solid_angles, areas = _voronoi_faces(points)
    seen = solid_angles > 0
    neighbors, solid_angles, areas = neighbors[seen], solid_angles[seen], areas[seen]
    chemical, weights = _weights(
        int(numbers[site]), elements[neighbors], solid_angles, areas, points[neighbors] - center
    )
    # The order of equal weights matters to the body-centered cubic parameter: pymatgen sorts twice and rounds then.
    order = np.argsort(-chemical, kind="stable")
    order = order[np.argsort(-weights[order], kind="stable")]
    # Python's rounding, which numpy's differs from in the last digit.
    weights = np.array([round(float(weight), 3) for weight in weights[order]])
    neighbors, weights = neighbors[order][weights > 0], weights[weights > 0]
    # Each distinct weight is a threshold: the neighbors at or above it are one possible coordination.
    borders = [float(w) for w in np.unique(weights)[::-1]] + [0.0]
    coordination = {int((weights >= w).sum()): _between(w, below) for w, below in pairwise(borders)}
    return _weighted(coordination, lambda count: points[neighbors[:count]] - center)


def _voronoi_faces(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the faces of the first point's Voronoi cell: the point beyond, the solid angle, and the area of each.

    The sums run over the triangles of a face in pymatgen's order. numpy rounds the products of a stack of vectors as
    those of two vectors, so that a triangle without area is one for both.
    """
    from scipy.spatial import QhullError, Voronoi

    try:
        tessellation = Voronoi(points)
    except (QhullError, ValueError) as error:
        raise UnusualSiteError from error
    rows = (tessellation.ridge_points == 0).any(1).nonzero()[0]
    beyond = tessellation.ridge_points[rows].max(1)
    faces = [tessellation.ridge_vertices[row] for row in rows]
    if not faces or min(map(min, faces)) < 0:
        raise UnusualSiteError  # an open cell: pymatgen widens the cutoff
    triangles = np.array([(face[0], a, b) for face in faces for a, b in pairwise(face[1:])])
    owner = np.repeat(np.arange(len(faces)), [len(face) - 2 for face in faces])
    center, corners = points[0], tessellation.vertices[triangles]

    first, second, third = (corners[:, i] - center for i in range(3))
    r1, r2, r3 = (np.sqrt(_dot(v, v)) for v in (first, second, third))
    triple = np.abs(_dot(first, _cross(second, third)))
    denominator = r1 * r2 * r3 + r3 * _dot(first, second) + r2 * _dot(first, third) + r1 * _dot(second, third)
    if (denominator == 0).any():
        raise UnusualSiteError
    angle = np.arctan(triple / denominator)
    angle = np.where(angle > 0, angle, angle + math.pi) * 2

    last = corners[:, 2]
    volume = np.abs(_dot(center - last, _cross(corners[:, 0] - last, corners[:, 1] - last))) / 6
    # bincount adds in order.
    solid_angles, volumes = (np.bincount(owner, values, len(faces)) for values in (angle, volume))
    distance = np.sqrt(_dot(center - points[beyond], center - points[beyond])) / 2
    if (volumes == 0).any() or (distance == 0).any():
        raise UnusualSiteError
    return beyond, solid_angles, 3 * volumes / distance


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.matmul(a[:, None], b[:, :, None])[:, 0, 0]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = a[:, [1, 2, 0]], a[:, [2, 0, 1]]
    return left * b[:, [2, 0, 1]] - right * b[:, [1, 2, 0]]


def _weights(element: int, others: np.ndarray, angles: np.ndarray, areas: np.ndarray, vectors: np.ndarray):
    """Compute CrystalNN's weight of each face, without and with its decay by distance."""
    weights = angles / angles.max() * (angles / areas)
    difference = np.abs(_electronegativity()[element] - _electronegativity()[others])
    chemical = 1 + _X_DIFF_WEIGHT * np.sqrt(difference / 3.3)
    weights = weights * np.where(np.isnan(chemical), 1.0, chemical)
    weights = weights / weights.max()
    excess = np.sqrt(_dot(vectors, vectors)) - (_radius()[element] + _radius()[others])
    if not np.isfinite(weights).all() or np.isnan(excess).any():
        raise UnusualSiteError
    low, high = _DISTANCE_CUTOFFS
    fade = (np.cos((excess - low) / (high - low) * math.pi) + 1) * 0.5
    return weights, weights * np.where(excess <= low, 1.0, np.where(excess < high, fade, 0.0))


def _between(upper: float, lower: float) -> float:
    """Compute the share of a quarter of the unit circle between two weights."""

    def area(x: float) -> float:
        if x == 1:
            return 0.25 * math.pi
        height = math.sqrt(1 - x * x)
        return 0.5 * (x * height + math.atan(x / height))

    return (area(upper) - area(lower)) / (0.25 * math.pi)


@cache
def _electronegativity() -> np.ndarray:
    """Pauling electronegativity by atomic number; NaN for an element without one."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have no electronegativity
        return np.array([math.nan, *(float(Element.from_Z(z).X) for z in range(1, 119))])


@cache
def _radius() -> np.ndarray:
    """Covalent radius in Å, or else the atomic one, by atomic number; NaN for an element with neither."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from pymatgen.core import Element

    radii = [math.nan]
    for z in range(1, 119):
        element = Element.from_Z(z)
        radius = CovalentRadius.radius.get(element.symbol, element.atomic_radius)
        radii.append(math.nan if radius is None else float(radius))
    return np.array(radii)


def _by_pymatgen(
    numbers: Int[np.ndarray, " atoms"], frac_coords: Float[np.ndarray, "atoms 3"], lattice: np.ndarray, site: int
) -> list[float]:
    """Compute the fingerprint of one site with the neighbors that pymatgen's own CrystalNN finds."""
    from pymatgen.analysis.local_env import CrystalNN
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice(lattice), numbers.tolist(), frac_coords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fingerprint needs no oxidation states
        found = CrystalNN().get_nn_data(structure, site)
    center = structure[site].coords
    neighbors = {count: np.array([one["site"].coords for one in some]) for count, some in found.cn_nninfo.items()}
    return _weighted(found.cn_weights, lambda count: neighbors[count] - center)


def _weighted(weights: Mapping[int, float], vectors: Callable[[int], np.ndarray]) -> list[float]:
    """List the 61 numbers of a site: for each coordination number its weight and its weighted order parameters.

    Args:
        weights: of each possible coordination number; 0 where there is none.
        vectors: from the site to its neighbors at a coordination number, Å.
    """
    fingerprint = []
    for count in range(1, MAX_COORDINATION + 1):
        weight = weights.get(count, 0.0)
        fingerprint.append(weight)
        values = order_parameters(vectors(count)) if weight else [0.0] * len(PARAMETERS.get(count, []))
        fingerprint += [weight * value for value in values]
    return fingerprint


# --- composition -------------------------------------------------------------------------------------


@cache
def _magpie() -> Float[np.ndarray, "119 22"]:
    """Read Magpie's properties of the elements, by atomic number; NaN where there is no value."""
    text = (files("cdvae_lab.metrics") / "data" / "magpie.csv").read_text(encoding="utf-8")
    table = np.full((119, len(MAGPIE)), math.nan)
    for line in [line for line in text.splitlines() if not line.startswith("#")][1:]:
        number, *values = line.split(",")
        table[int(number)] = [float(value) if value else math.nan for value in values]
    return table


@cache
def composition_fingerprint(formula: Composition) -> Float[np.ndarray, " 132"]:
    """Compute matminer's ElementProperty("magpie", impute_nan=False) of a formula, ((atomic number, count), ...).

    Minimum, maximum, range, mean, mean deviation and mode of each of 22 properties; NaN where an element has no value.
    The fingerprints of the paper were made before matminer filled such gaps by default.
    """
    numbers, counts = (np.array(column) for column in zip(*formula, strict=True))
    values = _magpie()[numbers]
    mean = np.average(values, axis=0, weights=counts)
    low, high = values.min(0), values.max(0)
    deviation = np.average(np.abs(values - mean), axis=0, weights=counts)
    mode = values[counts == counts.max()].min(0)
    return np.stack([low, high, high - low, mean, deviation, mode], 1).ravel()


@cache
def _scaler() -> tuple[np.ndarray, np.ndarray]:
    import json

    data = json.loads(assets.asset_path("magpie_scaler.json").read_text(encoding="utf-8"))
    return np.array(data["means"]), np.array(data["stds"])


def standardized(fingerprints: Float[np.ndarray, "crystals 132"]) -> Float[np.ndarray, "crystals 132"]:
    """Standardize composition fingerprints by the paper's fixed means and deviations, as COV does; NaN becomes 0."""
    means, deviations = _scaler()
    return np.nan_to_num((fingerprints - means) / deviations, nan=0.0, posinf=np.inf, neginf=-np.inf)
