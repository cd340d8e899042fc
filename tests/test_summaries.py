"""Summaries, draws and densities of posteriors: von Mises and normal closed forms, narrow ones too,
and integrals by fine grids."""

from math import log, pi

import pytest
import torch
from scipy.special import ive
from scipy.stats import norm
from test_refinement import narrow_model, variance_of

from skqlvm.engine import lattices, posteriors, quadrature, refinement, summaries, torus
from skqlvm.engine.priors import StandardNormal, UniformTorus


def posterior_on_torus(k, m, variance, generator, n=11):
    """Posteriors of circles, with local lattices where they are narrow; and the rows."""
    model, x = narrow_model(k, variance, generator, n)
    with torch.no_grad():
        [chart] = quadrature.charts(model, lattices.lattice(k, m))
        log_w = refinement.log_weights(model, chart, x)
        total, parts = refinement.refine(model, chart, x, log_w.clone())
    points = summaries.Points.of(UniformTorus(), lattices.lattice(k, m))
    return summaries.Posterior(points, log_w, total, parts), x


def posterior_on_line(mean, std, m=2**12):
    """The posterior of a normal likelihood that makes it N(mean, std^2)."""
    points = summaries.Points.of(StandardNormal(), quadrature.nested_points(1, m))
    log_posterior = torch.distributions.Normal(mean, std).log_prob(points.z[:, 0])
    log_w = (log_posterior - StandardNormal().log_prob(points.z) + points.log_weight)[None]
    return summaries.Posterior(points, log_w, torch.logsumexp(log_w, 1), [])


def kappas(x, k, variance):
    return (torch.hypot(x[:, :k], x[:, k:]) / variance).numpy()


@pytest.mark.parametrize("width", [0.05, 0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("k", "m"), [(1, 89), (2, 610), (3, 2039)])
def test_summary_on_the_torus_is_that_of_von_mises_however_narrow(k, m, width, generator):
    variance = variance_of(width, k, m)
    posterior, x = posterior_on_torus(k, m, variance, generator)
    found = summaries.summary(posterior)
    kappa = kappas(x, k, variance)
    resultant = torch.from_numpy(ive(1, kappa) / ive(0, kappa))
    std = (-2 * resultant.log()).sqrt() / (2 * pi)
    assert (torus.difference(found.mean, torus.from_circle(x)).abs() < 0.1 * std).all()
    torch.testing.assert_close(found.std, std, rtol=0.06, atol=0)
    divergence = kappa * resultant.numpy() - kappa - torch.from_numpy(ive(0, kappa)).log().numpy()
    torch.testing.assert_close(
        found.entropy, -torch.from_numpy(divergence).sum(1), rtol=0, atol=0.1
    )
    spacing = m ** (-1 / k)
    nearest = torus.difference(found.mode, torus.from_circle(x)).norm(dim=1)
    assert (nearest < (spacing if width > 0.5 else 1.5 * std.amax(1))).all()


def test_summary_on_the_line_is_that_of_the_normal():
    found = summaries.summary(posterior_on_line(0.7, 0.3))
    assert found.mean.item() == pytest.approx(0.7, abs=1e-6)
    assert found.std.item() == pytest.approx(0.3, abs=1e-6)
    assert found.mode.item() == pytest.approx(0.7, abs=2e-3)
    divergence = 0.5 * (0.3**2 + 0.7**2 - 1) - log(0.3)
    assert found.entropy.item() == pytest.approx(-divergence, abs=1e-6)


def test_counts_of_points_are_those_of_the_lattice(generator):
    posterior, _ = posterior_on_torus(2, 610, variance_of(0.3, 2, 610), generator)
    found, weights = summaries.summary(posterior), posteriors.responsibilities(posterior.log_w)
    torch.testing.assert_close(found.largest_weight, weights.amax(1))
    torch.testing.assert_close(found.effective_points, posteriors.effective_points(weights))


def test_row_that_says_nothing_has_entropy_zero():
    points = summaries.Points.of(UniformTorus(), lattices.lattice(2, 89))
    log_w = torch.full((3, 89), -7.0, dtype=torch.float64)
    found = summaries.summary(summaries.Posterior(points, log_w, log_w.logsumexp(1), []))
    torch.testing.assert_close(found.entropy, torch.zeros(3).double())
    assert found.std.isfinite().all()
    assert (found.std > 1).all()


@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
@pytest.mark.parametrize(("k", "m"), [(1, 89), (2, 610), (3, 2039)])
def test_draws_have_the_spread_of_the_posterior(k, m, width, generator):
    """Narrow or wide; the cell adds a twelfth of its square to the variance of resolved ones."""
    variance = variance_of(width, k, m)
    posterior, x = posterior_on_torus(k, m, variance, generator)
    z = summaries.sample(posterior, 2000, generator)
    assert z.shape == (11, 2000, k)
    assert ((z >= 0) & (z < 1)).all()
    kappa = kappas(x, k, variance)
    resultant = torch.from_numpy(ive(1, kappa) / ive(0, kappa))
    found = torus.to_circle(z).mean(1)
    spread = torch.hypot(*found.chunk(2, 1))
    cell = (m ** (-2 / k) / 12) * 2 * pi**2 if width > 0.6 else 0.0
    torch.testing.assert_close(1 - spread, 1 - resultant * (1 - cell), rtol=0.2, atol=1e-9)
    std = (-2 * resultant.log()).sqrt() / (2 * pi)
    assert (torus.difference(torus.from_circle(found), torus.from_circle(x)) < 0.2 * std).all()


def test_draws_on_the_line_follow_the_normal(generator):
    z = summaries.sample(posterior_on_line(0.7, 0.3), 5000, generator).flatten()
    quantiles = torch.tensor([0.1, 0.5, 0.9]).double()
    expected = torch.from_numpy(norm(0.7, 0.3).ppf(quantiles.numpy()))
    torch.testing.assert_close(torch.quantile(z, quantiles), expected, rtol=0, atol=0.03)
    assert len(z.unique()) == 5000


def test_draws_from_one_point_fill_its_cell_evenly(generator):
    """Uniform in the cell: moved back to its coordinates in the basis, uniform in (-1/2, 1/2)."""
    u = lattices.lattice(2, 13)
    points = summaries.Points.of(UniformTorus(), u)
    log_w = torch.full((1, 13), -1e9, dtype=torch.float64)
    log_w[0, 5] = 0.0
    posterior = summaries.Posterior(points, log_w, log_w.logsumexp(1), [])
    z = summaries.sample(posterior, 4000, generator)[0]
    inside = torus.difference(z, u[5]) @ torch.linalg.inv(lattices.basis(u))
    assert inside.abs().max() <= 0.5 + 1e-9
    for column in inside.unbind(1):
        histogram = torch.histc(column, 5, -0.5, 0.5)
        assert ((histogram - 800).abs() < 5 * 800**0.5).all()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("prior", [UniformTorus(), StandardNormal()], ids=["torus", "normal"])
def test_density_integrates_to_one(prior, k, generator):
    m = 64
    points = summaries.Points.of(prior, quadrature.nested_points(k, m))
    weights = torch.rand(m, dtype=torch.float64, generator=generator) ** 4
    weights = weights / weights.sum()
    n = 2000 if k == 1 else 400
    if prior.period is None:
        axis = torch.linspace(-10, 10, n + 1, dtype=torch.float64)[:-1] + 10 / n
        volume = (20 / n) ** k
    else:
        axis = torch.arange(n, dtype=torch.float64) / n
        volume = n**-k
    grid = torch.cartesian_prod(*[axis] * k).view(-1, k)
    density = summaries.density(points, weights, grid)
    assert (density >= 0).all()
    assert (density.sum() * volume).item() == pytest.approx(1.0, abs=1e-6)


def test_density_of_a_uniform_aggregate_is_the_prior(generator):
    for prior in (UniformTorus(), StandardNormal()):
        points = summaries.Points.of(prior, quadrature.nested_points(2, 256))
        weights = torch.softmax(points.log_weight, 0)
        z = prior.quantile(torch.rand(50, 2, dtype=torch.float64, generator=generator))
        z = z[(z.abs() < 1.5).all(1)]
        found = summaries.density(points, weights, z)
        torch.testing.assert_close(found, prior.log_prob(z).exp(), rtol=0.05, atol=0)


def test_density_is_periodic(generator):
    points = summaries.Points.of(UniformTorus(), lattices.lattice(2, 89))
    weights = torch.rand(89, dtype=torch.float64, generator=generator)
    z = torch.rand(7, 2, dtype=torch.float64, generator=generator)
    found = [summaries.density(points, weights, z + turns) for turns in (0, 1, -3)]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.999])
def test_credible_regions_are_the_smallest_sets(level, generator):
    logits = 3 * torch.randn(20, 17, dtype=torch.float64, generator=generator)
    weights = torch.softmax(logits, 1)
    inside = posteriors.credible(weights, level)
    for row, chosen in zip(weights.tolist(), inside.tolist(), strict=True):
        mass, expected = 0.0, []
        for weight, place in sorted(((w, i) for i, w in enumerate(row)), reverse=True):
            if mass < level:
                expected.append(place)
                mass += weight
        assert [i for i, is_in in enumerate(chosen) if is_in] == sorted(expected)


def test_circular_standard_deviation_of_a_wrapped_normal_is_the_normal_s():
    std = torch.tensor([1e-4, 0.01, 0.1, 0.3], dtype=torch.float64)
    resultant = torch.exp(-((2 * pi * std) ** 2) / 2)
    torch.testing.assert_close(posteriors.circular_std(resultant), std, rtol=1e-6, atol=0)
    assert posteriors.circular_std(torch.zeros(1)).isfinite().all()


@pytest.mark.parametrize("prior", [UniformTorus(), StandardNormal()], ids=["torus", "normal"])
def test_cube_is_the_inverse_of_nodes_and_its_volume(prior):
    u = quadrature.nested_points(1, 64)
    z = prior.nodes(u)[0].requires_grad_()
    again, log_det = prior.cube(z)
    torch.testing.assert_close(again, u)
    (slope,) = torch.autograd.grad(again.sum(), z)
    torch.testing.assert_close(log_det.exp(), slope[:, 0])
