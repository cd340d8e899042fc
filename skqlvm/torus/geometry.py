"""Geometry of the decoder: how fast, and which, features change as a latent point moves."""

import torch
from sklearn.utils.validation import check_is_fitted

from .. import _checks
from ..engine import geometry, torus

KINDS = ("data", "fisher")

_ARRAYS = 2
"""As many values a feature count as working memory of a point: products of few rows are slow."""


def jacobian(estimator, Z, condition=None):
    """Return the derivatives of the decoded mean E[x | z] by the latent coordinates.

    By forward-mode differentiation: exact, and in as many passes as there are coordinates. A
    decoder of one's own without it is differentiated in reverse mode, or else by finite
    differences, and a warning says so.

    Parameters
    ----------
    estimator : QLVMEmbedding, VAEEmbedding or IWAEEmbedding
        Fitted.
    Z : array-like of shape (n_points, n_components)
        Latent points, on the torus in turns: what ``estimator.coordinates(X)`` returns.
    condition : array-like of shape (n_conditions,) or (n_points, n_conditions), optional
        Of models with `condition_columns`: what the decoder is told.

    Returns
    -------
    ndarray of shape (n_points, n_features, n_components)
        In units of the features per turn; zero for categories, whose mean is a level.
    """
    return _at(estimator, Z, condition, "data", lambda values, derivatives: derivatives)


def jacobian_norm(estimator, Z, condition=None):
    """Return the Frobenius norm of the `jacobian`: how fast the decoded row changes.

    Ridges of it are borders between kinds of rows.

    Parameters
    ----------
    estimator, Z, condition
        As for `jacobian`.

    Returns
    -------
    ndarray of shape (n_points,)
        In units of the features per turn.
    """
    return _at(estimator, Z, condition, "data", _norms)


def sensitivity(estimator, Z, condition=None):
    """Return how fast each feature changes: the length of its gradient by the latent point.

    Parameters
    ----------
    estimator, Z, condition
        As for `jacobian`.

    Returns
    -------
    ndarray of shape (n_points, n_features)
        In units of the feature per turn.
    """
    return _at(estimator, Z, condition, "data", lambda values, J: J.norm(dim=2))


def metric(estimator, Z, kind="data", condition=None):
    """Return the metric that the decoder pulls back to the latent space.

    A step dz changes the decoded row, or its distribution, by ``sqrt(dz^T G dz)``.

    Parameters
    ----------
    estimator, Z, condition
        As for `jacobian`.
    kind : {"data", "fisher"}, default="data"
        "data": ``J^T J``, squared distances between decoded means. "fisher": the Fisher information
        of p(x | z), ``J_eta^T A''(eta) J_eta`` with the log-normaliser A, for any likelihood; it
        does not depend on the units of the features, and counts standard deviations of the noise.
        Counts are those of a median exposure.

    Returns
    -------
    ndarray of shape (n_points, n_components, n_components)
        Per turn squared.
    """
    return _at(estimator, Z, condition, kind, _metric_of(estimator, kind))


def volume_element(estimator, Z, kind="data", condition=None):
    """Return ``sqrt(det G)``: the area that a unit of latent space is decoded to.

    Parameters
    ----------
    estimator, Z, kind, condition
        As for `metric`.

    Returns
    -------
    ndarray of shape (n_points,)
    """
    metric_of = _metric_of(estimator, kind)

    def volumes(values, derivatives):
        return geometry.volume(metric_of(values, derivatives))

    return _at(estimator, Z, condition, kind, volumes)


def model_of(estimator, what):
    """Return the model of a fitted estimator; raise if it is none of ours."""
    if not hasattr(estimator, "_over_rows"):
        raise TypeError(
            f"{what} expects a fitted QLVMEmbedding, VAEEmbedding or IWAEEmbedding, but got "
            f"{type(estimator).__name__}."
        )
    check_is_fitted(estimator)
    return estimator._model


def values_of(model, kind):
    """Return the function from points, and their groups, to what a kind of metric measures."""

    def levels(z, group=None):
        # steps: of derivative zero as far as the decoder has one
        return model.mean(z, group) + 0 * model.outputs(z, group).sum(-1, keepdim=True)

    def natural(z, group=None):
        return model.likelihood.natural(model.outputs(z, group).to(z.dtype))

    if kind == "fisher":
        return natural
    return model.mean if model.likelihood.averages else levels


def log_normalizer_of(likelihood):
    """Return the function from eta (n, p) to the log-normaliser (n,), of a median exposure."""
    like = next(likelihood.buffers(), torch.zeros(()))
    typical = likelihood.mean(torch.zeros(1, likelihood.n_outputs, device=like.device))
    weight = likelihood.weight(typical, None)
    if weight is None:
        return likelihood.total_log_normalizer
    return lambda eta: (weight.to(eta) * likelihood.log_normalizer(eta)).sum(-1)


def _norms(values, derivatives):
    return derivatives.square().sum((1, 2)).sqrt()


def _metric_of(estimator, kind):
    model = model_of(estimator, "metric")
    _checks.check_option("kind", kind, KINDS)
    if kind == "data":
        return lambda values, derivatives: geometry.pullback(derivatives)
    normalizer = log_normalizer_of(model.likelihood)
    return lambda eta, derivatives: geometry.fisher(normalizer, eta, derivatives)


def _at(estimator, Z, condition, kind, function):
    """Apply a function of values (n, p) and derivatives (n, p, k) at points that a user gives."""
    model = model_of(estimator, "geometry of a decoder")
    Z = estimator._points(Z, model.n_components, "latent points")
    if model.prior.period is not None:
        Z = torus.wrap(torch.from_numpy(Z)).numpy()
    derivatives = _Derivatives(values_of(model, kind), model.like.dtype)
    row_bytes = _ARRAYS * Z.itemsize * estimator.n_features_in_

    def of_points(z, *group):
        return function(*derivatives(z, *group))

    groups = estimator._groups_for(condition, len(Z))
    return estimator._over_rows(Z, of_points, row_bytes, beside=groups, name="Z")


class _Derivatives:
    """Values and derivatives of a function of points and groups, by the first way that works."""

    def __init__(self, function, dtype):
        self.function = function
        step = float(torch.finfo(dtype).eps) ** (1 / 3)
        self.ways = {
            "forward mode": geometry.forward,
            "reverse mode": geometry.reverse,
            "finite differences": lambda function, z: geometry.differences(function, z, step),
        }

    def __call__(self, z, *group):
        failed = []
        for way in list(self.ways):
            try:
                found = self.ways[way](lambda z: self.function(z, *group), z)
            except RuntimeError as error:
                if len(self.ways) == 1 or not _is_unsupported(error):
                    raise
                failed.append(f"{way} ({str(error).splitlines()[0]})")
                del self.ways[way]
                continue
            if failed:
                exact = "" if len(self.ways) > 1 else ", good to some digits only"
                _checks.warn(
                    f"The decoder has no derivatives by {' nor by '.join(failed)}; they are by "
                    f"{way}{exact}."
                )
            return found


def _is_unsupported(error):
    """Whether torch cannot differentiate an operation, and not something else is wrong."""
    words = ("forward AD", "jvp", "require grad", "derivative", "differentiate twice", "grad_fn")
    return isinstance(error, NotImplementedError) or any(word in str(error) for word in words)
