"""A diffusion model as the prior of contexts: its bounds, its path weights and its samples.

Noise is added to u along t from 0 to 1, ``z_t = alpha_t u + sigma_t e`` with ``alpha_t^2 =
sigmoid(-gamma_t)``, ``sigma_t^2 = sigmoid(gamma_t)`` and gamma a line from gamma_min to gamma_max
(variational diffusion, arXiv 2107.00630). The model of T steps is the chain backwards,

    p(z_1) = N(0, 1),   p(z_s | z_t) = q(z_s | z_t, u = denoised(z_t)),
    p(u | z_0) = N(z_0 / alpha_0, exp(gamma_min)),

where denoised comes from the noise that a network sees in z_t.
"""

from __future__ import annotations

from itertools import pairwise
from math import exp, expm1, log, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..rows import mean_of_rows
from .blocks import convolution, rescale
from .noise import Shared, Source, normal, uniform

_SLOWEST, _FASTEST = 0.3, 20.0
"""Angular frequencies of the waves from which a network sees t in [0, 1]."""

_FIRST_GAIN = 2.0
"""Factor of the first layer's weights: a network that is nearly linear learns nothing at first."""


class DiffusionPrior(nn.Module):
    """Density p(u) of contexts as a diffusion model.

    The noise that is seen in z_t is what it would be if u were normal, with mean and variance of
    the training contexts, and what a network adds to that, in units of what is left to explain.

    Parameters
    ----------
    context_shape : tuple of int
        Channels, height and width of u.
    gamma_min, gamma_max : float
        Logarithm of the ratio of noise to signal at t = 0 and t = 1.
    channels, n_blocks : int
        Width and residual blocks of the network.
    dropout : float
        Probability to drop a number in a block, in training.
    generator : Generator, optional
        Draws the first weights; torch's global one by default.

    Attributes
    ----------
    draws_globally : bool
        Whether training draws from torch's global generators, as dropout does.
    """

    center: Tensor
    variance: Tensor

    def __init__(
        self,
        context_shape: tuple[int, int, int],
        gamma_min: float = -6.0,
        gamma_max: float = 7.0,
        channels: int = 32,
        n_blocks: int = 2,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not gamma_min < gamma_max:
            raise ValueError(
                f"expects gamma_min below gamma_max, but got {gamma_min} and {gamma_max}"
            )
        self.context_shape, self.gamma_min, self.gamma_max = context_shape, gamma_min, gamma_max
        self.draws_globally = dropout > 0
        self.network = Denoiser(context_shape, channels, n_blocks, dropout, generator)
        self.register_buffer("center", torch.zeros(context_shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(context_shape, dtype=torch.float64))

    def start(self, u: Tensor, noise: Tensor | float = 0.0, weight: Tensor | None = None) -> None:
        """Take mean and variance from contexts u (n, \\*context_shape), and that of their noise.

        Each context counts as often as its weight (n,) says, once by default.
        """
        u = u.double()
        least = torch.as_tensor(noise, dtype=torch.float64, device=u.device).detach()
        if weight is None:
            self.center, variance = u.mean(0), u.var(0, correction=0)
        else:
            self.center = mean_of_rows(u.flatten(1), weight).view(self.context_shape)
            squares = ((u - self.center) ** 2).flatten(1)
            variance = mean_of_rows(squares, weight).view(self.context_shape)
        self.variance = variance + least.clamp(min=exp(self.gamma_min))

    def gamma(self, t: Tensor) -> Tensor:
        """Return the logarithm of the ratio of noise to signal at times t in [0, 1]."""
        return self.gamma_min + (self.gamma_max - self.gamma_min) * t

    def noise(self, z: Tensor, t: Tensor) -> Tensor:
        """Return the noise e that is seen in z_t (n, \\*context_shape), at times t (n,)."""
        plain, added = self._noise(z, t)
        return plain + added

    def _noise(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noise that is seen if u is normal, and what the network adds."""
        gamma = _beside(self.gamma(t), z)
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        signal = alpha**2 * self.variance.to(z)
        total = signal + sigma**2
        away = z - alpha * self.center.to(z)
        added = self.network(away / total.sqrt(), t)
        return sigma * away / total, (signal / total).sqrt() * added

    def bound(
        self, u: Tensor, generator: Source, n_steps: int | None = None, n_pairs: int | None = None
    ) -> Tensor:
        """Return an unbiased estimate of a lower bound of log p(u), from one time a row or more.

        What the bound would be if u were taken for normal is known; the difference that the network
        makes is estimated. The times of the rows are spread evenly, each uniform by itself.

        Parameters
        ----------
        u : Tensor of shape (n, \\*context_shape)
        generator : Generator
        n_steps : int, optional
            Of the model whose density is bounded; without it the limit of infinitely many, which is
            the largest.
        n_pairs : int, optional
            Pairs of times that each row has, spread evenly over its own; for noise that is shared.

        Returns
        -------
        Tensor of shape (n,)
            In nats.
        """
        known = self._ends(u) - self._missed_by_normal(u, n_steps)
        if n_pairs is None:
            noise = normal(tuple(u.shape), generator, u)
            return known + self._gained(u, self._times(len(u), generator, u), noise, n_steps)
        t = self._mirrored(len(u), n_pairs, generator, u).flatten()
        noise = normal((len(u), 2 * n_pairs, *u.shape[1:]), generator, u).flatten(0, 1)
        gained = self._gained(u.repeat_interleave(2 * n_pairs, 0), t, noise, n_steps)
        return known + gained.view(len(u), -1).mean(1)

    def _gained(self, u: Tensor, t: Tensor, noise: Tensor, n_steps: int | None) -> Tensor:
        """What the network makes of the bound at times t, (n,), beside that of a normal u."""
        if n_steps is None:
            weight = (self.gamma_max - self.gamma_min) / 2
        else:
            t = ((t * n_steps).floor() + 1) / n_steps
            weight = n_steps * expm1((self.gamma_max - self.gamma_min) / n_steps) / 2
        gamma = _beside(self.gamma(t), u)
        z = torch.sigmoid(-gamma).sqrt() * u + torch.sigmoid(gamma).sqrt() * noise
        plain, added = self._noise(z, t)
        return weight * _sum(added * (2 * (noise - plain) - added))

    def _missed_by_normal(self, u: Tensor, n_steps: int | None) -> Tensor:
        """Weighted square of the noise that is not seen, over all times, without a network, (n,).

        At a time with the ratio r of explained to unexplained variance, its expectation is ``(r^2 +
        r w) / (1 + r)^2``, where w is u from the centre, squared, over the variance.
        """
        variance, center = self.variance.double(), self.center.double()
        if n_steps is None:
            most, least = variance * exp(-self.gamma_min), variance * exp(-self.gamma_max)
            constant = (most.log1p() - least.log1p() + 1 / (1 + most) - 1 / (1 + least)) / 2
            slope = (1 / (1 + least) - 1 / (1 + most)) / 2
        else:
            t = torch.arange(1, n_steps + 1, dtype=torch.float64, device=variance.device) / n_steps
            ratio = variance * _beside(torch.exp(-self.gamma(t)), variance[None])
            weight = expm1((self.gamma_max - self.gamma_min) / n_steps) / 2
            constant = weight * (ratio / (1 + ratio)).square().sum(0)
            slope = weight * (ratio / (1 + ratio) ** 2).sum(0)
        away = (u - center.to(u)) ** 2
        return _sum(constant.to(u) + (slope / variance).to(u) * away)

    def _times(self, n: int, generator: Source, like: Tensor) -> Tensor:
        """Times of n rows: evenly spread from a random start, or the same where noise is shared."""
        start = uniform((n,), generator, like)
        if isinstance(generator, Shared):
            return start
        return (start[:1] + torch.arange(n, device=like.device) / n) % 1

    def _mirrored(self, n: int, n_pairs: int, generator: Source, like: Tensor) -> Tensor:
        """Times of n rows, (n, 2 n_pairs): in each part of [0, 1] one and its mirror image."""
        start = uniform((n,), generator, like)[:, None]
        part = torch.arange(n_pairs, device=like.device)
        return torch.cat([part + start, part + 1 - start], 1) / n_pairs

    def _ends(self, u: Tensor) -> Tensor:
        """Expected log p(u | z_0), less the divergence of q(z_1 | u) from p(z_1), (n,)."""
        last = torch.tensor(self.gamma_max, dtype=u.dtype, device=u.device)
        signal, noise = torch.sigmoid(-last), torch.sigmoid(last)
        divergence = _sum(signal * u**2 + noise - noise.log() - 1) / 2
        return -u[0].numel() * (log(2 * pi) + self.gamma_min + 1) / 2 - divergence

    def path_log_weight(self, u: Tensor, generator: Source, n_steps: int) -> Tensor:
        """Return log weights of paths of noise: the mean of their exponentials is p(u).

        A path z_1, ..., z_0 is drawn from q(. | u), and weighed by what the model of so many steps
        says of it and of u, over q.

        Returns
        -------
        Tensor of shape (n,)
            In nats.
        """
        last = torch.tensor(self.gamma_max, dtype=u.dtype, device=u.device)
        noise = normal(tuple(u.shape), generator, u)
        z = torch.sigmoid(-last).sqrt() * u + torch.sigmoid(last).sqrt() * noise
        weight = _sum(noise**2 - z**2 + torch.sigmoid(last).log()) / 2
        for t, s in self._steps(n_steps, u):
            noise = normal(tuple(u.shape), generator, u)
            told, seen, spread = self.step(z, t, s, u), self.step(z, t, s), self.spread(t, s)
            away = (seen - told) / spread
            weight = weight + _sum(away * noise - away**2 / 2)
            z = told + spread * noise
        return weight + self._log_emission(u, z)

    def _log_emission(self, u: Tensor, z: Tensor) -> Tensor:
        """log p(u | z_0), (n,)."""
        first = torch.tensor(self.gamma_min, dtype=u.dtype, device=u.device)
        away = (u - z / torch.sigmoid(-first).sqrt()) ** 2 / exp(self.gamma_min)
        return -_sum(away + log(2 * pi) + self.gamma_min) / 2

    def step(
        self, z: Tensor, t: Tensor, s: Tensor, u: Tensor | None = None, limit: float | None = None
    ) -> Tensor:
        """Return the mean of q(z_s | z_t, u) at the times s < t, each a number.

        Parameters
        ----------
        z : Tensor of shape (n, \\*context_shape)
            z_t.
        t, s : Tensor of shape ()
        u : Tensor of shape (n, \\*context_shape), optional
            Without it that of p(z_s | z_t), for the u that is seen in z_t.
        limit : float, optional
            Largest size of the u that is seen.
        """
        gamma_t, gamma_s = self.gamma(t), self.gamma(s)
        alpha_t, alpha_s = torch.sigmoid(-gamma_t).sqrt(), torch.sigmoid(-gamma_s).sqrt()
        if u is None:
            noise = self.noise(z, t.expand(len(z)))
            u = (z - torch.sigmoid(gamma_t).sqrt() * noise) / alpha_t
            u = u if limit is None else u.clamp(-limit, limit)
        kept = (gamma_s - gamma_t).exp()
        return alpha_s * (kept * z / alpha_t + (1 - kept) * u)

    def spread(self, t: Tensor, s: Tensor) -> Tensor:
        """Standard deviation of q(z_s | z_t, u)."""
        gamma_t, gamma_s = self.gamma(t), self.gamma(s)
        return (torch.sigmoid(gamma_s) * -torch.expm1(gamma_s - gamma_t)).sqrt()

    def _steps(self, n_steps: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
        times = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64).to(like)
        return list(pairwise(times))

    def sample(
        self,
        n: int,
        generator: Source,
        n_steps: int,
        temperature: float = 1.0,
        limit: float | None = 1.0,
    ) -> Tensor:
        """Draw n contexts by steps from noise, (n, \\*context_shape).

        Parameters
        ----------
        n : int
        generator : Generator
        n_steps : int
        temperature : float
            What all noise is multiplied by.
        limit : float, optional
            Largest size of the u that is seen on the way; without it samples are of the density
            that `path_log_weight` weighs.
        """
        like = next(self.parameters())
        shape = (n, *self.context_shape)
        z = temperature * normal(shape, generator, like)
        for t, s in self._steps(n_steps, like):
            noise = temperature * normal(shape, generator, like)
            z = self.step(z, t, s, limit=limit) + self.spread(t, s) * noise
        first = torch.tensor(self.gamma_min, dtype=z.dtype, device=z.device)
        noise = temperature * normal(shape, generator, like)
        return z / torch.sigmoid(-first).sqrt() + exp(self.gamma_min / 2) * noise


class Denoiser(nn.Module):
    """A residual network of convolutions that is told the time; zero at the start.

    Each place has a vector of its own, because a context need not look the same at all places.

    Parameters
    ----------
    context_shape : tuple of int
    channels, n_blocks : int
    dropout : float
    generator : Generator, optional
        Draws the first weights; torch's global one by default.
    """

    frequencies: Tensor

    def __init__(
        self,
        context_shape: tuple[int, int, int],
        channels: int,
        n_blocks: int,
        dropout: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_waves = max(4, channels // 2)
        powers = torch.linspace(0, 1, n_waves, dtype=torch.float64)
        self.register_buffer("frequencies", _SLOWEST * (_FASTEST / _SLOWEST) ** powers)
        self.time = convolution(2 * n_waves, 4 * channels, 1, generator)
        self.first = convolution(context_shape[0], channels, 3, generator)
        rescale(self.first, _FIRST_GAIN)
        place = torch.empty(channels, *context_shape[1:], dtype=torch.float32)
        self.place = nn.Parameter(place.normal_(std=0.5, generator=generator))
        scale = 1 / sqrt(max(1, n_blocks))
        self.blocks = nn.ModuleList(
            _Block(channels, dropout, scale, generator) for _ in range(n_blocks)
        )
        self.last = convolution(channels, context_shape[0], 3, generator)
        rescale(self.last, 0.0)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Map z (n, channels, height, width) at times t (n,) to as many numbers."""
        angles = t[:, None] * self.frequencies.to(t)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1)[:, :, None, None])
        y = self.first(z) + self.place
        for block in self.blocks:
            y = block(y, F.silu(time))
        return self.last(F.silu(y))


class _Block(nn.Module):
    """Two convolutions whose result is added, between which the time is told."""

    def __init__(
        self,
        channels: int,
        dropout: float,
        scale: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.before = convolution(channels, channels, 3, generator)
        self.time = convolution(4 * channels, channels, 1, generator)
        self.dropout = nn.Dropout(dropout)
        self.after = convolution(channels, channels, 3, generator)
        rescale(self.after, scale)

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        inner = F.silu(self.before(F.silu(y)) + self.time(time))
        return y + self.after(self.dropout(inner))


def _beside(values: Tensor, z: Tensor) -> Tensor:
    """Values (n,) with as many axes as z has."""
    return values.reshape(-1, *[1] * (z.ndim - 1))


def _sum(values: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return values.flatten(1).sum(1)
