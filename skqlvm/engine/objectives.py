"""What is maximised: functions of log importance weights, in nats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import log

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .models import Draws
from .priors import Prior

FAR = -60.0
"""Log-weights below the largest, in nats, that are as good as none; less would be denormal."""

_NEGLIGIBLE = 1e-11
"""Share of a copy that is as good as none: times the smallest weights it would be denormal."""

_CACHED = 512
"""Points whose outputs, of a thousand numbers each, stay in the cache of a thread's core."""

_ACTIVE_STEP = 64
"""Points that the gradient goes through come in multiples of this: products of a new shape are slow
the first time."""


def log_mean_exp(log_w: Tensor, dim: int = -1) -> Tensor:
    """Return ``log(1/m sum_j exp(log_w_j))`` over one axis.

    The ``- log m`` is what makes it a likelihood.
    """
    return torch.logsumexp(log_w, dim) - log(log_w.shape[dim])


def log_sum_exp_(log_w: Tensor, dim: int) -> Tensor:
    """Return ``log sum_j exp(log_w_j)`` over one axis of a tensor, which is overwritten.

    It takes no time for numbers that are denormal, and no memory.
    """
    top = log_w.amax(dim, keepdim=True).clamp(min=torch.finfo(log_w.dtype).min)
    total = log_w.sub_(top).clamp_(min=FAR).exp_().sum(dim)
    return total.log() + top.squeeze(dim)


def lattice_bound(
    table: Callable[[Tensor], Tensor],
    points: Tensor,
    chunk_size: int | None = None,
    *,
    spared: float | None = None,
    expected: Callable[[Tensor, Tensor], Tensor] | None = None,
    log_copies: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Return the lattice's bound on log p(x) for each row.

    ``log 1/m sum_j p(x_i | z_j)``; its expectation over random shifts is at most log p(x_i)
    (equation 6 of arXiv 2601.18676). Its graph does not grow with the lattice: with a
    `chunk_size` the lattice is passed without one, and once more on the way back, a chunk at a
    time. With `spared` the table itself is held, a number for each row and point.

    The gradient is ``sum_j r_ij grad log p(x_i | z_j)`` with the responsibilities r. With `spared`,
    the way back goes through the points alone that answer for most of the rows. The bound itself is
    over all points.

    Parameters
    ----------
    table : callable
        Maps points of shape (m, k) to log p(x_i | z_j) of shape (n, m).
    points : Tensor of shape (n_points, n_components)
        The shifted lattice, in turns; or whatever rows the table takes for points.
    chunk_size : int, optional
        Points that are decoded at a time; all at once by default.
    spared : float, optional
        Share of all responsibility that the points left out may have together. What the table says
        of a point must not depend on the others, nor on the call, as it would with dropout.
    expected : callable, optional
        Maps points (m, k) and weights (n, m) to what has the gradient of the weighted sum of the
        table over the points, (n,), where that is cheaper than the table; only with `spared`.
    log_copies : Tensor of shape (n_samples, n_copies), optional
        Log weights of the copies that each row is worth: the rows of the table are the copies, and
        the bound is ``log 1/m sum_j sum_s exp(log_copies_is) p(x_is | z_j)``.
    row_weight : Tensor of shape (n_samples,), optional
        How often each row counts among those that points answer for.

    Returns
    -------
    Tensor of shape (n_samples,)
        In nats.
    """
    chunk_size = len(points) if chunk_size is None else chunk_size
    if spared is None or not torch.is_grad_enabled():
        return _over_copies(_bound_of_all(table, points, chunk_size), log_copies)
    with torch.no_grad():
        whole = torch.cat([table(part) for part in _cached(points, chunk_size)], 1)
        bound, weights, shares = _posterior(whole, log_copies)
        active = _active(_summed(weights, row_weight), spared)
    parts = points.index_select(0, active), weights.index_select(1, active)
    pairs = zip(parts[0].split(chunk_size), parts[1].split(chunk_size, 1), strict=True)
    expected = partial(_expected, table) if expected is None else expected
    if len(active) <= chunk_size:
        drawn = [expected(*pair) for pair in pairs]
    else:
        drawn = [checkpoint(expected, *pair, use_reentrant=False) for pair in pairs]
    through = torch.stack(drawn, 1).sum(1)
    if log_copies is not None and shares is not None:
        through = (through.view_as(log_copies) + shares * log_copies).sum(1)
    return bound + (through - through.detach())


def _bound_of_all(table: Callable[[Tensor], Tensor], points: Tensor, chunk_size: int) -> Tensor:
    """The bound, with the way back through every point."""
    if not torch.is_grad_enabled():
        sums = [log_sum_exp_(table(part), 1) for part in _cached(points, chunk_size)]
    elif chunk_size >= len(points):
        return log_mean_exp(table(points))
    else:

        def log_sum(chunk: Tensor) -> Tensor:
            return torch.logsumexp(table(chunk), 1)

        parts = points.split(chunk_size)
        sums = [checkpoint(log_sum, chunk, use_reentrant=False) for chunk in parts]
    return torch.logsumexp(torch.stack(sums, 1), 1) - log(len(points))


def _cached(points: Tensor, chunk_size: int) -> Sequence[Tensor]:
    """Parts of equal size, of no more points than may be decoded, or a processor's caches hold."""
    if points.device.type == "cpu":
        chunk_size = min(chunk_size, _CACHED * torch.get_num_threads())
    return points.tensor_split(-(-len(points) // chunk_size))


def _over_copies(log_px: Tensor, log_copies: Tensor | None) -> Tensor:
    """The log sum over the copies of each row, (n * S,) -> (n,); without copies, what came."""
    if log_copies is None:
        return log_px
    return torch.logsumexp(log_px.view_as(log_copies) + log_copies, 1)


def _posterior(table: Tensor, log_copies: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The bound on each row of a table, which is overwritten, and its responsibilities.

    With copies, these sum to one over the points and copies of a row; the third part is what each
    copy has of them, (n, S).
    """
    top = table.amax(1, keepdim=True)
    weights = table.sub_(top).clamp_(min=FAR).exp_()
    total = weights.sum(1, keepdim=True)
    log_px = (total.log() + top)[:, 0] - log(table.shape[1])
    bound = _over_copies(log_px, log_copies)
    if log_copies is None:
        return bound, weights.div_(total), None
    shares = (log_px.view_as(log_copies) + log_copies - bound[:, None]).exp()
    shares = torch.where(shares < _NEGLIGIBLE, 0, shares)
    return bound, weights.mul_((shares.view_as(total) / total).to(weights)), shares


def _summed(weights: Tensor, row_weight: Tensor | None) -> Tensor:
    """The sum over rows, or over the copies of weighted rows, of their responsibilities."""
    if row_weight is None:
        return weights.sum(0)
    n_copies = len(weights) // len(row_weight)
    return row_weight.to(weights).repeat_interleave(n_copies) @ weights


def _active(responsibility: Tensor, spared: float) -> Tensor:
    """Numbers of points that have all but a share of it, and some more: a round number, rising."""
    ascending, order = responsibility.sort()
    n_spared = int((ascending.cumsum(0) <= spared * responsibility.sum()).sum())
    rounded = -(-(len(order) - n_spared) // _ACTIVE_STEP) * _ACTIVE_STEP
    return order[-rounded:].sort().values


def _expected(table: Callable[[Tensor], Tensor], points: Tensor, weights: Tensor) -> Tensor:
    """Sum over points of log p(x_i | z_j), weighted, (n,)."""
    return (weights * table(points)).sum(1)


def elbo(log_px_z: Tensor, kl: Tensor, beta: float = 1.0) -> Tensor:
    """Return ``1/s sum_s log p(x | z_s) - beta KL(q || p)`` of each row, (n_samples,).

    The evidence lower bound: a bound on log p(x) at beta = 1; at others a trade of reconstruction
    against the size of the code (beta-VAE). The divergence has a column for each draw, or one.
    """
    return (log_px_z - beta * kl).mean(-1)


def standard_error(log_w: Tensor, dim: int = -1) -> Tensor:
    """Return the standard error of `log_mean_exp` over independent draws, to first order.

    It is the relative error of the mean weight.
    """
    return standard_error_of_mean(torch.softmax(log_w, dim) * log_w.shape[dim], dim)


def standard_error_of_mean(values: Tensor, dim: int = -1) -> Tensor:
    """Return the standard error of the mean of independent values; infinite for a single one."""
    n_draws = values.shape[dim]
    if n_draws == 1:
        return torch.full_like(values.select(dim, 0), float("inf"))
    return (values.var(dim) / n_draws).sqrt()


def estimate_of(drawn: Draws, prior: Prior) -> Tensor:
    """Return the log mean of importance weights and its standard error, (n_samples, 2), in nats."""
    log_w = drawn.log_w(prior)
    return torch.stack([log_mean_exp(log_w) + drawn.base, standard_error(log_w)], 1)


def elbo_of(drawn: Draws, prior: Prior) -> Tensor:
    """Return the evidence lower bound and its standard error, (n_samples, 2), in nats."""
    kl = drawn.proposal.kl(drawn.z)
    error = standard_error_of_mean(drawn.log_px_z - kl)
    return torch.stack([elbo(drawn.log_px_z, kl) + drawn.base, error], 1)


def discrepancy(
    z: Tensor, prior: Prior, generator: torch.Generator, weight: Tensor | None = None
) -> Tensor:
    """Return how far codes z of shape (n, k) are from a prior, by as many draws of it.

    The `maximum_mean_discrepancy`, in coordinates whose distances mean something.
    """
    u = torch.rand(z.shape, dtype=torch.float64, generator=generator)
    drawn = prior.quantile(u).to(z)
    return maximum_mean_discrepancy(prior.euclidean(z), prior.euclidean(drawn), weight)


def doubly_reparametrized(log_w: Tensor, z: Tensor) -> Tensor:
    """Return the importance-weighted bound of each row, with a doubly reparametrised gradient.

    See Tucker et al., arXiv 1810.04152. It is ``log 1/K sum_k w_k``, to be differentiated where
    `log_w` treats the proposal's parameters as constants except through its draws z. With the
    normalised weights v, parameters of the model get ``sum_k v_k grad log w_k`` as from the plain
    bound; those of the proposal get ``sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi)``, of the
    same expectation and a signal that does not fade with K.

    Parameters
    ----------
    log_w : Tensor of shape (n_samples, n_draws)
    z : Tensor of shape (n_samples, n_draws, n_components)
        The draws that `log_w` was computed from. From here on, gradients through them are weighted
        once more.
    """
    if z.requires_grad:
        weights = torch.softmax(log_w.detach(), -1)
        z.register_hook(lambda gradient: gradient * weights[..., None])
    return log_mean_exp(log_w)


def maximum_mean_discrepancy(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return an unbiased estimate of the squared distance between the distributions of a and b.

    Both are of shape (n, k), and the rows of a may be weighted, (n,). With the inverse
    multiquadratic kernel ``k(u, v) = c / (c + |u - v|^2)``, ``c = 2 k``: twice the variance of a
    standard normal's coordinates, summed (Tolstikhin et al., arXiv 1711.01558). Between 0 and 2 but
    for the noise of the estimate, which may be negative.
    """

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        squares = (u * u).sum(1)[:, None] + (v * v).sum(1) - 2 * u @ v.T
        return c / (c + squares)

    def within(u: Tensor) -> Tensor:
        n = len(u)
        return (kernel(u, u).sum() - n) / max(1, n * (n - 1))

    c = 2.0 * a.shape[1]
    if weight is None:
        return within(a) + within(b) - 2 * kernel(a, b).mean()
    shares = (weight / weight.sum()).to(a)
    alone = (shares * shares).sum()  # each row with itself, whose kernel is 1
    apart = (1 - alone).clamp(min=torch.finfo(a.dtype).eps)
    among = (shares @ kernel(a, a) @ shares - alone) / apart
    return among + within(b) - 2 * (shares @ kernel(a, b)).mean()
