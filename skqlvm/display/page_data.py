"""What the page of the explorer holds: arrays as base64 of zlib streams, and texts."""

import zlib
from base64 import b64encode

import numpy as np
from scipy.sparse import issparse

from .colours import grouped, numbers_of, text
from .embedding import row_values
from .manifold import decode
from .panels import Space
from .tiles import checked_shape

_MISSING, _LEVELS = 255, 254
_BLOCK, _GRID_BYTES, _MOST_IN_TABLE = 256, 4_000_000, 16
_ZONES = 256
_REST = 40_000
"""Size of the template and of numbers that are no arrays, with room to spare."""


def collect(
    estimator,
    X,
    y,
    *,
    names,
    y_name,
    values,
    clusters,
    image_shape,
    condition,
    n_grid,
    max_bytes,
):
    """Return what the page shows, as a dict that can be JSON."""
    Z = np.asarray(estimator.coordinates(X), dtype=float)
    if Z.shape[1] != 2:
        raise ValueError(f"explorer expects 2 components, but the model has {Z.shape[1]}.")
    space, n_rows = Space.of(estimator, Z), len(Z)
    columns = _columns(estimator, X, y, y_name, values, clusters, Z)
    if names is not None:
        names = [str(name) for name in names]
        if len(names) != n_rows:
            raise ValueError(f"names expects {n_rows} names, one a row, but got {len(names)}.")
    rows = estimator._queried(X)
    n_features = rows.shape[1]
    if image_shape is None:
        image_shape = getattr(estimator, "image_shape", None)
    image_shape = checked_shape(image_shape, n_features)
    side = min(int(n_grid), max(8, int(np.sqrt(_GRID_BYTES / n_features))))
    decoded = decode(estimator, _nodes(space, side), condition)
    low, high = _limits(rows, decoded.reshape(-1, n_features), image_shape)
    table = image_shape is None and n_features <= _MOST_IN_TABLE

    def numbers(values):
        return _floats(values) if table else _packed(_quantised(values, low, high))

    unit = (Z - space.limits[:, 0]) / np.diff(space.limits, axis=1)[:, 0]
    unit = unit % 1.0 if space.period else unit
    data = {
        "n": n_rows,
        "wraps": space.period is not None,
        "limits": space.limits.tolist(),
        "n_features": n_features,
        "image": image_shape,
        "table": table,
        "feature_names": _feature_names(estimator, n_features, image_shape),
        "names": names,
        "columns": columns,
        "x": _floats(unit[:, 0]),
        "y": _floats(unit[:, 1]),
        "low": [float(f"{value:.6g}") for value in np.broadcast_to(low, n_features)],
        "high": [float(f"{value:.6g}") for value in np.broadcast_to(high, n_features)],
        "grid": {"side": side, "data": numbers(decoded)},
        "zones": None if clusters is None else _zones(clusters, space),
    }
    size = sum(len(column["data"]) for column in columns) + sum(
        len(text) for text in (data["x"], data["y"], data["grid"]["data"], *(names or ()))
    )
    data["rows"] = _stored(rows, numbers, max(max_bytes - size - _REST, 0))
    return data


def _columns(estimator, X, y, y_name, values, clusters, Z):
    """What rows are coloured by: their labels, nats, entropies and clusters."""
    columns = []
    if y is not None:
        y = np.asarray(y)
        if y.shape != (len(Z),):
            raise ValueError(f"y expects {len(Z)} labels, one a row, but got shape {y.shape}.")
        columns.append(_column(str(y_name), y))
    columns += [_column(what, row_values(estimator, X, what)) for what in values]
    if clusters is not None:
        labels = np.asarray(clusters.predict(Z))
        columns.append(_column("cluster", np.array([text(label) for label in labels])))
    return columns


def _column(name, values):
    numbers = numbers_of(values)
    if numbers is None:
        texts = np.array([text(value) for value in values])
        groups, codes, n_kept = grouped(texts)
        column = {"name": name, "data": _floats(codes), "classes": groups}
        if n_kept < len(groups):
            column["rest"] = {int(i): str(texts[i]) for i in np.flatnonzero(codes == n_kept)}
        return column
    low, high = np.percentile(numbers[np.isfinite(numbers)], [1, 99])
    return {"name": name, "data": _floats(numbers), "low": float(low), "high": float(high)}


def _nodes(space, side):
    """Nodes of a grid (side, side, 2), rows up: around the torus, or from edge to edge."""
    steps = np.arange(side) / (side if space.period else side - 1)
    x, y = (low + steps * (high - low) for low, high in space.limits)
    return np.stack(np.meshgrid(x, y), -1)


def _zones(clusters, space):
    """Clusters at the centres of the cells of a fine grid."""
    points = space.grid(_ZONES, 1).reshape(-1, 2)
    names, codes = np.unique(np.asarray(clusters.predict(points)), return_inverse=True)
    return {
        "side": _ZONES,
        "data": _packed(codes.astype("<u2")),
        "names": [text(name) for name in names],
    }


def _limits(rows, decoded, image_shape):
    """Lowest and highest value, of all features of an image or of each of a vector."""
    if issparse(rows):
        low, high = rows.min(0).toarray().ravel(), rows.max(0).toarray().ravel()
    else:
        known = np.isfinite(rows)
        low = np.min(rows, 0, initial=np.inf, where=known)
        high = np.max(rows, 0, initial=-np.inf, where=known)
    if image_shape is None:
        return np.minimum(low, decoded.min(0)), np.maximum(high, decoded.max(0))
    # what a Gaussian's decoder leaves around white is noise
    return min(low.min(), np.percentile(decoded, 5)), max(high.max(), decoded.max())


def _quantised(values, low, high):
    """Levels 0 to 254; 255 is missing."""
    scale = np.maximum(np.asarray(high) - low, 1e-12)
    with np.errstate(invalid="ignore"):
        levels = np.rint((values - low) / scale * _LEVELS).clip(0, _LEVELS)
    return np.where(np.isnan(levels), _MISSING, levels).astype(np.uint8)


def _stored(rows, numbers, budget):
    """Features of the rows in blocks, of all of them or of as many as fit in a budget of bytes."""

    def blocks(index):
        for start in range(0, len(index), _BLOCK):
            part = rows[index[start : start + _BLOCK]]
            part = part.toarray() if issparse(part) else part
            yield numbers(part)

    n_rows = rows.shape[0]
    tried = np.linspace(0, n_rows - 1, min(n_rows, 2 * _BLOCK)).astype(int)
    each = sum(map(len, blocks(tried))) / len(tried)
    n_kept = min(n_rows, int(budget / (1.03 * each)))
    index = np.linspace(0, n_rows - 1, n_kept).round().astype(int)
    stored = None if n_kept == n_rows else index.tolist()
    return {"n": n_kept, "block": _BLOCK, "stored": stored, "data": list(blocks(index))}


def _feature_names(estimator, n_features, image_shape):
    if image_shape is not None:
        return None
    names = getattr(estimator, "feature_names_in_", None)
    return [str(name) for name in (range(n_features) if names is None else names)]


def _floats(values):
    return _packed(np.asarray(values).astype("<f4"))


def _packed(array):
    return b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
