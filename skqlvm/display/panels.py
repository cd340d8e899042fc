"""Axes for the displays, and frames of the latent space in them."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

MISSING = 'matplotlib is missing. Install it with: pip install "skqlvm[plot]"'
_ORDINALS = ("first", "second", "third")
_LIMIT = 3.0
"""How many standard deviations of a normal latent space are drawn."""


def panels(ax, n, size):
    """Return a figure and n axes of it: those that a user gives, or new ones of a size in inches.

    New figures are pyplot's, which notebooks show.
    """
    try:
        from matplotlib.axes import Axes
    except ImportError as error:
        raise ImportError(MISSING) from error
    if ax is None:
        from matplotlib import pyplot

        n_rows, n_columns = grid_of(n)
        figure = pyplot.figure(figsize=(size[0] * n_columns, size[1] * n_rows), layout="compressed")
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for spare in axes[n:]:
            spare.set_axis_off()
        return figure, axes[:n]
    axes = np.ravel(np.asarray(ax, dtype=object))
    if len(axes) != n or not all(isinstance(each, Axes) for each in axes):
        what = "matplotlib axes" if n == 1 else f"{n} matplotlib axes, as figure.subplots(1, {n})"
        raise ValueError(f"ax expects {what}, but got {ax!r}.")
    return axes[0].figure, axes


def grid_of(n):
    """Return numbers of rows and columns for n panels."""
    n_columns = n if n <= 4 else int(np.ceil(np.sqrt(n)))
    return -(-n // n_columns), n_columns


def one_or_all(axes):
    """Return the only axes, or all."""
    return axes[0] if len(axes) == 1 else axes


class Space:
    """The part of a latent space that is drawn: a period of the torus, or a box.

    Parameters
    ----------
    period : float or None
        1 on the torus in turns.
    limits : array-like of shape (n_components, 2), optional
        Lowest and highest coordinate of what is no torus; 3 standard deviations by default.
    """

    def __init__(self, n_components, period, limits=None):
        self.period, self.n_components = period, n_components
        if period is not None:
            limits = [(0.0, period)] * n_components
        elif limits is None:
            limits = [(-_LIMIT, _LIMIT)] * n_components
        self.limits = np.asarray(limits, dtype=float)

    @classmethod
    def of(cls, estimator, Z=None):
        """Return the space of a fitted estimator, with room for points if there are any."""
        check_is_fitted(estimator)
        period = estimator._model.prior.period
        if period is None and Z is not None:
            return cls.around(Z)
        return cls(estimator._model.n_components, period)

    @classmethod
    def around(cls, Z, period=None):
        """Return the torus, or a box around points."""
        if period is not None:
            return cls(Z.shape[1], period)
        low, high = Z.min(0), Z.max(0)
        room = 0.05 * np.maximum(high - low, 1e-9)
        return cls(Z.shape[1], None, np.column_stack([low - room, high + room]))

    def centers(self, n, k):
        """Return the centres of n cells of a dimension."""
        low, high = self.limits[k]
        return low + (np.arange(n) + 0.5) / n * (high - low)

    def grid(self, n, n_slices):
        """Return the centres of cells: of a line, a square, or squares across the third dimension.

        Returns
        -------
        ndarray of shape (n_panels, n_rows, n, n_components)
            Rows go up, along the second coordinate, and columns to the right, along the first.
        """
        if not 1 <= self.n_components <= 3:
            raise ValueError(
                f"A grid expects 1 to 3 components, but the model has {self.n_components}."
            )
        sizes = (n, n, n_slices)[: self.n_components]
        axes = [self.centers(size, k) for k, size in enumerate(sizes)]
        points = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], -1)
        return points.reshape(-1, n if self.n_components > 1 else 1, n, self.n_components)

    def frame(self, ax, i, j, margin=0.0):
        """Set limits, ticks and labels; on the torus draw the seam, and pale what is repeated."""
        for k, limit, label in ((i, ax.set_xlim, ax.set_xlabel), (j, ax.set_ylim, ax.set_ylabel)):
            low, high = self.limits[k]
            room = margin * (high - low)
            limit(low - room, high + room)
            label(self.label(k))
        ax.set_aspect("equal" if self.period else "auto")
        if self.period:
            ax.set_xticks(_TICKS, _TICK_LABELS)
            ax.set_yticks(_TICKS, _TICK_LABELS)
        else:
            ax.set_box_aspect(1)
        if margin and self.period:
            _pale(ax, margin)

    def frame_line(self, ax, margin=0.0):
        """Set the limits, ticks and label of the first coordinate; pale what is repeated."""
        low, high = self.limits[0]
        ax.set(xlim=(low - margin, high + margin), xlabel=self.label(0))
        if self.period:
            ax.set_xticks(_TICKS, _TICK_LABELS)
        if margin and self.period:
            for edge, end in ((low, low - margin), (high, high + margin)):
                ax.axvline(edge, color="0.4", lw=0.8)
                ax.axvspan(edge, end, color="white", alpha=0.6, lw=0, zorder=2.5)

    def label(self, k):
        """Return the name of a coordinate."""
        return f"{_ORDINALS[k]} coordinate, {'turns' if self.period else 'latent units'}"


_TICKS, _TICK_LABELS = (0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1")


def _pale(ax, margin):
    """Pale the margins around a period of the torus, and draw its edges."""
    from matplotlib.patches import Rectangle

    whole = 1 + 2 * margin
    for corner, width, height in (
        ((-margin, -margin), margin, whole),
        ((1, -margin), margin, whole),
        ((0, -margin), 1, margin),
        ((0, 1), 1, margin),
    ):
        ax.add_patch(Rectangle(corner, width, height, color="white", alpha=0.6, lw=0, zorder=2.5))
    ax.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor="0.4", lw=0.8, zorder=2.6))


def unrolled(Z, margin):
    """Return points and their copies in the margins around a period, and the row of each."""
    rows, points = np.arange(len(Z)), Z
    for k in range(Z.shape[1]):
        low, high = points[:, k] > 1 - margin, points[:, k] < margin
        shift = np.eye(Z.shape[1])[k]
        points = np.vstack([points, points[low] - shift, points[high] + shift])
        rows = np.concatenate([rows, rows[low], rows[high]])
    return points, rows


def latent(Z, name="Z"):
    """Return coordinates as floats; raise unless there are one to three, all finite."""
    Z = np.asarray(Z, dtype=float)
    if Z.ndim != 2 or not 1 <= Z.shape[1] <= 3 or not len(Z) or not np.isfinite(Z).all():
        raise ValueError(
            f"{name} expects finite coordinates of shape (n_points, 1 to 3), but got shape "
            f"{Z.shape}. Of more dimensions, choose some columns."
        )
    return Z
