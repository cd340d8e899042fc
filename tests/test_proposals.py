"""What encoders propose, against torch.distributions, plain sums over windings, and the closed
forms of the divergence."""

from itertools import product
from math import log, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from skqlvm.engine import lattices, priors, proposals, torus

FAMILIES = ["diagonal", "low_rank", "full"]
families, seeds = st.sampled_from(FAMILIES), st.integers(0, 999)


def said(family, wrapped, n, k, generator, dtype=torch.float64):
    """Outputs of an encoder, standard normal."""
    width = proposals.n_outputs(family, k, wrapped=wrapped)
    return torch.randn(n, width, dtype=torch.float64, generator=generator).to(dtype)


def drawn(family, wrapped, n=5, k=3, s=7, seed=0):
    """A proposal, the outputs it was made of, and draws of it of shape (n, s, k)."""
    generator = torch.Generator().manual_seed(seed)
    outputs = said(family, wrapped, n, k, generator)
    q = proposals.proposal(family, outputs, k, wrapped=wrapped)
    return q, outputs, q.at(torch.randn(n, s, q.n_noise, dtype=torch.float64, generator=generator))


def unscaled_covariance(family, shape, k):
    """What the numbers after the location stand for, row by row."""
    covariances = []
    for row in shape:
        variance, rest = (row[:k] + proposals._FIRST_LOG_VARIANCE).exp(), iter(row[k:])
        if family == "full":
            scale_tril = torch.diag(variance.sqrt())
            for i, j in product(range(k), range(k)):
                if j < i:
                    scale_tril[i, j] = next(rest)
            covariances.append(scale_tril @ scale_tril.T)
        elif family == "low_rank":
            covariances.append(torch.diag(variance) + torch.outer(row[k:], row[k:]))
        else:
            covariances.append(torch.diag(variance))
    return torch.stack(covariances)


@pytest.mark.parametrize(
    ("family", "flat", "wrapped"), [("diagonal", 6, 9), ("low_rank", 9, 12), ("full", 9, 12)]
)
def test_n_outputs_counts_location_and_shape_in_three_dimensions(family, flat, wrapped):
    assert proposals.n_outputs(family, 3, wrapped=False) == flat
    assert proposals.n_outputs(family, 3, wrapped=True) == wrapped


@given(family=families, n=st.integers(1, 7), k=st.integers(1, 5), s=st.integers(1, 5), seed=seeds)
def test_normal_is_the_one_of_torch(family, n, k, s, seed):
    q, outputs, z = drawn(family, False, n, k, s, seed)
    covariance = unscaled_covariance(family, outputs[:, k:], k)
    assert (q.loc.shape, z.shape) == ((n, k), (n, s, k))
    torch.testing.assert_close(q.loc, outputs[:, :k], rtol=0, atol=0)
    torch.testing.assert_close(q.covariance(), covariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        q.marginal_variance(), covariance.diagonal(dim1=1, dim2=2), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(q.log_det(), covariance.logdet(), rtol=1e-9, atol=1e-9)
    reference = MultivariateNormal(q.loc, covariance)
    assert q.log_prob(z).shape == (n, s)
    torch.testing.assert_close(
        q.log_prob(z), reference.log_prob(z.transpose(0, 1)).T, rtol=1e-8, atol=1e-8
    )
    prior = MultivariateNormal(
        torch.zeros(k, dtype=torch.float64), torch.eye(k, dtype=torch.float64)
    )
    torch.testing.assert_close(
        q.kl(z), kl_divergence(reference, prior)[:, None], rtol=1e-8, atol=1e-8
    )


def test_diagonal_normal_equals_independent_normals(generator):
    loc, variance = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    q = proposals.DiagonalNormal(loc, variance.exp())
    z = torch.randn(5, 7, 3, dtype=torch.float64, generator=generator)
    expected = Normal(loc[:, None], (0.5 * variance[:, None]).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-12, atol=1e-12)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(
    ("q", "nats"),
    [
        (proposals.LowRankNormal(row(0, 0), row(3, 1), row(1, 2)), (9 - log(16) - 2) / 2),
        (
            proposals.LowRankNormal(row(0, 0, 0, 0), row(1, 4, 6, 2), row(0, 0, 0, 0)),
            (13 - 4 - log(48)) / 2,
        ),
        (proposals.DiagonalNormal(row(0, 0, 0, 0), row(1, 4, 6, 2)), (13 - 4 - log(48)) / 2),
        (proposals.DiagonalNormal(row(1, 2, 3, 4), row(1, 1, 1, 1)), 15.0),
        (proposals.LowRankNormal(row(1, 2, 3, 4), row(1, 1, 1, 1), row(0, 0, 0, 0)), 15.0),
        (proposals.FullNormal(row(1, 2, 3, 4), torch.eye(4, dtype=torch.float64)[None]), 15.0),
        (proposals.DiagonalNormal(row(0, 0), row(1, 1)), 0.0),
    ],
)
def test_divergence_has_the_tabulated_values(q, nats):
    assert q.kl(q.loc[:, None].expand(-1, 7, -1)).item() == pytest.approx(nats, abs=1e-12)
    assert (9 - log(16) - 2) / 2 == pytest.approx(2.113706, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_normal_of_any_covariance_has_the_tabulated_divergence(family):
    """The low-rank entry of the table, as a Cholesky factor."""
    covariance = torch.tensor([[4.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    q = proposals.FullNormal(row(0, 0), torch.linalg.cholesky(covariance)[None])
    assert q.kl(q.loc[:, None]).item() == pytest.approx(2.113706, abs=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_divergence_agrees_with_monte_carlo(family, wrapped, generator):
    n, k, s = 3, 2, 10_007
    q = proposals.proposal(family, said(family, wrapped, n, k, generator), k, wrapped=wrapped)
    prior = priors.UniformTorus() if wrapped else priors.StandardNormal()
    first, second = (
        q.at(torch.randn(s, q.n_noise, dtype=torch.float64, generator=generator)) for _ in range(2)
    )
    log_ratio = q.log_prob(first) - prior.log_prob(first)
    error = (log_ratio.var(1) / s).sqrt()
    assert ((q.kl(second).mean(1) - log_ratio.mean(1)).abs() < 6 * error).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_wrapped_divergence_is_that_from_the_uniform(family, generator):
    """By quadrature over the torus; the estimate is unbiased, from a handful of draws as well."""
    n, k, s, repeats = 3, 2, 5, 401
    q = proposals.proposal(family, said(family, True, n, k, generator), k, wrapped=True)
    points = lattices.nested(k, 2**14)
    log_q = q.log_prob(points.expand(n, -1, -1))
    exact = (log_q.exp() * log_q).mean(1)
    noise = torch.randn(n, repeats * s, q.n_noise, dtype=torch.float64, generator=generator)
    estimates = torch.stack([q.kl(z).mean(1) for z in q.at(noise).split(s, 1)], 1)
    assert ((estimates.mean(1) - exact).abs() < 5 * estimates.std(1) / repeats**0.5).all()
    assert (exact > 0).all()


@given(family=families, n=st.integers(1, 5), k=st.integers(1, 5), seed=seeds)
def test_draws_spread_as_the_covariance_says(family, n, k, seed):
    """Exactly: the map from noise is linear, and its square is the covariance."""
    q, _, _ = drawn(family, False, n, k, 1, seed)
    assert q.n_noise == k + (family == "low_rank")
    moves = q.spread(torch.eye(q.n_noise, dtype=torch.float64))
    torch.testing.assert_close(moves.mT @ moves, q.covariance(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        q.at(torch.eye(q.n_noise, dtype=torch.float64)) - q.loc[:, None],
        moves,
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_have_location_and_covariance(family, wrapped, generator):
    k, s = 2, 40_009
    outputs = said(family, wrapped, 3, k, generator)
    outputs[:, -proposals.FAMILIES[family][1](k) :] *= 0.03
    outputs[:, -proposals.FAMILIES[family][1](k) :][:, :k] -= 6 + proposals._FIRST_LOG_VARIANCE
    q = proposals.proposal(family, outputs, k, wrapped=wrapped)
    z = q.at(torch.randn(s, q.n_noise, dtype=torch.float64, generator=generator))
    moved = z - q.loc[:, None]
    if wrapped:
        assert z.min() >= 0
        assert z.max() < 1
        moved = moved - moved.round()
    scale = q.covariance().diagonal(dim1=1, dim2=2).sqrt()
    assert (moved.mean(1).abs() < 5 * scale / s**0.5).all()
    bound = 6 * scale[:, :, None] * scale[:, None] / s**0.5
    assert ((moved.mT @ moved / s - q.covariance()).abs() < bound).all()


@given(
    family=families,
    wrapped=st.booleans(),
    n=st.integers(2, 5),
    k=st.integers(1, 3),
    s=st.integers(1, 5),
    seed=seeds,
)
def test_same_noise_for_all_rows_is_noise_repeated(family, wrapped, n, k, s, seed):
    q, _, _ = drawn(family, wrapped, n, k, s, seed)
    noise = torch.randn(
        s, q.n_noise, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(q.at(noise), q.at(noise.expand(n, -1, -1).contiguous()))


@given(family=families, wrapped=st.booleans(), k=st.integers(1, 3), seed=seeds)
def test_rows_do_not_see_each_other(family, wrapped, k, seed):
    q, outputs, z = drawn(family, wrapped, 5, k, 3, seed)
    order = torch.tensor([3, 0, 4])
    alone = proposals.proposal(family, outputs[order], k, wrapped=wrapped)
    torch.testing.assert_close(
        alone.log_prob(z[order]), q.log_prob(z)[order], rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(alone.kl(z[order]), q.kl(z)[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone.covariance(), q.covariance()[order], rtol=1e-12, atol=1e-12)


# on the torus


@given(family=families, n=st.integers(1, 5), k=st.integers(1, 3), seed=seeds)
def test_wrapped_location_is_a_direction(family, n, k, seed):
    q, outputs, _ = drawn(family, True, n, k, 1, seed)
    cos, sin = outputs[:, :k], outputs[:, k : 2 * k]
    length = torch.hypot(cos, sin)
    assert q.loc.min() >= 0
    assert q.loc.max() < 1
    torch.testing.assert_close((2 * pi * q.loc).cos(), cos / length, rtol=0, atol=1e-12)
    torch.testing.assert_close((2 * pi * q.loc).sin(), sin / length, rtol=0, atol=1e-12)
    longer = torch.cat([3 * outputs[:, : 2 * k], outputs[:, 2 * k :]], 1)
    torch.testing.assert_close(
        proposals.proposal(family, longer, k, wrapped=True).loc, q.loc, rtol=0, atol=1e-12
    )


@given(
    family=families,
    n=st.integers(1, 5),
    k=st.integers(1, 3),
    seed=seeds,
    size=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_wrapped_spread_is_the_normal_one_held_below_half_a_turn(family, n, k, seed, size):
    outputs = said(family, True, n, k, torch.Generator().manual_seed(seed))
    outputs[:, 2 * k :] *= size
    q = proposals.proposal(family, outputs, k, wrapped=True)
    covariance = proposals.proposal(family, outputs[:, k:], k, wrapped=False).covariance()
    ratio = 0.5 / (0.25 + covariance.diagonal(dim1=1, dim2=2)).sqrt()
    torch.testing.assert_close(
        q.covariance(), ratio[:, :, None] * covariance * ratio[:, None], rtol=1e-9, atol=1e-15
    )
    assert q.covariance().diagonal(dim1=1, dim2=2).max() <= 0.25


@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_stretches_each_coordinate(family, generator):
    q, _, z = drawn(family, False)
    ratio = 0.5 + torch.rand(5, 3, dtype=torch.float64, generator=generator)
    stretched = q.scaled(ratio)
    torch.testing.assert_close(
        stretched.covariance(),
        ratio[:, :, None] * q.covariance() * ratio[:, None],
        rtol=1e-12,
        atol=1e-12,
    )
    moved = q.loc[:, None] + ratio[:, None] * (z - q.loc[:, None])
    torch.testing.assert_close(
        stretched.log_prob(moved), q.log_prob(z) - ratio.log().sum(1)[:, None], rtol=1e-9, atol=1e-9
    )


def wound(family, k, log_variance, seed=0, n=3):
    """A wrapped proposal of chosen width."""
    outputs = said(family, True, n, k, torch.Generator().manual_seed(seed))
    outputs[:, 2 * k : 3 * k] = log_variance - proposals._FIRST_LOG_VARIANCE
    if log_variance < 0:
        outputs[:, 3 * k :] *= 0.05
    return proposals.proposal(family, outputs, k, wrapped=True)


@pytest.mark.parametrize(("k", "narrowest"), [(1, -14.0), (2, -7.0), (3, -4.5)])
@pytest.mark.parametrize("family", FAMILIES)
def test_wrapped_density_integrates_to_one(family, k, narrowest):
    points = lattices.nested(k, [2**14, 2**14, 2**13][k - 1])
    for log_variance in (narrowest, 0.0, 40.0):
        q = wound(family, k, log_variance)
        mass = q.log_prob(points.expand(3, -1, -1)).exp().mean(1)
        torch.testing.assert_close(
            mass, torch.ones(3, dtype=torch.float64), rtol=0, atol=5e-5 if log_variance else 2e-4
        )


def test_widest_wrapped_normal_is_uniform_but_for_two_per_cent():
    q = wound("diagonal", 1, 40.0)
    density = q.log_prob(lattices.nested(1, 2**10).expand(3, -1, -1)).exp()
    torch.testing.assert_close(density, torch.ones_like(density), rtol=0, atol=0.02)
    assert density.max() > 1.01


@given(
    family=families,
    k=st.integers(1, 3),
    seed=seeds,
    log_variance=st.sampled_from([-8.0, 0.0, 40.0]),
    turns=st.lists(st.integers(-9, 9)),
)
def test_wrapped_density_repeats_after_whole_turns_of_points_and_location(
    family, k, seed, log_variance, turns
):
    q = wound(family, k, log_variance, seed)
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(3, 7, k, dtype=torch.float64, generator=generator)
    turn = torch.tensor([*turns, 1, -2, 3][:k], dtype=torch.float64)
    expected = q.log_prob(z)
    torch.testing.assert_close(q.log_prob(z + turn), expected, rtol=1e-9, atol=1e-8)
    normal = type(q.normal)(q.loc + turn, *list(vars(q.normal).values())[1:])
    torch.testing.assert_close(
        proposals.Wrapped(normal).log_prob(z), expected, rtol=1e-9, atol=1e-8
    )


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("log_variance", [-7.0, -2.0, 0.0, 40.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_wrapped_density_equals_a_plain_sum_over_many_windings(family, log_variance, k, generator):
    q = wound(family, k, log_variance)
    z = torch.rand(3, 101, k, dtype=torch.float64, generator=generator)
    reference = MultivariateNormal(q.loc, q.covariance())
    windings = torch.tensor(list(product(range(-9, 10), repeat=k)), dtype=torch.float64)
    expected = sum(
        reference.log_prob((z + winding).transpose(0, 1)).T.exp() for winding in windings
    )
    torch.testing.assert_close(q.log_prob(z).exp(), expected, rtol=1e-5, atol=1e-5)


def test_narrow_wrapped_normal_is_the_normal_itself_even_across_the_seam():
    variance = row(0.02**2)
    for loc in (0.5, 0.001, 0.999):
        q = proposals.Wrapped(proposals.DiagonalNormal(row(loc), variance))
        residuals = torch.linspace(-0.08, 0.08, 11, dtype=torch.float64)
        z = torus.wrap(loc + residuals)[None, :, None]
        expected = Normal(residuals.new_zeros(()), 0.02).log_prob(residuals)[None]
        torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-9, atol=1e-9)


# gradients and precision


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_encoder_through_draws_density_and_divergence(
    family, wrapped, shared, generator
):
    k, s = 3 if family == "full" else 2, 3
    outputs = said(family, wrapped, 2, k, generator).requires_grad_()
    n_noise = k + (family == "low_rank")
    noise = torch.randn(
        *((s, n_noise) if shared else (2, s, n_noise)), dtype=torch.float64, generator=generator
    )
    elsewhere = torch.rand(2, s, k, dtype=torch.float64, generator=generator)

    def queries(outputs):
        q = proposals.proposal(family, outputs, k, wrapped=wrapped)
        z = q.at(noise)
        return (
            z,
            q.log_prob(z),
            q.log_prob(elsewhere),
            q.kl(z),
            q.covariance(),
            q.detached().log_prob(z),
        )

    z, *_, constant = queries(outputs)
    assert gradcheck(lambda outputs: queries(outputs)[:-1], outputs)
    assert all(
        not value.requires_grad
        for value in vars(proposals.DiagonalNormal(outputs, outputs).detached()).values()
    )
    (through_draws,) = torch.autograd.grad(constant.sum(), z)
    assert through_draws.abs().max() > 0


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_detached_proposal_has_the_same_density_and_no_parameters(family, wrapped, generator):
    outputs = said(family, wrapped, 5, 3, generator).requires_grad_()
    q = proposals.proposal(family, outputs, 3, wrapped=wrapped)
    z = torch.rand(5, 7, 3, dtype=torch.float64, generator=generator)
    assert q.log_prob(z).requires_grad
    assert not q.detached().log_prob(z).requires_grad
    assert type(q.detached()) is type(q)
    torch.testing.assert_close(q.detached().log_prob(z), q.log_prob(z).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4, 50.0, -50.0, 1e-30])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_an_encoder_says_stays_finite_in_float32(
    family, wrapped, value, generator, device
):
    k = 3
    width = proposals.n_outputs(family, k, wrapped=wrapped)
    alternating = torch.full((1, width), value) * (1 - 2 * (torch.arange(width) % 2))
    outputs = torch.cat([torch.full((2, width), value), alternating]).to(device).requires_grad_()
    q = proposals.proposal(family, outputs, k, wrapped=wrapped)
    z = q.at(torch.randn(3, 5, q.n_noise, generator=generator).to(device))
    queries = z, q.log_prob(z), q.kl(z), q.covariance()
    (gradient,) = torch.autograd.grad(sum(query.sum() for query in queries), outputs)
    for result in (*queries, gradient):
        assert (result.dtype, result.device.type) == (torch.float32, torch.device(device).type)
        assert result.isfinite().all()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_density_in_float32_is_that_in_float64(family, wrapped, generator):
    """With variances from 1e-4 to 1 and correlations of all strengths."""
    k, n = 3, 101
    outputs = said(family, wrapped, n, k, generator)
    first = (2 if wrapped else 1) * k
    uniform = torch.rand(n, k, dtype=torch.float64, generator=generator)
    outputs[:, first : first + k] = -9 * uniform - proposals._FIRST_LOG_VARIANCE
    exact = proposals.proposal(family, outputs, k, wrapped=wrapped)
    q = proposals.proposal(family, outputs.float(), k, wrapped=wrapped)
    noise = torch.randn(n, 7, q.n_noise, dtype=torch.float64, generator=generator)
    z = q.at(noise.float())
    torch.testing.assert_close(
        q.log_prob(z).double(), exact.log_prob(exact.at(noise)), rtol=0, atol=0.02
    )
    torch.testing.assert_close(q.kl(z).double(), exact.kl(exact.at(noise)), rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("log_variance", [-3.0, -8.0, -18.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_distances_of_elongated_normals_do_not_cancel_in_float32(family, log_variance, generator):
    """A coordinate that follows the others almost exactly: squares of the size of 1e7 whose
    difference is a few units."""
    k, n = 2, 101
    outputs = said(family, False, n, k, generator)
    outputs[:, k : 2 * k] = log_variance - proposals._FIRST_LOG_VARIANCE
    noise = torch.randn(n, 7, k + (family == "low_rank"), dtype=torch.float64, generator=generator)
    distances = []
    for dtype in (torch.float32, torch.float64):
        q = proposals.proposal(family, outputs.to(dtype), k, wrapped=False)
        distances.append(q.squared_distance(q.spread(noise.to(dtype))).double())
    assert distances[0].min() >= 0
    torch.testing.assert_close(*distances, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("family", ["low_rank", "full"])
def test_density_at_draws_survives_the_rounding_of_flat_proposals(family, wrapped, generator):
    """An encoder that can make log q as low as it likes, by rounding, has no bound to raise."""
    n, k, s = 11, 2, 7
    outputs = 9e3 * torch.randn(
        n, proposals.n_outputs(family, k, wrapped=wrapped), generator=generator
    )
    outputs[:, : k * (1 + wrapped)] = torch.randn(n, k * (1 + wrapped), generator=generator)
    rough = proposals.proposal(family, outputs, k, wrapped=wrapped)
    exact = proposals.proposal(family, outputs.double(), k, wrapped=wrapped)
    noise = torch.randn(n, s, rough.n_noise, generator=generator)
    expected = exact.log_prob(exact.at(noise.double()))
    torch.testing.assert_close(rough.log_prob(rough.at(noise)).double(), expected, rtol=0, atol=0.1)
