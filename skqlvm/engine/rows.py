"""Rows as tensors: with gaps, NaN where a feature is missing, or sparse.

A sparse tensor is of torch's CSR layout, complete, and a constant to gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def mean_of_rows(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of each feature over the rows where it is there, float64, (n_features,).

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        NaN where a feature is missing; or sparse, and complete.
    weight : Tensor of shape (n_samples,), optional
        How often each row counts.
    """
    if x.layout == torch.sparse_csr:
        ones = x.values().new_ones(len(x)) if weight is None else weight.to(x.values())
        sums = (x.double().t() @ ones.double()[:, None])[:, 0]
        return sums / ones.double().sum()
    x, mask = x.double(), gaps(x)
    if mask is None and weight is None:
        return x.mean(0)
    shares = torch.ones_like(x) if mask is None else mask.double()
    if weight is not None:
        shares = shares * weight.double()[:, None]
    return (shares * x.nan_to_num(0.0)).sum(0) / shares.sum(0)


def median(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the median of values (n,), the lower one of two, as if each came by its weight."""
    if weight is None:
        return values.median()
    values, order = values.sort()
    below = weight.to(values.device, torch.float64)[order].cumsum(0)
    return values[(below < below[-1] / 2).sum()]


def product(statistics: Tensor, eta: Tensor) -> Tensor:
    """Return ``statistics @ eta.T`` in the precision of eta, of dense or sparse rows."""
    if statistics.layout == torch.sparse_csr:
        result: Tensor = _SparseProduct.apply(eta, as_type(statistics, eta))
        return result
    return statistics.to(eta) @ eta.T


def paired_product(statistics: Tensor, eta: Tensor) -> Tensor:
    """Return the products of dense or sparse rows (n, d) and their own eta (n, s, d), (n, s)."""
    if statistics.layout != torch.sparse_csr:
        return torch.einsum("nd,nsd->ns", statistics.to(eta), eta)
    row, values = row_numbers(statistics), statistics.values().to(eta)
    their = eta[row, :, statistics.col_indices()] * values[:, None]
    return eta.new_zeros(eta.shape[:2]).index_add(0, row, their)


def entries(x: Tensor) -> Tensor:
    """Return the numbers that dense or sparse rows are made of, for their dtype and device."""
    return x.values() if x.layout == torch.sparse_csr else x


def chosen(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows of dense or sparse x that an index (k,) names, numbers or flags."""
    if x.layout != torch.sparse_csr:
        return x[index]
    index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    first, counts = x.crow_indices()[:-1][index], x.crow_indices().diff()[index]
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    within = torch.arange(int(crow[-1]), device=index.device)
    place = within + (first - crow[:-1]).repeat_interleave(counts)
    parts = crow, x.col_indices()[place], x.values()[place]
    return torch.sparse_csr_tensor(*parts, size=(len(index), x.shape[1]))


def split(x: Tensor, size: int) -> list[Tensor]:
    """Return dense or sparse rows in parts of so many."""
    if x.layout != torch.sparse_csr:
        return list(x.split(size))
    numbers = torch.arange(len(x), device=x.device)
    return [chosen(x, part) for part in numbers.split(size)]


def as_type(statistics: Tensor, like: Tensor) -> Tensor:
    """Return statistics, dense or sparse, in the precision of another tensor."""
    if statistics.layout == torch.sparse_csr and statistics.dtype == like.dtype:
        return statistics
    return statistics.to(device=like.device, dtype=like.dtype)


def gaps(x: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Return which features are there, by a mask or else where x is not NaN; None if all are."""
    if mask is None:
        # a sum goes over x once and writes nothing
        if x.layout == torch.sparse_csr or not bool(x.sum().isnan()):
            return None
        mask = ~x.isnan()
    return None if bool(mask.all()) else mask


class _SparseProduct(torch.autograd.Function):
    """``x @ eta.T`` of sparse rows x, which are constants."""

    @staticmethod
    def forward(ctx: Any, eta: Tensor, x: Tensor) -> Tensor:
        ctx.x = x
        return x @ eta.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return weighed_rows(gradient, ctx.x), None


def weighed_rows(weights: Tensor, x: Tensor) -> Tensor:
    """Return ``weights.T @ x``, (n_points, n_outputs), of dense or sparse rows x."""
    if x.layout == torch.sparse_csr:
        return (x.t() @ weights).T
    return weights.T @ x


class _Weighed(torch.autograd.Function):
    """The gradient of ``sum_j weights_ij x_i . eta_j`` with respect to x and eta, and no value."""

    @staticmethod
    def forward(ctx: Any, eta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        ctx.x = x  # may be sparse
        ctx.save_for_backward(eta, weights)
        return eta.new_zeros(len(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        eta, weights = ctx.saved_tensors
        x = ctx.x
        weights = weights * gradient[:, None]
        to_eta = weighed_rows(weights, x) if ctx.needs_input_grad[0] else None
        to_x = weights @ eta if ctx.needs_input_grad[1] else None
        return to_eta, to_x, None


def weighed(eta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Return what has the gradient of ``sum_j weights_ij x_i . eta_j``, and no value, (n,)."""
    result: Tensor = _Weighed.apply(eta, x, weights)
    return result


def row_numbers(x: Tensor) -> Tensor:
    """Return the row of each value of a sparse tensor, (n_values,)."""
    counts = x.crow_indices().diff()
    return torch.arange(len(counts), device=x.device).repeat_interleave(counts)


def row_sums(x: Tensor) -> Tensor:
    """Return the sum of each dense or sparse row, (n,)."""
    if x.layout != torch.sparse_csr:
        return x.sum(1)
    return x.values().new_zeros(len(x)).index_add_(0, row_numbers(x), x.values())


def with_values(x: Tensor, values: Tensor) -> Tensor:
    """Return a sparse tensor with other values in the same places."""
    parts = x.crow_indices(), x.col_indices(), values
    return torch.sparse_csr_tensor(*parts, size=x.shape, check_invariants=False)
