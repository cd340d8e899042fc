"""Boxes cut into bins of equal width, on a line or around a circle in every dimension."""

from dataclasses import dataclass
from numbers import Real

import numpy as np

_CHUNK = 2**16
"""Coordinates quantised at a time, so that they stay in a processor's cache."""

_ROUNDINGS = 4
"""Steps of the last digit within which rounding leaves a code of the bin that it was drawn in."""


@dataclass(frozen=True)
class Grid:
    """The box [low, high] cut into n_bins bins in each of d dimensions; all arrays have shape (d,).

    A flat dimension, whose range is too small to be divided, is one bin of no width. A code outside
    the box belongs to the outermost bin on its side, or is wrapped into the box where the dimension
    is periodic.
    """

    low: np.ndarray
    high: np.ndarray
    n_bins: np.ndarray
    periodic: np.ndarray

    @classmethod
    def over(cls, low, high, n_bins, periodic):
        """Return the grid over a box with a number of bins for each dimension, or for all."""
        low, high = low.astype(np.float64), high.astype(np.float64)
        n_bins = np.asarray(n_bins, np.int64)
        return cls(low, high, np.where(_bins_per_unit(low, high, n_bins) == 0, 1, n_bins), periodic)

    @property
    def flat(self):
        """Dimensions that are not divided."""
        return _bins_per_unit(self.low, self.high, self.n_bins) == 0

    @property
    def width(self):
        """Widths of the bins, in units of the codes."""
        return (self.high - self.low) / self.n_bins

    @property
    def dtype(self):
        """The smallest integers that can number the bins."""
        return np.min_scalar_type(int(self.n_bins.max()) - 1)

    @property
    def log_n_cells(self):
        """Logarithm of the number of cells, occupied or not, in the divided dimensions."""
        return float(np.log(self.n_bins[~self.flat]).sum())

    @property
    def log_volume(self):
        """Logarithm of the volume of the box in the dimensions that are divided."""
        return float(np.log((self.high - self.low)[~self.flat]).sum())

    def edges(self):
        """Return the edges of the bins, an array of n_bins + 1 values a dimension.

        Bin b holds the codes z of the box with edges[b] <= z < edges[b + 1], and the last one on a
        line its upper end too: an inner edge is the smallest float64 that `quantize` counts in the
        bin above it.
        """
        return [
            np.concatenate([[low], _first_codes(low, high, n_bins), [high]])
            for low, high, n_bins in zip(self.low, self.high, self.n_bins, strict=True)
        ]

    def contains(self, Z):
        """Return whether codes (n, d) lie in the box, up to whole periods: booleans (n,)."""
        return (((self.low <= Z) & (self.high >= Z)) | self.periodic).all(axis=1)

    def quantize(self, Z):
        """Return the bins (n, d) of codes (n, d)."""
        bins = np.empty(Z.shape, self.dtype)
        rows = max(1, _CHUNK // Z.shape[1])
        scale, last = _bins_per_unit(self.low, self.high, self.n_bins), self.n_bins - 1.0
        for start in range(0, len(Z), rows):
            offset = self._offset(Z[start : start + rows])
            offset *= scale
            bins[start : start + rows] = np.minimum(offset, last, out=offset)
        return bins

    def _offset(self, Z):
        """Distance of codes from the lower end of the box, in float64."""
        if not self.periodic.any():
            return np.clip(Z, self.low, self.high, dtype=np.float64) - self.low
        period = self.high - self.low
        # only what lies outside is wrapped, so that codes inside are quantised as they would be on
        # a line
        outside = self.periodic & ((self.low > Z) | (self.high <= Z))
        inside = np.clip(Z, self.low, self.high, dtype=np.float64) - self.low
        return np.where(
            outside, np.mod(Z - self.low, period, where=outside, out=np.zeros(Z.shape)), inside
        )

    def place(self, position, bins, dtype):
        """Return codes (n, d) at positions (n, d) that quantise to the bins (n, d) they are in.

        Positions are counted in bins from the lower end.
        """
        lowest, highest = _rounded_inwards(self.low, self.high, self.periodic, dtype)
        Z = np.clip((self.low + position * self.width).astype(dtype), lowest, highest)
        for _ in range(_ROUNDINGS):
            error = np.sign(bins - self.quantize(Z).astype(np.int64))
            if not error.any():
                break
            # one step of the last digit of the code, or of the range if that is coarser
            step = np.maximum(np.spacing(np.abs(Z)), 2 * np.spacing(self.high - self.low))
            Z = np.clip((Z + error * step).astype(dtype), lowest, highest)
        return Z


def _bins_per_unit(low, high, n_bins):
    """Bins a unit of length, or 0 where the range is too small to be divided."""
    with np.errstate(divide="ignore", over="ignore"):
        scale = n_bins / (high - low)
    return np.where(np.isfinite(scale), scale, 0.0)


def _first_codes(low, high, n_bins):
    """The smallest float64 of each bin but the first, in one dimension.

    It has ``(z - low) * scale >= b``, rounded as in `Grid.quantize`.
    """
    bins, scale = np.arange(1, n_bins), _bins_per_unit(low, high, n_bins)
    # rounding moves an edge by less than 16 steps of the last digit: halve what lies between
    margin = 16 * np.spacing(max(abs(low), abs(high)))
    below, first = (np.clip(low + bins / scale + side, low, high) for side in (-margin, margin))
    while True:
        middle = below + (first - below) / 2
        if ((middle <= below) | (middle >= first)).all():
            return first
        reached = (middle - low) * scale >= bins
        below, first = np.where(reached, below, middle), np.where(reached, middle, first)


def _rounded_inwards(low, high, periodic, dtype):
    """The smallest and the largest value of a dtype in [low, high].

    Where that is a period, they are those in [low, high).
    """
    lowest, highest = low.astype(dtype), high.astype(dtype)
    lowest = np.where(lowest < low, np.nextafter(lowest, dtype.type(np.inf)), lowest)
    return lowest, np.where(
        (highest > high) | (periodic & (highest >= high)),
        np.nextafter(highest, dtype.type(-np.inf)),
        highest,
    )


def weighted_quantiles(Z, weights, probabilities):
    """Return quantiles of each column of Z (n, d) at these fractions of the weights.

    They are the smallest values that have at least the fractions at or below them.
    """
    result = np.empty((len(probabilities), Z.shape[1]))
    for column, z in enumerate(Z.T):
        order = np.argsort(z)
        cumulative = np.cumsum(weights[order])
        ranks = np.searchsorted(cumulative, np.asarray(probabilities, np.float64) * cumulative[-1])
        result[:, column] = z[order[np.minimum(ranks, len(z) - 1)]]
    return result


def _is_quantiles(bin_range):
    return (
        isinstance(bin_range, (tuple, list))
        and len(bin_range) == 3
        and isinstance(bin_range[0], str)
        and bin_range[0] == "quantile"
    )


def check_range(bin_range):
    """Raise unless a range has one of its three forms."""
    expected = (
        "bin_range expects 'minmax', ('quantile', lower, upper) or (low, high), but got "
        f"{bin_range!r}."
    )
    if isinstance(bin_range, str) and bin_range == "minmax":
        return
    if _is_quantiles(bin_range):
        lower, upper = bin_range[1:]
        if not all(isinstance(end, Real) for end in (lower, upper)) or not 0 <= lower < upper <= 1:
            raise ValueError(
                f"bin_range expects quantiles with 0 <= lower < upper <= 1, but got {bin_range!r}."
            )
        return
    if not isinstance(bin_range, (tuple, list, np.ndarray)) or len(bin_range) != 2:
        raise ValueError(expected)
    try:
        low, high = (np.asarray(end, dtype=np.float64) for end in bin_range)
        in_order = np.all(low < high) and np.isfinite(low).all() and np.isfinite(high).all()
    except (TypeError, ValueError) as error:
        raise ValueError(expected) from error
    if not in_order:
        raise ValueError(
            "bin_range expects finite numbers with low < high in every dimension, but got "
            f"{bin_range!r}."
        )


def check_periodic(periodic):
    """Raise unless all values are booleans."""
    if np.asarray(periodic).dtype != bool:
        raise TypeError(f"periodic expects booleans, but got {periodic!r}.")


def box(bin_range, periodic, Z, weights):
    """Return the ends of the box that holds codes Z (n, d), and which dimensions are circles.

    These are three arrays (d,): lower ends, upper ends and booleans.
    """
    n_features = Z.shape[1]
    periodic = per_dimension("periodic", periodic, n_features)
    if isinstance(bin_range, str):
        low, high = Z.min(axis=0), Z.max(axis=0)
    elif _is_quantiles(bin_range):
        low, high = weighted_quantiles(Z, weights, bin_range[1:])
    else:
        low, high = (
            per_dimension("each end of bin_range", end, n_features).astype(np.float64)
            for end in bin_range
        )
    if isinstance(bin_range, str) or _is_quantiles(bin_range):
        low, high = np.where(periodic, 0.0, low), np.where(periodic, 1.0, high)
    with np.errstate(over="ignore"):
        if not np.isfinite(high - low).all():
            raise ValueError(
                "The range of the codes is too large: its width overflows. Rescale the codes."
            )
    return low, high, periodic


def per_dimension(name, value, n_features):
    """Return an array of one value a dimension, from such an array or a single value for all."""
    if np.ndim(value) and np.shape(value) != (n_features,):
        raise ValueError(
            f"{name} expects one value, or one for each of the {n_features} features, but got "
            f"{value!r}."
        )
    return np.broadcast_to(value, n_features)
