"""Rows that count more than once, or not at all."""

import copy

import numpy as np
import pytest
import torch
from sklearn import set_config
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding, _data
from skqlvm._fitting import Fit
from skqlvm.engine import likelihoods, objectives

TINY = {"hidden_layer_sizes": (8,), "max_iter": 20, "random_state": 0, "batch_size": 1000}
TINY |= {"validation_fraction": 0.0, "harmonic_order": 2}
QLVM = TINY | {"n_points": 34, "n_points_eval": 89}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Training ended after"),
    pytest.mark.filterwarnings("ignore:The posterior of a typical row"),
    pytest.mark.filterwarnings("ignore:Log-likelihoods by quadrature still changed"),
]


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(41, 3))


@pytest.fixture
def weight():
    return np.random.default_rng(1).integers(0, 4, 41)


MODELS = {
    "spherical": QLVMEmbedding(**QLVM),
    "diagonal": QLVMEmbedding(**QLVM, noise_variance="diagonal"),
    "maps": QLVMEmbedding(
        **QLVM, transformations={"roll": range(3)}, transformation_prior="learned"
    ),
    "precise": QLVMEmbedding(**QLVM, matmul_precision="highest"),
    "autoencoder": VAEEmbedding(**TINY, objective="autoencoder"),
}


@pytest.mark.parametrize("name", MODELS)
def test_weights_equal_repeated_rows_in_a_full_batch(name, X, weight):
    model = MODELS[name]
    repeated = X.repeat(weight, axis=0)
    expected = model.fit(repeated).score_samples(X)
    loss = model.history_["loss"]
    for shuffled in (1, -1):
        model.fit(X[::shuffled], sample_weight=weight[::shuffled])
        np.testing.assert_allclose(model.history_["loss"], loss, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-3, atol=1e-3)
    assert abs(model.fit(X).score_samples(X) - expected).max() > 0.02


def test_weights_of_one_change_no_bit_and_weights_of_zero_leave_rows_out(X):
    model = QLVMEmbedding(**QLVM)
    expected = model.fit(X[:31]).transform(X)
    counted = np.arange(41) < 31
    broken = np.where(counted[:, None], X, 1e9)
    for rows, weight in ((X[:31], np.ones(31)), (X[:31], 1), (broken, counted)):
        np.testing.assert_array_equal(model.fit(rows, sample_weight=weight).transform(X), expected)
    np.testing.assert_array_equal(
        model.partial_fit(X[:31]).transform(X),
        model.fit(X[:31]).partial_fit(broken, sample_weight=counted).transform(X),
    )


@pytest.mark.parametrize("kind", [QLVMEmbedding, VAEEmbedding, IWAEEmbedding])
def test_heavy_rows_are_scored_better(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(301, 5)) * [3, 1, 1, 1, 1] + rng.choice([-4, 4], (301, 1))
    heavy = X[:, 0] > 0
    model = kind(hidden_layer_sizes=(16,), max_iter=40, random_state=0)
    gains = []
    for weights in (np.where(heavy, 9.0, 0.5), np.where(heavy, 0.5, 9.0)):
        scores = model.fit(X, sample_weight=weights).score_samples(X)
        gains.append(scores[heavy].mean() - scores[~heavy].mean())
    assert gains[0] > gains[1] + 0.5


def test_score_is_the_weighted_mean(X, weight):
    model = QLVMEmbedding(**QLVM).fit(X)
    nats = model.score_samples(X)
    assert model.score(X) == pytest.approx(nats.mean())
    assert model.score(X, sample_weight=weight) == pytest.approx(np.average(nats, weights=weight))


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.r_[-1.0, np.ones(40)], ValueError, "expects numbers of at least 0, but got -1"),
        (np.zeros(41), ValueError, "expects at least 2 rows of positive weight, but all but 0"),
        (np.r_[1, np.zeros(40)], ValueError, "but all but 1 of 41"),
        (np.ones(40), ValueError, r"a number for each of the 41 rows, but got shape \(40,\)"),
        (np.ones((41, 1)), ValueError, r"got shape \(41, 1\)"),
        (np.full(41, np.nan), ValueError, "sample_weight contains NaN"),
        (["a"] * 41, ValueError, "could not convert"),
    ],
)
def test_bad_weights_are_refused(weight, error, message, X):
    model = QLVMEmbedding(**QLVM)
    with pytest.raises(error, match=message):
        model.fit(X, sample_weight=weight)
    assert not hasattr(model, "n_iter_")


def test_weights_are_copied(X, weight):
    before = weight.copy()
    rows, found = _data.weighted(X, weight)
    found += 1
    np.testing.assert_array_equal(weight, before)
    assert len(rows) == len(found) == (weight > 0).sum()


def test_validation_is_the_weighted_mean(X):
    model = QLVMEmbedding(validation_fraction=0.3, random_state=0)
    weight = np.random.default_rng(0).random(41)
    fit = Fit.of(model, X, 0.3, weight)
    nats = torch.from_numpy(X[:, 0])[fit.held_out]
    found = fit.validation(lambda batch, _: batch.x[:, 0], 5)().mean()
    expected = np.average(nats, weights=weight[fit.held_out])
    assert float(found) == pytest.approx(expected)
    assert fit.n_trained == pytest.approx(weight[fit.trained].sum())


def test_shifts_and_noise_do_not_depend_on_the_number_of_rows(X):
    draws = [
        torch.rand(3, generator=Fit.of(QLVMEmbedding(random_state=0), rows, 0.1).noise)
        for rows in (X, X.repeat(3, 0))
    ]
    assert torch.equal(*draws)


def test_points_are_kept_for_heavy_rows(generator):
    """Two rows, each with a point of its own; the gradient goes through that of the heavy one."""
    log_w = torch.tensor([[0.0, -50.0] * 64, [-50.0, 0.0] * 64], dtype=torch.float64)
    z = torch.zeros(128, 1, dtype=torch.float64, requires_grad=True)
    for weight in (torch.tensor([1.0, 1e-9]), torch.tensor([1e-9, 1.0])):
        bound = objectives.lattice_bound(
            lambda some: log_w[:, : len(some)] + some.T, z, spared=0.01, row_weight=weight
        )
        [gradient] = torch.autograd.grad(bound[weight.argmax()], z)
        assert (gradient != 0).sum() == 64


def test_discrepancy_weighs_codes_as_often_as_they_come(generator):
    a, b = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (7, 2003))
    even = objectives.maximum_mean_discrepancy(a, b)
    same = objectives.maximum_mean_discrepancy(a, b, torch.full((7,), 3.0))
    assert float(same) == pytest.approx(float(even))
    weight = torch.tensor([1.0, 1, 1, 0, 0, 0, 0])
    some = objectives.maximum_mean_discrepancy(a, b, weight)
    assert float(some) == pytest.approx(float(objectives.maximum_mean_discrepancy(a[:3], b)))


@pytest.fixture
def routing():
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


@pytest.mark.usefixtures("routing")
def test_weights_are_routed_through_pipelines_and_searches(X, weight):
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    model = QLVMEmbedding(**QLVM).set_fit_request(sample_weight=True)
    model.set_score_request(sample_weight=True)
    pipeline = make_pipeline(scaler, model).fit(X, sample_weight=weight)
    scaled = StandardScaler().fit_transform(X)
    alone = QLVMEmbedding(**QLVM).fit(scaled, sample_weight=weight)
    np.testing.assert_array_equal(pipeline.transform(X), alone.transform(scaled))
    assert pipeline.score(X, sample_weight=weight) == alone.score(scaled, sample_weight=weight)
    embedding = make_pipeline(scaler, model).fit_transform(X, sample_weight=weight)
    np.testing.assert_array_equal(embedding, alone.transform(scaled))
    search = GridSearchCV(model, {"n_points": [21, 34]}, cv=2).fit(X, sample_weight=weight)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_conditions_come_as_often_as_their_rows_count(X):
    X = np.column_stack([X, np.arange(len(X)) % 2])
    model = QLVMEmbedding(
        n_points=13,
        n_points_eval=21,
        max_iter=1,
        random_state=0,
        condition_columns=[X.shape[1] - 1],
    )
    model.fit(X, sample_weight=np.where(X[:, -1] == 1, 9.0, 1.0))
    np.testing.assert_allclose(model._model.conditions.shares, [0.1, 0.9], atol=0.01)
    assert model.sample(1000, random_state=0)[:, -1].mean() == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Multinomial(3),
        likelihoods.Poisson(3, "total"),
        likelihoods.NegativeBinomial(3, 2),
        likelihoods.Categorical(3, [8, 8, 8]),
    ],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_starts_weigh_rows_as_often_as_they_come(likelihood, generator):
    x = torch.randint(1, 8, (41, 3), generator=generator).double()
    weight = x[:, 2].long() ** 2
    weighted, repeated = copy.deepcopy(likelihood), copy.deepcopy(likelihood)
    weighted.start(x, weight.double())
    repeated.start(x.repeat_interleave(weight, 0))
    for found, expected in zip(weighted.buffers(), repeated.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [QLVMEmbedding, VAEEmbedding])
def test_aggregate_posterior_weighs_rows_as_often_as_they_come(kind, X, weight):
    model = kind(**(QLVM if kind is QLVMEmbedding else TINY)).fit(X, sample_weight=weight)
    repeated = model.aggregate_posterior(np.repeat(X, weight, 0))
    np.testing.assert_allclose(model.aggregate_posterior_, repeated, atol=1e-9)
