"""LatentSampler: samples of data from an embedding and a density of its codes."""

import copy
from inspect import signature
from operator import index

from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from .. import _checks
from .._transactions import all_or_nothing
from .pmf import PMFSampler


class LatentSampler(BaseEstimator):
    """Sample data: fit a density to the codes of an embedding, draw codes from it, and decode them.

    Parameters
    ----------
    embedder : estimator
        Any with `transform` and `inverse_transform`: `QLVMEmbedding`, PCA, a Pipeline of such. It
        is cloned; one that is already fitted stays as it is inside a
        `sklearn.frozen.FrozenEstimator`.
    sampler : estimator, default=None
        Any with `fit` and `sample`: `PMFSampler`, `sklearn.mixture.GaussianMixture`,
        `sklearn.neighbors.KernelDensity`. None is a `PMFSampler`, with bins around the circle where
        the embedding says by `latent_period_` that its codes are periodic.

    Attributes
    ----------
    embedder_ : estimator
        The fitted embedder.
    sampler_ : estimator
        The sampler, fitted to the codes.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    Notes
    -----
    There is no `score_samples`: a density of codes becomes one of data only by an observation model
    p(x | z), which an embedding such as PCA has not. Its samples lie on a surface, on which a
    density of data is infinite and off which it is zero. Codes are scored by
    ``sampler_.score_samples(embedder_.transform(X))``; doc/sampling.rst has the likelihood of data
    for a `QLVMEmbedding`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from skqlvm import LatentSampler
    >>> X = load_digits().data
    >>> model = LatentSampler(PCA(2)).fit(X)
    >>> model.sample(3, random_state=0).shape
    (3, 64)
    """

    def __init__(self, embedder, sampler=None):
        self.embedder = embedder
        self.sampler = sampler

    def fit(self, X, y=None):
        """Fit the embedder to X, and the sampler to the codes of X.

        What a `PMFSampler` needs is checked before the embedder is fitted. Other samplers find
        their own mistakes only when they get the codes: try them on an embedder that is already
        fitted, inside a `sklearn.frozen.FrozenEstimator`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), optional
            Handed to both: the classes, for a `PMFSampler` with ``conditional=True``.

        Returns
        -------
        self
        """
        _check_methods("embedder", self.embedder, ("fit", "transform", "inverse_transform"))
        if self.sampler is not None:
            _check_methods("sampler", self.sampler, ("fit", "sample"))
        if isinstance(self.sampler, PMFSampler):
            self.sampler._check_before_fit(X, y)
        with all_or_nothing(self):
            self.embedder_ = clone(self.embedder).fit(X, y)
            sampler = (
                _default_sampler(self.embedder_) if self.sampler is None else clone(self.sampler)
            )
            self.sampler_ = _fitted(sampler, self.embedder_.transform(X), y)
        return self

    def sample(self, n_samples=1, random_state=None, *, label=None):
        """Draw codes and decode them.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
            None is the sampler's.
        label : optional
            The class to draw from, for samplers with classes; None is all classes.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        codes = self.sample_codes(n_samples, random_state, label=label)
        return self.embedder_.inverse_transform(codes)

    def sample_codes(self, n_samples=1, random_state=None, *, label=None):
        """Draw codes.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
            None is the sampler's.
        label : optional
            The class to draw from, for samplers with classes; None is all classes.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
        """
        check_is_fitted(self)
        _checks.check_integer("n_samples", n_samples)
        sampler, options = self.sampler_, {}
        takes = signature(sampler.sample).parameters
        if label is not None:
            if "label" not in takes:
                raise ValueError(
                    f"label={label!r} needs a sampler with classes, but got "
                    f"{type(sampler).__name__}. Use PMFSampler(conditional=True)."
                )
            options["label"] = label
        if random_state is not None:
            if "random_state" in takes:
                options["random_state"] = random_state
            else:
                # a mixture draws with the seed among its parameters: lend a copy ours
                sampler = copy.copy(sampler).set_params(random_state=random_state)
        drawn = sampler.sample(index(n_samples), **options)
        return drawn[0] if isinstance(drawn, tuple) else drawn

    @property
    def n_features_in_(self):
        """Number of features of X."""
        return self.embedder_.n_features_in_

    @property
    def feature_names_in_(self):
        """Names of the columns of X."""
        return self.embedder_.feature_names_in_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.embedder).input_tags
        return tags


def _default_sampler(embedder):
    """A PMFSampler for the codes of a fitted embedder.

    It goes around circles where the last step of the embedder says that the codes are periodic.
    """
    while hasattr(embedder, "steps"):
        embedder = embedder.steps[-1][1]
    period = getattr(embedder, "latent_period_", None)
    return PMFSampler() if period is None else PMFSampler(bin_range=(0.0, period), periodic=True)


def _fitted(sampler, codes, y):
    """Fit a sampler; if that fails, say how the embedder need not be fitted again."""
    try:
        return sampler.fit(codes, y)
    except Exception as error:
        error.add_note(
            "The sampler of a LatentSampler failed after its embedder had been fitted. To try "
            "samplers without fitting that again, fit it alone and give FrozenEstimator(embedder)."
        )
        raise


def _check_methods(name, estimator, methods):
    """Raise unless an estimator has the methods that are needed of it."""
    missing = [method for method in methods if not hasattr(estimator, method)]
    if missing:
        raise TypeError(
            f"{name} expects an estimator with {', '.join(methods)}, but {estimator!r} has no "
            f"{', '.join(missing)}."
        )
