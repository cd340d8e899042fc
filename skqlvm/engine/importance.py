"""Importance sampling of log p(x) from proposals that are put right, row by row.

What an encoder proposes may miss a row's posterior, and the mean of importance weights is then far
below p(x). Draws are taken from a mixture instead: the normals of the posterior's peaks, by
Laplace's approximation; the encoder's proposal; and the prior, which covers whatever both miss. How
many draws come from which is fixed, and each weighs the inverse of the mixture's density::

    p(x) = 1/S sum_s p(x | z_s) p(z_s) / sum_c S_c/S q_c(z_s)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import laplace, lattices, objectives
from .conditions import by_group
from .models import ProposingModel
from .priors import Prior
from .proposals import FullNormal, Proposal, Wrapped
from .rows import chosen, entries

N_PEAKS = 3
"""Peaks of a posterior that are drawn from, where a lattice can show them."""

MOST_COMPONENTS = 64
"""Dimensions up to which second derivatives are worth their price; beyond, the encoder and the
prior are all that is drawn from."""

_SHARES = {"prior": 0.1, "encoder": 0.2}
"""Shares of the draws; the peaks have the others."""

_SURVEYED, _N_CONSIDERED = 2**10, 64
"""Points of the lattice that shows where peaks are, and those of most weight that count."""


class _Scale(NamedTuple):
    """Distances on a latent space: how far apart peaks are looked for, the longest step of Newton's
    method, and the widest normal."""

    apart: float
    reach: float
    widest: float


_TORUS, _LINE = _Scale(0.04, 0.05, 0.2), _Scale(0.3, 1.0, 1.0)
_N_STEPS = 8


@dataclass(frozen=True)
class Mixture:
    """Proposals of each row, of which fixed numbers of draws are taken.

    Attributes
    ----------
    prior : Prior
    parts : list of Proposal
    n_draws : list of int
        From the prior, and from each of the parts.
    """

    prior: Prior
    parts: list[Proposal]
    n_draws: list[int]

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density of the mixture at points z (n, s, k), of shape (n, s)."""
        logs = [self.prior.log_prob(z), *(part.log_prob(z) for part in self.parts)]
        shares = torch.tensor(self.n_draws).to(z) / sum(self.n_draws)
        return torch.logsumexp(torch.stack(logs, -1) + shares.log(), -1)

    def chosen(self, rows: Tensor) -> Mixture:
        """Return the proposals of some rows."""
        return Mixture(self.prior, [_chosen(part, rows) for part in self.parts], self.n_draws)

    def at(self, generator: torch.Generator) -> Tensor:
        """Return draws of every row, (n, S, k), by the same noise for all."""
        like = self.parts[0].loc
        u = torch.rand(self.n_draws[0], like.shape[1], generator=generator, dtype=torch.float64)
        u = u.clamp(torch.finfo(torch.float64).tiny)
        drawn = [self.prior.quantile(u).to(like).expand(len(like), -1, -1)]
        for part, n_draws in zip(self.parts, self.n_draws[1:], strict=True):
            noise = torch.randn(n_draws, part.n_noise, generator=generator, dtype=torch.float32)
            drawn.append(part.at(noise.to(like)))
        return torch.cat(drawn, 1)


def _chosen(part: Any, rows: Tensor) -> Any:
    """Some rows of a proposal."""
    values = vars(part).values()
    return type(part)(*(v[rows] if isinstance(v, Tensor) else _chosen(v, rows) for v in values))


def estimate(
    model: ProposingModel, x: Tensor, n_draws: int, generator: torch.Generator, n_at_once: int
) -> Tensor:
    """Return the log mean of importance weights and its standard error, (n_samples, 2), in nats.

    The log mean is a lower bound on log p(x) in expectation.

    Parameters
    ----------
    model : ProposingModel
    x : Tensor of shape (n_samples, n_features)
    n_draws : int
        Draws a row, of the same noise for all.
    generator : Generator
        On the processor.
    n_at_once : int
        Rows whose draws are held at a time.
    """
    proposals, state, results = mixture(model, x, n_draws), generator.get_state(), []
    for rows in torch.arange(len(x), device=x.device).split(n_at_once):
        generator.set_state(state)
        log_w, base = _log_weights(model, proposals.chosen(rows), chosen(x, rows), generator)
        nats = objectives.log_mean_exp(log_w) + base
        results.append(torch.stack([nats, objectives.standard_error(log_w)], 1))
    return torch.cat(results)


def _log_weights(
    model: ProposingModel, proposals: Mixture, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Log importance weights (n, S) of draws for rows x, less the bases (n,) of these."""
    z, terms, group = proposals.at(generator), model.likelihood.terms(x), model.groups(x)
    n_shared = proposals.n_draws[0]
    parts = [_table(model, x, z[0, :n_shared]).to(z)] if n_shared else []
    for part in z[:, n_shared:].split(model.n_decoded, 1):
        parts.append(model.likelihood.paired(terms, model.outputs(part, group).to(z)))
    log_px_z = torch.cat(parts, 1)
    return log_px_z + model.prior.log_prob(z) - proposals.log_prob(z), terms.base


def _table(model: ProposingModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x_i | z_j) less the base of row i, (n, m), at points (m, k) that all rows share."""
    if model.conditions is None:
        return model.table(model.likelihood.terms(x), z)

    def of_group(group: int, rows: Tensor) -> Tensor:
        return model.table(model.likelihood.terms(x[rows]), z, group)

    return by_group(model.conditions, x, of_group)


def mixture(model: ProposingModel, x: Tensor, n_draws: int) -> Mixture:
    """Return what to draw from for rows x (n, d): prior, encoder, and the posterior's peaks."""
    encoder = model.propose(x)
    if model.n_components > MOST_COMPONENTS:
        peaks: list[Proposal] = []
    else:
        peaks = _peaks(model, x, encoder)
    counts = {name: int(share * n_draws) for name, share in _SHARES.items()}
    left = n_draws - counts["prior"]
    if not peaks:
        return Mixture(model.prior, [encoder], [counts["prior"], left])
    left -= counts["encoder"]
    each = [left // len(peaks) + (i < left % len(peaks)) for i in range(len(peaks))]
    parts = [(encoder, counts["encoder"]), *zip(peaks, each, strict=True)]
    parts = [(part, count) for part, count in parts if count]
    drawn, numbers = zip(*parts, strict=True)
    return Mixture(model.prior, list(drawn), [counts["prior"], *numbers])


def _peaks(model: ProposingModel, x: Tensor, encoder: Proposal) -> list[Proposal]:
    """Normals around peaks of p(z | x), one a row each; the best first, and again for others that
    a row does not have."""
    scale = _TORUS if model.wrapped else _LINE
    k = model.n_components
    starts = encoder.loc[:, None]
    if k <= lattices.MOST_COMPONENTS:
        starts = torch.cat([starts, _surveyed(model, x, scale)], 1)
    n_starts = starts.shape[1]
    rows = torch.arange(len(x), device=x.device).repeat_interleave(n_starts)
    size = max(1, model.n_decoded // 8)
    pairs = zip(starts.flatten(0, 1).split(size), rows.split(size), strict=True)
    found = laplace.Peaks.joined([_climbed(model, chosen(x, i), z, scale) for z, i in pairs])
    mass = torch.nan_to_num(found.log_mass(), float("-inf")).view(-1, n_starts)
    first = torch.arange(len(x), device=x.device) * n_starts
    normals: list[Proposal] = []
    best = mass.argsort(1, descending=True)
    for i in range(n_starts):
        lost = mass.gather(1, best[:, :1]) - mass.gather(1, best[:, i : i + 1])
        place = torch.where(lost < _NEGLIGIBLE, best[:, i : i + 1], best[:, :1])[:, 0]
        normal = found.chosen(first + place).normal
        wider = FullNormal(normal.loc, 2 ** (1 / k) * normal.scale_tril)
        normals.append(Wrapped(wider) if model.wrapped else wider)
    return normals


_NEGLIGIBLE = 5.0
"""Nats by which a peak has less mass than the best one, and is not drawn from."""


def _surveyed(model: ProposingModel, x: Tensor, scale: _Scale) -> Tensor:
    """The best points of a lattice over the prior, apart from each other, (n, N_PEAKS, k)."""
    u = lattices.nested(model.n_components, _SURVEYED) + 0.5 / _SURVEYED
    z = model.prior.nodes(u.to(x.device))[0].to(entries(x))
    heights = _table(model, x, z) + model.prior.log_prob(z)
    best = heights.topk(_N_CONSIDERED, 1)
    period = model.prior.period
    return laplace.starts(z[best.indices], best.values, N_PEAKS, scale.apart, period)[0]


def _climbed(model: ProposingModel, x: Tensor, z: Tensor, scale: _Scale) -> laplace.Peaks:
    log_density = _log_joint(model, x)
    return laplace.climb(log_density, z, n_steps=_N_STEPS, widest=scale.widest, reach=scale.reach)


def _log_joint(model: ProposingModel, x: Tensor) -> laplace.LogDensity:
    group = model.groups(x)

    def log_joint(z: Tensor, rows: Tensor) -> Tensor:
        outputs = model.outputs(z[:, None], None if group is None else group[rows]).to(z)
        terms = model.likelihood.terms(chosen(x, rows))
        return model.likelihood.paired(terms, outputs)[:, 0] + model.prior.log_prob(z)

    return log_joint
