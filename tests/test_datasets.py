"""The densities of one latent dimension: normalised, equal to Monte Carlo, and not identifiable."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import cKDTree

from skqlvm.datasets import DENSITIES, make_density


@pytest.fixture(params=sorted(DENSITIES))
def density(request):
    return make_density(request.param)


def test_density_integrates_to_one_over_a_grid(density):
    """Where a decoded point is within seven standard deviations; elsewhere there is nothing."""
    means = density.decode(np.linspace(-6, 6, 20_001))
    std = density.noise_variance**0.5
    low, high, step = means.min(0) - 7 * std, means.max(0) + 7 * std, 1.4 * std
    axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    near = cKDTree(means).query(grid, distance_upper_bound=7 * std)[0] < np.inf
    total = np.exp(density.log_density(grid[near])).sum() * step**2
    assert total == pytest.approx(1, abs=1e-3)


def test_log_density_equals_a_loop_over_draws_of_the_latent_point(density):
    X = density.sample(12, 1)
    z = np.random.default_rng(0).standard_normal(20_000)
    law = stats.multivariate_normal([0, 0], density.noise_variance)
    for x, nats in zip(X, density.log_density(X), strict=True):
        p = law.pdf(x - density.decode(z))
        error = p.std() / p.mean() / len(z) ** 0.5
        assert nats == pytest.approx(np.log(p.mean()), abs=4.5 * error + 1e-6)


def test_other_decoder_differs_and_induces_the_same_density(density):
    z = np.random.default_rng(0).standard_normal(20_000)
    away = np.abs(density.decode(z) - density.decode_otherwise(z)).max(1)
    assert (away > density.noise_variance**0.5).mean() > 0.3
    X = density.sample(100, 2)
    other = density.log_density(X, density.decode_otherwise)
    np.testing.assert_allclose(other, density.log_density(X), atol=2e-3)


def test_other_latent_points_are_standard_normal_too(density):
    """A decoder of an image of z: where the image is normal, the density is the same."""
    z = np.random.default_rng(0).standard_normal(4000)
    for column in (0, 1):
        first, second = (f(z)[:, column] for f in (density.decode, density.decode_otherwise))
        assert stats.ks_2samp(first, second).pvalue > 1e-3


def test_draws_are_decoded_latent_points_and_noise(density):
    X, z = density.sample(5000, 3, return_latent=True)
    noise = X - density.decode(z)
    assert noise.var() == pytest.approx(density.noise_variance, rel=0.06)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(density.sample(5000, 3), X)


def test_score_of_draws_is_above_that_of_draws_from_elsewhere(density):
    """Gibbs' inequality, against a normal of the same mean and covariance."""
    X = density.sample(400, 4)
    normal = stats.multivariate_normal(X.mean(0), np.cov(X.T))
    assert density.log_density(X).mean() > normal.logpdf(X).mean()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda circle: circle.sample(0), ValueError, "n_samples expects an integer"),
        (lambda circle: circle.sample(2.5), TypeError, "n_samples expects an integer"),
        (lambda circle: circle.log_density(np.zeros((3, 1))), ValueError, "points of 2 numbers"),
        (lambda circle: circle.log_density([[np.nan, 0.0]]), ValueError, "contains NaN"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(make_density("circle"))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"name expects one of .*'circle'.* but got 'square'"):
        make_density("square")
