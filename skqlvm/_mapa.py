"""MAPAEmbedding: a decoder and a code for each training row, without an encoder."""

import numpy as np
import torch
from scipy.sparse import issparse

from . import _checks, _codes, _data, _neighbors, _parts
from ._empirical_queries import EmpiricalQueries
from ._estimator import LatentEstimator
from ._rows import random_seed
from .engine import empirical, kernels, priors


class MAPAEmbedding(EmpiricalQueries, LatentEstimator):
    """Embed data by a code for each training row, that distances between rows tie together.

    In place of a prior there are the codes z_i of the N training rows: ``p(x) = 1/N sum_i p(x |
    z_i)``. Which code explains a row is nearly known beforehand: that of a row close by, whatever
    the decoder is. These posteriors over indices are computed once, from distances between rows,
    and codes and decoder are trained together on the sum over the nearest neighbours and draws of
    the others: no encoder, and no prior in the way. Then a prior is fitted to the codes, and the
    model is one like any other.

    A simplified account of what is published; see `References`.

    Parameters
    ----------
    n_components : int, default=2
        Dimension of the latent space.
    likelihood : {"gaussian", "bernoulli", "categorical", "poisson", "negative_binomial"}, \
            default="gaussian"
        The observation model, as for `QLVMEmbedding`; or a factory of one of these. Rows have to be
        complete and dense.
    noise_variance : {"spherical", "diagonal"} or float, default="spherical"
        Noise of the Gaussian; other likelihoods ignore it. Learned, one for all features or one
        each, or fixed, in squared units of X.
    bandwidth : float or "auto", default="auto"
        Of the kernel ``exp(-|x - x'|^2 / (2 bandwidth))`` between rows, for a Gaussian in squared
        units of X. "auto" is twice the noise variance; where that is learned, twice the variance of
        rows around the tangents of their neighbours. For other likelihoods it is in coordinates in
        which "auto" is ``2^-(number of features that differ)`` for flags and categories, whose
        bandwidth is 0.72, and of counts a kernel between square roots, whose bandwidth is 0.5.
    n_neighbors : int, default=20
        Codes of most weight of each row that are summed over, K; the row's own is one of them.
    n_importance_samples : int, default=20
        Codes that are drawn for each row beside these, S; all rows of a batch share their draws.
    self_weight : {"raw", "expected"}, default="raw"
        Distance of a row from itself: 0, or that of another row of the same distribution, which is
        the expected one for a Gaussian and the nearest row's for others. With many features,
        distances grow beside 0, until a row knows its own code only; a fit warns of that.
    neighbors : estimator, optional
        What finds neighbours: anything with `fit` and ``kneighbors(X, n_neighbors)``, or a
        transformer of rows to a sparse graph of neighbours, approximate ones included. By default
        scikit-learn's ``NearestNeighbors``, which is exact. Distances are computed here.
    init : {"pca", "spectral", "random"}, default="pca"
        Where codes start: principal components, the eigenvectors of the graph of neighbours, or
        standard normal draws.
    prior : {"gaussian", "mixture", "kde"}, default="gaussian"
        What is fitted to the codes in the end: a normal; a mixture of up to 20 normals, as many as
        the Bayesian information criterion asks for; or a normal around each code.
    decoder : {"mlp", "conv"} or callable, default="mlp"
        A callable maps (n_components, n_features) to a torch module from latent points, of shape
        (m, n_components), to outputs of shape (m, n_features), where 0 is the mean of the data and
        1 their scale (logits for the Bernoulli).
    hidden_layer_sizes : tuple of int, default=(256, 256)
        Widths of built-in decoders.
    image_shape : tuple of int, optional
        (channels, height, width) of a row, for ``"conv"``; ignored by other networks.
    max_iter : int or "auto", default="auto"
        Passes over the data. "auto" is 50 passes, but at least 1000 and at most 1500 steps of the
        optimiser.
    batch_size : int or "auto", default="auto"
        Rows a step; "auto" is 128.
    learning_rate : float or "auto", default="auto"
        Largest step size of the one-cycle schedule; "auto" is 1e-2 for batches of 128 rows, more
        for larger ones.
    validation_fraction : float, default=0.1
        Part of the rows (2000 at most) held out to choose the best weights by: by their likelihood
        under all codes. They get no codes. 0 trains on everything and keeps the last weights.
    n_iter_no_change : int or None, default=12
        Validations without improvement, of which a fit makes about 24, after which training stops,
        if 100 rows or more are held out.
    matmul_precision : {"medium", "highest"}, default="medium"
        Precision of built-in networks' layers while training, as for `QLVMEmbedding`.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one.
    warm_start : bool, default=False
        Start `fit` from the weights of the last one, and from the codes that it gives to the rows.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    codes_ : ndarray of shape (n_codes, n_components)
        Codes of training rows, of mean 0 and covariance I.
    code_rows_ : ndarray of shape (n_codes,)
        Numbers of these rows in X, without rows held out or of weight 0.
    n_effective_neighbors_ : float
        ``1 / sum_i q_i^2`` of the cached weights of a typical row: 1 if it knows a single code.
    bandwidth_ : float
        Of the kernel between rows, in squared units of X for a Gaussian whose features are in one
        scale; else of the coordinates that distances are taken in.
    decoder_ : torch.nn.Module
    likelihood_ : skqlvm.engine.likelihoods.Likelihood
    noise_variance_ : float or ndarray of shape (n_features,)
        Noise of a Gaussian, in squared units of X.
    dispersion_ : ndarray
        Of a negative binomial, whose variance is ``mean + dispersion mean^2``, one a column.
    levels_ : dict
        Categories of the columns of a data frame that have some, in the order of their codes.
    n_points_eval_ : int
        Points of the lattice that scores use, up to three components.
    lattice_ : ndarray of shape (n_points_eval_, n_components)
        Latent points that the columns of `posterior` stand for; `aggregate_posterior_` has weights.
    history_ : dict of list
        "step", "loss" (minus the training bound in nats), "validation_loss" (NaN while no rows are
        held out), "seconds" and "validation_seconds" (of them) at each of some 24 records.
    n_iter_ : int
        Passes over the data, begun ones included, of the last `fit`.
    embedding_ : ndarray of shape (n_samples, n_components)
        What `fit_transform` returned, where that was called.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    References
    ----------
    Yacoby, Pan and Doshi-Velez, Towards model-agnostic posterior approximation for fast and
    accurate variational autoencoders, arXiv 2403.08941. The kernels and the shares of the proposal
    are not spelled out there, and are this package's.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skqlvm import MAPAEmbedding
    >>> X = load_digits().data / 16
    >>> model = MAPAEmbedding(likelihood="bernoulli", max_iter=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (1797, 2)
    """

    def __init__(
        self,
        n_components=2,
        *,
        likelihood="gaussian",
        noise_variance="spherical",
        bandwidth="auto",
        n_neighbors=20,
        n_importance_samples=20,
        self_weight="raw",
        neighbors=None,
        init="pca",
        prior="gaussian",
        decoder="mlp",
        hidden_layer_sizes=(256, 256),
        image_shape=None,
        max_iter="auto",
        batch_size="auto",
        learning_rate="auto",
        validation_fraction=0.1,
        n_iter_no_change=12,
        matmul_precision="medium",
        device="auto",
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            n_components,
            likelihood=likelihood,
            noise_variance=noise_variance,
            exposure=None,
            condition_columns=None,
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            matmul_precision=matmul_precision,
            device=device,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.bandwidth = bandwidth
        self.n_neighbors = n_neighbors
        self.n_importance_samples = n_importance_samples
        self.self_weight = self_weight
        self.neighbors = neighbors
        self.init = init
        self.prior = prior
        self.decoder = decoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.image_shape = image_shape

    _shaping = (*LatentEstimator._shaping, "decoder", "hidden_layer_sizes", "image_shape")
    _auto_steps, _auto_passes, _auto_learning_rate = (1000, 1500), 50, 1e-2
    _validation_rows = LatentEstimator._validation_rows
    _joins_held_out = False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.sparse = False
        return tags

    def _check_parameters(self):
        _parts.check_shared(self)
        _checks.check_integer("n_importance_samples", self.n_importance_samples)
        _neighbors.check(self)
        _checks.check_option("init", self.init, _codes.INITS)
        _checks.check_option("prior", self.prior, _codes.PRIORS)
        _checks.check_hidden_layer_sizes(self.hidden_layer_sizes)
        _parts.check_choice("decoder", self.decoder, _parts.DECODERS)

    def _validated(self, X, *, reset):
        if issparse(X):
            raise TypeError(
                "MAPAEmbedding expects a dense array, but got a sparse matrix. Use X.toarray()."
            )
        X = super()._validated(X, reset=reset)
        if _data.has_gaps(X):
            raise ValueError(
                "Input X contains NaN, but MAPAEmbedding expects complete rows: distances between "
                "them need all features. Impute them, or use QLVMEmbedding."
            )
        return X

    def _build(self, likelihood, n_rows, randomness):
        kernels.check_likelihood(likelihood)
        k = int(self.n_components)
        decoder = _parts.build_decoder(self, likelihood.n_outputs, None, randomness)
        return empirical.EmpiricalModel(k, priors.StandardNormal(), decoder, likelihood)

    def _objective(self, model, fit):
        """Find the neighbours of all trained rows, give each a code, and tie them together."""
        numbers = fit.trained.sort().values
        batch = fit.rows.batch(numbers)
        x, weight = batch.x.cpu(), batch.weight
        share = torch.ones(len(x), dtype=torch.float64) if weight is None else weight.cpu()
        log_share = (share / share.sum()).log()
        found = _neighbors.neighborhood(self, model.likelihood, x, log_share)
        model.hold(self._first_codes(model, x, found), log_share)
        effective = float(found.posterior.effective_neighbors().median())
        _neighbors.warn_if_alone(effective, self.self_weight)
        places = numbers.numpy()
        if fit.counted is not None:
            places = fit.counted[places]
        self._fitted_rows = {
            "code_rows_": places,
            "n_effective_neighbors_": effective,
            "bandwidth_": found.bandwidth,
        }
        device = fit.rows.device
        bound = empirical.IndexBound(
            model,
            found.posterior.to(device),
            int(self.n_neighbors),
            int(self.n_importance_samples),
        )
        place = torch.full((fit.rows.X.shape[0],), -1)
        place[numbers] = torch.arange(len(numbers))

        def nats(batch, generator):
            if generator is None:
                return model.log_empirical(batch.x)
            return bound(batch.x, place[batch.index].to(device), generator)

        return nats

    def _first_codes(self, model, x, found):
        """Codes to start from, (n, k): where a fitted model has the rows, or by `init`."""
        if self.__sklearn_is_fitted__() and hasattr(model, "slow_codes"):
            return torch.from_numpy(self._located(x.numpy()))
        near = found.posterior.neighbors[:, : int(self.n_neighbors)].numpy()
        seed, y = random_seed(self.random_state), found.coordinates.numpy()
        return torch.from_numpy(_codes.start(self.init, y, near, int(self.n_components), seed))

    def _finish(self, model, x, weight=None):
        """Standardise the codes, and fit a prior to them."""
        model.standardize()
        codes = model.codes.detach().cpu().numpy()
        log_share, seed = model.log_share.cpu().numpy(), random_seed(self.random_state)
        model.prior = _codes.fitted_prior(self.prior, codes.astype(np.float64), log_share, seed)
        found = {"codes_": codes.astype(np.float64), **self._fitted_rows}
        del self._fitted_rows
        return super()._finish(model, x, weight) | found
