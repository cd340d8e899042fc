"""Decoders, from latent points (m, k) to outputs (m, n_outputs), and encoders, from data (n, d).

What an encoder puts out shapes a proposal. Points on a torus are in turns, and the decoder owns
their basis.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from math import prod, sqrt
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .harmonics import TorusBasis
from .precision import bfloat16, multiplies_bfloat16

_DECAY = 0.5
"""Decay of the harmonics in built-in decoders; chosen by benchmarks/bench_defaults.py."""

_FIRST_SPREAD = 0.1
"""Standard deviation of a built-in decoder's output at the start, in units of the data's scale."""


Layer = TypeVar("Layer", bound=nn.Module)
Weights = list[tuple[Tensor, Tensor]]
"""Of linear layers, a weight and a bias each."""


class Layers(nn.Sequential):
    """Layers in sequence, in bfloat16 while they are trained, where that is allowed and fast.

    Products sum in float32, and each layer's result is rounded. In evaluation mode nothing is.
    """

    rounds = False

    def forward(self, x: Tensor) -> Tensor:
        """Map x to the last layer's result, in its dtype."""
        with bfloat16(x.device) if self.training and self.rounds else nullcontext():
            y: Tensor = super().forward(x)
        return y.to(x)

    @property
    def dtype(self) -> torch.dtype:
        """What their weights are multiplied in."""
        weight = next(self.parameters())
        rounds = self.training and self.rounds and weight.dtype == torch.float32
        return torch.bfloat16 if rounds and multiplies_bfloat16(weight.device) else weight.dtype


def allow_bfloat16(module: nn.Module, allowed: bool) -> None:
    """Let all `Layers` in a module round to bfloat16 while they are trained, or not."""
    for layers in module.modules():
        if isinstance(layers, Layers):
            layers.rounds = allowed


class MLPDecoder(nn.Module):
    """Hidden layers with rectifiers, and a linear output.

    The output starts with mean zero and a moderate spread over the latent space.

    Parameters
    ----------
    n_components : int
    n_outputs : int
    hidden_layer_sizes : tuple of int
    order : int or None
        Highest order of the torus basis under the layers; None for points of a Euclidean space,
        which need no basis.
    generator : Generator, optional
        Draws the first weights; torch's global one by default.
    n_conditions : int
        Numbers that the decoder is told beside a point; they follow its coordinates.
    """

    parameters_taken = ("hidden_layer_sizes",)

    def __init__(
        self,
        n_components: int,
        n_outputs: int,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        order: int | None = 6,
        generator: torch.Generator | None = None,
        n_conditions: int = 0,
    ) -> None:
        super().__init__()
        basis = nn.Identity() if order is None else TorusBasis(n_components, order, _DECAY)
        self.basis, self.n_components = basis, n_components
        width = basis.n_features if isinstance(basis, TorusBasis) else n_components
        hidden, width = _hidden(width + n_conditions, hidden_layer_sizes, generator)
        output = _linear(width, n_outputs, generator)
        self.layers = Layers(*hidden, output)
        places = _anywhere(n_components, order, generator, n_conditions)
        _standardize(self, output.weight, output.bias, places)

    def forward(self, z: Tensor) -> Tensor:
        """Map points (n_points, n_components + n_conditions) to outputs (n_points, n_outputs)."""
        z, told = z[..., : self.n_components], z[..., self.n_components :]
        features = self.basis(z)
        return self.layers(torch.cat([features, told], -1) if told.shape[-1] else features)

    def weights(self, shift: Tensor, condition: Tensor | None = None) -> Weights:
        """Return weights and biases of all layers for waves of points that are then shifted.

        A shift turns the first weight, see `TorusBasis.turned`; a condition (n_conditions,), the
        same at all points, moves the first bias.
        """
        basis, dtype = cast(TorusBasis, self.basis), self.layers.dtype
        first, *later = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        waves, told = first.weight[:, : basis.n_features], first.weight[:, basis.n_features :]
        bias = first.bias if condition is None else first.bias + told @ condition.to(told)
        pairs = [(basis.turned(waves, shift), bias), *((each.weight, each.bias) for each in later)]
        return [(weight.to(dtype), bias.to(dtype)) for weight, bias in pairs]

    def decode_waves(self, waves: Tensor, weights: Weights) -> Tensor:
        """Map waves of the basis (n_points, n_features) to outputs by what `weights` gave."""
        *hidden, last = weights
        y = waves.to(last[0])
        for pair in hidden:
            y = F.linear(y, *pair).relu_()
        y = F.linear(y, *last)
        return y.float() if y.dtype == torch.bfloat16 else y


class ConvDecoder(nn.Module):
    """An `MLPDecoder` to a quarter-size image of many channels, then two transposed convolutions.

    Rows are images of `image_shape`, (channels, height, width), flattened in that order; sizes that
    are no multiple of 4 are cropped.
    """

    parameters_taken = ("hidden_layer_sizes", "image_shape")

    def __init__(
        self,
        n_components: int,
        n_outputs: int,
        image_shape: tuple[int, int, int],
        hidden_layer_sizes: tuple[int, ...] = (256,),
        order: int | None = 6,
        n_channels: int = 32,
        generator: torch.Generator | None = None,
        n_conditions: int = 0,
    ) -> None:
        super().__init__()
        channels, height, width = _checked_image_shape(image_shape, n_outputs)
        self.image_shape = (channels, height, width)
        self.start_shape = (n_channels, -(-height // 4), -(-width // 4))
        n_start = n_channels * self.start_shape[1] * self.start_shape[2]
        self.start = MLPDecoder(
            n_components, n_start, hidden_layer_sizes, order, generator, n_conditions
        )
        first = _convolution(nn.ConvTranspose2d, n_channels, n_channels // 2, generator)
        second = _convolution(nn.ConvTranspose2d, n_channels // 2, channels, generator)
        self.upsample = Layers(nn.ReLU(), first, nn.ReLU(), second)
        places = _anywhere(n_components, order, generator, n_conditions)
        _standardize(self, second.weight, second.bias, places)

    def forward(self, z: Tensor) -> Tensor:
        """Map points, and what is told beside them, to flattened images (n_points, n_outputs)."""
        return self._images(self.start(z))

    def weights(self, shift: Tensor, condition: Tensor | None = None) -> Weights:
        """Return the weights for waves that are shifted; see `MLPDecoder.weights`."""
        return self.start.weights(shift, condition)

    def decode_waves(self, waves: Tensor, weights: Weights) -> Tensor:
        """Map waves of the basis to flattened images; see `MLPDecoder.decode_waves`."""
        return self._images(self.start.decode_waves(waves, weights))

    def _images(self, start: Tensor) -> Tensor:
        _, height, width = self.image_shape
        images = self.upsample(start.view(-1, *self.start_shape))
        return images[:, :, :height, :width].flatten(1)


class MLPEncoder(nn.Module):
    """Hidden layers with rectifiers, and a linear output, (n, n_inputs) to (n, n_outputs).

    The last layer is in the precision of x: it says where, and how exactly.
    """

    parameters_taken = ("hidden_layer_sizes",)

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        hidden, width = _hidden(n_inputs, hidden_layer_sizes, generator)
        self.hidden, self.output = Layers(*hidden), _linear(width, n_outputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map data to what shapes a proposal."""
        return self.output(self.hidden(x))


class ConvEncoder(nn.Module):
    """Mirror of `ConvDecoder`: two convolutions to a quarter-size image, then an `MLPEncoder`."""

    parameters_taken = ("hidden_layer_sizes", "image_shape")

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        image_shape: tuple[int, int, int],
        hidden_layer_sizes: tuple[int, ...] = (256,),
        n_channels: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = _checked_image_shape(image_shape, n_inputs)
        self.image_shape = (channels, height, width)
        padding = nn.ZeroPad2d((0, -width % 4, 0, -height % 4))
        first = _convolution(nn.Conv2d, channels, n_channels // 2, generator)
        second = _convolution(nn.Conv2d, n_channels // 2, n_channels, generator)
        self.downsample = Layers(padding, first, nn.ReLU(), second, nn.ReLU(), nn.Flatten())
        n_features = n_channels * -(-height // 4) * -(-width // 4)
        self.end = MLPEncoder(n_features, n_outputs, hidden_layer_sizes, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map flattened images (n_samples, n_inputs) to what shapes a proposal."""
        return self.end(self.downsample(x.view(-1, *self.image_shape)))


def _checked_image_shape(image_shape: tuple[int, int, int], n_values: int) -> tuple[int, int, int]:
    if prod(image_shape) != n_values:
        raise ValueError(f"image_shape expects {n_values} values, but got {image_shape}.")
    return image_shape


def _hidden(
    width: int, hidden_layer_sizes: tuple[int, ...], generator: torch.Generator | None
) -> tuple[list[nn.Module], int]:
    """Linear layers with rectifiers, and the width of the last one."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise((width, *hidden_layer_sizes)):
        layers += [_linear(n_in, n_out, generator), nn.ReLU()]
    return layers, (width, *hidden_layer_sizes)[-1]


def _linear(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=torch.float32)
    return _initialized(layer, n_in, generator)


def _convolution(
    kind: type[nn.Conv2d | nn.ConvTranspose2d],
    n_in: int,
    n_out: int,
    generator: torch.Generator | None,
) -> nn.Conv2d | nn.ConvTranspose2d:
    """A convolution that halves or doubles an image."""
    settings = {"kernel_size": 4, "stride": 2, "padding": 1, "dtype": torch.float32}
    layer = nn.utils.skip_init(kind, n_in, n_out, **settings)
    return _initialized(layer, layer.weight[0].numel(), generator)


def _initialized(layer: Layer, n_in: int, generator: torch.Generator | None) -> Layer:
    """Draw weights and biases as torch does by default, but from a generator."""
    for values in layer.parameters():
        nn.init.uniform_(values, -1 / sqrt(n_in), 1 / sqrt(n_in), generator=generator)
    return layer


def _anywhere(
    n_components: int, order: int | None, generator: torch.Generator | None, n_conditions: int
) -> Tensor:
    """Points that a decoder may be asked for: uniform on the torus, normal without one.

    What is told beside them is standardised.
    """
    draw = torch.randn if order is None else torch.rand
    z = draw((512, n_components), generator=generator, dtype=torch.float32)
    told = torch.randn((512, n_conditions), generator=generator, dtype=torch.float32)
    return torch.cat([z, told], 1)


def _standardize(decoder: nn.Module, weight: Tensor, bias: Tensor | None, z: Tensor) -> None:
    """Scale and shift the output layer for mean 0 and deviation `_FIRST_SPREAD` over points z.

    One bias makes a mean of 0 as far as it can. Under a started likelihood that is around the mean
    of the data, and of the order of their scale. Starting nearly constant instead would be starting
    at a symmetric saddle of the marginal likelihood, where training stalls.
    """
    if bias is None:
        return
    with torch.no_grad():
        bias.zero_()
        outputs = decoder(z).reshape(len(z), len(bias), -1)
        mean = outputs.mean((0, 2))
        spread = (outputs - mean[:, None]).std()
        factor = _FIRST_SPREAD / spread if spread > 0 else 1.0
        weight *= factor
        bias -= mean * factor
