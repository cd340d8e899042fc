"""Index posteriors and their bound: closed forms, naive loops, and means over draws."""

from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KernelDensity
from torch import nn

from skqlvm.engine import empirical, kernels, likelihoods, networks, priors
from skqlvm.engine.empirical import EmpiricalModel, IndexBound, IndexPosterior


def normal(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whole(x, bandwidth, log_share=None):
    """The posterior of all rows over all codes."""
    squares = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    index = torch.arange(len(x)).expand(len(x), -1)
    return IndexPosterior.of(index, squares, bandwidth, log_share)


def dense(posterior):
    q = torch.zeros(len(posterior.neighbors), posterior.n_codes, dtype=torch.float64)
    return q.scatter_(1, posterior.neighbors, posterior.log_weight.exp())


def kept(posterior, n_kept):
    """The same, of which only so many codes a row are kept."""
    log_w = torch.log_softmax(posterior.log_weight[:, :n_kept], 1)
    return IndexPosterior(posterior.neighbors[:, :n_kept], log_w, posterior.n_codes)


class Identity(nn.Module):
    """Codes are decoded to themselves."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z):
        return z + 0 * self.unused


def model_of(codes, decoder=None, noise=0.3, d=2, log_share=None):
    decoder = Identity() if decoder is None else decoder
    likelihood = likelihoods.Gaussian(d, noise)
    model = EmpiricalModel(codes.shape[1], priors.StandardNormal(), decoder, likelihood)
    model.hold(codes, log_share)
    return model


def mlp_model(n=30, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    decoder = networks.MLPDecoder(1, 2, (8,), None, generator).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter *= 3
    return model_of(normal((n, 1), seed), decoder, **options)


# index posteriors


@given(shift=st.floats(-3, 3), angle=st.floats(0, 6), seed=st.integers(0, 99))
def test_weights_are_those_of_permuted_and_moved_rows(shift, angle, seed):
    x = normal((7, 2), seed)
    q = dense(whole(x, 0.5))
    torch.testing.assert_close(q.sum(1), torch.ones(7, dtype=torch.float64))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(dense(whole(x[order], 0.5)), q[order][:, order])
    c, s = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    torch.testing.assert_close(dense(whole(x @ turn + shift, 0.5)), q, atol=1e-9, rtol=1e-7)


def test_kernel_is_the_predictive_of_a_flat_belief_about_a_normal_mean():
    """q(1 | 1) = 1 / (1 + exp(-delta^2 / 2v)), v twice the noise."""
    delta, noise = 0.7, 0.2
    kernel = kernels.kernel(likelihoods.Gaussian(1, noise))
    x = torch.tensor([[0.0], [delta]], dtype=torch.float64)
    posterior = whole(kernel.coordinates(x), kernel.bandwidth)
    expected = 1 / (1 + exp(-(delta**2) / (4 * noise)))
    assert dense(posterior)[0, 0].item() == pytest.approx(expected, rel=1e-12)
    assert kernel.self_distance == pytest.approx(2 * noise)


def test_weights_become_the_identity_and_then_equal_as_noise_grows():
    x = normal((9, 2))
    torch.testing.assert_close(dense(whole(x, 1e-9)), torch.eye(9, dtype=torch.float64))
    equal = torch.full((9, 9), 1 / 9, dtype=torch.float64)
    torch.testing.assert_close(dense(whole(x, 1e12)), equal)


def test_repeated_rows_share_their_weight_equally():
    x = normal((5, 2))
    x = torch.cat([x, x[:2], x[:1]])
    q = dense(whole(x, 1e-6))
    assert bool(q.isfinite().all())
    torch.testing.assert_close(q[0, [0, 5, 7]], torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(q[6, [1, 6]], torch.full((2,), 0.5, dtype=torch.float64))


def test_codes_that_count_twice_have_twice_the_weight():
    x = normal((5, 2))
    doubled = dense(whole(torch.cat([x, x[:1]]), 0.5))[:5]
    doubled = torch.cat([doubled[:, :1] + doubled[:, 5:], doubled[:, 1:5]], 1)
    share = torch.tensor([2.0, 1, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(dense(whole(x, 0.5, (share / 6).log())), doubled)


# the bound


def exact_nats(model, x):
    """log sum_i c_i p(x | z_i) by a loop."""
    means = model.likelihood.mean(model.outputs(model.codes))
    variance = model.likelihood.fixed
    rows = []
    for row in x:
        squares = ((row - means) ** 2).sum(1)
        log_p = -squares / (2 * variance) - x.shape[1] / 2 * log(2 * np.pi * variance)
        rows.append(torch.logsumexp(log_p + model.log_share, 0))
    return torch.stack(rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_bound_over_all_codes_is_the_likelihood_and_so_is_its_gradient(weighted, generator):
    share = torch.rand(30, dtype=torch.float64, generator=generator)
    model = mlp_model(log_share=(share / share.sum()).log() if weighted else None)
    x = normal((30, 2), 1)
    bound = IndexBound(model, whole(x, 0.5), 30, 7)
    rows = torch.tensor([3, 8, 29])
    nats, expected = bound(x[rows], rows, generator), exact_nats(model, x[rows])
    torch.testing.assert_close(nats, expected)
    parameters = list(model.parameters())
    found = torch.autograd.grad(nats.sum(), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), parameters))


@pytest.mark.parametrize(("n_exact", "n_kept"), [(3, 3), (1, 12), (5, 30)])
def test_estimates_of_p_are_unbiased_and_their_logarithms_below(n_exact, n_kept, generator):
    model = mlp_model(noise=0.5)
    x = normal((30, 2), 1)
    posterior, rows = kept(whole(x, 1.0), n_kept), torch.arange(4)
    exact, bounds = exact_nats(model, x[rows]), {}
    for n_draws in (1, 5, 40):
        bound = IndexBound(model, posterior, n_exact, n_draws)
        with torch.no_grad():
            nats = torch.stack([bound(x[rows], rows, generator) for _ in range(300)])
        ratio = (nats - exact).exp()
        assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / 300**0.5).all()
        bounds[n_draws] = nats.mean()
    assert bounds[1] < bounds[5] < bounds[40] < exact.mean() + 1e-9


def test_draws_are_off_the_nearest_with_the_probabilities_that_they_say(generator):
    x = normal((12, 2))
    posterior = kept(whole(x, 0.5), 7)
    for rows in (torch.tensor([5]), torch.tensor([5, 2, 9])):
        index, r = posterior.draw(rows, 3, 100_000, generator)
        for drawn, row in zip(index, rows, strict=True):
            assert not set(drawn.unique().tolist()) & set(posterior.neighbors[row, :3].tolist())
        assert r.sum().item() == pytest.approx(1)
        frequency = index.flatten().bincount(minlength=12) / index.numel()
        assert float((frequency - r).abs().max()) < 5e-3


def test_proposal_reaches_every_code_that_a_row_does_not_sum_over(generator):
    x = normal((12, 2))
    _, r = kept(whole(x, 1e-3), 7).draw(torch.tensor([5]), 3, 1, generator)
    assert (r > 0).sum() == 9
    assert r[r > 0].min().item() == pytest.approx(empirical.UNIFORM / 9)


def test_codes_that_were_not_drawn_have_no_gradient(generator):
    model = mlp_model()
    x = normal((30, 2), 1)
    bound, rows = IndexBound(model, kept(whole(x, 0.5), 4), 2, 3), torch.tensor([0, 7])
    state = generator.get_state()
    near, drawn, _ = bound.chosen(rows, generator)
    generator.set_state(state)
    bound(x[rows], rows, generator).sum().backward()
    moved = (model.slow_codes.grad[:, 0] != 0).nonzero()[:, 0]
    assert set(moved.tolist()) == set(torch.cat([near, drawn], 1).flatten().tolist())


def test_draws_serve_all_rows_of_a_batch(generator):
    """The same number of draws a row says more among more rows."""
    model = mlp_model(noise=0.5)
    x = normal((30, 2), 1)
    bound = IndexBound(model, kept(whole(x, 1.0), 10), 2, 1)
    with torch.no_grad():
        alone, among = (
            torch.stack([bound(x[rows], rows, generator)[0] for _ in range(300)]).var()
            for rows in (torch.arange(1), torch.arange(20))
        )
    assert among < alone / 4


def test_effective_neighbors_are_one_over_the_sum_of_squares():
    posterior = whole(normal((9, 2)), 0.5)
    expected = 1 / (dense(posterior) ** 2).sum(1)
    torch.testing.assert_close(posterior.effective_neighbors(), expected)


# the model


def test_codes_that_are_the_rows_give_a_kernel_density():
    x, new = normal((40, 2)), normal((9, 2), 1)
    model = model_of(x, noise=0.09).eval()
    expected = KernelDensity(bandwidth=0.3).fit(x.numpy()).score_samples(new.numpy())
    np.testing.assert_allclose(model.log_empirical(new).numpy(), expected, rtol=1e-9)


def test_standardised_codes_decode_to_the_same_rows():
    model = mlp_model(20)
    with torch.no_grad():
        before = model.outputs(model.codes)
        for _ in range(2):
            model.standardize()
            torch.testing.assert_close(model.outputs(model.codes), before, atol=1e-8, rtol=1e-8)
    assert not isinstance(model.decoder.decoder, empirical.Moved)
    codes = model.codes.detach()
    assert codes.mean().item() == pytest.approx(0, abs=1e-9)
    assert codes.var(correction=0).item() == pytest.approx(1)


def test_proposals_have_the_moments_of_codes_under_the_exact_posterior():
    model = mlp_model(50).eval()
    x = normal((6, 2), 1)
    weights = model.log_index(x).exp()
    means = model.likelihood.mean(model.outputs(model.codes)).detach()
    for row, weight in zip(x, weights, strict=True):
        log_p = -((row - means) ** 2).sum(1) / (2 * 0.3)
        torch.testing.assert_close(weight, torch.softmax(log_p, 0))
    proposal, codes = model.propose(x), model.codes.detach()
    torch.testing.assert_close(proposal.loc, weights @ codes)
    variance = weights @ codes**2 - (weights @ codes) ** 2 + 50 ** (-2 / 5)
    torch.testing.assert_close(proposal.covariance()[:, 0], variance)


def test_what_was_decoded_is_forgotten_where_training_goes_on():
    model, x = mlp_model().eval(), normal((3, 2))
    before = model.log_empirical(x)
    model.train()
    with torch.no_grad():
        model.slow_codes.mul_(2)
    model.eval()
    assert not torch.equal(model.log_empirical(x), before)
