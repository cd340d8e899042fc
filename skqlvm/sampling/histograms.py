"""Histograms that hold occupied cells only, in any dimension, and how many bins to take."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_expit
from sklearn.utils.validation import check_array

_MOST_BINS = 4096
_PATIENCE = 6
"""Numbers of bins, each 1.4 times the last, that are tried without improvement: up to 8 times the
best."""

_EVIDENCE = 1.0
"""Nats by which all codes together must favour more bins: less is noise."""

_LARGEST_WEIGHT = 1e300
"""Sum of weights, or reciprocal of one, whose products stay within the range of a float."""

_LOGITS = np.linspace(-14.0, 14.0, 29)[:, np.newaxis]
"""Logits that are tried of the uniform distribution's share in a smoothed histogram."""


def checked_weights(sample_weight, n_samples):
    """Return the weights of codes as float64, ones if there are none."""
    if sample_weight is None:
        return np.ones(n_samples)
    weights = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weights.shape != (n_samples,):
        raise ValueError(
            f"sample_weight expects one weight for each of the {n_samples} samples, but got "
            f"shape {weights.shape}."
        )
    if weights.min() < 0:
        raise ValueError(
            f"sample_weight expects nonnegative weights, but got a minimum of {weights.min():g}."
        )
    if not weights.any():
        raise ValueError(
            "sample_weight expects at least one positive weight, but all weights are zero."
        )
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 1 / _LARGEST_WEIGHT <= total <= _LARGEST_WEIGHT:
        raise ValueError(
            f"sample_weight expects a sum in [{1 / _LARGEST_WEIGHT:g}, {_LARGEST_WEIGHT:g}], but "
            f"got {total:g}. Divide the weights by their maximum, {weights.max():g}."
        )
    return weights


def row_keys(bins):
    """Return a byte string for each row of an array of unsigned integers (n, d).

    The strings sort and compare as the rows do: big-endian bytes make that so. NumPy's strings drop
    trailing zeros, which changes neither order nor equality at one length.
    """
    rows = np.ascontiguousarray(bins, dtype=bins.dtype.newbyteorder(">"))
    return rows.view(f"S{rows.itemsize * rows.shape[1]}").ravel()


def tabulate(bins, weights):
    """Return the distinct rows of bins (n, d), and the sum of the weights (n,) of each.

    The rows are in lexicographic order. Equal ones add up in the order of their weights, so that
    the order of the rows has no influence even on the last digit.
    """
    keys = row_keys(bins)
    order = np.argsort(keys) if (weights == 1).all() else np.lexsort((weights, keys))
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return bins[order[starts]], np.add.reduceat(weights[order], starts)


def look_up(bins, table, counts):
    """Return the counts (n,) of the rows of bins (n, d) in a table, zero where it has no such row.

    The rows of the table (B, d) are distinct and sorted.
    """
    keys, queries = row_keys(table), row_keys(bins)
    rows = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[rows] == queries, counts[rows], 0.0)


@dataclass(frozen=True)
class Histogram:
    """Occupied cells with their counts, those of each class after those of the class before.

    classes (C,) are sorted, and rows ends[c - 1] to ends[c] of bins (B, d) and counts (B,) belong
    to class c, in lexicographic order.
    """

    classes: np.ndarray
    ends: np.ndarray
    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, bins, labels, weights):
        """Count codes with bins (n, d), the labels (n,) of their classes and weights (n,)."""
        classes, numbers = np.unique(labels, return_inverse=True)
        rows = [numbers == c for c in range(len(classes))]
        tables = [tabulate(bins[of_class], weights[of_class]) for of_class in rows]
        bins, counts = (np.concatenate(parts) for parts in zip(*tables, strict=True))
        return cls(classes, np.cumsum([len(counts) for _, counts in tables]), bins, counts)

    def plus(self, bins, labels, weights):
        """Return the histogram of these and further codes: a cell counts as a weighted code."""
        return self.of(
            np.concatenate([self.bins, bins]),
            np.concatenate([self.labels, labels]),
            np.concatenate([self.counts, weights]),
        )

    @property
    def labels(self):
        """Classes of the cells (B,)."""
        return np.repeat(self.classes, np.diff(self.ends, prepend=0))

    def masses(self, bins, of_class=None):
        """Return the fractions (n,) of codes that lie in the cells with bins (n, d).

        They are fractions of all codes, or of those of a class by its number.
        """
        numbers = range(len(self.ends)) if of_class is None else [of_class]
        found = sum(look_up(bins, *self.cells(number)) for number in numbers)
        return found / self.cells(of_class)[1].sum()

    def cells(self, of_class=None):
        """Return the bins and counts of all cells, or of those of a class by its number."""
        if of_class is None:
            return self.bins, self.counts
        rows = slice(self.ends[of_class - 1] if of_class else 0, self.ends[of_class])
        return self.bins[rows], self.counts[rows]


def held_out_gains(counts, log_n_cells):
    """Return the nats that held-out codes gain from a histogram over a uniform box.

    All codes are left out in turn, and predicted by a histogram of the others. A code that is alone
    in its cell would have no likelihood. The histogram is therefore mixed with the uniform
    distribution in some fraction a: ``sum_b N_b log((1 - a) M (N_b - 1) / (n - 1) + a)``, over the
    counts N_b of the occupied ones of M cells.

    Parameters
    ----------
    counts : list of ndarray
        Counts of the occupied cells, an array for each class, whose codes are predicted from their
        own class.
    log_n_cells : float
        Logarithm of M, which may be far beyond the range of a float.

    Returns
    -------
    ndarray of shape (n_fractions,)
        For each fraction of `_LOGITS`.
    """
    gains = np.zeros(len(_LOGITS))
    for of_class in counts:
        values, times = np.unique(of_class, return_counts=True)
        others = np.maximum(values - 1, 0.0) / max(of_class.sum() - 1, 1.0)
        with np.errstate(divide="ignore"):
            log_ratio = np.log(others) + log_n_cells
        gains += np.logaddexp(log_expit(-_LOGITS) + log_ratio, log_expit(_LOGITS)) @ (
            times * values
        )
    return gains


def choose_n_bins(grid_of, Z, labels, weights):
    """Return the number of bins a dimension under which codes predict each other best.

    The number is the same for all dimensions. The histogram of all dimensions decides as long as it
    predicts: where even the best leaves most of a held-out code's likelihood to the uniform
    distribution, codes hardly ever share a cell, and the histograms of single dimensions decide by
    the sum of their gains.

    Parameters
    ----------
    grid_of : callable
        Maps a number of bins to a grid.
    Z : ndarray of shape (n, d)
    labels : ndarray of shape (n,)
        Classes, integers from 0.
    weights : ndarray of shape (n,)
        How many codes each one counts for.
    """
    if grid_of(1).flat.all():
        return 1
    n_classes = int(labels.max()) + 1

    def joint(n_bins):
        grid = grid_of(n_bins)
        bins = grid.quantize(Z)
        return held_out_gains(
            [tabulate(bins[labels == c], weights[labels == c])[1] for c in range(n_classes)],
            grid.log_n_cells,
        )

    def marginal(n_bins):
        grid = grid_of(n_bins)
        cells = (labels * n_bins + column for column in grid.quantize(Z).T[~grid.flat])
        counts = (
            np.bincount(cell, weights, n_classes * n_bins).reshape(n_classes, n_bins)
            for cell in cells
        )
        return sum(
            held_out_gains([row[row > 0] for row in rows], np.log(n_bins)) for rows in counts
        )

    n_bins, logit = _best(joint, weights.sum())
    return n_bins if logit <= 0 else _best(marginal, weights.sum())[0]


def _best(gains_of, n_codes):
    """The number of bins with the largest gain, and the logit of the uniform fraction then.

    With one bin, all is uniform.
    """
    best, largest, n_behind = (1, np.inf), 0.0, 0
    for n_bins in _candidates(n_codes):
        gains = gains_of(n_bins)
        n_behind += 1
        if gains.max() > largest + _EVIDENCE:
            best, largest, n_behind = (n_bins, _LOGITS[gains.argmax(), 0]), gains.max(), 0
        if n_behind == _PATIENCE:
            break
    return best


def _candidates(most):
    """Numbers of bins to try: 2, 3, 4, 6, 8, 11, 16, ..., but no more bins than codes.

    They are powers of the root of two, rounded.
    """
    powers = np.round(2.0 ** np.arange(1, np.log2(_MOST_BINS) + 0.25, 0.5)).astype(int).tolist()
    return [n_bins for n_bins in powers if n_bins <= most]
