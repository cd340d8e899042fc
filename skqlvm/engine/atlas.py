"""The decoded evaluation lattice: all that queries need of a decoder, decoded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import lattices
from .likelihoods import ExponentialFamily
from .precision import full_precision
from .rows import entries, product

WIDEST_WHOLE = 2048
"""Outputs up to which directions are those of all points; of more, `spanned` seeks them."""

_SAMPLED = 640
"""Points among which the directions of many outputs are sought: more than layers are wide."""

_AT_ONCE = 512
"""Points with many outputs that are decoded at a time."""

_ROUNDING = 3e-7
"""Directions whose singular value is below this fraction of the largest are float32's rounding."""


class Normalizers(NamedTuple):
    """Log-normalisers over a lattice, one by one: what rows with gaps need beside their sum.

    Attributes
    ----------
    centered : Tensor of shape (n_points, n_normalizers)
        ``A_d(eta_d)`` less its mean over the points, in the dtype of the rows.
    mean : Tensor of shape (n_normalizers,)
        In float64.
    """

    centered: Tensor
    mean: Tensor


class Joined(NamedTuple):
    """Coordinates and bias of an atlas side by side, and memory for tables.

    Attributes
    ----------
    matrix : Tensor of shape (n_points, n_directions + 1)
        In the dtype of the rows.
    table : Tensor of shape (n_rows, n_points)
        What each product is written to, as far as it has rows.
    """

    matrix: Tensor
    table: Tensor

    def product(self, statistics: Tensor) -> Tensor:
        """Return ``statistics @ coordinates.T + bias``, (n, m), written over the last one."""
        padded = F.pad(statistics, (0, 1), value=1.0)
        return torch.mm(padded, self.matrix.T, out=self.table[: len(padded)])


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
        The part of log w that is the same for all complete rows: the point's log weight in the
        quadrature less the log-normaliser, ``sum_d A_d(eta_d)``, in nats, float64.
    log_weight : Tensor of shape (n_points,)
        The point's log weight alone.
    normalizers : Normalizers or None
        Where rows with gaps are going to ask; see `with_normalizers`.
    joined : Joined or None
        Where many rows are going to ask, whose tables are read once; see `joining`.
    """

    points: Tensor
    coordinates: Tensor
    directions: Tensor | None
    center: Tensor
    bias: Tensor
    log_weight: Tensor
    normalizers: Normalizers | None = None
    joined: Joined | None = None

    @property
    def n_bytes(self) -> int:
        """Memory that the atlas takes."""
        parts = [part for part in self if isinstance(part, Tensor)]
        return sum(part.numel() * part.element_size() for part in parts)

    def cpu(self) -> Atlas:
        """Return the atlas on the processor."""
        parts = self._asdict().items()
        moved = {name: part.cpu() for name, part in parts if isinstance(part, Tensor)}
        return self._replace(**moved, normalizers=None, joined=None)

    def joining(self, dtype: torch.dtype, n_rows: int) -> Atlas:
        """Return the atlas for tables of up to `n_rows` rows of a dtype, of which the next one is
        written over the last.

        Each is one product then, and takes no new memory.
        """
        coordinates = self.coordinates.to(dtype)
        matrix = torch.cat([coordinates, self.bias.to(coordinates)[:, None]], 1)
        return self._replace(joined=Joined(matrix, matrix.new_empty(n_rows, len(matrix))))

    def with_normalizers(self, likelihood: ExponentialFamily, dtype: torch.dtype) -> Atlas:
        """Return the atlas with what rows with gaps need, in their dtype.

        Without it, that is computed at every call.
        """
        return self._replace(normalizers=self._normalizers_of(likelihood, dtype))

    def averaged(self, scale: float) -> Atlas:
        """Return the atlas whose log w_ij are means over a normal density around each point.

        Of a rank-1 lattice on the torus. They are linear in the natural parameters and in the
        log-normalisers, which are averaged once for all rows; see `lattices.averaged`.
        """

        def mean(values: Tensor) -> Tensor:
            return lattices.averaged(values, self.points.cpu(), scale)

        bias, log_weight = mean(torch.stack([self.bias, self.log_weight], 1)).unbind(1)
        normalizers = self.normalizers
        if normalizers is not None:
            normalizers = normalizers._replace(centered=mean(normalizers.centered))
        return self._replace(
            coordinates=mean(self.coordinates),
            bias=bias,
            log_weight=log_weight,
            normalizers=normalizers,
            joined=None,
        )

    def _normalizers_of(self, likelihood: ExponentialFamily, dtype: torch.dtype) -> Normalizers:
        if self.normalizers is not None and self.normalizers.centered.dtype == dtype:
            return self.normalizers
        shape = len(self.coordinates), likelihood.n_normalizers
        values = self.center.new_empty(shape, dtype=dtype)
        for coordinates, part in zip(self.coordinates.split(512), values.split(512), strict=True):
            eta = coordinates.to(dtype)
            if self.directions is not None:
                with full_precision():
                    eta = self.center.to(dtype) + eta @ self.directions.to(dtype)
            part.copy_(likelihood.log_normalizer(eta))
        mean = values.mean(0, dtype=torch.float64)
        return Normalizers(values.sub_(mean.to(dtype)), mean)

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
        statistics, weight = likelihood.sufficient(x)
        like = entries(x)
        with full_precision():
            if self.directions is not None:
                statistics = product(statistics, self.directions.to(like))
            if statistics.layout == torch.sparse_csr:
                table = product(statistics, self.coordinates.to(like)).add_(self.bias.to(like))
            elif self.joined is not None:
                table = self.joined.product(statistics)
            else:
                table = torch.addmm(self.bias.to(like), statistics, self.coordinates.to(like).T)
            return table if weight is None else self._reweighed_(likelihood, table, weight)

    def _reweighed_(self, likelihood: ExponentialFamily, table: Tensor, weight: Tensor) -> Tensor:
        """Make a table of rows as if complete that of their weights, in place.

        Complete rows are left as they are, bit for bit.
        """
        total = (self.log_weight - self.bias).to(table)
        rows = _reweighed(weight).nonzero()[:, 0]
        if weight.shape[1] == 1:
            return table.index_add_(0, rows, (1 - weight[rows]) * total)
        normalizers = self._normalizers_of(likelihood, table.dtype).centered
        if len(rows) == len(table):
            return table.add_(total).addmm_(weight, normalizers.T, alpha=-1)
        change = torch.addmm(total, weight[rows], normalizers.T, alpha=-1)
        return table.index_add_(0, rows, change)

    def offset(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return the part of log w_ij that is the same at all points, in nats: x (n, d) -> (n,)."""
        terms = likelihood.terms(x)
        weight, center = terms.weight, self.center.to(entries(x))
        with full_precision():
            if terms.statistics.layout == torch.sparse_csr:
                return product(terms.statistics, center[None])[:, 0] + terms.base
            offset = terms.statistics @ center + terms.base
            if weight is None or weight.shape[1] == 1:
                return offset
            mean = self._normalizers_of(likelihood, offset.dtype).mean
            return torch.where(_reweighed(weight), offset - weight @ mean.to(offset), offset)

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
    points, log_weight = points.to(eta.device), log_weight.to(eta.device).double()
    bias = log_weight - torch.cat(parts)
    whole = (eta.new_zeros(eta.shape[1]), eta, None)
    center, coordinates, directions = _factored(eta) if factored else whole
    return Atlas(points, coordinates, directions, center, bias, log_weight)


def spanned(
    likelihood: ExponentialFamily,
    decode: Callable[[Tensor], Tensor],
    points: Tensor,
    log_weight: Tensor,
) -> Atlas | None:
    """Return the factored atlas of points whose outputs are too many to be held together.

    The directions are those that eta spans at some of the points; where others turn out not to lie
    in them, they are joined by those that these lack.

    Parameters
    ----------
    likelihood : ExponentialFamily
    decode : callable
        Maps points (m, k) to outputs (m, n_outputs).
    points, log_weight
        As for `chart`.

    Returns
    -------
    Atlas or None
        None where directions are not worth it.
    """
    # at random: every tenth point of a lattice, say, may lie on a line
    numbers = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    center, directions = _span(likelihood.natural(decode(points[numbers[:_SAMPLED]])))
    n_points, n_outputs = len(points), len(center)
    coordinates, totals = [], []
    for part in points.split(_AT_ONCE):
        if len(directions) * (n_points + n_outputs) >= n_points * n_outputs:
            return None
        eta = likelihood.natural(decode(part))
        totals.append(likelihood.total_log_normalizer(eta.double()))
        found = _along(eta, center, directions)
        if found is None:
            directions = _extended(directions, eta, center)
            found = _along(eta, center, directions)
        if found is None:
            return None
        coordinates.append(found)
    padded = [F.pad(part, (0, len(directions) - part.shape[1])) for part in coordinates]
    log_weight = log_weight.to(center.device).double()
    bias = log_weight - torch.cat(totals)
    return Atlas(points, torch.cat(padded), directions, center, bias, log_weight)


def _span(eta: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of eta over few points of many outputs, and the directions that it varies in."""
    center = eta.double().mean(0)
    return center, _directions(eta.double() - center, float(eta.abs().amax())).to(eta)


def _extended(directions: Tensor, eta: Tensor, center: Tensor) -> Tensor:
    """Directions, and those that the eta of further points have beside them."""
    before, rest = directions.double(), eta.double() - center
    for _ in range(2):  # once more, for what rounding has left
        rest = rest - (rest @ before.T) @ before
    return torch.cat([directions, _directions(rest, float(eta.abs().amax())).to(directions)])


def _directions(rest: Tensor, largest: float) -> Tensor:
    """An orthonormal basis of few rows, less what is rounding of numbers up to the largest."""
    squares, vectors = torch.linalg.eigh(rest @ rest.T)
    rounding = torch.finfo(torch.float32).eps * largest * sum(n**0.5 for n in rest.shape)
    kept = squares.clamp(min=0).sqrt() > max(rounding, _ROUNDING * float(squares[-1]) ** 0.5)
    return torch.linalg.qr(rest.T @ vectors[:, kept]).Q.T


def _along(eta: Tensor, center: Tensor, directions: Tensor) -> Tensor | None:
    """The coordinates of eta in directions, or None if it does not lie in them."""
    center = center.to(eta)
    with full_precision():
        coordinates = (eta - center) @ directions.T
        again = torch.addmm(center, coordinates, directions)
    distance = (again - eta).abs().amax()
    lies = float(distance) <= _ROUNDING * len(directions) * float(eta.abs().amax())
    return coordinates if lies else None


def _reweighed(weight: Tensor) -> Tensor:
    """Which rows do not have each log-normaliser once, (n,), bool."""
    return (weight != 1).any(1)


def _factored(eta: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Split eta into its mean over the points, and the part that varies.

    That part has as few directions as it varies in.
    """
    n_points, n_outputs = eta.shape
    if n_outputs > WIDEST_WHOLE:
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
