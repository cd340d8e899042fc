"""What can be asked of the estimator whose training rows have codes."""

import numpy as np
from scipy.sparse import csr_array

from . import _checks
from ._encoder_queries import EncoderQueries
from .engine.precision import own_settings

METHODS = ("auto", "importance", "quadrature")

_LEAST_PROBABILITY = 1e-9
"""Probabilities of codes below this are left out."""


def absent(name, why):
    """Return what an estimator has in place of an attribute that it does not have after all."""

    def missing(self):
        raise AttributeError(f"{type(self).__name__} has no {name}: {why}.")

    return property(missing)


class EmpiricalQueries(EncoderQueries):
    """Mixin of the estimator whose q(z | x) comes from the codes of its training rows."""

    encoder_ = absent("encoder_", "its posteriors come from the codes of training rows")
    impute = absent("impute", "distances between rows need all features")
    partial_fit = absent("partial_fit", "only rows of a fit have codes")

    def transform(self, X):
        """Return where the rows of X lie: the means of the codes under their `index_posterior`.

        That is so for training rows too. The likelihood does not tie a row to the code of its own
        number: what explains it is a code close by, whosever it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
        """
        return self.coordinates(X)

    def index_posterior(self, X):
        """Return the exact probabilities that rows of X come from the codes in `codes_`.

        ``p(i | x) = p(x | z_i) / sum_j p(x | z_j)`` for codes that count once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        csr_array of shape (n_samples, n_codes)
            Without what is below 1e-9, so that rows sum to 1 but for as much a code.
        """
        X = self._queried(X)
        with own_settings(gradients=False):
            parts = [
                _sparse(self._model.log_index(x).exp().cpu().numpy())
                for x in self._chunks(X, self._index_bytes(X))
            ]
        counts, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        edges = np.concatenate([[0], np.cumsum(counts)])
        return csr_array((values, columns, edges), shape=(X.shape[0], len(self.codes_)))

    def empirical_score_samples(self, X):
        """Return the log likelihood of every row under the codes themselves, in nats.

        ``log 1/N sum_i p(x | z_i)`` over the codes of the training rows, without a prior that was
        fitted to them: what training maximises. Training rows are scored with their own codes among
        these.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X = self._queried(X)
        return self._over_rows(X, self._model.log_empirical, self._index_bytes(X))

    def score_samples(self, X, method="auto", n_importance_samples=1000, return_std=False):
        """Return the log likelihood of every row under the prior fitted to the codes, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        method : {"auto", "quadrature", "importance"}, default="auto"
            "quadrature" is over a lattice of `n_points_eval_` points, for up to three components.
            "importance" is the log mean of importance weights, a lower bound in expectation; its
            draws are from normals around the peaks of each row's posterior, from the mean and
            covariance of the codes under its index posterior, and from the prior. "auto" is
            quadrature for up to three components.
        n_importance_samples : int, default=1000
            Draws a row for "importance", the same noise for all rows.
        return_std : bool, default=False
            Also return standard errors: over 8 random shifts of the lattice, or over the draws.

        Returns
        -------
        nats : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            Only if `return_std`.

        Raises
        ------
        ValueError
            If the model has too many components for quadrature.
        """
        _checks.check_option("method", method, METHODS)
        return super().score_samples(X, method, n_importance_samples, return_std)

    def _has_posterior(self):
        return True

    def _located(self, X):
        return self._over_rows(X, lambda x: self._model.propose(x).loc, self._index_bytes(X))

    def _index_bytes(self, X):
        """Working memory of a row: its part of the table over the codes."""
        return 2 * self._table_bytes(X, len(self.codes_))


def _sparse(weights):
    """Counts, columns and values of the entries of weights (n, N) that matter."""
    kept = weights >= _LEAST_PROBABILITY
    return kept.sum(1), np.nonzero(kept)[1], weights[kept]
