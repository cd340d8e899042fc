"""Optimisers and step sizes to hand to a training, which knows none of them by name."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import nn

from .training import Schedule


def adam(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adam over parameters; its step size comes from the schedule."""
    return torch.optim.Adam(parameters.values(), lr=0.0, fused=True)


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


def _along_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + cos(pi * fraction)) / 2
