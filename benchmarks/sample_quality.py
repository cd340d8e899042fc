"""How close samples of codes are to codes that were held out, and whether they only repeat the
training codes.

Distances between codes are in units of the held-out codes' root mean variance, so that they compare
across autoencoders."""

import warnings

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

MEASURES = {
    "wasserstein_1d": ("standard deviations", "{:.4f}"),
    "sliced": ("standard deviations", "{:.4f}"),
    "transport": ("standard deviations", "{:.3f}"),
    "frechet": ("fraction of variance", "{:.4f}"),
    "precision": ("fraction", "{:.2f}"),
    "recall": ("fraction", "{:.2f}"),
    "coverage": ("fraction", "{:.2f}"),
    "nearest_training": ("ratio", "{:.3f}"),
}
"""Unit and format of each measurement."""

_N_NEIGHBOURS = 3
_N_DIRECTIONS, _N_TRANSPORTED, _N_BALLS = 500, 1000, 2000
_QUICK_SIZES = (50, 60, 80)


class Codes:
    """Measure samples against held-out codes.

    Parameters
    ----------
    z_train, z_test : ndarray of shape (n, n_components)
        Codes of the training and of the held-out data, in random order.
    quick : bool
        Few directions and rows.
    """

    def __init__(self, z_train, z_test, quick):
        n_directions, self.n_transported, self.n_balls = (
            _QUICK_SIZES if quick else (_N_DIRECTIONS, _N_TRANSPORTED, _N_BALLS)
        )
        self.scale = np.sqrt(z_test.var(axis=0).mean())
        self.z_train, self.z_test = z_train / self.scale, z_test / self.scale
        directions = np.random.default_rng(0).standard_normal((z_test.shape[1], n_directions))
        self.directions = directions / np.linalg.norm(directions, axis=0)
        self.along_axes, self.along_directions = (
            np.sort(self.z_test.T),
            _projected(self.z_test, self.directions),
        )
        self.radii = _radii(self.z_test[: self.n_balls])
        self.nearest_of_test = self._nearest_training(self.z_test)

    def measure(self, z):
        """Return the measurements of as many samples as there are held-out codes, in random order.

        wasserstein_1d, sliced
            Wasserstein-1 distances of projections on the axes, and on 500 random directions, on
            average: of equally many points in one dimension, each rank is transported to the same
            rank.
        transport
            Exact Wasserstein-1 distance of 1000 samples to 1000 held-out codes: mostly chance in
            many dimensions, and the less the more samples keep to the middle, so that it can be
            below that of the training codes.
        precision, recall, coverage
            Of 2000 samples and held-out codes, with balls up to the third nearest neighbour of the
            same kind: the fraction of samples in a ball of a held-out code, of held-out codes in a
            ball of a sample (large balls of scattered samples raise it), and of balls of held-out
            codes with a sample in them.
        nearest_training
            Median distance of 2000 samples to the nearest training code, as a ratio to that of
            held-out codes; 0 repeats training codes.
        """
        z = z / self.scale
        return {
            "wasserstein_1d": np.abs(np.sort(z.T) - self.along_axes).mean(),
            "sliced": np.abs(_projected(z, self.directions) - self.along_directions).mean(),
            "transport": _transport(z[: self.n_transported], self.z_test[: self.n_transported]),
            **self._balls(z[: self.n_balls], self.z_test[: self.n_balls]),
            "nearest_training": self._nearest_training(z) / self.nearest_of_test,
        }

    def _balls(self, z, z_test):
        distances = cdist(z_test, z)
        in_ball_of_test = distances <= self.radii[:, np.newaxis]
        return {
            "precision": in_ball_of_test.any(axis=0).mean(),
            "recall": (distances <= _radii(z)).any(axis=1).mean(),
            "coverage": in_ball_of_test.any(axis=1).mean(),
        }

    def _nearest_training(self, z):
        return np.median(cdist(z[: self.n_balls], self.z_train).min(axis=1))


def _projected(z, directions):
    """Projections of codes (n, d) on directions (d, m), in order for each direction: (m, n)."""
    return np.sort(directions.T @ z.T)


def _transport(z, others):
    cost = cdist(z, others)
    return cost[linear_sum_assignment(cost)].mean()


def _radii(z):
    """Distance of each code to its third nearest other one."""
    return np.partition(cdist(z, z), _N_NEIGHBOURS, axis=1)[:, _N_NEIGHBOURS]


class Features:
    """Measure images in the features of a small classifier: the last hidden layer, of 64 units, of
    one trained on the training labels."""

    def __init__(self, data, quick):
        self.classifier = MLPClassifier(
            (256, 64), batch_size=128, max_iter=3 if quick else 20, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.classifier.fit(data.x_train, data.y_train)
        self.accuracy = self.classifier.score(data.x_test, data.y_test)
        self.moments = self._moments(data.x_test)

    def frechet(self, images):
        """Return the Frechet distance of images to the held-out images, as a fraction of the
        features' variance over the latter.

        ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` of the means and covariances of the features:
        the formula of the FID, which has the features of an Inception network, so that neither its
        values nor differences of them compare."""
        (mean, covariance), (mean_test, covariance_test) = self._moments(images), self.moments
        root = _root(covariance_test)
        cross = np.sqrt(np.linalg.eigvalsh(root @ covariance @ root).clip(0)).sum()
        distance = (
            np.square(mean - mean_test).sum()
            + np.trace(covariance)
            + np.trace(covariance_test)
            - 2 * cross
        )
        return distance / np.trace(covariance_test)

    def _moments(self, x):
        layers = zip(self.classifier.coefs_[:-1], self.classifier.intercepts_[:-1], strict=True)
        for weights, biases in layers:
            x = np.maximum(x @ weights + biases, 0)
        return x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False, dtype=np.float64)


def _root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
