"""The marginal likelihood over a shifted lattice, as it is trained: the same but for the shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from . import lattices, objectives, torus
from .conditions import by_group
from .harmonics import TorusBasis
from .likelihoods import Terms
from .memory import affordable_points
from .models import Model
from .networks import ConvDecoder, MLPDecoder
from .rows import split
from .transformations import Copies, copied

Decode = Callable[[Tensor], Tensor]

_FINE = 0.4
"""Fraction of a training from which on its lattice is the fine one; chosen on held-out rows."""

_COARSE = 89
"""Points of the lattice that shows which copies of a row have evidence."""


class ShiftedLattice:
    """A lattice that is decoded under one shift after another.

    Parameters
    ----------
    decoder : Module
    points : Tensor of shape (n_points, n_components)
        In turns, float64.
    """

    def __init__(self, decoder: nn.Module, points: Tensor) -> None:
        self.decoder = decoder
        self.points = points.to(next(decoder.parameters()).device)

    @property
    def rows(self) -> Tensor:
        """What stands for the points whatever the shift, a row each."""
        return self.points

    def decode(self, shift: Tensor, condition: Tensor | None = None) -> Decode:
        """Return the map from some of `rows` to outputs under a shift (k,) in turns, float64.

        With a condition (n_conditions,), which is told beside every point.
        """
        like = next(self.decoder.parameters())

        def outputs(rows: Tensor) -> Tensor:
            points = torus.wrap(rows + shift.to(rows)).to(like)
            if condition is not None:
                points = torch.cat([points, condition.to(points).expand(len(points), -1)], 1)
            decoded: Tensor = self.decoder(points)
            return decoded

        return outputs


class LatticeOfWaves(ShiftedLattice):
    """A lattice for built-in decoders, under which no shift costs a cosine.

    Its rows are the waves of the unshifted points; a shift turns the weights of the first layer
    instead. Harmonics that do not pass are left out.
    """

    def __init__(self, decoder: MLPDecoder | ConvDecoder, points: Tensor) -> None:
        super().__init__(decoder, points)
        self.weights, self.decode_waves = decoder.weights, decoder.decode_waves
        start = decoder.start if isinstance(decoder, ConvDecoder) else decoder
        self.layers, self.basis = start.layers, cast(TorusBasis, start.basis)
        like = next(decoder.parameters())
        self.cos, self.sin = self.basis.waves(self.points).to(like).chunk(2, 1)
        self.open = self.cos.new_empty(0, 0)

    @property
    def rows(self) -> Tensor:
        """The cosines, and then the sines, of harmonics that pass; rounded where layers are."""
        n_open, dtype = self.basis.n_open, self.layers.dtype
        if self.open.shape[1] != 2 * n_open or self.open.dtype != dtype:
            self.open = torch.cat([self.cos[:, :n_open], self.sin[:, :n_open]], 1).to(dtype)
        return self.open

    def decode(self, shift: Tensor, condition: Tensor | None = None) -> Decode:
        """Return the map from some of `rows` to outputs under a shift and a condition."""
        weights = self.weights(shift, condition)
        return lambda rows: self.decode_waves(rows, weights)


def shifted_lattice(decoder: nn.Module, points: Tensor) -> ShiftedLattice:
    """Return the lattice that a decoder is fastest with."""
    if type(decoder) in (MLPDecoder, ConvDecoder):
        start = cast(MLPDecoder, getattr(decoder, "start", decoder))
        if isinstance(start.basis, TorusBasis) and isinstance(start.layers[0], nn.Linear):
            return LatticeOfWaves(cast(MLPDecoder | ConvDecoder, decoder), points)
    return ShiftedLattice(decoder, points)


class LatticeBound:
    """Nats a row of ``log 1/m sum_j p(x_i | z_j + shift)``, whose graph is of bounded size.

    Parameters
    ----------
    model : Model
    points : Tensor of shape (n_points, n_components)
        The lattice, in turns, float64.
    x : Tensor of shape (n_samples, n_features)
        Rows by which memory is measured: as many as there are at a time.
    n_bytes : int
        Memory that the graph may take.
    spared : float or None
        See `objectives.lattice_bound`.
    n_copies : int, optional
        Copies of a row, of those that the model's transformations make, that take part: the ones
        of most evidence on a coarse lattice. What is left out makes the bound lower. All by
        default.
    """

    def __init__(
        self,
        model: Model,
        points: Tensor,
        x: Tensor,
        *,
        n_bytes: int,
        spared: float | None,
        n_copies: int | None = None,
    ) -> None:
        self.model, self.spared = model, spared
        self.lattice = shifted_lattice(model.decoder, points)
        self.unmoved = points.new_zeros(points.shape[1])
        self.n_copies = model.n_copies if n_copies is None else min(n_copies, model.n_copies)
        coarse = lattices.lattice(points.shape[1], min(_COARSE, len(points)))
        chooses = self.n_copies < model.n_copies
        self.coarse = shifted_lattice(model.decoder, coarse) if chooses else None
        copies = copied(model.transformations, model.likelihood, x)
        condition = None if model.conditions is None else model.conditions.vectors[0]
        table = self._table(copies.terms, self.lattice.decode(self.unmoved, condition))
        self.n_at_once = affordable_points(table, self.lattice.rows, n_bytes)

    def __call__(
        self, x: Tensor, shift: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Return the bound of rows x (n, d), in nats, (n,); without a shift the lattice's own.

        The weights (n,) of rows say which points the gradient goes through. Where the model has
        conditions, the lattice is decoded for each group that occurs.
        """
        shift, conditions = self.unmoved if shift is None else shift, self.model.conditions
        if conditions is None:
            return self._bound(x, shift, weight, None)

        def of_group(number: int, rows: Tensor) -> Tensor:
            own = None if weight is None else weight[rows]
            return self._bound(x[rows], shift, own, conditions.vectors[number])

        return by_group(conditions, x, of_group)

    def _bound(
        self, x: Tensor, shift: Tensor, weight: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        """The bound of rows under one condition."""
        copies, decode = self._copies(x, shift, condition), self.lattice.decode(shift, condition)
        terms = copies.terms
        bound = objectives.lattice_bound(
            self._table(terms, decode),
            self.lattice.rows,
            self.n_at_once,
            spared=self.spared,
            expected=lambda rows, r: self.model.likelihood.expected(terms, decode(rows), r),
            log_copies=copies.log_weight,
            row_weight=weight,
        )
        return bound + copies.base

    def _copies(self, x: Tensor, shift: Tensor, condition: Tensor | None) -> Copies:
        """The copies of rows x that have most evidence on the coarse lattice under a shift."""
        copies = copied(self.model.transformations, self.model.likelihood, x)
        if self.coarse is None or copies.log_weight is None:
            return copies
        with torch.no_grad():
            decode = self.coarse.decode(shift, condition)
            table = self._table(copies.terms, decode)(self.coarse.rows)
            log_px = objectives.log_sum_exp_(table, 1).view_as(copies.log_weight)
            likely = (log_px + copies.log_weight).topk(self.n_copies, 1).indices
        return copies.chosen(likely)

    def _table(self, terms: Terms, decode: Decode) -> Decode:
        return lambda rows: self.model.likelihood.table(terms, decode(rows))


class TrainingBound:
    """The bound on lattices that a training goes over: a coarse one first, then a fine one.

    Early posteriors are broad. Bounds without a shift, by which trainings are compared, are on the
    last lattice.

    Parameters
    ----------
    model : Model
    points : sequence of Tensor of shape (n_points, n_components)
        One lattice or two, in turns, float64.
    x, n_bytes, spared, n_copies
        As for `LatticeBound`.
    """

    def __init__(
        self,
        model: Model,
        points: Sequence[Tensor],
        x: Tensor,
        *,
        n_bytes: int,
        spared: float | None,
        n_copies: int | None = None,
    ) -> None:
        bounds = [
            LatticeBound(model, z, x, n_bytes=n_bytes, spared=spared, n_copies=n_copies)
            for z in points
        ]
        self.model, self.coarse, self.fine = model, bounds[0], bounds[-1]

    @property
    def n_at_once(self) -> int:
        """Points that may be decoded at once with a graph."""
        return self.fine.n_at_once

    def __call__(
        self, x: Tensor, generator: torch.Generator | None, weight: Tensor | None = None
    ) -> Tensor:
        """Return the bound of rows x (n, d), some weighted, under a random shift.

        Without a generator there is none.
        """
        if generator is None:
            n_rows = max(1, len(x) // self.model.n_copies)
            return torch.cat([self.fine(some) for some in split(x, n_rows)])
        bound = self.coarse if self.model.progress < _FINE else self.fine
        return bound(x, lattices.random_shift(self.model.n_components, generator), weight)
