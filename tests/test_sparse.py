"""Sparse rows: the same as dense ones, and never made dense."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array, csc_matrix, csr_array, csr_matrix

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm._rows import Chunks, Rows, as_tensor
from skqlvm.engine import (
    atlas,
    lattices,
    likelihoods,
    networks,
    priors,
    quadrature,
    refinement,
    rows,
)
from skqlvm.engine.models import Model

N, D = 61, 13
TINY = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0, "batch_size": 16}
TINY["matmul_precision"] = "highest"
QLVM = TINY | {"n_points": 34, "n_points_eval": 89, "harmonic_order": 2}
SPARSE = [name for name, family in likelihoods.FAMILIES.items() if family.sparse]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Training ended after"),
    pytest.mark.filterwarnings("ignore:The posterior of a typical row"),
    pytest.mark.filterwarnings("ignore:Log-likelihoods by quadrature still changed"),
]


def counts(name="poisson", n=N, d=D, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.poisson(0.3, size=(n, d)) * rng.integers(1, 4, size=(n, d))
    X[3], X[:, 4] = 0, np.arange(n) == 7
    return np.minimum(X, 1).astype(dtype) if name == "bernoulli" else X.astype(dtype)


def tensors(name="poisson", dtype=np.float64):
    X = counts(name, dtype=dtype)
    return torch.from_numpy(X), as_tensor(csr_array(X), torch.device("cpu"))


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=SPARSE)
def name(request):
    return request.param


# the engine


def test_counts_and_coins_are_sparse():
    assert {"bernoulli", "poisson"} <= set(SPARSE)
    assert "gaussian" not in SPARSE


@pytest.mark.parametrize("index", [[], [3], [7, 2, 2, 60, 3], list(range(N))])
def test_rows_are_chosen_in_their_order(index):
    dense, sparse = tensors()
    index = torch.tensor(index, dtype=torch.int64)
    assert torch.equal(rows.chosen(sparse, index).to_dense(), dense[index])
    flags = torch.zeros(N, dtype=torch.bool)
    flags[index] = True
    assert torch.equal(rows.chosen(sparse, flags).to_dense(), dense[flags])


@pytest.mark.parametrize("size", [1, 7, 61, 100])
def test_parts_are_all_rows(size):
    dense, sparse = tensors()
    parts = rows.split(sparse, size)
    assert [len(part) for part in parts] == [len(part) for part in dense.split(size)]
    assert torch.equal(torch.cat([part.to_dense() for part in parts]), dense)


@pytest.mark.parametrize("weighted", [False, True])
def test_means_are_those_of_dense_rows(weighted, generator):
    dense, sparse = tensors()
    weight = torch.rand(N, generator=generator, dtype=torch.float64) if weighted else None
    close(rows.mean_of_rows(sparse, weight), rows.mean_of_rows(dense, weight))


def test_likelihood_of_sparse_rows_and_its_gradients_are_those_of_dense_ones(name, generator):
    dense, sparse = tensors(name)
    likelihood = likelihoods.FAMILIES[name](D)
    likelihood.start(dense)
    outputs = torch.randn(7, D, dtype=torch.float64, generator=generator).requires_grad_()
    own = torch.randn(N, 3, D, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.rand(N, 7, dtype=torch.float64, generator=generator)
    results = []
    for x in (dense, sparse):
        terms = likelihood.terms(x)
        table, paired = likelihood.table(terms, outputs), likelihood.paired(terms, own)
        expected = likelihood.expected(terms, outputs, weights)
        shares = torch.arange(1, N + 1)
        total = (shares[:, None] * table).sum() + 2 * paired.sum()
        gradients = torch.autograd.grad(total + 3 * (shares * expected).sum(), (outputs, own))
        results.append((terms.base, table, paired, *gradients))
    for found, wanted in zip(*results, strict=True):
        close(found, wanted, 1e-10)
    assert likelihood.terms(sparse).statistics.layout == torch.sparse_csr
    restarted = likelihoods.FAMILIES[name](D)
    restarted.start(sparse)
    close(restarted.loc, likelihood.loc)


def model_of(name, x, generator):
    likelihood = likelihoods.FAMILIES[name](D)
    likelihood.start(x)
    decoder = networks.MLPDecoder(2, D, (4,), 3, generator=generator)
    with torch.no_grad():
        decoder.layers[-1].weight *= 30
    return Model(2, priors.UniformTorus(), decoder, likelihood).eval()


@pytest.mark.parametrize("factored", [True, False])
@torch.no_grad()
def test_atlas_says_the_same_of_sparse_rows(name, factored, generator):
    dense, sparse = tensors(name)
    model = model_of(name, dense, generator)
    [chart] = quadrature.charts(model, lattices.lattice(2, 89), factored=factored)
    # outputs of a negative binomial are no natural parameters, which span few directions
    assert (chart.directions is not None) == (factored and name != "negative_binomial")
    likelihood = model.likelihood
    close(chart.table(likelihood, sparse), chart.table(likelihood, dense), 1e-10)
    found, expected = (
        refinement.refined_log_marginal(model, chart, rows.split(x, 17)) for x in (sparse, dense)
    )
    close(found, expected, 1e-10)


# many outputs


@pytest.mark.parametrize("hidden", [(16,), (64, 32)])
@torch.no_grad()
def test_directions_of_many_outputs_are_exact(hidden, monkeypatch, generator):
    """Also those in which few points lie, that none of the first ones shows."""
    monkeypatch.setattr(atlas, "WIDEST_WHOLE", 100)
    monkeypatch.setattr(atlas, "_AT_ONCE", 64)
    likelihood = likelihoods.Poisson(301)
    decoder = networks.MLPDecoder(2, 301, hidden, 5, generator=generator)
    model = Model(2, priors.UniformTorus(), decoder, likelihood).eval()
    lonely = torch.zeros(610, dtype=torch.bool)
    lonely[[17, 300]] = True
    plain = model.outputs

    def outputs(z, group=None):
        away = (z[:, None] == points[lonely]).all(2)
        return plain(z) + away.float() @ torch.randn(
            2, 301, generator=torch.Generator().manual_seed(1)
        )

    monkeypatch.setattr(atlas, "_SAMPLED", 60)
    monkeypatch.setattr(model, "outputs", outputs)
    points = lattices.lattice(2, 610)
    [chart] = quadrature.charts(model, points, factored=True)
    assert chart.directions.shape == (hidden[-1] + 2, 301)
    eta = chart.center + chart.coordinates.double() @ chart.directions.double()
    torch.testing.assert_close(eta, likelihood.natural(outputs(points)).double(), rtol=0, atol=2e-6)
    squares = chart.directions @ chart.directions.T
    torch.testing.assert_close(squares, torch.eye(len(squares)), rtol=0, atol=1e-6)
    exact = atlas.chart(likelihood, outputs(points), points, points.new_zeros(610))
    torch.testing.assert_close(chart.bias, exact.bias)


@torch.no_grad()
def test_many_outputs_without_few_directions_are_kept_whole(monkeypatch, generator):
    monkeypatch.setattr(atlas, "WIDEST_WHOLE", 10)
    noise = torch.randn(89, 31, generator=generator)
    model = Model(
        1, priors.UniformTorus(), networks.MLPDecoder(1, 31, (4,), 2), likelihoods.Poisson(31)
    )
    monkeypatch.setattr(model, "outputs", lambda z, _: noise[(89 * z[:, 0]).round().long()])
    [chart] = quadrature.charts(model, lattices.lattice(1, 89), factored=True)
    assert chart.directions is None
    assert torch.equal(chart.coordinates, noise)


# estimators

MODELS = {
    "qlvm": QLVMEmbedding(**QLVM),
    "vae": VAEEmbedding(**TINY),
    "iwae": IWAEEmbedding(5, **TINY, n_importance_samples=3),
}


@pytest.mark.parametrize("kind", [csr_matrix, csr_array, csc_matrix, coo_array])
@pytest.mark.parametrize("model", MODELS)
def test_estimators_say_the_same_of_sparse_rows(kind, model, name):
    X, model = counts(name), MODELS[model].set_params(likelihood=name)
    model.fit(X)
    results = [model.transform(X), model.score_samples(X), model.reconstruct(X)]
    wanted = [model.transform(kind(X)), model.score_samples(kind(X)), model.reconstruct(kind(X))]
    for found, expected in zip(wanted, results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    loss = model.history_["loss"]
    np.testing.assert_allclose(model.fit(kind(X)).history_["loss"], loss, rtol=1e-3)
    assert np.isfinite(model.partial_fit(kind(X)).score(kind(X)))


def test_repeated_entries_are_summed_and_given_rows_stay_as_they_are():
    X = csr_array((np.ones(4), [1, 1, 0, 2], [0, 2, 4, 4]), shape=(3, 3))
    model = QLVMEmbedding(**QLVM, likelihood="poisson").fit(X)
    assert X.nnz == 4
    np.testing.assert_allclose(model.score_samples(X), model.score_samples(X.toarray()), atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_sparse_rows_are_never_dense(model, monkeypatch):
    """But for the batches that an encoder sees."""
    X = csr_array(counts())
    model = MODELS[model].set_params(likelihood="poisson")

    def refuse(*_, **__):
        raise AssertionError("made dense")

    for kind in (csr_array, csr_matrix):
        for method in ("toarray", "todense"):
            monkeypatch.setattr(kind, method, refuse)
    if isinstance(model, QLVMEmbedding):
        monkeypatch.setattr(torch.Tensor, "to_dense", refuse)
    assert np.isfinite(model.fit(X).score_samples(X)).all()
    assert np.isfinite(model.fit_transform(X)).all()


def test_batches_and_chunks_have_the_rows_asked_for():
    X = counts()
    found = Rows(csr_array(X), torch.device("cpu"), np.arange(N) + 0.5)
    batch = found.batch(torch.tensor([7, 2, 9, 2]))
    np.testing.assert_array_equal(batch.x.to_dense(), X[[7, 2, 9, 2]])
    assert batch.weight.tolist() == [7.5, 2.5, 9.5, 2.5]
    chunks = [chunk.to_dense() for chunk in Chunks(csr_array(X), torch.device("cpu"), 17)]
    np.testing.assert_array_equal(torch.cat(chunks), X)


def test_weights_count_sparse_rows():
    X, weight = counts(), np.random.default_rng(0).integers(0, 3, N)
    model = QLVMEmbedding(**QLVM, likelihood="poisson")
    expected = model.fit(X, sample_weight=weight).history_["loss"]
    found = model.fit(csr_array(X), sample_weight=weight).history_["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


class Dense(likelihoods.Poisson):
    sparse = False


def test_sparse_rows_are_refused_where_they_would_have_to_be_dense():
    X = csr_array(counts())
    with pytest.raises(
        TypeError, match=r"or a likelihood that takes sparse rows: 'bernoulli', .*'po"
    ):
        QLVMEmbedding(**QLVM).fit(X)
    for likelihood in (Dense, lambda d: Dense(d)):
        with pytest.raises(TypeError, match="expects a dense array, but got a sparse matrix"):
            QLVMEmbedding(**QLVM, likelihood=likelihood).fit(X)
    with pytest.raises(TypeError, match="transformations expects a dense array"):
        QLVMEmbedding(**QLVM, likelihood="poisson", transformations={"roll": (0, 1)}).fit(X)
    model = QLVMEmbedding(**QLVM, likelihood=lambda d: likelihoods.Poisson(d)).fit(X)
    with pytest.raises(TypeError, match="impute expects a dense array"):
        model.impute(X)
    with pytest.raises(ValueError, match="NaN"):
        model.transform(X * np.nan)
    with pytest.raises(ValueError, match="expects whole numbers"):
        model.transform(X * 0.3)
    tags = [QLVMEmbedding(likelihood=name).__sklearn_tags__() for name in ("poisson", "gaussian")]
    assert [each.input_tags.sparse for each in tags] == [True, False]


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "negative_binomial", "multinomial"])
def test_sparse_rows_may_be_zeros_alone(name):
    X = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(float)
    model = QLVMEmbedding(
        1, likelihood=name, n_points=13, n_points_eval=21, max_iter=1, random_state=0
    ).fit(csr_array(X))
    np.testing.assert_allclose(
        model.score_samples(csr_array((2, 3))), model.score_samples(np.zeros((2, 3))), atol=1e-6
    )


@pytest.mark.parametrize("n_components", [2, 5])
def test_importance_samples_of_sparse_rows_are_those_of_dense_ones(n_components, name):
    X = counts(name)[:20]
    model = VAEEmbedding(n_components, likelihood=name, **TINY).fit(X)
    for method in ("importance", "encoder", "elbo"):
        dense = model.score_samples(X, method=method, n_importance_samples=50, return_std=True)
        sparse = model.score_samples(
            csr_array(X), method=method, n_importance_samples=50, return_std=True
        )
        np.testing.assert_allclose(sparse, dense, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_totals_may_all_be_zero(likelihood):
    X = np.zeros((20, 3))
    model = QLVMEmbedding(**QLVM, likelihood=likelihood, exposure="total").fit(X)
    np.testing.assert_allclose(model.score_samples(X), 0, atol=1e-6)
