"""Kernels between rows: what one row tells of another that the same distribution made."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from .likelihoods import (
    Bernoulli,
    Categorical,
    ExponentialFamily,
    Gaussian,
    NegativeBinomial,
    Poisson,
)


class Kernel(NamedTuple):
    """How much of one row's distribution another row tells: ``exp(-|y - y'|^2 / (2 bandwidth))``.

    Attributes
    ----------
    coordinates : callable
        From rows x (n, d) to y.
    bandwidth : float or None
        In squared units of y; None is to be found from the data.
    self_distance : float or None
        Expected ``|y - y'|^2`` of two rows of equal distributions; None if that is not known.
    """

    coordinates: Callable[[Tensor], Tensor]
    bandwidth: float | None
    self_distance: float | None = None


def kernel(likelihood: ExponentialFamily, bandwidth: float | None = None) -> Kernel:
    """Return the kernel that suits a likelihood, started at the data.

    It is p(x | x'), where of the parameters of p(x | z) one knows that x' was drawn by them, after
    a flat belief. For a Gaussian of noise v that is a normal of variance 2 v around x'. Coins and
    categories have ``2^-(number that differ)``, which is that of a uniform belief about the
    probabilities; grey levels count their squared difference. Counts are taken in coordinates in
    which their noise is the same everywhere, ``sqrt x`` for a Poisson: the kernel is to first order
    ``(x + x')! / (x! x'!) 2^-(x + x')``.

    Parameters
    ----------
    likelihood : ExponentialFamily
    bandwidth : float, optional
        Another one than that, in squared units of the coordinates; those of a Gaussian are x.

    Raises
    ------
    TypeError
        If there is none for the likelihood.
    """
    check_likelihood(likelihood)
    family = next(family for family in _KERNELS if isinstance(likelihood, family))
    found = _KERNELS[family](likelihood)
    if bandwidth is None:
        return found
    if isinstance(likelihood, Gaussian):
        distance = likelihood.n_features * (
            bandwidth if likelihood.fixed is None else 2 * likelihood.fixed
        )
        return Kernel(_as_it_is, bandwidth, distance)
    return found._replace(bandwidth=bandwidth)


def check_likelihood(likelihood: ExponentialFamily) -> None:
    """Raise unless there is a kernel for a likelihood."""
    if not isinstance(likelihood, tuple(_KERNELS)):
        names = ", ".join(sorted(family.__name__ for family in _KERNELS))
        raise TypeError(
            f"likelihood expects one that has a kernel between rows ({names}), but got "
            f"{type(likelihood).__name__}. Use one of these for all columns."
        )


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _of_gaussian(likelihood: Gaussian) -> Kernel:
    if likelihood.fixed is None:
        return Kernel(likelihood.statistics, None)
    bandwidth = 2 * likelihood.fixed
    return Kernel(_as_it_is, bandwidth, likelihood.n_features * bandwidth)


def _of_coins(likelihood: Bernoulli) -> Kernel:
    return Kernel(_as_it_is, 0.5 / log(2))


def _of_categories(likelihood: Categorical) -> Kernel:
    return Kernel(lambda x: likelihood.statistics(x) * 0.5**0.5, 0.5 / log(2))


def _of_counts(likelihood: Poisson) -> Kernel:
    return Kernel(torch.sqrt, 0.5)


def _of_dispersed_counts(likelihood: NegativeBinomial) -> Kernel:
    root = likelihood.dispersion().detach().sqrt()

    def coordinates(x: Tensor) -> Tensor:
        scale = root.to(x)
        return torch.asinh(scale * x.sqrt()) / scale

    return Kernel(coordinates, 0.5)


_KERNELS: dict[type[ExponentialFamily], Callable] = {
    Gaussian: _of_gaussian,
    Bernoulli: _of_coins,
    Categorical: _of_categories,
    Poisson: _of_counts,
    NegativeBinomial: _of_dispersed_counts,
}


def local_noise(y: Tensor, neighbors: Tensor, n_components: int) -> float:
    """Return the variance of rows around surfaces of so many dimensions, in squared units of y.

    That is the mean square of what principal components of a row's neighbours leave, a number a
    degree of freedom; the median over rows. Surfaces have fewer dimensions than there are
    coordinates that vary.

    Parameters
    ----------
    y : Tensor of shape (n_samples, n_coordinates)
    neighbors : Tensor of shape (n_some, n_neighbors)
        Of some rows.
    n_components : int
    """
    n, d = neighbors.shape[1], y.shape[1]
    n_varying = int((y != y[0]).any(0).sum())
    k = min(n_components, n_varying - 1, n - 2)
    if k < 0:
        return float(y.double().var(0, correction=min(1, len(y) - 1)).mean())
    found = []
    for part in neighbors.split(64):
        near = y[part].double()
        near = near - near.mean(1, keepdim=True)
        squares = torch.linalg.svdvals(near) ** 2
        found.append(squares[:, k:].sum(1) / ((n - 1 - k) * (d - k)))
    return float(torch.cat(found).median())
