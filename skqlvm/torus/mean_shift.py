"""TorusMeanShift: clusters as the peaks of a density on the torus."""

import numpy as np
from scipy.spatial import KDTree
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _checks
from .._transactions import all_or_nothing
from . import landscapes
from .distances import circular_mean, difference, distance, from_circle, to_circle, wrap

_SETTLED = 1e-4
"""Length of a step at which a peak is reached, in bandwidths."""

_ONE_PEAK = 0.25
"""Distance at which two peaks are one, in bandwidths."""

_CHUNK_NUMBERS = 2**22


class TorusMeanShift(ClusterMixin, BaseEstimator):
    """Cluster coordinates on the torus by the peaks of their density.

    The density is a sum of von Mises kernels, which have no seam. From its peaks over a lattice,
    points climb to the peaks themselves: each step is to the mean direction of the coordinates
    around, by the weights of the kernel, and never goes down. A cluster is what lies on the slopes
    of a peak.

    Parameters
    ----------
    bandwidth : float or "auto", default="auto"
        Width of the kernels: their standard deviation in turns, of narrow ones. A larger one gives
        fewer clusters. "auto" is ``0.15 n^(-1 / (k + 4))`` of n rows in k dimensions, at most 0.1,
        and at least the spacing of the lattice.
    n_points : int or "auto", default="auto"
        Points of the lattice. "auto" is 2584, 6765 or 8191 in one, two or three dimensions; in
        more, the coordinates themselves are taken.
    max_iter : int, default=300
        Steps of a climb at most.

    Attributes
    ----------
    labels_ : ndarray of int of shape (n_samples,)
        The cluster of each coordinate, from 0, the highest peak first.
    cluster_centers_ : ndarray of shape (n_clusters, n_components)
        The peaks, in turns.
    n_iter_ : int
        Steps of the longest climb.
    bandwidth_ : float
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if Z had string column names.

    See Also
    --------
    TorusWatershed : Low peaks are merged with others, until there are as many as asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from skqlvm.torus import TorusMeanShift
    >>> heap = np.random.default_rng(0).normal(0, 0.03, (100, 2))
    >>> Z = np.concatenate([heap, heap + 0.5]) % 1
    >>> clusters = TorusMeanShift(bandwidth=0.1).fit(Z)
    >>> np.bincount(clusters.labels_).tolist()
    [100, 100]
    """

    def __init__(self, bandwidth="auto", *, n_points="auto", max_iter=300):
        self.bandwidth = bandwidth
        self.n_points = n_points
        self.max_iter = max_iter

    def fit(self, Z, y=None, sample_weight=None):
        """Find the peaks of the density of coordinates.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            In turns, any real numbers.
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts.

        Returns
        -------
        self
        """
        with all_or_nothing(self):
            return self._fit(Z, sample_weight)

    def predict(self, Z):
        """Return the clusters of coordinates: on which slope the nearest point of the lattice is.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            In turns, any real numbers.

        Returns
        -------
        ndarray of int of shape (n_samples,)
        """
        check_is_fitted(self)
        return self._labels(validate_data(self, Z, dtype=np.float64, reset=False))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_points")

    def _fit(self, Z, sample_weight):
        landscapes.check_bandwidth(self.bandwidth)
        _checks.check_integer("n_points", self.n_points, alternative="auto")
        _checks.check_integer("max_iter", self.max_iter)
        Z = wrap(validate_data(self, Z, dtype=np.float64))
        weight = landscapes.counts(sample_weight, len(Z))
        Z, weight, rows = Z[weight > 0], weight[weight > 0], Z
        n_points = landscapes.size(self.n_points, Z.shape[1])
        self._points = landscapes.nodes(Z, n_points, circular_mean(Z, weight))
        self.bandwidth_ = self._width(weight.sum(), Z.shape[1])
        kernels = _Kernels(Z, weight, self.bandwidth_)
        heights = -kernels.log_density(self._points)
        neighbours = landscapes.graph(self._points)
        bottoms, _ = landscapes.minima(heights, neighbours)
        slopes = landscapes.flooded(heights, neighbours, bottoms)
        peaks, self.n_iter_ = kernels.climbed(self._points[bottoms], int(self.max_iter))
        self.cluster_centers_, of_peaks = _distinct(peaks, kernels, self.bandwidth_)
        self._point_labels = of_peaks[slopes]
        self.labels_ = self._labels(rows)
        return self

    def _width(self, n_rows, n_components):
        if not isinstance(self.bandwidth, str):
            return float(self.bandwidth)
        spacing = len(self._points) ** (-1 / n_components)
        return min(max(spacing, 0.15 * n_rows ** (-1 / (n_components + 4))), 0.1)

    def _labels(self, Z):
        return self._point_labels[KDTree(self._points, boxsize=1).query(wrap(Z))[1]]


class _Kernels:
    """A sum of von Mises kernels at coordinates, each ``exp(kappa sum_l (cos(2 pi d_l) - 1))``."""

    def __init__(self, Z, weight, bandwidth):
        self.circles, self.weight = to_circle(Z), weight / weight.sum()
        self.bandwidth, self.kappa = bandwidth, (2 * np.pi * bandwidth) ** -2

    def values(self, circles):
        """Return the kernels of all coordinates at some points, times their weights, (n, m)."""
        cosines = circles @ self.circles.T - circles.shape[1] // 2
        return np.exp(self.kappa * cosines) * self.weight

    def log_density(self, Z):
        """Return the log of their sum at points (n,), up to a constant."""
        circles = to_circle(Z)
        size = max(1, _CHUNK_NUMBERS // len(self.circles))
        sums = [self.values(circles[i : i + size]).sum(1) for i in range(0, len(circles), size)]
        return np.log(np.maximum(np.concatenate(sums), np.finfo(float).tiny))

    def climbed(self, Z, max_iter):
        """Return the peaks above points (n, k), and how many steps it took."""
        Z, left, n_iter = np.array(Z), np.arange(len(Z)), 0
        while len(left) and n_iter < max_iter:
            after = from_circle(self.values(to_circle(Z[left])) @ self.circles)
            steps = np.abs(difference(after, Z[left])).max(1)
            Z[left], n_iter = after, n_iter + 1
            left = left[steps > _SETTLED * self.bandwidth]
        return Z, n_iter


def _distinct(peaks, kernels, bandwidth):
    """The peaks that are no other's, the highest first, and which of them each is."""
    order = np.argsort(-kernels.log_density(peaks), kind="stable")
    centers, of_peaks = [], np.empty(len(peaks), int)
    for number in order:
        apart = distance(peaks[number], np.reshape(centers, (-1, peaks.shape[1])))
        near = np.flatnonzero(apart < _ONE_PEAK * bandwidth)
        of_peaks[number] = near[0] if len(near) else len(centers)
        if not len(near):
            centers.append(peaks[number])
    return np.array(centers), of_peaks
