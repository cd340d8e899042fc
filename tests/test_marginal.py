"""The trained bound, against the decoder at points that were shifted, and its exact gradient."""

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skqlvm.engine import (
    conditions,
    harmonics,
    lattices,
    likelihoods,
    marginal,
    models,
    networks,
    objectives,
    priors,
)

DECODERS = {
    "mlp": lambda generator: networks.MLPDecoder(2, 12, (8,), 3, generator=generator),
    "no hidden layer": lambda generator: networks.MLPDecoder(2, 12, (), 3, generator=generator),
    "conv": lambda generator: networks.ConvDecoder(2, 12, (1, 3, 4), (8,), 3, generator=generator),
}


def moved(points, generator):
    shift = lattices.random_shift(points.shape[1], generator)
    return shift, lattices.shifted(points, shift)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2.5, 4])
def test_turned_weights_say_of_waves_what_weights_say_of_moved_points(k, order, generator):
    basis = harmonics.TorusBasis(k, 4, decay=0.5)
    basis.open(order)
    weight = torch.randn(5, basis.n_features, dtype=torch.float64, generator=generator)
    points = lattices.lattice(k, 55)
    shift, z = moved(points, generator)
    waves = [half[:, : basis.n_open] for half in basis.waves(points).chunk(2, 1)]
    found = F.linear(torch.cat(waves, 1), basis.turned(weight, shift))
    torch.testing.assert_close(found, F.linear(basis(z), weight), rtol=0, atol=1e-12)
    assert basis.n_open == sum(scale > 0 for scale in basis.scales.tolist()) / 2


@pytest.mark.parametrize("name", DECODERS)
def test_lattice_decodes_to_what_shifted_points_do(name, generator):
    decoder, points = DECODERS[name](generator), lattices.lattice(2, 34)
    lattice, index = marginal.shifted_lattice(decoder, points), torch.tensor([3, 0, 33, 7, 7])
    assert isinstance(lattice, marginal.LatticeOfWaves)
    for order in (3, 1, 2.5):
        lattice.basis.open(order)
        for _ in range(2):
            shift, z = moved(points, generator)
            found = lattice.decode(shift)(lattice.rows[index])
            torch.testing.assert_close(found, decoder(z[index].float()), rtol=0, atol=1e-5)


CONDITIONED = {
    "mlp": lambda generator: networks.MLPDecoder(
        2, 12, (8,), 3, generator=generator, n_conditions=2
    ),
    "conv": lambda generator: networks.ConvDecoder(
        2, 12, (1, 3, 4), (8,), 3, generator=generator, n_conditions=2
    ),
    "one's own": lambda generator: nn.Linear(4, 12),
}


@pytest.mark.parametrize("name", CONDITIONED)
def test_lattice_decodes_to_what_points_with_the_condition_do(name, generator):
    decoder, points = CONDITIONED[name](generator).double(), lattices.lattice(2, 34)
    lattice, index = marginal.shifted_lattice(decoder, points), torch.tensor([3, 0, 33, 7])
    condition = torch.tensor([0.7, -2.0], dtype=torch.float64)
    shift, z = moved(points, generator)
    found = lattice.decode(shift, condition)(lattice.rows[index])
    told = torch.cat([z[index], condition.expand(4, 2)], 1)
    torch.testing.assert_close(found, decoder(told), rtol=0, atol=1e-12)
    other = lattice.decode(shift, -condition)(lattice.rows[index])
    assert (other - found).abs().max() > 1e-3


def test_decoders_of_ones_own_get_points(generator):
    class Mine(networks.MLPDecoder):
        def forward(self, z):
            return 2 * super().forward(z)

    decoder, points = Mine(2, 5, (8,), 2, generator=generator), lattices.lattice(2, 21)
    shift, z = moved(points, generator)
    lattice = marginal.shifted_lattice(decoder, points)
    assert torch.equal(lattice.decode(shift)(lattice.rows), decoder(z.float()))


def modelled(generator, kind, n=9, d=12, sharpness=60):
    """Rows, and a model of them in float64, whose posteriors are the narrower the sharper."""
    x = torch.rand(n, d, generator=generator, dtype=torch.float64).round()
    likelihood = kind(d).double()
    likelihood.start(x)
    decoder = networks.MLPDecoder(2, d, (16,), 3, generator=generator).double()
    with torch.no_grad():
        decoder.layers[-1].weight *= sharpness
    return x, models.Model(2, priors.UniformTorus(), decoder, likelihood)


def with_gradient(bound, model):
    return bound.detach(), torch.autograd.grad(bound.sum(), list(model.parameters()))


@pytest.mark.parametrize("kind", [likelihoods.Bernoulli, likelihoods.Gaussian, likelihoods.Poisson])
@pytest.mark.parametrize(
    ("n_bytes", "spared"), [(2**30, None), (2**30, 0.0), (20_000, None), (20_000, 2**-24)]
)
def test_bound_and_gradient_are_those_of_all_points(kind, n_bytes, spared, generator):
    """In one piece, in pieces, and through all points that have a part."""
    x, model = modelled(generator, kind)
    points = lattices.lattice(2, 144)
    bound = marginal.LatticeBound(model, points, x, n_bytes=n_bytes, spared=spared)
    assert (bound.n_at_once < 144) == (n_bytes < 2**30)
    for shift in (None, lattices.random_shift(2, generator)):
        z = points if shift is None else lattices.shifted(points, shift)
        terms = model.likelihood.terms(x)
        exact = torch.logsumexp(model.table(terms, z), 1) - log(144) + terms.base
        (value, found), (expected, gradient) = (
            with_gradient(nats, model) for nats in (bound(x, shift), exact)
        )
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        for a, b in zip(found, gradient, strict=True):
            assert (a - b).norm() <= 1e-6 * b.norm()


def test_harmonics_that_open_change_the_bound(generator):
    x, model = modelled(generator, likelihoods.Bernoulli)
    points = lattices.lattice(2, 55)
    bound = marginal.LatticeBound(model, points, x, n_bytes=2**30, spared=0.0)
    for fraction in (0.0, 0.3, 1.0, 0.1):
        model.open(fraction)
        table = model.table(model.likelihood.terms(x), points)
        torch.testing.assert_close(bound(x), objectives.log_mean_exp(table))


@pytest.mark.parametrize("kind", [likelihoods.Bernoulli, likelihoods.Gaussian, likelihoods.Poisson])
def test_rounded_bound_stays_within_a_hundredth_of_a_nat(kind, generator):
    """Of the bound in float64, where bfloat16 is allowed; where not, within float32's rounding."""
    x, model = modelled(generator, kind, n=50, d=61, sharpness=1)
    points = lattices.lattice(2, 987)
    exact = objectives.log_mean_exp(model.table(model.likelihood.terms(x), points))
    exact = exact + model.likelihood.terms(x).base
    model, x = model.float().train(), x.float()
    for allowed, spared, tolerance in ((False, 2**-24, 1e-4), (True, 1e-2, 1e-2)):
        model.allow_bfloat16(allowed)
        bound = marginal.LatticeBound(model, points, x, n_bytes=2**30, spared=spared)
        assert (bound(x).double() - exact).mean().abs() < tolerance


def test_training_goes_over_the_coarse_lattice_first_and_is_compared_on_the_fine_one(generator):
    x, model = modelled(generator, likelihoods.Bernoulli)
    points = [lattices.lattice(2, m) for m in (34, 89)]
    settings = {"n_bytes": 2**30, "spared": 0.0}
    bound = marginal.TrainingBound(model, points, x, **settings)
    alone = [marginal.LatticeBound(model, z, x, **settings) for z in points]
    for progress, lattice in ((0.0, 0), (0.39, 0), (0.4, 1), (1.0, 1)):
        model.progress = progress
        shift = lattices.random_shift(2, torch.Generator().manual_seed(3))
        found = bound(x, torch.Generator().manual_seed(3))
        assert torch.equal(found, alone[lattice](x, shift))
        torch.testing.assert_close(bound(x, None), alone[1](x))
    single = marginal.TrainingBound(model, points[:1], x, **settings)
    torch.testing.assert_close(single(x, None), alone[0](x))


def test_decoder_without_a_basis_gets_points(generator):
    decoder, points = networks.MLPDecoder(2, 5, (8,), None, generator), lattices.lattice(2, 21)
    shift, z = moved(points, generator)
    lattice = marginal.shifted_lattice(decoder, points)
    assert torch.equal(lattice.decode(shift)(lattice.rows), decoder(z.float()))


@pytest.mark.parametrize("spared", [None, 0.0])
def test_rows_of_a_group_have_the_bound_and_gradient_of_its_decoder(spared, generator):
    """As if each group had a model of its own; rows come in any order, and groups may be absent."""
    x, plain = modelled(generator, likelihoods.Bernoulli)
    decoder = networks.MLPDecoder(2, 12, (16,), 3, generator=generator, n_conditions=1).double()
    values = torch.tensor([[3.0], [-1.0], [0.5], [9.0]])
    mean, one = torch.zeros(1), torch.ones(1)
    told = conditions.Conditions([12], [None], mean, one, values, torch.full((4,), 0.25))
    group = torch.tensor([2, 0, 0, 3, 2, 0, 3, 3, 0])
    blocks = [(range(12), plain.likelihood), ([12], likelihoods.Told(1))]
    likelihood = likelihoods.Mixed([likelihoods.Block(*block) for block in blocks])
    model = models.Model(2, priors.UniformTorus(), decoder, likelihood, conditions=told)
    x = torch.cat([x, values[group].double()], 1)
    points = lattices.lattice(2, 55)
    bound = marginal.LatticeBound(model, points, x, n_bytes=2**30, spared=spared)
    shift = lattices.random_shift(2, generator)
    terms, z = model.likelihood.terms(x), lattices.shifted(points, shift)
    tables = [model.table(terms, z, number) for number in range(4)]
    exact = torch.stack([objectives.log_mean_exp(tables[g])[i] for i, g in enumerate(group)])
    (value, found), (expected, gradient) = (
        with_gradient(nats, model) for nats in (bound(x, shift), exact + terms.base)
    )
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(found, gradient, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()
    training = marginal.TrainingBound(model, [points], x, n_bytes=2**30, spared=spared)
    torch.testing.assert_close(training(x, None), bound(x))
