"""The priors: densities, images of the cube, and quadrature over them."""

from math import cos, exp, log, pi, sin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import i0

from skqlvm.engine import lattices, priors

PRIORS = {"normal": priors.StandardNormal(), "torus": priors.UniformTorus()}
SHIFT = torch.tensor([0.382, 0.618, 0.236], dtype=torch.float64)


def lattice_of_cube(k, m=2**13):
    return lattices.shifted(lattices.nested(k, m), SHIFT[:k])


def cube(shape, generator):
    return torch.rand(shape, dtype=torch.float64, generator=generator)


@given(name=st.sampled_from(list(PRIORS)), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_log_prob_equals_scipy_on_any_leading_axes(name, k, seed):
    z = cube((7, 3, k), torch.Generator().manual_seed(seed)) * (6 if name == "normal" else 1)
    expected = (
        stats.norm.logpdf(z.numpy()).sum(-1)
        if name == "normal"
        else stats.uniform.logpdf(z.numpy()).sum(-1)
    )
    log_pz = PRIORS[name].log_prob(z)
    assert log_pz.shape == (7, 3)
    torch.testing.assert_close(log_pz, torch.from_numpy(expected), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2])
def test_density_of_the_normal_integrates_to_one_over_a_grid(k):
    line = torch.linspace(-9, 9, 181, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * k).reshape(-1, k)
    assert priors.StandardNormal().log_prob(grid).exp().sum().item() * 0.1**k == pytest.approx(
        1, abs=1e-12
    )


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", PRIORS)
def test_density_integrates_to_one_by_its_own_nodes(name, k):
    """The mean of p(z) / q(z) with q the density of the nodes, which is p(z) over the weight."""
    u = lattice_of_cube(k)
    z, log_weight = PRIORS[name].nodes(u)
    assert (z.shape, log_weight.shape) == ((len(u), k), (len(u),))
    assert log_weight.exp().mean().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_quantile_maps_the_uniform_to_the_prior(name, generator):
    u = cube((3001, 2), generator)
    expected = stats.norm.ppf(u.numpy()) if name == "normal" else u.numpy()
    z = PRIORS[name].quantile(u)
    torch.testing.assert_close(z, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    distribution = stats.norm if name == "normal" else stats.uniform
    for column in z.T:
        assert stats.kstest(column.numpy(), distribution.cdf).pvalue > 1e-3


@given(k=st.integers(1, 3), seed=st.integers(0, 99), m=st.integers(1, 60))
def test_weight_of_a_normal_node_is_the_prior_over_the_density_of_the_nodes(k, seed, m):
    """Nodes are normal quantiles, stretched; the stretch s is read off the first of them."""
    u = 0.01 + 0.98 * cube((m, k), torch.Generator().manual_seed(seed))
    z, log_weight = priors.StandardNormal().nodes(u)
    stretch = (z / torch.from_numpy(stats.norm.ppf(u.numpy()))).flatten()[0].item()
    assert stretch >= 1
    torch.testing.assert_close(
        z, torch.from_numpy(stats.norm.ppf(u.numpy(), scale=stretch)), rtol=1e-9, atol=1e-12
    )
    expected = stats.norm.logpdf(z.numpy()).sum(1) - stats.norm.logpdf(
        z.numpy(), scale=stretch
    ).sum(1)
    torch.testing.assert_close(log_weight, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_nodes_of_the_torus_are_the_points_and_weigh_the_same(generator):
    u = cube((13, 2), generator)
    z, log_weight = priors.UniformTorus().nodes(u)
    assert torch.equal(z, u)
    assert torch.equal(log_weight, torch.zeros(13, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_weighted_sums_over_normal_nodes_give_moments_of_the_normal(k):
    """Mean 0, covariance I, fourth moments 3 and 1, and the moment generating function."""
    z, log_weight = priors.StandardNormal().nodes(lattice_of_cube(k, 2**15))
    weights = log_weight.exp() / len(z)
    eye, tolerance = torch.eye(k, dtype=torch.float64), [1e-4, 1e-3, 1e-2][k - 1]
    torch.testing.assert_close(
        weights @ z, torch.zeros(k, dtype=torch.float64), rtol=0, atol=tolerance
    )
    torch.testing.assert_close(z.T * weights @ z, eye, rtol=0, atol=tolerance)
    torch.testing.assert_close((z**2).T * weights @ z**2, 1 + 2 * eye, rtol=0, atol=10 * tolerance)
    direction = torch.tensor([0.5, -0.3, 0.7], dtype=torch.float64)[:k]
    assert (weights @ (z @ direction).exp()).item() == pytest.approx(
        exp(0.5 * float(direction @ direction)), abs=tolerance
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_weighted_sums_over_torus_nodes_give_bessel_functions(k):
    z, log_weight = priors.UniformTorus().nodes(lattice_of_cube(k, 2**12))
    weights, kappa = log_weight.exp() / len(z), [0.7, 1.1, 0.4][:k]
    values = sum(
        strength * (2 * pi * z[:, axis]).cos() for axis, strength in enumerate(kappa)
    ).exp()
    expected = torch.tensor([i0(strength) for strength in kappa]).prod().item()
    assert (weights @ values).item() == pytest.approx(expected, rel=[1e-12, 1e-6, 1e-3][k - 1])


def test_wide_nodes_find_a_narrow_posterior_far_out():
    """log int N(x; z, 0.1^2) N(z; 0, 1) dz at x = 3.5 is that of N(0, 1.01)."""
    z, log_weight = priors.StandardNormal().nodes(lattice_of_cube(1, 2**10))
    likelihood = torch.from_numpy(stats.norm.logpdf(3.5, z[:, 0].numpy(), 0.1))
    nats = torch.logsumexp(likelihood + log_weight, 0).item() - log(len(z))
    assert nats == pytest.approx(stats.norm.logpdf(3.5, 0, 1.01**0.5), abs=1e-4)


@given(k=st.integers(1, 3), seed=st.integers(0, 99))
def test_euclidean_of_the_torus_does_not_see_whole_turns(k, seed):
    generator = torch.Generator().manual_seed(seed)
    z = cube((7, k), generator)
    turns = torch.randint(-3, 4, (7, k), generator=generator)
    prior = priors.UniformTorus()
    coordinates = prior.euclidean(z)
    torch.testing.assert_close(prior.euclidean(z + turns), coordinates, rtol=0, atol=1e-12)
    expected = [
        [wave(2 * pi * angle) for wave in (cos, sin) for angle in row] for row in z.tolist()
    ]
    torch.testing.assert_close(
        coordinates, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )


def test_euclidean_of_the_normal_is_itself(generator):
    z = cube((7, 3), generator)
    assert torch.equal(priors.StandardNormal().euclidean(z), z)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_follow_the_points(name, dtype, device):
    prior, u = PRIORS[name], torch.linspace(0.1, 0.9, 10, dtype=dtype, device=device).reshape(5, 2)
    for result in (prior.log_prob(u), prior.quantile(u), *prior.nodes(u), prior.euclidean(u)):
        assert (result.dtype, result.device) == (dtype, u.device)
