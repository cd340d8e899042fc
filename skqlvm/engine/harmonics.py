"""The harmonics of a torus: what decoders of its points start from."""

from __future__ import annotations

from itertools import product
from math import pi

import torch
from torch import Tensor, nn

_INTRODUCED = 0.5
"""Fraction of a training by which `anneal` has brought in all harmonics."""


class TorusBasis(nn.Module):
    """Harmonics of the torus: ``cos(2 pi h . z)`` for all h, then ``sin(2 pi h . z)``.

    h runs over the integer vectors with ``1 <= |h_1| + ... + |h_k| <= order``, one of each pair
    +-h, in rising order. Order 1 is the paper's basis: the cosines and then the sines of the
    coordinates.

    Parameters
    ----------
    n_components : int
    order : int
    decay : float
        Harmonics of total degree s are scaled by ``s ** -decay``: what is learned first is smooth.
    """

    harmonics: Tensor
    scales: Tensor

    def __init__(self, n_components: int, order: int = 1, decay: float = 0.0) -> None:
        super().__init__()
        harmonics = torch.tensor(_harmonics(n_components, order), dtype=torch.float64)
        self.order, self.decay, self.n_features = order, decay, 2 * len(harmonics)
        self.register_buffer("harmonics", harmonics)
        self.register_buffer("scales", harmonics.new_empty(self.n_features))
        self.open(order)

    def open(self, order: float) -> None:
        """Let harmonics pass up to an order: one of 2.5 admits a half of degree 3."""
        degrees = self.harmonics.abs().sum(1).repeat(2)
        self.scales = degrees**-self.decay * (order - degrees + 1).clamp(0, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map turns of shape (..., n_components) to features of shape (..., n_features)."""
        return self.waves(z) * self.scales.to(z)

    @property
    def n_open(self) -> int:
        """Number of harmonics that pass at all: the first ones, as they rise in degree."""
        return int(self.scales.count_nonzero()) // 2

    def waves(self, z: Tensor) -> Tensor:
        """Return the harmonics at z before they are scaled, (..., n_features)."""
        turns = z[..., :1] * self.harmonics[:, 0].to(z)
        # a matrix product might round positions, and a sum over so short an axis is slow
        for i in range(1, z.shape[-1]):
            turns = turns + z[..., i : i + 1] * self.harmonics[:, i].to(z)
        angles = 2 * pi * turns
        return torch.cat([angles.cos(), angles.sin()], -1)

    def turned(self, weight: Tensor, shift: Tensor) -> Tensor:
        """Return a layer's weights for `waves` of points, in place of features of shifted ones.

        A shift turns each harmonic by an angle of its own, ``2 pi h . shift``, the same at all
        points: ``cos(a + t)`` and ``sin(a + t)`` are combinations of ``cos a`` and ``sin a``.

        Parameters
        ----------
        weight : Tensor of shape (n_outputs, n_features)
            Weights of a layer over the features.
        shift : Tensor of shape (n_components,)
            In turns, float64, on the processor.

        Returns
        -------
        Tensor of shape (n_outputs, 2 n_open)
            For the waves of the `n_open` harmonics that pass: their cosines, then their sines.
        """
        n_open = self.n_open
        angles = 2 * pi * (self.harmonics[:n_open].to(shift) @ shift)
        scales = self.scales[:n_open].to(shift)
        cos, sin = scales * angles.cos(), scales * angles.sin()
        halves = weight.unflatten(1, (2, -1))[..., :n_open]
        crossed = halves.flip(1) * torch.stack([sin, -sin]).to(weight)
        return (halves * cos.to(weight) + crossed).flatten(1)


def largest_order(n_components: int, n_harmonics: float, highest: int) -> int:
    """Return the largest order, from 1 to the highest, with at most so many harmonics."""
    orders = range(highest, 1, -1)
    fitting = (order for order in orders if len(_harmonics(n_components, order)) <= n_harmonics)
    return next(fitting, 1)


def anneal(module: nn.Module, fraction: float) -> None:
    """Open every torus basis in a module as far as a training that far should, from 0 to 1.

    From order 1 upwards: what is learned first, and organises the map, is coarse.
    """
    for basis in module.modules():
        if isinstance(basis, TorusBasis):
            basis.open(1 + (basis.order - 1) * min(1.0, fraction / _INTRODUCED))


def _harmonics(n_components: int, order: int) -> list[tuple[int, ...]]:
    """Integer vectors of total degree 1 to order whose first non-zero entry is positive."""
    box = product(range(-order, order + 1), repeat=n_components)
    half = [h for h in box if 1 <= sum(map(abs, h)) <= order and h > (0,) * n_components]
    return sorted(half, key=lambda h: (sum(map(abs, h)), [-entry for entry in h]))
