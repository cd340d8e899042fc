"""What the estimators with an encoder share: their parts, and what can be asked of them."""

import torch
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from . import _checks, _conditions, _data, _parts
from ._encoder_scores import EncoderScores
from ._imputation import Imputation, LatticePredictions, by_draws
from ._posterior_queries import PosteriorQueries
from .engine import lattices, models, posteriors, proposals, quadrature, summaries
from .engine.rows import chosen, split

SHAPING = (*_parts.SHAPING, "encoder", "latent", "covariance_type")
"""Parameters that shape a model with an encoder, beside those of all models."""

_ATLAS_BYTES = 2**27
"""Size up to which the decoded lattice is kept; a larger one is decoded at every call."""

_DRAWS_IMPUTED = 1000
"""Draws a row by which gaps are filled where a lattice would need too many points."""

_AGGREGATED, _AGGREGATED_AT_ONCE = 2**24, 64
"""Entries of the table whose posteriors are averaged at the end of a fit, and rows at a time."""


class EncoderQueries(EncoderScores, PosteriorQueries, Imputation, TransformerMixin):
    """Mixin of the estimators whose q(z | x) comes from an encoder.

    A subclass defines ``_has_posterior``: whether its training gives q a spread.
    """

    _auto_steps, _auto_passes = (1000, 10_000), 100
    _validation_rows = 200

    def transform(self, X):
        """Return the means of q(z | x) for the rows of X, by the encoder.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            On the torus the location of the wrapped normal, in turns, [0, 1).
        """
        return self.coordinates(X)

    def coordinates(self, X):
        """Return what `transform` does, as an array whatever `set_output` says.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
        """
        return self._located(self._queried(X))

    def inverse_transform(self, Z, condition=None):
        """Return the mean of p(x | z) at latent points.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            On the torus in turns, any real numbers.
        condition : array-like of shape (n_conditions,) or (n_samples, n_conditions), optional
            Of models with `condition_columns`: what the decoder is told, as for `sample`.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = self._points(Z, self._n_features_out)
        return self._decoded(Z, Z, condition)

    def reconstruct(self, X):
        """Return the decoded means of q(z | x), ``inverse_transform(transform(X))``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        X = self._queried(X)
        model = self._model
        means = self._over_rows(
            self._located(X), lambda z, x: model.mean(z, model.groups(x)), beside=(X,)
        )
        return self._with_conditions(self._rescaled(means, X), X)

    def proposal(self, X):
        """Return location and covariance of the encoder's q(z | x) for every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        mean : ndarray of shape (n_samples, n_components)
        covariance : ndarray of shape (n_samples, n_components, n_components)
            On the torus that of the normal before it is wound up, in squared turns.

        Raises
        ------
        ValueError
            If the training objective knows no posterior.
        """
        X = self._queried(X)
        self._check_has_posterior("proposal")
        covariance = self._over_rows(X, lambda x: self._model.propose(x).covariance())
        return self._located(X), covariance

    def active_units(self, X, threshold=0.01):
        """Return which latent dimensions say something about the rows of X.

        A dimension is active where the variance of its posterior mean over the rows exceeds the
        threshold (Burda et al., arXiv 1509.00519); on the torus, the variance of the mean's cosine
        and sine together.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        threshold : float, default=0.01

        Returns
        -------
        ndarray of bool of shape (n_components,)
        """
        _checks.check_number("threshold", threshold)
        z = torch.from_numpy(self.coordinates(X))
        variances = self._model.prior.euclidean(z).var(0, correction=0)
        return (variances.reshape(-1, z.shape[1]).sum(0) > threshold).numpy()

    @property
    def decoder_(self):
        """The fitted decoder, a torch module."""
        return self._model.decoder

    @property
    def encoder_(self):
        """The fitted encoder, a torch module."""
        return self._model.encoder

    @property
    def latent_period_(self):
        """Period of the columns that `transform` returns: 1 on the torus, else None."""
        return self._model.prior.period

    @property
    def _n_features_out(self):
        return self._model.n_components

    def _located(self, X):
        """Where the proposals of validated rows lie."""
        return self._over_rows(X, lambda x: self._model.propose(x).loc)

    def _check_encoder_parameters(self):
        _parts.check_shared(self)
        _checks.check_integer("harmonic_order", self.harmonic_order, alternative="auto")
        _checks.check_hidden_layer_sizes(self.hidden_layer_sizes)
        _parts.check_choice("decoder", self.decoder, _parts.DECODERS)
        _parts.check_choice("encoder", self.encoder, _parts.ENCODERS)
        _checks.check_option("latent", self.latent, _parts.PRIORS)
        _checks.check_option("covariance_type", self.covariance_type, proposals.FAMILIES)
        if self.latent == "torus" and self.n_components > lattices.MOST_COMPONENTS:
            raise ValueError(
                f"latent='torus' expects 1, 2 or 3 components, but got {self.n_components}. Use "
                "latent='normal'."
            )

    def _check_has_posterior(self, what):
        if not self._has_posterior():
            raise ValueError(
                f"{what} expects a model that was trained with a posterior, but "
                f"objective={self._built_with['objective']!r} has none. Use objective='elbo' or "
                "'infovae'."
            )

    def _check_few_components(self, what, instead):
        if self._n_features_out > lattices.MOST_COMPONENTS:
            raise ValueError(
                f"{what} expects up to 3 components, but the model has {self._n_features_out}. Use "
                f"{instead}."
            )

    def _build(self, likelihood, n_rows, randomness):
        k, wrapped = int(self.n_components), self.latent == "torus"
        order = _parts.harmonic_order(self.harmonic_order, k, n_rows) if wrapped else None
        n_numbers = proposals.n_outputs(self.covariance_type, k, wrapped=wrapped)
        n_told = _conditions.n_numbers(self._told)
        return models.EncoderModel(
            k,
            _parts.PRIORS[self.latent],
            _parts.build_decoder(self, likelihood.n_outputs, order, randomness, n_told),
            likelihood,
            _parts.build_encoder(self, likelihood.n_inputs + n_told, n_numbers, randomness),
            covariance_type=self.covariance_type,
            wrapped=wrapped,
            harmonic_order=order,
            conditions=self._told,
        )

    def _finish(self, model, x, weight=None):
        """Find a lattice on which the likelihood has converged, and decode it if it is small."""
        found = {"harmonic_order_": model.harmonic_order, "_atlas": None}
        self._check_encoder(model, x)
        if model.n_components > lattices.MOST_COMPONENTS:
            return found
        settled = quadrature.settle(model, x)
        u = quadrature.nested_points(model.n_components, settled.n_points)
        lattice = model.prior.nodes(u)[0].numpy()
        found |= {"n_points_eval_": settled.n_points, "lattice_": lattice, "_cube": u}
        if len(u) * model.likelihood.n_outputs * model.like.element_size() <= _ATLAS_BYTES:
            [found["_atlas"]] = quadrature.charts(model, u, factored=True)
        found["aggregate_posterior_"] = _aggregated(model, u, found["_atlas"], x, weight)
        if settled.change > settled.tolerance and self._has_posterior():
            _checks.warn(
                f"Log-likelihoods by quadrature still changed by {settled.change:.2g} nats a row "
                f"when the lattice was doubled to {settled.n_points} points. Use "
                "score_samples(X, method='importance')."
            )
        return found

    def _check_encoder(self, model, x):
        """Raise if the last step of a training left an encoder or a decoder that is not finite."""
        proposal = model.propose(x)
        z = proposal.loc[:, None]
        if not bool(proposal.log_prob(z).isfinite().all()):
            raise FloatingPointError("the encoder's output is not finite")
        if not bool(model.outputs(z, model.groups(x)).isfinite().all()):
            raise FloatingPointError("the decoder's output is not finite")

    def _charts(self, X):
        """Return the decoded lattice, for X with its gaps, each time it is called.

        That is as it was kept, or decoded a part at a time.
        """
        if self._atlas is not None:
            kept = [_data.chart_for(X, self._model.likelihood, self._atlas)]
            return lambda: kept
        n_at_once, ragged = self._model.n_decoded, _data.ragged(X)
        return lambda: quadrature.charts(
            self._model, self._cube, n_at_once=n_at_once, ragged=ragged
        )

    def _log_weights(self, X):
        """Return the function from rows of X to their log weights over the lattice."""
        charts, likelihood = self._charts(X), self.likelihood_
        return lambda x: torch.cat([chart.table(likelihood, x) for chart in charts()], 1)

    def _predicted(self, X):
        model = self._model
        if model.n_components <= lattices.MOST_COMPONENTS:
            points = torch.from_numpy(self.lattice_).to(model.like.device)
            predictions, log_w = LatticePredictions(model, points), self._log_weights(X)
            row_bytes = self._row_bytes(X)

            def of_rows(x):
                return predictions.of(posteriors.responsibilities(log_w(x)), x)
        else:
            self._check_has_posterior("impute")
            row_bytes = 16 * _DRAWS_IMPUTED * X.shape[1]

            def of_rows(x):
                generator = torch.Generator().manual_seed(0)
                drawn = model.draw(x, _DRAWS_IMPUTED, generator, shared=True)
                weights = posteriors.responsibilities(drawn.log_w(model.prior))
                outputs = model.outputs(drawn.z, model.groups(x))
                return by_draws(model.likelihood, outputs, weights, x)

        for x in self._chunks(X, row_bytes):
            yield tuple(part.cpu().numpy() for part in of_rows(x))

    def _check_posterior(self, what):
        instead = {"posterior": "proposal"}.get(what, "up to 3 components, or proposal")
        self._check_few_components(what, instead)

    def _quadrature_points(self):
        return summaries.Points.of(self._model.prior, self._cube.to(self._model.like.device))

    def _row_bytes(self, X):
        return self._table_bytes(X, self.n_points_eval_)


def _aggregated(model, u, chart, x, weight):
    """The mean posterior over points u of the cube of some rows x, the fewer the longer u is."""
    x = chosen(x, torch.arange(min(len(x), max(1, _AGGREGATED // len(u))), device=x.device))
    charts = [chart] if chart else list(quadrature.charts(model, u, n_at_once=model.n_decoded))
    tables = (
        torch.cat([chart.table(model.likelihood, part) for chart in charts], 1)
        for part in split(x, _AGGREGATED_AT_ONCE)
    )
    shares = torch.ones(len(x), dtype=torch.float64) if weight is None else weight[: len(x)]
    shares = (shares / shares.sum()).to(x.device)
    parts = zip(shares.split(_AGGREGATED_AT_ONCE), tables, strict=True)
    means = [share @ posteriors.responsibilities(table).double() for share, table in parts]
    return torch.stack(means).sum(0).cpu().numpy()
