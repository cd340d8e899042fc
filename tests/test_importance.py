"""Importance sampling from mixtures that are put right: closed forms under wrong encoders, means
over seeds, and the density of the mixture itself."""

from math import log

import numpy as np
import pytest
import torch
from torch import nn

from skqlvm.engine import importance, lattices, likelihoods, quadrature, torus
from skqlvm.engine.models import EncoderModel
from skqlvm.engine.priors import StandardNormal, UniformTorus

VARIANCE = 0.1


class Stubborn(nn.Module):
    """An encoder that says the same whatever the row is, and is wrong."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x):
        return self.values.expand(len(x), -1)


class Folded(nn.Module):
    """z and -z decode to the same: two peaks a row."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0).double())

    def forward(self, z):
        return self.scale * torch.cat([z[..., :1] ** 2, z[..., :1] ** 2], -1)


class Circles(Folded):
    def forward(self, z):
        return self.scale * torus.to_circle(z)


def linear_model(k, d, generator, loc=3.0, log_variance=-2.0):
    """x = W z + b + noise, with an encoder that puts every row at `loc`."""
    decoder = nn.Linear(k, d).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            values = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter.copy_(values)
    return wrong_model(k, d, decoder, StandardNormal(), [loc] * k + [log_variance] * k)


def wrong_model(k, d, decoder, prior, says):
    model = EncoderModel(
        k,
        prior,
        decoder,
        likelihoods.Gaussian(d, VARIANCE),
        Stubborn(says),
        covariance_type="diagonal",
        wrapped=prior.period is not None,
    )
    return model.requires_grad_(False).eval()


def linear_rows(model, n, generator):
    k, d = model.n_components, model.decoder.out_features
    z = torch.randn(n, k, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return model.decoder(z) + VARIANCE**0.5 * noise


def linear_nats(model, x):
    weight, bias = model.decoder.weight, model.decoder.bias
    eye = torch.eye(len(bias), dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(bias, weight @ weight.T + VARIANCE * eye)
    return law.log_prob(x)


def estimated(model, x, n_draws, seed=0, n_at_once=1000):
    generator = torch.Generator().manual_seed(seed)
    return importance.estimate(model, x, n_draws, generator, n_at_once).T


@pytest.mark.parametrize("k", [1, 2, 3, 8, 32])
def test_wrong_encoder_does_not_matter_to_a_linear_gaussian(k, generator):
    """The posterior is a normal, which Laplace's approximation is exact for."""
    model = linear_model(k, k + 2, generator)
    x = linear_rows(model, 23, generator)
    nats, error = estimated(model, x, 500)
    assert ((nats - linear_nats(model, x)).abs() < 4 * error).all()
    assert error.max() < 0.06


@pytest.mark.parametrize("n_draws", [1, 2, 5, 20])
def test_estimates_of_p_are_unbiased_and_their_logarithms_below(n_draws, generator, monkeypatch):
    """Over seeds, for any number of draws, however they are split."""
    model = linear_model(2, 3, generator)
    x = linear_rows(model, 5, generator)
    exact, found = linear_nats(model, x), importance.mixture(model, x, n_draws)
    monkeypatch.setattr(importance, "mixture", lambda *_: found)
    ratios = torch.stack([estimated(model, x, n_draws, s)[0] - exact for s in range(400)]).exp()
    error = ratios.std(0) / 20
    assert ((ratios.mean(0) - 1).abs() < 4.5 * error).all()
    assert ratios.log().mean() < 0


def test_both_peaks_of_a_folded_latent_space_are_drawn_from(generator):
    """An encoder that knows one of them is log 2 short by itself."""
    model = wrong_model(1, 2, Folded(), StandardNormal(), [1.5, -2.0])
    x = torch.tensor([[2.0, 2.5], [1.0, 1.2], [0.0, -0.3]], dtype=torch.float64)
    charts = quadrature.charts(model, quadrature.nested_points(1, 2**14))
    exact = quadrature.log_marginal(model, charts, [x])
    nats, error = estimated(model, x, 1000)
    assert ((nats - exact).abs() < 4 * error).all()
    assert error.max() < 0.1


@pytest.mark.parametrize("k", [1, 2])
def test_wrong_encoder_does_not_matter_on_the_torus(k, generator):
    model = wrong_model(k, 2 * k, Circles(), UniformTorus(), [-1.0] * k + [0.0] * k + [-3.0] * k)
    z = torch.rand(11, k, dtype=torch.float64, generator=generator)
    x = torus.to_circle(z) + 0.3 * torch.randn(11, 2 * k, dtype=torch.float64, generator=generator)
    charts = quadrature.charts(model, lattices.lattice(k, 6765))
    exact = quadrature.log_marginal(model, charts, [x])
    nats, error = estimated(model, x, 1000)
    assert ((nats - exact).abs() < 4 * error).all()
    assert error.max() < 0.1


def test_density_of_a_mixture_is_that_of_its_parts_by_their_draws(generator):
    model = linear_model(2, 3, generator)
    x = linear_rows(model, 5, generator)
    mixture = importance.mixture(model, x, 50)
    assert sum(mixture.n_draws) == 50
    z = mixture.at(generator)
    assert z.shape == (5, 50, 2)
    density = mixture.n_draws[0] * model.prior.log_prob(z).exp()
    for part, count in zip(mixture.parts, mixture.n_draws[1:], strict=True):
        density = density + count * part.log_prob(z).exp()
    torch.testing.assert_close(mixture.log_prob(z), (density / 50).log())


def test_rows_are_estimated_for_themselves_and_the_same_each_time(generator):
    model = linear_model(2, 3, generator)
    x = linear_rows(model, 11, generator)
    together = estimated(model, x, 100)
    torch.testing.assert_close(estimated(model, x, 100), together, rtol=0, atol=0)
    torch.testing.assert_close(estimated(model, x, 100, n_at_once=3), together)
    one_by_one = torch.cat([estimated(model, row[None], 100) for row in x], 1)
    torch.testing.assert_close(one_by_one, together)


def test_beyond_many_components_encoder_and_prior_are_drawn_from(generator, monkeypatch):
    monkeypatch.setattr(importance, "MOST_COMPONENTS", 1)
    model = linear_model(2, 3, generator, loc=0.0, log_variance=4.0)
    x = linear_rows(model, 5, generator)
    assert importance.mixture(model, x, 100).n_draws == [10, 90]
    nats, error = estimated(model, x, 20_000)
    assert ((nats - linear_nats(model, x)).abs() < 5 * error).all()


def test_encoder_alone_falls_short_of_what_the_mixture_finds(generator):
    """The reason for it: far from the posterior, all draws miss it."""
    model = linear_model(2, 3, generator)
    x = linear_rows(model, 5, generator)
    drawn = model.draw(x, 500, torch.Generator().manual_seed(0), shared=True)
    alone = torch.logsumexp(drawn.log_w(model.prior), 1) - log(500) + drawn.base
    exact = linear_nats(model, x)
    assert (alone - exact).mean() < -1
    assert np.abs((estimated(model, x, 500)[0] - exact).numpy()).max() < 0.5
