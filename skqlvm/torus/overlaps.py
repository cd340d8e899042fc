"""Which regions of a map answer for the same rows, and regions merged by that."""

import numpy as np
from scipy.special import softmax

_SHARED = 2.0
"""Regions that a typical row is spread over, where overlaps are measured."""


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
    """Return how rows are shared out among regions, when each is spread over two in the mean.

    Posteriors of rows of many features are so narrow that regions share none. All log weights are
    divided by one temperature, that at which the mean of ``1 / sum_r share_r^2`` is 2.

    Parameters
    ----------
    log_w : ndarray of shape (n_samples, n_regions)

    Returns
    -------
    ndarray of shape (n_samples, n_regions)
        Rows sum to one.
    """
    log_w = log_w.astype(np.float64) - log_w.max(1, keepdims=True)
    cold, hot = 1e-3, 1e9
    for _ in range(48):
        temperature = np.sqrt(cold * hot)
        found = softmax(log_w / temperature, axis=1)
        if (1 / np.square(found).sum(1)).mean() < _SHARED:
            cold = temperature
        else:
            hot = temperature
    return found


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
