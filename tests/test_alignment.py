"""Maps of the torus onto itself: planted ones are found, and what they leave is told."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from skqlvm import QLVMEmbedding
from skqlvm.torus import Alignment, align, distance, stability, wrap

Z = np.random.default_rng(0).random((60, 2))


def planted(matrix, shift):
    return Alignment(np.array(matrix), np.array(shift))


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0], [0, 1]],
        [[-1, 0], [0, 1]],
        [[0, 1], [1, 0]],
        [[0, -1], [1, 0]],
        [[1, 1], [0, 1]],
        [[1, 0], [-1, -1]],
        [[0, 1], [1, -1]],
    ],
)
@pytest.mark.parametrize("shift", [[0.0, 0.0], [0.25, 0.9], [0.123456789, 0.5]])
def test_a_planted_map_is_found_exactly(matrix, shift):
    truth = planted(matrix, shift)
    found = align(truth(Z), Z)
    np.testing.assert_array_equal(found.matrix, matrix)
    np.testing.assert_allclose(distance(found.shift, shift), 0, atol=1e-12)
    assert found.residual < 1e-12
    np.testing.assert_allclose(distance(found(Z), truth(Z)), 0, atol=1e-12)
    np.testing.assert_allclose(distance(found.inverse()(found(Z)), Z), 0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_a_planted_map_is_found_in_other_dimensions(k):
    rng = np.random.default_rng(k)
    points = rng.random((50, k))
    matrix = {1: [[-1]], 3: [[0, 1, 1], [0, 0, -1], [1, 0, 1]]}[k]
    truth = planted(matrix, rng.random(k))
    found = align(truth(points), points)
    np.testing.assert_array_equal(found.matrix, matrix)
    assert found.residual < 1e-12


def test_larger_entries_are_found_if_asked_for():
    truth = planted([[2, 1], [1, 1]], [0.3, 0.7])
    assert align(truth(Z), Z).residual > 0.1
    assert align(truth(Z), Z, max_entry=2).residual < 1e-12


def test_isometries_do_not_shear_and_shifts_do_not_turn():
    sheared, turned = planted([[1, 1], [0, 1]], [0.1, 0.2]), planted([[0, 1], [-1, 0]], [0.1, 0.2])
    assert align(sheared(Z), Z, kind="isometry").residual > 0.1
    assert align(turned(Z), Z, kind="isometry").residual < 1e-12
    assert align(turned(Z), Z, kind="shift").residual > 0.1
    assert align(wrap(Z + 0.4), Z, kind="shift").residual < 1e-12


def test_the_best_of_all_is_found_in_noise():
    """Against every matrix with its best shift."""
    rng = np.random.default_rng(1)
    other = rng.random((12, 2))
    found = align(Z[:12], other)

    def score(matrix):
        steps = 2 * np.pi * (Z[:12] - other @ np.transpose(matrix))
        return np.hypot(np.cos(steps).mean(0), np.sin(steps).mean(0)).sum()

    entries = np.stack(np.meshgrid(*[[-1, 0, 1]] * 4), -1).reshape(-1, 2, 2)
    scores = [score(m) for m in entries if abs(round(np.linalg.det(m))) == 1]
    np.testing.assert_allclose(score(found.matrix), max(scores))


def test_residual_does_not_depend_on_where_either_map_is_cut():
    rng = np.random.default_rng(2)
    noisy = wrap(planted([[0, 1], [-1, 0]], [0.2, 0.4])(Z) + rng.normal(0, 0.02, Z.shape))
    residual = align(noisy, Z).residual
    assert 0.015 < residual < 0.04
    moved = align(wrap(noisy + 0.77), planted([[-1, 0], [0, 1]], [0.5, 0.1])(Z))
    np.testing.assert_allclose(moved.residual, residual)


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(ValueError, match="expect the same shape"):
        align(Z, Z[:5])
    with pytest.raises(ValueError, match="reference is an estimator, and expects rows X"):
        align(QLVMEmbedding(), Z)
    with pytest.raises(ValueError, match="kind expects one of"):
        align(Z, Z, kind="rotation")


class Moved:
    """A fitted map whose torus was moved."""

    def __init__(self, model, by):
        self.model, self.by = model, by

    def transform(self, X):
        return self.by(self.model.transform(X).astype(float))

    def inverse_transform(self, Z):
        return self.model.inverse_transform(self.by.inverse()(Z))

    def score(self, X):
        return self.model.score(X)


def test_stability_of_a_map_and_the_same_moved():
    X = load_digits().data[:200] / 16
    settings = {"n_points": 55, "n_points_eval": 233, "hidden_layer_sizes": (16,), "max_iter": 5}
    model = QLVMEmbedding(**settings, random_state=0).fit(X)
    moved = Moved(model, planted([[-1, 0], [0, -1]], [0.31, 0.77]))
    other = QLVMEmbedding(**settings, random_state=1).fit(X)
    found = stability([model, moved, other], X, n_clusters=3)
    assert found.pairs == [(0, 1), (0, 2), (1, 2)]
    assert found.residual_before[0] > 0.1 > 1e-6 > found.residual[0]
    for name in ("flat", "decoded", "neighbors", "co_clustering"):
        # some rows lie on the same point, and which are nearest is chance
        assert getattr(found, name)[0] > (0.8 if name == "neighbors" else 0.99)
        assert getattr(found, name)[1] < 0.8
        np.testing.assert_allclose(*getattr(found, name)[1:], atol=0.1)
    np.testing.assert_allclose(found.nats_spread, np.ptp([model.score(X), other.score(X)]))
    by_rows = stability([model, other], X, n_clusters=3, merge="overlap", n_pairs=20)
    assert -1 <= by_rows.co_clustering[0] < 1
    with pytest.raises(ValueError, match="expects two or more, but got 1"):
        stability([model], X)
