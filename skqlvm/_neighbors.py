"""Neighbours of training rows, and what their distances say about whose code explains them."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors

from . import _checks
from .engine import empirical, kernels

SELF_WEIGHTS = ("expected", "raw")

_KEPT = 5
"""Neighbours that are kept for each that is summed over: draws are from them too."""

_NOISE_ROWS, _NOISE_NEIGHBORS = 500, 20
"""Rows that noise is estimated from, and neighbours of each, for one latent dimension."""

_GATHERED = 2**22
"""Numbers of neighbours' rows that are held at a time."""

_FEWEST_EFFECTIVE = 1.2
"""Effective neighbours of a typical row below which it is called alone."""


class Neighborhood(NamedTuple):
    """What distances between rows say.

    Attributes
    ----------
    coordinates : Tensor of shape (n_rows, n_coordinates)
        Those that distances are taken in.
    posterior : skqlvm.engine.empirical.IndexPosterior
    bandwidth : float
        Of the kernel, in squared units of X for a Gaussian, where its features are in one scale;
        else of the coordinates.
    """

    coordinates: torch.Tensor
    posterior: empirical.IndexPosterior
    bandwidth: float


def check(estimator):
    """Raise unless the parameters of the neighbourhood make sense."""
    _checks.check_integer("n_neighbors", estimator.n_neighbors)
    _checks.check_option("self_weight", estimator.self_weight, SELF_WEIGHTS)
    if not (isinstance(estimator.bandwidth, str) and estimator.bandwidth == "auto"):
        _checks.check_number("bandwidth", estimator.bandwidth, open_minimum=True)
    search = estimator.neighbors
    if search is not None and not any(hasattr(search, n) for n in ("kneighbors", "fit_transform")):
        raise TypeError(
            "neighbors expects None, an estimator with fit and kneighbors, or a transformer of "
            f"rows to a graph of their neighbours, but got {search!r}."
        )


def neighborhood(estimator, likelihood, x, log_share):
    """Return the neighbourhood of rows x (n, d), whose codes have log weights (n,)."""
    bandwidth = None if isinstance(estimator.bandwidth, str) else float(estimator.bandwidth)
    kernel = kernels.kernel(likelihood, bandwidth)
    y = kernel.coordinates(x)
    n_others = min(_KEPT * int(estimator.n_neighbors), len(y)) - 1
    others = torch.from_numpy(_others(estimator.neighbors, y.numpy(), n_others))
    width, self_distance = kernel.bandwidth, kernel.self_distance
    if width is None:
        near = others[:_NOISE_ROWS, : _NOISE_NEIGHBORS * int(estimator.n_components)]
        noise = kernels.local_noise(y, near, int(estimator.n_components))
        spread = float(y.var(correction=0)) or 1.0  # rows that are all the same have any width
        width = max(2 * noise, torch.finfo(torch.float32).eps * spread)
        self_distance = y.shape[1] * width
    own = torch.arange(len(y))
    squares = _squared_distances(y, others)
    alone = y.new_zeros(len(y))
    if estimator.self_weight == "expected":
        nearest = squares.amin(1) if n_others else alone
        alone = nearest if self_distance is None else torch.full_like(alone, self_distance)
    posterior = empirical.IndexPosterior.of(
        torch.cat([own[:, None], others], 1),
        torch.cat([alone[:, None], squares], 1),
        width,
        log_share,
    )
    in_one_scale = kernel.bandwidth is None and bool(
        (likelihood.scale == likelihood.scale[0]).all()
    )
    return Neighborhood(
        y, posterior, float(width * likelihood.scale[0] ** 2 if in_one_scale else width)
    )


def warn_if_alone(effective, self_weight):
    """Warn that the weights of a typical row are on one code."""
    if effective >= _FEWEST_EFFECTIVE:
        return
    remedy = "Raise bandwidth" if self_weight == "expected" else "Use self_weight='expected'"
    also = "" if self_weight == "expected" else ", or raise bandwidth"
    _checks.warn(
        f"The cached weights of a typical row rest on {effective:.2f} effective neighbours: rows "
        f"are further apart than noise explains, so that they hardly share codes. {remedy}{also}."
    )


def _others(search, y, n_others):
    """Numbers of the nearest other rows of each row, (n, n_others)."""
    if n_others == 0:
        return np.empty((len(y), 0), dtype=np.int64)
    if search is None:
        algorithm = "brute" if y.shape[1] > 15 else "kd_tree"
        search = NearestNeighbors(algorithm=algorithm)
    search = clone(search)
    if hasattr(search, "kneighbors"):
        found = search.fit(y).kneighbors(y, n_others + 1, return_distance=False)
    else:
        found = _of_graph(search.fit_transform(y))
    found = np.asarray(found, dtype=np.int64)
    # the row itself, wherever it is: among rows that equal it, it may be missing
    own = found == np.arange(len(found))[:, None]
    own[~own.any(1), -1] = True
    found = found[~own].reshape(len(found), -1)
    if not found.size or found.min() < 0:
        raise ValueError(
            "neighbors expects to find other rows for each row, but for some it found none. Let it "
            f"find more, at best {n_others} for each."
        )
    return found[:, :n_others]


def _of_graph(graph):
    """Columns of a graph of neighbours, (n, as many as each row has)."""
    if not issparse(graph):
        raise TypeError(
            f"neighbors expects a transformer to a sparse graph, but it gave {type(graph)}."
        )
    graph = graph.tocsr()
    fewest = int(np.diff(graph.indptr).min())
    parts = [
        graph.indices[start:stop][np.argsort(graph.data[start:stop], kind="stable")[:fewest]]
        for start, stop in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)
    ]
    return np.stack(parts)


def _squared_distances(y, neighbors):
    """Squared distances of rows to their neighbours, (n, T), without cancellation."""
    size = max(1, _GATHERED // max(1, neighbors.shape[1] * y.shape[1]))
    pairs = zip(y.split(size), neighbors.split(size), strict=True)
    return torch.cat([(y[near] - part[:, None]).square().sum(2) for part, near in pairs])
