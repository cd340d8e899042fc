"""QLVMEmbedding against closed forms, a NumPy oracle, and what its users do with it."""

import copy
import pickle
import random
import warnings
from math import log, pi

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive, logsumexp
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from skqlvm import QLVMEmbedding, _qlvm
from skqlvm.engine import (
    harmonics,
    lattices,
    likelihoods,
    networks,
    posteriors,
    quadrature,
    training,
)

pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")

SMALL = {
    "n_points": 89,
    "n_points_eval": 233,
    "hidden_layer_sizes": (13,),
    "harmonic_order": 3,
    "max_iter": 3,
    "random_state": 0,
}


def small(**parameters):
    return QLVMEmbedding(**{**SMALL, **parameters})


@pytest.fixture(scope="module")
def X():
    """Two rings in five dimensions, 101 rows."""
    generator = np.random.default_rng(7)
    angle = 2 * pi * generator.random((101, 2))
    rings = np.hstack([np.cos(angle), np.sin(angle)]) @ generator.normal(size=(4, 5))
    return rings + 0.1 * generator.normal(size=(101, 5))


@pytest.fixture(scope="module")
def model(X, device):
    return small(device=device).fit(X)


class Plain(likelihoods.Gaussian):
    """A Gaussian in the units of the decoder's output."""

    def start(self, x):
        pass


class Rings(nn.Module):
    """(r_1 cos, r_2 cos, ..., r_1 sin, ...) of the coordinates, turned by `turn`; its one parameter
    does nothing."""

    def __init__(self, radii, turn=0.0):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))
        self.register_buffer("radii", torch.tensor(radii))
        self.turn = turn

    def forward(self, z):
        angle = 2 * pi * (z + self.turn)
        return torch.cat([self.radii * angle.cos(), self.radii * angle.sin()], -1) + 0 * self.idle


def known_rings(radii, noise_variance, turn=0.0, **parameters):
    """A QLVM that is the closed-form model of Q2 and Q3 whatever it is fitted to."""
    return QLVMEmbedding(
        len(radii),
        decoder=lambda n_components, n_outputs: Rings(radii, turn),
        likelihood=lambda n_features: Plain(n_features, noise_variance),
        max_iter=1,
        **parameters,
    ).fit(np.zeros((3, 2 * len(radii))))


def test_score_samples_equals_bessel_form_on_the_circle():
    x, variance = np.array([[0.6, 0.3], [-0.2, 1.1]]), 0.1
    kappa = np.linalg.norm(x, axis=1) / variance
    expected = (
        -log(2 * pi * variance)
        - ((x**2).sum(1) + 1) / (2 * variance)
        + np.log(ive(0, kappa))
        + kappa
    )
    model = known_rings([1.0], variance, n_points_eval=610)
    np.testing.assert_allclose(model.score_samples(x), expected, rtol=0, atol=1e-6)
    assert model.score_samples(x)[0] == pytest.approx(-1.9273756194246134, abs=1e-6)


def test_transform_of_circle_model_gives_the_angle_in_every_readout():
    x = np.array([[0.6, 0.3]])
    model = known_rings([1.0], 0.1, n_points_eval=2584)
    assert model.set_params(embedding="mean").transform(x).item() == pytest.approx(
        0.0737918088, abs=1e-6
    )
    assert model.set_params(embedding="mode").transform(x).item() == pytest.approx(
        0.0737918088, abs=1 / 2584
    )
    assert model.set_params(embedding="local").transform(x).item() == pytest.approx(
        0.0737918088, abs=1 / 2584
    )
    resultant = np.hypot(*model.set_params(output="moments", harmonic_order=1).transform(x)[0])
    assert resultant == pytest.approx(0.92212155488, abs=1e-6)


def test_score_samples_equals_closed_form_on_the_product_torus():
    model = known_rings([1.0, 0.5], 0.1)
    # the spec's x pairs (x1, x2) with the first circle and (x3, x4) with the second; our columns
    # are cosines, then sines
    x = np.array([[0.6, -0.2, 0.3, 0.4]])
    nats, std = model.score_samples(x, return_std=True)
    assert nats.item() == pytest.approx(-2.7196615898780214, abs=1e-6)
    assert std.item() < 1e-6


@pytest.mark.parametrize(
    ("n_components", "n_points_eval", "scale", "columns"),
    [(1, 610, 0.003, None), (1, 610, 0.003, [3]), (2, 4181, 0.009, None), (3, 8191, 0.027, None)],
)
def test_local_embedding_is_of_log_likelihoods_averaged_around_each_point(
    n_components, n_points_eval, scale, columns
):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 4))
    X[:, 3] = generator.integers(0, 2, 60)
    sizes = {"n_points": 89, "n_points_eval": n_points_eval, "max_iter": 20}
    model = QLVMEmbedding(n_components, **sizes, random_state=0, condition_columns=columns)
    X_gaps = np.where(generator.random(X.shape) < 0.2, np.nan, X)
    X_gaps[:, 3] = X[:, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    points = torch.from_numpy(model.lattice_)
    for rows in (X, X_gaps):
        log_w = torch.from_numpy(np.log(model.posterior(rows)))
        averaged = lattices.averaged(log_w.T, points, scale).T
        expected = posteriors.local_mean(averaged, points).numpy()
        for found in (model, pickle.loads(pickle.dumps(model))):
            difference = found.transform(rows) - expected
            np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-4)
    plain = posteriors.local_mean(log_w, points).numpy()
    assert np.abs(plain - expected).max() > 1e-4


def test_averaged_lattice_that_is_not_kept_is_made_for_each_query(model, X, monkeypatch):
    monkeypatch.setattr(_qlvm, "_AVERAGED_BYTES", model._atlas.n_bytes - 1)
    lean = clone(model).fit(X)
    assert lean._averaged is None
    np.testing.assert_array_equal(lean.transform(X), model.transform(X))
    assert model._averaged is not None


def test_turning_the_decoder_turns_the_embedding_back():
    x = np.array([[0.6, -0.2, 0.3, 0.4], [-0.1, 0.5, 0.8, 0.1]])
    for embedding in ("mean", "local"):
        straight = known_rings([1.0, 0.5], 0.1, embedding=embedding).transform(x)
        turned = known_rings([1.0, 0.5], 0.1, turn=0.31, embedding=embedding).transform(x)
        difference = straight - turned - 0.31
        np.testing.assert_allclose(difference - np.round(difference), 0, atol=0.02)


def test_constant_decoder_scores_its_gaussian_for_every_lattice(X):
    for n_components, n_points in [(1, 7), (2, 55), (2, 100), (3, 31)]:
        model = QLVMEmbedding(
            n_components,
            n_points_eval=n_points,
            n_points=5,
            max_iter=1,
            decoder=lambda k, d: Constant(d),
            likelihood=lambda d: Plain(d, 1.0),
        ).fit(X)
        expected = -0.5 * (X**2).sum(1) - 2.5 * log(2 * pi)
        np.testing.assert_allclose(model.score_samples(X), expected, atol=1e-6)
        np.testing.assert_allclose(model.posterior(X), 1 / n_points, atol=1e-9)


class Constant(nn.Module):
    """Zeros."""

    def __init__(self, n_outputs):
        super().__init__()
        self.idle, self.n_outputs = nn.Parameter(torch.zeros(())), n_outputs

    def forward(self, z):
        return z.new_zeros((len(z), self.n_outputs)) + 0 * self.idle


def test_fit_recovers_a_noisy_circle():
    generator = np.random.default_rng(3)
    angle = generator.random(4001)
    X = np.column_stack([np.cos(2 * pi * angle), np.sin(2 * pi * angle)]) + 0.1 * generator.normal(
        size=(4001, 2)
    )
    model = QLVMEmbedding(1, n_points=89, harmonic_order=2, max_iter=60, random_state=0).fit(
        X[:3000]
    )
    kappa = np.linalg.norm(X, axis=1) / 0.01
    exact = -log(2 * pi * 0.01) - ((X**2).sum(1) + 1) / 0.02 + np.log(ive(0, kappa)) + kappa
    assert model.score(X[3000:]) == pytest.approx(exact[3000:].mean(), abs=0.05)
    found = model.transform(X[3000:])[:, 0]
    agreement = max(abs(np.exp(2j * pi * (found - sign * angle[3000:])).mean()) for sign in (1, -1))
    assert agreement > 0.99
    assert model.noise_variance_ == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_queries_equal_a_plain_numpy_model(likelihood, X):
    X = MinMaxScaler().fit_transform(X)
    model = small(likelihood=likelihood, embedding="mean").fit(X)
    z = np.arange(233)[:, None] * [1, 144] % 233 / 233
    f = model.decoder_(torch.tensor(z, dtype=torch.float32)).detach().numpy().astype(float)
    if likelihood == "bernoulli":
        f = 1 / (1 + np.exp(-f - model.likelihood_.loc.numpy()))
        log_px_z = X @ np.log(f).T + (1 - X) @ np.log(1 - f).T
    else:
        f = X[_trained_rows(X)].mean(0) + X[_trained_rows(X)].var(0).mean() ** 0.5 * f
        squares = ((X[:, None] - f) ** 2).sum(2)
        log_px_z = -0.5 * squares / model.noise_variance_ - 2.5 * log(
            2 * pi * model.noise_variance_
        )
    nats = logsumexp(log_px_z, axis=1) - log(233)
    weights = np.exp(log_px_z - log(233) - nats[:, None])
    direction = weights @ np.exp(2j * pi * z)
    np.testing.assert_allclose(model.score_samples(X), nats, atol=1e-4)
    np.testing.assert_allclose(model.posterior(X), weights, atol=1e-5)
    np.testing.assert_allclose(model.transform(X), np.angle(direction) / (2 * pi) % 1, atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(X), weights @ f, atol=1e-5)


def _trained_rows(X):
    """The rows that a fit with random_state=0 trains on."""
    seed = np.random.RandomState(0).randint(2**31 - 1)
    return torch.randperm(len(X), generator=torch.Generator().manual_seed(int(seed)))[
        round(0.1 * len(X)) :
    ].numpy()


@given(
    n=st.sampled_from([11, 23]),
    d=st.sampled_from([1, 3, 7]),
    k=st.sampled_from([1, 2, 3]),
    m=st.integers(1, 60),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_shapes_and_dtypes_hold_for_any_sizes(n, d, k, m, dtype):
    X = np.random.default_rng(n).normal(size=(n, d)).astype(dtype)
    model = small(n_components=k, n_points=m, n_points_eval=m + 1, max_iter=1).fit(X)
    Z, nats, weights = model.transform(X), model.score_samples(X), model.posterior(X)
    assert (Z.shape, nats.shape, weights.shape) == ((n, k), (n,), (n, m + 1))
    assert Z.dtype == nats.dtype == weights.dtype == dtype
    assert Z.min() >= 0
    assert Z.max() < 1
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (
        model.inverse_transform(Z).shape
        == model.reconstruct(X).shape
        == model.sample(n).shape
        == (n, d)
    )
    assert model.sample(2).dtype == model.reconstruct(X).dtype == dtype
    assert model.score(X) == pytest.approx(nats.mean(), abs=1e-4)
    assert len(model.lattice_) == m + 1


def test_same_seed_gives_same_model_and_another_seed_another(X):
    first, again, other = (small(random_state=seed).fit(X).transform(X) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_fit_leaves_global_random_states_alone(X):
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    small(
        random_state=None,
        decoder=lambda k, d: nn.Sequential(networks.MLPDecoder(k, d, (5,), 1), nn.Dropout(0.1)),
    ).fit(X).sample(2)
    after = np.random.get_state()[1], random.getstate(), torch.get_rng_state()  # noqa: NPY002
    # random_state=None draws its seed from NumPy's global generator, as scikit-learn does
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])
    np.random.seed(3)  # noqa: NPY002
    small().fit(X).sample(2, random_state=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002


def test_grid_search_compares_lattices_on_one_evaluation_lattice(X):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small()), {"qlvmembedding__n_points": [3, 55]}, cv=2
    ).fit(X)
    sizes = {len(small(n_points=m).fit(X).lattice_) for m in (3, 55)}
    assert sizes == {233}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score_samples(X).shape == (101,)
    assert search.best_estimator_.inverse_transform(search.transform(X)).shape == X.shape


def test_cartesian_output_feeds_euclidean_steps(X):
    pipeline = make_pipeline(
        StandardScaler(), small(output="cartesian"), KMeans(2, n_init=1, random_state=0)
    )
    assert set(pipeline.fit_predict(X)) == {0, 1}


def test_pandas_in_and_out(X):
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = small().set_output(transform="pandas").fit(frame)
    Z = model.transform(frame)
    assert list(Z.columns) == ["qlvmembedding0", "qlvmembedding1"]
    assert list(model.feature_names_in_) == list("abcde")
    names = model.set_params(output="cartesian").get_feature_names_out()
    assert list(names) == ["cos(z0)", "cos(z1)", "sin(z0)", "sin(z1)"]
    moments = list(model.set_params(output="moments", harmonic_order=2).get_feature_names_out())
    angles = ["z0", "z1", "2z0", "z0+z1", "z0-z1", "2z1"]
    assert moments == [f"{wave}({angle})" for wave in ("cos", "sin") for angle in angles]


def test_outputs_are_functions_of_the_posterior(model, X):
    turns = model.transform(X)
    cartesian = clone(model).set_params(output="cartesian").fit(X).transform(X)
    np.testing.assert_allclose(
        cartesian, np.hstack([np.cos(2 * pi * turns), np.sin(2 * pi * turns)]), atol=1e-9
    )
    moments = clone(model).set_params(output="moments").fit(X)
    basis = harmonics.TorusBasis(2, 3)(torch.tensor(model.lattice_)).numpy()
    np.testing.assert_allclose(moments.transform(X), model.posterior(X) @ basis, atol=1e-9)
    first = moments.transform(X)[:, [0, 1, 12, 13]]
    mean = clone(model).set_params(embedding="mean").fit(X)
    np.testing.assert_allclose(
        moments.inverse_transform(moments.transform(X)),
        mean.inverse_transform(mean.transform(X)),
        atol=1e-5,
    )
    assert np.hypot(first[:, :2], first[:, 2:]).max() <= 1 + 1e-12


def test_inverse_transform_takes_any_real_angles(model, X):
    Z = model.transform(X)
    np.testing.assert_allclose(
        model.inverse_transform(Z + np.array([-3, 2])), model.inverse_transform(Z), atol=1e-4
    )
    cartesian = clone(model).set_params(output="cartesian").fit(X)
    np.testing.assert_allclose(
        cartesian.inverse_transform(cartesian.transform(X)), model.inverse_transform(Z), atol=1e-5
    )


def test_sample_follows_the_model(model):
    draws = model.sample(20_000, random_state=0)
    means = model.inverse_transform(np.random.default_rng(0).random((20_000, 2)))
    np.testing.assert_allclose(draws.mean(0), means.mean(0), atol=0.05)
    np.testing.assert_allclose(
        np.cov(draws.T), np.cov(means.T) + model.noise_variance_ * np.eye(5), atol=0.15
    )
    np.testing.assert_array_equal(model.sample(3, random_state=1), model.sample(3, random_state=1))


def test_standard_error_tells_how_far_another_shift_would_be(X):
    rough, fine = (small(n_points_eval=m, max_iter=40).fit(X) for m in (34, 2584))
    (nats, std), exact = rough.score_samples(X, return_std=True), fine.score_samples(X)
    assert fine.score_samples(X, return_std=True)[1].mean() < std.mean() / 3
    assert 0.2 < np.sqrt(np.mean((nats - exact) ** 2)) / np.sqrt(np.mean(std**2)) < 5
    spread = np.std([_nats_of_another_shift(rough, X, seed) for seed in range(1, 60)], axis=0)
    assert 0.5 < np.sqrt(np.mean(std**2)) / np.sqrt(np.mean(spread**2)) < 1.5
    np.testing.assert_array_equal(nats, rough.score_samples(X))


def _nats_of_another_shift(model, X, seed):
    """By score_samples, over a lattice that was moved."""
    shift = lattices.random_shift(2, torch.Generator().manual_seed(seed))
    moved, points = copy.copy(model), lattices.shifted(torch.from_numpy(model.lattice_), shift)
    with torch.no_grad():
        [moved._atlas] = quadrature.charts(model._model, points)
    return moved.score_samples(X)


def test_results_do_not_depend_on_chunks(model, X, monkeypatch):
    whole = model.transform(X), model.score_samples(X), model.reconstruct(X)
    monkeypatch.setattr("skqlvm._trained._CHUNK_BYTES", 20_000)
    for chunked, expected in zip(
        (model.transform(X), model.score_samples(X), model.reconstruct(X)), whole, strict=True
    ):
        np.testing.assert_allclose(chunked, expected, atol=1e-9)


def test_held_out_loss_does_not_depend_on_its_parts(X, monkeypatch):
    expected = small(validation_fraction=0.3).fit(X).history_["validation_loss"]
    monkeypatch.setattr(QLVMEmbedding, "_validation_rows", 7)
    np.testing.assert_allclose(
        small(validation_fraction=0.3).fit(X).history_["validation_loss"], expected, rtol=1e-5
    )


def test_training_in_chunks_of_the_lattice_gives_the_same_model(X, monkeypatch):
    whole = small(matmul_precision="highest").fit(X)
    monkeypatch.setattr("skqlvm._qlvm._TRAINING_BYTES", 5_000)
    chunked = small(matmul_precision="highest").fit(X)
    assert chunked._model.n_decoded < 89
    assert whole._model.n_decoded == 4096, "a small lattice is no reason to decode few points"
    np.testing.assert_allclose(chunked.score_samples(X), whole.score_samples(X), atol=1e-3)


@pytest.mark.parametrize("order", ["before", "after"])
def test_pickle_and_joblib_round_trip(order, X, tmp_path):
    """Before a fit and after it: copies say the same, and go on in the same way."""
    model = small().partial_fit(X) if order == "after" else small()
    fitted = model if order == "after" else clone(model).partial_fit(X)
    now, later = _said(fitted, X), _said(copy.deepcopy(fitted).partial_fit(X), X)
    joblib.dump(model, tmp_path / "model.joblib")
    for other in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        if order == "before":
            other.partial_fit(X)
        np.testing.assert_array_equal(_said(other, X), now)
        np.testing.assert_array_equal(_said(other.partial_fit(X), X), later)
    assert np.abs(later - now).max() > 0


def _said(model, X):
    """Coordinates, nats and reconstructions of rows, side by side."""
    return np.column_stack([model.transform(X), model.score_samples(X), model.reconstruct(X)])


def test_read_only_and_memory_mapped_arrays_train_like_arrays(X, tmp_path):
    expected = small().fit(X).transform(X)
    frozen = X.copy()
    frozen.flags.writeable = False
    np.save(tmp_path / "X.npy", X)
    for source in (frozen, np.load(tmp_path / "X.npy", mmap_mode="r")):
        np.testing.assert_array_equal(small().fit(source).transform(source), expected)


def test_warm_start_goes_on_from_the_fitted_weights(X):
    model = small(warm_start=True, max_iter=30).fit(X)
    first = model.history_["loss"][0]
    fitted = model.score(X)
    model.set_params(max_iter=1, learning_rate=1e-6).fit(X)
    assert model.history_["loss"][0] < first
    assert model.score(X) == pytest.approx(fitted, abs=0.01)


def test_partial_fit_learns_and_continues_its_history(X):
    model = small(batch_size=17)
    scores = [model.partial_fit(X).score(X) for _ in range(30)]
    assert scores[-1] > scores[0] + 0.5
    assert model.n_iter_ == 30
    assert model.history_["step"][-1] == 30 * 6
    assert model.partial_fit(X[:1]).n_features_in_ == 5


def test_max_iter_counts_passes_and_validation_can_be_off(X):
    model = small(max_iter=7, validation_fraction=0, batch_size=50).fit(X)
    assert model.n_iter_ == 7
    assert model.history_["step"][-1] == 21
    assert np.isnan(model.history_["validation_loss"]).all()


def test_some_row_is_left_to_train_on():
    model = small(validation_fraction=0.99).fit(np.arange(6.0).reshape(3, 2))
    assert model.transform([[1.0, 2.0]]).shape == (1, 2)


def test_auto_budget_stops_growing_with_the_rows(monkeypatch):
    monkeypatch.setattr(QLVMEmbedding, "_auto_steps", (7, 20))
    monkeypatch.setattr(QLVMEmbedding, "_auto_passes", 5)
    X = np.random.default_rng(0).normal(size=(5000, 2))
    steps = [
        small(max_iter="auto", batch_size=10, n_iter_no_change=None).fit(X[:n]).history_["step"][-1]
        for n in (3, 20, 500, 5000)
    ]
    assert steps == [7, 10, 20, 20]


def test_early_stopping_keeps_the_best_validated_weights():
    X = np.random.default_rng(0).normal(size=(200, 7))
    settings = {"max_iter": 400, "learning_rate": 0.02, "batch_size": 150}
    model = small(n_iter_no_change=5, validation_fraction=0.5, **settings).fit(X)
    losses = model.history_["validation_loss"]
    assert len(losses) < 60
    assert len(losses) - 1 - int(np.argmin(losses)) == 5
    assert model.n_iter_ < 400
    few = small(n_iter_no_change=5, validation_fraction=0.49, **settings).fit(X)
    assert few.n_iter_ == 400, "98 held-out rows are too few to stop by"


def test_few_rows_are_not_held_out(X):
    assert np.isnan(small(validation_fraction=0.04).fit(X).history_["validation_loss"]).all()
    assert np.isfinite(small(validation_fraction=0.05).fit(X).history_["validation_loss"]).all()


def test_short_training_warns_and_a_budget_does_not():
    X = np.random.default_rng(0).normal(size=(60, 5)) * [3, 2, 1, 0.1, 0.1]
    message = (
        r"Training ended after 7 steps before its loss came to rest. Raise max_iter \(it is 7\)"
    )
    with pytest.warns(ConvergenceWarning, match=message) as record:
        small(max_iter=7).fit(X)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        small(max_iter="auto").fit(X)
        small(max_iter=900).fit(X)


def test_no_table_is_rounded_after_a_fit():
    """Tables of a training may be, its validations' too."""
    X = (np.random.default_rng(0).random((101, 7)) < 0.3).astype(np.float32)
    seen, validate = [], training._Run.validated

    def validated(run, validation):
        seen.append(run.module.likelihood.rounds)
        return validate(run, validation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Run, "validated", validated)
        model = small(likelihood="bernoulli", max_iter=3).fit(X)
    assert seen
    assert all(seen)
    assert not model.likelihood_.rounds
    assert not model.partial_fit(X).likelihood_.rounds


def test_noise_does_not_collapse_with_nothing_held_out():
    """By the prior of the learned noise, which weighs 20 rows then, and with 10 held-out rows a
    sixth of one."""
    X = np.random.default_rng(0).normal(size=(101, 7))
    alone = small(max_iter=600, validation_fraction=0, hidden_layer_sizes=(64,)).fit(X)
    assert alone.noise_variance_ > 20 / 121 * X.var(0).mean()
    fresh = np.random.default_rng(1).normal(size=(1009, 7))
    assert alone.score(fresh) > -3 * 7
    collapsed = small(max_iter=600, validation_fraction=0, hidden_layer_sizes=(64,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skqlvm._fitting._PRIOR_ROWS", 0)
        assert collapsed.fit(X).score(fresh) < alone.score(fresh) - 2


def test_columns_of_unequal_scale_are_all_reconstructed(X):
    """Ten thousand times larger, the last one would be the only one that counts."""
    unequal = X * np.array([1, 1, 1, 1, 1e4])
    model = small(max_iter=300).fit(unequal)
    residual = (unequal - model.reconstruct(unequal)).var(0) / unequal.var(0)
    assert (residual < 0.7).all()
    shared = small(max_iter=300).fit(X)
    assert model.score(unequal) == pytest.approx(shared.score(X) - log(1e4), abs=2)
    assert model.noise_variance_.shape == (5,)


def test_automatic_order_grows_with_the_rows_and_serves_moments():
    X = np.random.default_rng(0).normal(size=(1300, 3))
    few, many = (
        small(harmonic_order="auto", max_iter=1, output="moments").fit(X[:n]) for n in (26, 1300)
    )
    assert (few.harmonic_order_, many.harmonic_order_) == (1, 6)
    assert few.transform(X).shape == (1300, 4)
    assert many.transform(X).shape == (1300, 84)


class Interrupting(nn.Module):
    """A decoder during whose eighth use with gradients the user presses Ctrl-C; or that returns NaN
    from then on. Two uses measure memory, and one is a step."""

    def __init__(self, k, d, value=None):
        super().__init__()
        self.inner, self.uses, self.value = networks.MLPDecoder(k, d, (5,), 1), 0, value

    def forward(self, z):
        counts = self.training and torch.is_grad_enabled()
        self.uses += counts
        if counts and self.uses == 8 and self.value is None:
            raise KeyboardInterrupt
        return self.inner(z) * (self.value if self.uses >= 8 and self.value is not None else 1.0)


def test_interrupt_keeps_the_best_model_so_far_and_is_raised_again(X):
    model = small(max_iter=50, decoder=Interrupting)
    message = r"interrupted at step 5 of 50; the best weights so far are kept"
    with pytest.raises(KeyboardInterrupt, match=message):
        model.fit(X)
    assert model.n_iter_ == 5
    assert not model.likelihood_.rounds
    assert model.transform(X).shape == (101, 2)
    assert np.isfinite(model.score_samples(X)).all()


def test_interrupt_before_a_validation_says_that_weights_are_not_the_best(X):
    model = small(max_iter=600, decoder=Interrupting)
    with pytest.raises(KeyboardInterrupt, match="at step 5 of 600; the weights so far are kept"):
        model.fit(X)
    assert model.transform(X).shape == (101, 2)


@pytest.mark.parametrize("warm_start", [False, True])
def test_interrupted_refit_leaves_the_earlier_model(warm_start, X, monkeypatch):
    """A fit anew at any step, and one that goes on before it has validated."""
    model = small(decoder=InterruptedLater, warm_start=warm_start, max_iter=300).fit(X)
    before = model.score(X)
    at = model.decoder_.uses + 7 if warm_start else 100
    monkeypatch.setattr(InterruptedLater, "interrupt_at", at)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert model.score(X) == before
    assert model.n_iter_ == 300


def test_interrupted_warm_start_keeps_what_it_validated(X, monkeypatch):
    model = small(decoder=InterruptedLater, warm_start=True).fit(X)
    before = model.score(X)
    monkeypatch.setattr(InterruptedLater, "interrupt_at", model.decoder_.uses + 50)
    with pytest.raises(KeyboardInterrupt, match="best weights so far are kept"):
        model.set_params(max_iter=60).fit(X)
    assert model.score(X) != before


def test_diverging_fit_says_so_and_leaves_the_earlier_model(X):
    model = small(max_iter=50).fit(X)
    before = model.score(X)
    model.set_params(decoder=lambda k, d: Interrupting(k, d, float("nan")))
    with pytest.raises(
        FloatingPointError, match=r"Training diverged: .*nan.* Lower learning_rate \(it is auto\)"
    ):
        model.fit(X)
    assert model.score(X) == before
    unfitted = clone(model)
    with pytest.raises(FloatingPointError):
        unfitted.fit(X)
    assert not [name for name in vars(unfitted) if name.endswith("_")]


def test_coarse_evaluation_lattice_warns(X):
    with pytest.warns(UserWarning, match="Raise n_points_eval"):
        small(n_points_eval=13, noise_variance=1e-3, max_iter=20).fit(X)


def test_progress_is_silent_unless_verbose(X, capfd):
    small().fit(X)
    assert capfd.readouterr() == ("", "")
    small(verbose=1).fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert "QLVMEmbedding" in err
    assert "held out" in err


def test_conv_decoder_and_callables_are_used():
    X = np.random.default_rng(0).random((23, 30))
    model = small(decoder="conv", image_shape=(1, 5, 6), likelihood="bernoulli").fit(X)
    assert isinstance(model.decoder_, networks.ConvDecoder)
    assert model.sample(2, random_state=0).max() <= 1
    custom = small(decoder=lambda k, d: nn.Linear(k, d), likelihood=likelihoods.Bernoulli).fit(X)
    assert isinstance(custom.decoder_, nn.Linear)
    assert isinstance(custom.likelihood_, likelihoods.Bernoulli)


def test_noise_variance_is_reported_in_squared_units(X):
    assert small(noise_variance=0.25).fit(X).noise_variance_ == pytest.approx(0.25)
    assert small(noise_variance="diagonal").fit(X).noise_variance_.shape == (5,)
    one, thousand = small().fit(X), small().fit(1000 * X)
    assert thousand.noise_variance_ == pytest.approx(1e6 * one.noise_variance_, rel=1e-3)
    np.testing.assert_allclose(
        thousand.score_samples(1000 * X), one.score_samples(X) - 5 * log(1000), atol=1e-3
    )


def test_constant_columns_and_offsets_do_no_harm(X):
    shifted = np.hstack([X + 1e6, np.full((101, 2), 3.0)])
    model = small().fit(shifted)
    assert np.isfinite(model.score_samples(shifted)).all()
    constant = small().fit(np.ones((7, 3)))
    assert np.isfinite(constant.transform(np.ones((2, 3)))).all()


def test_evaluation_lattice_is_the_named_one(model):
    np.testing.assert_array_equal(model.lattice_, lattices.lattice(2, 233).numpy())


def test_any_strides_and_dtypes_are_read(model, X):
    expected = model.transform(X)
    for view in (
        np.asfortranarray(X),
        np.repeat(X, 2, axis=1)[:, ::2],
        X[::-1][::-1],
        [list(row) for row in X],
        X.astype(object),
    ):
        np.testing.assert_allclose(model.transform(view), expected, atol=1e-12)
    np.testing.assert_allclose(model.transform(X[::-1]), expected[::-1], atol=1e-12)
    np.testing.assert_allclose(
        model.inverse_transform(expected[::-1]), model.inverse_transform(expected)[::-1], atol=1e-6
    )


def test_large_angles_and_far_rows_stay_meaningful(model, X):
    Z = model.transform(X)
    np.testing.assert_allclose(
        model.inverse_transform(Z + 2.0**20), model.inverse_transform(Z), atol=1e-4
    )
    assert np.isfinite(model.transform((X * 1e25).astype(np.float32))).all()


def test_noise_variance_of_an_earlier_likelihood_is_forgotten(X):
    model = small().fit(X)
    model.set_params(likelihood="bernoulli").fit(MinMaxScaler().fit_transform(X))
    assert not hasattr(model, "noise_variance_")


class InterruptedLater(nn.Module):
    """A decoder that the user interrupts at a chosen use."""

    interrupt_at = 0

    def __init__(self, k, d):
        super().__init__()
        self.inner, self.uses = networks.MLPDecoder(k, d, (5,), 1), 0

    def forward(self, z):
        self.uses += self.training
        if self.training and self.uses == InterruptedLater.interrupt_at:
            raise KeyboardInterrupt
        return self.inner(z)


def test_partial_fit_goes_on_with_other_rows_after_an_interrupt(X, monkeypatch):
    model = small(decoder=InterruptedLater, batch_size=8).partial_fit(X[:40])
    monkeypatch.setattr(InterruptedLater, "interrupt_at", model.decoder_.uses + 5)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        model.partial_fit(X[:40])
    assert model.partial_fit(X[:10]).n_iter_ == 3


def test_interrupt_before_the_first_step_leaves_nothing(X, monkeypatch):
    monkeypatch.setattr(InterruptedLater, "interrupt_at", 2)
    model = small(decoder=InterruptedLater)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert not hasattr(model, "n_iter_")


def test_divergence_in_the_last_step_is_noticed(X):
    with pytest.raises(FloatingPointError, match="Training diverged: a weight is not finite"):
        small(learning_rate=1e38, max_iter=1, validation_fraction=0).fit(X)


class ThroughNormal(nn.Module):
    """A linear map of the normal quantiles of the coordinates: a user's own basis."""

    def __init__(self, k, d):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))
        self.register_buffer("weight", torch.tensor([[1, 0.3], [0.2, 0.8], [-0.5, 0.4]]))
        self.register_buffer("bias", torch.tensor([0.1, -0.2, 0.3]))

    def forward(self, z):
        return (
            torch.special.ndtri(z.clamp(1e-4, 1 - 1e-4)) @ self.weight.T + self.bias + 0 * self.idle
        )


def test_normal_prior_by_a_decoder_of_ones_own_equals_the_linear_gaussian():
    model = QLVMEmbedding(
        decoder=ThroughNormal, likelihood=lambda d: Plain(d, 0.2), max_iter=1
    ).fit(np.zeros((3, 3)))
    nats, std = model.score_samples([[0.5, 0.1, 0.2], [2.0, 1.0, -1.0]], return_std=True)
    np.testing.assert_allclose(nats, [-2.25920, -5.30775], atol=1e-3)
    assert std.max() < 1e-3
