"""Shortest paths on the torus: flat, through dense regions, or as the decoder measures lengths."""

import numpy as np
import torch
from scipy.fft import dst
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from .. import _checks
from ..engine import geometry, lattices
from ..engine import torus as flat
from ..engine.precision import own_settings
from .density import TorusDensity
from .distances import difference, ends, neighbors, pairwise_distances, points_of, wrap
from .distances import path as straight
from .geometry import log_normalizer_of, metric, model_of, values_of

KINDS = ("flat", "density", "data", "fisher")

_NODES = {1: 377, 2: 2584, 3: 4181}
_NEIGHBORS = {1: 4, 2: 24, 3: 56}
"""Points of the lattice whose graph is searched, and how many a point is joined with."""

_UNIFORM = 0.01
"""Share of a density that is spread evenly, so that no region is out of reach."""

_N_POINTS = 33
"""Points of a path whose length alone is asked for."""

_AT_ONCE = 32
"""Paths that are smoothed together."""

_STEPS, _PLACES = 200, 4
"""Iterations that smooth a path, and where in each of its steps its length is measured."""


def geodesic(estimator, start, end, kind="flat", n_points=100, condition=None):
    """Return the shortest path between two points, and its length.

    Dijkstra's algorithm finds it on the graph of a lattice; its energy is then minimised, so that
    it is smooth and of constant speed.

    Parameters
    ----------
    estimator : QLVMEmbedding, VAEEmbedding, IWAEEmbedding, TorusDensity or None
        Fitted, on the torus. "flat" needs none; "density" takes a `TorusDensity` too.
    start, end : array-like of shape (n_components,)
        In turns.
    kind : {"flat", "density", "data", "fisher"}, default="flat"
        What a step dz is worth. "flat": its length in turns. "density": ``rho^(-1/k)`` times that,
        with the density rho relative to the uniform one, of which a hundredth is mixed in; paths
        pass where rows are. "data", "fisher": ``sqrt(dz^T G dz)`` with the `metric` G, which does
        not depend on how the torus is laid out.
    n_points : int, default=100
        Points of the path, start and end among them.
    condition : array-like of shape (n_conditions,), optional
        Of models with `condition_columns`: what the decoder is told.

    Returns
    -------
    path : ndarray of shape (n_points, n_components)
        In turns, [0, 1).
    length : float
    """
    start, end = ends(start, end)
    _checks.check_option("kind", kind, KINDS)
    _checks.check_integer("n_points", n_points, minimum=2)
    if kind == "flat":
        path = straight(start, end, n_points)
        return path, float(np.linalg.norm(difference(end, start)))
    measure = _measure(estimator, kind, len(start), condition)
    _, found = _search(measure, start[None], end[None], [(0, 0)])
    n_steps = max(int(n_points) - 1, _N_POINTS - 1)
    curves = _smoothed(measure, np.stack([_even(curve, cost, n_steps) for curve, cost in found]))
    length = _lengths(measure, curves)[0]
    share = np.linspace(0, 1, n_steps + 1)
    asked = np.linspace(0, 1, int(n_points))
    curve = np.stack([np.interp(asked, share, values) for values in curves[0].T], 1)
    return wrap(curve), float(length)


def geodesic_distances(estimator, A, B=None, kind="flat", condition=None, *, refine=True):
    """Return the lengths of the shortest paths between all points of A and all of B.

    Parameters
    ----------
    estimator, kind, condition
        As for `geodesic`.
    A : array-like of shape (n_points, n_components)
    B : array-like of shape (n_others, n_components), optional
        A itself by default.
    refine : bool, default=True
        Smooth every path. Without, lengths are those along the edges of the graph, some per cent
        too long, and in time for thousands of points.

    Returns
    -------
    ndarray of shape (n_points, n_others)
    """
    A = points_of("A", A)
    others = A if B is None else points_of("B", B, A.shape[1])
    _checks.check_option("kind", kind, KINDS)
    _checks.check_flag("refine", refine)
    if kind == "flat":
        return pairwise_distances(A, others)
    measure = _measure(estimator, kind, A.shape[1], condition)
    pairs = [(i, j) for i in range(len(A)) for j in range(len(others)) if B is not None or j > i]
    lengths, found = _search(measure, A, others, pairs if refine else [])
    for first in range(0, len(found), _AT_ONCE):
        some = found[first : first + _AT_ONCE]
        even = np.stack([_even(curve, cost, _N_POINTS - 1) for curve, cost in some])
        curves = _smoothed(measure, even)
        for (i, j), length in zip(
            pairs[first : first + _AT_ONCE], _lengths(measure, curves), strict=True
        ):
            lengths[i, j] = length
            if B is None:
                lengths[j, i] = length
    if B is None:
        np.fill_diagonal(lengths, 0)
    return lengths


class _Dense:
    """Steps that are short where a density is large."""

    def __init__(self, density):
        self.density = density

    def metric(self, Z):
        return self._costs(Z)[0][:, None, None] * np.eye(Z.shape[1])

    def energies(self, curves):
        """Return the energies of curves (b, n, k), (b,), and their gradients, (b, n, k)."""
        n_steps, k = curves.shape[1] - 1, curves.shape[2]
        middle, steps = (curves[:, 1:] + curves[:, :-1]) / 2, np.diff(curves, axis=1)
        costs, slopes = self._costs(middle.reshape(-1, k))
        costs, slopes = costs.reshape(len(curves), -1, 1), slopes.reshape(middle.shape)
        squares = np.square(steps).sum(2, keepdims=True)
        by_middle, by_step = slopes * squares / 2, 2 * costs * steps
        gradient = np.zeros_like(curves)
        gradient[:, 1:] += by_middle + by_step
        gradient[:, :-1] += by_middle - by_step
        return n_steps * (costs * squares).sum((1, 2)), n_steps * gradient

    def _costs(self, Z):
        """``rho^(-2/k)`` at points, (n,), and its gradient, (n, k)."""
        k = Z.shape[1]
        own = (1 - _UNIFORM) * np.exp(self.density.score_samples(Z))
        costs = (own + _UNIFORM) ** (-2 / k)
        share = own / (own + _UNIFORM)
        return costs, (-2 / k * costs * share)[:, None] * self.density.gradient(Z)


class _Decoded:
    """Steps as the decoder measures them."""

    def __init__(self, estimator, kind, condition):
        self.estimator, self.kind, self.condition = estimator, kind, condition
        model = estimator._model
        self.function, self.device = values_of(model, kind), model.like.device
        self.log_normalizer = log_normalizer_of(model.likelihood) if kind == "fisher" else None

    def metric(self, Z):
        return metric(self.estimator, Z, self.kind, self.condition)

    def energies(self, curves):
        """Return the energies of curves (b, n, k), (b,), and their gradients, (b, n, k)."""
        groups = self.estimator._groups_for(self.condition, curves.shape[0] * curves.shape[1])
        with own_settings(gradients=True):
            group = [torch.from_numpy(each).to(self.device) for each in groups]
            z = torch.from_numpy(curves).to(self.device).requires_grad_()
            values = self.function(flat.wrap(z.flatten(0, 1)), *group)
            dual = None
            if self.log_normalizer is not None:
                dual = geometry.expected(self.log_normalizer, values).unflatten(0, z.shape[:2])
            steps = geometry.steps(values.unflatten(0, z.shape[:2]), dual)
            energies = steps.sum(1) * steps.shape[1]
            (gradient,) = torch.autograd.grad(energies.sum(), z)
        return energies.detach().cpu().numpy(), gradient.cpu().numpy()


def _measure(estimator, kind, n_components, condition):
    """What a kind of path minimises, of an estimator whose torus has so many dimensions."""
    if kind == "density" and isinstance(estimator, TorusDensity):
        known = len(estimator.bandwidth_)
        measure = _Dense(estimator)
    else:
        model = model_of(estimator, f"a path of kind={kind!r}")
        if model.prior.period is None:
            raise ValueError(
                "A path around the torus expects a model on the torus, but got one with "
                "latent='normal'."
            )
        known = model.n_components
        measure = (
            _Dense(_density_of(estimator))
            if kind == "density"
            else _Decoded(estimator, kind, condition)
        )
    if n_components != known:
        raise ValueError(f"Points expect {known} coordinates, but got {n_components}.")
    return measure


def _density_of(estimator):
    """The density of the rows of a fit: a kernel as wide as the spacing at points of a lattice."""
    spacing = len(estimator.lattice_) ** (-1 / estimator.lattice_.shape[1])
    weights = estimator.aggregate_posterior_
    return TorusDensity(spacing).fit(estimator.lattice_, sample_weight=weights)


def _search(measure, A, B, pairs):
    """Return lengths (n, m) along the edges of a lattice's graph, and curves of some pairs.

    A curve is unwound: from its start in A, steps may lead out of [0, 1). It comes with the costs
    up to each of its points.
    """
    k = A.shape[1]
    own, lattice = np.concatenate([A, B]), lattices.lattice(k, _NODES[k]).numpy()
    nodes = np.concatenate([wrap(own), lattice])
    # all are joined with the lattice, and ends with near ones among themselves
    _, near = neighbors(lattice, nodes, _NEIGHBORS[k] + 1)
    _, beside = neighbors(own, own, min(len(own), _NEIGHBORS[k]))
    source = np.concatenate([_numbers(near), _numbers(beside)])
    target = np.concatenate([near.ravel() + len(own), beside.ravel()])
    steps, metrics = difference(nodes[target], nodes[source]), measure.metric(nodes)
    squares = np.einsum(
        "ni,mnij,nj->mn", steps, np.stack([metrics[source], metrics[target]]), steps
    )
    costs = np.sqrt(np.maximum(squares, 0)).mean(0)
    costs = np.maximum(costs, 1e-12 * costs.max())  # a graph has no edges of cost zero
    graph = csr_array((costs, (source, target)), shape=(len(nodes), len(nodes)))
    lengths, before = dijkstra(
        graph, directed=False, indices=np.arange(len(A)), return_predecessors=True
    )
    curves = []
    for i, j in pairs:
        visited = [len(A) + j]
        while visited[-1] != i:
            visited.append(before[i, visited[-1]])
        visited = visited[::-1]
        moves = difference(nodes[visited[1:]], nodes[visited[:-1]])
        curve = A[i] + np.concatenate([np.zeros((1, k)), moves.cumsum(0)])
        curves.append((curve, lengths[i, visited]))
    return lengths[:, len(A) : len(A) + len(B)], curves


def _numbers(table):
    """The number of the row of each entry."""
    return np.repeat(np.arange(len(table)), table.shape[1])


def _even(curve, cost, n_steps):
    """A curve as points that are evenly spaced by cost."""
    asked = np.linspace(0, cost[-1], n_steps + 1)
    return np.stack([np.interp(asked, cost, values) for values in curve.T], 1)


def _smoothed(measure, curves):
    """Minimise the energies of curves (b, n, k), whose ends stay.

    By amplitudes of sines around the straight line, scaled so that on a flat torus the energy bends
    the same in all of them.
    """
    n_steps = curves.shape[1] - 1
    if n_steps < 2:
        return curves
    share = np.linspace(0, 1, n_steps + 1)[:, None]
    line = curves[:, :1] + share * (curves[:, -1:] - curves[:, :1])
    scales = 1 / (2 * n_steps * np.sin(np.pi * np.arange(1, n_steps) / (2 * n_steps)))[:, None]
    shape = curves[:, 1:-1].shape

    def sines(values):
        return dst(values, 1, axis=1, norm="ortho")

    def curves_of(amplitudes):
        bent = line.copy()
        bent[:, 1:-1] += sines(scales * amplitudes.reshape(shape))
        return bent

    first = measure.energies(curves)[0]
    unit = np.where(first > 0, first, 1)

    def energy(amplitudes):
        energies, gradients = measure.energies(curves_of(amplitudes))
        slopes = scales * sines(gradients[:, 1:-1] / unit[:, None, None])
        return (energies / unit).sum(), slopes.ravel()

    start = sines((curves - line)[:, 1:-1]) / scales
    options = {"maxiter": _STEPS, "ftol": 1e-14, "gtol": 1e-9}
    found = minimize(energy, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return curves_of(found.x)


def _lengths(measure, curves):
    """Lengths of curves (b, n, k), (b,), by the metric at places along each of their steps."""
    steps, k = np.diff(curves, axis=1), curves.shape[2]
    places = (np.arange(_PLACES)[:, None] + 0.5) / _PLACES
    along = curves[:, :-1, None] + places * steps[:, :, None]
    metrics = measure.metric(along.reshape(-1, k)).reshape(*along.shape, k)
    squares = np.einsum("bni,bnpij,bnj->bnp", steps, metrics, steps)
    return np.sqrt(np.maximum(squares, 0)).mean(2).sum(1)
