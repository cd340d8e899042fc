"""The density of coordinates on the torus: sums over kernels, integrals, and held-out points."""

import numpy as np
import pytest
from scipy.special import i0e, i1e
from scipy.stats import chi2, norm, vonmises
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqlvm import torus
from skqlvm.torus import TorusDensity
from skqlvm.torus.density import concentration

KERNELS = ["von_mises", "wrapped_normal"]


def grid(k, n):
    return np.stack(np.meshgrid(*[np.arange(n) / n] * k), -1).reshape(-1, k)


def clusters(n, seed, k=2):
    """Four clusters of different widths, on both sides of the seam."""
    rng = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0, 0.2], [0.5, 0.5, 0.7], [0.5, 0.1, 0.2], [0.1, 0.6, 0.9]])[:, :k]
    label = rng.integers(4, size=n)
    widths = np.array([0.02, 0.03, 0.05, 0.02])[label, None]
    return torus.wrap(centers[label] + widths * rng.standard_normal((n, k)))


@parametrize_with_checks([TorusDensity(), TorusDensity("scott", kernel="wrapped_normal")])
def test_estimator_check_passes(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [0.03, 0.2, 0.7, "scott", "leave_one_out"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_density_integrates_to_one(kernel, bandwidth, k):
    density = TorusDensity(bandwidth, kernel=kernel).fit(clusters(9, 0, k), sample_weight=range(9))
    points = grid(k, {1: 997, 2: 97, 3: 37}[k])
    assert np.exp(density.score_samples(points)).mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("bandwidth", [0.001, 0.0159, 0.02, 0.2, 0.7])
def test_kernels_have_the_resultant_length_of_their_standard_deviation(bandwidth):
    kappa = concentration(bandwidth)
    expected = np.exp(-((2 * np.pi * bandwidth) ** 2) / 2)
    assert i1e(kappa) / i0e(kappa) == pytest.approx(expected, abs=2e-5, rel=1e-6)


def test_density_is_a_mean_of_kernels():
    Z, weights, points = clusters(9, 0), np.arange(9), clusters(5, 1)
    steps = torus.difference(points[:, None], Z)
    normal = sum(norm.pdf(steps + turn, scale=0.2) for turn in range(-5, 6))
    circular = vonmises.pdf(2 * np.pi * steps, concentration(0.2)) * 2 * np.pi
    for kernel, each in (("wrapped_normal", normal), ("von_mises", circular)):
        density = TorusDensity(0.2, kernel=kernel).fit(Z, sample_weight=weights)
        expected = np.average(each.prod(2), axis=1, weights=weights)
        np.testing.assert_allclose(np.exp(density.score_samples(points)), expected, rtol=1e-10)
        np.testing.assert_allclose(density.score(points), np.log(expected).mean())


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_equals_differences(kernel):
    density = TorusDensity(0.1, kernel=kernel).fit(clusters(9, 0))
    Z = clusters(5, 1)
    moves = 1e-6 * np.eye(2)
    expected = [(density.score_samples(Z + m) - density.score_samples(Z - m)) / 2e-6 for m in moves]
    np.testing.assert_allclose(density.gradient(Z), np.stack(expected, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_draws_are_of_the_density(kernel):
    """Counts in 64 cells, by chi-square."""
    density = TorusDensity(0.05, kernel=kernel).fit(clusters(20, 0))
    draws = density.sample(20_000, random_state=0)
    assert ((draws >= 0) & (draws < 1)).all()
    counts = np.histogram2d(*draws.T, bins=8, range=[[0, 1], [0, 1]])[0]
    mass = np.exp(density.score_samples((grid(2, 160) + 1 / 320)[:, ::-1]))
    expected = 20_000 * mass.reshape(8, 20, 8, 20).mean((1, 3)) / 64
    seen = expected > 5
    statistic = (((counts - expected) ** 2) / expected)[seen].sum()
    assert statistic < chi2.ppf(0.999, seen.sum())
    assert counts[~seen].sum() < 2 * expected[~seen].sum() + 5
    np.testing.assert_array_equal(draws, density.sample(20_000, random_state=0))


@pytest.mark.parametrize("bandwidth", ["scott", "leave_one_out", 0.05])
def test_turned_points_have_a_turned_density(bandwidth):
    Z, shift = clusters(100, 0), np.array([0.37, 5.9])
    before, after = TorusDensity(bandwidth).fit(Z), TorusDensity(bandwidth).fit(Z + shift)
    points = clusters(20, 1)
    np.testing.assert_allclose(
        after.score_samples(points + shift), before.score_samples(points), rtol=1e-3
    )


def test_weights_stand_for_repeated_points():
    Z, counts = clusters(30, 0), np.arange(30) % 3
    weighted = TorusDensity(0.05).fit(Z, sample_weight=counts)
    repeated = TorusDensity(0.05).fit(Z.repeat(counts, 0))
    points = clusters(9, 1)
    np.testing.assert_allclose(weighted.score_samples(points), repeated.score_samples(points))


@pytest.mark.parametrize("n", [200, 2500])
def test_chosen_bandwidth_is_near_the_best_for_held_out_points(n):
    """And clusters are no single one: Scott's rule loses by much."""
    train, test = clusters(n, 0), clusters(1000, 1)
    widths = np.geomspace(0.005, 0.3, 12)
    best = max(TorusDensity(width).fit(train).score(test) for width in widths)
    chosen = TorusDensity().fit(train).score(test)
    assert chosen > best - 0.03
    assert TorusDensity("scott").fit(train).score(test) < chosen - 0.3


def test_scott_is_near_the_best_for_one_cluster():
    rng = np.random.default_rng(0)
    train, test = 0.07 * rng.standard_normal((500, 2)), 0.07 * rng.standard_normal((1000, 2))
    best = max(TorusDensity(w).fit(train).score(test) for w in np.geomspace(0.005, 0.3, 12))
    assert TorusDensity("scott").fit(train).score(test) > best - 0.03
    assert TorusDensity().fit(train).score(test) > best - 0.03


def test_equal_points_and_single_ones_have_a_density():
    for Z in ([[0.3, 0.3]], [[0.3, 0.3]] * 5):
        for bandwidth in ("scott", "leave_one_out"):
            density = TorusDensity(bandwidth).fit(Z)
            assert (density.bandwidth_ > 0).all()
            assert np.isfinite(density.score_samples([[0.8, 0.8]])).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth expects a number"),
        ({"bandwidth": "silverman"}, "bandwidth expects one of .* or a number of turns"),
        ({"kernel": "box"}, "kernel expects one of"),
    ],
)
def test_what_is_wrong_is_said(parameters, message):
    with pytest.raises(ValueError, match=message):
        TorusDensity(**parameters).fit([[0.1], [0.2]])
