"""LatentSampler with embedders and samplers of scikit-learn, and with the QLVM."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqlvm import LatentSampler, PMFSampler, QLVMEmbedding

SMALL = {
    "n_points": 55,
    "n_points_eval": 89,
    "hidden_layer_sizes": (5,),
    "harmonic_order": 1,
    "max_iter": 1,
    "random_state": 0,
}

pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")


@pytest.fixture(scope="module")
def X():
    """Two clusters in five dimensions, 103 rows."""
    generator = np.random.default_rng(3)
    return generator.normal(size=(103, 5)) + 6 * (np.arange(103)[:, np.newaxis] % 2)


SAMPLERS = [PMFSampler(5), GaussianMixture(2, random_state=0), KernelDensity(bandwidth=0.3)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize(
    "embedder", [PCA(2), make_pipeline(StandardScaler(), PCA(2))], ids=["pca", "pipeline"]
)
def test_samples_are_decoded_codes_and_resemble_the_data(X, embedder, sampler):
    model = LatentSampler(embedder, sampler)
    assert model.fit(X) is model
    codes = model.sample_codes(500, random_state=7)
    assert codes.shape == (500, 2)
    drawn = model.sample(500, random_state=7)
    np.testing.assert_array_equal(drawn, model.embedder_.inverse_transform(codes))
    assert not np.array_equal(drawn, model.sample(500, random_state=8))
    np.testing.assert_allclose(drawn.mean(axis=0), X.mean(axis=0), atol=0.6)
    np.testing.assert_allclose(drawn.std(axis=0), X.std(axis=0), rtol=0.2)


def test_sampler_is_fitted_to_the_codes_and_neither_argument_is_touched(X):
    embedder, sampler = PCA(2), PMFSampler(5)
    model = LatentSampler(embedder, sampler).fit(X)
    alone = PMFSampler(5).fit(PCA(2).fit_transform(X))
    np.testing.assert_array_equal(model.sampler_.bins_, alone.bins_)
    np.testing.assert_array_equal(
        model.sample_codes(9, random_state=0), alone.sample(9, random_state=0)
    )
    assert not hasattr(embedder, "components_")
    assert not hasattr(sampler, "bins_")


def test_samplers_own_seed_is_used_where_none_is_given_and_kept(X):
    mixture = LatentSampler(PCA(2), GaussianMixture(2, random_state=0)).fit(X)
    own = mixture.sampler_.sample(5)[0]
    np.testing.assert_array_equal(mixture.sample_codes(5), own)
    assert not np.array_equal(mixture.sample_codes(5, random_state=1), own)
    assert mixture.sampler_.random_state == 0
    histogram = LatentSampler(PCA(2), PMFSampler(5, random_state=4)).fit(X)
    np.testing.assert_array_equal(
        histogram.sample_codes(5), histogram.sampler_.sample(5, random_state=4)
    )


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("integer", [np.uint8, np.int64])
def test_number_of_samples_may_be_of_any_integer_type(X, sampler, integer):
    model = LatentSampler(PCA(2), sampler).fit(X)
    np.testing.assert_array_equal(
        model.sample(integer(7), random_state=0), model.sample(7, random_state=0)
    )


def test_default_sampler_is_on_a_line_for_pca(X):
    model = LatentSampler(PCA(2)).fit(X)
    assert isinstance(model.sampler_, PMFSampler)
    assert model.sampler_.periodic is False
    assert model.sampler is None


@pytest.mark.parametrize(
    "wrap", [lambda e: e, lambda e: make_pipeline(StandardScaler(), e)], ids=["alone", "pipeline"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_default_sampler_is_around_circles_for_codes_in_turns(X, wrap, frozen):
    embedder = wrap(QLVMEmbedding(**SMALL))
    embedder = FrozenEstimator(embedder.fit(X)) if frozen else embedder
    model = LatentSampler(embedder).fit(X)
    assert model.sampler_.periodic is True
    assert [edges[[0, -1]].tolist() for edges in model.sampler_.bin_edges_] == [[0, 1], [0, 1]]
    drawn = model.sample(31, random_state=0)
    assert drawn.shape == (31, 5)
    assert np.isfinite(drawn).all()


def test_likelihood_under_a_density_of_codes_sums_to_one():
    """As doc/sampling.rst has it, over all rows of five bits."""
    bits = np.array([[row >> bit & 1 for bit in range(5)] for row in range(32)], dtype=float)
    X = bits[np.random.default_rng(0).integers(0, 32, 103) % 11]
    model = LatentSampler(
        QLVMEmbedding(**SMALL, likelihood="bernoulli"), PMFSampler(5, periodic=True)
    ).fit(X)
    qlvm, density = model.embedder_, model.sampler_
    q = np.exp(density.score_samples(qlvm.lattice_))
    q /= q.mean()
    nats = qlvm.score_samples(bits) + np.log(qlvm.posterior(bits) @ q)
    assert np.exp(nats).sum() == pytest.approx(1, rel=1e-6)
    assert not np.allclose(nats, qlvm.score_samples(bits), atol=1e-3)
    outputs = qlvm.inverse_transform(qlvm.lattice_)
    p_x_z = np.prod(np.where(bits[:, np.newaxis] == 1, outputs, 1 - outputs), axis=2)
    np.testing.assert_allclose(np.exp(nats), (p_x_z * q).mean(axis=1), rtol=1e-5)


def test_latent_period_is_that_of_turns_only():
    assert QLVMEmbedding().latent_period_ == 1
    assert QLVMEmbedding(output="cartesian").latent_period_ is None
    assert QLVMEmbedding(output="moments").latent_period_ is None


class Degrees(BaseEstimator):
    """An embedder whose codes are angles in degrees, the data themselves."""

    latent_period_ = 360.0

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X

    def inverse_transform(self, Z):
        return Z


def test_period_of_the_last_step_is_the_range_of_the_bins(X):
    model = LatentSampler(Degrees()).fit(X * 100)
    assert model.sampler_.bin_edges_[0][[0, -1]].tolist() == [0, 360]
    assert (
        (model.sample(50, random_state=0) >= 0) & (model.sample(50, random_state=0) < 360)
    ).all()
    assert (
        LatentSampler(make_pipeline(Degrees(), StandardScaler())).fit(X).sampler_.periodic is False
    )


def test_qlvm_on_a_plane_of_cosines_and_sines_is_sampled_on_lines(X):
    model = LatentSampler(QLVMEmbedding(**SMALL, output="cartesian"), PMFSampler(7)).fit(X)
    assert model.sample_codes(3, random_state=0).shape == (3, 4)
    assert model.sample(3, random_state=0).shape == (3, 5)


def test_frozen_embedder_is_not_fitted_again(X):
    pca = PCA(2).fit(X[:50])
    model = LatentSampler(FrozenEstimator(pca), PMFSampler(5)).fit(X)
    np.testing.assert_array_equal(model.embedder_.components_, pca.components_)
    np.testing.assert_array_equal(model.sampler_.bins_, PMFSampler(5).fit(pca.transform(X)).bins_)


def test_classes_of_digits_are_drawn_apart():
    X, y = load_digits(return_X_y=True)
    model = LatentSampler(PCA(10, random_state=0), PMFSampler(11, conditional=True)).fit(X, y)
    means = np.array([X[y == c].mean(axis=0) for c in range(10)])
    for label in range(10):
        drawn = model.sample(101, random_state=0, label=label)
        codes = model.sample_codes(101, random_state=0, label=label)
        np.testing.assert_array_equal(drawn, model.embedder_.inverse_transform(codes))
        assert np.argmin(np.linalg.norm(means - drawn.mean(axis=0), axis=1)) == label
    shares = np.array(
        [
            np.isfinite(
                model.sampler_.score_samples(model.sample_codes(200, random_state=1), label=c)
            ).mean()
            for c in range(10)
        ]
    )
    assert shares.sum() == pytest.approx(1, abs=0.1)


def test_clones_and_pickles_sample_the_same(X):
    model = LatentSampler(PCA(2), PMFSampler(5)).fit(X)
    drawn = model.sample(9, random_state=0)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).sample(9, random_state=0), drawn
    )
    np.testing.assert_array_equal(clone(model).fit(X).sample(9, random_state=0), drawn)
    assert clone(model).set_params(sampler__n_bins=3).fit(X).sampler_.n_bins_.tolist() == [3, 3]


def test_data_frames_and_float32_pass_through(X):
    frame = pd.DataFrame(X.astype(np.float32), columns=list("abcde"))
    model = LatentSampler(PCA(2)).fit(frame)
    assert model.feature_names_in_.tolist() == list("abcde")
    assert model.n_features_in_ == 5
    assert model.sample(3, random_state=0).dtype == np.float32


def test_mistakes_are_named(X):
    with pytest.raises(
        TypeError,
        match=r"embedder expects an estimator with fit, transform, inverse_transform, but .* has "
        r"no transform, inverse",
    ):
        LatentSampler(GaussianMixture()).fit(X)
    with pytest.raises(
        TypeError, match=r"embedder expects .* has no fit, transform, inverse_transform\."
    ):
        LatentSampler("pca").fit(X)
    with pytest.raises(
        TypeError,
        match=r"sampler expects an estimator with fit, sample, but LocalOutlierFactor\(\) has no "
        r"sample\.",
    ):
        LatentSampler(PCA(2), LocalOutlierFactor()).fit(X)
    model = LatentSampler(PCA(2), KernelDensity())
    with pytest.raises(NotFittedError, match="This LatentSampler instance is not fitted yet"):
        model.sample()
    assert not hasattr(model, "n_features_in_")
    model.fit(X)
    with pytest.raises(ValueError, match="n_samples expects an integer of at least 1, but got 0"):
        model.sample(0)
    with pytest.raises(
        ValueError,
        match=r"label=1 needs a sampler with classes, but got KernelDensity\. Use "
        r"PMFSampler\(conditional=True\)\.",
    ):
        model.sample(label=1)


class Untouchable(Degrees):
    """An embedder that fails the test if it is ever fitted."""

    def fit(self, X, y=None):
        pytest.fail("the embedder was fitted")


@pytest.mark.parametrize(
    ("parameters", "y", "error", "message"),
    [
        ({"n_bins": 0}, None, ValueError, "n_bins expects an integer of at least 1 or 'auto'"),
        ({"n_bins": (5, 0)}, None, ValueError, "each entry of n_bins expects an integer"),
        ({"bin_range": (1, 0)}, None, ValueError, "bin_range expects finite numbers with low <"),
        ({"periodic": "yes"}, None, TypeError, "periodic expects booleans, but got 'yes'"),
        ({"within_bin": "edge"}, None, ValueError, "within_bin expects one of"),
        ({"smoothing": 1}, None, ValueError, "smoothing expects a number in"),
        ({"conditional": True}, None, ValueError, "conditional=True expects y, the class of each"),
        ({"conditional": True}, np.arange(102), ValueError, "inconsistent numbers of samples"),
        ({"conditional": True}, np.array([None] * 103), ValueError, "but got None in row 0"),
    ],
)
def test_what_a_histogram_needs_is_checked_before_the_embedder_is_fitted(
    X, parameters, y, error, message
):
    with pytest.raises(error, match=message):
        LatentSampler(Untouchable(), PMFSampler(**parameters)).fit(X, y)


def test_error_of_another_sampler_says_how_to_keep_the_embedder(X):
    with pytest.raises(ValueError, match="'bandwidth' parameter") as caught:
        LatentSampler(PCA(2), KernelDensity(bandwidth=-1.0)).fit(X)
    assert "give FrozenEstimator(embedder)" in caught.value.__notes__[0]


class Built(Degrees):
    """An embedder with a class among its parameters."""

    def __init__(self, factory):
        self.factory = factory


@pytest.mark.parametrize(
    "copied", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, clone]
)
def test_classes_as_parameters_of_the_embedder_are_kept(X, copied):
    model = LatentSampler(Built(VarianceThreshold), PMFSampler(5))
    assert copied(model).embedder.factory is VarianceThreshold
    model.fit(X)
    assert copied(model).embedder.factory is VarianceThreshold
    assert model.embedder_.factory is VarianceThreshold


def test_failed_fit_leaves_the_last_one(X):
    model = LatentSampler(VarianceThreshold(), PMFSampler(5)).fit(X)
    before = model.sampler_
    with pytest.raises(ValueError, match="n_bins expects"):
        model.set_params(sampler__n_bins=0).fit(X)
    assert model.sampler_ is before
