"""log p(x) by quadrature: closed forms of known decoders, parts that make a whole, errors by a loop
over shifts, and lattices that grow until scores settle."""

from math import inf, log, nan, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive
from scipy.stats import multivariate_normal, t
from torch import nn

from skqlvm.engine import atlas, lattices, likelihoods, networks, quadrature
from skqlvm.engine.models import Model
from skqlvm.engine.priors import StandardNormal, UniformTorus

VARIANCE = 0.1
NOT_FINITE = r"^the decoder's output is not finite$"


class Rings(nn.Module):
    """A circle for each coordinate: (r_1 cos, r_1 sin, r_2 cos, r_2 sin, ...)."""

    def __init__(self, radii):
        super().__init__()
        self.radii = nn.Parameter(torch.tensor(radii, dtype=torch.float64))

    def forward(self, z):
        angles = 2 * pi * z
        return torch.stack([self.radii * angles.cos(), self.radii * angles.sin()], -1).flatten(1)


class Counting(nn.Module):
    """A decoder that notes how many points it was asked for, call by call."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.sizes = decoder, []

    def forward(self, z):
        self.sizes.append(len(z))
        return self.decoder(z)


class Constant(nn.Module):
    """One value for every point and output."""

    def __init__(self, value, n_outputs):
        super().__init__()
        self.value, self.n_outputs = nn.Parameter(torch.tensor(value).double()), n_outputs

    def forward(self, z):
        return self.value.expand(len(z), self.n_outputs)


def frozen(prior, n_components, decoder, likelihood):
    return Model(n_components, prior, decoder, likelihood).requires_grad_(False)


def ring_model(radii=(1.0, 0.5)):
    likelihood = likelihoods.Gaussian(2 * len(radii), VARIANCE)
    return frozen(UniformTorus(), len(radii), Rings(radii), likelihood)


def ring_nats(x, radii=(1.0, 0.5)):
    """The closed form: a Bessel function for each circle."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for pair, radius in zip(x.split(2, 1), radii, strict=True):
        length = pair.norm(dim=1)
        kappa = radius * length / VARIANCE
        total -= log(2 * pi * VARIANCE) + (length**2 + radius**2) / (2 * VARIANCE)
        total += torch.from_numpy(np.log(ive(0, kappa.numpy()))) + kappa
    return total


def linear_model(k, d, generator):
    """x = W z + b + noise, with the bias among the parameters."""
    decoder = nn.Linear(k, d).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            values = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter.copy_(0.7 * values)
    return frozen(StandardNormal(), k, decoder, likelihoods.Gaussian(d, 0.5))


def linear_nats(model, x):
    """The closed form: N(x; b, W W' + noise)."""
    weight, bias = (value.numpy() for value in (model.decoder.weight, model.decoder.bias))
    covariance = weight @ weight.T + 0.5 * np.eye(len(bias))
    return torch.from_numpy(multivariate_normal(bias, covariance).logpdf(x.numpy()))


def wide_model(prior, k, generator, d=11):
    """A network on a torus or on a line, with more features than its last layer has inputs."""
    torch.manual_seed(0)
    n_hidden = 5
    if prior.period is None:
        decoder = nn.Sequential(nn.Linear(k, n_hidden), nn.Tanh(), nn.Linear(n_hidden, d)).double()
    else:
        decoder = networks.MLPDecoder(k, d, (n_hidden,), 2).double()
    likelihood = likelihoods.Gaussian(d, 0.3)
    x = torch.randn(53, d, dtype=torch.float64, generator=generator)
    likelihood.start(x)
    return frozen(prior, k, decoder, likelihood), x


def naive(model, u, x):
    """log 1/m sum_j w_j p(x_i | z_j) by NumPy, from the table of the likelihood itself."""
    z, log_weight = model.prior.nodes(u)
    terms = model.likelihood.terms(x)
    log_w = model.likelihood.table(terms, model.decoder(z)) + terms.base[:, None] + log_weight
    return np.logaddexp.reduce(log_w.numpy(), axis=1) - np.log(len(u))


def same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


def whole(model, u, rows, **options):
    return quadrature.log_marginal(model, quadrature.charts(model, u, **options), rows)


PRIORS = pytest.mark.parametrize(
    "prior", [UniformTorus(), StandardNormal()], ids=["torus", "normal"]
)


# closed forms


@given(seed=st.integers(0, 999), m=st.sampled_from([97, 233]), shift=st.floats(0, 1))
def test_log_marginal_on_the_circle_is_the_bessel_form(seed, m, shift):
    x = 1.5 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u = lattices.shifted(lattices.lattice(1, m), torch.tensor([shift]))
    same(whole(ring_model((1.0,)), u, [x]), ring_nats(x, (1.0,)))


@given(seed=st.integers(0, 999), factored=st.booleans())
def test_log_marginal_on_a_product_of_circles_is_the_product_of_bessel_forms(seed, factored):
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 * torch.randn(7, 4, dtype=torch.float64, generator=generator)
    u = lattices.shifted(lattices.lattice(2, 1597), lattices.random_shift(2, generator))
    same(whole(ring_model(), u, [x], factored=factored), ring_nats(x), 1e-10)


@pytest.mark.parametrize(("k", "m", "tolerance"), [(1, 2**10, 1e-11), (2, 2**16, 1e-8)])
def test_log_marginal_of_a_linear_decoder_is_a_normal_density(k, m, tolerance, generator):
    model = linear_model(k, 3, generator)
    z = torch.randn(23, k, dtype=torch.float64, generator=generator)
    x = model.decoder(z) + 0.7 * torch.randn(23, 3, dtype=torch.float64, generator=generator)
    found = whole(model, quadrature.nested_points(k, m), [x])
    torch.testing.assert_close(found, linear_nats(model, x), rtol=0, atol=tolerance)


def test_log_marginal_of_a_constant_decoder_is_its_likelihood_on_every_lattice(generator):
    likelihood = likelihoods.Poisson(3)
    x = torch.randint(0, 7, (5, 3), generator=generator).double()
    model = frozen(UniformTorus(), 2, Constant(0.3, 3), likelihood)
    law = torch.distributions.Poisson(torch.tensor(0.3).double().exp())
    for m in (1, 7, 89):
        same(whole(model, lattices.lattice(2, m), [x]), law.log_prob(x).sum(1))


# parts


@PRIORS
@pytest.mark.parametrize("factored", [True, False])
def test_log_marginal_does_not_depend_on_how_the_lattice_is_split(prior, factored, generator):
    model, x = wide_model(prior, 2, generator)
    u = quadrature.nested_points(2, 128)
    expected = naive(model, u, x)
    for n_at_once in (None, 1, 13, 127, 128, 211):
        same(whole(model, u, [x], n_at_once=n_at_once, factored=factored), expected, 1e-10)
    for sizes in ([1, 127], [101, 3, 7, 17], [64, 64]):
        charts = [c for part in u.split(sizes) for c in quadrature.charts(model, part)]
        same(quadrature.log_marginal(model, charts, [x]), expected, 1e-10)


@PRIORS
def test_log_marginal_does_not_depend_on_how_the_rows_are_split(prior, generator):
    model, x = wide_model(prior, 2, generator)
    charts = list(quadrature.charts(model, quadrature.nested_points(2, 128), n_at_once=101))
    expected = quadrature.log_marginal(model, charts, [x])
    assert expected.shape == (53,)
    for sizes in ([53], [1, 52], [23, 1, 29], [1] * 53):
        same(quadrature.log_marginal(model, charts, x.split(sizes)), expected)
        same(quadrature.log_marginal(model, iter(charts), x.split(sizes)), expected)
    order = torch.randperm(53, generator=generator)
    same(quadrature.log_marginal(model, charts, [x[order]]), expected[order])


def test_log_marginal_is_in_the_dtype_of_the_rows(generator, device):
    model, x = wide_model(UniformTorus(), 2, generator)
    u = lattices.lattice(2, 89)
    exact = naive(model, u, x)
    model = model.to(device)
    model.decoder.float()
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-5)):
        found = whole(model, u, [x.to(device, dtype)])
        assert (found.dtype, found.device.type) == (dtype, "cpu")
        torch.testing.assert_close(found.double(), torch.tensor(exact), rtol=1e-5, atol=tolerance)


def test_log_marginal_takes_rows_that_no_point_explains():
    """Thousands of nats below the others, and each to its own precision."""
    x = torch.tensor([[0.6, 0.3], [300.0, -400.0]], dtype=torch.float64)
    found = whole(ring_model((1.0,)), lattices.lattice(1, 10_007), [x])
    torch.testing.assert_close(found, ring_nats(x, (1.0,)), rtol=1e-12, atol=1e-12)
    assert found[1] < -1e6


# charts


@PRIORS
def test_charts_are_those_of_the_prior_s_nodes_and_weights(prior, generator):
    model, x = wide_model(prior, 2, generator)
    u = quadrature.nested_points(2, 64)
    z, log_weight = prior.nodes(u)
    (chart,) = quadrature.charts(model, u)
    expected = atlas.chart(model.likelihood, model.decoder(z), z, log_weight, factored=False)
    for part, other in zip(chart, expected, strict=True):
        assert part is other is None or torch.equal(part, other)
    (factored,) = quadrature.charts(model, u, factored=True)
    assert factored.directions.shape == (5, 11)
    same(factored.table(model.likelihood, x), chart.table(model.likelihood, x), 1e-9)


def test_charts_decode_as_they_are_asked_for():
    model = ring_model()
    model.decoder = Counting(model.decoder)
    maps = quadrature.charts(model, lattices.lattice(2, 34), n_at_once=13)
    assert model.decoder.sizes == []
    for sizes in ([13], [13, 13], [13, 13, 8]):
        next(maps)
        assert model.decoder.sizes == sizes
    assert next(maps, None) is None


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_decoder_that_is_not_finite_is_an_error(value):
    model = frozen(UniformTorus(), 2, Constant(value, 3), likelihoods.Bernoulli(3))
    u, x = lattices.lattice(2, 13), torch.ones(5, 3, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        next(quadrature.charts(model, u))
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        whole(model, u, [x])
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        quadrature.standard_error(model, u, [x])
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        quadrature.settle(model, x, fewest=4, most=8)


def test_one_point_that_is_not_finite_is_an_error():
    class Pole(Rings):
        def forward(self, z):
            return super().forward(z) / (z[:, :1] - 0.5)

    model = frozen(UniformTorus(), 1, Pole([1.0]), likelihoods.Gaussian(2, 0.3))
    u, x = lattices.lattice(1, 8), torch.ones(5, 2, dtype=torch.float64)
    maps = quadrature.charts(model, u, n_at_once=4)
    assert next(maps).bias.isfinite().all()
    with pytest.raises(FloatingPointError, match=NOT_FINITE):
        quadrature.log_marginal(model, maps, [x])


# standard errors


def naive_error(model, u, x):
    """Standard deviation, with 7 in the denominator, over 8 shifts of the generator of seed 0; and
    half of Student's 95 % factor of 7 degrees of freedom, in place of 1."""
    generator = torch.Generator().manual_seed(0)
    nats = []
    for _ in range(8):
        shift = torch.rand(u.shape[1], dtype=torch.float64, generator=generator)
        nats.append(naive(model, (u + shift) % 1.0, x))
    deviation = np.sqrt(((np.array(nats) - np.mean(nats, axis=0)) ** 2).sum(axis=0) / 7)
    return deviation * round(t.ppf(0.975, 7), 4) / 2


@PRIORS
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("n_at_once", [None, 13])
def test_standard_error_is_that_of_a_loop_over_eight_shifts(prior, k, n_at_once, generator):
    assert quadrature.N_SHIFTS == 8
    model, x = wide_model(prior, k, generator)
    u, x = quadrature.nested_points(k, 32), x[:7]
    found = quadrature.standard_error(model, u, [x[:2], x[2:]], n_at_once=n_at_once)
    assert found.shape == (7,)
    same(found, naive_error(model, u, x), 1e-9)
    assert (found > 1e-8).all()


def test_standard_error_is_the_same_at_every_call_and_draws_from_no_other_generator(generator):
    model, x = wide_model(UniformTorus(), 2, generator)
    u, state = lattices.lattice(2, 34), torch.get_rng_state()
    first, again = (quadrature.standard_error(model, u, [x]) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@PRIORS
def test_standard_error_of_few_rows_and_of_many_agree(prior, generator, monkeypatch):
    """Charts of many rows are factored, those of few are not: that would cost more than it
    saves."""
    asked, chart = [], atlas.chart

    def noted(*arguments, factored):
        asked.append(factored)
        return chart(*arguments, factored=factored)

    monkeypatch.setattr(atlas, "chart", noted)
    model, x = wide_model(prior, 2, generator)
    u = quadrature.nested_points(2, 64)
    few = quadrature.standard_error(model, u, [x[:13], x[13:22]])
    assert asked == [False] * 8
    many = quadrature.standard_error(model, u, [x[:13], x[13:]])
    assert asked == [False] * 8 + [True] * 8
    same(few, many[:22], 1e-7)
    same(many, naive_error(model, u, x), 1e-7)


def test_standard_error_decodes_every_shift_anew_a_part_at_a_time():
    model = ring_model()
    model.decoder = Counting(model.decoder)
    x = torch.ones(5, 4, dtype=torch.float64)
    quadrature.standard_error(model, lattices.lattice(2, 34), x.split(2), n_at_once=13)
    assert model.decoder.sizes == [13, 13, 8] * 8


def test_standard_error_vanishes_where_the_lattice_is_fine_enough(generator):
    x = 0.5 * torch.randn(7, 4, dtype=torch.float64, generator=generator)
    coarse, fine = (
        quadrature.standard_error(ring_model(), lattices.lattice(2, m), [x]) for m in (13, 1597)
    )
    assert (coarse > 1e-3).all()
    assert (fine < 1e-9).all()


# nested lattices


@pytest.mark.parametrize("k", [1, 2, 3])
def test_first_half_of_nested_points_is_the_lattice_of_half_the_size(k):
    for m in (1, 2, 64, 1024):
        points, half = quadrature.nested_points(k, 2 * m), quadrature.nested_points(k, m)
        assert torch.equal(points[:m], half)
        assert points.shape == (2 * m, k)
        assert points.dtype == torch.float64
        assert len({tuple(point) for point in points.tolist()}) == 2 * m


@pytest.mark.parametrize("k", [1, 2, 3])
def test_nested_points_are_within_the_open_cube(k):
    """Where a normal's quantiles are finite, on the largest lattice too."""
    points = quadrature.nested_points(k, 2**18)
    assert points.min() > 1e-7
    assert points.max() < 1 - 1e-7
    assert StandardNormal().nodes(points)[0].isfinite().all()


@PRIORS
@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-4])
def test_settle_stops_at_the_first_doubling_that_changes_little(prior, tolerance, generator):
    model, x = wide_model(prior, 2, generator)
    settled = quadrature.settle(model, x, tolerance=tolerance, fewest=8, most=2**14)
    m, before, change = 8, naive(model, quadrature.nested_points(2, 8), x), inf
    while change > tolerance:
        m *= 2
        after = naive(model, quadrature.nested_points(2, m), x)
        change, before = np.abs(after - before).mean(), after
    assert m < 2**14
    assert settled.n_points == m
    assert settled.change == pytest.approx(change, rel=1e-8)
    assert settled.tolerance == tolerance


@pytest.mark.parametrize(("fewest", "most", "n_points"), [(8, 128, 128), (8, 100, 64), (8, 8, 8)])
def test_settle_stops_at_the_most(fewest, most, n_points, generator):
    model, x = wide_model(UniformTorus(), 2, generator)
    settled = quadrature.settle(model, x, tolerance=0.0, fewest=fewest, most=most)
    assert settled.n_points == n_points
    assert settled.change == inf if fewest == most else settled.change > 0


def test_settle_doubles_once_where_nothing_changes():
    model = frozen(UniformTorus(), 2, Constant(0.3, 3), likelihoods.Gaussian(3, 0.3))
    x = torch.ones(5, 3, dtype=torch.float64)
    settled = quadrature.settle(model, x)
    assert (settled.n_points, settled.tolerance) == (2048, 0.01)
    assert settled.change < 1e-12


def test_settle_holds_each_point_once_and_no_more_at_a_time_than_the_model_decodes(
    generator, monkeypatch
):
    held, chart = [], atlas.chart

    def noted(likelihood, outputs, *arguments, **options):
        held.append(len(outputs))
        return chart(likelihood, outputs, *arguments, **options)

    monkeypatch.setattr(atlas, "chart", noted)
    model, x = wide_model(UniformTorus(), 2, generator)
    model.decoder, model.n_decoded = Counting(model.decoder), 23
    settled = quadrature.settle(model, x, tolerance=0.0, fewest=32, most=128)
    assert settled.n_points == 128
    assert model.decoder.sizes == held == [23, 9, 23, 9, 23, 23, 18]
