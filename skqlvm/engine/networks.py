"""Decoders, from latent points (m, k) to outputs (m, n_outputs), and encoders, from data (n, d) to
the numbers that shape a proposal.

Points on a torus are in turns, and the decoder owns their basis.
"""

from __future__ import annotations

from itertools import pairwise, product
from math import pi

import torch
from torch import Tensor, nn

from .precision import bfloat16_layers

_DECAY = 0.5
"""Of the harmonics that the built-in decoders start from; chosen by
benchmarks/bench_defaults.py."""

_INTRODUCED = 0.5
"""Fraction of a training by which `anneal` has brought in all harmonics."""

_START = 0.1
"""Standard deviation of a built-in decoder's output at the start, in units of the data's scale."""


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
        """Let harmonics pass up to an order, the next ones in part: an order of 2.5 admits a half
        of degree 3."""
        degrees = self.harmonics.abs().sum(1).repeat(2)
        self.scales = degrees**-self.decay * (order - degrees + 1).clamp(0, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map turns of shape (..., n_components) to features of shape (..., n_features)."""
        turns = z[..., :1] * self.harmonics[:, 0].to(z)
        for i in range(
            1, z.shape[-1]
        ):  # a matrix product might round positions, and a sum over so short an axis is slow
            turns = turns + z[..., i : i + 1] * self.harmonics[:, i].to(z)
        angles = 2 * pi * turns
        return torch.cat([angles.cos(), angles.sin()], -1) * self.scales.to(z)


def largest_order(n_components: int, n_harmonics: float, highest: int) -> int:
    """Return the largest order, from 1 to the highest, at which a torus basis has at most so many
    harmonics."""
    fitting = (
        order
        for order in range(highest, 1, -1)
        if len(_harmonics(n_components, order)) <= n_harmonics
    )
    return next(fitting, 1)


def anneal(module: nn.Module, fraction: float) -> None:
    """Open every torus basis in a module as far as a training that is done by this fraction should.

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


class MLPDecoder(nn.Module):
    """Hidden layers with rectifiers, linear output; the output starts with mean zero and a moderate
    spread over the latent space.

    Parameters
    ----------
    n_components : int
    n_outputs : int
    hidden_layer_sizes : tuple of int
    order : int or None
        Of the torus basis under the layers; None for points of a Euclidean space, which need no
        basis.
    """

    def __init__(
        self,
        n_components: int,
        n_outputs: int,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        order: int | None = 6,
    ) -> None:
        super().__init__()
        basis = nn.Identity() if order is None else TorusBasis(n_components, order, _DECAY)
        self.basis = basis
        width = basis.n_features if isinstance(basis, TorusBasis) else n_components
        hidden, width = _hidden(width, hidden_layer_sizes)
        output = nn.Linear(width, n_outputs)
        self.layers = nn.Sequential(*hidden, output)
        _standardize(self, output.weight, output.bias, _anywhere(n_components, order))

    def forward(self, z: Tensor) -> Tensor:
        """Map points of shape (n_points, n_components) to outputs of shape (n_points,
        n_outputs)."""
        features = self.basis(z)
        with bfloat16_layers(z.device):
            outputs = self.layers(features)
        return outputs.to(z)


class ConvDecoder(nn.Module):
    """An `MLPDecoder` to a quarter-size image of many channels, two transposed convolutions.

    Rows are images of `image_shape`, (channels, height, width), flattened in that order; sizes that
    are no multiple of 4 are cropped."""

    def __init__(
        self,
        n_components: int,
        n_outputs: int,
        image_shape: tuple[int, int, int],
        hidden_layer_sizes: tuple[int, ...] = (256,),
        order: int | None = 6,
        n_channels: int = 32,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if channels * height * width != n_outputs:
            raise ValueError(f"image_shape expects {n_outputs} values, but got {image_shape}.")
        self.image_shape = (channels, height, width)
        self.start_shape = (n_channels, -(-height // 4), -(-width // 4))
        n_start = n_channels * self.start_shape[1] * self.start_shape[2]
        self.start = MLPDecoder(n_components, n_start, hidden_layer_sizes, order)
        first = nn.ConvTranspose2d(n_channels, n_channels // 2, 4, stride=2, padding=1)
        second = nn.ConvTranspose2d(n_channels // 2, channels, 4, stride=2, padding=1)
        self.upsample = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)
        _standardize(self, second.weight, second.bias, _anywhere(n_components, order))

    def forward(self, z: Tensor) -> Tensor:
        """Map points of shape (n_points, n_components) to flattened images of shape (n_points,
        n_outputs)."""
        _, height, width = self.image_shape
        start = self.start(z).view(-1, *self.start_shape)
        with bfloat16_layers(z.device):
            images = self.upsample(start)
        return images[:, :, :height, :width].flatten(1).to(z)


class MLPEncoder(nn.Module):
    """Hidden layers with rectifiers, linear output: data of shape (n_samples, n_features) to
    (n_samples, n_outputs)."""

    def __init__(
        self, n_features: int, n_outputs: int, hidden_layer_sizes: tuple[int, ...] = (256, 256)
    ) -> None:
        super().__init__()
        hidden, width = _hidden(n_features, hidden_layer_sizes)
        self.hidden, self.output = nn.Sequential(*hidden), nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map data to outputs, the last layer in the precision of x: it says where, and how
        exactly."""
        with bfloat16_layers(x.device):
            features = self.hidden(x)
        return self.output(features.to(x))


class ConvEncoder(nn.Module):
    """The mirror of `ConvDecoder`: two convolutions to a quarter-size image of many channels, then
    an `MLPEncoder`."""

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        image_shape: tuple[int, int, int],
        hidden_layer_sizes: tuple[int, ...] = (256,),
        n_channels: int = 32,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if channels * height * width != n_features:
            raise ValueError(f"image_shape expects {n_features} values, but got {image_shape}.")
        self.image_shape = (channels, height, width)
        first = nn.Conv2d(channels, n_channels // 2, 4, stride=2, padding=1)
        second = nn.Conv2d(n_channels // 2, n_channels, 4, stride=2, padding=1)
        self.downsample = nn.Sequential(
            nn.ZeroPad2d((0, -width % 4, 0, -height % 4)),
            first,
            nn.ReLU(),
            second,
            nn.ReLU(),
            nn.Flatten(),
        )
        self.end = MLPEncoder(
            n_channels * -(-height // 4) * -(-width // 4), n_outputs, hidden_layer_sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map flattened images of shape (n_samples, n_features) to outputs of shape (n_samples,
        n_outputs)."""
        with bfloat16_layers(x.device):
            features = self.downsample(x.view(-1, *self.image_shape))
        return self.end(features.to(x))


def _hidden(width: int, hidden_layer_sizes: tuple[int, ...]) -> tuple[list[nn.Module], int]:
    """Linear layers with rectifiers, and the width of the last one."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise((width, *hidden_layer_sizes)):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return layers, (width, *hidden_layer_sizes)[-1]


def _anywhere(n_components: int, order: int | None) -> Tensor:
    """Points that a decoder may be asked for: uniform on the torus, normal without one."""
    return torch.randn(512, n_components) if order is None else torch.rand(512, n_components)


def _standardize(decoder: nn.Module, weight: Tensor, bias: Tensor | None, z: Tensor) -> None:
    """Scale and shift the output layer: mean zero (as far as one bias can) and standard deviation
    `_START` over points z.

    Under a started likelihood that is around the mean of the data, and of the order of their scale.
    Starting nearly constant instead would be starting at a symmetric saddle of the marginal
    likelihood, where training stalls."""
    if bias is None:
        return
    with torch.no_grad():
        bias.zero_()
        outputs = decoder(z).reshape(len(z), len(bias), -1)
        mean = outputs.mean((0, 2))
        spread = (outputs - mean[:, None]).std()
        factor = _START / spread if spread > 0 else torch.ones(())
        weight *= factor
        bias -= mean * factor
