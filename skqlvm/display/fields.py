"""Numbers over the latent space: how fast the decoder changes, and where rows may lie."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..torus.distances import neighbors
from ..torus.geometry import jacobian_norm
from .colours import plain
from .manifold import name_slices
from .panels import Space, latent, one_or_all, panels

_MOST_ROWS, _NEIGHBORS, _NATS = 16, 4, 12.0


class JacobianDisplay:
    """How fast the decoded mean changes over the latent space: log10 of the Jacobian's norm.

    Ridges are borders between what the decoder keeps apart.

    Parameters
    ----------
    log_norm : ndarray of shape (n_panels, n_rows, n_columns)
        At the centres of a grid; rows go up.
    space : Space
        The part of the latent space that is drawn.
    labels : ndarray of the shape of log_norm, optional
        Clusters, whose borders are drawn.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes, or ndarray of them for three dimensions
    artists_ : list of AxesImage or Line2D
    borders_ : list of ContourSet
    """

    def __init__(self, log_norm, space, labels=None):
        self.log_norm = log_norm
        self.space = space
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        n_points=100,
        n_slices=4,
        clusters=None,
        condition=None,
        ax=None,
        cmap="magma",
    ):
        """Compute the norms of a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : fitted estimator of this package
        n_points : int, default=100
            Of the grid, in each of the first two dimensions; of one dimension four times as many.
        n_slices : int, default=4
            Along a third dimension.
        clusters : object with a method predict(Z), such as TorusWatershed, optional
            Borders that are drawn.
        condition : array-like of shape (n_conditions,), optional
            What the decoder is told, of models with `condition_columns`.
        ax : matplotlib Axes or array-like of them, optional
        cmap : str or Colormap, default="magma"

        Returns
        -------
        JacobianDisplay
        """
        space = Space.of(estimator)
        grid = space.grid(n_points * (4 if space.n_components == 1 else 1), n_slices)
        points = grid.reshape(-1, grid.shape[-1])
        norm = np.maximum(jacobian_norm(estimator, points, condition), 1e-300)
        labels = None
        if clusters is not None:
            labels = np.asarray(clusters.predict(points)).reshape(grid.shape[:-1])
        log_norm = np.log10(norm).reshape(grid.shape[:-1])
        return cls(log_norm, space, labels).plot(ax, cmap=cmap)

    @classmethod
    def from_predictions(cls, norm, *, labels=None, period=1.0, limits=None, ax=None, cmap="magma"):
        """Draw norms that were computed at the centres of a grid in two dimensions.

        Parameters
        ----------
        norm : ndarray of shape (n_rows, n_columns)
        labels : ndarray of shape (n_rows, n_columns), optional
        period : float or None, default=1.0
        limits : array-like of shape (2, 2), optional
            The box that the grid fills, where it is no torus.
        ax : matplotlib Axes, optional
        cmap : str or Colormap, default="magma"

        Returns
        -------
        JacobianDisplay
        """
        norm = np.asarray(norm, dtype=float)
        if norm.ndim != 2 or not (norm > 0).all():
            raise ValueError(
                f"norm expects positive numbers of shape (n_rows, n_columns), but got {norm.shape}."
            )
        labels = None if labels is None else np.asarray(labels)[None]
        space = Space(2, period, limits)
        return cls(np.log10(norm)[None], space, labels).plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="magma"):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of them, optional
        cmap : str or Colormap, default="magma"

        Returns
        -------
        self
        """
        log_norm, space = np.asarray(self.log_norm), self.space
        if self.labels is not None and np.shape(self.labels) != log_norm.shape:
            raise ValueError(
                f"labels expects shape {log_norm.shape}, as the norms, but got "
                f"{np.shape(self.labels)}."
            )
        what = "log10 Jacobian norm" + (", per turn" if space.period else "")
        if space.n_components == 1:
            self._plot_line(ax, what)
            return self
        figure, axes = panels(ax, len(log_norm), (5.6, 4.8))
        scale = {"vmin": np.percentile(log_norm, 1), "vmax": np.percentile(log_norm, 99.5)}
        self.artists_, self.borders_ = [], []
        for i, panel in enumerate(axes):
            self.artists_.append(image(panel, log_norm[i], space, cmap=cmap, **scale))
            if self.labels is not None:
                self.borders_ += borders(panel, np.asarray(self.labels)[i], space)
        name_slices(axes, space)
        figure.colorbar(
            self.artists_[0], ax=list(axes), label=what, extend="both", fraction=0.04, pad=0.02
        )
        self.figure_, self.ax_ = figure, one_or_all(axes)
        return self

    def _plot_line(self, ax, what):
        figure, [panel] = panels(ax, 1, (8, 3))
        values, low_high = self.log_norm[0, 0], self.space.limits[0]
        x = self.space.centers(len(values), 0)
        self.artists_, self.borders_ = panel.plot(x, values, color="0.2"), []
        if self.labels is not None:
            labels = self.labels[0, 0]
            for i in np.flatnonzero(labels != np.roll(labels, 1)):
                if i or self.space.period:
                    edge = low_high[0] + i / len(values) * np.ptp(low_high)
                    self.borders_.append(panel.axvline(edge, color="C3", lw=1))
        self.space.frame_line(panel)
        panel.set_ylabel(what)
        self.figure_, self.ax_ = figure, panel


class PosteriorDisplay:
    """Where in the latent space single rows may lie: the density of each posterior.

    Parameters
    ----------
    lattice : ndarray of shape (n_points, n_components)
        One or two components.
    density : ndarray of shape (n_rows, n_points)
        Relative to the prior.
    space : Space
        The part of the latent space that is drawn.
    titles : list of str
        Of each row.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes, or ndarray of them for several rows
    artists_ : list of AxesImage or Line2D
    """

    def __init__(self, lattice, density, space, titles):
        self.lattice = lattice
        self.density = density
        self.space = space
        self.titles = titles

    @classmethod
    def from_estimator(cls, estimator, X, *, names=None, ax=None, cmap="Purples"):
        """Draw the posteriors of rows under a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator of this package
        X : array-like of shape (n_samples, n_features)
            16 rows at most.
        names : list of str, optional
            Names of the rows; their numbers by default.
        ax : matplotlib Axes or array-like of them, optional
            One for each row.
        cmap : str or Colormap, default="Purples"

        Returns
        -------
        PosteriorDisplay
        """
        check_is_fitted(estimator)
        _check_rows(len(X))
        entropy = np.asarray(estimator.posterior_summary(X)["entropy"])
        names = range(len(entropy)) if names is None else names
        titles = [
            f"{name}: entropy {nats:.1f} nats" for name, nats in zip(names, entropy, strict=True)
        ]
        space = Space.of(estimator)
        return cls._drawn(estimator.lattice_, estimator.posterior(X), space, titles, ax, cmap)

    @classmethod
    def from_predictions(
        cls, lattice, posterior, *, period=1.0, names=None, ax=None, cmap="Purples"
    ):
        """Draw posteriors over the points of a lattice.

        Parameters
        ----------
        lattice : array-like of shape (n_points, n_components)
            Of one or two components.
        posterior : array-like of shape (n_samples, n_points)
            Probabilities.
        period : float or None, default=1.0
        names : list of str, optional
        ax : matplotlib Axes or array-like of them, optional
        cmap : str or Colormap, default="Purples"

        Returns
        -------
        PosteriorDisplay
        """
        lattice = latent(lattice, "lattice")
        titles = [str(name) for name in (range(len(posterior)) if names is None else names)]
        space = Space(lattice.shape[1], 1.0) if period else Space.around(lattice)
        return cls._drawn(lattice, posterior, space, titles, ax, cmap)

    @classmethod
    def _drawn(cls, lattice, posterior, space, titles, ax, cmap):
        posterior = np.asarray(posterior)
        if posterior.ndim != 2 or posterior.shape[1] != len(lattice):
            raise ValueError(
                f"posterior expects shape (n_samples, {len(lattice)}), but got {posterior.shape}."
            )
        _check_rows(len(posterior))
        return cls(lattice, posterior * len(lattice), space, titles).plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="Purples", n_pixels=200):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of them, optional
        cmap : str or Colormap, default="Purples"
        n_pixels : int, default=200
            Of the pictures, in each dimension.

        Returns
        -------
        self
        """
        space = self.space
        if space.n_components > 2:
            raise ValueError(
                f"PosteriorDisplay expects 1 or 2 components, but got {space.n_components}. Draw "
                "draws of sample_posterior with EmbeddingDisplay.from_predictions."
            )
        flat = space.n_components == 1
        figure, axes = panels(ax, len(self.density), (4.5, 2.4) if flat else (3.4, 3.6))
        draw = self._draw_line if flat else self._draw_square
        self.artists_ = [
            draw(panel, row, cmap, n_pixels) for panel, row in zip(axes, self.density, strict=True)
        ]
        for panel, title in zip(axes, self.titles, strict=True):
            panel.set_title(plain(title), fontsize="medium")
        if not flat:
            what = "log density, nats below its peak"
            figure.colorbar(self.artists_[0], ax=list(axes), label=what, extend="min", pad=0.02)
        self.figure_, self.ax_ = figure, one_or_all(axes)
        return self

    def _draw_line(self, panel, density, cmap, n_pixels):
        order = np.argsort(self.lattice[:, 0])
        [line] = panel.plot(self.lattice[order, 0], density[order], color="0.2")
        self.space.frame_line(panel)
        panel.set_ylabel("density")
        return line

    def _draw_square(self, panel, density, cmap, n_pixels):
        [grid] = self.space.grid(n_pixels, 1)
        log_density = np.log(np.maximum(density / density.max(), np.exp(-3 * _NATS)))
        field = _interpolated(self.lattice, log_density, grid.reshape(-1, 2), self.space)
        values = field.reshape(grid.shape[:-1])
        drawn = image(panel, values, self.space, cmap=cmap, vmin=-_NATS, vmax=0)
        if len(self.density) > 1:
            panel.set(xlabel="", ylabel="")
        return drawn


def _check_rows(n_rows):
    if not 1 <= n_rows <= _MOST_ROWS:
        raise ValueError(f"X expects 1 to {_MOST_ROWS} rows, but got {n_rows}. Choose some.")


def _interpolated(lattice, values, points, space):
    """Values at points by the nearest points of a lattice, weighted by closeness."""
    n_neighbors = min(_NEIGHBORS, len(lattice))
    if space.period:
        distances, index = neighbors(lattice, points, n_neighbors)
    else:
        from scipy.spatial import KDTree

        distances, index = KDTree(lattice).query(points, list(range(1, n_neighbors + 1)))
    weights = 1 / np.maximum(distances, 1e-9) ** 2
    return (weights * values[index]).sum(1) / weights.sum(1)


def image(ax, values, space, **kwargs):
    """Draw values at the centres of a grid, rows up, in a frame."""
    (left, right), (bottom, top) = space.limits[:2]
    drawn = ax.imshow(
        values,
        extent=(left, right, bottom, top),
        origin="lower",
        interpolation="bilinear",
        aspect="auto",
        **kwargs,
    )
    space.frame(ax, 0, 1)
    return drawn


def borders(ax, labels, space):
    """Draw the borders between labels at the centres of a grid, across the seam too."""
    from matplotlib.patheffects import withStroke

    edges = "wrap" if space.period else "edge"
    labels = np.pad(labels, 1, mode=edges)
    limits = space.limits[:2]
    x, y = (
        low + (np.arange(-1, n - 1) + 0.5) / (n - 2) * (high - low)
        for n, (low, high) in zip(labels.shape[::-1], limits, strict=True)
    )
    # all but one label draw all borders
    drawn = [
        ax.contour(x, y, labels == label, [0.5], colors=["white"], linewidths=1.1)
        for label in np.unique(labels)[1:]
    ]
    for border in drawn:
        border.set_path_effects([withStroke(linewidth=2.4, foreground="black")])
    return drawn
