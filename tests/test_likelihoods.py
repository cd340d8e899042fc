"""The contract of every observation model: a new family is one line of FAMILIES. Then what is
special to each."""

import copy
from itertools import product
from math import log, pi
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.distributions import Bernoulli, Normal

from skqlvm.engine import likelihoods
from skqlvm.engine.precision import matmul_precision


class Family(NamedTuple):
    """A likelihood of d features, n rows of data for it, and the torch distribution of given mean
    that it should be."""

    build: object
    data: object
    distribution: object


def coins(n, d, generator):
    return (
        torch.rand(n, d, dtype=torch.float64, generator=generator) < torch.linspace(0.2, 0.7, d)
    ).double()


def reals(n, d, generator):
    scales = torch.linspace(0.5, 3, d, dtype=torch.float64)
    return 2 + scales * torch.randn(n, d, dtype=torch.float64, generator=generator)


def coin(likelihood, mean):
    return Bernoulli(probs=mean)


def normal(likelihood, mean):
    return Normal(mean, likelihood.noise_variance().detach().sqrt().expand_as(mean))


FAMILIES = {
    "bernoulli": Family(likelihoods.Bernoulli, coins, coin),
    "spherical": Family(likelihoods.Gaussian, reals, normal),
    "diagonal": Family(lambda d: likelihoods.Gaussian(d, "diagonal"), reals, normal),
    "fixed": Family(lambda d: likelihoods.Gaussian(d, 0.3), reals, normal),
}
N, D, M, S = 11, 3, 7, 5


def started(family, generator, n=N, d=D):
    """The likelihood, started at data, its parameters moved off their first values; and the
    data."""
    likelihood, x = family.build(d), family.data(n, d, generator)
    likelihood.start(x)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, dtype=parameter.dtype, generator=generator
            )
    return likelihood, x


def outputs(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@given(
    name=st.sampled_from(list(FAMILIES)),
    n=st.integers(2, 7),
    d=st.integers(1, 5),
    m=st.integers(1, 7),
    seed=st.integers(0, 999),
)
def test_table_equals_loop_over_rows_and_points(name, n, d, m, seed):
    generator = torch.Generator().manual_seed(seed)
    likelihood, x = started(FAMILIES[name], generator, n, d)
    o = outputs(generator, m, d)
    table = likelihood.table(x, o)
    assert table.shape == (n, m)
    for i, j in product(range(n), range(m)):
        expected = (
            FAMILIES[name].distribution(likelihood, likelihood.mean(o[j])).log_prob(x[i]).sum()
        )
        assert table[i, j].item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-10)


def test_paired_equals_each_rows_own_table(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, N, S, D)
    expected = torch.stack([likelihood.table(x[i : i + 1], o[i])[0] for i in range(N)])
    torch.testing.assert_close(likelihood.paired(x, o), expected, rtol=1e-12, atol=1e-12)
    shared = outputs(generator, M, D)
    torch.testing.assert_close(
        likelihood.paired(x, shared.expand(N, M, D)),
        likelihood.table(x, shared),
        rtol=1e-12,
        atol=1e-12,
    )


def test_table_is_the_exponential_family_of_the_docstring(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, M, D)
    eta, statistics = likelihood.natural(o), likelihood.statistics(x)
    assert (eta.shape, likelihood.log_normalizer(eta).shape, likelihood.log_base(x).shape) == (
        (M, D),
        (M,),
        (N,),
    )
    sums = (
        (statistics[:, None] * eta).sum(2)
        - likelihood.log_normalizer(eta)
        + likelihood.log_base(x)[:, None]
    )
    torch.testing.assert_close(likelihood.table(x, o), sums, rtol=1e-12, atol=1e-12)


def test_output_zero_is_the_mean_of_the_data(family, generator):
    likelihood, x = started(family, generator, n=101)
    mean = likelihood.mean(torch.zeros(2, D, dtype=torch.float64))
    torch.testing.assert_close(mean, x.mean(0).expand(2, D), rtol=1e-12, atol=1e-12)


def test_draws_have_the_mean_and_the_support(family, generator):
    likelihood, _ = started(family, generator, n=101)
    o = outputs(generator, 1, D)
    draws = likelihood.sample(o.expand(20_011, D), generator)
    assert draws.shape == (20_011, D)
    assert draws.dtype == torch.float64
    error = (draws.mean(0) - likelihood.mean(o[0])).abs()
    assert (error < 4.5 * draws.std(0) / 20_011**0.5).all()
    spread = family.distribution(likelihood, likelihood.mean(o[0])).stddev
    torch.testing.assert_close(draws.std(0), spread, rtol=0.03, atol=0)
    assert draws.min() >= likelihood.support[0]
    assert draws.max() <= likelihood.support[1]
    assert (draws.T.corrcoef() - torch.eye(D)).abs().max() < 0.04


def test_draws_follow_the_generator(family, generator):
    likelihood, _ = started(family, generator)
    o = outputs(generator, M, D)
    first, again, other = (
        likelihood.sample(o, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_slope_of_the_normalizer_is_the_mean_statistic(family, generator):
    likelihood, _ = started(family, generator, n=101)
    o = outputs(generator, 1, D)
    eta = likelihood.natural(o).detach().requires_grad_()
    likelihood.log_normalizer(eta).sum().backward()
    statistics = likelihood.statistics(likelihood.sample(o.expand(20_011, D), generator)).detach()
    assert ((statistics.mean(0) - eta.grad[0]).abs() < 4.5 * statistics.std(0) / 20_011**0.5).all()


def test_gradients_of_table_and_paired_are_right(family, generator):
    likelihood, x = started(family, generator, n=5)
    likelihood.double()
    shared, own = (
        outputs(generator, M, D).requires_grad_(),
        outputs(generator, 5, S, D).requires_grad_(),
    )
    parameters = tuple(likelihood.parameters())
    assert gradcheck(lambda o, *_: likelihood.table(x, o), (shared, *parameters))
    assert gradcheck(lambda o, *_: likelihood.paired(x, o), (own, *parameters))


def test_methods_leave_data_and_outputs_as_they_were(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, N, D)
    copies = x.clone(), o.clone()
    likelihood.start(x)
    likelihood.table(x, o)
    likelihood.paired(x, o[:, None])
    likelihood.sample(o, generator)
    assert torch.equal(x, copies[0])
    assert torch.equal(o, copies[1])


def test_float32_outputs_make_a_close_float32_table(family, generator, device):
    likelihood, x = started(family, generator, n=23, d=31)
    o = outputs(generator, 13, 31)
    exact = likelihood.table(x, o)
    likelihood, x, o = likelihood.to(device), x.to(device), o.float().to(device)
    for rows in (x, x.float()):
        table = likelihood.table(rows, o)
        assert table.dtype == likelihood.paired(rows, o.expand(23, 13, 31)).dtype == torch.float32
        torch.testing.assert_close(table.cpu().double(), exact, rtol=1e-5, atol=1e-3)
    drawn = likelihood.sample(o, generator)
    assert (drawn.dtype, drawn.device) == (torch.float32, o.device)
    assert likelihood.mean(o).dtype == torch.float32


def test_copies_give_the_same_table(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, M, D)
    assert torch.equal(copy.deepcopy(likelihood).table(x, o), likelihood.table(x, o))


def test_data_are_within_the_support(family, generator):
    likelihood, x = started(family, generator)
    assert likelihood.support[0] <= x.min()
    assert x.max() <= likelihood.support[1]


# Bernoulli


def test_bernoulli_sums_to_one_over_all_images(generator):
    likelihood, _ = started(FAMILIES["bernoulli"], generator)
    images = torch.tensor(list(product([0.0, 1.0], repeat=D)), dtype=torch.float64)
    torch.testing.assert_close(
        likelihood.table(images, outputs(generator, M, D)).exp().sum(0),
        torch.ones(M, dtype=torch.float64),
    )


def test_bernoulli_of_grey_levels_is_their_cross_entropy(generator):
    likelihood, x = started(FAMILIES["bernoulli"], generator)
    grey = torch.rand(x.shape, dtype=torch.float64, generator=generator)
    o = outputs(generator, M, D)
    expected = [
        [-F.binary_cross_entropy(likelihood.mean(o[j]), row, reduction="sum") for j in range(M)]
        for row in grey
    ]
    torch.testing.assert_close(
        likelihood.table(grey, o),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


def test_bernoulli_starts_constant_pixels_within_reach():
    likelihood = likelihoods.Bernoulli(3)
    likelihood.start(torch.tensor([[0.0, 1.0, 0.25]]).expand(7, 3))
    mean = likelihood.mean(torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(mean, torch.tensor([[1e-3, 1 - 1e-3, 0.25]], dtype=torch.float64))


def test_bernoulli_stays_finite_at_extreme_logits():
    likelihood, o = likelihoods.Bernoulli(2), torch.tensor([[1e4, -1e4]], requires_grad=True)
    table = likelihood.table(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), o)
    table.sum().backward()
    torch.testing.assert_close(table.detach(), torch.tensor([[0.0], [-1e4]]))
    torch.testing.assert_close(o.grad, torch.tensor([[-1.0, 0.0]]))


# Gaussian


@pytest.mark.parametrize(
    ("noise_variance", "n_parameters", "shape"),
    [("spherical", 1, ()), ("diagonal", 3, (3,)), (0.3, 0, ()), (2, 0, ())],
)
def test_gaussian_learns_as_many_variances_as_asked(noise_variance, n_parameters, shape, generator):
    likelihood = likelihoods.Gaussian(3, noise_variance)
    likelihood.start(reals(11, 3, generator))
    assert sum(p.numel() for p in likelihood.parameters()) == n_parameters
    assert likelihood.noise_variance().shape == shape
    assert likelihood.noise_variance().dtype == torch.float64
    if not n_parameters:
        assert likelihood.noise_variance().item() == pytest.approx(noise_variance, rel=1e-12)


@pytest.mark.parametrize("noise_variance", ["spherical", "diagonal"])
def test_gaussian_noise_starts_between_the_floor_and_the_variance_of_the_data(
    noise_variance, generator
):
    likelihood, x = likelihoods.Gaussian(3, noise_variance), reals(101, 3, generator)
    likelihood.start(x)
    fraction = likelihood.noise_variance().detach() / x.var(0, correction=0).mean()
    assert ((fraction > 0.1) & (fraction <= 1.01)).all()
    likelihood.start(1e3 * x)
    torch.testing.assert_close(
        likelihood.noise_variance().detach(), 1e6 * fraction * x.var(0, correction=0).mean()
    )


@pytest.mark.parametrize("noise_variance", ["spherical", "diagonal"])
def test_gaussian_noise_stops_at_the_floor(noise_variance, generator):
    likelihood, x = likelihoods.Gaussian(3, noise_variance, floor=0.01), reals(101, 3, generator)
    likelihood.start(x)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(-1000)
    expected = 0.01 * x.var(0, correction=0).mean().expand(likelihood.noise_variance().shape)
    torch.testing.assert_close(likelihood.noise_variance().detach(), expected)


@pytest.mark.parametrize("noise_variance", ["spherical", "diagonal"])
def test_gaussian_learns_the_variance_of_the_residuals(noise_variance, generator):
    likelihood, x = likelihoods.Gaussian(3, noise_variance).double(), reals(101, 3, generator)
    likelihood.start(x)
    optimizer = torch.optim.LBFGS(
        likelihood.parameters(),
        max_iter=99,
        tolerance_grad=1e-9,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = -likelihood.table(x, torch.zeros(1, 3, dtype=torch.float64)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    residual = x.var(0, correction=0)
    expected = residual if noise_variance == "diagonal" else residual.mean()
    torch.testing.assert_close(likelihood.noise_variance().detach(), expected, rtol=1e-5, atol=0)


@given(
    name=st.sampled_from(["spherical", "diagonal"]),
    factor=st.floats(1e-3, 1e3),
    offset=st.floats(-50, 50),
    seed=st.integers(0, 99),
)
def test_gaussian_nats_change_by_the_units_of_the_data_alone(name, factor, offset, seed):
    """Data times c, outputs and learned noise the same: nats minus d log c, wherever the data's
    origin."""
    generator = torch.Generator().manual_seed(seed)
    likelihood, x = started(FAMILIES[name], generator)
    o = outputs(generator, M, D)
    before, mean = likelihood.table(x, o), likelihood.mean(o)
    moved = factor * (x + offset)
    likelihood.start(moved)
    torch.testing.assert_close(
        likelihood.table(moved, o), before - D * log(factor), rtol=1e-9, atol=1e-7
    )
    torch.testing.assert_close(likelihood.mean(o), factor * (mean + offset), rtol=1e-9, atol=1e-9)


def test_gaussian_keeps_precision_far_from_the_origin(generator):
    near, x = started(FAMILIES["spherical"], generator)
    far = copy.deepcopy(near)
    far.start(x + 1e6)
    near.start(x)
    o = outputs(generator, M, D)
    torch.testing.assert_close(far.table(x + 1e6, o), near.table(x, o), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        far.table(x + 1e6, o.float()).double(), near.table(x, o), rtol=1e-5, atol=1e-4
    )


def test_gaussian_table_is_precise_however_coarse_other_products_are(generator, device):
    """Its terms are large and cancel."""
    x, o = (
        torch.randn(101, 89, generator=generator).to(device),
        torch.randn(211, 89, generator=generator).to(device),
    )
    likelihood = likelihoods.Gaussian(89, 1e-3).to(device)
    with matmul_precision("highest"):
        expected = likelihood.table(x, o)
    with matmul_precision("medium"):
        assert torch.equal(likelihood.table(x, o), expected)


def test_gaussian_density_integrates_to_one(generator):
    likelihood, _ = started(FAMILIES["spherical"], generator, d=1)
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64)[:, None]
    integral = torch.trapezoid(likelihood.table(grid, outputs(generator, M, 1)).exp(), grid, dim=0)
    torch.testing.assert_close(integral, torch.ones(M, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e5 + 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_takes_constant_data_in_units_of_one(value, dtype):
    x = torch.full((101, 3), value, dtype=dtype)
    likelihood = likelihoods.Gaussian(3)
    likelihood.start(x)
    assert likelihood.scale == 1
    expected = -1.5 * log(2 * pi * likelihood.noise_variance().item())
    table = likelihood.table(x, torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(
        table.detach(), torch.full((101, 1), expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
