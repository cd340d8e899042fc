"""A way through the latent space, on the map and as decoded frames."""

import numpy as np

from ..torus.distances import difference
from .embedding import dot_size
from .manifold import decode
from .panels import Space, latent, panels, unrolled
from .tiles import Tiles

_MARGIN = 0.1


class PathDisplay:
    """A path on the map of rows, above the frames that it decodes to.

    Of three dimensions the map shows the first two.

    Parameters
    ----------
    path : ndarray of shape (n_points, n_components)
    frames : ndarray of shape (n_frames, n_features)
        Decoded at points of the path that are evenly spaced in number.
    space : Space
        The part of the latent space that is drawn.
    tiles : Tiles
        How a frame is drawn.
    Z : ndarray of shape (n_samples, n_components), optional
        Rows of the map, in grey.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : ndarray of two matplotlib Axes
        The map, and the frames.
    line_ : LineCollection
        The path, with its copies in the margins of the torus.
    stops_ : PathCollection
        Where the frames are.
    frames_ : AxesImage or LineCollection
    """

    def __init__(self, path, frames, space, tiles, Z=None):
        self.path = path
        self.frames = frames
        self.space = space
        self.tiles = tiles
        self.Z = Z

    @classmethod
    def from_estimator(
        cls,
        estimator,
        path,
        X=None,
        *,
        n_frames=9,
        image_shape=None,
        condition=None,
        ax=None,
        cmap="gray_r",
    ):
        """Decode frames along a path with a fitted estimator, and draw both.

        Parameters
        ----------
        estimator : fitted estimator of this package
        path : array-like of shape (n_points, n_components)
            Such as `skqlvm.torus.path` and `skqlvm.torus.geodesic` return.
        X : array-like of shape (n_samples, n_features), optional
            Rows that are mapped, in grey.
        n_frames : int, default=9
        image_shape : tuple of int, optional
            (height, width) or (channels, height, width); by default the estimator's own.
        condition : array-like of shape (n_conditions,), optional
            What the decoder is told, of models with `condition_columns`.
        ax : array-like of two matplotlib Axes, optional
        cmap : str or Colormap, default="gray_r"

        Returns
        -------
        PathDisplay
        """
        path = latent(path, "path")
        Z = None if X is None else np.asarray(estimator.coordinates(X))
        space = Space.of(estimator, path if Z is None else np.vstack([Z, path]))
        if path.shape[1] != space.n_components:
            raise ValueError(
                f"path expects {space.n_components} columns, as the model has components, but got "
                f"shape {path.shape}."
            )
        frames = decode(estimator, path[_stops(len(path), n_frames)], condition)
        tiles = Tiles.of(estimator, frames, image_shape)
        return cls(path, frames, space, tiles, Z).plot(ax, cmap=cmap)

    @classmethod
    def from_predictions(
        cls, path, frames, Z=None, *, period=1.0, image_shape=None, ax=None, cmap="gray_r"
    ):
        """Draw a path and frames that were decoded.

        Parameters
        ----------
        path : array-like of shape (n_points, n_components)
        frames : array-like of shape (n_frames, n_features)
        Z : array-like of shape (n_samples, n_components), optional
        period : float or None, default=1.0
        image_shape : tuple of int, optional
        ax : array-like of two matplotlib Axes, optional
        cmap : str or Colormap, default="gray_r"

        Returns
        -------
        PathDisplay
        """
        path, frames = latent(path, "path"), np.asarray(frames, dtype=float)
        Z = None if Z is None else latent(Z)
        space = Space.around(path if Z is None else np.vstack([Z, path]), period)
        return cls(path, frames, space, Tiles(frames, image_shape), Z).plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="gray_r"):
        """Draw.

        Parameters
        ----------
        ax : array-like of two matplotlib Axes, optional
        cmap : str or Colormap, default="gray_r"

        Returns
        -------
        self
        """
        figure, axes = self._new_axes() if ax is None else panels(ax, 2, None)
        self._draw_map(axes[0])
        n_frames = len(self.frames)
        self.frames_ = self.tiles.draw(axes[1], self.frames[None], (0, n_frames, 0, 1), cmap)
        axes[1].set_xticks(np.arange(n_frames) + 0.5, np.arange(1, n_frames + 1))
        axes[1].set_yticks([])
        if self.tiles.image_shape is None:
            axes[1].set_aspect(1.0)
        axes[1].tick_params(length=0)
        for side in axes[1].spines.values():
            side.set_visible(False)
        self.figure_, self.ax_ = figure, axes
        return self

    def _new_axes(self):
        """A new figure of a map above a strip of frames."""
        flat = self.space.n_components == 1
        figure, [whole] = panels(None, 1, (7, 2.6) if flat else (6, 6.6))
        whole.remove()
        return figure, figure.subplots(2, 1, height_ratios=[1.5 if flat else 6, 1])

    def _draw_map(self, ax):
        from matplotlib.collections import LineCollection

        wraps = self.space.period is not None
        margin = _MARGIN if wraps else 0.0
        path = self._plane(self.path)
        steps = np.diff(path, axis=0)
        if wraps:
            path, steps = path % 1.0, difference(path[1:], path[:-1])
        segments = np.stack([path[:-1], path[:-1] + steps], 1)
        shifts = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 1, 1, 2)
        copies = segments + shifts * wraps if wraps else segments[None]
        if self.Z is not None:
            points = unrolled(self.Z % 1.0, margin)[0] if wraps else self.Z
            points = self._plane(points, np.random.default_rng(0).uniform(-0.3, 0.3, len(points)))
            ax.scatter(*points.T, color="0.75", s=dot_size(len(points)), linewidths=0)
        progress = np.tile(np.arange(len(segments)), len(copies))
        self.line_ = ax.add_collection(
            LineCollection(copies.reshape(-1, 2, 2), array=progress, cmap="plasma", linewidths=2)
        )
        stops = _stops(len(path), len(self.frames))
        self.stops_ = ax.scatter(
            *path[stops].T, c=stops, cmap="plasma", edgecolors="white", s=60, zorder=3
        )
        for number, stop in enumerate(path[stops], 1):
            ax.annotate(str(number), stop, (5, 5), textcoords="offset points", fontsize="small")
        if self.space.n_components == 1:
            self.space.frame_line(ax, margin)
            ax.set(ylim=(-0.5, 0.5), yticks=[])
        else:
            self.space.frame(ax, 0, 1, margin)

    def _plane(self, points, height=0.0):
        """The first two coordinates; of one dimension, a height that says nothing."""
        if points.shape[1] == 1:
            return np.column_stack([points, np.broadcast_to(height, len(points))])
        return points[:, :2]


def _stops(n_points, n_frames):
    """Numbers of the points of a path that are decoded."""
    return np.linspace(0, n_points - 1, min(n_frames, n_points)).round().astype(int)
