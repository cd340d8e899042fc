"""Bad input: a sentence with what was expected, what came and what to do, before any training, and
nothing left behind."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError
from torch import nn

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm.engine import likelihoods

TINY = {
    "n_points": 13,
    "n_points_eval": 34,
    "hidden_layer_sizes": (5,),
    "harmonic_order": 1,
    "max_iter": 1,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).random((11, 3))


class Untouchable(nn.Module):
    """A decoder that fails the test if it is ever built."""

    def __init__(self, n_components, n_outputs):
        pytest.fail("training began")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (
            {"n_components": 4},
            ValueError,
            r"expects 1, 2 or 3, but got 4: .* grow exponentially .* Use VAEEmbedding",
        ),
        (
            {"n_components": 0},
            ValueError,
            "n_components expects an integer of at least 1, but got 0",
        ),
        (
            {"n_components": 2.0},
            TypeError,
            "n_components expects an integer of at least 1, but got 2.0",
        ),
        (
            {"n_points": 0},
            ValueError,
            "n_points expects an integer of at least 1 or 'auto', but got 0",
        ),
        (
            {"n_points": "many"},
            TypeError,
            "n_points expects an integer of at least 1 or 'auto', but got 'many'",
        ),
        (
            {"n_points_eval": -5},
            ValueError,
            "n_points_eval expects an integer of at least 1 or 'auto', but got -5",
        ),
        (
            {"max_iter": 0},
            ValueError,
            "max_iter expects an integer of at least 1 or 'auto', but got 0",
        ),
        (
            {"batch_size": True},
            TypeError,
            "batch_size expects an integer of at least 1 or 'auto', but got True",
        ),
        (
            {"harmonic_order": 0},
            ValueError,
            "harmonic_order expects an integer of at least 1 or 'auto', but got 0",
        ),
        (
            {"hidden_layer_sizes": 64},
            TypeError,
            r"hidden_layer_sizes expects a tuple of integers such as \(256, 256\), but got 64",
        ),
        (
            {"hidden_layer_sizes": (64, 0)},
            ValueError,
            "each entry of hidden_layer_sizes expects an integer of at least 1, but got 0",
        ),
        (
            {"learning_rate": 0.0},
            ValueError,
            r"learning_rate expects a number in \(0, inf\), but got 0.0",
        ),
        (
            {"learning_rate": float("nan")},
            ValueError,
            r"learning_rate expects a number in \(0, inf\), but got nan",
        ),
        (
            {"learning_rate": "fast"},
            TypeError,
            r"learning_rate expects a number in \(0, inf\), but got 'fast'",
        ),
        (
            {"validation_fraction": 1.0},
            ValueError,
            r"validation_fraction expects a number in \[0, 1\), but got 1.0",
        ),
        (
            {"n_iter_no_change": 0},
            ValueError,
            "n_iter_no_change expects an integer of at least 1, but got 0",
        ),
        ({"verbose": -1}, ValueError, "verbose expects an integer of at least 0, but got -1"),
        (
            {"likelihood": "cauchy"},
            ValueError,
            r"likelihood expects one of \[.*'gaussian'.*\].* or a callable, but got 'cauchy'",
        ),
        (
            {"decoder": "transformer"},
            ValueError,
            r"decoder expects one of \['conv', 'mlp'\] or a callable, but got 'transformer'",
        ),
        (
            {"noise_variance": "full"},
            ValueError,
            r"noise_variance expects one of \['diagonal', 'spherical'\], but got 'full'",
        ),
        (
            {"noise_variance": 0},
            ValueError,
            "noise_variance expects 'spherical', 'diagonal' or a positive number, but got 0",
        ),
        (
            {"embedding": "median"},
            ValueError,
            r"embedding expects one of \['local', 'mean', 'mode'\], but got 'median'",
        ),
        (
            {"output": "radians"},
            ValueError,
            r"output expects one of \['cartesian', 'moments', 'turns'\], but got 'radians'",
        ),
        (
            {"matmul_precision": "low"},
            ValueError,
            r"matmul_precision expects one of \['highest', 'medium'\], but got 'low'",
        ),
        (
            {"device": "abacus"},
            ValueError,
            r"device expects one that is available here, such as \['auto', 'cpu'.*\], but got "
            r"'abacus'",
        ),
        (
            {"device": "meta"},
            ValueError,
            "device expects one that is available here, .* but got 'meta'",
        ),
        (
            {"decoder": nn.Linear(2, 3)},
            TypeError,
            "decoder expects a factory .* but got an instance of Linear",
        ),
        (
            {"likelihood": likelihoods.Bernoulli(3)},
            TypeError,
            "likelihood expects a factory .* but got an instance of Bernoulli",
        ),
        ({"device": 7.5}, ValueError, r"device expects one that is available here, .* but got 7.5"),
    ],
)
def test_bad_parameter_is_refused_before_training(parameters, error, message, X):
    model = QLVMEmbedding(**{**TINY, "decoder": Untouchable, **parameters})
    with pytest.raises(error, match=message):
        model.fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]
    with pytest.raises(error, match=message):
        model.partial_fit(X)


def test_unavailable_gpu_is_refused(X):
    with pytest.raises(
        ValueError, match=r"device expects one that is available here, .* but got 'cuda:77'"
    ):
        QLVMEmbedding(**TINY, device="cuda:77").fit(X)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([[np.nan, 1.0], [np.nan, 2.0]], ValueError, "column 0 has none: all 2 are missing"),
        ([[np.inf, 1.0], [0.0, 1.0]], ValueError, "contains infinity"),
        (np.empty((0, 3)), ValueError, "0 sample"),
        (np.empty((3, 0)), ValueError, "0 feature"),
        ([[1.0, 2.0]], ValueError, r"1 sample\(s\) .* minimum of 2 is required by QLVMEmbedding"),
        ([1.0, 2.0, 3.0], ValueError, "Expected 2D array"),
        ([["a", "b"], ["c", "d"]], ValueError, "could not convert string to float"),
        (
            scipy.sparse.eye(5, format="csr"),
            TypeError,
            r"expects a dense array, but got a sparse matrix. Use X.toarray\(\)",
        ),
        (np.array([[1e200, 1.0], [-1e200, 2.0]]), ValueError, "X is too large"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_data_is_refused(rows, error, message):
    model = QLVMEmbedding(**TINY)
    with pytest.raises(error, match=message):
        model.fit(rows)
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize(
    ("low", "high", "end"), [(-3.2, 1.0, "minimum of -3.2"), (0.0, 255.0, "maximum of 255")]
)
def test_bernoulli_refuses_data_outside_its_support(low, high, end):
    X = np.array([[low, 0.5], [0.5, high]])
    with pytest.raises(
        ValueError,
        match=rf"likelihood='bernoulli' expects X in \[0, 1\], but got a {end}. Rescale X",
    ):
        QLVMEmbedding(**TINY, likelihood="bernoulli").fit(X)
    model = QLVMEmbedding(**TINY, likelihood="bernoulli").fit(np.eye(2))
    with pytest.raises(ValueError, match=rf"but got a {end}"):
        model.score_samples(X)


def test_decoder_factory_is_checked_before_training(X):
    with pytest.raises(
        ValueError,
        match=r"map \(2, 2\) to \(2, 3\), but the output is \(2, 7\). Make its last layer 3 wide",
    ):
        QLVMEmbedding(**{**TINY, "decoder": lambda k, d: nn.Linear(k, 7)}).fit(X)
    with pytest.raises(
        TypeError, match="torch modules with parameters to train, but it made 'a string'"
    ):
        QLVMEmbedding(**{**TINY, "decoder": lambda k, d: "a string"}).fit(X)
    with pytest.raises(
        TypeError, match="torch modules with parameters to train, but it made Identity"
    ):
        QLVMEmbedding(**{**TINY, "decoder": lambda k, d: nn.Identity()}).fit(X)


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        (5, r"decoder='conv' expects image_shape=\(channels, height, width\), but got 5"),
        (None, r"decoder='conv' expects image_shape=\(channels, height, width\), but got None"),
        ((3, 1), r"expects image_shape=\(channels, height, width\), but got \(3, 1\)"),
        ((1, 2, 2), r"image_shape=\(1, 2, 2\) has 4 values, but the rows of X have 3 features"),
    ],
)
def test_image_shape_is_checked_before_training(image_shape, message, X):
    with pytest.raises(ValueError, match=message):
        QLVMEmbedding(**{**TINY, "decoder": "conv", "image_shape": image_shape}).fit(X)


def test_queries_check_that_there_is_a_fit_and_that_features_agree(X):
    model = QLVMEmbedding(**TINY)
    for query in (
        model.transform,
        model.score_samples,
        model.posterior,
        model.reconstruct,
        model.inverse_transform,
        model.sample,
    ):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            query(X if query != model.sample else 1)
    model.fit(X)
    for query in (
        model.transform,
        model.score_samples,
        model.posterior,
        model.reconstruct,
        model.partial_fit,
    ):
        with pytest.raises(
            ValueError, match="X has 2 features, but QLVMEmbedding is expecting 3 features"
        ):
            query(X[:, :2])
    with pytest.raises(
        ValueError, match="Z has 3 columns, but inverse_transform of output='turns' expects 2"
    ):
        model.inverse_transform(X)
    with pytest.raises(ValueError, match="n_samples expects an integer of at least 1, but got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="embedding expects one of"):
        model.set_params(embedding="median").transform(X)
    with pytest.raises(ValueError, match="X has 2 features"):
        model.set_params(embedding="mode", warm_start=True).fit(X[:, :2])
    assert model.transform(X).shape == (11, 2)


def test_likelihood_factory_is_checked_before_training(X):
    with pytest.raises(
        TypeError, match=r"likelihood expects a factory of .*ExponentialFamily, but it made None"
    ):
        QLVMEmbedding(**TINY, likelihood=lambda d: None).fit(X)
    with pytest.raises(ValueError, match="for 3 it made one of 7 features"):
        QLVMEmbedding(**TINY, likelihood=lambda d: likelihoods.Gaussian(7)).fit(X)


@pytest.mark.parametrize("name", ["n_points", "n_points_eval"])
def test_lattice_that_does_not_fit_is_refused_before_training(name, X, monkeypatch):
    """10^15 points of 3 numbers, of 24 bytes each."""
    message = rf"{name}=1000000000000000 expects 6.71e\+07 GiB of memory, for 3 .* Lower {name}\."
    model = QLVMEmbedding(**{**TINY, "decoder": nn.Linear, name: 10**15})
    monkeypatch.setattr("skqlvm.engine.training.train", None)
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=message):
            fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]


def test_decoder_that_fails_is_named(X):
    with pytest.raises(
        ValueError,
        match=r"decoder expects modules that map tensors of shape \(m, 2\) to tensors, but it "
        r"failed for torch.float32: ",
    ):
        QLVMEmbedding(**{**TINY, "decoder": lambda k, d: nn.Linear(5, d)}).fit(X)


@pytest.mark.parametrize(
    "change", [{"n_components": 1}, {"likelihood": "bernoulli"}, {"hidden_layer_sizes": (7,)}]
)
def test_continuing_with_another_architecture_is_refused(change, X):
    model = QLVMEmbedding(**TINY, warm_start=True).fit(X)
    model.set_params(**change)
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(
            ValueError, match=rf"{next(iter(change))}=.* cannot continue a fit that had"
        ):
            fit(X)
    assert model.set_params(warm_start=False).fit(X).transform(X).shape == (11, model.n_components)


def test_rounding_of_rescaled_data_is_forgiven():
    X = np.array([[0.0, 1.0 + 4e-16], [-3e-17, 0.5]])
    assert np.isfinite(QLVMEmbedding(**TINY, likelihood="bernoulli").fit(X).score_samples(X)).all()


# models with an encoder

SMALL = {"hidden_layer_sizes": (5,), "max_iter": 1, "random_state": 0}
ENCODER_MODELS = [VAEEmbedding, IWAEEmbedding]


class Laplace(likelihoods.Likelihood):
    """A likelihood that is no exponential family in its location."""

    def terms(self, x, mask=None):
        return likelihoods.Terms(x, x.new_zeros(len(x)))

    def paired(self, terms, outputs):
        distances = (terms.statistics.to(outputs)[:, None] - outputs).abs().sum(-1)
        return -distances - self.n_features * np.log(2)

    def mean(self, outputs):
        return outputs


@pytest.mark.parametrize("kind", [QLVMEmbedding, *ENCODER_MODELS])
@pytest.mark.parametrize("k", [1, 3])
def test_likelihood_without_a_table_is_refused_where_a_lattice_needs_it(kind, k, X):
    model = kind(k, **SMALL, decoder=Untouchable, likelihood=Laplace)
    message = r"likelihood expects a factory of .*ExponentialFamily, but it made Laplace\(\)\. Sub"
    with pytest.raises(TypeError, match=message):
        model.fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize("kind", ENCODER_MODELS)
def test_likelihood_without_a_table_serves_where_there_is_no_lattice(kind, X):
    model = kind(4, **SMALL, likelihood=Laplace).fit(X)
    assert np.isfinite(model.score_samples(X, n_importance_samples=7)).all()
    assert model.reconstruct(X).shape == X.shape


@pytest.mark.parametrize("kind", ENCODER_MODELS)
@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (
            {"n_components": 0},
            ValueError,
            "n_components expects an integer of at least 1, but got 0",
        ),
        (
            {"encoder": "transformer"},
            ValueError,
            r"encoder expects one of \['conv', 'mlp'\] or a callable, but got 'transformer'",
        ),
        (
            {"encoder": nn.Linear(3, 4)},
            TypeError,
            "encoder expects a factory .* but got an instance of Linear",
        ),
        (
            {"latent": "sphere"},
            ValueError,
            r"latent expects one of \['normal', 'torus'\], but got 'sphere'",
        ),
        (
            {"latent": None},
            ValueError,
            r"latent expects one of \['normal', 'torus'\], but got None",
        ),
        (
            {"latent": "torus", "n_components": 4},
            ValueError,
            "latent='torus' expects 1, 2 or 3 components, but got 4. Use latent='normal'",
        ),
        (
            {"covariance_type": "spherical"},
            ValueError,
            r"covariance_type expects one of \['diagonal', 'full', 'low_rank'\], but got "
            r"'spherical'",
        ),
        (
            {"learning_rate": 0.0},
            ValueError,
            r"learning_rate expects a number in \(0, inf\), but got 0.0",
        ),
        (
            {"max_iter": "many"},
            TypeError,
            "max_iter expects an integer of at least 1 or 'auto', but got 'many'",
        ),
        (
            {"likelihood": "cauchy"},
            ValueError,
            r"likelihood expects one of \[.*'gaussian'.*\].* or a callable, but got 'cauchy'",
        ),
        (
            {"noise_variance": 0},
            ValueError,
            "noise_variance expects 'spherical', 'diagonal' or a positive number, but got 0",
        ),
        (
            {"hidden_layer_sizes": 64},
            TypeError,
            r"hidden_layer_sizes expects a tuple of integers such as \(256, 256\), but got 64",
        ),
        (
            {"device": "abacus"},
            ValueError,
            r"device expects one that is available here, .* but got 'abacus'",
        ),
    ],
)
def test_bad_parameter_of_an_encoder_model_is_refused_before_training(
    parameters, error, message, kind, X
):
    model = kind(**{**SMALL, "decoder": Untouchable, **parameters})
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(error, match=message):
            fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            VAEEmbedding(objective="gan"),
            ValueError,
            r"objective expects one of \['autoencoder', 'elbo', 'infovae', 'wae_mmd'\], but got "
            r"'gan'",
        ),
        (VAEEmbedding(beta=-0.5), ValueError, r"beta expects a number in \[0, inf\), but got -0.5"),
        (
            VAEEmbedding(beta="big"),
            TypeError,
            r"beta expects a number in \[0, inf\), but got 'big'",
        ),
        (
            VAEEmbedding(mmd_weight=-1),
            ValueError,
            r"mmd_weight expects a number in \[0, inf\), but got -1",
        ),
        (
            VAEEmbedding(mmd_weight=float("nan")),
            ValueError,
            r"mmd_weight expects a number in \[0, inf\), but got nan",
        ),
        (
            IWAEEmbedding(n_importance_samples=0),
            ValueError,
            "n_importance_samples expects an integer of at least 1, but got 0",
        ),
        (
            IWAEEmbedding(n_importance_samples=2.5),
            TypeError,
            "n_importance_samples expects an integer of at least 1, but got 2.5",
        ),
        (
            IWAEEmbedding(gradient="sticking"),
            ValueError,
            r"gradient expects one of \['doubly_reparametrized', 'standard'\], but got 'sticking'",
        ),
    ],
)
def test_bad_objective_is_refused_before_training(model, error, message, X):
    model.set_params(decoder=Untouchable)
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(error, match=message):
            fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]


class Single(nn.Linear):
    """An encoder that computes in float32 whatever it is given."""

    def forward(self, x):
        return super().forward(x.float())


@pytest.mark.parametrize("kind", ENCODER_MODELS)
@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (
            lambda d, o: nn.Linear(d, 7),
            ValueError,
            r"map \(2, 3\) to \(2, 4\), but the output is \(2, 7\). Make its last layer 4 wide",
        ),
        (
            lambda d, o: "a string",
            TypeError,
            "encoder expects a factory of torch modules with parameters to train, but it made 'a "
            "string'",
        ),
        (
            lambda d, o: nn.Identity(),
            TypeError,
            "torch modules with parameters to train, but it made Identity",
        ),
        (
            lambda d, o: nn.Linear(5, o),
            ValueError,
            r"encoder expects modules that map tensors of shape \(m, 3\) to tensors, but it failed",
        ),
        (
            Single,
            ValueError,
            r"encoder expects modules that map .* but it failed for torch.float64: ",
        ),
    ],
)
def test_encoder_factory_is_checked_before_training(encoder, error, message, kind, X):
    model = kind(**SMALL, encoder=encoder)
    with pytest.raises(error, match=message):
        model.fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize(
    ("parameters", "n_outputs"),
    [
        ({"latent": "torus"}, 6),
        ({"covariance_type": "low_rank"}, 6),
        ({"covariance_type": "full", "n_components": 3}, 9),
        ({"n_components": 5}, 10),
    ],
)
def test_encoder_factory_is_told_how_many_numbers_to_say(parameters, n_outputs, X):
    with pytest.raises(ValueError, match=rf"Make its last layer {n_outputs} wide"):
        VAEEmbedding(**SMALL, **parameters, encoder=lambda d, o: nn.Linear(d, 1)).fit(X)


@pytest.mark.parametrize("kind", ENCODER_MODELS)
@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        (None, r"encoder='conv' expects image_shape=\(channels, height, width\), but got None"),
        ((1, 2, 2), r"image_shape=\(1, 2, 2\) has 4 values, but the rows of X have 3 features"),
    ],
)
def test_image_shape_of_an_encoder_is_checked_before_training(image_shape, message, kind, X):
    with pytest.raises(ValueError, match=message):
        kind(**SMALL, encoder="conv", image_shape=image_shape).fit(X)


@pytest.mark.parametrize("kind", ENCODER_MODELS)
def test_queries_of_an_encoder_model_check_fit_features_and_options(kind, X):
    model = kind(**SMALL)
    queries = [
        model.transform,
        model.score_samples,
        model.posterior,
        model.reconstruct,
        model.active_units,
    ]
    for query in (*queries, model.inverse_transform, model.sample):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            query(X if query != model.sample else 1)
    model.fit(X)
    for query in (*queries, model.partial_fit):
        with pytest.raises(
            ValueError, match=f"X has 2 features, but {kind.__name__} is expecting 3 features"
        ):
            query(X[:, :2])
        with pytest.raises(ValueError, match="contains infinity"):
            query(np.full((5, 3), np.inf))
        with pytest.raises(TypeError, match="expects a dense array, but got a sparse matrix"):
            query(scipy.sparse.eye(3, format="csr"))
    with pytest.raises(
        ValueError,
        match=r"Z has 3 columns, but inverse_transform expects 2. Give what transform returns",
    ):
        model.inverse_transform(X)
    options = (
        r"method expects one of \['auto', 'elbo', 'encoder', 'importance', 'quadrature'\], but got"
    )
    with pytest.raises(ValueError, match=options):
        model.score_samples(X, "exact")
    for n_draws, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(
            error, match=f"n_importance_samples expects an integer of at least 1, but got {n_draws}"
        ):
            model.score_samples(X, "importance", n_draws)
    with pytest.raises(ValueError, match=r"threshold expects a number in \[0, inf\), but got -1"):
        model.active_units(X, threshold=-1)
    with pytest.raises(ValueError, match="n_samples expects an integer of at least 1, but got 0"):
        model.sample(0)


@pytest.mark.parametrize("kind", ENCODER_MODELS)
@pytest.mark.parametrize(
    "change",
    [
        {"n_components": 1},
        {"latent": "torus"},
        {"covariance_type": "full"},
        {"encoder": "conv"},
        {"objective": "autoencoder"},
    ],
)
def test_continuing_an_encoder_model_with_another_architecture_is_refused(change, kind, X):
    if "objective" in change and kind is IWAEEmbedding:
        change = {"likelihood": "bernoulli"}
    model = kind(**SMALL, warm_start=True).fit(X)
    model.set_params(**change)
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(
            ValueError, match=rf"{next(iter(change))}=.* cannot continue a fit that had"
        ):
            fit(X)


@pytest.mark.parametrize("kind", ENCODER_MODELS)
def test_bernoulli_encoder_model_refuses_data_outside_its_support(kind):
    model = kind(**SMALL, likelihood="bernoulli").fit(np.eye(3))
    for query in (
        model.fit,
        model.transform,
        model.score_samples,
        model.posterior,
        model.active_units,
        model.reconstruct,
    ):
        with pytest.raises(
            ValueError,
            match=r"likelihood='bernoulli' expects X in \[0, 1\], but got a maximum of 3",
        ):
            query(3 * np.eye(3))
