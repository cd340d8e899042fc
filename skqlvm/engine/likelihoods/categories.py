"""Likelihoods of categories."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import multiplies_bfloat16, product_of_rounded
from ..rows import as_type, mean_of_rows, weighed_rows
from .contract import ExponentialFamily, Terms

_LARGEST = 20.0
"""Logits up to which a product of four factors 1 + exp(logit) is within reach of float32."""


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
        return F.softplus(eta)

    def total_log_normalizer(self, eta: Tensor) -> Tensor:
        """Return ``sum_d A_d(eta_d)``: of factors 1 + exp(eta), four take one logarithm."""
        if eta.requires_grad or not bool(eta.amax() < _LARGEST):
            return super().total_log_normalizer(eta)
        return _log_product_(eta.exp().add_(1))

    def table(self, terms: Terms, outputs: Tensor) -> Tensor:
        """Return the table; in training, where that is allowed, that of rounded rows and logits.

        It is exact for these: both parts of it are of the same logits. A graph takes all digits.
        """
        if not self._rounded(terms, outputs) or torch.is_grad_enabled():
            return super().table(terms, outputs)
        eta = self.natural(outputs).bfloat16()
        products = product_of_rounded(terms.statistics.bfloat16(), eta)
        if not bool(eta.amax() < _LARGEST):
            return products.sub_(super().total_log_normalizer(eta.float()))
        return products.sub_(_log_product_(eta.float().exp_().add_(1)))

    def expected(self, terms: Terms, outputs: Tensor, weights: Tensor) -> Tensor:
        if terms.weight is not None:
            return super().expected(terms, outputs, weights)
        eta, x = self.natural(outputs), terms.statistics
        result: Tensor = _Expected.apply(
            eta, as_type(x, eta), weights, self._rounded(terms, outputs)
        )
        return result

    def _rounded(self, terms: Terms, outputs: Tensor) -> bool:
        allowed = self.rounds and self.training and outputs.dtype == torch.float32
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


def _log_product_(factors: Tensor) -> Tensor:
    """Return the logarithm of the product over the last axis of a tensor, which is overwritten."""
    n_fours = factors.shape[-1] // 4
    a, b, c, d, rest = factors.split([*4 * [n_fours], factors.shape[-1] - 4 * n_fours], -1)
    return a.mul_(b).mul_(c).mul_(d).log_().sum(-1) + rest.log_().sum(-1)


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
