"""TorusDensity: a kernel estimate of the density of coordinates on the flat torus."""

from numbers import Real

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import i0e, i1e, logsumexp
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _checks
from .distances import circular_variance, difference, to_circle, weights_of, wrap

RULES = ("leave_one_out", "scott")

_UNIFORM = 12**-0.5
"""Standard deviation of a uniform distribution over a turn; no direction has more."""

_LEFT_OUT = 2000
"""Points that are left out, at most, to choose a bandwidth."""

_TABLE = 2**22
"""Entries of a table of kernels that is held at a time."""


class TorusDensity(DensityMixin, BaseEstimator):
    """Estimate the density of coordinates on the torus by a kernel around each.

    A product of kernels on circles, without a seam; it integrates to one over the torus.

    Parameters
    ----------
    bandwidth : {"leave_one_out", "scott"} or float, default="leave_one_out"
        Standard deviation of the kernel in turns. "leave_one_out" is that, the same for all
        coordinates, under which points are most likely given the others; of more than 2000 points
        an even selection decides, and the result is scaled by n^(-1/(k + 4)). "scott" is
        ``s n^(-1/(k + 4))`` with the circular standard deviation s of each coordinate, which is
        for a single cluster: of several it is much too wide.
    kernel : {"von_mises", "wrapped_normal"}, default="von_mises"

    Attributes
    ----------
    bandwidth_ : ndarray of shape (n_features,)
        In turns.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if Z had string column names.

    Examples
    --------
    >>> import numpy as np
    >>> from skqlvm.torus import TorusDensity
    >>> density = TorusDensity(bandwidth=0.05).fit([[0.98], [0.99], [0.03]])
    >>> density.score_samples([[0.0], [0.5]]).round(1)
    array([  2. , -19.1])
    """

    def __init__(self, bandwidth="leave_one_out", *, kernel="von_mises"):
        self.bandwidth = bandwidth
        self.kernel = kernel

    def fit(self, Z, y=None, sample_weight=None):
        """Note the points, and choose a bandwidth.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Coordinates in turns, any real numbers.
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            How often each point counts.

        Returns
        -------
        self
        """
        Z = validate_data(self, Z, dtype=np.float64)
        _checks.check_option("kernel", self.kernel, _KERNELS)
        shares = weights_of(sample_weight, len(Z), "sample_weight")
        there = shares > 0
        self._points, self._shares = wrap(Z[there]), shares[there]
        self.bandwidth_ = np.broadcast_to(self._chosen_bandwidth(), Z.shape[1]).astype(float)
        return self

    def score_samples(self, Z):
        """Return the log density at points.

        Parameters
        ----------
        Z : array-like of shape (n_points, n_features)

        Returns
        -------
        ndarray of shape (n_points,)
            In nats, relative to the uniform density, and per turn in each dimension.
        """
        parts = [logsumexp(table, axis=1) for _, table in self._tables(Z)]
        return np.concatenate(parts)

    def score(self, Z, y=None):
        """Return the mean of `score_samples` over points, in nats.

        Parameters
        ----------
        Z : array-like of shape (n_points, n_features)
        y : ignored

        Returns
        -------
        float
        """
        return float(self.score_samples(Z).mean())

    def gradient(self, Z):
        """Return the gradient of the log density at points.

        Parameters
        ----------
        Z : array-like of shape (n_points, n_features)

        Returns
        -------
        ndarray of shape (n_points, n_features)
            In nats per turn.
        """
        slope = _KERNELS[self.kernel].slope
        parts = []
        for z, table in self._tables(Z):
            shares = np.exp(table - logsumexp(table, axis=1, keepdims=True))
            parts.append(slope(z, self._points, self.bandwidth_, shares))
        return np.concatenate(parts)

    def sample(self, n_samples=1, random_state=None):
        """Draw points from the density.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In turns, [0, 1).
        """
        check_is_fitted(self)
        _checks.check_integer("n_samples", n_samples)
        rng = check_random_state(random_state)
        chosen = rng.choice(len(self._points), int(n_samples), p=self._shares)
        shape = (int(n_samples), len(self.bandwidth_))
        return wrap(self._points[chosen] + _KERNELS[self.kernel].draw(self.bandwidth_, shape, rng))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "bandwidth_")

    def _tables(self, Z):
        """Yield some of the points, and the logs of what each kernel has there, (n, m)."""
        check_is_fitted(self)
        Z = validate_data(self, Z, dtype=np.float64, reset=False)
        log_kernel, log_shares = _KERNELS[self.kernel].log, np.log(self._shares)
        size = max(1, _TABLE // len(self._points))
        for start in range(0, len(Z), size):
            z = wrap(Z[start : start + size])
            yield z, log_kernel(z, self._points, self.bandwidth_) + log_shares

    def _chosen_bandwidth(self):
        if isinstance(self.bandwidth, Real) and not isinstance(self.bandwidth, bool):
            _checks.check_number("bandwidth", self.bandwidth, open_minimum=True)
            return float(self.bandwidth)
        _checks.check_option("bandwidth", self.bandwidth, RULES, also=" or a number of turns")
        if self.bandwidth == "scott":
            return scott(self._points, self._shares)
        return leave_one_out(self._points, self._shares)


def scott(Z, shares):
    """Return ``s n^(-1/(k + 4))`` of each coordinate, with circular standard deviations s, (k,)."""
    resultant = np.clip(1 - circular_variance(Z, shares), 1e-300, 1)
    spread = np.minimum(np.sqrt(-2 * np.log(resultant)) / (2 * np.pi), _UNIFORM)
    n_effective = 1 / np.square(shares).sum()
    return np.maximum(spread, 1e-3) * n_effective ** (-1 / (Z.shape[1] + 4))


def leave_one_out(Z, shares):
    """Return the bandwidth under which points are most likely given the others."""
    n, k = Z.shape
    if n < 2:
        return _UNIFORM
    chosen = np.unique(np.linspace(0, n - 1, min(n, _LEFT_OUT)).astype(int))
    circle, own = to_circle(Z[chosen]), shares[chosen] / shares[chosen].sum()
    cosines = circle @ circle.T - k
    np.fill_diagonal(cosines, -np.inf)
    others = np.log(own) - np.log1p(-own)[:, None]

    def loss(log_bandwidth):
        kappa = concentration(np.exp(log_bandwidth))
        return -own @ logsumexp(kappa * cosines - k * np.log(i0e(kappa)) + others, axis=1)

    narrowest = 0.05 * len(chosen) ** (-1 / k)
    found = minimize_scalar(loss, bounds=np.log([narrowest, 0.5]), method="bounded")
    return np.exp(found.x) * (len(chosen) / n) ** (1 / (k + 4))


def concentration(bandwidth):
    """Return kappa of the von Mises distribution of a circular standard deviation in turns."""
    spread = 2 * np.pi * float(bandwidth)
    if spread < 0.1:
        return spread**-2 + 0.5
    resultant = np.exp(-(spread**2) / 2)
    if resultant < 1e-8:
        return 2 * resultant
    return brentq(lambda kappa: i1e(kappa) / i0e(kappa) - resultant, 1e-9, 1e3)


class _VonMises:
    @staticmethod
    def log(z, points, bandwidth):
        kappa = np.array([concentration(width) for width in bandwidth])
        table = (to_circle(z) * np.tile(kappa, 2)) @ to_circle(points).T
        return table - (kappa + np.log(i0e(kappa))).sum()

    @staticmethod
    def slope(z, points, bandwidth, shares):
        kappa = np.array([concentration(width) for width in bandwidth])
        cos, sin = np.split(shares @ to_circle(points), 2, 1)
        own_cos, own_sin = np.split(to_circle(z), 2, 1)
        return 2 * np.pi * kappa * (own_cos * sin - own_sin * cos)

    @staticmethod
    def draw(bandwidth, shape, rng):
        kappa = np.array([concentration(width) for width in bandwidth])
        return rng.vonmises(0, kappa, shape) / (2 * np.pi)


class _WrappedNormal:
    @staticmethod
    def _copies(step, width):
        """Steps to all copies of a point that matter, and the logs of their normals."""
        steps = [step + turn for turn in range(-int(6 * width + 1), int(6 * width + 1) + 1)]
        return steps, [-0.5 * (s / width) ** 2 - np.log(width * (2 * np.pi) ** 0.5) for s in steps]

    @classmethod
    def log(cls, z, points, bandwidth):
        table = np.zeros((len(z), len(points)))
        for i, width in enumerate(bandwidth):
            _, logs = cls._copies(difference(z[:, None, i], points[:, i]), width)
            table += np.logaddexp.reduce(logs)
        return table

    @classmethod
    def slope(cls, z, points, bandwidth, shares):
        slopes = []
        for i, width in enumerate(bandwidth):
            steps, logs = cls._copies(difference(z[:, None, i], points[:, i]), width)
            each = np.exp(logs - np.logaddexp.reduce(logs))
            slopes.append(-(shares * (each * steps).sum(0)).sum(1) / width**2)
        return np.stack(slopes, 1)

    @staticmethod
    def draw(bandwidth, shape, rng):
        return rng.normal(0, bandwidth, shape)


_KERNELS = {"von_mises": _VonMises, "wrapped_normal": _WrappedNormal}
