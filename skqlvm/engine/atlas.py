"""The decoded evaluation lattice: all that queries need of a decoder, decoded once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .likelihoods import Likelihood
from .precision import matmul_precision

_WIDEST_FACTORED = 2048
"""Above so many features the decomposition would cost more than it saves."""

_ROUNDING = 3e-7
"""Directions whose singular value is below this fraction of the largest hold nothing but the
rounding of float32."""


class Atlas(NamedTuple):
    """Natural parameters over a lattice, as ``eta = center + coordinates @ directions``.

    A decoder whose last layer is linear and narrower than the data spans few directions: projecting
    data on them first makes the table of log-likelihoods cheaper by about d / r. Without such a
    saving, the coordinates are eta itself and the directions are None.

    Attributes
    ----------
    points : Tensor of shape (n_points, n_components)
        In turns, float64.
    coordinates : Tensor of shape (n_points, n_directions)
    directions : Tensor of shape (n_directions, n_features), or None
        Orthonormal.
    center : Tensor of shape (n_features,)
    log_normalizer : Tensor of shape (n_points,)
        A(eta), summed over the features.
    """

    points: Tensor
    coordinates: Tensor
    directions: Tensor | None
    center: Tensor
    log_normalizer: Tensor

    def cpu(self) -> Atlas:
        """Return the atlas on the processor."""
        directions = None if self.directions is None else self.directions.cpu()
        return Atlas(
            self.points.cpu(),
            self.coordinates.cpu(),
            directions,
            self.center.cpu(),
            self.log_normalizer.cpu(),
        )

    def relative(self, likelihood: Likelihood, x: Tensor) -> Tensor:
        """Return log p(x_i | z_j) less `offset`, in the dtype of x: all that a posterior needs, x
        (n, d) -> (n, m)."""
        statistics = likelihood.statistics(x)
        with matmul_precision("highest"):
            reduced = (
                statistics if self.directions is None else statistics @ self.directions.to(x).T
            )
            return torch.addmm(-self.log_normalizer.to(x), reduced, self.coordinates.to(x).T)

    def offset(self, likelihood: Likelihood, x: Tensor) -> Tensor:
        """Return what log p(x_i | z_j) owes to the row alone, in nats: x (n, d) -> (n,)."""
        with matmul_precision("highest"):
            return likelihood.statistics(x) @ self.center.to(x) + likelihood.log_base(x)

    def table(self, likelihood: Likelihood, x: Tensor) -> Tensor:
        """Return log p(x_i | z_j) in nats, in the dtype of x: x (n, d) -> (n, m)."""
        return self.relative(likelihood, x) + self.offset(likelihood, x)[:, None]


def chart(
    likelihood: Likelihood, outputs: Tensor, points: Tensor, *, factored: bool = True
) -> Atlas:
    """Return the atlas of decoder outputs (n_points, n_features) at points (n_points,
    n_components).

    Factoring it pays where it is asked for many rows.
    """
    eta = likelihood.natural(outputs)
    normalizer = torch.cat([likelihood.log_normalizer(part.double()) for part in eta.split(1024)])
    points = points.to(eta.device)
    center, coordinates, directions = (
        _factored(eta) if factored else (eta.new_zeros(eta.shape[1]), eta, None)
    )
    return Atlas(points, coordinates, directions, center, normalizer)


def _factored(eta: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Split eta into its mean over the points, and the part that varies in as few directions as it
    does."""
    n_points, n_features = eta.shape
    if n_features > _WIDEST_FACTORED:
        return eta.new_zeros(n_features), eta, None
    center = eta.double().mean(0)
    centered = eta.double() - center
    squares, vectors = torch.linalg.eigh(centered.T @ centered)
    kept = squares.clamp(min=0).sqrt() > _ROUNDING * squares[-1].clamp(min=0).sqrt()
    rank = int(kept.sum())
    if rank * (n_points + n_features) >= n_points * n_features:
        return eta.new_zeros(n_features), eta, None
    directions = vectors[:, kept].T
    return center, (centered @ directions.T).to(eta), directions.to(eta)
