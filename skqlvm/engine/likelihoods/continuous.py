"""Likelihoods of real numbers."""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor, nn

from ..rows import gaps, mean_of_rows
from .contract import ExponentialFamily

_FIRST_NOISE = 0.5
"""Learned noise at the start, as a fraction of the data's variance. At 1 the constant decoder is a
saddle: noise that explains all of the variance leaves nothing to pull the decoder away from it."""

_SPEED = 10.0
"""An Adam-type optimiser moves each parameter by about its step size; the log of the noise has
further to go than a weight."""

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Scales whose products with float32 numbers neither vanish nor overflow."""

_NOISE = 1e-10, 1e30
"""Smallest and largest fixed noise beside the data's variance that float32 can train with."""

_UNEQUAL = 10.0
"""Ratio of the largest to the median standard deviation above which features have scales of their
own."""

LOG_TWO_PI = log(2 * pi)


class Gaussian(ExponentialFamily):
    """Independent normal features of mean f(z), and a noise variance that does not depend on z.

    In units of the data's centre c and scale s, with ``f = c + s o`` for decoder outputs o and
    ``var = s^2 v``: ``T(x) = (x - c) / s``, ``eta = o / v``, ``A = eta^2 v / 2`` and
    ``h = -(T(x)^2 / v + log v + log 2 pi) / 2 - log s``.

    The scale is one for all features; or one each, where the largest is more than 10 times the
    median one, and where each has noise of its own. "spherical" noise is spherical in these units.

    Parameters
    ----------
    n_features : int
    noise_variance : {"spherical", "diagonal"} or float
        Learned, one for all features or one each; or fixed, in the squared units of x.
    floor : float
        Smallest learned variance, as a fraction of the data's squared scale s^2.
    """

    parameters_taken = ("noise_variance",)
    loc: Tensor
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
        self.shape = (n_features,) if noise_variance == "diagonal" else ()
        self.fixed = None if isinstance(noise_variance, str) else float(noise_variance)
        self.register_buffer("loc", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))
        if self.fixed is None:
            start = torch.full(self.shape, log(_FIRST_NOISE) / _SPEED, dtype=torch.float32)
            self.slow_log_noise = nn.Parameter(start)

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set centre and scale from data, rows weighted.

        Raises
        ------
        ValueError
            If the data's scale, or a fixed noise beside it, is out of reach of float32.
        """
        x, mask = x.double(), gaps(x)
        loc, there = mean_of_rows(x, weight), x if mask is None else x[mask]
        largest = float(there.abs().max())
        if not largest < _LARGEST:
            raise ValueError(
                f"X is too large: its largest absolute value is {largest:.3g}, and one "
                f"below {_LARGEST:g} is expected. Rescale X."
            )
        varies = _varies(x, mask)
        scale = torch.ones_like(loc)
        if bool(varies.any()):
            scale = self._scale_of(x - loc, varies, weight)
        smallest = float(scale.min())
        if not smallest > _SMALLEST:
            raise ValueError(
                f"X is too small: its standard deviation is {smallest:.3g}, and one above "
                f"{_SMALLEST:g} is expected. Rescale X."
            )
        if self.fixed is not None and bool(varies.any()):
            _check_beside(self.fixed, float(scale.max()) ** 2)
        self.loc, self.scale = loc, scale

    def _scale_of(self, residuals: Tensor, varies: Tensor, weight: Tensor | None) -> Tensor:
        """The root mean square of all features together, or of each where they are unequal."""
        mask = gaps(residuals)
        largest = (residuals if mask is None else residuals[mask]).abs().max()
        squares = (residuals / largest).square()  # without the largest, they may underflow
        each = largest * mean_of_rows(squares, weight).sqrt()
        if mask is None and weight is None:
            shared = largest * squares.mean().sqrt()
        else:
            shared = largest * mean_of_rows(squares, weight).mean().sqrt()
        unequal = float(each[varies].max()) > _UNEQUAL * float(each[varies].median())
        return torch.where(varies & (unequal or bool(self.shape)), each, shared)

    def log_prior(self) -> Tensor:
        """Return ``-sum_d (log v_d + 1 / v_d) / 2``: a row whose residuals are the scale's size."""
        if self.fixed is not None:
            return torch.zeros(())
        noise = self._relative_noise().expand(self.n_features)
        return -0.5 * (noise.log() + 1 / noise).sum()

    def noise_variance(self) -> Tensor:
        """Return the noise variance in squared units of x, float64 of shape () or (n_features,)."""
        if self.fixed is not None:
            return self.scale.new_tensor(self.fixed)
        variance = self._relative_noise() * self.scale**2
        one_for_all = not self.shape and bool((self.scale == self.scale[0]).all())
        return variance[0] if one_for_all else variance

    def learned(self) -> dict[str, Tensor]:
        return {"noise_variance": self.noise_variance()}

    def _relative_noise(self) -> Tensor:
        """v, the noise variance in squared units of the scale."""
        if self.fixed is not None:
            return self.fixed / self.scale**2
        return self.floor + (_SPEED * self.slow_log_noise.double()).exp()

    def statistics(self, x: Tensor) -> Tensor:
        return (x - self.loc.to(x)) / self.scale.to(x)

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs / self._relative_noise().to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return 0.5 * eta * eta * self._relative_noise().to(eta)

    def log_base(self, x: Tensor) -> Tensor:
        noise = self._relative_noise()
        squares = self.statistics(x) ** 2 / noise.to(x)
        constant = 0.5 * (noise.log() + LOG_TWO_PI) + self.scale.log()
        return -0.5 * squares - constant.to(x)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.loc.to(outputs) + self.scale.to(outputs) * outputs

    def variance(self, outputs: Tensor) -> Tensor:
        return self.noise_variance().to(outputs).expand(outputs.shape)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean, where = self.mean(outputs), generator.device
        noise = torch.randn(mean.shape, dtype=mean.dtype, generator=generator, device=where)
        return mean + self.noise_variance().sqrt().to(mean) * noise.to(mean.device)


def _varies(x: Tensor, mask: Tensor | None) -> Tensor:
    """Which features have more than one value, (n_features,), bool."""
    if mask is None:
        return (x != x[0]).any(0)
    inf = float("inf")
    return torch.where(mask, x, -inf).amax(0) > torch.where(mask, x, inf).amin(0)


def _check_beside(noise: float, variance: float) -> None:
    """Raise if a fixed noise is out of reach of float32 in units of the data's variance."""
    least, most = _NOISE
    if noise < least * variance:
        size, limit = "small", f"least {least:g}"
    elif noise > most * variance:
        size, limit = "large", f"most {most:g}"
    else:
        return
    raise ValueError(
        f"noise_variance={noise:g} is too {size} beside the variance of X, {variance:.3g}: at "
        f"{limit} of it is expected."
    )


class ContinuousBernoulli(ExponentialFamily):
    """Independent densities on [0, 1] that rise or fall exponentially (arXiv 1907.06845).

    ``T(x) = x``, ``A = log((exp(eta) - 1) / eta)`` and ``h = 0``: of grey levels a likelihood,
    where a Bernoulli's cross-entropy is none. In units of the data, ``eta = loc + scale o``.
    """

    support = (0.0, 1.0)
    loc: Tensor
    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("loc", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set the rates to the data's means; one unit moves them in proportion to their spread."""
        mean = mean_of_rows(x, weight).clamp(1e-3, 1 - 1e-3)
        low, high = (torch.full_like(mean, limit) for limit in (-2e3, 2e3))
        for _ in range(64):
            middle = (low + high) / 2
            above = _mean_on_interval(middle) > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        self.loc = (low + high) / 2
        self.scale = (12 * _variance_on_interval(self.loc)).rsqrt()

    def natural(self, outputs: Tensor) -> Tensor:
        return self.loc.to(outputs) + self.scale.to(outputs) * outputs

    def log_normalizer(self, eta: Tensor) -> Tensor:
        near, small, large = _by_series(eta / 2)
        series = small + small**2 * _polynomial(small**2, list(_SERIES))
        rest = torch.log(-torch.expm1(-2 * large) / (2 * large))
        return torch.where(near, series, eta.clamp(min=0) + rest)

    def mean(self, outputs: Tensor) -> Tensor:
        return _mean_on_interval(self.natural(outputs))

    def variance(self, outputs: Tensor) -> Tensor:
        return _variance_on_interval(self.natural(outputs))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        eta, where = self.natural(outputs), generator.device
        uniform = torch.rand(eta.shape, dtype=eta.dtype, generator=generator, device=where)
        falling = -eta.abs().clamp(min=1e-30)  # a density that rises is one that falls, mirrored
        x = torch.log1p(uniform.to(eta.device) * torch.expm1(falling)) / falling
        return torch.where(eta > 0, 1 - x, x)


_SERIES = (
    1 / 6,
    -1 / 180,
    1 / 2835,
    -1 / 37800,
    1 / 467775,
    -691 / 3831077250,
    2 / 127702575,
    -3617 / 2605132530000,
)
"""Coefficients of t^2, t^4, ... in log(sinh(t) / t), which converges for |t| < pi."""

_NEAR = 0.3
"""Where the series is to float64's rounding."""


def _polynomial(squares: Tensor, coefficients: list[float]) -> Tensor:
    result = torch.zeros_like(squares)
    for coefficient in reversed(coefficients):
        result = result * squares + coefficient
    return result


def _by_series(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where |t| is small; t there and zero elsewhere; and |t| elsewhere and one where it is."""
    near = t.abs() < _NEAR
    return near, torch.where(near, t, 0), torch.where(near, 1, t.abs())


def _mean_on_interval(eta: Tensor) -> Tensor:
    """The slope of ``A``, (1 + coth t - 1 / t) / 2 with t = eta / 2."""
    near, small, large = _by_series(eta / 2)
    slopes = [2 * (i + 1) * coefficient for i, coefficient in enumerate(_SERIES)]
    series = small * _polynomial(small**2, slopes)
    slope = torch.where(near, series, (1 / large.tanh() - 1 / large) * eta.sign())
    return (1 + slope) / 2


def _variance_on_interval(eta: Tensor) -> Tensor:
    """The curvature of ``A``, (1 / t^2 - 1 / sinh^2 t) / 4 with t = eta / 2."""
    near, small, large = _by_series(eta / 2)
    curvatures = [2 * (i + 1) * (2 * i + 1) * coefficient for i, coefficient in enumerate(_SERIES)]
    series = _polynomial(small**2, curvatures)
    inverse_sinh = 2 * (-large).exp() / -torch.expm1(-2 * large)
    return torch.where(near, series, 1 / large**2 - inverse_sinh**2) / 4
