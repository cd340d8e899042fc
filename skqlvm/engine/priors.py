"""Priors of latent points z of shape (..., k).

Each is an image of the cube, so that a lattice covers it.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from . import torus

_REACH = 1.6
"""Standard deviation of the quadrature points of a standard normal prior."""

_TABLE_ENTRIES = 2**22
"""Numbers that the normals of a mixture take at a time."""


class UniformTorus:
    """Uniform distribution on the torus of circumference 1: points in turns, [0, 1)."""

    period: float | None = 1.0

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) = 0, of shape (...)."""
        return z.new_zeros(z.shape[:-1])

    def quantile(self, u: Tensor) -> Tensor:
        """Map points of the cube [0, 1)^k to latent points of the same shape: here themselves."""
        return u

    def nodes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return points and their log weights for quadrature over the cube: here u and zero.

        The points u of the cube have shape (m, k).
        """
        return u, u.new_zeros(len(u))

    def cube(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of the cube whose nodes are z (n, k), and log |du / dz|, (n,)."""
        return torus.wrap(z), z.new_zeros(len(z))

    def euclidean(self, z: Tensor) -> Tensor:
        """Return coordinates whose distances mean something, of shape (..., 2 k).

        They are the cosines and then the sines.
        """
        return torus.to_circle(z)


class StandardNormal:
    """Independent standard normal coordinates."""

    period: float | None = None

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ``log p(z) = -sum_l (z_l^2 + log 2 pi) / 2`` in nats, of shape (...)."""
        return _log_normal(z)

    def quantile(self, u: Tensor) -> Tensor:
        """Map points of the open cube (0, 1)^k to latent points of the same shape.

        They are mapped by the inverse of the normal distribution function.
        """
        return torch.special.ndtri(u)

    def nodes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return latent points and their log weights for quadrature over the open cube.

        They belong to points u (m, k) of the cube. The latent points are normal with standard
        deviation s = 1.6 rather than 1, and weigh ``log p(z) - log N(z; 0, s^2)``. An encoder puts
        narrow posteriors where the prior is thin; with the wider points, 20 to 100 times smaller
        errors were measured at equal cost.
        """
        z = _REACH * torch.special.ndtri(u)
        return z, self.log_prob(z) - _log_wide(z)

    def cube(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of the cube whose nodes are z (n, k), and log |du / dz|, (n,)."""
        return torch.special.ndtr(z / _REACH), _log_wide(z)

    def euclidean(self, z: Tensor) -> Tensor:
        """Return coordinates whose distances mean something: the points themselves."""
        return z


class NormalMixture(StandardNormal):
    """A mixture of normals, of mean 0 and covariance I as a whole or nearly so.

    Its quadrature points are those of a standard normal prior, with weights of its own.

    Parameters
    ----------
    log_share : Tensor of shape (n_normals,)
        Log weights of the normals; they sum to one.
    loc : Tensor of shape (n_normals, k)
        Their means.
    scale_tril : Tensor of shape (n_normals, k, k) or (k, k)
        Their covariances are ``scale_tril scale_tril'``, or one for all.
    """

    def __init__(self, log_share: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        parts = log_share, loc, scale_tril.expand(len(loc), -1, -1)
        self.log_share, self.loc, self.scale_tril = (part.double() for part in parts)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ``log p(z) = log sum_c exp(log_share_c) N(z; loc_c, covariance_c)``, (...)."""
        log_share, loc, scale_tril = self._parts(z)
        inverse = torch.linalg.inv(scale_tril)
        log_share = log_share + inverse.diagonal(dim1=1, dim2=2).log().sum(1)
        found = []
        for part in z.flatten(0, -2).split(max(1, _TABLE_ENTRIES // inverse.numel())):
            away = part[:, None] - loc
            white = [(away * row).sum(-1) for row in inverse.unbind(1)]
            found.append(torch.logsumexp(log_share + _log_normal(torch.stack(white, -1)), 1))
        return torch.cat(found).view(z.shape[:-1])

    def quantile(self, u: Tensor) -> Tensor:
        """Map points of the open cube (0, 1)^k to latent points of the same shape.

        The first coordinate says which normal it is, and what is left of it is that normal's own
        first coordinate: uniform points become draws, but near ones may come apart.
        """
        log_share, loc, scale_tril = self._parts(u)
        edges = log_share.exp().cumsum(0)
        edges = edges / edges[-1]
        number = torch.searchsorted(edges, u[..., 0].contiguous(), right=True)
        number = number.clamp(max=len(edges) - 1)
        width = edges.diff(prepend=edges.new_zeros(1))[number]
        within = 1 - (edges[number] - u[..., 0]) / width
        tiny = torch.finfo(u.dtype).eps
        own = torch.cat([within.clamp(tiny, 1 - tiny)[..., None], u[..., 1:]], -1)
        noise = torch.special.ndtri(own)
        return loc[number] + (scale_tril[number] @ noise[..., None])[..., 0]

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.log_share.to(like), self.loc.to(like), self.scale_tril.to(like)


def _log_normal(z: Tensor) -> Tensor:
    """The log density of independent standard normal coordinates."""
    return -0.5 * (z * z + log(2 * pi)).sum(-1)


def _log_wide(z: Tensor) -> Tensor:
    """The log density of the quadrature points of a standard normal prior."""
    return _log_normal(z / _REACH) - z.shape[-1] * log(_REACH)


Prior = UniformTorus | StandardNormal
