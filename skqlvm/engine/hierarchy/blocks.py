"""Residual blocks of convolutions, from images to images of the same size, and a stack of them.

Pre-activation bottleneck blocks without normalisation (Child, arXiv 2011.10650).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import Layers
from ..precision import multiplies_bfloat16


class Block(nn.Module):
    """A bottleneck of four convolutions, 1 x 1, 3 x 3, 3 x 3 and 1 x 1, added to its input.

    Images of another number of channels are mapped to it by a further convolution, 1 x 1. The block
    is that map, or the identity, when it starts: the last convolution of the branch is zero.

    Parameters
    ----------
    n_in, n_out : int
        Channels of its input (n, n_in, height, width) and output (n, n_out, height, width).
    n_hidden : int
        Channels of the bottleneck.
    generator : Generator, optional
        Draws the first weights; torch's global one by default.
    scale : float or None
        Factor of the first weights of the last convolution; None for zeros.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_hidden: int,
        generator: torch.Generator | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        first = convolution(n_in, n_hidden, 1, generator)
        second = convolution(n_hidden, n_hidden, 3, generator)
        third = convolution(n_hidden, n_hidden, 3, generator)
        last = convolution(n_hidden, n_out, 1, generator)
        rescale(last, 0.0 if scale is None else scale)
        self.branch = Layers(nn.SiLU(), first, nn.SiLU(), second, nn.SiLU(), third, nn.SiLU(), last)
        self.skip = Layers(convolution(n_in, n_out, 1, generator)) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, n_in, height, width) to (n, n_out, height, width)."""
        rounds = self.training and self.branch.rounds and multiplies_bfloat16(x.device)
        seen = x.bfloat16() if rounds else x
        kept: Tensor = x if self.skip is None else self.skip(seen).to(x.dtype)
        return kept + self.branch(seen)


class BottomUp(nn.Module):
    """Encoder: blocks at each resolution, each of which halves the one before.

    Parameters
    ----------
    n_in : int
        Channels of the images.
    wanted : sequence of bool
        Of which resolutions features are wanted, from the full one on.
    channels, n_hidden : int
        Channels of features, and of bottlenecks.
    n_blocks : int
        Blocks before each halving, and before features of the full resolution.
    generator : Generator, optional
    """

    def __init__(
        self,
        n_in: int,
        wanted: Sequence[bool],
        channels: int,
        n_hidden: int,
        n_blocks: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.wanted = tuple(wanted)
        self.first = Layers(convolution(n_in, channels, 1, generator))
        scale = 1 / sqrt(n_blocks * sum(1 for _ in wanted))
        self.stages = nn.ModuleList()
        for number, is_wanted in enumerate(wanted):
            n = n_blocks if number or is_wanted else 0
            blocks = (Block(channels, channels, n_hidden, generator, scale) for _ in range(n))
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor | None]:
        """Map images (n, n_in, h, w) to features (n, channels, h / 2^i, w / 2^i), None if unwanted.

        Images are centred here: their values lie in [0, 1].
        """
        state, features = channels_last(self.first(2 * x - 1)), []
        for number, stage in enumerate(self.stages):
            state = stage(state)
            if number:
                state = F.avg_pool2d(state, 2)
            features.append(state if self.wanted[number] else None)
        return features


def convolution(
    n_in: int, n_out: int, size: int, generator: torch.Generator | None = None
) -> nn.Conv2d:
    """Return a convolution that keeps the size of images, with weights drawn from a generator."""
    layer = nn.utils.skip_init(
        nn.Conv2d,
        n_in,
        n_out,
        size,
        padding=size // 2,
        dtype=torch.float32,
        device=torch.empty(0).device,
    )
    limit = 1 / sqrt(n_in * size * size)
    for values in layer.parameters():
        nn.init.uniform_(values, -limit, limit, generator=generator)
    return layer


def channels_last(x: Tensor) -> Tensor:
    """Return images (n, channels, height, width) with the channels of a pixel side by side.

    Convolutions of few channels are twice as fast so.
    """
    return x.contiguous(memory_format=torch.channels_last)


def rescale(layer: nn.Conv2d, factor: float) -> None:
    """Multiply first weights by a factor, and start the biases at zero."""
    with torch.no_grad():
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.zero_()
