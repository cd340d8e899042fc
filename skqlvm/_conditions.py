"""Columns of X that decoders are told: which, what groups their rows form, and asking for one."""

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.cluster import KMeans

from . import _checks
from ._columns import is_frame, is_number
from .engine.conditions import Conditions, are_levels

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
    weight : Tensor of shape (n_samples,), optional
        How often each row counts.
    """
    told = numbers(condition_columns, columns)
    if not told:
        return None
    values = _values_of(X, told, columns)
    levels = [_levels(values[:, i], columns, number) for i, number in enumerate(told)]
    weight = np.ones(len(values)) if weight is None else weight.numpy()
    loc = np.average(values, axis=0, weights=weight)
    std = np.sqrt(np.average((values - loc) ** 2, axis=0, weights=weight))
    scale = np.where(np.ptp(values, axis=0) > 0, std, 1.0)
    distinct, group = np.unique(values, axis=0, return_inverse=True)
    if len(distinct) > _MOST_EXACT and any(each is None for each in levels):
        distinct, group = _clustered(values, [each is None for each in levels], scale, weight)
    counts = np.bincount(group.ravel(), weights=weight)
    parts = [told, levels, torch.from_numpy(loc), torch.from_numpy(scale)]
    conditions = Conditions(*parts, *_tensors(distinct, counts / counts.sum()))
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
    """Raise if a row's condition is missing, or a level that the fit has not seen.

    Warn of rows whose levels it has seen, but not together: they are told others.
    """
    if conditions is None:
        return
    has_levels, n_other = [levels is not None for levels in conditions.levels], 0
    for start in range(0, X.shape[0], _MOST_CLUSTERED):
        values = _values_of(X[start : start + _MOST_CLUSTERED], conditions.columns, columns)
        for i, levels in enumerate(conditions.levels):
            if levels is None:
                continue
            found = torch.from_numpy(np.unique(values[:, i]))[:, None]
            unseen = found[~are_levels(found, levels).any(1), 0].tolist()
            if unseen:
                number = conditions.columns[i]
                shown = ", ".join(_called(level, number, columns) for level in levels.tolist())
                raise ValueError(
                    f"Condition {columns.name(number)!r} expects one of the levels of the fit, "
                    f"{shown}, but got {_called(unseen[0], number, columns)}. Fit anew with it."
                )
        n_other += _n_of_other_levels(conditions, values, has_levels)
    if n_other:
        names = [columns.name(conditions.columns[i]) for i in np.flatnonzero(has_levels)]
        _checks.warn(
            f"{n_other} of {X.shape[0]} rows have conditions {names} that the fit has seen, but "
            "not together: they are told those of the nearest group in condition_groups_."
        )


def _n_of_other_levels(conditions, values, has_levels):
    """How many conditions (n, n_columns) have other levels than the group they belong to."""
    if sum(has_levels) < 2:
        return 0
    values = torch.from_numpy(values).to(conditions.values.device)
    groups = conditions.vectors[conditions.groups_of(values)]
    apart = conditions.factors > 1
    return int((conditions.encoded(values) != groups)[:, apart].any(1).sum())


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
    if is_frame(condition):
        lacking = [name for name in names if name not in condition.columns]
        if lacking:
            raise ValueError(
                f"condition expects a data frame with the columns {names}, but {lacking} are not "
                "in it."
            )
    given = condition[names] if is_frame(condition) else condition
    given = np.asarray(given, dtype=object)
    given = given.reshape(1, -1) if given.ndim < 2 else given
    if given.shape not in ((1, len(told)), (n_rows, len(told))):
        raise ValueError(
            f"condition expects shape ({len(told)},) or ({n_rows}, {len(told)}), values of "
            f"{names}, but got {np.shape(condition)}."
        )
    try:
        codes = [columns.codes(given[:, i], number) for i, number in enumerate(told)]
    except TypeError as error:
        raise TypeError(f"condition expects values of {names}, but: {error}") from error
    values = np.stack(codes, 1)
    whole = np.zeros((len(values), 1 + max(told)))
    whole[:, told] = values
    check_values(conditions, whole, columns)
    group = conditions.groups_of(torch.from_numpy(values).to(conditions.values.device))
    return group.expand(n_rows) if len(group) == 1 else group


def _listed(condition_columns):
    """Columns as a list, of one if it is alone."""
    alone = isinstance(condition_columns, str) or not np.iterable(condition_columns)
    return [condition_columns] if alone else list(condition_columns)


def _called(level, number, columns):
    """What a level of a column is called: a category by its name."""
    names = columns.levels.get(number)
    return f"{level:g}" if names is None else repr(names[int(level)])


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
        return torch.from_numpy(np.unique(values))  # a type may have more of them than the rows
    found = np.unique(values)
    return None if len(found) > _MOST_LEVELS else torch.from_numpy(found)


def _clustered(values, real, scale, weight):
    """Conditions in the middle of groups of near ones, and the number of each row's group.

    Rows of a group have the same levels: each combination of these has groups of its own.
    """
    real = np.array(real)
    combinations, owner = np.unique(values[:, ~real], axis=0, return_inverse=True)
    n_each = max(1, min(_N_GROUPS, _MOST_EXACT // len(combinations)))
    middles, group = [], np.zeros(len(values), dtype=int)
    for number in range(len(combinations)):
        rows = (owner.ravel() == number).nonzero()[0]
        near = _near(values[np.ix_(rows, real)] / scale[real], n_each)
        used, near = np.unique(near, return_inverse=True)
        group[rows] = len(middles) + near
        for label in range(len(used)):
            some = rows[near == label]
            middle = np.average(values[some], axis=0, weights=weight[some])
            middles.append(np.where(real, middle, values[some[0]]))
    return np.array(middles), group


def _near(values, n_groups):
    """Groups of values (n, n_columns) that are near each other, at most so many, (n,)."""
    distinct, number = np.unique(values, axis=0, return_inverse=True)
    if len(distinct) <= n_groups:
        return number.ravel()
    some = np.random.default_rng(0).permutation(len(values))[:_MOST_CLUSTERED]
    n_groups = min(n_groups, len(np.unique(values[some], axis=0)))
    return KMeans(n_groups, n_init=1, random_state=0).fit(values[some]).predict(values)


def _error(conditions, values, weight):
    real = [levels is None for levels in conditions.levels]
    groups = conditions.groups_of(torch.from_numpy(values)).numpy()
    away = (values - conditions.values.numpy()[groups]) / conditions.scale.numpy()
    squares = (away[:, real] ** 2).sum(1)
    return float(np.sqrt(np.average(squares, weights=weight)))


def _tensors(values, shares):
    return torch.from_numpy(np.asarray(values)), torch.as_tensor(shares, dtype=torch.float64)
