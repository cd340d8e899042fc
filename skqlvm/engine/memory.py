"""How much memory a computation takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def is_available(n_bytes: int, device: torch.device) -> bool:
    """Whether a device hands out so much memory; none of it is touched."""
    try:
        torch.empty(n_bytes, dtype=torch.uint8, device=device)
    except (RuntimeError, TypeError, OverflowError):
        return False
    return True


def affordable_points(table: Callable[[Tensor], Tensor], points: Tensor, n_bytes: int) -> int:
    """Return how many points may be decoded at once for their graph to stay within `n_bytes`.

    Measured by what autograd keeps for a table of log-likelihoods at 2 and at 4 points, so that it
    holds for any decoder.

    Parameters
    ----------
    table : callable
        Maps points of shape (m, k) to log p(x_i | z_j) of shape (n, m).
    points : Tensor of shape (n_points, n_components)
        Some, to measure with.
    n_bytes : int
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
    return max(1, n_bytes // per_point)
