"""Clusters on the torus: landscapes and what floods them, watersheds, mean shift; no seam."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqlvm import QLVMEmbedding
from skqlvm.engine import lattices
from skqlvm.torus import TorusMeanShift, TorusWatershed, landscapes, overlaps, wrap


def chain(n):
    """The graph of points in a row."""
    steps = np.arange(n - 1)
    edges = np.concatenate([steps, steps + 1]), np.concatenate([steps + 1, steps])
    return csr_array((np.ones(2 * n - 2), edges), shape=(n, n))


def heaps(centers, n=120, width=0.03, seed=0):
    """Rows around centers, and which they are around."""
    centers = np.asarray(centers, float)
    noise = np.random.default_rng(seed).normal(0, width, (len(centers), n, centers.shape[1]))
    Z = (centers[:, None] + noise).reshape(-1, centers.shape[1])
    return wrap(Z), np.repeat(np.arange(len(centers)), n)


FOUR = heaps([[0.02, 0.97], [0.4, 0.2], [0.5, 0.7], [0.95, 0.45]])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_points_of_a_lattice_have_as_many_neighbours_as_their_cells_have_sides(k):
    points = lattices.lattice(k, {1: 21, 2: 610, 3: 1021}[k]).numpy()
    degrees = np.diff(landscapes.graph(points).indptr)
    # in the plane two of the sides of a Fibonacci lattice's cells are as long as two others
    assert (degrees == {1: 2, 2: 8, 3: 14}[k]).all()


def test_graph_joins_pieces_and_is_symmetric():
    Z, _ = heaps([[0.1, 0.1], [0.5, 0.5], [0.9, 0.2]], n=20, width=0.001)
    found = landscapes.graph(Z)
    assert connected_components(found, directed=False)[0] == 1
    assert (found != found.T).nnz == 0
    assert not found.diagonal().any()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("bandwidth", [0.05, 0.2])
def test_smoothed_is_the_sum_over_images(k, bandwidth):
    rng = np.random.default_rng(k)
    Z, weights, at = rng.random((7, k)), rng.random(7), rng.random((5, k))
    images = np.arange(-3, 4)
    naive = np.zeros(5)
    for z, weight in zip(Z, weights, strict=True):
        one = np.exp(-(((at - z)[..., None] + images) ** 2) / (2 * bandwidth**2)).sum(2)
        naive += weight * one.prod(1)
    np.testing.assert_allclose(landscapes.smoothed(Z, weights, at, bandwidth), naive, atol=1e-7)


def test_smoothed_in_more_dimensions_is_by_distance():
    rng = np.random.default_rng(0)
    Z, weights, at = rng.random((9, 4)), rng.random(9), rng.random((3, 4))
    steps = at[:, None] - Z
    squares = ((steps - np.round(steps)) ** 2).sum(2)
    naive = np.exp(-squares / (2 * 0.1**2)) @ weights
    np.testing.assert_allclose(landscapes.smoothed(Z, weights, at, 0.1), naive)


def test_minima_have_the_heights_of_their_passes_above_them():
    heights = np.array([3.0, 0.0, 2.0, 1.0, 5.0, 0.5, 4.0])
    bottoms, prominences = landscapes.minima(heights, chain(7))
    assert bottoms.tolist() == [1, 5, 3]
    assert prominences.tolist() == [5.0, 4.5, 1.0]


def test_prominences_are_those_of_a_naive_search():
    """The least height to climb, over all ways to anything deeper."""
    points = lattices.lattice(2, 89).numpy()
    graph = landscapes.graph(points)
    heights = np.random.default_rng(0).permutation(89).astype(float)
    bottoms, prominences = landscapes.minima(heights, graph)
    for bottom, prominence in zip(bottoms[1:], prominences[1:], strict=True):
        levels = np.sort(heights[heights > heights[bottom]])
        for level in levels:
            inside = np.flatnonzero(heights <= level)
            piece = connected_components(graph[inside][:, inside], directed=False)[1]
            mine = inside[piece == piece[np.flatnonzero(inside == bottom)[0]]]
            if heights[mine].min() < heights[bottom]:
                break
        assert prominence == level - heights[bottom]


def test_water_stays_behind_the_higher_pass():
    heights = np.array([0.0, 1.0, 5.0, 1.0, 0.5, 2.0, 0.2])
    found = landscapes.flooded(heights, chain(7), [0, 6])
    assert np.delete(found, 2).tolist() == [0, 0, 1, 1, 1, 1]


def test_every_point_is_flooded_and_regions_are_in_one_piece():
    points = lattices.lattice(2, 377).numpy()
    graph = landscapes.graph(points)
    heights = np.random.default_rng(0).random(377)
    bottoms, _ = landscapes.minima(heights, graph)
    labels = landscapes.flooded(heights, graph, bottoms[:9])
    for number in range(9):
        inside = np.flatnonzero(labels == number)
        assert bottoms[number] in inside
        assert connected_components(graph[inside][:, inside], directed=False)[0] == 1


@pytest.mark.parametrize("n_clusters", [4, None])
def test_watershed_finds_heaps_across_the_seam(n_clusters):
    Z, y = FOUR
    clusters = TorusWatershed(n_clusters=n_clusters).fit(Z)
    assert clusters.n_clusters_ == 4
    assert adjusted_rand_score(y, clusters.labels_) == 1
    np.testing.assert_array_equal(clusters.predict(Z + 3.0), clusters.labels_)


@pytest.mark.parametrize(
    "clusterer", [TorusWatershed(n_clusters=3, n_points=987), TorusMeanShift(0.06, n_points=987)]
)
@pytest.mark.parametrize("shift", [[0.5, 0.5], [0.123456, 0.98765], [-0.3, 7.1]])
def test_clusters_do_not_depend_on_where_the_torus_is_cut(clusterer, shift):
    """Even where clusters overlap, and borders go through rows."""
    Z, _ = heaps([[0.1, 0.2], [0.35, 0.3], [0.6, 0.8], [0.9, 0.5]], width=0.1)
    labels = clone(clusterer).fit(Z).labels_
    moved = clone(clusterer).fit(wrap(Z + shift)).labels_
    assert len(set(labels)) > 2
    assert adjusted_rand_score(labels, moved) == 1


@pytest.mark.parametrize(
    "clusterer", [TorusWatershed(n_clusters=4, n_points=987), TorusMeanShift(0.08, n_points=987)]
)
@pytest.mark.parametrize("matrix", [[[-1, 0], [0, -1]], [[-1, 0], [0, 1]], [[0, 1], [1, 0]]])
def test_clusters_are_the_same_on_a_reflected_torus(clusterer, matrix):
    Z, y = FOUR
    moved = clone(clusterer).fit(wrap(Z @ np.array(matrix))).labels_
    assert adjusted_rand_score(y, moved) == 1


@pytest.mark.parametrize("k", [1, 3, 4])
def test_watershed_in_other_dimensions(k):
    centers = np.array([[0.98] * k, [0.5] * k])
    Z, y = heaps(centers, n=60, width=0.02)
    assert adjusted_rand_score(y, TorusWatershed(n_clusters=2).fit_predict(Z)) == 1


@pytest.mark.parametrize(
    "clusterer", [TorusWatershed(n_clusters=3, n_points=987), TorusMeanShift(0.06, n_points=987)]
)
def test_weights_stand_for_repeated_rows(clusterer):
    Z, _ = heaps([[0.1, 0.2], [0.35, 0.3], [0.6, 0.8]], width=0.1, n=50)
    weight = np.random.default_rng(0).integers(0, 4, len(Z))
    weighted = clone(clusterer).fit(Z, sample_weight=weight)
    repeated = clone(clusterer).fit(np.repeat(Z, weight, 0))
    np.testing.assert_array_equal(weighted.predict(Z), repeated.predict(Z))


def test_landscape_of_ones_own_over_points_of_ones_own():
    """Two wells of a cosine, each half a torus."""
    points = np.random.default_rng(0).random((500, 2))
    clusters = TorusWatershed(
        n_clusters=2, points=points, elevation=lambda z: np.cos(4 * np.pi * z[:, 0])
    ).fit(points)
    assert len(clusters.points_) == 500
    inside = (points[:, 0] * 2 % 1 > 0.15) & (points[:, 0] * 2 % 1 < 0.85)
    side = points[:, 0] < 0.5
    assert adjusted_rand_score(side[inside], clusters.labels_[inside]) == 1


def test_too_many_clusters_are_called_so():
    Z, _ = FOUR
    with pytest.warns(ConvergenceWarning, match="fewer than the 500"):
        clusters = TorusWatershed(n_clusters=500, bandwidth=0.08).fit(Z)
    assert clusters.n_clusters_ == len(clusters.prominences_) == len(clusters.cluster_centers_)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"elevation": "height"}, "elevation expects one of"),
        ({"elevation": "jacobian"}, "'jacobian' expects an estimator"),
        ({"elevation": lambda z: z}, "elevation expects finite heights of shape"),
        ({"merge": "overlap"}, "merge='overlap' expects an estimator"),
        ({"n_clusters": 0}, "n_clusters expects an integer"),
        ({"bandwidth": 0.0}, "bandwidth expects a number"),
        ({"points": [[0.5]]}, "points expects 2 columns"),
    ],
)
def test_wrong_parameters_are_explained(parameters, message):
    with pytest.raises(ValueError, match=message):
        TorusWatershed(**parameters).fit(FOUR[0])


@pytest.fixture(scope="module")
def fitted():
    X = load_digits().data[:400] / 16
    model = QLVMEmbedding(
        likelihood="bernoulli",
        n_points=89,
        n_points_eval=610,
        hidden_layer_sizes=(32,),
        max_iter=150,
        random_state=0,
    )
    return model.fit(X), X


@pytest.mark.parametrize("elevation", ["density", "posterior", "jacobian"])
def test_posterior_mass_of_regions_sums_to_one_and_agrees_with_labels(fitted, elevation):
    model, X = fitted
    Z = model.transform(X)
    clusters = clone(TorusWatershed(FrozenEstimator(model), n_clusters=6, elevation=elevation))
    clusters.fit(Z)
    mass = clusters.predict_proba(X)
    assert mass.shape == (400, clusters.n_clusters_)
    np.testing.assert_allclose(mass.sum(1), 1, rtol=1e-6)
    sure = mass.max(1) > 0.9
    assert (mass.argmax(1) == clusters.labels_)[sure].mean() > 0.9
    lattice = clusters.predict(model.lattice_)
    naive = [model.posterior(X[:3])[:, lattice == c].sum(1) for c in range(clusters.n_clusters_)]
    np.testing.assert_allclose(mass[:3], np.transpose(naive), rtol=1e-5, atol=1e-12)


def test_overlap_needs_rows_and_gives_so_many_clusters(fitted):
    model, X = fitted
    Z = model.transform(X)
    clusters = TorusWatershed(model, n_clusters=5, merge="overlap")
    with pytest.raises(ValueError, match="expects rows in fit"):
        clusters.fit(Z)
    with pytest.raises(ValueError, match="rows expects 400 rows"):
        clusters.fit(Z, rows=X[:10])
    assert not hasattr(clusters, "labels_")
    clusters.fit(Z, rows=X)
    assert clusters.n_clusters_ == 5 == len(clusters.cluster_centers_)
    assert set(clusters.point_labels_) == set(range(5))
    np.testing.assert_array_equal(clusters.predict(clusters.cluster_centers_), np.arange(5))


def test_evidence_is_the_largest_log_posterior_of_a_region(fitted):
    model, X = fitted
    regions = np.arange(610) % 7
    found = overlaps.evidence(model, X[:20].astype(np.float64), regions, 8)
    log_w = np.log(model.posterior(X[:20].astype(np.float64)))
    naive = np.stack([log_w[:, regions == r].max(1) for r in range(7)], 1)
    finite = np.isfinite(naive)
    assert np.isneginf(found[:, 7]).all()
    differences = (found[:, :7] - naive)[finite]
    offsets = (found[:, :7] - naive).mean(1, where=finite)
    np.testing.assert_allclose(differences, np.repeat(offsets, finite.sum(1)), atol=1e-6)


def test_regions_of_the_same_rows_are_merged():
    """Two kinds of rows, each shown in three regions."""
    kind = np.array([0, 1, 0, 1, 0, 1])
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, 300)
    log_w = -np.abs(rng.normal(10, 3, (300, 6))) - 60.0 * (rows[:, None] != kind)
    found = overlaps.merged(log_w, 2)
    assert found.tolist() == kind.tolist()


def test_shares_are_the_same_in_any_units_and_spread_over_some_regions():
    log_w = np.random.default_rng(0).normal(0, 50, (200, 12))
    found = overlaps.shares(log_w, 3.5)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(
        overlaps.shares(7 * log_w + 3, 3.5).toarray(), found.toarray(), atol=1e-6
    )
    np.testing.assert_allclose(1 / np.square(found.toarray()).sum(1), 3.5, rtol=1e-4)


def test_mean_shift_climbs_to_the_peak():
    """The direction of a single heap, and never lower on the way."""
    Z, _ = heaps([[0.98, 0.5]], n=300, width=0.05)
    clusters = TorusMeanShift(0.1).fit(Z)
    assert len(clusters.cluster_centers_) == 1
    assert np.abs(clusters.cluster_centers_[0] - [0.98, 0.5]).max() < 0.01
    from skqlvm.torus.mean_shift import _Kernels

    kernels, z = _Kernels(Z, np.ones(len(Z)), 0.1), np.array([[0.3, 0.2]])
    heights = [kernels.log_density(kernels.climbed(z, n)[0])[0] for n in range(1, 30)]
    assert (np.diff(heights) >= -1e-12).all()
    assert heights[-1] > heights[0]


def test_peaks_of_the_mean_shift_are_stationary():
    Z, y = FOUR
    clusters = TorusMeanShift(0.08).fit(Z)
    assert adjusted_rand_score(y, clusters.labels_) == 1
    step = 2 * np.pi * (clusters.cluster_centers_[:, None] - Z)
    kernel = np.exp((np.cos(step).sum(2) - 2) / (2 * np.pi * 0.08) ** 2)
    slope = (kernel[..., None] * np.sin(step)).sum(1) / kernel.sum(1)[:, None]
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def unsuited(estimator):
    """These checks give data far wider than a turn, and expect its clusters to survive."""
    reason = "coordinates are turns: numbers that differ by 1 are the same"
    return dict.fromkeys(("check_clustering",), reason)


@parametrize_with_checks(
    [TorusWatershed(n_points=55), TorusMeanShift(n_points=55)],
    expected_failed_checks=unsuited,
)
def test_estimator_check_passes(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)
