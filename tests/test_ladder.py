"""The ladder: its normals against torch's, its shapes, and what depends on what."""

from itertools import pairwise
from math import sqrt

import pytest
import torch
import torch.distributions as laws
from torch.autograd import gradcheck

from skqlvm.engine.hierarchy.blocks import Block, BottomUp
from skqlvm.engine.hierarchy.ladder import LOG_VARIANCES, Ladder, Normals
from skqlvm.engine.hierarchy.noise import Shared, normal, uniform

SHAPE, SCALES = (2, 4, 8), (2, 0, 1)
WHOLE = (1, 4, 4)


def normal_numbers(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ladder_of(generator, shape=SHAPE, scales=SCALES, told=True, **parameters):
    """A small ladder in float64, whose zero weights are not zero."""
    ladder = Ladder(
        shape,
        scales,
        channels=4,
        blocks_per_scale=1,
        n_outputs=3,
        context_channels=shape[0] if told else 0,
        generator=generator,
        **parameters,
    ).double()
    with torch.no_grad():
        for value in ladder.parameters():
            value += 0.2 * normal_numbers(generator, *value.shape)
    return ladder


def images(generator, n=5, shape=SHAPE):
    return torch.rand(n, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("extreme", [False, True])
def test_divergence_and_density_are_those_of_torch(generator, extreme):
    shape = (6, 2, 3, 3)
    normals = []
    for _ in range(2):
        log_variance = normal_numbers(generator, *shape)
        if extreme:
            log_variance = torch.where(log_variance > 0, *LOG_VARIANCES)
        normals.append(Normals(normal_numbers(generator, *shape), log_variance.double()))
    q, p = normals
    law_q, law_p = (laws.Normal(each.loc, (each.log_variance / 2).exp()) for each in normals)
    expected = laws.kl_divergence(law_q, law_p).flatten(1).sum(1)
    torch.testing.assert_close(q.kl(p), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(q.kl(q), torch.zeros(6, dtype=torch.float64), rtol=0, atol=0)
    z = q.at(normal_numbers(generator, *shape))
    torch.testing.assert_close(p.log_prob(z), law_p.log_prob(z).flatten(1).sum(1))


def test_log_variances_are_limited_with_gradients_only_within(generator):
    numbers = torch.tensor([[0.3, -11.0], [0.3, -9.0], [0.3, 0.5], [0.3, 1.5]]).double()
    numbers = numbers[:, :, None, None].requires_grad_()
    q = Normals.of(numbers)
    assert q.log_variance.flatten().tolist() == [-10.0, -9.0, 0.5, 1.0]
    other = Normals(torch.zeros_like(q.loc), torch.zeros_like(q.loc))
    q.kl(other).sum().backward()
    gradient = numbers.grad[:, 1, 0, 0]
    assert (gradient != 0).tolist() == [False, True, True, False]
    inside = numbers[1:3].detach().requires_grad_()
    assert gradcheck(lambda inside: Normals.of(inside).kl(Normals(*map(float_zeros, q))), inside)


def float_zeros(value):
    return torch.zeros_like(value[1:3]).detach()


def test_blocks_start_as_the_identity_or_as_their_skip(generator):
    x = torch.rand(2, 3, 4, 4, generator=generator)
    assert torch.equal(Block(3, 3, 5, generator)(x), x)
    wider = Block(3, 6, 5, generator)
    assert torch.equal(wider(x), wider.skip(x))
    assert not torch.equal(Block(3, 3, 5, generator, scale=1.0)(x), x)


def test_features_have_the_resolutions_that_are_wanted(generator):
    encoder = BottomUp(1, (False, True, False, True), 4, 4, 1, generator)
    features = encoder(torch.rand(2, 1, 8, 16, generator=generator))
    shapes = [None if f is None else tuple(f.shape) for f in features]
    assert shapes == [None, (2, 4, 4, 8), None, (2, 4, 1, 2)]
    assert [len(stage) for stage in encoder.stages] == [0, 1, 1, 1]


@pytest.mark.parametrize("aggregation", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_pass_returns_what_it_says(generator, aggregation, told):
    ladder = ladder_of(generator, told=told, aggregation=aggregation)
    x = images(generator)
    condition = x.flip(0) if told else None
    passed = ladder(x, condition, generator)
    assert passed.outputs.shape == (5, 3, 4, 8)
    assert passed.kl.shape == (5, 3)
    assert passed.log_pz.shape == passed.log_qz.shape == (5,)
    assert [tuple(mean.shape[1:]) for mean in passed.means] == ladder.latent_shapes
    assert ladder.latent_shapes == [(2, 1, 2), (2, 4, 8), (2, 4, 8)]
    assert bool((passed.kl > 0).all())
    assert ladder.generate(7, condition[:1].expand(7, -1, -1, -1) if told else None, seeded()).shape


@pytest.mark.parametrize("aggregation", [True, False])
def test_divergences_are_the_mean_log_ratios_of_draws(generator, aggregation):
    """The analytic ones of the first level; those of others depend on what was drawn above."""
    ladder = ladder_of(generator, scales=(0, 1), aggregation=aggregation)
    x = images(generator, 1).expand(4000, -1, -1, -1)
    with torch.no_grad():
        passed = ladder(x, x, generator)
    ratio = passed.log_qz - passed.log_pz
    error = float(ratio.std()) / sqrt(len(x))
    assert float(ratio.mean()) == pytest.approx(float(passed.kl[0, 0]), abs=4 * error)


def test_decoding_the_means_is_a_pass_without_noise(generator):
    for aggregation in (True, False):
        ladder = ladder_of(generator, aggregation=aggregation)
        x = images(generator)
        passed = ladder(x, x, None)
        torch.testing.assert_close(ladder.decode(passed.means, x), passed.outputs)


def test_every_parameter_has_a_gradient_but_the_last_prior_has_one_of_the_bound_alone(generator):
    for told in (True, False):
        ladder = ladder_of(generator, told=told)
        x = images(generator)
        passed = ladder(x, x if told else None, generator)
        (passed.outputs.square().mean() + passed.kl.mean()).backward()
        without = [n for n, p in ladder.named_parameters() if p.grad is None or not p.grad.any()]
        assert not without


def test_aggregated_latent_images_count_alike_and_are_standardised(generator):
    """Those of one resolution have the same derivatives; at full resolution the mean of standard
    normals is one."""
    ladder = ladder_of(generator, shape=WHOLE, scales=(3, 2), told=False)
    latents = [normal_numbers(generator, 2, *shape) for shape in ladder.latent_shapes]
    latents = [latent.requires_grad_() for latent in latents]
    weights = normal_numbers(generator, 2, 3, 4, 4)
    (weights * ladder.decode(latents, None)).sum().backward()
    gradients = [latent.grad for latent in latents]
    assert all(bool(gradient.ne(0).all()) for gradient in gradients)
    for group in (gradients[:2], gradients[2:]):
        for one, other in pairwise(group):
            torch.testing.assert_close(one, other)
    full = ladder_of(generator, shape=WHOLE, scales=(5,), told=False)
    z = normal_numbers(generator, 5, 3000, 1, 4, 4)
    spread = full.aggregated({0: z.sum(0)}).std()
    assert float(spread) == pytest.approx(1, abs=0.02)


def test_states_count_without_aggregation_and_not_with_it(generator):
    """Given the latent images, a condition changes the outputs only through the state."""
    x = images(generator)
    for aggregation in (True, False):
        ladder = ladder_of(generator, aggregation=aggregation)
        latents = [normal_numbers(generator, 5, *shape) for shape in ladder.latent_shapes]
        same = torch.equal(ladder.decode(latents, x), ladder.decode(latents, x.flip(0)))
        assert same is aggregation


def test_condition_changes_the_prior_of_every_level(generator):
    ladder = ladder_of(generator, scales=(2, 2, 2))
    seen = []
    for level in ladder.levels:
        level.register_forward_hook(lambda *_: None)
    original = type(ladder.levels[0]).from_above

    def noted(level, state, told):
        prior, passed = original(level, state, told)
        seen.append(prior.loc)
        return prior, passed

    latents = [normal_numbers(generator, 5, *shape) for shape in ladder.latent_shapes]
    x = images(generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ladder.levels[0]), "from_above", noted)
        ladder.decode(latents, x)
        ladder.decode(latents, x.flip(0))
    half = len(ladder.levels)
    assert all(not torch.allclose(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_generation_does_not_look_at_images_and_is_that_of_its_seed(generator):
    ladder = ladder_of(generator)
    condition = images(generator)
    first = ladder.generate(5, condition, seeded())
    ladder.bottom_up, parts = None, [level.posterior for level in ladder.levels]
    for level in ladder.levels:
        level.posterior = None
    assert torch.equal(ladder.generate(5, condition, seeded()), first)
    assert not torch.equal(ladder.generate(5, condition, seeded(1)), first)
    assert not torch.equal(ladder.generate(5, condition.flip(0), seeded()), first)
    assert len(parts) == ladder.n_levels


def test_temperature_is_a_factor_of_noise(generator):
    ladder = ladder_of(generator)
    condition = images(generator)
    cold = ladder.generate(5, condition, seeded(), temperature=0.0)
    torch.testing.assert_close(cold, ladder.generate(5, condition, None))
    assert not torch.allclose(cold, ladder.generate(5, condition, seeded(), temperature=0.5))


def test_rows_do_not_depend_on_their_neighbours_where_noise_is_shared(generator):
    ladder, x = ladder_of(generator), images(generator)
    together = ladder(x, x, Shared(seeded()))
    alone = ladder(x[2:3], x[2:3], Shared(seeded()))
    torch.testing.assert_close(together.log_qz[2:3], alone.log_qz)
    torch.testing.assert_close(together.outputs[2:3], alone.outputs)
    apart = ladder(x, x, seeded())
    assert not torch.allclose(together.log_qz, apart.log_qz)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_noise_is_shared_or_not(draw):
    like = torch.zeros(2, dtype=torch.float64)
    own, shared = draw((3, 4), seeded(), like), draw((3, 4), Shared(seeded()), like)
    assert own.dtype == shared.dtype == torch.float64
    assert torch.equal(shared, shared[:1].expand(3, -1))
    assert len(own.unique()) == 12
    assert torch.equal(own[0], shared[0])


def test_rounding_is_for_training_alone_and_small(generator):
    ladder = Ladder((1, 8, 8), (1, 1), channels=8, context_channels=0, generator=generator)
    x = torch.rand(4, 1, 8, 8, generator=generator)

    def bound(rounds):
        for module in ladder.modules():
            if hasattr(module, "rounds"):
                module.rounds = rounds
        passed = ladder(x, None, seeded())
        assert passed.outputs.dtype == passed.kl.dtype == torch.float32
        return passed.kl

    exact = bound(False)
    torch.testing.assert_close(bound(True), exact, rtol=0.1, atol=0.05)
    ladder.eval()
    assert torch.equal(bound(True), bound(False))


@pytest.mark.parametrize(
    ("shape", "scales", "message"),
    [
        ((1, 28, 28), (0, 4, 4, 4), "halved 3 times, multiples of 8, but images are 28 x 28"),
        ((1, 1, 10), (2, 2), "but images are 1 x 10. Pad them"),
        ((1, 4, 4), (), "such as"),
        ((1, 4, 4), (2, 0), "the last one positive"),
        ((1, 4, 4), (-1, 2), "none negative"),
    ],
)
def test_impossible_scales_are_refused(shape, scales, message):
    with pytest.raises(ValueError, match=message):
        Ladder(shape, scales)
