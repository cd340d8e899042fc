"""Evaluators of hierarchical models, on images that are normal all the way: log p(x) is known.

The contexts of the toy are the images themselves. u ~ N(0, S2), z | u ~ N(u, A2), x | z ~ N(z, B2),
with the exact posterior of z, and with the diffusion model that knows S2."""

from itertools import pairwise
from math import exp, log, pi

import pytest
import torch
from torch import nn

from skqlvm.engine.hierarchy.contexts import CONTEXTS, Context
from skqlvm.engine.hierarchy.diffusion import DiffusionPrior
from skqlvm.engine.hierarchy.ladder import Ladder, Normals, Passed
from skqlvm.engine.hierarchy.model import HierarchicalModel, Parts, elbo, importance
from skqlvm.engine.hierarchy.noise import Shared, normal
from skqlvm.engine.likelihoods import Bernoulli
from skqlvm.engine.objectives import log_mean_exp

SHAPE, D = (1, 7, 7), 49
S2, A2, B2 = 0.1, 0.003, 0.003


class Same(Context):
    """The image itself."""

    def forward(self, x):
        return x

    def to_image(self, u):
        return u


class Still(nn.Module):
    """A network that adds nothing."""

    def forward(self, z, t):
        return torch.zeros_like(z)


class Toy(nn.Module):
    """The methods of a ladder, with one level of normals; a proposal that is too wide by choice."""

    image_shape = SHAPE

    def __init__(self, widened=1.0):
        super().__init__()
        self.widened = widened

    def forward(self, x, condition, generator):
        above = 0 * x if condition is None else condition
        prior_variance = S2 if condition is None else A2
        prior = Normals(above, torch.full_like(x, log(prior_variance)))
        precision = 1 / prior_variance + 1 / B2
        loc = (above / prior_variance + x / B2) / precision
        posterior = Normals(loc, torch.full_like(x, log(self.widened / precision)))
        z = posterior.at(normal(tuple(x.shape), generator, x))
        kl = posterior.kl(prior)[:, None]
        return Passed(z, kl, prior.log_prob(z), posterior.log_prob(z), [loc])

    def generate(self, n, condition, generator, temperature=1.0):
        return condition + temperature * A2**0.5 * normal((n, *SHAPE), generator, condition)


class NormalPixels(nn.Module):
    """The methods of a likelihood that a model calls."""

    def start(self, x):
        pass

    def terms(self, x):
        return Terms(x, -0.5 * D * log(2 * pi * B2) * torch.ones_like(x[:, 0]))

    def paired(self, terms, outputs):
        return -((terms.statistics[:, None] - outputs) ** 2).sum(2) / (2 * B2)

    def mean(self, outputs):
        return outputs


class Terms:
    def __init__(self, statistics, base):
        self.statistics, self.base = statistics, base


class Oracle(DiffusionPrior):
    def __init__(self):
        super().__init__(SHAPE, -6.0, 7.0, channels=4, n_blocks=1)
        self.network = Still()
        self.variance = torch.full(SHAPE, S2, dtype=torch.float64)

    def chain_variance(self, n_steps):
        """Variance of u under the model of n steps, all of which are linear in a normal."""
        times, variance = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64), 1.0
        one = torch.ones(1, *SHAPE, dtype=torch.float64)
        for t, s in pairwise(times):
            factor = (self.step(one, t, s) - self.step(0 * one, t, s)).mean()
            variance = factor**2 * variance + self.spread(t, s) ** 2
        return float(variance) * (1 + exp(self.gamma_min)) + exp(self.gamma_min)


def toy(**options):
    model = HierarchicalModel(Toy(**options), NormalPixels(), Same(SHAPE, 7), Oracle()).double()
    model.log_variance_u.data.fill_(-5.4)
    return model


def images(n, variance, generator):
    return variance**0.5 * torch.randn(n, *SHAPE, dtype=torch.float64, generator=generator)


def log_evidence(x, variance):
    return -0.5 * (x**2 / variance + log(2 * pi * variance)).flatten(1).sum(1)


def within(excess, n_errors=3.0):
    """Whether the mean excess over the evidence may be at most zero, by its standard error."""
    return excess.mean() <= n_errors * excess.std() / len(excess) ** 0.5


def released(model, x, n_draws, n_steps, generator):
    """The scheme of the authors' code: rates of continuous time at the right ends of all steps, and
    one draw of them within the exponentials."""
    diffusion, draws = model.diffusion, []
    for _ in range(n_draws):
        u = model.draw_context(x, generator)
        last = torch.sigmoid(torch.tensor(7.0, dtype=torch.float64))
        noise = normal(tuple(u.shape), generator, u)
        log_p = -0.5 * total(noise**2 + log(2 * pi) - 6)
        log_p = log_p - 0.5 * total((1 - last) * u**2 + last - last.log() - 1)
        for i in range(1, n_steps + 1):
            t = torch.full((len(x),), i / n_steps, dtype=torch.float64)
            gamma = diffusion.gamma(t)[0]
            noise = normal(tuple(u.shape), generator, u)
            z = torch.sigmoid(-gamma).sqrt() * u + torch.sigmoid(gamma).sqrt() * noise
            log_p = log_p - 13 / 2 / n_steps * total((noise - diffusion.noise(z, t)) ** 2)
        weight = model.log_weight_given(x, u, generator)
        draws.append(weight + log_p - model.log_ru(x, u))
    return log_mean_exp(torch.stack(draws), 0)


def total(values):
    return values.flatten(1).sum(1)


@pytest.mark.parametrize("widened", [1.0, 1.5])
def test_bounds_are_at_most_the_evidence(widened, generator):
    """That of continuous time, whose u is as wide as the data and the last step."""
    model, variance = toy(widened=widened), S2 + exp(-6) + A2 + B2
    x = images(300, variance, generator)
    evidence = log_evidence(x, variance)
    single, error = elbo(model, x, generator, 10)
    tight, _ = elbo(model, x, generator, 10, 20)
    assert within(single - evidence)
    assert within(tight - evidence)
    assert (tight - evidence).mean() > -6
    gained = (tight - single).mean()
    assert gained > 1.5 if widened > 1 else abs(gained) < 0.3
    assert 0 < error.mean() < 3


@pytest.mark.parametrize("n_steps", [25, 200])
def test_path_weights_stay_within_the_evidence_and_rise_to_it(n_steps, generator):
    """That of so many steps."""
    model = toy()
    variance = model.diffusion.chain_variance(n_steps) + A2 + B2
    x = images(12, variance, generator)
    n_draws = 100 if n_steps > 100 else 1000
    rows = x.repeat_interleave(n_draws, 0)
    with torch.no_grad():
        log_w = model.log_weight(rows, generator, n_steps).unflatten(0, (12, n_draws))
    evidence, means = log_evidence(x, variance), []
    for k in (1, 10, 100, 1000):
        if k <= n_draws:
            excess = log_mean_exp(log_w.unflatten(1, (-1, k)), 2).mean(1) - evidence
            means.append(float(excess.mean()))
            assert within(excess)
    assert means == sorted(means)
    assert means[-1] - means[0] > 3


def test_the_released_scheme_exceeds_the_evidence(generator):
    """By nats that are no accident, however many steps the evidence is of; ours does not."""
    model, variance = toy(), S2 + exp(-6) + A2 + B2
    x = images(60, variance, generator)
    best = torch.stack(
        [log_evidence(x, v) for v in (variance, model.diffusion.chain_variance(25) + A2 + B2)]
    ).amax(0)
    with torch.no_grad():
        claimed = [released(model, x, k, 25, generator) - best for k in (1, 100)]
    for excess, least in zip(claimed, (0.0, 8.0), strict=True):
        assert not within(excess)
        assert excess.mean() > least
    assert within(elbo(model, x, generator, 20)[0] - best)
    assert within(importance(model, x, generator, 20, 25)[0] - best)


def test_without_a_context_weights_are_those_of_the_ladder(generator):
    """The posterior is exact: each single weight is the evidence, and so is the bound."""
    model = HierarchicalModel(Toy(), NormalPixels()).double()
    x = images(20, S2 + B2, generator)
    evidence = log_evidence(x, S2 + B2)
    estimate, error = importance(model, x, generator, 3)
    torch.testing.assert_close(estimate, evidence, rtol=1e-9, atol=0)
    assert error.max() < 1e-9
    bound, error = elbo(model, x, generator, 200)
    assert (bound - evidence).abs().max() < 5 * error.max()
    assert (model.nats(x, generator).context == 0).all()


def test_standard_errors_tell_the_spread_of_estimates(generator):
    model, plain = toy(), HierarchicalModel(Toy(1.05), NormalPixels())
    x = images(1, S2, generator)
    many = x.expand(300, *SHAPE)
    for estimator, estimated in ((elbo, model), (importance, plain)):
        values, errors = estimator(estimated, many, generator, 30)
        assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.25)
    assert elbo(model, x, generator, 1)[1].isnan().all()


def test_parts_add_up():
    parts = Parts(torch.tensor([5.0]), torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
    assert parts.bound == 1.5
    assert parts._replace(beta=0.5).bound == 3.25


@pytest.fixture(params=["dct", None])
def small(request, generator):
    """A model as it is used, in miniature, on binary images."""
    shape, name = (1, 8, 8), request.param
    context = None if name is None else CONTEXTS[name](shape, 3)
    diffusion = None if context is None else DiffusionPrior((1, 3, 3), channels=8, n_blocks=1)
    told = 0 if context is None else 1
    ladder = Ladder(shape, (1, 1), 6, 1.0, 1, context_channels=told, generator=generator)
    model = HierarchicalModel(ladder, Bernoulli(64), context, diffusion, n_steps=5).double()
    x = torch.rand(30, *shape, dtype=torch.float64, generator=generator).round()
    model.start(x)
    return model, x


def test_samples_and_reconstructions_are_images(small, generator):
    model, x = small
    seeded = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    with torch.no_grad():
        first, second = (model.generate(7, each) for each in seeded)
        means = model.generate(7, generator, noise=False)
        back = model.reconstruct(x)
        cold = [model.generate(2, generator, 0.0, noise=False) for _ in range(2)]
    assert first.shape == means.shape == (7, 1, 8, 8)
    assert torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert 0 < means.min() < means.max() < 1
    assert back.shape == x.shape
    assert torch.equal(back, model.reconstruct(x))
    torch.testing.assert_close(cold[0], cold[1], rtol=0, atol=0)


def test_bounds_of_a_ladder_are_the_mean_of_its_weights(small, generator):
    """Divergences that are integrated, and those of draws, have the same mean."""
    model, x = small
    rows = x[:1].expand(1000, 1, 8, 8)
    with torch.no_grad():
        parts = model.nats(rows, generator)
        u = model.draw_context(rows, generator)
        drawn = model.log_weight_given(rows, u, generator)
    whole = parts.bound + parts.context
    error = (whole.std() + drawn.std()) / len(rows) ** 0.5
    assert abs(whole.mean() - drawn.mean()) < 4 * error


def test_all_parameters_learn(small, generator):
    model, x = small
    model.nats(x, generator).bound.mean().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None}
    assert not still
    if model.log_variance_u is not None:
        assert model.log_variance_u.grad.abs().min() > 0


def test_rows_that_share_noise_are_scored_for_themselves(small):
    model, x = small
    alone, among = (
        elbo(model, rows, Shared(torch.Generator().manual_seed(3)), 2)[0] for rows in (x[4:5], x)
    )
    torch.testing.assert_close(alone[0], among[4], rtol=1e-10, atol=0)


def test_the_context_reaches_every_prior(small, generator):
    """In the next image, at all levels, once weights are no longer those of the start."""
    model, x = small
    if model.context is None:
        return
    with torch.no_grad():
        told = [model.condition(model.context(rows)) for rows in (x[:1], x[1:2])]
        seeds = [torch.Generator().manual_seed(5) for _ in told]
        images = [
            model.ladder.generate(1, each, seed) for each, seed in zip(told, seeds, strict=True)
        ]
    assert (images[0] != images[1]).all()


def test_a_context_needs_its_prior():
    ladder = Ladder(SHAPE, (1,), 4, context_channels=1)
    with pytest.raises(ValueError, match="a context and a diffusion prior of it, or neither"):
        HierarchicalModel(ladder, Bernoulli(49), CONTEXTS["dct"](SHAPE, 3))


@pytest.mark.parametrize("range_", [(-12.0, -6.0, -5.0), (-4.0, -2.0, -1.0)])
def test_noise_of_contexts_stays_within_its_range(range_, small, generator):
    model, x = small
    if model.context is None:
        return
    parts = model.ladder, model.likelihood, model.context, model.diffusion
    chosen = HierarchicalModel(*parts, context_log_variances=range_).double()
    rows = x[:1].expand(400, *x.shape[1:])
    for value, expected in ((None, range_[1]), (-99.0, range_[0]), (9.0, range_[2])):
        if value is not None:
            chosen.log_variance_u.data.fill_(value)
        away = chosen.draw_context(rows, generator) - model.context(rows)
        assert away.var().log().item() == pytest.approx(expected, abs=0.15)


def test_the_range_of_noise_rises():
    parts = CONTEXTS["dct"](SHAPE, 3), DiffusionPrior((1, 3, 3), channels=4, n_blocks=1)
    ladder = Ladder(SHAPE, (1,), 4, context_channels=1)
    with pytest.raises(ValueError, match=r"in rising order, but got \(-5\.0, -6\.0, 0\.0\)"):
        HierarchicalModel(ladder, Bernoulli(49), *parts, context_log_variances=(-5.0, -6.0, 0.0))
