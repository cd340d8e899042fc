"""VAEEmbedding and IWAEEmbedding against closed forms, principal components, QLVMEmbedding, and
what their users do with them."""

import copy
import pickle
import random
from functools import partial
from math import log, pi

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import ive
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm.engine import (
    harmonics,
    lattices,
    likelihoods,
    models,
    networks,
    objectives,
    proposals,
    quadrature,
)

SMALL = {"hidden_layer_sizes": (13,), "harmonic_order": 2, "max_iter": 3, "random_state": 0}
CLASSES = [VAEEmbedding, IWAEEmbedding]
both_classes = pytest.mark.parametrize("kind", CLASSES)


def small(kind=VAEEmbedding, **parameters):
    draws = {"n_importance_samples": 3} if kind is IWAEEmbedding else {}
    return kind(**{**SMALL, **draws, **parameters})


def score_over(model, n_points):
    """Let a fitted model score over so many points, which it decodes at every call."""
    points = quadrature.nested_points(model.n_components, n_points)
    model._cube, model._atlas, model.n_points_eval_ = points, None, n_points


@pytest.fixture(scope="module")
def X():
    """Two rings in five dimensions, 101 rows."""
    generator = np.random.default_rng(7)
    angle = 2 * pi * generator.random((101, 2))
    rings = np.hstack([np.cos(angle), np.sin(angle)]) @ generator.normal(size=(4, 5))
    return rings + 0.1 * generator.normal(size=(101, 5))


# closed forms: a linear decoder of unit noise scale, and encoders that know the posterior, or miss
# it


class Plain(likelihoods.Gaussian):
    """A Gaussian in the units of the decoder's output."""

    def start(self, x):
        pass


class Idle(nn.Module):
    """A module whose one parameter does nothing, in float64."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z):
        return self.outputs(z) + (0 * self.idle).to(z)


class Linear(Idle):
    """W z + b."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("bias", torch.tensor(bias))

    def outputs(self, z):
        return z @ self.weight.to(z).T + self.bias.to(z)


class Posterior(Idle):
    """What says N(gain (x - b) + shift, covariance) to a proposal of full covariance."""

    def __init__(self, gain, bias, shift, covariance):
        super().__init__()
        scale_tril = np.linalg.cholesky(covariance)
        below = scale_tril[np.tril_indices(len(gain), -1)]
        shape = np.concatenate(
            [2 * np.log(np.diag(scale_tril)) - proposals._FIRST_LOG_VARIANCE, below]
        )
        for name, value in {"gain": gain, "bias": bias, "start": shift, "spread": shape}.items():
            self.register_buffer(name, torch.tensor(value))

    def outputs(self, x):
        loc = (x - self.bias.to(x)) @ self.gain.to(x).T + self.start.to(x)
        return torch.cat([loc, self.spread.to(x).expand(len(x), -1)], 1)


class LinearGaussian:
    """x = W z + b + noise: its likelihood, its posterior, and estimators that are it whatever they
    are fitted to."""

    def __init__(self, k, d=5, variance=0.3, shift=0.0, stretch=1.0):
        generator = np.random.default_rng(k)
        self.weight, self.bias, self.variance = (
            generator.normal(size=(d, k)),
            generator.normal(size=d),
            variance,
        )
        self.k, self.d = k, d
        self.exact = np.linalg.inv(np.eye(k) + self.weight.T @ self.weight / variance)
        self.covariance, self.shift = stretch**2 * self.exact, np.full(k, shift)
        self.gain = self.exact @ self.weight.T / variance

    def marginal(self):
        return multivariate_normal(
            self.bias, self.weight @ self.weight.T + self.variance * np.eye(self.d)
        )

    def sample(self, n):
        return self.marginal().rvs(n, random_state=0)

    def nats(self, X):
        return self.marginal().logpdf(X)

    def gap(self):
        """KL of what the encoder says from the true posterior, the same for all x."""
        precision = np.linalg.inv(self.exact)
        trace, mahalanobis = (
            np.trace(precision @ self.covariance),
            self.shift @ precision @ self.shift,
        )
        return 0.5 * (
            trace + mahalanobis - self.k - np.linalg.slogdet(precision @ self.covariance)[1]
        )

    def divergence(self, X):
        """KL of what the encoder says from the prior."""
        loc = (X - self.bias) @ self.gain.T + self.shift
        return 0.5 * (
            np.trace(self.covariance)
            + (loc**2).sum(1)
            - self.k
            - np.linalg.slogdet(self.covariance)[1]
        )

    def fitted(self, kind=VAEEmbedding, X=None, **parameters):
        settings = {
            "max_iter": 1,
            "validation_fraction": 0,
            "random_state": 0,
            "batch_size": 10_000,
            **parameters,
        }
        return kind(
            self.k,
            covariance_type="full",
            decoder=lambda k, d: Linear(self.weight, self.bias),
            encoder=lambda d, o: Posterior(self.gain, self.bias, self.shift, self.covariance),
            likelihood=lambda d: Plain(d, self.variance),
            **settings,
        ).fit(self.sample(23) if X is None else X)


@both_classes
@pytest.mark.parametrize("k", [1, 2, 5])
def test_importance_from_the_exact_posterior_is_log_p_for_every_number_of_draws(kind, k):
    """V1: all weights are equal, so that there is no variance and no standard error."""
    known = LinearGaussian(k)
    X, model = known.sample(23), known.fitted(kind)
    for n_draws in (1, 2, 7, 501):
        nats, std = model.score_samples(X, "encoder", n_draws, return_std=True)
        np.testing.assert_allclose(nats, known.nats(X), rtol=0, atol=1e-9)
        np.testing.assert_allclose(std, 0 if n_draws > 1 else np.inf, atol=1e-9)


@both_classes
@pytest.mark.parametrize("k", [1, 2, 5])
def test_elbo_of_the_exact_posterior_is_log_p(kind, k):
    known = LinearGaussian(k)
    X = known.sample(23)
    nats, std = known.fitted(kind).score_samples(X, "elbo", 4001, return_std=True)
    assert (np.abs(nats - known.nats(X)) < 5 * std).all()
    assert std.max() < 0.1


@pytest.mark.parametrize(("shift", "stretch"), [(0.3, 1.0), (0.0, 1.7), (-0.2, 0.6)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_elbo_of_a_wrong_posterior_misses_log_p_by_the_divergence(k, shift, stretch):
    """V2, whatever beta the training had."""
    known = LinearGaussian(k, shift=shift, stretch=stretch)
    X = known.sample(23)
    nats, std = known.fitted(beta=7.0).score_samples(X, "elbo", 8009, return_std=True)
    assert (np.abs(nats - (known.nats(X) - known.gap())) < 5 * std).all()
    assert std.max() < 0.2 * known.gap() + 0.1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_importance_from_a_wrong_posterior_comes_to_log_p_within_its_standard_error(k):
    known = LinearGaussian(k, shift=0.1, stretch=1.3)
    X, errors = known.sample(23), []
    for n_draws in (101, 10_007):
        nats, std = known.fitted().score_samples(X, "importance", n_draws, return_std=True)
        assert (np.abs(nats - known.nats(X)) < 5 * std).all()
        errors.append(std.mean())
    assert errors[1] == pytest.approx(errors[0] / (10_007 / 101) ** 0.5, rel=0.5)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.3), (0.2, 1.1)])
def test_standard_error_of_importance_is_that_of_the_mean_weight(shift, stretch):
    """E_q[(p / q)^2] is known for two normals: the relative variance of the weights, which is not
    the variance of their logarithms."""
    known = LinearGaussian(1, shift=shift, stretch=stretch)
    X = known.sample(7)
    _, std = known.fitted().score_samples(X, "encoder", 10_007, return_std=True)
    spread = 2 * stretch**2 - 1
    second_moment = stretch**2 / spread**0.5 * np.exp(shift**2 / known.exact.item() / spread)
    np.testing.assert_allclose(std, ((second_moment - 1) / 10_007) ** 0.5, rtol=0.1)


@both_classes
@pytest.mark.parametrize(("k", "atol"), [(1, 1e-7), (2, 1e-6), (3, 1e-2)])
def test_quadrature_of_the_linear_gaussian_is_its_closed_form(kind, k, atol):
    """V7, and it does not need a good encoder: to the tolerance of a fit, and as closely as one
    likes with more points."""
    known = LinearGaussian(k, shift=2.0)
    X = known.sample(101)
    model = known.fitted(kind, X)
    nats, std = model.score_samples(X, return_std=True)
    assert np.abs(nats - known.nats(X)).mean() < 0.01
    assert std.mean() < 0.02
    assert model.score(X) == pytest.approx(known.nats(X).mean(), abs=0.01)
    score_over(model, 2**16)
    nats = model.score_samples(X, "quadrature")
    np.testing.assert_allclose(nats, known.nats(X), rtol=0, atol=atol)
    np.testing.assert_array_equal(nats, model.score_samples(X))


@pytest.mark.parametrize("n_draws", [1, 2, 7, 50])
def test_training_loss_of_the_exact_posterior_is_minus_log_p(n_draws):
    """V1 in training: the loss of one batch of all rows."""
    known = LinearGaussian(2)
    X = known.sample(23)
    for gradient in ("standard", "doubly_reparametrized"):
        model = known.fitted(IWAEEmbedding, X, n_importance_samples=n_draws, gradient=gradient)
        assert model.history_["loss"][0] == pytest.approx(-known.nats(X).mean(), abs=1e-4)


class Constant(Idle):
    """The same outputs for all rows."""

    def __init__(self, outputs):
        super().__init__()
        self.register_buffer("values", torch.tensor(outputs, dtype=torch.float64))

    def outputs(self, z):
        return self.values.to(z).expand(len(z), -1)


def said(k, log_variance=0.0):
    """What the prior is as a diagonal proposal, but for its variance."""
    return [0.0] * k + [log_variance - proposals._FIRST_LOG_VARIANCE] * k


@both_classes
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("k", [2, 3, 128])
def test_constant_decoder_scores_the_same_for_any_dimension_draws_and_batch(
    k, likelihood, kind, monkeypatch
):
    """V4: what loses log K, log m, a batch size or half a dimension does not pass. All rows have
    the same nats."""
    X = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]] * 3)
    if likelihood == "gaussian":
        build, outputs, expected = (
            (lambda d: Plain(d, 0.7)),
            [0.4] * 3,
            -0.5 * (0.6**2 + 2 * 0.4**2) / 0.7 - 1.5 * log(2 * pi * 0.7),
        )
    else:
        build, outputs, expected = likelihoods.Bernoulli, [0.0] * 3, -3 * log(2)
        monkeypatch.setattr(likelihoods.Bernoulli, "start", lambda self, x: None)
    losses = []
    for batch_size, n_draws in ((2, 1), (5, 7), (5, 50)):
        draws = {"n_importance_samples": n_draws} if kind is IWAEEmbedding else {}
        model = kind(
            k,
            encoder=lambda d, o: Constant(said(k)),
            decoder=lambda k, d: Constant(outputs),
            likelihood=build,
            batch_size=batch_size,
            max_iter=1,
            validation_fraction=0.5,
            **draws,
        ).fit(X)
        losses += [*model.history_["loss"], *model.history_["validation_loss"]]
    np.testing.assert_allclose(losses, -expected, rtol=0, atol=1e-4)
    for n_draws in (1, 7, 1009):
        for method in ("encoder", "elbo"):
            np.testing.assert_allclose(
                model.score_samples(X, method, n_draws), expected, rtol=0, atol=1e-9
            )
    np.testing.assert_allclose(
        model.score_samples(X), expected, rtol=0, atol=0.02 if k == 3 else 1e-3
    )


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (VAEEmbedding, {}),
        (VAEEmbedding, {"covariance_type": "full"}),
        (IWAEEmbedding, {"n_importance_samples": 5}),
        (IWAEEmbedding, {"n_importance_samples": 5, "gradient": "doubly_reparametrized"}),
        (IWAEEmbedding, {"n_importance_samples": 5, "covariance_type": "low_rank"}),
    ],
)
def test_linear_networks_reach_the_likelihood_of_principal_components(
    kind, parameters, monkeypatch
):
    """V6: probabilistic PCA has a closed form at the largest likelihood, without the prior of the
    noise, and the bounds are tight there."""
    monkeypatch.setattr("skqlvm._fitting._PRIOR_ROWS", 0)
    generator = np.random.default_rng(0)
    X = (
        generator.normal(size=(1009, 2)) @ generator.normal(size=(2, 7))
        + 0.5 * generator.normal(size=(1009, 7))
        + 3
    )
    pca = PCA(2).fit(X)
    model = kind(
        encoder=nn.Linear,
        decoder=nn.Linear,
        max_iter=120,
        validation_fraction=0,
        learning_rate=0.02,
        random_state=0,
        **parameters,
    ).fit(X)
    assert model.score(X) == pytest.approx(pca.score(X), abs=0.1)
    assert model.score(X) < pca.score(X) + 0.01
    assert model.score_samples(X, "elbo").mean() == pytest.approx(pca.score(X), abs=0.2)
    assert model.noise_variance_ == pytest.approx(pca.noise_variance_, rel=0.15)
    assert model.active_units(X).all()


# the torus


class Rings(Idle):
    """(r_1 cos, r_2 cos, ..., r_1 sin, ...) of the coordinates."""

    def __init__(self, radii):
        super().__init__()
        self.register_buffer("radii", torch.tensor(radii))

    def outputs(self, z):
        angle, radii = 2 * pi * z, self.radii.to(z)
        return torch.cat([radii * angle.cos(), radii * angle.sin()], -1)


class Angles(Idle):
    """The direction of each pair of features, and a width."""

    def __init__(self, k, log_variance):
        super().__init__()
        self.k, self.log_variance = k, log_variance

    def outputs(self, x):
        return torch.cat(
            [x, x.new_full((len(x), self.k), self.log_variance - proposals._FIRST_LOG_VARIANCE)],
            -1,
        )


def known_rings(kind, radii, variance=0.1, log_variance=-6.0):
    return kind(
        len(radii),
        decoder=lambda k, d: Rings(radii),
        likelihood=lambda d: Plain(d, variance),
        max_iter=1,
        random_state=0,
        **(
            {}
            if kind is QLVMEmbedding
            else {"latent": "torus", "encoder": lambda d, o: Angles(len(radii), log_variance)}
        ),
    ).fit(np.random.default_rng(0).normal(size=(11, 2 * len(radii))))


@both_classes
@pytest.mark.parametrize("radii", [[1.0], [1.0, 0.5], [0.8, 1.0, 0.5]])
def test_torus_score_is_that_of_qlvm_with_the_same_decoder(kind, radii):
    X = np.random.default_rng(1).normal(size=(7, 2 * len(radii)))
    variance = [0.1, 0.1, 0.7][len(radii) - 1]
    model = known_rings(kind, radii, variance, log_variance=-6.0 if len(radii) < 3 else -2.0)
    expected = known_rings(QLVMEmbedding, radii, variance).score_samples(X)
    np.testing.assert_allclose(
        model.score_samples(X), expected, rtol=0, atol=[1e-9, 1e-6, 1e-3][len(radii) - 1]
    )
    nats, std = model.score_samples(X, "importance", 4001, return_std=True)
    assert (np.abs(nats - expected) < 5 * std + 1e-3).all()
    nats, std = model.score_samples(X, "elbo", 501, return_std=True)
    assert (nats < expected + 4 * std).all()


def test_torus_score_is_the_bessel_form_and_transform_the_angle():
    x = np.array([[0.6, 0.3], [-0.2, 1.1]])
    kappa = np.linalg.norm(x, axis=1) / 0.1
    expected = -log(2 * pi * 0.1) - ((x**2).sum(1) + 1) / 0.2 + np.log(ive(0, kappa)) + kappa
    model = known_rings(VAEEmbedding, [1.0])
    np.testing.assert_allclose(model.score_samples(x), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        model.transform(x)[:, 0], np.arctan2(x[:, 1], x[:, 0]) / (2 * pi) % 1, atol=1e-12
    )
    np.testing.assert_allclose(
        model.reconstruct(x), x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-9
    )
    np.testing.assert_allclose(
        model.inverse_transform(model.transform(x) + 3), model.reconstruct(x), atol=1e-9
    )


@pytest.mark.parametrize("log_variance", [-6.0, -2.0, 0.0])
def test_elbo_on_the_torus_has_the_error_of_its_divergence_too(log_variance):
    """With a constant decoder the reconstruction is exact, and the divergence of a wrapped normal
    is what is estimated."""
    X = np.zeros((5, 2))
    model = VAEEmbedding(
        1,
        latent="torus",
        encoder=lambda d, o: Constant([1.0, 0.0, log_variance - proposals._FIRST_LOG_VARIANCE]),
        decoder=lambda k, d: Constant([0.0] * 2),
        likelihood=lambda d: Plain(d, 1.0),
        max_iter=1,
    ).fit(X)
    nats, std = model.score_samples(X, "elbo", 2003, return_std=True)
    q = proposals.proposal(
        "diagonal",
        torch.tensor(
            [[1.0, 0.0, log_variance - proposals._FIRST_LOG_VARIANCE]], dtype=torch.float64
        ),
        1,
        wrapped=True,
    )
    log_q = q.log_prob(lattices.nested(1, 2**12)[None])[0]
    exact = -log(2 * pi) - float((log_q.exp() * log_q).mean())
    assert (std > 0).all()
    assert (np.abs(nats - exact) < 5 * std).all()
    assert std.max() < 0.1


# fitted models


@both_classes
@pytest.mark.parametrize("latent", ["normal", "torus"])
@pytest.mark.parametrize("covariance_type", ["diagonal", "low_rank", "full"])
def test_importance_agrees_with_quadrature_and_the_bound_stays_below(
    kind, latent, covariance_type, X
):
    model = small(
        kind,
        latent=latent,
        covariance_type=covariance_type,
        max_iter=60,
        noise_variance=0.5,
        learning_rate=0.01,
    ).fit(X)
    exact = model.score_samples(X)
    nats, std = model.score_samples(X, "importance", 2003, return_std=True)
    assert np.mean(np.abs(nats - exact) < 3 * std + 0.01) > 0.9
    bound, error = model.score_samples(X, "elbo", 503, return_std=True)
    assert np.mean(bound < exact + 3 * error + 0.01) > 0.98
    assert bound.mean() < nats.mean() + 0.01


@both_classes
@pytest.mark.parametrize("latent", ["normal", "torus"])
def test_training_raises_the_likelihood(kind, latent, X):
    scores = [
        small(kind, latent=latent, max_iter=max_iter, learning_rate=0.02).fit(X).score(X)
        for max_iter in (1, 100)
    ]
    assert scores[1] > scores[0] + 0.5


def test_more_importance_samples_tighten_the_training_bound(X):
    losses = []
    for n_draws in (1, 5, 50):
        known = LinearGaussian(2, shift=0.3, stretch=1.5)
        rows = known.sample(5003)
        losses.append(
            known.fitted(IWAEEmbedding, rows, n_importance_samples=n_draws).history_["loss"][0]
        )
    assert losses[0] > losses[1] > losses[2] > -known.nats(rows).mean()
    assert losses[0] == pytest.approx(known.gap() - known.nats(rows).mean(), abs=0.1)


def test_iwae_of_one_draw_and_vae_have_the_same_loss_in_expectation():
    known = LinearGaussian(2, shift=0.3, stretch=1.5)
    rows = known.sample(5003)
    vae, iwae = (
        known.fitted(VAEEmbedding, rows),
        known.fitted(IWAEEmbedding, rows, n_importance_samples=1),
    )
    assert vae.history_["loss"][0] == pytest.approx(iwae.history_["loss"][0], abs=0.1)


@both_classes
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("k", "latent"), [(1, "torus"), (2, "normal"), (3, "torus"), (5, "normal")]
)
def test_shapes_and_dtypes_hold(kind, k, latent, dtype, X):
    X = X.astype(dtype)
    model = small(kind, n_components=k, latent=latent, max_iter=1).fit(X)
    Z, nats = model.transform(X), model.score_samples(X)
    mean, covariance = model.proposal(X)
    assert (Z.shape, nats.shape, mean.shape, covariance.shape) == (
        (101, k),
        (101,),
        (101, k),
        (101, k, k),
    )
    assert Z.dtype == nats.dtype == mean.dtype == covariance.dtype == dtype
    np.testing.assert_array_equal(mean, Z)
    np.testing.assert_array_equal(covariance, np.swapaxes(covariance, 1, 2))
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    assert (
        model.inverse_transform(Z).shape
        == model.reconstruct(X).shape
        == model.sample(101).shape
        == X.shape
    )
    assert (
        model.inverse_transform(Z).dtype
        == model.sample(2).dtype
        == model.reconstruct(X).dtype
        == dtype
    )
    np.testing.assert_array_equal(model.reconstruct(X), model.inverse_transform(Z))
    for method in ("auto", "elbo", "importance"):
        nats, std = model.score_samples(X, method, 11, return_std=True)
        assert nats.dtype == std.dtype == dtype
        assert nats.shape == std.shape == (101,)
        assert (std >= 0).all()
    if latent == "torus":
        assert Z.min() >= 0
        assert Z.max() < 1
    assert model.active_units(X).shape == (k,)
    assert model.active_units(X).dtype == bool


@pytest.mark.parametrize("covariance_type", ["diagonal", "low_rank", "full"])
def test_posterior_is_what_the_encoder_says(covariance_type, X):
    model = small(covariance_type=covariance_type, n_components=3).fit(X)
    statistics = torch.tensor(
        model.likelihood_.statistics(torch.tensor(X)).numpy(), dtype=torch.float32
    )
    q = proposals.proposal(covariance_type, model.encoder_(statistics).detach(), 3, wrapped=False)
    mean, covariance = model.proposal(X)
    np.testing.assert_allclose(mean, q.loc, atol=1e-4)
    np.testing.assert_allclose(covariance, q.covariance(), rtol=1e-3, atol=1e-4)


def test_sample_follows_the_model():
    known = LinearGaussian(2)
    draws = known.fitted().sample(20_011, random_state=0)
    np.testing.assert_allclose(draws.mean(0), known.bias, atol=0.06)
    np.testing.assert_allclose(np.cov(draws.T), known.marginal().cov, atol=0.15)
    np.testing.assert_array_equal(
        known.fitted().sample(3, random_state=1), known.fitted().sample(3, random_state=1)
    )


class Dead(Posterior):
    """The exact posterior but for one coordinate, where it is the prior."""

    def outputs(self, x):
        outputs = super().outputs(x).clone()
        outputs[:, 1] = 0
        return outputs


def test_active_units_are_those_whose_means_move():
    known = LinearGaussian(3)
    known.fitted()
    rows = known.sample(101)
    model = VAEEmbedding(
        3,
        covariance_type="full",
        decoder=lambda k, d: Linear(known.weight, known.bias),
        encoder=lambda d, o: Dead(known.gain, known.bias, known.shift, known.exact),
        likelihood=lambda d: Plain(d, 0.3),
        max_iter=1,
    ).fit(rows)
    variances = model.transform(rows).var(0)
    assert list(model.active_units(rows)) == [True, False, True]
    assert (
        list(model.active_units(rows, threshold=min(variances[0], variances[2]) * 1.01)).count(True)
        == 1
    )
    assert not model.active_units(rows, threshold=100.0).any()


def test_active_units_of_the_torus_see_directions_not_turns():
    """A location that sits at the seam is not active, though its turns jump between 0 and 1."""
    model = known_rings(VAEEmbedding, [1.0, 0.5])
    generator = np.random.default_rng(0)
    X = generator.normal(size=(101, 4))
    X[:, 1], X[:, 3] = 1.0, 0.01 * generator.normal(size=101)
    assert np.ptp(model.transform(X)[:, 1]) > 0.9
    assert list(model.active_units(X)) == [True, False]
    X[:, 0], X[:, 2] = 0.01 * generator.normal(size=101), np.where(np.arange(101) % 2, 1.0, -1.0)
    assert list(model.active_units(X)) == [True, False]
    X[:, 1], X[:, 2] = np.where(np.arange(101) % 2, 1.0, -1.0), 1.0
    assert list(model.active_units(X)) == [False, True]


# training objectives


def first_loss(X, known, **parameters):
    return known.fitted(VAEEmbedding, X, **parameters).history_["loss"][0]


def test_training_objectives_are_sums_of_their_terms():
    """With modules that do not learn and one seed, differences of losses are the terms."""
    known = LinearGaussian(2, shift=0.2, stretch=1.4)
    X = known.sample(503)
    loc = (X - known.bias) @ known.gain.T + known.shift
    at_mean = multivariate_normal(np.zeros(5), known.variance * np.eye(5)).logpdf(
        X - loc @ known.weight.T - known.bias
    )
    loss = partial(first_loss, X, known)
    assert loss(objective="autoencoder") == pytest.approx(-at_mean.mean(), rel=1e-5)
    assert loss(objective="autoencoder", beta=5, mmd_weight=7.0) == pytest.approx(
        -at_mean.mean(), rel=1e-5
    )
    none, one, five = (loss(beta=beta) for beta in (0.0, 1.0, 5.0))
    assert one - none == pytest.approx(known.divergence(X).mean(), rel=1e-4)
    assert five - none == pytest.approx(5 * known.divergence(X).mean(), rel=1e-4)
    expected_noise = (
        -0.5 * np.trace(known.weight @ known.covariance @ known.weight.T) / known.variance
    )
    assert none == pytest.approx(-(at_mean.mean() + expected_noise), abs=0.3)
    assert loss(objective="wae_mmd", mmd_weight=0.0) == pytest.approx(-at_mean.mean(), rel=1e-5)
    by_means = loss(objective="wae_mmd", mmd_weight=100.0) - loss(
        objective="wae_mmd", mmd_weight=0.0
    )
    by_draws = loss(objective="infovae", mmd_weight=100.0) - one
    assert loss(objective="infovae", beta=5.0, mmd_weight=0.0) == pytest.approx(five, rel=1e-6)
    assert loss(objective="infovae", beta=5.0, mmd_weight=100.0) - five == pytest.approx(
        by_draws, abs=1e-3
    )
    generator = np.random.default_rng(0)
    prior, noise = generator.normal(size=(2, 503, 2))
    draws = loc + noise @ np.linalg.cholesky(known.covariance).T
    for found, codes in ((by_means, loc), (by_draws, draws)):
        expected = objectives.maximum_mean_discrepancy(
            torch.tensor(codes), torch.tensor(prior)
        ).item()
        assert found == pytest.approx(100 * expected, abs=1.5)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (VAEEmbedding, {}),
        (VAEEmbedding, {"objective": "infovae"}),
        (VAEEmbedding, {"objective": "wae_mmd"}),
        (IWAEEmbedding, {}),
    ],
)
def test_validation_loss_has_no_noise_of_its_own(kind, parameters):
    """Modules that do not learn are as good at every validation."""
    known = LinearGaussian(2, shift=0.2, stretch=1.4)
    losses = known.fitted(
        kind, known.sample(101), max_iter=7, validation_fraction=0.3, **parameters
    ).history_["validation_loss"]
    assert len(losses) == 7
    np.testing.assert_allclose(losses, losses[0], rtol=1e-9)


class Learning(nn.Module):
    """`Posterior`, with parameters in its place."""

    def __init__(self, known):
        super().__init__()
        said = Posterior(known.gain, known.bias, known.shift, known.covariance)
        self.bias = said.bias
        self.gain, self.start, self.spread = (
            nn.Parameter(value) for value in (said.gain, said.start, said.spread)
        )

    def forward(self, x):
        loc = (x - self.bias.to(x)) @ self.gain.to(x).T + self.start.to(x)
        return torch.cat([loc, self.spread.to(x).expand(len(x), -1)], 1)


def encoder_gradients(known, gradient, n_draws, repeats):
    """Gradients of the training loss with respect to the encoder's parameters, from the same noise
    for every way to take them."""
    X = known.sample(23)
    model = known.fitted(IWAEEmbedding, X, n_importance_samples=n_draws, gradient=gradient)
    parts, batch = copy.deepcopy(model._model), models.Batch(torch.tensor(X))
    parts.encoder = Learning(known)
    parts.train()
    nats, generator = model._objective(parts, None), torch.Generator().manual_seed(0)
    parameters = list(parts.encoder.parameters())
    rows = [torch.autograd.grad(-nats(batch, generator).mean(), parameters) for _ in range(repeats)]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def test_doubly_reparametrized_training_has_no_gradient_at_the_exact_posterior():
    known = LinearGaussian(2)
    assert encoder_gradients(known, "doubly_reparametrized", 5, 3).abs().max() < 1e-9
    assert encoder_gradients(known, "standard", 5, 3).abs().max() > 0.01


def test_both_gradients_of_training_have_one_expectation():
    known, n_draws, repeats = LinearGaussian(2, shift=0.2, stretch=1.4), 5, 301
    plain, double = (
        encoder_gradients(known, gradient, n_draws, repeats)
        for gradient in ("standard", "doubly_reparametrized")
    )
    differences = plain - double
    assert (differences.mean(0).abs() < 4.5 * differences.std(0) / repeats**0.5).all()
    assert double.std(0).mean() < plain.std(0).mean()


def test_large_beta_shuts_units_off_and_a_small_one_does_not(X):
    strong, weak = (
        small(beta=beta, max_iter=60, learning_rate=0.01).fit(X) for beta in (300.0, 0.01)
    )
    assert not strong.active_units(X).any()
    assert weak.active_units(X).all()
    assert np.trace(weak.proposal(X)[1].mean(0)) < np.trace(strong.proposal(X)[1].mean(0))


@pytest.mark.parametrize(
    ("objective", "latent"), [("wae_mmd", "normal"), ("wae_mmd", "torus"), ("infovae", "normal")]
)
def test_weight_of_the_discrepancy_brings_codes_to_the_prior(objective, latent, X):
    distances = []
    for mmd_weight in (0.0, 1000.0):
        model = small(
            objective=objective,
            beta=0.0,
            mmd_weight=mmd_weight,
            latent=latent,
            max_iter=100,
            learning_rate=0.01,
        ).fit(X)
        codes = torch.tensor(model.transform(X))
        prior = model._model.prior
        drawn = prior.quantile(
            torch.rand(1009, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        )
        distances.append(
            objectives.maximum_mean_discrepancy(
                prior.euclidean(codes), prior.euclidean(drawn)
            ).item()
        )
    assert distances[1] < 0.5 * distances[0]


def test_autoencoder_reconstructs_better_than_the_vae(X):
    plain, variational = (
        small(objective=name, max_iter=150, learning_rate=0.01).fit(X)
        for name in ("autoencoder", "elbo")
    )
    errors = [np.square(model.reconstruct(X) - X).mean() for model in (plain, variational)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("objective", ["autoencoder", "wae_mmd"])
def test_model_without_a_posterior_says_so(objective, X):
    model = small(objective=objective).fit(X)
    message = (
        rf"expects a model that was trained with a posterior, but objective='{objective}' has "
        rf"none. Use objective='elbo' or 'infovae'"
    )
    for method in ("elbo", "importance"):
        with pytest.raises(ValueError, match=f"method='{method}' {message}"):
            model.score_samples(X, method)
    with pytest.raises(ValueError, match=f"proposal {message}"):
        model.proposal(X)
    np.testing.assert_allclose(model.posterior(X).sum(1), 1, atol=1e-9)
    assert np.isfinite(model.score_samples(X)).all()
    assert model.reconstruct(X).shape == X.shape
    with pytest.raises(ValueError, match=f"method='auto' {message}"):
        small(objective=objective, n_components=5).fit(X).score_samples(X)


# methods of scoring


@both_classes
def test_more_than_three_components_are_scored_by_importance(kind, X):
    model = small(kind, n_components=5).fit(X)
    np.testing.assert_array_equal(model.score_samples(X), model.score_samples(X, "importance"))
    assert not hasattr(model, "n_points_eval_")
    with pytest.raises(
        ValueError,
        match=r"method='quadrature' expects up to 3 components, but the model has 5. Use "
        r"'importance'",
    ):
        model.score_samples(X, "quadrature")
    with pytest.raises(ValueError, match=r"posterior expects up to 3 components, .* Use proposal"):
        model.posterior(X)


def test_lattice_size_of_an_earlier_fit_is_forgotten(X):
    model = small().fit(X)
    assert model.n_points_eval_ & (model.n_points_eval_ - 1) == 0
    assert not hasattr(model.set_params(n_components=5).fit(X), "n_points_eval_")
    assert hasattr(model.set_params(n_components=1).fit(X), "n_points_eval_")


def test_queries_follow_the_fit_and_not_parameters_that_were_set_since(X):
    model = small().fit(X)
    before = (
        model.transform(X),
        model.score_samples(X),
        model.score_samples(X, "importance", 11),
        model.proposal(X)[1],
        model.posterior(X),
        model.sample(3, 0),
    )
    model.set_params(
        n_components=5, latent="torus", covariance_type="low_rank", objective="autoencoder"
    )
    after = (
        model.transform(X),
        model.score_samples(X),
        model.score_samples(X, "importance", 11),
        model.proposal(X)[1],
        model.posterior(X),
        model.sample(3, 0),
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_standard_error_of_quadrature_tells_how_far_another_shift_would_be(X, monkeypatch):
    rough_settle = partial(quadrature.settle, fewest=2**5, most=2**5)
    monkeypatch.setattr(quadrature, "settle", rough_settle)
    with pytest.warns(UserWarning, match="still changed by"):
        rough = small(max_iter=60).fit(X)
    assert rough.n_points_eval_ == 2**5
    nats, std = rough.score_samples(X, return_std=True)
    fine = copy.copy(rough)
    score_over(fine, 2**14)
    exact, smaller = fine.score_samples(X, return_std=True)
    assert smaller.mean() < std.mean() / 3
    assert 0.02 < np.sqrt(np.mean((nats - exact) ** 2)) / np.sqrt(np.mean(std**2)) < 5


@both_classes
def test_lattice_is_doubled_until_scores_settle_and_a_warning_says_if_they_do_not(
    kind, X, monkeypatch
):
    sizes = [
        small(kind, noise_variance=noise, max_iter=100, learning_rate=0.01).fit(X).n_points_eval_
        for noise in (1.0, 0.03)
    ]
    assert sizes[0] < sizes[1]
    monkeypatch.setattr(quadrature, "settle", partial(quadrature.settle, most=2**11))
    with pytest.warns(
        UserWarning,
        match=r"still changed by .* doubled to 2048 points. Use score_samples\(X, "
        r"method='importance'\)",
    ) as record:
        small(kind, n_components=3, noise_variance=1e-4, max_iter=60).fit(X)
    assert record[0].filename == __file__
    if kind is VAEEmbedding:  # without a posterior, importance sampling is no remedy
        small(objective="autoencoder", n_components=3, noise_variance=1e-4, max_iter=60).fit(X)


def test_results_do_not_depend_on_chunks(X, monkeypatch):
    for parameters in ({}, {"n_components": 5, "covariance_type": "low_rank"}):
        model = small(**parameters).fit(X)

        def queries(model=model):
            methods = ["elbo", "importance"] + ["quadrature"] * (model.n_components < 4)
            return [
                model.transform(X),
                model.reconstruct(X),
                *(model.score_samples(X, method, 53) for method in methods),
            ]

        whole = queries()
        with monkeypatch.context() as patch:
            patch.setattr("skqlvm._trained._CHUNK_BYTES", 20_000)
            patch.setattr(model._model, "n_decoded", 67)
            patch.setattr(model, "_atlas", None)
            for chunked, expected in zip(queries(), whole, strict=True):
                np.testing.assert_allclose(chunked, expected, rtol=0, atol=1e-4)


@both_classes
@pytest.mark.parametrize("k", [2, 5])
def test_rows_are_scored_for_themselves(kind, k, X):
    model = small(kind, n_components=k).fit(X)
    for query in (
        model.transform,
        lambda X: model.proposal(X)[1],
        *([model.score_samples] if k == 2 else []),
    ):
        np.testing.assert_allclose(
            np.concatenate([query(row[None]) for row in X]), query(X), rtol=0, atol=1e-9
        )
    for method in ("elbo", "importance"):
        together = model.score_samples(X, method, 101)
        apart = np.concatenate([model.score_samples(row[None], method, 101) for row in X])
        np.testing.assert_allclose(apart, together, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            model.score_samples(X[::-1], method, 101), together[::-1], rtol=0, atol=1e-4
        )


@both_classes
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_queries_are_precise_whatever_precision_the_process_prefers(kind, dtype, X):
    X = X.astype(dtype)
    model = small(kind, max_iter=20).fit(X)

    def queries():
        scores = [
            model.score_samples(X, method, 101) for method in ("quadrature", "importance", "elbo")
        ]
        return [model.transform(X), model.reconstruct(X), model.sample(7, random_state=0), *scores]

    expected = queries()
    torch.set_float32_matmul_precision("medium")
    try:
        for found, wanted in zip(queries(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


# what users do with them


@both_classes
def test_same_seed_gives_same_model_and_another_seed_another(kind, X):
    first, again, other = (small(kind, random_state=seed).fit(X).transform(X) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    model = small(kind).fit(X)
    np.testing.assert_array_equal(
        model.score_samples(X, "importance", 7), model.score_samples(X, "importance", 7)
    )


@both_classes
@pytest.mark.parametrize("objective", ["elbo", "infovae"])
def test_fit_and_queries_leave_global_random_states_alone(kind, objective, X):
    parameters = {"objective": objective} if kind is VAEEmbedding else {}
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    model = small(
        kind,
        encoder=lambda d, o: nn.Sequential(networks.MLPEncoder(d, o, (5,)), nn.Dropout(0.1)),
        **parameters,
    ).fit(X)
    (
        model.score_samples(X, "importance", 7),
        model.score_samples(X, return_std=True),
        model.sample(2, random_state=0),
    )
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    small(kind, random_state=None).fit(X).sample(2)
    assert torch.equal(torch.get_rng_state(), before[2])


@both_classes
def test_pipelines_and_grid_searches_score_by_nats(kind, X):
    pipeline = make_pipeline(StandardScaler(), small(kind))
    name = kind.__name__.lower()
    search = GridSearchCV(
        pipeline,
        {f"{name}__covariance_type": ["diagonal", "full"], f"{name}__latent": ["normal", "torus"]},
        cv=2,
    ).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score_samples(X).shape == (101,)
    assert search.best_estimator_.inverse_transform(search.transform(X)).shape == X.shape
    assert search.score(X) == pytest.approx(search.score_samples(X).mean())


@both_classes
def test_pandas_in_and_out(kind, X):
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = small(kind, n_components=3).set_output(transform="pandas").fit(frame)
    assert list(model.transform(frame).columns) == [f"{kind.__name__.lower()}{i}" for i in range(3)]
    assert list(model.feature_names_in_) == list("abcde")
    assert model.reconstruct(frame).shape == (101, 5)
    mean, _ = model.proposal(frame)
    np.testing.assert_array_equal(np.asarray(mean), np.asarray(model.transform(frame)))
    assert isinstance(mean, np.ndarray)
    assert model.active_units(frame).shape == (3,)
    assert np.isfinite(model.score_samples(frame, "importance", 7)).all()


@both_classes
def test_clone_has_the_parameters_and_no_fit(kind, X):
    model = small(kind, covariance_type="full", latent="torus").fit(X)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert not [name for name in vars(copied) if name.endswith("_")]
    np.testing.assert_array_equal(copied.fit(X).transform(X), model.transform(X))


@both_classes
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("order", ["before", "after"])
def test_pickle_and_joblib_round_trip(order, k, kind, X, tmp_path):
    model = (
        small(kind, n_components=k).partial_fit(X)
        if order == "after"
        else small(kind, n_components=k)
    )
    fitted = model if order == "after" else clone(model).fit(X)
    joblib.dump(model, tmp_path / "model.joblib")
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        if order == "before":
            copied.fit(X)
        np.testing.assert_array_equal(copied.transform(X), fitted.transform(X))
        np.testing.assert_array_equal(copied.score_samples(X), fitted.score_samples(X))
    if order == "after":
        np.testing.assert_array_equal(
            copied.partial_fit(X).transform(X), model.partial_fit(X).transform(X)
        )


@both_classes
def test_read_only_and_memory_mapped_arrays_train_like_arrays(kind, X, tmp_path):
    expected = small(kind).fit(X).transform(X)
    frozen = X.copy()
    frozen.flags.writeable = False
    np.save(tmp_path / "X.npy", X)
    for source in (frozen, np.load(tmp_path / "X.npy", mmap_mode="r")):
        model = small(kind).fit(source)
        np.testing.assert_array_equal(model.transform(source), expected)
        assert model.score_samples(source, "importance", 3).shape == (101,)


@both_classes
def test_warm_start_goes_on_from_the_fitted_weights(kind, X):
    model = small(kind, warm_start=True, max_iter=60, learning_rate=0.01).fit(X)
    first, fitted = model.history_["loss"][0], model.score(X)
    model.set_params(max_iter=1, learning_rate=1e-6).fit(X)
    assert model.history_["loss"][0] < first
    assert model.score(X) == pytest.approx(fitted, abs=0.05)
    for name, value in {"latent": "torus", "covariance_type": "full", "n_components": 3}.items():
        changed = copy.deepcopy(model).set_params(**{name: value})
        with pytest.raises(ValueError, match=rf"{name}=.* cannot continue a fit that had {name}="):
            changed.fit(X)


@both_classes
def test_partial_fit_learns_and_continues_its_history(kind, X):
    model = small(kind, batch_size=17, learning_rate=0.05)
    scores = [model.partial_fit(X).score(X) for _ in range(30)]
    assert scores[-1] > scores[0] + 0.5
    assert model.n_iter_ == 30
    assert model.history_["step"][-1] == 30 * 6
    assert model.partial_fit(X[:1]).n_features_in_ == 5


class Interrupting(nn.Module):
    """An encoder during whose eighth use the user presses Ctrl-C; or that returns NaN from then
    on."""

    def __init__(self, d, o, value=None):
        super().__init__()
        self.inner, self.uses, self.value = networks.MLPEncoder(d, o, (5,)), 0, value

    def forward(self, x):
        self.uses += 1
        if self.uses == 8 and self.value is None:
            raise KeyboardInterrupt
        return self.inner(x) * (self.value if self.uses >= 8 and self.value is not None else 1.0)


@both_classes
def test_interrupt_keeps_the_best_model_so_far_and_is_raised_again(kind, X):
    model = small(kind, max_iter=50, encoder=Interrupting)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted at step \d of 50; the best weights"):
        model.fit(X)
    assert model.n_iter_ < 50
    assert model.transform(X).shape == (101, 2)
    assert np.isfinite(model.score(X))


@both_classes
def test_diverging_fit_says_so_and_leaves_the_earlier_model(kind, X):
    model = small(kind).fit(X)
    before = model.score(X), model.n_points_eval_, model.n_iter_
    model.set_params(
        n_components=5, encoder=lambda d, o: Interrupting(d, o, float("nan")), max_iter=50
    )
    with pytest.raises(FloatingPointError, match=r"Training diverged: .*nan.* Lower learning_rate"):
        model.fit(X)
    assert (model.score(X), model.n_points_eval_, model.n_iter_) == before
    unfitted = clone(model)
    with pytest.raises(FloatingPointError):
        unfitted.fit(X)
    assert not [name for name in vars(unfitted) if name.endswith("_")]


@both_classes
@pytest.mark.parametrize("k", [2, 5])
def test_divergence_in_the_last_step_is_noticed(kind, k, X):
    with pytest.raises(FloatingPointError, match=r"Training diverged: a weight is not finite"):
        small(kind, n_components=k, learning_rate=1e38, max_iter=1, validation_fraction=0).fit(X)


def test_infinite_encoder_after_the_last_step_is_noticed(X):
    """The decoder alone is finite; it scores well, but nothing can be transformed."""

    class Fragile(nn.Module):
        """Its outputs are infinite once it has learned anything."""

        def __init__(self, o):
            super().__init__()
            self.weight, self.o = nn.Parameter(torch.zeros(1)), o

        def forward(self, x):
            return (
                torch.where(self.weight == 0, self.weight, float("inf")).expand(len(x), self.o)
                + x.sum(1)[:, None] * self.weight
            )

    with pytest.raises(
        FloatingPointError, match="Training diverged: the encoder's output is not finite"
    ):
        small(encoder=lambda d, o: Fragile(o), max_iter=1, validation_fraction=0).fit(X)


@both_classes
def test_progress_is_silent_unless_verbose(kind, X, capfd):
    small(kind).fit(X).score_samples(X)
    assert capfd.readouterr() == ("", "")
    small(kind, verbose=1).fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert kind.__name__ in err
    assert "held out" in err


@both_classes
@pytest.mark.parametrize("latent", ["normal", "torus"])
def test_conv_networks_are_used(kind, latent):
    X = np.random.default_rng(0).random((23, 30))
    shape = {
        "decoder": "conv",
        "encoder": "conv",
        "image_shape": (1, 5, 6),
        "likelihood": "bernoulli",
    }
    model = small(kind, latent=latent, **shape).fit(X)
    assert isinstance(model.decoder_, networks.ConvDecoder)
    assert isinstance(model.encoder_, networks.ConvEncoder)
    assert model.transform(X).shape == (23, 2)
    assert np.isfinite(model.score_samples(X, "importance", 7)).all()
    sampled = model.sample(2, random_state=0)
    assert set(np.unique(sampled)) <= {0, 1}


@both_classes
def test_callables_are_used(kind, X):
    X = MinMaxScaler().fit_transform(X)
    model = small(kind, encoder=nn.Linear, decoder=nn.Linear, likelihood=likelihoods.Bernoulli).fit(
        X
    )
    assert isinstance(model.encoder_, nn.Linear)
    assert isinstance(model.decoder_, nn.Linear)
    assert (
        model.encoder_.in_features,
        model.encoder_.out_features,
        model.decoder_.in_features,
    ) == (5, 4, 2)
    assert isinstance(model.likelihood_, likelihoods.Bernoulli)
    assert not hasattr(model, "noise_variance_")


def test_encoder_sees_standardised_data(X):
    one, thousand = small().fit(X), small().fit(1000 * X + 7)
    np.testing.assert_allclose(thousand.transform(1000 * X + 7), one.transform(X), atol=1e-3)
    np.testing.assert_allclose(
        thousand.score_samples(1000 * X + 7), one.score_samples(X) - 5 * log(1000), atol=1e-2
    )


@both_classes
def test_constant_columns_offsets_and_far_rows_do_no_harm(kind, X):
    shifted = np.hstack([X + 1e6, np.full((101, 2), 3.0)])
    for latent in ("normal", "torus"):
        model = small(kind, latent=latent).fit(shifted)
        assert np.isfinite(model.score_samples(shifted)).all()
        assert np.isfinite(model.transform(shifted * 1e3)).all()
        constant = small(kind, latent=latent).fit(np.ones((7, 3)))
        assert np.isfinite(constant.transform(np.ones((2, 3)))).all()


def test_any_strides_and_dtypes_are_read(X):
    model = small().fit(X)
    expected = model.transform(X)
    for view in (
        np.asfortranarray(X),
        np.repeat(X, 2, axis=1)[:, ::2],
        [list(row) for row in X],
        X.astype(object),
    ):
        np.testing.assert_allclose(model.transform(view), expected, atol=1e-12)
    np.testing.assert_allclose(
        model.inverse_transform(expected[::-1]), model.inverse_transform(expected)[::-1], atol=1e-6
    )


@both_classes
def test_few_rows_are_enough(kind):
    X = np.arange(6.0).reshape(3, 2)
    for objective in ("elbo", "wae_mmd", "infovae") if kind is VAEEmbedding else (None,):
        parameters = {} if objective is None else {"objective": objective}
        model = small(kind, batch_size=1, validation_fraction=0.99, **parameters).fit(X)
        assert np.isfinite(model.transform([[1.0, 2.0]])).all()


def test_max_iter_auto_is_a_budget(monkeypatch):
    monkeypatch.setattr(VAEEmbedding, "_auto_steps", (7, 20))
    X = np.random.default_rng(0).normal(size=(5003, 2))
    steps = [
        small(max_iter="auto", batch_size=10, n_iter_no_change=None).fit(X[:n]).history_["step"][-1]
        for n in (501, 5003)
    ]
    assert steps == [20, 20]


def test_decoders_on_the_torus_own_a_basis_and_others_do_not(X):
    on_torus, flat = small(latent="torus").fit(X), small().fit(X)
    assert on_torus.harmonic_order_ == 2
    assert [
        module for module in on_torus.decoder_.modules() if isinstance(module, harmonics.TorusBasis)
    ]
    assert not [
        module for module in flat.decoder_.modules() if isinstance(module, harmonics.TorusBasis)
    ]
    Z = on_torus.transform(X)
    np.testing.assert_allclose(
        on_torus.inverse_transform(Z + np.array([-3, 2])), on_torus.inverse_transform(Z), atol=1e-4
    )


def test_scoring_on_the_torus_keeps_windings_within_the_memory_of_a_chunk(X, monkeypatch):
    """All points of a chunk of rows, unwound, are about what a chunk may take."""
    model = small(n_components=3, latent="torus", max_iter=1).fit(X)
    sizes, plain = [], proposals.DiagonalNormal.log_prob

    def recorded(self, z):
        sizes.append(z.numel() * z.itemsize)
        return plain(self, z)

    monkeypatch.setattr(proposals.DiagonalNormal, "log_prob", recorded)
    for method in ("importance", "elbo"):
        sizes.clear()
        model.score_samples(X, method, 101)
        assert max(sizes) <= 2**24
        assert sum(sizes) == 101 * 101 * 125 * 3 * 8
