"""What the estimators share: checks, the template of a fit, progress, pickling, queries by chunks
of rows."""

import copy
from functools import partial

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from . import _validation
from ._progress import Progress
from ._tensors import Rows, as_tensor, random_seed, resolve_device, seeded
from ._transactions import all_or_nothing
from .engine import atlas, likelihoods, networks, training
from .engine.precision import matmul_precision

LIKELIHOODS = {"bernoulli": likelihoods.Bernoulli, "gaussian": likelihoods.Gaussian}
DECODERS = {"conv": networks.ConvDecoder, "mlp": networks.MLPDecoder}
PRECISIONS = ("highest", "high", "medium")

_HIGHEST_ORDER, _MOST_HARMONICS, _ROWS_PER_HARMONIC = 14, 210, 25
_RECORDS = 60
_LARGEST_START, _LARGEST_VALIDATION, _LARGEST_FINISH = 10_000, 2_000, 500
_CHUNK_BYTES = 2**24
"""Size of the table of log-likelihoods that a query holds at a time; small enough to stay in a
processor's cache."""


class LatentModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """Base of the estimators. A fit builds `_parts`, trains them on an `_objective` and derives the
    rest in `_finish`.

    ``_check_parameters()`` raises what is wrong with them; ``_prior(n_components)`` returns the
    prior; ``_parts(x)`` returns a dict of modules, "decoder" and "likelihood" among them, for a
    sample of the data; ``_objective(module, x)`` returns the loss, a function of a batch and a
    generator (None for one that is the same each time), for batches like x; ``_finish(x)`` makes
    what queries need. Modules are float32, on the device of the fit, and on the processor once
    unpickled."""

    _architecture_names = (
        "n_components",
        "likelihood",
        "noise_variance",
        "decoder",
        "hidden_layer_sizes",
        "harmonic_order",
        "image_shape",
    )
    """Parameters that shape the modules: they cannot change between fits that continue each
    other."""

    _auto_steps, _auto_passes = 2500, 50
    """Budget of a fit whose max_iter is "auto": the smaller of the two, chosen with
    benchmarks/bench_defaults.py."""

    _validation_rows = 2000
    """Held-out rows whose loss is computed at a time."""

    def fit(self, X, y=None):
        """Fit the model to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            May be a memory map; only batches of it are read at a time.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        FloatingPointError
            If training diverges.
        """
        with all_or_nothing(self):
            self._check_parameters()
            earlier = self._earlier() if self.warm_start else None
            X = self._validated(X, reset=earlier is None)
            return self._fit(X, earlier, one_cycle=True)

    def partial_fit(self, X, y=None):
        """Make one pass over X, at a constant step size of a quarter of `learning_rate`, from the
        weights there are.

        Location and scale of the likelihood stay those of the first call; no rows are held out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        self
        """
        with all_or_nothing(self):
            self._check_parameters()
            earlier = self._earlier()
            X = self._validated(X, reset=earlier is None)
            return self._fit(X, earlier, one_cycle=False)

    @property
    def decoder_(self):
        """The fitted decoder, a torch module."""
        return self._module["decoder"]

    @property
    def likelihood_(self):
        """The fitted observation model."""
        return self._module["likelihood"]

    @property
    def latent_period_(self):
        """Period of the columns that `transform` returns; None where they lie on a line."""
        return None

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_module")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self):
        return {name: _on_processor(value) for name, value in super().__getstate__().items()}

    def _check_shared_parameters(self):
        _validation.check_integer("n_components", self.n_components)
        _validation.check_integer("max_iter", self.max_iter, alternative="auto")
        _validation.check_integer("batch_size", self.batch_size)
        _validation.check_integer("harmonic_order", self.harmonic_order, alternative="auto")
        _validation.check_integer(
            "verbose",
            int(self.verbose) if isinstance(self.verbose, bool) else self.verbose,
            minimum=0,
        )
        _validation.check_hidden_layer_sizes(self.hidden_layer_sizes)
        _validation.check_number("learning_rate", self.learning_rate, open_minimum=True)
        _validation.check_number("weight_decay", self.weight_decay)
        _validation.check_number("validation_fraction", self.validation_fraction, below=1.0)
        if self.n_iter_no_change is not None:
            _validation.check_integer("n_iter_no_change", self.n_iter_no_change)
        _validation.check_option("matmul_precision", self.matmul_precision, PRECISIONS)
        _validation.check_option("likelihood", self.likelihood, LIKELIHOODS, or_callable=True)
        _validation.check_option("decoder", self.decoder, DECODERS, or_callable=True)
        _validation.check_noise_variance(self.noise_variance)

    def _validated(self, X, *, reset):
        """Return X as a float32 or float64 array, without a copy where it is one."""
        if issparse(X):
            raise TypeError(
                f"{type(self).__name__} expects a dense array, but got a sparse matrix. Use "
                "X.toarray()."
            )
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 1,
        )

    def _queried(self, X):
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        _validation.check_support(self.likelihood, X, self.likelihood_.support)
        return X

    def _fit(self, X, earlier, *, one_cycle):
        """Train the parts, new or `earlier` ones, and store them."""
        device, seed = resolve_device(self.device), random_seed(self.random_state)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(X), generator=generator)
        n_held_out = (
            min(round(self.validation_fraction * len(X)), _LARGEST_VALIDATION, len(X) - 1)
            if one_cycle
            else 0
        )
        held_out, trained = order[:n_held_out], order[n_held_out:]
        rows = Rows(X, device)
        n_earlier = 0 if earlier is None or one_cycle else self.n_iter_
        if earlier is None:
            self._built_with = self._architecture()
            self.harmonic_order_ = self._resolved_order(len(X))
        else:
            networks.anneal(earlier[0], 1.0)
        with seeded(seed, device):
            module, state = earlier or (
                torch.nn.ModuleDict(self._parts(rows[trained[:_LARGEST_START]])),
                None,
            )
            _validation.check_support(self.likelihood, X, module["likelihood"].support)
            settings = self._settings(self._n_batches(trained), one_cycle, state)
            state = self._train(
                module.to(device),
                (rows, trained, held_out),
                settings,
                generator,
                before_step=partial(networks.anneal, module)
                if one_cycle and earlier is None
                else None,
                state=None if one_cycle else state,
            )
        self._module, self._training_state = module.eval(), None if one_cycle else state
        self.history_ = state.history
        self.n_iter_ = -(-state.step // self._n_batches(trained)) if one_cycle else n_earlier + 1
        self._fit_dtype = X.dtype
        vars(self).pop("noise_variance_", None)
        if hasattr(self.likelihood_, "noise_variance"):
            noise = self.likelihood_.noise_variance().detach().cpu().numpy()
            self.noise_variance_ = noise if noise.ndim else float(noise)
        self._finish(rows[order[:_LARGEST_FINISH]])
        return self

    def _settings(self, n_batches, one_cycle, state):
        """How to train, from the parameters; a pass at a constant step size goes on from a
        state."""
        if one_cycle:
            n_steps = (
                min(self._auto_steps, self._auto_passes * n_batches)
                if self.max_iter == "auto"
                else self.max_iter * n_batches
            )
        else:
            n_steps = n_batches + (0 if state is None else state.step)
        return training.Settings(
            n_steps=n_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate if one_cycle else self.learning_rate / 4,
            weight_decay=self.weight_decay,
            one_cycle=one_cycle,
            steps_per_record=max(1, round(n_steps / _RECORDS)),
            patience=self.n_iter_no_change,
            precision=self.matmul_precision,
        )

    def _train(self, module, split, settings, generator, *, before_step, state):
        """Train a module on the rows that are not held out, in training mode, with a progress
        line."""
        rows, trained, held_out = split
        module.train()
        objective = self._objective(module, rows[trained[: self.batch_size]])
        validation = rows[held_out] if len(held_out) else None
        with Progress(settings.n_steps, self.verbose, type(self).__name__) as progress:
            try:
                return training.train(
                    module,
                    lambda batch: objective(rows[trained[batch]], generator),
                    len(trained),
                    settings,
                    generator,
                    validation_loss=None
                    if validation is None
                    else partial(self._held_out_loss, objective, validation),
                    before_step=before_step,
                    report=progress,
                    state=state,
                )
            except FloatingPointError as error:
                raise self._diverged(error) from error

    def _held_out_loss(self, objective, x):
        """The loss of held-out rows, by parts that fit in memory."""
        return sum(
            len(part) * objective(part, None) for part in x.split(self._validation_rows)
        ) / len(x)

    def _diverged(self, symptom):
        """The error of a training that came to nothing."""
        return FloatingPointError(
            f"Training diverged: {symptom}. Lower learning_rate (it is {self.learning_rate:g}) "
            "or standardise X."
        )

    def _resolved_order(self, n_rows):
        """The harmonic order for so many rows: what few rows cannot determine is left out."""
        if self.harmonic_order != "auto":
            return self.harmonic_order
        return networks.largest_order(
            self.n_components, min(n_rows / _ROWS_PER_HARMONIC, _MOST_HARMONICS), _HIGHEST_ORDER
        )

    def _n_batches(self, trained):
        return -(-len(trained) // self.batch_size)

    def _earlier(self):
        """Copies of the fitted modules and the state of their training, or None before the first
        fit."""
        if not self.__sklearn_is_fitted__():
            return None
        _validation.check_unchanged(self._built_with, self._architecture())
        module, state = copy.deepcopy((self._module, self._training_state))
        if state is not None:
            state.pending, state.losses = [], []
        return module, state

    def _architecture(self):
        """What the modules are shaped by."""
        return {name: getattr(self, name) for name in self._architecture_names}

    def _start_likelihood(self, x):
        """Build the likelihood at a sample x of the data."""
        if callable(self.likelihood):
            likelihood = self.likelihood(x.shape[1])
        elif self.likelihood == "gaussian":
            likelihood = likelihoods.Gaussian(x.shape[1], self.noise_variance)
        else:
            likelihood = LIKELIHOODS[self.likelihood](x.shape[1])
        _validation.check_likelihood(likelihood, x.shape[1])
        likelihood.start(x.cpu())
        if not all(bool(buffer.isfinite().all()) for buffer in likelihood.buffers()):
            raise ValueError("X is too large: its variance overflows. Rescale X.")
        return likelihood

    def _start_decoder(self, n_features):
        """Build the decoder from its name or factory, and check what it returns."""
        if callable(self.decoder):
            decoder = self.decoder(self.n_components, n_features)
        else:
            settings = {
                "hidden_layer_sizes": tuple(self.hidden_layer_sizes),
                "order": self.harmonic_order_,
            }
            if self.decoder == "conv":
                _validation.check_image_shape(self.image_shape, n_features)
                settings["image_shape"] = tuple(self.image_shape)
            decoder = DECODERS[self.decoder](self.n_components, n_features, **settings)
        _validation.check_module("decoder", decoder, self.n_components, n_features)
        return decoder

    @property
    def _device(self):
        return next(self.decoder_.parameters()).device

    def _over_rows(self, X, function, row_bytes):
        """Apply a function of tensors to chunks of rows whose working memory fits, and join the
        arrays it returns."""
        size = max(1, _CHUNK_BYTES // row_bytes)
        with torch.no_grad():
            parts = [
                function(as_tensor(X[start : start + size], self._device)).cpu().numpy()
                for start in range(0, len(X), size)
            ]
        return np.concatenate(parts)

    def _outputs_at(self, z):
        """Decode points of any dtype, in full precision."""
        with matmul_precision("highest"):
            return self.decoder_(z.to(next(self.decoder_.parameters())))

    def _decoded_mean(self, z):
        return self.likelihood_.mean(self._outputs_at(z).to(z.dtype))

    def _decode(self, points, **settings):
        """Chart the decoder's outputs at points."""
        with torch.no_grad():
            outputs = self._outputs_at(points)
            if not bool(outputs.isfinite().all()):
                raise self._diverged("the decoder's output is not finite")
            return atlas.chart(self.likelihood_, outputs, points, **settings)

    def sample(self, n_samples=1, random_state=None):
        """Draw from the model: z from the prior, then x from p(x | z).

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        _validation.check_integer("n_samples", n_samples)
        generator = torch.Generator().manual_seed(random_seed(random_state))
        n_components = self._built_with["n_components"]
        u = torch.rand((n_samples, n_components), dtype=torch.float64, generator=generator)

        def draw(z):
            return self.likelihood_.sample(self._outputs_at(z).to(z), generator)

        z = self._prior(n_components).quantile(u).numpy()
        return self._over_rows(z, draw, 16 * self.n_features_in_).astype(self._fit_dtype)

    def score(self, X, y=None):
        """Return the mean of `score_samples` over the rows of X, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
        """
        return float(np.mean(self.score_samples(X), dtype=np.float64))


def _on_processor(value):
    """A copy of fitted state that loads where there is no accelerator."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).cpu()
    return value.cpu() if hasattr(value, "cpu") else value
