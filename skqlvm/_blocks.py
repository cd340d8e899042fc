"""Which columns have which likelihood: what `likelihood` and `exposure` say of a table."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

from . import _checks
from .engine import likelihoods

LIKELIHOODS = likelihoods.FAMILIES
COUNTS = ("negative_binomial", "poisson")
"""Families that may have an exposure."""

REMAINDER = "remainder"
"""Key for the columns that no other key names."""

_OVERDISPERSED, _UNDERDISPERSED = 1.5, 0.5
"""Ratios of variance to mean: above the first, counts vary more than Poisson ones; whole numbers
below the second, such as years, are no counts."""

_ROWS_AT_ONCE = 4096


class Choice(NamedTuple):
    """Columns by their numbers, and a name or a factory of the likelihood that they have.

    Attributes
    ----------
    columns : tuple of int
    likelihood : str or callable
    each : bool
        Whether a Gaussian that learns its noise has one for each of them.
    """

    columns: tuple
    likelihood: object
    each: bool = False


def check(likelihood, exposure):
    """Raise unless both parameters make sense for themselves, whatever the data."""
    entries = likelihood.items() if isinstance(likelihood, dict) else [(None, likelihood)]
    if not entries:
        raise ValueError("likelihood expects columns and names, but got an empty dict.")
    for key, value in entries:
        name = "likelihood" if key is None else f"likelihood[{key!r}]"
        _check_name(name, value)
        if key is not None:
            _check_key(key)
    if exposure is None or isinstance(exposure, (str, Integral)) and exposure is not True:
        return
    raise TypeError(
        "exposure expects None, 'total' or a column, by its name or number, but got "
        f"{exposure!r}."
    )


def takes_categories(likelihood):
    """Whether categories of a data frame are coded for such a parameter."""
    return isinstance(likelihood, dict) or likelihood in ("auto", "categorical")


def choose(estimator, X, columns):
    """Return the choices that the parameters of an estimator make for rows X.

    Parameters
    ----------
    estimator : LatentEstimator
    X : ndarray of shape (n_samples, n_features)
        Validated.
    columns : _columns.Columns

    Returns
    -------
    list of Choice
    """
    exposure = _exposure_column(estimator.exposure, columns, X.shape[1])
    free = [number for number in range(X.shape[1]) if number != exposure]
    value = estimator.likelihood
    if isinstance(value, dict):
        choices = _of_dict(value, free, X, columns, estimator)
    elif value == "auto":
        choices = _automatic(free, X, columns, estimator)
    else:
        choices = [Choice(tuple(free), value)]
    for choice in choices:
        _check_categories(choice, columns)
    if estimator.exposure is not None and not any(c.likelihood in COUNTS for c in choices):
        raise ValueError(
            f"exposure={estimator.exposure!r} expects columns of counts, with likelihood="
            f"'poisson' or 'negative_binomial', but likelihood={value!r} has none. Use one of "
            "them, or exposure=None."
        )
    return choices


def build(estimator, X, columns, make):
    """Return the likelihood of the choices, not yet started.

    Parameters
    ----------
    estimator, X, columns
        As for `choose`.
    make : callable
        From the number of features and a factory of one's own to its likelihood, checked.
    """
    choices = choose(estimator, X, columns)
    exposure = _exposure_column(estimator.exposure, columns, X.shape[1])
    largest = None
    blocks = []
    for choice in choices:
        numbers, taken = list(choice.columns), {}
        if callable(choice.likelihood):
            blocks.append(likelihoods.Block(numbers, make(len(numbers), choice.likelihood)))
            continue
        family = LIKELIHOODS[choice.likelihood]
        taken = {name: getattr(estimator, name) for name in family.parameters_taken}
        if choice.each and taken.get("noise_variance") == "spherical":
            taken["noise_variance"] = "diagonal"
        if choice.likelihood == "categorical":
            largest = Ranges(X).largest if largest is None else largest
            taken["n_levels"] = _n_levels(numbers, columns, largest)
        if choice.likelihood in COUNTS and estimator.exposure is not None:
            taken["exposure"] = "total" if exposure is None else len(numbers)
            numbers += [] if exposure is None else [exposure]
            if len(choices) == 1:
                taken["exposure"] = "total" if exposure is None else exposure
        blocks.append(likelihoods.Block(numbers, family(len(numbers), **taken)))
    if len(blocks) == 1:
        return _labelled(blocks[0].family, columns)
    return likelihoods.Mixed(blocks, _labels(columns, X.shape[1]))


class Ranges:
    """Of every column of X what is there: smallest, largest, mean and variance, in one pass.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    """

    def __init__(self, X):
        if issparse(X):
            n_rows = X.shape[0]
            self.smallest, self.largest = X.min(axis=0), X.max(axis=0)
            self.smallest, self.largest = (
                np.asarray(part.todense() if issparse(part) else part).ravel()
                for part in (self.smallest, self.largest)
            )
            mean = np.asarray(X.sum(axis=0)).ravel() / n_rows
            squares = np.asarray(X.multiply(X).sum(axis=0)).ravel() / n_rows
        else:
            mean, squares = self._of_rows(X)
        self.mean, self.variance = mean, np.maximum(squares - mean**2, 0)

    def _of_rows(self, X):
        shape = X.shape[1]
        self.smallest, self.largest = np.full(shape, np.inf), np.full(shape, -np.inf)
        n, total, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for start in range(0, X.shape[0], _ROWS_AT_ONCE):
            x = np.asarray(X[start : start + _ROWS_AT_ONCE], dtype=np.float64)
            there = ~np.isnan(x)
            self.smallest = np.minimum(self.smallest, np.where(there, x, np.inf).min(0))
            self.largest = np.maximum(self.largest, np.where(there, x, -np.inf).max(0))
            filled = np.where(there, x, 0)
            n, total = n + there.sum(0), total + filled.sum(0)
            squares = squares + (filled**2).sum(0)
        return total / np.maximum(n, 1), squares / np.maximum(n, 1)


def _check_name(name, value):
    if not callable(value):
        _checks.check_option(name, value, [*LIKELIHOODS, "auto"], also=", a dict or a callable")
        return
    _checks.check_factory(name, value)
