"""Columns of X that decoders are told: which, what groups their rows form, and asking for one."""

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.cluster import KMeans

from ._columns import is_frame, is_number
from .engine.conditions import Conditions

_MOST_LEVELS = 16
"""Different numbers in a column up to which each is a level of its own."""

_MOST_EXACT = 64
"""Different conditions up to which each is a group of its own."""

_N_GROUPS = 16
"""Groups of near conditions where there are more different ones."""

_MOST_CLUSTERED = 10_000
"""Rows that groups are made of."""


def check(condition_columns):
    """Raise unless it may name columns, whatever the data."""
    if condition_columns is None:
        return
    for key in _listed(condition_columns):
        if not isinstance(key, str) and not is_number(key):
            raise TypeError(
                "condition_columns expects None, or columns by their names or numbers, but got "
                f"{condition_columns!r}."
            )


def numbers(condition_columns, columns):
    """Return the numbers of the columns that are told, ascending.

    Parameters
    ----------
    condition_columns : None, str, int, or list of these
    columns : _columns.Columns

    Raises
    ------
    ValueError
        If there is no such column, one is named twice, or none is left to be modelled.
    """
    if condition_columns is None:
        return []
    found = [columns.number(key, "condition_columns") for key in _listed(condition_columns)]
    if len(set(found)) < len(found):
        raise ValueError(
            f"condition_columns expects each column once, but got {condition_columns!r}."
        )
    if len(found) == len(columns.kinds):
        raise ValueError(
            f"condition_columns expects to leave a column that is modelled, but all {len(found)} "
            "columns of X are told."
        )
    return sorted(found)


def learn(condition_columns, X, columns, weight=None):
    """Return what decoders are told of rows by the columns that are named; None without such.

    A column of categories or flags, or of at most 16 different numbers, has levels.

    Parameters
    ----------
    condition_columns : None, str, int, or list of these
    X : ndarray of shape (n_samples, n_features)
    columns : _columns.Columns
    weight : ndarray of shape (n_samples,), optional
        How often each row counts.
    """
    told = numbers(condition_columns, columns)
    if not told:
        return None
    values = _values_of(X, told, columns)
    levels = [_levels(values[:, i], columns, number) for i, number in enumerate(told)]
    weight = np.ones(len(values)) if weight is None else weight
    loc = np.average(values, axis=0, weights=weight)
    scale = np.sqrt(np.average((values - loc) ** 2, axis=0, weights=weight))
    scale = np.where(scale > 0, scale, 1.0)
    distinct, group = np.unique(values, axis=0, return_inverse=True)
    parts = [told, levels, torch.from_numpy(loc), torch.from_numpy(scale)]
    if len(distinct) > _MOST_EXACT:
        one = Conditions(*parts, *_tensors(values[:1], [1]))
        distinct, group = _clustered(one, values, weight)
    shares = np.bincount(group.ravel(), weight) / weight.sum()
    conditions = Conditions(*parts, *_tensors(distinct, shares))
    conditions.error = _error(conditions, values, weight)
    return conditions


def learned(conditions):
    """Return what a user may know of the conditions of a fit, as a dict of attributes."""
    if conditions is None:
        return {}
    groups = conditions.values.cpu().numpy().copy()
    return {"condition_groups_": groups, "condition_error_": conditions.error}


def n_numbers(conditions):
    """Numbers that a decoder is told."""
    return 0 if conditions is None else conditions.n_numbers


def check_values(conditions, X, columns):
    """Raise if a row's condition is missing, or a level that the fit has not seen."""
    if conditions is None:
        return
    for start in range(0, X.shape[0], _MOST_CLUSTERED):
        values = _values_of(X[start : start + _MOST_CLUSTERED], conditions.columns, columns)
        for i, levels in enumerate(conditions.levels):
            unseen = np.zeros(0) if levels is None else np.setdiff1d(values[:, i], levels.numpy())
            if len(unseen):
                shown = ", ".join(f"{value:g}" for value in levels.tolist())
                raise ValueError(
                    f"Condition {columns.name(conditions.columns[i])!r} expects one of the levels "
                    f"of the fit, {shown}, but got {unseen[0]:g}. Fit anew with it."
                )


def asked(conditions, columns, condition, n_rows):
    """Return the group of each of so many rows by the conditions that a user asks for, (n_rows,).

    Parameters
    ----------
    conditions : engine.conditions.Conditions
    columns : _columns.Columns
    condition : array-like of shape (n_conditions,) or (n_rows, n_conditions), or data frame
    n_rows : int
    """
    told = conditions.columns
    names = [columns.name(number) for number in told]
    if condition is None:
        raise ValueError(
            f"condition expects values of {names}, which the decoder is told, but got None."
        )
    given = condition[names] if is_frame(condition) else condition
    given = np.asarray(given, dtype=object)
    given = given.reshape(1, -1) if given.ndim < 2 else given
    if given.shape not in ((1, len(told)), (n_rows, len(told))):
        raise ValueError(
            f"condition expects shape ({len(told)},) or ({n_rows}, {len(told)}), values of "
            f"{names}, but got {np.shape(condition)}."
        )
    values = np.stack([columns.codes(given[:, i], number) for i, number in enumerate(told)], 1)
    whole = np.zeros((len(values), 1 + max(told)))
    whole[:, told] = values
    check_values(conditions, whole, columns)
    group = conditions.groups_of(torch.from_numpy(values).to(conditions.values.device))
    return group.expand(n_rows) if len(group) == 1 else group


def _listed(condition_columns):
    """Columns as a list, of one if it is alone."""
    alone = isinstance(condition_columns, str) or not np.iterable(condition_columns)
    return [condition_columns] if alone else list(condition_columns)


def _values_of(X, told, columns):
    """Conditions of rows, (n, n_conditions) in float64; raises where one is missing."""
    values = X[:, told]
    values = np.asarray(values.toarray() if issparse(values) else values, dtype=np.float64)
    missing = np.isnan(values).any(0)
    if missing.any():
        name = columns.name(told[int(missing.argmax())])
        raise ValueError(
            f"Condition {name!r} expects a value in every row, but some are missing. Impute them, "
            "or leave out these rows."
        )
    return values


def _levels(values, columns, number):
    """The levels of a column of conditions; None of real numbers."""
    if number in columns.levels:
        return torch.arange(len(columns.levels[number]), dtype=torch.float64)
    found = np.unique(values)
    return None if len(found) > _MOST_LEVELS else torch.from_numpy(found)


def _clustered(conditions, values, weight):
    """Conditions in the middle of groups of near ones, and which group each row is in."""
    placed = conditions.placed(torch.from_numpy(values)).numpy()
    some = np.random.default_rng(0).permutation(len(values))[:_MOST_CLUSTERED]
    n_groups = min(_MOST_EXACT, _N_GROUPS * _n_combinations(conditions, values))
    clusters = KMeans(n_groups, n_init=1, random_state=0)
    clusters.fit(placed[some], sample_weight=weight[some])
    used, group = np.unique(clusters.predict(placed), return_inverse=True)
    real, middles = [levels is None for levels in conditions.levels], []
    for number in range(len(used)):
        rows = values[group == number]
        middle = np.average(rows, axis=0, weights=weight[group == number])
        nearest = ((rows - middle) ** 2 / conditions.scale.numpy() ** 2).sum(1).argmin()
        middles.append(np.where(real, middle, rows[nearest]))
    return np.array(middles), group


def _n_combinations(conditions, values):
    """Number of different combinations of levels."""
    levels = [levels is not None for levels in conditions.levels]
    return len(np.unique(values[:, levels], axis=0)) if any(levels) else 1


def _error(conditions, values, weight):
    real = [levels is None for levels in conditions.levels]
    groups = conditions.groups_of(torch.from_numpy(values)).numpy()
    away = (values - conditions.values.numpy()[groups]) / conditions.scale.numpy()
    squares = (away[:, real] ** 2).sum(1)
    return float(np.sqrt(np.average(squares, weights=weight)))


def _tensors(values, shares):
    return torch.from_numpy(np.asarray(values)), torch.as_tensor(shares, dtype=torch.float64)
