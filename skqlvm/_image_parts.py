"""Parts of a hierarchical model of images from the parameters of an estimator, and their checks."""

import numpy as np

from . import _checks, _parts
from .engine import likelihoods
from .engine.hierarchy.contexts import CONTEXTS
from .engine.hierarchy.diffusion import DiffusionPrior
from .engine.hierarchy.ladder import Ladder, check_halvings
from .engine.hierarchy.model import HierarchicalModel

LIKELIHOODS = ("bernoulli", "logistic_mixture")
OUTPUTS = ("context", "means")

SHAPING = (
    "image_shape",
    "latents_per_scale",
    "channels",
    "bottleneck",
    "blocks_per_scale",
    "aggregation",
    "context",
    "context_size",
    "gamma_min",
    "gamma_max",
    "context_log_variance",
    "diffusion_channels",
    "diffusion_blocks",
    "likelihood",
    "n_mixtures",
)
"""Parameters of an estimator that shape its model."""

_REMEDIES = {
    "bernoulli": "Rescale X, as MinMaxScaler(clip=True) does.",
    "logistic_mixture": "Rescale X and round it, np.round(255 * X) / 255.",
}
_ROWS_AT_ONCE = 4096


def check(estimator):
    """Raise unless the parameters make sense, whatever the data."""
    _parts.check_training(estimator)
    if isinstance(estimator.learning_rate, str):
        raise TypeError(f"learning_rate expects a number, but got {estimator.learning_rate!r}.")
    for name in ("channels", "blocks_per_scale", "context_size", "diffusion_channels"):
        _checks.check_integer(name, getattr(estimator, name))
    for name in ("n_diffusion_steps", "n_mixtures"):
        _checks.check_integer(name, getattr(estimator, name))
    _checks.check_integer("diffusion_blocks", estimator.diffusion_blocks, minimum=0)
    for name in ("bottleneck", "max_grad_norm"):
        _checks.check_number(name, getattr(estimator, name), open_minimum=True)
    _checks.check_number("diffusion_dropout", estimator.diffusion_dropout, below=1.0)
    _checks.check_number("gamma_min", estimator.gamma_min, -30.0, 30.0)
    _checks.check_number("gamma_max", estimator.gamma_max, estimator.gamma_min, open_minimum=True)
    _check_log_variances(estimator.context_log_variance)
    if estimator.ema is not None:
        _checks.check_number("ema", estimator.ema, below=1.0)
    for name in ("aggregation", "binarize"):
        _checks.check_flag(name, getattr(estimator, name))
    _checks.check_option("likelihood", estimator.likelihood, LIKELIHOODS)
    _checks.check_option("output", estimator.output, OUTPUTS)
    if estimator.context is not None:
        _checks.check_option("context", estimator.context, CONTEXTS, also=" or None")
    elif estimator.output == "context":
        raise ValueError(
            "output='context' expects a model with a context, but got context=None. Use "
            "output='means', or context='dct'."
        )
    if not isinstance(estimator.latents_per_scale, (tuple, list, np.ndarray)):
        raise TypeError(
            "latents_per_scale expects a tuple of integers such as (0, 4, 4), but got "
            f"{estimator.latents_per_scale!r}."
        )
    for number in estimator.latents_per_scale:
        _checks.check_integer("each entry of latents_per_scale", number, minimum=0)


def _check_log_variances(values):
    if not isinstance(values, (tuple, list, np.ndarray)) or len(values) != 3:
        raise TypeError(
            "context_log_variance expects the smallest, the first and the largest log variance of "
            f"a context, such as (-12, -3, 0), but got {values!r}."
        )
    least = -30.0
    for value in values:
        _checks.check_number("each entry of context_log_variance, in rising order,", value, least)
        least = value


def check_values(X, likelihood, name):
    """Raise unless rows suit a likelihood, which `name` is the estimator's word for."""
    for start in range(0, len(X), _ROWS_AT_ONCE):
        try:
            likelihood.check(X[start : start + _ROWS_AT_ONCE])
        except ValueError as error:
            raise ValueError(f"likelihood={name!r} {error}. {_REMEDIES[name]}") from error


def build(estimator, n_features, generator=None):
    """Return the model that an estimator's parameters say for rows of so many features.

    It is not yet started at the data. The generator draws its first weights.
    """
    shape = (1, 1, n_features) if estimator.image_shape is None else estimator.image_shape
    _checks.check_image_shape(shape, n_features, type(estimator).__name__)
    shape, scales = _checks.plain(shape), _checks.plain(estimator.latents_per_scale)
    if estimator.image_shape is None and len(scales) > 1:
        raise ValueError(
            f"latents_per_scale={scales} expects images that can be halved, but image_shape is "
            "None, which is one line of all features. Give the (channels, height, width) of the "
            "image that a row is."
        )
    check_halvings(shape, scales)
    likelihood, n_outputs = _likelihood(estimator, n_features, shape)
    context, diffusion = _context(estimator, shape, generator)
    ladder = Ladder(
        shape,
        scales,
        int(estimator.channels),
        float(estimator.bottleneck),
        int(estimator.blocks_per_scale),
        n_outputs,
        0 if context is None else shape[0],
        bool(estimator.aggregation),
        generator,
    )
    n_steps = int(estimator.n_diffusion_steps)
    log_variances = tuple(map(float, estimator.context_log_variance))
    return HierarchicalModel(ladder, likelihood, context, diffusion, n_steps, log_variances)


def _likelihood(estimator, n_features, shape):
    """Return the likelihood, and the numbers that it needs for a pixel."""
    if estimator.likelihood == "bernoulli":
        return likelihoods.Bernoulli(n_features), shape[0]
    mixture = likelihoods.LogisticMixture(n_features, shape, int(estimator.n_mixtures))
    return mixture, mixture.n_per_pixel


def _context(estimator, shape, generator):
    """Return the context and the diffusion model of it, or None twice."""
    if estimator.context is None:
        return None, None
    size = int(estimator.context_size)
    if size > min(shape[1:]):
        raise ValueError(
            f"context_size expects at most the height and the width of an image, which is "
            f"{shape[1]} x {shape[2]}, but got {size}. Lower it."
        )
    context = CONTEXTS[estimator.context](shape, size)
    diffusion = DiffusionPrior(
        context.context_shape,
        float(estimator.gamma_min),
        float(estimator.gamma_max),
        int(estimator.diffusion_channels),
        int(estimator.diffusion_blocks),
        float(estimator.diffusion_dropout),
        generator,
    )
    return context, diffusion
