"""Narrow posteriors: closed forms from 0.02 to 2 spacings of the lattice, what the weights of the
mixture sum to, and that resolved posteriors are left alone."""

from math import log, pi

import pytest
import torch
from torch import nn

from skqlvm.engine import lattices, likelihoods, posteriors, quadrature, refinement, torus
from skqlvm.engine.models import Model
from skqlvm.engine.priors import UniformTorus
from skqlvm.engine.transformations import Transformations


class Circles(nn.Module):
    """The product of circles of radius 1, turned; it counts the points that it decodes."""

    def __init__(self, turn=0.0):
        super().__init__()
        self.turn = nn.Parameter(torch.tensor(turn, dtype=torch.float64))
        self.n_decoded = 0

    def forward(self, z):
        self.n_decoded += z.numel() // z.shape[-1]
        return torus.to_circle(z + self.turn)


def narrow_model(k, variance, generator, n=11, maps=None):
    """Circles under Gaussian noise, and rows of them."""
    likelihood = likelihoods.Gaussian(2 * k, variance)
    model = Model(k, UniformTorus(), Circles(), likelihood, transformations=maps).eval()
    z = torch.rand(n, k, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, 2 * k, dtype=torch.float64, generator=generator)
    return model, torus.to_circle(z) + variance**0.5 * noise


def evidence(x, k, variance):
    """log p(x) in closed form: a Bessel function for each circle."""
    radius = torch.hypot(x[:, :k], x[:, k:])
    kappa = radius / variance
    log_bessel = torch.log(torch.special.i0e(kappa)) + kappa
    return (-log(2 * pi * variance) - (radius**2 + 1) / (2 * variance) + log_bessel).sum(1)


def scored(model, points, rows, factored=False):
    with torch.no_grad():
        [chart] = quadrature.charts(model, points, factored=factored)
        return refinement.refined_log_marginal(model, chart, rows)


def variance_of(width, k, m):
    """Noise under which posteriors have a standard deviation of `width` spacings."""
    return (2 * pi * width * m ** (-1 / k)) ** 2


@pytest.mark.parametrize("width", [0.02, 0.1, 0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(("k", "m"), [(1, 89), (2, 610), (3, 2039)])
def test_refined_marginal_is_the_closed_form_however_narrow_the_posterior(k, m, width, generator):
    variance = variance_of(width, k, m)
    model, x = narrow_model(k, variance, generator, n=23)
    found = scored(model, lattices.lattice(k, m), [x[:5], x[5:]])
    assert (found - evidence(x, k, variance)).abs().max() < 0.05


@pytest.mark.parametrize("factored", [False, True])
def test_refined_marginal_is_unbiased_over_shifts(factored, generator):
    """The mean of p(x) over shifts, of lattice and local lattices together, relative to p(x)."""
    variance = variance_of(0.4, 2, 144)
    model, x = narrow_model(2, variance, generator)
    exact, ratios = evidence(x, 2, variance), []
    for _ in range(200):
        points = lattices.shifted(lattices.lattice(2, 144), lattices.random_shift(2, generator))
        ratios.append((scored(model, points, [x], factored) - exact).exp())
    ratios = torch.stack(ratios)
    error = ratios.std(0) / 200**0.5
    assert error.max() < 0.01
    assert ((ratios.mean(0) - 1).abs() < 4 * error + 1e-9).all()


@pytest.mark.parametrize(("k", "m", "variance"), [(1, 89, 0.1), (2, 610, 0.1), (2, 6765, 0.02)])
def test_posteriors_that_the_lattice_resolves_are_left_alone(k, m, variance, generator):
    model, x = narrow_model(k, variance, generator)
    found = scored(model, lattices.lattice(k, m), [x])
    assert model.decoder.n_decoded == m
    torch.testing.assert_close(found, evidence(x, k, variance), rtol=0, atol=1e-6)


def ridge(a, b, angle):
    """Log weights, over a lattice, of a normal with standard deviations of a and b spacings."""
    points, m = lattices.lattice(2, 610), 610
    z = m**0.5 * torus.difference(points, torch.tensor([0.503, 0.497]))
    turned = torch.stack([z @ torch.tensor(v).double() for v in _axes(angle)], 1)
    log_w = -0.5 * (turned / torch.tensor([a, b])).square().sum(1)
    peaks, index = torch.log_softmax(log_w, 0).topk(32)
    return peaks[None], points[index][None]


def _axes(angle):
    t = torch.tensor(angle)
    return [[t.cos().item(), t.sin().item()], [-t.sin().item(), t.cos().item()]]


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.1, 2.4])
@pytest.mark.parametrize(
    ("widths", "narrow"),
    [((0.3, 0.3), True), ((0.2, 1.2), True), ((0.35, 1.5), True), ((1.0, 1.0), False)],
)
def test_narrow_is_what_is_narrow_in_some_direction(widths, narrow, angle):
    assert refinement.is_narrow(*ridge(*widths, angle), 610).item() is narrow


def test_several_narrow_peaks_are_narrow_together():
    """Though they rest on more points than a single resolved one."""
    one, points = ridge(0.3, 0.3, 0.0)
    log_w = torch.cat([one - log(5)] * 5, 1)
    away = torch.tensor([[0.0, 0.0], [0.3, 0.1], [0.6, 0.2], [0.1, 0.5], [0.4, 0.4]]).double()
    moved = (points + away[:, None]).flatten(0, 1)[None]
    assert torch.exp(-torch.logsumexp(2 * log_w, 1)) > 2.13**2
    assert refinement.is_narrow(log_w, moved, 610).item()


def test_all_weights_of_a_row_sum_to_its_evidence(generator):
    variance = variance_of(0.2, 2, 610)
    model, x = narrow_model(2, variance, generator)
    with torch.no_grad():
        [chart] = quadrature.charts(model, lattices.lattice(2, 610))
        log_w = refinement.log_weights(model, chart, x)
        total, [part] = refinement.refine(model, chart, x, log_w.clone())
    assert part.rows.tolist() == list(range(11))
    weights = log_w.scatter(1, part.places, part.log_w)
    together = torch.cat([weights, part.local_log_w.flatten(1)], 1)
    torch.testing.assert_close(torch.logsumexp(together, 1), total)
    base = model.likelihood.terms(x).base - log(610)
    assert (total + base - evidence(x, 2, variance)).abs().max() < 0.05
    probabilities = posteriors.responsibilities(together)
    points = torch.cat([chart.points.expand(11, -1, -1), part.z.flatten(1, 2)], 1)
    direction = (probabilities[:, :, None] * torus.to_circle(points)).sum(1)
    turns = torus.difference(torus.from_circle(direction), torus.from_circle(x))
    assert turns.abs().max() < 0.1 * variance**0.5


def test_rows_are_scored_for_themselves(generator):
    variance = variance_of(0.3, 2, 233)
    model, x = narrow_model(2, variance, generator)
    points = lattices.lattice(2, 233)
    together = scored(model, points, [x])
    one_by_one = torch.cat([scored(model, points, [row[None]]) for row in x])
    torch.testing.assert_close(together, one_by_one, rtol=1e-10, atol=1e-10)


def test_copies_of_rows_are_refined_each(generator):
    """A row of exchanged coordinates has the mean of the evidences of both."""
    maps = Transformations(torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]))
    variance = variance_of(0.3, 2, 610)
    model, x = narrow_model(2, variance, generator, maps=maps)
    exact = evidence(x, 2, variance)
    assert (scored(model, lattices.lattice(2, 610), [x]) - exact).abs().max() < 0.05


def test_local_lattices_are_shifted_with_the_lattice():
    points = lattices.lattice(2, 13)
    still = refinement.local_noise(points)
    moved = refinement.local_noise(lattices.shifted(points, torch.tensor([0.1, 0.2])))
    assert still.shape == (64, 2)
    assert still.isfinite().all()
    steps = torch.special.ndtr(moved) - torch.special.ndtr(still)
    shift = torch.tensor([0.1, 0.2]).double()
    torch.testing.assert_close(torus.wrap(steps), shift.expand(64, 2))
