"""Summaries, samples and densities of posteriors over the points of a quadrature.

Log weights are of a lattice's points, ``log p(x | z_j) + log w_j`` up to a constant a row; where a
posterior is narrow, `refinement.Refined` has those of its local lattices beside them.
"""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from . import lattices, posteriors, refinement, torus
from .priors import Prior


class Points(NamedTuple):
    """The points of a quadrature.

    Attributes
    ----------
    prior : Prior
    u : Tensor of shape (m, k)
        A lattice in the unit cube, float64.
    z : Tensor of shape (m, k)
        Its latent points.
    log_weight : Tensor of shape (m,)
        Their log weights, zero where they are spread as the prior is.
    """

    prior: Prior
    u: Tensor
    z: Tensor
    log_weight: Tensor

    @staticmethod
    def of(prior: Prior, u: Tensor) -> Points:
        """Return those of a prior at points u (m, k) of the cube."""
        return Points(prior, u, *prior.nodes(u))


class Posterior(NamedTuple):
    """Posteriors of rows over the points of a quadrature.

    Attributes
    ----------
    points : Points
    log_w : Tensor of shape (n, m)
        Log weights of the points, up to a constant a row.
    total : Tensor of shape (n,)
        Their log sums, with those of local points.
    refined : list of Refined
        New weights of the rows that are narrow, if any are known.
    """

    points: Points
    log_w: Tensor
    total: Tensor
    refined: list[refinement.Refined]

    def weights(self) -> Tensor:
        """Return the probabilities of the lattice's points, (n, m), less those of local ones."""
        weights = (self.log_w - self.total[:, None]).exp()
        for part in self.refined:
            changed = (part.log_w - self.total[part.rows, None]).exp()
            weights[part.rows[:, None], part.places] = changed
        return weights

    def local_weights(self, part: refinement.Refined) -> Tensor:
        """Return the probabilities of local points, (r, a, N)."""
        return (part.local_log_w - self.total[part.rows, None, None]).exp()


class Summary(NamedTuple):
    """What is known of each row's latent point.

    Attributes
    ----------
    mean, mode, std : Tensor of shape (n, k)
        On the torus the circular mean and standard deviation, in turns.
    entropy : Tensor of shape (n,)
        Relative to the prior, in nats: minus the divergence of the posterior from it.
    effective_points, largest_weight : Tensor of shape (n,)
        Of the lattice's own points, without local ones.
    """

    mean: Tensor
    mode: Tensor
    std: Tensor
    entropy: Tensor
    effective_points: Tensor
    largest_weight: Tensor


def summary(posterior: Posterior) -> Summary:
    """Return what posteriors say of each row, local lattices included."""
    points, log_w = posterior.points, posterior.log_w.double()
    prior, z = points.prior, points.z.to(log_w)
    # in double precision: of a narrow posterior, the resultant length is close to one
    weights, m = posterior.weights().double(), len(z)
    log_px_z = log_w - points.log_weight.to(log_w)
    mean, mass = weights @ _features(prior, z), weights.sum(1)
    expected = (weights * log_px_z).sum(1)
    height, place = (log_px_z + prior.log_prob(z)).max(1)
    mode = z[place]
    for part in posterior.refined:
        local = posterior.local_weights(part).flatten(1).double()
        at, heights = part.z.flatten(1, 2).double(), part.local_log_px_z.flatten(1).double()
        mass[part.rows] += local.sum(1)
        mean[part.rows] += (local[:, :, None] * _features(prior, at)).sum(1)
        expected[part.rows] += (local * heights.where(local > 0, 0)).sum(1)
        top, best = heights.max(1)
        found = at.gather(1, best[:, None, None].expand(-1, -1, at.shape[2]))[:, 0]
        higher = (top > height[part.rows])[:, None]
        mode[part.rows] = torch.where(higher, torus.wrap(found), mode[part.rows])
    lattice = posteriors.responsibilities(log_w)
    center, std = _mean_and_std(prior, mean / mass[:, None])
    return Summary(
        center,
        mode,
        std,
        posterior.total - log(m) - expected / mass,
        posteriors.effective_points(lattice),
        lattice.amax(1),
    )


def _features(prior: Prior, z: Tensor) -> Tensor:
    """What is averaged: cosines and sines on the torus, else first and second moments."""
    return torch.cat([z, z * z], -1) if prior.period is None else torus.to_circle(z)


def _mean_and_std(prior: Prior, mean: Tensor) -> tuple[Tensor, Tensor]:
    if prior.period is not None:
        first, second = mean.chunk(2, 1)
        return torus.from_circle(mean), posteriors.circular_std(torch.hypot(first, second))
    first, second = mean.chunk(2, 1)
    return first, (second - first**2).clamp(min=0).sqrt()


def sample(posterior: Posterior, n_draws: int, generator: torch.Generator) -> Tensor:
    """Draw latent points from posteriors, (n, n_draws, k).

    A point by its weight, then one that is uniform in its cell of the cube; around narrow peaks, in
    the cell of the local lattice.
    """
    points, k = posterior.points, posterior.points.u.shape[1]
    weights = posterior.weights().clamp_(min=0)
    edges = lattices.basis(points.u)
    z = torch.empty(len(weights), n_draws, k, dtype=torch.float64, device=weights.device)
    plain = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    for part in posterior.refined:
        plain[part.rows] = False
        local = posterior.local_weights(part)
        both = torch.cat([weights[part.rows], local.flatten(1)], 1)
        place = _drawn(both, n_draws, generator)
        on_lattice = place.clamp(max=len(points.u) - 1)
        # where local points are denser than the lattice, a cell is what they leave of it
        log_cell = torch.zeros_like(weights[part.rows])
        before = posterior.log_w[part.rows].gather(1, part.places)
        log_cell.scatter_(1, part.places, part.log_w - before)
        size = (log_cell.gather(1, on_lattice) / k).exp()[:, :, None]
        z[part.rows] = _moved(points, on_lattice, edges, generator, size)
        row, draw = (place >= len(points.u)).nonzero(as_tuple=True)
        number = place[row, draw] - len(points.u)
        z[part.rows[row], draw] = _around(points, part, row, number, generator)
    some = plain.nonzero()[:, 0]
    if len(some):
        z[some] = _moved(points, _drawn(weights[some], n_draws, generator), edges, generator)
    return z


def _drawn(weights: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
    drawn = torch.multinomial(weights.cpu(), n_draws, replacement=True, generator=generator)
    return drawn.to(weights.device)


def _jitter(shape: tuple[int, ...], edges: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform points of the cell that edges (k, k) span, around its centre."""
    u = torch.rand((*shape, len(edges)), dtype=torch.float64, generator=generator) - 0.5
    return u.to(edges.device) @ edges


def _moved(
    points: Points,
    place: Tensor,
    edges: Tensor,
    generator: torch.Generator,
    size: Tensor | float = 1.0,
) -> Tensor:
    """Points of the cells of lattice points, of which `size` is the length of the edges."""
    u = points.u[place] + size * _jitter(tuple(place.shape), edges, generator)
    if points.prior.period is not None:
        return points.prior.quantile(torus.wrap(u))
    # a cell that reaches over the border of the cube is folded back: its ends are not neighbours
    u = 1 - (1 - u.abs()).abs()
    return points.prior.nodes(u.clamp(1e-12, 1 - 1e-12).flatten(0, -2))[0].view(u.shape)


def _around(
    points: Points,
    part: refinement.Refined,
    row: Tensor,
    number: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Points of the cells of local lattices, by rows of a part and numbers of their points.

    Of some points of each cell one is taken, as the normal of the peak's curvature has it.
    """
    n_local = part.z.shape[2]
    u = torch.special.ndtr(refinement.local_noise(points.u))
    shape = (len(number), _TRIED)
    moved = u[number % n_local, None] + _jitter(shape, lattices.basis(u), generator)
    noise = torch.special.ndtri(torus.wrap(moved).clamp(1e-9, 1 - 1e-9))
    narrower = torch.softmax(0.5 * (1 - refinement.INFLATION**2) * noise.square().sum(2), 1)
    taken = _drawn(narrower, 1, generator)[:, :, None].expand(-1, -1, u.shape[1])
    peak, noise = number // n_local, noise.gather(1, taken)[:, 0]
    loc, scale_tril = (v[row, peak].double() for v in vars(part.normals).values())
    return torus.wrap(loc + (scale_tril @ noise[:, :, None])[:, :, 0])


_TRIED = 16
"""Points of a local cell that one is taken from."""


def density(points: Points, weights: Tensor, z: Tensor) -> Tensor:
    """Return a density of latent points z (n, k) from weights (m,) of a lattice's points, (n,).

    A mixture of von Mises distributions on the cube, at the points, whose standard deviation is the
    lattice's spacing; it integrates to one. On the torus in units of 1 / turns^k.
    """
    u, log_det = points.prior.cube(z)
    m, k = points.u.shape
    kappa = torch.tensor((2 * pi * m ** (-1 / k)) ** -2, dtype=torch.float64)
    log_normalizer = k * torch.special.i0e(kappa).log().to(u)
    at = torus.to_circle(points.u.to(u))
    cosines = torch.addmm(u.new_tensor(float(-k)), torus.to_circle(u), at.T)
    kernels = (kappa.to(u) * cosines - log_normalizer).exp()
    return (kernels @ weights.to(u)) * log_det.exp()
