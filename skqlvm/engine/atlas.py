"""The decoded evaluation lattice: all that queries need of a decoder, decoded once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .likelihoods import ExponentialFamily
from .precision import full_precision

_WIDEST_FACTORED = 2048
"""Above so many outputs the decomposition would cost more than it saves."""

_ROUNDING = 3e-7
"""Directions whose singular value is below this fraction of the largest are float32's rounding."""


class Atlas(NamedTuple):
    """Natural parameters over a lattice, as ``eta = center + coordinates @ directions``.

    A decoder whose last layer is linear and narrower than the data spans few directions: projecting
    data on them first makes the table of log-likelihoods cheaper by about d / r. Without such a
    saving, the coordinates are eta itself and the directions are None.

    Attributes
    ----------
    points : Tensor of shape (n_points, n_components)
        In turns or on a line, as the prior has it, float64.
    coordinates : Tensor of shape (n_points, n_directions)
    directions : Tensor of shape (n_directions, n_outputs), or None
        Orthonormal.
    center : Tensor of shape (n_outputs,)
    bias : Tensor of shape (n_points,)
        The part of log w that is the same for all rows: the point's log weight in the quadrature
        less the log-normaliser, ``sum_d A_d(eta_d)``, in nats, float64.
    """

    points: Tensor
    coordinates: Tensor
    directions: Tensor | None
    center: Tensor
    bias: Tensor

    @property
    def n_bytes(self) -> int:
        """Memory that the atlas takes."""
        return sum(part.numel() * part.element_size() for part in self if part is not None)

    def cpu(self) -> Atlas:
        """Return the atlas on the processor."""
        directions = None if self.directions is None else self.directions.cpu()
        points, coordinates = self.points.cpu(), self.coordinates.cpu()
        return Atlas(points, coordinates, directions, self.center.cpu(), self.bias.cpu())

    def along(self, other: Atlas) -> Atlas:
        """Return the atlas in the directions of another one, if it lies in them; else itself.

        Products for single points are cheaper then, as they are few. This one is not factored.
        """
        if other.directions is None:
            return self
        center, directions = other.center, other.directions
        with full_precision():
            coordinates = (self.coordinates - center.to(self.coordinates)) @ directions.T
            again = torch.addmm(center.to(coordinates), coordinates, directions)
        distance = (again - self.coordinates).abs().amax()
        if float(distance) > _ROUNDING * len(directions) * float(self.coordinates.abs().amax()):
            return self
        return Atlas(self.points, coordinates, directions, center, self.bias)

    def relative(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return log w_ij less `offset`: all that a posterior needs.

        Parameters
        ----------
        likelihood : ExponentialFamily
        x : Tensor of shape (n_samples, n_features)

        Returns
        -------
        Tensor of shape (n_samples, n_points)
            In the dtype of x; log w_ij is log p(x_i | z_j) and the log weight of the point.
        """
        statistics = likelihood.statistics(x)
        with full_precision():
            if self.directions is not None:
                statistics = statistics @ self.directions.to(x).T
            return torch.addmm(self.bias.to(x), statistics, self.coordinates.to(x).T)

    def paired(self, likelihood: ExponentialFamily, x: Tensor, index: Tensor) -> Tensor:
        """Return log w_ij less `offset`, as `relative` has it, at points of each row's own.

        Parameters
        ----------
        likelihood : ExponentialFamily
        x : Tensor of shape (n_samples, n_features)
        index : Tensor of shape (n_samples, n_some), int64

        Returns
        -------
        Tensor of shape (n_samples, n_some)
        """
        statistics = likelihood.statistics(x)
        with full_precision():
            if self.directions is not None:
                statistics = statistics @ self.directions.to(x).T
            products = self.coordinates[index].to(x) @ statistics[:, :, None]
        return products[:, :, 0] + self.bias.to(x)[index]

    def offset(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return the part of log w_ij that is the same at all points, in nats: x (n, d) -> (n,)."""
        terms = likelihood.terms(x)
        with full_precision():
            return terms.statistics @ self.center.to(x) + terms.base

    def table(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return log w_ij in nats, in the dtype of x: x (n, d) -> (n, m)."""
        return self.relative(likelihood, x) + self.offset(likelihood, x)[:, None]


def chart(
    likelihood: ExponentialFamily,
    outputs: Tensor,
    points: Tensor,
    log_weight: Tensor,
    *,
    factored: bool = True,
) -> Atlas:
    """Return the atlas of decoder outputs at points of a quadrature.

    Factoring it pays where it is asked for many rows.

    Parameters
    ----------
    likelihood : ExponentialFamily
    outputs : Tensor of shape (n_points, n_outputs)
    points : Tensor of shape (n_points, n_components)
    log_weight : Tensor of shape (n_points,)
        Zero where the points are spread as the prior is.
    factored : bool
    """
    eta = likelihood.natural(outputs)
    parts = [likelihood.total_log_normalizer(part.double()) for part in eta.split(512)]
    points = points.to(eta.device)
    bias = log_weight.to(eta.device).double() - torch.cat(parts)
    whole = (eta.new_zeros(eta.shape[1]), eta, None)
    center, coordinates, directions = _factored(eta) if factored else whole
    return Atlas(points, coordinates, directions, center, bias)


def _factored(eta: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Split eta into its mean over the points, and the part that varies.

    That part has as few directions as it varies in.
    """
    n_points, n_outputs = eta.shape
    if n_outputs > _WIDEST_FACTORED:
        return eta.new_zeros(n_outputs), eta, None
    center = eta.double().mean(0)
    centered = eta.double() - center
    squares, vectors = torch.linalg.eigh(centered.T @ centered)
    kept = squares.clamp(min=0).sqrt() > _ROUNDING * squares[-1].clamp(min=0).sqrt()
    rank = int(kept.sum())
    if rank * (n_points + n_outputs) >= n_points * n_outputs:
        return eta.new_zeros(n_outputs), eta, None
    directions = vectors[:, kept].T
    return center, (centered @ directions.T).to(eta), directions.to(eta)
