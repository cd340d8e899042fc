"""Decoders: modules from torus coordinates in turns (..., k) to outputs (..., n_outputs), which own their basis."""

from __future__ import annotations

from itertools import product
from math import pi

import torch
from torch import Tensor, nn


class TorusBasis(nn.Module):
    """Harmonics of the torus: ``cos(2 pi h . z)`` for all h, then ``sin(2 pi h . z)``.

    h runs over the integer vectors with ``1 <= |h_1| + ... + |h_k| <= order``, one of each pair +-h, in rising order. Order 1 is the
    paper's basis: the cosines and then the sines of the coordinates.
    """

    harmonics: Tensor

    def __init__(self, n_components: int, order: int = 1) -> None:
        super().__init__()
        self.register_buffer("harmonics", torch.tensor(_harmonics(n_components, order), dtype=torch.float64))
        self.n_features = 2 * len(self.harmonics)

    def forward(self, z: Tensor) -> Tensor:
        """Map turns of shape (..., n_components) to features of shape (..., n_features)."""
        angles = 2 * pi * (z @ self.harmonics.to(z).T)
        return torch.cat([angles.cos(), angles.sin()], -1)


def _harmonics(n_components: int, order: int) -> list[tuple[int, ...]]:
    """Integer vectors of total degree 1 to order whose first non-zero entry is positive."""
    box = product(range(-order, order + 1), repeat=n_components)
    half = [h for h in box if 1 <= sum(map(abs, h)) <= order and h > (0,) * n_components]
    return sorted(half, key=lambda h: (sum(map(abs, h)), [-entry for entry in h]))


class MLPDecoder(nn.Module):
    """Torus basis, hidden layers with rectifiers, linear output.

    The bias of the output starts at zero, the mean of the data under a started likelihood; its weights do not, because a decoder that is the
    same everywhere is a symmetric saddle of the marginal likelihood.
    """

    def __init__(
        self, n_components: int, n_outputs: int, hidden_layer_sizes: tuple[int, ...] = (256, 256), order: int = 6
    ) -> None:
        super().__init__()
        basis = TorusBasis(n_components, order)
        widths = (basis.n_features, *hidden_layer_sizes)
        layers: list[nn.Module] = [basis]
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        output = nn.Linear(widths[-1], n_outputs)
        nn.init.zeros_(output.bias)
        self.layers = nn.Sequential(*layers, output)

    def forward(self, z: Tensor) -> Tensor:
        """Map turns of shape (n_points, n_components) to outputs of shape (n_points, n_outputs)."""
        return self.layers(z)


class ConvDecoder(nn.Module):
    """Torus basis, two linear layers to a quarter-size image of many channels, two transposed convolutions.

    Rows are images of `image_shape`, (channels, height, width), flattened in that order; sizes that are no multiple of 4 are cropped.
    """

    def __init__(
        self,
        n_components: int,
        n_outputs: int,
        image_shape: tuple[int, int, int],
        hidden_layer_sizes: tuple[int, ...] = (256,),
        order: int = 6,
        n_channels: int = 32,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.start_shape = (n_channels, -(-height // 4), -(-width // 4))
        n_start = n_channels * self.start_shape[1] * self.start_shape[2]
        self.features = nn.Sequential(MLPDecoder(n_components, n_start, hidden_layer_sizes, order), nn.ReLU())
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(n_channels, n_channels // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(n_channels // 2, channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map turns of shape (n_points, n_components) to flattened images of shape (n_points, n_outputs)."""
        _, height, width = self.image_shape
        images = self.upsample(self.features(z).view(-1, *self.start_shape))
        return images[:, :, :height, :width].flatten(1)
