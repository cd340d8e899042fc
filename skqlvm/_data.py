"""Data as they come: what is checked before a fit or a query, gaps, and tables like those given."""

from numbers import Real

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, validate_data

from . import _checks, _parts
from .engine.precision import own_settings

_ROWS_AT_ONCE = 4096


def validated(estimator, X, *, reset):
    """Return X as a float32 or float64 array, without a copy where it is one.

    NaN is what is missing, where the likelihood allows that.
    """
    kind = _parts.kind_of(estimator.likelihood) if reset else estimator.likelihood_
    if issparse(X):
        return _sparse(estimator, X, kind, reset=reset)
    _checks.check_two_dimensional(X)
    _checks.check_columns(X)
    return validate_data(
        estimator,
        without_na(X),
        reset=reset,
        dtype=[np.float64, np.float32],
        ensure_all_finite="allow-nan" if kind is None or kind.allows_missing else True,
        ensure_min_samples=2 if reset else 1,
    )


def _sparse(estimator, X, kind, *, reset):
    """Return sparse X in canonical CSR format; it is never made dense, and has no gaps."""
    if kind is not None and not kind.sparse:
        taken = [repr(name) for name, each in _parts.LIKELIHOODS.items() if each.sparse]
        raise TypeError(
            f"{type(estimator).__name__} expects a dense array, but got a sparse matrix. Use "
            f"X.toarray(), or a likelihood that takes sparse rows: {', '.join(sorted(taken))}."
        )
    if getattr(estimator, "transformations", None) is not None:
        raise TypeError(
            "transformations expects a dense array, but got a sparse matrix. Use X.toarray()."
        )
    X = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="csr",
        dtype=[np.float64, np.float32],
        ensure_min_samples=2 if reset else 1,
    )
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def weighted(X, sample_weight, n_needed=1):
    """Return the rows that count, and how often, (n,), float64; None is once each.

    Raises
    ------
    TypeError, ValueError
        If the weights are no numbers, one a row, that are not negative.
    """
    if sample_weight is None:
        return X, None
    n_rows = X.shape[0]
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_rows, sample_weight)
    weight = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight", copy=True
    )
    if weight.shape != (n_rows,):
        raise ValueError(
            f"sample_weight expects a number for each of the {n_rows} rows, but got shape "
            f"{weight.shape}."
        )
    if (weight < 0).any():
        raise ValueError(
            f"sample_weight expects numbers of at least 0, but got {weight.min():g}. Leave rows "
            "out by a weight of 0."
        )
    counts = weight > 0
    if counts.sum() < n_needed:
        raise ValueError(
            f"sample_weight expects at least {n_needed} rows of positive weight, but all but "
            f"{counts.sum()} of {n_rows} sample(s) weigh zero."
        )
    if not counts.all():
        X, weight = X[counts], weight[counts]
    return X, None if (weight == 1).all() else weight


def counted(sample_weight):
    """Return the numbers of the rows that `weighted` returns; None is all."""
    if sample_weight is None or isinstance(sample_weight, Real):
        return None
    return np.flatnonzero(np.asarray(sample_weight, dtype=np.float64) > 0)


def without_na(X):
    """Return a data frame with NaN for the pandas.NA of columns of objects; else what came."""
    types = getattr(X, "dtypes", None)
    if not hasattr(X, "mask") or not any(getattr(each, "kind", "") == "O" for each in types):
        return X
    return X.mask(X.isna(), np.nan)


def gaps_by_rows(X):
    """Return, some rows at a time, which features are missing: slices, and None or flags."""
    for start in range(0, X.shape[0], _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield rows, _gaps(X[rows])


def has_gaps(X):
    """Whether a feature is missing somewhere."""
    return not issparse(X) and any(missing is not None for _, missing in gaps_by_rows(X))


def ragged(X):
    """Return torch's name of the type of rows some of which have gaps; None if none has."""
    return torch.from_numpy(np.empty(0, X.dtype)).dtype if has_gaps(X) else None


def chart_for(X, likelihood, atlas):
    """Return an atlas with what the rows of X with gaps need, if there are any."""
    dtype = ragged(X)
    if dtype is None:
        return atlas
    with own_settings(gradients=False):
        return atlas.with_normalizers(likelihood, dtype)


def _gaps(X):
    with np.errstate(over="ignore", invalid="ignore"):
        total = X.sum()  # goes over X once and writes nothing
    if not np.isnan(total):
        return None
    missing = np.isnan(X)
    return missing if missing.any() else None


def check(name, likelihood, X):
    """Raise unless data suit a likelihood, which `name` is the estimator's word for."""
    if issparse(X) and not likelihood.sparse:
        raise TypeError(
            f"likelihood={name!r} expects a dense array, but got a sparse matrix. Use X.toarray()."
        )
    if not likelihood.allows_missing and has_gaps(X):
        raise ValueError(
            f"Input X contains NaN, but likelihood={name!r} expects rows without missing features. "
            "Impute them, or use likelihood='gaussian'."
        )
    _parts.check_data(name, likelihood, X)


def check_columns_there(estimator, X):
    """Raise if a feature is missing in all rows."""
    if issparse(X):
        return
    there = np.zeros(X.shape[1], dtype=bool)
    for _, missing in gaps_by_rows(X):
        there |= True if missing is None else ~missing.all(0)
        if there.all():
            return
    number = int(there.argmin())
    names = getattr(estimator, "feature_names_in_", None)
    name = f"column {number}" if names is None else f"column {names[number]!r}"
    raise ValueError(
        f"X expects a value in every column, but {name} has none: all {X.shape[0]} are missing. "
        "Leave the column out."
    )


def rows_to_start(X, rows):
    """Return numbers of rows, and of one more row for every feature that all of them lack.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    rows : ndarray of int
    """
    if issparse(X):
        return rows
    lacking, more = np.isnan(X[np.sort(rows)]).all(0), []
    if not lacking.any():
        return rows  # without a look at all others
    for some, missing in gaps_by_rows(X):
        there = np.ones_like(X[some], dtype=bool) if missing is None else ~missing
        found = lacking & there.any(0)
        more.extend(some.start + there[:, found].argmax(0))
        lacking = lacking & ~found
    return np.concatenate([rows, np.unique(more).astype(rows.dtype)])


def like_given(estimator, X, values):
    """Return values as a data frame where X is one, or where `set_output` asks for one.

    Parameters
    ----------
    estimator : estimator
    X : array-like of shape (n_samples, n_features)
        What the user gave.
    values : ndarray of shape (n_samples, n_features)
    """
    if hasattr(X, "columns"):
        columns = list(X.columns)
        if hasattr(X, "iloc"):
            return type(X)(values, index=X.index, columns=columns)
        return type(X)(dict(zip(columns, values.T, strict=True)))
    asked = output_of(estimator)
    if asked == "default":
        return values
    names = getattr(estimator, "feature_names_in_", [f"x{i}" for i in range(values.shape[1])])
    return labelled(X, values, names, asked)


def output_of(estimator):
    """Return what `set_output` asks for, of the estimator or else of scikit-learn."""
    own = getattr(estimator, "_sklearn_output_config", {}).get("transform")
    return get_config()["transform_output"] if own is None else own


def labelled(X, table, names, container):
    """Return a table (n, len(names)) as the container that scikit-learn knows by this name.

    Its index is that of X.
    """
    return _Labelled(table, names).set_output(transform=container).transform(X)


class _Labelled(TransformerMixin, BaseEstimator):
    """A table with names of columns, as the output of a transformer that scikit-learn wraps."""

    def __init__(self, table, names):
        self.table, self.names = table, names

    def transform(self, X):
        return self.table

    def get_feature_names_out(self, input_features=None):
        return np.asarray(self.names, dtype=object)
