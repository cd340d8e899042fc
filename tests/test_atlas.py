"""The decoded lattice gives the table of the likelihood itself, with fewer directions where the
decoder has fewer."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skqlvm.engine import atlas, lattices, likelihoods, networks

FAMILIES = {
    **{name: kind for name, kind in likelihoods.FAMILIES.items() if name != "categorical"},
    "diagonal": lambda d: likelihoods.Gaussian(d, "diagonal"),
    "fixed": lambda d: likelihoods.Gaussian(d, 0.3),
}


def coins(n, d, generator):
    """Data that suit every family."""
    return (torch.rand(n, d, dtype=torch.float64, generator=generator) < 0.4).double()


def started(name, x):
    likelihood = FAMILIES[name](x.shape[1])
    likelihood.start(x)
    return likelihood.requires_grad_(False)


def outputs_of_rank(rank, m, d, generator):
    left = torch.randn(m, rank, dtype=torch.float64, generator=generator)
    right = torch.randn(rank, d, dtype=torch.float64, generator=generator)
    offset = torch.randn(d, dtype=torch.float64, generator=generator)
    return left @ right / max(rank, 1) ** 0.5 + offset


def is_affine(likelihood, outputs):
    """Whether natural parameters vary in as few directions as outputs do."""
    o, none = outputs, torch.zeros_like(outputs)
    twice = likelihood.natural(2 * o) - likelihood.natural(none)
    return torch.allclose(twice, 2 * (likelihood.natural(o) - likelihood.natural(none)))


def log_weights(m, generator):
    return 2 * torch.randn(m, dtype=torch.float64, generator=generator)


def even(likelihood, outputs, **options):
    """A chart whose points all weigh the same."""
    m = len(outputs)
    none = torch.zeros(m, dtype=torch.float64)
    return atlas.chart(likelihood, outputs, lattices.lattice(2, m), none, **options)


def log_w(likelihood, x, outputs, log_weight=0.0):
    """By the table of the likelihood: log p(x_i | z_j) and the log weight of the point."""
    terms = likelihood.terms(x)
    return likelihood.table(terms, outputs) + terms.base[:, None] + log_weight


@given(
    name=st.sampled_from(list(FAMILIES)),
    n=st.integers(2, 7),
    d=st.integers(1, 31),
    m=st.integers(1, 34),
    rank=st.integers(0, 7),
    factored=st.booleans(),
    seed=st.integers(0, 999),
)
def test_table_of_the_atlas_is_that_of_the_likelihood(name, n, d, m, rank, factored, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = coins(n, d, generator), log_weights(m, generator)
    likelihood, outputs = started(name, x), outputs_of_rank(rank, m, d, generator)
    points = lattices.lattice(2, m)
    chart = atlas.chart(likelihood, outputs, points, weight, factored=factored)
    table, expected = chart.table(likelihood, x), log_w(likelihood, x, outputs, weight)
    tolerance = 1e-9
    if factored and not is_affine(likelihood, outputs):
        tolerance = 1e-6 * expected.abs().max().item()  # less than rounding is no direction
    torch.testing.assert_close(table, expected, rtol=1e-9, atol=tolerance)
    assert table.shape == (n, m)
    assert torch.equal(chart.points, points)
    assert factored or chart.directions is None


@given(
    name=st.sampled_from(list(FAMILIES)),
    rank=st.sampled_from([0, 2, 13]),
    factored=st.booleans(),
    seed=st.integers(0, 999),
)
def test_log_w_is_what_is_relative_and_what_the_row_brings(name, rank, factored, seed):
    """Responsibilities need the first part alone."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = coins(5, 13, generator), log_weights(89, generator)
    likelihood, outputs = started(name, x), outputs_of_rank(rank, 89, 13, generator)
    chart = atlas.chart(likelihood, outputs, lattices.lattice(2, 89), weight, factored=factored)
    relative, offset = chart.relative(likelihood, x), chart.offset(likelihood, x)
    assert (relative.shape, offset.shape) == ((5, 89), (5,))
    exact = log_w(likelihood, x, outputs, weight)
    tolerance = 1e-9 if is_affine(likelihood, outputs) else 1e-5
    torch.testing.assert_close(relative + offset[:, None], exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        torch.softmax(relative, 1), torch.softmax(exact, 1), rtol=1e-8, atol=1e-12
    )


@given(
    name=st.sampled_from(["bernoulli", "fixed", "diagonal", "poisson"]),
    rank=st.sampled_from([0, 2, 13]),
    gaps=st.booleans(),
    seed=st.integers(0, 999),
)
def test_table_of_the_averaged_atlas_is_the_averaged_table(name, rank, gaps, seed):
    generator = torch.Generator().manual_seed(seed)
    x = coins(5, 13, generator)
    likelihood, outputs = started(name, x), outputs_of_rank(rank, 89, 13, generator)
    chart = even(likelihood, outputs)
    if gaps:
        x[0, :4] = x[1] = x[2, 7] = torch.nan
        chart = chart.with_normalizers(likelihood, x.dtype)
    expected = lattices.averaged(chart.table(likelihood, x).T, chart.points, 0.07).T
    averaged = chart.averaged(0.07)
    tolerance = 1e-8 if is_affine(likelihood, outputs) else 1e-5
    torch.testing.assert_close(
        averaged.table(likelihood, x), expected, rtol=tolerance, atol=tolerance
    )
    assert torch.equal(averaged.points, chart.points)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("factored", [True, False])
def test_bias_is_the_log_weight_less_the_normalizer(name, factored, generator):
    """In float64, and over more points than are summed at a time."""
    x, weight = coins(5, 3, generator), log_weights(2053, generator)
    likelihood, outputs = started(name, x), outputs_of_rank(2, 2053, 3, generator)
    for found in (outputs, outputs.float()):
        chart = atlas.chart(
            likelihood, found, lattices.lattice(1, 2053), weight.float(), factored=factored
        )
        normalizer = likelihood.log_normalizer(likelihood.natural(found).double()).sum(1)
        assert chart.bias.shape == (2053,)
        torch.testing.assert_close(
            chart.bias, weight.float().double() - normalizer, rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_atlas_finds_the_directions_that_outputs_vary_in(rank, generator):
    outputs = outputs_of_rank(rank, 101, 31, generator)
    chart = even(likelihoods.Bernoulli(31), outputs)
    assert chart.coordinates.shape == (101, rank)
    assert chart.directions.shape == (rank, 31)
    torch.testing.assert_close(
        chart.directions @ chart.directions.T, torch.eye(rank, dtype=torch.float64)
    )
    reconstructed = chart.center + chart.coordinates @ chart.directions
    torch.testing.assert_close(reconstructed, outputs, rtol=0, atol=1e-12)


def test_atlas_of_outputs_in_all_directions_is_their_natural_parameters(generator):
    outputs = torch.randn(101, 13, dtype=torch.float64, generator=generator)
    for factored in (True, False):
        chart = even(likelihoods.Gaussian(13, 0.5), outputs, factored=factored)
        assert chart.directions is None
        torch.testing.assert_close(chart.coordinates, 2 * outputs)
        assert torch.equal(chart.center, torch.zeros(13, dtype=torch.float64))


def test_atlas_is_factored_only_where_asked(generator):
    outputs = outputs_of_rank(3, 101, 31, generator)
    assert even(likelihoods.Bernoulli(31), outputs).directions is not None
    chart = even(likelihoods.Bernoulli(31), outputs, factored=False)
    assert chart.directions is None
    assert torch.equal(chart.coordinates, outputs)


def test_bytes_are_those_of_all_parts(generator):
    outputs = outputs_of_rank(3, 101, 31, generator).float()
    whole = even(likelihoods.Bernoulli(31), outputs, factored=False)
    assert whole.n_bytes == 8 * (101 * 2 + 2 * 101) + 4 * (101 * 31 + 31)
    factored = even(likelihoods.Bernoulli(31), outputs)
    center = 31 * factored.center.element_size()
    assert factored.n_bytes == 8 * (101 * 2 + 2 * 101) + 4 * (101 * 3 + 3 * 31) + center


def test_atlas_of_a_decoder_has_no_more_directions_than_its_last_hidden_layer():
    """In float32, whose rounding is no direction."""
    points = lattices.lattice(2, 610)
    outputs = networks.MLPDecoder(2, 211, (31, 13), 5)(points.float()).detach()
    chart = even(likelihoods.Bernoulli(211), outputs)
    assert chart.coordinates.shape[1] <= 13
    reconstructed = chart.center + chart.coordinates @ chart.directions
    torch.testing.assert_close(reconstructed.float(), outputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rank", [3, 31])
def test_table_of_a_float32_decoder_is_as_precise_as_its_data(
    name, rank, generator, device, coarse
):
    x, weight = coins(11, 31, generator), log_weights(101, generator)
    likelihood, outputs = started(name, x), outputs_of_rank(rank, 101, 31, generator).float()
    exact = log_w(likelihood, x, outputs.double(), weight)
    points = lattices.lattice(2, 101)
    chart = atlas.chart(likelihood.to(device), outputs.to(device), points, weight)
    assert chart.coordinates.dtype == torch.float32
    assert chart.bias.dtype == chart.points.dtype == torch.float64
    size = exact.abs().max().item()
    for rows, dtype, tolerance in ((x, torch.float64, 1e-6), (x.float(), torch.float32, 2e-6)):
        table = chart.table(likelihood, rows.to(device))
        assert (table.dtype, table.device.type) == (dtype, torch.device(device).type)
        torch.testing.assert_close(table.cpu().double(), exact, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("rank", [3, 31])
def test_products_of_the_atlas_are_in_full_precision(rank, generator, products):
    """On data and on what was projected, whatever the process lets other products be."""
    x = coins(5, 31, generator).float()
    likelihood, outputs = started("gaussian", x), outputs_of_rank(rank, 101, 31, generator).float()
    chart = even(likelihood, outputs)
    with products:
        chart.relative(likelihood, x)
        of_relative = len(products.precisions)
        chart.offset(likelihood, x)
    assert of_relative == (2 if rank == 3 else 1)
    assert products.precisions == ["highest"] * (of_relative + 1)


def test_atlas_keeps_directions_that_vary_little(generator):
    """A hundred-thousandth of the largest is no rounding."""
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    outputs = outputs_of_rank(2, 101, 31, generator) + 1e-5 * outputs_of_rank(1, 101, 31, generator)
    likelihood = likelihoods.Gaussian(31, 0.01)
    chart = even(likelihood, outputs)
    assert chart.coordinates.shape == (101, 3)
    expected = log_w(likelihood, x, outputs)
    torch.testing.assert_close(chart.table(likelihood, x), expected, rtol=0, atol=1e-8)


def test_atlas_of_very_wide_data_is_not_factored(generator):
    x = torch.rand(3, 2053, generator=generator)
    outputs = outputs_of_rank(2, 7, 2053, generator).float()
    likelihood = likelihoods.Bernoulli(2053)
    chart = even(likelihood, outputs)
    assert chart.directions is None
    expected = log_w(likelihood, x.double(), outputs.double())
    torch.testing.assert_close(chart.table(likelihood, x).double(), expected, rtol=0, atol=0.01)


def test_chart_and_table_leave_what_they_are_given_as_it_was(generator):
    x, weight = coins(11, 31, generator), log_weights(101, generator)
    outputs, points = outputs_of_rank(3, 101, 31, generator), lattices.lattice(2, 101)
    before = x, weight, outputs, points
    copies = [tensor.clone() for tensor in before]
    likelihood = likelihoods.Bernoulli(31)
    chart = atlas.chart(likelihood, outputs, points, weight)
    parts = [tensor.clone() for tensor in chart if tensor is not None]
    first = chart.table(likelihood, x)
    assert torch.equal(first, chart.table(likelihood, x))
    assert all(map(torch.equal, before, copies))
    assert all(map(torch.equal, chart, parts))


def test_rows_of_the_table_do_not_depend_on_one_another(generator):
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    likelihood = started("bernoulli", x)
    chart = even(likelihood, outputs_of_rank(3, 101, 31, generator))
    alone = torch.cat([chart.table(likelihood, row[None]) for row in x])
    torch.testing.assert_close(alone, chart.table(likelihood, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("rank", [3, 31])
def test_tables_written_over_one_another_are_those_of_the_atlas(rank, generator):
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    likelihood = started("bernoulli", x)
    chart = even(likelihood, outputs_of_rank(rank, 101, 31, generator))
    joined = chart.joining(x.dtype, 7)
    for rows in (x[:7], x[7:]):
        table = joined.relative(likelihood, rows)
        torch.testing.assert_close(table, chart.relative(likelihood, rows), rtol=0, atol=1e-11)
        assert table.data_ptr() == joined.joined.table.data_ptr()


@pytest.mark.parametrize("rank", [3, 31])
def test_atlas_on_the_processor_pickles(rank, generator, device):
    x, weight = coins(5, 31, generator), log_weights(101, generator)
    likelihood = likelihoods.Bernoulli(31)
    outputs = outputs_of_rank(rank, 101, 31, generator).to(device)
    chart = atlas.chart(likelihood.to(device), outputs, lattices.lattice(2, 101), weight)
    expected = chart.table(likelihood, x.to(device)).cpu()
    copy = pickle.loads(pickle.dumps(chart.cpu()))
    assert isinstance(copy, atlas.Atlas)
    assert all(part is None or part.device.type == "cpu" for part in copy)
    assert copy.n_bytes == chart.n_bytes
    found = copy.table(likelihoods.Bernoulli(31), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
