"""What is missing, from what is there: means and standard deviations under the posterior."""

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted

from . import _checks, _data
from ._columns import is_frame
from .engine import posteriors
from .engine.conditions import by_group
from .engine.precision import own_settings

_OUTPUT_BYTES = 2**27
"""Size of decoded outputs up to which they are kept for all rows of a call."""

_NEGLIGIBLE = 1e-10
"""Posterior probability of a point that is as good as none."""


class Imputation:
    """Mixin of the estimators: gaps filled.

    A subclass defines ``_predicted(X)``: mean and standard deviation of new data for chunks of
    rows, as pairs of arrays.
    """

    def impute(self, X, return_std=False):
        """Return X with what is missing filled by its posterior mean, ``E[x | what is there]``.

        What is there stays as it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a feature is missing; in a data frame also None and pandas.NA.
        return_std : bool, default=False
            Also return the standard deviation of each number under the posterior: of new data, the
            noise of observation included; 0 of what is there.

        Returns
        -------
        filled : ndarray of shape (n_samples, n_features)
            Or a data frame, if X is one or `set_output` asks for one; of categories the most
            probable one, as a code that `to_frame` turns back.
        std : ndarray of shape (n_samples, n_features)
            Only if `return_std`; of the same kind.
        """
        check_is_fitted(self)
        _checks.check_flag("return_std", return_std)
        rows = self._queried(X)
        if issparse(rows):
            raise TypeError(
                "impute expects a dense array, but got a sparse matrix, which has no gaps. Use "
                "NaN in X.toarray() for what is missing."
            )
        filled, std = np.array(rows), np.zeros_like(rows)
        missing = np.isnan(rows)
        incomplete = missing.any(1).nonzero()[0]
        if len(incomplete):
            with own_settings(gradients=False):
                parts = list(self._predicted(rows[incomplete]))
            for result, found in zip((filled, std), zip(*parts, strict=True), strict=True):
                result[missing] = np.concatenate(found)[missing[incomplete]]
        filled = _data.like_given(self, X, filled)
        if is_frame(X) and self._columns.levels:
            filled = self.to_frame(filled)
        return (filled, _data.like_given(self, X, std)) if return_std else filled

    def _rescaled(self, means, X):
        """Means of rows of median exposure as those of the rows of X."""
        if not self.likelihood_.rescales:
            return means
        return self._over_rows(means, self.likelihood_.rescaled, beside=(X,), finite=False)


class LatticePredictions:
    """New data of rows by posterior weights over the points of a lattice, some rows at a time.

    Parameters
    ----------
    model : skqlvm.engine.models.Model
    points : Tensor of shape (m, k)
    """

    def __init__(self, model, points):
        self.model, self.points = model, points
        n_bytes = len(points) * model.likelihood.n_outputs * model.like.element_size()
        kept = n_bytes <= _OUTPUT_BYTES and model.conditions is None
        self.outputs = model.outputs(points) if kept else None

    def of(self, weights, x):
        """Return mean and standard deviation for posterior weights (n, m) of rows x (n, d)."""
        conditions = self.model.conditions
        if conditions is None:
            return self._of_group(None, weights, x)

        def answer(group, rows):
            return torch.stack(self._of_group(group, weights[rows], x[rows]), 1)

        return by_group(conditions, x, answer).unbind(1)

    def _of_group(self, group, weights, x):
        used = weights.amax(0) > _NEGLIGIBLE
        if self.outputs is None:
            outputs = self.model.outputs(self.points[used], group)
        else:
            outputs = self.outputs[used]
        weights = weights[:, used]
        return self.model.likelihood.predictive(
            outputs.to(weights), weights / weights.sum(1, keepdim=True), x
        )

    def over_maps(self, log_w, x):
        """Return mean and standard deviation, in the pose of rows x, by log weights (n, S, m)."""
        maps = self.model.transformations
        if maps is None:
            return self.of(posteriors.responsibilities(log_w[:, 0]), x)
        shares = posteriors.responsibilities(torch.logsumexp(log_w, 2))[:, :, None]
        weights = posteriors.responsibilities(log_w).flatten(0, 1)
        mean, std = self.of(weights, x.repeat_interleave(len(maps), 0))
        numbers = torch.arange(len(maps)).repeat(len(log_w))
        mean = maps.undone(mean, numbers).unflatten(0, log_w.shape[:2])
        std = maps.undone(std, numbers, spread=True).unflatten(0, log_w.shape[:2])
        total = (shares * mean).sum(1)
        variance = (shares * (std**2 + (mean - total[:, None]) ** 2)).sum(1)
        return total, variance.sqrt()


def by_draws(likelihood, outputs, weights, x):
    """Return mean and standard deviation by weights (n, s) of outputs (n, s, p) of rows x."""
    parts = [
        likelihood.predictive(own.to(weight), weight[None], row[None])
        for own, weight, row in zip(outputs, weights, x, strict=True)
    ]
    mean, std = zip(*parts, strict=True)
    return torch.cat(mean), torch.cat(std)
