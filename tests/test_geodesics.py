"""Shortest paths on the torus: closed forms, and what does not change when it is laid out anew."""

from math import pi

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from skqlvm import QLVMEmbedding, VAEEmbedding, torus
from skqlvm.engine import likelihoods, models
from skqlvm.engine.priors import UniformTorus

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}


class Circles(nn.Module):
    """The product of two circles, of points that may be laid out anew."""

    def __init__(self, bent=0.0, radii=(1.0, 0.5)):
        super().__init__()
        self.radii = nn.Parameter(torch.tensor(radii, dtype=torch.float64))
        self.bent = bent

    def laid_out(self, z):
        """A smooth map of the torus to itself, which mixes coordinates and is one to one."""
        return z + self.bent * (2 * pi * z.flip(-1)).sin() / (2 * pi)

    def forward(self, z):
        angles = 2 * pi * self.laid_out(z)
        return torch.cat([self.radii * angles.cos(), self.radii * angles.sin()], -1)


class Doughnut(Circles):
    """The torus in space: the first coordinate goes around the hole."""

    def forward(self, z):
        around, tube = (2 * pi * self.laid_out(z)).unbind(-1)
        distance = self.radii[0] + self.radii[1] * tube.cos()
        parts = [distance * around.cos(), distance * around.sin(), self.radii[1] * tube.sin()]
        return torch.stack([*parts, torch.zeros_like(tube)], -1)


class Coin(nn.Module):
    """One bit, whose logit is twice a cosine."""

    def __init__(self):
        super().__init__()
        self.height = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, z):
        return self.height * (2 * pi * z).cos()


def known(decoder, k=2, n_features=4, likelihood=None):
    """An estimator whose model is known."""
    X = np.random.default_rng(0).random((40, n_features))
    estimator = QLVMEmbedding(k, **SMALL, n_points=34, n_points_eval=55).fit(X)
    likelihood = likelihoods.Gaussian(n_features, 0.25) if likelihood is None else likelihood
    estimator._model = models.Model(k, UniformTorus(), decoder, likelihood)
    return estimator


def original(decoder, points, steps=200):
    """Where points come from that a decoder lays out anew, by a fixed point."""
    points = torch.as_tensor(points, dtype=torch.float64)
    z = points
    for _ in range(steps):
        z = points - (decoder.laid_out(z) - z)
    return z.numpy()


ENDS = np.array([[0.9, 0.2], [0.2, 0.6], [0.4, 0.35], [0.05, 0.97]])


@pytest.mark.parametrize("kind", ["data", "fisher"])
@pytest.mark.parametrize("bent", [0.0, 0.5])
def test_paths_on_the_product_of_circles_are_straight_however_it_is_laid_out(kind, bent):
    """Lengths are those of angles and radii, and paths lead through the same points."""
    decoder = Circles(bent)
    estimator, Z = known(decoder), original(decoder, ENDS)
    steps = 2 * pi * np.array([1.0, 0.5]) * torus.difference(ENDS[:, None], ENDS)
    expected = np.linalg.norm(steps, axis=2) / (0.5 if kind == "fisher" else 1)
    found = torus.geodesic_distances(estimator, Z, kind=kind)
    np.testing.assert_allclose(found, expected, rtol=1e-3 if bent else 1e-6)
    coarse = torus.geodesic_distances(estimator, Z, Z[:3], kind=kind, refine=False)
    there = expected[:, :3] > 0
    ratio = coarse[there] / expected[:, :3][there]
    assert 0.999 < ratio.min() < ratio.max() < 1.05
    path, length = torus.geodesic(estimator, Z[0], Z[1], kind)
    assert length == pytest.approx(expected[0, 1], rel=1e-4 if bent else 1e-6)
    seen = decoder.laid_out(torch.from_numpy(path)).numpy()
    assert torus.distance(seen, torus.path(ENDS[0], ENDS[1], 100)).max() < 2e-3
    assert torus.distance(path[[0, -1]], Z[:2]).max() < 1e-12


@pytest.mark.parametrize("bent", [0.0, 0.3])
def test_meridians_and_the_inner_equator_of_a_doughnut(bent):
    """And from one outer point to the far one it is shorter over the inside than around."""
    decoder = Doughnut(bent, radii=(1.0, 0.6))
    estimator = known(decoder)
    ends = original(decoder, [[0.3, 0.9], [0.3, 0.2], [0.1, 0.5], [0.4, 0.5]])
    _, meridian = torus.geodesic(estimator, ends[0], ends[1], "data")
    assert meridian == pytest.approx(2 * pi * 0.6 * 0.3, rel=1e-4)
    _, equator = torus.geodesic(estimator, ends[2], ends[3], "data")
    assert equator == pytest.approx(2 * pi * 0.4 * 0.3, rel=1e-4)
    far = original(decoder, [[0.0, 0.0], [0.5, 0.0]])
    path, length = torus.geodesic(estimator, *far, "data")
    assert length < 0.99 * pi * 1.6
    speed = np.linalg.norm(np.diff(estimator.inverse_transform(path), axis=0), axis=1)
    assert speed.max() < 1.03 * speed.min()


def test_fisher_length_of_a_coin_is_its_angle():
    """``2 |asin sqrt p - asin sqrt q|``."""
    estimator = known(Coin(), 1, 1, likelihoods.Bernoulli(1))
    p, q = (1 / (1 + np.exp(-2 * np.cos(2 * pi * z))) for z in (0.95, 0.3))
    path, length = torus.geodesic(estimator, [0.95], [0.7], "fisher")
    expected = 2 * abs(np.arcsin(np.sqrt(p)) - np.arcsin(np.sqrt(q)))
    assert length == pytest.approx(expected, rel=1e-4)
    assert ((path >= 0.7) & (path <= 0.95)).all()


def test_length_through_a_density_is_an_integral():
    density = torus.TorusDensity(0.05).fit([[0.1], [0.3], [0.35]])
    _, length = torus.geodesic(density, [0.9], [0.4], "density")

    def cost(z):
        return 1 / (0.01 + 0.99 * np.exp(density.score_samples([[z]])[0]))

    expected = quad(cost, 0.9, 1.4, epsrel=1e-8)[0]
    assert length == pytest.approx(expected, rel=1e-3)


def test_paths_pass_where_points_are():
    """Points on an arch over a gap: the way from foot to foot is over the arch."""
    angles = np.linspace(0, pi, 60)
    Z = 0.5 + 0.2 * np.column_stack([np.cos(angles), np.sin(angles)])
    density = torus.TorusDensity(0.04).fit(Z)
    path, length = torus.geodesic(density, [0.3, 0.5], [0.7, 0.5], "density")
    assert torus.distance(path, [0.5, 0.5]).min() > 0.15
    straight = torus.path([0.3, 0.5], [0.7, 0.5], 1000)
    rho = 0.01 + 0.99 * np.exp(density.score_samples(straight))
    assert length < 0.5 * (0.4 * rho**-0.5).mean()
    shift = np.array([0.6, 0.45])
    moved = torus.TorusDensity(0.04).fit(Z + shift)
    path_moved, length_moved = torus.geodesic(
        moved, np.add([0.3, 0.5], shift), np.add([0.7, 0.5], shift), "density"
    )
    assert length_moved == pytest.approx(length, rel=1e-3)
    assert torus.distance(path_moved, path + shift).max() < 0.01


def test_density_of_an_estimator_is_that_of_its_rows():
    X = np.random.default_rng(0).random((40, 4))
    estimator = QLVMEmbedding(**SMALL, n_points=34, n_points_eval=55).fit(X)
    own = torus.TorusDensity(55**-0.5).fit(estimator.lattice_, None, estimator.aggregate_posterior_)
    found = [torus.geodesic(each, ENDS[0], ENDS[1], "density") for each in (estimator, own)]
    np.testing.assert_allclose(found[0][0], found[1][0])
    np.testing.assert_allclose(np.exp(own.score_samples(ENDS)), estimator.density(ENDS), rtol=0.1)


def test_flat_paths_are_straight():
    path, length = torus.geodesic(None, [0.9, 0.1], [0.1, 0.1], n_points=3)
    np.testing.assert_allclose(path, [[0.9, 0.1], [0, 0.1], [0.1, 0.1]], atol=1e-15)
    assert length == pytest.approx(0.2)
    np.testing.assert_allclose(torus.geodesic_distances(None, ENDS), torus.pairwise_distances(ENDS))


def test_many_ends_in_one_place_are_in_reach():
    Z = np.concatenate([0.3 + 1e-6 * np.random.default_rng(0).random((60, 2)), [[0.8, 0.8]]])
    found = torus.geodesic_distances(known(Circles()), Z, kind="data", refine=False)
    np.testing.assert_allclose(found[:-1, -1], np.hypot(pi, pi / 2), rtol=0.05)
    assert found[:-1, :-1].max() < 1e-4


def test_equal_ends_are_no_way_apart_and_few_points_are_enough():
    estimator = known(Circles())
    path, length = torus.geodesic(estimator, ENDS[0], ENDS[0], "data", n_points=2)
    assert length == pytest.approx(0, abs=1e-9)
    assert torus.distance(path, ENDS[0]).max() < 1e-9
    path, length = torus.geodesic(estimator, ENDS[0], ENDS[1], "data", n_points=2)
    np.testing.assert_allclose(path, ENDS[:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torus.geodesic(None, [0], [0, 1]), "one point each"),
        (lambda: torus.geodesic(None, [0], [1], "round"), "kind expects one of"),
        (lambda: torus.geodesic(known(Circles()), [0], [1], "data"), "expect 2 coordinates"),
        (lambda: torus.geodesic_distances(None, [[0]], [[0, 1]]), "B expects 1 columns"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_only_models_on_the_torus_have_ways_around_it():
    X = np.random.default_rng(0).random((40, 4))
    with pytest.raises(ValueError, match="expects a model on the torus"):
        torus.geodesic(VAEEmbedding(2, **SMALL).fit(X), ENDS[0], ENDS[1], "data")
    estimator = VAEEmbedding(2, **SMALL, latent="torus").fit(X)
    assert torus.geodesic(estimator, ENDS[0], ENDS[1], "data")[1] > 0
    with pytest.raises(TypeError, match="kind='data' expects a fitted"):
        torus.geodesic(None, ENDS[0], ENDS[1], "data")
