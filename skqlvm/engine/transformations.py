"""Maps of a row that do not matter, and the sum over them: which one it was is marginalised too.

    p(x) = mean_z sum_s pi_s p(W_s x | z) |det W_s|

The maps W_s are invertible and finite in number, so that this is a density. A row x stands for its
copies W_s x, which are rows of their own up to the sum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .likelihoods import Likelihood, Terms
from .rows import gaps

_SPEED = 10.0
"""An Adam-type optimiser moves each parameter by about its step size; a log-probability has further
to go than a weight."""


class Copies(NamedTuple):
    """What rows bring to a table by their copies; the S copies of a row follow one another.

    Attributes
    ----------
    terms : Terms
        Of n * S rows.
    log_weight : Tensor of shape (n_samples, n_transformations), or None
        log pi_s + log|det W_s|, and the base of a copy less `base`, in nats. None where a row has
        one copy, itself, that weighs 1.
    base : Tensor of shape (n_samples,)
        The largest base among the copies of a row, to be added last.
    """

    terms: Terms
    log_weight: Tensor | None
    base: Tensor

    def chosen(self, index: Tensor) -> Copies:
        """Return those copies of each row that an index (n, k) names."""
        if self.log_weight is None:
            return self
        n_rows, n_maps = self.log_weight.shape
        first = n_maps * torch.arange(n_rows, device=index.device)
        rows = (first[:, None] + index).flatten()
        return Copies(self.terms.rows(rows), self.log_weight.gather(1, index), self.base)


class Transformations(nn.Module):
    """Invertible maps of rows, ``W_s x = scale_s x[index_s] + offset_s``, and how probable each is.

    Parameters
    ----------
    index : Tensor of shape (n_transformations, n_features), int64
        Permutations: the feature that each feature of a copy is taken from.
    scale, offset : Tensor of shape (n_transformations,), optional
        In the units of x; 1 and 0 by default.
    learned : bool
        Whether the probabilities pi_s are learned; else they are equal.

    Raises
    ------
    ValueError
        If a map has no inverse.
    """

    index: Tensor
    inverse_index: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        index: Tensor,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
        *,
        learned: bool = False,
    ) -> None:
        super().__init__()
        n_maps, n_features = index.shape
        order = index.sort(1)
        if not bool((order.values == torch.arange(n_features)).all()):
            raise ValueError("a map's index is no permutation of the features")
        scale = torch.ones(n_maps) if scale is None else scale
        offset = torch.zeros(n_maps) if offset is None else offset
        if bool((scale == 0).any()):
            raise ValueError("a map's scale is 0, so that it has no inverse")
        self.affine = bool((scale != 1).any() | (offset != 0).any())
        self.register_buffer("index", index)
        self.register_buffer("inverse_index", order.indices)
        self.register_buffer("scale", scale.double())
        self.register_buffer("offset", offset.double())
        self.slow_logits = nn.Parameter(torch.zeros(n_maps)) if learned else None

    def __len__(self) -> int:
        return len(self.index)

    def log_pi(self) -> Tensor:
        """Return the log prior probabilities of the maps, (S,), float64."""
        if self.slow_logits is None:
            return torch.log_softmax(torch.zeros_like(self.scale), 0)
        return torch.log_softmax(_SPEED * self.slow_logits.double(), 0)

    def log_prior(self, n_there: Tensor | None = None) -> Tensor:
        """Return ``log pi_s + log|det W_s|``, in nats, (S,), float64.

        For rows of which only so many features (n,) are there, (n, S): the determinant is of these.
        """
        n_scaled = self.index.shape[1] if n_there is None else n_there[:, None]
        return self.log_pi() + n_scaled * self.scale.abs().log()

    def copies(self, x: Tensor) -> Tensor:
        """Return W_s x of every row and map, (n, d) -> (n * S, d), the copies of a row together."""
        copies = x[:, self.index]
        if self.affine:
            copies = copies * self.scale.to(x)[:, None] + self.offset.to(x)[:, None]
        return copies.flatten(0, 1)

    def undone(self, copies: Tensor, numbers: Tensor, *, spread: bool = False) -> Tensor:
        """Return W_s^-1 y for copies y (n, d), the map of each by its number (n,).

        Of a `spread`, standard deviations, what is undone is the size of the scale.
        """
        numbers = numbers.to(self.index.device)
        if self.affine:
            offset, scale = (part.to(copies)[numbers, None] for part in (self.offset, self.scale))
            copies = copies / scale.abs() if spread else (copies - offset) / scale
        return copies.gather(1, self.inverse_index[numbers])

    def drawn(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Draw numbers of maps by their prior probabilities, (n_draws,), int64."""
        probabilities = self.log_pi().detach().exp().to(generator.device)
        return torch.multinomial(probabilities, n_draws, replacement=True, generator=generator)

    def log_weight(self, base: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what copies of rows x owe to themselves alone, from their bases (n * S,).

        Returns
        -------
        log_weight : Tensor of shape (n, S)
            ``log_prior_s + base_is``, less the largest base of the row.
        largest : Tensor of shape (n,)
            That base, a constant to gradients.
        """
        base = base.unflatten(0, (-1, len(self)))
        largest = base.detach().amax(1)
        mask = gaps(x) if self.affine else None
        log_prior = self.log_prior(None if mask is None else mask.sum(1))
        return log_prior.to(base) + (base - largest[:, None]), largest


def copied(maps: Transformations | None, likelihood: Likelihood, x: Tensor) -> Copies:
    """Return the copies of rows x (n, d) under maps; under none, the rows."""
    if maps is None:
        terms = likelihood.terms(x)
        return Copies(terms, None, terms.base)
    terms = likelihood.terms(maps.copies(x))
    return Copies(terms, *maps.log_weight(terms.base, x))
