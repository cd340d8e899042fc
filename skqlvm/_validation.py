"""Checks of parameters and data; every message says what was expected, what came, and what to
do."""

import warnings
from math import prod
from numbers import Real

import numpy as np
import torch

from . import _checks
from ._checks import check_integer
from ._checks import check_number as check_number
from .engine.likelihoods import Likelihood

_ROUNDING = 1e-6
"""Distance outside a support that is forgiven: MinMaxScaler may return 1.0000000000000002."""

_FEWEST_POINTS = 1.2
"""Effective points under which a posterior is narrower than the lattice that should resolve it."""


def check_option(name, value, options, *, or_callable=False):
    """Raise unless value is one of the options, or a callable that is no module where that is
    allowed."""
    if isinstance(value, torch.nn.Module):
        raise TypeError(
            f"{name} expects a factory that makes a new module for each fit, but got an instance "
            f"of {type(value).__name__}."
        )
    if not (or_callable and callable(value)):
        _checks.check_option(name, value, options, also=" or a callable" if or_callable else "")


def check_hidden_layer_sizes(value):
    """Raise unless value is a sequence of positive integers."""
    if not isinstance(value, (tuple, list, np.ndarray)):
        raise TypeError(
            f"hidden_layer_sizes expects a tuple of integers such as (256, 256), but got {value!r}."
        )
    for size in value:
        check_integer("each entry of hidden_layer_sizes", size)


def check_image_shape(image_shape, n_features, user="decoder"):
    """Raise unless (channels, height, width) has as many values as a row."""
    if not isinstance(image_shape, (tuple, list, np.ndarray)) or len(image_shape) != 3:
        raise ValueError(
            f"{user}='conv' expects image_shape=(channels, height, width), but got "
            f"{image_shape!r}. Give the shape of a row's image."
        )
    for size in image_shape:
        check_integer("each entry of image_shape", size)
    if prod(image_shape) != n_features:
        raise ValueError(
            f"image_shape={tuple(image_shape)} has {prod(image_shape)} values, but the rows of X "
            f"have {n_features} features."
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


def check_support(likelihood, X, support):
    """Raise unless all of X lies in the likelihood's support, give or take what rounding does to
    rescaled data."""
    low, high = support
    if np.isinf(low) and np.isinf(high):
        return
    smallest, largest = X.min(), X.max()
    if smallest < low - _ROUNDING or largest > high + _ROUNDING:
        end, value = ("minimum", smallest) if smallest < low - _ROUNDING else ("maximum", largest)
        raise ValueError(
            f"likelihood={likelihood!r} expects X in [{low:g}, {high:g}], but got a {end} of "
            f"{value:.9g}. "
            "Rescale X, as MinMaxScaler(clip=True) does, or use likelihood='gaussian'."
        )


def check_module(name, module, n_inputs, n_outputs):
    """Raise unless a factory made a module with parameters that maps tensors of shape (m, n_inputs)
    to tensors of shape (m, n_outputs)."""
    if not isinstance(module, torch.nn.Module) or not any(
        p.requires_grad for p in module.parameters()
    ):
        raise TypeError(
            f"{name} expects a factory of torch modules with parameters to train, but it made "
            f"{module!r}."
        )
    like = next(module.parameters())
    try:
        with torch.no_grad():
            shape = tuple(module(like.new_zeros((2, n_inputs))).shape)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{name} expects modules that map tensors of shape (m, {n_inputs}) to tensors, but "
            f"it failed: {error}"
        ) from error
    if shape != (2, n_outputs):
        raise ValueError(
            f"{name} expects modules that map {(2, n_inputs)} to {(2, n_outputs)}, but the "
            f"output is {shape}. "
            f"Make its last layer {n_outputs} wide."
        )


def check_likelihood(likelihood, n_features):
    """Raise unless a factory made a likelihood of so many features."""
    if not isinstance(likelihood, Likelihood):
        raise TypeError(
            "likelihood expects a factory of skqlvm.engine.likelihoods.Likelihood, but it made "
            f"{likelihood!r}."
        )
    if likelihood.loc.numel() != n_features:
        raise ValueError(
            f"likelihood expects a factory f(n_features), but for {n_features} it made one of "
            f"{likelihood.loc.numel()} features."
        )


def check_unchanged(before, now):
    """Raise if a parameter that shapes the model has changed since the fit that is to be
    continued."""
    for name, value in now.items():
        if value is not before[name] and repr(value) != repr(before[name]):
            raise ValueError(
                f"{name}={value!r} cannot continue a fit that had {name}={before[name]!r}. Fit "
                "anew, with warm_start=False."
            )


def warn_if_coarse(effective, n_points):
    """Warn if a typical posterior rests on hardly more than one point of the evaluation lattice."""
    if effective < _FEWEST_POINTS < n_points:
        warnings.warn(
            f"The posterior of a typical row rests on {effective:.2f} of the {n_points} points "
            "of the evaluation lattice, so that "
            f"log-likelihoods are rough. Raise n_points_eval.",
            UserWarning,
            stacklevel=5,
        )


def warn_if_unsettled(change, tolerance, n_points):
    """Warn if doubling the lattice up to so many points still changed log-likelihoods by more than
    the tolerance, in nats."""
    if change > tolerance:
        warnings.warn(
            f"Log-likelihoods by quadrature still changed by {change:.2g} nats a row when the "
            f"lattice was doubled to {n_points} points. "
            "Use score_samples(X, method='importance').",
            UserWarning,
            stacklevel=5,
        )
