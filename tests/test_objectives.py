"""What is maximised: closed forms of known decoders, a NumPy model, chunks, Fisher's identity,
bounds from draws and their errors, and the distance of codes from a prior."""

from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive, logsumexp
from torch import nn

from skqlvm.engine import (
    harmonics,
    lattices,
    likelihoods,
    networks,
    objectives,
    posteriors,
    proposals,
)
from skqlvm.engine.models import Draws
from skqlvm.engine.priors import StandardNormal, UniformTorus

CIRCLE_X = torch.tensor([[0.6, 0.3]], dtype=torch.float64)
CIRCLE_NATS = -1.9273756194246134
TORUS_X = torch.tensor([[0.6, 0.3, -0.2, 0.4]], dtype=torch.float64)
TORUS_NATS = -2.7196615898780214

SQUARE = [name for name in likelihoods.FAMILIES if name not in ("categorical", "multinomial")]
"""Families with an output and a log-normaliser for each feature."""


def rings(z, radii=(1.0, 0.5)):
    """A circle for each coordinate: (r_1 cos, r_1 sin, r_2 cos, r_2 sin, ...)."""
    angles, radii = 2 * pi * z, torch.tensor(radii[: z.shape[1]]).to(z)
    return torch.stack([radii * angles.cos(), radii * angles.sin()], -1).flatten(1)


def nats_table(likelihood, x, outputs):
    """The table of log p(x_i | z_j), with all that it owes to the row."""
    terms = likelihood.terms(x)
    return likelihood.table(terms, outputs) + terms.base[:, None]


def ring_table(x, variance=0.1):
    likelihood = likelihoods.Gaussian(x.shape[1], variance)
    return lambda z: nats_table(likelihood, x, rings(z))


def ring_nats(x, variance=0.1, radii=(1.0, 0.5)):
    """The closed form: a Bessel function for each circle."""
    total = 0.0
    for pair, radius in zip(x.reshape(len(x), -1, 2).numpy().swapaxes(0, 1), radii, strict=False):
        length = np.linalg.norm(pair, axis=1)
        kappa = radius * length / variance
        total = (
            total
            - log(2 * pi * variance)
            - (length**2 + radius**2) / (2 * variance)
            + np.log(ive(0, kappa))
            + kappa
        )
    return torch.tensor(total)


def shifts(n, k, generator):
    return [lattices.random_shift(k, generator) for _ in range(n)]


def errors_over_shifts(x, m, n, generator):
    """Errors of the bound over random shifts of the lattice; the table is ring_table's."""
    points, table, exact = lattices.lattice(x.shape[1] // 2, m), ring_table(x), ring_nats(x)
    bounds = [
        objectives.lattice_bound(table, lattices.shifted(points, shift))
        for shift in shifts(n, points.shape[1], generator)
    ]
    return torch.stack(bounds) - exact


# log_mean_exp


@given(
    n=st.integers(1, 7),
    m=st.integers(1, 60),
    scale=st.sampled_from([1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_log_mean_exp_equals_scipy(n, m, scale, seed):
    log_w = scale * torch.randn(
        n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    for dim in (0, 1, -1):
        expected = logsumexp(log_w.numpy(), axis=dim) - log(log_w.shape[dim])
        torch.testing.assert_close(
            objectives.log_mean_exp(log_w, dim), torch.tensor(expected), rtol=1e-13, atol=1e-12
        )
    assert objectives.log_mean_exp(log_w).shape == (n,)


def test_log_mean_exp_of_equal_weights_is_their_value_whatever_their_number():
    for m in (1, 7, 610):
        torch.testing.assert_close(
            objectives.log_mean_exp(torch.full((3, m), -1e5, dtype=torch.float64)),
            torch.full((3,), -1e5).double(),
        )


def test_log_mean_exp_takes_impossible_points():
    log_w = torch.tensor(
        [[0.0, -float("inf")], [-float("inf"), -float("inf")]], dtype=torch.float64
    )
    torch.testing.assert_close(
        objectives.log_mean_exp(log_w), torch.tensor([-log(2), -float("inf")], dtype=torch.float64)
    )


# closed forms


@given(
    k=st.integers(1, 3),
    m=st.integers(1, 99),
    seed=st.integers(0, 99),
    name=st.sampled_from(SQUARE),
)
def test_constant_decoder_gives_its_own_likelihood_on_every_lattice(k, m, seed, name):
    """No size of the lattice changes it: log p(x) = log p(x | mean)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, dtype=torch.float64, generator=generator)
    likelihood = likelihoods.FAMILIES[name](3)
    likelihood.start(x)
    constant = torch.randn(1, 3, dtype=torch.float64, generator=generator)
    points = lattices.shifted(lattices.lattice(k, m), lattices.random_shift(k, generator))
    table = nats_table(likelihood, x, constant.expand(len(points), 3))
    torch.testing.assert_close(
        objectives.log_mean_exp(table),
        nats_table(likelihood, x, constant)[:, 0],
        rtol=0,
        atol=1e-12,
    )
    weights = posteriors.responsibilities(table)
    torch.testing.assert_close(
        weights, torch.full((5, m), 1 / m, dtype=torch.float64), rtol=1e-12, atol=0
    )
    mean, resultant = posteriors.mean_direction(weights, points)
    assert mean.isfinite().all()
    assert m == 1 or resultant.max() < 1e-12


def test_printed_values_are_the_closed_forms():
    assert ring_nats(CIRCLE_X).item() == pytest.approx(CIRCLE_NATS, abs=1e-14)
    assert ring_nats(TORUS_X).item() == pytest.approx(TORUS_NATS, abs=1e-14)


@pytest.mark.parametrize(("m", "worst"), [(8, 2.03e-2), (16, 3.65e-7), (32, 0.0)])
def test_bound_on_the_circle_converges_like_the_trapezoid_rule(m, worst):
    """Largest error over all shifts, by an even grid of them."""
    grid = torch.arange(200, dtype=torch.float64) / 200 / m
    bounds = [
        objectives.lattice_bound(
            ring_table(CIRCLE_X), lattices.shifted(lattices.lattice(1, m), shift[None])
        )
        for shift in grid
    ]
    assert (torch.stack(bounds) - CIRCLE_NATS).abs().max().item() == pytest.approx(
        worst, rel=0.01, abs=1e-14
    )


@given(seed=st.integers(0, 999), m=st.sampled_from([97, 233]))
def test_bound_on_the_circle_is_the_bessel_form(seed, m):
    x = 1.5 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    bound = objectives.lattice_bound(ring_table(x), lattices.lattice(1, m))
    torch.testing.assert_close(bound, ring_nats(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m", "rms"), [(55, 2.1e-3), (89, 1.0e-4), (144, 4e-7)])
def test_bound_on_the_product_torus_has_the_published_rms(m, rms, generator):
    assert errors_over_shifts(
        TORUS_X, m, 50, generator
    ).square().mean().sqrt().item() == pytest.approx(rms, rel=0.3)


def test_bound_on_the_product_torus_is_exact_at_610_where_plain_monte_carlo_is_rough(generator):
    assert errors_over_shifts(TORUS_X, 610, 20, generator).abs().max() < 1e-12
    table = ring_table(TORUS_X)
    draws = [torch.rand(610, 2, dtype=torch.float64, generator=generator) for _ in range(60)]
    plain = torch.stack([objectives.lattice_bound(table, z) for z in draws]) - TORUS_NATS
    assert plain.square().mean().sqrt().item() == pytest.approx(0.14, rel=0.4)


@pytest.mark.parametrize("m", [610, 6765])
def test_float32_pipeline_is_precise_on_large_lattices(m, generator, device):
    points, table = (
        lattices.lattice(2, m, torch.float32).to(device),
        ring_table(TORUS_X.float().to(device)),
    )
    for shift in [torch.zeros(2), *shifts(5, 2, generator)]:
        bound = objectives.lattice_bound(table, lattices.shifted(points, shift))
        assert bound.dtype == torch.float32
        assert bound.item() == pytest.approx(TORUS_NATS, abs=1e-4)


@given(m=st.integers(3, 99), rho=st.floats(0, 0.95), shift=st.floats(0, 1, exclude_max=True))
def test_trigonometric_coins_are_integrated_exactly(m, rho, shift):
    """Two equal pixels of probability (1 + rho cos 2 pi z) / 2 are both on with probability (1 +
    rho^2 / 2) / 4."""
    points = lattices.shifted(lattices.lattice(1, m), torch.tensor([shift], dtype=torch.float64))
    probability = (0.5 * (1 + rho * (2 * pi * points).cos())).expand(m, 2)
    ones = torch.ones(1, 2, dtype=torch.float64)
    both_on = nats_table(likelihoods.Bernoulli(2), ones, torch.logit(probability))
    assert objectives.log_mean_exp(both_on).exp().item() == pytest.approx(
        0.25 * (1 + rho**2 / 2), abs=1e-14
    )


@pytest.mark.parametrize("m", [3, 5, 610])
def test_trigonometric_coins_have_the_printed_probability(m, generator):
    for shift in shifts(10, 1, generator):
        points = lattices.shifted(lattices.lattice(1, m), shift)
        logits = torch.logit(0.5 * (1 + 0.8 * (2 * pi * points).cos())).expand(m, 2)
        both_on = nats_table(likelihoods.Bernoulli(2), torch.ones(1, 2).double(), logits)
        assert objectives.log_mean_exp(both_on).exp().item() == pytest.approx(0.33, abs=1e-15)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("q", [1, 305, 377])
def test_step_decoder_is_integrated_exactly_for_every_shift(axis, q, generator):
    """Two constant pieces with a border at a multiple of 1 / m: as many points on each side as its
    share of the torus."""
    first, second = 0.9, 0.2
    expected = q / 610 * first + (1 - q / 610) * second
    for shift in shifts(50, 2, generator):
        points = lattices.shifted(lattices.lattice(2, 610), shift)
        probability = second + (first - second) * (points[:, axis : axis + 1] < q / 610).double()
        on = torch.ones(1, 1, dtype=torch.float64)
        table = nats_table(likelihoods.Bernoulli(1), on, torch.logit(probability))
        assert objectives.log_mean_exp(table).exp().item() == pytest.approx(expected, abs=1e-13)


# shifts


def test_mean_bound_over_shifts_rises_with_the_lattice_and_stays_below_log_p():
    """Over an even grid of shifts the mean of p(x) is exact, so that Jensen's inequality holds
    without noise."""
    table, means = ring_table(CIRCLE_X), []
    for m in (4, 8, 16):
        grid = torch.arange(200, dtype=torch.float64) / 200 / m
        bounds = [
            objectives.lattice_bound(table, lattices.shifted(lattices.lattice(1, m), shift[None]))
            for shift in grid
        ]
        means.append(torch.stack(bounds).mean().item())
    assert means[0] < means[1] - 1e-3
    assert means[1] < means[2] - 1e-6
    assert means[2] < CIRCLE_NATS + 1e-13


def test_bound_of_random_shifts_is_below_log_p_and_unbiased_for_p(generator):
    errors = errors_over_shifts(CIRCLE_X, 4, 400, generator)
    ratios = errors.exp()
    assert errors.mean() < -3 * errors.std() / 20
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / 20


# chunks


def model(generator, n=7, d=5):
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    torch.manual_seed(0)
    decoder, likelihood = (
        networks.MLPDecoder(2, d, (11,), 2).double(),
        likelihoods.Gaussian(d, "diagonal").double(),
    )
    likelihood.start(x)
    return x, decoder, likelihood, [*decoder.parameters(), *likelihood.parameters()]


@given(m=st.sampled_from([13, 23]), chunk_size=st.integers(1, 29), seed=st.integers(0, 99))
def test_chunked_bound_equals_one_pass_in_value_and_gradient(m, chunk_size, seed):
    generator = torch.Generator().manual_seed(seed)
    x, decoder, likelihood, parameters = model(generator)
    points = lattices.shifted(lattices.lattice(2, m), lattices.random_shift(2, generator))
    row_weights = torch.rand(7, dtype=torch.float64, generator=generator)

    def bound_and_gradient(chunk_size):
        bound = objectives.lattice_bound(
            lambda z: nats_table(likelihood, x, decoder(z)), points, chunk_size
        )
        return bound.detach(), torch.autograd.grad(bound @ row_weights, parameters)

    (bound, gradient), (expected, expected_gradient) = (
        bound_and_gradient(chunk_size),
        bound_and_gradient(None),
    )
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-10)
    for one, other in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_chunked_bound_decodes_twice_and_never_more_than_a_chunk(generator):
    x, decoder, likelihood, _ = model(generator)
    points, sizes = lattices.lattice(2, 34), []

    def table(z):
        sizes.append(len(z))
        return nats_table(likelihood, x, decoder(z))

    bound = objectives.lattice_bound(table, points, 5)
    assert sizes == [5] * 6 + [4]
    bound.mean().backward()
    assert sorted(sizes) == [4] * 2 + [5] * 12


def test_chunked_bound_needs_no_gradient(generator):
    x, decoder, likelihood, _ = model(generator)
    points = lattices.lattice(2, 34)
    with torch.no_grad():
        table = nats_table(likelihood, x, decoder(points))
        bound = objectives.lattice_bound(lambda z: nats_table(likelihood, x, decoder(z)), points, 5)
    assert not bound.requires_grad
    torch.testing.assert_close(bound, objectives.log_mean_exp(table), rtol=0, atol=1e-12)


def test_chunked_bound_of_coarse_products_is_that_of_one_pass(generator, device, coarse):
    x = torch.randn(7, 5, generator=generator).to(device)
    decoder, likelihood = (
        networks.MLPDecoder(2, 5, (11,), 2).to(device),
        likelihoods.Gaussian(5).to(device),
    )
    points, results = lattices.lattice(2, 34, torch.float32).to(device), []
    for chunk_size in (5, None):
        bound = objectives.lattice_bound(
            lambda z: nats_table(likelihood, x, decoder(z)), points, chunk_size
        )
        gradient = torch.autograd.grad(bound.mean(), decoder.parameters())
        results.append((bound.detach(), torch.cat([g.flatten() for g in gradient])))
    (bound, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-4)
    assert (gradient - expected_gradient).norm() < 0.02 * expected_gradient.norm()


def test_bound_of_a_row_does_not_depend_on_the_others(generator):
    x, decoder, likelihood, _ = model(generator)
    points = lattices.lattice(2, 34)
    together = objectives.lattice_bound(lambda z: nats_table(likelihood, x, decoder(z)), points)
    order = torch.tensor([3, 0, 6, 5])
    apart = objectives.lattice_bound(lambda z: nats_table(likelihood, x[order], decoder(z)), points)
    torch.testing.assert_close(apart, together[order], rtol=0, atol=1e-12)


def test_bound_does_not_depend_on_the_order_of_points(generator):
    x, decoder, likelihood, _ = model(generator)
    points = lattices.lattice(2, 34)
    permuted = points[torch.randperm(34, generator=generator)]
    bounds = [
        objectives.lattice_bound(lambda z: nats_table(likelihood, x, decoder(z)), z, 5)
        for z in (points, permuted)
    ]
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-12)


# gradients


@given(
    n=st.integers(1, 7),
    d=st.integers(1, 5),
    m=st.integers(1, 34),
    seed=st.integers(0, 99),
    name=st.sampled_from(SQUARE),
)
def test_gradient_of_the_bound_is_fishers_identity(n, d, m, seed, name):
    """d(mean bound) / d(eta) = (W^T T(x) - sum(W) A'(eta)) / n, with W the responsibilities and
    A' the mean of T."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = likelihoods.FAMILIES[name](d).requires_grad_(False)
    x = torch.rand(n, d, dtype=torch.float64, generator=generator)
    outputs = torch.randn(m, d, dtype=torch.float64, generator=generator).requires_grad_()
    table = nats_table(likelihood, x, outputs)
    (gradient,) = torch.autograd.grad(objectives.log_mean_exp(table).mean(), outputs)
    weights, eta = posteriors.responsibilities(table.detach()), likelihood.natural(outputs)
    slope = likelihood.statistics(likelihood.mean(outputs.detach()))
    by_eta = (weights.T @ likelihood.statistics(x) - weights.sum(0)[:, None] * slope) / n
    (expected,) = torch.autograd.grad(eta, outputs, by_eta)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("noise_variance", ["spherical", "diagonal"])
def test_nats_and_gradients_of_training_have_no_units(noise_variance, generator):
    """In float32, of data, of their double and of sixteen times them: what depends on units is
    added after the log-sum-exp."""
    x, decoder, _, _ = model(generator)
    decoder, points, results = decoder.float(), lattices.lattice(2, 34, torch.float32), []
    for factor in (1, 2, 16):
        likelihood = likelihoods.Gaussian(5, noise_variance)
        likelihood.start(factor * x)
        terms = likelihood.terms((factor * x).float())
        bound = objectives.log_mean_exp(likelihood.table(terms, decoder(points)))
        parameters = [*decoder.parameters(), likelihood.slow_log_noise]
        gradient = torch.autograd.grad((bound + terms.base).mean(), parameters)
        results.append((bound.detach(), *gradient))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


# the whole model


def numpy_model(x, decoder, variance, scale, m, vector):
    """Nats and mean directions; Bernoulli where the variance is None."""
    z = np.outer(np.arange(m), vector) % m / m
    basis = next(module for module in decoder.modules() if isinstance(module, harmonics.TorusBasis))
    *hidden, (w, b) = [
        (u.weight.numpy(), u.bias.numpy()) for u in decoder.modules() if isinstance(u, nn.Linear)
    ]
    h = np.exp(2j * pi * z @ basis.harmonics.numpy().T)
    h = np.hstack([h.real, h.imag]) * basis.scales.numpy()
    for u, c in hidden:
        h = np.maximum(h @ u.T + c, 0)
    f, center = h @ w.T + b, x.mean(0)
    if variance is None:
        p = 1 / (1 + np.exp(-f) * (1 - center) / center)
        log_px_z = (x[:, None] * np.log(p) + (1 - x[:, None]) * np.log(1 - p)).sum(2)
    else:
        residuals = x[:, None] - center - scale * f
        log_px_z = -0.5 * (residuals**2 / variance + np.log(2 * pi * variance)).sum(2)
    weights = np.exp(log_px_z - logsumexp(log_px_z, axis=1, keepdims=True))
    return (
        logsumexp(log_px_z, axis=1) - log(m),
        np.angle(weights @ np.exp(2j * pi * z)) / (2 * pi) % 1,
        weights,
    )


@given(
    name=st.sampled_from(["bernoulli", "spherical", "diagonal", 0.3]),
    n=st.integers(2, 13),
    d=st.integers(1, 5),
    k=st.integers(1, 3),
    m=st.integers(1, 60),
    order=st.integers(1, 3),
    hidden_layer_sizes=st.sampled_from([(), (7,), (11, 13)]),
    seed=st.integers(0, 999),
)
def test_model_equals_a_page_of_numpy(name, n, d, k, m, order, hidden_layer_sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    x = 0.05 + 0.9 * torch.rand(n, d, dtype=torch.float64, generator=generator)
    likelihood = likelihoods.Bernoulli(d) if name == "bernoulli" else likelihoods.Gaussian(d, name)
    likelihood.start(x)
    torch.manual_seed(seed)
    with torch.no_grad():
        decoder = networks.MLPDecoder(k, d, hidden_layer_sizes, order).double()
        for parameter in likelihood.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        points = lattices.lattice(k, m)
        table = nats_table(likelihood, x, decoder(points))
        weights = posteriors.responsibilities(table)
        nats = objectives.lattice_bound(lambda z: nats_table(likelihood, x, decoder(z)), points, 17)
        direction, resultant = posteriors.mean_direction(weights, points)
        noise = [None, None]
        if name != "bernoulli":
            noise = [likelihood.noise_variance().numpy(), likelihood.scale.numpy()]
        vector = lattices.generating_vector(k, m)
        expected = numpy_model(x.numpy(), decoder, *noise, m, vector)
    torch.testing.assert_close(nats, torch.tensor(expected[0]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights, torch.tensor(expected[2]), rtol=1e-8, atol=1e-10)
    chord = 2 * resultant * (pi * (direction - torch.tensor(expected[1]))).sin().abs()
    assert chord.max() < 1e-10


def test_exp_of_the_bound_is_a_density(generator):
    """One feature: the lattice's mixture integrates to one over x, with any decoder."""
    grid = torch.linspace(-60, 60, 6001, dtype=torch.float64)[:, None]
    _, decoder, likelihood, _ = model(generator, n=23, d=1)
    bound = objectives.lattice_bound(
        lambda z: nats_table(likelihood, grid, decoder(z)), lattices.lattice(2, 34)
    ).detach()
    assert torch.trapezoid(bound.exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-9)
    assert exp(bound.max().item()) > 0.01


# bounds from draws


def normal_draws(generator, n, s, loc=0.0, scale=1.0):
    return loc + scale * torch.randn(n, s, dtype=torch.float64, generator=generator)


@given(n=st.integers(1, 7), s=st.integers(1, 11), beta=st.floats(0, 7), seed=st.integers(0, 99))
def test_elbo_is_mean_reconstruction_less_weighted_divergence(n, s, beta, seed):
    generator = torch.Generator().manual_seed(seed)
    log_px_z = normal_draws(generator, n, s)
    for kl in (normal_draws(generator, n, 1), normal_draws(generator, n, s)):
        rows = zip(log_px_z.tolist(), kl.tolist(), strict=True)
        expected = [
            sum(row) / s - beta * sum(divergence) / len(divergence) for row, divergence in rows
        ]
        bound = objectives.elbo(log_px_z, kl, beta)
        torch.testing.assert_close(
            bound, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )
        assert torch.equal(objectives.elbo(log_px_z, kl), objectives.elbo(log_px_z, kl, 1.0))


@given(n=st.integers(1, 5), s=st.integers(2, 23), seed=st.integers(0, 99))
def test_standard_error_of_mean_equals_numpy_along_any_axis(n, s, seed):
    values = normal_draws(torch.Generator().manual_seed(seed), n, s)
    expected = torch.from_numpy(np.std(values.numpy(), axis=1, ddof=1) / sqrt(s))
    torch.testing.assert_close(
        objectives.standard_error_of_mean(values), expected, rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(
        objectives.standard_error_of_mean(values.T, 0), expected, rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(
        objectives.standard_error(values.T, 0),
        objectives.standard_error(values),
        rtol=1e-10,
        atol=1e-12,
    )


def test_standard_errors_of_a_single_draw_are_infinite(generator):
    for error in (objectives.standard_error, objectives.standard_error_of_mean):
        assert torch.equal(
            error(normal_draws(generator, 5, 1)),
            torch.full((5,), float("inf"), dtype=torch.float64),
        )


@given(s=st.integers(2, 60), seed=st.integers(0, 99), offset=st.sampled_from([0.0, -1e4, 700.0]))
def test_standard_error_is_the_relative_error_of_the_mean_weight(s, seed, offset):
    log_w = normal_draws(torch.Generator().manual_seed(seed), 3, s)
    weights = np.exp(log_w.numpy())
    expected = torch.from_numpy(weights.std(axis=1, ddof=1) / sqrt(s) / weights.mean(axis=1))
    torch.testing.assert_close(
        objectives.standard_error(log_w + offset), expected, rtol=1e-8, atol=1e-10
    )


def test_standard_error_tells_how_repeated_estimates_scatter(generator):
    """Log weights of scale 0.7 have the exact relative error sqrt(exp(0.49) - 1) over the root of
    their number."""
    s, repeats = 1009, 2003
    log_w = normal_draws(generator, repeats, s, scale=0.7)
    scatter = objectives.log_mean_exp(log_w).std().item()
    assert scatter == pytest.approx(sqrt((exp(0.49) - 1) / s), rel=0.06)
    assert objectives.standard_error(log_w).mean().item() == pytest.approx(scatter, rel=0.06)
    resampled = log_w[0][torch.randint(s, (repeats, s), generator=generator)]
    bootstrap = objectives.log_mean_exp(resampled).std().item()
    assert objectives.standard_error(log_w[0]).item() == pytest.approx(bootstrap, rel=0.1)


def test_standard_error_of_equal_weights_is_zero():
    assert torch.equal(
        objectives.standard_error(torch.full((3, 7), -1e5, dtype=torch.float64)),
        torch.zeros(3, dtype=torch.float64),
    )


# what draws of a model say


def drawn_on(prior, n, s, k, generator):
    """Draws for n rows, of proposals that suit a prior; nats and bases as they come."""
    loc = torch.rand(n, k, dtype=torch.float64, generator=generator)
    variance = 0.01 + 0.1 * torch.rand(n, k, dtype=torch.float64, generator=generator)
    q = proposals.DiagonalNormal(loc, variance)
    if prior.period is not None:
        q = proposals.Wrapped(q)
    z = q.at(torch.randn(n, s, k, dtype=torch.float64, generator=generator))
    nats = normal_draws(generator, n, s, -5.0, 2.0)
    return Draws(q, z, nats, normal_draws(generator, n, 1)[:, 0])


of_draws = given(
    prior=st.sampled_from([UniformTorus(), StandardNormal()]),
    n=st.integers(1, 7),
    s=st.integers(2, 11),
    k=st.integers(1, 3),
    seed=st.integers(0, 99),
)


@of_draws
def test_estimate_is_the_log_mean_of_weights_and_its_relative_error(prior, n, s, k, seed):
    drawn = drawn_on(prior, n, s, k, torch.Generator().manual_seed(seed))
    estimate = objectives.estimate_of(drawn, prior)
    assert estimate.shape == (n, 2)
    log_q, log_p = drawn.proposal.log_prob(drawn.z), prior.log_prob(drawn.z)
    for i in range(n):
        weights = [exp((drawn.log_px_z[i, j] + log_p[i, j] - log_q[i, j]).item()) for j in range(s)]
        mean, error = np.mean(weights), np.std(weights, ddof=1) / sqrt(s)
        nats = log(mean) + drawn.base[i].item()
        assert estimate[i].tolist() == pytest.approx([nats, error / mean], rel=1e-9, abs=1e-10)


@of_draws
def test_elbo_of_draws_is_their_mean_and_its_error(prior, n, s, k, seed):
    drawn = drawn_on(prior, n, s, k, torch.Generator().manual_seed(seed))
    bound = objectives.elbo_of(drawn, prior)
    assert bound.shape == (n, 2)
    kl = drawn.proposal.kl(drawn.z)
    assert kl.shape == (n, s if prior.period else 1)
    kl = kl.expand(n, s)
    for i in range(n):
        terms = [(drawn.log_px_z[i, j] - kl[i, j]).item() for j in range(s)]
        nats = sum(terms) / s + drawn.base[i].item()
        error = np.std(terms, ddof=1) / sqrt(s)
        assert bound[i].tolist() == pytest.approx([nats, error], rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("of", [objectives.estimate_of, objectives.elbo_of])
def test_base_of_a_row_is_added_to_its_nats_alone(of, generator):
    drawn = drawn_on(UniformTorus(), 5, 7, 2, generator)
    base = torch.tensor([0.0, 1.0, -3.0, 1e5, -1e5], dtype=torch.float64)
    without = of(drawn._replace(base=torch.zeros_like(base)), UniformTorus())
    moved = of(drawn._replace(base=base), UniformTorus())
    assert torch.equal(moved[:, 0], without[:, 0] + base)
    assert torch.equal(moved[:, 1], without[:, 1])
    assert (without[:, 1] > 0).all()
    alone = of(Draws(drawn.proposal, drawn.z[:, :1], drawn.log_px_z[:, :1], base), UniformTorus())
    assert torch.equal(alone[:, 1], torch.full_like(base, float("inf")))


def linear_draws(loc, variance, s, generator):
    """Draws of N(loc, variance) for the model N(x; theta z, 1) N(z; 0, 1) of one row; and log p(x),
    of which a part is the base."""
    q = proposals.DiagonalNormal(*torch.tensor([[[loc]], [[variance]]], dtype=torch.float64))
    z = q.at(torch.randn(1, s, 1, dtype=torch.float64, generator=generator))
    slope = THETA * OBSERVED * z[..., 0] - 0.5 * (THETA * z[..., 0]) ** 2
    base = torch.tensor([-0.5 * (OBSERVED**2 + log(2 * pi))], dtype=torch.float64)
    total = 1 + THETA**2
    return Draws(q, z, slope, base), -0.5 * (OBSERVED**2 / total + log(2 * pi * total))


def test_estimate_by_the_posterior_itself_is_log_p_without_an_error(generator):
    total = 1 + THETA**2
    drawn, log_p = linear_draws(THETA * OBSERVED / total, 1 / total, 7, generator)
    estimate = objectives.estimate_of(drawn, StandardNormal())[0].tolist()
    assert estimate == pytest.approx([log_p, 0], abs=1e-12)


def test_estimate_and_elbo_by_another_proposal_keep_to_their_errors(generator):
    drawn, log_p = linear_draws(LOC, exp(2 * LOG_SCALE), 40_009, generator)
    nats, error = objectives.estimate_of(drawn, StandardNormal())[0].tolist()
    assert abs(nats - log_p) < 4 * error < 0.05
    total = 1 + THETA**2
    posterior = torch.distributions.Normal(THETA * OBSERVED / total, 1 / sqrt(total))
    q = torch.distributions.Normal(LOC, exp(LOG_SCALE))
    gap = torch.distributions.kl_divergence(q, posterior).item()
    bound, error = objectives.elbo_of(drawn, StandardNormal())[0].tolist()
    assert abs(bound - (log_p - gap)) < 4 * error < 0.05


# gradients of bounds from draws: log p(x, z) with x given, z = loc + exp(log_scale) noise, model
# N(x; theta z, 1) N(z; 0, 1)

OBSERVED, THETA, LOC, LOG_SCALE = 1.3, 0.8, 0.4, -0.3


def phi():
    return torch.tensor([LOC, LOG_SCALE], dtype=torch.float64, requires_grad=True)


def log_weights(noise, phi, theta, constant_density=False, z=None):
    """Log weights (n, s) of draws from noise (n, s), and the draws (n, s, 1)."""
    z = phi[0] + phi[1].exp() * noise if z is None else z
    q = torch.distributions.Normal(
        *(value.detach() if constant_density else value for value in (phi[0], phi[1].exp()))
    )
    joint = torch.distributions.Normal(theta * z, 1.0).log_prob(
        torch.tensor(OBSERVED, dtype=torch.float64)
    )
    return joint - 0.5 * (z**2 + log(2 * pi)) - q.log_prob(z), z[..., None]


def doubly(noise, phi, theta):
    z = (phi[0] + phi[1].exp() * noise)[..., None]
    log_w, _ = log_weights(noise, phi, theta, True, z[..., 0])
    return objectives.doubly_reparametrized(log_w, z)


def standard(noise, phi, theta):
    return objectives.log_mean_exp(log_weights(noise, phi, theta)[0])


def gradients(bound, noise, parameters):
    """One gradient for each row of noise, of shape (n, n_parameters)."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    rows = []
    for row in noise:
        values = parameters()
        rows.append(
            torch.cat(
                [
                    g.reshape(-1)
                    for g in torch.autograd.grad(
                        bound(row[None], values, theta).sum(), (values, theta)
                    )
                ]
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize("s", [1, 2, 7, 50])
def test_doubly_reparametrized_bound_is_the_bound(s, generator):
    noise, theta = normal_draws(generator, 5, s), torch.tensor(THETA, dtype=torch.float64)
    torch.testing.assert_close(
        doubly(noise, phi(), theta), standard(noise, phi(), theta), rtol=0, atol=1e-13
    )


@given(s=st.integers(1, 11), seed=st.integers(0, 99))
def test_gradient_of_the_bound_is_that_of_log_weights_times_constant_weights(s, seed):
    """V5: sum_k v_k grad log w_k, with the normalised weights v as constants."""
    noise = normal_draws(torch.Generator().manual_seed(seed), 5, s)

    def detached(noise, phi, theta):
        log_w, _ = log_weights(noise, phi, theta)
        return (torch.softmax(log_w, -1).detach() * log_w).sum(-1)

    torch.testing.assert_close(
        gradients(standard, noise, phi), gradients(detached, noise, phi), rtol=1e-10, atol=1e-12
    )


def test_gradient_of_the_bound_of_one_draw_is_that_of_the_elbo(generator):
    noise = normal_draws(generator, 7, 1)

    def one_draw_elbo(noise, phi, theta):
        return objectives.elbo(
            log_weights(noise, phi, theta)[0], torch.zeros(len(noise), 1, dtype=torch.float64)
        )

    torch.testing.assert_close(
        gradients(standard, noise, phi),
        gradients(one_draw_elbo, noise, phi),
        rtol=1e-12,
        atol=1e-12,
    )


def test_doubly_reparametrized_gradient_of_one_draw_is_the_path_derivative(generator):
    """Sticking the landing: the density of the proposal as a constant. At the true posterior it is
    zero, draw by draw."""
    noise = normal_draws(generator, 7, 1)

    def path(noise, phi, theta):
        return log_weights(noise, phi, theta, True)[0].sum(-1)

    torch.testing.assert_close(
        gradients(doubly, noise, phi), gradients(path, noise, phi), rtol=1e-12, atol=1e-12
    )
    variance = 1 / (1 + THETA**2)

    def posterior():
        return torch.tensor(
            [THETA * OBSERVED * variance, 0.5 * log(variance)],
            dtype=torch.float64,
            requires_grad=True,
        )

    for s in (1, 5):
        found = gradients(doubly, normal_draws(generator, 7, s), posterior)[:, :2]
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-13)


@given(s=st.integers(1, 11), seed=st.integers(0, 99))
def test_doubly_reparametrized_gradient_weighs_paths_by_squares(s, seed):
    """A loop over the draws: sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi) for the proposal,
    sum_k v_k d log w_k for the model."""
    noise = normal_draws(torch.Generator().manual_seed(seed), 3, s)
    found = gradients(doubly, noise, phi)
    for row, gradient in zip(noise.tolist(), found, strict=True):
        scale = exp(LOG_SCALE)
        draws = [LOC + scale * e for e in row]
        log_w = [
            -0.5 * (OBSERVED - THETA * z) ** 2 - 0.5 * z**2 + 0.5 * e**2
            for z, e in zip(draws, row, strict=True)
        ]
        total = sum(exp(value) for value in log_w)
        v = [exp(value) / total for value in log_w]
        slopes = [THETA * (OBSERVED - THETA * z) - z + (z - LOC) / scale**2 for z in draws]
        by_loc = sum(weight**2 * slope for weight, slope in zip(v, slopes, strict=True))
        by_log_scale = sum(
            weight**2 * slope * scale * e for weight, slope, e in zip(v, slopes, row, strict=True)
        )
        by_theta = sum(
            weight * z * (OBSERVED - THETA * z) for weight, z in zip(v, draws, strict=True)
        )
        torch.testing.assert_close(
            gradient,
            torch.tensor([by_loc, by_log_scale, by_theta], dtype=torch.float64),
            rtol=1e-9,
            atol=1e-11,
        )


def test_doubly_reparametrized_gradient_of_the_model_is_the_plain_one(generator):
    noise = normal_draws(generator, 11, 7)
    torch.testing.assert_close(
        gradients(doubly, noise, phi)[:, 2],
        gradients(standard, noise, phi)[:, 2],
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize(("s", "repeats"), [(3, 2003), (50, 1009)])
def test_both_gradients_have_one_expectation_and_the_doubly_reparametrized_one_less_noise(
    s, repeats, generator
):
    noise = normal_draws(generator, repeats, s)
    plain, double = gradients(standard, noise, phi)[:, :2], gradients(doubly, noise, phi)[:, :2]
    differences = plain - double
    z_scores = differences.mean(0) / (differences.std(0) / sqrt(repeats))
    assert (z_scores.abs() < 4).all()
    spreads = double.std(0) / plain.std(0)
    if s == 50:
        assert (spreads < 0.7).all()
        assert (plain.mean(0).abs() > 0.001).all()


def test_doubly_reparametrized_bound_needs_no_gradient(generator):
    noise, theta = normal_draws(generator, 5, 7), torch.tensor(THETA, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(doubly(noise, phi(), theta), standard(noise, phi(), theta))


def test_bounds_from_draws_rise_with_their_number_and_stay_below_log_p(generator):
    """V2: elbo <= IWAE_K <= IWAE_K' <= log p in expectation, for a proposal that is not the
    posterior."""
    repeats, theta, variance = 40_009, torch.tensor(THETA, dtype=torch.float64), 1 + THETA**2
    log_p = -0.5 * (OBSERVED**2 / variance + log(2 * pi * variance))
    scale, best = exp(LOG_SCALE), 1 / sqrt(variance)
    gap = (
        log(best / scale)
        + (scale**2 + (LOC - THETA * OBSERVED / variance) ** 2) / (2 * best**2)
        - 0.5
    )
    means, errors = [], []
    for s in (1, 2, 5, 23):
        bounds = standard(normal_draws(generator, repeats, s), phi(), theta).detach()
        means.append(bounds.mean().item())
        errors.append(bounds.std().item() / sqrt(repeats))
    assert abs(means[0] - (log_p - gap)) < 4 * errors[0]
    assert means[0] < means[1] - 4 * errors[1] < means[2] - 4 * errors[2] < means[3]
    assert means[3] < log_p


def test_elbo_of_a_wrong_proposal_misses_log_p_by_its_divergence_from_the_posterior():
    """V2, exactly: the expected reconstruction by Gauss-Hermite quadrature, which is exact for a
    quadratic."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    variance, scale = 1 + THETA**2, exp(LOG_SCALE)
    q = proposals.DiagonalNormal(
        torch.tensor([[LOC]], dtype=torch.float64), torch.tensor([[scale**2]], dtype=torch.float64)
    )
    z = q.at(torch.tensor(nodes)[:, None])
    reconstruction = torch.distributions.Normal(THETA * z[..., 0], 1.0).log_prob(
        torch.tensor(OBSERVED, dtype=torch.float64)
    )
    expected = reconstruction @ torch.tensor(weights / weights.sum())
    bound = objectives.elbo(expected[:, None], q.kl(z)).item()
    log_p = -0.5 * (OBSERVED**2 / variance + log(2 * pi * variance))
    best = 1 / sqrt(variance)
    gap = (
        log(best / scale)
        + (scale**2 + (LOC - THETA * OBSERVED / variance) ** 2) / (2 * best**2)
        - 0.5
    )
    assert bound == pytest.approx(log_p - gap, abs=1e-12)


# the discrepancy


@given(n=st.integers(1, 7), m=st.integers(1, 5), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_mean_discrepancy_equals_a_double_loop(n, m, k, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(size, k, dtype=torch.float64, generator=generator) for size in (n, m))

    def kernel(u, v):
        return 2 * k / (2 * k + float(((u - v) ** 2).sum()))

    def within(u):
        pairs = [kernel(u[i], u[j]) for i in range(len(u)) for j in range(len(u)) if i != j]
        return sum(pairs) / max(1, len(pairs))

    between = sum(kernel(u, v) for u in a for v in b) / (n * m)
    assert objectives.maximum_mean_discrepancy(a, b).item() == pytest.approx(
        within(a) + within(b) - 2 * between, abs=1e-12
    )


@pytest.mark.parametrize("n", [2, 3, 23])
def test_mean_discrepancy_of_equal_distributions_has_expectation_zero(n, generator):
    """Also for a few points, where a sum that kept the diagonal would be biased by about 2 / n."""
    repeats = 3001
    samples = torch.randn(repeats, 2, n, 3, dtype=torch.float64, generator=generator)
    values = torch.stack([objectives.maximum_mean_discrepancy(a, b) for a, b in samples])
    assert abs(values.mean()) < 4 * values.std() / sqrt(repeats)
    assert values.min() < 0


def test_mean_discrepancy_grows_with_a_shift_and_with_a_spread(generator):
    a, b = torch.randn(2, 1009, 3, dtype=torch.float64, generator=generator)
    shifts = [
        objectives.maximum_mean_discrepancy(a, b + shift).item()
        for shift in (0.0, 0.3, 1.0, 3.0, 1e4)
    ]
    spreads = [
        objectives.maximum_mean_discrepancy(a, b * spread).item() for spread in (1.0, 0.5, 0.1)
    ]
    assert shifts == sorted(shifts)
    assert spreads == sorted(spreads)
    assert abs(shifts[0]) < 0.01 < shifts[1]
    assert objectives.maximum_mean_discrepancy(a, b + 0.3).item() == pytest.approx(
        objectives.maximum_mean_discrepancy(b + 0.3, a).item(), abs=1e-12
    )


def test_mean_discrepancy_estimate_of_few_points_is_unbiased(generator):
    """The mean over samples of 5 and 7 is what large samples say."""
    large = objectives.maximum_mean_discrepancy(
        torch.randn(1511, 2, dtype=torch.float64, generator=generator),
        1 + torch.randn(1511, 2, dtype=torch.float64, generator=generator),
    )
    draws = [
        (
            torch.randn(5, 2, dtype=torch.float64, generator=generator),
            1 + torch.randn(7, 2, dtype=torch.float64, generator=generator),
        )
        for _ in range(2003)
    ]
    values = torch.stack([objectives.maximum_mean_discrepancy(a, b) for a, b in draws])
    assert abs(values.mean() - large) < 4 * values.std() / sqrt(2003) + 0.02


def test_gradient_of_the_mean_discrepancy_pulls_codes_to_the_prior(generator):
    codes = (2 + torch.randn(101, 2, dtype=torch.float64, generator=generator)).requires_grad_()
    prior = torch.randn(101, 2, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad(objectives.maximum_mean_discrepancy(codes, prior), codes)
    assert (gradient.mean(0) > 0).all()


@pytest.mark.parametrize("prior", [UniformTorus(), StandardNormal()], ids=["torus", "normal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discrepancy_of_codes_is_that_from_as_many_draws_of_the_prior(prior, dtype, generator):
    z = torch.rand(11, 2, generator=generator).to(dtype)
    found, again, other = (
        objectives.discrepancy(z, prior, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    u = torch.rand(11, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    drawn = prior.quantile(u).to(dtype)
    if prior.period is not None:
        angles = [2 * pi * points for points in (z, drawn)]
        z, drawn = (torch.cat([angle.cos(), angle.sin()], 1) for angle in angles)
    assert found.dtype == dtype
    assert torch.equal(found, objectives.maximum_mean_discrepancy(z, drawn))


@pytest.mark.parametrize("prior", [UniformTorus(), StandardNormal()], ids=["torus", "normal"])
def test_discrepancy_of_codes_tells_the_prior_from_other_codes(prior, generator):
    n, repeats = 23, 1009
    u = torch.rand(repeats, n, 2, dtype=torch.float64, generator=generator)
    values = torch.stack([objectives.discrepancy(prior.quantile(v), prior, generator) for v in u])
    assert abs(values.mean()) < 4 * values.std() / sqrt(repeats)
    for narrow in (0.1 * v for v in u[:7]):
        assert objectives.discrepancy(prior.quantile(narrow), prior, generator) > 0.1


def test_discrepancy_of_codes_on_the_torus_does_not_see_whole_turns(generator):
    z = torch.rand(11, 3, dtype=torch.float64, generator=generator)
    turns = torch.randint(-5, 5, (11, 3), generator=generator)
    found = [
        objectives.discrepancy(codes, UniformTorus(), torch.Generator().manual_seed(5)).item()
        for codes in (z, z + turns)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_gradient_of_the_discrepancy_of_codes_spreads_them(generator):
    codes = (0.1 * torch.randn(101, 2, dtype=torch.float64, generator=generator)).requires_grad_()
    value = objectives.discrepancy(codes, StandardNormal(), generator)
    (gradient,) = torch.autograd.grad(value, codes)
    assert ((gradient * codes).sum(1).mean() < 0).all()


# the way back through active points only


def decoded(generator, kind=likelihoods.Bernoulli, n=9, d=6):
    """Rows, a decoder of the torus and a likelihood, all in float64, and a sharp posterior."""
    likelihood = kind(d).double()
    decoder = networks.MLPDecoder(2, d, (16,), 3, generator=generator).double()
    with torch.no_grad():
        decoder.layers[-1].weight *= 60
    x = torch.rand(n, d, generator=generator, dtype=torch.float64).round()
    likelihood.start(x)
    return x, likelihood, decoder


def bound_and_gradient(
    x, likelihood, decoder, points, weights=None, mask=None, cheaply=False, **settings
):
    terms = likelihood.terms(x, mask)
    table = lambda z: likelihood.table(terms, decoder(z))  # noqa: E731
    if cheaply:
        settings["expected"] = lambda z, r: likelihood.expected(terms, decoder(z), r)
    bound = objectives.lattice_bound(table, points, **settings) + terms.base
    weights = torch.ones(len(x)).to(bound) if weights is None else weights
    parameters = [*decoder.parameters(), *likelihood.parameters()]
    return bound.detach(), torch.autograd.grad((weights * bound).sum(), parameters)


@pytest.mark.parametrize("kind", [likelihoods.Bernoulli, likelihoods.Gaussian, likelihoods.Poisson])
@pytest.mark.parametrize("chunk_size", [None, 64, 17])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cheaply", [False, True])
def test_bound_through_every_active_point_has_the_exact_gradient(
    kind, chunk_size, masked, cheaply, generator
):
    """Whatever the rows weigh, and with features missing."""
    x, likelihood, decoder = decoded(generator, kind)
    points = lattices.lattice(2, 144)
    weights = torch.rand(len(x), generator=generator, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=generator) < 0.7 if masked else None
    expected = bound_and_gradient(x, likelihood, decoder, points, weights, mask)
    found = bound_and_gradient(
        x, likelihood, decoder, points, weights, mask, cheaply, chunk_size=chunk_size, spared=0.0
    )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_points_of_little_responsibility_hardly_change_the_gradient(generator):
    x, likelihood, decoder = decoded(generator, n=50)
    points, calls = lattices.lattice(2, 987), []
    exact = bound_and_gradient(x, likelihood, decoder, points)
    handle = decoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    rough = bound_and_gradient(x, likelihood, decoder, points, spared=1e-2)
    handle.remove()
    *tabulated, active = calls
    assert sum(tabulated) == 987
    assert active < 987
    assert active % 64 == 0
    torch.testing.assert_close(rough[0], exact[0], rtol=0, atol=1e-12)
    for a, b in zip(rough[1], exact[1], strict=True):
        assert (a - b).norm() < 0.05 * b.norm()


def test_points_left_out_have_no_more_than_their_share_together():
    responsibility = torch.tensor([50.0, 0.0, 49.0, 0.5] + [0.5 / 200] * 200)
    for spared, n_active in ((0.0, 203), (0.0049, 64), (0.011, 64), (0.0011, 192)):
        active = objectives._active(responsibility, spared)
        left_out = 1 - responsibility[active].sum() / responsibility.sum()
        assert left_out <= spared + 1e-6
        assert len(active) == (204 if spared == 0 else n_active)
        assert {0, 2, 3} <= set(active.tolist())
    assert len(objectives._active(responsibility[:5], 0.5)) == 5


def test_bound_without_gradients_is_that_of_all_points(generator):
    x, likelihood, decoder = decoded(generator)
    points = lattices.lattice(2, 144)
    terms = likelihood.terms(x)
    with torch.no_grad():
        bound = objectives.lattice_bound(
            lambda z: likelihood.table(terms, decoder(z)), points, 50, spared=1e-2
        )
        table = likelihood.table(terms, decoder(points))
    torch.testing.assert_close(bound, torch.logsumexp(table, 1) - log(144))


def test_points_out_of_reach_of_every_row_do_no_harm():
    """Log-weights from 0 down to minus a million: no denormals, no NaN."""
    offsets = torch.tensor([[0.0, -50.0, -1e3, -1e6]], requires_grad=True)
    bound = objectives.lattice_bound(
        lambda z: offsets[:, z.long()[:, 0]], torch.arange(4.0)[:, None], spared=0.0
    )
    bound.sum().backward()
    assert bound.item() == pytest.approx(-log(4), abs=1e-6)
    torch.testing.assert_close(
        offsets.grad, torch.softmax(offsets.detach(), 1), rtol=1e-6, atol=1e-25
    )
