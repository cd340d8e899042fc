"""Contexts: what a fixed linear map keeps of an image, brought to [-1, 1], and images from them.

They are the pseudo-inputs of the prior of a ladder. Nothing here is trained by gradients: `start`
learns scales, or directions, from the training images. An image's context depends on that image
alone, not on the batch that it comes in.
"""

from __future__ import annotations

from math import pi, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..rows import mean_of_rows

_FAINT = 1e-3
"""Smallest scale of a coefficient, in units of pixels: one that training images do not have at all
would be divided by zero."""


class Context(nn.Module):
    """A linear map of images to few numbers in [-1, 1].

    Parameters
    ----------
    image_shape : tuple of int
        Channels, height and width of images.
    size : int
        Height and width of a context, which has as many channels as images have.

    Attributes
    ----------
    context_shape : tuple of int
        Channels, height and width of a context.
    """

    def __init__(self, image_shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if not 1 <= size <= min(height, width):
            raise ValueError(
                f"expects the size of a context between 1 and that of an image, which is "
                f"{height} x {width}, but got {size}"
            )
        self.image_shape, self.size = image_shape, size
        self.context_shape = (channels, size, size)

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Learn what there is to learn from training images x (n, channels, height, width).

        Each counts as often as its weight (n,) says, once by default.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, height, width) to contexts (n, \\*context_shape)."""
        raise NotImplementedError

    def to_image(self, u: Tensor) -> Tensor:
        """Map contexts (n, \\*context_shape) to images in [0, 1], of shape (n, \\*image_shape)."""
        raise NotImplementedError


class Cosine(Context):
    """The lowest frequencies of the discrete cosine transform, each divided by its largest size.

    The transform is the orthonormal DCT-II of both axes, of which a corner is kept.

    Parameters
    ----------
    image_shape, size
        As for `Context`.
    """

    rows: Tensor
    columns: Tensor
    scales: Tensor

    def __init__(self, image_shape: tuple[int, int, int], size: int) -> None:
        super().__init__(image_shape, size)
        _, height, width = image_shape
        self.register_buffer("rows", cosines(height, size))
        self.register_buffer("columns", cosines(width, size))
        largest = (height * width) ** 0.5
        self.register_buffer("scales", torch.full(self.context_shape, largest).double())

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        self.scales = self.coefficients(x).abs().amax(0).double().clamp(min=_FAINT)

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the coefficients of images before they are scaled, (n, channels, size, size)."""
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def forward(self, x: Tensor) -> Tensor:
        return (self.coefficients(x) / self.scales.to(x)).clamp(-1, 1)

    def to_image(self, u: Tensor) -> Tensor:
        scaled = u * self.scales.to(u)
        return (self.rows.to(u).T @ scaled @ self.columns.to(u)).clamp(0, 1)


class Downsample(Context):
    """Means over the cells of a coarse grid, from -1 for black to 1 for white."""

    rows: Tensor
    columns: Tensor

    def __init__(self, image_shape: tuple[int, int, int], size: int) -> None:
        super().__init__(image_shape, size)
        _, height, width = image_shape
        self.register_buffer("rows", cells(height, size))
        self.register_buffer("columns", cells(width, size))

    def forward(self, x: Tensor) -> Tensor:
        means = self.rows.to(x) @ x @ self.columns.to(x).T
        return (2 * means - 1).clamp(-1, 1)

    def to_image(self, u: Tensor) -> Tensor:
        coarse = ((u + 1) / 2).clamp(0, 1)
        return F.interpolate(coarse, self.image_shape[1:], mode="bilinear", align_corners=False)


class Principal(Context):
    """The first principal components of training images, each divided by its largest size.

    They fill a context from its first row on, by falling variance; neighbours have no more in
    common than others.
    """

    center: Tensor
    directions: Tensor
    scales: Tensor

    def __init__(self, image_shape: tuple[int, int, int], size: int) -> None:
        super().__init__(image_shape, size)
        n_features, n_kept = prod(image_shape), prod(self.context_shape)
        self.register_buffer("center", torch.full((n_features,), 0.5, dtype=torch.float64))
        self.register_buffer("directions", torch.eye(n_kept, n_features, dtype=torch.float64))
        self.register_buffer("scales", torch.ones(n_kept, dtype=torch.float64))

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        rows = x.flatten(1).double()
        self.center = rows.mean(0) if weight is None else mean_of_rows(rows, weight)
        away = rows - self.center
        counted = away if weight is None else weight.to(away)[:, None] * away
        vectors = torch.linalg.eigh(away.T @ counted).eigenvectors.T.flip(0)
        chosen = vectors[: prod(self.context_shape)]
        largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
        self.directions = chosen * largest.sign()  # so that it does not depend on the library
        self.scales = (away @ self.directions.T).abs().amax(0).clamp(min=_FAINT)

    def forward(self, x: Tensor) -> Tensor:
        away = x.flatten(1) - self.center.to(x)
        scaled = away @ self.directions.to(x).T / self.scales.to(x)
        return scaled.clamp(-1, 1).unflatten(1, self.context_shape)

    def to_image(self, u: Tensor) -> Tensor:
        away = (u.flatten(1) * self.scales.to(u)) @ self.directions.to(u)
        return (self.center.to(u) + away).clamp(0, 1).unflatten(1, self.image_shape)


CONTEXTS: dict[str, type[Context]] = {
    "dct": Cosine,
    "downsample": Downsample,
    "pca": Principal,
}
"""Contexts by the name that an estimator's `context` gives them."""


def cosines(n: int, size: int) -> Tensor:
    """Return the first rows of the orthonormal DCT-II of n numbers, (size, n), in float64."""
    places = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    frequencies = torch.arange(size, dtype=torch.float64)
    waves = (pi * frequencies[:, None] * places).cos() * (2 / n) ** 0.5
    waves[0] /= 2**0.5
    return waves


def cells(n: int, size: int) -> Tensor:
    """Return the means over equal parts of n pixels as a matrix (size, n), in float64.

    Where a border lies within a pixel, both parts have a share of it.
    """
    edges = torch.arange(size + 1, dtype=torch.float64) * n / size
    pixels = torch.arange(n, dtype=torch.float64)
    starts, ends = edges[:-1, None], edges[1:, None]
    overlaps = torch.minimum(ends, pixels + 1) - torch.maximum(starts, pixels)
    return overlaps.clamp(min=0) * size / n
