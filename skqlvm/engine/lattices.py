"""Rank-1 lattices on the unit torus [0, 1)^k, their random shifts and their quality.

A rank-1 lattice of m points with generating vector g is ``z_j = (j g mod m) / m`` for ``j = 0, ...,
m - 1``. The products are taken as integers modulo m and divided in float64: in float32 the third
digit of a coordinate is already wrong at m = 6765.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd, pi

import torch
from torch import Tensor

from . import torus

_EXTENSIBLE = (1, 364981, 245389)

MOST_COMPONENTS = len(_EXTENSIBLE)
"""Dimensions up to which a lattice of affordable size is fine enough for a marginal likelihood."""

_COLUMNS = 256
"""Columns that are averaged over a lattice at a time."""

_SEARCH_BUDGET = 200_000_000
"""Kernel evaluations that a search for a multiplier may spend (a few seconds)."""


def korobov_vector(n_components: int, n_points: int, multiplier: int) -> tuple[int, ...]:
    """Return the generating vector (1, a, a^2, ...) modulo m."""
    return tuple(pow(multiplier, power, n_points) for power in range(n_components))


@lru_cache(maxsize=256)
def generating_vector(n_components: int, n_points: int) -> tuple[int, ...]:
    """Return a good generating vector for any number of points.

    In one dimension (1,); in two the Fibonacci vector where m is a Fibonacci number; otherwise the
    Korobov vector whose multiplier has the smallest P2 of all those searched.
    """
    if n_components == 1:
        return (1,)
    previous = _previous_fibonacci(n_points)
    if n_components == 2 and previous is not None:
        return (1, previous)
    return korobov_vector(n_components, n_points, best_multiplier(n_components, n_points))


def _previous_fibonacci(n_points: int) -> int | None:
    """Return F_{i-1} where n_points = F_i, else None."""
    previous, current = 1, 1
    while current < n_points:
        previous, current = current, previous + current
    return previous if current == n_points else None


@lru_cache(maxsize=256)
def best_multiplier(n_components: int, n_points: int) -> int:
    """Return the Korobov multiplier of smallest P2 among those coprime to m.

    As a and m - a are mirror images, half of them are searched: all of these as long as that is a
    matter of seconds (m up to 20 000 or so), an even selection of them beyond.
    """
    half = torch.arange(1, (n_points + 1) // 2)
    candidates = [a for a in range(1, n_points // 2 + 1) if gcd(a, n_points) == 1] or [1]
    step = max(1, len(candidates) * max(1, len(half)) // _SEARCH_BUDGET)
    multipliers = torch.tensor(candidates[::step])
    scores = [
        _korobov_scores(n_components, n_points, chunk, half)
        for chunk in multipliers.split(max(1, 4_000_000 // n_points))
    ]
    return int(multipliers[torch.cat(scores).argmin()])


def _korobov_scores(n_components: int, n_points: int, multipliers: Tensor, half: Tensor) -> Tensor:
    """The part of P2 that depends on the multiplier, summed over half the points.

    By the symmetry j <-> m - j, half of them are enough.
    """
    kernel = _bernoulli_kernel(torch.arange(n_points, dtype=torch.float64) / n_points)
    index = half.expand(len(multipliers), -1)
    product = kernel[half].expand_as(index)
    for _ in range(1, n_components):
        index = index * multipliers[:, None] % n_points
        product = product * kernel[index]
    return product.sum(1)


def _bernoulli_kernel(z: Tensor) -> Tensor:
    """The reproducing kernel 1 + 2 pi^2 B_2(z).

    Its functions are the periodic ones with square-integrable derivative.
    """
    return 1 + 2 * pi**2 * (z * z - z + 1 / 6)


def p2(points: Tensor) -> Tensor:
    """Return P2, the squared worst-case error of a lattice for smooth periodic functions.

    Lower is better. ``P2 = mean_j prod_l (1 + 2 pi^2 B_2(z_jl)) - 1`` with the Bernoulli polynomial
    ``B_2(t) = t^2 - t + 1/6``.

    Parameters
    ----------
    points : Tensor of shape (n_points, n_components)
        An unshifted lattice in turns; float64 unless the value is above 1e-6 or so.
    """
    return _bernoulli_kernel(points).prod(-1).mean() - 1


def points(n_points: int, vector: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the lattice points ``(j g mod m) / m`` in turns.

    Returns
    -------
    Tensor of shape (n_points, n_components)
        Exact integers modulo m, divided in float64, then cast to `dtype`.
    """
    index = torch.arange(n_points, dtype=torch.int64)[:, None]
    exact = index * torch.tensor(vector, dtype=torch.int64) % n_points
    return (exact.to(torch.float64) / n_points).to(dtype)


def lattice(n_components: int, n_points: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the default lattice of `n_points` points in turns, shape (n_points, n_components)."""
    return points(n_points, generating_vector(n_components, n_points), dtype)


def nested(n_components: int, n_points: int) -> Tensor:
    """Return a lattice of 2^i points whose first half is the lattice of half the size.

    It has up to three dimensions. One generating vector serves all sizes up to 2^20 (Hickernell,
    Kritzer, Kuo and Nuyens, Numerical Algorithms 59, 2012), at a P2 that is about twice the best
    one for a size. Shift it where the origin, its first point, is no good.

    Returns
    -------
    Tensor of shape (n_points, n_components)
        In turns, float64.

    Raises
    ------
    ValueError
        If there are too many dimensions or points, or these are no power of two.
    """
    if n_components > MOST_COMPONENTS:
        raise ValueError(f"n_components expects 1, 2 or 3, but got {n_components}.")
    if n_points < 1 or n_points & (n_points - 1) or n_points > 2**20:
        raise ValueError(f"n_points expects a power of two up to 2^20, but got {n_points}.")
    index = torch.zeros(1, dtype=torch.int64)
    while len(index) < n_points:
        index = torch.cat([index, index + n_points // (2 * len(index))])
    return (index[:, None] * torch.tensor(_EXTENSIBLE[:n_components]) % n_points).to(
        torch.float64
    ) / n_points


def basis(points: Tensor) -> Tensor:
    """Return short vectors that span a lattice, (n_components, n_components), one a row.

    They are as short as can be: up to three dimensions, the shortest independent vectors are a
    basis.

    Parameters
    ----------
    points : Tensor of shape (n_points, n_components)
        A lattice in turns, shifted or not, its points in any order.
    """
    steps = torus.difference(points, points[0])
    candidates = torch.cat([steps, torch.eye(points.shape[1]).to(points)])
    candidates = candidates[candidates.norm(dim=1).argsort()]
    chosen = candidates[:0]
    for i in range(len(candidates)):
        longer = torch.cat([chosen, candidates[i : i + 1]])
        if torch.linalg.matrix_rank(longer, rtol=1e-6) == len(longer):
            chosen = longer
        if len(chosen) == points.shape[1]:
            break
    return chosen


def random_shift(n_components: int, generator: torch.Generator) -> Tensor:
    """Draw a shift uniform on the torus, float64 of shape (n_components,).

    With it, a lattice average is an unbiased estimate of the integral over the torus.
    """
    return torch.rand(
        n_components, dtype=torch.float64, generator=generator, device=generator.device
    )


def averaged(values: Tensor, points: Tensor, scale: float) -> Tensor:
    """Return the mean of values over a normal density around each point of a rank-1 lattice.

    The neighbours of a point are those of the first one moved along, so that this is a convolution
    along the order of the points: a product of Fourier transforms. A wave of integer frequencies h
    keeps ``exp(-2 (pi scale |h|)^2)`` of its height, as far as the lattice resolves it.

    Parameters
    ----------
    values : Tensor of shape (n_points, n_columns)
    points : Tensor of shape (n_points, n_components)
        In turns, shifted or not, in the order of `points`.
    scale : float
        Standard deviation of the density, in turns: a small part of one.

    Returns
    -------
    Tensor of shape (n_points, n_columns)
    """
    squares = torus.difference(points, points[0]).square().sum(1)
    weights = torch.exp(squares / (-2 * scale**2))
    spectrum = torch.fft.rfft(weights / weights.sum()).real.to(values)[:, None]
    result = torch.empty_like(values)
    for start in range(0, values.shape[1], _COLUMNS):
        part = torch.fft.rfft(values[:, start : start + _COLUMNS], dim=0) * spectrum
        result[:, start : start + _COLUMNS] = torch.fft.irfft(part, n=len(values), dim=0)
    return result


def shifted(points: Tensor, shift: Tensor) -> Tensor:
    """Return the points moved by `shift` around the torus, in [0, 1)."""
    return torus.wrap(points + shift.to(points))
