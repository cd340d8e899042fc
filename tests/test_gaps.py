"""Features that are missing at random: marginalised exactly, by the engine and by estimators."""

from math import log, nan

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding, _data
from skqlvm.engine import atlas, lattices, likelihoods, networks, priors, quadrature, refinement
from skqlvm.engine.models import Model
from skqlvm.engine.transformations import Transformations

N, D = 23, 7
TINY = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
QLVM = TINY | {"n_points": 34, "n_points_eval": 89, "harmonic_order": 2}

DATA = {
    "bernoulli": torch.round,
    "continuous_bernoulli": torch.clone,
    "gaussian": lambda x: 3 + 2 * x,
    "negative_binomial": lambda x: (5 * x).round(),
    "poisson": lambda x: (5 * x).round(),
}
"""Of uniform numbers, for the families whose outputs are as many as features."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:Training ended after"),
    pytest.mark.filterwarnings("ignore:The posterior of a typical row"),
    pytest.mark.filterwarnings("ignore:Log-likelihoods by quadrature still changed"),
]


def with_gaps(x, generator, share=0.4):
    """Rows with gaps; the first is complete, and of the second nothing is there."""
    there = torch.rand(x.shape, generator=generator) >= share
    there[0], there[1] = True, False
    return torch.where(there, x, nan), there


def data_of(name, generator, dtype=torch.float64):
    x = torch.rand(N, D, generator=generator, dtype=torch.float64)
    return DATA[name](x).to(dtype)


def torus_model(name, x, generator, maps=None):
    """A model that is not trained, whose posteriors are neither flat nor narrow."""
    likelihood = likelihoods.FAMILIES[name](x.shape[1])
    decoder = networks.MLPDecoder(2, x.shape[1], (8,), 3, generator=generator)
    with torch.no_grad():
        decoder.layers[-1].weight *= 20
    likelihood.start(x)
    return Model(2, priors.UniformTorus(), decoder, likelihood, transformations=maps).eval()


def naive(model, row, z):
    """Log p of what is there of a row, at every point, feature by feature."""
    likelihood, outputs = model.likelihood, model.outputs(z).double()
    there = ~row.isnan()
    filled = torch.where(there, row, 0)[None].double()
    eta = likelihood.natural(outputs)
    each = likelihood.statistics(filled) * eta - likelihood.log_normalizer(eta)
    return (each + likelihood.log_base(filled))[:, there].sum(1)


@pytest.fixture(params=DATA)
def name(request):
    return request.param


# the engine


@pytest.mark.parametrize("factored", [True, False])
@torch.no_grad()
def test_log_p_of_rows_with_gaps_is_that_of_a_loop(name, factored, generator):
    x, _ = with_gaps(data_of(name, generator), generator)
    model, z = torus_model(name, x, generator), lattices.lattice(2, 89)
    [chart] = quadrature.charts(model, z, factored=factored, ragged=x.dtype)
    expected = torch.stack([naive(model, row, z) for row in x])
    torch.testing.assert_close(chart.table(model.likelihood, x), expected, rtol=1e-5, atol=1e-5)
    log_px = torch.logsumexp(expected, 1) - log(89)
    for kept in (chart, chart._replace(normalizers=None)):
        found = quadrature.log_marginal(model, [kept], [x[:11], x[11:]])
        torch.testing.assert_close(found, log_px, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_refined_scores_of_rows_with_gaps_are_those_of_a_finer_lattice(generator):
    """Of posteriors so narrow that every row with something in it is refined."""
    x, _ = with_gaps(data_of("gaussian", generator), generator)
    model, points = torus_model("gaussian", x, generator), lattices.lattice(2, 610)
    model.likelihood.fixed = 2e-2
    fine = lattices.lattice(2, 17711)
    expected = torch.logsumexp(torch.stack([naive(model, row, fine) for row in x]), 1)
    expected = expected - log(len(fine))
    for factored in (True, False):
        [chart] = quadrature.charts(model, points, factored=factored, ragged=x.dtype)
        found = refinement.refined_log_marginal(model, chart, [x])
        coarse = quadrature.log_marginal(model, [chart], [x])
        assert (coarse - expected).abs().mean() > 0.1
        assert (found - expected).abs().mean() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factored", [True, False])
@torch.no_grad()
def test_complete_rows_keep_their_bits_beside_rows_with_gaps(name, dtype, factored, generator):
    x = data_of(name, generator, dtype)
    ragged = x.clone()
    ragged[1::3, 2:5], ragged[4] = nan, nan
    complete = ~ragged.isnan().any(1)
    model, z = torus_model(name, x, generator), lattices.lattice(2, 89)
    [chart] = quadrature.charts(model, z, factored=factored)
    likelihood, with_normalizers = model.likelihood, chart.with_normalizers(model.likelihood, dtype)
    for ask in (
        lambda chart, x: chart.relative(likelihood, x),
        lambda chart, x: chart.offset(likelihood, x),
        lambda chart, x: refinement.refined_log_marginal(model, chart, [x]),
        lambda chart, x: likelihood.terms(x).base,
    ):
        assert torch.equal(ask(with_normalizers, ragged)[complete], ask(chart, x)[complete])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_row_of_which_nothing_is_there_has_the_prior_and_no_nats(name, dtype, generator):
    x = data_of(name, generator, dtype)
    x[3], x[5, 2] = nan, nan
    model = torus_model(name, x, generator)
    [chart] = quadrature.charts(model, lattices.lattice(2, 89), factored=True, ragged=dtype)
    assert not chart.table(model.likelihood, x)[3].any()
    assert abs(refinement.refined_log_marginal(model, chart, [x])[3]) < 1e-6


@torch.no_grad()
def test_normalizers_are_centered_and_their_sums_the_bias(name, generator):
    x = data_of(name, generator)
    model = torus_model(name, x, generator)
    [chart] = quadrature.charts(model, lattices.lattice(2, 89), factored=True, ragged=x.dtype)
    centered, mean = chart.normalizers
    assert centered.shape == (89, D)
    assert centered.mean(0).abs().max() < 1e-12
    torch.testing.assert_close((centered + mean).sum(1), -chart.bias, rtol=1e-5, atol=1e-5)


def linear_gaussian(generator, d=4, k=2):
    """Factor analysis: x = c + s W z + noise, of closed form."""
    likelihood = likelihoods.Gaussian(d, 0.5)
    likelihood.start(1 + torch.rand(101, d, dtype=torch.float64, generator=generator))
    decoder = nn.Linear(k, d, bias=False).double()
    with torch.no_grad():
        decoder.weight.copy_(torch.randn(d, k, generator=generator, dtype=torch.float64))
    model = Model(k, priors.StandardNormal(), decoder, likelihood).eval()
    loadings = likelihood.scale[:, None] * decoder.weight.detach()
    noise = likelihood.noise_variance().detach() * torch.eye(d, dtype=torch.float64)
    return model, likelihood.loc, loadings @ loadings.T + noise


@torch.no_grad()
def test_scores_and_predictions_are_those_of_factor_analysis(generator):
    model, loc, covariance = linear_gaussian(generator)
    x = loc + torch.randn(9, 4, generator=generator, dtype=torch.float64)
    x, there = with_gaps(x, generator)
    [chart] = quadrature.charts(model, quadrature.nested_points(2, 2**14), ragged=x.dtype)
    found = quadrature.log_marginal(model, [chart], [x])
    weights = torch.softmax(chart.table(model.likelihood, x), 1)
    means, stds = model.likelihood.predictive(model.outputs(chart.points), weights)
    for i, (row, seen) in enumerate(zip(x, there, strict=True)):
        hidden = ~seen
        within, across = covariance[seen][:, seen], covariance[hidden][:, seen]
        expected = torch.zeros(())
        if seen.any():
            law = torch.distributions.MultivariateNormal(loc[seen], within)
            expected = law.log_prob(row[seen])
        assert float(found[i]) == pytest.approx(float(expected), abs=1e-4)
        gain = across @ torch.linalg.inv(within)
        mean = loc[hidden] + gain @ (row[seen] - loc[seen])
        variance = (covariance[hidden][:, hidden] - gain @ across.T).diagonal()
        torch.testing.assert_close(means[i][hidden], mean, rtol=0, atol=2e-3)
        torch.testing.assert_close(stds[i][hidden], variance.sqrt(), rtol=0, atol=2e-3)


@torch.no_grad()
def test_predictions_far_from_the_origin_keep_their_spread(generator):
    model, loc, _ = linear_gaussian(generator)
    outputs = model.outputs(torch.randn(89, 2, generator=generator, dtype=torch.float64))
    weights = torch.softmax(torch.randn(3, 89, generator=generator, dtype=torch.float64), 1)
    _, near = model.likelihood.predictive(outputs, weights)
    model.likelihood.loc = loc + 1e6
    _, far = model.likelihood.predictive(outputs, weights)
    torch.testing.assert_close(far, near, rtol=1e-6, atol=0)


@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_transformations_move_gaps_along_and_scale_what_is_there(affine, generator):
    x, _ = with_gaps(data_of("gaussian", generator), generator)
    index = torch.stack([torch.arange(D).roll(s) for s in range(3)])
    scale, offset = torch.tensor([0.5, 1.0, -2.0]), torch.tensor([0.1, 0.0, 3.0])
    maps = Transformations(index, *((scale, offset) if affine else ()))
    model, z = torus_model("gaussian", x, generator, maps), lattices.lattice(2, 55)
    [chart] = quadrature.charts(model, z, ragged=x.dtype)
    found = quadrature.log_marginal(model, [chart], [x])
    for row, nats in zip(x, found, strict=True):
        parts = []
        for copy, factor in zip(maps.copies(row[None]), maps.scale, strict=True):
            n_there = int((~row.isnan()).sum())
            parts.append(naive(model, copy, z) + n_there * factor.abs().log() - log(3 * 55))
        assert float(nats) == pytest.approx(float(torch.cat(parts).logsumexp(0)), abs=1e-5)


def test_encoders_see_the_mean_of_the_data_where_nothing_is(name, generator):
    x = data_of(name, generator)
    likelihood = likelihoods.FAMILIES[name](D)
    likelihood.start(x)
    gaps = x.clone()
    gaps[:, 2] = nan
    x[:, 2] = x[:, 2].mean() if name != "bernoulli" else likelihood.mean(torch.zeros(D))[2]
    torch.testing.assert_close(likelihood.inputs(gaps), likelihood.inputs(x).to(gaps))
    assert torch.equal(likelihood.inputs(x), likelihood.inputs(x.clone()))


def test_start_with_gaps_is_the_start_of_each_column_alone(name, generator):
    x, there = with_gaps(data_of(name, generator), generator)
    whole = likelihoods.FAMILIES[name](D)
    whole.start(x)
    for column in range(D):
        alone = likelihoods.FAMILIES[name](1)
        alone.start(x[there[:, column], column, None])
        torch.testing.assert_close(whole.loc[column], alone.loc[0])


def test_start_weighs_rows_as_often_as_they_come(name, generator):
    x, _ = with_gaps(data_of(name, generator), generator)
    weight = torch.randint(1, 4, (N,), generator=generator)
    weighted, repeated = likelihoods.FAMILIES[name](D), likelihoods.FAMILIES[name](D)
    for rows, counts in ((x, weight), (x[[0, 2, 5, 7]], weight[:4])):
        weighted.start(rows, counts.double())
        repeated.start(rows.repeat_interleave(counts, 0))
        for found, expected in zip(weighted.buffers(), repeated.buffers(), strict=True):
            torch.testing.assert_close(found, expected)


# estimators


@pytest.fixture(params=["qlvm", "maps", "vae", "torus", "iwae", "five"])
def model(request):
    return {
        "qlvm": QLVMEmbedding(**QLVM),
        "maps": QLVMEmbedding(**QLVM, transformations={"amplitude": (0.5, 1.0), "roll": (0, 1)}),
        "vae": VAEEmbedding(**TINY),
        "torus": VAEEmbedding(**TINY, latent="torus"),
        "iwae": IWAEEmbedding(**TINY, n_importance_samples=3),
        "five": IWAEEmbedding(5, **TINY, n_importance_samples=3),
    }[request.param]


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(101, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(101, 5)) + 4
    X[rng.random(X.shape) < 0.3] = np.nan
    X[3], X[7] = np.nan, rng.normal(size=5)
    return X


def test_estimators_take_rows_with_gaps(model, X):
    Z = model.fit_transform(X)
    filled, std = model.impute(X, return_std=True)
    there = ~np.isnan(X)
    for result in (Z, model.score_samples(X), model.reconstruct(X), filled, std):
        assert result.dtype == np.float64
        assert np.isfinite(result).all()
    assert np.isfinite(model.history_["loss"]).all()
    np.testing.assert_array_equal(filled[there], X[there])
    assert not std[there].any()
    assert (std[~there] > 0).all()
    assert np.isfinite(model.partial_fit(X).score(X))


def test_rows_with_gaps_do_not_depend_on_others(model, X):
    model.fit(X)
    for query in (model.transform, model.score_samples, model.impute):
        alone = np.concatenate([query(X[[i]]) for i in range(11)])
        np.testing.assert_allclose(query(X)[:11], alone, rtol=1e-6, atol=1e-6)


def test_complete_rows_have_the_same_bits_beside_rows_with_gaps(model, X):
    model.fit(X)
    complete = np.nan_to_num(X, nan=4.0)
    rows = ~np.isnan(X).any(1)
    assert 3 < rows.sum() < 50
    for query in (model.transform, model.reconstruct):
        np.testing.assert_array_equal(query(X)[rows], query(complete)[rows])
    # points around the peaks of narrow posteriors are decoded beside those of other rows
    scores = model.score_samples(X)[rows]
    np.testing.assert_allclose(scores, model.score_samples(complete)[rows], rtol=1e-8)
    np.testing.assert_array_equal(model.impute(complete), complete)


def test_frames_with_na_and_none_are_rows_with_nan(model, X):
    model.fit(X)
    expected = model.transform(X[:9])
    frame = pd.DataFrame(X[:9], columns=list("abcde"))
    kinds = [frame.astype("Float64"), frame.astype("Float64").astype(object)]
    kinds.append(frame.astype(object).where(frame.notna(), None))
    fitted = model.set_params(random_state=0).fit(pd.DataFrame(X, columns=list("abcde")))
    for kind in kinds:
        np.testing.assert_array_equal(fitted.transform(kind), expected)
        filled = fitted.impute(kind.set_axis(range(10, 19)))
        assert list(filled.columns) == list("abcde")
        assert list(filled.index) == list(range(10, 19))
    listed = [[None if np.isnan(v) else v for v in row] for row in X[:9]]
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_array_equal(fitted.transform(listed), expected)


def test_imputed_rows_are_frames_where_output_is(X):
    model = QLVMEmbedding(**QLVM).fit(X).set_output(transform="pandas")
    assert list(model.impute(X[:3]).columns) == [f"x{i}" for i in range(5)]
    filled, std = model.impute(X[:3], return_std=True)
    assert isinstance(filled, pd.DataFrame)
    assert isinstance(std, pd.DataFrame)


def test_infinity_is_refused_beside_gaps(model, X):
    broken = X.copy()
    broken[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        model.fit(broken)
    with pytest.raises(ValueError, match="infinity"):
        model.fit(X).transform(broken)


def test_column_of_gaps_is_named(model, X):
    empty = X.copy()
    empty[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"column 2 has none: all 101 are missing\. Leave the"):
        model.fit(empty)
    with pytest.raises(ValueError, match="column 'c' has none"):
        model.fit(pd.DataFrame(empty, columns=list("abcde")))
    assert np.isfinite(model.fit(X).transform(empty)).all()


class Complete(likelihoods.Gaussian):
    allows_missing = False


@pytest.mark.parametrize("likelihood", [Complete, lambda d: Complete(d)])
def test_likelihood_that_allows_no_gaps_refuses_them(likelihood, X):
    model = QLVMEmbedding(**QLVM, likelihood=likelihood)
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(X)
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(np.nan_to_num(X)).transform(X)
    assert not QLVMEmbedding(likelihood=Complete).__sklearn_tags__().input_tags.allow_nan
    assert QLVMEmbedding().__sklearn_tags__().input_tags.allow_nan


def test_data_out_of_the_support_are_refused_beside_gaps(X):
    with pytest.raises(ValueError, match="expects X in"):
        QLVMEmbedding(**QLVM, likelihood="bernoulli").fit(X)
    counts = np.abs(np.round(X))
    with pytest.raises(ValueError, match="expects whole numbers"):
        QLVMEmbedding(**QLVM, likelihood="poisson").fit(counts + 0.5)
    assert np.isfinite(QLVMEmbedding(**QLVM, likelihood="poisson").fit(counts).score(counts))


def test_start_finds_a_row_for_every_column():
    X = np.zeros((9001, 3))
    X[:, 1], X[:9000, 2] = np.nan, np.nan
    X[17, 1] = 1.0
    rows = _data.rows_to_start(X, np.arange(5))
    assert rows.tolist() == [0, 1, 2, 3, 4, 17, 9000]
    assert _data.rows_to_start(X[:, :1], np.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_gaps_are_found_beside_numbers_whose_sum_overflows():
    X = np.full((3, 2), 3e38, dtype=np.float32)
    X[0] *= -1
    assert not _data.has_gaps(X)
    X[2, 1] = np.nan
    assert _data.has_gaps(X)


def test_imputed_numbers_are_nearer_than_means():
    rng = np.random.default_rng(0)
    angle = rng.random(301) * 2 * np.pi
    X = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(3 * angle)])
    X += 0.05 * rng.normal(size=X.shape)
    missing = rng.random(X.shape) < 0.2
    gaps = np.where(missing, np.nan, X)
    model = QLVMEmbedding(1, n_points=55, n_points_eval=233, max_iter=100, random_state=0).fit(gaps)
    filled, std = model.impute(gaps, return_std=True)
    error, alone = (filled - X)[missing], (np.nanmean(gaps, 0) - X)[missing]
    assert np.mean(error**2) < 0.6 * np.mean(alone**2)
    assert 0.85 < np.mean(abs(error) < 2 * std[missing]) <= 1


def test_atlas_that_is_kept_has_no_normalizers(X):
    model = QLVMEmbedding(**QLVM).fit(X)
    model.transform(X)
    assert isinstance(model._atlas, atlas.Atlas)
    assert model._atlas.normalizers is None
