"""Maps of the torus onto itself that bring one map over another, and how alike maps are."""

from heapq import heappop, heappush
from itertools import combinations, product

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score, euclidean_distances
from sklearn.utils import Bunch, check_random_state

from .. import _checks
from .clusters import TorusWatershed
from .distances import distance, neighbors, pairwise_distances, points_of, wrap

KINDS = ("shift", "isometry", "unimodular")

_MOST_CANDIDATES = 200_000


class Alignment:
    """A map of the torus onto itself, ``g(z) = (A z + b) mod 1`` with an integer matrix A.

    A has determinant 1 or -1, so that g can be undone. A signed permutation reflects and exchanges
    axes and keeps distances; other matrices shear.

    Parameters
    ----------
    matrix : ndarray of int of shape (n_components, n_components)
    shift : ndarray of shape (n_components,)
        In turns.
    residual : float, optional
        What is left: the root mean square distance of the rows that it was found by, in turns.

    Examples
    --------
    >>> import numpy as np
    >>> from skqlvm.torus import Alignment
    >>> turn = Alignment(np.array([[0, 1], [-1, 0]]), np.array([0.5, 0.0]))
    >>> turn([[0.25, 0.125]])
    array([[0.625, 0.75 ]])
    >>> turn.inverse()(turn([[0.25, 0.125]]))
    array([[0.25 , 0.125]])
    """

    def __init__(self, matrix, shift, residual=float("nan")):
        self.matrix = np.asarray(matrix, int)
        self.shift = wrap(shift)
        self.residual = float(residual)

    def __call__(self, Z):
        """Return where points go.

        Parameters
        ----------
        Z : array-like of shape (n_points, n_components)
            In turns.

        Returns
        -------
        ndarray of shape (n_points, n_components)
            In turns, [0, 1).
        """
        Z = points_of("Z", Z, len(self.matrix))
        return wrap(Z @ self.matrix.T.astype(Z.dtype) + self.shift.astype(Z.dtype))

    def inverse(self):
        """Return the map that undoes this one."""
        matrix = np.round(np.linalg.inv(self.matrix)).astype(int)
        return Alignment(matrix, wrap(-matrix @ self.shift), self.residual)

    def __repr__(self):
        return (
            f"Alignment(matrix={self.matrix.tolist()}, shift={self.shift.round(4).tolist()}, "
            f"residual={self.residual:.4g})"
        )


def align(reference, other, X=None, *, kind="unimodular", max_entry=1):
    """Return the map of the torus that brings one map of some rows over another.

    Maps of two fits are the same if they differ by where the torus is cut, by the sense and order
    of its axes, or by a shear of whole turns: by ``g(z) = (A z + b) mod 1`` with an integer matrix
    A. The one that minimises ``mean_i sum_l (1 - cos 2 pi (reference_il - g(other_i)_l))`` is
    found: for each row of A the best shift is a circular mean.

    Parameters
    ----------
    reference, other : fitted estimator, or array-like of shape (n_samples, n_components)
        Embeddings, whose coordinates of X are taken; or coordinates in turns.
    X : array-like of shape (n_samples, n_features), optional
        Rows that both have seen or can map; needed by estimators alone.
    kind : {"unimodular", "isometry", "shift"}, default="unimodular"
        Matrices that are tried: all with entries up to `max_entry` and determinant 1 or -1; those
        that reflect and exchange axes, which keep distances; or the identity.
    max_entry : int, default=1

    Returns
    -------
    Alignment
        A function from coordinates of `other` to those of `reference`, with its `matrix`, `shift`
        and `residual`.
    """
    _checks.check_option("kind", kind, KINDS)
    _checks.check_integer("max_entry", max_entry)
    target, Z = (_coordinates(each, X, name) for each, name in _named(reference, other))
    if target.shape != Z.shape:
        raise ValueError(
            f"reference and other expect the same shape, but got {target.shape} and {Z.shape}."
        )
    k = Z.shape[1]
    rows = _candidates(k, kind, int(max_entry))
    # a row of the matrix makes one coordinate alone, so rows are tried for each by themselves
    directions = np.exp(2j * np.pi * target).T @ np.exp(-2j * np.pi * (Z @ rows.T)) / len(Z)
    matrix, shift = _best(rows, directions, kind)
    found = Alignment(matrix, shift)
    found.residual = float(np.sqrt(np.square(distance(target, found(Z))).mean()))
    return found


def _named(reference, other):
    return (reference, "reference"), (other, "other")


def _coordinates(source, X, name):
    """Turns in float64 of an estimator, or of an array."""
    if hasattr(source, "transform") or hasattr(source, "coordinates"):
        if X is None:
            raise ValueError(f"{name} is an estimator, and expects rows X, but got None.")
        source = getattr(source, "coordinates", None) or source.transform
        source = source(X)
    return points_of(name, source).astype(np.float64)


def _candidates(k, kind, max_entry):
    """Rows that a matrix may have, short ones first, (n_rows, k)."""
    if kind != "unimodular":
        return np.concatenate([np.eye(k, dtype=int), -np.eye(k, dtype=int)])
    n_rows = (2 * max_entry + 1) ** k - 1
    if n_rows > _MOST_CANDIDATES:
        raise ValueError(
            f"{n_rows} rows of matrices are too many. Lower max_entry, or use kind='isometry'."
        )
    entries = range(-max_entry, max_entry + 1)
    rows = np.array([row for row in product(entries, repeat=k) if any(row)])
    return rows[np.argsort(np.abs(rows).sum(1), kind="stable")]


def _best(rows, directions, kind):
    """The matrix of determinant 1 or -1, of these rows, that explains most, and its shift."""
    lengths, k = np.abs(directions), len(directions)
    if kind == "shift":
        chosen = np.arange(k)
    else:
        tuples = _by_sum(lengths, np.argsort(-lengths.round(12), axis=1, kind="stable"))
        chosen = next(
            np.array(places)
            for places in tuples
            if abs(round(np.linalg.det(rows[list(places)]))) == 1
        )
    shift = np.angle(directions[np.arange(k), chosen]) / (2 * np.pi)
    return rows[chosen], shift


def _by_sum(lengths, order):
    """Tuples of a row for each coordinate, by falling sums of their lengths."""
    k, n = lengths.shape

    def entry(ranks):
        places = tuple(int(order[i, rank]) for i, rank in enumerate(ranks))
        return -sum(lengths[i, place] for i, place in enumerate(places)), ranks, places

    start = (0,) * k
    queue, seen = [entry(start)], {start}
    while queue:
        _, ranks, places = heappop(queue)
        yield places
        for i in range(k):
            after = (*ranks[:i], ranks[i] + 1, *ranks[i + 1 :])
            if after[i] < n and after not in seen:
                seen.add(after)
                heappush(queue, entry(after))


def stability(
    estimators,
    X,
    *,
    n_clusters=10,
    merge="prominence",
    n_neighbors=10,
    n_pairs=300,
    kind="unimodular",
    random_state=0,
):
    """Return how alike the maps of several fits are, before and after alignment.

    Maps of one data set may differ by more than `align` undoes: by the order in which kinds of
    rows lie side by side. What does not depend on that are scores, distances of decoded rows, and
    which rows are together.

    Parameters
    ----------
    estimators : list of fitted estimators
        Two or more, such as fits with other seeds.
    X : array-like of shape (n_samples, n_features)
        Rows to compare maps by; held-out ones show most.
    n_clusters : int, default=10
        Clusters of `TorusWatershed` whose rows are compared.
    merge : {"prominence", "overlap"}, default="prominence"
        How it merges: "overlap" compares which rows belong together wherever they lie.
    n_neighbors : int, default=10
    n_pairs : int, default=300
        Rows drawn, all pairs of which have their distances compared.
    kind : {"unimodular", "isometry", "shift"}, default="unimodular"
        As for `align`.
    random_state : int, RandomState or None, default=0
        Of the draw.

    Returns
    -------
    Bunch
        Arrays with an entry for each pair of estimators in the order of ``pairs``, and these:

        pairs : list of (int, int)
        nats : ndarray of shape (n_estimators,)
            Scores of X; `nats_spread` is the largest less the smallest.
        residual_before, residual : ndarray
            Root mean square distance of rows between maps as they are, and after alignment, in
            turns. Of two maps that have nothing to do with each other it is ``sqrt(k / 12)``,
            0.41 in two dimensions, less what alignment makes of chance.
        alignments : list of Alignment
            From the second to the first of each pair.
        flat, decoded : ndarray
            Rank correlation between maps of the distances of rows: around the torus, and between
            what is decoded there.
        neighbors : ndarray
            Share of a row's nearest neighbours on one map that are so on the other.
        co_clustering : ndarray
            Adjusted Rand index between the clusters of both maps.
    """
    if len(estimators) < 2:
        raise ValueError(f"estimators expects two or more, but got {len(estimators)}.")
    _checks.check_integer("n_clusters", n_clusters)
    _checks.check_integer("n_neighbors", n_neighbors)
    _checks.check_integer("n_pairs", n_pairs, minimum=3)
    maps = [_coordinates(each, X, "estimators") for each in estimators]
    n_rows = len(maps[0])
    drawn = check_random_state(random_state).permutation(n_rows)[: int(n_pairs)]
    clusters = [
        _clusters(each, Z, X, int(n_clusters), merge)
        for each, Z in zip(estimators, maps, strict=True)
    ]
    near = [_neighbourhood(Z, min(int(n_neighbors), n_rows - 1)) for Z in maps]
    flat = [_upper(pairwise_distances(Z[drawn])) for Z in maps]
    decoded = [
        _upper(_euclidean(each.inverse_transform(each.transform(_taken(X, drawn)))))
        for each in estimators
    ]
    pairs = list(combinations(range(len(maps)), 2))
    alignments = [align(maps[a], maps[b], kind=kind) for a, b in pairs]
    nats = np.array([each.score(X) for each in estimators])

    def of_pairs(function, parts):
        return np.array([function(parts[a], parts[b]) for a, b in pairs])

    return Bunch(
        pairs=pairs,
        nats=nats,
        nats_spread=float(np.ptp(nats)),
        residual_before=of_pairs(_root_mean_square, maps),
        residual=np.array([each.residual for each in alignments]),
        alignments=alignments,
        flat=of_pairs(_rank_correlation, flat),
        decoded=of_pairs(_rank_correlation, decoded),
        neighbors=of_pairs(lambda a, b: a.multiply(b).sum() / a.sum(), near),
        co_clustering=of_pairs(adjusted_rand_score, clusters),
    )


def _clusters(estimator, Z, X, n_clusters, merge):
    rows = X if merge == "overlap" else None
    return TorusWatershed(estimator, n_clusters=n_clusters, merge=merge).fit(Z, rows=rows).labels_


def _neighbourhood(Z, n_neighbors):
    """Which rows are each other's neighbours, itself left out, as a sparse matrix of ones."""
    near = neighbors(Z, Z, n_neighbors + 1)[1]
    rows = np.repeat(np.arange(len(Z)), n_neighbors + 1)
    found = csr_array((np.ones(near.size), (rows, near.ravel())), shape=(len(Z), len(Z)))
    found.setdiag(0)
    return found


def _taken(X, rows):
    return (
        X.iloc[rows]
        if hasattr(X, "iloc")
        else X[rows]
        if hasattr(X, "shape")
        else np.asarray(X)[rows]
    )


def _euclidean(rows):
    return euclidean_distances(np.asarray(rows, np.float64))


def _upper(distances):
    return distances[np.triu_indices(len(distances), 1)]


def _rank_correlation(a, b):
    return spearmanr(a, b).statistic


def _root_mean_square(a, b):
    return np.sqrt(np.square(distance(a, b)).mean())
