"""What all estimators of trained models share: the template of a fit, pickling, scores of rows.

Nothing here knows what a model is made of: a subclass builds one and says what its training bound
is.
"""

import copy
from contextlib import contextmanager
from dataclasses import replace
from math import ceil

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning

from . import _checks, _data, _fitting
from ._rows import Chunks
from ._transactions import all_or_nothing
from .engine import optimizers, training
from .engine.precision import own_settings

_LARGEST_FINISH = 500
_CHUNK_BYTES = 2**24
"""Size of the table of log-likelihoods that a query holds at a time; it fits in a cache."""


class TrainedEstimator(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator
):
    """Base of the estimators whose model is trained, with no word on what a model is.

    Its parameters have `max_iter`, `batch_size`, `learning_rate`, `validation_fraction`,
    `n_iter_no_change`, `matmul_precision`, `device`, `warm_start`, `random_state` and `verbose`. A
    subclass defines

    ``_check_parameters()``, which raises what is wrong with them,

    ``_validated(X, *, reset)``, which returns X as an array of floats,

    ``_model_for(X, fit, *, anew)``, which returns a module to train: a new one that is started at
    the data, or a copy of the fitted one, all of it open. It has a `likelihood`, and a tensor
    `like`,

    ``_objective(model, fit)``, which returns the training bound, a function of a `Batch` and a
    generator (None for a bound that is the same each time) that gives nats a row,

    ``_finish(model, x, weight)``, which returns what queries need beside the model, as a dict of
    attributes, from some rows x, and how often each counts (None is once).
    """

    _shaping = ()
    """Parameters that shape the model: they cannot change between fits that continue each other."""

    _auto_steps, _auto_passes = (500, 2500), 50
    """Budget of a fit whose max_iter is "auto": so many passes, within limits of steps."""

    _auto_batch_sizes, _optimizer = (128,), staticmethod(optimizers.adam)
    _halved_until = 0.0
    """Fraction of a budget of steps up to which batches of more than the smallest size are halved.
    """

    _validation_rows = 2000
    """Held-out rows whose bound is computed at a time."""

    _auto_learning_rate = 4e-3
    """Largest step size for batches of 128 rows."""

    _joins_held_out = True
    """Whether held-out rows are trained on in the end."""

    _loss_unit = "nats"
    """What losses are in."""

    def fit(self, X, y=None, sample_weight=None):
        """Fit the model to X.

        An interrupted first fit keeps the best weights so far, and KeyboardInterrupt is raised; so
        does one that goes on from an earlier fit, once it has validated. Any other fit that does
        not come to its end leaves the estimator as it was.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN is what is missing, and X may be sparse, where the likelihood allows that. May be a
            memory map, of which only batches are read at a time.
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts, as if it came as often. Rows of weight 0 are left out.

        Returns
        -------
        self

        Raises
        ------
        FloatingPointError
            If training diverges.
        """
        first = not self.__sklearn_is_fitted__()

        def worth_keeping(state):
            return state.step > 0 if first else not anew and bool(state.history["step"])

        with self._fitting():
            anew = first or not self.warm_start
            X = self._validated(X, reset=anew)
            X, weight = _data.weighted(X, sample_weight, 2 if anew else 1)
            fit = _fitting.Fit.of(self, X, self.validation_fraction, weight)
            fit = replace(fit, counted=_data.counted(sample_weight))
            model, state = self._model_for(X, fit, anew=anew), training.State()
            stopped = _fitting.train(
                self,
                model,
                fit,
                self._annealed(fit, self._n_steps(fit)),
                state,
                worth_keeping=worth_keeping,
                before_step=self._before_steps(model) if anew else [],
            )
            by_choice = stopped is None and not isinstance(self.max_iter, str)
            if by_choice and _fitting.falls_still(state.history):
                _checks.warn(
                    f"Training ended after {state.step} steps before its loss came to rest. Raise "
                    f"max_iter (it is {self.max_iter}), or leave it 'auto'.",
                    ConvergenceWarning,
                )
            n_iter = ceil(round(state.n_passes, 6))
            self._keep(model, state, fit, n_iter_=n_iter, _training_state=None)
        if stopped is not None:
            raise stopped
        return self

    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over X, at a constant step size of a quarter of `learning_rate`.

        It starts from the weights there are. Location and scale of the likelihood stay those of the
        first call; no rows are held out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            As for `fit`.

        Returns
        -------
        self
        """
        with self._fitting():
            anew = not self.__sklearn_is_fitted__()
            X = self._validated(X, reset=anew)
            X, weight = _data.weighted(X, sample_weight, 2 if anew else 1)
            fit, state = _fitting.Fit.of(self, X, 0.0, weight), self._state_to_continue()
            model, n_before = self._model_for(X, fit, anew=anew), state.step
            stopped = _fitting.train(
                self,
                model,
                fit,
                self._one_pass(fit, state),
                state,
                worth_keeping=lambda state: state.step > n_before,
            )
            n_iter = 1 if anew else self.n_iter_ + 1
            self._keep(model, state, fit, n_iter_=n_iter, _training_state=state)
        if stopped is not None:
            raise stopped
        return self

    def fit_transform(self, X, y=None, sample_weight=None):
        """Fit the model to X, and return what `transform` returns for it.

        The coordinates are kept as `embedding_`, as manifold estimators have it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_columns)
        """
        embedding = self.fit(X, sample_weight=sample_weight).transform(X)
        self.embedding_ = np.asarray(embedding)
        return embedding

    @property
    def likelihood_(self):
        """The fitted observation model."""
        return self._model.likelihood

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_model")

    def __getstate__(self):
        state = super().__getstate__()
        for name in ("_model", "_atlas", "_averaged", "_training_state"):
            if state.get(name) is not None:
                state[name] = copy.deepcopy(state[name]).cpu()
        return state

    @contextmanager
    def _fitting(self):
        """Fit wholly or not at all, under settings of torch of our own."""
        with all_or_nothing(self), own_settings(gradients=True):
            self._check_parameters()
            try:
                yield
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"Training diverged: {error}. Lower learning_rate (it is "
                    f"{self.learning_rate}) or standardise X."
                ) from error

    def _before_steps(self, model):
        """What is called before each step of a first fit, with the fraction that is done."""
        return []

    def _annealed(self, fit, n_steps):
        """How to train from start to end."""
        return _fitting.annealed(self, fit, n_steps)

    def _one_pass(self, fit, state):
        """How to train for one more pass."""
        return _fitting.one_pass(self, fit, state)

    def _learned(self, model):
        """What a model has learned beside the likelihood's parameters, as a dict of attributes."""
        return {}

    def _state_to_continue(self):
        """Return the state of training that a pass over further rows starts from."""
        state = getattr(self, "_training_state", None)
        return training.State() if state is None else copy.deepcopy(state).leave_rows()

    def _architecture(self):
        """What the model is shaped by."""
        return {name: _checks.plain(getattr(self, name)) for name in self._shaping}

    def _n_steps(self, fit):
        """Steps of a fit, of which "auto" makes a budget."""
        if isinstance(self.max_iter, str):
            fewest, most = self._auto_steps
            return min(max(fewest, self._auto_passes * fit.n_batches), most)
        return int(self.max_iter) * fit.n_batches

    def _keep(self, model, state, fit, **attributes):
        """Make the trained model the fitted one, in place of all that an earlier fit has left."""
        model.eval()
        if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
            raise FloatingPointError("a weight is not finite")
        with torch.no_grad():
            some = fit.some(_LARGEST_FINISH)
            found = self._finish(model, some.x, some.weight)
        for name in [name for name in vars(self) if _is_of_a_fit(name)]:
            delattr(self, name)
        vars(self).update(attributes | found | self._learned(model))
        for name, value in model.likelihood.learned().items():
            value = value.detach().cpu().numpy()
            setattr(self, f"{name}_", value if value.ndim else float(value))
        self._model, self.history_ = model, state.history
        self._fit_dtype = fit.rows.X.dtype

    def _over_rows(self, X, function, row_bytes=None, *, beside=(), finite=True, name="X"):
        """Apply a function of tensors to chunks of rows, and join the arrays that it returns.

        Chunks are of as many rows as fit into memory, at `row_bytes` of working memory a row. Rows
        of the arrays `beside` are further arguments of the function. `name` is the user's word for
        the rows.
        """
        chunks = self._chunks(X, row_bytes)
        others = [Chunks(array, chunks.device, chunks.size) for array in beside]
        with own_settings(gradients=False):
            parts = [function(*rows).cpu().numpy() for rows in zip(chunks, *others, strict=True)]
        result = np.concatenate(parts)
        return checked_finite(result, name) if finite else result

    def _chunks(self, X, row_bytes=None):
        row_bytes = 16 * self.n_features_in_ if row_bytes is None else row_bytes
        return Chunks(X, self._model.like.device, max(1, _CHUNK_BYTES // row_bytes))

    def score(self, X, y=None, sample_weight=None):
        """Return the mean of `score_samples` over the rows of X, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), optional
            How often each row counts.

        Returns
        -------
        float
        """
        nats, weight = _data.weighted(self.score_samples(X), sample_weight)
        return float(np.average(nats.astype(np.float64, copy=False), weights=weight))


def _is_of_a_fit(name):
    """Whether an attribute is what a fit found out about a model."""
    data = ("n_features_in_", "feature_names_in_")
    return name.endswith("_") and not name.startswith("_") and name not in data


def checked_finite(result, name="X"):
    """Return a result, or raise where rounding or overflow has left it without meaning."""
    _checks.check_finite(result, name)
    return result
