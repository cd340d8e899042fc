"""Derivatives and metrics of decoders, against closed forms, finite differences and sums over
data."""

from itertools import product
from math import pi

import numpy as np
import pytest
import torch
from torch import nn

from skqlvm import QLVMEmbedding, VAEEmbedding, torus
from skqlvm.engine import geometry, likelihoods, models, networks
from skqlvm.engine.priors import UniformTorus

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}


class ProductOfCircles(nn.Module):
    """Circles of given radii, a coordinate each: all cosines and then all sines."""

    def __init__(self, *radii):
        super().__init__()
        self.radii = nn.Parameter(torch.tensor(radii, dtype=torch.float64))

    def forward(self, z):
        angles = 2 * pi * z
        return torch.cat([self.radii * angles.cos(), self.radii * angles.sin()], -1)


class Cubed(torch.autograd.Function):
    """An operation without forward mode."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(context, slope):
        (x,) = context.saved_tensors
        return 3 * x**2 * slope


class WithoutForwardMode(ProductOfCircles):
    def forward(self, z):
        return Cubed.apply(super().forward(z))


class OnArrays(ProductOfCircles):
    """What it computes, torch does not see."""

    def forward(self, z):
        with torch.no_grad():
            outputs = torch.from_numpy(super().forward(z).detach().numpy() ** 3)
        return outputs


def fitted(k=2, n_features=4, **parameters):
    X = np.random.default_rng(0).random((40, n_features))
    sizes = {"n_points": 34, "n_points_eval": 55}
    return QLVMEmbedding(k, **(SMALL | sizes | parameters)).fit(X)


def known(decoder, likelihood=None):
    """An estimator whose model is known."""
    k = len(decoder.radii)
    estimator = fitted(k, 2 * k)
    likelihood = likelihoods.Gaussian(2 * k, 0.25) if likelihood is None else likelihood
    estimator._model = models.Model(k, UniformTorus(), decoder, likelihood)
    return estimator


@pytest.fixture
def Z():
    return np.random.default_rng(1).random((7, 2))


@pytest.mark.parametrize("radii", [(0.7,), (1.0, 0.5), (1.0, 2.0, 0.3)])
def test_circles_have_their_circumferences(radii):
    estimator, scales = known(ProductOfCircles(*radii)), 2 * pi * np.array(radii)
    Z = np.random.default_rng(1).random((7, len(radii))) * 5 - 2
    J = torus.jacobian(estimator, Z)
    angles = 2 * pi * Z
    eye = np.eye(len(radii))
    expected = np.concatenate(
        [-np.sin(angles)[:, :, None] * eye, np.cos(angles)[:, :, None] * eye], 1
    )
    np.testing.assert_allclose(J, expected * scales, rtol=1e-6, atol=1e-9)
    norm = np.linalg.norm(scales)
    np.testing.assert_allclose(torus.jacobian_norm(estimator, Z), norm, rtol=1e-6)
    flat = np.broadcast_to(np.diag(scales**2), (7, len(radii), len(radii)))
    np.testing.assert_allclose(torus.metric(estimator, Z), flat, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        torus.metric(estimator, Z, "fisher"), flat / 0.25, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(torus.volume_element(estimator, Z), scales.prod(), rtol=1e-6)
    np.testing.assert_allclose(
        torus.volume_element(estimator, Z, "fisher"), (2 * scales).prod(), rtol=1e-6
    )
    expected = np.abs(np.concatenate([np.sin(angles), np.cos(angles)], 1)) * np.tile(scales, 2)
    np.testing.assert_allclose(torus.sensitivity(estimator, Z), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("decoder", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson", "continuous_bernoulli"])
def test_jacobian_equals_central_differences(decoder, likelihood, Z):
    X = np.random.default_rng(0).random((40, 16))
    X = X.round() if likelihood == "poisson" else X
    shape = {"image_shape": (1, 4, 4)} if decoder == "conv" else {}
    estimator = QLVMEmbedding(
        **SMALL, **shape, decoder=decoder, likelihood=likelihood, n_points=34, n_points_eval=55
    ).fit(X)
    estimator._model.double()
    step = 1e-5 * np.eye(2)
    expected = [
        (estimator.inverse_transform(Z + move) - estimator.inverse_transform(Z - move)) / 2e-5
        for move in step
    ]
    J = torus.jacobian(estimator, Z)
    np.testing.assert_allclose(J, np.stack(expected, 2), rtol=1e-4, atol=1e-7 * np.abs(J).max())
    np.testing.assert_allclose(torus.metric(estimator, Z), J.swapaxes(1, 2) @ J)
    np.testing.assert_allclose(torus.jacobian_norm(estimator, Z), np.linalg.norm(J, axis=(1, 2)))


FAMILIES = {
    "bernoulli": likelihoods.Bernoulli,
    "continuous_bernoulli": likelihoods.ContinuousBernoulli,
    "gaussian": lambda n: likelihoods.Gaussian(n, 0.3),
    "poisson": likelihoods.Poisson,
    "negative_binomial": likelihoods.NegativeBinomial,
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_fisher_metric_counts_standard_deviations_of_the_noise(name, Z):
    """Of a feature of one parameter that is T itself: squared slopes of means over variances."""
    family, k = FAMILIES[name](4).double(), 2
    decoder = ProductOfCircles(1.0, 0.4)
    estimator = known(decoder, family)
    J = torus.jacobian(estimator, Z)
    variance = family.variance(decoder(torch.from_numpy(Z))).detach().numpy()
    expected = J.swapaxes(1, 2) @ (J / variance[:, :, None])
    G = torus.metric(estimator, Z, "fisher")
    assert G.shape == (7, k, k)
    np.testing.assert_allclose(G, expected, rtol=1e-5, atol=1e-8)


def test_fisher_metric_of_categories_is_the_variance_of_the_score(Z):
    """A sum over all rows that there can be."""
    family = likelihoods.Categorical(2, [2, 3])
    decoder = nn.Sequential(ProductOfCircles(1.0, 0.4), nn.Linear(4, family.n_outputs).double())
    decoder.radii = decoder[0].radii
    estimator = known(decoder, family)
    rows = torch.tensor(list(product(range(2), range(3))), dtype=torch.float64)
    z = torch.from_numpy(Z)
    terms = family.terms(rows)
    expected = torch.zeros(len(z), 2, 2, dtype=torch.float64)
    for i, point in enumerate(z):
        log_p = lambda p: (family.table(terms, decoder(p[None])) + terms.base[:, None])[:, 0]  # noqa: E731
        scores = torch.autograd.functional.jacobian(log_p, point)
        expected[i] = scores.T @ (log_p(point).exp()[:, None] * scores)
    G = torus.metric(estimator, Z, "fisher")
    np.testing.assert_allclose(G, expected.detach(), rtol=1e-6, atol=1e-10)
    assert not torus.jacobian(estimator, Z).any()


def test_fisher_metric_of_totals_is_that_of_the_median_total(Z):
    family = likelihoods.Multinomial(4)
    family.start(torch.tensor([[3.0, 2, 1, 4]]).double())
    estimator = known(ProductOfCircles(1.0, 0.4), family)
    J = torus.jacobian(estimator, Z)
    mean = estimator.inverse_transform(Z)
    np.testing.assert_allclose(mean.sum(1), 10)
    expected = J.swapaxes(1, 2) @ (J / mean[:, :, None])
    np.testing.assert_allclose(torus.metric(estimator, Z, "fisher"), expected, rtol=1e-6)


def test_other_ways_to_differentiate_agree_and_are_said(Z):
    exact = torch.from_numpy(Z)
    cubed = WithoutForwardMode(1.0, 0.5)
    with pytest.warns(UserWarning, match="no derivatives by forward mode .* by reverse mode"):
        J = torus.jacobian(known(cubed), Z)
    outputs, circles = ProductOfCircles(1.0, 0.5), known(ProductOfCircles(1.0, 0.5))
    slope = 3 * outputs(exact).detach().numpy() ** 2
    expected = slope[:, :, None] * torus.jacobian(circles, Z)
    np.testing.assert_allclose(J, expected, rtol=1e-10, atol=1e-12)
    with pytest.warns(UserWarning, match="nor by reverse mode .* by finite diff.*, good to"):
        J = torus.jacobian(known(OnArrays(1.0, 0.5)), Z)
    np.testing.assert_allclose(J, expected, rtol=1e-5, atol=1e-7)


def test_values_come_with_the_derivatives(Z):
    decoder, z = ProductOfCircles(1.0, 0.5), torch.from_numpy(Z)
    for way in (geometry.forward, geometry.reverse):
        values, J = way(decoder, z)
        torch.testing.assert_close(values, decoder(z))
        assert J.shape == (7, 4, 2)
        assert not values.requires_grad


def test_a_mistake_of_a_decoder_is_not_taken_for_a_missing_derivative(Z):
    class Broken(ProductOfCircles):
        def forward(self, z):
            return super().forward(z) @ z

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torus.jacobian(known(Broken(1.0, 0.5)), Z)


def test_conditions_are_told(Z):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.random((60, 3)), rng.integers(2, size=60)])
    estimator = QLVMEmbedding(**SMALL, n_points=34, n_points_eval=55, condition_columns=[3]).fit(X)
    one, other = (torus.jacobian(estimator, Z, condition=[c]) for c in (0, 1))
    mixed = torus.jacobian(estimator, Z, condition=[[0], [1], [1], [0], [1], [0], [0]])
    assert not np.allclose(one, other)
    np.testing.assert_allclose(mixed[[0, 3]], one[[0, 3]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed[[1, 2]], other[[1, 2]], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="condition expects values"):
        torus.jacobian(estimator, Z)


def test_models_with_an_encoder_have_a_geometry(Z):
    X = np.random.default_rng(0).random((40, 5))
    for latent in ("normal", "torus"):
        estimator = VAEEmbedding(2, **SMALL, latent=latent).fit(X)
        assert torus.jacobian(estimator, Z).shape == (7, 5, 2)
        estimator._model.double()
        moved = estimator.inverse_transform(Z + np.array([0, 1e-6])) - estimator.inverse_transform(
            Z
        )
        np.testing.assert_allclose(torus.jacobian(estimator, Z)[:, :, 1], moved / 1e-6, atol=1e-3)


def test_geometry_keeps_float32_and_does_not_depend_on_the_order(Z):
    estimator = fitted()
    order = np.random.default_rng(0).permutation(len(Z))
    norm = torus.jacobian_norm(estimator, Z.astype(np.float32))
    assert norm.dtype == np.float32
    np.testing.assert_allclose(torus.jacobian_norm(estimator, Z[order]), norm[order], rtol=1e-5)
    np.testing.assert_allclose(torus.jacobian_norm(estimator, Z + 3), norm, rtol=1e-5)


def test_what_is_wrong_is_said(Z):
    with pytest.raises(TypeError, match=r"expects a fitted QLVMEmbedding, .* but got list"):
        torus.jacobian([], Z)
    with pytest.raises(ValueError, match="Z has 3 columns, but latent points expects 2"):
        torus.jacobian(fitted(), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="kind expects one of"):
        torus.metric(fitted(), Z, "flat")


def test_networks_have_forward_mode():
    """Without a warning, all that an estimator builds by itself."""
    z = torch.rand(5, 2)
    with torch.no_grad():
        for decoder in (networks.MLPDecoder(2, 16), networks.ConvDecoder(2, 16, (1, 4, 4))):
            forward, backward = (way(decoder, z)[1] for way in (geometry.forward, geometry.reverse))
            torch.testing.assert_close(forward, backward, rtol=1e-4, atol=1e-5)
