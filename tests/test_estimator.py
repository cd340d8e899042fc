"""What all estimators owe to their base: parameters of any kind, threads, contexts, data."""

import copy
import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skqlvm import IWAEEmbedding, LatentSampler, QLVMEmbedding, VAEEmbedding, _qlvm
from skqlvm._fitting import Fit
from skqlvm.engine import (
    lattices,
    likelihoods,
    networks,
    optimizers,
    posteriors,
    quadrature,
    training,
)

pytestmark = pytest.mark.filterwarnings("ignore:The posterior of a typical row:UserWarning")

TINY = {"hidden_layer_sizes": (8,), "harmonic_order": 2, "max_iter": 2, "random_state": 0}
LATTICE = {"n_points": 34, "n_points_eval": 55}
CLASSES = [QLVMEmbedding, VAEEmbedding, IWAEEmbedding]
all_classes = pytest.mark.parametrize("kind", CLASSES)


def tiny(kind=QLVMEmbedding, **parameters):
    return kind(**{**TINY, **(LATTICE if kind is QLVMEmbedding else {}), **parameters})


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(7).normal(size=(101, 5))


class Linear(nn.Linear):
    """A decoder, at the top of a module so that it pickles."""


class Dropping(nn.Sequential):
    """A decoder that draws from torch's global generator."""

    def __init__(self, k, d):
        super().__init__(networks.MLPDecoder(k, d, (8,), 2), nn.Dropout(0.2))


# parameters


@all_classes
def test_classes_as_parameters_survive_copies(kind, X):
    model = tiny(kind, likelihood=likelihoods.Gaussian, decoder=Linear).fit(X)
    expected = model.score_samples(X)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert (other.likelihood, other.decoder) == (likelihoods.Gaussian, Linear)
        np.testing.assert_array_equal(other.score_samples(X), expected)
        np.testing.assert_array_equal(other.fit(X).score_samples(X), expected)
    assert clone(model).decoder is Linear


def test_classes_as_parameters_survive_processes_and_samplers(X):
    model = tiny(likelihood=likelihoods.Gaussian, decoder=Linear)
    search = GridSearchCV(model, {"n_points": [5, 8]}, cv=2, n_jobs=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    sampler = pickle.loads(pickle.dumps(LatentSampler(model).fit(X)))
    assert sampler.sample(3, random_state=0).shape == (3, 5)


@all_classes
@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_integers(kind, integer, X):
    numbers = {"n_components": 2, "max_iter": 3, "batch_size": 50, "harmonic_order": 2}
    if kind is QLVMEmbedding:
        numbers |= {"n_points": 100, "n_points_eval": 200}
    if kind is IWAEEmbedding:
        numbers |= {"n_importance_samples": 3}
    sizes = {"hidden_layer_sizes": (integer(8),), "n_iter_no_change": integer(5)}
    plain = tiny(kind, **numbers).fit(X)
    numpys = tiny(kind, **{name: integer(n) for name, n in numbers.items()}, **sizes).fit(X)
    np.testing.assert_array_equal(numpys.score_samples(X), plain.score_samples(X))
    assert numpys.sample(integer(7), random_state=0).shape == (7, 5)
    numpys.set_params(n_components=2, hidden_layer_sizes=[8], warm_start=True).fit(X)


@all_classes
def test_parameters_signature_and_docstring_agree(kind):
    signature = inspect.signature(kind.__init__).parameters
    documented = re.search(r"Parameters\n    -+\n(.*?)\n    Attributes\n", kind.__doc__, re.S)[1]
    entries = re.findall(r"^    (\w+) : (.*)", documented, re.M)
    names = [name for name in signature if name != "self"]
    assert [name for name, _ in entries] == sorted(names, key=dict(entries).__contains__) or set(
        dict(entries)
    ) == set(names)
    for name, text in entries:
        default = signature[name].default
        if default is None:
            assert "None" in text or "optional" in text, name
        else:
            assert text.endswith(f"default={default!r}".replace("'", '"')), (name, text)


def test_shared_parameters_have_shared_defaults():
    defaults = [
        {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}
        for kind in CLASSES
    ]
    shared = set.intersection(*map(set, defaults))
    assert len(shared) >= 16
    for name in shared:
        assert len({repr(of_one[name]) for of_one in defaults}) == 1, name


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"random_state": -1}, ValueError, "random_state expects None, .* but got -1"),
        ({"device": 10**30}, ValueError, "device expects one that is available"),
        ({"warm_start": "no"}, TypeError, "warm_start expects True or False, but got 'no'"),
        ({"warm_start": np.ones(2)}, TypeError, "warm_start expects True or False"),
        ({"matmul_precision": "high"}, ValueError, r"one of \['highest', 'medium'\]"),
    ],
)
@all_classes
def test_parameters_without_meaning_are_named(kind, parameters, error, message, X):
    with pytest.raises(error, match=message):
        tiny(kind, **parameters).fit(X)


# factories


class Odd(nn.Module):
    """A network with something wrong about it."""

    def __init__(self, n_inputs, n_outputs, how):
        super().__init__()
        dtype = {"complex": torch.complex64, "half": torch.float16}.get(how, torch.float32)
        device = "meta" if how == "meta" else "cpu"
        self.layer = nn.Linear(n_inputs, n_outputs, dtype=dtype, device=device)
        self.how = how

    def forward(self, z):
        if self.how == "in place":
            z += 1
        elif self.how == "mul" or (self.how == "mul in eval" and not self.training):
            z.mul_(2)
        elif self.how == "sin":
            z.mul_(6.28).sin_()
        elif self.how == "fails in eval" and not self.training:
            raise RuntimeError("no statistics")
        outputs = self.layer(z.to(self.layer.weight.dtype))
        return {
            "detached": outputs.detach(),
            "first rows": outputs[:2],
            "tuple": (outputs,),
        }.get(self.how, outputs)


IN_PLACE = [
    (how, ValueError, "but it changes them in place")
    for how in ("in place", "mul", "sin", "mul in eval")
]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("complex", TypeError, "float32 or float64 parameters, but layer.weight is .*complex64"),
        ("half", TypeError, "float32 or float64 parameters, but layer.weight is .*float16"),
        ("meta", TypeError, "float32 or float64 parameters, but layer.weight is a meta tensor"),
        *IN_PLACE,
        ("fails in eval", ValueError, r"in eval\(\) too, but it failed for .*: no statistics"),
        ("detached", ValueError, "but they are detached"),
        ("first rows", ValueError, r"maps? \(3, 2\) to \(3, 5\), but the output is \(2, 5\)"),
        ("tuple", TypeError, "modules that return a tensor"),
    ],
)
def test_odd_decoders_are_refused_before_training(how, error, message, X):
    with pytest.raises(error, match=f"decoder expects .*{message}"):
        tiny(decoder=lambda k, d: Odd(k, d, how)).fit(X)


@pytest.mark.parametrize("kind", [VAEEmbedding, IWAEEmbedding])
@pytest.mark.parametrize(
    ("how", "error", "message"), [*IN_PLACE, ("fails in eval", ValueError, "too, but it failed")]
)
def test_odd_encoders_are_refused_before_training(kind, how, error, message, X):
    with pytest.raises(error, match=f"encoder expects .*{message}"):
        tiny(kind, encoder=lambda d, o: Odd(d, o, how)).fit(X)


def test_modules_may_be_detached_in_eval(X):
    class Detached(nn.Linear):
        def forward(self, z):
            return super().forward(z) if self.training else super().forward(z).detach()

    assert np.isfinite(tiny(decoder=Detached).fit(X).score_samples(X)).all()


@pytest.mark.parametrize(
    ("factory", "cause"),
    [(lambda k, d: 1 / 0, ZeroDivisionError), (lambda only: nn.Linear(2, 5), TypeError)],
)
def test_errors_of_factories_are_chained(factory, cause, X):
    message = r"decoder expects a factory f\(n_components, n_outputs\), but .* raised"
    with pytest.raises(ValueError, match=message) as caught:
        tiny(decoder=factory).fit(X)
    assert isinstance(caught.value.__cause__, cause)


def test_factory_of_one_module_does_not_share_it_between_fits(X):
    module = nn.Linear(2, 5)
    weight = module.weight.detach().clone()
    first = tiny(decoder=lambda k, d: module).fit(X)
    before = first.score_samples(X)
    tiny(decoder=lambda k, d: module, max_iter=20).fit(X)
    np.testing.assert_array_equal(first.score_samples(X), before)
    assert torch.equal(module.weight, weight)


# threads and contexts


@pytest.mark.parametrize("kind", [QLVMEmbedding, VAEEmbedding])
def test_fits_in_threads_are_those_alone(kind, X):
    """With dropout, too, whose numbers come from torch's global generator."""
    models = [
        tiny(kind, random_state=seed, max_iter=20, decoder=Dropping if seed % 2 else "mlp")
        for seed in range(4)
    ]
    alone = [clone(model).fit(X).score_samples(X) for model in models]
    before = torch.get_rng_state(), torch.get_float32_matmul_precision()
    found = [None] * 4

    def fit(i):
        found[i] = models[i].fit(X).score_samples(X)

    threads = [threading.Thread(target=fit, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_float32_matmul_precision() == before[1]


@all_classes
def test_fit_does_not_depend_on_the_threads_inside(kind, X, request):
    request.addfinalizer(lambda: torch.set_num_threads(1))
    scores = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        model = tiny(kind, max_iter=20, hidden_layer_sizes=(64, 64)).fit(X)
        scores.append(model.score_samples(X))
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_process_fits_after_a_fit_of_its_parent():
    """Of one thread: OpenMP, on which torch rests, does not outlive a fork with more."""
    code = f"""
        import multiprocessing
        import numpy as np
        import torch
        from skqlvm import QLVMEmbedding

        torch.set_num_threads(1)
        X = np.random.default_rng(7).normal(size=(101, 5))

        def fit(queue=None):
            model = QLVMEmbedding(**{TINY | LATTICE}).fit(X)
            return model.score(X) if queue is None else queue.put(model.score(X))

        expected, context = fit(), multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        context.Process(target=fit, args=(queue,)).start()
        assert queue.get() == expected
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no account of memory here")
@all_classes
def test_fits_in_a_loop_keep_no_memory(kind, X):
    def used():
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    for n_fits in (3, 20):
        before = used()
        for _ in range(n_fits):
            tiny(kind).fit(X).transform(X)
    assert used() - before < 4 * 2**20


@all_classes
@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
)
def test_contexts_of_the_caller_change_nothing(kind, context, X):
    model = tiny(kind).fit(X)
    queries = [model.transform(X), model.score_samples(X), model.reconstruct(X)]
    with context():
        np.testing.assert_array_equal(tiny(kind).fit(X).score_samples(X), queries[1])
        for again, expected in zip(
            (model.transform(X), model.score_samples(X), model.reconstruct(X)), queries, strict=True
        ):
            np.testing.assert_array_equal(again, expected)


@all_classes
def test_default_dtype_of_the_process_changes_nothing(kind, X, request):
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    expected = tiny(kind).fit(X).score_samples(X)
    torch.set_default_dtype(torch.float64)
    np.testing.assert_array_equal(tiny(kind).fit(X).score_samples(X), expected)


# data


@all_classes
def test_units_of_the_data_change_nothing_but_units(kind, X):
    one, two = tiny(kind, max_iter=30).fit(X), tiny(kind, max_iter=30).fit(2 * X)
    np.testing.assert_array_equal(one.transform(X), two.transform(2 * X))
    np.testing.assert_allclose(
        two.score_samples(2 * X), one.score_samples(X) - 5 * np.log(2), rtol=0, atol=1e-9
    )


@all_classes
@pytest.mark.parametrize("factor", [1e-200, 1e-160, 1e100])
def test_data_of_sizes_out_of_reach_are_refused(kind, factor, X):
    with pytest.raises(ValueError, match=r"X is too (small|large)"):
        tiny(kind).fit(factor * X)


@all_classes
def test_training_that_diverges_says_so(kind, X):
    with pytest.raises(FloatingPointError, match="Training diverged"):
        tiny(kind, learning_rate=1e4, max_iter=100, validation_fraction=0).fit(X)


@all_classes
def test_rows_out_of_reach_are_refused(kind, X):
    X = X.astype(np.float32)
    model = tiny(kind).fit(X)
    far = np.where(np.arange(101)[:, None] == 3, np.float32(1e30), X)
    with pytest.raises(ValueError, match="Row 3 is so far from the data of the fit"):
        model.score_samples(far)
    with pytest.raises(ValueError, match="so far from the data"):
        model.score_samples(X.astype(np.float64) + 1e200)


@all_classes
def test_text_as_latent_points_is_named(kind, X):
    model = tiny(kind).fit(X)
    with pytest.raises(ValueError, match="Z expects numbers of shape"):
        model.inverse_transform([["a", "b"]])


@pytest.mark.parametrize("kind", [VAEEmbedding, IWAEEmbedding])
def test_latent_points_out_of_reach_are_named(kind, X):
    model = tiny(kind).fit(X)
    with pytest.raises(ValueError, match=r"Row 1 of Z is so far from .* Give what transform"):
        model.inverse_transform([[0.0, 0.0], [1e300, 1e20]])


class BoundedBy(nn.Linear):
    """A decoder that is finite on a part of the torus only."""

    def forward(self, z):
        return super().forward(z) / (z[:, :1] != 0.75)


def test_points_of_the_torus_without_an_image_are_named(X):
    model = tiny(decoder=BoundedBy).fit(X)
    with pytest.raises(ValueError, match="Row 2 of Z is so far from"):
        model.inverse_transform([[0.0, 0.0], [0.5, 0.75], [2.75, 0.0]])


@pytest.mark.parametrize(("shape", "image"), [((7, 3, 5), "1, 3, 5"), ((7, 2, 3, 5), "2, 3, 5")])
@all_classes
def test_images_are_refused_with_the_way_to_flatten_them(kind, shape, image):
    message = rf"Flatten images with X.reshape\(len\(X\), -1\).* image_shape=\({image}\)"
    with pytest.raises(ValueError, match=message):
        tiny(kind).fit(np.zeros(shape))


@all_classes
def test_columns_that_are_no_numbers_are_named(kind, X):
    frame = pd.DataFrame(X, columns=list("abcde")).assign(
        kind=pd.Categorical(["x", "y"] * 50 + ["x"]), when=pd.Timestamp("2026-01-01")
    )
    with pytest.raises(TypeError, match=r"'kind' \(category\), 'when' \(datetime64"):
        tiny(kind).fit(frame)


@all_classes
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("column", "named"),
    [
        (pd.period_range("2026-01-01", periods=101, freq="D"), r"period\[D\]"),
        (pd.interval_range(0, 101), r"interval\[int64, right\]"),
        (pd.arrays.SparseArray(np.arange(101)), r"Sparse\[int64, 0\]"),
        (pd.arrays.SparseArray(np.arange(101.0)), r"Sparse\[float64, nan\]"),
    ],
)
def test_columns_of_types_of_pandas_are_named(kind, alone, column, named, X):
    frame = pd.DataFrame({} if alone else {"other": X[:, 0]}, index=range(101)).assign(odd=column)
    remedy = r"makes sparse ones dense\.$" if "Sparse" in named else r"ColumnTransformer\.$"
    with pytest.raises(TypeError, match=rf"got 'odd' \({named}\)\. Encode .*{remedy}"):
        tiny(kind).fit(frame)


def test_sparse_columns_are_dense_after_the_remedy(X):
    dense = pd.DataFrame(X, columns=list("abcde"))
    remedied = dense.astype({"a": "Sparse[float64]"}).astype(float)
    np.testing.assert_array_equal(
        tiny().fit(remedied).transform(remedied), tiny().fit(dense).transform(dense)
    )


def test_message_for_unsuitable_rows_names_the_likelihood_of_the_fit(X):
    unit = (X - X.min()) / np.ptp(X)
    model = tiny(likelihood="bernoulli").fit(unit).set_params(likelihood="gaussian")
    with pytest.raises(ValueError, match=r"likelihood='bernoulli' expects X in \[0, 1\]"):
        model.transform(X)


def test_counts_are_whole_numbers():
    counts = np.random.default_rng(0).poisson(3, size=(101, 5)).astype(float)
    for kind in CLASSES:
        model = tiny(kind, likelihood="poisson").fit(counts)
        assert np.isfinite(model.score_samples(counts)).all()
        with pytest.raises(ValueError, match="'poisson' expects whole numbers, but got a value"):
            model.score_samples(counts + 0.5)


# queries


def test_coordinates_are_in_turns_whatever_the_output(X):
    model = tiny().fit(X)
    expected = model.transform(X)
    for output in ("cartesian", "moments"):
        np.testing.assert_array_equal(model.set_params(output=output).coordinates(X), expected)
    frame = model.set_params(output="turns").set_output(transform="pandas").transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(model.coordinates(X), np.ndarray)


@all_classes
def test_fit_transform_keeps_the_embedding(kind, X):
    model = tiny(kind)
    Z = model.fit_transform(X)
    np.testing.assert_array_equal(model.embedding_, Z)
    np.testing.assert_array_equal(model.transform(X), Z)
    assert not hasattr(model.fit(X), "embedding_")


@all_classes
def test_samples_without_noise_are_decoded_points(kind, X):
    model = tiny(kind, noise_variance=0.04).fit(X)
    clean, noisy = (model.sample(5000, random_state=0, noise=noise) for noise in (False, True))
    assert (noisy - clean).std() == pytest.approx(0.2, rel=0.05)
    far = tiny(kind, noise_variance=100.0).fit(X)
    assert far.sample(101, random_state=0).std() > 5 * far.sample(101, 0, noise=False).std()


@pytest.mark.parametrize("kind", [VAEEmbedding, IWAEEmbedding])
def test_posterior_is_one_over_the_lattice_and_finds_the_proposal(kind, X):
    model = tiny(kind, max_iter=200, noise_variance=0.5).fit(X)
    weights = model.posterior(X)
    assert weights.shape == (101, model.n_points_eval_) == (101, len(model.lattice_))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-9)
    mean, _ = model.proposal(X)
    distance = np.abs(weights @ model.lattice_ - mean).mean()
    assert distance < 0.5 * np.abs(mean[::-1] - mean).mean()


def test_kept_lattice_of_an_encoder_model_gives_the_scores_of_a_decoded_one(X, monkeypatch):
    kept = tiny(VAEEmbedding).fit(X)
    monkeypatch.setattr("skqlvm._encoder_queries._ATLAS_BYTES", 0)
    decoded = tiny(VAEEmbedding).fit(X)
    assert decoded._atlas is None
    assert kept._atlas is not None
    np.testing.assert_allclose(kept.score_samples(X), decoded.score_samples(X), atol=1e-4)
    np.testing.assert_allclose(kept.posterior(X), decoded.posterior(X), atol=1e-4)


# what a fit does in passing, and would be missed


def test_every_step_has_a_shift_of_its_own(X, monkeypatch):
    shifts, draw = [], lattices.random_shift

    def recorded(n_components, generator):
        shifts.append(draw(n_components, generator))
        return shifts[-1]

    monkeypatch.setattr(lattices, "random_shift", recorded)
    tiny(max_iter=7).fit(X)
    assert len({tuple(shift.tolist()) for shift in shifts}) == len(shifts) == 7


def test_continued_fits_have_all_harmonics_open(X):
    model = tiny(max_iter=20, harmonic_order=3, n_iter_no_change=None).fit(X)
    basis = model.decoder_.basis
    basis.open(1.0)
    closed = basis.scales.clone()
    for go_on in (model.partial_fit, model.set_params(warm_start=True).fit):
        go_on(X)
        assert (model.decoder_.basis.scales >= closed).all()
        assert (model.decoder_.basis.scales > 0).all()
        model.decoder_.basis.open(1.0)


def test_partial_fit_steps_by_a_quarter(X):
    """The first step of Adam is as long as its step size."""
    one = tiny(learning_rate=0.01, batch_size=101, decoder=Linear)
    before = one._build(likelihoods.Gaussian(5), 101, _randomness(one, X)).decoder.weight
    after = one.partial_fit(X).decoder_.weight
    decayed = optimizers._DECAY * 0.0025**2 * before
    assert (after - before + decayed).abs().max().item() == pytest.approx(0.0025, rel=1e-3)


def _randomness(model, X):
    return Fit.of(model, X, 0.0).randomness


@pytest.mark.parametrize(
    ("effective", "said"),
    [([1.0, 1.0, 1.0, 500.0, 500.0], "1.0"), ([1.0, 1.1, 1.1, 1.3, 5.0], "1.1")],
)
def test_coarse_warning_is_once_by_the_median_row(effective, said, X, monkeypatch):
    errors = torch.tensor([1.0, 2.0, 3.0, 400.0, 500.0])
    monkeypatch.setattr(posteriors, "effective_points", lambda weights: torch.tensor(effective))
    monkeypatch.setattr(quadrature, "standard_error", lambda *_, **__: errors)
    with pytest.warns(UserWarning, match="rests on") as caught:
        tiny().fit(X)
    [text] = [text for text in map(str, (one.message for one in caught)) if "rests on" in text]
    assert f"rests on {said} of the 55 points" in text
    assert "off by 3 nats" in text


@pytest.mark.parametrize("effective", [[1.0, 1.0, 5.0, 5.0, 5.0], [1.0, 1.0, 1.25, 1.3, 500.0]])
def test_rows_that_are_not_typical_do_not_warn(effective, X, monkeypatch):
    monkeypatch.setattr(posteriors, "effective_points", lambda weights: torch.tensor(effective))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The posterior of a typical row")
        tiny().fit(X)


@pytest.mark.parametrize(
    ("n_rows", "fraction", "n_held_out"),
    [(25_000, 0.1, 2000), (25_000, 0.9, 2000), (1009, 0.1, 101), (11, 0.99, 10), (41, 0.1, 0)],
)
def test_held_out_rows_are_a_fraction_within_limits(n_rows, fraction, n_held_out):
    """At most 2000, all but one, and none where they would be fewer than five."""
    fit = Fit.of(tiny(), np.broadcast_to(np.zeros(2), (n_rows, 2)), fraction)
    assert (len(fit.held_out), len(fit.trained)) == (n_held_out, n_rows - n_held_out)
    assert sorted([*fit.held_out.tolist(), *fit.trained.tolist()]) == list(range(n_rows))


def test_harmonic_order_may_change_what_moments_are_returned(X):
    model = tiny(output="moments").fit(X)
    assert model.transform(X).shape == (101, 12)
    assert model.set_params(harmonic_order=1).transform(X).shape == (101, 4)
    with pytest.raises(ValueError, match="harmonic_order expects an integer"):
        model.set_params(harmonic_order=0).transform(X)


def interrupt_the_first_step(monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Run, "step", interrupt)


@all_classes
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_interrupt_in_the_first_step_leaves_no_model(kind, method, X, monkeypatch):
    interrupt_the_first_step(monkeypatch)
    model = tiny(kind)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(X)
    assert not [name for name in vars(model) if name.endswith("_")]


@all_classes
def test_interrupt_in_the_first_step_of_another_pass_does_not_count_it(kind, X, monkeypatch):
    model = tiny(kind).partial_fit(X)
    before = model.score_samples(X)
    with monkeypatch.context() as patch:
        interrupt_the_first_step(patch)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(X)
    assert model.n_iter_ == 1
    np.testing.assert_array_equal(model.score_samples(X), before)
    assert model.partial_fit(X).n_iter_ == 2


def coarse_warnings(caught):
    return [str(one.message) for one in caught if "posterior of a typical row" in str(one.message)]


def test_coarse_warning_says_the_median_error(X):
    """Two rows in five are far out, where the lattice says little."""
    X = X * np.where(np.arange(101) % 5 < 2, 30, 1)[:, None]
    model = tiny(noise_variance=1e-3, n_points_eval=13)
    with pytest.warns(UserWarning, match="Raise n_points_eval") as caught:
        model.fit(X)
    errors = model.score_samples(X, return_std=True)[1]
    [said] = coarse_warnings(caught)
    assert "of the 13 points of the evaluation lattice" in said
    assert f"may be off by {np.median(errors):.1g} nats." in said
    assert f"{np.median(errors):.1g}" != f"{errors.mean():.1g}"


@pytest.mark.parametrize(("n_rows", "n_scored"), [(20, 20), (33, 17), (101, 26)])
def test_error_of_a_coarse_lattice_is_that_of_few_rows_in_all_parts(
    n_rows, n_scored, X, monkeypatch
):
    """Of 32 at most: each of them costs as much as hundreds that are mapped."""
    scored = []

    def recorded(model, points, rows, **_):
        assert max(map(len, rows)) <= 13
        scored.extend(torch.cat(list(rows)).tolist())
        return torch.zeros(1)

    monkeypatch.setattr(quadrature, "standard_error", recorded)
    monkeypatch.setattr(_qlvm, "_FINISHED_ROWS", 13)
    X = X[:n_rows][X[:n_rows, 0].argsort()]
    tiny(noise_variance=1e-3, n_points_eval=13).fit(X)
    places = [X.tolist().index(row) for row in scored]
    assert len(set(places)) == len(places) == n_scored
    thirds = np.bincount(np.array(places) * 3 // n_rows, minlength=3)
    assert thirds.min() >= n_scored // 6


def test_coarse_lattice_that_scores_well_is_not_warned_of(X, monkeypatch):
    model = tiny(noise_variance=1e-3, n_points_eval=13)
    monkeypatch.setattr(_qlvm, "_SETTLED", float("inf"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X)
    assert not coarse_warnings(caught)


def test_coarse_warning_comes_once_for_a_model_and_a_lattice(X, monkeypatch):
    """Nor are 8 shifted lattices decoded again for it."""
    decoded, charts = [], quadrature.charts

    def recorded(*arguments, **keywords):
        decoded.append(arguments)
        return charts(*arguments, **keywords)

    monkeypatch.setattr(quadrature, "charts", recorded)

    def heard(fit):
        decoded.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(X)
        return len(coarse_warnings(caught)), len(decoded)

    model = tiny(noise_variance=1e-3, n_points_eval=13)
    assert [heard(model.partial_fit) for _ in range(3)] == [(1, 1 + 8), (0, 1), (0, 1)]
    assert heard(model.set_params(warm_start=True).fit) == (0, 1)
    assert heard(model.set_params(n_points_eval=21).partial_fit) == (1, 1 + 8)
    assert heard(pickle.loads(pickle.dumps(model)).partial_fit) == (0, 1)
    assert heard(model.set_params(warm_start=False).fit) == (1, 1 + 8)


@pytest.mark.parametrize(
    ("parameters", "n_rows", "n_halved"),
    [
        ({}, 512 * 17, 125),
        ({}, 256 * 11, 125),
        ({}, 128 * 11, 0),
        ({"batch_size": 256}, 512 * 17, 0),
        ({"max_iter": 30}, 512 * 17, 0),
    ],
)
def test_first_batches_of_a_budgeted_fit_of_many_rows_are_halved(parameters, n_rows, n_halved):
    model = QLVMEmbedding(**parameters)
    fit = Fit.of(model, np.broadcast_to(0.0, (n_rows, 2)), 0.0)
    assert model._annealed(fit, 500).halved_until == n_halved


@pytest.mark.parametrize(
    ("kind", "n_rows", "n_steps"),
    [
        (QLVMEmbedding, 11, 500),
        (QLVMEmbedding, 128 * 10, 500),
        (QLVMEmbedding, 512 * 17, 500),
        *((kind, 11, 1000) for kind in (VAEEmbedding, IWAEEmbedding)),
        *((kind, 128 * 11, 1100) for kind in (VAEEmbedding, IWAEEmbedding)),
        *((kind, 128 * 101, 10_000) for kind in (VAEEmbedding, IWAEEmbedding)),
    ],
)
def test_auto_budget_has_the_limits_that_are_documented(kind, n_rows, n_steps):
    model = kind()
    rows = np.broadcast_to(0.0, (n_rows, 2))
    assert model._n_steps(Fit.of(model, rows, 0.0)) == n_steps
    fewest, most = (f"{bound:,}" if bound >= 10_000 else f"{bound}" for bound in kind._auto_steps)
    words = " ".join(kind.__doc__.split())
    if fewest == most:
        assert f'"auto" is {fewest} steps' in words
    else:
        assert f'"auto" is {kind._auto_passes} passes, but at least {fewest}' in words
        assert f"at most {most}" in words
