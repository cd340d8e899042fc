"""Observation models p(x | z): exponential families in the decoder's output.

    log p(x | z) = sum_d [ T(x_d) eta_d(z) - A_d(eta_d(z)) ] + h(x)

so that the table of all samples against all latent points is one matrix product. A family says what
T, eta, A and h are, how a decoder's output becomes a mean, and how to draw; the table and its rows
come with the base class.

Decoder outputs are standardised: a family is started at the data with `start`, after which an
output of zero stands for the mean of the data and one unit for their scale. Statistics are taken in
the precision of x, products in that of the decoder's output."""

from __future__ import annotations

from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .precision import matmul_precision

_START = 0.5
"""Learned noise at the start, as a fraction of the data's variance. At 1 the constant decoder is a
saddle: noise that explains all of the variance leaves nothing to pull the decoder away from it."""

_SPEED = 10.0
"""An Adam-type optimiser moves each parameter by about its step size; the log of the noise has
further to go than a weight."""


class Likelihood(nn.Module):
    """Base of the families; a subclass defines `natural`, `log_normalizer`, `mean`, `sample`, and
    what else is not as here.

    Attributes
    ----------
    support : tuple of float
        Smallest and largest value that data may take.
    loc : Tensor of shape (n_features,)
        What an output of zero stands for, float64, in the units of the family's natural scale.
    """

    support = (float("-inf"), float("inf"))
    loc: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(n_features, dtype=torch.float64))

    def start(self, x: Tensor) -> None:
        """Set location and scale from data x of shape (n_samples, n_features)."""

    def statistics(self, x: Tensor) -> Tensor:
        """Return T(x), of shape (n_samples, n_features)."""
        return x

    def natural(self, outputs: Tensor) -> Tensor:
        """Return eta for decoder outputs, both of shape (..., n_features)."""
        raise NotImplementedError

    def log_normalizer(self, eta: Tensor) -> Tensor:
        """Return A(eta) summed over the features, of shape (...)."""
        raise NotImplementedError

    def log_base(self, x: Tensor) -> Tensor:
        """Return h(x) in nats, of shape (n_samples,)."""
        return x.new_zeros(len(x))

    def mean(self, outputs: Tensor) -> Tensor:
        """Return E[x | z], of shape (..., n_features), in the units of x."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given decoder outputs, of the same shape."""
        raise NotImplementedError

    def table(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_i | z_j) in nats by one product: x (n, d), outputs (m, d) -> (n, m)."""
        eta = self.natural(outputs)
        products = self.statistics(x).to(eta.dtype) @ eta.T
        return products - self.log_normalizer(eta) + self.log_base(x).to(eta.dtype)[:, None]

    def paired(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_i | z_is) in nats, each row with points of its own: x (n, d), outputs (n,
        s, d) -> (n, s)."""
        eta = self.natural(outputs)
        products = torch.einsum("nd,nsd->ns", self.statistics(x).to(eta.dtype), eta)
        return products - self.log_normalizer(eta) + self.log_base(x).to(eta.dtype)[:, None]


class Bernoulli(Likelihood):
    """Independent coins: ``T(x) = x``, ``eta`` the logits, ``A = log(1 + exp(eta))``, ``h = 0``.

    On grey levels between 0 and 1 this is a cross-entropy rather than a likelihood of the pixels:
    such nats compare models of the same data, and not with figures for binary images."""

    support = (0.0, 1.0)

    def start(self, x: Tensor) -> None:
        self.loc = torch.logit(x.double().mean(0).clamp(1e-3, 1 - 1e-3))

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs + self.loc.to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return F.softplus(eta).sum(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(self.natural(outputs))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(outputs)
        uniform = torch.rand(
            mean.shape, dtype=mean.dtype, generator=generator, device=generator.device
        )
        return (uniform.to(mean.device) < mean).to(mean)


class Gaussian(Likelihood):
    """Independent normal features of mean f(z), and a noise variance that does not depend on z.

    In units of the data's centre c and scale s, with ``f = c + s o`` for decoder outputs o and
    ``var = s^2 v``: ``T(x) = (x - c) / s``, ``eta = o / v``, ``A = eta^2 v / 2`` and ``h = -(T(x)^2
    / v + log(2 pi var)) / 2``.

    Parameters
    ----------
    n_features : int
    noise_variance : {"spherical", "diagonal"} or float
        Learned, one for all features or one each; or fixed, in the squared units of x.
    floor : float
        Smallest learned variance, as a fraction of the data's mean variance s^2.
    """

    scale: Tensor

    def __init__(
        self, n_features: int, noise_variance: str | float = "spherical", floor: float = 1e-4
    ) -> None:
        super().__init__(n_features)
        if isinstance(noise_variance, str) and noise_variance not in ("spherical", "diagonal"):
            raise ValueError(
                "noise_variance expects 'spherical', 'diagonal' or a number, but got "
                f"{noise_variance!r}."
            )
        self.floor = floor
        self.fixed = None if isinstance(noise_variance, str) else float(noise_variance)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        if self.fixed is None:
            shape, self.speed = (n_features,) if noise_variance == "diagonal" else (), _SPEED
            self.slow_log_noise = nn.Parameter(torch.full(shape, log(_START) / self.speed))

    def start(self, x: Tensor) -> None:
        variance = x.double().var(0, correction=0).mean()
        self.loc = x.double().mean(0)
        self.scale = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()

    def noise_variance(self) -> Tensor:
        """Return the noise variance in squared units of x, float64 of shape () or (n_features,)."""
        return self._relative_noise() * self.scale**2

    def _relative_noise(self) -> Tensor:
        if self.fixed is not None:
            return self.fixed / self.scale**2
        return self.floor + (self.speed * self.slow_log_noise.double()).exp()

    def statistics(self, x: Tensor) -> Tensor:
        return (x - self.loc.to(x)) / self.scale.to(x)

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs / self._relative_noise().to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return 0.5 * (eta * eta * self._relative_noise().to(eta)).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        squares = self.statistics(x) ** 2 / self._relative_noise().to(x)
        return -0.5 * (squares + log(2 * pi) + self.noise_variance().log().to(x)).sum(-1)

    def table(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return the table by a product in full precision: its terms are large, by 1 / v, and
        cancel."""
        with matmul_precision("highest"):
            return super().table(x, outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.loc.to(outputs) + self.scale.to(outputs) * outputs

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(outputs)
        noise = torch.randn(
            mean.shape, dtype=mean.dtype, generator=generator, device=generator.device
        )
        return mean + self.noise_variance().sqrt().to(mean) * noise.to(mean.device)
