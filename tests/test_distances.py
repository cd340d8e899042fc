"""Distances and means on the flat torus, against loops over neighbouring tiles and invariances."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import skqlvm.torus
from skqlvm import torus


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def by_tiles(a, b):
    """The length of the shortest way from b to any copy of a."""
    tiles = product((-1, 0, 1), repeat=len(a))
    return min(float(np.linalg.norm(a + np.array(tile) - b)) for tile in tiles)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_distances_equal_a_loop_over_tiles(k, rng):
    A, B = rng.random((7, k)), rng.random((9, k))
    expected = [[by_tiles(a, b) for b in B] for a in A]
    np.testing.assert_allclose(torus.pairwise_distances(A, B), expected, atol=1e-14)
    np.testing.assert_allclose(torus.distance(A[:, None], B), expected, atol=1e-14)
    np.testing.assert_allclose(torus.pairwise_distances(A), torus.pairwise_distances(A, A))
    np.testing.assert_allclose(torus.distance(A[0], A[:1]), 0)


@given(a=st.floats(-3, 3), b=st.floats(-3, 3), turns=st.integers(-3, 3), shift=st.floats(-1, 1))
def test_steps_lead_there_and_know_no_seam(a, b, turns, shift):
    step = torus.difference([[a]], [[b]])
    assert abs(step) <= 0.5
    assert torus.distance(torus.wrap([[b + step[0, 0]]]), [[a]]) < 1e-12
    moved = torus.difference([[a + shift + turns]], [[b + shift]])
    assert torus.distance(moved, step) < 1e-12


@given(z=st.floats(-1e9, 1e9), kind=st.sampled_from([np.float32, np.float64]))
def test_wrapped_turns_are_below_one(z, kind):
    wrapped = torus.wrap(np.array([z, -1e-30], dtype=kind))
    assert wrapped.dtype == kind
    assert ((wrapped >= 0) & (wrapped < 1)).all()


def test_circular_mean_is_that_of_a_von_mises_distribution():
    """Weights on a grid: mean and variance are those of the density, and of turned points."""
    Z = np.arange(89)[:, None] / 89
    weights = np.exp(4 * np.cos(2 * np.pi * (Z[:, 0] - 0.97)))
    for shift in (0, 0.3, 5.01):
        mean = torus.circular_mean(Z + shift, 17 * weights)
        assert torus.distance(mean, [0.97 + shift]) < 1e-12
    variance = torus.circular_variance(Z, weights)
    np.testing.assert_allclose(variance, 1 - ive(1, 4) / ive(0, 4), rtol=1e-12)


def test_circular_mean_across_the_seam_and_of_repeated_points(rng):
    assert torus.distance(torus.circular_mean([[0.99], [0.01]]), [0]) < 1e-12
    Z, counts = rng.random((6, 2)), np.array([1, 2, 0, 3, 1, 1])
    np.testing.assert_allclose(
        torus.circular_mean(Z, counts), torus.circular_mean(Z.repeat(counts, 0)), atol=1e-13
    )
    np.testing.assert_allclose(torus.circular_variance([[0.3, 0.2]]), 0, atol=1e-15)
    np.testing.assert_allclose(torus.circular_variance([[0.3], [0.8]]), 1)


def test_path_is_straight_even_and_crosses_the_seam():
    np.testing.assert_allclose(
        torus.path([0.9, 0.1], [0.1, 0.3], 5),
        [[0.9, 0.1], [0.95, 0.15], [0, 0.2], [0.05, 0.25], [0.1, 0.3]],
        atol=1e-15,
    )
    steps = torus.distance(*(lambda p: (p[1:], p[:-1]))(torus.path([0.2], [0.6], 9)))
    np.testing.assert_allclose(steps, 0.05)


def test_neighbors_equal_a_loop(rng):
    Z, points = rng.random((50, 2)) - 3, rng.random((20, 2)) + 2
    distances, indices = torus.neighbors(Z, points, 4)
    expected = torus.pairwise_distances(points, Z)
    np.testing.assert_array_equal(indices, expected.argsort(1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(expected)[:, :4])
    assert torus.neighbors(Z, points)[1].shape == (20, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torus.path([0, 0], [0], 3), "one point each"),
        (lambda: torus.path([0], [0], 1), "n_points expects an integer of at least 2"),
        (lambda: torus.neighbors([[0]], [[0, 1]]), "points expects 1 columns, but got 2"),
        (lambda: torus.neighbors([[0]], [[0]], 2), "at most the 1 points of Z, but got 2"),
        (lambda: torus.circular_mean([[0], [1]], [1]), r"weights expects shape \(2,\)"),
        (lambda: torus.circular_mean([[0], [1]], [0, 0]), "nor all zero"),
        (lambda: torus.difference([np.nan], [0]), "a expects finite numbers"),
        (lambda: torus.pairwise_distances([0.1]), "Expected 2D array"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@parametrize_with_checks([torus.TorusFeatures()])
def test_estimator_check_passes(estimator, check):
    check(estimator)


def test_features_come_back_and_have_names(rng):
    Z = rng.random((9, 2))
    features = torus.TorusFeatures().fit(Z)
    circle = features.transform(Z + 3)
    np.testing.assert_allclose(circle[:, 1], np.cos(2 * np.pi * Z[:, 1]))
    np.testing.assert_allclose(circle[:, 2], np.sin(2 * np.pi * Z[:, 0]))
    np.testing.assert_allclose(features.inverse_transform(7 * circle), Z, atol=1e-14)
    assert list(features.get_feature_names_out()) == ["cos(z0)", "cos(z1)", "sin(z0)", "sin(z1)"]
    assert features.transform(Z.astype(np.float32)).dtype == np.float32
    frame = pd.DataFrame(Z, columns=["a", "b"])
    out = torus.TorusFeatures().set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == ["cos(a)", "cos(b)", "sin(a)", "sin(b)"]


def test_features_make_a_linear_classifier_know_the_seam(rng):
    Z = rng.random((400, 1))
    y = np.abs(torus.difference(Z, [0.0])[:, 0]) < 0.2
    assert LogisticRegression().fit(Z, y).score(Z, y) < 0.8
    assert make_pipeline(torus.TorusFeatures(), LogisticRegression()).fit(Z, y).score(Z, y) > 0.95


def test_public_names_resolve_and_others_do_not():
    assert all(getattr(torus, name) is not None for name in torus.__all__)
    assert set(torus.__all__) == set(skqlvm.torus._PUBLIC) <= set(dir(torus))
    with pytest.raises(AttributeError, match=r"'skqlvm.torus' has no attribute 'x'"):
        _ = torus.x
