"""Likelihoods of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import multiplies_bfloat16, product_of_rounded
from ..rows import as_type, mean_of_rows, weighed_rows
from .contract import ROUNDING, ExponentialFamily, Terms

_LINEAR = 40.0
"""Logits from which on log(1 + exp(logit)) is the logit, in float64 too."""


class Bernoulli(ExponentialFamily):
    """Independent coins: ``T(x) = x``, ``eta`` the logits, ``A = log(1 + exp(eta))``, ``h = 0``.

    On grey levels between 0 and 1 this is a cross-entropy rather than a likelihood of the pixels:
    such nats compare models of the same data, and not with figures for binary images.
    """

    support = (0.0, 1.0)
    sparse = True
    loc: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("loc", torch.zeros(n_features, dtype=torch.float64))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if {"log_normalizer", "total_log_normalizer"} & vars(cls).keys():
            for name in ("total_log_normalizer", "table", "expected"):
                if name not in vars(cls):  # what is fast here is so for coins alone
                    setattr(cls, name, getattr(ExponentialFamily, name))

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        self.loc = torch.logit(mean_of_rows(x, weight).clamp(1e-3, 1 - 1e-3))

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs + self.loc.to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return F.softplus(eta, threshold=_LINEAR)

    def total_log_normalizer(self, eta: Tensor) -> Tensor:
        """Return ``sum_d A_d(eta_d)``: of factors 1 + exp(eta), four take one logarithm.

        Their product may be too large, in float32 from logits of 22 on; each has its own then.
        """
        if eta.requires_grad:
            return super().total_log_normalizer(eta)
        total = _log_product(eta.exp().add_(1))
        return total if bool(total.isfinite().all()) else super().total_log_normalizer(eta)

    def table(self, terms: Terms, outputs: Tensor) -> Tensor:
        """Return the table; where that is allowed, that of rounded rows and logits.

        It is exact for these: both parts of it are of the same logits. A graph takes all digits.
        """
        if not self._rounded(terms, outputs) or torch.is_grad_enabled():
            return super().table(terms, outputs)
        eta = self.natural(outputs).bfloat16()
        products = product_of_rounded(terms.statistics.bfloat16(), eta)
        return products.sub_(self.total_log_normalizer(eta.float()))

    def expected(self, terms: Terms, outputs: Tensor, weights: Tensor) -> Tensor:
        if terms.weight is not None:
            return super().expected(terms, outputs, weights)
        eta, x = self.natural(outputs), terms.statistics
        result: Tensor = _Expected.apply(
            eta, as_type(x, eta), weights, self._rounded(terms, outputs)
        )
        return result

    def _rounded(self, terms: Terms, outputs: Tensor) -> bool:
        allowed = self.rounds and outputs.dtype == torch.float32
        plain = terms.weight is None and terms.statistics.layout == torch.strided
        return allowed and plain and multiplies_bfloat16(outputs.device)

    """As without rounding."""

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(self.natural(outputs))

    def variance(self, outputs: Tensor) -> Tensor:
        mean = self.mean(outputs)
        return mean * (1 - mean)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean, where = self.mean(outputs), generator.device
        uniform = torch.rand(mean.shape, dtype=mean.dtype, generator=generator, device=where)
        return (uniform.to(mean.device) < mean).to(mean)


class Categorical(ExponentialFamily):
    """Independent categories, coded 0, 1, ...: T(x) is the one of a feature's levels that it is,
    eta the logits of all levels, and ``A = log sum exp(eta)`` over those of a feature.

    Outputs are the levels of the first feature, then those of the second, and so on. The mean of
    categories is none: `mean` is the most probable level, and `variance` that of being it, p (1 -
    p).

    Parameters
    ----------
    n_features : int
    n_levels : sequence of int, optional
        Levels of each feature; else `start` sets them, one more than the largest code.

    Attributes
    ----------
    labels : list of str
        What messages call the features.
    """

    support = (0.0, float("inf"))
    integral = True
    averages = False
    loc: Tensor
    first: Tensor
    owner: Tensor

    def __init__(self, n_features: int, n_levels: Sequence[int] | None = None) -> None:
        super().__init__(n_features)
        self.labels = [f"column {i}" for i in range(n_features)]
        self.n_levels: list[int] = []
        if n_levels is not None:
            self._take(n_levels)

    @property
    def n_outputs(self) -> int:
        if not self.n_levels:
            raise ValueError("Categorical expects n_levels, or to be started at data, before this.")
        return sum(self.n_levels)

    @property
    def n_inputs(self) -> int:
        return self.n_outputs

    def _take(self, n_levels: Sequence[int]) -> None:
        self.n_levels = [int(number) for number in n_levels]
        numbers = torch.tensor(self.n_levels)
        owner = torch.arange(self.n_features).repeat_interleave(numbers)
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("first", numbers.cumsum(0) - numbers, persistent=False)
        self.register_buffer("loc", -numbers.double().log()[owner])

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set the levels, unless they are known, and the logits: the data's frequencies, with half
        a row more for each level."""
        if not self.n_levels:
            self._take((x.nan_to_num(0.0).amax(0) + 1).long().tolist())
        mask = self.spread(~x.isnan())
        shown = torch.where(mask, self.statistics(x.nan_to_num(0.0)).double(), torch.nan)
        n_levels = torch.tensor(self.n_levels, device=x.device)[self.owner]
        there = mask.double() if weight is None else mask * weight.double()[:, None]
        count, n_rows = mean_of_rows(shown, weight), there.sum(0)
        self.loc = ((count * n_rows + 0.5) / (n_rows + 0.5 * n_levels)).log()

    def check(self, x: Tensor) -> None:
        super().check(x)
        for i, n_levels in enumerate(self.n_levels):
            wrong = x[:, i] > n_levels - 1 + ROUNDING
            if bool(wrong.any()):
                raise ValueError(
                    f"expects codes from 0 to {n_levels - 1} in {self.labels[i]}, but got "
                    f"{float(x[:, i][wrong][0]):.9g}"
                )

    def statistics(self, x: Tensor) -> Tensor:
        codes = self.first + x.round().long()
        return x.new_zeros(len(x), self.n_outputs).scatter_(1, codes, 1)

    def spread(self, mask: Tensor) -> Tensor:
        return mask[:, self.owner]

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs + self.loc.to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        owner = self.owner.expand_as(eta)
        lowest = eta.new_full((*eta.shape[:-1], self.n_features), float("-inf"))
        top = lowest.scatter_reduce(-1, owner, eta.detach(), "amax")
        total = torch.zeros_like(top).scatter_add(-1, owner, (eta - top[..., self.owner]).exp())
        return total.log() + top

    def inputs(self, x: Tensor) -> Tensor:
        """Return the levels less their frequencies; zero where a feature is missing."""
        shown = self.statistics(x.nan_to_num(0.0)) - self.loc.exp().to(x)
        return torch.where(self.spread(~x.isnan()), shown, 0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the probabilities of all levels, (..., n_outputs)."""
        eta = self.natural(outputs)
        return (eta - self.log_normalizer(eta)[..., self.owner]).exp()

    def mean(self, outputs: Tensor) -> Tensor:
        return self._most_probable(self.natural(outputs))[1]

    def variance(self, outputs: Tensor) -> Tensor:
        p = self._most_probable(self.probabilities(outputs))[0]
        return p * (1 - p)

    def predictive(
        self, outputs: Tensor, weights: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable levels, and the standard deviations of being these."""
        p, level = self._most_probable(weights @ self.probabilities(outputs))
        return level, (p * (1 - p)).clamp(min=0).sqrt()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        shape, where = (*outputs.shape[:-1], self.n_features), generator.device
        uniform = torch.rand(shape, dtype=outputs.dtype, generator=generator, device=where)
        uniform = uniform.to(outputs.device)
        parts = self.probabilities(outputs).split(self.n_levels, -1)
        below = [p.cumsum(-1)[..., :-1] <= uniform[..., i, None] for i, p in enumerate(parts)]
        return torch.stack([each.sum(-1) for each in below], -1).to(outputs)

    def _most_probable(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The largest of the values that the levels of each feature have, and whose it is."""
        found = [part.max(-1) for part in values.split(self.n_levels, -1)]
        largest = torch.stack([each.values for each in found], -1)
        return largest, torch.stack([each.indices for each in found], -1).to(values)


def _log_product(factors: Tensor) -> Tensor:
    """Return the logarithm of the product over the last axis; infinite beyond what its type holds.

    A logarithm in place of a part of each row would be slow.
    """
    n_fours = factors.shape[-1] // 4
    a, b, c, d, rest = factors.split([*4 * [n_fours], factors.shape[-1] - 4 * n_fours], -1)
    return a.mul(b).mul_(c).mul_(d).log_().sum(-1) + rest.log().sum(-1)


class _Expected(torch.autograd.Function):
    """The gradient ``sum_i r_ij (x_i - A'(eta_j))`` of a weighted table, and no value."""

    @staticmethod
    def forward(ctx: Any, eta: Tensor, x: Tensor, weights: Tensor, rounded: bool) -> Tensor:
        ctx.x = x  # may be sparse
        ctx.save_for_backward(eta, weights)
        ctx.dtype = torch.bfloat16 if rounded else eta.dtype
        return eta.new_zeros(len(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        eta, weights = ctx.saved_tensors
        weights = weights * gradient[:, None]
        x = ctx.x if ctx.x.dtype == ctx.dtype else ctx.x.to(ctx.dtype)
        data = weighed_rows(weights.to(ctx.dtype), x).to(eta)
        return (
            data.addcmul_(weights.sum(0)[:, None], torch.sigmoid(eta), value=-1),
            None,
            None,
            None,
        )
