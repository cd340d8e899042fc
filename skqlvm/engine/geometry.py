"""Geometry of decoders: derivatives, pulled-back metrics, and energies of curves.

A decoder maps each point for itself, so that one pass gives the derivatives by a coordinate at all
points: as many passes as coordinates, whatever the number of features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import RLock

import torch
from torch import Tensor
from torch.autograd import forward_ad, grad

Function = Callable[[Tensor], Tensor]
"""From points (n, k) to values (n, p), a point's values by this point alone."""

_lock = RLock()
"""Levels of forward mode are the process's, not the thread's."""


def forward(function: Function, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (n, p) and their derivatives (n, p, k) at points z (n, k), by forward mode.

    Raises
    ------
    NotImplementedError
        If an operation has no forward mode, or drops derivatives.
    """
    columns, values = [], z
    for tangent in torch.eye(z.shape[1]).to(z):
        with _lock, torch.no_grad(), forward_ad.dual_level():
            values, column = forward_ad.unpack_dual(function(_dual(z, tangent.expand_as(z))))
        if column is None:
            raise NotImplementedError("an operation drops derivatives")
        columns.append(column)
    return values, torch.stack(columns).movedim(0, -1)


def reverse(function: Function, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `forward` does, by going back twice: J^T u is linear in u.

    Raises
    ------
    RuntimeError
        If an operation has no reverse mode, or none of second order.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        values = function(z)
        u = torch.zeros_like(values, requires_grad=True)
        (back,) = grad(values, z, u, create_graph=True)
        columns = [grad(back[:, i].sum(), u, retain_graph=True)[0] for i in range(z.shape[1])]
    return values.detach(), torch.stack(columns).movedim(0, -1)


def differences(function: Function, z: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return about what `forward` does, by central differences."""
    columns = [
        (function(z + move) - function(z - move)) / (2 * step)
        for move in step * torch.eye(z.shape[1]).to(z)
    ]
    return function(z), torch.stack(columns).movedim(0, -1)


def pullback(jacobian: Tensor) -> Tensor:
    """Return J^T J for derivatives (n, p, k), (n, k, k): squared lengths in the space of values."""
    return _products(jacobian, jacobian)


def fisher(log_normalizer: Function, eta: Tensor, jacobian: Tensor) -> Tensor:
    """Return the Fisher information of points, ``J^T A''(eta) J``, (n, k, k).

    Parameters
    ----------
    log_normalizer : callable
        From natural parameters (n, p) to sum_d A_d, (n,).
    eta : Tensor of shape (n, p)
    jacobian : Tensor of shape (n, p, k)
        Derivatives of eta.
    """
    with torch.enable_grad():
        eta = eta.detach().requires_grad_()
        slope = expected(log_normalizer, eta)
        bent = [
            grad(slope, eta, column, retain_graph=True, materialize_grads=True)[0]
            for column in jacobian.unbind(-1)
        ]
    return _products(jacobian, torch.stack(bent).movedim(0, -1))


def expected(log_normalizer: Function, eta: Tensor) -> Tensor:
    """Return ``A'(eta)``, the mean of T(x), of the shape of eta (..., p) and with its graph."""
    (slope,) = grad(log_normalizer(eta).sum(), eta, create_graph=True)
    return slope


def volume(metric: Tensor) -> Tensor:
    """Return the volume elements ``sqrt(det G)`` of metrics (n, k, k), (n,)."""
    return torch.linalg.det(metric).clamp(min=0).sqrt()


def steps(values: Tensor, dual: Tensor | None = None) -> Tensor:
    """Return the squared lengths of the steps of curves (..., n, p), (..., n - 1).

    Parameters
    ----------
    values : Tensor of shape (..., n, p)
        Where curves pass in the space of values, or their natural parameters.
    dual : Tensor of shape (..., n, p), optional
        Means of T(x) where values are natural parameters; a step is the sum of the Kullback-Leibler
        divergences there and back, the square of its Fisher length to third order.
    """
    moves = values.diff(dim=-2)
    return (moves * (moves if dual is None else dual.diff(dim=-2))).sum(-1)


def _dual(z: Tensor, tangent: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # the first call of a process compiles parts of torch in a way that torch deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        return forward_ad.make_dual(z, tangent.clone())


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return a^T b for (n, p, k), (n, k, k); columns lie apart in memory."""
    rows = [
        torch.stack([(left * right).sum(1) for right in b.unbind(-1)], -1) for left in a.unbind(-1)
    ]
    return torch.stack(rows, 1)
