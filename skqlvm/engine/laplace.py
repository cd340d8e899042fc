"""Laplace's approximation: where a log density peaks, and the normal of its curvature there.

Newton's method for many functions of few variables at once, one a row, each on its own: what is
found for a row does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from . import torus
from .proposals import FullNormal

_FRACTIONS = (1.0, 0.4, 0.1)
"""Parts of a step that are tried; where none of them climbs, a row stays where it is."""


class Peaks(NamedTuple):
    """Maxima of log densities, one a row.

    Attributes
    ----------
    height : Tensor of shape (n,)
        What the function is there.
    normal : FullNormal
        Its mean is the place, and its precision minus the second derivatives.
    """

    height: Tensor
    normal: FullNormal

    def log_mass(self) -> Tensor:
        """Return Laplace's approximation of the log integral of the density, of shape (n,)."""
        k = self.normal.loc.shape[1]
        return self.height + 0.5 * (self.normal.log_det() + k * log(2 * pi))

    def chosen(self, index: Tensor) -> Peaks:
        """Return the peaks of an index."""
        normal = FullNormal(self.normal.loc[index], self.normal.scale_tril[index])
        return Peaks(self.height[index], normal)

    @staticmethod
    def joined(parts: list[Peaks]) -> Peaks:
        """Return the peaks of several, one after another."""
        loc = torch.cat([part.normal.loc for part in parts])
        scale_tril = torch.cat([part.normal.scale_tril for part in parts])
        return Peaks(torch.cat([part.height for part in parts]), FullNormal(loc, scale_tril))


LogDensity = Callable[[Tensor, Tensor], Tensor]
"""Maps points (n, k) and the numbers (n,) of the functions that they are points of to (n,)."""


def climb(
    log_density: LogDensity,
    z: Tensor,
    *,
    n_steps: int,
    widest: float,
    reach: float,
) -> Peaks:
    """Return the peaks that Newton's method finds from points z (n, k).

    Where the curvature is that of a valley, its absolute value is taken, which leads away from it;
    and no step goes down.

    Parameters
    ----------
    log_density : callable
        Maps some points and their numbers, from 0 to n - 1, to values, each by itself; twice
        differentiable, though second derivatives may be zero.
    z : Tensor of shape (n, k)
        Where to start.
    n_steps : int
    widest : float
        Largest standard deviation of the normals in any direction.
    reach : float
        Longest step of a coordinate.
    """
    for _ in range(n_steps):
        height, gradient, precision = _quadratic(log_density, z, widest)
        step = torch.linalg.solve(precision, gradient[:, :, None])[:, :, 0].to(z)
        step = step * (reach / step.abs().amax(1, keepdim=True).clamp(min=reach))
        left, z = torch.arange(len(z), device=z.device), z.clone()
        for fraction in _FRACTIONS:
            tried = z[left] + fraction * step[left]
            higher = log_density(tried, left) > height[left]
            z[left[higher]] = tried[higher]
            left = left[~higher]
            if not len(left):
                break
    height, _, precision = _quadratic(log_density, z, widest)
    scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision))
    return Peaks(height, FullNormal(z, scale_tril.to(z)))


def starts(
    points: Tensor, heights: Tensor, n_starts: int, apart: float, period: float | None
) -> tuple[Tensor, Tensor]:
    """Return the highest points of each row that are apart from each other.

    Parameters
    ----------
    points : Tensor of shape (n, c, k)
    heights : Tensor of shape (n, c)
    n_starts : int
    apart : float
        Distance from which on a point counts beside a higher one.
    period : float or None
        Of the points, if they are on a torus.

    Returns
    -------
    points : Tensor of shape (n, n_starts, k)
    heights : Tensor of shape (n, n_starts)
        Minus infinity where there are no more points; these are any.
    """
    left, every = heights.clone(), torch.arange(len(heights), device=heights.device)
    chosen, found = [], []
    for _ in range(n_starts):
        height, top = left.max(1)
        start = points[every, top]
        chosen.append(start)
        found.append(height)
        steps = points - start[:, None]
        steps = steps if period is None else torus.difference(points, start[:, None])
        left = left.masked_fill(steps.norm(dim=-1) < apart, float("-inf"))
    return torch.stack(chosen, 1), torch.stack(found, 1)


def _quadratic(log_density: LogDensity, z: Tensor, widest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and minus the second derivatives, made positive; the last two in float64."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z, torch.arange(len(z), device=z.device))
        gradient = _derivative(value, z)
        rows = [_derivative(column, z) for column in gradient.unbind(1)]
    hessian = torch.stack(rows, 1).detach().double()
    curvature = torch.nan_to_num(-0.5 * (hessian + hessian.mT), 0.0, 0.0, 0.0)
    values, vectors = torch.linalg.eigh(curvature)
    values = values.abs().clamp(min=widest**-2)
    precision = (vectors * values[:, None]) @ vectors.mT
    slope = torch.nan_to_num(gradient.detach().double(), 0.0, 0.0, 0.0)
    return value.detach(), slope, precision


def _derivative(value: Tensor, z: Tensor) -> Tensor:
    """The gradient of each row's value (n,), with a graph; zero of what does not depend on z."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (gradient,) = torch.autograd.grad(
        value.sum(), z, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient
