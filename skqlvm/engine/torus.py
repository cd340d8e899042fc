"""Coordinates on the flat torus, in turns: [0, 1) in each dimension, whose ends meet."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor


def wrap(z: Tensor) -> Tensor:
    """Bring coordinates in turns into [0, 1), never 1.0 even where rounding would give it."""
    z = torch.remainder(z, 1.0)
    return torch.where(z >= 1.0, torch.zeros_like(z), z)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the shortest way from b to a, coordinate by coordinate, in [-1/2, 1/2] turns."""
    steps = a - b
    return steps - steps.detach().round()


def to_circle(z: Tensor) -> Tensor:
    """Map turns (..., k) to the cosines and then the sines of their angles (..., 2 k)."""
    angles = 2 * pi * z
    return torch.cat([angles.cos(), angles.sin()], -1)


def from_circle(circle: Tensor) -> Tensor:
    """Return the directions, in turns (..., k), of cosines and then sines (..., 2 k).

    Where their length is 0 the direction is meaningless, and finite.
    """
    cos, sin = circle.chunk(2, -1)
    return wrap(torch.atan2(sin, cos) / (2 * pi))
