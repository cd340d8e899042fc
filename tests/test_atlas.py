"""The decoded lattice gives the table of the likelihood itself, with fewer directions where the
decoder has fewer."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skqlvm.engine import atlas, lattices, likelihoods, networks
from skqlvm.engine.precision import matmul_precision

FAMILIES = {
    "bernoulli": likelihoods.Bernoulli,
    "spherical": likelihoods.Gaussian,
    "diagonal": lambda d: likelihoods.Gaussian(d, "diagonal"),
    "fixed": lambda d: likelihoods.Gaussian(d, 0.3),
}


def started(name, x):
    likelihood = FAMILIES[name](x.shape[1])
    likelihood.start(x)
    return likelihood


def outputs_of_rank(rank, m, d, generator):
    left = torch.randn(m, rank, dtype=torch.float64, generator=generator)
    right = torch.randn(rank, d, dtype=torch.float64, generator=generator)
    return left @ right / max(rank, 1) ** 0.5 + torch.randn(
        d, dtype=torch.float64, generator=generator
    )


@given(
    name=st.sampled_from(list(FAMILIES)),
    n=st.integers(2, 7),
    d=st.integers(1, 31),
    m=st.integers(1, 34),
    rank=st.integers(0, 7),
    seed=st.integers(0, 999),
)
def test_table_of_the_atlas_is_that_of_the_likelihood(name, n, d, m, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, dtype=torch.float64, generator=generator)
    likelihood, outputs = started(name, x), outputs_of_rank(rank, m, d, generator)
    with torch.no_grad():
        chart = atlas.chart(likelihood, outputs, lattices.lattice(2, m))
        table = chart.table(likelihood, x)
        torch.testing.assert_close(table, likelihood.table(x, outputs), rtol=1e-9, atol=1e-9)
    assert table.shape == (n, m)
    assert chart.log_normalizer.shape == (m,)
    assert torch.equal(chart.points, lattices.lattice(2, m))


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_atlas_finds_the_directions_that_outputs_vary_in(rank, generator):
    outputs = outputs_of_rank(rank, 101, 31, generator)
    chart = atlas.chart(likelihoods.Bernoulli(31), outputs, lattices.lattice(2, 101))
    assert chart.coordinates.shape == (101, rank)
    assert chart.directions.shape == (rank, 31)
    torch.testing.assert_close(
        chart.directions @ chart.directions.T, torch.eye(rank, dtype=torch.float64)
    )
    torch.testing.assert_close(
        chart.center + chart.coordinates @ chart.directions, outputs, rtol=0, atol=1e-12
    )


def test_atlas_of_outputs_in_all_directions_is_their_natural_parameters(generator):
    outputs = torch.randn(101, 13, dtype=torch.float64, generator=generator)
    chart = atlas.chart(likelihoods.Gaussian(13, 0.5), outputs, lattices.lattice(2, 101))
    assert chart.directions is None
    torch.testing.assert_close(chart.coordinates, 2 * outputs)
    assert torch.equal(chart.center, torch.zeros(13, dtype=torch.float64))


def test_atlas_of_a_decoder_has_no_more_directions_than_its_last_hidden_layer():
    """In float32, whose rounding is no direction."""
    points = lattices.lattice(2, 610)
    outputs = networks.MLPDecoder(2, 211, (31, 13), 5)(points.float()).detach()
    chart = atlas.chart(likelihoods.Bernoulli(211), outputs, points)
    assert chart.coordinates.shape[1] <= 13
    reconstructed = chart.center + chart.coordinates @ chart.directions
    torch.testing.assert_close(reconstructed.float(), outputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rank", [3, 31])
def test_table_of_a_float32_decoder_is_as_precise_as_its_data(name, rank, generator, device):
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    likelihood, outputs = started(name, x), outputs_of_rank(rank, 101, 31, generator).float()
    with torch.no_grad():
        exact = likelihood.table(x, outputs.double())
        chart = atlas.chart(likelihood.to(device), outputs.to(device), lattices.lattice(2, 101))
        assert chart.coordinates.dtype == torch.float32
        assert chart.log_normalizer.dtype == chart.points.dtype == torch.float64
        for rows, dtype, tolerance in ((x, torch.float64, 1e-4), (x.float(), torch.float32, 1e-3)):
            with matmul_precision("medium"):
                table = chart.table(likelihood, rows.to(device))
            assert (table.dtype, table.device.type) == (dtype, torch.device(device).type)
            torch.testing.assert_close(table.cpu().double(), exact, rtol=0, atol=tolerance)


def test_atlas_keeps_directions_that_vary_little(generator):
    """A hundred-thousandth of the largest is no rounding."""
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    outputs = outputs_of_rank(2, 101, 31, generator) + 1e-5 * outputs_of_rank(1, 101, 31, generator)
    likelihood = likelihoods.Gaussian(31, 0.01)
    chart = atlas.chart(likelihood, outputs, lattices.lattice(2, 101))
    assert chart.coordinates.shape == (101, 3)
    torch.testing.assert_close(
        chart.table(likelihood, x), likelihood.table(x, outputs), rtol=0, atol=1e-8
    )


def test_atlas_of_very_wide_data_is_not_factored(generator):
    x = torch.rand(3, 2053, generator=generator)
    outputs = outputs_of_rank(2, 7, 2053, generator).float()
    chart = atlas.chart(likelihoods.Bernoulli(2053), outputs, lattices.lattice(2, 7))
    assert chart.directions is None
    expected = likelihoods.Bernoulli(2053).table(x.double(), outputs.double())
    torch.testing.assert_close(
        chart.table(likelihoods.Bernoulli(2053), x).double(), expected, rtol=0, atol=0.01
    )


def test_table_leaves_data_and_atlas_as_they_were(generator):
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    chart = atlas.chart(
        likelihoods.Bernoulli(31), outputs_of_rank(3, 101, 31, generator), lattices.lattice(2, 101)
    )
    before = x.clone(), [tensor.clone() for tensor in chart]
    first = chart.table(likelihoods.Bernoulli(31), x)
    assert torch.equal(first, chart.table(likelihoods.Bernoulli(31), x))
    assert torch.equal(x, before[0])
    assert all(map(torch.equal, chart, before[1]))


def test_rows_of_the_table_do_not_depend_on_one_another(generator):
    x = torch.rand(11, 31, dtype=torch.float64, generator=generator)
    likelihood = started("bernoulli", x)
    chart = atlas.chart(
        likelihood, outputs_of_rank(3, 101, 31, generator), lattices.lattice(2, 101)
    )
    alone = torch.cat([chart.table(likelihood, row[None]) for row in x])
    torch.testing.assert_close(alone, chart.table(likelihood, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("rank", [3, 31])
def test_atlas_on_the_processor_pickles(rank, generator, device):
    x = torch.rand(5, 31, dtype=torch.float64, generator=generator)
    chart = atlas.chart(
        likelihoods.Bernoulli(31).to(device),
        outputs_of_rank(rank, 101, 31, generator).to(device),
        lattices.lattice(2, 101),
    )
    copy = pickle.loads(pickle.dumps(chart.cpu()))
    assert isinstance(copy, atlas.Atlas)
    expected = chart.table(likelihoods.Bernoulli(31).to(device), x.to(device)).cpu()
    torch.testing.assert_close(
        copy.table(likelihoods.Bernoulli(31), x), expected, rtol=0, atol=1e-11
    )
