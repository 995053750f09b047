"""Neighbors against pymatgen's neighbor list; nothing may depend on the batch or its padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import Neighbors, nearest_neighbors, periodic_images
from cdvae_lab.errors import CrystalError
from cdvae_lab.io import convert

CUTOFF = 7.0
K = 20


def neighbors_of(crystals: Crystals, k: int = K, cutoff: float = CUTOFF) -> Neighbors:
    return nearest_neighbors(crystals, periodic_images(crystals.lattice, cutoff), k, cutoff)


def batch(*crystals: tuple[np.ndarray, np.ndarray], dtype: torch.dtype = torch.float64) -> Crystals:
    """Cells (rows, Å) and fractional coordinates, all atoms carbon."""
    return Crystals.from_lists(
        [torch.from_numpy(frac).to(dtype) for _, frac in crystals],
        [torch.full((len(frac),), 6) for _, frac in crystals],
        torch.from_numpy(np.stack([cell for cell, _ in crystals])).to(dtype),
    )


def images_around(cell: np.ndarray, frac: np.ndarray, reach: float) -> list[np.ndarray]:
    """Sorted distances from each atom to every periodic image within `reach`, by pymatgen."""
    structure = Structure(Lattice(cell), ["C"] * len(frac), frac)
    center, _, _, distance = structure.get_neighbor_list(reach)
    return [np.sort(distance[center == i]) for i in range(len(frac))]


def assert_pymatgens(crystals: Crystals, k: int = K, cutoff: float = CUTOFF, atol: float = 1e-7) -> None:
    found = neighbors_of(crystals, k, cutoff)
    for c in range(len(crystals)):
        count = int(crystals.num_atoms[c])
        cell, frac = crystals.lattice[c].double().numpy(), crystals.frac_coords[c, :count].double().numpy()
        for i, everyone in enumerate(images_around(cell, frac, cutoff + 0.1)):
            # Distances within rounding of the cutoff may fall on either side of it.
            sure, possible = (everyone <= cutoff - atol).sum(), (everyone <= cutoff + atol).sum()
            mask = found.mask[c, i].numpy()
            assert min(k, sure) <= mask.sum() <= min(k, possible)
            assert (np.diff(mask.astype(int)) <= 0).all(), "neighbors come first, nearest first"
            distance = found.distance[c, i].numpy()[mask]
            np.testing.assert_allclose(distance, everyone[: len(distance)], atol=atol)
            next_one = everyone[k] if len(everyone) > k else np.inf
            assert found.radius[c, i].item() == pytest.approx(min(next_one, cutoff), abs=max(atol, 1e-6))
            # Each vector ends at an image of the neighbor of its index.
            vector, index = found.vector[c, i].double().numpy()[mask], found.index[c, i].numpy()[mask]
            np.testing.assert_allclose(np.linalg.norm(vector, axis=1), distance, atol=atol)
            translation = frac[i] + vector @ np.linalg.inv(cell) - frac[index]
            np.testing.assert_allclose(translation, np.round(translation), atol=20 * atol)
            # No image comes twice.
            whole = np.column_stack([index, np.round(translation)])
            assert len(np.unique(whole, axis=0)) == len(whole)
        assert not found.mask[c, count:].any()
    assert (found.distance[~found.mask] == 0).all()
    assert (found.vector[~found.mask] == 0).all()


def random_cell(rng: np.random.Generator, low: float = 50, high: float = 130) -> np.ndarray:
    while True:
        angles = rng.uniform(low, high, 3)
        cos = np.cos(np.radians(angles))
        if 1 - (cos**2).sum() + 2 * cos.prod() > 0.1:
            return Lattice.from_parameters(*rng.uniform(2.5, 12, 3), *angles).matrix.copy()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1, 5, 20]), st.sampled_from([3.0, 7.0]))
def test_random_triclinic_cells(seed: int, atoms: int, k: int, cutoff: float) -> None:
    rng = np.random.default_rng(seed)
    assert_pymatgens(batch((random_cell(rng), rng.uniform(-2, 2, (atoms, 3)))), k, cutoff)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_skewed_cells_without_reduction(seed: int, shears: int) -> None:
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, 70, 110)
    for _ in range(shears):
        i, j = rng.permutation(3)[:2]
        cell[i] += rng.choice([-1, 1]) * cell[j]
    assert_pymatgens(batch((cell, rng.uniform(0, 1, (3, 3)))))


@pytest.mark.parametrize("atoms", [1, 2, 24, 60, 200])
def test_from_one_atom_to_two_hundred(atoms: int) -> None:
    rng = np.random.default_rng(atoms)
    cell = random_cell(rng, 70, 110)
    cell *= (12 * atoms / abs(np.linalg.det(cell))) ** (1 / 3)  # 12 Å^3 an atom
    assert_pymatgens(batch((cell, rng.uniform(0, 1, (atoms, 3)))))


@pytest.mark.parametrize(
    "lengths",
    [(2.5, 2.5, 40), (40, 2.5, 2.5), (2.5, 30, 30), (1.6, 1.6, 1.6), (60, 60, 60)],
    ids=["needle", "needle along a", "plate", "tiny", "empty"],
)
def test_flat_long_tiny_and_empty_cells(lengths: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    for angles in [(90, 90, 90), (90, 90, 120), (75, 80, 62)]:
        assert_pymatgens(batch((Lattice.from_parameters(*lengths, *angles).matrix, rng.uniform(0, 1, (5, 3)))))


def test_a_single_atom_has_no_neighbors_and_the_cutoff_as_radius() -> None:
    found = neighbors_of(batch((30 * np.eye(3), np.zeros((1, 3)))))
    assert not found.mask.any()
    assert found.radius.item() == CUTOFF


def test_float32_is_as_good_as_its_digits(known_crystals: Crystals) -> None:
    assert_pymatgens(known_crystals, atol=2e-5)
    rng = np.random.default_rng(1)
    cells = [(random_cell(rng), rng.uniform(0, 1, (n, 3))) for n in (3, 8, 20)]
    assert_pymatgens(batch(*cells, dtype=torch.float32), atol=1e-4)


def test_shells_of_known_structures(known_crystals: Crystals) -> None:
    found = neighbors_of(known_crystals.to(dtype=torch.float64), k=12)
    titanium, sodium, carbon = found.distance[0, 1], found.distance[1, 0], found.distance[2, 0]
    torch.testing.assert_close(titanium[:6], torch.full((6,), 3.905 / 2, dtype=torch.float64))
    torch.testing.assert_close(sodium[:6], torch.full((6,), 5.640 / 2, dtype=torch.float64))
    torch.testing.assert_close(carbon[:4], torch.full((4,), 3.567 * 3**0.5 / 4, dtype=torch.float64))
    assert found.index[1, 0, :6].tolist() == [1] * 6
    # The next shell of carbon has twelve: eight of them are kept, and the ninth sets the radius.
    torch.testing.assert_close(found.radius[2, 0], torch.tensor(3.567 / 2**0.5, dtype=torch.float64))


THIRD = 1 / 3
# Lengths (Å), angles (degrees), fractional coordinates.
CARBON = {
    "graphite": (
        (2.46, 2.46, 6.71, 90, 90, 120),
        [[0, 0, 0.25], [0, 0, 0.75], [THIRD, 2 * THIRD, 0.25], [2 * THIRD, THIRD, 0.75]],
    ),
    "lonsdaleite": (
        (2.52, 2.52, 4.12, 90, 90, 120),
        [[THIRD, 2 * THIRD, z] for z in (0.0625, 0.4375)] + [[2 * THIRD, THIRD, z] for z in (0.5625, 0.9375)],
    ),
    "body-centerd C4": (
        (4.33, 4.33, 2.48, 90, 90, 90),
        [[0.18, 0.18, 0], [0.82, 0.82, 0], [0.32, 0.68, 0.5], [0.68, 0.32, 0.5]],
    ),
    "diamond, eight atoms": (
        (3.567, 3.567, 3.567, 90, 90, 90),
        [
            [x + s, y + s, z + s]
            for s in (0, 0.25)
            for x, y, z in ((0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5))
        ],
    ),
    "chain": ((1.3, 9.0, 9.0, 90, 90, 90), [[0, 0, 0]]),
}


def phase_of_carbon(phase: str) -> tuple[np.ndarray, np.ndarray]:
    parameters, frac = CARBON[phase]
    return Lattice.from_parameters(*parameters).matrix, np.array(frac, float)


@pytest.mark.parametrize("phase", CARBON)
def test_phases_of_carbon(phase: str) -> None:
    assert_pymatgens(batch(phase_of_carbon(phase)))


def test_crystals_of_carbon_24(shared_data: Path | None) -> None:
    """Read the first rows of the benchmark file beside the repository; without it, use the phases above."""
    crystals = batch(*map(phase_of_carbon, CARBON)) if shared_data is None else carbon_24(shared_data, 30)
    assert_pymatgens(crystals)


def carbon_24(shared_data: Path, count: int) -> Crystals:
    (file,) = sorted(shared_data.glob("carbon_24/val.csv*"))
    texts = pd.read_csv(file, nrows=count)["cif"]
    return Crystals.cat([convert.read(text, dtype=torch.float64) for text in texts])


def test_neither_the_batch_nor_its_padding_matters(known_crystals: Crystals) -> None:
    rng = np.random.default_rng(5)
    cells = [(random_cell(rng), rng.uniform(0, 1, (n, 3))) for n in (1, 4, 9)]
    cells.append((Lattice.from_parameters(2.5, 2.5, 40, 90, 90, 90).matrix, rng.uniform(0, 1, (2, 3))))
    together = Crystals.cat([batch(*cells), known_crystals.to(dtype=torch.float64)]).pad(13)
    assert_pymatgens(together)
    found = neighbors_of(together)
    for c in range(len(together)):
        alone = together[c].trim()
        one = neighbors_of(alone)
        for name in ("distance", "mask", "radius"):
            ours, theirs = getattr(found, name)[c, : alone.num_sites], getattr(one, name)[0]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_larger_search_gives_the_same_neighbors(srtio3: Crystals) -> None:
    crystals = srtio3.to(dtype=torch.float64)
    plenty = nearest_neighbors(crystals, periodic_images(crystals.lattice, 12.0), 20, 5.0)
    torch.testing.assert_close(plenty.distance, neighbors_of(crystals, 20, 5.0).distance)


def test_positions_need_not_be_wrapped(srtio3: Crystals) -> None:
    crystals = srtio3.to(dtype=torch.float64)
    far = crystals.replace(frac_coords=crystals.frac_coords + torch.tensor([3.0, -2, 7]) * torch.arange(5)[:, None])
    torch.testing.assert_close(neighbors_of(far).distance, neighbors_of(crystals).distance)


@pytest.mark.parametrize(
    "cell",
    [
        torch.zeros(3, 3),
        torch.tensor([[4.0, 0, 0], [0, 4, 0], [4, 4, 0]]),
        torch.full((3, 3), torch.nan),
    ],
    ids=["zero", "flat", "nan"],
)
def test_a_cell_without_volume_is_refused_by_its_number(cell: Tensor) -> None:
    with pytest.raises(CrystalError, match=r"crystals \[2\] .* without volume"):
        periodic_images(torch.stack([4 * torch.eye(3), 5 * torch.eye(3), cell]), CUTOFF)


def test_a_cell_too_thin_for_the_search_is_refused() -> None:
    with pytest.raises(CrystalError, match=r"0\.05 Å thick.*reduce"):
        periodic_images(torch.diag(torch.tensor([0.05, 4, 4]))[None], CUTOFF)
