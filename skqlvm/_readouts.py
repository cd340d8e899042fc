"""What `transform` reads off a posterior on the torus, and how `inverse_transform` reads it
back."""

import numpy as np

from ._validation import check_integer, check_option
from .engine import networks, posteriors

READOUTS = {
    "mean": lambda weights, points: posteriors.mean_direction(weights, points)[0],
    "mode": posteriors.mode,
    "local": posteriors.local_mean,
}
OUTPUTS = ("turns", "cartesian", "moments")


def check(model):
    """Raise unless a model's parameters of reading out are known; they may be set after the fit."""
    check_option("embedding", model.embedding, READOUTS)
    check_option("output", model.output, OUTPUTS)
    check_integer("harmonic_order", model.harmonic_order, alternative="auto")


def check_columns(Z, output, expected):
    """Raise unless Z has as many columns as an output."""
    if Z.shape[1] != expected:
        raise ValueError(
            f"Z has {Z.shape[1]} columns, but inverse_transform of output={output!r} expects "
            f"{expected}. Give what transform returns."
        )


def n_columns(output, n_components, order):
    """Number of columns of an output: coordinates, cosines and sines, or moments of harmonics up to
    an order."""
    if output == "moments":
        return networks.TorusBasis(n_components, order).n_features
    return n_components * (2 if output == "cartesian" else 1)


def embed(weights, points, embedding, output, order):
    """Map responsibilities (n, m) over points (m, k) to an array of `n_columns` columns."""
    if output == "moments":
        return posteriors.moments(weights, networks.TorusBasis(points.shape[1], order)(points))
    z = READOUTS[embedding](weights, points)
    return z if output == "turns" else networks.TorusBasis(z.shape[1])(z)


def turns(Z, output, n_components):
    """Coordinates in [0, 1) of what `embed` returned; of the moments, the first harmonics say where
    a row lies."""
    z = Z.astype(np.float64)
    if output != "turns":
        half = Z.shape[1] // 2
        z = np.arctan2(z[:, half : half + n_components], z[:, :n_components]) / (2 * np.pi)
    return (z % 1).astype(Z.dtype)
