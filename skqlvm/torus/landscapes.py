"""Heights over points of the torus: their graph, smoothing, valleys, and what floods into which."""

from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from sklearn.utils.validation import check_array

from .. import _checks
from .distances import pairwise_distances, weights_of, wrap

_SIZES = {1: 2584, 2: 6765, 3: 8191}
"""Points of a lattice that is fine enough to draw borders on, by dimension."""

_TAIL = 1e-9
"""Fourier coefficients of a kernel that are left out, relative to the first one."""

_CHUNK_NUMBERS = 2**23
"""Numbers that are held at a time."""


def graph(points):
    """Return which points are neighbours: symmetric, and in one piece.

    Each point and those next to it, as many as the cells of a lattice have sides (2, 6 and 14 in
    one, two and three dimensions), by distance around the torus. Pieces that this leaves apart are
    joined by their nearest points.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_components)
        In turns, [0, 1), all different.

    Returns
    -------
    csr_array of shape (n_points, n_points)
        Of ones.
    """
    n, k = points.shape
    n_neighbors = min(n - 1, 2 * (2 ** min(k, 3) - 1))
    more = np.arange(1, min(n, 2 * n_neighbors + 1) + 1)
    length, near = KDTree(points, boxsize=1).query(points, k=more)
    # all that are equally near, so that rounding does not choose among them
    close = length <= length[:, [n_neighbors]] * (1 + 1e-9)
    edges = np.stack([close.nonzero()[0], near[close]])
    while True:
        edges = edges[:, edges[0] != edges[1]]
        both = np.concatenate([edges, edges[::-1]], 1)
        neighbours = csr_array(coo_array((np.ones(both.shape[1]), both), shape=(n, n)))
        n_pieces, piece = connected_components(neighbours, directed=False)
        if n_pieces == 1:
            neighbours.data[:] = 1
            return neighbours
        edges = np.concatenate([edges, _bridges(points, piece, n_pieces)], 1)


def _bridges(points, piece, n_pieces):
    """The shortest edge from each piece to the others."""
    found = []
    for number in range(n_pieces):
        inside, outside = (np.flatnonzero(side) for side in (piece == number, piece != number))
        length, other = KDTree(points[outside], boxsize=1).query(points[inside])
        nearest = length.argmin()
        found.append((inside[nearest], outside[other[nearest]]))
    return np.transpose(found)


def smoothed(Z, weights, at, bandwidth):
    """Return sums at points of normal kernels that are wound around the torus.

    ``sum_i w_i exp(-|at - z_i|^2 / (2 bandwidth^2))`` over all images of z_i: how many rows lie
    within a kernel, whose height is 1.

    By their Fourier series in up to three dimensions, whose cost does not grow with the product of
    the numbers of points; by the distances in more. Accurate to about 1e-9 of the largest kernel.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Where the kernels are, in turns.
    weights : ndarray of shape (n_samples,)
    at : ndarray of shape (n_points, n_components)
    bandwidth : float
        Their standard deviation, in turns.

    Returns
    -------
    ndarray of shape (n_points,)
    """
    Z, at = np.asarray(Z, np.float64), np.asarray(at, np.float64)
    if Z.shape[1] > 3:
        return _sums_by_distance(Z, weights, at, bandwidth)
    order = max(1, int(np.sqrt(-np.log(_TAIL) / 2) / (np.pi * bandwidth)))
    damping = (
        np.sqrt(2 * np.pi)
        * bandwidth
        * np.exp(-2 * (np.pi * bandwidth * np.arange(-order, order + 1)) ** 2)
    )
    series = 0
    for rows in _chunks(len(Z), (2 * order + 1) ** max(1, Z.shape[1] - 1)):
        first, *others = _waves(Z[rows], order)
        series = (
            series + (first.conj() * weights[rows, None]).T @ _products(others, len(first)).conj()
        )
    series = series * damping[:, None] * _products([damping[None]] * (Z.shape[1] - 1), 1)
    sums = np.empty(len(at))
    for rows in _chunks(len(at), (2 * order + 1) ** max(1, Z.shape[1] - 1)):
        first, *others = _waves(at[rows], order)
        sums[rows] = ((first @ series) * _products(others, len(first))).real.sum(1)
    return sums


def _waves(Z, order):
    """Powers of exp(2 pi i z), an array (n, 2 order + 1) a coordinate."""
    powers = np.arange(-order, order + 1)
    return [np.exp(2j * np.pi * z[:, None] * powers) for z in Z.T]


def _products(factors, n):
    """All products of a column of each factor (n, f), an array (n, f^len(factors))."""
    result = np.ones((n, 1))
    for factor in factors:
        result = (result[:, :, None] * factor[:, None]).reshape(n, -1)
    return result


def _sums_by_distance(Z, weights, at, bandwidth):
    sums = np.empty(len(at))
    for rows in _chunks(len(at), len(Z)):
        squares = np.square(pairwise_distances(at[rows], Z) / bandwidth)
        sums[rows] = np.exp(-squares / 2) @ weights
    return sums


def _chunks(n_rows, row_numbers):
    """Slices of rows that are few enough to be held at a time."""
    edges = [*range(0, n_rows, max(1, _CHUNK_NUMBERS // row_numbers)), n_rows]
    return [slice(*ends) for ends in pairwise(edges)]


def minima(elevation, neighbours):
    """Return the valleys of a landscape and how deep they are below their lowest pass.

    Water rises; where the lakes of two valleys meet, the shallower one ends. Its prominence is the
    height of this pass above its bottom, the persistence of the valley. The deepest valley has that
    of the whole landscape.

    Parameters
    ----------
    elevation : ndarray of shape (n_points,)
    neighbours : csr_array of shape (n_points, n_points)

    Returns
    -------
    bottoms : ndarray of shape (n_minima,)
        Numbers of points, the most prominent first.
    prominences : ndarray of shape (n_minima,)
    """
    order = np.argsort(elevation, kind="stable")
    edges, others = neighbours.indptr.tolist(), neighbours.indices.tolist()
    height = elevation.tolist()
    parent, bottoms, prominences = [-1] * len(height), [], []

    def lake(point):
        while parent[point] != point:
            parent[point] = parent[parent[point]]
            point = parent[point]
        return point

    for point in order.tolist():
        around = {lake(j) for j in others[edges[point] : edges[point + 1]] if parent[j] >= 0}
        # the bottom of a lake is its root; of equal depths, the one that was first goes on
        deepest = min(around, key=lambda root: (height[root], root), default=point)
        parent[point] = deepest
        for root in around - {deepest}:
            parent[root] = deepest
            if height[point] > height[root]:
                bottoms.append(root)
                prominences.append(height[point] - height[root])
    bottoms.append(lake(0))
    prominences.append(float(np.ptp(elevation)))
    ranked = np.lexsort((np.array(bottoms), -np.array(prominences)))
    last = np.flatnonzero(ranked == len(bottoms) - 1)
    ranked = np.concatenate([ranked[last], np.delete(ranked, last)])
    return np.array(bottoms)[ranked], np.array(prominences)[ranked]


def flooded(elevation, neighbours, markers):
    """Return which marker each point is flooded from: a watershed by a queue of heights.

    Parameters
    ----------
    elevation : ndarray of shape (n_points,)
    neighbours : csr_array of shape (n_points, n_points)
        In one piece.
    markers : sequence of int
        Numbers of points where water comes from.

    Returns
    -------
    ndarray of int of shape (n_points,)
        Places in `markers`.
    """
    edges, others = neighbours.indptr.tolist(), neighbours.indices.tolist()
    height, labels = elevation.tolist(), [-1] * len(elevation)
    for label, point in enumerate(markers):
        labels[point] = label
    # of equal heights, the point that was reached first comes first
    queue = [(height[point], age, point) for age, point in enumerate(map(int, markers))]
    heapify(queue)
    age = len(queue)
    while queue:
        _, _, point = heappop(queue)
        for other in others[edges[point] : edges[point + 1]]:
            if labels[other] < 0:
                labels[other] = labels[point]
                heappush(queue, (height[other], age, other))
                age += 1
    return np.array(labels)


def size(n_points, n_components):
    """Return how many points a lattice has, or None in more dimensions than it can fill."""
    return _SIZES.get(n_components) if isinstance(n_points, str) else int(n_points)


def nodes(Z, n_points, anchor):
    """Return points for a landscape to lie over: a lattice through a point, or the rows of Z.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
    n_points : int or None
        Size of the lattice; None for the different rows of Z.
    anchor : ndarray of shape (n_components,)

    Returns
    -------
    ndarray of shape (n_points, n_components)
        In turns, [0, 1).
    """
    if n_points is None:
        return np.unique(wrap(Z), axis=0)
    from ..engine import lattices

    return wrap(lattices.lattice(Z.shape[1], int(n_points)).numpy() + anchor)


def counts(sample_weight, n_rows):
    """Return how often each row counts (n_rows,), some of them more than never."""
    if sample_weight is None:
        return np.ones(n_rows)
    sample_weight = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
    )
    if not sample_weight.any():
        raise ValueError("sample_weight expects some positive weights, but all are zero.")
    return weights_of(sample_weight, n_rows, "sample_weight") * sample_weight.sum()


def check_bandwidth(bandwidth):
    """Raise unless it is "auto" or a standard deviation of at most half a turn."""
    if not (isinstance(bandwidth, str) and bandwidth == "auto"):
        _checks.check_number("bandwidth", bandwidth, below=0.5, open_minimum=True)
