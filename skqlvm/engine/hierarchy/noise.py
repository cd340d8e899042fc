"""Noise of hierarchical models: numbers of its own for each row, or the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shared:
    """A generator whose numbers all rows of a batch share, so that a row's do not depend on others.

    It goes wherever a generator does that `normal` and `uniform` draw from.
    """

    generator: torch.Generator


Source = torch.Generator | Shared


def normal(shape: tuple[int, ...], source: Source, like: Tensor) -> Tensor:
    """Return standard normals of a shape (n, ...), in the dtype and on the device of a tensor."""
    return _drawn(torch.randn, shape, source, like)


def uniform(shape: tuple[int, ...], source: Source, like: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1) of a shape (n, ...), as `normal` does."""
    return _drawn(torch.rand, shape, source, like)


def _drawn(draw, shape: tuple[int, ...], source: Source, like: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Draw in float32 from the generator's own device, so that every device sees the same."""
    shared = isinstance(source, Shared)
    generator = source.generator if isinstance(source, Shared) else source
    wanted = (1, *shape[1:]) if shared else shape
    drawn: Tensor = draw(wanted, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.to(like).expand(shape)
