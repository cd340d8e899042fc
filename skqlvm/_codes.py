"""Codes of training rows: where they start, and a prior of them."""

import warnings

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import SpectralEmbedding
from sklearn.mixture import GaussianMixture
from sklearn.utils import check_random_state

from .engine import priors

INITS = ("pca", "random", "spectral")
PRIORS = ("gaussian", "kde", "mixture")

_MOST_NORMALS, _MOST_CODES = 20, 5000
"""Normals of a mixture, and codes that it is fitted to."""

_WIDTHS = np.logspace(-3, 0, 31)
"""Bandwidths of a kernel density that are tried, in standard deviations of the codes."""

_TRIED_CODES = 2000

_WEAK = 1e-3
"""Weight of the edges that connect a graph, beside 1 of neighbours."""


def start(init, y, neighbors, n_components, seed):
    """Return codes to start from, standardised, (n_rows, n_components).

    Parameters
    ----------
    init : {"pca", "spectral", "random"}
    y : ndarray of shape (n_rows, n_coordinates)
    neighbors : ndarray of shape (n_rows, n_neighbors)
        Of which a graph is made.
    n_components : int
    seed : int
    """
    random = check_random_state(seed)
    codes = random.standard_normal((len(y), n_components))
    if init == "random":
        return codes
    if init == "pca" or len(y) < 3:  # a graph of two rows has no eigenvectors to choose from
        k = min(n_components, *y.shape)
        with np.errstate(invalid="ignore"):  # the share of variance, where there is none
            found = PCA(k, random_state=random).fit_transform(y)
    else:
        k = min(n_components, len(y) - 2)
        affinity = _graph(neighbors)
        embedding = SpectralEmbedding(k, affinity="precomputed", random_state=random)
        found = embedding.fit_transform(affinity)
    spread = found.std(0)
    found = (found - found.mean(0)) / np.where(spread > 0, spread, 1)
    codes[:, :k] = np.where(spread > 0, found, codes[:, :k])
    return codes


def _graph(neighbors):
    """The symmetric sparse graph of neighbours, and a weak edge from each row to the first, so that
    it connects."""
    n, n_neighbors = neighbors.shape
    rows = np.arange(n, dtype=np.int32)  # scikit-learn takes no longer ones
    edges = np.concatenate([np.repeat(rows, n_neighbors), rows])
    ends = np.concatenate([neighbors.ravel().astype(np.int32), np.zeros_like(rows)])
    values = np.concatenate([np.ones(neighbors.size), np.full(n, _WEAK)])
    graph = csr_array((values, (edges, ends)), shape=(n, n))
    return graph.maximum(graph.T).tocsr()


def fitted_prior(name, codes, log_share, seed):
    """Return a prior of codes (n, k) that have mean 0 and covariance I, as `name` says."""
    if name == "gaussian":
        return priors.StandardNormal()
    random = check_random_state(seed)
    if name == "mixture":
        return _mixture(codes, log_share, random)
    width = _bandwidth(_some(codes, log_share, _TRIED_CODES, random))
    scale_tril = width * torch.eye(codes.shape[1], dtype=torch.float64)
    parts = (torch.from_numpy(np.array(part, dtype=np.float64)) for part in (log_share, codes))
    return priors.NormalMixture(*parts, scale_tril)


def _mixture(codes, log_share, random):
    """The mixture of normals of least Bayesian information criterion."""
    some = _some(codes, log_share, _MOST_CODES, random)
    most = max(1, min(_MOST_NORMALS, len(np.unique(some, axis=0)) // 5))
    seed, best = random.randint(2**31 - 1), None
    for n_normals in range(1, most + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = GaussianMixture(n_normals, random_state=seed).fit(some)
        criterion = fitted.bic(some)
        if best is None or criterion < best[0]:
            best = criterion, fitted
    fitted = best[1]
    parts = np.log(fitted.weights_), fitted.means_, np.linalg.cholesky(fitted.covariances_)
    return priors.NormalMixture(*map(torch.from_numpy, parts))


def _some(codes, log_share, n_most, random):
    """Some codes, each as often as it counts."""
    if len(codes) <= n_most and np.ptp(log_share) == 0:
        return codes
    share = np.exp(log_share - logsumexp(log_share))
    return codes[random.choice(len(codes), n_most, p=share)]


def _bandwidth(codes):
    """The width of kernels under which each code is likeliest given the others."""
    squares = (codes**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * codes @ codes.T, 0)
    distances[distances == 0] = np.inf  # itself, and repeated ones
    np.fill_diagonal(distances, np.inf)
    k = codes.shape[1]

    def nats(width):
        return logsumexp(-distances / (2 * width**2), axis=1).mean() - k * np.log(width)

    return max(_WIDTHS, key=nats)
