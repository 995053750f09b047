"""Local order parameters: how much the neighbors of an atom resemble an octahedron, a tetrahedron, and so on.

These are the local order parameters of Zimmermann and Jain (RSC Adv. 10, 6063 (2020)), with Steinhardt's bond
orientational ones, in the choice and with the constants of matminer's `CrystalNNFingerprint.from_preset("ops")`. Their
values are those of pymatgen's `LocalStructOrderParams`, which loops over all triples of neighbors in Python; here the
triples are array axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float

# A shorter component of a neighbor's direction off an axis counts as 0.
_COLLINEAR = 1e-12
_POLE = 0.75 * math.pi  # from this angle on, a neighbor is opposite to another
_TETRAHEDRON = 0.6081734479693927  # its angle / π


@dataclass(frozen=True)
class Around:
    """Neighbors of an atom as angles, in radians; neighbor j is the north pole, k defines the meridian.

    Attributes:
        theta: between two neighbors.
        phi: [j, k, m] the azimuth of m, with j at the pole and k on the meridian.
        pair: [j, k] two neighbors.
        triple: [j, k, m] three neighbors, with k not on the axis through j.
        azimuth: [j, k, m] such a triple with m not on that axis either, so that it has an azimuth.
    """

    theta: Float[np.ndarray, "n n"]
    phi: Float[np.ndarray, "n n n"]
    pair: Bool[np.ndarray, "n n"]
    triple: Bool[np.ndarray, "n n n"]
    azimuth: Bool[np.ndarray, "n n n"]

    @classmethod
    def of(cls, vectors: Float[np.ndarray, "n 3"]) -> Around:
        """Compute the angles from the vectors to the neighbors."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = unit @ unit.T
        off_axis = unit[None] - (cosine / np.diagonal(cosine)[:, None])[..., None] * unit[:, None]
        length = np.linalg.norm(off_axis, axis=-1)
        on_axis = length < _COLLINEAR
        off_axis = off_axis / np.where(on_axis, 1.0, length)[..., None]
        other = ~np.eye(len(unit), dtype=bool)
        triple = other[:, :, None] & other[:, None] & other[None] & ~on_axis[:, :, None]
        return cls(
            np.arccos(cosine.clip(-1, 1)),
            np.arccos((off_axis @ off_axis.transpose(0, 2, 1)).clip(-1, 1)),
            other,
            triple,
            triple & ~on_axis[:, None],
        )


Parameter = Callable[[Around], float]


def _gauss(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x)


def _mean(around: Around, value: np.ndarray) -> float:
    return float(value[around.pair].mean())


def _best(around: Around, pair: np.ndarray, *of_third: tuple[np.ndarray, np.ndarray], weight: float = 1.0) -> float:
    """Find the best meridian by the average of its own value (NaN for none) and those of third neighbors.

    Args:
        pair: value of each pair, with weight `weight`.
        of_third: values [j, k, m], and a mask of those that count.
    """
    there = around.pair & ~np.isnan(pair)
    total, count = weight * np.where(there, pair, 0.0), weight * there
    for value, where in of_third:
        total, count = total + (value * where).sum(2), count + where.sum(2)
    return float((total / np.where(count > 0, count, 1))[around.pair].max())


def _bent(around: Around, angle: float, sharpness: float) -> float:
    return _mean(around, _gauss(sharpness * (around.theta / math.pi - angle)))


def _at_angle(around: Around, angle: float, sharpness: float, folds: float) -> float:
    """Order parameter of trigonal plane and tetrahedron: neighbors at one angle, in equal sectors around each."""
    near = _gauss(sharpness * (around.theta / math.pi - angle))
    return _best(around, near, (near[:, None] * np.cos(folds * around.phi) ** 2, around.azimuth))


def _pentagon(around: Around, border: float, sharpness: float) -> float:
    target = np.where(around.theta <= border * math.pi, 0.4, 0.8)
    near = _gauss(sharpness * (around.theta / math.pi - target))
    return _best(around, near, (near[:, None] * np.cos(around.phi) ** 2, around.azimuth))


def _pyramid(around: Around, sharpness: float, folds: float) -> float:
    """Order parameter of a pole with the others on the equator in equal sectors."""
    near = _gauss(sharpness * (around.theta / math.pi - 0.5))
    return _best(around, near, (near[:, None] * np.cos(folds * around.phi) ** 2, around.azimuth))


def _two_poles(
    around: Around,
    sharpness: float,
    sharpness_pole: float,
    folds: float,
    pole: float = _POLE,
    off_equator: float = 0.0,
    widest: float = math.inf,
) -> float:
    """Order parameter of two poles with the others on the equator in equal sectors.

    Args:
        pole: angle from which a neighbor counts as the other pole.
        off_equator: ideal distance of the others from the equator, to either side, in units of π.
        widest: largest azimuth that counts.
    """
    near = _gauss(sharpness * (np.abs(around.theta / math.pi - 0.5) - off_equator))
    at_pole = around.theta >= pole
    opposite = np.broadcast_to(_gauss(sharpness_pole * (around.theta / math.pi - 1))[:, None], around.phi.shape)
    on_equator = around.azimuth & ~at_pole[:, None] & ~at_pole[:, :, None] & (around.phi < widest)
    return _best(
        around,
        np.where(at_pole, np.nan, near),
        (opposite, around.triple & at_pole[:, None]),
        (near[:, None] * np.cos(folds * around.phi) ** 2, on_equator),
    )


def _body_centered(around: Around, sharpness_pole: float, pole: float, weight: float) -> float:
    n, theta = len(around.theta), around.theta
    at_pole = theta >= pole
    once = np.triu(np.ones((n, n), bool), 1)  # pymatgen counts each pair in one order only
    total = weight * _gauss(sharpness_pole * (theta / math.pi - 1))[once & at_pole].sum()
    from_equator = (theta[:, None] - math.pi / 2) / math.asin(1 / 3)
    value = np.where(theta > math.pi / 2, 1, -1)[:, :, None] * np.cos(3 * around.phi) * math.exp(0.5)
    value = value * from_equator * _gauss(from_equator)
    total += value[around.azimuth & (once & ~at_pole)[:, :, None]].sum()
    return float(total / (0.5 * n * (6 + (n - 2) * (n - 3))))


def _cuboctahedron(around: Around) -> float:
    theta, phi = around.theta, around.phi
    pole, low, high, weight = 2.792526803190927, 1.3089969389957472, 1.8325957145940461, 1.8
    at_pole = theta >= pole
    opposite = np.where(at_pole, _gauss(28.75 * (theta / math.pi - 1)), np.nan)
    in_plane = (theta > low) & (theta < high)
    third = around.azimuth & in_plane[:, :, None] & ~at_pole[:, None]
    off_meridian = _gauss(0.0556 * (np.cos(phi - 0.5 * math.pi) - 0.81649658))
    t = (theta / math.pi)[:, None]
    return _best(
        around,
        opposite,
        (np.cos(phi) ** 2 * _gauss(25.5 * (t - 0.5)), third & in_plane[:, None]),
        (off_meridian * _gauss(31.25 * (t - 1 / 3)), third & (theta < low)[:, None]),
        (off_meridian * _gauss(31.25 * (t - 2 / 3)), third & (theta > high)[:, None]),
        weight=weight,
    )


def _steinhardt(around: Around, l: int) -> float:  # noqa: E741
    """Order parameter q_l of Steinhardt et al., Phys. Rev. B 28, 784 (1983).

    Computed by the addition theorem of spherical harmonics.
    """
    coefficients = [0] * l + [1]
    return float(np.sqrt(max(np.polynomial.legendre.legval(np.cos(around.theta), coefficients).mean(), 0)))


_STEINHARDT = [partial(_steinhardt, l=l) for l in (2, 4, 6)]  # noqa: E741

# By coordination number, in matminer's order. One neighbor has a single order parameter, which is 1.
PARAMETERS: dict[int, list[Parameter]] = {
    1: [lambda _: 1.0],
    2: [
        partial(_bent, angle=angle, sharpness=sharpness)
        for angle, sharpness in (
            (0.5, 15.15), (0.5802777777777778, 13.95), (0.666666666667, 13.25), (0.833333333333333, 12.45),
            (1.0, 8.667),
        )
    ],
    3: [
        partial(_at_angle, angle=0.66666666667, sharpness=17.5, folds=1.0),
        partial(_at_angle, angle=_TETRAHEDRON, sharpness=18.33, folds=1.5),
        partial(_pyramid, sharpness=15.5, folds=1.0),
    ],
    4: [
        partial(_two_poles, sharpness=17.7, sharpness_pole=13.5, folds=1.0),
        partial(_at_angle, angle=_TETRAHEDRON, sharpness=18.5, folds=1.5),
        partial(_two_poles, sharpness=27.0, sharpness_pole=11.5, folds=2.0, widest=0.75 * math.pi),
        partial(_two_poles, sharpness=15.75, sharpness_pole=12.75, folds=1.5),
        partial(_pyramid, sharpness=15.5, folds=1.5),
    ],
    5: [
        partial(_pentagon, border=0.6, sharpness=19.333),
        partial(_pyramid, sharpness=14.9, folds=2.0),
        partial(_two_poles, sharpness=16.6, sharpness_pole=12.0, folds=1.5),
    ],
    6: [
        partial(
            _two_poles, sharpness=25.0, sharpness_pole=7.5, folds=1.0, pole=2.6179938779914944, off_equator=0.16666667
        ),
        partial(_two_poles, sharpness=18.0, sharpness_pole=15.0, folds=2.0),
        partial(_pyramid, sharpness=13.8, folds=2.5),
    ],
    7: [
        partial(_pyramid, sharpness=12.5, folds=3.0),
        partial(_two_poles, sharpness=14.75, sharpness_pole=12.5, folds=2.5),
    ],
    8: [
        partial(_body_centered, sharpness_pole=15.0, pole=2.5261129449194057, weight=6.0),
        partial(_two_poles, sharpness=13.6, sharpness_pole=14.1, folds=3.0),
    ],
    9: _STEINHARDT,
    10: _STEINHARDT,
    11: _STEINHARDT,
    12: [_cuboctahedron, *_STEINHARDT],
}  # fmt: skip


def order_parameters(vectors: Float[np.ndarray, "n 3"]) -> list[float]:
    """Compute the order parameters for this many neighbors, given by the vectors to them (Å); none for 13 and more."""
    around = Around.of(vectors)
    return [parameter(around) for parameter in PARAMETERS.get(len(vectors), [])]
