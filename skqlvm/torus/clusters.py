"""TorusWatershed: clusters as the valleys of a landscape over the torus."""

import numpy as np
from scipy.spatial import KDTree
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _checks
from .._transactions import all_or_nothing
from . import landscapes, overlaps
from .distances import circular_mean, neighbors, points_of, wrap

_FLOOR = 5.0
"""Rows under a kernel below which heights level off: few rows make no peak."""

_WIDEST = 0.1
"""Largest standard deviation that is chosen for a kernel, in turns."""

_BATCH_NUMBERS = 2**23


class TorusWatershed(ClusterMixin, BaseEstimator):
    """Cluster coordinates on the torus by a watershed that has no seam.

    A landscape lies over a lattice of points, whose neighbours are those around the torus. Each of
    its valleys is a cluster: water from its bottom floods the points that it reaches first. Shallow
    valleys are merged with deeper ones before, until `n_clusters` are left, or until all are deep.

    Parameters
    ----------
    estimator : fitted estimator, optional
        The embedding that the coordinates are of, such as a `QLVMEmbedding`, where `elevation` or
        `merge` asks it, and for `predict_proba`. It is not fitted; within a
        `sklearn.frozen.FrozenEstimator` it stays so when this estimator is cloned.
    n_clusters : int, optional
        How many clusters; by default as many as `prominence` leaves.
    prominence : float, default=0.5
        Where `n_clusters` is None, how far the bottom of a valley is below its lowest pass at
        least, in nats: 0.5 is a density at the peak that is 1.6 times that at the pass.
    elevation : {"density", "posterior", "jacobian"} or callable, default="density"
        The height of the landscape.

        - "density": minus the log density of the coordinates, by wrapped normal kernels. It levels
          off where a kernel holds fewer than some 5 rows;
        - "posterior": minus the log of the estimator's aggregated posterior, smoothed likewise;
        - "jacobian": the log norm of the Jacobian of the estimator's decoder, smoothed: borders are
          where the decoded rows change fast;
        - a callable from points in turns (m, k) to heights (m,), which are not smoothed.
    merge : {"prominence", "overlap"}, default="prominence"
        Which valleys are merged until `n_clusters` are left.

        - "prominence": the shallowest, with the one across their lowest pass. Clusters are in one
          piece;
        - "overlap": those that answer for the same rows, by the estimator's posteriors of the
          `rows` of `fit`, made so wide that each row is spread over some valleys. Where a map
          shows a kind of row in several places, this brings them together.
    bandwidth : float or "auto", default="auto"
        Standard deviation of the kernels in turns. "auto" is 0.6 of the spacing of the points
        for ``merge="overlap"``, which starts from many small valleys; the spacing for
        ``elevation="jacobian"``; else ``0.1 n^(-1 / (k + 4))`` of n rows in k dimensions, and the
        spacing at least.
    n_points : int or "auto", default="auto"
        Points of the lattice. "auto" is 2584, 6765 or 8191 in one, two or three dimensions; in
        more, the landscape lies over the coordinates themselves. It is shifted so that a point is
        at the circular mean of the coordinates: clusters do not depend on where the torus is cut.
    points : array-like of shape (n_points, n_components), optional
        Points of one's own in place of the lattice, in turns.

    Attributes
    ----------
    labels_ : ndarray of int of shape (n_samples,)
        The cluster of each coordinate, from 0, the most prominent first.
    n_clusters_ : int
    cluster_centers_ : ndarray of shape (n_clusters_, n_components)
        Bottoms of the valleys in turns; of merged ones the most prominent.
    prominences_ : ndarray of shape (n_valleys,)
        Of all valleys there are, falling, in nats: a large drop is a natural number of clusters.
    points_ : ndarray of shape (n_points, n_components)
    point_labels_ : ndarray of int of shape (n_points,)
        The clusters of these points.
    elevation_ : ndarray of shape (n_points,)
        Their heights.
    bandwidth_ : float
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if Z had string column names.

    See Also
    --------
    TorusMeanShift : Peaks of a density, between which nothing is merged.

    References
    ----------
    Chazal, Guibas, Oudot and Skraba, Persistence-based clustering in Riemannian manifolds, Journal
    of the ACM 60, 2013.

    Examples
    --------
    Two heaps, one of them across the seam:

    >>> import numpy as np
    >>> from skqlvm.torus import TorusWatershed
    >>> heap = np.random.default_rng(0).normal(0, 0.03, (100, 2))
    >>> Z = np.concatenate([heap, heap + 0.5]) % 1
    >>> clusters = TorusWatershed(n_clusters=2).fit(Z)
    >>> np.bincount(clusters.labels_).tolist()
    [100, 100]
    """

    def __init__(
        self,
        estimator=None,
        *,
        n_clusters=None,
        prominence=0.5,
        elevation="density",
        merge="prominence",
        bandwidth="auto",
        n_points="auto",
        points=None,
    ):
        self.estimator = estimator
        self.n_clusters = n_clusters
        self.prominence = prominence
        self.elevation = elevation
        self.merge = merge
        self.bandwidth = bandwidth
        self.n_points = n_points
        self.points = points

    def fit(self, Z, y=None, sample_weight=None, rows=None):
        """Find the clusters of coordinates.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            In turns, any real numbers.
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts.
        rows : array-like of shape (n_samples, n_features), optional
            The rows whose coordinates these are, needed for ``merge="overlap"`` alone.

        Returns
        -------
        self
        """
        with all_or_nothing(self):
            return self._fit(Z, sample_weight, rows)

    def predict(self, Z):
        """Return the clusters of coordinates: that of the nearest of `points_`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            In turns, any real numbers.

        Returns
        -------
        ndarray of int of shape (n_samples,)
        """
        check_is_fitted(self)
        Z = validate_data(self, Z, dtype=np.float64, reset=False)
        return self._labels(Z, self.point_labels_)

    @available_if(lambda self: self.estimator is not None)
    def predict_proba(self, X):
        """Return how much of the posterior of each row lies in each cluster.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, not coordinates, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters_)
            Rows sum to one. Of a row that a point says too little of, its cluster is the largest
            column.
        """
        check_is_fitted(self)
        lattice = self.estimator.lattice_
        inside = np.eye(self.n_clusters_)[self.predict(lattice)]
        X = X if hasattr(X, "shape") else np.asarray(X)
        size = max(1, _BATCH_NUMBERS // len(lattice))
        parts = [
            self.estimator.posterior(_rows(X, slice(start, start + size))) @ inside
            for start in range(0, X.shape[0], size)
        ]
        return np.concatenate(parts)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "points_")

    def _fit(self, Z, sample_weight, rows):
        self._check_parameters(rows)
        Z = wrap(validate_data(self, Z, dtype=np.float64))
        weight = landscapes.counts(sample_weight, len(Z))
        self.points_ = self._nodes(Z[weight > 0], weight[weight > 0])
        self.bandwidth_ = self._bandwidth(weight.sum(), Z.shape[1])
        self.elevation_ = self._heights(Z, weight)
        neighbours = landscapes.graph(self.points_)
        bottoms, self.prominences_ = landscapes.minima(self.elevation_, neighbours)
        if self.merge == "overlap":
            valleys = landscapes.flooded(self.elevation_, neighbours, bottoms)
            of_valleys = self._merged(valleys, bottoms, rows, weight)
            self.point_labels_ = of_valleys[valleys]
            firsts = np.unique(of_valleys, return_index=True)[1]
            bottoms = bottoms[firsts]
        else:
            bottoms = bottoms[: self._n_deep()]
            self.point_labels_ = landscapes.flooded(self.elevation_, neighbours, bottoms)
        self.cluster_centers_ = self.points_[bottoms]
        self.n_clusters_ = len(bottoms)
        if self.n_clusters is not None and self.n_clusters_ < self.n_clusters:
            _checks.warn(
                f"The landscape has {self.n_clusters_} valleys, fewer than the {self.n_clusters} "
                "clusters asked for. Lower bandwidth or n_clusters.",
                ConvergenceWarning,
            )
        self.labels_ = self._labels(Z, self.point_labels_)
        return self

    def _check_parameters(self, rows):
        if self.n_clusters is not None:
            _checks.check_integer("n_clusters", self.n_clusters)
        _checks.check_number("prominence", self.prominence)
        if not callable(self.elevation):
            also = " or a callable"
            _checks.check_option("elevation", self.elevation, _ELEVATIONS, also=also)
        _checks.check_option("merge", self.merge, ("prominence", "overlap"))
        landscapes.check_bandwidth(self.bandwidth)
        _checks.check_integer("n_points", self.n_points, alternative="auto")
        asks = self.merge == "overlap" or self.elevation in ("posterior", "jacobian")
        if asks and self.estimator is None:
            what = "merge='overlap'" if self.merge == "overlap" else f"{self.elevation!r}"
            raise ValueError(
                f"{what} expects an estimator, but got None. Give the fitted embedding."
            )
        if self.merge == "overlap" and (rows is None or self.n_clusters is None):
            missing = "rows in fit" if rows is None else "n_clusters"
            raise ValueError(f"merge='overlap' expects {missing}, but got None.")

    def _nodes(self, Z, weight):
        if self.points is not None:
            return np.unique(wrap(points_of("points", self.points, Z.shape[1])), axis=0)
        n_points = landscapes.size(self.n_points, Z.shape[1])
        return landscapes.nodes(Z, n_points, circular_mean(Z, weight))

    def _bandwidth(self, n_rows, n_components):
        if not isinstance(self.bandwidth, str):
            return float(self.bandwidth)
        spacing = len(self.points_) ** (-1 / n_components)
        width = 0.1 * n_rows ** (-1 / (n_components + 4))
        if self.merge == "overlap":
            width = spacing = 0.6 * spacing
        elif self.elevation == "jacobian":
            width = spacing
        return min(max(spacing, width), _WIDEST)

    def _heights(self, Z, weight):
        heights = self.elevation if callable(self.elevation) else _ELEVATIONS[self.elevation]
        if callable(self.elevation):
            found = np.asarray(heights(self.points_), np.float64)
        else:
            found = heights(self, Z, weight)
        if found.shape != (len(self.points_),) or not np.isfinite(found).all():
            raise ValueError(
                f"elevation expects finite heights of shape ({len(self.points_)},), but got shape "
                f"{found.shape}" + ("." if found.shape != (len(self.points_),) else ", some NaN.")
            )
        return found

    def _by_density(self, Z, weight):
        return self._log_density(Z, weight, weight.sum())

    def _by_posterior(self, Z, weight):
        share = self.estimator.aggregate_posterior_
        return self._log_density(self.estimator.lattice_, share * weight.sum(), weight.sum())

    def _log_density(self, Z, weight, n_rows):
        """Minus the log density of rows at the points, relative to an even one."""
        held = landscapes.smoothed(Z, weight, self.points_, self.bandwidth_)
        even = n_rows * (np.sqrt(2 * np.pi) * self.bandwidth_) ** Z.shape[1]
        return np.log(max(even, np.finfo(float).tiny)) - np.log(np.maximum(held, 0) + _FLOOR)

    def _by_jacobian(self, Z, weight):
        from .geometry import jacobian_norm

        with np.errstate(divide="ignore"):
            log_norm = np.log(jacobian_norm(self.estimator, self.points_))
        log_norm = np.maximum(log_norm, log_norm.max() - 30)
        sums = [
            landscapes.smoothed(self.points_, each, self.points_, self.bandwidth_)
            for each in (log_norm, np.ones(len(log_norm)))
        ]
        return sums[0] / sums[1]

    def _merged(self, valleys, bottoms, rows, weight):
        """The cluster of each valley, by which of them answer for the same rows."""
        of_lattice = self._labels(self.estimator.lattice_, valleys)
        log_w = overlaps.evidence(self.estimator, rows, of_lattice, len(bottoms))
        if len(log_w) != len(weight):
            raise ValueError(f"rows expects {len(weight)} rows, as Z has, but got {len(log_w)}.")
        known = np.unique(of_lattice)
        merged = overlaps.merged(log_w[:, known], int(self.n_clusters), weight)
        # a valley between the estimator's points goes with the nearest that has some
        bottoms = self.points_[bottoms]
        return merged[neighbors(bottoms[known], bottoms)[1][:, 0]]

    def _n_deep(self):
        """How many valleys are clusters."""
        if self.n_clusters is not None:
            return int(self.n_clusters)
        return max(1, int((self.prominences_ >= self.prominence).sum()))

    def _labels(self, Z, point_labels):
        return point_labels[KDTree(self.points_, boxsize=1).query(wrap(Z))[1]]


_ELEVATIONS = {
    "density": TorusWatershed._by_density,
    "posterior": TorusWatershed._by_posterior,
    "jacobian": TorusWatershed._by_jacobian,
}


def _rows(X, rows):
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]
