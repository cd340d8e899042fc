"""scikit-learn's own checks of every estimator."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqlvm import (
    DVPVAE,
    IWAEEmbedding,
    LatentSampler,
    MAPAEmbedding,
    PMFSampler,
    QLVMEmbedding,
    VAEEmbedding,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning"),
    pytest.mark.filterwarnings("ignore:The cached weights of a typical row:UserWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

TINY = QLVMEmbedding(
    n_points=34, n_points_eval=55, hidden_layer_sizes=(8,), harmonic_order=2, max_iter=2
)
TRANSFORMED = clone(TINY).set_params(
    transformations={"amplitude": (0.5, 1.0, 2.0), "offset": (0.0, 0.1)},
    transformation_prior="learned",
)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2}
ENCODER_MODELS = [
    VAEEmbedding(max_iter=10),
    VAEEmbedding(**SMALL),
    VAEEmbedding(**SMALL, latent="torus", covariance_type="low_rank"),
    VAEEmbedding(5, **SMALL, covariance_type="full", objective="infovae"),
    VAEEmbedding(1, **SMALL, objective="wae_mmd"),
    IWAEEmbedding(max_iter=10),
    IWAEEmbedding(**SMALL, n_importance_samples=3, gradient="doubly_reparametrized"),
    IWAEEmbedding(5, **SMALL, n_importance_samples=3),
    IWAEEmbedding(1, **SMALL, n_importance_samples=3, latent="torus"),
]
EMPIRICAL_MODELS = [
    MAPAEmbedding(**SMALL),
    MAPAEmbedding(1, **SMALL, n_neighbors=3, n_importance_samples=2, prior="mixture"),
    MAPAEmbedding(5, **SMALL, init="spectral", prior="kde", self_weight="expected"),
]


class Squeezed(DVPVAE):
    """A DVPVAE of any numbers, of which it sees logistic functions: the checks know no images."""

    def _validated(self, X, *, reset):
        X = super()._validated(X, reset=reset)
        return (1 / (1 + np.exp(-X))).astype(X.dtype)


LINES = Squeezed(
    latents_per_scale=(2,),
    channels=2,
    blocks_per_scale=1,
    context_size=1,
    diffusion_channels=2,
    diffusion_blocks=1,
    n_diffusion_steps=2,
    max_iter=1,
    batch_size=256,
)
LADDERS = [LINES, clone(LINES).set_params(context=None, aggregation=False, binarize=False)]


EQUIVALENCE = "check_sample_weight_equivalence_on_dense_data"
DENSE_AND_SPARSE = (EQUIVALENCE, "check_sample_weight_equivalence_on_sparse_data")


def expected_to_fail(estimator):
    """Weights equal repeated rows exactly where nothing depends on how many rows there are."""
    if isinstance(estimator, (VAEEmbedding, IWAEEmbedding, DVPVAE)):
        reason = "every row draws noise of its own, repeated ones too"
    elif isinstance(estimator, MAPAEmbedding):
        reason = "every row has a code of its own, and draws of others, repeated ones too"
    elif isinstance(estimator, QLVMEmbedding) and estimator.harmonic_order == "auto":
        reason = "the order of the harmonics counts rows, whatever they weigh"
    else:
        return {}
    return dict.fromkeys(DENSE_AND_SPARSE, reason)


@parametrize_with_checks(
    [
        QLVMEmbedding(max_iter=10),
        TINY,
        TRANSFORMED,
        *ENCODER_MODELS,
        *EMPIRICAL_MODELS,
        *LADDERS,
        PMFSampler(),
        PMFSampler(n_bins=3, smoothing=0.1),
        LatentSampler(PCA()),
    ],
    expected_failed_checks=expected_to_fail,
)
def test_estimator_check_passes(estimator, check):
    check(estimator)
