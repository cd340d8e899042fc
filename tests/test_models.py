"""Models: what goes from points to rows, and the draws of models with an encoder."""

import pytest
import torch
from torch import nn

from skqlvm.engine import (
    conditions,
    likelihoods,
    models,
    networks,
    objectives,
    priors,
    proposals,
)

N, D, K = 6, 4, 2
PRIORS = {"torus": priors.UniformTorus(), "normal": priors.StandardNormal()}
all_priors = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


class Counting(nn.Linear):
    """A decoder that notes how many points it is given at a time."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.sizes = []

    def forward(self, z):
        self.sizes.append(len(z))
        return super().forward(z)


@pytest.fixture
def x(generator):
    return torch.randn(N, D, generator=generator, dtype=torch.float64)


def model_of(prior, decoder=None, likelihood=None):
    likelihood = likelihoods.Gaussian(D, 0.5) if likelihood is None else likelihood
    decoder = Counting(K, D).double() if decoder is None else decoder
    return models.Model(K, prior, decoder, likelihood)


def encoder_model(prior, covariance="diagonal"):
    wrapped = isinstance(prior, priors.UniformTorus)
    n_outputs = proposals.n_outputs(covariance, K, wrapped=wrapped)
    return models.EncoderModel(
        K,
        prior,
        Counting(K, D).double(),
        likelihoods.Gaussian(D, 0.5),
        nn.Linear(D, n_outputs).double(),
        covariance_type=covariance,
        wrapped=wrapped,
    )


@all_priors
def test_points_are_decoded_some_at_a_time_and_in_their_order(prior):
    model = model_of(prior)
    z = torch.rand(3, 5, K, dtype=torch.float64)
    whole = model.outputs(z)
    model.n_decoded = 4
    torch.testing.assert_close(model.outputs(z), whole, rtol=0, atol=1e-12)
    assert model.decoder.sizes == [15, 4, 4, 4, 3]
    assert whole.shape == (3, 5, D)


def test_points_take_the_precision_of_the_decoder_and_rows_that_of_the_points():
    model = model_of(PRIORS["torus"], Counting(K, D))
    assert model.outputs(torch.rand(3, K, dtype=torch.float64)).dtype == torch.float32
    assert model.mean(torch.rand(3, K, dtype=torch.float64)).dtype == torch.float64


@all_priors
def test_table_is_the_density_of_every_row_at_every_point(prior, x):
    model, z = model_of(prior), torch.rand(5, K, dtype=torch.float64)
    terms = model.likelihood.terms(x)
    table = model.table(terms, z) + terms.base[:, None]
    for i in range(N):
        for j in range(5):
            normal = torch.distributions.Normal(model.decoder(z[j : j + 1])[0], 0.5**0.5)
            torch.testing.assert_close(table[i, j], normal.log_prob(x[i]).sum())


@all_priors
def test_samples_have_the_moments_of_the_model(prior, generator):
    model = model_of(prior)
    u = torch.rand(200_000, K, dtype=torch.float64, generator=generator)
    drawn, means = model.sample(u, generator), model.sample(u, generator, noise=False)
    torch.testing.assert_close(means, model.mean(prior.quantile(u)))
    residuals = drawn - means
    torch.testing.assert_close(residuals.mean(0), torch.zeros(D).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(residuals.var(0), torch.full((D,), 0.5).double(), rtol=0.02, atol=0)


@all_priors
@pytest.mark.parametrize("shared", [False, True])
def test_log_weights_are_those_of_a_loop(prior, shared, x, generator):
    model = encoder_model(prior).eval()
    draws = model.draw(x, 3, generator, shared=shared)
    log_w = draws.log_w(prior) + draws.base[:, None]
    q = model.propose(x)
    for i in range(N):
        for s in range(3):
            z = draws.z[i, s]
            normal = torch.distributions.Normal(model.decoder(z[None])[0], 0.5**0.5)
            expected = normal.log_prob(x[i]).sum() + prior.log_prob(z) - q.log_prob(draws.z)[i, s]
            torch.testing.assert_close(log_w[i, s], expected)


@all_priors
def test_shared_noise_makes_rows_independent_of_the_others(prior, x):
    model = encoder_model(prior).eval()

    def drawn(rows):
        return model.draw(rows, 4, torch.Generator().manual_seed(0), shared=True)

    torch.testing.assert_close(drawn(x).log_px_z[2:3], drawn(x[2:3]).log_px_z)
    torch.testing.assert_close(drawn(x).z[2:3], drawn(x[2:3]).z)


@all_priors
def test_no_draw_is_the_location(prior, x, generator):
    model = encoder_model(prior).eval()
    state = generator.get_state()
    draws = model.draw(x, 0, generator)
    assert torch.equal(draws.z[:, 0], model.propose(x).loc)
    assert draws.log_px_z.shape == (N, 1)
    assert torch.equal(generator.get_state(), state)


@all_priors
def test_gradient_through_draws_only_leaves_the_density_of_the_proposal_out(prior, x, generator):
    """Its gradient is that of the weights where q's own parameters are held fixed, which is that
    of the whole less the score of q."""
    model = encoder_model(prior)
    draws = model.draw(x, 3, generator)
    parameters = list(model.encoder.parameters())

    def gradient(value):
        return torch.autograd.grad(value.sum(), parameters, retain_graph=True)

    through = gradient(draws.log_w(prior, through_draws_only=True))
    whole = gradient(draws.log_w(prior))
    fixed = draws._replace(z=draws.z.detach(), log_px_z=draws.log_px_z.detach())
    score = gradient(-fixed.log_w(prior))
    for a, b, c in zip(through, whole, score, strict=True):
        torch.testing.assert_close(a, b + c)


def test_bound_of_importance_weights_grows_with_the_draws(x, generator):
    model = encoder_model(PRIORS["normal"]).eval()
    with torch.no_grad():
        draws = model.draw(x, 4096, generator)
        log_w = draws.log_w(model.prior)
        means = [objectives.log_mean_exp(log_w.unflatten(1, (-1, k))).mean() for k in (1, 4, 64)]
    assert means[0] < means[1] < means[2]


def test_rounded_training_rows_and_exact_queries_see_one_encoder(x):
    """While training the encoder runs in its own precision, afterwards in that of the rows."""
    model = encoder_model(PRIORS["normal"])
    model.encoder.float()
    assert model.train().propose(x).loc.dtype == torch.float32
    located = model.eval().propose(x)
    assert located.loc.dtype == torch.float64
    exact = nn.functional.linear(
        model.likelihood.inputs(x), *(p.double() for p in model.encoder.parameters())
    )
    torch.testing.assert_close(located.loc, exact[:, :K], rtol=0, atol=1e-12)
    assert model.propose(x.float()).loc.dtype == torch.float32


def test_harmonics_open_with_the_fraction():
    decoder = networks.MLPDecoder(K, D, (8,), 4)
    model = model_of(PRIORS["torus"], decoder)
    model.open(0.0)
    before = decoder.basis.scales.clone()
    model.open(1.0)
    assert (decoder.basis.scales >= before).all()
    assert (decoder.basis.scales > before).any()


def told_model(prior, kind=models.Model, **parts):
    """Rows of a real number that is told, a level that is told, and what is modelled."""
    settings = {} if kind is models.Model else {"covariance_type": "diagonal", "wrapped": False}
    told = conditions.Conditions(
        [0, 1],
        [None, torch.tensor([1.0, 2.0])],
        torch.tensor([10.0, 0.0]),
        torch.tensor([2.0, 1.0]),
        torch.tensor([[11.0, 1.0], [6.0, 2.0]]),
        torch.tensor([0.5, 0.5]),
    )
    gaussian = likelihoods.Block(range(2, 2 + D), likelihoods.Gaussian(D, 0.5))
    likelihood = likelihoods.Mixed([likelihoods.Block([0, 1], likelihoods.Told(2)), gaussian])
    decoder = nn.Linear(K + 3, D).double()
    return kind(K, prior, decoder, likelihood, **parts, **settings, conditions=told)


TOLD = torch.tensor([[0.5, 1, 0], [-2, 0, 1]], dtype=torch.float64)
"""What the decoder hears of the two groups."""


@all_priors
def test_decoder_is_told_the_condition_of_each_row_beside_its_points(prior, generator):
    model, group = told_model(prior), torch.tensor([1, 0, 1])
    z = torch.rand(3, 5, K, generator=generator, dtype=torch.float64)
    each = [model.decoder(torch.cat([z[i], TOLD[group[i]].expand(5, 3)], 1)) for i in (0, 1)]
    torch.testing.assert_close(model.outputs(z, group)[:2], torch.stack(each))
    torch.testing.assert_close(model.outputs(z[1], 0), each[1])
    u = torch.rand(3, K, generator=generator, dtype=torch.float64)
    points = prior.quantile(u)
    for noise in (False, True):
        rows = model.sample(u, generator, noise=noise, group=group)
        assert rows[:, :2].tolist() == [[6, 2], [11, 1], [6, 2]]
    torch.testing.assert_close(model.mean(points, group)[1], model.mean(points, 0)[1])
    assert model.mean(points, 1)[:, :2].tolist() == 3 * [[6, 2]]


def test_rows_belong_to_the_group_whose_condition_is_nearest(x):
    told = told_model(PRIORS["torus"]).conditions
    rows = torch.tensor([[11, 1], [6, 2], [8, 1], [7, 1], [8.9, 2], [10, 2]], dtype=torch.float64)
    # though the real number is nearer that of the other group
    assert told.groups(torch.cat([rows, x], 1)).tolist() == [0, 1, 0, 0, 1, 1]
    assert told.n_numbers == 3
    assert len(told) == 2


def test_encoder_and_draws_are_told_the_condition_of_each_row(x, generator):
    encoder = nn.Linear(D + 3, 2 * K).double()
    model = told_model(PRIORS["normal"], models.EncoderModel, encoder=encoder).double()
    group = torch.tensor([0, 1, 1, 0, 1, 0])
    x = torch.cat([model.conditions.values[group], x], 1)

    def drawn(x):
        return model.draw(x, 3, torch.Generator().manual_seed(0), shared=True)

    both = drawn(x)
    for g in (0, 1):
        z, rows = drawn(x[group == g]).z, x[group == g]
        terms = model.likelihood.terms(rows)
        torch.testing.assert_close(both.z[group == g], z)
        expected = model.likelihood.paired(terms, model.outputs(z, g))
        torch.testing.assert_close(both.log_px_z[group == g], expected)
    other = drawn(model.conditions.fill(x, 1 - group))
    assert (other.z - both.z).abs().amax(2).min() > 1e-6
