"""Which regions of a map answer for the same rows, and regions merged by that."""

import numpy as np
from scipy.sparse import csr_array
from scipy.special import softmax

_SHARED = (2.5, 3.5, 5.0)
"""Regions that a row is spread over, where overlaps are measured; each gets a vote."""

_STEPS = 3
"""Steps of a walk among regions that get a vote, too."""

_NEAREST = 40
"""Regions of a row that count."""

_HALVINGS = 40
_SWEEPS = 20


def evidence(estimator, X, regions, n_regions):
    """Return the largest log weight of each row in each region of `lattice_`.

    Parameters
    ----------
    estimator : fitted estimator with a posterior over points `lattice_`
    X : array-like of shape (n_samples, n_features)
    regions : ndarray of int of shape (n_points,)
        The region of each of these points.
    n_regions : int

    Returns
    -------
    ndarray of shape (n_samples, n_regions)
        In nats, up to a constant a row; minus infinity of a region without points.
    """
    import torch

    X = estimator._queried(X)
    estimator._check_posterior("merge='overlap'")
    log_weights, index = estimator._log_weights(X), torch.from_numpy(regions)

    def best(x):
        log_w = log_weights(x)
        found = log_w.new_full((len(log_w), n_regions), -np.inf)
        return found.scatter_reduce_(1, index.to(log_w.device).expand_as(log_w), log_w, "amax")

    return estimator._over_rows(X, best, 4 * estimator._row_bytes(X), finite=False)


def shares(log_w, n_shared):
    """Return how rows are shared out among regions, when each is spread over so many.

    Posteriors of rows of many features are so narrow that regions have no rows in common. So the
    log weights of each row are divided by a temperature of its own, that at which ``1 / sum_r
    share_r^2`` is `n_shared`.

    Parameters
    ----------
    log_w : ndarray of shape (n_samples, n_regions)
    n_shared : float

    Returns
    -------
    csr_array of shape (n_samples, n_regions)
        Rows sum to one; they have 40 regions at most.
    """
    n_nearest = min(_NEAREST, log_w.shape[1])
    nearest = np.argpartition(-log_w, n_nearest - 1, axis=1)[:, :n_nearest]
    below = np.take_along_axis(log_w, nearest, 1).astype(np.float64)
    below -= below.max(1, keepdims=True)
    # in units of the typical drop of a row, as temperatures are powers of these
    unit = np.maximum(-below.mean(1, where=np.isfinite(below), keepdims=True), 1e-300)
    cold, hot = np.full(unit.shape, -12.0), np.full(unit.shape, 12.0)
    for _ in range(_HALVINGS):
        middle = (cold + hot) / 2
        found = softmax(below / (unit * np.exp(middle)), axis=1)
        narrow = 1 / np.square(found).sum(1, keepdims=True) < n_shared
        cold, hot = np.where(narrow, middle, cold), np.where(narrow, hot, middle)
    rows = np.arange(0, nearest.size + 1, n_nearest)
    return csr_array((found.ravel(), nearest.ravel(), rows), shape=log_w.shape)


def merged(log_w, n_clusters, weight=None):
    """Merge the two regions that share most rows, for their sizes, until few are left.

    Two regions share ``O_ab = sum_i s_ia s_ib`` of the rows. With sizes ``w_a = sum_b O_ab`` they
    are as alike as ``O_ab / (w_a w_b)``, which is the same for all where rows are shared out at
    random; overlaps and sizes of merged regions are sums. By steps of a walk from region to region,
    whose chances these are, regions that share through others do so too. How wide rows are spread,
    and how many steps there are, is tried in nine ways; regions are then merged by how often they
    were together, and in the end each goes to the cluster that it is most like.

    Parameters
    ----------
    log_w : ndarray of shape (n_samples, n_regions)
        Of `evidence`.
    n_clusters : int
    weight : ndarray of shape (n_samples,), optional
        How often each row counts.

    Returns
    -------
    ndarray of int of shape (n_regions,)
        The cluster of each region, numbered by their first regions.
    """
    n_clusters = min(n_clusters, log_w.shape[1])
    votes, overlaps = 0.0, []
    for n_shared in _SHARED:
        shared = shares(log_w, n_shared)
        overlap = (shared.T @ (shared if weight is None else shared * weight[:, None])).toarray()
        for walked in _walks(overlap):
            clusters = _settled(walked, _joined(walked, n_clusters))
            votes = votes + (clusters[:, None] == clusters)
            overlaps.append(walked)
    middle = overlaps[len(overlaps) // 2]
    size = _sizes(middle)
    clusters = _settled(middle, _joined(votes * size[:, None] * size, n_clusters))
    numbers, firsts = np.unique(clusters, return_index=True)
    rank = np.empty(len(numbers), int)
    rank[np.argsort(firsts)] = np.arange(len(numbers))
    return rank[np.searchsorted(numbers, clusters)]


def _walks(overlap):
    """Overlaps after one step of a walk among regions, after two, and so on."""
    walk = overlap / _sizes(overlap)[:, None]
    for _ in range(_STEPS):
        yield overlap
        overlap = overlap @ walk
        overlap = (overlap + overlap.T) / 2


def _sizes(overlap):
    return np.maximum(overlap.sum(1), 1e-12 * max(overlap.sum(), 1e-300))


def _joined(overlap, n_clusters):
    """Clusters of regions (n_regions,), by joining the two most alike again and again."""
    overlap, size = overlap.copy(), _sizes(overlap)
    clusters, left = np.arange(len(size)), np.ones(len(size), bool)
    alike = overlap / size[:, None] / size
    np.fill_diagonal(alike, -np.inf)
    for _ in range(len(size) - n_clusters):
        a, b = sorted(np.unravel_index(alike.argmax(), alike.shape))
        overlap[a] += overlap[b]
        overlap[:, a] += overlap[:, b]
        size[a] += size[b]
        clusters[clusters == b], left[b] = a, False
        alike[b] = alike[:, b] = -np.inf
        alike[a] = alike[:, a] = np.where(left, overlap[a] / size / size[a], -np.inf)
        alike[a, a] = -np.inf
    return np.unique(clusters, return_inverse=True)[1]


def _settled(overlap, clusters):
    """Clusters after each region went to the one that it is most like, itself left out."""
    size, others = _sizes(overlap), overlap.copy()
    np.fill_diagonal(others, 0)
    n_clusters = clusters.max() + 1
    for _ in range(_SWEEPS):
        inside = np.eye(n_clusters)[clusters]
        sizes = np.maximum(inside.T @ size - inside * size[:, None], size.min())
        moved = (others @ inside / sizes).argmax(1)
        if len(np.unique(moved)) < n_clusters or (moved == clusters).all():
            break
        clusters = moved
    return clusters
