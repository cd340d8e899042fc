"""The models that the paper compares: how each is built, given equal time, and scored by the same
quadrature.

Decoders have the same layers and one likelihood. Encoders have the richest posterior, a normal of
full covariance, in up to three dimensions; beyond, a diagonal one. Nobody stops early: training
ends with its time, and the weights that were best on held-out rows of the training file are kept.
Validations are not counted as training: they are the same 60 for all, and dear for models of many
draws."""

import math
import warnings
from typing import NamedTuple

import measurement
import numpy as np
import torch
from sklearn.base import clone

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm.engine import lattices, objectives, training

_TOLERANCE = 0.01
_FEWEST_POINTS, _MOST_POINTS = 2**10, 2**18
_N_SEARCHED = 500
_ROWS, _POINTS = 1000, 2**14
_N_SHIFTS, _N_DRAWS, _N_DECODED = 8, 50, 10_000
_N_TIMED, _MOST_TIMED = 10, 8
"""Steps a pass and passes of a fit that is timed: few enough that each step has its entry in the
history."""
_OFFSET = torch.tensor([0.38196601125, 0.61803398875, 0.23606797750], dtype=torch.float64)
"""Shift of the scoring lattice: no point of it lies on the border of the cube, where a normal's
quantiles are infinite."""


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
    if estimator is not QLVMEmbedding:
        settings["covariance_type"] = "full" if n_components <= 3 else "diagonal"
    if arguments.quick:
        settings |= {"hidden_layer_sizes": (16,)} | (
            {"n_points": 55, "n_points_eval": 233} if estimator is QLVMEmbedding else {}
        )
    return estimator(n_components, **settings | parameters)


def fit(model, x):
    """Fit a model; its history then has seconds of training, without validations."""
    validate = training._Run.validate

    def uncounted(run, loss):
        value, seconds = measurement.timed(validate, run, loss)
        run.since += seconds
        return value

    training._Run.validate = uncounted
    try:
        return model.fit(x)
    finally:
        training._Run.validate = validate


def step_seconds(model, x, patience=2.0):
    """Return the seconds that a step of training an unfitted model takes where nothing disturbs it:
    the first decile of a short fit's.

    The fit takes about as many seconds as `patience`, after one of a few steps.
    """
    x = x[: _N_TIMED * model.batch_size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warm = _step_decile(model, x, 1)
        return _step_decile(model, x, math.ceil(min(_MOST_TIMED, patience / (warm * _N_TIMED))))


def _step_decile(model, x, n_passes):
    tried = fit(clone(model).set_params(max_iter=n_passes, validation_fraction=0.0), x)
    return np.quantile(np.diff(tried.history_["seconds"]), 0.1)


def passes(model, x, seconds, a_step=None):
    """Return how many passes over x an unfitted model makes in so many seconds of training, one at
    least, given those of a step or not."""
    a_step = step_seconds(model, x, min(2.0, seconds)) if a_step is None else a_step
    return max(1, round(seconds / (_n_batches(model, x) * a_step)))


def default_seconds(n_components, x, arguments):
    """Return the seconds that QLVM's default fit to x trains for."""
    model = build("QLVM", n_components, 0, arguments)
    return min(model._auto_steps, model._auto_passes * _n_batches(model, x)) * step_seconds(
        model, x
    )


def _n_batches(model, x):
    return math.ceil(len(x) * (1 - model.validation_fraction) / model.batch_size)


def exact_nats(model, x):
    """Return log p(x) of every row under the model's own prior, by quadrature in up to three
    dimensions, float64 of shape (n,)."""
    return quadrature(model, x)[0]


def quadrature(model, x):
    """Return log p(x) of every row, and how much that of 500 rows changed on average when the
    lattice was last doubled.

    One lattice for every model, mapped into its latent space, and doubled until the change is less
    than 0.01 nats or it has 2^18 points."""
    n_components, searched = model.n_components, x[:_N_SEARCHED]
    n_points, change, nats = (
        _FEWEST_POINTS,
        np.inf,
        _log_marginal(model, searched, _points(n_components, _FEWEST_POINTS)),
    )
    while change > _TOLERANCE and n_points < _MOST_POINTS:
        new_half = _points(n_components, 2 * n_points)[n_points:]
        doubled = np.logaddexp(nats, _log_marginal(model, searched, new_half)) - math.log(2)
        change, nats, n_points = np.abs(doubled - nats).mean(), doubled, 2 * n_points
    return _log_marginal(model, x, _points(n_components, n_points)), change


def _points(n_components, n_points):
    return lattices.shifted(lattices.nested(n_components, n_points), _OFFSET[:n_components])


def _log_marginal(model, x, u):
    """Average p(x | z) over points u of the cube, a block of points and rows at a time."""
    parts = []
    for block in u.split(_POINTS):
        z, log_weight = model._prior(model.n_components).nodes(block)
        chart = model._decode(z.to(model._device), factored=len(x) > _ROWS)
        parts.append(
            torch.cat(
                [
                    _averaged(model.likelihood_, chart, rows, log_weight)
                    for rows in torch.from_numpy(x).split(_ROWS)
                ]
            )
        )
    return objectives.log_mean_exp(torch.stack(parts, 1)).numpy()


@torch.no_grad()
def _averaged(likelihood, chart, x, log_weight):
    x = x.to(chart.points.device)
    nats = objectives.log_mean_exp(chart.relative(likelihood, x) + log_weight.to(x)) + chart.offset(
        likelihood, x
    )
    return nats.double().cpu()


@torch.no_grad()
def log_joint(model, x, z):
    """Return log p(x_i | z_j) + log p(z_j), float32 of shape (n, m)."""
    x = torch.from_numpy(x).to(model._device)
    table = model._decode(z.to(model._device), factored=False).table(model.likelihood_, x).cpu()
    return table + model._prior(model.n_components).log_prob(z).float()


def bound_nats(model, x):
    """Return the lower bound on log p(x) that the model was trained on, of every row.

    The lattice's with as many points as in training, averaged over random shifts; the ELBO; or the
    importance-weighted one with K draws. The latter two are averages over 50 draws, in groups of K,
    of each row's own."""
    if isinstance(model, QLVMEmbedding):
        return _lattice_bound(model, x)
    if isinstance(model, VAEEmbedding):
        return _by_draws(
            model, x, _N_DRAWS, lambda log_px_z, log_ratio, kl: objectives.elbo(log_px_z, kl)
        )
    return importance_bounds(model, x, _N_DRAWS, [model.n_importance_samples])[:, 0]


def _lattice_bound(model, x):
    points = lattices.lattice(model.n_components, training_points(model))
    generator = torch.Generator().manual_seed(0)
    shifts = [lattices.random_shift(model.n_components, generator) for _ in range(_N_SHIFTS)]
    return np.mean(
        [_log_marginal(model, x, lattices.shifted(points, shift)) for shift in shifts], axis=0
    )


def training_points(model):
    """Return the size of a QLVM's training lattice."""
    from skqlvm._qlvm import _N_POINTS

    return _N_POINTS[model.n_components] if model.n_points == "auto" else model.n_points


def importance_bounds(model, x, n_draws, sizes):
    """Return importance-weighted bounds with K draws, for each K of `sizes`, of shape (n,
    len(sizes)).

    All from the same draws, in groups of K: where groups are parts of larger groups the bounds rise
    with K, row by row."""

    def reduce(log_px_z, log_ratio, kl):
        log_w = log_px_z + log_ratio
        return torch.stack(
            [objectives.log_mean_exp(log_w.unflatten(1, (-1, size))).mean(1) for size in sizes], 1
        )

    return _by_draws(model, x, n_draws, reduce)


@torch.no_grad()
def _by_draws(model, x, n_draws, reduce):
    """Reduce log p(x | z), log p(z) - log q(z | x) and KL(q || p), in float64.

    A score by the model takes the same noise for all rows, so that its rows are comparable; these
    are to be averaged over rows, and each has its own."""
    prior, generator = model._prior(model.n_components), torch.Generator().manual_seed(0)
    parts = []
    for rows in torch.from_numpy(x).split(max(1, _N_DECODED // n_draws)):
        proposal, z, log_px_z = model._weighed(
            model._module, rows.to(model._device), n_draws, generator
        )
        log_ratio = (prior.log_prob(z) - proposal.log_prob(z)).double()
        parts.append(reduce(log_px_z.double(), log_ratio, proposal.kl(z).double()).cpu())
    return torch.cat(parts).numpy()


def euclidean_map(model, x):
    """Return what `transform` returns, with a torus mapped to circles, for Euclidean distances."""
    return model._prior(model.n_components).euclidean(torch.from_numpy(model.transform(x))).numpy()
