"""Which columns have which likelihood: what `likelihood` and `exposure` say of a table."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

from ._columns import is_number, short
from ._conditions import numbers as told_numbers
from .engine import likelihoods

NAMES = (*likelihoods.FAMILIES, "auto")
"""What `likelihood` may be called."""

COUNTS = ("negative_binomial", "poisson")
"""Families that may have an exposure."""

REMAINDER = "remainder"
"""Key for the columns that no other key names."""

SHAPING = ("likelihood", "noise_variance", "exposure")
"""Parameters of an estimator that shape its likelihood."""

_OVERDISPERSED, _UNDERDISPERSED = 1.5, 0.5
"""Ratios of variance to mean: above the first, counts vary more than Poisson ones; whole numbers
below the second, such as years, are no counts."""

_SPARSEST = 1000
"""Codes beyond the number of rows from which on they are no codes but other numbers."""

_ROWS_AT_ONCE = 4096


class Choice(NamedTuple):
    """The likelihood of some columns.

    Attributes
    ----------
    columns : list of int
        Numbers of columns of X, that of an exposure included.
    likelihood : str or callable
        A name of a family, or a factory.
    taken : dict
        Arguments of the family beside the number of features.
    """

    columns: list
    likelihood: object
    taken: dict


def check(likelihood, exposure, check_choice):
    """Raise unless both parameters make sense for themselves, whatever the data.

    Parameters
    ----------
    likelihood, exposure
        Parameters of an estimator.
    check_choice : callable
        Raises unless a value, by its name, is in a table or a factory; what else the caller takes
        comes last.
    """
    if isinstance(likelihood, dict):
        _check_keys(likelihood)
        for key, value in likelihood.items():
            check_choice(f"likelihood[{key!r}]", value, NAMES, " or a callable")
    else:
        check_choice("likelihood", likelihood, NAMES, ", a dict of columns, or a callable")
    if exposure is not None and not isinstance(exposure, str) and not is_number(exposure):
        raise TypeError(
            "exposure expects None, 'total', or a column by its name or number, but got "
            f"{exposure!r}."
        )


def _check_keys(likelihood):
    """Raise unless the keys of a dict may be columns."""
    if not likelihood:
        raise ValueError("likelihood expects columns and names, but got an empty dict.")
    for key in likelihood:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, (str, range, slice)) or is_number(part) for part in parts):
            raise TypeError(
                "likelihood expects a dict whose keys are columns, by their names or numbers, "
                f"tuples of these, ranges, or 'remainder', but got {key!r}."
            )


def takes_categories(likelihood):
    """Whether categories of a data frame are coded for it."""
    return isinstance(likelihood, dict) or likelihood in ("auto", "categorical")


def choose(estimator, X, columns):
    """Return which columns have which likelihood by the parameters of an estimator.

    Parameters
    ----------
    estimator : LatentEstimator
    X : ndarray or sparse matrix of shape (n_samples, n_features)
        Validated.
    columns : _columns.Columns

    Returns
    -------
    list of Choice
    """
    table = _Table(X, columns)
    value, exposure = estimator.likelihood, estimator.exposure
    told = None if exposure in (None, "total") else table.columns.number(exposure, "exposure")
    conditions = told_numbers(estimator.condition_columns, columns)
    if told in conditions:
        raise ValueError(
            f"exposure={exposure!r} expects a column that is no condition, but it is one of "
            f"condition_columns={estimator.condition_columns!r}."
        )
    free = [number for number in range(X.shape[1]) if number not in (told, *conditions)]
    if isinstance(value, dict):
        pairs = _of_dict(value, free, table, exposure)
    elif isinstance(value, str) and value == "auto":
        pairs = _automatic(free, table, exposure)
    else:
        pairs = [(free, value)]
    by_itself = value if isinstance(value, dict) else {}
    choices = []
    for numbers, name in pairs:
        _check_categories(numbers, name, table)
        numbers, taken = list(numbers), {}
        if name == "categorical":
            taken["n_levels"] = [table.n_levels(number) for number in numbers]
        if name == "gaussian" and not by_itself and value == "auto":
            taken["noise_variance"] = _one_each(estimator.noise_variance)
        if name in COUNTS and exposure is not None:
            numbers = numbers if told is None else sorted([*numbers, told])
            taken["exposure"] = "total" if told is None else numbers.index(told)
        choices.append(Choice(numbers, name, taken))
    if conditions:
        choices.append(Choice(conditions, likelihoods.Told, {}))
    _check_exposure_used(estimator, choices)
    _check_transformations(estimator, choices)
    return choices


def build(choices, columns, make):
    """Return the likelihood of the choices, not yet started.

    Parameters
    ----------
    choices : list of Choice
    columns : _columns.Columns
    make : callable
        From the number of features, a name or factory, and arguments, to its likelihood.
    """
    blocks = [
        likelihoods.Block(
            choice.columns, make(len(choice.columns), choice.likelihood, choice.taken)
        )
        for choice in choices
    ]
    names = None if columns.names is None else list(map(str, columns.names))
    if len(blocks) > 1:
        return likelihoods.Mixed(blocks, names)
    family = blocks[0].family
    if isinstance(family, likelihoods.Categorical) and names is not None:
        family.labels = names
    return family


class _Table:
    """Rows and what is known of their columns."""

    def __init__(self, X, columns):
        self.X, self.columns = X, columns
        self._ranges = None

    @property
    def ranges(self):
        if self._ranges is None:
            self._ranges = Ranges(self.X)
        return self._ranges

    def numbers(self, key):
        """The numbers of the columns that a key of a dict is."""
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, slice):
                yield from range(*part.indices(self.X.shape[1]))
            elif isinstance(part, range):
                yield from (self.columns.number(number, "likelihood") for number in part)
            else:
                yield self.columns.number(part, "likelihood")

    def n_levels(self, number):
        """Levels of a column: its categories, or one more than the largest code."""
        if number in self.columns.levels:
            return max(1, len(self.columns.levels[number]))
        largest, n_rows = self.ranges.largest[number], self.X.shape[0]
        if largest > n_rows + _SPARSEST:
            raise ValueError(
                "likelihood='categorical' expects codes 0, 1, ..., but "
                f"{self.columns.name(number)!r} goes up to {largest:.9g} in {n_rows} rows. Recode "
                "it, as OrdinalEncoder does."
            )
        return int(max(0, largest)) + 1


class Ranges:
    """Of every column of X what is there: smallest, largest, mean and variance, in one pass.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    """

    def __init__(self, X):
        self.smallest, self.largest = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
        n_there, total, squares = np.zeros((3, X.shape[1]))
        for start in range(0, X.shape[0], _ROWS_AT_ONCE):
            x = X[start : start + _ROWS_AT_ONCE]
            x = np.asarray(x.toarray() if issparse(x) else x, dtype=np.float64)
            there = ~np.isnan(x)
            filled = np.where(there, x, 0)
            n_there, total = n_there + there.sum(0), total + filled.sum(0)
            squares = squares + (filled**2).sum(0)
            self.smallest = np.minimum(self.smallest, np.where(there, x, np.inf).min(0))
            self.largest = np.maximum(self.largest, np.where(there, x, -np.inf).max(0))
        self.mean = total / np.maximum(n_there, 1)
        self.variance = np.maximum(squares / np.maximum(n_there, 1) - self.mean**2, 0)


def _one_each(noise_variance):
    """Noise of columns whose units have nothing in common."""
    return "diagonal" if isinstance(noise_variance, str) else noise_variance


def _of_dict(value, free, table, exposure):
    """Pairs of numbers and a name or factory, as the keys of a dict say."""
    left, pairs = list(free), []
    for key, name in value.items():
        if isinstance(key, str) and key == REMAINDER:
            continue
        numbers = list(table.numbers(key))
        for number in numbers:
            if number not in left:
                why = "another key has it" if number in free else _why_told(number, table, exposure)
                raise ValueError(
                    f"likelihood expects each column once, but {table.columns.name(number)!r} of "
                    f"{key!r} is taken: {why}."
                )
            left.remove(number)
        pairs.append((numbers, name))
    if left and REMAINDER not in value:
        raise ValueError(
            f"likelihood expects every column, but {short([table.columns.name(i) for i in left])} "
            f"{'have' if len(left) > 1 else 'has'} none. Add the key 'remainder', for example with "
            "the value 'auto'."
        )
    if left:
        pairs.append((left, value[REMAINDER]))
    found = []
    for numbers, name in pairs:
        automatic = isinstance(name, str) and name == "auto"
        found += _automatic(numbers, table, exposure) if automatic else [(numbers, name)]
    return found


def _why_told(number, table, exposure):
    is_exposure = exposure in (number, table.columns.name(number))
    return "it is the exposure" if is_exposure else "it is told"


def _automatic(numbers, table, exposure):
    """Pairs of numbers and a name, by what columns hold."""
    found = {}
    for number in numbers:
        found.setdefault(_family_of(number, table), []).append(number)
    if exposure is not None and set(COUNTS) <= found.keys():
        # they share it: what are counts of one kind
        found["negative_binomial"] = sorted(found["negative_binomial"] + found.pop("poisson"))
    return sorted(((numbers, name) for name, numbers in found.items()), key=lambda pair: pair[0])


def _family_of(number, table):
    kind = table.columns.kinds[number]
    if kind == "category":
        return "categorical"
    if kind == "boolean":
        return "bernoulli"
    if kind != "integer" or not table.ranges.smallest[number] >= 0:
        return "gaussian"
    if table.ranges.largest[number] <= 1:
        return "bernoulli"
    ratio = table.ranges.variance[number] / table.ranges.mean[number]
    if ratio < _UNDERDISPERSED:
        return "gaussian"
    return "negative_binomial" if ratio > _OVERDISPERSED else "poisson"


def _check_categories(numbers, name, table):
    if name == "categorical" or callable(name):
        return
    for number in numbers:
        if number in table.columns.levels:
            raise TypeError(
                f"likelihood={name!r} expects columns of numbers, but "
                f"{table.columns.name(number)!r} has categories. Give that column 'categorical' or "
                "'auto'."
            )


def _check_exposure_used(estimator, choices):
    if estimator.exposure is not None and not any(each.likelihood in COUNTS for each in choices):
        raise ValueError(
            f"exposure={estimator.exposure!r} expects columns whose likelihood is 'poisson' or "
            f"'negative_binomial', but likelihood={estimator.likelihood!r} has none."
        )


def _check_transformations(estimator, choices):
    """Raise where columns are not alike: then they cannot take each other's place."""
    alike = len(choices) == 1 and choices[0].likelihood != "categorical"
    alike = alike and estimator.exposure is None
    if getattr(estimator, "transformations", None) is not None and not alike:
        raise ValueError(
            "transformations expects columns of one likelihood, of which each can take another's "
            f"place, but got likelihood={estimator.likelihood!r}, exposure={estimator.exposure!r} "
            f"and condition_columns={estimator.condition_columns!r}. Use transformations=None."
        )
