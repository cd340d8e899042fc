"""Optimisers and step sizes to hand to a training, which knows none of them by name."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import nn

from .training import Schedule

_DECAY = 60.0
"""At a step size of 1e-2 a step shrinks weights by 0.006; chosen on held-out rows."""


def adam(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adam over parameters; its step size comes from the schedule."""
    return torch.optim.Adam(parameters.values(), lr=0.0, fused=True)


def adamax(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adamax over parameters: Adam with largest instead of mean square gradients."""
    return torch.optim.Adamax(parameters.values(), lr=0.0)


class DecayingAdam(torch.optim.AdamW):
    """Adam that also shrinks weights, in proportion to the square of the step size.

    It is AdamW's decay (Loshchilov and Hutter, arXiv 1711.05101) times the step size: as that is
    annealed, the gradient has the last word, and what the data determine is not biased.
    """

    def step(self, closure: Any = None) -> Any:
        """Take a step; weights shrink by `decay` times the square of its size before it."""
        for group in self.param_groups:
            group["weight_decay"] = group["decay"] * group["lr"]
        return super().step(closure)


def adam_with_decay(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adam that shrinks matrices; biases, and what else is no matrix, keep their size."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    others = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [{"params": matrices, "decay": _DECAY}, {"params": others, "decay": 0.0}]
    return DecayingAdam([group for group in groups if group["params"]], lr=0.0, fused=True)


def constant(learning_rate: float) -> Schedule:
    """Return the schedule of one step size."""
    return lambda step: {"lr": learning_rate}


def one_cycle(learning_rate: float, n_steps: int) -> Schedule:
    """Return the one-cycle schedule for Adam: warm up, anneal, and the momentum the other way.

    Along cosines, over the first 0.3 of the steps from 1/25 of the step size and momentum 0.95 to
    all of it and 0.85; then down to 1/250,000 and back to 0.95 (Smith and Topin, arXiv 1708.07120).
    """
    peak = 0.3 * (n_steps + 1) - 1

    def settings(step: int) -> dict[str, Any]:
        if step <= peak:
            lr = _along_cosine(learning_rate / 25, learning_rate, step / peak)
            momentum = _along_cosine(0.95, 0.85, step / peak)
        else:
            fraction = (step - peak) / (n_steps - peak)
            lr = _along_cosine(learning_rate, learning_rate / 250_000, fraction)
            momentum = _along_cosine(0.85, 0.95, fraction)
        return {"lr": lr, "betas": (momentum, 0.999)}

    return settings


def warmed_cosine(learning_rate: float, n_steps: int, n_warming: int, last: float) -> Schedule:
    """Return the schedule that rises on a line over some steps, then falls along a cosine.

    The step after the warm-up has all of the step size, and the last one the fraction `last` of it.
    """

    def settings(step: int) -> dict[str, Any]:
        if step < n_warming:
            return {"lr": learning_rate * (step + 1) / (n_warming + 1)}
        fraction = (step - n_warming) / max(1, n_steps - 1 - n_warming)
        return {"lr": _along_cosine(learning_rate, last * learning_rate, fraction)}

    return settings


def _along_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + cos(pi * fraction)) / 2
