"""The contract of observation models p(x | z), and the exponential families among them."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..precision import full_precision
from ..rows import as_type, chosen, entries, gaps, paired_product, product, weighed

ROUNDING = 1e-6
"""Distance outside a support that is forgiven: rescaled data may come to 1.0000000000000002."""


class Terms(NamedTuple):
    """What a row brings to ``log p(x | z) = statistics . eta(z) - weight . A(eta(z)) + base``.

    Attributes
    ----------
    statistics : Tensor of shape (n_samples, n_outputs)
        T(x); zero where a feature is missing. May be a sparse CSR tensor.
    base : Tensor of shape (n_samples,)
        h(x) of the features that are there, in nats. It does not depend on z, so that it is added
        last: after the log-sum-exp, whose rounding then does not depend on the units of x.
    weight : Tensor of shape (n_samples, n_normalizers) or (n_samples, 1), or None
        How often each log-normaliser counts: zero where a feature is missing. A single column is
        for all of them; None is once each, of rows that are complete.
    """

    statistics: Tensor
    base: Tensor
    weight: Tensor | None = None

    def rows(self, index: Tensor) -> Terms:
        """Return what the rows of an index (k,) bring."""
        weight = None if self.weight is None else self.weight[index]
        return Terms(chosen(self.statistics, index), self.base[index], weight)


class Likelihood(nn.Module):
    """Observation model p(x | z): what decoder outputs say about a row.

    Outputs are standardised: a model is started at the data, after which an output of zero stands
    for the mean of the data and one unit for their scale.

    A subclass defines `terms`, `paired`, `mean`, `variance` and `sample`, and what else is not as
    here. A feature that is missing is NaN in x, and says nothing.

    Attributes
    ----------
    n_features : int
    support : tuple of float
        Smallest and largest value that data may take.
    integral : bool
        Whether data are whole numbers.
    rounds : bool
        Whether a table may be made of numbers rounded to bfloat16, as while a model is trained.
    parameters_taken : tuple of str
        Parameters of an estimator that the constructor takes, beside the number of features.
    allows_missing : bool
        Whether features may be missing.
    sparse : bool
        Whether rows may be sparse: T(0) = 0 and h(0) = 0, of rows that are complete.
    averages : bool
        Whether a posterior mean of `mean` is the best guess of a row: not of categories.
    rescales : bool
        Whether what rows tell of an exposure changes their means.
    filler : float
        A value of the support, to compute with where a feature is missing.
    """

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    integral: ClassVar[bool] = False
    rounds = False
    parameters_taken: ClassVar[tuple[str, ...]] = ()
    allows_missing: bool = True
    sparse: bool = False
    averages: bool = True
    rescales: bool = False
    filler: ClassVar[float] = 0.0

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    @property
    def n_outputs(self) -> int:
        """Numbers that a decoder has to say for a row."""
        return self.n_features

    @property
    def n_inputs(self) -> int:
        """Numbers that an encoder sees of a row, the width of `inputs`."""
        return self.n_features

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set location and scale from data x (n_samples, n_features), rows weighted (n_samples,).

        Each feature is there in some row.
        """

    def check(self, x: Tensor) -> None:
        """Raise unless data lie in the support, give or take what rounding does to rescaled data.

        What is missing, NaN, is left out.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Or an array; only its methods `min`, `max` and `round` are used.

        Raises
        ------
        ValueError
            What is expected, and what came.
        """
        low, high = self.support
        if low == float("-inf") and high == float("inf") and not self.integral:
            return
        if not len(x):  # sparse rows of zeros alone
            return
        smallest, largest = float(x.min()), float(x.max())
        if smallest != smallest:
            x = x[x == x]
            if not len(x):
                return
            smallest, largest = float(x.min()), float(x.max())
        interval = f"[{low:g}, {high:g}" + ("]" if high < float("inf") else ")")
        if smallest < low - ROUNDING:
            raise ValueError(f"expects X in {interval}, but got a minimum of {smallest:.9g}")
        if largest > high + ROUNDING:
            raise ValueError(f"expects X in {interval}, but got a maximum of {largest:.9g}")
        if self.integral:
            broken = abs(x - x.round()) > ROUNDING
            if bool(broken.any()):
                value = float(x[broken][0])
                raise ValueError(f"expects whole numbers, but got a value of {value:.9g}")

    def inputs(self, x: Tensor) -> Tensor:
        """Return x as an encoder should see it, of moderate size, of shape (n_samples, d).

        Where a feature is missing it sees the mean of the data.
        """
        return x

    def terms(self, x: Tensor, mask: Tensor | None = None) -> Terms:
        """Return what rows (n_samples, n_features) bring with the features that `mask` has.

        Without a mask, those that are not NaN.
        """
        raise NotImplementedError

    def paired(self, terms: Terms, outputs: Tensor) -> Tensor:
        """Return log p(x_i | z_is) less the base of row i, each row with points of its own.

        Parameters
        ----------
        terms : Terms
            What n rows bring.
        outputs : Tensor of shape (n_samples, n_draws, n_outputs)

        Returns
        -------
        Tensor of shape (n_samples, n_draws)
            In nats.
        """
        raise NotImplementedError

    def log_prior(self) -> Tensor:
        """Return what one row of prior data says of the family's own parameters, in nats.

        Up to a constant. As many rows' worth of it as a fit sees fit is added to the training
        bound, so that few rows do not lead parameters astray.
        """
        return torch.zeros(())

    def learned(self) -> dict[str, Tensor]:
        """Return by name what the family has learned about the data, in the units of x."""
        return {}

    def mean(self, outputs: Tensor) -> Tensor:
        """Return E[x | z] in the units of x, (..., n_outputs) -> (..., n_features)."""
        raise NotImplementedError

    def variance(self, outputs: Tensor) -> Tensor:
        """Return Var[x | z] in squared units of x, (..., n_outputs) -> (..., n_features)."""
        raise NotImplementedError

    def rescaled(self, means: Tensor, x: Tensor) -> Tensor:
        """Return means of rows as those of rows x (n, n_features), which may tell of an exposure.

        Other means are of rows of a median exposure.
        """
        return means

    def predictive(
        self, outputs: Tensor, weights: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of new data of rows, by their posteriors.

        Parameters
        ----------
        outputs : Tensor of shape (n_points, n_outputs)
        weights : Tensor of shape (n_samples, n_points)
            Posterior probabilities; rows sum to one.
        x : Tensor of shape (n_samples, n_features), optional
            The rows, where they tell of an exposure; of a median one without.

        Returns
        -------
        mean, std : Tensor of shape (n_samples, n_features)
            In the units of x.
        """
        means = self.mean(outputs)
        center = means.mean(0)
        away = means - center  # squares of what is far from zero would cancel
        mean = weights @ away
        variance = weights @ (self.variance(outputs) + away**2) - mean**2
        return center + mean, variance.clamp(min=0).sqrt()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given outputs, (..., n_outputs) -> (..., n_features), by that generator alone."""
        raise NotImplementedError


class ExponentialFamily(Likelihood):
    """Likelihood whose table of all rows against all latent points is one matrix product.

        log p(x | z) = sum_d [ T(x_d) eta_d(z) - A_d(eta_d(z)) ] + h(x)

    A subclass says what T, eta, A and h are; the table, and its rows, come with this class.
    Statistics are taken in the precision of x, products in that of the decoder's outputs, without
    rounding these further: the large terms of a table cancel.

    Overriding `table` changes training alone, whose gradient follows it; what is asked of a fitted
    model rests on T, eta, A and weights. A family whose `n_outputs` is not `n_features` says by
    `spread` which outputs a feature has, and one whose log-normalisers count otherwise than once
    each what their `weight` is.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "table" in own and "expected" not in own:
            cls.expected = cls._expected_of_table  # type: ignore[method-assign]
        if "terms" in own and "sufficient" not in own:
            cls.sufficient = cls._sufficient_of_terms  # type: ignore[method-assign]

    @property
    def n_normalizers(self) -> int:
        """Width of `log_normalizer`."""
        return self.n_features

    def statistics(self, x: Tensor) -> Tensor:
        """Return T(x), of shape (n_samples, n_outputs)."""
        return x

    def natural(self, outputs: Tensor) -> Tensor:
        """Return eta for decoder outputs, both of shape (..., n_outputs)."""
        raise NotImplementedError

    def log_normalizer(self, eta: Tensor) -> Tensor:
        """Return A_d(eta_d) of each feature, of shape (..., n_normalizers)."""
        raise NotImplementedError

    def total_log_normalizer(self, eta: Tensor) -> Tensor:
        """Return ``sum_d A_d(eta_d)`` in nats, of shape (...,)."""
        return self.log_normalizer(eta).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        """Return h_d(x_d) of each feature in nats, of shape (n_samples, n_features)."""
        return torch.zeros_like(x)

    def log_base_at(self, values: Tensor, features: Tensor) -> Tensor:
        """Return h_d(x_d) of single values (k,) of the features that are numbered, (k,).

        That is all that sparse rows need.
        """
        return self.log_base(values)

    def spread(self, mask: Tensor) -> Tensor:
        """Return which outputs features have that are there, (n, n_features) -> (n, n_outputs)."""
        return mask

    def weight(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return the `weight` of `Terms`; the mask is None where no feature is missing."""
        return None if mask is None else mask.to(x)

    def inputs(self, x: Tensor) -> Tensor:
        mask = gaps(x)
        if mask is None:
            return self.statistics(x)
        center = self.mean(x.new_zeros(self.n_outputs))
        return self.statistics(torch.where(mask, x, center))

    def terms(self, x: Tensor, mask: Tensor | None = None) -> Terms:
        mask = gaps(x, mask)
        statistics, weight = self._sufficient(x, mask)
        if mask is None:
            return Terms(statistics, self._total_log_base(x), weight)
        base = torch.where(mask, self.log_base(self._filled(x, mask)), 0)
        return Terms(statistics, base.sum(-1), weight)

    def sufficient(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return statistics and weight of `terms`: all that a posterior needs."""
        return self._sufficient(x, gaps(x, mask))

    def _sufficient(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if mask is None:
            return self.statistics(x), self.weight(x, None)
        filled = self._filled(x, mask)
        statistics = torch.where(self.spread(mask), self.statistics(filled), 0)
        return statistics, self.weight(filled, mask)

    def _sufficient_of_terms(
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        terms = self.terms(x, mask)
        return terms.statistics, terms.weight

    def _total_log_base(self, x: Tensor) -> Tensor:
        if type(self).log_base is ExponentialFamily.log_base:
            return entries(x).new_zeros(len(x))
        if x.layout != torch.sparse_csr:
            return self.log_base(x).sum(-1)
        counts = x.crow_indices().diff()
        row = torch.arange(len(counts), device=x.device).repeat_interleave(counts)
        values = self.log_base_at(x.values(), x.col_indices())
        return values.new_zeros(len(counts)).index_add_(0, row, values)

    def _filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """Rows without gaps: gradients go through what is hidden afterwards, and would be NaN."""
        return torch.where(mask, x, self.filler)

    def table(self, terms: Terms, outputs: Tensor) -> Tensor:
        """Return log p(x_i | z_j) less the base of row i, for all rows and points, in nats.

        Parameters
        ----------
        terms : Terms
            What n rows bring.
        outputs : Tensor of shape (n_points, n_outputs)

        Returns
        -------
        Tensor of shape (n_samples, n_points)
        """
        eta = self.natural(outputs)
        with full_precision():
            products = product(terms.statistics, eta)
            if terms.weight is None:
                return products - self.total_log_normalizer(eta)
            weight = terms.weight.to(eta)
            if weight.shape[1] == 1:
                return products - weight * self.total_log_normalizer(eta)
            return products - weight @ self.log_normalizer(eta).T

    def expected(self, terms: Terms, outputs: Tensor, weights: Tensor) -> Tensor:
        """Return what has the gradient of ``sum_j weights_ij table_ij`` for each row, (n,).

        The weights (n_samples, n_points) are constants, and the value means nothing: the product
        that it would take is left out. A subclass with a `table` of its own has its gradient,
        unless it also says here what that is.
        """
        eta = self.natural(outputs)
        products = weighed(eta, as_type(terms.statistics, eta), weights)
        if terms.weight is None:
            return products - weights @ self.total_log_normalizer(eta)
        weight = terms.weight.to(eta)
        if weight.shape[1] == 1:
            return products - weight[:, 0] * (weights @ self.total_log_normalizer(eta))
        return products - (weight * (weights @ self.log_normalizer(eta))).sum(-1)

    def _expected_of_table(self, terms: Terms, outputs: Tensor, weights: Tensor) -> Tensor:
        return (weights * self.table(terms, outputs)).sum(1)

    def paired(self, terms: Terms, outputs: Tensor) -> Tensor:
        eta = self.natural(outputs)
        products = paired_product(terms.statistics, eta)
        if terms.weight is None:
            return products - self.total_log_normalizer(eta)
        weighed = self.log_normalizer(eta) * terms.weight.to(eta)[:, None]
        return products - weighed.sum(-1)
