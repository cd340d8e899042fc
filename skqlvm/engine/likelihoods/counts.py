"""Likelihoods of counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..rows import gaps, mean_of_rows, median, row_numbers, row_sums, with_values
from .contract import ExponentialFamily

_RAREST = 1e-3
"""Smallest mean of a count that a model starts at."""

_SPEED = 10.0
"""An Adam-type optimiser moves each parameter by about its step size; the log of the dispersion has
further to go than a weight."""

_DISPERSIONS = 1e-3, 1e2
"""Smallest and largest dispersion to start at; half of the data's is taken, since part of that is
for the decoder to explain."""

_POISSON = 1e-4
"""Smallest dispersion: a Poisson, as far as float32 can tell."""


class Counts(ExponentialFamily):
    """Families of counts that may have an exposure: how long or how much of a row was looked at.

    Rows of exposure e have e times the rate: their log-normaliser has weight e. Its unit is the
    median exposure of the data, and means and draws are those of a row of it.

    Parameters
    ----------
    n_features : int
        Columns of x, that of an exposure included.
    exposure : int or "total", optional
        The column of x that is the exposure, told and not modelled; or the total of a row.
    """

    support = (0.0, float("inf"))
    integral = True
    sparse = True
    loc: Tensor
    unit: Tensor
    counted: Tensor

    def __init__(self, n_features: int, exposure: int | str | None = None) -> None:
        super().__init__(n_features)
        self.exposure = exposure
        self.column = exposure if isinstance(exposure, int) else None
        self.allows_missing = exposure != "total"
        self.sparse = type(self).sparse and self.column is None
        self.rescales = exposure is not None
        numbers = [i for i in range(n_features) if i != self.column]
        self.register_buffer("counted", torch.tensor(numbers), persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.register_buffer("loc", torch.zeros(len(numbers), dtype=torch.float64))

    @property
    def n_outputs(self) -> int:
        return len(self.counted)

    @property
    def n_normalizers(self) -> int:
        return self.n_outputs

    def check(self, x: Tensor) -> None:
        if self.column is None:
            super().check(x)
            return
        super().check(x[:, self.counted.tolist()])
        exposure = x[:, self.column]
        wrong = ~(exposure > 0)
        if bool(wrong.any()):
            came = float(exposure[wrong][0])
            raise ValueError(f"expects an exposure that is positive, but got {came:.9g}")

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        if self.exposure is not None:
            exposure = self._raw_exposure(x).double()
            some = exposure > 0
            if bool(some.any()):
                self.unit = median(exposure[some], None if weight is None else weight[some])
        mean = mean_of_rows(self.statistics(x), weight)
        rate = mean / self._mean_exposure(x, weight)
        self.loc = rate.clamp(min=_RAREST).log()

    def statistics(self, x: Tensor) -> Tensor:
        return x if self.column is None else x[:, self.counted]

    def spread(self, mask: Tensor) -> Tensor:
        return mask if self.column is None else mask[:, self.counted]

    def weight(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        there = None if mask is None else self.spread(mask).to(x)
        if self.exposure is None:
            return there
        exposure = self.exposures(x)
        return exposure if there is None else there * exposure

    def log_base(self, x: Tensor) -> Tensor:
        exposure = None if self.exposure is None else self.exposures(x)
        return self._with_exposure(self._log_base(self.statistics(x), exposure), 0.0)

    def log_base_at(self, values: Tensor, features: Tensor) -> Tensor:
        return self._log_base(values, None, features)

    def _total_log_base(self, x: Tensor) -> Tensor:
        if x.layout != torch.sparse_csr or self.exposure is None:
            return super()._total_log_base(x)
        rows = row_numbers(x)
        exposure = self.exposures(x)[rows, 0]
        values = self._log_base(x.values(), exposure, x.col_indices())
        return values.new_zeros(len(x)).index_add_(0, rows, values)

    def inputs(self, x: Tensor) -> Tensor:
        mask = gaps(x)
        x = x if mask is None else torch.where(mask, x, self._mean_row().to(x))
        inputs = torch.log1p(self.statistics(x))
        if self.column is None:
            return inputs
        return torch.cat([inputs, self.exposures(x).log()], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        return self._with_exposure(self._rate(outputs), float(self.unit))

    def variance(self, outputs: Tensor) -> Tensor:
        return self._with_exposure(self._variance(outputs), 0.0)

    def rescaled(self, means: Tensor, x: Tensor) -> Tensor:
        if self.exposure is None:
            return means
        counts = self.statistics(means) * self.exposures(x)
        return self._with_exposure(counts, self._raw_exposure(x))

    def predictive(
        self, outputs: Tensor, weights: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mean, std = super().predictive(outputs, weights)
        if self.exposure is None or x is None:
            return mean, std
        within = weights @ self.variance(outputs)
        return self.rescaled(mean, x), _std_of_units(within, std, self.exposures(x))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self._with_exposure(self._drawn(outputs, generator), float(self.unit))

    def exposures(self, x: Tensor) -> Tensor:
        """Return the exposures of rows x (n, d), in units of the median one, (n, 1)."""
        return self._raw_exposure(x)[:, None] / self.unit.to(x)

    def _raw_exposure(self, x: Tensor) -> Tensor:
        return row_sums(x) if self.column is None else x[:, self.column]

    def _mean_exposure(self, x: Tensor, weight: Tensor | None, power: int = 1) -> Tensor:
        """The mean of a power of the exposure over the rows where a count is there, float64."""
        if self.exposure is None:
            return torch.ones_like(self.loc)
        exposure, counts = self.exposures(x).double() ** power, self.statistics(x)
        if gaps(counts) is not None:
            exposure = torch.where(counts.isnan(), counts.double(), exposure)
        return mean_of_rows(exposure, weight).clamp(min=1e-30)  # of rows whose totals are zero

    def _with_exposure(self, values: Tensor, value: float | Tensor) -> Tensor:
        """Values of counts (..., n_outputs), and one in the column of the exposure if there is."""
        if self.column is None:
            return values
        value = value if isinstance(value, Tensor) else values.new_tensor(value)
        told = value.to(values)[..., None].expand(*values.shape[:-1], 1)
        return torch.cat([values[..., : self.column], told, values[..., self.column :]], -1)

    def _mean_row(self) -> Tensor:
        return self._with_exposure(self.loc.exp(), float(self.unit))

    def _rate(self, outputs: Tensor) -> Tensor:
        return (outputs + self.loc.to(outputs)).exp()

    def _log_base(
        self, counts: Tensor, exposure: Tensor | None, features: Tensor | None = None
    ) -> Tensor:
        """h of counts, of their exposures, or None where these are one.

        Of (n, n_outputs) counts exposures are (n, 1); of (k,) single ones that have `features`,
        (k,).
        """
        raise NotImplementedError

    def _variance(self, outputs: Tensor) -> Tensor:
        raise NotImplementedError

    def _drawn(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError


class Poisson(Counts):
    """Independent counts: ``T(x) = x``, ``eta = log rate``, ``A = exp(eta)``, ``h = -log x!``.

    With an exposure e, ``h = x log e - log x!`` and A has weight e.
    """

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs + self.loc.to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return eta.exp()

    def _log_base(
        self, counts: Tensor, exposure: Tensor | None, features: Tensor | None = None
    ) -> Tensor:
        base = -torch.lgamma(counts + 1)
        return base if exposure is None else base + torch.xlogy(counts, exposure)

    def _variance(self, outputs: Tensor) -> Tensor:
        return self._rate(outputs)

    def _drawn(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        rate = self._rate(outputs)
        return torch.poisson(rate.to(generator.device), generator=generator).to(rate)


class NegativeBinomial(Counts):
    """Independent counts of variance ``mean + dispersion mean^2``, the dispersion one a feature.

    With the size r, one over the dispersion, and ``p = mean / (mean + r)``: ``T(x) = x``, ``eta =
    log p``, ``A = -r log(1 - p)`` and ``h = log Gamma(x + r) - log Gamma(r) - log x!``. A row of
    exposure e is the sum of e rows: its size is e r.
    """

    start_dispersion: Tensor

    def __init__(self, n_features: int, exposure: int | str | None = None) -> None:
        super().__init__(n_features, exposure)
        ones = torch.ones(self.n_outputs, dtype=torch.float64)
        self.register_buffer("start_dispersion", ones)
        self.slow_log_dispersion = nn.Parameter(torch.zeros(self.n_outputs))

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set means from data, and half of the dispersion that their variance asks for."""
        super().start(x, weight)
        rate, first, second = self.loc.exp(), *(self._mean_exposure(x, weight, i) for i in (1, 2))
        squares, products = self._mean_products(x, weight)
        # E (x - e rate)^2 less the rate, of a unit of exposure
        excess = (squares - 2 * rate * products + rate**2 * second) / first - rate
        self.start_dispersion = (excess / (2 * rate**2)).clamp(*_DISPERSIONS)

    def _mean_products(self, x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The means of squared counts, and of counts times exposures, float64."""
        counts = self.statistics(x).double()
        exposure = self.unit[None, None] if self.exposure is None else self.exposures(x)
        if x.layout != torch.sparse_csr:
            return mean_of_rows(counts**2, weight), mean_of_rows(counts * exposure, weight)
        values = counts.values()
        scaled = values * exposure.expand(len(x), 1)[row_numbers(x), 0]
        squares, products = (with_values(counts, each) for each in (values**2, scaled))
        return mean_of_rows(squares, weight), mean_of_rows(products, weight)

    def dispersion(self) -> Tensor:
        """Return the dispersions, float64 of shape (n_outputs,)."""
        return _POISSON + self.start_dispersion * self._log_change().exp()

    def learned(self) -> dict[str, Tensor]:
        return {"dispersion": self.dispersion()}

    def log_prior(self) -> Tensor:
        """Return the log density of a dispersion within a factor of e of its start."""
        return -0.5 * self._log_change().square().sum()

    def natural(self, outputs: Tensor) -> Tensor:
        log_odds = outputs + (self.loc + self.dispersion().log()).to(outputs)
        return F.logsigmoid(log_odds).clamp(max=-1e-30)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return -_log_one_less_exp(eta) / self.dispersion().to(eta)

    def _log_change(self) -> Tensor:
        return _SPEED * self.slow_log_dispersion.double()

    def _log_base(
        self, counts: Tensor, exposure: Tensor | None, features: Tensor | None = None
    ) -> Tensor:
        size = 1 / self.dispersion()
        if features is not None:
            size = size[features]
        if exposure is not None:
            size = (size * exposure.double()).clamp(min=1e-30)  # of an empty row's total
        whole = counts.double()  # the logarithms of large sizes cancel
        base = torch.lgamma(whole + size) - torch.lgamma(size) - torch.lgamma(whole + 1)
        return base.to(counts)

    def _variance(self, outputs: Tensor) -> Tensor:
        rate = self._rate(outputs)
        return rate + self.dispersion().to(rate) * rate**2

    def _drawn(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """A Poisson draw whose rate is drawn from a gamma distribution."""
        rate, dispersion = self._rate(outputs), self.dispersion().detach().to(outputs)
        size = (1 / dispersion).expand(rate.shape).to(generator.device)
        factor = torch._standard_gamma(size, generator=generator).to(rate) * dispersion
        drawn = torch.poisson((rate * factor).to(generator.device), generator=generator)
        return drawn.to(rate)


class Multinomial(ExponentialFamily):
    """How a total splits into counts: ``T(x) = x``, ``A = log sum_d exp(eta_d)`` with the total n
    of a row for a weight, and ``h = log n! - sum_d log x_d!``.

    The total is told; means and draws are those of a row of the data's median total.
    """

    support = (0.0, float("inf"))
    integral = True
    allows_missing = False
    sparse = True
    rescales = True
    loc: Tensor
    total: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("loc", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("total", torch.ones((), dtype=torch.float64))

    @property
    def n_normalizers(self) -> int:
        return 1

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        mean = mean_of_rows(x, weight)
        share = (mean / mean.sum().clamp(min=_RAREST)).clamp(min=_RAREST / self.n_features)
        self.loc, self.total = share.log(), median(row_sums(x).double(), weight)

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs + self.loc.to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return torch.logsumexp(eta, -1, keepdim=True)

    def log_base(self, x: Tensor) -> Tensor:
        """Return the terms of h: each count has its share of that of the total."""
        total = x.sum(1, keepdim=True).clamp(min=1)
        return x * (torch.lgamma(total + 1) / total) - torch.lgamma(x + 1)

    def _total_log_base(self, x: Tensor) -> Tensor:
        if x.layout != torch.sparse_csr:
            return super()._total_log_base(x)
        parts = with_values(x, torch.lgamma(x.values() + 1))
        return torch.lgamma(row_sums(x) + 1) - row_sums(parts)

    def weight(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        if mask is not None:
            raise ValueError("A multinomial expects rows that are complete: their totals are told.")
        return row_sums(x)[:, None]

    def inputs(self, x: Tensor) -> Tensor:
        return torch.log1p(x)

    def rescaled(self, means: Tensor, x: Tensor) -> Tensor:
        return means * (row_sums(x)[:, None] / self.total.to(x))

    def predictive(
        self, outputs: Tensor, weights: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mean, std = super().predictive(outputs, weights)
        if x is None:
            return mean, std
        within, times = weights @ self.variance(outputs), row_sums(x)[:, None] / self.total.to(x)
        return self.rescaled(mean, x), _std_of_units(within, std, times)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.total.to(outputs) * torch.softmax(self.natural(outputs), -1)

    def variance(self, outputs: Tensor) -> Tensor:
        mean = self.mean(outputs)
        return mean * (1 - mean / self.total.to(mean))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one count after the other, of what the total has left for it."""
        share = torch.softmax(self.natural(outputs), -1).to(generator.device)
        behind = share.flip(-1).cumsum(-1).flip(-1)
        left = self.total.round().to(share).expand(share.shape[:-1]).clone()
        counts = []
        for part in (share / behind).clamp(max=1).nan_to_num(1.0).unbind(-1):
            counts.append(torch.binomial(left, part, generator=generator))
            left = left - counts[-1]
        return torch.stack(counts, -1).to(outputs)


def _std_of_units(within: Tensor, std: Tensor, exposure: Tensor) -> Tensor:
    """The standard deviation of e units: e times the variance at a point, and e^2 that of means."""
    between = (std**2 - within).clamp(min=0)
    return (exposure * within + exposure**2 * between).sqrt()


def _log_one_less_exp(eta: Tensor) -> Tensor:
    """Return log(1 - exp(eta)) of negative numbers, to rounding."""
    near = eta > -0.7
    small, large = torch.where(near, eta, -1), torch.where(near, -1, eta)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
