"""What can be asked of the estimator whose posterior is over a lattice."""

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from . import _data, _readouts
from ._imputation import Imputation, LatticePredictions
from ._posterior_queries import PosteriorQueries
from ._rows import as_tensor
from ._trained import checked_finite
from .engine import objectives, posteriors, quadrature, refinement, summaries
from .engine.precision import own_settings

_MANY = 256
"""Rows from which on it pays to prepare an atlas for them."""


class LatticeQueries(PosteriorQueries, Imputation, TransformerMixin):
    """Mixin of the estimator that keeps a decoded lattice, `_atlas`, of the points `lattice_`.

    And, as `_averaged`, what its default embedding is read off, where that is small.
    """

    def transform(self, X):
        """Return where the rows of X lie on the torus.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            In turns, [0, 1); or the cosines and sines, or the posterior means of harmonics, as
            `output` says.
        """
        return self._embedded(X, self.output)

    def coordinates(self, X):
        """Return where the rows of X lie on the torus in turns, whatever `output` says.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            In [0, 1).
        """
        return self._embedded(X, "turns")

    def inverse_transform(self, Z, condition=None):
        """Return the mean of p(x | z) at points of the torus, before any transformation.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_columns)
            What `transform` returns; angles may be any real numbers.
        condition : array-like of shape (n_conditions,) or (n_samples, n_conditions), optional
            Of models with `condition_columns`: what the decoder is told, as for `sample`.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = self._points(Z, self._n_features_out, f"inverse_transform of output={self.output!r}")
        z = _readouts.turns(Z, self.output, self._model.n_components)
        return self._decoded(Z, z, condition)

    def reconstruct(self, X):
        """Return the posterior mean of the decoded data, ``E[f(z) | x]``.

        It is the best reconstruction in squared error; of categories, the most probable level. With
        `transformations` it is in the pose of the row: the mean of ``W_s^-1 f(z)`` over their
        posterior too. With an `exposure`, counts are those of the row's own.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        X = self._queried(X)
        chart = self._chart(X)
        if not self.likelihood_.averages or self._model.conditions is not None:
            with own_settings(gradients=False):
                parts = [mean for mean, _ in self._predicted(X)]
            return self._with_conditions(checked_finite(np.concatenate(parts)), X)
        mean = as_tensor(self._over_rows(self.lattice_, self._model.mean), self._model.like.device)

        def reconstruct(x):
            log_w, _ = quadrature.joint(self._model, chart, x)
            return _reconstructed(self._model.transformations, log_w, mean.to(log_w))

        return self._rescaled(self._over_rows(X, reconstruct, self._row_bytes(X)), X)

    def transformation_posterior(self, X):
        """Return the posterior probabilities of the `transformations`; rows sum to 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_transformations)
            In the order of `transformations_`; a single column of ones if there are none.
        """
        X = self._queried(X)
        chart = self._chart(X)

        def of_rows(x):
            log_w, _ = quadrature.joint(self._model, chart, x)
            return posteriors.responsibilities(objectives.log_sum_exp_(log_w, 2))

        return self._over_rows(X, of_rows, self._row_bytes(X))

    def score_samples(self, X, return_std=False):
        """Return the log marginal likelihood of every row, in nats, over the evaluation lattice.

        ``log 1/m sum_j p(x | z_j)``: a log mean exp, comparable between lattices of any size. A
        posterior that is too narrow for the lattice gets a lattice of its own around each of its
        peaks, whose points are decoded for the row; scores are then those of a lattice that is a
        hundred times denser, to about 0.01 nats. With `transformations`, p(x | z) is their sum,
        ``sum_s pi_s p(W_s x | z) |det W_s|``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard error of the quadrature: the standard deviation of the result
            over 8 independent random shifts of all lattices, times 1.18, so that twice it covers
            the log likelihood for 95 % of the rows. Each shift is decoded anew.

        Returns
        -------
        nats : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            Only if `return_std`.
        """
        X = self._queried(X)
        rows, chart = self._chunks(X, self._row_bytes(X)), self._chart(X)
        with own_settings(gradients=False):
            nats = refinement.refined_log_marginal(self._model, chart, rows).numpy()
            checked_finite(nats)
            if not return_std:
                return nats
            lattice = torch.from_numpy(self.lattice_)
            std = quadrature.standard_error(self._model, lattice, rows, refined=True)
        return nats, std.numpy()

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns of `transform`.

        Turns are numbered; cosines and sines are named by their angle, as ``cos(z0)``.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        if self.output == "turns":
            return super().get_feature_names_out(input_features)
        names = _readouts.column_names(self.output, self._model.n_components, self._order)
        return np.asarray(names, dtype=object)

    @property
    def decoder_(self):
        """The fitted decoder, a torch module."""
        return self._model.decoder

    @property
    def latent_period_(self):
        """Period of the columns that `transform` returns: 1 for turns, else None."""
        return 1.0 if self.output == "turns" else None

    @property
    def _order(self):
        return self.harmonic_order_ if self.harmonic_order == "auto" else int(self.harmonic_order)

    @property
    def _n_features_out(self):
        _readouts.check(self)
        return _readouts.n_columns(self.output, self._model.n_components, self._order)

    def _chart(self, X):
        """The atlas, with what rows with gaps need if there are any in X."""
        return _data.chart_for(X, self._model.likelihood, self._atlas)

    def _averaged_chart(self, X):
        """The same of log weights averaged around each point, which "local" reads off."""
        chart = self._chart(X)
        kept = self._averaged if chart is self._atlas else None
        return _readouts.averaged(chart) if kept is None else kept

    def _predicted(self, X):
        chart, points = self._chart(X), torch.from_numpy(self.lattice_)
        predictions = LatticePredictions(self._model, points.to(self._model.like.device))
        for x in self._chunks(X, self._row_bytes(X)):
            found = predictions.over_maps(quadrature.joint(self._model, chart, x)[0], x)
            yield tuple(part.cpu().numpy() for part in found)

    def _row_bytes(self, X):
        """Working memory of a row: that of each of its copies."""
        return self._table_bytes(X, len(self.lattice_)) * self._model.n_copies

    def _quadrature_points(self):
        u = torch.from_numpy(self.lattice_).to(self._model.like.device)
        return summaries.Points.of(self._model.prior, u)

    def _posteriors(self, X, points):
        model, chart = self._model, self._chart(X)
        if model.transformations is not None:
            return super()._posteriors(X, points)

        def of_rows(x):
            log_w = refinement.log_weights(model, chart, x)
            total, refined = refinement.refine(model, chart, x, log_w.clone())
            return summaries.Posterior(points, log_w, total, refined)

        return of_rows

    def _log_weights(self, X):
        model, chart = self._model, self._chart(X)
        return lambda x: quadrature.relative(model, chart, x)

    def _embedded(self, X, output):
        X = self._queried(X)
        _readouts.check(self)
        model, points = self._model, torch.from_numpy(self.lattice_)
        averaged = self.embedding == "local" and output != "moments"
        chart = self._for_many(self._averaged_chart(X) if averaged else self._chart(X), X)

        def of_rows(x):
            log_w = quadrature.relative(model, chart, x)
            return _readouts.embed(log_w, points.to(log_w), self.embedding, output, self._order)

        return self._over_rows(X, of_rows, self._row_bytes(X))

    def _for_many(self, chart, X):
        """An atlas for tables of which none is kept; where it pays, they take the same memory."""
        model, n_rows = self._model, X.shape[0]
        plain = model.transformations is None and model.conditions is None
        if not plain or issparse(X) or n_rows < _MANY:
            return chart
        n_rows = min(n_rows, self._chunks(X, self._row_bytes(X)).size)
        return chart.joining(as_tensor(X[:0], "cpu").dtype, n_rows)


def _reconstructed(maps, log_w, mean):
    """The posterior mean, in the pose of the row, of decoded rows (m, d); log weights (n, S, m)."""
    if maps is None:
        return posteriors.responsibilities(log_w[:, 0]) @ mean
    shares = posteriors.responsibilities(torch.logsumexp(log_w, 2))
    posed = posteriors.responsibilities(log_w).flatten(0, 1) @ mean
    numbers = torch.arange(len(maps)).repeat(len(log_w))
    rows = maps.undone(posed, numbers).unflatten(0, shares.shape)
    return (shares[:, None] @ rows)[:, 0]
