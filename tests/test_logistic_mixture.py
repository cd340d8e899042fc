"""The mixture of logistics: against sums over levels, draws, and logistics written out."""

from itertools import product

import pytest
import torch

from skqlvm.engine.likelihoods import LogisticMixture
from skqlvm.engine.likelihoods.logistic_mixture import log_probability

LEVELS = torch.arange(256, dtype=torch.float64) / 255


def outputs_of(likelihood, generator, n=1, spread=1.0):
    shape = (n, likelihood.n_outputs)
    return spread * torch.randn(shape, dtype=torch.float64, generator=generator)


def log_prob(likelihood, x, outputs):
    terms = likelihood.terms(x)
    return likelihood.paired(terms, outputs[:, None])[:, 0] + terms.base


@pytest.mark.parametrize("spread", [0.5, 3.0, 30.0])
def test_probabilities_of_all_levels_sum_to_one(generator, spread):
    likelihood = LogisticMixture(1, (1, 1, 1), n_components=3)
    outputs = outputs_of(likelihood, generator, spread=spread).expand(256, -1)
    total = log_prob(likelihood, LEVELS[:, None], outputs).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


def test_probabilities_of_channels_sum_to_one_given_those_before(generator):
    """Each channel alone, of components that are one: then the probability is a product."""
    likelihood = LogisticMixture(3, (3, 1, 1), n_components=1)
    outputs = outputs_of(likelihood, generator).expand(256, -1)
    for channel in range(3):
        x = torch.full((256, 3), 30 / 255, dtype=torch.float64)
        x[:, channel] = LEVELS
        alone = log_prob(likelihood, x, outputs)
        later = [other for other in range(3) if other > channel]
        parts = likelihood.components(outputs)
        values = 2 * x.view(256, 1, 3, 1, 1) - 1
        loc = parts.loc + (parts.coefficients * values[:, :, None]).sum(3)
        those = log_probability(values, loc, parts.log_scale)[:, 0, later, 0, 0].sum(1)
        before = log_probability(values, loc, parts.log_scale)[:, 0, :channel, 0, 0].sum(1)
        assert float((alone - those - before).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_log_probability_is_that_of_a_loop_over_pixels_channels_and_components(generator):
    shape, k = (3, 2, 2), 2
    likelihood = LogisticMixture(12, shape, n_components=k)
    outputs = outputs_of(likelihood, generator)
    x = LEVELS[torch.randint(256, (1, 12), generator=generator)]
    x[0, :2] = torch.tensor([0.0, 1.0])
    image, numbers = 2 * x.view(shape) - 1, outputs.view(-1, 2, 2)
    expected = 0.0
    for i, j in product(range(2), range(2)):
        shares = torch.softmax(numbers[:k, i, j], 0)
        loc = numbers[k : k + 3 * k, i, j].view(k, 3)
        scale = numbers[4 * k : 7 * k, i, j].view(k, 3).clamp(-8, 1).exp()
        rg, rb, gb = numbers[7 * k :, i, j].view(k, 3).tanh().unbind(1)
        r, g, b = image[:, i, j]
        total = 0.0
        for c in range(k):
            locs = (loc[c, 0], loc[c, 1] + rg[c] * r, loc[c, 2] + rb[c] * r + gb[c] * g)
            p = shares[c]
            for value, m, s in zip((r, g, b), locs, scale[c], strict=True):
                above = torch.sigmoid((value + 1 / 255 - m) / s) if value < 1 else 1.0
                below = torch.sigmoid((value - 1 / 255 - m) / s) if value > -1 else 0.0
                p = p * (above - below)
            total = total + p
        expected = expected + torch.log(total)
    assert float(log_prob(likelihood, x, outputs)) == pytest.approx(float(expected), rel=1e-9)


def test_narrow_logistics_far_from_a_value_keep_their_logarithms():
    """Where a difference of two sigmoids would be zero."""
    values = torch.tensor([0.5], dtype=torch.float32) * 2 - 1
    far = log_probability(values, torch.tensor([-1.0]), torch.tensor([-8.0]))
    exact = -(1 - 1 / 255) * torch.tensor(8.0, dtype=torch.float64).exp()
    assert float(far) == pytest.approx(float(exact), rel=1e-3)


def test_draws_have_the_probabilities_of_levels(generator):
    likelihood = LogisticMixture(1, (1, 1, 1), n_components=2)
    outputs = outputs_of(likelihood, generator)
    drawn = likelihood.sample(outputs.expand(20_000, -1), generator)
    assert torch.equal((255 * drawn).round() / 255, drawn)
    p = log_prob(likelihood, LEVELS[:, None], outputs.expand(256, -1)).exp().cumsum(0)
    shares = torch.searchsorted(drawn[:, 0].sort().values, LEVELS + 1e-9) / len(drawn)
    assert torch.allclose(shares.double(), p, atol=0.012)


def test_draws_of_channels_have_the_probabilities_of_levels(generator):
    """In a box without the outermost levels, of which every third is looked at."""
    likelihood = LogisticMixture(3, (3, 1, 1), n_components=2)
    outputs = outputs_of(likelihood, generator)
    outputs[:, 8:14] = -2
    drawn = 255 * likelihood.sample(outputs.expand(20_000, -1), generator)
    share = ((drawn > 63.5) & (drawn < 183.5)).all(1).double().mean()
    middles = LEVELS[65:183:3]
    x = torch.cartesian_prod(middles, middles, middles)
    total = 27 * log_prob(likelihood, x, outputs.expand(len(x), -1)).exp().sum()
    assert float(share) > 0.01
    assert float(share) == pytest.approx(float(total), abs=0.012)


def test_mean_is_that_of_the_levels(generator):
    likelihood = LogisticMixture(1, (1, 1, 1), n_components=3)
    for spread in (0.3, 2.0):
        outputs = outputs_of(likelihood, generator, spread=spread)
        p = log_prob(likelihood, LEVELS[:, None], outputs.expand(256, -1)).exp()
        assert float(likelihood.mean(outputs)) == pytest.approx(float(p @ LEVELS), abs=2e-3)


def test_mean_of_channels_is_near_that_of_draws(generator):
    likelihood = LogisticMixture(3, (3, 1, 1), n_components=2)
    outputs = outputs_of(likelihood, generator)
    outputs[:, 8:14] -= 4  # narrow: then few draws are moved into the range
    drawn = likelihood.sample(outputs.expand(20_000, -1), generator).mean(0)
    assert torch.allclose(likelihood.mean(outputs)[0], drawn, atol=0.02)


def test_gradients_are_finite_where_scales_are_at_their_limits(generator):
    likelihood = LogisticMixture(4, (1, 2, 2), n_components=2)
    outputs = outputs_of(likelihood, generator, n=5, spread=40.0).float().requires_grad_()
    x = LEVELS[torch.randint(256, (5, 4), generator=generator)].float()
    log_prob(likelihood, x, outputs).sum().backward()
    assert bool(outputs.grad.isfinite().all())


@pytest.mark.parametrize(
    ("value", "message"),
    [(1.2, r"expects X in \[0, 1\]"), (0.3001, r"expects grey levels k / 255")],
)
def test_values_that_are_no_levels_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        LogisticMixture(1, (1, 1, 1)).check(torch.tensor([[0.2], [value]]))
