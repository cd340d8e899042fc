"""log p(x) of the estimators with an encoder: by quadrature, by importance sampling, or bounded."""

import torch

from . import _checks
from ._trained import checked_finite
from .engine import importance, lattices, objectives, proposals, quadrature
from .engine.precision import own_settings

METHODS = ("auto", "elbo", "encoder", "importance", "quadrature")

_REDUCED = {"elbo": objectives.elbo_of, "encoder": objectives.estimate_of}
"""What draws from the encoder alone are reduced to, by the name of the method."""

_DRAWN_BYTES, _ROW_BYTES = 2**24, 2**15
"""Working memory of draws that are held at a time, and of a row whose proposals are put right."""


class EncoderScores:
    """Mixin of `EncoderQueries`."""

    def score_samples(self, X, method="auto", n_importance_samples=1000, return_std=False):
        """Return the log likelihood of every row in nats, or with ``method="elbo"`` a lower bound.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        method : {"auto", "quadrature", "importance", "encoder", "elbo"}, default="auto"
            "quadrature" is the log likelihood itself, over a lattice of `n_points_eval_` points,
            for up to three components. "importance" is the log mean of importance weights: a lower
            bound in expectation, that rises to the log likelihood with the number of samples. Its
            draws are from normals around the peaks of each row's posterior, which take about as
            long to find as 500 draws (for 32 components), from the encoder's posterior and from
            the prior. "encoder" is the same of draws from the encoder's posterior alone, as the
            literature has it: it falls short where the encoder is wrong. "elbo" is the evidence
            lower bound, whatever `beta` and `objective` the training had. "auto" is quadrature for
            up to three components and importance sampling for more.
        n_importance_samples : int, default=1000
            Draws a row for "importance", "encoder" and "elbo", the same noise for all rows; 5000 is
            the custom of the literature.
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
            If the model has too many components for quadrature, or no posterior to draw from.
        """
        X = self._queried(X)
        _checks.check_option("method", method, METHODS)
        _checks.check_integer("n_importance_samples", n_importance_samples)
        if method == "quadrature":
            self._check_few_components("method='quadrature'", "'importance'")
        few = self._n_features_out <= lattices.MOST_COMPONENTS
        if method == "quadrature" or (method == "auto" and few):
            return self._by_quadrature(X, return_std)
        self._check_has_posterior(f"method={method!r}")
        n_draws = int(n_importance_samples)
        if method in _REDUCED:
            result = self._by_draws(X, n_draws, _REDUCED[method])
        else:
            result = self._by_importance(X, n_draws)
        return (result[:, 0], result[:, 1]) if return_std else result[:, 0]

    def _by_quadrature(self, X, return_std):
        """log p(x) over the lattice that a fit found fine enough, and its standard error."""
        n_at_once = self._model.n_decoded
        kept = self._atlas is not None
        n_columns = self.n_points_eval_ if kept else min(n_at_once, self.n_points_eval_)
        rows = self._chunks(X, self._table_bytes(X, n_columns))
        with own_settings(gradients=False):
            nats = quadrature.log_marginal(self._model, self._charts(X)(), rows)
            if not return_std:
                return checked_finite(nats.numpy())
            std = quadrature.standard_error(self._model, self._cube, rows, n_at_once=n_at_once)
        return checked_finite(nats.numpy()), std.numpy()

    def _by_draws(self, X, n_draws, reduce):
        """What draws from the encoder's q(z | x) are reduced to, and its standard error."""

        def of_rows(x):
            generator = torch.Generator().manual_seed(0)
            drawn = self._model.draw(x, n_draws, generator, shared=True)
            return reduce(drawn, self._model.prior)

        return self._estimated(X, of_rows, self._draw_bytes(n_draws))

    def _by_importance(self, X, n_draws):
        """The log mean of importance weights, and its standard error."""
        n_at_once = max(1, _DRAWN_BYTES // self._draw_bytes(n_draws))

        def of_rows(x):
            generator = torch.Generator().manual_seed(0)
            return importance.estimate(self._model, x, n_draws, generator, n_at_once)

        return self._estimated(X, of_rows, max(_ROW_BYTES, 16 * X.shape[1]))

    def _draw_bytes(self, n_draws):
        """Working memory of the draws of a row."""
        n_decoded = min(n_draws, self._model.n_decoded) * self.n_features_in_
        n_unwound = n_draws * self._n_features_out
        if self._model.wrapped:
            n_unwound *= len(proposals.WINDINGS) ** self._n_features_out
        return 16 * max(n_decoded, n_unwound)

    def _estimated(self, X, of_rows, row_bytes):
        """Estimates and their standard errors, (n_samples, 2); an error may be infinite."""
        result = self._over_rows(X, of_rows, row_bytes, finite=False)
        checked_finite(result[:, 0])
        return result
