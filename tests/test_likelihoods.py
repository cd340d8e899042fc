"""The contract of every observation model, and then what is special to each.

A new family is one line of FAMILIES: how it is built, data for it, and the distribution that it
should be. The Poisson likelihood is that line and nothing else.
"""

import copy
import inspect
from itertools import product
from math import exp, inf, log, nan, pi
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributions as laws
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from skqlvm.engine import likelihoods


class Family(NamedTuple):
    """A likelihood of d features, data for it made of standard normal numbers (n, d), and the torch
    distribution of given mean that it should be."""

    build: object
    data: object
    distribution: object


def coins(e):
    return (e > 0.3).to(e)


def reals(e):
    return 2 + torch.linspace(0.5, 3, e.shape[1], dtype=e.dtype) * e


def grey(e):
    return torch.sigmoid(e)


def dispersed(e):
    return (1.5 * e).exp().round()


def interval(_, mean):
    """The torch law by its logit, sought by halving."""
    low, high = torch.full_like(mean, -700), torch.full_like(mean, 700)
    for _ in range(99):
        middle = (low + high) / 2
        above = continuous_mean(middle) > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return laws.ContinuousBernoulli(logits=low, lims=(0.4999, 0.5001))


def continuous_mean(eta):
    t = eta / 2
    series = t / 3 - t**3 / 45 + 2 * t**5 / 945
    return 0.5 + 0.5 * torch.where(t.abs() < 1e-2, series, 1 / t.tanh() - 1 / t)


def gamma_poisson(likelihood, mean):
    size = 1 / likelihood.dispersion().detach()
    return laws.NegativeBinomial(size.expand_as(mean), logits=(mean / size).log())


def normal(likelihood, mean):
    return laws.Normal(mean, likelihood.noise_variance().detach().sqrt().expand_as(mean))


FAMILIES = {
    "bernoulli": Family(likelihoods.Bernoulli, coins, lambda _, p: laws.Bernoulli(p)),
    "continuous_bernoulli": Family(likelihoods.ContinuousBernoulli, grey, interval),
    "negative_binomial": Family(likelihoods.NegativeBinomial, dispersed, gamma_poisson),
    "spherical": Family(likelihoods.Gaussian, reals, normal),
    "diagonal": Family(lambda d: likelihoods.Gaussian(d, "diagonal"), reals, normal),
    "fixed": Family(lambda d: likelihoods.Gaussian(d, 0.3), reals, normal),
    "poisson": Family(likelihoods.Poisson, lambda e: e.exp().round(), lambda _, r: laws.Poisson(r)),
}
N, D, M, S = 11, 3, 7, 5


def started(family, generator, n=N, d=D):
    """The likelihood, started at data, its parameters moved off their first values; and the
    data."""
    likelihood, x = family.build(d), family.data(outputs(generator, n, d))
    likelihood.start(x)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            step = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            parameter += 0.1 * step
    return likelihood, x


def outputs(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def log_prob(likelihood, x, o, mask=None):
    """Log p(x_i | z_j) with all that it owes to the row."""
    terms = likelihood.terms(x, mask)
    return likelihood.table(terms, o) + terms.base[:, None]


def holes(x, generator, share=0.4):
    """A mask in which the first row is complete and the second all missing; and the data with a
    NaN wherever one is missing."""
    mask = torch.rand(x.shape, dtype=torch.float64, generator=generator) >= share
    mask[0], mask[1:2] = True, False
    return mask, torch.where(mask, x, nan)


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


shapes = given(
    name=st.sampled_from(list(FAMILIES)),
    n=st.integers(2, 7),
    d=st.integers(1, 5),
    m=st.integers(1, 7),
    seed=st.integers(0, 999),
)


def test_every_family_of_the_engine_is_held_to_the_contract():
    of_other_widths = {likelihoods.Categorical, likelihoods.Multinomial}  # in test_families.py
    held = {type(f.build(2)) for f in FAMILIES.values()} | of_other_widths
    assert set(likelihoods.FAMILIES.values()) == held
    assert all(issubclass(f, likelihoods.Likelihood) for f in likelihoods.FAMILIES.values())


# the contract: densities


@shapes
def test_table_and_base_equal_a_loop_over_rows_and_points(name, n, d, m, seed):
    generator = torch.Generator().manual_seed(seed)
    likelihood, x = started(FAMILIES[name], generator, n, d)
    o = outputs(generator, m, d)
    table = log_prob(likelihood, x, o)
    assert table.shape == (n, m)
    for i, j in product(range(n), range(m)):
        law = FAMILIES[name].distribution(likelihood, likelihood.mean(o[j]))
        expected = law.log_prob(x[i]).sum().item()
        assert table[i, j].item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_paired_equals_each_rows_own_table(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, N, S, D)
    expected = [likelihood.table(likelihood.terms(x[i : i + 1]), o[i])[0] for i in range(N)]
    terms = likelihood.terms(x)
    close(likelihood.paired(terms, o), torch.stack(expected))
    shared = outputs(generator, M, D)
    close(likelihood.paired(terms, shared.expand(N, M, D)), likelihood.table(terms, shared))


def test_table_is_the_exponential_family_of_the_docstring(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, M, D)
    eta, statistics = likelihood.natural(o), likelihood.statistics(x)
    normalizer, base = likelihood.log_normalizer(eta), likelihood.log_base(x)
    assert (eta.shape, normalizer.shape) == ((M, D), (M, D))
    assert (statistics.shape, base.shape) == ((N, D), (N, D))
    terms = likelihood.terms(x)
    assert terms.weight is None
    assert torch.equal(terms.statistics, statistics)
    close(terms.base, base.sum(1))
    close(likelihood.table(terms, o), (statistics[:, None] * eta).sum(2) - normalizer.sum(1))


def test_slope_of_the_normalizer_is_the_mean_statistic(family, generator):
    likelihood, _ = started(family, generator, n=101)
    o = outputs(generator, 1, D)
    eta = likelihood.natural(o).detach().requires_grad_()
    likelihood.log_normalizer(eta).sum().backward()
    draws = likelihood.sample(o.expand(20_011, D), generator)
    statistics = likelihood.statistics(draws).detach()
    assert ((statistics.mean(0) - eta.grad[0]).abs() < 4.5 * statistics.std(0) / 20_011**0.5).all()


def test_gradients_of_table_paired_and_base_are_right(family, generator):
    likelihood, x = started(family, generator, n=5)
    likelihood.double()
    shared = outputs(generator, M, D).requires_grad_()
    own = outputs(generator, 5, S, D).requires_grad_()
    parameters = tuple(likelihood.parameters())
    for mask in (None, holes(x, generator)[0]):

        def paired(o, *_, mask=mask):
            return likelihood.paired(likelihood.terms(x, mask), o)

        assert gradcheck(
            lambda o, *_, mask=mask: log_prob(likelihood, x, o, mask), (shared, *parameters)
        )
        assert gradcheck(paired, (own, *parameters))


class Tempered(likelihoods.Bernoulli):
    """Coins that count half, by a table of their own."""

    def table(self, terms, outputs):
        return 0.5 * super().table(terms, outputs)


def check_expected(likelihood, x, mask, generator):
    """Its gradient is that of the weighted sum of the table."""
    o = outputs(generator, M, D).requires_grad_()
    weights = torch.rand(N, M, dtype=torch.float64, generator=generator)
    inputs = (o, *likelihood.parameters())
    gradients = []
    for of in (likelihood.expected, lambda t, o, w: (w * likelihood.table(t, o)).sum(1)):
        rows = of(likelihood.terms(x, mask), o, weights)
        assert rows.shape == (N,)
        gradients.append(torch.autograd.grad((torch.arange(1, N + 1) * rows).sum(), inputs))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_expected_has_the_gradient_of_the_weighed_table(family, generator):
    likelihood, x = started(family, generator)
    for mask in (None, holes(x, generator)[0]):
        check_expected(likelihood, x, mask, generator)


def test_expected_follows_a_table_that_is_overridden(generator):
    x = coins(outputs(generator, N, D))
    for mask in (None, holes(x, generator)[0]):
        check_expected(Tempered(D), x, mask, generator)


# the contract: missing features


@shapes
def test_masked_rows_equal_a_loop_over_the_features_that_are_there(name, n, d, m, seed):
    generator = torch.Generator().manual_seed(seed)
    likelihood, x = started(FAMILIES[name], generator, n, d)
    mask, gaps = holes(x, generator)
    o = outputs(generator, n, m, d)
    eta, terms = likelihood.natural(o), likelihood.terms(gaps, mask)
    statistics, base = likelihood.statistics(x), likelihood.log_base(x)
    normalizer, paired = likelihood.log_normalizer(eta), likelihood.paired(terms, o)
    table = [likelihood.table(terms, o[i]) for i in range(n)]
    for i in range(n):
        there = mask[i].nonzero()[:, 0].tolist()
        assert terms.base[i].item() == pytest.approx(
            sum(base[i, f].item() for f in there), rel=1e-12, abs=1e-12
        )
        for j in range(m):
            expected = sum(
                (statistics[i, f] * eta[i, j, f] - normalizer[i, j, f]).item() for f in there
            )
            assert paired[i, j].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert table[i][i, j].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            law = FAMILIES[name].distribution(likelihood, likelihood.mean(o[i, j]))
            expected = law.log_prob(x[i])[mask[i]].sum().item()
            assert (paired[i, j] + terms.base[i]).item() == pytest.approx(
                expected, rel=1e-10, abs=1e-10
            )


def test_what_stands_in_place_of_a_missing_feature_does_not_matter(family, generator):
    """NaN does no harm: neither to values nor to gradients, those of the noise among them."""
    likelihood, x = started(family, generator)
    mask, gaps = holes(x, generator)
    o = outputs(generator, M, D).requires_grad_()
    wanted = (o, *likelihood.parameters())
    results = []
    for rows in (gaps, x, torch.where(mask, x, inf)):
        terms = likelihood.terms(rows, mask)
        table, paired = likelihood.table(terms, o), likelihood.paired(terms, o.expand(N, M, D))
        total = table.sum() + 2 * paired.sum() + 3 * terms.base.sum()
        results.append((*terms[:2], table, paired, *torch.autograd.grad(total, wanted)))
    assert all(result.isfinite().all() for result in results[0])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask_that_hides_nothing_changes_no_bit(dtype, family, generator):
    likelihood, x = started(family, generator, n=23, d=31)
    x, o = x.to(dtype), outputs(generator, 13, 31).to(dtype)
    with_mask, without = (
        likelihood.terms(x, torch.ones_like(x, dtype=torch.bool)),
        (likelihood.terms(x)),
    )
    own = o.expand(23, 13, 31)
    assert torch.equal(with_mask.base, without.base)
    assert torch.equal(likelihood.table(with_mask, o), likelihood.table(without, o))
    assert torch.equal(likelihood.paired(with_mask, own), likelihood.paired(without, own))


def test_row_without_features_says_nothing_about_points(family, generator):
    likelihood, x = started(family, generator)
    mask, gaps = holes(x, generator)
    assert not mask[1].any()
    terms, o = likelihood.terms(gaps, mask), outputs(generator, M, D)
    for row in (likelihood.table(terms, o)[1], likelihood.paired(terms, o.expand(N, M, D))[1]):
        assert torch.equal(row, row[:1].expand(M))
        assert row[0] == 0
    assert terms.base[1] == 0


def test_one_weight_for_all_normalizers_is_as_many_of_them(family, generator):
    likelihood, x = started(family, generator)
    weight = 3 * torch.rand(N, 1, dtype=torch.float64, generator=generator)
    one = likelihood.terms(x)._replace(weight=weight)
    each = one._replace(weight=weight.expand(N, likelihood.n_normalizers))
    o, own = outputs(generator, M, D), outputs(generator, N, S, D)
    weights = torch.rand(N, M, dtype=torch.float64, generator=generator)
    close(likelihood.table(one, o), likelihood.table(each, o))
    close(likelihood.paired(one, own), likelihood.paired(each, own))
    o.requires_grad_()
    found, expected = (
        torch.autograd.grad(likelihood.expected(terms, o, weights).sum(), o)
        for terms in (one, each)
    )
    close(found, expected)


def test_sufficient_statistics_are_those_of_the_terms(family, generator):
    likelihood, x = started(family, generator)
    mask, gaps = holes(x, generator)
    for rows, there in ((x, None), (gaps, None), (x, mask)):
        terms = likelihood.terms(rows, there)
        statistics, weight = likelihood.sufficient(rows, there)
        assert torch.equal(statistics, terms.statistics)
        assert (weight is None) == (terms.weight is None)
        assert weight is None or torch.equal(weight, terms.weight)


def test_what_is_nan_is_missing_without_a_mask(family, generator):
    likelihood, x = started(family, generator)
    mask, gaps = holes(x, generator)
    for found, expected in zip(likelihood.terms(gaps), likelihood.terms(x, mask), strict=True):
        assert torch.equal(found, expected)
    likelihood.check(gaps)
    likelihood.check(gaps.numpy())
    likelihood.check(torch.full((2, D), nan))
    family.build(D).start(gaps)


def test_zeros_of_sparse_rows_say_nothing(family, generator):
    likelihood, x = started(family, generator)
    if likelihood.sparse:
        zeros = torch.zeros(2, D, dtype=torch.float64)
        assert not likelihood.statistics(zeros).any()
        assert not likelihood.log_base(zeros).any()
    features = torch.arange(D).repeat(N)
    values = likelihood.log_base_at(x.flatten(), features) if likelihood.sparse else None
    assert values is None or torch.equal(values, likelihood.log_base(x).flatten())


# the contract: means, draws, and the rest


def test_output_zero_is_the_mean_of_the_data(family, generator):
    likelihood, x = started(family, generator, n=101)
    assert likelihood.n_outputs == D
    mean = likelihood.mean(torch.zeros(2, likelihood.n_outputs, dtype=torch.float64))
    close(mean, x.mean(0).expand(2, D))


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
    likelihood.check(draws)
    assert not likelihood.integral or torch.equal(draws, draws.round())


def test_variance_is_that_of_the_distribution(family, generator):
    likelihood, _ = started(family, generator)
    o = outputs(generator, M, D)
    expected = family.distribution(likelihood, likelihood.mean(o)).variance
    close(likelihood.variance(o), expected)


def test_predictions_are_those_of_the_mixture(family, generator):
    """Mean and spread of draws of x from points by their weights."""
    likelihood, _ = started(family, generator)
    o = outputs(generator, M, D)
    weights = torch.softmax(2 * outputs(generator, 2, M), 1)
    mean, std = likelihood.predictive(o, weights)
    assert mean.shape == std.shape == (2, D)
    for row in range(2):
        which = torch.multinomial(weights[row], 20_011, replacement=True, generator=generator)
        draws = likelihood.sample(o[which], generator)
        assert ((draws.mean(0) - mean[row]).abs() < 4.5 * std[row] / 20_011**0.5).all()
        torch.testing.assert_close(draws.std(0), std[row], rtol=0.05, atol=0)


def test_draws_follow_the_generator(family, generator):
    likelihood, _ = started(family, generator)
    o = outputs(generator, M, D)
    first, again, other = (
        likelihood.sample(o, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_data_are_within_the_support_and_pass_the_check(family, generator):
    likelihood, x = started(family, generator)
    assert likelihood.support[0] <= x.min()
    assert x.max() <= likelihood.support[1]
    for rows in (x, x.float(), x.numpy(), x.float().numpy()):
        likelihood.check(rows)
    if likelihood.integral:
        likelihood.check(x.numpy().astype(np.int64))
        for rows in (x + 0.5, (x + 0.5).numpy()):
            with pytest.raises(ValueError, match="expects whole numbers, but got a value of "):
                likelihood.check(rows)


def test_inputs_of_an_encoder_are_of_moderate_size_and_tell_rows_apart(family, generator):
    likelihood, x = started(family, generator)
    inputs = likelihood.inputs(x)
    assert (inputs.shape, inputs.dtype) == ((N, D), torch.float64)
    assert inputs.abs().max() < 7
    for i, j in product(range(N), range(N)):
        assert torch.equal(inputs[i], inputs[j]) == torch.equal(x[i], x[j])


def test_parameters_taken_are_those_of_the_constructor(family):
    likelihood = family.build(D)
    first, *others = inspect.signature(type(likelihood)).parameters
    assert first == "n_features"
    assert set(likelihood.parameters_taken) <= set(others)
    assert likelihood.n_features == D


def test_learned_are_numbers_without_a_graph_of_their_own_names(family, generator):
    likelihood, _ = started(family, generator)
    learned = likelihood.learned()
    assert all(name.isidentifier() and value.isfinite().all() for name, value in learned.items())
    assert bool(learned) or not list(likelihood.parameters())


def test_methods_leave_data_and_outputs_as_they_were(family, generator):
    likelihood, x = started(family, generator)
    mask, o = holes(x, generator)[0], outputs(generator, N, D)
    copies = x.clone(), o.clone(), mask.clone()
    likelihood.start(x)
    for terms in (likelihood.terms(x), likelihood.terms(x, mask)):
        before = [part.clone() for part in terms[:2]]
        likelihood.table(terms, o)
        likelihood.paired(terms, o[:, None])
        assert all(map(torch.equal, terms[:2], before))
    likelihood.inputs(x)
    likelihood.check(x)
    likelihood.sample(o, generator)
    assert all(map(torch.equal, (x, o, mask), copies))


def test_float32_outputs_make_a_close_float32_table(family, generator, device):
    likelihood, x = started(family, generator, n=23, d=31)
    mask, gaps = holes(x, generator)
    o = outputs(generator, 13, 31)
    exact, masked = log_prob(likelihood, x, o), log_prob(likelihood, gaps, o, mask)
    likelihood, o = likelihood.to(device), o.float().to(device)
    for rows, there, expected in ((x, None, exact), (gaps, mask.to(device), masked)):
        for dtype in (torch.float64, torch.float32):
            terms = likelihood.terms(rows.to(device, dtype), there)
            assert terms.base.dtype == terms.statistics.dtype == dtype
            table, paired = (
                likelihood.table(terms, o),
                likelihood.paired(terms, o.expand(23, 13, 31)),
            )
            assert table.dtype == paired.dtype == torch.float32
            whole = (table + terms.base[:, None]).cpu().double()
            torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-3)
    drawn = likelihood.sample(o, generator)
    assert (drawn.dtype, drawn.device) == (torch.float32, o.device)
    assert likelihood.mean(o).dtype == torch.float32


def test_copies_give_the_same_table(family, generator):
    likelihood, x = started(family, generator)
    o = outputs(generator, M, D)
    other = family.build(D)
    other.load_state_dict(likelihood.state_dict())
    for copied in (copy.deepcopy(likelihood), other):
        assert torch.equal(log_prob(copied, x, o), log_prob(likelihood, x, o))


# checks


def refused(likelihood, values, message):
    """Assert that tensors and arrays of these values are refused with that sentence."""
    rows = torch.tensor(values, dtype=torch.float64)
    for x in (rows, rows.numpy(), rows.float(), rows.float().numpy()):
        with pytest.raises(ValueError, match="expects") as caught:
            likelihood.check(x)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("bernoulli", [[0.0, -0.5], [1.0, 2.0]], "X in [0, 1], but got a minimum of -0.5"),
        ("bernoulli", [[0.0, 1.25], [1.0, 0.5]], "X in [0, 1], but got a maximum of 1.25"),
        ("poisson", [[0.0, -2.0], [7.0, 0.5]], "X in [0, inf), but got a minimum of -2"),
        ("poisson", [[0.0, 3.0], [7.0, 2.5]], "whole numbers, but got a value of 2.5"),
        ("poisson", [[0.0, 1e6], [1e6 + 0.5, 1]], "whole numbers, but got a value of 1000000.5"),
    ],
)
def test_check_says_what_is_expected_and_what_came(name, values, message):
    refused(FAMILIES[name].build(2), values, f"expects {message}")


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_check_forgives_the_rounding_of_rescaled_data(name):
    likelihood = FAMILIES[name].build(2)
    rows = torch.tensor([[-1e-7, 1 + 1e-7], [0.0, 1 + 2**-52]], dtype=torch.float64)
    assert rows.max() != 1
    likelihood.check(rows)
    likelihood.check(rows.numpy())
    assert likelihood.terms(rows).base.isfinite().all()


def test_gaussian_takes_all_finite_numbers():
    rows = torch.tensor([[-1e29, 0.3], [1e29, 7.0]], dtype=torch.float64)
    for x in (rows, rows.numpy()):
        likelihoods.Gaussian(2).check(x)


# Bernoulli


def test_bernoulli_sums_to_one_over_all_images(generator):
    likelihood, _ = started(FAMILIES["bernoulli"], generator)
    images = torch.tensor(list(product([0.0, 1.0], repeat=D)), dtype=torch.float64)
    sums = log_prob(likelihood, images, outputs(generator, M, D)).exp().sum(0)
    torch.testing.assert_close(sums, torch.ones(M, dtype=torch.float64))


def test_bernoulli_of_grey_levels_is_their_cross_entropy(generator):
    likelihood, x = started(FAMILIES["bernoulli"], generator)
    grey = torch.rand(x.shape, dtype=torch.float64, generator=generator)
    o = outputs(generator, M, D)
    expected = [
        [-F.binary_cross_entropy(likelihood.mean(o[j]), row, reduction="sum") for j in range(M)]
        for row in grey
    ]
    close(log_prob(likelihood, grey, o), torch.tensor(expected, dtype=torch.float64))


def test_bernoulli_starts_constant_pixels_within_reach():
    likelihood = likelihoods.Bernoulli(3)
    likelihood.start(torch.tensor([[0.0, 1.0, 0.25]]).expand(7, 3))
    mean = likelihood.mean(torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(mean, torch.tensor([[1e-3, 1 - 1e-3, 0.25]], dtype=torch.float64))


def test_bernoulli_stays_finite_at_extreme_logits():
    likelihood, o = likelihoods.Bernoulli(2), torch.tensor([[1e4, -1e4]], requires_grad=True)
    table = log_prob(likelihood, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), o)
    table.sum().backward()
    torch.testing.assert_close(table.detach(), torch.tensor([[0.0], [-1e4]]))
    torch.testing.assert_close(o.grad, torch.tensor([[-1.0, 0.0]]))


# Poisson


def test_poisson_sums_to_one_over_all_counts(generator):
    likelihood, _ = started(FAMILIES["poisson"], generator, d=1)
    counts = torch.arange(211, dtype=torch.float64)[:, None]
    sums = log_prob(likelihood, counts, outputs(generator, M, 1)).exp().sum(0)
    close(sums, torch.ones(M, dtype=torch.float64))


def test_poisson_base_is_the_log_of_the_factorials():
    counts = [[0.0, 1.0, 2.0], [3.0, 7.0, 13.0]]
    expected = [-log(2), -log(6) - log(5040) - log(6227020800)]
    base = likelihoods.Poisson(3).terms(torch.tensor(counts, dtype=torch.float64)).base
    close(base, torch.tensor(expected, dtype=torch.float64))


def test_poisson_starts_counts_that_never_came_within_reach():
    likelihood = likelihoods.Poisson(2)
    likelihood.start(torch.tensor([[0.0, 3.0]]).expand(7, 2))
    mean = likelihood.mean(torch.zeros(1, 2, dtype=torch.float64))
    close(mean, torch.tensor([[1e-3, 3.0]], dtype=torch.float64))


def test_poisson_shows_an_encoder_the_logarithms_of_large_counts():
    counts = torch.tensor([[0.0, 1e6], [exp(1) - 1, 1e12]], dtype=torch.float64)
    inputs = likelihoods.Poisson(2).inputs(counts)
    expected = [[0, log(1e6 + 1)], [1, log(1e12 + 1)]]
    close(inputs, torch.tensor(expected, dtype=torch.float64))


# Gaussian

LEARNED = ["spherical", "diagonal"]


@pytest.mark.parametrize(
    ("noise_variance", "n_parameters", "shape"),
    [("spherical", 1, ()), ("diagonal", 3, (3,)), (0.3, 0, ()), (2, 0, ())],
)
def test_gaussian_learns_as_many_variances_as_asked(noise_variance, n_parameters, shape, generator):
    likelihood = likelihoods.Gaussian(3, noise_variance)
    likelihood.start(reals(outputs(generator, 11, 3)))
    assert sum(p.numel() for p in likelihood.parameters()) == n_parameters
    assert likelihood.noise_variance().shape == shape
    assert likelihood.noise_variance().dtype == torch.float64
    assert list(likelihood.learned()) == ["noise_variance"]
    assert torch.equal(likelihood.learned()["noise_variance"], likelihood.noise_variance())
    if not n_parameters:
        assert likelihood.noise_variance().item() == pytest.approx(noise_variance, rel=1e-12)


def test_gaussian_refuses_other_names_of_noise():
    with pytest.raises(ValueError, match="noise_variance expects") as caught:
        likelihoods.Gaussian(3, "full")
    expected = "noise_variance expects 'spherical', 'diagonal' or a number, but got 'full'."
    assert str(caught.value) == expected


def squared_scale(x, noise):
    """The variance that noise is relative to: of each feature where each has noise of its own."""
    variance = x.var(0, correction=0)
    return variance if noise.ndim else variance.mean()


@pytest.mark.parametrize("noise_variance", LEARNED)
def test_gaussian_noise_starts_at_half_the_variance_of_the_data(noise_variance, generator):
    likelihood, x = likelihoods.Gaussian(3, noise_variance), reals(outputs(generator, 101, 3))
    for factor in (1, 1e3):
        likelihood.start(factor * x)
        noise = likelihood.noise_variance().detach()
        expected = (0.5 + 1e-4) * factor**2 * squared_scale(x, noise)
        torch.testing.assert_close(noise, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("noise_variance", LEARNED)
@pytest.mark.parametrize(("options", "floor"), [({}, 1e-4), ({"floor": 0.01}, 0.01)])
def test_gaussian_noise_stops_at_the_floor(noise_variance, options, floor, generator):
    x = reals(outputs(generator, 101, 3))
    likelihood = likelihoods.Gaussian(3, noise_variance, **options)
    likelihood.start(x)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(-1000)
    noise = likelihood.noise_variance().detach()
    torch.testing.assert_close(noise, floor * squared_scale(x, noise))
    assert log_prob(likelihood, x, torch.zeros(1, 3)).isfinite().all()


@pytest.mark.parametrize("noise_variance", LEARNED)
def test_gaussian_noise_above_the_floor_moves_tenfold_in_logs(noise_variance, generator):
    """A step of 0.01, as of an optimiser, changes the log of the noise by 0.1."""
    likelihood = likelihoods.Gaussian(3, noise_variance, floor=0.03).double()
    x = reals(outputs(generator, 101, 3))
    likelihood.start(x)
    before = likelihood.noise_variance().detach()
    floor = 0.03 * squared_scale(x, before)
    before = before - floor
    with torch.no_grad():
        likelihood.slow_log_noise += 0.01
    close(likelihood.noise_variance().detach() - floor, exp(0.1) * before)


@pytest.mark.parametrize("noise_variance", LEARNED)
def test_gaussian_learns_the_variance_of_the_residuals(noise_variance, generator):
    likelihood = likelihoods.Gaussian(3, noise_variance).double()
    x = reals(outputs(generator, 101, 3))
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
        loss = -log_prob(likelihood, x, torch.zeros(1, 3, dtype=torch.float64)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    residual = x.var(0, correction=0)
    expected = residual if noise_variance == "diagonal" else residual.mean()
    torch.testing.assert_close(likelihood.noise_variance().detach(), expected, rtol=1e-5, atol=0)


@given(
    name=st.sampled_from(LEARNED),
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
    before, mean = log_prob(likelihood, x, o), likelihood.mean(o)
    moved = factor * (x + offset)
    likelihood.start(moved)
    after = log_prob(likelihood, moved, o)
    torch.testing.assert_close(after, before - D * log(factor), rtol=1e-9, atol=1e-7)
    close(likelihood.mean(o), factor * (mean + offset), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LEARNED)
def test_gaussian_table_has_no_units(name, dtype, generator):
    """Of data and of their double it is the same to the bit, so that training is; log 2 for each
    feature is in the base."""
    likelihood, x = started(FAMILIES[name], generator)
    o, mask = outputs(generator, N, M, D).to(dtype), holes(x, generator)[0]
    found = []
    for rows in (x, 2 * x):
        likelihood.start(rows)
        for there in (None, mask):
            terms = likelihood.terms(rows.to(dtype), there)
            found.append((terms, likelihood.table(terms, o[0]), likelihood.paired(terms, o)))
    for once, twice, features in zip(found[:2], found[2:], (D, mask.sum(1)), strict=True):
        assert torch.equal(once[1], twice[1])
        assert torch.equal(once[2], twice[2])
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        expected = torch.full((N,), log(2), dtype=dtype) * features
        torch.testing.assert_close(once[0].base - twice[0].base, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("name", LEARNED)
def test_gaussian_base_is_finite_where_squares_of_scales_are_not(name, scale, generator):
    """log(2 pi var) as that of the relative noise and twice that of the scale."""
    likelihood, x = started(FAMILIES[name], generator)
    expected, o = likelihood.terms(x).base - D * log(scale), outputs(generator, M, D)
    table = likelihood.table(likelihood.terms(x), o)
    likelihood.start(scale * x)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        terms = likelihood.terms((scale * x).to(dtype))
        torch.testing.assert_close(terms.base.double(), expected, rtol=tolerance, atol=tolerance)
        found = likelihood.table(terms, o.to(dtype)).double()
        torch.testing.assert_close(found, table, rtol=tolerance, atol=10 * tolerance)


def sentence(likelihood, x):
    with pytest.raises(ValueError, match=r"too (small|large)") as caught:
        likelihood.start(x)
    return str(caught.value)


@pytest.mark.parametrize(
    ("factor", "power"), [(1e-200, "e-200"), (1e-160, "e-160"), (1e-31, "e-31")]
)
def test_gaussian_refuses_data_too_small_for_float32(factor, power):
    x = factor * torch.tensor([[-3.0, 1.0], [3.0, -1.0]], dtype=torch.float64)
    assert sentence(likelihoods.Gaussian(2), x) == (
        f"X is too small: its standard deviation is 2.24{power}, and one above 1e-30 is expected. "
        "Rescale X."
    )


@pytest.mark.parametrize("rows", [[[-1e200], [3e200]], [[3e200], [3e200]], [[0.0], [3e200]]])
def test_gaussian_refuses_data_too_large_for_float32(rows):
    assert sentence(likelihoods.Gaussian(1), torch.tensor(rows, dtype=torch.float64)) == (
        "X is too large: its largest absolute value is 3e+200, and one below 1e+30 is expected. "
        "Rescale X."
    )


def test_gaussian_refuses_a_fixed_noise_out_of_reach_of_float32():
    x = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    assert sentence(likelihoods.Gaussian(1, 1e-30), x) == (
        "noise_variance=1e-30 is too small beside the variance of X, 4: at least 1e-10 of it is "
        "expected."
    )
    assert sentence(likelihoods.Gaussian(1, 0.3), 1e-20 * x) == (
        "noise_variance=0.3 is too large beside the variance of X, 4e-40: at most 1e+30 of it is "
        "expected."
    )


@pytest.mark.parametrize("ratio", [1e-9, 1e29])
def test_gaussian_with_the_most_extreme_fixed_noise_is_finite_in_float32(ratio, generator):
    x = reals(outputs(generator, N, D))
    likelihood = likelihoods.Gaussian(D, ratio * x.var().item())
    likelihood.start(x)
    o = outputs(generator, M, D).float().requires_grad_()
    table = log_prob(likelihood, x.float(), o)
    table.sum().backward()
    assert table.isfinite().all()
    assert o.grad.isfinite().all()


def test_gaussian_keeps_what_it_was_started_at_when_it_refuses_data(generator):
    likelihood, x = started(FAMILIES["diagonal"], generator)
    before = copy.deepcopy(likelihood.state_dict())
    sentence(likelihood, 1e-200 * x)
    assert all(map(torch.equal, likelihood.state_dict().values(), before.values()))


def test_gaussian_keeps_precision_far_from_the_origin(generator):
    near, x = started(FAMILIES["spherical"], generator)
    far = copy.deepcopy(near)
    far.start(x + 1e6)
    near.start(x)
    o = outputs(generator, M, D)
    exact = log_prob(near, x, o)
    torch.testing.assert_close(log_prob(far, x + 1e6, o), exact, rtol=0, atol=1e-6)
    coarser = log_prob(far, x + 1e6, o.float()).double()
    torch.testing.assert_close(coarser, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("build", [lambda d: likelihoods.Gaussian(d, 1e-3), likelihoods.Bernoulli])
def test_table_is_precise_however_coarse_other_products_are(build, products, generator, device):
    """Its terms are large and cancel."""
    x = torch.randn(101, 89, generator=generator).to(device)
    o = torch.randn(211, 89, generator=generator).to(device)
    likelihood = build(89).to(device)
    terms = likelihood.terms(x)
    with products:
        found = likelihood.table(terms, o)
        found_with_gaps = likelihood.table(terms._replace(weight=(x > 0).to(x)), o)
    assert products.precisions == ["highest"] * 3
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(likelihood.table(terms, o), found)
    assert torch.equal(likelihood.table(terms._replace(weight=(x > 0).to(x)), o), found_with_gaps)
    torch.set_float32_matmul_precision("medium")


def test_gaussian_density_integrates_to_one(generator):
    likelihood, _ = started(FAMILIES["spherical"], generator, d=1)
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64)[:, None]
    density = log_prob(likelihood, grid, outputs(generator, M, 1)).exp()
    integral = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(integral, torch.ones(M, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e5 + 0.1, 1e-200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise_variance", [*LEARNED, 0.3])
def test_gaussian_takes_constant_data_in_units_of_one(value, dtype, noise_variance):
    x = torch.full((101, 3), value, dtype=dtype)
    likelihood = likelihoods.Gaussian(3, noise_variance)
    likelihood.start(x)
    assert (likelihood.scale == 1).all()
    expected = -0.5 * (2 * pi * likelihood.noise_variance().expand(3)).log().sum().item()
    table = log_prob(likelihood, x, torch.zeros(1, 3, dtype=torch.float64)).detach()
    whole = torch.full((101, 1), expected, dtype=torch.float64)
    torch.testing.assert_close(table, whole, rtol=1e-6, atol=1e-6)


def test_gaussian_has_one_scale_for_like_features_and_one_each_for_unlike_ones(generator):
    x = reals(outputs(generator, 101, 5)) * torch.tensor([1.0, 2, 3, 4, 0])
    like = likelihoods.Gaussian(5)
    like.start(x)
    close(like.scale, x.var(0, correction=0).mean().sqrt().expand(5))
    assert like.noise_variance().shape == ()
    unlike = likelihoods.Gaussian(5)
    unlike.start(x * torch.tensor([1.0, 1, 1, 1000, 1]))
    assert unlike.noise_variance().shape == (5,)
    close(unlike.scale[:3], x.std(0, correction=0)[:3])
    assert unlike.scale[4] > 0, "a constant feature has the scale of all together"


def test_gaussian_nats_are_in_the_units_of_unlike_features(generator):
    """The density of y = a x at a x is that of x at x less sum_d log a_d."""
    x, factors = reals(outputs(generator, 101, 3)), torch.tensor([1.0, 1.0, 1e6]).double()
    plain, scaled = likelihoods.Gaussian(3, "diagonal"), likelihoods.Gaussian(3)
    plain.start(x)
    scaled.start(x * factors)
    decoded = outputs(generator, 7, 3)
    difference = log_prob(plain, x, decoded) - log_prob(scaled, x * factors, decoded)
    close(difference, torch.full_like(difference, float(factors.log().sum())))


def test_gaussian_prior_is_that_of_a_row_with_residuals_of_the_scale(generator):
    """Its noise of largest density is the scale, and with the rows of data their average."""
    likelihood, x = likelihoods.Gaussian(3).double(), reals(outputs(generator, 101, 3))
    likelihood.start(x)
    noise = torch.linspace(0.05, 3, 1001, dtype=torch.float64)
    residual, n, n_prior = 0.2, 101, 20
    values = []
    for v in noise:
        with torch.no_grad():
            likelihood.slow_log_noise.copy_((v - likelihood.floor).log() / 10)
        data = -0.5 * n * 3 * (v.log() + residual / v)
        values.append(float((data + n_prior * likelihood.log_prior()).detach()))
    best = float(noise[int(torch.tensor(values).argmax())])
    assert abs(best - (n * residual + n_prior) / (n + n_prior)) < 0.01
    assert float(likelihoods.Gaussian(3, 0.5).log_prior()) == 0


@pytest.mark.parametrize("d", [1, 3, 4, 11])
@pytest.mark.parametrize("largest", [5.0, 19.9, 25.0, 80.0, 200.0])
def test_sum_of_bernoulli_normalizers_is_that_of_softplus(d, largest, generator):
    eta = largest * (2 * torch.rand(7, d, dtype=torch.float64, generator=generator) - 1)
    eta[0], eta[1] = largest, -largest
    family = likelihoods.Bernoulli(d)
    expected = torch.nn.functional.softplus(eta, threshold=700).sum(1)
    torch.testing.assert_close(family.total_log_normalizer(eta), expected, rtol=1e-14, atol=1e-13)
    rounded = family.total_log_normalizer(eta.float()).double()
    torch.testing.assert_close(rounded, expected, rtol=1e-6, atol=1e-6 * d)
    (gradient,) = torch.autograd.grad(family.total_log_normalizer(eta.requires_grad_()).sum(), eta)
    torch.testing.assert_close(gradient, torch.sigmoid(eta.detach()))


def test_coins_with_another_normalizer_are_tables_of_it(generator):
    """What is fast for the Bernoulli must not stand in for what a subclass says."""

    class Truncated(likelihoods.Bernoulli):
        def log_normalizer(self, eta):
            return 2 * torch.nn.functional.softplus(eta)

    family, x = Truncated(5).double(), torch.rand(7, 5, dtype=torch.float64, generator=generator)
    outputs = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    terms, weights = family.terms(x), torch.rand(7, 3, dtype=torch.float64, generator=generator)
    expected = x @ outputs.T - family.log_normalizer(outputs).sum(1)
    torch.testing.assert_close(family.table(terms, outputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(family.table(terms, outputs), expected.detach())
    (found,) = torch.autograd.grad(family.expected(terms, outputs, weights).sum(), outputs)
    (exact,) = torch.autograd.grad((weights * expected).sum(), outputs)
    torch.testing.assert_close(found, exact)
