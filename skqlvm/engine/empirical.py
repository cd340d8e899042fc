"""Empiricalised models: a code for each training row, and cached posteriors over whose code it is.

With a code z_i for each of N rows and weights c_i that sum to one, 1/N each of rows that count
once, the prior is the codes themselves (arXiv 2403.08941)::

    p(x_n) = sum_i c_i p(x_n | z_i)

Rows far from each other hardly share codes, whatever the decoder is. So the posterior over i is
approximated by distances between rows alone, once::

    q(i | n) = c_i k(x_n, x_i) / sum_j c_j k(x_n, x_j),    k = exp(-|y_n - y_i|^2 / (2 b))

in coordinates y that suit the likelihood. For each of B rows the K indices of most weight are
summed over, and S of the others are drawn from a proposal r(. | n) that lies off these. As every
code is decoded once for the batch, all its rows share the B S draws, as draws of the mean proposal
r = 1/B sum_m r(. | m)::

    p_hat = sum_{i in K_n} c_i p(x_n | z_i) + 1/(B S) sum_{s not in K_n} c_s p(x_n | z_s) / r(s)

Its expectation is p(x_n), so that the expectation of its logarithm is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log

import torch
from torch import Tensor, nn

from . import atlas
from .models import ProposingModel
from .proposals import FullNormal
from .rows import split

UNIFORM = 0.1
"""Share of the proposal off the nearest neighbours that is the same for all rows: what is drawn
then has a bounded weight, and codes of rows far apart meet."""

_SPEED = 10.0
"""An Adam-type optimiser moves each parameter by about its step size; a code has further to go than
a weight."""

_TABLE_ENTRIES = 2**22
"""Log-likelihoods of rows under codes that are held at a time."""


@dataclass(frozen=True)
class IndexPosterior:
    """q(i | n) of N rows, kept for the T codes of most weight of each.

    Attributes
    ----------
    neighbors : Tensor of shape (n_rows, n_kept), int64
        Codes, the likeliest first.
    log_weight : Tensor of shape (n_rows, n_kept)
        Log probabilities; those of a row sum to one.
    n_codes : int
    uniform : float
        Share of draws that are from all codes alike.
    """

    neighbors: Tensor
    log_weight: Tensor
    n_codes: int
    uniform: float = UNIFORM

    @staticmethod
    def of(
        neighbors: Tensor,
        squared_distances: Tensor,
        bandwidth: float,
        log_share: Tensor | None = None,
        uniform: float = UNIFORM,
    ) -> IndexPosterior:
        """Return what distances from rows to their neighbours say.

        Parameters
        ----------
        neighbors : Tensor of shape (n_rows, n_kept), int64
            Each once a row, in any order.
        squared_distances : Tensor of shape (n_rows, n_kept)
        bandwidth : float
        log_share : Tensor of shape (n_codes,), optional
            Log weights of the codes; as many as rows, and equal, by default.
        uniform : float
        """
        log_w = -squared_distances / (2 * bandwidth)
        if log_share is not None:
            log_w = log_w + log_share.to(log_w)[neighbors]
        log_w, order = torch.log_softmax(log_w, 1).sort(dim=1, descending=True, stable=True)
        n_codes = len(neighbors) if log_share is None else len(log_share)
        return IndexPosterior(neighbors.gather(1, order), log_w, n_codes, uniform)

    def to(self, device: torch.device) -> IndexPosterior:
        """Return the same on a device."""
        neighbors, log_weight = self.neighbors.to(device), self.log_weight.to(device)
        return IndexPosterior(neighbors, log_weight, self.n_codes, self.uniform)

    def effective_neighbors(self) -> Tensor:
        """Return ``1 / sum_i q(i | n)^2``, (n_rows,): 1 where a row knows a single code."""
        return 1 / (2 * self.log_weight).exp().sum(1)

    def draw(
        self, rows: Tensor, n_exact: int, n_draws: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw codes of rows off the `n_exact` likeliest of each.

        From ``r = (1 - uniform) q + uniform / (N - n_exact)``, where q is that of the other kept
        codes, and zero at the likeliest.

        Parameters
        ----------
        rows : Tensor of shape (b,), int64
        n_exact, n_draws : int
        generator : Generator
            On the processor.

        Returns
        -------
        index : Tensor of shape (b, n_draws), int64
        proposal : Tensor of shape (n_codes,)
            The mean of r over the rows: what the draws of all of them together are from.
        """
        near, log_w = self.neighbors[rows], self.log_weight[rows]
        head, tail = near[:, :n_exact], near[:, n_exact:]
        n_left, device = max(1, self.n_codes - n_exact), near.device
        uniform = self.uniform if tail.shape[1] else 1.0
        u = torch.rand(3, len(rows), n_draws, generator=generator, dtype=torch.float64).to(device)
        number = (u[0] * n_left).long().clamp(max=n_left - 1)
        # numbers of those left, as numbers of all: each of the head that comes before moves it on
        before = head.sort(1).values - torch.arange(n_exact, device=device)
        drawn = number + torch.searchsorted(before, number, right=True)
        proposal = log_w.new_full((self.n_codes,), uniform / n_left)
        lost = log_w.new_full((head.numel(),), -uniform / n_left / len(rows))
        proposal.scatter_add_(0, head.flatten(), lost)
        if tail.shape[1]:
            weights = torch.softmax(log_w[:, n_exact:], 1)
            edges = weights.double().cumsum(1)
            place = torch.searchsorted(edges, u[1] * edges[:, -1:], right=True)
            nearby = tail.gather(1, place.clamp(max=tail.shape[1] - 1))
            drawn = torch.where(u[2] < uniform, drawn, nearby)
            share = (1 - uniform) / len(rows) * weights
            proposal.scatter_add_(0, tail.flatten(), share.flatten())
        return drawn, proposal


class EmpiricalModel(ProposingModel):
    """A `Model` with a code for each training row.

    What it proposes to a row is the normal that has mean and covariance of the codes under the
    row's exact index posterior.

    Attributes
    ----------
    log_share : Tensor of shape (n_codes,)
        Log weights of the codes; sum to one.
    """

    log_share: Tensor

    def hold(self, codes: Tensor, log_share: Tensor | None = None) -> None:
        """Take codes (n_codes, k), of equal weights unless these are given, (n_codes,)."""
        like = self.like
        self.slow_codes = nn.Parameter(codes.to(like) / _SPEED)
        equal = torch.full((len(codes),), -log(len(codes)), dtype=torch.float64)
        log_share = equal if log_share is None else log_share.double()
        self.register_buffer("log_share", log_share.to(like.device))

    @property
    def codes(self) -> Tensor:
        """The codes, of shape (n_codes, n_components)."""
        return _SPEED * self.slow_codes

    def decoded(self, index: Tensor) -> Tensor:
        """Return the outputs for the codes that an index (m,) names, (m, n_outputs)."""
        return self.outputs(_SPEED * self.slow_codes[index])

    def train(self, mode: bool = True) -> EmpiricalModel:
        """Set the mode, and forget what was decoded."""
        vars(self).pop("chart", None)
        return super().train(mode)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "chart"}

    def standardize(self) -> None:
        """Move the codes to mean 0 and covariance I, and the decoder with them."""
        share, codes = self.log_share.exp(), self.codes.detach().double()
        loc = share @ codes
        centered = codes - loc
        covariance = (centered * share[:, None]).T @ centered
        values, vectors = torch.linalg.eigh(covariance)
        scale = values.clamp(min=float(values[-1]) * 1e-6).clamp(min=1e-12).sqrt()
        matrix = (vectors * scale) @ vectors.T
        self.hold(torch.linalg.solve(matrix, centered.T).T, self.log_share)
        self.decoder = Moved(self.decoder, loc, matrix)
        vars(self).pop("chart", None)

    @cached_property
    def chart(self) -> atlas.Atlas:
        """All codes, decoded, while the model is not trained."""
        with torch.no_grad():
            codes = self.codes.detach().double()
            outputs = self.outputs(codes)
            return atlas.chart(self.likelihood, outputs, codes, self.log_share, factored=True)

    def log_index(self, x: Tensor) -> Tensor:
        """Return ``log p(i | x)`` of all codes under rows x (n, d), (n, n_codes)."""
        return torch.log_softmax(self.chart.relative(self.likelihood, x), 1)

    def log_empirical(self, x: Tensor) -> Tensor:
        """Return ``log sum_i c_i p(x | z_i)`` of rows x (n, d), (n,), in nats."""
        chart, size = self.chart, max(1, _TABLE_ENTRIES // len(self.log_share))
        parts = [
            torch.logsumexp(chart.relative(self.likelihood, part), 1)
            + chart.offset(self.likelihood, part)
            for part in split(x, size)
        ]
        return torch.cat(parts)

    def propose(self, x: Tensor) -> FullNormal:
        """Return the normals of the codes' means and covariances under p(i | x).

        Each is widened as a kernel density of codes would be.
        """
        n_codes, k = self.slow_codes.shape
        wider = n_codes ** (-2 / (k + 4)) * torch.eye(k, device=x.device, dtype=torch.float64)
        loc, scale_tril = [], []
        for part in split(x, max(1, _TABLE_ENTRIES // n_codes)):
            weights = self.log_index(part).exp()
            codes = self.codes.detach().to(weights)
            mean = weights @ codes
            moments = weights @ (codes[:, :, None] * codes[:, None]).flatten(1)
            covariance = moments.view(-1, k, k) - mean[:, :, None] * mean[:, None]
            values, vectors = torch.linalg.eigh(covariance.double())
            root = (vectors * values.clamp(min=0)[:, None]) @ vectors.mT + wider
            loc.append(mean)
            scale_tril.append(torch.linalg.cholesky(root).to(mean))
        return FullNormal(torch.cat(loc), torch.cat(scale_tril))


class Moved(nn.Module):
    """A decoder of points ``loc + z matrix``, in place of points z.

    Parameters
    ----------
    decoder : Module
    loc : Tensor of shape (k,)
    matrix : Tensor of shape (k, k)
    """

    decoder: nn.Module
    loc: Tensor
    matrix: Tensor

    def __init__(self, decoder: nn.Module, loc: Tensor, matrix: Tensor) -> None:
        super().__init__()
        if isinstance(decoder, Moved):  # one after the other is one
            loc = decoder.loc + loc @ decoder.matrix
            matrix, decoder = matrix @ decoder.matrix, decoder.decoder
        self.decoder = decoder
        self.register_buffer("loc", loc)
        self.register_buffer("matrix", matrix)
        self.draws_globally = getattr(decoder, "draws_globally", False)
        self.pointwise = getattr(decoder, "pointwise", True)

    def forward(self, z: Tensor) -> Tensor:
        """Map points (m, k) to outputs (m, n_outputs)."""
        return self.decoder((self.loc + z.double() @ self.matrix).to(z))


class IndexBound:
    """The bound of a model's rows by their `IndexPosterior`, as it is trained.

    Parameters
    ----------
    model : EmpiricalModel
    posterior : IndexPosterior
    n_exact : int
        Codes of each row that are summed over, K.
    n_draws : int
        Codes that are drawn beside, S; none if K are all.
    """

    def __init__(
        self,
        model: EmpiricalModel,
        posterior: IndexPosterior,
        n_exact: int,
        n_draws: int,
    ) -> None:
        self.model, self.posterior = model, posterior
        self.n_exact = min(n_exact, posterior.neighbors.shape[1])
        self.n_draws = n_draws if self.n_exact < posterior.n_codes else 0

    def __call__(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return an estimate of ``log p(x_n)`` that is a lower bound in expectation, (b,), nats.

        Parameters
        ----------
        x : Tensor of shape (b, n_features)
        rows : Tensor of shape (b,), int64
            Rows of the posterior that these are.
        generator : Generator
            On the processor.
        """
        terms = self.model.likelihood.terms(x)
        near, drawn, proposal = self.chosen(rows, generator)
        needed, place = torch.cat([near, drawn], 1).unique(return_inverse=True)
        table = self.model.likelihood.table(terms, self.model.decoded(needed))
        table = table + self.model.log_share[needed].to(table)
        known = place[:, : self.n_exact]
        times = table.new_zeros(len(needed)).index_add_(
            0, place[:, self.n_exact :].flatten(), table.new_ones(drawn.numel())
        )
        log_w = (times / (drawn.numel() * proposal[needed].to(table))).log()
        log_w = log_w.expand_as(table).scatter(1, known, 0.0)
        return torch.logsumexp(table + log_w, 1) + terms.base

    def chosen(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes for a batch: each row's likeliest (b, K), draws beside them (b, S), and what
        all draws together are from, (n_codes,)."""
        rows = rows.to(self.posterior.neighbors.device)
        near = self.posterior.neighbors[rows, : self.n_exact]
        return near, *self.posterior.draw(rows, self.n_exact, self.n_draws, generator)
