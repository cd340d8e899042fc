"""PMFSampler: a histogram over occupied bins as a density of latent codes, and a sampler."""

from operator import index

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _checks
from .._transactions import all_or_nothing
from . import histograms, labels
from .grids import Grid, box, check_periodic, check_range, per_dimension

WITHIN_BIN = ("center", "uniform")

_MOST_BINS = 2**31
_BATCH_COORDINATES = 2**16
"""Coordinates that `sample` draws at a time."""


class PMFSampler(DensityMixin, BaseEstimator):
    """Estimate the density of codes by a probability mass function over bins, and sample from it.

    Every dimension is cut into bins of equal width, and each occupied cell b of this grid gets the
    fraction w_b of the codes in it. A sample is a cell, drawn with these weights, and a uniform
    point in it. The density is ``p(z) = w_b / prod_l width_l``, and zero outside the occupied
    cells. Fitting takes time and memory in proportion to the size of Z.

    With more than a few dimensions nearly every code is alone in its cell, whatever the number of
    bins. Then samples are codes of the training data, moved by less than a bin: compare
    `n_bins_occupied_` with the number of codes.

    Parameters
    ----------
    n_bins : int, array-like of int of shape (n_features,) or "auto", default="auto"
        Bins a dimension. "auto" is the number, the same for all dimensions, with the largest
        leave-one-out likelihood, when a code that is alone in its cell is left to a uniform
        distribution over the box; where that predicts most codes best, the sum of the likelihoods
        of the single dimensions decides instead. Weights then count codes. Codes rounded to few
        distinct values get narrow bins.
    bin_range : "minmax", ("quantile", float, float) or (low, high), default="minmax"
        The box: the extremes of the codes; two of their quantiles, such as ("quantile", 0.01,
        0.99); or numbers, or arrays of shape (n_features,), in units of the codes. Codes outside
        are counted in the outermost bins.
    periodic : bool or array-like of bool of shape (n_features,), default=False
        Dimensions that are circles. Their range is one period, into which codes are wrapped: (low,
        high) if `bin_range` has numbers, else [0, 1), as for codes in turns.
    within_bin : {"uniform", "center"}, default="uniform"
        Where in its bin a sample lies. The density is that of "uniform".
    smoothing : float, default=0.0
        Fraction in [0, 1) of the mass that is spread uniformly over the box, so that the density is
        positive all over it.
    conditional : bool, default=False
        Estimate a density for each class of y, over the same bins. If False, y is ignored.
    random_state : int, RandomState or None, default=None
        Random state of `sample`, where that is given none.

    Attributes
    ----------
    bins_ : ndarray of shape (n_bins_occupied_, n_features)
        The occupied cells, a bin number a dimension, in lexicographic order; if `conditional`,
        those of the first class first.
    weights_ : ndarray of shape (n_bins_occupied_,)
        Their masses; all of them sum to 1.
    bin_labels_ : ndarray of shape (n_bins_occupied_,)
        Their classes, only if `conditional`.
    bin_edges_ : list of ndarray
        n_bins + 1 values a dimension, in units of the codes. Bin b holds the codes of the box from
        edge b, up to but without edge b + 1; the last bin of a line has its upper end too.
    n_bins_ : ndarray of shape (n_features,)
        Bins a dimension: 1 where all codes were equal.
    n_bins_occupied_ : int
    classes_ : ndarray of shape (n_classes,)
        Only if `conditional`.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if Z had string column names.

    References
    ----------
    Bouayed, Iaccovelli and Naccache, Sampling from autoencoders' latent space via quantization and
    probability mass function concepts, arXiv 2308.10704.

    Examples
    --------
    >>> import numpy as np
    >>> from skqlvm import PMFSampler
    >>> Z = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 4.0], [4.0, 4.0]])
    >>> sampler = PMFSampler(n_bins=4).fit(Z)
    >>> sampler.bins_.tolist()
    [[0, 0], [1, 0], [1, 3], [3, 3]]
    >>> sampler.sample(1000, random_state=0).shape
    (1000, 2)
    """

    def __init__(
        self,
        n_bins="auto",
        *,
        bin_range="minmax",
        periodic=False,
        within_bin="uniform",
        smoothing=0.0,
        conditional=False,
        random_state=None,
    ):
        self.n_bins = n_bins
        self.bin_range = bin_range
        self.periodic = periodic
        self.within_bin = within_bin
        self.smoothing = smoothing
        self.conditional = conditional
        self.random_state = random_state

    def fit(self, Z, y=None, sample_weight=None):
        """Count the codes in the bins.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Codes.
        y : array-like of shape (n_samples,), optional
            Classes, needed and used only if `conditional`.
        sample_weight : array-like of shape (n_samples,), optional
            Nonnegative; a weight of 2 equals two equal codes.

        Returns
        -------
        self
        """
        with all_or_nothing(self):
            return self._fit(Z, y, sample_weight, anew=True)

    def partial_fit(self, Z, y=None, sample_weight=None):
        """Count further codes in the bins of the first call.

        With numbers for `n_bins` and `bin_range`, calls on parts of Z equal one fit on all of it. A
        call takes time in proportion to the occupied bins there are, too: give it many codes at
        once.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Codes; those outside the box of the first call are counted in its outermost bins.
        y : array-like of shape (n_samples,), optional
            Classes, needed and used only if `conditional`; may be new ones.
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self
        """
        with all_or_nothing(self):
            return self._fit(Z, y, sample_weight, anew=not self.__sklearn_is_fitted__())

    def quantize(self, Z):
        """Return the bins of codes; a code outside the box has the outermost bins, as in `fit`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Bin numbers, as the smallest unsigned integers that can hold them.
        """
        check_is_fitted(self)
        return self._grid.quantize(self._validated(Z, reset=False))

    def score_samples(self, Z, *, label=None):
        """Return the log density of codes, in nats: minus infinity where it is zero.

        A dimension in which all training codes were equal has no density: that of the others is
        returned, or minus infinity off the value.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
        label : optional
            The class whose density is meant; None is all classes.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        self._check_fixed_parameters()
        Z = self._validated(Z, reset=False)
        mass = self._histogram.masses(self._grid.quantize(Z), self._class_number(label))
        smoothing = float(self.smoothing)
        with np.errstate(divide="ignore"):
            in_bin = np.log1p(-smoothing) + np.log(mass) + self._grid.log_n_cells
            nats = np.logaddexp(in_bin, np.log(smoothing)) - self._grid.log_volume
        return np.where(self._grid.contains(Z), nats, -np.inf).astype(Z.dtype)

    def score(self, Z, y=None):
        """Return the mean of `score_samples` over codes, in nats.

        Codes outside the box make it minus infinity: compare ranges that hold all codes, and use
        `smoothing`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
        """
        return float(np.mean(self.score_samples(Z), dtype=np.float64))

    def sample(self, n_samples=1, random_state=None, *, label=None):
        """Draw codes.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
            None is the estimator's.
        label : optional
            The class to draw from; None is all classes, as often as they were.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the dtype of the training codes. Without smoothing they quantise to occupied bins.
        """
        check_is_fitted(self)
        n_rows = max(1, _BATCH_COORDINATES // self.n_features_in_)
        batches = self.sample_batches(n_samples, n_rows, random_state, label=label)
        n_samples = index(n_samples)
        Z = np.empty((n_samples, self.n_features_in_), self._dtype)
        for start, batch in zip(range(0, n_samples, n_rows), batches, strict=True):
            Z[start : start + n_rows] = batch
        return Z

    def sample_batches(self, n_samples, batch_size=10_000, random_state=None, *, label=None):
        """Draw the codes of `sample` with the same seed in batches, holding one batch at a time.

        Parameters
        ----------
        n_samples : int
            Codes of all batches together.
        batch_size : int, default=10_000
            The last batch may be smaller.
        random_state : int, RandomState or None, default=None
            None is the estimator's.
        label : optional
            The class to draw from; None is all classes, as often as they were.

        Returns
        -------
        iterator of ndarray of shape (batch_size, n_features)
        """
        check_is_fitted(self)
        self._check_fixed_parameters()
        _checks.check_integer("n_samples", n_samples)
        _checks.check_integer("batch_size", batch_size)
        n_samples, batch_size = index(n_samples), index(batch_size)
        bins, counts = self._histogram.cells(self._class_number(label))
        seed = check_random_state(
            self.random_state if random_state is None else random_state
        ).randint(2**31 - 1, size=4)
        # one stream for cells and one for places: each code takes equally many numbers from them,
        # whatever the batches
        streams = [
            np.random.default_rng(child) for child in np.random.SeedSequence(seed.tolist()).spawn(2)
        ]
        sizes = (min(batch_size, n_samples - start) for start in range(0, n_samples, batch_size))
        cumulative = np.cumsum(counts)
        return (self._draw(size, bins, cumulative, *streams) for size in sizes)

    @property
    def bin_edges_(self):
        """Edges of the bins, an array a dimension."""
        return self._grid.edges()

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_grid")

    def _draw(self, n_samples, table, cumulative, cells, places):
        """Draw codes from occupied bins, in proportion to the steps of their cumulative counts."""
        # one number says whether the code comes from the uniform part, and else which cell it comes
        # from
        smoothing = float(self.smoothing)
        choice = (cells.random(n_samples) - smoothing) / (1 - smoothing)
        rows = np.searchsorted(cumulative, choice * cumulative[-1], side="right")
        bins = table[np.minimum(rows, len(table) - 1)].astype(np.int64)
        within = 0.5
        if self.within_bin == "uniform" or smoothing:
            within = places.random(bins.shape)
        if smoothing:
            anywhere = within[choice < 0] * self._grid.n_bins
            bins[choice < 0] = anywhere
            within[choice < 0] = anywhere - np.floor(anywhere)
        return self._grid.place(
            bins + (0.5 if self.within_bin == "center" else within), bins, self._dtype
        )

    def _fit(self, Z, y, sample_weight, *, anew):
        self._check_parameters()
        if not anew and self.conditional != hasattr(self, "classes_"):
            raise ValueError(
                f"conditional={self.conditional} cannot continue a fit that had "
                f"{not self.conditional}. Fit anew, with fit."
            )
        Z = self._validated(Z, reset=anew)
        weights = histograms.checked_weights(sample_weight, len(Z))
        y = labels.checked(y) if self.conditional else np.zeros(len(Z), np.int8)
        check_consistent_length(Z, y)
        if self.conditional and not anew:
            labels.check_kind(y, self.classes_)
        if not weights.all():
            Z, y, weights = Z[weights > 0], y[weights > 0], weights[weights > 0]
        if anew:
            self._grid, self._dtype = self._start_grid(Z, y, weights), Z.dtype
        count = histograms.Histogram.of if anew else self._histogram.plus
        self._store(count(self._grid.quantize(Z), y, weights))
        return self

    def _start_grid(self, Z, y, weights):
        low, high, periodic = box(self.bin_range, self.periodic, Z, weights)

        def grid_of(n_bins):
            return Grid.over(low, high, n_bins, periodic)

        if not isinstance(self.n_bins, str):
            return grid_of(per_dimension("n_bins", self.n_bins, Z.shape[1]))
        if weights.sum() <= 1 < len(Z):
            raise ValueError(
                "n_bins='auto' expects sample_weight to count codes, but it sums to "
                f"{weights.sum():g} over {len(Z)} codes. "
                "Multiply it by the number of codes, or give n_bins."
            )
        return grid_of(
            histograms.choose_n_bins(grid_of, Z, np.unique(y, return_inverse=True)[1], weights)
        )

    def _store(self, histogram):
        self._histogram, self.bins_ = histogram, histogram.bins
        self.weights_ = histogram.counts / histogram.counts.sum()
        self.n_bins_, self.n_bins_occupied_ = self._grid.n_bins, len(self.bins_)
        if self.conditional:
            self.classes_, self.bin_labels_ = histogram.classes, histogram.labels
        else:
            for name in ("classes_", "bin_labels_"):
                vars(self).pop(name, None)

    def _class_number(self, label):
        """The number of a class by its label; None is all classes."""
        if label is None:
            return None
        if not hasattr(self, "classes_"):
            raise ValueError(
                f"label={label!r} needs a density for each class. Fit with conditional=True and y."
            )
        return labels.number_of(label, self.classes_)

    def _validated(self, Z, *, reset):
        return validate_data(self, Z, reset=reset, dtype=[np.float64, np.float32])

    def _check_before_fit(self, X, y):
        """Raise if a fit to codes of the rows of X must fail, whatever their codes are."""
        self._check_parameters()
        if self.conditional:
            check_consistent_length(X, labels.checked(y))

    def _check_parameters(self):
        self._check_fixed_parameters()
        if isinstance(self.n_bins, str) or np.ndim(self.n_bins) == 0:
            _checks.check_integer("n_bins", self.n_bins, alternative="auto")
        for value in () if isinstance(self.n_bins, str) else np.ravel(self.n_bins).tolist():
            _checks.check_integer("each entry of n_bins", value)
            if value > _MOST_BINS:
                raise ValueError(
                    f"n_bins expects integers of at most {_MOST_BINS}, but got {value}."
                )
        check_range(self.bin_range)
        check_periodic(self.periodic)

    def _check_fixed_parameters(self):
        """Raise unless what queries read is in order; it may be set after the fit."""
        _checks.check_option("within_bin", self.within_bin, WITHIN_BIN)
        _checks.check_number("smoothing", self.smoothing, below=1.0)
