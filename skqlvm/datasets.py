"""Densities of two dimensions with one latent one, whose exact log density is known.

Each is ``x = f(z) + noise`` with z standard normal and normal noise, as in Yacoby, Pan and
Doshi-Velez (arXiv 2007.07124; the equations are recalled from there, with noise as variances). For
each there is a second decoder of the same density: which of the two made the data, no row can tell.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.utils import check_array, check_random_state

from . import _checks

_N_NODES = 20_000
"""Points of the quadrature over u, each the middle of an interval of equal probability."""

_TABLE_ENTRIES = 2**22


class Density(NamedTuple):
    """The density of ``x = decode(z) + noise``, z standard normal.

    Attributes
    ----------
    name : str
    decode : callable
        From z of shape (n,) to points (n, 2).
    decode_otherwise : callable
        Another decoder, that induces the same density.
    noise_variance : float
    """

    name: str
    decode: object
    decode_otherwise: object
    noise_variance: float

    def sample(self, n_samples, random_state=None, *, return_latent=False):
        """Draw points.

        Parameters
        ----------
        n_samples : int
        random_state : int, RandomState or None, default=None
        return_latent : bool, default=False
            Also return the z that they were decoded from.

        Returns
        -------
        X : ndarray of shape (n_samples, 2)
        z : ndarray of shape (n_samples,)
            Only if `return_latent`.
        """
        _checks.check_integer("n_samples", n_samples)
        random = check_random_state(random_state)
        z = random.standard_normal(n_samples)
        noise = self.noise_variance**0.5 * random.standard_normal((n_samples, 2))
        X = self.decode(z) + noise
        return (X, z) if return_latent else X

    def log_density(self, X, decode=None):
        """Return log p(x) in nats, by quadrature over 20,000 equally likely points of z.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)
        decode : callable, optional
            A decoder in place of `decode`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X = check_array(X, dtype=np.float64, input_name="X")
        if X.shape[1] != 2:
            raise ValueError(f"X expects points of 2 numbers, but has {X.shape[1]} columns.")
        u = (np.arange(_N_NODES) + 0.5) / _N_NODES
        means = (self.decode if decode is None else decode)(ndtri(u))
        squares, variance = (means**2).sum(1), self.noise_variance
        nats = np.empty(len(X))
        size = max(1, _TABLE_ENTRIES // _N_NODES)
        for start in range(0, len(X), size):
            x = X[start : start + size]
            distances = (x**2).sum(1)[:, None] + squares - 2 * x @ means.T
            log_w = -np.maximum(distances, 0) / (2 * variance)
            top = log_w.max(1)
            nats[start : start + size] = top + np.log(np.exp(log_w - top[:, None]).mean(1))
        return nats - np.log(2 * np.pi * variance)


def make_density(name):
    """Return one of the densities of `DENSITIES` by its name.

    Parameters
    ----------
    name : {"absolute", "circle", "clusters", "figure_eight", "spiral_dots"}

    Returns
    -------
    Density

    Examples
    --------
    >>> from skqlvm.datasets import make_density
    >>> density = make_density("circle")
    >>> X = density.sample(5, random_state=0)
    >>> density.log_density(X).shape
    (5,)
    """
    if name not in DENSITIES:
        raise ValueError(f"name expects one of {sorted(DENSITIES)}, but got {name!r}.")
    return DENSITIES[name]


def _figure_eight(z):
    u = (0.6 + 1.8 * ndtr(z)) * np.pi
    nearer = np.cos(u) / (np.sin(u) ** 2 + 1)
    return np.stack([np.sqrt(0.5) * nearer, np.sqrt(2) * nearer * np.sin(u)], 1)


def _circle(z):
    u = 2 * np.pi * ndtr(z)
    return np.stack([np.cos(u), np.sin(u)], 1)


def _absolute(z):
    return np.stack([np.abs(z), np.abs(z)], 1)


def _stairs(u, rise):
    """A staircase with steps of width 2, smooth and with plateaus at multiples of the rise."""
    step = np.floor(u / 2)
    return rise / 2 * (np.tanh(10 * u - 20 * step - 10) + 2 * step + 1)


def _clusters(z):
    t = _stairs(2 * np.pi / (1 + np.exp(-np.pi * z / 2)), 4)
    return np.stack([np.cos(t), np.sin(t)], 1)


def _spiral_dots(z):
    t = _stairs(4 * np.pi / (1 + np.exp(-np.pi * z / 2)), 2)
    return np.stack([t * np.cos(t), t * np.sin(t)], 1)


def _reflected(decode):
    """The same density: z and -z are as likely."""
    return lambda z: decode(-np.asarray(z))


def _exchanged(decode):
    """The same density: the quarters of the probability in another order, one of them mirrored."""

    def decode_otherwise(z):
        quarter, within = np.divmod(4 * ndtr(z), 1)
        quarter = np.minimum(quarter, 3).astype(int)
        within = np.where(quarter == 1, 1 - within, within)
        u = (np.array([2, 0, 3, 1])[quarter] + within) / 4
        tiny = np.finfo(np.float64).eps
        return decode(ndtri(np.clip(u, tiny, 1 - tiny)))

    return decode_otherwise


def _rolled(decode):
    """The same density: the probability is moved on by a third, and what goes over comes back."""

    def decode_otherwise(z):
        u = (ndtr(z) + 1 / 3) % 1
        tiny = np.finfo(np.float64).eps
        return decode(ndtri(np.clip(u, tiny, 1 - tiny)))

    return decode_otherwise


DENSITIES = {
    "absolute": Density("absolute", _absolute, _rolled(_absolute), 0.01),
    "circle": Density("circle", _circle, _rolled(_circle), 0.01),
    "clusters": Density("clusters", _clusters, _exchanged(_clusters), 0.2),
    "figure_eight": Density("figure_eight", _figure_eight, _exchanged(_figure_eight), 0.02),
    "spiral_dots": Density("spiral_dots", _spiral_dots, _reflected(_spiral_dots), 0.01),
}
"""The densities by their names."""
