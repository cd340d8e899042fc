"""scikit-learn's own checks of every estimator."""

import pytest
from sklearn.decomposition import PCA
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqlvm import LatentSampler, PMFSampler, QLVMEmbedding

pytestmark = [
    pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

TINY = QLVMEmbedding(n_points=34, n_points_eval=55, hidden_layer_sizes=(8,), harmonic_order=2, max_iter=2)


@parametrize_with_checks([QLVMEmbedding(), TINY, PMFSampler(), PMFSampler(n_bins=3, smoothing=0.1), LatentSampler(PCA())])
def test_estimator_check_passes(estimator, check):
    check(estimator)
