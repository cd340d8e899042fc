"""Checks of single parameters, which need no torch; every message says what was expected, what
came, and what to do."""

from math import isfinite
from numbers import Integral, Real


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
