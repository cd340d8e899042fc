"""What estimators say of their posteriors: containers, agreement with `posterior`, and how draws,
regions and densities hang together."""

import copy

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_digits

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding

MODELS = {
    "qlvm-1": lambda: QLVMEmbedding(1, n_points=89, max_iter=2, random_state=0),
    "qlvm-2": lambda: QLVMEmbedding(n_points=89, n_points_eval=610, max_iter=30, random_state=0),
    "slanted": lambda: QLVMEmbedding(
        n_points=55,
        n_points_eval=377,
        max_iter=2,
        image_shape=(1, 8, 8),
        transformations={"shear": [-0.3, 0.0, 0.3]},
        random_state=0,
    ),
    "vae": lambda: VAEEmbedding(max_iter=2, random_state=0),
    "iwae-torus": lambda: IWAEEmbedding(1, latent="torus", max_iter=2, random_state=0),
}


@pytest.fixture(scope="module")
def X():
    return load_digits().data[:101]


@pytest.fixture(scope="module", params=MODELS)
def model(request, X):
    return MODELS[request.param]().fit(X)


def test_summary_is_a_dict_of_arrays_a_row_each(model, X):
    found = model.posterior_summary(X)
    k = model.n_components
    shapes = dict.fromkeys(("mean", "mode", "std"), (101, k)) | dict.fromkeys(
        ("entropy", "effective_points", "largest_weight"), (101,)
    )
    assert {name: values.shape for name, values in found.items()} == shapes
    P = model.posterior(X)
    np.testing.assert_allclose(found.largest_weight, P.max(1), rtol=1e-9)
    np.testing.assert_allclose(found.effective_points, 1 / (P**2).sum(1), rtol=1e-9)
    assert (found.std > 0).all()
    assert (found.entropy < 1e-9).all()


def test_summary_of_resolved_rows_is_read_off_the_posterior(model, X):
    found, P = model.posterior_summary(X), model.posterior(X)
    resolved = found.effective_points > 40
    points, lattice = P[resolved], model.lattice_
    if model.latent_period_ is None:
        mean = points @ lattice
        std = np.sqrt(points @ lattice**2 - mean**2)
        np.testing.assert_allclose(found.mean[resolved], mean, atol=1e-9)
    else:
        mean = points @ np.exp(2j * np.pi * lattice)
        std = np.sqrt(-2 * np.log(np.abs(mean))) / (2 * np.pi)
        steps = found.mean[resolved] - np.angle(mean) / (2 * np.pi)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    np.testing.assert_allclose(found.std[resolved], std, rtol=1e-6)


def test_summary_is_a_table_where_pandas_is_asked_for(model, X):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=[f"row {i}" for i in range(101)])
    frame.columns = range(64)
    plain = model.posterior_summary(X)
    found = copy.copy(model).set_output(transform="pandas").posterior_summary(frame)
    assert isinstance(found, pandas.DataFrame)
    assert list(found.index) == list(frame.index)
    k = model.n_components
    located = [f"{name}_{i}" for name in ("mean", "mode", "std") for i in range(k)]
    assert list(found.columns) == [*located, "entropy", "effective_points", "largest_weight"]
    np.testing.assert_array_equal(found[[f"std_{i}" for i in range(k)]], plain.std)
    np.testing.assert_array_equal(found["entropy"], plain.entropy)
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(model.posterior_summary(X), pandas.DataFrame)
    assert not isinstance(model.posterior_summary(X), pandas.DataFrame)


def test_top_of_the_posterior_is_its_largest_entries(model, X):
    P = model.posterior(X)
    for top in (1, 7, 10**6):
        found = model.posterior(X, top=top)
        assert found.shape == P.shape
        assert found.nnz == 101 * min(top, P.shape[1])
        least = np.sort(P, 1)[:, -min(top, P.shape[1])]
        np.testing.assert_array_equal(found.toarray(), np.where(least[:, None] <= P, P, 0))
        assert found.has_sorted_indices


def test_draws_scatter_as_the_summary_says(model, X):
    z, found = model.sample_posterior(X, 400, random_state=0), model.posterior_summary(X)
    assert z.shape == (101, 400, model.n_components)
    np.testing.assert_array_equal(z, model.sample_posterior(X, 400, random_state=0))
    assert not np.array_equal(z, model.sample_posterior(X, 400, random_state=1))
    if model.latent_period_ is None:
        std = z.std(1)
    else:
        assert ((z >= 0) & (z < 1)).all()
        std = np.sqrt(-2 * np.log(np.abs(np.exp(2j * np.pi * z).mean(1)))) / (2 * np.pi)
    assert np.median(std / found.std) == pytest.approx(1.0, abs=0.15)
    assert len(np.unique(z[:, :, 0])) > 0.999 * 101 * 400


def test_credible_regions_hold_their_level_and_no_point_too_many(model, X):
    P = model.posterior(X)
    region, area = model.credible_region(X, 0.8, return_area=True)
    assert (region.dtype, region.shape) == (bool, P.shape)
    np.testing.assert_array_equal(region, model.credible_region(X, 0.8))
    mass = (P * region).sum(1)
    assert (mass >= 0.8 - 1e-9).all()
    smallest = np.where(region, P, np.inf).min(1)
    assert (mass - smallest < 0.8).all()
    if model.latent_period_ is not None:
        np.testing.assert_allclose(area, region.mean(1))
    assert ((area > 0) & (area < 1)).all()


def test_aggregate_is_the_mean_posterior(model, X):
    found = model.aggregate_posterior(X)
    np.testing.assert_allclose(found, model.posterior(X).mean(0), atol=1e-12)
    assert model.aggregate_posterior_.shape == (len(model.lattice_),)
    assert model.aggregate_posterior_.sum() == pytest.approx(1.0)
    order = np.corrcoef(found, model.aggregate_posterior_)[0, 1]
    assert order > 0.95


def test_density_is_high_where_rows_lie(model, X):
    z = model.sample_posterior(X, 1, random_state=0)[:, 0]
    prior = np.random.default_rng(0)
    if model.latent_period_ is None:
        other = prior.standard_normal((2000, model.n_components))
    else:
        other = prior.random((2000, model.n_components))
    assert model.density(z).mean() > 1.05 * model.density(other).mean()
    assert not np.allclose(model.density(z, X[:5]), model.density(z))
    if model.latent_period_ is not None:
        assert model.density(other).mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    "ask",
    ["posterior", "posterior_summary", "sample_posterior", "credible_region"],
)
def test_models_without_a_lattice_say_so(ask, X):
    model = VAEEmbedding(4, max_iter=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match=f"{ask} expects up to 3 components, but the model has 4"):
        getattr(model, ask)(X)
    with pytest.raises(ValueError, match="density expects up to 3 components"):
        model.density(np.zeros((1, 4)))


def test_wrong_values_are_named(model, X):
    for level in (0, 1, -0.1, 1.5):
        with pytest.raises(ValueError, match=r"level expects a number in \(0, 1\)"):
            model.credible_region(X, level)
    with pytest.raises(ValueError, match="top expects"):
        model.posterior(X, top=0)
    with pytest.raises(ValueError, match="n_samples expects"):
        model.sample_posterior(X, 0)
    with pytest.raises(ValueError, match="density expects"):
        model.density(np.zeros((3, 7)))


def test_narrow_posteriors_are_as_narrow_as_on_a_finer_lattice(X):
    """On one of 55 points, where the lattice by itself knows only its own points."""
    settings = {"n_points": 89, "max_iter": 30, "random_state": 0}
    coarse = QLVMEmbedding(n_points_eval=144, **settings).fit(X)
    fine = QLVMEmbedding(n_points_eval=17_711, **settings).fit(X)
    few, many = (model.posterior_summary(X) for model in (coarse, fine))
    assert np.median(few.effective_points) < 2
    assert np.median(few.std / many.std) == pytest.approx(1.0, abs=0.1)
    assert np.median(np.abs(few.entropy - many.entropy)) < 0.1
    gap = coarse.score_samples(X) - fine.score_samples(X)
    assert np.median(np.abs(gap)) < 0.05
