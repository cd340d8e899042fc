"""The diffusion model of contexts, where u is normal: everything is known in closed form then.

Without its network, the model sees the noise of a normal with the variance that it was given."""

from itertools import pairwise
from math import e, exp, log, pi

import pytest
import torch

from skqlvm.engine.hierarchy.diffusion import DiffusionPrior
from skqlvm.engine.hierarchy.noise import Shared

SHAPE = 1, 7, 7


def oracle(variance, shape=SHAPE, gamma_min=-6.0, gamma_max=7.0):
    prior = DiffusionPrior(shape, gamma_min, gamma_max, channels=4, n_blocks=1).double()
    prior.variance = torch.full(shape, variance, dtype=torch.float64)
    return prior


def restless(prior, generator, spread=0.1):
    """A prior whose network says something: no oracle any more."""
    with torch.no_grad():
        prior.network.last.weight.normal_(std=spread, generator=generator)
    return prior


def drawn(variance, n, generator, shape=SHAPE):
    return variance**0.5 * torch.randn(n, *shape, dtype=torch.float64, generator=generator)


def schedule(prior, n_steps):
    """gamma, alpha and sigma at times from 1 down to 0, computed apart."""
    gammas = [
        prior.gamma_max + (prior.gamma_min - prior.gamma_max) * i / n_steps
        for i in range(n_steps + 1)
    ]
    return [(g, (1 / (1 + exp(g))) ** 0.5, (1 / (1 + exp(-g))) ** 0.5) for g in gammas]


def chain_variance(prior, n_steps):
    """Variance of p(u) of the model of n steps: a chain of linear maps of normals."""
    s2, variance = float(prior.variance.flatten()[0]), 1.0
    times = schedule(prior, n_steps)
    for (gamma_t, alpha_t, sigma_t), (gamma_s, alpha_s, sigma_s) in pairwise(times):
        kept = exp(gamma_s - gamma_t)
        seen = alpha_t * s2 / (alpha_t**2 * s2 + sigma_t**2)
        factor = alpha_s * (kept / alpha_t + (1 - kept) * seen)
        variance = factor**2 * variance + sigma_s**2 * (1 - kept)
    return variance / times[-1][1] ** 2 + exp(prior.gamma_min)


def log_normal(u, variance):
    return -0.5 * (u**2 / variance + log(2 * pi * variance)).flatten(1).sum(1)


def mean_and_error(values):
    values = values.detach()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


@pytest.mark.parametrize(
    ("variance", "gamma_min", "nats"),
    [(0.25, -6.0, 0.730724), (1.0, -6.0, 1.420176), (0.25, -10.0, 0.725882)],
)
def test_bound_of_continuous_time_is_the_entropy_of_a_normal(variance, gamma_min, nats, generator):
    """Of one with the variance of u and of the last step, but for exp(-gamma_max)."""
    assert log(2 * pi * e * (variance + exp(gamma_min))) / 2 == pytest.approx(nats, abs=1e-6)
    prior = oracle(variance, gamma_min=gamma_min)
    u = drawn(variance, 20_000, generator)
    u /= (u**2).mean().sqrt() / variance**0.5
    with torch.no_grad():
        mean = float(-prior.bound(u, generator).mean() / 49)
    assert mean == pytest.approx(nats, abs=1e-3)


@pytest.mark.parametrize("n_steps", [5, 25])
def test_bound_of_some_steps_is_the_sum_of_their_divergences(n_steps, generator):
    prior, variance = oracle(0.25), 0.25
    total = (log(2 * pi) + prior.gamma_min + 1) / 2
    times = schedule(prior, n_steps)
    _, alpha, sigma = times[0]
    total += (alpha**2 * variance + sigma**2 - 2 * log(sigma) - 1) / 2
    for (gamma_t, alpha, sigma), (gamma_s, _, _) in pairwise(times):
        missed = alpha**2 * variance / (alpha**2 * variance + sigma**2)
        total += (exp(gamma_t - gamma_s) - 1) * missed / 2
    u = drawn(variance, 2000, generator)
    u /= (u**2).mean().sqrt() / variance**0.5
    mean, _ = mean_and_error(-prior.bound(u, generator, n_steps) / 49)
    assert mean == pytest.approx(total, rel=1e-6)
    assert total > log(2 * pi * e * (variance + exp(prior.gamma_min))) / 2


@pytest.mark.parametrize("n_steps", [None, 4])
def test_bound_is_that_of_noise_that_is_missed(n_steps, generator):
    """As it is written: squares of the noise that is not seen, with weights, at random times."""
    prior, n = restless(oracle(0.3, (1, 2, 2)), generator), 20_000
    prior.center = prior.center + 0.2
    for value in (0.1, -0.8):
        u = torch.full((n, 1, 2, 2), value, dtype=torch.float64)
        t = torch.rand(n, dtype=torch.float64, generator=generator)
        step, weight = 13 if n_steps is None else 13 / n_steps, 13 / 2
        if n_steps is not None:
            t, weight = (t * n_steps).ceil() / n_steps, n_steps * (exp(step) - 1) / 2
        sigma = torch.sigmoid(-6 + 13 * t).sqrt()[:, None, None, None]
        noise = torch.randn(u.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            missed = noise - prior.noise((1 - sigma**2).sqrt() * u + sigma * noise, t)
            bound = mean_and_error(prior.bound(u, generator, n_steps))
        (_, alpha, sigma), *_ = schedule(prior, 1)
        ends = 4 * (log(2 * pi) - 6 + 1) / 2
        ends += 4 * (alpha**2 * value**2 + sigma**2 - 2 * log(sigma) - 1) / 2
        naive = mean_and_error(-ends - weight * (missed**2).flatten(1).sum(1))
        assert bound[1] < naive[1]
        assert bound[0] == pytest.approx(naive[0], abs=3.5 * (bound[1] + naive[1]))


@pytest.mark.parametrize("n_steps", [None, 6])
def test_bound_of_mirrored_times_has_the_same_mean_and_hardly_an_error_that_rows_share(
    n_steps, generator
):
    prior = restless(oracle(0.3, (1, 2, 2)), generator)
    u = torch.full((1000, 1, 2, 2), 0.4, dtype=torch.float64)
    with torch.no_grad():
        one = mean_and_error(torch.cat([prior.bound(u, generator, n_steps) for _ in range(20)]))
        pairs = mean_and_error(prior.bound(u, generator, n_steps, n_pairs=3))
        assert pairs[0] == pytest.approx(one[0], abs=3.5 * (one[1] + pairs[1]))
        assert pairs[1] < one[1] * 20**0.5 / 2
        shared = Shared(generator)
        alone = prior.bound(u[:3], shared, n_steps, n_pairs=2)
        assert torch.equal(alone, alone[:1].expand(3))


def test_mirrored_times_are_even():
    """One in each part of [0, 1], and its mirror image, for each row."""
    t = oracle(0.3)._mirrored(5, 4, torch.Generator().manual_seed(0), torch.zeros(1))
    assert t.shape == (5, 8)
    for half in (t[:, :4], t[:, 4:]):
        assert torch.equal((4 * half).floor(), torch.arange(4.0).expand(5, -1))
    torch.testing.assert_close((4 * t).frac().view(5, 2, 4).sum(1), torch.ones(5, 4))


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.96), (0.5, 0.3), (0.04, 0.0)])
def test_steps_backwards_undo_the_noise_of_steps_forwards(t, s, generator):
    """z_t ~ q(z_t | u) and z_s ~ q(z_s | z_t, u) give z_s ~ q(z_s | u)."""
    prior, u = oracle(0.3), drawn(1.0, 6, generator)
    t, s = (torch.tensor(value, dtype=torch.float64) for value in (t, s))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (torch.sigmoid(-prior.gamma(time)).sqrt(), torch.sigmoid(prior.gamma(time)).sqrt())
        for time in (t, s)
    )
    mean = prior.step(alpha_t * u, t, s, u)
    torch.testing.assert_close(mean, alpha_s * u, rtol=1e-12, atol=1e-12)
    factor = prior.step(alpha_t * u + sigma_t, t, s, u) - mean
    total = factor**2 + prior.spread(t, s) ** 2
    torch.testing.assert_close(total, (sigma_s**2).expand_as(u), rtol=1e-10, atol=0)


@pytest.mark.parametrize("n_steps", [3, 8])
def test_path_weights_average_to_the_density_of_their_model(n_steps, generator):
    prior = oracle(0.3, (1, 1, 1))
    for value in (0.0, 0.9):
        u = torch.full((30_000, 1, 1, 1), value, dtype=torch.float64)
        with torch.no_grad():
            weights = prior.path_log_weight(u, generator, n_steps).exp()
        mean, error = mean_and_error(weights)
        expected = log_normal(u[:1], chain_variance(prior, n_steps)).exp().item()
        assert error < 0.05 * expected
        assert mean == pytest.approx(expected, abs=3.5 * error)


def test_log_path_weights_average_to_the_bound_of_as_many_steps(generator):
    prior, u = restless(oracle(0.3), generator, 0.03), drawn(0.2, 3000, generator)
    with torch.no_grad():
        paths = mean_and_error(prior.path_log_weight(u, generator, 6))
        bounds = mean_and_error(prior.bound(u, generator, 6))
    assert paths[0] == pytest.approx(bounds[0], abs=3.5 * (paths[1] + bounds[1]))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_variance_of_their_model(temperature, generator):
    prior = oracle(0.3)
    with torch.no_grad():
        u = prior.sample(2000, generator, 4, temperature, limit=None)
    expected = temperature**2 * chain_variance(prior, 4)
    assert u.shape == (2000, *SHAPE)
    assert u.var().item() == pytest.approx(expected, rel=0.02)
    assert u.mean().item() == pytest.approx(0, abs=0.01)


def test_a_limit_holds_what_is_seen_on_the_way():
    """The last step trusts what it sees: without noise, samples are within the limit."""
    prior, one = oracle(4.0), torch.Generator
    with torch.no_grad():
        free = prior.sample(100, one().manual_seed(1), 30, limit=None)
        held = prior.sample(100, one().manual_seed(1), 30)
        again = prior.sample(100, one().manual_seed(1), 30)
    assert free.abs().max() > 4
    assert held.abs().max() < 1 + 6 * exp(prior.gamma_min / 2)
    torch.testing.assert_close(held, again, rtol=0, atol=0)


def test_the_network_starts_with_a_normal_of_the_training_contexts(generator):
    """Each number of a context has a mean and a variance of its own."""
    u = torch.rand(4000, 1, 2, 2, dtype=torch.float64, generator=generator)
    u *= torch.tensor([[1.0, 0.2], [3.0, 0.5]], dtype=torch.float64)
    prior = DiffusionPrior((1, 2, 2), channels=4, n_blocks=1).double()
    before = prior.bound(u, generator).mean()
    prior.start(u)
    u = u + exp(-3) * torch.randn(u.shape, dtype=torch.float64, generator=generator)
    mean, error = mean_and_error(prior.bound(u, generator))
    total = u.var(0) + exp(-6)  # of the last step
    expected = -0.5 * (2 * pi * e * total).log().sum().item()
    assert mean == pytest.approx(expected, abs=0.02 + 3 * error)
    assert before < mean - 1


def test_the_network_learns_what_no_normal_has(generator):
    """Contexts of four corners have a density far above that of a normal as wide."""
    signs = torch.randint(0, 2, (512, 1, 1, 2), generator=generator) * 2.0 - 1
    u = 0.7 * signs + 0.05 * torch.randn(512, 1, 1, 2, generator=generator)
    prior = DiffusionPrior((1, 1, 2), channels=16, n_blocks=1, generator=generator)
    prior.start(u)
    before = prior.bound(u, generator).mean().item()
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (-prior.bound(u, generator).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        after = torch.stack([prior.bound(u, generator).mean() for _ in range(50)]).mean().item()
    known = -2 * (log(2) + log(2 * pi * e * 0.05**2) / 2)
    assert before + 0.8 < after < known


def test_rows_that_share_noise_do_not_depend_on_each_other(generator):
    prior, u = restless(oracle(0.3), generator), drawn(0.3, 5, generator)
    with torch.no_grad():
        for call in (prior.bound, lambda u, noise: prior.path_log_weight(u, noise, 4)):
            alone, among = (
                call(rows, Shared(torch.Generator().manual_seed(3))) for rows in (u[2:3], u)
            )
            torch.testing.assert_close(alone[0], among[2], rtol=1e-10, atol=1e-10)


def test_dropout_is_for_training(generator):
    prior = DiffusionPrior(SHAPE, channels=8, n_blocks=1, dropout=0.5).double()
    z, t = drawn(1.0, 3, generator), torch.full((3,), 0.4, dtype=torch.float64)
    with torch.no_grad():
        for layer in (prior.network.blocks[0].after, prior.network.last):
            layer.weight.normal_(std=0.1, generator=generator)
        assert not torch.equal(prior.noise(z, t), prior.noise(z, t))
        prior.eval()
        assert torch.equal(prior.noise(z, t), prior.noise(z, t))


def test_the_schedule_rises():
    with pytest.raises(ValueError, match=r"below gamma_max, but got 1\.0 and 1\.0"):
        DiffusionPrior(SHAPE, 1.0, 1.0)
