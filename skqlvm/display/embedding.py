"""The map of rows, coloured by class or value."""

from itertools import combinations

import numpy as np

from .colours import Categories, colours
from .panels import Space, latent, one_or_all, panels, unrolled

_SHADED_FROM, _RASTER_FROM, _N_PIXELS, _N_BARS = 100_000, 20_000, 400, 60


class EmbeddingDisplay:
    """A map of rows: dots, or from 100,000 rows on the mean colour and density of each pixel.

    On the torus the margins repeat, paler, what lies at the opposite edges. One dimension is drawn
    as lanes below a histogram, three from three sides.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Coordinates, in one to three dimensions.
    values : array-like of shape (n_samples,), optional
        Class or number of each row.
    period : float or None, default=1.0
        1 for coordinates on the torus in turns, None for others.
    name : str
        What the values are.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes, or ndarray of them
        Several in one and in three dimensions.
    artists_ : list
        The dots, or the image, in each of the maps.
    legend_ : Legend, Colorbar or None
    """

    def __init__(self, Z, values=None, *, period=1.0, name="class"):
        self.Z = Z
        self.values = values
        self.period = period
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, X, values=None, *, name=None, ax=None, **kwargs):
        """Map the rows of X by a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : fitted estimator of this package
        X : array-like of shape (n_samples, n_features)
        values : array-like of shape (n_samples,), "nats" or "entropy", optional
            Colours: classes, numbers, log p(x) of each row, or the entropy of its posterior.
        name : str, optional
        ax : matplotlib Axes or array-like of them, optional
        **kwargs : dict
            For `plot`.

        Returns
        -------
        EmbeddingDisplay
        """
        Z = latent(estimator.coordinates(X), "the map")
        if isinstance(values, str):
            name, values = name or values, row_values(estimator, X, values)
        period = Space.of(estimator).period
        return cls(Z, values, period=period, name=name or "class").plot(ax, **kwargs)

    @classmethod
    def from_predictions(cls, Z, values=None, *, period=1.0, name="class", ax=None, **kwargs):
        """Draw coordinates of any map.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
        values : array-like of shape (n_samples,), optional
        period : float or None, default=1.0
            None for maps that are no torus, such as PCA's.
        name : str, default="class"
        ax : matplotlib Axes or array-like of them, optional
        **kwargs : dict
            For `plot`.

        Returns
        -------
        EmbeddingDisplay
        """
        return cls(Z, values, period=period, name=name).plot(ax, **kwargs)

    def plot(self, ax=None, *, margin=0.1, size=None, legend=True):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of them, optional
            One in two dimensions; in one dimension one, or two for a histogram too; three in three.
        margin : float, default=0.1
            What is repeated at each edge of the torus, as a part of it; at most 0.5.
        size : float, optional
            Area of a dot, in squared points.
        legend : bool, default=True
            Explain the colours.

        Returns
        -------
        self
        """
        Z = latent(self.Z)
        if not 0 <= margin <= 0.5:
            raise ValueError(f"margin expects a number from 0 to 0.5, but got {margin!r}.")
        if self.period is not None:
            Z, margin = Z / self.period % 1.0, float(margin)
        space = Space.around(Z, None if self.period is None else 1.0)
        margin = margin if space.period else 0.0
        draw = _draw_line if Z.shape[1] == 1 else _draw_maps
        figure, axes, shown, self.artists_ = draw(Z, self, ax, space, margin, size)
        in_lanes = Z.shape[1] == 1 and isinstance(shown, Categories)
        self.legend_ = shown.explain(figure, axes) if legend and not in_lanes else None
        self.figure_, self.ax_ = figure, one_or_all(axes)
        return self


def row_values(estimator, X, what):
    """Return a number of each row that a model knows: nats, or the entropy of its posterior."""
    if what == "nats":
        return np.asarray(estimator.score_samples(X))
    if what == "entropy":
        return np.asarray(estimator.posterior_summary(X)["entropy"])
    raise ValueError(f"values expects an array, 'nats' or 'entropy', but got {what!r}.")


def _draw_maps(Z, display, ax, space, margin, size):
    pairs = list(combinations(range(Z.shape[1]), 2))
    figure, axes = panels(ax, len(pairs), (5.6 if len(pairs) == 1 else 4.6, 4.8))
    shown = colours(display.values, display.name, len(Z))
    artists = []
    for panel, (i, j) in zip(axes, pairs, strict=True):
        points, rows = Z[:, [i, j]], np.arange(len(Z))
        if margin:
            points, rows = unrolled(points, margin)
        if len(Z) < _SHADED_FROM:
            artists.append(_dots(panel, points, shown.rgb[rows], size))
        else:
            limits = space.limits[[i, j]]
            limits = limits + margin * np.diff(limits, axis=1) * [-1, 1]
            artists.append(_shade(panel, points, shown.rgb[rows], limits))
        space.frame(panel, i, j, margin)
    return figure, axes, shown, artists


def _dots(panel, points, rgb, size):
    return panel.scatter(
        *points.T,
        c=rgb,
        s=size or dot_size(len(points)),
        linewidths=0,
        rasterized=len(points) > _RASTER_FROM,
    )


def _shade(panel, points, rgb, limits):
    """Draw an image: each pixel's mean colour, the more opaque the more rows lie in it."""
    scaled = (points - limits[:, 0]) / np.diff(limits, axis=1)[:, 0]
    cells = np.minimum((scaled * _N_PIXELS).astype(int), _N_PIXELS - 1)
    index = cells[:, 1] * _N_PIXELS + cells[:, 0]
    counts = np.bincount(index, minlength=_N_PIXELS**2)
    sums = [np.bincount(index, column, _N_PIXELS**2) for column in rgb.T]
    image = np.zeros((_N_PIXELS**2, 4))
    image[:, :3] = np.stack(sums, 1) / np.maximum(counts, 1)[:, None]
    seen = counts > 0
    top = np.percentile(counts[seen], 99.5)
    image[seen, 3] = 0.15 + 0.85 * np.minimum(np.log1p(counts[seen]) / np.log1p(top), 1)
    return panel.imshow(
        image.clip(0, 1).reshape(_N_PIXELS, _N_PIXELS, 4),
        extent=limits.ravel(),
        origin="lower",
        interpolation="nearest",
        aspect="auto",
    )


def _draw_line(Z, display, ax, space, margin, size):
    """Draw rows in lanes or by their number, below a histogram if there is room."""
    n_axes = 2 if ax is None else min(np.size(ax), 2)
    if ax is None:
        figure, axes = _stacked()
    else:
        figure, axes = panels(ax, n_axes, None)
    shown = colours(display.values, display.name, len(Z))
    points, rows = unrolled(Z, margin) if margin else (Z, np.arange(len(Z)))
    heights, ticks = shown.heights()
    panel = axes[-1]
    at = np.column_stack([points[:, 0], heights[rows]])
    artist = _dots(panel, at, shown.rgb[rows], size)
    panel.set_ylabel(shown.name)
    if ticks is not None:
        panel.set_yticks(*ticks)
    low, high = space.limits[0]
    space.frame_line(panel, margin)
    if n_axes == 2:
        groups, palette = shown.groups()
        axes[0].set_xlim(panel.get_xlim())
        bars = np.linspace(low, high, _N_BARS + 1)
        axes[0].hist([Z[g, 0] for g in groups], bars, color=list(palette), stacked=True)
        axes[0].set_ylabel("rows")
    return figure, axes, shown, [artist]


def _stacked():
    """A new figure of two axes above each other."""
    figure, [whole] = panels(None, 1, (8, 5))
    whole.remove()
    return figure, figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])


def dot_size(n_points):
    """Return the area of a dot, in squared points."""
    return float(np.clip(18_000 / n_points, 2, 20))
