"""The lattice's bound: closed forms of known decoders, a NumPy model, chunks, and Fisher's identity."""

from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive, logsumexp
from torch import nn

from skqlvm.engine import lattices, likelihoods, networks, objectives, posteriors
from skqlvm.engine.precision import matmul_precision

CIRCLE_X = torch.tensor([[0.6, 0.3]], dtype=torch.float64)
CIRCLE_NATS = -1.9273756194246134
TORUS_X = torch.tensor([[0.6, 0.3, -0.2, 0.4]], dtype=torch.float64)
TORUS_NATS = -2.7196615898780214


def rings(z, radii=(1.0, 0.5)):
    """A circle for each coordinate: (r_1 cos, r_1 sin, r_2 cos, r_2 sin, ...)."""
    angles, radii = 2 * pi * z, torch.tensor(radii[: z.shape[1]]).to(z)
    return torch.stack([radii * angles.cos(), radii * angles.sin()], -1).flatten(1)


def ring_table(x, variance=0.1):
    likelihood = likelihoods.Gaussian(x.shape[1], variance)
    return lambda z: likelihood.table(x, rings(z))


def ring_nats(x, variance=0.1, radii=(1.0, 0.5)):
    """The closed form: a Bessel function for each circle."""
    total = 0.0
    for pair, radius in zip(x.reshape(len(x), -1, 2).numpy().swapaxes(0, 1), radii, strict=False):
        length = np.linalg.norm(pair, axis=1)
        kappa = radius * length / variance
        total = total - log(2 * pi * variance) - (length**2 + radius**2) / (2 * variance) + np.log(ive(0, kappa)) + kappa
    return torch.tensor(total)


def shifts(n, k, generator):
    return [lattices.random_shift(k, generator) for _ in range(n)]


def errors_over_shifts(x, m, n, generator):
    """Errors of the bound over random shifts of the lattice; the table is ring_table's."""
    points, table, exact = lattices.lattice(x.shape[1] // 2, m), ring_table(x), ring_nats(x)
    bounds = [objectives.lattice_bound(table, lattices.shifted(points, shift)) for shift in shifts(n, points.shape[1], generator)]
    return torch.stack(bounds) - exact


# log_mean_exp


@given(n=st.integers(1, 7), m=st.integers(1, 60), scale=st.sampled_from([1.0, 30.0, 1e4]), seed=st.integers(0, 99))
def test_log_mean_exp_equals_scipy(n, m, scale, seed):
    log_w = scale * torch.randn(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for dim in (0, 1, -1):
        expected = logsumexp(log_w.numpy(), axis=dim) - log(log_w.shape[dim])
        torch.testing.assert_close(objectives.log_mean_exp(log_w, dim), torch.tensor(expected), rtol=1e-13, atol=1e-12)
    assert objectives.log_mean_exp(log_w).shape == (n,)


def test_log_mean_exp_of_equal_weights_is_their_value_whatever_their_number():
    for m in (1, 7, 610):
        torch.testing.assert_close(objectives.log_mean_exp(torch.full((3, m), -1e5, dtype=torch.float64)), torch.full((3,), -1e5).double())


def test_log_mean_exp_takes_impossible_points():
    log_w = torch.tensor([[0.0, -float("inf")], [-float("inf"), -float("inf")]], dtype=torch.float64)
    torch.testing.assert_close(objectives.log_mean_exp(log_w), torch.tensor([-log(2), -float("inf")], dtype=torch.float64))


# closed forms


@given(k=st.integers(1, 3), m=st.integers(1, 99), seed=st.integers(0, 99), name=st.sampled_from(["bernoulli", "gaussian"]))
def test_constant_decoder_gives_its_own_likelihood_on_every_lattice(k, m, seed, name):
    """No size of the lattice changes it: log p(x) = log p(x | mean)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, dtype=torch.float64, generator=generator)
    likelihood = {"bernoulli": likelihoods.Bernoulli, "gaussian": likelihoods.Gaussian}[name](3)
    likelihood.start(x)
    constant = torch.randn(1, 3, dtype=torch.float64, generator=generator)
    points = lattices.shifted(lattices.lattice(k, m), lattices.random_shift(k, generator))
    table = likelihood.table(x, constant.expand(len(points), 3))
    torch.testing.assert_close(objectives.log_mean_exp(table), likelihood.table(x, constant)[:, 0], rtol=0, atol=1e-12)
    weights = posteriors.responsibilities(table)
    torch.testing.assert_close(weights, torch.full((5, m), 1 / m, dtype=torch.float64), rtol=1e-12, atol=0)
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
    bounds = [objectives.lattice_bound(ring_table(CIRCLE_X), lattices.shifted(lattices.lattice(1, m), shift[None])) for shift in grid]
    assert (torch.stack(bounds) - CIRCLE_NATS).abs().max().item() == pytest.approx(worst, rel=0.01, abs=1e-14)


@given(seed=st.integers(0, 999), m=st.sampled_from([97, 233]))
def test_bound_on_the_circle_is_the_bessel_form(seed, m):
    x = 1.5 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    bound = objectives.lattice_bound(ring_table(x), lattices.lattice(1, m))
    torch.testing.assert_close(bound, ring_nats(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m", "rms"), [(55, 2.1e-3), (89, 1.0e-4), (144, 4e-7)])
def test_bound_on_the_product_torus_has_the_published_rms(m, rms, generator):
    assert errors_over_shifts(TORUS_X, m, 50, generator).square().mean().sqrt().item() == pytest.approx(rms, rel=0.3)


def test_bound_on_the_product_torus_is_exact_at_610_where_plain_monte_carlo_is_rough(generator):
    assert errors_over_shifts(TORUS_X, 610, 20, generator).abs().max() < 1e-12
    table = ring_table(TORUS_X)
    draws = [torch.rand(610, 2, dtype=torch.float64, generator=generator) for _ in range(60)]
    plain = torch.stack([objectives.lattice_bound(table, z) for z in draws]) - TORUS_NATS
    assert plain.square().mean().sqrt().item() == pytest.approx(0.14, rel=0.4)


@pytest.mark.parametrize("m", [610, 6765])
def test_float32_pipeline_is_precise_on_large_lattices(m, generator, device):
    points, table = lattices.lattice(2, m, torch.float32).to(device), ring_table(TORUS_X.float().to(device))
    for shift in [torch.zeros(2), *shifts(5, 2, generator)]:
        bound = objectives.lattice_bound(table, lattices.shifted(points, shift))
        assert bound.dtype == torch.float32
        assert bound.item() == pytest.approx(TORUS_NATS, abs=1e-4)


@given(m=st.integers(3, 99), rho=st.floats(0, 0.95), shift=st.floats(0, 1, exclude_max=True))
def test_trigonometric_coins_are_integrated_exactly(m, rho, shift):
    """Two equal pixels of probability (1 + rho cos 2 pi z) / 2 are both on with probability (1 + rho^2 / 2) / 4."""
    points = lattices.shifted(lattices.lattice(1, m), torch.tensor([shift], dtype=torch.float64))
    probability = (0.5 * (1 + rho * (2 * pi * points).cos())).expand(m, 2)
    both_on = likelihoods.Bernoulli(2).table(torch.ones(1, 2, dtype=torch.float64), torch.logit(probability))
    assert objectives.log_mean_exp(both_on).exp().item() == pytest.approx(0.25 * (1 + rho**2 / 2), abs=1e-14)


@pytest.mark.parametrize("m", [3, 5, 610])
def test_trigonometric_coins_have_the_printed_probability(m, generator):
    for shift in shifts(10, 1, generator):
        points = lattices.shifted(lattices.lattice(1, m), shift)
        logits = torch.logit(0.5 * (1 + 0.8 * (2 * pi * points).cos())).expand(m, 2)
        both_on = likelihoods.Bernoulli(2).table(torch.ones(1, 2, dtype=torch.float64), logits)
        assert objectives.log_mean_exp(both_on).exp().item() == pytest.approx(0.33, abs=1e-15)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("q", [1, 305, 377])
def test_step_decoder_is_integrated_exactly_for_every_shift(axis, q, generator):
    """Two constant pieces with a border at a multiple of 1 / m: as many points on each side as its share of the torus."""
    first, second = 0.9, 0.2
    expected = q / 610 * first + (1 - q / 610) * second
    for shift in shifts(50, 2, generator):
        points = lattices.shifted(lattices.lattice(2, 610), shift)
        probability = second + (first - second) * (points[:, axis : axis + 1] < q / 610).double()
        table = likelihoods.Bernoulli(1).table(torch.ones(1, 1, dtype=torch.float64), torch.logit(probability))
        assert objectives.log_mean_exp(table).exp().item() == pytest.approx(expected, abs=1e-13)


# shifts


def test_mean_bound_over_shifts_rises_with_the_lattice_and_stays_below_log_p():
    """Over an even grid of shifts the mean of p(x) is exact, so that Jensen's inequality holds without noise."""
    table, means = ring_table(CIRCLE_X), []
    for m in (4, 8, 16):
        grid = torch.arange(200, dtype=torch.float64) / 200 / m
        bounds = [objectives.lattice_bound(table, lattices.shifted(lattices.lattice(1, m), shift[None])) for shift in grid]
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
    decoder, likelihood = networks.MLPDecoder(2, d, (11,), 2).double(), likelihoods.Gaussian(d, "diagonal").double()
    likelihood.start(x)
    return x, decoder, likelihood, [*decoder.parameters(), *likelihood.parameters()]


@given(m=st.sampled_from([13, 23]), chunk_size=st.integers(1, 29), seed=st.integers(0, 99))
def test_chunked_bound_equals_one_pass_in_value_and_gradient(m, chunk_size, seed):
    generator = torch.Generator().manual_seed(seed)
    x, decoder, likelihood, parameters = model(generator)
    points = lattices.shifted(lattices.lattice(2, m), lattices.random_shift(2, generator))
    row_weights = torch.rand(7, dtype=torch.float64, generator=generator)

    def bound_and_gradient(chunk_size):
        bound = objectives.lattice_bound(lambda z: likelihood.table(x, decoder(z)), points, chunk_size)
        return bound.detach(), torch.autograd.grad(bound @ row_weights, parameters)

    (bound, gradient), (expected, expected_gradient) = bound_and_gradient(chunk_size), bound_and_gradient(None)
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-10)
    for one, other in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_chunked_bound_decodes_twice_and_never_more_than_a_chunk(generator):
    x, decoder, likelihood, _ = model(generator)
    points, sizes = lattices.lattice(2, 34), []

    def table(z):
        sizes.append(len(z))
        return likelihood.table(x, decoder(z))

    bound = objectives.lattice_bound(table, points, 5)
    assert sizes == [5] * 6 + [4]
    bound.mean().backward()
    assert sorted(sizes) == [4] * 2 + [5] * 12


def test_chunked_bound_needs_no_gradient(generator):
    x, decoder, likelihood, _ = model(generator)
    points = lattices.lattice(2, 34)
    with torch.no_grad():
        table = likelihood.table(x, decoder(points))
        bound = objectives.lattice_bound(lambda z: likelihood.table(x, decoder(z)), points, 5)
    assert not bound.requires_grad
    torch.testing.assert_close(bound, objectives.log_mean_exp(table), rtol=0, atol=1e-12)


def test_chunked_bound_of_coarse_products_is_that_of_one_pass(generator, device):
    x = torch.randn(7, 5, generator=generator).to(device)
    decoder, likelihood = networks.MLPDecoder(2, 5, (11,), 2).to(device), likelihoods.Gaussian(5).to(device)
    points, results = lattices.lattice(2, 34, torch.float32).to(device), []
    with matmul_precision("medium"):
        for chunk_size in (5, None):
            bound = objectives.lattice_bound(lambda z: likelihood.table(x, decoder(z)), points, chunk_size)
            gradient = torch.autograd.grad(bound.mean(), decoder.parameters())
            results.append((bound.detach(), torch.cat([g.flatten() for g in gradient])))
    (bound, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-4)
    assert (gradient - expected_gradient).norm() < 0.02 * expected_gradient.norm()


def test_bound_of_a_row_does_not_depend_on_the_others(generator):
    x, decoder, likelihood, _ = model(generator)
    points = lattices.lattice(2, 34)
    together = objectives.lattice_bound(lambda z: likelihood.table(x, decoder(z)), points)
    order = torch.tensor([3, 0, 6, 5])
    apart = objectives.lattice_bound(lambda z: likelihood.table(x[order], decoder(z)), points)
    torch.testing.assert_close(apart, together[order], rtol=0, atol=1e-12)


def test_bound_does_not_depend_on_the_order_of_points(generator):
    x, decoder, likelihood, _ = model(generator)
    points = lattices.lattice(2, 34)
    permuted = points[torch.randperm(34, generator=generator)]
    bounds = [objectives.lattice_bound(lambda z: likelihood.table(x, decoder(z)), z, 5) for z in (points, permuted)]
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-12)


# gradients


@given(
    n=st.integers(1, 7), d=st.integers(1, 5), m=st.integers(1, 34), seed=st.integers(0, 99), name=st.sampled_from(["bernoulli", "gaussian"])
)
def test_gradient_of_the_bound_is_fishers_identity(n, d, m, seed, name):
    """d(mean bound) / d(eta) = (W^T T(x) - sum(W) A'(eta)) / n, with W the responsibilities."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = {"bernoulli": likelihoods.Bernoulli(d), "gaussian": likelihoods.Gaussian(d, 0.3)}[name]
    x = torch.rand(n, d, dtype=torch.float64, generator=generator)
    outputs = torch.randn(m, d, dtype=torch.float64, generator=generator).requires_grad_()
    table = likelihood.table(x, outputs)
    (gradient,) = torch.autograd.grad(objectives.log_mean_exp(table).mean(), outputs)
    weights, eta = posteriors.responsibilities(table.detach()), likelihood.natural(outputs)
    slope = eta.detach().sigmoid() if name == "bernoulli" else 0.3 * eta.detach()
    by_eta = (weights.T @ likelihood.statistics(x) - weights.sum(0)[:, None] * slope) / n
    torch.testing.assert_close(gradient, torch.autograd.grad(eta, outputs, by_eta)[0], rtol=1e-10, atol=1e-12)


# memory


def kept_bytes(function):
    """Bytes of the distinct storages that autograd keeps for the way back."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(storages.values()) if result.requires_grad else 0


@pytest.mark.parametrize("hidden_layer_sizes", [(), (11,), (64, 33)])
def test_affordable_points_keep_to_the_budget_and_use_it(hidden_layer_sizes, generator):
    x, _, likelihood, _ = model(generator)
    decoder = networks.MLPDecoder(2, 5, hidden_layer_sizes, 2).double()
    points = lattices.lattice(2, 610)

    def table(z):
        return likelihood.table(x, decoder(z))

    fixed = 2 * kept_bytes(lambda: table(points[:7])) - kept_bytes(lambda: table(points[:14]))
    for budget in (2_000, 20_000, 100_000):
        affordable = objectives.affordable_points(table, points, budget)
        if affordable > 1:
            assert kept_bytes(lambda n=affordable: table(points[:n])) - fixed <= budget
        if affordable < 610:
            assert kept_bytes(lambda n=affordable: table(points[: n + 1])) - fixed > budget


def test_affordable_points_grow_with_the_budget_from_one_to_all(generator):
    x, decoder, likelihood, _ = model(generator)
    for m in (1, 2, 3, 89):
        points = lattices.lattice(2, m)
        budgets = [1, 10, 1_000, 3_000, 10_000, 30_000, 10**9]
        affordable = [objectives.affordable_points(lambda z: likelihood.table(x, decoder(z)), points, b) for b in budgets]
        assert affordable == sorted(affordable)
        assert (affordable[0], affordable[-1]) == (1, m)


def test_affordable_points_of_small_lattices_are_those_of_large_ones(generator):
    x, decoder, likelihood, _ = model(generator)
    for budget in (500, 1_000, 2_000, 3_000):
        small, large = (
            objectives.affordable_points(lambda z: likelihood.table(x, decoder(z)), lattices.lattice(2, m), budget) for m in (3, 89)
        )
        assert small == min(3, large)


def test_affordable_points_leave_no_gradients_behind(generator):
    x, decoder, likelihood, parameters = model(generator)
    before = [parameter.detach().clone() for parameter in parameters]
    objectives.affordable_points(lambda z: likelihood.table(x, decoder(z)), lattices.lattice(2, 13), 1000)
    assert all(parameter.grad is None for parameter in parameters)
    assert all(torch.equal(parameter, copy) for parameter, copy in zip(parameters, before, strict=True))


# the whole model


def numpy_model(x, decoder, variance, m, vector):
    """Nats and mean directions; Bernoulli where the variance is None."""
    z = np.outer(np.arange(m), vector) % m / m
    basis = next(module for module in decoder.modules() if isinstance(module, networks.TorusBasis))
    *hidden, (w, b) = [(u.weight.numpy(), u.bias.numpy()) for u in decoder.modules() if isinstance(u, nn.Linear)]
    h = np.exp(2j * pi * z @ basis.harmonics.numpy().T)
    h = np.hstack([h.real, h.imag]) * basis.scales.numpy()
    for u, c in hidden:
        h = np.maximum(h @ u.T + c, 0)
    f, center = h @ w.T + b, x.mean(0)
    if variance is None:
        p = 1 / (1 + np.exp(-f) * (1 - center) / center)
        log_px_z = (x[:, None] * np.log(p) + (1 - x[:, None]) * np.log(1 - p)).sum(2)
    else:
        residuals = x[:, None] - center - sqrt(x.var(0).mean()) * f
        log_px_z = -0.5 * (residuals**2 / variance + np.log(2 * pi * variance)).sum(2)
    weights = np.exp(log_px_z - logsumexp(log_px_z, axis=1, keepdims=True))
    return logsumexp(log_px_z, axis=1) - log(m), np.angle(weights @ np.exp(2j * pi * z)) / (2 * pi) % 1, weights


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
        table = likelihood.table(x, decoder(points))
        weights = posteriors.responsibilities(table)
        nats = objectives.lattice_bound(lambda z: likelihood.table(x, decoder(z)), points, 17)
        direction, resultant = posteriors.mean_direction(weights, points)
        variance = None if name == "bernoulli" else likelihood.noise_variance().numpy()
        expected = numpy_model(x.numpy(), decoder, variance, m, lattices.generating_vector(k, m))
    torch.testing.assert_close(nats, torch.tensor(expected[0]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights, torch.tensor(expected[2]), rtol=1e-8, atol=1e-10)
    chord = 2 * resultant * (pi * (direction - torch.tensor(expected[1]))).sin().abs()
    assert chord.max() < 1e-10


def test_exp_of_the_bound_is_a_density(generator):
    """One feature: the lattice's mixture integrates to one over x, with any decoder."""
    grid = torch.linspace(-60, 60, 6001, dtype=torch.float64)[:, None]
    _, decoder, likelihood, _ = model(generator, n=23, d=1)
    bound = objectives.lattice_bound(lambda z: likelihood.table(grid, decoder(z)), lattices.lattice(2, 34)).detach()
    assert torch.trapezoid(bound.exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-9)
    assert exp(bound.max().item()) > 0.01
