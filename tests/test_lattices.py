"""Rank-1 lattices against their group structure, published quality and exact integrals."""

from math import gcd, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skqlvm.engine import lattices, torus

FIBONACCI = {
    55: 34,
    89: 55,
    233: 144,
    610: 377,
    987: 610,
    1597: 987,
    2584: 1597,
    4181: 2584,
    6765: 4181,
    17711: 10946,
}
sizes = st.integers(1, 300)
dimensions = st.integers(1, 3)


def circular_distance(a, b):
    difference = a - b
    return (difference - difference.round()).abs()


@given(k=dimensions, m=sizes)
def test_lattice_of_any_size_is_a_group_with_distinct_coordinates(k, m):
    points = lattices.lattice(k, m)
    assert points.shape == (m, k)
    assert points.dtype == torch.float64
    assert points.min() >= 0
    assert points.max() < 1
    assert (points[0] == 0).all()
    assert circular_distance(points[1 % m] + points, points.roll(-1, 0)).max() < 1e-12
    for coordinate in points.T:
        torch.testing.assert_close(
            coordinate.sort().values, torch.arange(m, dtype=torch.float64) / m, rtol=0, atol=1e-15
        )


@given(k=dimensions, m=sizes)
def test_generating_vector_has_units_modulo_the_size(k, m):
    vector = lattices.generating_vector(k, m)
    assert len(vector) == k
    assert vector[0] == 1
    assert all(gcd(g, m) == 1 for g in vector)


@given(m=st.integers(1, 90), vector=st.lists(st.integers(0, 200), min_size=1, max_size=3))
def test_points_equal_integer_loop(m, vector):
    expected = [[j * g % m / m for g in vector] for j in range(m)]
    torch.testing.assert_close(
        lattices.points(m, tuple(vector)),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(("m", "previous"), FIBONACCI.items())
def test_fibonacci_sizes_use_the_fibonacci_vector(m, previous):
    assert lattices.generating_vector(2, m) == (1, previous)
    assert lattices.generating_vector(1, m) == (1,)


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (55, 3.8e-2),
        (89, 1.6e-2),
        (233, 2.8e-3),
        (610, 4.66e-4),
        (987, 1.90e-4),
        (1597, 7.7e-5),
        (2584, 3.1e-5),
        (4181, 1.26e-5),
        (6765, 5.06e-6),
        (17711, 8.1e-7),
    ],
)
def test_p2_of_fibonacci_lattices_is_as_tabulated(m, expected):
    assert lattices.p2(lattices.lattice(2, m)).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("m", "multiplier", "expected"),
    [(1021, 94, 6.10e-3), (2039, 653, 1.97e-3), (4093, 1884, 5.83e-4)],
)
def test_best_multiplier_in_three_dimensions_is_as_tabulated(m, multiplier, expected):
    assert lattices.best_multiplier(3, m) in (multiplier, m - multiplier)
    assert lattices.p2(lattices.lattice(3, m)).item() == pytest.approx(expected, rel=0.01)


@given(m=st.integers(1, 60), k=dimensions, seed=st.integers(0, 99))
def test_p2_equals_naive_loop(m, k, seed):
    points = torch.rand(m, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for z in points.tolist():
        product = 1.0
        for t in z:
            product *= 1 + 2 * pi**2 * (t**2 - t + 1 / 6)
        total += product
    assert lattices.p2(points).item() == pytest.approx(total / m - 1, abs=1e-10)


@pytest.mark.parametrize("m", [5, 13, 31])
def test_p2_is_the_error_over_the_dual_lattice(m):
    """One dimension: the sum of 1 / h^2 over the non-zero multiples h of m, which is pi^2 / (3
    m^2)."""
    assert lattices.p2(lattices.lattice(1, m)).item() == pytest.approx(pi**2 / (3 * m**2), rel=1e-9)


@given(k=st.integers(2, 3), m=st.integers(2, 150))
def test_best_multiplier_has_the_smallest_p2_of_all(k, m):
    units = [a for a in range(1, m) if gcd(a, m) == 1]
    scores = [
        lattices.p2(lattices.points(m, lattices.korobov_vector(k, m, a))).item() for a in units
    ]
    best = lattices.best_multiplier(k, m)
    assert gcd(best, m) == 1
    assert lattices.p2(
        lattices.points(m, lattices.korobov_vector(k, m, best))
    ).item() == pytest.approx(min(scores), rel=1e-9, abs=1e-11)


def test_search_beyond_the_budget_tries_an_even_selection(monkeypatch):
    """Of 1009 points, 504 multipliers on 504 points each: a budget of 30 multipliers' worth leaves
    one in 16."""
    monkeypatch.setattr(lattices, "_SEARCH_BUDGET", 30 * 504)
    lattices.best_multiplier.cache_clear()
    rough = lattices.best_multiplier(3, 1009)
    lattices.best_multiplier.cache_clear()
    assert (rough - 1) % 16 == 0
    tried = range(1, 505, 16)
    scores = {
        a: lattices.p2(lattices.points(1009, lattices.korobov_vector(3, 1009, a))).item()
        for a in tried
    }
    assert scores[rough] == pytest.approx(min(scores.values()), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("m", [6765, 17711])
def test_large_lattices_keep_all_coordinates_distinct(m, dtype):
    points = lattices.lattice(2, m, dtype)
    assert points.dtype == dtype
    for coordinate in points.T:
        assert len(torch.unique(coordinate)) == m
    assert circular_distance(points.double(), lattices.lattice(2, m)).max() * m < 2e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("m", [6765, 17711])
def test_lattice_integrates_harmonics_exactly(m, dtype):
    """The mean of exp(2 pi i h . z) is 0, and 1 only where h . g is a multiple of m."""
    previous = FIBONACCI[m]
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    z = lattices.lattice(2, m, dtype).double()
    for h in [
        (1, 0),
        (0, 1),
        (1, -1),
        (3, 2),
        (-5, 7),
        (11, 13),
        (previous, 0),
        (-previous, 2),
        (-previous, 1),
        (previous, -1),
        (m, 0),
    ]:
        angles = 2 * pi * (z @ torch.tensor(h, dtype=torch.float64))
        mean = torch.complex(angles.cos(), angles.sin()).mean()
        exact = 1.0 if (h[0] + previous * h[1]) % m == 0 else 0.0
        assert abs(mean.item() - exact) < tolerance * max(map(abs, h)), h


@given(m=st.integers(1, 200), k=dimensions, data=st.data())
def test_harmonics_integrate_to_the_indicator_of_the_dual_lattice(m, k, data):
    h = data.draw(st.lists(st.integers(-9, 9), min_size=k, max_size=k))
    shift = torch.tensor(
        data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=k, max_size=k)),
        dtype=torch.float64,
    )
    vector = lattices.generating_vector(k, m)
    angles = (
        2
        * pi
        * (
            lattices.shifted(lattices.points(m, vector), shift)
            @ torch.tensor(h, dtype=torch.float64)
        )
    )
    dual = sum(a * b for a, b in zip(h, vector, strict=True)) % m == 0
    assert torch.complex(angles.cos(), angles.sin()).mean().abs().item() == pytest.approx(
        float(dual), abs=1e-11
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("q", [1, 7, 305, 609])
def test_every_shift_of_the_lattice_is_equidistributed(axis, q, generator):
    points = lattices.lattice(2, 610)
    for _ in range(50):
        shifted = lattices.shifted(points, lattices.random_shift(2, generator))
        assert int((shifted[:, axis] < q / 610).sum()) == q


@given(z=st.floats(-1e3, 1e3), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_wrap_stays_below_one_and_moves_by_whole_turns(z, dtype):
    z = torch.tensor(z, dtype=dtype)
    wrapped = torus.wrap(z)
    assert wrapped.dtype == dtype
    assert 0 <= wrapped < 1
    assert circular_distance(wrapped, z) < (1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("z", [-1e-20, -1e-9, 1 - 1e-9, 1.0, -3.0])
def test_wrap_of_what_rounds_to_a_whole_turn_is_zero(z):
    assert torus.wrap(torch.tensor(z, dtype=torch.float32)).item() == 0


def test_wrap_does_not_hide_nan():
    wrapped = torus.wrap(torch.tensor([0.25, float("nan"), -0.25]))
    torch.testing.assert_close(wrapped, torch.tensor([0.25, float("nan"), 0.75]), equal_nan=True)


@given(
    m=sizes,
    k=dimensions,
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_shifted_moves_all_points_alike_and_leaves_them_as_they_were(m, k, seed, dtype):
    points = lattices.lattice(k, m, dtype)
    before, shift = points.clone(), lattices.random_shift(k, torch.Generator().manual_seed(seed))
    moved = lattices.shifted(points, shift)
    assert moved.dtype == dtype
    assert moved.min() >= 0
    assert moved.max() < 1
    assert circular_distance(moved.double() - points.double(), shift).max() < (
        2e-7 if dtype == torch.float32 else 1e-15
    )
    assert torch.equal(points, before)


def test_random_shift_is_uniform_and_follows_its_generator(generator):
    shifts = torch.stack([lattices.random_shift(3, generator) for _ in range(2003)])
    assert shifts.shape == (2003, 3)
    assert shifts.dtype == torch.float64
    assert shifts.min() >= 0
    assert shifts.max() < 1
    torch.testing.assert_close(
        shifts.mean(0),
        torch.full((3,), 0.5, dtype=torch.float64),
        rtol=0,
        atol=4 / 12**0.5 / 2003**0.5,
    )
    torch.testing.assert_close(
        shifts.T.cov(), torch.eye(3, dtype=torch.float64) / 12, rtol=0, atol=0.01
    )
    assert torch.equal(shifts[0], lattices.random_shift(3, torch.Generator().manual_seed(0)))


def test_shift_follows_the_device_of_generator_and_points(device):
    shift = lattices.random_shift(2, torch.Generator(device).manual_seed(0))
    assert shift.device.type == torch.device(device).type
    points = lattices.lattice(2, 13, torch.float32).to(device)
    moved = lattices.shifted(points, lattices.random_shift(2, torch.Generator().manual_seed(0)))
    assert (moved.device, moved.dtype) == (points.device, torch.float32)


# nested lattices


@given(k=dimensions, power=st.integers(0, 9))
def test_first_half_of_a_nested_lattice_is_the_one_of_half_the_size(k, power):
    points = lattices.nested(k, 2 ** (power + 1))
    assert points.dtype == torch.float64
    assert torch.equal(points[: 2**power], lattices.nested(k, 2**power))
    assert (points[0] == 0).all()


@given(k=dimensions, power=st.integers(0, 10))
def test_nested_lattice_equals_an_integer_loop_over_reversed_bits(k, power):
    m, vector = 2**power, (1, 364981, 245389)[:k]
    reverse = [int(format(j, f"0{power}b")[::-1], 2) if power else 0 for j in range(m)]
    expected = [[i * g % m / m for g in vector] for i in reverse]
    assert torch.equal(lattices.nested(k, m), torch.tensor(expected, dtype=torch.float64))


@given(k=dimensions, power=st.integers(0, 10))
def test_nested_lattice_is_a_rank_one_lattice_with_distinct_coordinates(k, power):
    points = lattices.nested(k, 2**power)
    for coordinate in points.T:
        assert torch.equal(
            coordinate.sort().values, torch.arange(2**power, dtype=torch.float64) / 2**power
        )
    order = (points[:, 0] * 2**power).long()
    step = points[order == 1 % 2**power]
    torch.testing.assert_close(torus.wrap(order[:, None] * step), points, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("k", "m"), [(2, 64), (2, 256), (2, 1024), (2, 4096), (3, 256), (3, 1024), (3, 2048)]
)
def test_nested_lattice_is_nearly_as_good_as_the_best_of_its_size(k, m):
    best = lattices.p2(
        lattices.points(m, lattices.korobov_vector(k, m, lattices.best_multiplier(k, m)))
    )
    assert lattices.p2(lattices.nested(k, m)) < 3 * best


def test_largest_nested_lattice_keeps_its_points_apart():
    points = lattices.nested(2, 2**20)
    assert len(torch.unique(points[:, 1])) == 2**20
    assert points.max() < 1


@pytest.mark.parametrize("m", [0, -4, 3, 1000, 2**20 + 1, 2**21])
def test_nested_lattice_of_another_size_is_refused(m):
    with pytest.raises(
        ValueError, match=rf"n_points expects a power of two up to 2\^20, but got {m}"
    ):
        lattices.nested(2, m)


def test_nested_lattice_of_more_than_three_dimensions_is_refused():
    with pytest.raises(ValueError, match="n_components expects 1, 2 or 3, but got 4"):
        lattices.nested(4, 8)


# cells


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 7), (2, 1), (2, 13), (2, 610), (3, 31), (3, 101)])
def test_basis_spans_the_lattice_by_vectors_that_are_short(k, m):
    """Its determinant is the volume of a cell, and its vectors lead from point to point."""
    points = lattices.lattice(k, m)
    basis = lattices.basis(points)
    assert abs(torch.linalg.det(basis)).item() == pytest.approx(1 / m, rel=1e-9)
    steps = torus.difference(basis[:, None], points).norm(dim=2)
    assert steps.amin(1).max() < 1e-9
    distances = torus.difference(points, points[0]).norm(dim=1)
    shortest = min([1.0, *distances[distances > 1e-9].tolist()])
    assert basis.norm(dim=1).min().item() == pytest.approx(shortest)
    assert basis.norm(dim=1).max() < 2.5 * m ** (-1 / k)


# averages around points


@given(k=dimensions, m=st.integers(1, 40), scale=st.floats(0.01, 0.2), seed=st.integers(0, 99))
def test_averages_equal_a_loop_over_points(k, m, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    points = lattices.shifted(lattices.lattice(k, m), lattices.random_shift(k, generator))
    values = torch.randn(m, 3, dtype=torch.float64, generator=generator)
    expected = torch.zeros_like(values)
    for i in range(m):
        weights = [
            torch.exp(-torus.difference(points[i], point).square().sum() / (2 * scale**2))
            for point in points
        ]
        for weight, value in zip(weights, values, strict=True):
            expected[i] += weight / sum(weights) * value
    found = lattices.averaged(values, points, scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("h", [(0, 0), (1, 0), (3, -2), (0, 14), (9, 9)])
def test_averaging_lowers_a_wave_by_the_characteristic_function_of_the_normal(h):
    points, scale = lattices.lattice(2, 6765), 0.02
    phase = 2 * pi * points @ torch.tensor(h, dtype=torch.float64)
    waves = torch.stack([phase.cos(), phase.sin()], 1)
    kept = torch.exp(torch.tensor(-2 * (pi * scale) ** 2 * (h[0] ** 2 + h[1] ** 2)))
    torch.testing.assert_close(
        lattices.averaged(waves, points, scale), kept * waves, rtol=0, atol=1e-7
    )


def test_columns_are_averaged_alike_however_many_there_are(generator, monkeypatch):
    points, values = lattices.lattice(2, 89), torch.randn(89, 7, generator=generator)
    expected = lattices.averaged(values, points, 0.1)
    monkeypatch.setattr(lattices, "_COLUMNS", 3)
    assert torch.equal(lattices.averaged(values, points, 0.1), expected)
    assert expected.dtype == torch.float32
