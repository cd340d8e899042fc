"""Checks that need no torch; every message says what was expected, what came, and what to do."""

import sys
import warnings
from math import isfinite, prod
from numbers import Integral, Real

import numpy as np

_NO_NUMBERS = ("category", "period", "interval", "Sparse")
"""How names of pandas' types begin that are no numbers, or are not dense."""

_FAR = {
    "X": "Row {} is so far from the data of the fit that the result is not finite. Check its "
    "units, or give float64.",
    "Z": "Row {} of Z is so far from the latent points of the fit that the result is not finite. "
    "Give what transform returns.",
}
"""What is wrong with rows whose result is not finite, by the user's word for them."""


def check_option(name, value, options, *, also=""):
    """Raise unless value is one of the options; `also` names what else the caller takes."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} expects one of {sorted(options)}{also}, but got {value!r}.")


def check_integer(name, value, minimum=1, alternative=None):
    """Raise unless value is an integer of at least the minimum, or the alternative itself."""
    if alternative is not None and isinstance(value, str) and value == alternative:
        return
    also = "" if alternative is None else f" or {alternative!r}"
    expected = f"{name} expects an integer of at least {minimum}{also}, but got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(expected)
    if value < minimum:
        raise ValueError(expected)


def check_number(name, value, minimum=0.0, below=float("inf"), *, open_minimum=False):
    """Raise unless value is a finite number in [minimum, below), or in (minimum, below)."""
    interval = f"{'(' if open_minimum else '['}{minimum:g}, {below:g})"
    expected = f"{name} expects a number in {interval}, but got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(expected)
    if (
        not isfinite(value)
        or value < minimum
        or value >= below
        or (open_minimum and value == minimum)
    ):
        raise ValueError(expected)


def check_flag(name, value):
    """Raise unless value is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} expects True or False, but got {value!r}.")


def check_hidden_layer_sizes(value):
    """Raise unless value is a sequence of positive integers."""
    if not isinstance(value, (tuple, list, np.ndarray)):
        raise TypeError(
            f"hidden_layer_sizes expects a tuple of integers such as (256, 256), but got {value!r}."
        )
    for size in value:
        check_integer("each entry of hidden_layer_sizes", size)


def check_image_shape(image_shape, n_features, user="decoder='conv'"):
    """Raise unless (channels, height, width) has as many values as a row."""
    if not isinstance(image_shape, (tuple, list, np.ndarray)) or len(image_shape) != 3:
        raise ValueError(
            f"{user} expects image_shape=(channels, height, width), but got "
            f"{image_shape!r}. Give the shape of a row's image."
        )
    for size in image_shape:
        check_integer("each entry of image_shape", size)
    if prod(map(int, image_shape)) != n_features:
        raise ValueError(
            f"image_shape={tuple(map(int, image_shape))} has {prod(map(int, image_shape))} values, "
            f"but the rows of X have {n_features} features."
        )


def check_noise_variance(value):
    """Raise unless value is a name or a positive number."""
    if isinstance(value, str):
        check_option("noise_variance", value, ("spherical", "diagonal"))
    elif isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < float("inf"):
        raise ValueError(
            "noise_variance expects 'spherical', 'diagonal' or a positive number, but got "
            f"{value!r}."
        )


def check_unchanged(before, now):
    """Raise if a parameter that shapes the model has changed since the fit to be continued."""
    for name, value in now.items():
        if value is not before[name] and repr(value) != repr(before[name]):
            raise ValueError(
                f"{name}={_short(value)} cannot continue a fit that had "
                f"{name}={_short(before[name])}. Fit anew, with warm_start=False."
            )


def check_two_dimensional(X):
    """Raise if X is a stack of images, and say how rows are made of them."""
    shape = np.shape(X) if hasattr(X, "shape") or isinstance(X, (list, tuple)) else ()
    if len(shape) > 2:
        image = shape[1:] if len(shape) == 4 else (1, *shape[1:])
        raise ValueError(
            f"Found array with dim {len(shape)}, but X expects rows, (n_samples, n_features), and "
            f"got shape {tuple(shape)}. Flatten images with X.reshape(len(X), -1); decoders of "
            f"images then take image_shape={image}."
        )


def check_columns(X):
    """Raise if a data frame has columns that are no numbers, or not dense."""
    types = getattr(X, "dtypes", None)
    if not hasattr(X, "columns") or types is None:
        return
    odd = {
        str(name): str(dtype)
        for name, dtype in zip(X.columns, types, strict=True)
        if getattr(dtype, "kind", "f") in "mM" or str(dtype).startswith(_NO_NUMBERS)
    }
    if odd:
        named = ", ".join(f"{name!r} ({dtype})" for name, dtype in odd.items())
        sparse = any(dtype.startswith("Sparse") for dtype in odd.values())
        raise TypeError(
            f"X expects columns of numbers, but got {named}. Encode or drop them, for example with "
            "sklearn.compose.ColumnTransformer."
            + (" X.astype(float) makes sparse ones dense." if sparse else "")
        )


def check_finite(result, name):
    """Raise if rows of a result, for rows that the user calls X or Z, are not finite."""
    finite = np.isfinite(result).reshape(len(result), -1).all(1)
    if not finite.all():
        raise ValueError(_FAR[name].format(int(finite.argmin())))


def warn_if_coarse(effective, n_points, error):
    """Warn that posteriors rest on hardly more than one point of the evaluation lattice.

    Parameters
    ----------
    effective : float
        Points that a typical posterior rests on.
    n_points : int
    error : float
        Standard error of a typical score, in nats.
    """
    warn(
        f"The posterior of a typical row rests on {effective:.1f} of the {n_points} points of the "
        f"evaluation lattice, so that its log-likelihood may be off by {error:.1g} nats. Raise "
        "n_points_eval."
    )


def _short(value):
    """A value as text, of which the middle is left out where it is long."""
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:190]} ... {text[-190:]}"


def plain(value):
    """Return a parameter with NumPy's numbers as Python's, so that equal values look equal."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(grid) for name, grid in value.items()}
    if isinstance(value, (tuple, list, range)) or (isinstance(value, np.ndarray) and value.ndim):
        return tuple(map(plain, value))
    return value


def warn(message, category=UserWarning):
    """Warn at the line outside this package that led here."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
