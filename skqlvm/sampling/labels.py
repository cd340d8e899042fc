"""Labels of classes: which are taken, and which class one of them names."""

from sklearn.utils.validation import check_array, column_or_1d


def checked(y):
    """Return the label of each code as an array."""
    if y is None:
        raise ValueError(
            "conditional=True expects y, the class of each code, but got None. Give y, or use "
            "conditional=False."
        )
    return column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"))


def number_of(label, classes):
    """Return the number of the class that a label names."""
    if label not in classes.tolist():
        raise ValueError(f"label expects one of {classes.tolist()}, but got {label!r}.")
    return classes.tolist().index(label)
