"""Where the defaults come from: one change at a time, on several data sets, judged on rows held out
of the training data.

    python benchmarks/bench_defaults.py --seeds 0 1 --data DIR
    python benchmarks/bench_defaults.py --model vae --data DIR

Never looks at a test file: of MNIST-10k and the bundled digits only the training part is split
again. Circle, torus and roll have little noise, wine few rows. Reported are held-out nats (lower is
better), and for images the 10-neighbour accuracy of held-out rows on the map. For the circle and a
torus it is how well the map agrees with the true angle, which a folded map does not."""

from contextlib import contextmanager
from typing import NamedTuple

import measurement
import numpy as np
import torch
from sklearn.datasets import load_wine, make_swiss_roll
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding, _fitting, _readouts
from skqlvm._encoder_queries import EncoderQueries
from skqlvm._estimator import LatentEstimator
from skqlvm.engine import harmonics, marginal, networks, optimizers, proposals, torus
from skqlvm.engine.likelihoods import continuous

CONSTANTS = {
    "decay": (networks, "_DECAY"),
    "introduced": (harmonics, "_INTRODUCED"),
    "start": (networks, "_FIRST_SPREAD"),
    "noise_start": (continuous, "_FIRST_NOISE"),
    "noise_speed": (continuous, "_SPEED"),
    "auto_passes": (LatentEstimator, "_auto_passes"),
    "auto_steps": (QLVMEmbedding, "_auto_steps"),
    "batch_sizes": (QLVMEmbedding, "_auto_batch_sizes"),
    "halved": (QLVMEmbedding, "_halved_until"),
    "weight_decay": (optimizers, "_DECAY"),
    "joined": (_fitting, "_JOINED"),
    "fine": (marginal, "_FINE"),
    "averaged": (_readouts, "_AVERAGED"),
    "encoder_passes": (EncoderQueries, "_auto_passes"),
    "encoder_steps": (EncoderQueries, "_auto_steps"),
    "posterior_start": (proposals, "_FIRST_LOG_VARIANCE"),
}
"""Constants of the package that are not parameters, by the name used here: an owner and an
attribute."""

CHANGES = [
    {},
    {"harmonic_order": 4},
    {"harmonic_order": 6},
    {"harmonic_order": 12},
    {"decay": 0.0},
    {"decay": 1.0},
    {"introduced": 1e-6},
    {"introduced": 0.8},
    {"start": 0.02},
    {"start": 1.0},
    {"noise_start": 1.0},
    {"noise_speed": 1.0},
    {"hidden_layer_sizes": (512,)},
    {"hidden_layer_sizes": (512, 256)},
    {"learning_rate": 2e-3},
    {"learning_rate": 8e-3},
    {"learning_rate": 1.4e-2},
    {"auto_steps": (250, 250)},
    {"auto_steps": (560, 560)},
    {"auto_steps": (1000, 1000)},
    {"halved": 0.0},
    {"halved": 0.4},
    {"halved": 0.6},
    {"n_points": 377},
    {"n_points": 987},
    {"n_points": 1597},
    {"fine": 0.2},
    {"fine": 0.7},
    {"batch_sizes": (128,), "auto_steps": (500, 2500)},
    {"batch_sizes": (256,)},
    {"weight_decay": 0.0},
    {"weight_decay": 30.0},
    {"weight_decay": 100.0},
    {"joined": 1.0},
    {"averaged": {1: 1e-6, 2: 1e-6, 3: 1e-6}},
    {"averaged": {1: 0.001, 2: 0.006, 3: 0.018}},
    {"averaged": {1: 0.009, 2: 0.0135, 3: 0.036}},
    {"n_iter_no_change": None},
    {"n_iter_no_change": 8},
]

ENCODER_CHANGES = [
    {},
    {"learning_rate": 2e-3},
    {"learning_rate": 8e-3},
    {"covariance_type": "low_rank"},
    {"covariance_type": "full"},
    {"posterior_start": 0.0},
    {"posterior_start": -2.0},
    {"posterior_start": -6.0},
    {"hidden_layer_sizes": (256, 256, 256)},
    {"hidden_layer_sizes": (512, 256)},
    {"noise_start": 1.0},
    {"n_iter_no_change": None},
    {"encoder_passes": 50, "encoder_steps": (500, 2500)},
    {"encoder_passes": 200, "encoder_steps": (2000, 20_000)},
    {"latent": "torus"},
    {"latent": "torus", "posterior_start": -2.0},
    {"latent": "torus", "learning_rate": 8e-3},
    {"latent": "torus", "posterior_start": -6.0},
    {"n_components": 8},
    {"n_components": 8, "learning_rate": 2e-3},
]

MODELS = {
    "qlvm": (QLVMEmbedding, CHANGES, {"n_points": 55, "n_points_eval": 233}),
    "vae": (VAEEmbedding, ENCODER_CHANGES, {}),
    "iwae": (
        IWAEEmbedding,
        [*ENCODER_CHANGES, {"gradient": "doubly_reparametrized"}],
        {"n_importance_samples": 3},
    ),
}
"""Class, changes tried, and sizes under --quick, by the name of --model."""


class Set(NamedTuple):
    """Rows to fit, rows held out, what is known of each (labels, angles or None), and
    parameters."""

    fitted: np.ndarray
    held_out: np.ndarray
    known: tuple
    parameters: dict


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument(
        "--model", choices=MODELS, default="qlvm", help="the estimator whose defaults are changed"
    )
    parser.add_argument("--sets", nargs="+", help="data sets to use, of all by default")
    arguments = parser.parse_args(argv)
    report = measurement.Report(arguments)
    changes = MODELS[arguments.model][1]
    changes = changes[:2] if arguments.quick else changes
    names = list(data_sets(arguments, 0))
    rows = []
    for change in changes:
        with constants(change):
            results = [
                {
                    name: _measure(data, change, seed, arguments)
                    for name, data in data_sets(arguments, seed).items()
                }
                for seed in arguments.seeds
            ]
        row = [", ".join(f"{name}={value}" for name, value in change.items()) or "defaults"]
        for name in names:
            about = {"model": arguments.model, "data": name, "change": change}
            nats = report.add(
                "defaults/nats", [result[name][0] for result in results], "nats", **about
            )
            known = [result[name][1] for result in results]
            row.append(
                f"{nats:.2f}"
                if known[0] is None
                else f"{nats:.2f} {report.add('defaults/map', known, 'fraction', **about):.3f}"
            )
        rows.append(row)
    measurement.print_table("Held-out nats, and what the map is worth", ["change", *names], rows)


def data_sets(arguments, seed):
    """Return the data sets by name, split by the seed."""
    generator = np.random.default_rng(seed)
    angles = generator.random((4000, 2))
    x, _, y, _ = measurement.split_digits(0)
    sets = {"digits": _split(x, y, seed)}
    if arguments.quick:
        return sets
    circle = _rings(angles[:, :1]) + 0.1 * generator.normal(size=(4000, 2))
    torus = _rings(angles[:1500]) + 0.05 * generator.normal(size=(1500, 4))
    sets["circle"] = _split(circle, angles[:, 0], seed, n_components=1)
    sets["torus"] = _split(torus, None, seed)
    sets["roll"] = _split(make_swiss_roll(1500, random_state=seed)[0], None, seed)
    sets["wine"] = _split(StandardScaler().fit_transform(load_wine().data), None, seed)
    if arguments.data is not None:
        images = measurement.load_images(arguments)
        sets[images.name] = _split(images.x_train, images.y_train, seed, likelihood="bernoulli")
    return {
        name: data
        for name, data in sets.items()
        if arguments.sets is None or name in arguments.sets
    }


def _rings(angles):
    return torus.to_circle(torch.from_numpy(angles)).numpy()


def _split(x, known, seed, **parameters):
    fitted, held_out = train_test_split(np.arange(len(x)), test_size=0.2, random_state=seed)
    return Set(
        x[fitted],
        x[held_out],
        None if known is None else (known[fitted], known[held_out]),
        parameters,
    )


def _measure(data, change, seed, arguments):
    """Held-out nats, and the worth of the map where something is known."""
    model_class, _, quick = MODELS[arguments.model]
    parameters = data.parameters | {
        name: value for name, value in change.items() if name not in CONSTANTS
    }
    if arguments.quick:
        parameters |= quick | {"max_iter": 2}
    model = model_class(random_state=seed, device=arguments.device, **parameters)
    nats = -model.fit(data.fitted).score(data.held_out)
    on_torus = (
        parameters.get("latent", "torus" if arguments.model == "qlvm" else "normal") == "torus"
    )
    if data.known is None or (parameters.get("n_components") == 1 and not on_torus):
        return nats, None
    if parameters.get("n_components") == 1:
        return nats, _agreement(model.transform(data.held_out)[:, 0], data.known[1])
    maps = [model.transform(x) for x in (data.fitted, data.held_out)]
    if on_torus:
        maps = [_rings(turns) for turns in maps]
    return nats, measurement.neighbour_accuracy(maps[0], data.known[0], maps[1], data.known[1])


@contextmanager
def constants(change):
    """Set constants of the package, and put them back."""
    places = [(*CONSTANTS[name], value) for name, value in change.items() if name in CONSTANTS]
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            setattr(module, name, value)


def _agreement(found, angles):
    """Largest circular correlation of two sets of turns, up to rotation and reflection."""
    return max(abs(np.exp(2j * np.pi * (found - sign * angles)).mean()) for sign in (1, -1))


if __name__ == "__main__":
    main()
