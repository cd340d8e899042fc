"""Grids: edges and bins are two sides of one definition."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from skqlvm.sampling.grids import Grid

ENDS = st.floats(-1e300, 1e300) | st.floats(-2, 2) | st.floats(-1e-300, 1e-300)


def grid_of(low, high, n_bins, periodic=False):
    return Grid.over(np.array([low]), np.array([high]), n_bins, np.array([periodic]))


def assert_edges_bound_the_bins(grid, Z):
    """Codes have the bin that a search among the edges gives them, and so have the edges
    themselves and their neighbours."""
    (edges,) = grid.edges()
    n_bins = int(grid.n_bins[0])
    assert edges.shape == (n_bins + 1,)
    assert edges[[0, -1]].tolist() == [*grid.low, *grid.high]
    assert (np.diff(edges) >= 0).all()
    inside = np.concatenate([Z, edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    inside = inside[(inside >= edges[0]) & (inside < edges[-1])]
    expected = np.searchsorted(edges[:-1], inside, side="right") - 1
    np.testing.assert_array_equal(grid.quantize(inside[:, np.newaxis]).ravel(), expected)


RANGES = [
    (0.0, 1.0),
    (-1.0, 1.0),
    (-3.0, 3.0),
    (0.1, 0.7),
    (-0.3, 0.45),
    (1 / 3, 1e4),
    (1000.0, 1000.5),
    (-1e-310, 1e-310),
    (-8e307, 8e307),
    (1e8, 1e8 + 2**-20),
    (0.0, 360.0),
]


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 20, 199, 1009])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_edges_and_bins_agree_on_ranges_of_all_sizes(low, high, n_bins, periodic):
    Z = np.random.default_rng(0).uniform(low, high, 503)
    grid = grid_of(low, high, n_bins, periodic)
    assert_edges_bound_the_bins(grid, Z)
    spacing = np.spacing(max(abs(low), abs(high)))
    even = np.linspace(low, high, grid.n_bins[0] + 1)
    np.testing.assert_allclose(grid.edges()[0], even, rtol=0, atol=16 * spacing)


@given(ENDS, ENDS, st.integers(1, 3000), st.booleans())
@example(1.0, 1.0 + 2**-52, 500, False)
@example(1e8, 1e8 + 2**-26, 2999, True)
@example(-1.0, 1e-320, 7, False)
@example(-5e-324, 5e-324, 1, False)
def test_edges_and_bins_agree_on_any_range(low, high, n_bins, periodic):
    assume(low < high)
    fractions = np.random.default_rng(0).random(101)
    assert_edges_bound_the_bins(
        grid_of(low, high, n_bins, periodic), low + fractions * (high - low)
    )


def test_edges_of_single_precision_codes_bound_them_too():
    grid = grid_of(0.1, 0.7, 61)
    Z = np.linspace(0.1, 0.7, 100_003, dtype=np.float32)[1:-1]
    expected = np.searchsorted(grid.edges()[0], Z.astype(np.float64), side="right") - 1
    np.testing.assert_array_equal(grid.quantize(Z[:, np.newaxis]).ravel(), expected)


def test_flat_dimension_is_one_bin_between_its_ends():
    grid = grid_of(0.7, 0.7, 5)
    assert [edges.tolist() for edges in grid.edges()] == [[0.7, 0.7]]
    assert grid.quantize(np.array([[0.7], [0.1], [3.0]])).ravel().tolist() == [0, 0, 0]
