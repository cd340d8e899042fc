"""Decoded rows side by side: images with gaps between them, or small line plots."""

import numpy as np

_GAP, _PAPER = 0.15, 0.05
"""Width of a gap as a part of a tile's side, and the grey of the lowest value in a tile."""


class Tiles:
    """How rows are drawn as tiles, all on one scale.

    Parameters
    ----------
    rows : ndarray of shape (..., n_features)
        All that will be drawn.
    image_shape : tuple of int, optional
        (height, width) or (channels, height, width), with 1 or 3 channels. Without it rows are
        small line plots.
    limits : pair of float, optional
        Values of white and black; by default 0 and the highest, or if some are negative, what all
        but 5 % and all but 0.5 % of the values lie within.
    """

    def __init__(self, rows, image_shape=None, limits=None):
        self.image_shape = checked_shape(image_shape, rows.shape[-1])
        if limits is None:
            limits = 0.0, float(rows.max())
            if rows.min() < 0:
                limits = np.percentile(rows, [5, 99.5] if self.image_shape else [0, 100])
        self.low, self.high = limits
        self.scale = max(self.high - self.low, 1e-12)

    @classmethod
    def of(cls, estimator, rows, image_shape, limits=None):
        """Return tiles with the image shape that an estimator has, unless there is another."""
        if image_shape is None:
            image_shape = getattr(estimator, "image_shape", None)
        return cls(rows, image_shape, limits)

    def draw(self, ax, rows, extent, cmap="gray_r"):
        """Draw rows (n_rows, n_columns, n_features) to fill an extent, the first row at the bottom.

        Returns
        -------
        AxesImage or LineCollection
        """
        draw = self._draw_lines if self.image_shape is None else self._draw_images
        return draw(ax, rows, extent, cmap)

    def mosaic(self, rows):
        """Return one image of rows (n_rows, n_columns, n_features), with NaN in the gaps.

        Values are 0.05 for the lowest to 1 for the highest.
        """
        channels, height, width = self.image_shape
        gap = max(1, round(_GAP * max(height, width)))
        gap += gap % 2
        tiles = (rows[::-1] - self.low) / self.scale
        tiles = _PAPER + (1 - _PAPER) * tiles.clip(0, 1)
        tiles = tiles.reshape(*rows.shape[:2], channels, height, width)
        room = [(0, 0)] * 3 + [(gap // 2, gap // 2)] * 2
        tiles = np.pad(tiles, room, constant_values=np.nan)
        canvas = tiles.transpose(0, 3, 1, 4, 2).reshape(
            rows.shape[0] * (height + gap), rows.shape[1] * (width + gap), channels
        )
        return canvas[..., 0] if channels == 1 else canvas

    def _draw_images(self, ax, rows, extent, cmap):
        canvas = self.mosaic(rows)
        if canvas.ndim == 3:
            canvas = np.where(np.isnan(canvas), 1.0, canvas)
        drawn = ax.imshow(canvas, cmap=cmap, vmin=0, vmax=1, extent=extent, interpolation="nearest")
        ax.set_aspect(_square_pixels(canvas.shape, extent))
        return drawn

    def _draw_lines(self, ax, rows, extent, cmap):
        from matplotlib.collections import LineCollection, PatchCollection
        from matplotlib.patches import Rectangle

        (left, right, bottom, top), (n_rows, n_columns, n_features) = extent, rows.shape
        width, height = (right - left) / n_columns, (top - bottom) / n_rows
        x = left + width * (np.arange(n_columns)[:, None] + np.linspace(0.12, 0.88, n_features))
        level = ((rows - self.low) / self.scale).clip(0, 1)
        y = bottom + height * (np.arange(n_rows)[:, None, None] + 0.14 + 0.72 * level)
        corners = [
            (left + width * (j + 0.04), bottom + height * (i + 0.04))
            for i in range(n_rows)
            for j in range(n_columns)
        ]
        boxes = [Rectangle(corner, 0.92 * width, 0.92 * height) for corner in corners]
        ax.add_collection(PatchCollection(boxes, facecolor="0.95", edgecolor="none"))
        lines = np.stack(np.broadcast_arrays(x, y), -1).reshape(-1, n_features, 2)
        drawn = ax.add_collection(LineCollection(lines, colors="0.15", linewidths=0.9))
        ax.set(xlim=(left, right), ylim=(bottom, top))
        return drawn


def _square_pixels(shape, extent):
    """The aspect of data units at which the pixels of an image are squares."""
    left, right, bottom, top = extent
    return shape[0] / shape[1] * (right - left) / (top - bottom)


def checked_shape(image_shape, n_features):
    """Return an image shape as (channels, height, width), or None; raise if no row has it."""
    if image_shape is None:
        return None
    shape = (1, *image_shape) if len(image_shape) == 2 else tuple(image_shape)
    if len(shape) != 3 or shape[0] not in (1, 3) or np.prod(shape) != n_features:
        raise ValueError(
            f"image_shape expects (height, width) or (channels, height, width) with 1 or 3 "
            f"channels, of {n_features} features in all, but got {image_shape!r}."
        )
    return tuple(int(side) for side in shape)
