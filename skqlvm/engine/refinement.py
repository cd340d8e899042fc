"""Posteriors that a lattice is too coarse for: a second lattice around each of their peaks.

The m points of the lattice and the N of each local one, of density q_a, are draws of several
proposals for one integral. At every point each of them has a share of it, in proportion to the
square of the number of its points around (the power heuristic of Veach and Guibas)::

    t_a(z) = N q_a(z) / m
    m p(x) = sum_j p(x | z_j) / (1 + sum_a t_a^2) + sum_al p(x | z_al) t_a / (1 + sum_b t_b^2)

Where the peaks are, the local points count; far from them the lattice has its usual weights. With
the local lattices shifted at random too, the sum has the expectation m p(x) whatever the q_a are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from . import laplace, lattices, objectives, torus
from .conditions import Chart
from .models import Model
from .proposals import FullNormal
from .rows import chosen, entries
from .transformations import copied

N_PEAKS = 4
"""Peaks of a posterior that get a lattice of their own, at most."""

_N_CONSIDERED, _N_PAIRED = (16, 40, 160), 64
"""Points of most weight, in one to three dimensions, that local lattices lie among, and how many of
them say how wide a posterior is. Those within three standard deviations of a peak are among them,
unless it is resolved."""

_RESOLVED = 0.6
"""Standard deviation, in units of the lattice's spacing, from which on a normal is resolved: its
sum over the lattice is off by 2e-3."""

_MANY = (4.0, 16.0, 40.0)
"""Effective points from which on a posterior is resolved whatever its shape."""

_NEAR, _APART = 3.0, 2.0
"""Distances, in spacings, within which points belong to one peak, and from which on another peak
may be looked for."""

_SAME = 0.5
"""Standard deviations within which two peaks are one."""

_NEGLIGIBLE = 9.0
"""Nats below the rest at which a peak does not matter."""

_SLACK = 2.0
"""How much more than its curvature says a peak may be above the lattice points around it."""

INFLATION = (2.0, 1.4, 1.4)
"""How much wider a local lattice is than the curvature of a posterior says, in one to three
dimensions."""

_N_LOCAL = (32, 64, 128)
"""Points of a local lattice in one to three dimensions."""

_N_STEPS, _REACH, _WIDEST = 2, 0.05, 0.08
"""Steps of Newton's method, the longest of them and the widest local normal, both in turns."""

_ROWS_AT_ONCE, _LOCAL_BYTES = 512, 2**24


class Refined(NamedTuple):
    """Log weights of rows whose posteriors are narrow, less the rows' bases.

    As `p(x | z_j)` on the lattice, they are to be summed and divided by its number of points.

    Attributes
    ----------
    rows : Tensor of shape (r,), int64
    places : Tensor of shape (r, c), int64
        Points of the lattice whose weights are not p(x | z_j).
    log_w : Tensor of shape (r, c)
        What they are.
    normals : FullNormal
        Of the local lattices, `loc` of shape (r, a, k).
    z : Tensor of shape (r, a, N, k)
        The points of these, in turns and not wrapped.
    local_log_px_z : Tensor of shape (r, a, N)
        log p(x | z) there.
    local_log_w : Tensor of shape (r, a, N)
        Their log weights; minus infinity where a row has fewer peaks.
    """

    rows: Tensor
    places: Tensor
    log_w: Tensor
    normals: FullNormal
    z: Tensor
    local_log_px_z: Tensor
    local_log_w: Tensor


def refined_log_marginal(model: Model, chart: Chart, rows: Iterable[Tensor]) -> Tensor:
    """Return log p(x) over a lattice, and over local ones for rows whose posteriors are narrow.

    For a posterior that is wide enough, a lattice is exact to rounding, and it is all there is.

    Parameters
    ----------
    model : Model
        With a prior that is uniform on the torus.
    chart : Atlas
        Of a lattice, shifted or not; the local lattices are shifted with it.
    rows : iterable of Tensor of shape (n_some, n_features)

    Returns
    -------
    Tensor of shape (n_samples,)
        In nats, on the processor, in the dtype of the rows.
    """
    nats = []
    for x in rows:
        copies = x if model.transformations is None else model.transformations.copies(x)
        log_w = log_weights(model, chart, copies)
        total, _ = refine(model, chart, copies, log_w)
        nats.append(_over_copies(model, total, x).cpu())
    return torch.cat(nats) - log(len(chart.points))


def log_weights(model: Model, chart: Chart, x: Tensor) -> Tensor:
    """Return log p(x_i | z_j) less the base of row i, (n, m), for rows x (n, d)."""
    offset = chart.offset(model.likelihood, x) - model.likelihood.terms(x).base
    return chart.relative(model.likelihood, x).add_(offset[:, None])


def _over_copies(model: Model, log_px: Tensor, x: Tensor) -> Tensor:
    """The log sum over the copies of each row of what they have less their bases, (n * S,)."""
    copies = copied(model.transformations, model.likelihood, x)
    if copies.log_weight is None:
        return log_px + copies.base
    return torch.logsumexp(log_px.view_as(copies.log_weight) + copies.log_weight, 1) + copies.base


def refine(model: Model, chart: Chart, x: Tensor, log_w: Tensor) -> tuple[Tensor, list[Refined]]:
    """Return the log sums of the weights of rows, and the new weights of those that are narrow.

    Parameters
    ----------
    model, chart
        As for `refined_log_marginal`.
    x : Tensor of shape (n_samples, n_features)
    log_w : Tensor of shape (n_samples, n_points)
        Their `log_weights`; overwritten.

    Returns
    -------
    total : Tensor of shape (n_samples,)
    refined : list of Refined
        Of some rows at a time.
    """
    points = chart.points.to(entries(x))
    peaks, index = log_w.topk(min(_N_CONSIDERED[points.shape[1] - 1], log_w.shape[1]), 1)
    rest = objectives.log_sum_exp_(log_w.scatter_(1, index, float("-inf")), 1)
    total = torch.logaddexp(rest, torch.logsumexp(peaks, 1))
    narrow = is_narrow(peaks - total[:, None], points[index], len(points))
    parts = []
    for rows in narrow.nonzero()[:, 0].split(_ROWS_AT_ONCE):
        part = _refined(model, points, x, rows, index[rows], peaks[rows], total[rows])
        weights = torch.cat([part.log_w, part.local_log_w.flatten(1), rest[rows, None]], 1)
        total[rows] = torch.logsumexp(weights, 1)
        parts.append(part)
    return total, parts


def is_narrow(log_weights: Tensor, points: Tensor, n_points: int) -> Tensor:
    """Return which posteriors a lattice of so many points does not resolve, (n,), bool.

    Each of the peaks of a resolved one is as wide as 0.6 of the lattice's spacing in every
    direction. Its width is that of the steps between points within three spacings of each other,
    in pairs by their weights; or it rests on so many points that this does not matter.

    Parameters
    ----------
    log_weights : Tensor of shape (n, c)
        The log probabilities of the points of most weight.
    points : Tensor of shape (n, c, k)
        Where these are, in turns.
    n_points : int
    """
    k = points.shape[-1]
    spacing = n_points ** (-1 / k)
    squares = torch.logsumexp(2 * log_weights, 1).exp()
    few = (squares * min(_MANY[k - 1], 0.9 * n_points) > 1).nonzero()[:, 0]
    narrow = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    if not len(few):
        return narrow
    weights, z = torch.softmax(log_weights[few, :_N_PAIRED], 1), points[few, :_N_PAIRED]
    steps = torus.difference(z[:, :, None], z[:, None]) / spacing
    near = weights[:, :, None] * weights[:, None] * (steps.square().sum(-1) < _NEAR**2)
    pairs = near.sum((1, 2))
    moments = torch.einsum("nab,nabi,nabj->nij", near, steps, steps).double()
    width = torch.linalg.eigvalsh(moments / (2 * pairs[:, None, None])).amin(1)
    points_a_peak = pairs / weights.square().sum(1)
    fewest = _effective_points(_RESOLVED, k)
    narrow[few] = (width < _RESOLVED**2).to(narrow) | (points_a_peak < fewest)
    return narrow


def _effective_points(width: float, k: int) -> float:
    """Effective points of a normal whose standard deviation is `width` spacings."""
    return (2 * pi**0.5 * width) ** k


def _refined(
    model: Model,
    points: Tensor,
    x: Tensor,
    rows: Tensor,
    index: Tensor,
    peaks: Tensor,
    total: Tensor,
) -> Refined:
    """New weights for some narrow rows, of the points of most weight (r, c) and of local ones."""
    m, k = points.shape
    log_density = _log_density(model, x, rows)
    found, exists = _peaks(log_density, points[index], peaks, total, m, model.n_decoded // 8)
    n_peaks = exists.shape[1]
    normals = FullNormal(
        found.normal.loc.unflatten(0, exists.shape),
        INFLATION[k - 1] * found.normal.scale_tril.unflatten(0, exists.shape),
    )
    noise = local_noise(points).to(points)
    z = normals.loc[:, :, None] + noise @ normals.scale_tril.mT
    log_px_z = z.new_full(z.shape[:-1], float("-inf"))
    size = max(1, _LOCAL_BYTES // (16 * len(noise) * model.likelihood.n_outputs))
    for pairs in exists.flatten().nonzero()[:, 0].split(size):
        row, peak = pairs // n_peaks, pairs % n_peaks
        log_px_z[row, peak] = log_density(z[row, peak], row)
    at_points = _log_density_ratios(points[index], normals, exists, len(noise) / m)
    at_local = _log_density_ratios(z.flatten(1, 2), normals, exists, len(noise) / m)
    own = at_local.unflatten(1, (n_peaks, -1)).diagonal(dim1=1, dim2=3).mT
    local = log_px_z + (own - _log_shared(at_local).unflatten(1, (n_peaks, -1)))
    local = local.where(exists[:, :, None], float("-inf"))
    log_w = peaks - _log_shared(at_points)
    return Refined(rows, index, log_w, normals, z, log_px_z, local)


def local_noise(points: Tensor) -> Tensor:
    """Return the normal points of local lattices, (N, k), shifted as the lattice is, (m, k)."""
    k = points.shape[1]
    offset = points.new_tensor(_OFFSET[:k], dtype=torch.float64) + points[0]
    u = lattices.shifted(lattices.lattice(k, _N_LOCAL[k - 1]).to(points.device), offset)
    return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))


_OFFSET = (0.38196601125, 0.61803398875, 0.23606797750)
"""Shift of a local lattice around one that is not shifted: no point is on the border of the
cube."""


def _log_density(model: Model, x: Tensor, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(x | z) less its base, for points (n, ..., k) of rows by their numbers among `rows`."""

    group = model.groups(x)

    def log_density(z: Tensor, numbers: Tensor) -> Tensor:
        own = rows[numbers]
        terms = model.likelihood.terms(chosen(x, own))
        some = z if z.dim() == 3 else z[:, None]
        outputs = model.outputs(torus.wrap(some), None if group is None else group[own])
        log_px_z = model.likelihood.paired(terms, outputs.to(z))
        return log_px_z if z.dim() == 3 else log_px_z[:, 0]

    return log_density


def _peaks(
    log_density: Callable[[Tensor, Tensor], Tensor],
    points: Tensor,
    log_w: Tensor,
    total: Tensor,
    m: int,
    n_at_once: int,
) -> tuple[laplace.Peaks, Tensor]:
    """Climb from the points of most weight; r * a peaks, and which of them (r, a) exist and count.

    The first is climbed from the best point. Another start is worth it if its own peak might reach
    that one's height, as far above its point as half a spacing makes on the first.
    """
    spacing = m ** (-1 / points.shape[2])
    n_starts = min(N_PEAKS, log_w.shape[1])
    starts, heights = laplace.starts(points, log_w, n_starts, _APART * spacing, 1.0)
    n_rows, n_peaks = heights.shape
    every = torch.arange(n_rows, device=points.device)

    def climbed(z: Tensor, numbers: Tensor) -> laplace.Peaks:
        parts = zip(z.split(max(1, n_at_once)), numbers.split(max(1, n_at_once)), strict=True)
        return laplace.Peaks.joined([_climbed(log_density, *part) for part in parts])

    first = climbed(starts[:, 0], every)
    best = torch.maximum(first.height, total)
    gain = _SLACK * spacing**2 / 8 * _trace_of_precision(first.normal)
    worth = heights + gain[:, None] > best[:, None] - _NEGLIGIBLE
    worth[:, 0] = False
    numbers = torch.arange(n_rows * n_peaks, device=points.device).view(n_rows, n_peaks)
    place = numbers[:, :1].expand_as(numbers) // n_peaks
    if bool(worth.any()):
        others = climbed(starts[worth], every[:, None].expand_as(worth)[worth])
        place = place.clone()
        place[worth] = n_rows + torch.arange(len(others.height), device=points.device)
        first = laplace.Peaks.joined([first, others])
    exists = worth
    exists[:, 0] = True
    found = first.chosen(place.flatten())
    mass = found.log_mass().view_as(exists) + log(m)
    largest = torch.maximum(total, mass.where(exists, float("-inf")).amax(1))
    exists &= mass > largest[:, None] - _NEGLIGIBLE
    return found, exists & ~_repeated(found.normal, exists)


def _repeated(normals: FullNormal, exists: Tensor) -> Tensor:
    """Which peaks of rows, r * a, are an earlier one of the row found again, (r, a)."""
    loc = normals.loc.unflatten(0, exists.shape)
    scale_tril = normals.scale_tril.unflatten(0, exists.shape)
    repeated = torch.zeros_like(exists)
    for a in range(exists.shape[1] - 1):
        steps = torus.difference(loc[:, a + 1 :], loc[:, a, None])
        distance = FullNormal(loc[:, a], scale_tril[:, a]).squared_distance(steps)
        repeated[:, a + 1 :] |= exists[:, a, None] & (distance < _SAME**2)
    return repeated


def _climbed(
    log_density: Callable[[Tensor, Tensor], Tensor], z: Tensor, numbers: Tensor
) -> laplace.Peaks:
    return laplace.climb(
        lambda z, some: log_density(z, numbers[some]),
        z,
        n_steps=_N_STEPS,
        widest=_WIDEST,
        reach=_REACH,
    )


def _trace_of_precision(normal: FullNormal) -> Tensor:
    eye = torch.eye(normal.loc.shape[1]).to(normal.loc)
    inverse = torch.linalg.solve_triangular(normal.scale_tril, eye, upper=False)
    return inverse.square().sum((1, 2))


def _log_density_ratios(z: Tensor, normals: FullNormal, exists: Tensor, ratio: float) -> Tensor:
    """log t at points (r, s, k), of all peaks, (r, s, a); minus infinity of those there are not."""
    logs = []
    for a in range(exists.shape[1]):
        loc = normals.loc[:, a]
        normal = FullNormal(loc, normals.scale_tril[:, a])
        nearest = loc[:, None] + torus.difference(z, loc[:, None])
        log_q = normal.log_prob(nearest) + log(ratio)
        logs.append(log_q.where(exists[:, a, None], float("-inf")))
    return torch.stack(logs, -1)


def _log_shared(log_ratios: Tensor) -> Tensor:
    """``log (1 + sum_a t_a^2)``."""
    lattice = torch.zeros_like(log_ratios[..., :1])
    return torch.logsumexp(torch.cat([lattice, 2 * log_ratios], -1), -1)
