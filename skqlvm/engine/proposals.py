"""Proposals of an encoder: distributions q(z | x) over latent points, one a row.

They are objects that know their own density. A proposal turns standard normal noise of shape
(s, n_noise) or (n, s, n_noise) into points z of shape (n, s, k), so that gradients reach its
parameters through z; `log_prob` gives log q(z | x) of shape (n, s), `kl` the divergence from the
prior, of shape (n, 1) if exact, or an estimate from each draw, of shape (n, s), in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import log, pi
from typing import Self

import torch
from torch import Tensor

from . import torus

_WIDEST = 0.5
"""Largest standard deviation of a wrapped normal, in turns: the circle is covered evenly to a per
cent, and few windings count."""

WINDINGS = (-2, -1, 0, 1, 2)
"""Turns that a wrapped normal may have taken; those left out are at least five standard deviations
away."""

_LOG_VARIANCE = (-18.0, 6.0)
"""Limits of what an encoder may say, so that no proposal degenerates in float32."""

_ECCENTRICITY = 100.0
"""Largest ratio of what coordinates share to what is their own. Without a limit an encoder flattens
its proposal until the rounding of a draw is many standard deviations: log q is then wrong by any
amount, and the bound is none."""

_FIRST_LOG_VARIANCE = -4.0
"""Log variance that an encoder's output of zero stands for."""


@dataclass(frozen=True)
class Normal:
    """Base of the multivariate normals q(z | x) = N(loc, covariance).

    A subclass says how noise spreads around `loc`, and what its covariance and that one's inverse
    and determinant are.

    Attributes
    ----------
    loc : Tensor of shape (n, k)
    """

    loc: Tensor

    @property
    def n_noise(self) -> int:
        """Number of noise values that a draw takes."""
        return self.loc.shape[-1]

    def spread(self, noise: Tensor) -> Tensor:
        """Return ``z - loc`` for noise of shape (..., s, n_noise), of shape (n, s, k)."""
        raise NotImplementedError

    def squared_distance(self, residual: Tensor) -> Tensor:
        """Return ``r' covariance^-1 r`` for residuals of shape (n, s, k), of shape (n, s)."""
        raise NotImplementedError

    def log_det(self) -> Tensor:
        """Return the log determinant of the covariance, of shape (n,)."""
        raise NotImplementedError

    def marginal_variance(self) -> Tensor:
        """Return the diagonal of the covariance, of shape (n, k)."""
        raise NotImplementedError

    def covariance(self) -> Tensor:
        """Return the covariance, of shape (n, k, k)."""
        raise NotImplementedError

    def scaled(self, ratio: Tensor) -> Self:
        """Return the proposal whose coordinates spread `ratio` times as far.

        `ratio` has shape (n, k).
        """
        raise NotImplementedError

    def at(self, noise: Tensor) -> Tensor:
        """Return the points that noise stands for, of shape (n, s, k)."""
        return self.loc[:, None] + self.spread(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ``log q(z | x) = -(d^2 + log det(2 pi covariance)) / 2``.

        Here d is the distance of z from loc.
        """
        log_volume = self.log_det() + self.loc.shape[-1] * log(2 * pi)
        return -0.5 * (self.squared_distance(z - self.loc[:, None]) + log_volume[:, None])

    def kl(self, z: Tensor) -> Tensor:
        """Return KL(q || N(0, I)) = (trace + |loc|^2 - k - log det) / 2, exactly.

        The draws z are not needed.
        """
        return (
            0.5 * ((self.marginal_variance() + self.loc**2 - 1).sum(-1) - self.log_det())[:, None]
        )

    def detached(self) -> Self:
        """Return the same proposal with constant parameters."""
        return type(self)(*(value.detach() for value in vars(self).values()))


@dataclass(frozen=True)
class DiagonalNormal(Normal):
    """Normal with covariance diag(variance), `variance` of shape (n, k)."""

    variance: Tensor

    def spread(self, noise: Tensor) -> Tensor:
        return self.variance.sqrt()[:, None] * noise

    def squared_distance(self, residual: Tensor) -> Tensor:
        return (residual**2 / self.variance[:, None]).sum(-1)

    def log_det(self) -> Tensor:
        return self.variance.log().sum(-1)

    def marginal_variance(self) -> Tensor:
        return self.variance

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.variance)

    def scaled(self, ratio: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.variance * ratio**2)


@dataclass(frozen=True)
class LowRankNormal(Normal):
    """Normal with covariance diag(variance) + factor factor', both of shape (n, k).

    It is the posterior of arXiv 2601.18676's baselines.
    """

    variance: Tensor
    factor: Tensor

    @property
    def n_noise(self) -> int:
        """Number of noise values that a draw takes: one a coordinate, and one for the factor."""
        return self.loc.shape[-1] + 1

    def spread(self, noise: Tensor) -> Tensor:
        return (
            self.variance.sqrt()[:, None] * noise[..., :-1] + self.factor[:, None] * noise[..., -1:]
        )

    def squared_distance(self, residual: Tensor) -> Tensor:
        scale, gain = self.variance.sqrt()[:, None], self._gain()[:, None, None]
        white, factor = residual / scale, self.factor[:, None] / scale
        # by the root of the inverse, (I + f f')^-1/2 = I - f f' / (gain + gain^1/2): a difference
        # of squares would cancel in float32
        return (
            (white - factor * (white * factor).sum(-1, keepdim=True) / (gain + gain.sqrt()))
            .square()
            .sum(-1)
        )

    def log_det(self) -> Tensor:
        return self.variance.log().sum(-1) + self._gain().log()

    def marginal_variance(self) -> Tensor:
        return self.variance + self.factor**2

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.variance) + self.factor[:, :, None] * self.factor[:, None]

    def scaled(self, ratio: Tensor) -> LowRankNormal:
        return LowRankNormal(self.loc, self.variance * ratio**2, self.factor * ratio)

    def _gain(self) -> Tensor:
        """What the factor multiplies the determinant by: 1 + factor' diag(variance)^-1 factor."""
        return 1 + (self.factor**2 / self.variance).sum(-1)


@dataclass(frozen=True)
class FullNormal(Normal):
    """Normal with covariance scale_tril scale_tril'.

    `scale_tril` is lower triangular, of shape (n, k, k).
    """

    scale_tril: Tensor

    def spread(self, noise: Tensor) -> Tensor:
        return noise @ self.scale_tril.mT

    def squared_distance(self, residual: Tensor) -> Tensor:
        return (
            torch.linalg.solve_triangular(self.scale_tril, residual.mT, upper=False)
            .square()
            .sum(-2)
        )

    def log_det(self) -> Tensor:
        return 2 * self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def marginal_variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1)

    def covariance(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    def scaled(self, ratio: Tensor) -> FullNormal:
        return FullNormal(self.loc, self.scale_tril * ratio[..., None])


@dataclass(frozen=True)
class Wrapped:
    """Normal wound around the torus: ``q(z | x) = sum_w N(z + w; loc, covariance)``.

    The sum is over whole turns w, and z is in turns. The standard deviations are at most half a
    turn, where a wrapped normal is uniform but for a per cent; the windings that are left out are
    then at least five of them away. The prior is uniform.

    Attributes
    ----------
    normal : Normal
        Unwound, with loc in turns.
    """

    normal: Normal

    @property
    def loc(self) -> Tensor:
        """The mode, in turns, of shape (n, k)."""
        return self.normal.loc

    @property
    def n_noise(self) -> int:
        """Number of noise values that a draw takes."""
        return self.normal.n_noise

    def at(self, noise: Tensor) -> Tensor:
        """Return the points that noise stands for, in turns, of shape (n, s, k)."""
        return torus.wrap(self.normal.at(noise))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z | x) in nats, of shape (n, s)."""
        loc = self.loc[:, None]
        nearest = loc + torus.difference(z, loc)
        windings = nearest.new_tensor(list(product(WINDINGS, repeat=z.shape[-1])))
        unwound = (nearest[:, :, None] + windings).flatten(1, 2)
        return torch.logsumexp(
            self.normal.log_prob(unwound).unflatten(1, (z.shape[1], len(windings))), -1
        )

    def kl(self, z: Tensor) -> Tensor:
        """Return unbiased estimates of KL(q || uniform) = E_q[log q(z | x)], one from each draw."""
        return self.log_prob(z)

    def covariance(self) -> Tensor:
        """Return the covariance of the unwound normal, in squared turns, of shape (n, k, k)."""
        return self.normal.covariance()

    def detached(self) -> Wrapped:
        """Return the same proposal with constant parameters."""
        return Wrapped(self.normal.detached())


Proposal = Normal | Wrapped


def _within(values: Tensor, scale: Tensor) -> Tensor:
    """Keep values within `_ECCENTRICITY` times a scale."""
    return values.clamp(-_ECCENTRICITY * scale, _ECCENTRICITY * scale)


def _variance(shape: Tensor) -> Tensor:
    return (shape + _FIRST_LOG_VARIANCE).clamp(*_LOG_VARIANCE).exp()


def _diagonal(loc: Tensor, shape: Tensor) -> DiagonalNormal:
    return DiagonalNormal(loc, _variance(shape))


def _low_rank(loc: Tensor, shape: Tensor) -> LowRankNormal:
    log_variance, factor = shape.chunk(2, -1)
    variance = _variance(log_variance)
    return LowRankNormal(loc, variance, _within(factor, variance.sqrt()))


def _full(loc: Tensor, shape: Tensor) -> FullNormal:
    k = loc.shape[-1]
    scale, below = _variance(shape[..., :k]).sqrt(), shape[..., k:]
    rows, columns = torch.tril_indices(k, k, -1, device=loc.device)
    place = torch.arange(len(loc), device=loc.device)[:, None], rows, columns
    return FullNormal(loc, torch.diag_embed(scale).index_put(place, _within(below, scale[:, rows])))


FAMILIES: dict[str, tuple[Callable[[Tensor, Tensor], Normal], Callable[[int], int]]] = {
    "diagonal": (_diagonal, lambda k: k),
    "low_rank": (_low_rank, lambda k: 2 * k),
    "full": (_full, lambda k: k * (k + 1) // 2),
}
"""How each family is made of a location and the numbers that shape its covariance, and how many
these are."""


def n_outputs(family: str, n_components: int, *, wrapped: bool) -> int:
    """Return how many numbers a row an encoder has to say for a proposal."""
    return n_components * (2 if wrapped else 1) + FAMILIES[family][1](n_components)


def proposal(family: str, outputs: Tensor, n_components: int, *, wrapped: bool) -> Proposal:
    """Return the proposal that an encoder's outputs of shape (n, n_outputs) stand for.

    Location first: k coordinates; or for the torus k cosines and k sines, whose direction it is,
    since no continuous map of the data to single numbers could go round. Then the logarithms of k
    variances, and what else the family needs.
    """
    make, n_shape = FAMILIES[family]
    where, shape = outputs.split(
        [outputs.shape[-1] - n_shape(n_components), n_shape(n_components)], -1
    )
    if not wrapped:
        return make(where, shape)
    normal = make(torus.from_circle(where), shape)
    return Wrapped(normal.scaled(_WIDEST / (_WIDEST**2 + normal.marginal_variance()).sqrt()))
