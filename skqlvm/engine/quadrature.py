"""log p(x) by quadrature over a lattice of latent points, and how well it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from . import atlas, lattices, objectives, refinement
from .conditions import Atlases, Chart
from .models import Model
from .rows import gaps

N_SHIFTS = 8
"""Random shifts of a lattice that a standard error is estimated from."""

_STUDENT = 2.3646 / 2
"""How much wider twice a standard error is for being estimated from 8 values: Student's factor of
7 degrees of freedom, at which 95 % are covered, by that of many."""

_FEWEST_POINTS, _MOST_POINTS = 2**10, 2**18
_TOLERANCE = 0.01
_OFFSET = torch.tensor([0.38196601125, 0.61803398875, 0.23606797750], dtype=torch.float64)
"""Shift of nested lattices: no point of them lies on the border of the cube, where a normal's
quantiles are infinite."""


class Settled(NamedTuple):
    """A lattice that was doubled until scores settled.

    Attributes
    ----------
    n_points : int
    change : float
        Mean absolute change of log p(x) over the rows at the last doubling, in nats.
    tolerance : float
        Change that was aimed at.
    """

    n_points: int
    change: float
    tolerance: float = _TOLERANCE


def nested_points(n_components: int, n_points: int) -> Tensor:
    """Return points of the open cube whose first half are those of half the number, float64."""
    points = lattices.nested(n_components, n_points)
    return lattices.shifted(points, _OFFSET[:n_components])


def charts(
    model: Model,
    u: Tensor,
    *,
    factored: bool = False,
    n_at_once: int | None = None,
    ragged: torch.dtype | None = None,
) -> Iterator[Chart]:
    """Decode points u (m, k) of the cube, all or some at a time.

    For rows with gaps, `ragged` is their dtype.

    Where the model has conditions, there is an atlas for each group of rows.

    Raises
    ------
    FloatingPointError
        If the decoder's output is not finite.
    """
    for part in u.split(n_at_once or len(u)):
        if model.conditions is None:
            yield _chart(model, part, None, factored, ragged)
        else:
            groups = range(len(model.conditions))
            parts = [_chart(model, part, group, factored, ragged) for group in groups]
            yield Atlases(model.conditions, parts)


def _chart(
    model: Model, u: Tensor, group: int | None, factored: bool, ragged: torch.dtype | None
) -> atlas.Atlas:
    z, log_weight = model.prior.nodes(u.to(model.like.device))
    outputs, chart = partial(_finite_outputs, model, group), None
    if model.likelihood.n_outputs > atlas.WIDEST_WHOLE and factored:
        chart = atlas.spanned(model.likelihood, outputs, z, log_weight)
    if chart is None:
        chart = atlas.chart(model.likelihood, outputs(z), z, log_weight, factored=factored)
    return chart if ragged is None else chart.with_normalizers(model.likelihood, ragged)


def _finite_outputs(model: Model, group: int | None, z: Tensor) -> Tensor:
    outputs = model.outputs(z, group)
    if not bool(outputs.isfinite().all()):
        raise FloatingPointError("the decoder's output is not finite")
    return outputs


def ragged(rows: Iterable[Tensor]) -> torch.dtype | None:
    """Return the dtype of rows some of which have gaps; None if none has."""
    return next((x.dtype for x in rows if gaps(x) is not None), None)


def log_marginal(model: Model, maps: Iterable[Chart], rows: Iterable[Tensor]) -> Tensor:
    """Return ``log p(x) = log 1/m sum_j w_j p(x | z_j)`` over the points of all maps together.

    Parameters
    ----------
    model : Model
    maps : iterable of Atlas
        Parts of a lattice; may be decoded as they are asked for.
    rows : iterable of Tensor of shape (n_some, n_features)
        Chunks of rows; gone through once for every map.

    Returns
    -------
    Tensor of shape (n_samples,)
        In nats, on the processor, in the dtype of the rows.
    """
    sums, n_points = [], 0
    for chart in maps:
        sums.append(torch.cat([_log_sum(model, chart, x).cpu() for x in rows]))
        n_points += len(chart.points)
    return torch.logsumexp(torch.stack(sums, 1), 1) - log(n_points)


def joint(model: Model, chart: Chart, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log weights of all transformations and points for rows x (n, d), and an offset.

    Returns
    -------
    log_w : Tensor of shape (n_samples, n_transformations, n_points)
        ``log [ pi_s p(W_s x_i | z_j) |det W_s| w_j ]`` less the row's offset, in the dtype of x;
        with one transformation that changes nothing if the model has none.
    offset : Tensor of shape (n_samples,)
        In nats.
    """
    maps, likelihood = model.transformations, model.likelihood
    if maps is None:
        return chart.relative(likelihood, x)[:, None], chart.offset(likelihood, x)
    copies = maps.copies(x)
    log_weight, offset = maps.log_weight(chart.offset(likelihood, copies), x)
    log_w = chart.relative(likelihood, copies).unflatten(0, log_weight.shape)
    return log_w.add_(log_weight[:, :, None]), offset


def relative(model: Model, chart: Chart, x: Tensor) -> Tensor:
    """Return the log weights of the points for rows x (n, d), up to a constant for each row.

    Which transformation it was is summed over.

    Returns
    -------
    Tensor of shape (n_samples, n_points)
        In the dtype of x.
    """
    if model.transformations is None:
        return chart.relative(model.likelihood, x)
    return objectives.log_sum_exp_(joint(model, chart, x)[0], 1)


def _log_sum(model: Model, chart: Chart, x: Tensor) -> Tensor:
    log_w, offset = joint(model, chart, x)
    return objectives.log_sum_exp_(log_w.flatten(1), 1) + offset


def standard_error(
    model: Model,
    u: Tensor,
    rows: Iterable[Tensor],
    *,
    n_at_once: int | None = None,
    refined: bool = False,
) -> Tensor:
    """Return the standard error of log p(x) over one lattice of points u (m, k), shifted anywhere.

    The standard deviation over `N_SHIFTS` random shifts, times 1.18, so that twice it covers 95 %
    of what is estimated from so few. The shifts are the same at every call. Each is decoded anew;
    its chart is factored where the rows are so many that this pays. It is that of `log_marginal`,
    or of `refinement.refined_log_marginal`.

    Returns
    -------
    Tensor of shape (n_samples,)
        In nats, on the processor.
    """
    generator = torch.Generator().manual_seed(0)
    n_outputs = model.likelihood.n_outputs
    pays = sum(map(len, rows)) > 2 * n_outputs or n_outputs > atlas.WIDEST_WHOLE
    kind = ragged(rows)
    nats: list[Tensor] = []
    for _ in range(N_SHIFTS):
        moved = lattices.shifted(u, lattices.random_shift(u.shape[1], generator))
        maps = charts(model, moved, factored=pays, n_at_once=n_at_once, ragged=kind)
        if refined:
            nats.extend(refinement.refined_log_marginal(model, chart, rows) for chart in maps)
        else:
            nats.append(log_marginal(model, maps, rows))
    return _STUDENT * torch.stack(nats).std(0, correction=1)


def settle(
    model: Model,
    x: Tensor,
    *,
    tolerance: float = _TOLERANCE,
    fewest: int = _FEWEST_POINTS,
    most: int = _MOST_POINTS,
) -> Settled:
    """Double a nested lattice until log p(x) of rows x (n, d) has settled, or it is at its largest.

    Each doubling decodes the new half alone.
    """
    n_points, change = fewest, float("inf")
    nats = _over(model, x, nested_points(model.n_components, fewest))
    while change > tolerance and 2 * n_points <= most:
        new_half = nested_points(model.n_components, 2 * n_points)[n_points:]
        both = torch.stack([nats, _over(model, x, new_half)], 1)
        doubled = objectives.log_mean_exp(both)
        change, nats = float((doubled - nats).abs().mean()), doubled
        n_points *= 2
    return Settled(n_points, change, tolerance)


def _over(model: Model, x: Tensor, u: Tensor) -> Tensor:
    maps = charts(model, u, n_at_once=model.n_decoded, ragged=ragged([x]))
    return log_marginal(model, maps, [x])
