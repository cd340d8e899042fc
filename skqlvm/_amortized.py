"""What estimators with an encoder share: proposals, and likelihoods by bound, by importance
sampling and by quadrature."""

from functools import partial

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted

from . import _validation
from ._base import LatentModel
from .engine import lattices, networks, objectives, priors, proposals
from .engine.precision import matmul_precision

ENCODERS = {"conv": networks.ConvEncoder, "mlp": networks.MLPEncoder}
PRIORS = {"normal": priors.StandardNormal(), "torus": priors.UniformTorus()}
METHODS = ("auto", "elbo", "importance", "quadrature")

_FEWEST_POINTS, _MOST_POINTS = 2**10, 2**18
_TOLERANCE = 0.01
_LATTICE_CHUNK, _DRAWS_CHUNK = 2**12, 2**12
_N_SHIFTS = 8
_SHIFT = torch.tensor([0.38196601125, 0.61803398875, 0.23606797750], dtype=torch.float64)
"""Of the lattice that scores use: no point of it lies on the border of the cube, where a normal's
quantiles are infinite."""


class AmortizedModel(LatentModel):
    """Base of the estimators whose posterior q(z | x) comes from an encoder.

    A subclass defines ``_objective`` by `_weighed`, and ``_has_posterior``: whether its training
    gives q a spread."""

    _architecture_names = (*LatentModel._architecture_names, "encoder", "latent", "covariance_type")
    _auto_steps, _auto_passes = 10_000, 100
    _validation_rows = 200

    @property
    def encoder_(self):
        """The fitted encoder, a torch module."""
        return self._module["encoder"]

    @property
    def latent_period_(self):
        """Period of the columns that `transform` returns: 1 on the torus, else None."""
        return 1.0 if self._built_with["latent"] == "torus" else None

    def transform(self, X):
        """Return the posterior means of the rows of X, by the encoder.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            On the torus the location of the wrapped posterior, in turns, [0, 1).
        """
        return self._locations(self._queried(X))

    def inverse_transform(self, Z):
        """Return the mean of p(x | z) at latent points.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            On the torus in turns, any real numbers.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32])
        if Z.shape[1] != self._n_features_out:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but inverse_transform expects "
                f"{self._n_features_out}. Give what transform returns."
            )
        return self._over_rows(Z, self._decoded_mean, 16 * self.n_features_in_)

    def reconstruct(self, X):
        """Return the decoded posterior means, ``inverse_transform(transform(X))``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        return self._over_rows(
            self._locations(self._queried(X)), self._decoded_mean, 16 * self.n_features_in_
        )

    def posterior(self, X):
        """Return location and covariance of the encoder's posterior q(z | x) of every row.

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
        self._check_has_posterior("posterior")
        X = self._queried(X)
        return self._locations(X), self._over_rows(
            X, lambda x: self._proposed(x).covariance(), 16 * X.shape[1]
        )

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
        _validation.check_number("threshold", threshold)
        z = torch.from_numpy(self._locations(self._queried(X)))
        variances = self._prior_of_fit.euclidean(z).var(0, correction=0)
        return (variances.reshape(-1, z.shape[1]).sum(0) > threshold).numpy()

    def score_samples(self, X, method="auto", n_importance_samples=1000, return_std=False):
        """Return an estimate of the log likelihood of every row, or with ``method="elbo"`` a lower
        bound on it, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        method : {"auto", "quadrature", "importance", "elbo"}, default="auto"
            "quadrature" is the log likelihood itself, over a lattice of `n_points_eval_` points,
            for up to three components. "importance" is the log mean of importance weights from the
            encoder's posterior: a lower bound in expectation, that rises to the log likelihood with
            the number of samples. "elbo" is the evidence lower bound, whatever `beta` and
            `objective` the training had. "auto" is quadrature for up to three components and
            importance sampling for more.
        n_importance_samples : int, default=1000
            Draws a row for "importance" and "elbo", the same noise for all rows; 5000 is the custom
            of the literature.
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
        _validation.check_option("method", method, METHODS)
        _validation.check_integer("n_importance_samples", n_importance_samples)
        few = self._n_features_out <= 3
        if method == "quadrature" and not few:
            raise ValueError(
                "method='quadrature' expects up to 3 components, but the model has "
                f"{self._n_features_out}. Use 'importance'."
            )
        if method == "quadrature" or (method == "auto" and few):
            return self._by_quadrature(X, return_std)
        self._check_has_posterior(f"method={method!r}")
        reduce = _bound if method == "elbo" else _estimate
        result = self._by_draws(X, n_importance_samples, reduce)
        return (result[:, 0], result[:, 1]) if return_std else result[:, 0]

    @property
    def _n_features_out(self):
        return self._built_with["n_components"]

    @property
    def _prior_of_fit(self):
        return self._prior(self._n_features_out)

    def _prior(self, n_components):
        return PRIORS[self._built_with["latent"]]

    def _resolved_order(self, n_rows):
        return super()._resolved_order(n_rows) if self.latent == "torus" else None

    def _parts(self, x):
        n_outputs = proposals.n_outputs(
            self.covariance_type, self.n_components, wrapped=self.latent == "torus"
        )
        return {
            "decoder": self._start_decoder(x.shape[1]),
            "encoder": self._start_encoder(x.shape[1], n_outputs),
            "likelihood": self._start_likelihood(x),
        }

    def _start_encoder(self, n_features, n_outputs):
        """Build the encoder from its name or factory, and check what it returns."""
        if callable(self.encoder):
            encoder = self.encoder(n_features, n_outputs)
        else:
            settings = {"hidden_layer_sizes": tuple(self.hidden_layer_sizes)}
            if self.encoder == "conv":
                _validation.check_image_shape(self.image_shape, n_features, "encoder")
                settings["image_shape"] = tuple(self.image_shape)
            encoder = ENCODERS[self.encoder](n_features, n_outputs, **settings)
        _validation.check_module("encoder", encoder, n_features, n_outputs)
        return encoder

    def _check_parameters(self):
        self._check_shared_parameters()
        _validation.check_option("encoder", self.encoder, ENCODERS, or_callable=True)
        _validation.check_option("latent", self.latent, PRIORS)
        _validation.check_option("covariance_type", self.covariance_type, proposals.FAMILIES)
        if self.latent == "torus" and self.n_components > 3:
            raise ValueError(
                f"latent='torus' expects 1, 2 or 3 components, but got {self.n_components}. Use "
                "latent='normal'."
            )

    def _check_has_posterior(self, what):
        check_is_fitted(self)
        if not self._has_posterior():
            raise ValueError(
                f"{what} expects a model that was trained with a posterior, but "
                f"objective={self._built_with['objective']!r} has none. "
                "Use objective='elbo' or 'infovae'."
            )

    def _proposal(self, outputs):
        """The posteriors that an encoder's outputs stand for."""
        built = self._built_with
        return proposals.proposal(
            built["covariance_type"],
            outputs,
            built["n_components"],
            wrapped=built["latent"] == "torus",
        )

    def _proposed(self, x):
        """The posteriors of rows, in their precision."""
        encoder, statistics = self.encoder_, self.likelihood_.statistics(x)
        weights = {
            name: value.to(x) if value.is_floating_point() else value
            for name, value in encoder.state_dict().items()
        }
        with matmul_precision("highest"):
            return self._proposal(torch.func.functional_call(encoder, weights, statistics))

    def _locations(self, X):
        """Where the posteriors of rows are, as an array whatever `transform` is set to return."""
        return self._over_rows(X, lambda x: self._proposed(x).loc, 16 * X.shape[1])

    def _weighed(self, module, x, n_draws, generator):
        """Propose for a batch and decode: the proposals, their points, and log p(x | z) of shape
        (n, s), with gradients.

        No draws mean the location itself.
        """
        encoder, decoder, likelihood = module["encoder"], module["decoder"], module["likelihood"]
        proposal = self._proposal(encoder(likelihood.statistics(x).to(next(encoder.parameters()))))
        z = (
            proposal.at(_noise((len(x), n_draws, proposal.n_noise), generator).to(proposal.loc))
            if n_draws
            else proposal.loc[:, None]
        )
        return proposal, z, likelihood.paired(x, _decoded(decoder, z))

    def _discrepancy(self, z, generator):
        """How far codes z of shape (n, k) are from the prior, by as many draws of it."""
        prior, generator = (
            self._prior_of_fit,
            torch.Generator().manual_seed(1) if generator is None else generator,
        )
        drawn = prior.quantile(torch.rand(z.shape, dtype=torch.float64, generator=generator)).to(z)
        return objectives.maximum_mean_discrepancy(prior.euclidean(z), prior.euclidean(drawn))

    def _by_draws(self, X, n_draws, reduce):
        """Reduce log p(x | z), with prior, proposals and points z, to an estimate and its standard
        error, of shape (n_samples, 2)."""

        def of_rows(x):
            proposal = self._proposed(x)
            z = proposal.at(_noise((n_draws, proposal.n_noise), None).to(x))
            parts = z.split(_DRAWS_CHUNK, 1)
            log_px_z = torch.cat(
                [
                    self.likelihood_.paired(x, _decoded(self._outputs_at, part).to(x))
                    for part in parts
                ],
                1,
            )
            return reduce(log_px_z, self._prior_of_fit, proposal, z)

        n_decoded, n_unwound = (
            min(n_draws, _DRAWS_CHUNK) * X.shape[1],
            n_draws * self._n_features_out,
        )
        if self._built_with["latent"] == "torus":
            n_unwound *= len(proposals.WINDINGS) ** self._n_features_out
        return self._over_rows(X, of_rows, 16 * max(n_decoded, n_unwound))

    def _by_quadrature(self, X, return_std):
        """Average the likelihood over the lattice that a fit found fine enough; the standard
        deviation over random shifts of it."""
        n_components, generator = self._n_features_out, torch.Generator().manual_seed(0)
        points = lattices.nested(n_components, self.n_points_eval_)
        nats = self._log_marginal(X, lattices.shifted(points, _SHIFT[:n_components]))
        if not return_std:
            return nats
        shifts = [lattices.random_shift(n_components, generator) for _ in range(_N_SHIFTS)]
        return nats, np.std(
            [self._log_marginal(X, lattices.shifted(points, shift)) for shift in shifts],
            axis=0,
            ddof=1,
        )

    def _log_marginal(self, X, u):
        """Average the likelihood of every row over points u of the cube, decoded a part of equal
        size at a time."""
        parts = []
        for part in u.split(_LATTICE_CHUNK):
            z, log_weight = self._prior_of_fit.nodes(part.to(self._device))
            chart = self._decode(z, factored=False)
            nats = self._over_rows(
                X,
                partial(self._mean_over, chart, log_weight),
                (len(part) + 3 * X.shape[1]) * X.itemsize,
            )
            parts.append(torch.from_numpy(nats))
        return objectives.log_mean_exp(torch.stack(parts, 1)).numpy()

    def _mean_over(self, chart, log_weight, x):
        likelihood = self.likelihood_
        return objectives.log_mean_exp(
            chart.relative(likelihood, x) + log_weight.to(x)
        ) + chart.offset(likelihood, x)

    def _check_finite(self, x):
        """Raise if the last step of a training left an encoder or a decoder that is not finite."""
        with torch.no_grad():
            proposal = self._proposed(x)
            z = proposal.loc[:, None]
            if not bool(proposal.log_prob(z).isfinite().all()):
                raise self._diverged("the encoder's output is not finite")
            self._decode(z[:, 0], factored=False)

    def _finish(self, x):
        """Find a lattice on which the likelihood has converged, by doubling it."""
        vars(self).pop("n_points_eval_", None)
        self._check_finite(x)
        n_components, X = self._n_features_out, x.cpu().numpy()
        if n_components > 3:
            return

        def nats(n_points, first):
            points = lattices.nested(n_components, n_points)[first:]
            return torch.from_numpy(
                self._log_marginal(X, lattices.shifted(points, _SHIFT[:n_components]))
            )

        n_points, change = _FEWEST_POINTS, np.inf
        settled = nats(n_points, 0)
        while change > _TOLERANCE and n_points < _MOST_POINTS:
            doubled = objectives.log_mean_exp(
                torch.stack([settled, nats(2 * n_points, n_points)], 1)
            )
            n_points, change, settled = (
                2 * n_points,
                float((doubled - settled).abs().mean()),
                doubled,
            )
        self.n_points_eval_ = n_points
        if self._has_posterior():
            _validation.warn_if_unsettled(change, _TOLERANCE, n_points)


def _noise(shape, generator):
    """Draw standard normal noise; the same each time without a generator."""
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(0) if generator is None else generator
    )


def _decoded(decoder, z):
    """Decode points of shape (n, s, k) to outputs of shape (n, s, d)."""
    return decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def _estimate(log_px_z, prior, proposal, z):
    log_w = log_px_z + prior.log_prob(z) - proposal.log_prob(z)
    return torch.stack([objectives.log_mean_exp(log_w), objectives.standard_error(log_w)], 1)


def _bound(log_px_z, prior, proposal, z):
    kl = proposal.kl(z)
    return torch.stack(
        [objectives.elbo(log_px_z, kl), objectives.standard_error_of_mean(log_px_z - kl)], 1
    )
