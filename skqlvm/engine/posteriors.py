"""The posterior over lattice points, and what can be read off it.

`log_w` are log weights of shape (n_samples, n_points), each row up to a constant; `weights` are the
responsibilities, their softmax, whose rows sum to one. Points and coordinates are in turns.
"""

from __future__ import annotations

from math import isqrt, pi

import torch
from torch import Tensor

from . import torus


def responsibilities(log_w: Tensor) -> Tensor:
    """Return the posterior probabilities of the points, ``softmax_j log_w_ij``."""
    return torch.softmax(log_w, -1)


def moments(weights: Tensor, features: Tensor) -> Tensor:
    """Return posterior means (n_samples, f) of functions of z, features (n_points, f)."""
    return weights @ features


def mean_direction(weights: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the circular mean and the resultant length of each coordinate.

    The mean of (cos 2 pi z, sin 2 pi z), as an angle and a length; never the mean of coordinates,
    which breaks at the seam.

    Returns
    -------
    coordinates : Tensor of shape (n_samples, n_components)
        In turns, [0, 1); where the length is 0 the direction is meaningless, and finite.
    resultant : Tensor of shape (n_samples, n_components)
        Between 0 (no concentration) and 1 (a point).
    """
    mean = weights @ torus.to_circle(points)
    return torus.from_circle(mean), torch.hypot(*mean.chunk(2, 1))


def mode(log_w: Tensor, points: Tensor) -> Tensor:
    """Return the most probable lattice point of every row, (n_samples, n_components)."""
    return points[_peak(log_w)]


def _peak(log_w: Tensor) -> Tensor:
    """Return the column of each row's largest entry, (n,): the first of them if there are several.

    Block by block, as a maximum is many times faster than its place is to find.
    """
    n_points = log_w.shape[1]
    size = max(1, isqrt(n_points))
    blocks = log_w[:, : n_points // size * size].unflatten(1, (-1, size))
    rest = log_w[:, blocks.shape[1] * size :]
    block = blocks.amax(2).argmax(1)
    within = blocks[torch.arange(len(log_w), device=log_w.device), block]
    peak = block * size + within.argmax(1)
    if not rest.shape[1]:
        return peak
    later = rest.amax(1) > within.amax(1)
    return torch.where(later, blocks.shape[1] * size + rest.argmax(1), peak)


def local_mean(log_w: Tensor, points: Tensor, radius: float = 0.06) -> Tensor:
    """Return the mean of the dominant mode: the mass within `radius` turns of the peak.

    Unlike the circular mean it does not fall between modes, and unlike the mode it is not confined
    to the lattice. The neighbours of a point of a rank-1 lattice are those of its first point moved
    along, so no distances are computed; nor are the weights of any other points.

    Parameters
    ----------
    log_w : Tensor of shape (n_samples, n_points)
    points : Tensor of shape (n_points, n_components)
        A rank-1 lattice, shifted or not, in the order of `lattices.points`.
    radius : float
        In turns; a lattice with fewer than 1 / radius points a side gives the mode itself.

    Returns
    -------
    Tensor of shape (n_samples, n_components)
        In turns.
    """
    steps = torus.difference(points, points[0])
    near = (steps.norm(dim=1) < radius).nonzero()[:, 0]
    peak = _peak(log_w)
    around = log_w.gather(1, (peak[:, None] + near) % len(points))
    return torus.wrap(points[peak] + responsibilities(around) @ steps[near])


def entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row over the points, in nats; log m for the uniform posterior."""
    return -torch.special.xlogy(weights, weights).sum(1)


def effective_points(weights: Tensor) -> Tensor:
    """Return ``1 / sum_j w_j^2``, the number of points that carry a posterior: from 1 to m."""
    return 1 / weights.square().sum(1)


def circular_std(resultant: Tensor) -> Tensor:
    """Return the circular standard deviation in turns, ``sqrt(-2 log R) / (2 pi)``.

    Of a wrapped normal it is that of the normal; of a resultant length R of 0, a large number.
    """
    tiny = torch.finfo(resultant.dtype).tiny
    return (-2 * resultant.clamp(tiny, 1).log()).sqrt() / (2 * pi)


def credible(weights: Tensor, level: float) -> Tensor:
    """Return the smallest sets of points that have a share `level` of each row's mass, (n, m).

    The points of most weight, until there are enough.
    """
    ordered, order = weights.sort(1, descending=True)
    before = ordered.cumsum(1) - ordered
    inside = before < level * weights.sum(1, keepdim=True)
    return torch.zeros_like(inside).scatter_(1, order, inside)
