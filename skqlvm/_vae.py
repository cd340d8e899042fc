"""VAEEmbedding: a decoder with an encoder, trained on the evidence lower bound."""

from typing import NamedTuple

import torch

from . import _checks
from ._encoder_queries import SHAPING, EncoderQueries
from ._estimator import LatentEstimator
from .engine import objectives


class Objective(NamedTuple):
    """What a training objective adds to the reconstruction."""

    draws: bool
    kl: bool
    mmd: bool


OBJECTIVES = {
    "elbo": Objective(draws=True, kl=True, mmd=False),
    "autoencoder": Objective(draws=False, kl=False, mmd=False),
    "wae_mmd": Objective(draws=False, kl=False, mmd=True),
    "infovae": Objective(draws=True, kl=True, mmd=True),
}


class VAEEmbedding(EncoderQueries, LatentEstimator):
    """Embed data by a variational autoencoder, or one of its relatives, and score it fairly.

    An encoder proposes a normal posterior q(z | x) for each row, a decoder maps its draws to the
    parameters of p(x | z), and both are trained on the evidence lower bound ``E_q[log p(x | z)] -
    KL(q || p)``. Decoders, likelihoods and training are those of `QLVMEmbedding`, and in up to
    three dimensions so is the score: the marginal likelihood by quadrature, not the bound.

    Parameters
    ----------
    n_components : int, default=2
        Dimension of the latent space.
    covariance_type : {"diagonal", "low_rank", "full"}, default="diagonal"
        Covariance of q(z | x): independent coordinates, these plus one common factor, or any.
    latent : {"normal", "torus"}, default="normal"
        A standard normal prior, or the torus of `QLVMEmbedding` with its uniform prior and a normal
        posterior wound around it, in up to three dimensions.
    objective : {"elbo", "autoencoder", "wae_mmd", "infovae"}, default="elbo"
        Reconstruction less ``beta`` times KL(q || p), less nothing, less ``mmd_weight`` times the
        maximum mean discrepancy between codes and prior, or less both. "autoencoder" and "wae_mmd"
        decode the encoder's mean, and leave no posterior.
    beta : float, default=1.0
        Weight of the divergence; above 1 it is a beta-VAE. Ignored by objectives without it.
    mmd_weight : float, default=100.0
        Weight of the discrepancy, in nats; ignored by objectives without it.
    likelihood : str, dict or callable, default="gaussian"
        A name, "auto", a dict of columns, or a factory, as for `QLVMEmbedding`.
    noise_variance : {"spherical", "diagonal"} or float, default="spherical"
        Noise of the Gaussian; other likelihoods ignore it. Learned, one for all features or one
        each, or fixed, in squared units of X.
    exposure : "total", str or int, optional
        How much of a row was counted: a column of X, or its total; as for `QLVMEmbedding`.
    condition_columns : str, int or list of these, optional
        Columns of X that encoder and decoder are told and do not model, as for `QLVMEmbedding`.
    encoder : {"mlp", "conv"} or callable, default="mlp"
        A callable maps (n_features, n_outputs) to a torch module from data, standardised for the
        Gaussian, of shape (n, n_features) to what shapes the posteriors, of shape (n, n_outputs).
        It has to run in float32 and float64.
    decoder : {"mlp", "conv"} or callable, default="mlp"
        A callable maps (n_components, n_features) to a torch module from latent points, of shape
        (m, n_components), to outputs of shape (m, n_features), where 0 is the mean of the data and
        1 their scale (logits for the Bernoulli).
    hidden_layer_sizes : tuple of int, default=(256, 256)
        Widths of built-in encoders and decoders.
    harmonic_order : int or "auto", default="auto"
        Highest order of the harmonics that decoders on the torus start from, as for
        `QLVMEmbedding`.
    image_shape : tuple of int, optional
        (channels, height, width) of a row, for ``"conv"``; ignored by other networks.
    max_iter : int or "auto", default="auto"
        Passes over the data. "auto" is 100 passes, but at least 1000 and at most 10,000 steps of
        the optimiser.
    batch_size : int or "auto", default="auto"
        Rows a step; "auto" is 128.
    learning_rate : float or "auto", default="auto"
        Largest step size of the one-cycle schedule; "auto" is 4e-3 for batches of 128 rows, more
        for larger ones.
    validation_fraction : float, default=0.1
        Part of the rows (2000 at most) held out to choose the best weights by; 100 or more of them
        are trained on in the last quarter of a fit that goes well. 0 trains on everything, keeps
        the last weights, and draws learned noise towards the data's variance as 20 rows would.
    n_iter_no_change : int or None, default=12
        Validations without improvement, of which a fit makes about 24, after which training stops,
        if 100 rows or more are held out.
    matmul_precision : {"medium", "highest"}, default="medium"
        Precision of built-in networks' layers while training, as for `QLVMEmbedding`.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one.
    warm_start : bool, default=False
        Start `fit` from the weights of the last one.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    decoder_, encoder_ : torch.nn.Module
    likelihood_ : skqlvm.engine.likelihoods.Likelihood
    noise_variance_ : float or ndarray of shape (n_features,)
        Noise of a Gaussian, in squared units of X; of mixed columns not a number for the others.
    dispersion_ : ndarray
        Of a negative binomial, whose variance is ``mean + dispersion mean^2``, one a column.
    levels_ : dict
        Categories of the columns of a data frame that have some, in the order of their codes.
    n_points_eval_ : int
        Points of the lattice that scores use: doubled until they changed by less than 0.01 nats a
        row. Up to three components only.
    lattice_ : ndarray of shape (n_points_eval_, n_components)
        Latent points that the columns of `posterior` stand for; `aggregate_posterior_` has weights.
    history_ : dict of list
        "step", "loss" (minus the training objective in nats), "validation_loss" (NaN while no rows
        are held out), "seconds" and "validation_seconds" (of them) at each of some 24 records of
        the last `fit`, or of all calls of `partial_fit` since the last `fit`.
    n_iter_ : int
        Passes over the data, begun ones included, of the last `fit`; and those of `partial_fit`
        since.
    embedding_ : ndarray of shape (n_samples, n_components)
        What `fit_transform` returned, where that was called.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    References
    ----------
    Kingma and Welling, Auto-encoding variational Bayes, arXiv 1312.6114. Higgins et al., beta-VAE,
    ICLR 2017. Tolstikhin et al., Wasserstein auto-encoders, arXiv 1711.01558. Zhao et al., InfoVAE,
    arXiv 1706.02262.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skqlvm import VAEEmbedding
    >>> X = load_digits().data / 16
    >>> model = VAEEmbedding(max_iter=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (1797, 2)
    """

    def __init__(
        self,
        n_components=2,
        *,
        covariance_type="diagonal",
        latent="normal",
        objective="elbo",
        beta=1.0,
        mmd_weight=100.0,
        likelihood="gaussian",
        noise_variance="spherical",
        exposure=None,
        condition_columns=None,
        encoder="mlp",
        decoder="mlp",
        hidden_layer_sizes=(256, 256),
        harmonic_order="auto",
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
            exposure=exposure,
            condition_columns=condition_columns,
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
        self.covariance_type = covariance_type
        self.latent = latent
        self.objective = objective
        self.beta = beta
        self.mmd_weight = mmd_weight
        self.encoder = encoder
        self.decoder = decoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.harmonic_order = harmonic_order
        self.image_shape = image_shape

    _shaping = (*LatentEstimator._shaping, *SHAPING, "objective")

    def _has_posterior(self):
        return OBJECTIVES[self._built_with["objective"]].draws

    def _check_parameters(self):
        self._check_encoder_parameters()
        _checks.check_option("objective", self.objective, OBJECTIVES)
        _checks.check_number("beta", self.beta)
        _checks.check_number("mmd_weight", self.mmd_weight)

    def _objective(self, model, fit):
        terms, beta, mmd_weight = (
            OBJECTIVES[self.objective],
            float(self.beta),
            float(self.mmd_weight),
        )

        def nats(batch, generator):
            generator = generator or torch.Generator().manual_seed(0)
            drawn = model.draw(batch.x, int(terms.draws), generator)
            kl = drawn.proposal.kl(drawn.z) if terms.kl else 0
            bound = objectives.elbo(drawn.log_px_z, kl, beta) + drawn.base
            if not terms.mmd:
                return bound
            return bound - mmd_weight * objectives.discrepancy(
                drawn.z[:, 0], model.prior, generator, batch.weight
            )

        return nats
