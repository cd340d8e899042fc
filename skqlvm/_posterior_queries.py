"""What can be asked of posteriors over a lattice: how sure a coordinate is, and where rows lie."""

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from . import _checks, _data
from ._rows import as_tensor, random_seed
from .engine import posteriors, summaries
from .engine.precision import own_settings
from .engine.rows import entries

_KERNEL_BYTES = 64
"""Working memory of a lattice's point beside a point where the density is asked for."""


class PosteriorQueries:
    """Mixin of estimators whose posterior is known over the points `lattice_`.

    A subclass defines ``_quadrature_points()``, these points with their weights;
    ``_log_weights(X)``, the function from rows of X to log weights over them; ``_row_bytes(X)``;
    and where it has no lattice ``_check_posterior(what)``, which raises.
    """

    def posterior(self, X, top=None):
        """Return the posterior probabilities of the points of `lattice_`; rows sum to 1.

        They are the model's own, p(z | x) by quadrature. Where a posterior is narrower than the
        lattice they are those of the lattice's points alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        top : int, optional
            Only this many largest probabilities of each row. They are still those among all points,
            so that a row sums to less than 1.

        Returns
        -------
        ndarray of shape (n_samples, n_points), or csr_array with `top`

        Raises
        ------
        ValueError
            If the model has more than three components.
        """
        X = self._queried(X)
        self._check_posterior("posterior")

        log_weights = self._log_weights(X)

        def weights(x):
            return posteriors.responsibilities(log_weights(x))

        if top is None:
            return self._over_rows(X, weights, self._row_bytes(X))
        _checks.check_integer("top", top)
        n_points = len(self.lattice_)
        top = min(int(top), n_points)

        def largest(x):
            values, index = weights(x).topk(top, 1)
            index, order = index.sort(1)
            return values.gather(1, order), index

        with own_settings(gradients=False):
            parts = [largest(x) for x in self._chunks(X, self._row_bytes(X))]
        values, index = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        edges = np.arange(0, values.size + 1, top)
        return csr_array((values.ravel(), index.ravel(), edges), shape=(len(values), n_points))

    def posterior_summary(self, X):
        """Return where each row lies, how sure that is, and how much the row says.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Bunch or DataFrame
            With ``set_output(transform="pandas")``, on the estimator or for all of scikit-learn, a
            table with a row for each of X and columns such as ``mean_0``. Else a dict of arrays:

            mean, mode, std : ndarray of shape (n_samples, n_components)
                On the torus the circular mean, the most probable point, and the circular standard
                deviation ``sqrt(-2 log R) / (2 pi)`` by the resultant length R, all in turns.
                Else the mean, the point of largest density, and the standard deviation.
            entropy : ndarray of shape (n_samples,)
                Differential entropy relative to the prior in nats, ``-KL(p(z | x) || p(z))``: 0 for
                a row that says nothing, and lower the more it says. It does not depend on the
                lattice.
            effective_points : ndarray of shape (n_samples,)
                ``1 / sum_j w_j^2``: how many points of `lattice_` carry the posterior. Near 1, it
                is narrower than the lattice.
            largest_weight : ndarray of shape (n_samples,)
                The largest of the `posterior` probabilities.

            Where a posterior of `QLVMEmbedding` is narrower than its lattice, all but the last two
            are by lattices around its peaks; not with `transformations`.

        Raises
        ------
        ValueError
            If the model has more than three components.
        """
        checked = self._queried(X)
        self._check_posterior("posterior_summary")
        posteriors_of = self._posteriors(checked, self._quadrature_points())

        def summarised(x):
            found = summaries.summary(posteriors_of(x))
            return torch.cat([part.view(len(x), -1) for part in found], 1)

        table = self._over_rows(checked, summarised, 4 * self._row_bytes(checked))
        k, container = self._model.n_components, _data.output_of(self)
        if container == "default":
            located = zip(_LOCATED, np.split(table[:, : 3 * k], 3, 1), strict=True)
            return Bunch(**dict(located), **dict(zip(_NUMBERS, table[:, 3 * k :].T, strict=True)))
        names = [f"{name}_{i}" for name in _LOCATED for i in range(k)]
        return _data.labelled(X, table, [*names, *_NUMBERS], container)

    def sample_posterior(self, X, n_samples=1, random_state=None):
        """Draw latent points from the posterior of every row.

        A point of `lattice_` by its probability, and then a point that is uniform in its cell, so
        that draws are not confined to the lattice. Around the peaks of posteriors of
        `QLVMEmbedding` that are narrower than it, points of the local lattices and their cells; not
        with `transformations`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_samples : int, default=1
            Draws a row.
        random_state : int, RandomState or None, default=None

        Returns
        -------
        ndarray of shape (n_rows, n_samples, n_components)
            On the torus in turns, [0, 1).

        Raises
        ------
        ValueError
            If the model has more than three components.
        """
        X = self._queried(X)
        self._check_posterior("sample_posterior")
        _checks.check_integer("n_samples", n_samples)
        generator = torch.Generator().manual_seed(random_seed(random_state))
        posteriors_of = self._posteriors(X, self._quadrature_points())

        def drawn(x):
            return summaries.sample(posteriors_of(x), int(n_samples), generator).to(entries(x))

        row_bytes = 4 * self._row_bytes(X) + 64 * int(n_samples)
        return self._over_rows(X, drawn, row_bytes)

    def credible_region(self, X, level=0.9, return_area=False):
        """Return the smallest set of points of `lattice_` that has a share of the posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        level : float, default=0.9
            The share, between 0 and 1.
        return_area : bool, default=False
            Also return how much of the latent space it is.

        Returns
        -------
        region : ndarray of bool of shape (n_samples, n_points)
        area : ndarray of shape (n_samples,)
            The prior probability of the region, as quadrature has it: on the torus the fraction of
            its points. Only if `return_area`.

        Raises
        ------
        ValueError
            If the model has more than three components.
        """
        X = self._queried(X)
        self._check_posterior("credible_region")
        _checks.check_number("level", level, below=1.0, open_minimum=True)
        _checks.check_flag("return_area", return_area)

        log_weights = self._log_weights(X)

        def inside(x):
            return posteriors.credible(posteriors.responsibilities(log_weights(x)), level)

        region = self._over_rows(X, inside, 4 * self._row_bytes(X))
        if not return_area:
            return region
        with own_settings(gradients=False):
            share = torch.softmax(self._quadrature_points().log_weight, 0).cpu().numpy()
        return region, region @ share

    def aggregate_posterior(self, X):
        """Return the mean of the posteriors of the rows of X: where in the latent space they lie.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_points,)
            Over `lattice_`; sums to one.

        Raises
        ------
        ValueError
            If the model has more than three components.
        """
        X = self._queried(X)
        self._check_posterior("aggregate_posterior")
        log_weights = self._log_weights(X)
        with own_settings(gradients=False):
            parts = [
                posteriors.responsibilities(log_weights(x)).double().sum(0).cpu().numpy()
                for x in self._chunks(X, self._row_bytes(X))
            ]
        return np.sum(parts, axis=0) / X.shape[0]

    def density(self, Z, X=None):
        """Return how densely rows lie at latent points: the aggregated posterior as a density.

        A mixture of bumps at the points of `lattice_`, von Mises distributions whose standard
        deviation is the lattice's spacing, by the weights `aggregate_posterior_`. It integrates
        to one over the latent space.

        Parameters
        ----------
        Z : array-like of shape (n_points, n_components)
            On the torus in turns, any real numbers.
        X : array-like of shape (n_samples, n_features), optional
            Rows whose density is asked for; those of the fit by default.

        Returns
        -------
        ndarray of shape (n_points,)
            On the torus relative to the uniform prior, and per turn in each dimension.

        Raises
        ------
        ValueError
            If the model has more than three components.
        """
        check_is_fitted(self)
        self._check_posterior("density")
        Z = self._points(Z, self._model.n_components, "density")
        weights = self.aggregate_posterior_ if X is None else self.aggregate_posterior(X)
        points = self._quadrature_points()
        weights = as_tensor(weights, points.u.device)
        row_bytes = _KERNEL_BYTES * len(weights)
        return self._over_rows(
            Z, lambda z: summaries.density(points, weights, z), row_bytes, name="Z"
        )

    def _check_posterior(self, what):
        """Raise if there is no lattice."""

    def _posteriors(self, X, points):
        """Return the function from rows of X to all that is known of their posteriors."""
        log_weights = self._log_weights(X)

        def of_rows(x):
            log_w = log_weights(x)
            return summaries.Posterior(points, log_w, torch.logsumexp(log_w, 1), [])

        return of_rows


_LOCATED, _NUMBERS = summaries.Summary._fields[:3], summaries.Summary._fields[3:]
