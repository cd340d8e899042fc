"""Likelihoods of counts."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import gaps, mean_of_rows
from .contract import ExponentialFamily


class Poisson(ExponentialFamily):
    """Independent counts: ``T(x) = x``, ``eta = log rate``, ``A = exp(eta)``, ``h = -log x!``."""

    support = (0.0, float("inf"))
    integral = True
    sparse = True
    loc: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("loc", torch.zeros(n_features, dtype=torch.float64))

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        self.loc = mean_of_rows(x, weight).clamp(min=1e-3).log()

    def inputs(self, x: Tensor) -> Tensor:
        mask = gaps(x)
        return torch.log1p(x if mask is None else torch.where(mask, x, self.loc.exp().to(x)))

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs + self.loc.to(outputs)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return eta.exp()

    def log_base(self, x: Tensor) -> Tensor:
        return -torch.lgamma(x + 1)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.natural(outputs).exp()

    def variance(self, outputs: Tensor) -> Tensor:
        return self.mean(outputs)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        rate = self.mean(outputs)
        return torch.poisson(rate.to(generator.device), generator=generator).to(rate)
