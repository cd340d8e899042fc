"""Models: the boxes of the picture put together, and what flows between them.

x -> [proposal] -> z -> [decoder] -> outputs -> [likelihood] -> log_w -> [objective] -> nats
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import harmonics, networks
from .conditions import Conditions
from .likelihoods import ExponentialFamily, Terms
from .priors import Prior
from .proposals import Proposal, proposal
from .transformations import Transformations

Group = Tensor | int | None
"""Which group of rows points are decoded for; None without conditions."""


@dataclass(frozen=True)
class Batch:
    """Rows as they flow: data, and what belongs to them, all in one order.

    Attributes
    ----------
    x : Tensor of shape (n_samples, n_features)
    index : Tensor of shape (n_samples,), int64, or None
        Which rows of the training data these are.
    weight : Tensor of shape (n_samples,), or None
        How often each row counts; None is once.
    """

    x: Tensor
    index: Tensor | None = None
    weight: Tensor | None = None


class Draws(NamedTuple):
    """Latent points that a model drew for rows, and what they say about them.

    Attributes
    ----------
    proposal : Proposal
        The distributions that the points were drawn from.
    z : Tensor of shape (n_samples, n_draws, n_components)
    log_px_z : Tensor of shape (n_samples, n_draws)
        log p(x_i | z_is) less `base`, in nats.
    base : Tensor of shape (n_samples,)
        The part of log p(x | z) that is the same at all points, in nats; to be added last.
    """

    proposal: Proposal
    z: Tensor
    log_px_z: Tensor
    base: Tensor

    def log_w(self, prior: Prior, *, through_draws_only: bool = False) -> Tensor:
        """Return ``log p(x | z) + log p(z) - log q(z | x)`` less `base`, (n_samples, n_draws).

        Through draws only, the proposal's parameters are constants but for where the draws are.
        """
        proposal = self.proposal.detached() if through_draws_only else self.proposal
        return self.log_px_z + prior.log_prob(self.z) - proposal.log_prob(self.z)


class Model(nn.Module):
    """Latent points to distributions of rows: a prior, a decoder and a likelihood.

    Parameters
    ----------
    n_components : int
        Dimension k of the latent space.
    prior : Prior
    decoder : Module
        From points (m, k) to outputs (m, n_outputs) of the likelihood.
    likelihood : ExponentialFamily
    harmonic_order : int, optional
        Highest order of harmonics that suit the data, of the decoder and of moments.
    transformations : Transformations, optional
        Maps of rows that do not matter: p(x | z) is of a row that one of them has been applied to.
    conditions : Conditions, optional
        What the decoder is told of a row beside a point. Points are decoded for a `group` of rows
        then: a number, the same for all points, or a tensor of one each.

    Attributes
    ----------
    n_decoded : int
        Points that are decoded at a time, where the caller does not say otherwise.
    progress : float
        How far a training of it is, from 0 to 1.
    """

    n_decoded = 4096
    progress = 1.0

    def __init__(
        self,
        n_components: int,
        prior: Prior,
        decoder: nn.Module,
        likelihood: ExponentialFamily,
        harmonic_order: int | None = None,
        transformations: Transformations | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        super().__init__()
        self.n_components, self.prior = n_components, prior
        self.decoder, self.likelihood = decoder, likelihood
        self.harmonic_order = harmonic_order
        self.transformations = transformations
        self.conditions = conditions

    @property
    def n_copies(self) -> int:
        """Copies that a row is worth, one for each transformation."""
        return 1 if self.transformations is None else len(self.transformations)

    @property
    def n_groups(self) -> int:
        """Groups of rows for each of which a lattice is decoded."""
        return 1 if self.conditions is None else len(self.conditions)

    @property
    def like(self) -> Tensor:
        """A parameter of the decoder, whose device and dtype points are brought to."""
        return next(self.decoder.parameters())

    def open(self, fraction: float) -> None:
        """Note how far a training is, from 0 to 1, and open as many of the decoder's harmonics."""
        self.progress = fraction
        harmonics.anneal(self.decoder, fraction)

    def allow_bfloat16(self, allowed: bool) -> None:
        """Let layers and tables be rounded to bfloat16 while the model is trained, or not."""
        networks.allow_bfloat16(self, allowed)
        self.likelihood.rounds = allowed

    def groups(self, x: Tensor) -> Tensor | None:
        """Return the group of each row x (n, d), (n,), int64; None without conditions."""
        return None if self.conditions is None else self.conditions.groups(x)

    def told(self, z: Tensor, group: Group) -> Tensor:
        """Return points (n, ..., k) with what is told of their groups, (n, ..., k + n_numbers)."""
        if self.conditions is None:
            return z
        condition = self.conditions.vectors[group].to(z)
        while 1 < condition.ndim < z.ndim:
            condition = condition.unsqueeze(1)
        return torch.cat([z, condition.expand(*z.shape[:-1], -1)], -1)

    def outputs(self, z: Tensor, group: Group = None) -> Tensor:
        """Decode points of any dtype, (..., k) -> (..., n_outputs), in parts that fit in memory."""
        z = self.told(z, group)
        parts = z.to(self.like).flatten(0, -2).split(self.n_decoded)
        outputs = [self.decoder(part) for part in parts]
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined.unflatten(0, z.shape[:-1])

    def table(self, terms: Terms, z: Tensor, group: int | None = None) -> Tensor:
        """Return log p(x_i | z_j) less the base of row i, (n, m), for points z (m, k)."""
        return self.likelihood.table(terms, self.outputs(z, group))

    def mean(self, z: Tensor, group: Group = None) -> Tensor:
        """Return E[x | z] in the dtype of z, (m, k) -> (m, n_features), of a group or one each."""
        return self._filled(self.likelihood.mean(self.outputs(z, group).to(z.dtype)), group)

    def sample(
        self,
        u: Tensor,
        generator: torch.Generator,
        *,
        noise: bool = True,
        group: Group = None,
    ) -> Tensor:
        """Draw rows at the points that u (m, k) of the unit cube are for the prior.

        Returns
        -------
        Tensor of shape (m, n_features)
            From p(x | z), or without noise its mean, in the dtype of u; with a transformation
            undone, drawn by its probability, where there are any.
        """
        z = self.prior.quantile(u)
        if noise:
            outputs = self.outputs(z, group).to(z.dtype)
            x = self._filled(self.likelihood.sample(outputs, generator), group)
        else:
            x = self.mean(z, group)
        if self.transformations is None:
            return x
        return self.transformations.undone(x, self.transformations.drawn(len(x), generator))

    def _filled(self, x: Tensor, group: Group) -> Tensor:
        if self.conditions is None or group is None:
            return x
        return self.conditions.fill(x, group)


class ProposingModel(Model):
    """A `Model` that proposes latent points for each row.

    A subclass defines `propose`.

    Attributes
    ----------
    wrapped : bool
        Whether the proposals are wound around the torus.
    """

    wrapped = False

    def propose(self, x: Tensor) -> Proposal:
        """Return q(z | x) for rows x (n, d)."""
        raise NotImplementedError

    def draw(
        self,
        x: Tensor,
        n_draws: int,
        generator: torch.Generator,
        *,
        shared: bool = False,
    ) -> Draws:
        """Propose points for rows x (n, d) and decode them.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
        n_draws : int
            Points a row; 0 is the one point that is the proposal's location.
        generator : Generator
            On the processor, so that every device sees the same noise.
        shared : bool
            Whether all rows have the same noise, so that each is scored for itself.
        """
        q, terms, group = self.propose(x), self.likelihood.terms(x), self.groups(x)
        if n_draws == 0:
            z = q.loc[:, None]
        else:
            shape = (n_draws, q.n_noise) if shared else (len(x), n_draws, q.n_noise)
            noise = torch.randn(shape, generator=generator, dtype=torch.float32)
            z = q.at(noise.to(q.loc))
        parts = z.split(self.n_decoded, 1)
        pairs = [self.likelihood.paired(terms, self.outputs(part, group).to(z)) for part in parts]
        return Draws(q, z, torch.cat(pairs, 1), terms.base)


class EncoderModel(ProposingModel):
    """A `Model` with an encoder, which proposes latent points for each row.

    Parameters
    ----------
    n_components, prior, decoder, likelihood
        As for `Model`.
    encoder : Module
        From the likelihood's inputs (n, d), and what is told of the rows behind them, to the
        numbers that shape a proposal.
    covariance_type : {"diagonal", "low_rank", "full"}
        Family of the proposals; see `proposals.FAMILIES`.
    wrapped : bool
        Whether they are wound around the torus.
    """

    def __init__(
        self,
        n_components: int,
        prior: Prior,
        decoder: nn.Module,
        likelihood: ExponentialFamily,
        encoder: nn.Module,
        *,
        covariance_type: str,
        wrapped: bool,
        harmonic_order: int | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        super().__init__(
            n_components, prior, decoder, likelihood, harmonic_order, conditions=conditions
        )
        self.encoder = encoder
        self.covariance_type, self.wrapped = covariance_type, wrapped

    def propose(self, x: Tensor) -> Proposal:
        """Return q(z | x) for rows x (n, d).

        While training, in the precision of the encoder; else in that of x, so that a row's
        coordinates are the same alone and among others.
        """
        seen = x.to_dense() if x.layout == torch.sparse_csr else x
        inputs = self.told(self.likelihood.inputs(seen), self.groups(x))
        if self.training:
            outputs = self.encoder(inputs.to(next(self.encoder.parameters())))
        else:
            outputs = evaluate(self.encoder, inputs)
        return proposal(self.covariance_type, outputs, self.n_components, wrapped=self.wrapped)


def evaluate(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module to x in the precision of x, whatever that of its parameters."""
    weights = {
        name: value.to(x) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    outputs: Tensor = torch.func.functional_call(module, weights, x)
    return outputs
