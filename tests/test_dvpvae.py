"""DVPVAE: what it learns, what can be asked of it, and what it refuses."""

import pickle
from math import log

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

from skqlvm import DVPVAE, _image_parts
from skqlvm.engine import optimizers, training
from skqlvm.engine.hierarchy.model import HierarchicalModel

X = (load_digits().data[:160] / 16).astype(np.float32)
BINARY = (X > 0.5).astype(np.float32)
SHAPE = (1, 8, 8)
TINY = {
    "latents_per_scale": (1, 1),
    "channels": 4,
    "blocks_per_scale": 1,
    "context_size": 2,
    "diffusion_channels": 4,
    "diffusion_blocks": 1,
    "n_diffusion_steps": 3,
    "max_iter": 2,
    "batch_size": 80,
    "validation_fraction": 0.0,
    "random_state": 0,
}
PUBLISHED = {
    "mnist": ((1, 28, 28), {"latents_per_scale": (0, 4, 4), "channels": 32}, 0.6),
    "omniglot": (
        (1, 28, 28),
        {"latents_per_scale": (0, 4, 4), "channels": 80, "bottleneck": 0.5, "context_size": 5},
        1.0,
    ),
    "cifar10": (
        (3, 32, 32),
        {
            "latents_per_scale": (10, 8, 6, 4),
            "channels": 128,
            "bottleneck": 0.75,
            "blocks_per_scale": 4,
            "gamma_min": -10.0,
            "diffusion_channels": 32,
            "diffusion_blocks": 3,
            "likelihood": "logistic_mixture",
        },
        20.0,
    ),
}


@pytest.fixture(scope="module")
def fitted():
    return DVPVAE(SHAPE, **TINY).fit(X)


@pytest.fixture(scope="module")
def plain():
    return DVPVAE(SHAPE, **TINY | {"context": None, "aggregation": False}).fit(BINARY)


def of(model, **parameters):
    """A model like a fitted one, with other parameters that may change after a fit."""
    return pickle.loads(pickle.dumps(model)).set_params(**parameters)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_have_as_many_parameters_as_are_said(name):
    """Millions of them; nothing is allocated."""
    shape, parameters, millions = PUBLISHED[name]
    with torch.device("meta"):
        model = _image_parts.build(DVPVAE(shape, **parameters), int(np.prod(shape)))
    counted = sum(value.numel() for value in model.parameters()) / 1e6
    assert counted == pytest.approx(millions, rel=0.1)
    assert all(value.is_meta for value in model.ladder.parameters())


def test_images_are_learned_by_heart(generator):
    """By a bound whose divergences hardly count: an image fits through the ladder."""
    x = torch.from_numpy(BINARY[:64]).view(-1, *SHAPE)
    model = _image_parts.build(DVPVAE(SHAPE, **TINY), 64, generator)
    model.start(x)
    settings = training.Settings(60, optimizers.constant(3e-2), optimizers.adamax, batch_size=64)

    def nats(index):
        return model.nats(x[index], generator, beta=0.1).bound / 64

    training.train(model, nats, 64, settings, generator)
    wrong = (model.reconstruct(x) > 0.5) != (x > 0.5)
    assert float(wrong.double().mean()) < 0.01


def test_losses_are_in_bits_per_dimension(fitted):
    """Of the last steps, and of the weights that were kept."""
    model = clone(fitted).set_params(ema=None, max_iter=6).fit(X)
    score = model.score(X, None)
    assert model.history_["loss"][-1] == pytest.approx(-score / (64 * log(2)), rel=0.2)
    assert set(model.history_) >= {"step", "loss", "validation_loss", "seconds"}


def test_progress_is_in_bits_per_dimension(capsys):
    DVPVAE(SHAPE, **TINY | {"max_iter": 1}, verbose=1).fit(X[:20])
    assert "bits per dimension" in capsys.readouterr().err


def test_codes_are_contexts_and_latent_images_and_decode_to_reconstructions(fitted, plain):
    for model, n_context in ((fitted, 4), (plain, 0)):
        codes = model.transform(X)
        assert codes.shape == (160, n_context + 16 + 64)
        assert codes.dtype == np.float32
        assert model.latent_shapes_ == [(1, 4, 4), (1, 8, 8)]
        assert len(model.get_feature_names_out()) == codes.shape[1]
        np.testing.assert_allclose(model.inverse_transform(codes), model.reconstruct(X), atol=1e-5)


def test_output_is_the_context_where_that_is_asked_for(fitted):
    model = of(fitted, output="context")
    u = model.transform(X)
    np.testing.assert_allclose(u, fitted.transform(X)[:, :4], atol=1e-6)
    assert abs(u).max() <= 1
    assert fitted.context_shape_ == (1, 2, 2)
    decoded = model.inverse_transform(u)
    assert decoded.shape == X.shape
    assert not np.allclose(decoded[0], decoded[1])
    assert len(model.get_feature_names_out()) == 4


def test_samples_are_of_their_seed_binary_or_means(fitted):
    drawn = fitted.sample(5, random_state=1)
    assert drawn.shape == (5, 64)
    assert drawn.dtype == np.float32
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    np.testing.assert_array_equal(drawn, fitted.sample(5, random_state=1))
    assert not np.array_equal(drawn, fitted.sample(5, random_state=2))
    means = fitted.sample(5, random_state=1, noise=False)
    assert 0 < means.min() < means.max() < 1
    cold = fitted.sample(5, random_state=1, noise=False, temperature=0.0)
    np.testing.assert_allclose(cold, np.repeat(cold[:1], 5, 0), atol=1e-6)
    assert not np.allclose(means, cold)


def test_contexts_are_drawn_from_their_prior(fitted, plain):
    drawn = fitted.sample_context(300, random_state=0)
    assert drawn.shape == (300, 4)
    with pytest.raises(ValueError, match="sample_context expects a model with a context"):
        plain.sample_context()


@pytest.mark.parametrize("method", ["elbo", "importance"])
def test_scores_are_deterministic_and_of_rows_alone(fitted, method):
    rows = X[:9].astype(np.float64)
    nats, std = fitted.score_samples(rows, method, n_draws=3, return_std=True)
    assert nats.shape == std.shape == (9,)
    assert bool((std > 0).all())
    order = np.random.RandomState(0).permutation(9)
    np.testing.assert_allclose(fitted.score_samples(rows[order], method, 3), nats[order])
    alone = [fitted.score_samples(row[None], method, 3)[0] for row in rows]
    np.testing.assert_allclose(alone, nats)
    single = fitted.score_samples(rows.astype(np.float32), method, 3)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, nats, rtol=1e-3)


def test_score_is_the_mean_of_what_the_engine_says(plain):
    """The bound of the plain ladder by a loop over draws."""
    rows = BINARY[:5].astype(np.float64)
    model = pickle.loads(pickle.dumps(plain._model)).double()
    x = torch.from_numpy(rows).view(-1, *SHAPE)
    generator, total = torch.Generator().manual_seed(0), 0.0
    torch.rand((1, *SHAPE), generator=generator)  # the draw of a binary image
    for _ in range(4):
        noise = [torch.randn((1, *shape), generator=generator) for shape in plain.latent_shapes_]
        total = total + bound_of(model, x, noise)
    expected = (total / 4).mean()
    assert plain.set_params(binarize=True).score_samples(rows, n_draws=4).mean() == pytest.approx(
        float(expected), rel=1e-6
    )


def bound_of(model, x, noise):
    """The plain ladder's bound for given noise, level by level."""
    ladder, noise, bound = model.ladder, list(noise), 0.0
    features = ladder.bottom_up(x)
    state = ladder.start.expand(len(x), -1, -1, -1)
    for number, level in enumerate(ladder.levels):
        if number:
            state = state.repeat_interleave(2, 2).repeat_interleave(2, 3)
        numbers = level.prior(state)
        loc, log_variance = numbers[:, :1], numbers[:, 1:2].clamp(-10, 1)
        own = level.posterior((state + features[1 - number]) / 2**0.5)
        p = torch.distributions.Normal(loc, (log_variance / 2).exp())
        q = torch.distributions.Normal(own[:, :1], (own[:, 1:].clamp(-10, 1) / 2).exp())
        bound = bound - torch.distributions.kl_divergence(q, p).flatten(1).sum(1)
        z = q.loc + q.scale * noise.pop(0)
        state = state + numbers[:, 2:]
        state = level.update(state + level.project(z))
    logits = ladder.output(state).flatten(1) + model.likelihood.loc
    coins = torch.distributions.Bernoulli(logits=logits)
    return (bound + coins.log_prob(x.flatten(1)).sum(1)).detach()


def test_binary_rows_are_what_they_are_and_others_are_drawn(fitted):
    as_they_are = of(fitted, binarize=False)
    binary = BINARY[:20]
    nats = fitted.score_samples(binary, n_draws=2)
    drawn = fitted.score_samples(X[:20], n_draws=2)
    assert not np.allclose(drawn, as_they_are.score_samples(X[:20], n_draws=2))
    assert np.isfinite(nats).all()
    generator = torch.Generator().manual_seed(0)
    u = torch.rand((1, *SHAPE), generator=generator).numpy().reshape(1, 64)
    np.testing.assert_allclose(fitted.score_samples((u < X[:20]).astype("f"), n_draws=2), drawn)


def test_active_units_are_those_whose_means_vary(fitted):
    assert fitted.active_units(X).shape == (80,)
    variances = fitted.transform(X)[:, 4:].astype(np.float64).var(0)
    threshold = float(np.median(variances))
    np.testing.assert_array_equal(fitted.active_units(X, threshold), variances > threshold)
    assert not fitted.active_units(X[:1]).any()


def test_levels_of_colours_are_modelled():
    rows = np.random.RandomState(0).randint(256, size=(40, 3 * 4 * 4)) / 255
    mixture = {"likelihood": "logistic_mixture", "n_mixtures": 2, "latents_per_scale": (1, 1)}
    model = DVPVAE((3, 4, 4), **TINY | mixture).fit(rows)
    drawn = model.sample(3, random_state=0)
    np.testing.assert_allclose(255 * drawn, np.round(255 * drawn), atol=1e-4)
    assert drawn.dtype == np.float64
    assert model.score(rows) < 0
    with pytest.raises(ValueError, match=r"grey levels k / 255.*np.round\(255 \* X\) / 255"):
        model.score(np.clip(rows + 1e-3, 0, 1))


@pytest.mark.parametrize("context", ["downsample", "pca", "dct"])
def test_fit_is_that_of_its_seed_with_every_context(context):
    models = [DVPVAE(SHAPE, **TINY | {"context": context}).fit(X[:40]) for _ in range(2)]
    one, other = (model.transform(X[:9]) for model in models)
    np.testing.assert_array_equal(one, other)
    third = clone(models[0]).set_params(random_state=1).fit(X[:40])
    assert not np.array_equal(third.transform(X[:9])[:, 4:], one[:, 4:])


def test_training_goes_on_where_it_was(fitted):
    model = of(fitted, learning_rate=1e-5)
    before = model.transform(X)
    model.partial_fit(X)
    assert model.n_iter_ == fitted.n_iter_ + 1
    np.testing.assert_allclose(model.transform(X), before, atol=0.05)
    warm = of(fitted, warm_start=True, learning_rate=1e-6).fit(X)
    np.testing.assert_allclose(warm.transform(X), before, atol=0.01)
    with pytest.raises(ValueError, match="channels=8 cannot continue a fit that had channels=4"):
        model.set_params(channels=8).partial_fit(X)


def test_rows_without_weight_are_left_out(fitted):
    weight = np.r_[np.ones(40), np.zeros(120)]
    weighted = clone(fitted).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(weighted.transform(X), clone(fitted).fit(X[:40]).transform(X))


@pytest.mark.parametrize("context", ["dct", "pca"])
def test_weights_count_rows_where_contexts_start(context):
    """As often as repeated rows do."""
    x = torch.from_numpy(BINARY[:40]).double().unflatten(1, SHAPE)
    weight = torch.arange(1, 41) % 3 + 1.0
    models = [_image_parts.build(DVPVAE(SHAPE, **TINY | {"context": context}), 64) for _ in "ab"]
    with torch.no_grad():
        models[0].start(x, weight)
        models[1].start(x.repeat_interleave(weight.long(), 0))
    for part in ("context", "diffusion"):
        one, other = (dict(getattr(model, part).named_buffers()) for model in models)
        for name in ("center", "directions", "scales", "variance"):
            if name in one:
                torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-9)


def test_interrupted_fit_keeps_its_weights(monkeypatch):
    calls, nats = [], HierarchicalModel.nats

    def interrupted(model, *arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return nats(model, *arguments)

    monkeypatch.setattr(HierarchicalModel, "nats", interrupted)
    model = DVPVAE(SHAPE, **TINY | {"max_iter": 5})
    with pytest.raises(KeyboardInterrupt, match="interrupted at step 3 of 10"):
        model.fit(X)
    assert model.history_["step"] == [1, 2, 3]
    assert np.isfinite(model.transform(X)).all()


def test_fit_that_fails_leaves_the_estimator_as_it_was(fitted):
    model = of(fitted)
    before = model.transform(X)
    with pytest.raises(FloatingPointError, match=r"Training diverged.*Lower learning_rate"):
        of(fitted, learning_rate=1e30).fit(X)
    with pytest.raises(ValueError, match="expects X in"):
        model.fit(2 * X)
    np.testing.assert_array_equal(model.transform(X), before)


def test_validation_chooses_and_keeps_averaged_weights():
    model = DVPVAE(SHAPE, **TINY | {"validation_fraction": 0.2}).fit(X)
    assert np.isfinite(model.history_["validation_loss"]).all()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"image_shape": (1, 8, 9)}, ValueError, r"has 72 values, but the rows of X have 64"),
        ({"image_shape": (8, 8)}, ValueError, r"image_shape=\(channels, height, width\)"),
        ({"latents_per_scale": (0, 0, 0, 0, 1)}, ValueError, "halved 4 times, multiples of 16"),
        ({"latents_per_scale": (1, 0)}, ValueError, "the last one positive"),
        ({"latents_per_scale": 4}, TypeError, "latents_per_scale expects a tuple"),
        ({"latents_per_scale": (1.5,)}, TypeError, "each entry of latents_per_scale"),
        ({"context_size": 9}, ValueError, "context_size expects at most .* 8 x 8, but got 9"),
        ({"context": "wavelets"}, ValueError, "context expects one of"),
        ({"gamma_max": -7.0}, ValueError, "gamma_max expects a number"),
        ({"likelihood": "gaussian"}, ValueError, "likelihood expects one of"),
        ({"output": "latent"}, ValueError, "output expects one of"),
        ({"output": "context", "context": None}, ValueError, "but got context=None"),
        ({"image_shape": None}, ValueError, r"Give the \(channels, height, width\)"),
        ({"channels": 0}, ValueError, "channels expects an integer of at least 1"),
        ({"ema": 1.0}, ValueError, r"ema expects a number in \[0, 1\)"),
        ({"binarize": "dynamic"}, TypeError, "binarize expects True or False"),
        ({"learning_rate": "auto"}, TypeError, "learning_rate expects a number"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm expects"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        DVPVAE(**{"image_shape": SHAPE} | TINY | parameters).fit(X)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X - 0.5, r"expects X in \[0, 1\], but got a minimum of -0.5. Rescale X, as MinMaxScaler"),
        (np.where(X > 0, X, np.nan), "Input X contains NaN"),
        (X.reshape(-1, 8, 8), r"Flatten images with X.reshape"),
    ],
)
def test_rows_that_make_no_sense_are_refused(fitted, rows, message):
    for call in (clone(fitted).fit, fitted.transform):
        with pytest.raises(ValueError, match=message):
            call(rows)


def test_codes_that_make_no_sense_are_refused(fitted, plain):
    with pytest.raises(ValueError, match="Z has 3 columns, but inverse_transform expects 84"):
        fitted.inverse_transform(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="output='context' expects a model with a context"):
        of(plain, output="context").transform(BINARY)
    with pytest.raises(ValueError, match="method expects one of"):
        fitted.score_samples(X, method="quadrature")
    with pytest.raises(NotFittedError):
        DVPVAE(SHAPE).sample()


def test_dropout_is_a_stream_of_its_own():
    """The global generator is left as it was, and a fit is that of its seed."""
    parameters = TINY | {"diffusion_dropout": 0.3}
    state = torch.get_rng_state()
    one = DVPVAE(SHAPE, **parameters).fit(X[:40])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    other = DVPVAE(SHAPE, **parameters).fit(X[:40])
    np.testing.assert_array_equal(
        one.sample_context(5, random_state=0), other.sample_context(5, random_state=0)
    )
