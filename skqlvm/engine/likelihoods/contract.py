"""The contract of observation models p(x | z), and the exponential families among them."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..precision import full_precision

ROUNDING = 1e-6
"""Distance outside a support that is forgiven: rescaled data may come to 1.0000000000000002."""


class Terms(NamedTuple):
    """What a row brings to ``log p(x | z) = statistics . eta(z) - sum_d A_d(eta_d(z)) + base``.

    Attributes
    ----------
    statistics : Tensor of shape (n_samples, n_outputs)
        T(x); zero where a feature is missing.
    base : Tensor of shape (n_samples,)
        h(x) of the features that are there, in nats. It does not depend on z, so that it is added
        last: after the log-sum-exp, whose rounding then does not depend on the units of x.
    mask : Tensor of shape (n_samples, n_features), or None
        True where a feature is there; None where all of them are.
    """

    statistics: Tensor
    base: Tensor
    mask: Tensor | None = None


class Likelihood(nn.Module):
    """Observation model p(x | z): what decoder outputs say about a row.

    Outputs are standardised: a model is started at the data, after which an output of zero stands
    for the mean of the data and one unit for their scale.

    A subclass defines `terms`, `paired`, `mean` and `sample`, and what else is not as here.

    Attributes
    ----------
    n_features : int
    support : tuple of float
        Smallest and largest value that data may take.
    integral : bool
        Whether data are whole numbers.
    rounds : bool
        Whether a table may be made of numbers rounded to bfloat16 while a model is trained.
    parameters_taken : tuple of str
        Parameters of an estimator that the constructor takes, beside the number of features.
    """

    support: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    integral: ClassVar[bool] = False
    rounds = False
    parameters_taken: ClassVar[tuple[str, ...]] = ()

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    @property
    def n_outputs(self) -> int:
        """Numbers that a decoder has to say for a row."""
        return self.n_features

    def start(self, x: Tensor) -> None:
        """Set location and scale from data x of shape (n_samples, n_features)."""

    def check(self, x: Tensor) -> None:
        """Raise unless data lie in the support, give or take what rounding does to rescaled data.

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
        """Return x as an encoder should see it, of moderate size, of shape (n_samples, d)."""
        return x

    def terms(self, x: Tensor, mask: Tensor | None = None) -> Terms:
        """Return what rows (n_samples, n_features) bring with the features that `mask` has."""
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
    model rests on T, eta and A. A family whose `n_outputs` is not `n_features` overrides `terms`
    too: a mask is one of features, which hides statistics only where these are as many.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "table" in vars(cls) and "expected" not in vars(cls):
            cls.expected = cls._expected_of_table  # type: ignore[method-assign]

    def statistics(self, x: Tensor) -> Tensor:
        """Return T(x), of shape (n_samples, n_outputs)."""
        return x

    def natural(self, outputs: Tensor) -> Tensor:
        """Return eta for decoder outputs, both of shape (..., n_outputs)."""
        raise NotImplementedError

    def log_normalizer(self, eta: Tensor) -> Tensor:
        """Return A_d(eta_d) of each feature, of shape (..., n_features)."""
        raise NotImplementedError

    def total_log_normalizer(self, eta: Tensor) -> Tensor:
        """Return ``sum_d A_d(eta_d)`` in nats, of shape (...,)."""
        return self.log_normalizer(eta).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        """Return h_d(x_d) of each feature in nats, of shape (n_samples, n_features)."""
        return torch.zeros_like(x)

    def inputs(self, x: Tensor) -> Tensor:
        return self.statistics(x)

    def terms(self, x: Tensor, mask: Tensor | None = None) -> Terms:
        if mask is None or bool(mask.all()):
            return Terms(self.statistics(x), self.log_base(x).sum(-1))
        # filled first: gradients go through what a mask hides afterwards, and would be NaN
        filled = torch.where(mask, x, 0)
        statistics = torch.where(mask, self.statistics(filled), 0)
        base = torch.where(mask, self.log_base(filled), 0)
        return Terms(statistics, base.sum(-1), mask)

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
            products = terms.statistics.to(eta) @ eta.T
            if terms.mask is None:
                return products - self.total_log_normalizer(eta)
            return products - terms.mask.to(eta) @ self.log_normalizer(eta).T

    def expected(self, terms: Terms, outputs: Tensor, weights: Tensor) -> Tensor:
        """Return what has the gradient of ``sum_j weights_ij table_ij`` for each row, (n,).

        The weights (n_samples, n_points) are constants, and the value means nothing: the product
        that it would take is left out. A subclass with a `table` of its own has its gradient,
        unless it also says here what that is.
        """
        eta = self.natural(outputs)
        products = _weighed(eta, terms.statistics.to(eta), weights)
        if terms.mask is None:
            return products - weights @ self.total_log_normalizer(eta)
        return products - (terms.mask.to(eta) * (weights @ self.log_normalizer(eta))).sum(-1)

    def _expected_of_table(self, terms: Terms, outputs: Tensor, weights: Tensor) -> Tensor:
        return (weights * self.table(terms, outputs)).sum(1)

    def paired(self, terms: Terms, outputs: Tensor) -> Tensor:
        eta = self.natural(outputs)
        products = torch.einsum("nd,nsd->ns", terms.statistics.to(eta), eta)
        normalizer = self.log_normalizer(eta)
        if terms.mask is not None:
            normalizer = normalizer * terms.mask.to(eta)[:, None]
        return products - normalizer.sum(-1)


class _Weighed(torch.autograd.Function):
    """The gradient of ``sum_j weights_ij x_i . eta_j`` with respect to x and eta, and no value."""

    @staticmethod
    def forward(ctx: Any, eta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(eta, x, weights)
        return eta.new_zeros(len(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        eta, x, weights = ctx.saved_tensors
        weights = weights * gradient[:, None]
        to_eta = weights.T @ x if ctx.needs_input_grad[0] else None
        to_x = weights @ eta if ctx.needs_input_grad[1] else None
        return to_eta, to_x, None


def _weighed(eta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    result: Tensor = _Weighed.apply(eta, x, weights)
    return result
