"""MAPAEmbedding: acceptance tests on closed forms, queries, and what is refused."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsTransformer, NearestNeighbors, RadiusNeighborsTransformer

from skqlvm import MAPAEmbedding, _codes
from skqlvm.datasets import make_density
from skqlvm.engine import priors

TINY = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}


@pytest.fixture(scope="module")
def rows():
    return make_density("circle").sample(120, 0)


@pytest.fixture(scope="module")
def fitted(rows):
    return MAPAEmbedding(1, noise_variance=0.01, prior="mixture", **TINY).fit(rows)


def test_linear_gaussian_data_are_scored_as_by_their_law():
    random, w = np.random.default_rng(0), np.array([[2.0, -1.0, 0.5]])
    law = stats.multivariate_normal(np.zeros(3), w.T @ w + 0.1 * np.eye(3))
    X, new = (law.rvs(n, random_state=random) for n in (600, 2000))
    model = MAPAEmbedding(
        1,
        noise_variance=0.1,
        hidden_layer_sizes=(16,),
        max_iter=30,
        n_neighbors=10,
        n_importance_samples=5,
        validation_fraction=0,
        random_state=0,
    ).fit(X)
    assert model.score(new) == pytest.approx(law.logpdf(new).mean(), abs=0.05)


def test_training_brings_scores_near_the_density():
    density = make_density("absolute")
    X, new = density.sample(800, 0), density.sample(1000, 1)
    model = MAPAEmbedding(
        1,
        noise_variance=0.01,
        hidden_layer_sizes=(32, 32),
        prior="mixture",
        init="random",
        n_neighbors=5,
        n_importance_samples=2,
        max_iter=40,
        random_state=0,
    ).fit(X)
    truth = density.log_density(new).mean()
    assert truth - 0.15 < model.score(new) < truth + 0.02
    normal = stats.multivariate_normal(X.mean(0), np.cov(X.T)).logpdf(new).mean()
    assert model.score(new) > normal + 0.05


def test_rows_lie_at_the_means_of_codes_under_their_posteriors(fitted, rows):
    assert len(fitted.codes_) == len(set(fitted.code_rows_)) == 108  # the others are held out
    means = fitted.index_posterior(rows) @ fitted.codes_
    np.testing.assert_allclose(fitted.transform(rows), means, atol=1e-6)
    np.testing.assert_allclose(fitted.codes_.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(fitted.codes_.var(0), 1, atol=1e-6)


def test_index_posterior_and_empirical_score_are_those_of_the_decoded_codes(fitted, rows):
    new = rows[:7] + 0.01
    means = fitted.inverse_transform(fitted.codes_)
    log_p = stats.norm.logpdf(new[:, None], means, 0.1).sum(2)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(fitted.index_posterior(new).toarray(), p, atol=1e-5)
    expected = np.log(np.exp(log_p).mean(1))
    np.testing.assert_allclose(fitted.empirical_score_samples(new), expected, atol=1e-4)


def test_score_is_the_integral_under_the_fitted_prior(fitted, rows):
    """By a fine grid over the latent line."""
    z = np.linspace(-8, 8, 20_001)[:, None]
    means = fitted.inverse_transform(z)
    prior = np.exp(fitted._model.prior.log_prob(torch.from_numpy(z)).numpy())
    for row, nats in zip(rows[:5], fitted.score_samples(rows[:5]), strict=True):
        p = np.exp(stats.norm.logpdf(row, means, 0.1).sum(1))
        assert nats == pytest.approx(np.log((p * prior).sum() * 16 / 20_000), abs=0.02)


def test_importance_sampling_agrees_with_quadrature(fitted, rows):
    nats, error = fitted.score_samples(rows, "importance", 2000, return_std=True)
    away = np.abs(nats - fitted.score_samples(rows))
    assert (away < 5 * error + 0.02).mean() > 0.95


def test_more_than_three_components_are_scored_by_importance_sampling(rows):
    X = np.hstack([rows, rows[::-1], rows[:, ::-1]])
    model = MAPAEmbedding(4, prior="kde", bandwidth=0.5, **TINY).fit(X)
    nats, error = model.score_samples(X[:20], return_std=True)
    assert np.isfinite(nats).all()
    assert np.median(error) < 0.3
    with pytest.raises(ValueError, match="up to 3 components"):
        model.posterior(X)
    assert model.sample(5, random_state=0).shape == (5, 6)


@pytest.mark.parametrize("prior", _codes.PRIORS)
def test_priors_of_codes_are_normalised_and_drawn_from(prior, rows):
    model = MAPAEmbedding(1, prior=prior, **TINY).fit(rows)
    density = model._model.prior
    z = torch.from_numpy(np.linspace(-9, 9, 9001)[:, None])
    assert np.exp(density.log_prob(z).numpy()).sum() * 0.002 == pytest.approx(1, abs=1e-3)
    assert model.sample(4, random_state=0).shape == (4, 2)
    assert type(density) is (priors.StandardNormal if prior == "gaussian" else priors.NormalMixture)


def test_a_mixture_finds_the_clusters_of_codes():
    random = np.random.default_rng(0)
    codes = np.concatenate([random.normal(c, 0.1, (200, 1)) for c in (-1.2, 0.0, 1.2)])
    codes = (codes - codes.mean()) / codes.std()
    log_share = np.full(600, -np.log(600))
    found = _codes.fitted_prior("mixture", codes, log_share, 0)
    assert len(found.loc) == 3
    normal = stats.norm.logpdf(codes).mean()
    for prior in ("mixture", "kde"):
        found = _codes.fitted_prior(prior, codes, log_share, 0)
        assert found.log_prob(torch.from_numpy(codes)).mean() > normal + 0.5


@pytest.mark.parametrize("init", _codes.INITS)
def test_codes_start_standardised_and_near_each_other_for_near_rows(init):
    random = np.random.default_rng(0)
    y = np.sort(random.normal(size=(200, 1)), 0) @ np.ones((1, 3))
    near = NearestNeighbors(n_neighbors=8).fit(y).kneighbors(return_distance=False)
    codes = _codes.start(init, y, near, 2, 0)
    np.testing.assert_allclose(codes.std(0), 1, atol=0.15)
    correlation = np.abs(stats.spearmanr(codes[:, 0], y[:, 0]).statistic)
    assert (correlation > 0.99) == (init != "random")


def test_rows_that_know_their_own_code_only_are_told_and_what_to_do():
    X = np.random.default_rng(0).normal(size=(100, 50))
    settings = {**TINY, "noise_variance": 1.0}
    with pytest.warns(UserWarning, match=r"1\.00 effective neighbours.*self_weight='expected'"):
        alone = MAPAEmbedding(2, **settings).fit(X)
    assert alone.n_effective_neighbors_ < 1.01
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The cached weights")
        model = MAPAEmbedding(2, self_weight="expected", **settings).fit(X)
    assert model.n_effective_neighbors_ > 1.2


def test_noise_that_is_learned_has_a_bandwidth_from_the_data():
    random = np.random.default_rng(0)
    z = random.normal(size=(400, 1))
    X = np.hstack([z, z**2, np.sin(z)]) + 0.1 * random.normal(size=(400, 3))
    model = MAPAEmbedding(1, **TINY).fit(X)
    assert model.bandwidth_ == pytest.approx(0.02, rel=0.4)
    assert MAPAEmbedding(1, bandwidth=0.5, **TINY).fit(X).bandwidth_ == 0.5


@pytest.mark.parametrize(
    "search",
    [NearestNeighbors(algorithm="brute"), KNeighborsTransformer(n_neighbors=60)],
    ids=["kneighbors", "transformer"],
)
def test_any_search_for_neighbours_serves(search, rows):
    model = MAPAEmbedding(1, neighbors=search, n_neighbors=12, **TINY).fit(rows)
    expected = MAPAEmbedding(1, n_neighbors=12, **TINY).fit(rows)
    np.testing.assert_allclose(model.codes_, expected.codes_, atol=1e-5)


def test_repeated_rows_and_single_neighbours_do_no_harm(rows):
    X = np.repeat(rows[:30], 4, axis=0)
    model = MAPAEmbedding(1, n_neighbors=2, n_importance_samples=1, **TINY).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    model = MAPAEmbedding(1, n_neighbors=500, **TINY).fit(X)
    assert np.isfinite(model.codes_).all()


def test_constant_columns_hide_no_noise(rows):
    X = np.hstack([rows, np.full((len(rows), 3), 2.0)])
    model = MAPAEmbedding(2, **TINY).fit(X)
    assert model.n_effective_neighbors_ > 2


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rows_that_are_all_the_same_are_learned():
    X = np.ones((30, 3))
    model = MAPAEmbedding(2, **TINY).fit(X)
    assert model.n_effective_neighbors_ == pytest.approx(30)
    assert np.isfinite(model.score(X))


@pytest.mark.parametrize("init", _codes.INITS)
def test_two_rows_are_enough(rows, init):
    model = MAPAEmbedding(2, init=init, **TINY).fit(rows[:2])
    assert np.isfinite(model.score(rows))


def test_searches_that_find_no_other_rows_are_refused(rows):
    search = RadiusNeighborsTransformer(radius=1e-9)
    with pytest.raises(ValueError, match="expects to find other rows for each row"):
        MAPAEmbedding(1, neighbors=search, **TINY).fit(rows)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative_binomial", "categorical"])
def test_other_likelihoods_fit(likelihood):
    random = np.random.default_rng(0)
    rate = np.exp(random.normal(size=(150, 1)) @ random.normal(size=(1, 6)))
    X = random.poisson(rate).astype(float)
    X = np.minimum(X, 1 if likelihood == "bernoulli" else 3)
    model = MAPAEmbedding(1, likelihood=likelihood, **TINY).fit(X)
    assert np.isfinite(model.score(X))
    assert model.sample(3, random_state=0).shape == (3, 6)


def test_weights_of_rows_are_those_of_their_codes(rows):
    weight = np.where(rows[:, 0] > 0, 3.0, 1.0)
    weight[:5] = 0
    model = MAPAEmbedding(1, noise_variance=0.01, validation_fraction=0, **TINY)
    model.fit(rows, sample_weight=weight)
    assert len(model.codes_) == 115
    np.testing.assert_array_equal(model.code_rows_, np.arange(5, 120))
    shares = np.exp(model._model.log_share.numpy())
    np.testing.assert_allclose(shares, weight[5:] / weight.sum(), rtol=1e-6)


def test_a_warm_start_goes_on_from_codes_and_weights(rows):
    model = MAPAEmbedding(1, noise_variance=0.01, **{**TINY, "max_iter": 30}).fit(rows)
    before = model.empirical_score_samples(rows).mean()
    model.set_params(warm_start=True, max_iter=1, learning_rate=1e-6).fit(rows)
    assert model.empirical_score_samples(rows).mean() > before - 0.1


def test_pickles_score_the_same_without_what_can_be_decoded_again(fitted, rows):
    fitted.empirical_score_samples(rows)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(rows), fitted.score_samples(rows))
    np.testing.assert_array_equal(again.transform(rows), fitted.transform(rows))


def test_summaries_of_posteriors_come_with_the_prior(fitted, rows):
    summary = fitted.posterior_summary(rows[:5])
    assert summary.mean.shape == (5, 1)
    assert (summary.std < 1.5).all()
    np.testing.assert_allclose(fitted.posterior(rows[:5]).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["encoder_", "impute", "partial_fit"])
def test_what_needs_an_encoder_or_gaps_is_not_there(fitted, name):
    assert not hasattr(fitted, name)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"likelihood": "multinomial"}, "has a kernel between rows"),
        ({"likelihood": "continuous_bernoulli"}, "has a kernel between rows"),
        ({"init": "tsne"}, "init expects one of"),
        ({"prior": "flow"}, "prior expects one of"),
        ({"self_weight": 1.0}, "self_weight expects one of"),
        ({"bandwidth": 0.0}, "bandwidth expects a number"),
        ({"n_neighbors": 0}, "n_neighbors expects an integer"),
        ({"neighbors": 5}, "neighbors expects None"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    X = np.random.default_rng(0).random((20, 3)).round()
    with pytest.raises((TypeError, ValueError), match=message):
        MAPAEmbedding(**{**TINY, **parameters}).fit(X)


def test_gaps_are_refused():
    X = np.random.default_rng(0).random((20, 3))
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN, but MAPAEmbedding expects complete rows"):
        MAPAEmbedding(**TINY).fit(X)
