"""Labels of classes: which are taken, and which class one of them names."""

import numpy as np
from sklearn.utils.validation import check_array, column_or_1d

_KINDS = {
    **dict.fromkeys("biuf", "numbers"),
    "U": "strings",
    "S": "bytes",
    "M": "dates",
    "m": "durations",
}
"""What labels are, by the kind of their dtype."""


def checked(y):
    """Return the label of each code as an array whose values can be told apart and sorted."""
    if y is None:
        raise ValueError(
            "conditional=True expects y, the class of each code, but got None. Give y, or use "
            "conditional=False."
        )
    try:
        y = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"))
        missing = _missing(y)
        if not missing.any():
            np.unique(y)
    except TypeError as error:
        raise TypeError(
            "y expects labels that can be compared and sorted, such as all numbers or all strings, "
            f"but {error}."
        ) from error
    if missing.any():
        raise ValueError(
            f"y expects the class of each code, but got {y[missing][0]} in row {missing.argmax()}. "
            "Leave such codes out, or give them a class."
        )
    return y


def check_kind(y, classes):
    """Raise unless labels are of the same kind as those of earlier classes."""
    earlier, now = (_kind(labels) for labels in (classes, y))
    if earlier != now:
        raise TypeError(
            f"y expects labels of the kind of earlier calls, {earlier} such as {classes[0]}, but "
            f"got {now} such as {y[0]}. Convert y, or fit anew, with fit."
        )


def number_of(label, classes):
    """Return the number of the class that a label names."""
    numbers = np.flatnonzero(classes == label) if np.ndim(label) == 0 else []
    if len(numbers) != 1:
        known = np.array2string(classes, 10**6, separator=", ", threshold=20)
        raise ValueError(f"label expects one of {known}, but got {label!r}.")
    return int(numbers[0])


def _missing(y):
    """Where labels are None or not a time."""
    if y.dtype.kind in "mM":
        return np.isnat(y)
    if y.dtype.kind == "O":
        return np.array([label is None for label in y])
    return np.zeros(len(y), dtype=bool)


def _kind(labels):
    """The kind of all labels, by the first one."""
    first = np.asarray(labels[0])
    return _KINDS.get(first.dtype.kind, f"objects of type {type(labels[0]).__name__}")
