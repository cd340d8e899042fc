"""The models that the paper compares: how each is built, given equal time, and scored by the same
quadrature.

Decoders have the same layers and one likelihood. Encoders have the richest posterior, a normal of
full covariance, in up to three dimensions; beyond, a diagonal one. Nobody stops early: training
ends with its time, and the weights that were best on held-out rows of the training file are kept.
Validations are not counted as training: they are the same 24 for all, and dear for models of many
draws."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import clone

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm._fitting import Fit
from skqlvm.engine import lattices, objectives, quadrature

_N_SEARCHED = 500
_ROWS, _POINTS = 1000, 2**14
_N_SHIFTS, _N_DRAWS, _N_DECODED = 8, 50, 10_000
_N_TIMED, _MOST_TIMED = 10, 3
"""Steps a pass and passes of a fit that is timed: few enough that each step has its entry in the
history."""
_N_POINTS = {1: 233, 2: 987, 3: 2039}
"""Sizes of the lattices that QLVM is trained on, by dimension."""


class Contender(NamedTuple):
    """A model of the comparison: an estimator, its parameters, and the latent dimensions it is
    fitted in."""

    estimator: type
    parameters: dict
    dimensions: tuple


_ANY = (1, 2, 3, 8, 32)

CONTENDERS = {
    "QLVM": Contender(QLVMEmbedding, {}, (1, 2, 3)),
    "VAE": Contender(VAEEmbedding, {}, _ANY),
    "IWAE-10": Contender(IWAEEmbedding, {"n_importance_samples": 10}, _ANY),
    "IWAE-50": Contender(IWAEEmbedding, {"n_importance_samples": 50}, _ANY),
    "VAE torus": Contender(VAEEmbedding, {"latent": "torus"}, (2,)),
    "IWAE-10 torus": Contender(
        IWAEEmbedding, {"n_importance_samples": 10, "latent": "torus"}, (2,)
    ),
    "IWAE-50 torus": Contender(
        IWAEEmbedding, {"n_importance_samples": 50, "latent": "torus"}, (2,)
    ),
}


def build(name, n_components, seed, arguments, **parameters):
    """Return an unfitted contender."""
    estimator, settings, _ = CONTENDERS[name]
    settings = {
        "likelihood": "bernoulli",
        "n_iter_no_change": None,
        "random_state": seed,
        "device": arguments.device,
    } | settings
    if estimator is QLVMEmbedding:
        settings["n_points"] = _N_POINTS[n_components]
    else:
        settings["covariance_type"] = "full" if n_components <= 3 else "diagonal"
    if arguments.quick:
        settings["hidden_layer_sizes"] = (16,)
        if estimator is QLVMEmbedding:
            settings |= {"n_points": 55, "n_points_eval": 233}
    return estimator(n_components, **settings | parameters)


def step_seconds(model, x, patience=2.0):
    """Return the seconds that a step of training an unfitted model takes where nothing disturbs it:
    the first decile of a short fit's.

    The fit takes about as many seconds as `patience`, after one of a few steps.
    """
    size = _batch_size(model, x)
    model, x = clone(model).set_params(batch_size=size), x[: _N_TIMED * size]
    warm = _step_decile(model, x, 1)
    return _step_decile(model, x, math.ceil(min(_MOST_TIMED, patience / (warm * _N_TIMED))))


def _batch_size(model, x):
    """Rows a step that a fit to x takes."""
    return Fit.of(model, x, model.validation_fraction).batch_size


def _step_decile(model, x, n_passes):
    tried = _fitted(model, x, max_iter=n_passes, validation_fraction=0.0)
    return np.quantile(np.diff(tried.history_["seconds"]), 0.1)


def _fitted(model, x, **parameters):
    """Fit a copy of an unfitted model without a word about how good that is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(model).set_params(**parameters).fit(x)


def passes(model, x, seconds, a_step=None):
    """Return how many passes over x an unfitted model makes in so many seconds of training, one at
    least, given those of a step or not."""
    a_step = step_seconds(model, x, min(2.0, seconds)) if a_step is None else a_step
    n_batches = math.ceil(len(x) * (1 - model.validation_fraction) / _batch_size(model, x))
    return max(1, round(seconds / (n_batches * a_step)))


def default_seconds(n_components, x, arguments):
    """Return the seconds that QLVM's default fit to x trains for.

    Its steps are counted by a fit that makes as many, to one feature on one point."""
    model = build("QLVM", n_components, 0, arguments)
    smallest = {"n_points": 1, "n_points_eval": 1, "hidden_layer_sizes": (1,)}
    counted = _fitted(model, x[:, :1], **smallest)
    return counted.history_["step"][-1] * step_seconds(model, x)


def exact_nats(model, x):
    """Return log p(x) of every row under the model's own prior, by quadrature in up to three
    dimensions, float64 of shape (n,)."""
    return settled_nats(model, x)[0]


@torch.no_grad()
def settled_nats(model, x):
    """Return log p(x) of every row, and how much that of 500 rows changed on average when the
    lattice was last doubled.

    One lattice for every model, mapped into its latent space, and doubled until the change is less
    than 0.01 nats or it has 2^18 points."""
    settled = quadrature.settle(model._model, _rows(model, x[:_N_SEARCHED]))
    points = quadrature.nested_points(model.n_components, settled.n_points)
    return _log_marginal(model, x, points), settled.change


def _log_marginal(model, x, u):
    """Average p(x | z) over points u of the cube, a block of points and rows at a time."""
    charts = quadrature.charts(model._model, u, factored=len(x) > _ROWS, n_at_once=_POINTS)
    rows = _rows(model, x).split(_ROWS)
    return quadrature.log_marginal(model._model, charts, rows).double().numpy()


def _rows(model, x):
    return torch.from_numpy(x).to(model._model.like.device)


@torch.no_grad()
def log_joint(model, x, z):
    """Return log p(x_i | z_j) + log p(z_j), of shape (n, m)."""
    core, z = model._model, z.to(model._model.like.device)
    terms = core.likelihood.terms(_rows(model, x))
    return (core.table(terms, z) + terms.base[:, None] + core.prior.log_prob(z)).cpu()


@torch.no_grad()
def bound_nats(model, x):
    """Return the lower bound on log p(x) that the model was trained on, of every row.

    The lattice's with as many points as in training, averaged over random shifts; the ELBO; or the
    importance-weighted one with K draws. The latter two are averages over 50 draws, in groups of K,
    of each row's own."""
    if isinstance(model, QLVMEmbedding):
        points = lattices.lattice(model.n_components, model.n_points)
        generator = torch.Generator().manual_seed(0)
        shifts = [lattices.random_shift(model.n_components, generator) for _ in range(_N_SHIFTS)]
        return np.mean(
            [_log_marginal(model, x, lattices.shifted(points, shift)) for shift in shifts], axis=0
        )
    if isinstance(model, VAEEmbedding):
        return _by_draws(model, x, _N_DRAWS, objectives.elbo_of)[:, 0]
    return importance_bounds(model, x, _N_DRAWS, [model.n_importance_samples])[:, 0]


def importance_bounds(model, x, n_draws, sizes):
    """Return importance-weighted bounds with K draws, for each K of `sizes`, of shape (n,
    len(sizes)).

    All from the same draws, in groups of K: where groups are parts of larger groups the bounds rise
    with K, row by row."""

    def bounds(drawn, prior):
        log_w = drawn.log_w(prior).double()
        groups = [log_w.unflatten(1, (-1, size)) for size in sizes]
        means = [objectives.log_mean_exp(group).mean(1) for group in groups]
        return torch.stack(means, 1) + drawn.base[:, None]

    return _by_draws(model, x, n_draws, bounds)


@torch.no_grad()
def _by_draws(model, x, n_draws, reduce):
    """Reduce the draws of every row and the prior to numbers, float64 of shape (n, ...).

    A score by the model takes the same noise for all rows, so that its rows are comparable; these
    are to be averaged over rows, and each has its own."""
    core, generator = model._model, torch.Generator().manual_seed(0)
    parts = [
        reduce(core.draw(rows, n_draws, generator), core.prior).cpu()
        for rows in _rows(model, x).split(max(1, _N_DECODED // n_draws))
    ]
    return torch.cat(parts).double().numpy()


def euclidean_map(model, x):
    """Return the coordinates of rows, with a torus mapped to circles, for Euclidean distances."""
    return model._model.prior.euclidean(torch.from_numpy(model.coordinates(x))).numpy()
