"""What the columns of a data frame are, and the way from categories to codes and back."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

_DATES = {"date", "datetime", "datetime64", "interval", "period", "time", "timedelta"}
_NUMBERS = {"boolean", "complex", "decimal", "empty", "floating", "integer", "mixed-integer-float"}
"""Words of pandas for what columns of objects hold."""

_LONGEST = 8
"""Levels that are listed before the rest are counted."""


class Columns(NamedTuple):
    """Columns of the rows of a fit.

    Attributes
    ----------
    names : list or None
        Of a data frame.
    kinds : list of {"boolean", "category", "integer", "real"}
    levels : dict
        From the numbers of columns of categories to pandas indexes of these, in the order of their
        codes.
    ordered : dict
        From the numbers of columns of pandas' own type for categories to whether they are ordered.
    """

    names: list | None
    kinds: list
    levels: dict
    ordered: dict

    @classmethod
    def of(cls, X, *, categories):
        """Learn the columns of array-like X, and the levels of categories if they may be some."""
        if not is_frame(X):
            X = np.asarray(X) if categories and isinstance(X, (list, tuple)) else X
            shape = getattr(X, "shape", ())
            kind = _kind(getattr(X, "dtype", None))
            return cls(None, [kind] * (shape[1] if len(shape) == 2 else 0), {}, {})
        kinds, levels, ordered = [], {}, {}
        for number in range(X.shape[1]):
            column = X.iloc[:, number]
            kind = _kind_of_series(column)
            if kind == "category" and categories:
                levels[number] = _levels(column)
                if hasattr(column, "cat"):
                    ordered[number] = bool(column.cat.ordered)
            kinds.append(kind)
        return cls(list(X.columns), kinds, levels, ordered)

    def name(self, number):
        """Return what a column is called: its number without names."""
        return number if self.names is None else self.names[number]

    def number(self, key, parameter):
        """Return the number of the column that a key, its name or number, of a parameter is."""
        names, n_features = self.names, len(self.kinds)
        if isinstance(key, str):
            if names is None or key not in names:
                among = "X has no names" if names is None else f"X has {short(names)}"
                raise ValueError(f"{parameter} expects columns of X, but got {key!r}: {among}.")
            return names.index(key)
        if not 0 <= key < n_features:
            raise ValueError(
                f"{parameter} expects numbers of columns from 0 to {n_features - 1}, but got "
                f"{key!r}."
            )
        return int(key)

    def codes(self, values, number):
        """Return values of a column (n,) as numbers, float64, of categories their codes."""
        if number in self.levels:
            import pandas as pd

            return _codes(pd.Series(values), self.levels[number], self.name(number))
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.name(number)!r} expects numbers, but got {error}.") from error

    def coded(self, X):
        """Return a data frame with codes for categories, NaN for what is missing; others as are.

        Raises
        ------
        ValueError
            If a column has a category that it did not have in the fit.
        """
        if not is_frame(X) or not self.levels:
            return X
        same = list(X.columns) == self.names
        result = X.copy(deep=False)
        for number, levels in self.levels.items():
            name = self.names[number]
            if not same:
                # scikit-learn will say what is wrong with the names
                if list(X.columns).count(name) != 1:
                    continue
                number = X.columns.get_loc(name)
            result.isetitem(number, _codes(X.iloc[:, number], levels, name))
        return result

    def recoded(self, X):
        """Return a data frame with codes for what is no number in columns of categories."""
        X = X.copy(deep=False)
        for number, levels in self.levels.items():
            if getattr(X.dtypes.iloc[number], "kind", "O") not in "fiu":
                X.isetitem(number, _codes(X.iloc[:, number], levels, self.names[number]))
        return X

    def frame(self, values, names, index=None):
        """Return a data frame of values (n, n_columns), of codes the categories."""
        import pandas as pd

        parts = {}
        for number in range(values.shape[1]):
            parts[number] = self._series(values[:, number], number)
        result = pd.DataFrame(parts, index=index)
        result.columns = self.names if self.names is not None else names
        return result

    def _series(self, values, number):
        import pandas as pd

        missing = np.isnan(values)
        if number in self.levels:
            codes = np.where(missing, -1, values).round().astype(int)
            found = pd.Categorical.from_codes(
                codes, self.levels[number], ordered=self.ordered.get(number, False)
            )
            return found if number in self.ordered else np.asarray(found, dtype=object)
        whole = not missing.any() and (values == values.round()).all()
        if self.kinds[number] == "boolean" and whole and np.isin(values, (0, 1)).all():
            return values.astype(bool)
        if self.kinds[number] == "integer" and whole and np.abs(values).max(initial=0) < 2**53:
            return values.astype(np.int64)
        return values


class Frames:
    """Mixin of the estimators: categories of data frames as codes, and back."""

    @property
    def levels_(self):
        """Categories of the columns of a data frame that have some, in the order of their codes."""
        columns = self._columns
        return {columns.names[number]: np.asarray(at) for number, at in columns.levels.items()}

    def to_frame(self, X):
        """Return rows as a data frame like that of the fit: codes are categories again.

        Columns of whole numbers and of flags have their type where all values suit it; means may
        not.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What `inverse_transform`, `reconstruct`, `sample` or `impute` returned.

        Returns
        -------
        pandas.DataFrame of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        names = self._columns.names
        if names is not None and is_frame(X) and set(X.columns) == set(names):
            X = self._columns.recoded(X[names])  # in the order of the fit
        values = np.asarray(X, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X expects rows of {self.n_features_in_} features, but got shape {values.shape}."
            )
        names = [f"x{number}" for number in range(self.n_features_in_)]
        return self._columns.frame(values, names, getattr(X, "index", None))

    def _in_codes(self, X, *, categories, reset):
        """Return X with codes for categories; learn these if they are reset."""
        if reset:
            self._columns = Columns.of(X, categories=categories)
        return self._columns.coded(X)


def is_number(key):
    """Whether a key is the number of a column."""
    return isinstance(key, Integral) and not isinstance(key, bool)


def short(names):
    """Some names in words, and how many more there are."""
    more = f" and {len(names) - _LONGEST} more" if len(names) > _LONGEST else ""
    return ", ".join(map(repr, names[:_LONGEST])) + more


def is_frame(X):
    """Whether X is a data frame of pandas."""
    return hasattr(X, "iloc") and hasattr(X, "columns")


def _kind(dtype):
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(getattr(dtype, "kind", "f"), "real")


def _kind_of_series(column):
    """What a column of a data frame holds.

    Raises
    ------
    TypeError
        If it holds dates in objects.
    """
    name = str(column.dtype)
    if name == "category":
        return "category"
    if name.startswith(("string", "str")):
        return "category"
    if column.dtype.kind != "O" or name != "object":
        return _kind(column.dtype)
    from pandas.api.types import infer_dtype

    found = infer_dtype(column, skipna=True)
    if found in _DATES:
        raise TypeError(
            f"X expects columns of numbers or categories, but {column.name!r} has objects of the "
            f"kind {found!r}. Encode or drop them, for example as days since the first."
        )
    if found not in _NUMBERS:
        return "category"
    return {"boolean": "boolean", "integer": "integer"}.get(found, "real")


def _levels(column):
    """The categories of a column, in their order, or sorted."""
    import pandas as pd

    if hasattr(column, "cat"):
        return pd.Index(column.cat.categories)
    found = pd.unique(column.dropna().astype(object))
    try:
        return pd.Index(sorted(found), dtype=object)
    except TypeError:  # of different types
        return pd.Index(
            sorted(found, key=lambda value: (type(value).__name__, value)), dtype=object
        )


def _codes(column, levels, name):
    """Codes of the values of a column, float64, NaN where one is missing."""
    values = column.astype(object)
    codes = levels.astype(object).get_indexer(values).astype(np.float64)
    missing = column.isna().to_numpy()
    unseen = (codes < 0) & ~missing
    if unseen.any():
        shown = ", ".join(map(repr, levels[:_LONGEST]))
        more = f" and {len(levels) - _LONGEST} more" if len(levels) > _LONGEST else ""
        raise ValueError(
            f"Column {name!r} expects one of the categories of the fit, {shown}{more}, but got "
            f"{values[unseen].iloc[0]!r}. Fit anew with it, or make it missing."
        )
    return np.where(missing, np.nan, codes)
