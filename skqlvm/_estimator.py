"""What the estimators of points in a latent space share: likelihoods of columns, conditions.

Nothing here knows what a model is made of: a subclass builds one and says what its training bound
is.
"""

import copy

from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted

from . import _blocks, _checks, _conditions, _data, _parts
from ._columns import Frames
from ._decoding import Decoding
from ._trained import TrainedEstimator

_LARGEST_START = 10_000


class LatentEstimator(Decoding, Frames, TrainedEstimator):
    """Base of the estimators of points in a latent space; a subclass is a recipe.

    ``_check_parameters()`` raises what is wrong with them. ``_build(likelihood, n_rows,
    randomness)`` returns a `skqlvm.engine.models.Model`, not yet started at the data.
    ``_objective(model, fit)`` returns the training bound, a function of a `Batch` and a generator
    (None for a bound that is the same each time) that gives nats a row.
    ``_finish(model, x, weight)`` returns what queries need beside the model, as a dict of
    attributes, from some rows x, and how often each counts (None is once).
    """

    _shaping = ("n_components", *_blocks.SHAPING, "condition_columns")
    """Parameters that shape the model: they cannot change between fits that continue each other."""

    _told = None
    """What decoders are told of rows, while a model is built."""

    def __init__(
        self,
        n_components,
        *,
        likelihood,
        noise_variance,
        exposure,
        condition_columns,
        max_iter,
        batch_size,
        learning_rate,
        validation_fraction,
        n_iter_no_change,
        matmul_precision,
        device,
        warm_start,
        random_state,
        verbose,
    ):
        self.n_components = n_components
        self.likelihood = likelihood
        self.noise_variance = noise_variance
        self.exposure = exposure
        self.condition_columns = condition_columns
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.matmul_precision = matmul_precision
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        kind = _parts.kind_of(self.likelihood)
        tags.input_tags.allow_nan = kind is None or kind.allows_missing
        tags.input_tags.sparse = kind is not None and kind.sparse
        return tags

    def _validated(self, X, *, reset):
        coded = _blocks.takes_categories(self.likelihood) or self.condition_columns is not None
        categories = reset and coded
        X = self._in_codes(X, categories=categories, reset=reset)
        return _data.validated(self, X, reset=reset)

    def _queried(self, X):
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        _data.check(self._built_with["likelihood"], self.likelihood_, X)
        _conditions.check_values(self._model.conditions, X, self._columns)
        return X

    def _model_for(self, X, fit, *, anew):
        """Return a new model, started at the data, or a copy of the fitted one, all of it open."""
        if anew:
            self._built_with = self._architecture()
            likelihood = _parts.build_likelihood(self, X)
            self._told = _conditions.learn(
                self.condition_columns, X, self._columns, fit.rows.weight
            )
            model = self._build(likelihood, X.shape[0], fit.randomness)
            del self._told
        else:
            _checks.check_unchanged(self._built_with, self._architecture())
            model = copy.deepcopy(self._model)
        _data.check(self.likelihood, model.likelihood, X)
        _conditions.check_values(model.conditions, X, self._columns)
        if anew:
            _data.check_columns_there(self, X)
            fit.start(model.likelihood, _LARGEST_START)
        else:
            model.open(1.0)
        return model

    def _before_steps(self, model):
        return [model.open]

    def _learned(self, model):
        return _conditions.learned(model.conditions)

    def _table_bytes(self, X, n_points):
        """Working memory of a row: its part of the table, and of the data."""
        n_numbers = X.nnz // X.shape[0] + 1 if issparse(X) else X.shape[1]
        return (n_points + 3 * n_numbers) * X.dtype.itemsize
