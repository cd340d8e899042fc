"""What is maximised: functions of log importance weights, in nats."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def log_mean_exp(log_w: Tensor, dim: int = -1) -> Tensor:
    """Return ``log(1/m sum_j exp(log_w_j))`` over one axis; the ``- log m`` is what makes it a likelihood."""
    return torch.logsumexp(log_w, dim) - log(log_w.shape[dim])


def lattice_bound(table: Callable[[Tensor], Tensor], points: Tensor, chunk_size: int | None = None) -> Tensor:
    """Return the lattice's bound on log p(x) for each row, differentiable in memory that does not grow with the lattice.

    ``log 1/m sum_j p(x_i | z_j)``; its expectation over random shifts is at most log p(x_i) (equation 6 of arXiv 2601.18676). With a
    `chunk_size` the lattice is passed twice: once without a graph for the log-sum-exp, and once more on the way back, a chunk at a time.
    The gradient is the same.

    Parameters
    ----------
    table : callable
        Maps points of shape (m, k) to log p(x_i | z_j) of shape (n, m).
    points : Tensor of shape (n_points, n_components)
        The shifted lattice, in turns.
    chunk_size : int, optional
        Points that are decoded at a time; all at once by default.

    Returns
    -------
    Tensor of shape (n_samples,)
        In nats.
    """
    if chunk_size is None or chunk_size >= len(points):
        return log_mean_exp(table(points))

    def partial(chunk: Tensor) -> Tensor:
        return torch.logsumexp(table(chunk), 1)

    sums = [checkpoint(partial, chunk, use_reentrant=False) for chunk in points.split(chunk_size)]
    return torch.logsumexp(torch.stack(sums, 1), 1) - log(len(points))


def affordable_points(table: Callable[[Tensor], Tensor], points: Tensor, n_bytes: int) -> int:
    """Return how many of the points may be decoded at once for what autograd keeps of them to stay within `n_bytes`.

    Measured on the table's own graph, with 2 and with 4 points, so that it holds for any decoder.
    """

    def kept(n_points: int) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = table(points[torch.arange(n_points) % len(points)])
        del result
        return sum(storages.values())

    per_point = max(1, (kept(4) - kept(2)) // 2)
    return min(len(points), max(1, n_bytes // per_point))
