"""Likelihoods whose outputs are not as many as the features, with exposures, or of mixed columns.

They are held to the contract of test_likelihoods.py, each against torch's laws feature by feature.
"""

from itertools import product
from math import log, nan

import pytest
import torch
import torch.distributions as laws
from torch.autograd import gradcheck

from skqlvm.engine import likelihoods
from skqlvm.engine.likelihoods import Block, Mixed

N, M, S = 13, 5, 3


def normal_numbers(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def codes(e, n_levels):
    return torch.stack([(e[:, i].abs() * n).long() % n for i, n in enumerate(n_levels)], 1).double()


def counts(e):
    return (1 + 1.2 * e).exp().round()


def per_level(likelihood, o, x):
    """Log probability of the level of each feature."""
    parts = (o + likelihood.loc).split(likelihood.n_levels)
    return torch.stack(
        [laws.Categorical(logits=part).log_prob(x[i]) for i, part in enumerate(parts)]
    )


def split(likelihood, o, x):
    """Log probability of a row, in the place of its first feature."""
    law = laws.Multinomial(int(x.sum()), logits=o + likelihood.loc)
    return torch.cat([law.log_prob(x)[None], torch.zeros(len(x) - 1, dtype=x.dtype)])


def poisson_of(column):
    def log_prob(likelihood, o, x):
        e = (x.sum() if column is None else x[column]) / likelihood.unit
        law = laws.Poisson(e * (o + likelihood.loc).exp())
        return placed(law.log_prob(modelled(x, column)), column)

    return log_prob


def negative_binomial_of(column):
    def log_prob(likelihood, o, x):
        e = (x.sum() if column is None else x[column]) / likelihood.unit
        size = 1 / likelihood.dispersion().detach()
        law = laws.NegativeBinomial(e * size, logits=o + likelihood.loc - size.log())
        return placed(law.log_prob(modelled(x, column)), column)

    return log_prob


def modelled(x, column):
    return x if column is None else torch.cat([x[:column], x[column + 1 :]])


def placed(values, column):
    return (
        values
        if column is None
        else torch.cat([values[:column], values.new_zeros(1), values[column:]])
    )


def with_column(e, column):
    return torch.cat([counts(e[:, :column]), e[:, [column]].exp(), counts(e[:, column + 1 :])], 1)


LEVELS = (2, 4, 3)
COLUMNS = {"real": (1, 5), "category": (0, 3), "count": (2, 6, 4), "coin": (7,)}
"""Of mixed rows; column 4 is the exposure of the counts."""


def mixed():
    blocks = [
        Block(COLUMNS["real"], likelihoods.Gaussian(2, "diagonal")),
        Block(COLUMNS["category"], likelihoods.Categorical(2, LEVELS[:2])),
        Block(COLUMNS["count"], likelihoods.NegativeBinomial(3, exposure=2)),
        Block(COLUMNS["coin"], likelihoods.Bernoulli(1)),
    ]
    return Mixed(blocks)


def mixed_rows(e):
    x = e.clone()
    x[:, COLUMNS["category"]] = codes(e[:, COLUMNS["category"]], LEVELS[:2])
    x[:, COLUMNS["count"]] = with_column(e[:, COLUMNS["count"]], 2)
    x[:, COLUMNS["coin"]] = (e[:, COLUMNS["coin"]] > 0).double()
    return x


def mixed_law(likelihood, o, x):
    result = torch.zeros(8, dtype=torch.float64)
    real, category, count, coin = likelihood.families
    of_real, of_category, of_count, of_coin = o.split([2, 6, 2, 1])
    noise = real.noise_variance().detach().sqrt()
    law = laws.Normal(real.mean(of_real), noise)
    result[list(COLUMNS["real"])] = law.log_prob(x[list(COLUMNS["real"])])
    rows = x[list(COLUMNS["category"])]
    result[list(COLUMNS["category"])] = per_level(category, of_category, rows)
    rows = x[list(COLUMNS["count"])]
    result[list(COLUMNS["count"])] = negative_binomial_of(2)(count, of_count, rows)
    law = laws.Bernoulli(logits=of_coin + coin.loc)
    result[list(COLUMNS["coin"])] = law.log_prob(x[list(COLUMNS["coin"])])
    return result


CASES = {
    "categorical": (lambda: likelihoods.Categorical(3, LEVELS), lambda e: codes(e, LEVELS), 3),
    "multinomial": (lambda: likelihoods.Multinomial(4), counts, 4),
    "poisson per column": (lambda: likelihoods.Poisson(4, 1), lambda e: with_column(e, 1), 4),
    "poisson per total": (lambda: likelihoods.Poisson(3, "total"), lambda e: counts(e) + 1, 3),
    "dispersed per column": (
        lambda: likelihoods.NegativeBinomial(4, 3),
        lambda e: with_column(e, 3),
        4,
    ),
    "dispersed per total": (
        lambda: likelihoods.NegativeBinomial(3, "total"),
        lambda e: counts(e) + 1,
        3,
    ),
    "mixed": (mixed, mixed_rows, 8),
}
"""How each is built, data for it made of standard normal numbers, and its number of features."""

LAWS = {
    "categorical": per_level,
    "multinomial": split,
    "poisson per column": poisson_of(1),
    "poisson per total": poisson_of(None),
    "dispersed per column": negative_binomial_of(3),
    "dispersed per total": negative_binomial_of(None),
    "mixed": mixed_law,
}
"""Log probabilities of the features of a row."""

TOLD = {"poisson per column": [1], "dispersed per column": [3], "mixed": [4]}
"""Columns of an exposure."""


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def started(name, generator, n=N):
    build, data, n_features = CASES[name]
    likelihood, x = build(), data(normal_numbers(generator, n, n_features))
    likelihood.start(x)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    return likelihood, x


def holes(name, x, generator):
    """A mask in which the first row is complete and of the second only the exposure is there."""
    mask = torch.rand(x.shape, dtype=torch.float64, generator=generator) > 0.4
    mask[0], mask[1] = True, False
    mask[:, TOLD.get(name, [])] = True
    return mask


def log_prob(likelihood, x, o, mask=None):
    terms = likelihood.terms(x, mask)
    return likelihood.table(terms, o) + terms.base[:, None]


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def naive(name, likelihood, x, o, mask=None):
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    table = [
        [LAWS[name](likelihood, point, row)[there].sum() for point in o]
        for row, there in zip(x, mask, strict=True)
    ]
    return torch.tensor(table, dtype=torch.float64)


def test_table_and_base_equal_a_loop_over_rows_and_points(name, generator):
    likelihood, x = started(name, generator)
    o = normal_numbers(generator, M, likelihood.n_outputs)
    terms = likelihood.terms(x)
    assert terms.statistics.shape == (N, likelihood.n_outputs)
    assert likelihood.log_normalizer(o).shape == (M, likelihood.n_normalizers)
    found = log_prob(likelihood, x, o)
    close(found, naive(name, likelihood, x, o))
    close(likelihood.paired(terms, o.expand(N, M, -1)) + terms.base[:, None], found)
    total = likelihood.log_normalizer(likelihood.natural(o)).sum(-1)
    close(likelihood.total_log_normalizer(likelihood.natural(o)), total)


def test_rows_with_gaps_equal_a_loop_over_what_is_there(name, generator):
    likelihood, x = started(name, generator)
    if not likelihood.allows_missing:
        pytest.skip("rows are complete")
    o = normal_numbers(generator, M, likelihood.n_outputs)
    mask = holes(name, x, generator)
    expected = naive(name, likelihood, x, o, mask)
    assert not expected[1].any()
    for rows, there in ((torch.where(mask, x, nan), None), (torch.where(mask, x, 1e9), mask)):
        if "categorical" in name or name == "mixed":
            rows = torch.where(mask, x, nan)
        found = log_prob(likelihood, rows, o, there)
        close(found, expected)
        terms = likelihood.terms(rows, there)
        close(likelihood.paired(terms, o.expand(N, M, -1)) + terms.base[:, None], expected)
    inputs = likelihood.inputs(torch.where(mask, x, nan))
    assert inputs.shape == (N, likelihood.n_inputs)
    assert inputs.isfinite().all()


def masks(name, likelihood, x, generator):
    return [None, holes(name, x, generator)] if likelihood.allows_missing else [None]


def test_gradients_are_right_with_and_without_gaps(name, generator):
    likelihood, x = started(name, generator, n=5)
    likelihood.double()
    o = normal_numbers(generator, 2, likelihood.n_outputs).requires_grad_()
    for mask in masks(name, likelihood, x, generator):
        rows = x if mask is None else torch.where(mask, x, nan)
        parameters = tuple(likelihood.parameters())

        def table(o, *_, rows=rows):
            return log_prob(likelihood, rows, o)

        assert gradcheck(table, (o, *parameters))


def test_expected_has_the_gradient_of_the_weighed_table(name, generator):
    likelihood, x = started(name, generator)
    o = normal_numbers(generator, M, likelihood.n_outputs).requires_grad_()
    weights = torch.rand(N, M, dtype=torch.float64, generator=generator)
    for mask in masks(name, likelihood, x, generator):
        gradients = []
        for of in (likelihood.expected, lambda t, o, w: (w * likelihood.table(t, o)).sum(1)):
            rows = of(likelihood.terms(x, mask), o, weights)
            assert rows.shape == (N,)
            inputs = (o, *likelihood.parameters())
            gradients.append(torch.autograd.grad((torch.arange(1, N + 1) * rows).sum(), inputs))
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_draws_have_the_mean_and_the_variance(name, generator):
    likelihood, _ = started(name, generator, n=101)
    n_draws = 40_009
    o = 0.5 * normal_numbers(generator, 1, likelihood.n_outputs)
    draws = likelihood.sample(o.expand(n_draws, -1), generator)
    assert draws.shape == (n_draws, likelihood.n_features)
    likelihood.check(draws.detach())
    mean, variance = likelihood.mean(o)[0], likelihood.variance(o)[0].detach()
    assert variance.shape == (likelihood.n_features,)
    for i in range(likelihood.n_features):
        column = draws[:, i].detach()
        if name == "categorical" or (name == "mixed" and i in COLUMNS["category"]):
            column = (column == mean[i]).double()
            share = column.mean()
            assert share >= torch.bincount(draws[:, i].long()).max() / n_draws - 0.02
            assert abs(share * (1 - share) - variance[i]) < 0.01
            continue
        assert abs(column.mean() - mean[i]) < 4.5 * (variance[i] / n_draws).sqrt() + 1e-12
        torch.testing.assert_close(column.var(), variance[i], rtol=0.15, atol=1e-12)
    again = [likelihood.sample(o, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)


def test_predictive_is_that_of_draws_from_a_mixture(name, generator):
    likelihood, _ = started(name, generator, n=101)
    o = 0.5 * normal_numbers(generator, 3, likelihood.n_outputs)
    weights = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    mean, std = (each.detach() for each in likelihood.predictive(o, weights))
    close(mean[1], likelihood.mean(o[:1])[0])
    close(std[1], likelihood.variance(o[:1])[0].detach().sqrt(), 1e-6)
    draws = likelihood.sample(o.repeat_interleave(torch.tensor([4000, 10_000, 6000]), 0), generator)
    for i in range(likelihood.n_features):
        column = draws[:, i].detach()
        if name == "categorical" or (name == "mixed" and i in COLUMNS["category"]):
            column = (column == mean[0, i]).double()
            assert abs(column.std() - std[0, i]) < 0.02
            continue
        assert abs(column.mean() - mean[0, i]) < 4.5 * std[0, i] / 20_000**0.5 + 1e-12
        torch.testing.assert_close(column.std(), std[0, i], rtol=0.08, atol=1e-9)


def test_predictive_of_rows_is_at_their_own_exposures(name, generator):
    """A loop over rows and points, each by mean and variance of so many units."""
    likelihood, x = started(name, generator)
    if not likelihood.rescales or not likelihood.averages:
        pytest.skip("rows tell of no exposure")
    o = normal_numbers(generator, 3, likelihood.n_outputs)
    weights = torch.softmax(normal_numbers(generator, N, 3), 1)
    mean, std = (each.detach() for each in likelihood.predictive(o, weights, x))
    rate, variance = likelihood.mean(o), likelihood.variance(o).detach()
    own = likelihood.rescaled(rate[:1].expand(N, -1), x)
    for i, feature in product(range(N), range(likelihood.n_features)):
        if feature in TOLD.get(name, []):
            assert mean[i, feature] == x[i, feature]
            assert std[i, feature] < 1e-12
            continue
        e = float(own[i, feature] / rate[0, feature])
        w, mu, v = weights[i], e * rate[:, feature], e * variance[:, feature]
        expected = (w * mu).sum()
        close(mean[i, feature], expected)
        close(std[i, feature], ((w * (v + mu**2)).sum() - expected**2).sqrt(), 1e-8)


def test_float32_is_close(name, generator):
    likelihood, x = started(name, generator)
    o = normal_numbers(generator, M, likelihood.n_outputs)
    expected = log_prob(likelihood, x, o)
    found = log_prob(likelihood, x.float(), o.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)
    assert likelihood.mean(o.float()).dtype == torch.float32
    assert likelihood.inputs(x.float()).dtype == torch.float32


def test_state_makes_the_same_table(name, generator):
    likelihood, x = started(name, generator)
    other = CASES[name][0]()
    other.load_state_dict(likelihood.state_dict())
    o = normal_numbers(generator, M, likelihood.n_outputs)
    assert torch.equal(log_prob(other, x, o), log_prob(likelihood, x, o))


def test_inputs_are_moderate_and_tell_rows_apart(name, generator):
    likelihood, x = started(name, generator)
    inputs = likelihood.inputs(x)
    assert inputs.shape == (N, likelihood.n_inputs)
    assert inputs.abs().max() < 7
    for i, j in product(range(N), repeat=2):
        assert torch.equal(inputs[i], inputs[j]) == torch.equal(x[i], x[j])


def test_weighted_start_is_that_of_repeated_rows(name, generator):
    build, data, n_features = CASES[name]
    x = data(normal_numbers(generator, 21, n_features))
    if name in TOLD:
        x[:, TOLD[name]] = 1 + (torch.arange(21) % 2)[:, None].double()
    n_times = torch.tensor([1, 2, 1] * 7)
    one, other = build(), build()
    one.start(x, n_times.double())
    other.start(x.repeat_interleave(n_times, 0))
    for key, value in one.state_dict().items():
        if "unit" in key or "total" in key or name in ("categorical", "mixed"):
            continue  # medians, and half a row a level, are of rows
        if "total" in name:
            one.unit = other.unit
            continue
        close(value, other.state_dict()[key], 1e-9)


# categories


def test_categorical_sums_to_one_over_all_rows(generator):
    likelihood, _ = started("categorical", generator)
    rows = torch.tensor(list(product(*map(range, LEVELS))), dtype=torch.float64)
    o = normal_numbers(generator, M, likelihood.n_outputs)
    close(log_prob(likelihood, rows, o).exp().sum(0), torch.ones(M, dtype=torch.float64))


def test_categorical_starts_at_the_frequencies_with_half_a_row_a_level():
    likelihood = likelihoods.Categorical(2)
    x = torch.tensor([[0.0, 2.0], [0.0, nan], [1.0, 0.0], [1.0, 2.0], [0.0, nan]])
    likelihood.start(x)
    assert likelihood.n_levels == [2, 3]
    p = likelihood.probabilities(torch.zeros(5, dtype=torch.float64))
    expected = [3.5 / 6, 2.5 / 6, 1.5 / 4.5, 0.5 / 4.5, 2.5 / 4.5]
    close(p, torch.tensor(expected, dtype=torch.float64))


def test_categorical_needs_its_levels_before_its_outputs():
    with pytest.raises(ValueError, match="expects n_levels"):
        _ = likelihoods.Categorical(2).n_outputs


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 1.0], [1, 3]], "expects codes from 0 to 2 in column 1, but got 3"),
        ([[2.0, nan], [nan, 3]], "expects codes from 0 to 1 in column 0, but got 2"),
        ([[0.5, 1], [1, 2]], "expects whole numbers, but got a value of 0.5"),
        ([[-1.0, 1], [1, 2]], "expects X in [0, inf), but got a minimum of -1"),
    ],
)
def test_categorical_names_the_column_of_an_unseen_code(rows, message):
    likelihood = likelihoods.Categorical(2, [2, 3])
    refused(likelihood, rows, message)


def refused(likelihood, rows, message):
    x = torch.tensor(rows, dtype=torch.float64)
    for each in (x, x.float(), x.numpy(), x.float().numpy()):
        with pytest.raises(ValueError, match="expects") as caught:
            likelihood.check(each)
        assert str(caught.value) == message


def test_categorical_stays_finite_at_extreme_logits():
    likelihood = likelihoods.Categorical(1, [3])
    o = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    table = log_prob(likelihood, torch.tensor([[0.0], [2.0]]), o)
    table.sum().backward()
    torch.testing.assert_close(table.detach(), torch.tensor([[0.0], [-2e4]]))
    torch.testing.assert_close(o.grad, torch.tensor([[-1.0, 0.0, 1.0]]))


# totals, exposures


def test_multinomial_sums_to_one_over_all_splits(generator):
    likelihood, _ = started("multinomial", generator)
    rows = [row for row in product(range(6), repeat=4) if sum(row) == 5]
    o = normal_numbers(generator, M, 4)
    sums = log_prob(likelihood, torch.tensor(rows, dtype=torch.float64), o).exp().sum(0)
    close(sums, torch.ones(M, dtype=torch.float64))


def test_multinomial_keeps_the_median_total(generator):
    likelihood, x = started("multinomial", generator)
    o = normal_numbers(generator, M, 4)
    total = x.sum(1).median()
    close(likelihood.mean(o).sum(1), total.expand(M))
    assert (likelihood.sample(o, generator).sum(1) == total).all()
    assert torch.equal(likelihood.terms(x).weight, x.sum(1)[:, None])
    with pytest.raises(ValueError, match="expects rows that are complete"):
        likelihood.terms(torch.where(x > 3, nan, x))


def test_multinomial_is_independent_poissons_given_their_total(generator):
    """log p(x) = sum_d log Poisson(x_d; n p_d) - log Poisson(n; n)."""
    likelihood, x = started("multinomial", generator)
    o = normal_numbers(generator, 1, 4)
    n, p = x.sum(1), torch.softmax(o[0] + likelihood.loc, 0)
    expected = laws.Poisson(n[:, None] * p).log_prob(x).sum(1) - laws.Poisson(n).log_prob(n)
    close(log_prob(likelihood, x, o)[:, 0], expected)


@pytest.mark.parametrize("family", [likelihoods.Poisson, likelihoods.NegativeBinomial])
def test_row_of_twice_the_exposure_is_the_sum_of_two(family, generator):
    """By convolution of the probabilities of one."""
    likelihood = family(2, exposure=1)
    x = with_column(normal_numbers(generator, 51, 2), 1)
    likelihood.start(x)
    numbers = torch.arange(12, dtype=torch.float64)
    unit = likelihood.unit.expand(12)
    o = torch.tensor([[0.3]], dtype=torch.float64)
    one, two = (
        log_prob(likelihood, torch.stack([numbers, times * unit], 1), o)[:, 0].exp().detach()
        for times in (1, 2)
    )
    sums = [sum(one[j] * one[i - j] for j in range(i + 1)) for i in range(12)]
    close(two, torch.stack(sums))


@pytest.mark.parametrize("name", ["poisson per column", "dispersed per column"])
def test_means_and_draws_are_of_the_median_exposure(name, generator):
    likelihood, x = started(name, generator, n=101)
    [column] = TOLD[name]
    o = torch.zeros(2, 3, dtype=torch.float64)
    for rows in (likelihood.mean(o), likelihood.sample(o, generator)):
        assert (rows[:, column] == x[:, column].median()).all()
    rates = modelled(x.sum(0), column) / x[:, column].sum()
    close(modelled(likelihood.mean(o)[0], column), rates * x[:, column].median())


@pytest.mark.parametrize("family", [likelihoods.Poisson, likelihoods.NegativeBinomial])
@pytest.mark.parametrize(
    ("exposure", "rows", "message"),
    [
        ("total", [[2, 1.0], [0, -1]], "expects X in [0, inf), but got a minimum of -1"),
        (1, [[2, 1.0], [3, 0]], "expects an exposure that is positive, but got 0"),
        (1, [[2, 1.0], [3, nan]], "expects an exposure that is positive, but got nan"),
        (0, [[-1.5, 1.0], [3, 1]], "expects an exposure that is positive, but got -1.5"),
        (0, [[1.5, 1.0], [3, 0.5]], "expects whole numbers, but got a value of 0.5"),
    ],
)
def test_exposures_are_positive(family, exposure, rows, message):
    refused(family(2, exposure), rows, message)


@pytest.mark.parametrize("family", [likelihoods.Poisson, likelihoods.NegativeBinomial])
def test_empty_row_says_nothing_beside_its_total(family, generator):
    likelihood, x = family(3, "total"), counts(normal_numbers(generator, N, 3))
    x[0] = 0
    likelihood.start(x)
    o = normal_numbers(generator, M, 3)
    assert torch.equal(log_prob(likelihood, x, o)[0], torch.zeros(M, dtype=torch.float64))
    assert likelihood.unit == x.sum(1)[x.sum(1) > 0].median()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    "build",
    [
        lambda: likelihoods.Poisson(7),
        lambda: likelihoods.Poisson(7, "total"),
        lambda: likelihoods.NegativeBinomial(7),
        lambda: likelihoods.NegativeBinomial(7, "total"),
        lambda: likelihoods.Multinomial(7),
    ],
)
def test_sparse_rows_are_dense_ones(build, generator):
    """In the start, weighted or not, the table and the base."""
    x = (normal_numbers(generator, 31, 7).exp() - 1).clamp(min=0).round()
    weight = torch.rand(31, dtype=torch.float64, generator=generator) + 0.1
    o = normal_numbers(generator, M, 7)
    for weights in ([], [weight]):
        dense, sparse = build(), build()
        assert sparse.sparse
        dense.start(x, *weights)
        sparse.start(x.to_sparse_csr(), *weights)
        for key, value in dense.state_dict().items():
            close(sparse.state_dict()[key], value)
        close(log_prob(sparse, x.to_sparse_csr(), o), log_prob(dense, x, o))
        inputs = sparse.inputs(x.to_sparse_csr())
        close(inputs.to_dense(), dense.inputs(x))
    assert not likelihoods.Poisson(7, 2).sparse


# dispersed counts


def test_negative_binomial_sums_to_one(generator):
    likelihood = likelihoods.NegativeBinomial(1)
    likelihood.start(counts(normal_numbers(generator, 99, 1)))
    rows = torch.arange(4001, dtype=torch.float64)[:, None]
    sums = log_prob(likelihood, rows, 0.3 * normal_numbers(generator, M, 1)).exp().sum(0)
    close(sums.detach(), torch.ones(M, dtype=torch.float64), 1e-8)


def test_negative_binomial_starts_at_half_the_dispersion_of_the_moments(generator):
    x = counts(normal_numbers(generator, 501, 3))
    likelihood = likelihoods.NegativeBinomial(3)
    likelihood.start(x)
    mean, variance = x.mean(0), x.var(0, correction=0)
    expected = 1e-4 + (variance - mean) / mean**2 / 2
    close(likelihood.dispersion().detach(), expected)
    assert likelihood.learned()["dispersion"].shape == (3,)
    assert likelihood.log_prior() == 0
    gaps = torch.where(torch.rand(x.shape, generator=generator) < 0.3, nan, x)
    likelihood.start(gaps)
    for i in range(3):
        there = gaps[:, i][~gaps[:, i].isnan()]
        excess = (there.var(correction=0) - there.mean()) / there.mean() ** 2 / 2
        close(likelihood.dispersion()[i].detach(), 1e-4 + excess)


@pytest.mark.parametrize("exposure", [None, 1])
def test_negative_binomial_learns_the_dispersion(exposure, generator):
    """Of draws of its own, with exposures by the sum of units; the prior pulls at its start."""
    truth = likelihoods.NegativeBinomial(1)
    truth.loc.fill_(2.0)
    truth.start_dispersion.fill_(0.5)
    times = torch.randint(1, 4, (3001,), generator=generator)
    drawn = truth.sample(torch.zeros(int(times.sum()), 1, dtype=torch.float64), generator)
    if exposure is None:
        x = drawn
    else:
        rows = torch.arange(3001).repeat_interleave(times)
        sums = torch.zeros(3001, dtype=torch.float64).index_add(0, rows, drawn[:, 0])
        x = torch.stack([sums, times.double()], 1)
    likelihood = likelihoods.NegativeBinomial(x.shape[1], exposure).double()
    likelihood.start(x)
    optimizer = torch.optim.LBFGS(
        likelihood.parameters(), max_iter=60, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -log_prob(likelihood, x, torch.zeros(1, 1, dtype=torch.float64)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    dispersion = likelihood.dispersion().detach() * likelihood.unit
    assert float(dispersion) == pytest.approx(0.5, rel=0.1)
    assert likelihood.log_prior() < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_negative_binomial_stays_finite_and_is_positive(dtype):
    likelihood = likelihoods.NegativeBinomial(1)
    x = torch.tensor([[0.0], [3.0], [1e6]], dtype=dtype)
    likelihood.start(x)
    for slow in (-50.0, 0.0, 0.5):
        with torch.no_grad():
            likelihood.slow_log_dispersion.fill_(slow)
        assert (likelihood.dispersion() > 0).all()
        o = torch.tensor([[-80.0], [0.0], [40.0]], dtype=dtype, requires_grad=True)
        table = log_prob(likelihood, x, o)
        table.sum().backward()
        assert table.isfinite().all()
        assert o.grad.isfinite().all()
        assert likelihood.slow_log_dispersion.grad.isfinite().all()


# grey levels


def test_continuous_bernoulli_integrates_to_one(generator):
    likelihood = likelihoods.ContinuousBernoulli(1)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    for o in (
        torch.zeros(1, 1),
        torch.full((1, 1), 1e-9),
        torch.randn(M, 1),
        torch.tensor([[-9.0]]),
    ):
        density = log_prob(likelihood, grid, o.double()).exp()
        integral = torch.trapezoid(density, grid, dim=0)
        close(integral, torch.ones_like(integral), 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-7), (torch.float64, 1e-15)])
def test_continuous_bernoulli_is_smooth_where_a_mean_is_one_half(dtype, tolerance):
    """Value, slope and curvature against the first terms of their series."""
    likelihood = likelihoods.ContinuousBernoulli(1)
    for value in (0.0, 1e-30, -1e-8, 1e-4, -1e-3):
        eta = torch.tensor([value], dtype=dtype, requires_grad=True)
        found = likelihood.log_normalizer(eta)
        slope = torch.autograd.grad(found, eta, create_graph=True)[0]
        curvature = torch.autograd.grad(slope, eta)[0]
        eta, found, slope = (each.detach() for each in (eta, found, slope))
        e = float(eta)
        assert abs(float(found) - (e / 2 + e**2 / 24)) <= tolerance + e**4
        assert abs(float(slope) - (0.5 + e / 12)) <= tolerance + abs(e) ** 3
        assert abs(float(curvature) - 1 / 12) <= tolerance + e**2
        assert abs(float(likelihood.mean(eta)) - (0.5 + e / 12)) <= tolerance + abs(e) ** 3
        assert abs(float(likelihood.variance(eta)) - 1 / 12) <= tolerance + e**2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_continuous_bernoulli_has_the_closed_forms_of_the_exponential(dtype, tolerance):
    """log((exp(eta) - 1) / eta), its slope and its curvature, where these do not cancel."""
    likelihood = likelihoods.ContinuousBernoulli(1)
    eta = torch.cat([torch.linspace(-30, -0.4, 999), torch.linspace(0.4, 30, 999)]).double()
    expected = (torch.expm1(eta) / eta).log()
    close(likelihood.log_normalizer(eta.to(dtype)).double(), expected, tolerance)
    mean = 1 + 1 / torch.expm1(eta) - 1 / eta
    close(likelihood.mean(eta.to(dtype)).double(), mean, tolerance)
    variance = 1 / eta**2 - 0.25 / torch.sinh(eta / 2) ** 2
    close(likelihood.variance(eta.to(dtype)).double(), variance, 10 * tolerance)


def test_continuous_bernoulli_has_mean_and_variance_by_derivatives():
    """On both sides of where the series ends, too."""
    likelihood = likelihoods.ContinuousBernoulli(1)
    eta = torch.linspace(-40, 40, 4001, dtype=torch.float64).requires_grad_()
    slope = torch.autograd.grad(likelihood.log_normalizer(eta).sum(), eta, create_graph=True)[0]
    curvature = torch.autograd.grad(slope.sum(), eta)[0]
    close(likelihood.mean(eta), slope)
    close(likelihood.variance(eta), curvature, 1e-9)


def test_continuous_bernoulli_stays_finite_at_extreme_outputs():
    likelihood = likelihoods.ContinuousBernoulli(1)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    o = torch.tensor([[1e4], [-1e4]], dtype=torch.float64, requires_grad=True)
    table = log_prob(likelihood, x, o)
    table.sum().backward()
    expected = [[log(1e4) - 1e4, log(1e4)], [log(1e4), log(1e4) - 1e4]]
    close(table.detach(), torch.tensor(expected, dtype=torch.float64))
    assert log_prob(likelihood, x.float(), o.float()).isfinite().all()
    assert o.grad.isfinite().all()
    assert (likelihood.mean(o.detach()) >= 0).all()
    assert (likelihood.variance(o.detach()) > 0).all()
    likelihood.start(torch.tensor([[0.0], [0.0]]))
    assert likelihood.loc.isfinite().all()


# mixed columns


def test_mixed_says_which_columns_are_wrong():
    likelihood = Mixed(
        [
            Block((2, 0), likelihoods.Poisson(2)),
            Block((1, 3), likelihoods.Categorical(2, [2, 2])),
        ],
        ["calls", "sex", "visits", "smoker"],
    )
    good = [1.0, 0, 2, 1]
    refused(
        likelihood,
        [good, [2, 0, -1, 0]],
        "of visits, calls expects X in [0, inf), but got a minimum of -1",
    )
    refused(
        likelihood,
        [good, [2, 0, 1, 2]],
        "of sex (2 levels), smoker (2 levels) expects codes from 0 to 1 in smoker, but got 2",
    )


def test_mixed_shows_its_blocks():
    names = ["age", "days", "sex", "visits", *(f"gene {i}" for i in range(9))]
    likelihood = Mixed(
        [
            Block((0,), likelihoods.Gaussian(1)),
            Block((2,), likelihoods.Categorical(1, [3])),
            Block((1, 3, *range(4, 13)), likelihoods.NegativeBinomial(11, exposure=0)),
        ],
        names,
    )
    assert repr(likelihood).splitlines() == [
        "Mixed of 13 columns",
        "  Gaussian: age",
        "  Categorical: sex (3 levels)",
        "  NegativeBinomial: visits, gene 0, gene 1, gene 2, gene 3, gene 4 and 4 more per days",
    ]


def test_mixed_learns_a_number_a_column(generator):
    likelihood, _ = started("mixed", generator)
    learned = likelihood.learned()
    assert learned.keys() == {"noise_variance", "dispersion"}
    noise, dispersion = learned["noise_variance"], learned["dispersion"]
    assert noise.isfinite().nonzero()[:, 0].tolist() == sorted(COLUMNS["real"])
    assert dispersion.isfinite().nonzero()[:, 0].tolist() == [2, 6]
    close(noise[[1, 5]], likelihood.families[0].noise_variance().detach())
    close(dispersion[[2, 6]], likelihood.families[2].dispersion().detach())


def test_mixed_predicts_what_its_blocks_do_at_the_exposures_of_rows(generator):
    likelihood, x = started("mixed", generator)
    o = normal_numbers(generator, M, likelihood.n_outputs)
    weights = torch.softmax(normal_numbers(generator, N, M), 1)
    found, means = likelihood.predictive(o, weights, x), likelihood.mean(o[:1]).expand(N, -1)
    parts = o.split([family.n_outputs for family in likelihood.families], 1)
    for family, columns, part in zip(likelihood.families, likelihood.columns, parts, strict=True):
        for each, expected in zip(
            found, family.predictive(part, weights, x[:, columns]), strict=True
        ):
            close(each[:, columns], expected)
        close(
            likelihood.rescaled(means, x)[:, columns],
            family.rescaled(means[:, columns], x[:, columns]),
        )
    assert not torch.equal(found[0], likelihood.predictive(o, weights)[0])


def test_mixed_of_one_block_is_that_block(generator):
    x = 3 * normal_numbers(generator, N, 3)
    alone, block = likelihoods.Gaussian(3), Mixed([Block((2, 0, 1), likelihoods.Gaussian(3))])
    alone.start(x)
    block.start(x)
    o = normal_numbers(generator, M, 3)
    close(log_prob(block, x, o[:, [2, 0, 1]]), log_prob(alone, x, o))
    close(block.mean(o[:, [2, 0, 1]]), alone.mean(o))
    assert block.terms(x).weight is None
    close(block.log_prior(), alone.log_prior())
