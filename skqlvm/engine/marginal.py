"""The marginal likelihood over a shifted lattice, as it is trained: the same but for the shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from . import objectives, torus
from .likelihoods import Terms
from .memory import affordable_points
from .models import Model
from .networks import ConvDecoder, MLPDecoder, TorusBasis

Decode = Callable[[Tensor], Tensor]


class ShiftedLattice:
    """A lattice that is decoded under one shift after another.

    Built-in decoders get by without a cosine: the waves of the lattice are computed once, and a
    shift turns the weights of the first layer instead. Harmonics that do not pass cost nothing.

    Parameters
    ----------
    decoder : Module
    points : Tensor of shape (n_points, n_components)
        In turns, float64.
    """

    def __init__(self, decoder: nn.Module, points: Tensor) -> None:
        like = next(decoder.parameters())
        self.decoder, self.points = decoder, points.to(like.device)
        self.waves = None
        if type(decoder) in (MLPDecoder, ConvDecoder):
            self.waves = _Waves(cast(MLPDecoder | ConvDecoder, decoder), self.points)

    def decode(self, shift: Tensor) -> Decode:
        """Return the map from numbers of points (a,) to outputs (a, n_outputs) under a shift (k,).

        The numbers are those of the rows of `points`; the shift is in turns, float64.
        """
        if self.waves is not None:
            return self.waves.decode(shift)
        moved = torus.wrap(self.points + shift.to(self.points))
        moved = moved.to(next(self.decoder.parameters()))
        return lambda index: self.decoder(moved[index])


class _Waves:
    """Harmonics of a lattice, for a decoder that starts with them."""

    def __init__(self, decoder: MLPDecoder | ConvDecoder, points: Tensor) -> None:
        start = decoder.start if isinstance(decoder, ConvDecoder) else decoder
        self.decoder, self.basis = decoder, cast(TorusBasis, start.basis)
        self.weight = cast(Tensor, start.layers[0].weight)
        self.halves = self.basis.waves(points).to(self.weight).chunk(2, 1)
        self.open = self.weight.new_empty(0, 0)

    def decode(self, shift: Tensor) -> Decode:
        n_open = self.basis.n_open
        if self.open.shape[1] != 2 * n_open:
            self.open = torch.cat([half[:, :n_open] for half in self.halves], 1)
        waves, weight = self.open, self.basis.turned(self.weight, shift)
        return lambda index: self.decoder.decode_waves(waves[index], weight)


class LatticeBound:
    """Nats a row of ``log 1/m sum_j p(x_i | z_j + shift)``, differentiable in bounded memory.

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
    """

    def __init__(
        self, model: Model, points: Tensor, x: Tensor, *, n_bytes: int, spared: float | None
    ) -> None:
        self.model, self.spared = model, spared
        self.lattice = ShiftedLattice(model.decoder, points)
        self.index = torch.arange(len(points), device=model.like.device)
        self.unmoved = points.new_zeros(points.shape[1])
        table = self._table(model.likelihood.terms(x), self.lattice.decode(self.unmoved))
        self.n_at_once = affordable_points(table, self.index, n_bytes)

    def __call__(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the bound of rows x (n, d), in nats, (n,); without a shift the lattice's own."""
        decode = self.lattice.decode(self.unmoved if shift is None else shift)
        terms = self.model.likelihood.terms(x)
        bound = objectives.lattice_bound(
            self._table(terms, decode),
            self.index,
            self.n_at_once,
            spared=self.spared,
            expected=lambda index, r: self.model.likelihood.expected(terms, decode(index), r),
        )
        return bound + terms.base

    def _table(self, terms: Terms, decode: Decode) -> Decode:
        return lambda index: self.model.likelihood.table(terms, decode(index))
