"""DVPVAE: a ladder of latent images under a diffusion model of what images look like from afar."""

import copy
from dataclasses import replace
from math import log

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from . import _checks, _image_parts
from ._image_queries import ImageQueries
from ._trained import TrainedEstimator
from .engine import optimizers
from .engine.hierarchy.noise import uniform

_LARGEST_START = 50_000
"""Rows whose contexts are looked at before a fit."""

_LAST_STEP = 1e-3
"""Step size at the end of a fit, as a fraction of the largest."""

_WARMING_PASSES, _WARMING = 2, 0.1
"""Passes over which the step size rises, and the largest fraction of a fit that they may be."""


class DVPVAE(ImageQueries, TrainedEstimator):
    """Model images by a hierarchical autoencoder whose prior is told what they look like from afar.

    Latent images at several resolutions, each conditioned on all coarser ones, are encoded and
    decoded by one ladder of convolutions. Their prior is conditioned on a *context* u: some
    coefficients of a fixed linear map of the image, such as its lowest frequencies, whose density
    is a diffusion model. All of it is trained at once, on a bound on log p(x).

    Parameters
    ----------
    image_shape : tuple of int, optional
        (channels, height, width) of the image that a row of X is, flattened in that order. None is
        one line of all features, (1, 1, n_features).
    latents_per_scale : tuple of int, default=(0, 4, 4)
        Latent images at the full resolution, at half of it, a quarter, and so on. Heights and
        widths have to be divisible by 2 as often.
    channels : int, default=32
        Width of encoder and decoder.
    bottleneck : float, default=1.0
        Part of the channels that 3 x 3 convolutions have.
    blocks_per_scale : int, default=3
        Blocks of the encoder before each halving.
    aggregation : bool, default=True
        Let p(x | z) depend on the mean of all latent images, and on nothing else, so that none of
        them is left out; else on the state that they leave at the end of the ladder.
    context : {"dct", "downsample", "pca"} or None, default="dct"
        The lowest frequencies of the discrete cosine transform, means of cells of a grid, or
        principal components. None is the plain ladder, without a diffusion model.
    context_size : int, default=7
        Height and width of the context, which has as many channels as the image.
    gamma_min, gamma_max : float, default=-6.0 and 7.0
        Logarithm of the ratio of noise to signal at the two ends of the diffusion.
    context_log_variance : tuple of float, default=(-12.0, -3.0, 0.0)
        Smallest, first and largest log variance of a context given its image, which is learned for
        each of its numbers. The paper's is (-12, gamma_min, -5): contexts that are so exact cost
        many nats, which short fits do not win back.
    diffusion_channels : int, default=16
        Width of the network that sees the noise.
    diffusion_blocks : int, default=2
        Its residual blocks.
    diffusion_dropout : float, default=0.0
        What it drops of its numbers in training.
    n_diffusion_steps : int, default=25
        Steps from noise to a context when one is drawn, and for ``method="importance"``.
    likelihood : {"bernoulli", "logistic_mixture"}, default="bernoulli"
        Of X in [0, 1]: independent coins, or mixtures of logistics for grey levels k / 255, of
        which the channels of a pixel depend on each other.
    n_mixtures : int, default=10
        Logistics a pixel.
    binarize : bool, default=True
        With "bernoulli" take a value of X for the probability of a one: training draws binary
        images anew in each pass, and the model is one of binary images, whose nats they are. Rows
        of zeros and ones are what they are. With False the values themselves are seen and fitted;
        on grey levels this is a cross-entropy, that compares with nothing but itself.
    output : {"means", "context"}, default="means"
        What `transform` returns, and `inverse_transform` takes. May be changed after a fit.
    max_iter : int or "auto", default="auto"
        Passes over the data. "auto" is 50 passes, but at least 500 and at most 20,000 steps of the
        optimiser.
    batch_size : int or "auto", default="auto"
        Rows a step; "auto" is 64, or 128 or 256 where a pass has ten such steps or more.
    learning_rate : float, default=1e-2
        Largest step size of Adamax; it rises over the first two passes, and falls along a cosine.
    ema : float or None, default=0.999
        What the running mean of weights keeps of itself at a step, less at first. This mean is
        validated and kept. None keeps the weights themselves.
    max_grad_norm : float, default=5.0
        Gradients longer than this are shortened, those of the loss in bits per dimension.
    validation_fraction : float, default=0.1
        Part of the rows (2000 at most) held out to choose the best weights by; 100 or more of them
        are trained on in the last quarter of a fit that goes well. 0 trains on everything, and
        keeps the last weights.
    n_iter_no_change : int or None, default=12
        Validations without improvement, of which a fit makes about 24, after which training stops,
        if 100 rows or more are held out.
    matmul_precision : {"medium", "highest"}, default="medium"
        "medium" lets the ladder's convolutions run in bfloat16 while training, where the processor
        or GPU does so natively.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one.
    warm_start : bool, default=False
        Start `fit` from the weights of the last one.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    likelihood_ : skqlvm.engine.likelihoods.Likelihood
    image_shape_ : tuple of int
        (channels, height, width).
    latent_shapes_ : list of tuple of int
        (channels, height, width) of each latent image, coarsest first.
    context_shape_ : tuple of int, or None
    history_ : dict of list
        "step", "loss" (minus the training objective, in *bits per dimension*: nats over
        ``n_features log 2``), "validation_loss" (NaN while no rows are held out), "seconds" and
        "validation_seconds" (of them) at each of some 24 records of the last `fit`, or of all calls
        of `partial_fit` since the last `fit`.
    n_iter_ : int
        Passes over the data, begun ones included, of the last `fit`; and those of `partial_fit`
        since.
    embedding_ : ndarray of shape (n_samples, n_columns)
        What `fit_transform` returned, where that was called.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    Notes
    -----
    Queries compute in the precision of X: float32 rows take half the time of float64 ones.

    References
    ----------
    Kuzina and Tomczak, Hierarchical VAE with a diffusion-based VampPrior, arXiv 2412.01373.
    Sonderby et al., Ladder variational autoencoders, arXiv 1602.02282. Kingma et al., Variational
    diffusion models, arXiv 2107.00630.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skqlvm import DVPVAE
    >>> X = load_digits().data / 16
    >>> small = {"channels": 4, "blocks_per_scale": 1, "context_size": 2, "max_iter": 1}
    >>> model = DVPVAE((1, 8, 8), **small, batch_size=256, random_state=0).fit(X)
    >>> model.sample(3, random_state=0).shape
    (3, 64)
    """

    def __init__(
        self,
        image_shape=None,
        *,
        latents_per_scale=(0, 4, 4),
        channels=32,
        bottleneck=1.0,
        blocks_per_scale=3,
        aggregation=True,
        context="dct",
        context_size=7,
        gamma_min=-6.0,
        gamma_max=7.0,
        context_log_variance=(-12.0, -3.0, 0.0),
        diffusion_channels=16,
        diffusion_blocks=2,
        diffusion_dropout=0.0,
        n_diffusion_steps=25,
        likelihood="bernoulli",
        n_mixtures=10,
        binarize=True,
        output="means",
        max_iter="auto",
        batch_size="auto",
        learning_rate=1e-2,
        ema=0.999,
        max_grad_norm=5.0,
        validation_fraction=0.1,
        n_iter_no_change=12,
        matmul_precision="medium",
        device="auto",
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.image_shape = image_shape
        self.latents_per_scale = latents_per_scale
        self.channels = channels
        self.bottleneck = bottleneck
        self.blocks_per_scale = blocks_per_scale
        self.aggregation = aggregation
        self.context = context
        self.context_size = context_size
        self.gamma_min = gamma_min
        self.gamma_max = gamma_max
        self.context_log_variance = context_log_variance
        self.diffusion_channels = diffusion_channels
        self.diffusion_blocks = diffusion_blocks
        self.diffusion_dropout = diffusion_dropout
        self.n_diffusion_steps = n_diffusion_steps
        self.likelihood = likelihood
        self.n_mixtures = n_mixtures
        self.binarize = binarize
        self.output = output
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.ema = ema
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.matmul_precision = matmul_precision
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    _shaping = _image_parts.SHAPING
    _auto_steps, _auto_passes = (500, 20_000), 50
    _auto_batch_sizes, _optimizer = (64, 128, 256), staticmethod(optimizers.adamax)
    _validation_rows, _loss_unit = 500, "bits per dimension"

    @property
    def image_shape_(self):
        """(channels, height, width) of a row."""
        return self._model.image_shape

    @property
    def latent_shapes_(self):
        """(channels, height, width) of each latent image, coarsest first."""
        return self._model.ladder.latent_shapes

    @property
    def context_shape_(self):
        """(channels, height, width) of a context; None without one."""
        context = self._model.context
        return None if context is None else context.context_shape

    def _check_parameters(self):
        _image_parts.check(self)

    def _validated(self, X, *, reset):
        _checks.check_two_dimensional(X)
        _checks.check_columns(X)
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 1,
        )

    def _queried(self, X):
        check_is_fitted(self)
        _checks.check_option("output", self.output, _image_parts.OUTPUTS)
        X = self._validated(X, reset=False)
        _image_parts.check_values(X, self.likelihood_, self._built_with["likelihood"])
        return X

    def _model_for(self, X, fit, *, anew):
        if not anew:
            _checks.check_unchanged(self._built_with, self._architecture())
            model = copy.deepcopy(self._model)
            model.n_steps = int(self.n_diffusion_steps)
            _image_parts.check_values(X, model.likelihood, self.likelihood)
            return model
        self._built_with = self._architecture()
        model = _image_parts.build(self, X.shape[1], fit.randomness.generator)
        _image_parts.check_values(X, model.likelihood, self.likelihood)
        some = fit.rows.batch(fit.trained[:_LARGEST_START])
        images = some.x.cpu().to(torch.float32).unflatten(1, model.image_shape)
        weight = None if some.weight is None else some.weight.cpu()
        with torch.no_grad():
            model.start(self._observed(images, torch.Generator().manual_seed(0)), weight)
        return model

    def _objective(self, model, fit):
        unit = fit.rows.X.shape[1] * log(2)

        def bits_per_dimension(batch, generator):
            generator = generator or torch.Generator().manual_seed(0)
            images = batch.x.to(model.like).unflatten(1, model.image_shape)
            return model.nats(self._observed(images, generator), generator).bound / unit

        return bits_per_dimension

    def _observed(self, images, source):
        """Images as the model sees them: draws, where values are probabilities of a one."""
        if self.likelihood != "bernoulli" or not self.binarize:
            return images
        return (uniform(tuple(images.shape), source, images) < images).to(images)

    def _annealed(self, fit, n_steps):
        n_warming = min(_WARMING_PASSES * fit.n_batches, round(_WARMING * n_steps))
        schedule = optimizers.warmed_cosine(fit.learning_rate, n_steps, n_warming, _LAST_STEP)
        return replace(super()._annealed(fit, n_steps), schedule=schedule, **self._steadied())

    def _one_pass(self, fit, state):
        return replace(super()._one_pass(fit, state), **self._steadied())

    def _steadied(self):
        averaging = None if self.ema is None else float(self.ema)
        return {"max_grad_norm": float(self.max_grad_norm), "averaging": averaging}

    def _finish(self, model, x, weight=None):
        images = x.to(model.like).unflatten(1, model.image_shape)
        passed = model.ladder(images, model.condition(model.draw_context(images, None)), None)
        if not bool(passed.outputs.isfinite().all()) or not bool(passed.kl.isfinite().all()):
            raise FloatingPointError("the ladder's output is not finite")
        return {}
