"""The samplers of codes that are compared, and the autoencoders whose codes they learn.

A sampler has ``fit(Z)`` and ``sample(n_samples, random_state)``. Where one has a size to choose,
the choice is part of its fit, and of the seconds that the fit takes."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skqlvm import PMFSampler, VAEEmbedding

AUTOENCODERS = {
    "plain": {"objective": "autoencoder"},
    "VAE": {"objective": "elbo"},
    "beta-VAE": {"objective": "elbo", "beta": 4.0},
    "WAE": {"objective": "wae_mmd"},
    "InfoVAE": {"objective": "infovae"},
}

SIZES = (1, 5, 10, 20, 50)
"""Of the mixtures, in components, to choose from by BIC."""

_BANDWIDTHS = np.geomspace(0.02, 1.0, 12)
"""Of the kernel density estimate, in standard deviations of each dimension."""

_LARGEST_HELD_OUT = 500


class Contender(NamedTuple):
    """A sampler of the comparison: what builds it, given sizes for mixtures to choose from; and
    what it has chosen, once it is fitted."""

    build: Callable
    chosen: Callable | None = None


class Mixture:
    """A Gaussian mixture, with the number of components that has the least BIC."""

    def __init__(self, covariance_type, sizes, random_state=0):
        self.covariance_type, self.sizes, self.random_state = covariance_type, sizes, random_state

    def fit(self, Z):
        fits = [
            GaussianMixture(
                size, covariance_type=self.covariance_type, random_state=self.random_state
            )
            for size in self.sizes
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits = [mixture.fit(Z) for mixture in fits]
        self.best_ = min(fits, key=lambda mixture: mixture.bic(Z))
        return self

    def sample(self, n_samples, random_state):
        return self.best_.set_params(random_state=random_state).sample(n_samples)[0]


class KernelDensityByLikelihood:
    """Normal kernels whose width is one fraction of the standard deviation of each dimension.

    It is the fraction that makes 500 codes, or a tenth of fewer, most likely under kernels on the
    others. The rules of Scott and Silverman are for few dimensions: for 10,000 codes in 32, Scott's
    fraction is 0.77."""

    def fit(self, Z):
        self.scale_ = np.maximum(Z.std(axis=0), np.finfo(np.float64).tiny)
        standardised = Z / self.scale_
        others, held_out = np.split(
            shuffled(standardised, 0), [-min(_LARGEST_HELD_OUT, -(-len(Z) // 10))]
        )
        squares = cdist(held_out, others, "sqeuclidean")
        nats = [
            logsumexp(squares / (-2 * h**2), axis=1).mean() - Z.shape[1] * np.log(h)
            for h in _BANDWIDTHS
        ]
        self.relative_bandwidth_ = _BANDWIDTHS[np.argmax(nats)]
        self.density_ = KernelDensity(bandwidth=self.relative_bandwidth_).fit(standardised)
        return self

    def sample(self, n_samples, random_state):
        return self.scale_ * self.density_.sample(n_samples, random_state)


class Bootstrap:
    """The training codes, drawn with replacement."""

    def fit(self, Z):
        self.Z_ = Z
        return self

    def sample(self, n_samples, random_state):
        return self.Z_[np.random.default_rng(random_state).integers(len(self.Z_), size=n_samples)]


class Prior:
    """The standard normal, whatever the codes."""

    def fit(self, Z):
        self.n_features_ = Z.shape[1]
        return self

    def sample(self, n_samples, random_state):
        return np.random.default_rng(random_state).standard_normal((n_samples, self.n_features_))


CONTENDERS = {
    "PMF, auto": Contender(lambda sizes: PMFSampler(), lambda sampler: sampler.n_bins_.max()),
    "PMF, 10 bins": Contender(lambda sizes: PMFSampler(10)),
    "PMF, 20 bins": Contender(lambda sizes: PMFSampler(20)),
    "PMF, 50 bins": Contender(lambda sizes: PMFSampler(50)),
    "mixture, full": Contender(
        lambda sizes: Mixture("full", sizes), lambda sampler: sampler.best_.n_components
    ),
    "mixture, diagonal": Contender(
        lambda sizes: Mixture("diag", sizes), lambda sampler: sampler.best_.n_components
    ),
    "one normal": Contender(lambda sizes: Mixture("full", (1,))),
    "prior": Contender(lambda sizes: Prior()),
    "kernel density": Contender(
        lambda sizes: KernelDensityByLikelihood(), lambda sampler: sampler.relative_bandwidth_
    ),
    "bootstrap": Contender(lambda sizes: Bootstrap()),
}


def build_autoencoder(name, n_components, seed, arguments):
    """Return an unfitted autoencoder."""
    settings = {
        "likelihood": "bernoulli",
        "random_state": seed,
        "device": arguments.device,
        "max_iter": arguments.max_iter,
    }
    if arguments.quick:
        settings["hidden_layer_sizes"] = (16,)
    return VAEEmbedding(n_components, **AUTOENCODERS[name], **settings)


def shuffled(z, seed):
    """Return the rows of z in random order, so that the first of them are a fair part: mixtures
    sample component by component."""
    return z[np.random.default_rng(seed).permutation(len(z))]
