"""Transformations of rows that an estimator's parameters name: from grids of values to maps."""

import itertools
from collections.abc import Callable
from math import isfinite, isqrt, radians, sin, tan
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch

from . import _checks
from .engine.transformations import Transformations

SHAPING = ("transformations", "transformation_prior")
"""Parameters that shape a model by its transformations."""

PRIORS = ("learned", "uniform")

_ALL_TRAINED = 4
"""Maps up to which choosing among the copies of a row costs more than it saves."""


class _Map(NamedTuple):
    """A map of an image: features that are taken, (channels, height, width), then scale, offset."""

    index: np.ndarray
    scale: float = 1.0
    offset: float = 0.0


class _Kind(NamedTuple):
    """Maps of one name.

    Attributes
    ----------
    apply : callable
        From a `_Map` and a value of the grid to the map that comes after it.
    suits : callable
        Whether a value is one.
    values : str
        What values are, in words.
    of_images, of_densities : bool
        Whether they need `image_shape`, and a likelihood that is a density of real numbers.
    """

    apply: Callable
    suits: Callable
    values: str
    of_images: bool = False
    of_densities: bool = False


def _shift(before, pair):
    return before._replace(index=np.roll(before.index, tuple(map(int, pair)), (1, 2)))


def _roll(before, number):
    return before._replace(index=np.roll(before.index, int(number), 2))


def _shear(before, slant):
    return before._replace(index=_sheared(before.index, slant))


def _rotation(before, degrees):
    turn = -radians(degrees)
    index = _sheared(before.index, -tan(turn / 2))
    index = _sheared(index.swapaxes(1, 2), sin(turn)).swapaxes(1, 2)
    return before._replace(index=_sheared(index, -tan(turn / 2)))


def _amplitude(before, factor):
    return before._replace(scale=factor * before.scale, offset=factor * before.offset)


def _offset(before, number):
    return before._replace(offset=before.offset + number)


def _sheared(image, slant):
    """Each row of an image moved right by the slant times its distance below the centre."""
    height = image.shape[1]
    steps = np.round(slant * (np.arange(height) - (height - 1) / 2)).astype(int)
    rows = [np.roll(image[:, row], step, 1) for row, step in enumerate(steps)]
    return np.stack(rows, 1)


def _is_whole(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_pair(value):
    return (
        isinstance(value, (tuple, list, np.ndarray))
        and len(value) == 2
        and all(map(_is_whole, value))
    )


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _is_factor(value):
    return _is_number(value) and value != 0


def _is_angle(value):
    return _is_number(value) and abs(value) <= 90


KINDS = {
    "amplitude": _Kind(_amplitude, _is_factor, "factors other than 0", of_densities=True),
    "offset": _Kind(_offset, _is_number, "finite numbers", of_densities=True),
    "roll": _Kind(_roll, _is_whole, "whole numbers"),
    "rotation": _Kind(_rotation, _is_angle, "degrees from -90 to 90", of_images=True),
    "shear": _Kind(_shear, _is_number, "finite numbers", of_images=True),
    "shift": _Kind(_shift, _is_pair, "pairs of whole numbers (down, right)", of_images=True),
}


def check(estimator):
    """Raise unless the parameters make sense for themselves, whatever the data."""
    _checks.check_option("transformation_prior", estimator.transformation_prior, PRIORS)
    value = estimator.transformations
    if isinstance(value, dict):
        _check_grids(value)
        if any(KINDS[name].of_images for name in value) and estimator.image_shape is None:
            raise ValueError(
                f"transformations={list(value)} expects image_shape=(channels, height, width), but "
                "got None. Give the shape of a row's image."
            )
    elif value is not None:
        array = np.asarray(value) if isinstance(value, (np.ndarray, list, tuple)) else np.empty(0)
        if array.ndim != 2 or array.dtype.kind not in "iu" or not len(array):
            raise TypeError(
                "transformations expects None, a dict of names and grids such as {'roll': [-1, 0, "
                "1]}, or an integer array of permutations, of shape (n_transformations, "
                f"n_features), but got {value!r}."
            )


def build(estimator, likelihood):
    """Return the maps that an estimator names, or None.

    Raises
    ------
    ValueError
        If a map does not suit the data, is no permutation, or comes twice.
    """
    value, n_features = estimator.transformations, likelihood.n_features
    if value is None:
        return None
    if isinstance(value, dict):
        maps = _products(value, estimator, n_features, likelihood)
    else:
        maps = [_Map(_permutation(number, row, n_features)) for number, row in enumerate(value)]
    _check_distinct(maps)
    index = np.stack([each.index.ravel() for each in maps])
    factors = torch.tensor([each[1:] for each in maps], dtype=torch.float64)
    learned = estimator.transformation_prior == "learned"
    return Transformations(torch.from_numpy(index), *factors.T, learned=learned)


def n_trained(n_maps):
    """Return how many copies of a row a step of training goes through: the root of them all."""
    return n_maps if n_maps <= _ALL_TRAINED else isqrt(n_maps)


def learned(maps):
    """Return the fitted attributes that maps have."""
    if maps is None:
        return {}
    prior = maps.log_pi().exp().cpu().numpy()
    return {"transformations_": maps.index.cpu().numpy(), "transformation_prior_": prior}


def _check_grids(grids):
    """Raise unless all names are known, and their grids of values that they take."""
    if not grids:
        raise ValueError("transformations expects a name and a grid, but got an empty dict.")
    for name, grid in grids.items():
        _checks.check_option("each name in transformations", name, KINDS)
        is_grid = isinstance(grid, (tuple, list, range, np.ndarray)) and np.ndim(grid) > 0
        if not is_grid or not len(grid) or not all(map(KINDS[name].suits, grid)):
            raise ValueError(
                f"transformations[{name!r}] expects a sequence of {KINDS[name].values}, but got "
                f"{grid!r}."
            )


def _products(grids, estimator, n_features, likelihood):
    """Every product of the maps of each name, in their order."""
    real = likelihood.support == (float("-inf"), float("inf")) and not likelihood.integral
    for name in grids:
        if KINDS[name].of_densities and not real:
            raise ValueError(
                f"transformations[{name!r}] expects a likelihood of real numbers, such as "
                f"'gaussian', but got {estimator.likelihood!r}. Leave {name!r} out."
            )
    shape = estimator.image_shape
    if shape is None:
        shape = (1, 1, n_features)
    else:
        _checks.check_image_shape(shape, n_features, "transformations")
    identity = _Map(np.arange(n_features, dtype=np.int64).reshape(tuple(map(int, shape))))
    maps = []
    for values in itertools.product(*grids.values()):
        product = identity
        for name, value in zip(grids, values, strict=True):
            product = KINDS[name].apply(product, value)
        maps.append(product)
    return maps


def _permutation(number, row, n_features):
    """A row of an array of permutations, or what is wrong with it."""
    row = np.asarray(row, dtype=np.int64)
    if not np.array_equal(np.sort(row), np.arange(n_features)):
        raise ValueError(
            f"transformations[{number}] expects a permutation of the {n_features} features, each "
            f"number from 0 to {n_features - 1} once, but got {row!r}."
        )
    return row


def _check_distinct(maps):
    """Raise if two maps are the same."""
    seen = {}
    for number, each in enumerate(maps):
        key = (each.index.tobytes(), each.scale, each.offset)
        if key in seen:
            raise ValueError(
                f"transformations expects maps that differ, but numbers {seen[key]} and {number} "
                f"of {len(maps)} are the same. Leave one out, or space the grid by whole pixels."
            )
        seen[key] = number
