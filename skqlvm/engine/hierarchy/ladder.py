"""Ladder: latent images at several resolutions, each conditioned on all coarser ones.

    p(x, z | u) = p(x | z) prod_l p(z_l | z_<l, u)        q(z | x, u) = prod_l q(z_l | z_<l, x, u)

Levels l run from the coarsest resolution to the finest. Prior and posterior are diagonal normals
that share a top-down pass; a bottom-up pass over x feeds the posterior alone (Sonderby et al.,
arXiv 1602.02282; with the condition u of Kuzina and Tomczak, arXiv 2412.01373).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import log, pi, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import Layers
from .blocks import Block, BottomUp, channels_last, convolution, rescale
from .noise import Source, normal

LOG_VARIANCES = -10.0, 1.0
"""Smallest and largest log variance of priors and posteriors."""


class Normals(NamedTuple):
    """Independent normals, one for each number of latent images (n, channels, height, width)."""

    loc: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> Normals:
        """Return those of a block's output (n, 2 channels, height, width), in its dtype."""
        loc, log_variance = numbers.chunk(2, 1)
        return cls(loc, log_variance.clamp(*LOG_VARIANCES))

    def at(self, noise: Tensor) -> Tensor:
        """Return what standard normals become."""
        return self.loc + noise * (self.log_variance / 2).exp()

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log densities of images, summed over each, (n,), in nats."""
        squares = (z - self.loc) ** 2 * (-self.log_variance).exp()
        return -0.5 * (squares + self.log_variance + log(2 * pi)).flatten(1).sum(1)

    def kl(self, other: Normals) -> Tensor:
        """Return KL(self || other) of each image, (n,), in nats."""
        apart = (self.loc - other.loc) ** 2 * (-other.log_variance).exp()
        gap = self.log_variance - other.log_variance
        return 0.5 * (gap.exp() - 1 - gap + apart).flatten(1).sum(1)


class Passed(NamedTuple):
    """What a pass of rows through a ladder says.

    Attributes
    ----------
    outputs : Tensor of shape (n, n_outputs, height, width)
        For the likelihood.
    kl : Tensor of shape (n, n_levels)
        KL(q(z_l | z_<l, x) || p(z_l | z_<l)) of each level, in nats, coarsest first.
    log_pz, log_qz : Tensor of shape (n,)
        Log densities of what was drawn, in nats.
    means : list of Tensor of shape (n, channels, height_l, width_l)
        Means of the posteriors of each level, given what was drawn at coarser ones.
    """

    outputs: Tensor
    kl: Tensor
    log_pz: Tensor
    log_qz: Tensor
    means: list[Tensor]


class Level(nn.Module):
    """Top-down block of one latent image: its prior, its posterior, and what follows from it.

    Parameters
    ----------
    n_latent : int
        Channels of the latent image.
    channels, n_hidden : int
        Channels of the state, and of bottlenecks.
    n_told : int
        Channels of the condition; 0 without one.
    scale : float
        Factor of the first weights of what is added to the state.
    goes_on : bool
        Whether the state is used after this level.
    generator : Generator, optional
    """

    def __init__(
        self,
        n_latent: int,
        channels: int,
        n_hidden: int,
        n_told: int,
        scale: float,
        goes_on: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_numbers = 2 * n_latent
        n_prior = 2 * n_latent + (channels if goes_on else 0)
        self.prior = Block(channels + n_told, n_prior, n_hidden, generator)
        self.posterior = Block(channels, 2 * n_latent, n_hidden, generator)
        self.project = Layers(convolution(n_latent, channels, 1, generator)) if goes_on else None
        self.update = Block(channels, channels, n_hidden, generator, scale) if goes_on else None
        if self.project is not None:
            rescale(self.project[0], scale)  # type: ignore[arg-type]

    def from_above(self, state: Tensor, told: Tensor | None) -> tuple[Normals, Tensor]:
        """Return the prior, and the state that has passed it, both (n, ..., height, width)."""
        seen = state if told is None else channels_last(torch.cat([state, told], 1))
        numbers = self.prior(seen)
        prior = Normals.of(numbers[:, : self.n_numbers])
        return prior, state if self.update is None else state + numbers[:, self.n_numbers :]

    def from_below(self, state: Tensor, features: Tensor) -> Normals:
        """Return the posterior by the state before the prior, and features of x."""
        return Normals.of(self.posterior((state + features) * sqrt(0.5)))

    def onwards(self, state: Tensor, z: Tensor) -> Tensor:
        """Return the state once z is known."""
        if self.project is None or self.update is None:
            return state
        return self.update(state + channels_last(self.project(z)))


Choice = Callable[[int, Level, Normals, Tensor], Tensor]
"""What a pass takes for z: by the level's number, the level, its prior, and the state before it."""


class Ladder(nn.Module):
    """Latent images between images x and, if there is one, a condition.

    Parameters
    ----------
    image_shape : tuple of int
        (channels, height, width) of x.
    latents_per_scale : sequence of int
        Latent images at the full resolution of x, at half of it, a quarter, and so on; some may be
        0. Each has as many channels as x.
    channels : int
        Channels of the networks.
    bottleneck : float
        Part of them that 3 x 3 convolutions have.
    blocks_per_scale : int
        Blocks of the encoder before each halving.
    n_outputs : int
        Numbers that the likelihood needs for each pixel.
    context_channels : int
        Channels of the condition; 0 without one.
    aggregation : bool
        Whether p(x | z) sees the mean of all latent images, and them alone; else it sees the state
        that they have left.
    generator : Generator, optional
        Draws the first weights; torch's global one by default.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latents_per_scale: Sequence[int] = (0, 4, 4),
        channels: int = 32,
        bottleneck: float = 1.0,
        blocks_per_scale: int = 3,
        n_outputs: int = 1,
        context_channels: int = 0,
        aggregation: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_halvings(image_shape, latents_per_scale)
        n_latent, height, width = image_shape
        self.image_shape, self.latents_per_scale = image_shape, tuple(latents_per_scale)
        self.context_channels, self.aggregation = context_channels, aggregation
        n_hidden = max(1, round(channels * bottleneck))
        wanted = [number > 0 for number in latents_per_scale]
        self.bottom_up = BottomUp(n_latent, wanted, channels, n_hidden, blocks_per_scale, generator)
        halvings = len(self.latents_per_scale) - 1
        start = (channels, height >> halvings, width >> halvings)
        self.start = nn.Parameter(torch.ones(start, dtype=torch.float32))
        last = self.n_levels - 1 if aggregation else self.n_levels
        self.levels = nn.ModuleList(
            Level(
                n_latent,
                channels,
                n_hidden,
                context_channels,
                sqrt(1 / self.n_levels),
                number < last,
                generator,
            )
            for number in range(self.n_levels)
        )
        self.widen = Layers(convolution(n_latent, channels, 1, generator)) if aggregation else None
        self.output = Layers(convolution(channels, n_outputs, 3, generator))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def n_levels(self) -> int:
        """Number of latent images."""
        return sum(self.latents_per_scale)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each latent image, coarsest first."""
        channels, height, width = self.image_shape
        return [(channels, height >> i, width >> i) for i in self._scales]

    @property
    def _scales(self) -> list[int]:
        """How often the resolution of each level was halved."""
        scales = reversed(list(enumerate(self.latents_per_scale)))
        return [i for i, number in scales for _ in range(number)]

    def forward(
        self, x: Tensor, condition: Tensor | None, generator: Source | None = None
    ) -> Passed:
        """Draw latent images of rows from their posteriors, and decode them.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Values in [0, 1].
        condition : Tensor of shape (n, context_channels, height, width), or None
        generator : Generator or Shared, or None
            Of noise; without one the means of the posteriors are taken.
        """
        features = self.bottom_up(x)
        posteriors, kl, log_pz, log_qz = [], [], [], []

        def choose(number: int, level: Level, prior: Normals, state: Tensor) -> Tensor:
            posterior = level.from_below(state, features[self._scales[number]])
            z = posterior.loc
            if generator is not None:
                z = posterior.at(normal(tuple(z.shape), generator, z))
            posteriors.append(posterior.loc)
            kl.append(posterior.kl(prior))
            log_pz.append(prior.log_prob(z))
            log_qz.append(posterior.log_prob(z))
            return z

        outputs = self._descend(len(x), condition, choose)
        return Passed(outputs, torch.stack(kl, 1), sum_of(log_pz), sum_of(log_qz), posteriors)

    def generate(
        self,
        n: int,
        condition: Tensor | None,
        generator: Source | None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw latent images of n rows from their priors, and decode them.

        Parameters
        ----------
        n : int
        condition : Tensor of shape (n, context_channels, height, width), or None
        generator : Generator or Shared, or None
            Of noise; without one the means of the priors are taken.
        temperature : float
            Factor of the standard deviations.

        Returns
        -------
        Tensor of shape (n, n_outputs, height, width)
        """

        def choose(number: int, level: Level, prior: Normals, state: Tensor) -> Tensor:
            if generator is None:
                return prior.loc
            noise = normal(tuple(prior.loc.shape), generator, prior.loc)
            return prior.at(noise * temperature)

        return self._descend(n, condition, choose)

    def decode(self, latents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        """Decode latent images (n, *latent_shapes[l]) of all levels, coarsest first."""

        def choose(number: int, level: Level, prior: Normals, state: Tensor) -> Tensor:
            return latents[number]

        return self._descend(len(latents[0]), condition, choose)

    def _descend(self, n: int, condition: Tensor | None, choose: Choice) -> Tensor:
        """Go down from the coarsest level, and return the outputs (n, n_outputs, height, width)."""
        state = channels_last(self.start.expand(n, -1, -1, -1))
        before = len(self.latents_per_scale) - 1
        told: Tensor | None = None
        drawn: dict[int, Tensor] = {}
        for number, scale in enumerate(self._scales):
            if scale != before:
                state = F.interpolate(state, scale_factor=2.0 ** (before - scale), mode="nearest")
            if condition is not None and (told is None or scale != before):
                told = F.avg_pool2d(condition, 2**scale)
            before = scale
            level: Level = self.levels[number]  # type: ignore[assignment]
            prior, passed = level.from_above(state, told)
            z = choose(number, level, prior, state)
            drawn[scale] = drawn[scale] + z if scale in drawn else z
            state = level.onwards(passed, z)
        if self.widen is not None:
            return self.output(channels_last(self.widen(self.aggregated(drawn))))
        return self.output(F.interpolate(state, scale_factor=2.0**before, mode="nearest"))

    def aggregated(self, drawn: dict[int, Tensor]) -> Tensor:
        """Return ``sum_l up(z_l) / sqrt(n_levels)``, (n, channels, height, width).

        ``drawn`` has the sum of the latent images of each number of halvings.
        """
        size = self.image_shape[1:]
        parts = [
            F.interpolate(z, size=size, mode="bilinear", align_corners=False) if scale else z
            for scale, z in drawn.items()
        ]
        return sum_of(parts) / sqrt(self.n_levels)


def check_halvings(image_shape: tuple[int, int, int], latents_per_scale: Sequence[int]) -> None:
    """Raise unless images can be halved as often as there are scales, and there is a latent image.

    Raises
    ------
    ValueError
    """
    if not latents_per_scale or min(latents_per_scale) < 0 or not latents_per_scale[-1]:
        raise ValueError(
            "latents_per_scale expects numbers of latent images at the full resolution, at half of "
            "it, and so on, none negative and the last one positive, such as (0, 4, 4), but got "
            f"{tuple(latents_per_scale)}."
        )
    halvings = len(latents_per_scale) - 1
    factor = 2**halvings
    if any(size % factor for size in image_shape[1:]):
        height, width = image_shape[1:]
        raise ValueError(
            f"latents_per_scale={tuple(latents_per_scale)} expects heights and widths that can be "
            f"halved {halvings} times, multiples of {factor}, but images are {height} x {width}. "
            "Pad them, or use fewer scales."
        )


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape."""
    return list(accumulate(parts, torch.add))[-1]
