"""Maps that do not matter: their sum against loops over maps and points, integrals, and queries of
the estimator that takes them."""

import itertools
import pickle
from math import log, pi

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding, _readouts
from skqlvm.engine import (
    lattices,
    likelihoods,
    marginal,
    models,
    networks,
    posteriors,
    priors,
    quadrature,
)
from skqlvm.engine.transformations import Transformations

pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")

SMALL = {
    "n_points": 89,
    "n_points_eval": 233,
    "hidden_layer_sizes": (13,),
    "harmonic_order": 3,
    "max_iter": 3,
    "random_state": 0,
}
KINDS = [likelihoods.Bernoulli, likelihoods.Gaussian, likelihoods.Poisson]


def small(**parameters):
    return QLVMEmbedding(**{**SMALL, **parameters})


def maps_of(n_maps, d, generator, *, affine=False, learned=False):
    """Random permutations; with factors, offsets and unequal probabilities on demand."""
    index = torch.stack([torch.randperm(d, generator=generator) for _ in range(n_maps)])
    scale = offset = None
    if affine:
        scale = 0.5 + torch.rand(n_maps, generator=generator, dtype=torch.float64)
        scale, offset = scale * (-1) ** torch.arange(n_maps), scale - 0.7
    maps = Transformations(index, scale, offset, learned=learned).double()
    if learned:
        with torch.no_grad():
            maps.slow_logits.normal_(std=0.1, generator=generator)
    return maps


def modelled(generator, kind, maps, d, n=7, sharpness=20):
    """Rows, and a model of them in float64."""
    x = torch.rand(n, d, generator=generator, dtype=torch.float64).round()
    likelihood = kind(d).double()
    likelihood.start(x)
    decoder = networks.MLPDecoder(2, d, (16,), 3, generator=generator).double()
    with torch.no_grad():
        decoder.layers[-1].weight *= sharpness
    return x, models.Model(2, priors.UniformTorus(), decoder, likelihood, transformations=maps)


def moved(maps, x, s):
    """W_s x, and log pi_s |det W_s|, by their definitions."""
    log_pi = torch.zeros(len(maps)).double() if maps.slow_logits is None else 10 * maps.slow_logits
    log_det = x.shape[1] * maps.scale[s].abs().log()
    image = maps.scale[s] * x[:, maps.index[s]] + maps.offset[s]
    return image, torch.log_softmax(log_pi, 0)[s] + log_det


def brute_force(model, x, z):
    """log 1/m sum_s pi_s |det W_s| sum_j p(W_s x | z_j), a map at a time."""
    nats = []
    for s in range(len(model.transformations)):
        image, log_weight = moved(model.transformations, x, s)
        terms = model.likelihood.terms(image)
        nats.append(model.table(terms, z) + terms.base[:, None] + log_weight)
    return torch.logsumexp(torch.cat(nats, 1), 1) - log(len(z))


def with_gradient(nats, model):
    return nats.detach(), torch.autograd.grad(nats.sum(), list(model.parameters()))


def log_marginal(model, x, n_points=55):
    charts = quadrature.charts(model, lattices.lattice(2, n_points), factored=True)
    with torch.no_grad():
        return quadrature.log_marginal(model, charts, [x])


def test_copies_follow_one_another_and_are_undone(generator):
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    maps = maps_of(3, 7, generator, affine=True)
    copies = maps.copies(x)
    for i, s in itertools.product(range(5), range(3)):
        torch.testing.assert_close(copies[3 * i + s], moved(maps, x[i : i + 1], s)[0][0])
    numbers = torch.arange(3).repeat(5)
    torch.testing.assert_close(maps.undone(copies, numbers), x.repeat_interleave(3, 0))


def test_log_prior_has_the_determinant_that_automatic_differentiation_finds(generator):
    maps = maps_of(3, 5, generator, affine=True, learned=True)
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: maps.copies(x[None]), x)
    found = maps.log_prior() - maps.log_pi()
    torch.testing.assert_close(found, torch.linalg.slogdet(jacobian).logabsdet)
    assert maps.log_pi().exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(
    ("n_bytes", "spared"), [(2**30, None), (2**30, 0.0), (20_000, None), (20_000, 0.0)]
)
def test_bound_and_gradient_are_those_of_the_formula(kind, learned, n_bytes, spared, generator):
    affine = kind is likelihoods.Gaussian
    maps = maps_of(3, 11, generator, affine=affine, learned=learned)
    x, model = modelled(generator, kind, maps, 11)
    points = lattices.lattice(2, 144)
    bound = marginal.LatticeBound(model, points, x, n_bytes=n_bytes, spared=spared)
    assert (bound.n_at_once < 144) == (n_bytes < 2**30)
    for shift in (None, lattices.random_shift(2, generator)):
        z = points if shift is None else lattices.shifted(points, shift)
        found, expected = bound(x, shift), brute_force(model, x, z)
        (value, gradients), (exact, formulas) = (
            with_gradient(nats, model) for nats in (found, expected)
        )
        torch.testing.assert_close(value, exact, rtol=1e-12, atol=1e-12)
        for a, b in zip(gradients, formulas, strict=True):
            assert (a - b).norm() <= 1e-6 * b.norm()
        with torch.no_grad():
            torch.testing.assert_close(bound(x, shift), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_quadrature_is_the_formula(kind, generator):
    affine = kind is likelihoods.Gaussian
    x, model = modelled(generator, kind, maps_of(3, 11, generator, affine=affine, learned=True), 11)
    expected = brute_force(model, x, lattices.lattice(2, 55)).detach()
    torch.testing.assert_close(log_marginal(model, x), expected, rtol=1e-12, atol=1e-10)


def test_fewer_copies_give_a_lower_bound_and_all_of_them_the_sum(generator):
    x, model = modelled(generator, likelihoods.Bernoulli, maps_of(5, 11, generator), 11)
    points, shift = lattices.lattice(2, 144), lattices.random_shift(2, generator)
    bounds = [
        marginal.LatticeBound(model, points, x, n_bytes=2**30, spared=0.0, n_copies=k)(x, shift)
        for k in range(1, 6)
    ]
    steps = torch.stack(bounds).detach().diff(dim=0)
    assert (steps > 0).all()
    exact = brute_force(model, x, lattices.shifted(points, shift))
    torch.testing.assert_close(bounds[-1], exact)


def test_bound_of_chosen_copies_is_the_formula_of_these(generator):
    """Of a sharp posterior the two copies that answer are found on the coarse lattice."""
    x, model = modelled(
        generator, likelihoods.Gaussian, maps_of(5, 11, generator, affine=True, learned=True), 11
    )
    points, shift = lattices.lattice(2, 89), lattices.random_shift(2, generator)
    bound = marginal.LatticeBound(model, points, x, n_bytes=2**30, spared=0.0, n_copies=2)
    z, nats = lattices.shifted(points, shift), []
    for s in range(5):
        image, log_weight = moved(model.transformations, x, s)
        terms = model.likelihood.terms(image)
        table = model.table(terms, z) + terms.base[:, None] + log_weight
        nats.append(torch.logsumexp(table, 1) - log(89))
    best = torch.stack(nats, 1).topk(2, 1).values.logsumexp(1)
    (value, gradients), (exact, formulas) = (
        with_gradient(nats, model) for nats in (bound(x, shift), best)
    )
    torch.testing.assert_close(value, exact)
    for a, b in zip(gradients, formulas, strict=True):
        # the log-prior of copies left out pulls at their probabilities all the same
        assert (a - b).norm() <= 1e-6 * b.norm()


@pytest.mark.parametrize("learned", [False, True])
def test_probabilities_of_all_binary_rows_sum_to_one(learned, generator):
    maps = maps_of(3, 5, generator, learned=learned)
    _, model = modelled(generator, likelihoods.Bernoulli, maps, 5)
    every = torch.cartesian_prod(*5 * [torch.tensor([0.0, 1.0], dtype=torch.float64)])
    assert log_marginal(model, every).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_density_under_affine_maps_integrates_to_one(generator):
    maps = maps_of(3, 2, generator, affine=True, learned=True)
    _, model = modelled(generator, likelihoods.Gaussian, maps, 2, sharpness=1)
    axis = torch.linspace(-15, 15, 301, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    total = log_marginal(model, x).exp().sum() * 0.1**2
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_cyclic_group_leaves_nats_as_they_are(generator):
    index = torch.stack([torch.arange(7).roll(s) for s in range(7)])
    x, model = modelled(generator, likelihoods.Gaussian, Transformations(index), 7)
    nats = log_marginal(model, x)
    for s in range(1, 7):
        torch.testing.assert_close(log_marginal(model, x.roll(s, 1)), nats)
    model.transformations = None
    assert (log_marginal(model, x) - log_marginal(model, x.roll(1, 1))).abs().max() > 1


def test_base_in_any_units_costs_no_digits(generator):
    """In float32, the bases of copies of a precise Gaussian are 1e6 nats and nearly equal."""
    maps = maps_of(3, 11, generator)
    x, model = modelled(generator, lambda d: likelihoods.Gaussian(d, 1e-6), maps, 11)
    points = lattices.lattice(2, 55)
    bound = marginal.LatticeBound(model, points, x, n_bytes=2**30, spared=0.0)
    with torch.no_grad():
        exact = bound(x)
        found = bound(x.float())
    assert exact.abs().max() > 1e6
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


def test_samples_are_decoded_rows_with_a_map_undone(generator):
    maps = maps_of(3, 11, generator, affine=True, learned=True)
    _, model = modelled(generator, likelihoods.Gaussian, maps, 11)
    u = torch.rand(20_000, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        x, mean = model.sample(u, generator, noise=False), model.mean(u)
    found = torch.zeros(3)
    for s in range(3):
        image, _ = moved(maps, x, s)
        found[s] = (image - mean).abs().amax(1).lt(1e-9).double().mean()
    assert found.sum().item() == pytest.approx(1)
    np.testing.assert_allclose(found, maps.log_pi().exp().detach(), atol=0.02)


@pytest.mark.parametrize(
    ("index", "scale", "message"),
    [([[0, 1, 1]], [1.0], "no permutation"), ([[2, 0, 1]], [0.0], "no inverse")],
)
def test_maps_without_an_inverse_raise(index, scale, message):
    with pytest.raises(ValueError, match=message):
        Transformations(torch.tensor(index), torch.tensor(scale))


# the estimator


@pytest.fixture(scope="module")
def images():
    """101 bright 3 x 5 images."""
    return np.random.default_rng(7).random((101, 15)).round()


def numpy_model(model, X, likelihood):
    """Log weights (n, S, m) of a fitted model, a map at a time, by the textbook densities."""
    f = model.inverse_transform(model.lattice_)
    log_w = []
    for permutation, prior in zip(model.transformations_, model.transformation_prior_, strict=True):
        x = X[:, None, permutation]
        if likelihood == "bernoulli":
            nats = (x * np.log(f) + (1 - x) * np.log(1 - f)).sum(2)
        else:
            variance = model.noise_variance_
            nats = -0.5 * ((x - f) ** 2 / variance + np.log(2 * pi * variance)).sum(2)
        log_w.append(nats + np.log(prior))
    return np.stack(log_w, 1), f


def test_local_embedding_averages_each_copy_around_the_points(images, monkeypatch):
    monkeypatch.setitem(_readouts._AVERAGED, 2, 0.08)
    maps = {"shift": [(0, 0), (1, 2)], "shear": [-1, 0, 1.0]}
    model = small(transformations=maps, image_shape=(1, 3, 5), likelihood="bernoulli").fit(images)
    points = torch.from_numpy(model.lattice_)
    log_w = torch.from_numpy(numpy_model(model, images[:13], "bernoulli")[0])
    copies = [lattices.averaged(log_w[:, s].T, points, 0.08).T for s in range(log_w.shape[1])]
    expected = posteriors.local_mean(torch.stack(copies, 1).logsumexp(1), points).numpy()
    difference = model.transform(images[:13]) - expected
    np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("prior", ["uniform", "learned"])
def test_queries_equal_a_plain_numpy_model(likelihood, prior, images):
    model = small(
        likelihood=likelihood,
        transformations={"shift": [(0, 0), (1, 2)], "shear": [-1, 0, 1.0]},
        transformation_prior=prior,
        image_shape=(1, 3, 5),
        embedding="mode",
    ).fit(images)
    X = images[:13]
    log_w, f = numpy_model(model, X, likelihood)
    marginal_w = logsumexp(log_w, 1)
    nats = logsumexp(marginal_w, 1) - log(233)
    weights = softmax(log_w, (1, 2))
    posed = np.zeros_like(X)
    for s, permutation in enumerate(model.transformations_):
        posed[:, permutation] += weights[:, s] @ f
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(model.score_samples(X), nats, **close)
    np.testing.assert_allclose(model.posterior(X), weights.sum(1), **close)
    np.testing.assert_allclose(model.transformation_posterior(X), weights.sum(2), **close)
    np.testing.assert_allclose(model.transformation_posterior(X).sum(1), 1)
    np.testing.assert_allclose(model.reconstruct(X), posed, **close)
    np.testing.assert_array_equal(model.transform(X), model.lattice_[marginal_w.argmax(1)])
    np.testing.assert_array_equal(model.coordinates(X), model.transform(X))
    uniform = np.allclose(model.transformation_prior_, 1 / 6, rtol=1e-12)
    assert uniform == (prior == "uniform")
    again, std = model.score_samples(X, return_std=True)
    np.testing.assert_array_equal(again, model.score_samples(X))
    assert (std < 1).all()


def test_affine_reconstruction_is_in_the_units_of_the_row():
    """Rows of four loudnesses of one shape: its maps bring all to it, and a row back to its own."""
    generator = np.random.default_rng(0)
    factors = np.array([0.25, 0.5, 1.0, 2.0])
    angle = 2 * pi * generator.random((400, 1)) + np.arange(7)
    X = generator.choice(1 / factors, (400, 1)) * np.cos(angle) + 0.01 * generator.normal(
        size=(400, 7)
    )
    model = small(max_iter=100, transformations={"amplitude": factors}).fit(X)
    assert np.square(model.reconstruct(X) - X).mean() < 0.1 * X.var()


def test_names_are_the_maps_that_they_say(images):
    image = images[0].reshape(1, 3, 5)

    def rows_of(**parameters):
        model = small(image_shape=(1, 3, 5), likelihood="bernoulli", **parameters).fit(images)
        return [image.ravel()[index].reshape(1, 3, 5) for index in model.transformations_]

    down, right = rows_of(transformations={"shift": [(1, 0), (0, 2)]})
    np.testing.assert_array_equal(down[0, 1], image[0, 0])
    np.testing.assert_array_equal(right[0, :, 2], image[0, :, 0])
    [slanted] = rows_of(transformations={"shear": [2.0]})
    for row, step in enumerate((-2, 0, 2)):
        np.testing.assert_array_equal(slanted[0, row], np.roll(image[0, row], step))
    [rolled] = rows_of(transformations={"roll": [1]})
    np.testing.assert_array_equal(rolled[0, :, 1], image[0, :, 0])
    order = {"shear": [1.0, 0.0], "shift": [(0, 0), (1, 0), (2, 0)]}
    products = rows_of(transformations=order)
    sheared = np.stack([np.roll(row, step) for row, step in zip(image[0], (-1, 0, 1), strict=True)])
    np.testing.assert_array_equal(products[1][0], np.roll(sheared, 1, 0))
    np.testing.assert_array_equal(products[4][0], np.roll(image[0], 1, 0))


def test_rotation_turns_a_square_counterclockwise():
    X = np.random.default_rng(0).random((23, 49)).round()
    model = small(
        likelihood="bernoulli", image_shape=(1, 7, 7), transformations={"rotation": [90, -90, 0]}
    ).fit(X)
    left, right, same = (X[0, index].reshape(7, 7) for index in model.transformations_)
    np.testing.assert_array_equal(left, np.rot90(X[0].reshape(7, 7)))
    np.testing.assert_array_equal(right, np.rot90(X[0].reshape(7, 7), -1))
    np.testing.assert_array_equal(same, X[0].reshape(7, 7))


def shifted_rows(n_rows, probabilities, seed=0):
    """Pulses of random width, moved right by chance; and by how much."""
    generator = np.random.default_rng(seed)
    widths = 0.7 + 2 * generator.random((n_rows, 1))
    pulses = np.exp(-0.5 * ((np.arange(17) - 5) / widths) ** 2)
    steps = generator.choice(len(probabilities), n_rows, p=probabilities)
    rows = [np.roll(pulse, step) for pulse, step in zip(pulses, steps, strict=True)]
    return np.array(rows) + 0.03 * generator.normal(size=(n_rows, 17)), steps


def test_planted_shifts_and_their_probabilities_are_found():
    """Up to one shift of all of them, which the model cannot know."""
    truth = np.array([0.5, 0.2, 0.0, 0.3, 0.0])
    X, steps = shifted_rows(600, truth)
    model = QLVMEmbedding(
        n_points=89,
        n_points_eval=377,
        hidden_layer_sizes=(32,),
        max_iter=100,
        transformations={"roll": -np.arange(5)},
        transformation_prior="learned",
        random_state=1,
    ).fit(X)
    found = model.transformation_posterior(X).argmax(1)
    assert np.mean(found == steps) > 0.97
    np.testing.assert_allclose(model.transformation_prior_, truth, atol=0.05)
    again, _ = shifted_rows(4000, truth, seed=1)
    drawn = model.sample(4000, random_state=0)
    np.testing.assert_allclose(drawn.mean(0), again.mean(0), atol=0.05)
    alone = clone(model).set_params(transformations=None).fit(X)
    assert model.score(X) > alone.score(X) + 0.5


def test_float32_rows_are_scored_as_float64(images):
    model = small(likelihood="bernoulli", transformations={"roll": [0, 1, 2]}).fit(images)
    X = images[:5]
    for query in (model.score_samples, model.transformation_posterior, model.reconstruct):
        single = query(X.astype(np.float32))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, query(X), rtol=1e-5, atol=1e-5)


def test_permutations_may_be_given_and_are_what_names_say(images):
    rolls = np.stack([np.roll(np.arange(15), step) for step in (0, 1, 5)])
    named = small(transformations={"roll": [0, 1, 5]}).fit(images)
    given = small(transformations=rolls).fit(images)
    np.testing.assert_array_equal(named.transformations_, rolls)
    np.testing.assert_array_equal(named.score_samples(images), given.score_samples(images))


def test_no_transformations_are_one_that_is_certain(images):
    model = small().fit(images)
    np.testing.assert_array_equal(model.transformation_posterior(images[:5]), np.ones((5, 1)))
    assert not hasattr(model, "transformations_")
    same = small(transformations={"roll": [0]}).fit(images)
    np.testing.assert_allclose(same.score_samples(images), model.score_samples(images), rtol=1e-3)


def test_copies_in_training_do_not_change_what_many_maps_say(images):
    """Nine of twelve maps are left out of a step, and none of a score."""
    shifts = list(itertools.product(range(3), range(4)))
    model = small(
        likelihood="bernoulli", image_shape=(1, 3, 5), transformations={"shift": shifts}
    ).fit(images)
    log_w, _ = numpy_model(model, images[:5], "bernoulli")
    nats = logsumexp(log_w, (1, 2)) - log(233)
    np.testing.assert_allclose(model.score_samples(images[:5]), nats, rtol=1e-5)


def test_fitted_model_is_cloned_pickled_and_searched(images):
    maps = {"roll": np.arange(3)}
    model = small(transformations=maps, transformation_prior="learned").fit(images)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.score_samples(images), model.score_samples(images))
    np.testing.assert_array_equal(copy.sample(5, random_state=0), model.sample(5, random_state=0))
    again = clone(model).fit(images)
    np.testing.assert_array_equal(again.score_samples(images), model.score_samples(images))
    assert "QLVMEmbedding" in model._repr_html_()
    grid = {"transformations": [None, {"roll": [0, 1]}, np.arange(15)[None]]}
    search = GridSearchCV(small(max_iter=1), grid, cv=2).fit(images)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_fits_go_on_with_the_same_transformations_only(images):
    model = small(transformations={"roll": np.arange(3)}, warm_start=True).fit(images)
    model.set_params(transformations={"roll": [0, 1, 2]}).fit(images)
    model.partial_fit(images)
    for other in ({"roll": [0, 2, 1]}, {"roll": [0, 1]}, None, np.arange(15)[None]):
        model.set_params(transformations=other)
        with pytest.raises(ValueError, match=r"transformations=.* cannot continue a fit that had"):
            model.fit(images)
    model.set_params(transformations={"roll": [0, 1, 2]}, transformation_prior="learned")
    with pytest.raises(ValueError, match="transformation_prior='learned' cannot continue"):
        model.partial_fit(images)


IMAGE = {"image_shape": (1, 3, 5)}


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"transformations": {}}, ValueError, "expects a name and a grid, but got an empty dict"),
        ({"transformations": "roll"}, TypeError, "expects None, a dict .* but got 'roll'"),
        ({"transformations": 3}, TypeError, "expects None, a dict"),
        ({"transformations": np.eye(15)}, TypeError, "an integer array of permutations"),
        ({"transformations": np.arange(15)}, TypeError, "an integer array of permutations"),
        ({"transformations": {"turn": [1]}}, ValueError, r"expects one of \['amplitude', .*'turn'"),
        ({"transformations": {"roll": []}}, ValueError, "expects a sequence of whole numbers"),
        ({"transformations": {"roll": 3}}, ValueError, "expects a sequence of whole numbers"),
        ({"transformations": {"roll": [0.5]}}, ValueError, "expects a sequence of whole numbers"),
        ({"transformations": {"shift": [1, 2]}, **IMAGE}, ValueError, "pairs of whole numbers"),
        ({"transformations": {"shear": [np.nan]}, **IMAGE}, ValueError, "finite numbers"),
        ({"transformations": {"rotation": [91]}, **IMAGE}, ValueError, "degrees from -90 to 90"),
        ({"transformations": {"amplitude": [0]}}, ValueError, "factors other than 0"),
        ({"transformations": {"shear": [0]}}, ValueError, r"\['shear'\] expects image_shape="),
        (
            {"transformations": {"shear": [0]}, "image_shape": (1, 4, 5)},
            ValueError,
            "has 20 values, but the rows of X have 15",
        ),
        (
            {"transformations": {"amplitude": [1, 2]}, "likelihood": "bernoulli"},
            ValueError,
            "expects a likelihood of real numbers, such as 'gaussian', but got 'bernoulli'",
        ),
        ({"transformations": {"roll": [1, 16]}}, ValueError, "numbers 0 and 1 of 2 are the same"),
        (
            {"transformations": np.zeros((1, 15), dtype=int)},
            ValueError,
            r"transformations\[0\] expects a permutation of the 15 features",
        ),
        (
            {"transformations": np.arange(14)[None]},
            ValueError,
            "expects a permutation of the 15 features",
        ),
        ({"transformation_prior": "even"}, ValueError, r"expects one of \['learned', 'uniform'\]"),
    ],
)
def test_wrong_transformations_raise_before_any_training(parameters, error, message, images):
    with pytest.raises(error, match=message):
        small(max_iter=10**6, **parameters).fit(images)


@pytest.mark.parametrize("kind", [VAEEmbedding, IWAEEmbedding])
def test_models_with_an_encoder_do_not_take_them(kind):
    with pytest.raises(TypeError, match="transformations"):
        kind(transformations={"roll": [0, 1]})
