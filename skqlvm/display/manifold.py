"""What the latent space decodes to."""

import numpy as np

from .panels import Space, one_or_all, panels
from .tiles import Tiles


class ManifoldDisplay:
    """Decoded rows at the centres of a grid: images with gaps between them, on one scale of greys.

    Vectors are small line plots, on one scale too. One dimension is a row of tiles; three are
    slices through the third.

    Parameters
    ----------
    decoded : ndarray of shape (n_panels, n_rows, n_columns, n_features)
        Rows go up and columns to the right.
    space : Space
        The part of the latent space that is drawn.
    tiles : Tiles
        How a row is drawn.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes, or ndarray of them for three dimensions
    artists_ : list of AxesImage or LineCollection
    """

    def __init__(self, decoded, space, tiles):
        self.decoded = decoded
        self.space = space
        self.tiles = tiles

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        n_tiles=10,
        n_slices=4,
        image_shape=None,
        condition=None,
        limits=None,
        grey_limits=None,
        ax=None,
        cmap="gray_r",
    ):
        """Decode a grid with a fitted estimator, and draw it.

        Parameters
        ----------
        estimator : fitted estimator of this package
        n_tiles : int, default=10
            In each of the first two dimensions.
        n_slices : int, default=4
            Along a third dimension.
        image_shape : tuple of int, optional
            (height, width) or (channels, height, width); by default the estimator's own.
        condition : array-like of shape (n_conditions,), optional
            What the decoder is told, of models with `condition_columns`.
        limits : array-like of shape (n_components, 2), optional
            The box that is drawn of latent spaces that are no torus; 3 standard deviations by
            default.
        grey_limits : pair of float, optional
            Values of white and black.
        ax : matplotlib Axes or array-like of them, optional
        cmap : str or Colormap, default="gray_r"

        Returns
        -------
        ManifoldDisplay
        """
        space = Space.of(estimator)
        if space.period is None and limits is not None:
            space = Space(space.n_components, None, limits)
        decoded = decode(estimator, space.grid(n_tiles, n_slices), condition)
        tiles = Tiles.of(estimator, decoded, image_shape, grey_limits)
        return cls(decoded, space, tiles).plot(ax, cmap=cmap)

    @classmethod
    def from_predictions(
        cls,
        decoded,
        *,
        image_shape=None,
        period=1.0,
        limits=None,
        grey_limits=None,
        ax=None,
        cmap="gray_r",
    ):
        """Draw rows that were decoded at the centres of a grid in two dimensions.

        Parameters
        ----------
        decoded : ndarray of shape (n_rows, n_columns, n_features)
            Rows go up, along the second coordinate, and columns to the right, along the first.
        image_shape : tuple of int, optional
        period : float or None, default=1.0
            None for a latent space that is no torus.
        limits : array-like of shape (2, 2), optional
            The box that the grid fills, where it is no torus.
        grey_limits : pair of float, optional
        ax : matplotlib Axes, optional
        cmap : str or Colormap, default="gray_r"

        Returns
        -------
        ManifoldDisplay
        """
        decoded = np.asarray(decoded, dtype=float)
        if decoded.ndim != 3:
            raise ValueError(
                f"decoded expects shape (n_rows, n_columns, n_features), but got {decoded.shape}."
            )
        tiles = Tiles(decoded, image_shape, grey_limits)
        return cls(decoded[None], Space(2, period, limits), tiles).plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="gray_r"):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of them, optional
        cmap : str or Colormap, default="gray_r"

        Returns
        -------
        self
        """
        flat = self.space.n_components == 1
        figure, axes = panels(ax, len(self.decoded), (9, 1.6) if flat else (5, 5))
        extent = (*self.space.limits[0], *((0, 1) if flat else self.space.limits[1]))
        self.artists_ = []
        for panel, rows in zip(axes, self.decoded, strict=True):
            if not flat:
                self.space.frame(panel, 0, 1)
            self.artists_.append(self.tiles.draw(panel, rows, extent, cmap))
        if flat:
            self.space.frame_line(axes[0])
            axes[0].set_yticks([])
            if self.tiles.image_shape is None:
                axes[0].set_box_aspect(1.2 / self.decoded.shape[2])
        name_slices(axes, self.space)
        self.figure_, self.ax_ = figure, one_or_all(axes)
        return self


def decode(estimator, points, condition=None):
    """Return decoded means at points (..., n_components), whatever `output` says."""
    flat = points.reshape(-1, points.shape[-1])
    rows = estimator._decoded(flat, flat, condition)
    return np.asarray(rows, dtype=float).reshape(*points.shape[:-1], -1)


def name_slices(axes, space):
    """Say where slices through a third dimension are."""
    if space.n_components == 3:
        for panel, z in zip(axes, space.centers(len(axes), 2), strict=True):
            panel.set_title(f"third coordinate {z:.3g}", fontsize="medium")
