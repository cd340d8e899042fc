"""Distances, means, shortest ways and neighbours on the flat torus; its points as features."""

import numpy as np
from scipy.spatial import KDTree
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from .. import _checks

_DTYPES = [np.float64, np.float32]


def wrap(Z):
    """Bring coordinates in turns into [0, 1), never 1.0 even where rounding would give it.

    Parameters
    ----------
    Z : array-like of any shape

    Returns
    -------
    ndarray of the same shape
    """
    Z = np.remainder(_real("Z", Z), 1.0)
    return np.where(Z >= 1.0, Z.dtype.type(0), Z)


def difference(a, b):
    """Return the shortest steps from b to a around the torus, coordinate by coordinate.

    Parameters
    ----------
    a, b : array-like of shapes that broadcast
        In turns.

    Returns
    -------
    ndarray
        In [-1/2, 1/2] turns.
    """
    steps = _real("a", a) - _real("b", b)
    return steps - np.round(steps)


def distance(a, b):
    """Return the length of the shortest way between points, over their last axis.

    Parameters
    ----------
    a, b : array-like of shape (..., n_components)
        Points in turns; one may be a single point, or have an axis of length 1.

    Returns
    -------
    ndarray of shape (...)
        In turns.
    """
    return np.sqrt(np.square(difference(a, b)).sum(-1))


def pairwise_distances(A, B=None):
    """Return the distances between all points of A and all of B.

    Parameters
    ----------
    A : array-like of shape (n_points, n_components)
    B : array-like of shape (n_others, n_components), optional
        A itself by default.

    Returns
    -------
    ndarray of shape (n_points, n_others)
        In turns.
    """
    A = points_of("A", A)
    B = A if B is None else points_of("B", B, A.shape[1])
    squares = np.zeros((len(A), len(B)), np.result_type(A, B))
    for a, b in zip(A.T, B.T, strict=True):
        steps = a[:, None] - b
        steps -= np.round(steps)
        squares += np.square(steps, out=steps)
    return np.sqrt(squares, out=squares)


def circular_mean(Z, weights=None):
    """Return the direction of the mean of (cos 2 pi z, sin 2 pi z) of each coordinate.

    It does not depend on where the seam is. Where the resultant length is 0, and the
    `circular_variance` 1, it is without meaning.

    Parameters
    ----------
    Z : array-like of shape (n_points, n_components)
    weights : array-like of shape (n_points,), optional
        How often each point counts.

    Returns
    -------
    ndarray of shape (n_components,)
        In turns, [0, 1).
    """
    return from_circle(_mean_circle(Z, weights))


def circular_variance(Z, weights=None):
    """Return one less the resultant length of each coordinate: 0 for a point, 1 for no direction.

    Parameters
    ----------
    Z : array-like of shape (n_points, n_components)
    weights : array-like of shape (n_points,), optional
        How often each point counts.

    Returns
    -------
    ndarray of shape (n_components,)
    """
    return 1 - np.hypot(*np.split(_mean_circle(Z, weights), 2))


def path(start, end, n_points):
    """Return points that are evenly spaced on the shortest way from start to end.

    Parameters
    ----------
    start, end : array-like of shape (n_components,)
        In turns.
    n_points : int
        At least 2: start and end are among them.

    Returns
    -------
    ndarray of shape (n_points, n_components)
        In turns, [0, 1).
    """
    start, end = ends(start, end)
    _checks.check_integer("n_points", n_points, minimum=2)
    return wrap(start + np.linspace(0, 1, int(n_points))[:, None] * difference(end, start))


def neighbors(Z, points, n_neighbors=1):
    """Return the nearest of the points Z to each of some other points, around the torus.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        Points that are searched, in turns.
    points : array-like of shape (n_points, n_components)
        Points whose neighbours are asked for.
    n_neighbors : int, default=1

    Returns
    -------
    distances : ndarray of shape (n_points, n_neighbors)
        In turns, rising in each row.
    indices : ndarray of shape (n_points, n_neighbors)
        Rows of Z.
    """
    Z = points_of("Z", Z)
    points = points_of("points", points, Z.shape[1])
    _checks.check_integer("n_neighbors", n_neighbors)
    if n_neighbors > len(Z):
        raise ValueError(
            f"n_neighbors expects at most the {len(Z)} points of Z, but got {n_neighbors}."
        )
    tree = KDTree(wrap(Z), boxsize=1)
    return tree.query(wrap(points), k=np.arange(1, int(n_neighbors) + 1))


class TorusFeatures(TransformerMixin, BaseEstimator):
    """Map turns to the cosines and then the sines of their angles.

    For estimators that know no torus: distances of features are chords, and have no seam. In a
    pipeline after an embedding whose output is in turns::

        make_pipeline(QLVMEmbedding(2), TorusFeatures(), LogisticRegression())

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    Examples
    --------
    >>> from skqlvm.torus import TorusFeatures
    >>> TorusFeatures().fit_transform([[0.0, 0.5]]).round(6)
    array([[ 1., -1.,  0.,  0.]])
    """

    def fit(self, X, y=None):
        """Note how many coordinates there are.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            In turns, any real numbers.
        y : ignored

        Returns
        -------
        self
        """
        validate_data(self, X, dtype=_DTYPES)
        return self

    def transform(self, X):
        """Return cosines and sines.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)

        Returns
        -------
        ndarray of shape (n_samples, 2 n_components)
        """
        check_is_fitted(self)
        return to_circle(validate_data(self, X, dtype=_DTYPES, reset=False))

    def inverse_transform(self, X):
        """Return the turns of cosines and sines, of any positive length.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2 n_components)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            In [0, 1).
        """
        check_is_fitted(self)
        return from_circle(points_of("X", X, 2 * self.n_features_in_))

    def get_feature_names_out(self, input_features=None):
        """Return names such as ``cos(z0)``.

        Parameters
        ----------
        input_features : array-like of str, optional
            Names of the coordinates: those of the fit, or z0, z1 and so on.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        seen = getattr(self, "feature_names_in_", None)
        if input_features is None:
            numbered = [f"z{i}" for i in range(self.n_features_in_)]
            input_features = numbered if seen is None else seen
        if len(input_features) != self.n_features_in_:
            raise ValueError(
                f"input_features should have length equal to number of features "
                f"({self.n_features_in_}), got {len(input_features)}."
            )
        if seen is not None and list(seen) != list(input_features):
            raise ValueError("input_features is not equal to feature_names_in_.")
        names = [f"{wave}({name})" for wave in ("cos", "sin") for name in input_features]
        return np.asarray(names, dtype=object)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def to_circle(Z):
    """Return the cosines and then the sines of the angles of turns (..., k), (..., 2 k)."""
    angles = 2 * np.pi * wrap(Z)
    return np.concatenate([np.cos(angles), np.sin(angles)], -1)


def from_circle(circle):
    """Return the directions, in turns (..., k), of cosines and then sines (..., 2 k)."""
    cos, sin = np.split(circle, 2, -1)
    return wrap(np.arctan2(sin, cos) / (2 * np.pi))


def points_of(name, Z, n_components=None):
    """Return points (n, k) that a user gives, as an array of floats; raise what is wrong."""
    Z = check_array(Z, dtype=_DTYPES, input_name=name)
    if n_components is not None and Z.shape[1] != n_components:
        raise ValueError(f"{name} expects {n_components} columns, but got {Z.shape[1]}.")
    return Z


def ends(start, end):
    """Return two points (k,) that a user gives, as arrays of floats; raise what is wrong."""
    start, end = (
        check_array(each, dtype=_DTYPES, ensure_2d=False, input_name=name)
        for name, each in (("start", start), ("end", end))
    )
    if start.ndim != 1 or start.shape != end.shape:
        raise ValueError(
            "start and end expect one point each, of shape (n_components,), but got shapes "
            f"{start.shape} and {end.shape}."
        )
    return start, end


def weights_of(weights, n_points, name="weights"):
    """Return weights of points as shares (n,), which sum to one; raise what is wrong."""
    if weights is None:
        return np.full(n_points, 1 / n_points)
    weights = check_array(weights, dtype=np.float64, ensure_2d=False, input_name=name)
    if weights.shape != (n_points,):
        raise ValueError(f"{name} expects shape ({n_points},), but got {weights.shape}.")
    if (weights < 0).any() or not weights.any():
        raise ValueError(f"{name} expects numbers that are not negative, nor all zero.")
    weights = weights / weights.max()
    return weights / weights.sum()


def _mean_circle(Z, weights):
    Z = points_of("Z", Z)
    return weights_of(weights, len(Z)) @ to_circle(Z)


def _real(name, Z):
    """An array of floats of any shape, finite."""
    Z = np.asarray(Z)
    if Z.dtype not in _DTYPES:
        Z = Z.astype(np.float64)
    if not np.isfinite(Z).all():
        raise ValueError(f"{name} expects finite numbers, but some are NaN or infinite.")
    return Z
