"""What `transform` reads off a posterior on the torus, and the way back."""

import numpy as np
import torch

from ._checks import check_integer, check_option
from .engine import posteriors, torus
from .engine.harmonics import TorusBasis


def _mean(log_w, points):
    return posteriors.mean_direction(posteriors.responsibilities(log_w), points)[0]


READOUTS = {"mean": _mean, "mode": posteriors.mode, "local": posteriors.local_mean}
OUTPUTS = ("turns", "cartesian", "moments")

_AVERAGED = {1: 0.003, 2: 0.009, 3: 0.027}
"""Standard deviation in turns over which "local" averages log weights, by the number of components;
chosen on held-out rows."""


def check(model):
    """Raise unless a model's parameters of reading out are known; they may be set after the fit."""
    check_option("embedding", model.embedding, READOUTS)
    check_option("output", model.output, OUTPUTS)
    check_integer("harmonic_order", model.harmonic_order, alternative="auto")


def harmonics(output, n_components, order):
    """Return the integer vectors, (n, n_components), whose cosines and sines an output has."""
    return TorusBasis(n_components, order if output == "moments" else 1).harmonics


def n_columns(output, n_components, order):
    """Return how many columns an output has."""
    return n_components if output == "turns" else 2 * len(harmonics(output, n_components, order))


def column_names(output, n_components, order):
    """Return names of the columns of an output of cosines and sines, such as ``cos(z0+2z1)``."""
    angles = [_linear(h) for h in harmonics(output, n_components, order).int().tolist()]
    return [f"{wave}({angle})" for wave in ("cos", "sin") for angle in angles]


def averaged(chart):
    """Return the atlas that "local" reads off: of log weights averaged around each point."""
    return chart.averaged(_AVERAGED[chart.points.shape[1]])


def embed(log_w, points, embedding, output, order):
    """Map log weights (n, m) of points (m, k) to an array of `n_columns` columns."""
    if output == "moments":
        features = TorusBasis(points.shape[1], order)(points)
        return posteriors.moments(posteriors.responsibilities(log_w), features)
    z = READOUTS[embedding](log_w, points)
    return z if output == "turns" else torus.to_circle(z)


def turns(Z, output, n_components):
    """Return coordinates in [0, 1) of what `embed` returned.

    Among moments, the first harmonics say where a row lies.
    """
    z = torch.from_numpy(Z.astype(np.float64))
    if output != "turns":
        cos, sin = z.chunk(2, 1)
        z = torus.from_circle(torch.cat([cos[:, :n_components], sin[:, :n_components]], 1))
    return torus.wrap(z).numpy().astype(Z.dtype)


def _linear(h):
    """The angle of a harmonic as text: (1, -2) is z0-2z1."""
    entries = [(factor, f"z{i}") for i, factor in enumerate(h) if factor]
    text = "".join(f"{factor:+d}{name}" for factor, name in entries)
    return text.replace("+1z", "+z").replace("-1z", "-z").removeprefix("+")
