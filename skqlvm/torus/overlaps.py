"""Which regions of a map answer for the same rows, and regions merged by that."""

import numpy as np
from scipy.special import softmax

_SHARED = 3.0
"""Regions that a row is spread over, where overlaps are measured."""

_NEAREST = 40
"""Regions of a row that count."""

_HALVINGS = 40


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


def shares(log_w):
    """Return how rows are shared out among regions, when each is spread over three.

    Posteriors of rows of many features are so narrow that regions have no rows in common. So the
    log weights of each row are divided by a temperature of its own, that at which ``1 / sum_r
    share_r^2`` is 3.

    Parameters
    ----------
    log_w : ndarray of shape (n_samples, n_regions)

    Returns
    -------
    ndarray of shape (n_samples, n_regions)
        Rows sum to one.
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
        narrow = 1 / np.square(found).sum(1, keepdims=True) < _SHARED
        cold, hot = np.where(narrow, middle, cold), np.where(narrow, hot, middle)
    result = np.zeros(log_w.shape)
    np.put_along_axis(result, nearest, found, 1)
    return result


def merged(shared, n_clusters, weight=None):
    """Merge the two regions that share most, for their sizes, until few are left.

    Two regions share ``O_ab = sum_i s_ia s_ib`` of the rows, and with sizes ``w_a = sum_b O_ab``
    they are as alike as ``O_ab / (w_a w_b)``, which is the same for all where rows are shared out
    at random. Overlaps and sizes of merged regions are sums.

    Parameters
    ----------
    shared : ndarray of shape (n_samples, n_regions)
        Of `shares`.
    n_clusters : int
    weight : ndarray of shape (n_samples,), optional
        How often each row counts.

    Returns
    -------
    ndarray of int of shape (n_regions,)
        The cluster of each region, numbered by their first regions.
    """
    overlap = shared.T @ (shared if weight is None else shared * weight[:, None])
    size = np.maximum(overlap.sum(1), np.finfo(float).tiny)
    clusters, alive = np.arange(len(size)), np.ones(len(size), bool)
    alike = overlap / size[:, None] / size
    np.fill_diagonal(alike, -np.inf)
    for _ in range(len(size) - n_clusters):
        a, b = sorted(np.unravel_index(alike.argmax(), alike.shape))
        overlap[a] += overlap[b]
        overlap[:, a] += overlap[:, b]
        size[a] += size[b]
        clusters[clusters == b], alive[b] = a, False
        alike[b] = alike[:, b] = -np.inf
        alike[a] = alike[:, a] = np.where(alive, overlap[a] / size / size[a], -np.inf)
        alike[a, a] = -np.inf
    return np.unique(clusters, return_inverse=True)[1]
