"""Parts of a model from what an estimator's parameters name: tables, and factories of one's own."""

import copy
from functools import partial
from typing import NamedTuple

import torch
from scipy.sparse import issparse

from . import _blocks, _checks, _conditions
from .engine import atlas, harmonics, lattices, likelihoods, models, networks, priors
from .engine.memory import is_available
from .engine.randomness import Stream

LIKELIHOODS = likelihoods.FAMILIES
DECODERS = {"conv": networks.ConvDecoder, "mlp": networks.MLPDecoder}
ENCODERS = {"conv": networks.ConvEncoder, "mlp": networks.MLPEncoder}
N_POINTS = {
    "n_points": {1: (233,), 2: (610, 1597), 3: (2039,)},
    "n_points_eval": {1: (2584,), 2: (6765,), 3: (8191,)},
}
"""Sizes of lattices by the number of components: early and late in a training, or one for both."""

PRECISIONS = ("highest", "medium")
PRIORS = {"normal": priors.StandardNormal(), "torus": priors.UniformTorus()}

SHAPING = ("decoder", "hidden_layer_sizes", "harmonic_order", "image_shape")
"""Parameters of an estimator that shape its decoder."""

_BYTES_OF_OUTPUT = 24
"""Memory that each number takes which is decoded once for all queries: twice in float32, and twice
in float64 while directions are sought."""

_BYTES_OF_WIDE_OUTPUT = 8
"""The same where there are so many that directions are sought among some points."""

_TRIED = 0.25
"""Input that modules are tried on; at zeros, some operations in place would not show."""

_HIGHEST_ORDER, _MOST_HARMONICS, _ROWS_PER_HARMONIC = 14, 210, 25


class Randomness(NamedTuple):
    """Where parts get random numbers from.

    Attributes
    ----------
    generator : torch.Generator
        Draws for the package: first weights, batches, shifts, noise.
    stream : Stream
        Draws for modules that know torch's global generators only.
    """

    generator: torch.Generator
    stream: Stream


def check_choice(name, value, table, also=" or a callable"):
    """Raise unless value is a name in a table, or a callable that is no module."""
    if isinstance(value, torch.nn.Module):
        raise TypeError(
            f"{name} expects a factory that makes a new module for each fit, but got an instance "
            f"of {type(value).__name__}."
        )
    if not callable(value):
        _checks.check_option(name, value, table, also=also)


def check_training(estimator):
    """Raise unless the parameters of a training make sense, whatever the data."""
    _checks.check_integer("max_iter", estimator.max_iter, alternative="auto")
    _checks.check_integer("batch_size", estimator.batch_size, alternative="auto")
    verbose = int(estimator.verbose) if isinstance(estimator.verbose, bool) else estimator.verbose
    _checks.check_integer("verbose", verbose, minimum=0)
    if not (isinstance(estimator.learning_rate, str) and estimator.learning_rate == "auto"):
        _checks.check_number("learning_rate", estimator.learning_rate, open_minimum=True)
    _checks.check_number("validation_fraction", estimator.validation_fraction, below=1.0)
    if estimator.n_iter_no_change is not None:
        _checks.check_integer("n_iter_no_change", estimator.n_iter_no_change)
    _checks.check_option("matmul_precision", estimator.matmul_precision, PRECISIONS)
    _checks.check_flag("warm_start", estimator.warm_start)


def check_shared(estimator):
    """Raise unless the parameters that models of latent points share make sense."""
    _checks.check_integer("n_components", estimator.n_components)
    check_training(estimator)
    _blocks.check(estimator.likelihood, estimator.exposure, check_choice)
    _conditions.check(estimator.condition_columns)
    _checks.check_noise_variance(estimator.noise_variance)


def harmonic_order(order, n_components, n_rows):
    """Return the order for so many rows: what few rows cannot determine, "auto" leaves out."""
    if order != "auto":
        return int(order)
    n_harmonics = min(n_rows / _ROWS_PER_HARMONIC, _MOST_HARMONICS)
    return harmonics.largest_order(n_components, n_harmonics, _HIGHEST_ORDER)


def kind_of(value):
    """Return the family that a `likelihood` names or is; None of a factory, which may make any."""
    if isinstance(value, str):
        return LIKELIHOODS.get(value, likelihoods.ExponentialFamily)
    is_family = isinstance(value, type) and issubclass(value, likelihoods.Likelihood)
    return value if is_family else None


def build_likelihood(estimator, X):
    """Return the observation model that an estimator's parameters say for rows X, not yet started.

    One in so few dimensions that it is tabulated, over a lattice, has to be an exponential family.
    """
    tabulated = estimator.n_components <= lattices.MOST_COMPONENTS
    columns = estimator._columns

    def make(n_features, value, taken):
        if callable(value):
            return _made(value, n_features, tabulated=tabulated)
        family = LIKELIHOODS[value]
        own = {name: getattr(estimator, name) for name in family.parameters_taken}
        return family(n_features, **(own | taken))

    return _blocks.build(_blocks.choose(estimator, X, columns), columns, make)


def _made(factory, n_features, *, tabulated):
    """The likelihood that a factory of one's own makes."""
    likelihood = _called("likelihood", factory, {"n_features": n_features})
    kind = likelihoods.ExponentialFamily if tabulated else likelihoods.Likelihood
    if not isinstance(likelihood, kind):
        remedy = "Subclass it: a lattice needs its table." if tabulated else "Subclass it."
        raise TypeError(
            f"likelihood expects a factory of skqlvm.engine.likelihoods.{kind.__name__}, but it "
            f"made {likelihood!r}. {remedy}"
        )
    if likelihood.n_features != n_features:
        raise ValueError(
            f"likelihood expects a factory f(n_features), but for {n_features} it made one of "
            f"{likelihood.n_features} features."
        )
    return likelihood


def check_data(name, likelihood, X):
    """Raise unless data suit a likelihood, which `name` is the estimator's word for."""
    for start in range(0, X.shape[0], 4096):
        try:
            part = X[start : start + 4096]
            likelihood.check(part.data[:, None] if issparse(part) else part)
        except ValueError as error:
            remedy = "use likelihood='gaussian'"
            if isinstance(likelihood, likelihoods.Categorical | likelihoods.Mixed):
                remedy = "Correct X, or fit anew"
            elif likelihood.support == (0.0, 1.0):
                remedy = f"Rescale X, as MinMaxScaler(clip=True) does, or {remedy}"
            else:
                remedy = remedy.capitalize()
            raise ValueError(f"likelihood={name!r} {error}. {remedy}.") from error


def build_decoder(estimator, n_outputs, order, randomness, n_conditions=0):
    """Return the decoder that `estimator.decoder` names or makes.

    What it is told of conditions follows the coordinates of a point.
    """
    sizes = {"n_components": int(estimator.n_components), "n_outputs": n_outputs}
    settings = {"order": order, "n_conditions": n_conditions}
    if callable(estimator.decoder):
        sizes["n_components"] += n_conditions
    return _built("decoder", DECODERS, sizes, estimator, randomness, settings)


def build_encoder(estimator, n_inputs, n_outputs, randomness):
    """Return the encoder that `estimator.encoder` names or makes."""
    sizes = {"n_inputs": n_inputs, "n_outputs": n_outputs}
    return _built("encoder", ENCODERS, sizes, estimator, randomness, {})


def build_lattices(estimator, name, model):
    """Return the lattices that a parameter of this name gives, in turns, in the order of their use.

    Raises
    ------
    ValueError
        If there is no memory for what the model says of so many points.
    """
    value, k = getattr(estimator, name), model.n_components
    sizes = N_POINTS[name][k] if isinstance(value, str) else (int(value),)
    n_outputs, device = model.likelihood.n_outputs, model.like.device
    wide = n_outputs > atlas.WIDEST_WHOLE
    n_bytes_each = _BYTES_OF_WIDE_OUTPUT if wide else _BYTES_OF_OUTPUT
    n_bytes = n_bytes_each * max(sizes) * n_outputs * model.n_groups
    if not is_available(n_bytes, device):
        raise ValueError(
            f"{name}={max(sizes)} expects {n_bytes / 2**30:.3g} GiB of memory, for {n_outputs} "
            f"numbers a point, but {device} has not as much. Lower {name}."
        )
    return [lattices.lattice(k, size) for size in sizes]


def draws_globally(model):
    """Whether a part of a model draws from torch's global generators, as dropout does."""
    return any(getattr(part, "draws_globally", False) for part in model.children())


def is_pointwise(decoder):
    """Whether a decoder in training says the same of a point alone, among others, and again."""
    return getattr(decoder, "pointwise", True)


def _built(name, table, sizes, estimator, randomness, settings):
    value = getattr(estimator, name)
    if callable(value):
        with randomness.stream.lent():
            made = _called(name, value, sizes)
        # a factory may hand out the same module each time: every fit trains one of its own
        module = copy.deepcopy(made) if isinstance(made, torch.nn.Module) else made
        _check_module(name, module, *sizes.values(), randomness.stream)
        module.draws_globally = _draws_globally(module, *sizes.values(), randomness.stream)
        module.pointwise = _is_pointwise(module, sizes.get("n_components"), randomness.stream)
        return module
    kind = table[value]
    taken = {parameter: getattr(estimator, parameter) for parameter in kind.parameters_taken}
    if "image_shape" in taken:
        n_values = sizes["n_inputs" if name == "encoder" else "n_outputs"]
        _checks.check_image_shape(taken["image_shape"], n_values, f"{name}='conv'")
    taken = {parameter: _checks.plain(value) for parameter, value in taken.items()}
    return kind(**sizes, **taken, **settings, generator=randomness.generator)


def _called(name, factory, sizes):
    """Call a user's factory; what it raises is chained."""
    try:
        return factory(*sizes.values())
    except Exception as error:
        raise ValueError(
            f"{name} expects a factory f({', '.join(sizes)}), but {factory!r} raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_module(name, module, n_inputs, n_outputs, stream):
    """Raise unless a factory made a module to train, that maps (m, n_inputs) to (m, n_outputs)."""
    if not isinstance(module, torch.nn.Module) or not any(
        p.requires_grad for p in module.parameters()
    ):
        raise TypeError(
            f"{name} expects a factory of torch modules with parameters to train, but it made "
            f"{module!r}."
        )
    for parameter, value in module.named_parameters():
        if value.dtype not in (torch.float32, torch.float64) or value.is_meta:
            kind = "a meta tensor" if value.is_meta else value.dtype
            raise TypeError(
                f"{name} expects modules of float32 or float64 parameters, but {parameter} is "
                f"{kind}."
            )
    tried = copy.deepcopy(module)
    for training, n_rows in ((True, 2), (True, 3), (False, 3)):
        x = torch.full((n_rows, n_inputs), _TRIED).to(next(tried.parameters()))
        mode = "" if training else " in eval() too"
        outputs = _outputs(name, tried.train(training), x, stream, mode)
        _check_outputs(name, outputs, x, n_outputs, mode, training=training)
    if name == "encoder":
        exact = partial(models.evaluate, tried.eval())
        _outputs(name, exact, torch.zeros((2, n_inputs), dtype=torch.float64), stream)


def _outputs(name, module, x, stream, mode=""):
    """Apply a user's module to x, in the mode that errors name."""
    try:
        with stream.lent():
            return module(x)
    except Exception as error:
        raise ValueError(
            f"{name} expects modules that map tensors of shape (m, {x.shape[1]}) to tensors"
            f"{mode}, but it failed for {x.dtype}: {error}"
        ) from error


def _check_outputs(name, outputs, x, n_outputs, mode, *, training):
    """Raise unless a module's outputs for x can be used, and trained on where it is training."""
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(
            f"{name} expects modules that return a tensor{mode}, but got {type(outputs)}."
        )
    mapping = f"{name} expects modules that map {tuple(x.shape)} to {(len(x), n_outputs)}{mode}"
    if tuple(outputs.shape) != (len(x), n_outputs):
        raise ValueError(
            f"{mapping}, but the output is {tuple(outputs.shape)}. "
            f"Make its last layer {n_outputs} wide."
        )
    if not outputs.is_floating_point():
        raise TypeError(f"{mapping} of real numbers, but they are {outputs.dtype}.")
    if training and not outputs.requires_grad:
        raise ValueError(f"{mapping} with gradients, but they are detached from the parameters.")
    if bool((x != _TRIED).any()):
        raise ValueError(f"{mapping} and leave them alone, but it changes them in place.")


def _draws_globally(module, n_inputs, _n_outputs, stream):
    """Whether a module that is trained takes numbers from torch's global generators."""
    tried = copy.deepcopy(module).train()
    with torch.no_grad():
        return stream.is_drawn_by(tried, torch.zeros((2, n_inputs)).to(next(tried.parameters())))


def _is_pointwise(module, n_inputs, stream):
    """Whether a module in training is a function of each of its rows; batch norm makes it none."""
    if n_inputs is None or module.draws_globally:
        return False
    tried = copy.deepcopy(module).train()
    z = torch.linspace(0, 1, 5 * n_inputs).reshape(5, n_inputs).to(next(tried.parameters()))
    with torch.no_grad(), stream.lent():
        together, apart = tried(z), torch.cat([tried(z[:2]), tried(z[2:])])
    return torch.allclose(together, apart, rtol=1e-3, atol=1e-5)
