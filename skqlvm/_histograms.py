"""Histograms that hold occupied cells only, in any number of dimensions, and how many bins they should have."""

import numpy as np
from scipy.special import log_expit

_MOST_BINS = 4096
_PATIENCE = 6
"""Numbers of bins, each 1.4 times the last, that are tried without improvement: up to 8 times the best."""

_LOGITS = np.linspace(-14.0, 14.0, 57)[:, np.newaxis]
"""Of the fractions of the uniform distribution that a held-out code may be given."""


def row_keys(bins):
    """Return a byte string a row of an array of unsigned integers (n, d): strings sort and compare as the rows do.

    Big-endian bytes make that so. NumPy's strings drop trailing zeros, which changes neither order nor equality at one length.
    """
    rows = np.ascontiguousarray(bins, dtype=bins.dtype.newbyteorder(">"))
    return rows.view(f"S{rows.itemsize * rows.shape[1]}").ravel()


def tabulate(bins, weights):
    """Return the distinct rows of bins (n, d) in lexicographic order, and the sum of the weights (n,) of each.

    Equal rows add up in the order of their weights, so that the order of the rows has no influence even on the last digit.
    """
    keys = row_keys(bins)
    order = np.argsort(keys) if (weights == 1).all() else np.lexsort((weights, keys))
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return bins[order[starts]], np.add.reduceat(weights[order], starts)


def look_up(bins, table, counts):
    """Return the counts (n,) of the rows of bins (n, d) in a table of distinct sorted rows (B, d): zero where it has no such row."""
    keys, queries = row_keys(table), row_keys(bins)
    rows = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[rows] == queries, counts[rows], 0.0)


def held_out_gain(counts, log_n_cells):
    """Return by how many nats a code, left out, is more likely under the histogram of the others than under a uniform box.

    A code that is alone in its cell would have no likelihood, so that the histogram is mixed with the uniform distribution, in the
    fraction a that suits the codes best: ``max_a 1/n sum_b N_b log((1 - a) M (N_b - 1) / (n - 1) + a)``, over the counts N_b of M cells.

    Parameters
    ----------
    counts : list of ndarray
        Counts of the occupied cells, an array for each class, whose codes are predicted from their own class.
    log_n_cells : float
        Logarithm of M, which may be far beyond the range of a float.

    Returns
    -------
    gain : float
        At least 0, up to rounding.
    fraction : float
        The a of the maximum.
    """
    gains = np.zeros(len(_LOGITS))
    for of_class in counts:
        values, times = np.unique(of_class, return_counts=True)
        others = np.maximum(values - 1, 0.0) / max(of_class.sum() - 1, 1.0)
        with np.errstate(divide="ignore"):
            log_ratio = np.log(others) + log_n_cells
        gains += np.logaddexp(log_expit(-_LOGITS) + log_ratio, log_expit(_LOGITS)) @ (times * values)
    best = np.argmax(gains)
    return float(gains[best] / sum(of_class.sum() for of_class in counts)), float(np.exp(log_expit(_LOGITS[best, 0])))


def choose_n_bins(grid_of, Z, labels, weights):
    """Return the number of bins a dimension, the same for all, under which codes predict each other best.

    The histogram of all dimensions decides as long as it predicts: where even the best leaves most of a held-out code's likelihood to the
    uniform distribution, codes hardly ever share a cell, and the histograms of single dimensions decide by the sum of their gains.

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
        counts = [tabulate(bins[labels == c], weights[labels == c])[1] for c in range(n_classes)]
        return held_out_gain(counts, grid.log_n_cells)

    def marginal(n_bins):
        grid = grid_of(n_bins)
        cells = (labels * n_bins + column for column in grid.quantize(Z).T[~grid.flat])
        counts = (np.bincount(cell, weights, n_classes * n_bins).reshape(n_classes, n_bins) for cell in cells)
        return sum(held_out_gain([row[row > 0] for row in rows], np.log(n_bins))[0] for rows in counts), 0.0

    n_bins, fraction = _best(joint, weights.sum())
    return n_bins if fraction <= 0.5 else _best(marginal, weights.sum())[0]


def _best(held_out, most):
    """The number of bins with the largest gain, and the fraction of the uniform distribution in it; one bin is nothing but uniform."""
    best, best_gain, n_behind = (1, 1.0), 0.0, 0
    for n_bins in _candidates(most):
        gain, fraction = held_out(n_bins)
        n_behind += 1
        if gain > best_gain:
            best, best_gain, n_behind = (n_bins, fraction), gain, 0
        if n_behind == _PATIENCE:
            break
    return best


def _candidates(most):
    """2, 3, 4, 6, 8, 11, 16, ...: powers of the root of two, rounded, but no more bins than codes."""
    powers = np.round(2.0 ** np.arange(1, np.log2(_MOST_BINS) + 0.25, 0.5)).astype(int).tolist()
    return [n_bins for n_bins in powers if n_bins <= most]
