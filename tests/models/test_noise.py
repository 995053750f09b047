"""Noise: reproducibility and statistics of the random numbers, and corruption as the paper defines it."""

from __future__ import annotations

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice
from scipy import stats
from torch import Tensor

from cdvae_lab.models import noise
from cdvae_lab.models.noise import Stream

MANY = 200_000
# The draws below are fixed by their seeds, so that a test always or never passes. A tolerance of 5 standard errors
# allows for some hundred comparisons.
ERRORS = 5


def numbers(n: int) -> Tensor:
    return torch.arange(n)


# Reproducibility


def mix(x: int) -> int:
    """Compute the finalizer of splitmix64 in Python integers, from its paper."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def bits_by_hand(seed: int, stream: int, crystal: int, step: int, *place: int) -> int:
    golden = 0x9E3779B97F4A7C15
    key = mix((crystal * golden + seed * 256 + stream) % 2**64)
    key = mix((key + step * golden) % 2**64)
    number = 0
    for index in place:
        number = number * 1024 + index
    bits = mix(key ^ number)
    return bits - 2**64 if bits >= 2**63 else bits


def test_mixing_is_splitmix64() -> None:
    # The first outputs of the published generator for the seed 1234567.
    golden, state, outputs = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + golden) % 2**64
        outputs.append(noise._mix(torch.tensor(state - 2**64 if state >= 2**63 else state)).item() % 2**64)
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**70 + 3])
@pytest.mark.parametrize("step", [0, 4999, 2**40])
def test_bits_are_those_of_plain_integer_arithmetic(seed: int, step: int) -> None:
    crystals = torch.tensor([0, 1, 5, 123_456])
    bits = noise.random_bits(seed, Stream.POSITION, crystals, step, (4, 3))
    by_hand = [
        [[bits_by_hand(seed, Stream.POSITION, c, step, i, j) for j in range(3)] for i in range(4)]
        for c in crystals.tolist()
    ]
    assert bits.tolist() == by_hand
    assert torch.equal(noise.random_bits(seed, Stream.POSITION, crystals, torch.tensor(step), (4, 3)), bits)


def test_numbers_are_pinned() -> None:
    """A change of these numbers changes every published crystal and every recorded run."""
    crystals = torch.tensor([0, 1, 123_456])
    assert noise.random_bits(0, Stream.LATENT, crystals, 0, (2,)).tolist() == [
        [8199580975773293796, -4518253875964072311],
        [736442933886495122, 3193540615753203535],
        [-1510253408571639416, -682366684872053972],
    ]
    uniform = noise.uniform(0, Stream.START, crystals, 0, (2,))
    assert (uniform * 2**24).tolist() == [[9035547, 11907431], [6272151, 12141239], [3217779, 8695069]]
    normal = noise.normal(0, Stream.POSITION, crystals, 3, (2,), torch.float64)
    integers = [[-410896, 351750], [842705, 2618411], [1182284, -1367673]]
    assert torch.round(normal * 2**0.5 * 2**20).tolist() == integers
    single = noise.normal(0, Stream.POSITION, crystals, 3, (2,))
    assert [x.hex() for x in single[0].tolist()] == ["-0x1.1bbcd60000000p-2", "0x1.e5ca680000000p-3"]


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_order_batching_and_padding_change_nothing(draw) -> None:
    crystals = torch.tensor([3, 99, 0, 7, 12])
    whole = draw(5, Stream.POSITION, crystals, 17, (20, 3))
    for i, crystal in enumerate(crystals):
        assert torch.equal(draw(5, Stream.POSITION, crystal[None], 17, (20, 3))[0], whole[i])
    order = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(draw(5, Stream.POSITION, crystals[order], 17, (20, 3)), whole[order])
    for sites in (1, 5, 24):
        padded = draw(5, Stream.POSITION, crystals, 17, (sites, 3))
        assert torch.equal(padded[:, :20], whole[:, :sites])
    assert torch.equal(draw(5, Stream.POSITION, crystals.to(torch.int32), 17, (20, 3)), whole)


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_float64_gives_the_same_numbers(draw) -> None:
    single, double = (
        draw(1, Stream.POSITION, numbers(500), 2, (8,), dtype) for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=2e-7, atol=0)


def test_a_compiler_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    # A copy without the type checks of these tests, which the compiler cannot trace.
    spec = importlib.util.spec_from_file_location("noise_without_checks", noise.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, plain)
    spec.loader.exec_module(plain)

    def draws(crystals: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            plain.random_bits(3, plain.Stream.TYPE, crystals, step, (5, 3)),
            plain.uniform(3, plain.Stream.TYPE, crystals, step, (5, 3)),
            plain.normal(3, plain.Stream.TYPE, crystals, step, (5, 3)),
        )

    compiled = torch.compile(draws, backend="aot_eager", fullgraph=True, dynamic=False)
    crystals = torch.tensor([0, 4, 10**6])
    for step in (0, 1, 5000):
        expected = (
            noise.random_bits(3, Stream.TYPE, crystals, step, (5, 3)),
            noise.uniform(3, Stream.TYPE, crystals, step, (5, 3)),
            noise.normal(3, Stream.TYPE, crystals, step, (5, 3)),
        )
        for ours, theirs in zip(compiled(crystals, torch.tensor(step)), expected, strict=True):
            assert torch.equal(ours, theirs)


# Statistics


def test_uniform_numbers_are_uniform_and_never_0_or_1() -> None:
    draws = noise.uniform(0, Stream.START, numbers(MANY // 10), 0, (10,), torch.float64).flatten().numpy()
    assert draws.min() > 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    counts = np.histogram(draws, 1000, (0, 1))[0]
    assert 1e-3 < stats.chisquare(counts).pvalue < 1 - 1e-3
    odd = draws * 2**24 % 2
    assert (odd == 1).all()  # so that neither 0 nor 1 can come, and float32 holds every one of them


def test_normal_numbers_are_normal() -> None:
    draws = noise.normal(0, Stream.POSITION, numbers(MANY // 10), 0, (10,), torch.float64).flatten().numpy()
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    n = len(draws)
    assert abs(draws.mean()) < ERRORS / n**0.5
    assert abs(draws.var() - 1) < ERRORS * (2 / n) ** 0.5
    assert abs(stats.skew(draws)) < ERRORS * (6 / n) ** 0.5
    assert abs(stats.kurtosis(draws)) < ERRORS * (24 / n) ** 0.5
    for limit in (2, 3, 4):  # as many far out as there should be
        expected = 2 * n * stats.norm.sf(limit)
        assert abs((np.abs(draws) > limit).sum() - expected) < ERRORS * expected**0.5


def test_the_table_of_quantiles_has_mean_0_and_variance_1() -> None:
    table = noise._quantiles().double() / noise.QUANTILE_SCALE
    assert table.mean().item() == 0
    assert table.var(correction=0).item() == pytest.approx(1, abs=1e-8)
    torch.testing.assert_close(table, -table.flip(0))
    # The sum of two of them is exact in float32.
    assert 2 * noise._quantiles().abs().max() < 2**24


BASE = {"seed": 0, "stream": Stream.POSITION, "first": 0, "step": 0}
OTHERS = {
    "next seed": {"seed": 1},
    "far seed": {"seed": 2**32},
    "next step": {"step": 1},
    "far step": {"step": 4999},
    "next crystals": {"first": 1},
    "far crystals": {"first": 10**6},
    **{f"stream {s.name}": {"stream": s} for s in Stream if s != Stream.POSITION},
}


def draws_of(seed: int, stream: Stream, first: int, step: int) -> np.ndarray:
    crystals = first + numbers(MANY // 20)
    return noise.normal(seed, stream, crystals, step, (5, 4), torch.float64).flatten().numpy()


@pytest.mark.parametrize("other", OTHERS)
def test_other_seeds_streams_steps_and_crystals_are_independent(other: str) -> None:
    a, b = draws_of(**BASE), draws_of(**{**BASE, **OTHERS[other]})
    for f in (lambda x: x, np.square, np.abs):
        assert abs(np.corrcoef(f(a), f(b))[0, 1]) < ERRORS / len(a) ** 0.5
    # Pairs of them fill the plane evenly.
    u, v = stats.norm.cdf(a), stats.norm.cdf(b)
    counts = np.histogram2d(u, v, 20, ((0, 1), (0, 1)))[0].ravel()
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


def test_atoms_and_components_are_independent() -> None:
    draws = noise.normal(0, Stream.POSITION, numbers(MANY // 10), 0, (8, 3), torch.float64).flatten(1).numpy()
    for f in (lambda x: x, np.square):
        correlation = np.corrcoef(f(draws).T)
        np.fill_diagonal(correlation, 0)
        assert np.abs(correlation).max() < ERRORS / len(draws) ** 0.5


def test_every_bit_of_a_word_is_as_often_set_as_not_and_flips_with_any_input() -> None:
    bits = noise.random_bits(0, Stream.LATENT, numbers(20_000), 0)
    other = noise.random_bits(0, Stream.LATENT, numbers(20_000) ^ 1, 0)
    for word in (bits, bits ^ other):
        share = torch.stack([(word >> b) & 1 for b in range(64)]).double().mean(1)
        assert (share - 0.5).abs().max() < ERRORS * 0.5 / 20_000**0.5


# Levels and corruption


def test_levels_are_geometric_with_both_ends() -> None:
    levels = noise.geometric_levels(10.0, 0.01, 50)
    np.testing.assert_allclose(levels, np.geomspace(10, 0.01, 50), rtol=1e-12)
    assert noise.geometric_levels(10.0, 0.01, 1).tolist() == [10]


@pytest.mark.parametrize("sigma", [0.01, 1.0, 10.0])
def test_the_displacement_back_is_the_shortest_of_pymatgen(sigma: float) -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(65, 115, (5, 3))
    cells = [Lattice.from_parameters(*rng.uniform(3, 9, 3), *angles[i]).get_niggli_reduced_lattice() for i in range(5)]
    frac = torch.from_numpy(rng.uniform(0, 1, (5, 6, 3)))
    lattice = torch.from_numpy(np.stack([c.matrix for c in cells]))
    eps = noise.normal(0, Stream.POSITION, numbers(5), 0, (6, 3), torch.float64)
    noisy, delta = noise.corrupt_coordinates(frac, lattice, torch.full((5,), sigma, dtype=torch.float64), eps)
    assert ((noisy >= 0) & (noisy < 1)).all()
    for i, cell in enumerate(cells):
        # The displacement is sigma * eps in Å, up to lattice vectors; delta is the shortest displacement back.
        for vector, frac_vector in ((sigma * eps[i], noisy[i] - frac[i]), (delta[i], frac[i] - noisy[i])):
            whole = cell.get_fractional_coords(vector.numpy()) - frac_vector.numpy()
            np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
        shortest = np.diag(cell.get_all_distances(noisy[i], frac[i]))
        np.testing.assert_allclose(delta[i].norm(dim=-1), shortest, atol=1e-9)
    if sigma == 0.01:
        torch.testing.assert_close(delta, -sigma * eps)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 5.0])
def test_types_are_drawn_with_the_papers_frequencies(sigma: float) -> None:
    n = 40_000
    composition = torch.zeros(1, 100, dtype=torch.float64)
    composition[0, [0, 7, 21, 99]] = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)
    truth = torch.full((n, 1), 8)
    which, draw = noise.uniform(0, Stream.TYPE, numbers(n), 0, (1, 2), torch.float64).unbind(-1)
    levels = torch.full((n,), sigma, dtype=torch.float64)
    types = noise.corrupt_types(truth, composition.expand(n, -1), levels, which, draw)[:, 0]
    share = torch.bincount(types, minlength=101)[1:].double() / n
    onehot = torch.nn.functional.one_hot(torch.tensor(7), 100)
    expected = (onehot + sigma * composition[0]) / (1 + sigma)
    error = torch.sqrt(expected * (1 - expected) / n)
    assert ((share - expected).abs() <= 4 * error).all()


def test_padded_sites_stay_padded() -> None:
    composition = torch.full((2, 100), 0.01)
    truth = torch.tensor([[8, 8, 0], [3, 0, 0]])
    which, draw = noise.uniform(0, Stream.TYPE, numbers(2), 0, (3, 2)).unbind(-1)
    types = noise.corrupt_types(truth, composition, torch.full((2,), 1e3), which, draw)
    assert ((types > 0) == (truth > 0)).all()


def test_types_without_probability_are_never_drawn() -> None:
    composition = torch.zeros(1, 100)
    composition[0, 40:60] = 0.05
    edge = torch.tensor([[0.5**24, 1 - 0.5**24]])
    draws = torch.cat([noise.uniform(0, Stream.TYPE, numbers(1), 0, (1000,)), edge], 1)
    types = noise.draw_types(composition, draws)
    assert types.min() == 41
    assert types.max() == 60
    assert len(types.unique()) == 20
    assert math.isclose(types.double().mean().item(), 50.5, abs_tol=1)


@pytest.mark.parametrize("shape", [(2, 1025), (2, 3000), (1, 2, 1500), (3, 2000, 2), (2000, 2)])
def test_bits_differ_along_axes_of_any_length(shape: tuple[int, ...]) -> None:
    """A stride of 1,024 for every axis gave place (1, 0) the bits of place (0, 1024)."""
    bits = noise.random_bits(0, Stream.POSITION, torch.arange(2), 0, shape)
    assert len(bits.unique()) == bits.numel()


def test_the_bits_of_short_axes_are_those_of_the_fixed_stride() -> None:
    wide = noise.random_bits(3, Stream.TYPE, torch.arange(2), 7, (4, 1024))
    assert torch.equal(noise.random_bits(3, Stream.TYPE, torch.arange(2), 7, (4, 5)), wide[:, :, :5])
    longer = noise.random_bits(3, Stream.TYPE, torch.arange(2), 7, (9, 2000))
    assert torch.equal(noise.random_bits(3, Stream.TYPE, torch.arange(2), 7, (4, 2000)), longer[:, :4])  # padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_of_probability_zero_is_never_drawn(dtype: torch.dtype) -> None:
    """The largest uniform number below 1 used to select the last class, even with probability 0."""
    nearly_one = torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        composition = torch.rand(20, 100, generator=generator, dtype=dtype) ** 4
        composition *= torch.rand(20, 100, generator=generator) < 0.2
        composition[:, 37], composition[:, -3:] = 0.5, 0.0
        composition = composition / composition.sum(1, keepdim=True)
        # At both ends, and at the cumulative sums themselves, where rounding decides.
        sums = composition.cumsum(1)[:, ::7].clamp(1e-6, float(nearly_one))
        draw = torch.cat([nearly_one.expand(20, 1), torch.full((20, 1), 0.5**24, dtype=dtype), sums], 1)
        drawn = noise.draw_types(composition, draw)
        assert (composition.gather(1, drawn - 1) > 0).all()


def test_frequencies_are_probabilities() -> None:
    composition = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    drawn = noise.draw_types(composition, noise.uniform(0, Stream.TYPE, torch.zeros(1, dtype=torch.int64), 0, (4000,)))
    assert drawn.unique().tolist() == [2, 4]
    assert (drawn == 2).double().mean().item() == pytest.approx(0.25, abs=0.02)
