"""The likelihood of grey levels of images, by mixtures of logistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import ROUNDING, Likelihood, Terms

_LEVELS = 255
"""Largest of the grey levels 0, 1, ..., which stand for values k / 255."""

_LOG_SCALES = -8.0, 1.0
"""Smallest and largest log scale of a logistic, where values go from -1 to 1."""


class Components(NamedTuple):
    """The logistics of pixels, where values go from -1 to 1.

    Attributes
    ----------
    log_shares : Tensor of shape (n, n_components, height, width)
    loc, log_scale : Tensor of shape (n, n_components, channels, height, width)
    coefficients : Tensor of shape (n, n_components, channels, channels, height, width)
        How far the location of a channel, the first of the two axes, moves with the value of
        another; 0 unless that comes before.
    """

    log_shares: Tensor
    loc: Tensor
    log_scale: Tensor
    coefficients: Tensor


class LogisticMixture(Likelihood):
    """Grey levels k / 255 of pixels, by a mixture of discretised logistics for each pixel.

    A level has the probability of its interval under a logistic; the lowest and the highest have
    the tails (Salimans et al., arXiv 1701.05517). The channels of a pixel share the component, and
    the location of each depends linearly on the values of those before.

    Parameters
    ----------
    n_features : int
        Values of a row, a flattened image.
    image_shape : tuple of int
        (channels, height, width).
    n_components : int
    """

    support = (0.0, 1.0)
    allows_missing = False

    def __init__(
        self, n_features: int, image_shape: tuple[int, int, int], n_components: int = 10
    ) -> None:
        super().__init__(n_features)
        self.image_shape, self.n_components = image_shape, n_components

    @property
    def n_per_pixel(self) -> int:
        """Numbers that a pixel takes: a share, locations, scales and coefficients a component."""
        channels = self.image_shape[0]
        return self.n_components * (1 + 2 * channels + channels * (channels - 1) // 2)

    @property
    def n_outputs(self) -> int:
        _, height, width = self.image_shape
        return self.n_per_pixel * height * width

    def check(self, x: Tensor) -> None:
        super().check(x)
        levels = _LEVELS * x
        broken = abs(levels - levels.round()) > _LEVELS * ROUNDING
        if bool(broken.any()):
            value = float(x[broken][0])
            raise ValueError(f"expects grey levels k / {_LEVELS}, but got a value of {value:.9g}")

    def terms(self, x: Tensor, mask: Tensor | None = None) -> Terms:
        if mask is not None:
            raise ValueError("A mixture of logistics expects rows that are complete.")
        return Terms(x, x.new_zeros(len(x)))

    def paired(self, terms: Terms, outputs: Tensor) -> Tensor:
        n, n_draws = outputs.shape[:2]
        parts = self.components(outputs.flatten(0, 1))
        levels = terms.statistics.to(outputs).view(n, *self.image_shape)
        values = 2 * levels.repeat_interleave(n_draws, 0)[:, None] - 1
        moved = (parts.coefficients * values[:, :, None]).sum(3)
        log_p = log_probability(values, parts.loc + moved, parts.log_scale)
        pixels = torch.logsumexp(log_p.sum(2) + parts.log_shares, 1)
        return pixels.flatten(1).sum(1).view(n, n_draws)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return E[x | z], as if values were not rounded to levels, (..., n_features).

        Of a channel that depends on others, each component has the mean at those of the others.
        """
        parts = self.components(outputs.reshape(-1, self.n_outputs))
        scale, means = parts.log_scale.exp(), torch.zeros_like(parts.loc)
        for channel in range(self.image_shape[0]):
            moved = (parts.coefficients[:, :, channel] * means).sum(2)
            means[:, :, channel] = clipped_mean(
                parts.loc[:, :, channel] + moved, scale[:, :, channel]
            )
        values = (parts.log_shares.exp()[:, :, None] * means).sum(1)
        return ((values + 1) / 2).flatten(1).view(*outputs.shape[:-1], self.n_features)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        parts = self.components(outputs.reshape(-1, self.n_outputs))
        chosen = self._drawn(parts.log_shares.shape, outputs, generator)
        component = (parts.log_shares - (-chosen.log()).log()).argmax(1)[:, None]
        logistic = torch.logit(self._drawn(parts.loc[:, 0].shape, outputs, generator))
        values = torch.zeros_like(logistic)
        for channel in range(self.image_shape[0]):
            moved = (parts.coefficients[:, :, channel] * values[:, None]).sum(2)
            loc = (parts.loc[:, :, channel] + moved).gather(1, component)[:, 0]
            scale = parts.log_scale[:, :, channel].exp().gather(1, component)[:, 0]
            value = (loc + scale * logistic[:, channel]).clamp(-1, 1)
            values[:, channel] = 2 * (_LEVELS * (value + 1) / 2).round() / _LEVELS - 1
        levels = (_LEVELS * (values + 1) / 2).round() / _LEVELS
        return levels.flatten(1).view(*outputs.shape[:-1], self.n_features)

    def components(self, outputs: Tensor) -> Components:
        """Return the logistics that outputs (n, n_outputs) say."""
        channels, height, width = self.image_shape
        k, pairs = self.n_components, channels * (channels - 1) // 2
        pixels = outputs.view(-1, self.n_per_pixel, height, width)
        sizes = [k, k * channels, k * channels, k * pairs]
        shares, loc, log_scale, coefficients = pixels.split(sizes, 1)
        table = outputs.new_zeros(len(pixels), k, channels, channels, height, width)
        below = torch.tril_indices(channels, channels, -1)
        table[:, :, below[0], below[1]] = coefficients.unflatten(1, (k, pairs)).tanh()
        return Components(
            F.log_softmax(shares, 1),
            loc.unflatten(1, (k, channels)),
            log_scale.unflatten(1, (k, channels)).clamp(*_LOG_SCALES),
            table,
        )

    def _drawn(self, shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform numbers between 0 and 1, neither of them included."""
        u = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return (
            u.clamp(1e-12, 1 - 1e-12)
            .to(like.device)
            .to(torch.promote_types(like.dtype, torch.float32))
        )


def log_probability(values: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log probability of grey levels under discretised logistics, in nats.

    Parameters
    ----------
    values : Tensor
        2 k / 255 - 1 for levels k.
    loc, log_scale : Tensor
        Of logistics; all three are broadcast.
    """
    inverse = (-log_scale).exp()
    centred, half = (values - loc) * inverse, inverse / _LEVELS
    # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)), which does not cancel
    below, above = F.logsigmoid(centred + half), F.logsigmoid(half - centred)
    inside = below + above + torch.log(-torch.expm1(-2 * half))
    edge = 1 - 1 / _LEVELS
    return torch.where(values < -edge, below, torch.where(values > edge, above, inside))


def clipped_mean(loc: Tensor, scale: Tensor) -> Tensor:
    """Return the mean of logistics whose draws are moved into [-1, 1]."""
    return -1 + scale * (F.softplus((loc + 1) / scale) - F.softplus((loc - 1) / scale))
