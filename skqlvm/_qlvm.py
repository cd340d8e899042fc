"""QLVMEmbedding: a decoder on a torus, trained on the marginal likelihood by randomly shifted
lattice rules."""

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted

from . import _readouts, _validation
from ._base import LatentModel
from ._tensors import as_tensor
from .engine import lattices, objectives, posteriors, priors

_N_POINTS = {1: 233, 2: 987, 3: 2039}
_N_POINTS_EVAL = {1: 2584, 2: 6765, 3: 8191}
_N_SHIFTS, _TRAINING_BYTES = 8, 2**30


class QLVMEmbedding(LatentModel):
    """Embed data on a torus of one to three dimensions by a quasi-Monte Carlo latent variable
    model.

    A decoder maps a latent point z, uniform on the torus, to the parameters of p(x | z). It is
    trained on the marginal likelihood itself, ``log p(x) = log int p(x | z) dz``, whose integral is
    a randomly shifted lattice rule: no encoder, no variational bound. The posterior of a row is its
    likelihood over the lattice, normalised.

    Parameters
    ----------
    n_components : {1, 2, 3}, default=2
        Dimension of the torus.
    n_points : int or "auto", default="auto"
        Size of the training lattice. More points tighten the bound and cost time in proportion.
        "auto" is 233, 987 or 2039 points in one, two or three dimensions.
    likelihood : {"gaussian", "bernoulli"} or callable, default="gaussian"
        The observation model. "bernoulli" needs data in [0, 1]; on grey levels it is a
        cross-entropy. A callable maps n_features to a `skqlvm.engine.likelihoods.Likelihood`.
    noise_variance : {"spherical", "diagonal"} or float, default="spherical"
        Of the Gaussian: learned, one for all features or one each, or fixed, in squared units of X.
    decoder : {"mlp", "conv"} or callable, default="mlp"
        A callable maps (n_components, n_features) to a torch module from torus coordinates in
        turns, of shape (m, n_components), to outputs of shape (m, n_features), where 0 is the mean
        of the data and 1 their scale (logits for the Bernoulli).
    hidden_layer_sizes : tuple of int, default=(256, 256)
        Of the built-in decoders.
    harmonic_order : int or "auto", default="auto"
        Highest total order of the harmonics of the torus that the built-in decoders start from,
        coarse ones first, and that ``output="moments"`` returns. Order 1 is the paper's basis; low
        orders give smooth maps. "auto" has a harmonic for every 25 rows, and goes to order 14 at
        most (6 in three dimensions).
    image_shape : tuple of int, optional
        (channels, height, width) of a row, for ``decoder="conv"``.
    max_iter : int or "auto", default="auto"
        Passes over the data. "auto" is 50 passes but at most 2500 steps of the optimiser, so that
        the cost of a fit does not grow with the number of rows once there are many.
    batch_size : int, default=128
        Rows a step.
    learning_rate : float, default=4e-3
        Largest step size of the one-cycle schedule.
    weight_decay : float, default=0.0
        Decoupled decay of the decoder's weight matrices.
    validation_fraction : float, default=0.1
        Part of the rows (2000 at most) held out to choose the best weights by. 0 trains on
        everything and keeps the last weights.
    n_iter_no_change : int or None, default=20
        Validations without improvement, of which a fit makes about 60, after which training stops.
    n_points_eval : int or "auto", default="auto"
        Size of the lattice for everything after the fit; the same for all training lattices, so
        that their scores compare. "auto" is 2584, 6765 or 8191 points in one, two or three
        dimensions.
    embedding : {"local", "mean", "mode"}, default="local"
        What `transform` reads off the posterior: the mean of its dominant mode, its circular mean,
        or its most probable lattice point.
    output : {"turns", "cartesian", "moments"}, default="turns"
        What `transform` returns: coordinates in turns, [0, 1); their cosines and then their sines,
        for Euclidean methods; or posterior means of all harmonics up to `harmonic_order`, which
        keep what a point cannot.
    matmul_precision : {"highest", "high", "medium"}, default="medium"
        Of the inputs of matrix products while training; see ``torch.set_float32_matmul_precision``.
        At "medium" built-in decoders also round their layers' results to bfloat16 where the device
        multiplies it. All inference is in float32 or better.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one.
    warm_start : bool, default=False
        Start `fit` from the weights of the last one, with all harmonics open.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    lattice_ : ndarray of shape (n_points_eval, n_components)
        The evaluation lattice, in turns: the points that the columns of `posterior` stand for.
    decoder_ : torch.nn.Module
    likelihood_ : skqlvm.engine.likelihoods.Likelihood
    noise_variance_ : float or ndarray of shape (n_features,)
        Of a Gaussian, in squared units of X.
    harmonic_order_ : int
    history_ : dict of list
        "step", "loss" (minus the training bound in nats), "validation_loss" and "seconds" at every
        validation.
    n_iter_ : int
        Passes over the data, begun ones included.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    References
    ----------
    Martinez and Williams, Quasi Monte Carlo methods enable extremely low-dimensional deep
    generative models, arXiv 2601.18676.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skqlvm import QLVMEmbedding
    >>> X = load_digits().data / 16
    >>> model = QLVMEmbedding(n_points=89, max_iter=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (1797, 2)
    """

    def __init__(
        self,
        n_components=2,
        *,
        n_points="auto",
        likelihood="gaussian",
        noise_variance="spherical",
        decoder="mlp",
        hidden_layer_sizes=(256, 256),
        harmonic_order="auto",
        image_shape=None,
        max_iter="auto",
        batch_size=128,
        learning_rate=4e-3,
        weight_decay=0.0,
        validation_fraction=0.1,
        n_iter_no_change=20,
        n_points_eval="auto",
        embedding="local",
        output="turns",
        matmul_precision="medium",
        device="auto",
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.n_points = n_points
        self.likelihood = likelihood
        self.noise_variance = noise_variance
        self.decoder = decoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.harmonic_order = harmonic_order
        self.image_shape = image_shape
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_points_eval = n_points_eval
        self.embedding = embedding
        self.output = output
        self.matmul_precision = matmul_precision
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

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
        X = self._queried(X)
        _readouts.check(self)
        return self._from_posterior(
            X,
            lambda weights, points: _readouts.embed(
                weights, points, self.embedding, self.output, self._order
            ),
        )

    def inverse_transform(self, Z):
        """Return the mean of p(x | z) at points of the torus.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_columns)
            What `transform` returns; angles may be any real numbers.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32])
        _readouts.check_columns(Z, self.output, self._n_features_out)
        return self._over_rows(
            _readouts.turns(Z, self.output, self.lattice_.shape[1]),
            self._decoded_mean,
            16 * self.n_features_in_,
        )

    def reconstruct(self, X):
        """Return the posterior mean of the decoded data, ``E[f(z) | x]``, the best reconstruction
        in squared error.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        X = self._queried(X)
        mean = as_tensor(
            self._over_rows(self.lattice_, self._decoded_mean, 16 * self.n_features_in_),
            self._device,
        )
        return self._from_posterior(
            X, lambda weights, points: posteriors.moments(weights, mean.to(weights))
        )

    def posterior(self, X):
        """Return the posterior probabilities of the points of `lattice_` for every row; rows sum to
        1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_points_eval)
        """
        return self._from_posterior(self._queried(X), lambda weights, points: weights)

    def score_samples(self, X, return_std=False):
        """Return the log marginal likelihood of every row, in nats, by quadrature over the
        evaluation lattice.

        ``log 1/m sum_j p(x | z_j)``: a log mean exp, comparable between lattices of any size.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard error of the quadrature: the standard deviation of the result
            over 8 independent random shifts of the lattice. Each shift is decoded anew.

        Returns
        -------
        nats : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            Only if `return_std`.
        """
        X = self._queried(X)
        nats = self._nats(X, self._atlas)
        if not return_std:
            return nats
        generator = torch.Generator().manual_seed(0)
        shifts = [
            lattices.random_shift(self.lattice_.shape[1], generator) for _ in range(_N_SHIFTS)
        ]
        shifted = [
            self._nats(X, self._decode(lattices.shifted(self._atlas.points, shift)))
            for shift in shifts
        ]
        return nats, np.std(shifted, axis=0, ddof=1)

    @property
    def latent_period_(self):
        """Period of the columns that `transform` returns: 1 for turns, else None."""
        return 1.0 if self.output == "turns" else None

    @property
    def _order(self):
        return self.harmonic_order_ if self.harmonic_order == "auto" else self.harmonic_order

    @property
    def _n_features_out(self):
        _readouts.check(self)
        return _readouts.n_columns(self.output, self.lattice_.shape[1], self._order)

    def _from_posterior(self, X, function):
        """Apply a function of responsibilities and points to all rows of X, a table of
        log-likelihoods at a time."""

        def of_rows(x):
            weights = posteriors.responsibilities(self._atlas.relative(self.likelihood_, x))
            return function(weights, self._atlas.points.to(weights))

        return self._over_rows(X, of_rows, (len(self.lattice_) + 3 * X.shape[1]) * X.itemsize)

    def _nats(self, X, atlas):
        """Quadrature of every row over one decoded lattice."""

        def of_rows(x):
            return objectives.log_mean_exp(atlas.relative(self.likelihood_, x)) + atlas.offset(
                self.likelihood_, x
            )

        return self._over_rows(X, of_rows, (len(self.lattice_) + 3 * X.shape[1]) * X.itemsize)

    def _outputs_at(self, z):
        """Decode points of any dtype, in as many parts as training needed."""
        return torch.cat(
            [super(QLVMEmbedding, self)._outputs_at(part) for part in z.split(self._chunk_size)]
        )

    def _check_parameters(self):
        self._check_shared_parameters()
        if self.n_components > 3:
            raise ValueError(
                f"n_components expects 1, 2 or 3, but got {self.n_components}: the points that a "
                "lattice needs grow exponentially with its "
                "dimension. Use VAEEmbedding for more components."
            )
        _validation.check_integer("n_points", self.n_points, alternative="auto")
        _validation.check_integer("n_points_eval", self.n_points_eval, alternative="auto")
        _readouts.check(self)

    def _prior(self, n_components):
        return priors.UniformTorus()

    def _parts(self, x):
        return {"decoder": self._start_decoder(x.shape[1]), "likelihood": self._start_likelihood(x)}

    def _objective(self, module, x):
        n_points = _N_POINTS[self.n_components] if self.n_points == "auto" else self.n_points
        decoder, likelihood = module["decoder"], module["likelihood"]
        points, like = lattices.lattice(self.n_components, n_points), next(decoder.parameters())

        def loss(x, generator):
            z = points
            if generator is not None:
                z = lattices.shifted(points, lattices.random_shift(self.n_components, generator))
            return -objectives.lattice_bound(
                lambda z: likelihood.table(x, decoder(z)), z.to(like), self._chunk_size
            ).mean()

        self._chunk_size = objectives.affordable_points(
            lambda z: likelihood.table(x, decoder(z)), points.to(like), _TRAINING_BYTES
        )
        return loss

    def _finish(self, x):
        """Decode the evaluation lattice; warn if the posteriors of some rows are finer than it."""
        n_points = (
            _N_POINTS_EVAL[self.n_components]
            if self.n_points_eval == "auto"
            else self.n_points_eval
        )
        points = lattices.lattice(self.n_components, n_points)
        self.lattice_ = points.numpy()
        self._atlas = self._decode(points)
        with torch.no_grad():
            weights = posteriors.responsibilities(self._atlas.relative(self.likelihood_, x))
            effective = float(posteriors.effective_points(weights).median())
        _validation.warn_if_coarse(effective, n_points)
