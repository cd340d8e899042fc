"""The posterior over lattice points, and what can be read off it.

`log_w` are log weights of shape (n_samples, n_points), each row up to a constant; `weights` are the
responsibilities, their softmax, whose rows sum to one. Points and coordinates are in turns.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from . import torus

_SCALE = 0.0135
"""Standard deviation in turns of the window of `local_mean`."""

_REACH, _WIDEST = 4.45, 0.45
"""How far a window reaches: in its standard deviations, and at most in turns."""

_PLATEAU = 2.6
"""Width of the window, in the same units, whose mean is read off in the end."""

_MOST_WINDOWS, _MOST_STEPS = 5, 8
_SETTLED = 1e-3
"""Step, in standard deviations of the window, after which the next one would be below rounding."""

_FLATTEST = 1e-3
"""Curvature that is added to that in a window, whose own a uniform posterior has not."""


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


_BLOCK = 256
"""Points of which a maximum is taken at once, before its place is sought."""


def mode(log_w: Tensor, points: Tensor) -> Tensor:
    """Return the most probable lattice point of every row, (n_samples, n_components)."""
    return points[_peak(log_w)]


def _peak(log_w: Tensor) -> Tensor:
    """Return the column of each row's largest entry, (n,): the first of them if there are several.

    Block by block, as a maximum is many times faster than its place is to find.
    """
    n_points = log_w.shape[1]
    size = min(_BLOCK, n_points)
    blocks = log_w[:, : n_points // size * size].unflatten(1, (-1, size))
    rest = log_w[:, blocks.shape[1] * size :]
    block = blocks.amax(2).max(1).indices
    top, within = blocks[torch.arange(len(log_w), device=log_w.device), block].max(1)
    peak = block * size + within
    if not rest.shape[1]:
        return peak
    top_of_rest, place = rest.max(1)
    return torch.where(top_of_rest > top, blocks.shape[1] * size + place, peak)


def local_mean(log_w: Tensor, points: Tensor, scale: float = _SCALE) -> Tensor:
    """Return the mean of the dominant mode: where a smooth window is centred on the mass within.

    The window is a normal density of standard deviation `scale`. It is moved from the mode to the
    mean of what it weighs until that is its centre, by Newton steps: a peak of the posterior that
    the window has smoothed. Unlike the circular mean it does not fall between modes, and unlike the
    mode it is not confined to the lattice: it moves smoothly with the row.

    The neighbours of a point of a rank-1 lattice are those of its first point moved along, so no
    distances are computed; nor are the weights of any other points.

    Parameters
    ----------
    log_w : Tensor of shape (n_samples, n_points)
    points : Tensor of shape (n_points, n_components)
        A rank-1 lattice, shifted or not, in the order of `lattices.points`.
    scale : float
        In turns; on a coarse lattice it is three quarters of the spacing at least.

    Returns
    -------
    Tensor of shape (n_samples, n_components)
        In turns.
    """
    m, k = points.shape
    spacing = m ** (-1 / k)
    scale = min(max(scale, 0.75 * spacing), _WIDEST / _REACH)
    steps = torus.difference(points, points[0])
    near = (steps.norm(dim=1) < _REACH * scale).nonzero()[:, 0]
    steps = steps[near]
    peak = _peak(log_w)
    center = torch.zeros_like(points[peak])
    rows = torch.arange(len(log_w), device=log_w.device)
    for _ in range(_MOST_WINDOWS):
        around = log_w if len(rows) == len(log_w) else log_w[rows]
        places = (peak[rows, None] + near).remainder_(m)
        around = around.gather(1, places)
        moved = _centered(around, steps, center[rows], scale)
        center[rows] = _mean_within(around, steps, moved, _PLATEAU * scale)
        rows, moved = _chosen(moved.norm(dim=1) > spacing, rows, moved)
        if not len(rows):
            break
        nearest = torch.cdist(moved, steps).argmin(1)
        center[rows] = moved - steps[nearest]
        peak[rows] = (peak[rows] + near[nearest]) % m
    return torus.wrap(points[peak] + center)


def _centered(log_w: Tensor, steps: Tensor, center: Tensor, scale: float) -> Tensor:
    """Move windows (n, k) to the means of points (c, k) that they weigh, with log weights (n, c).

    The shift to a mean is a gradient, of the log of what is in the window; and the covariance in
    the window says how that bends.
    """
    k, squares = steps.shape[1], steps.square().sum(1, keepdim=True)
    pull = torch.cat([steps, -0.5 * squares], 1).T / scale**2
    features = torch.cat([steps, (steps[:, :, None] * steps[:, None]).flatten(1)], 1)
    eye = torch.eye(k).to(steps)
    result, rows = center.clone(), torch.arange(len(center), device=center.device)
    moving = torch.ones_like(rows, dtype=torch.bool)  # what has settled stays, whatever others do
    for _ in range(_MOST_STEPS):
        ones = torch.ones_like(center[:, :1])
        weights = torch.softmax(torch.addmm(log_w, torch.cat([center, ones], 1), pull), 1)
        mean, second = (weights @ features).split([k, k * k], 1)
        covariance = second.unflatten(1, (k, k)) - mean[:, :, None] * mean[:, None]
        factor, failed = torch.linalg.cholesky_ex((1 + _FLATTEST) * eye - covariance / scale**2)
        shift = mean - center
        newton = torch.cholesky_solve(shift[:, :, None], factor)[:, :, 0]
        step = torch.where((failed == 0)[:, None], newton, shift)
        length = step.norm(dim=1)
        center = center + step * (moving * scale / length.clamp(min=scale))[:, None]
        result[rows] = center
        moving = moving & (length > _SETTLED * scale)
        n_moving = int(moving.count_nonzero())
        if not n_moving:
            break
        if n_moving < len(rows) / 2:
            rows, center, log_w, moving = _chosen(moving, rows, center, log_w, moving)
    return result


def _mean_within(log_w: Tensor, steps: Tensor, center: Tensor, width: float) -> Tensor:
    """Return the means of what windows (n, k) weigh, ``exp(-(distance / width)^4)``: flat inside.

    A narrow posterior lies in the flat part, and its mean is not drawn to the point of most weight.
    """
    ones, squares = torch.ones_like(center[:, :1]), steps.square().sum(1, keepdim=True)
    terms = torch.cat([center, center.square().sum(1, keepdim=True), ones], 1)
    distances = terms @ torch.cat([-2 * steps, torch.ones_like(squares), squares], 1).T
    return torch.softmax(log_w.addcmul(distances, distances, value=-(width**-4)), 1) @ steps


def _chosen(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of tensors where a mask holds."""
    index = mask.nonzero()[:, 0]
    return tuple(each[index] for each in tensors)


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
