"""DVPVAE on binary images: against the plain ladder, against models of few dimensions, and itself.

    python benchmarks/bench_dvpvae.py --data DIR --out dvpvae.jsonl
    python benchmarks/bench_dvpvae.py --summarise dvpvae.jsonl

The test images are made binary once, by a seed; training draws binary images anew. All nats are
minus a lower bound of log p(x), or minus log p(x), of test images: lower is better. Parts:

ladder
    DVPVAE and the plain ladder (context=None), which is as wide as it takes to have at least as
    many parameters, and makes the whole passes that come nearest to the same time.
contexts
    Contexts of other kinds, or as exact as the paper's; and DVPVAE and the plain ladder without
    aggregation.
peers
    QLVM, VAE and IWAE with 32 draws, in two and 32 dimensions, on ten binary draws of each image,
    for as long. The nats of two dimensions are by quadrature, those of 32 by importance sampling.
long
    DVPVAE and the plain ladder, one seed, with more time (--long-seconds). Of the first, samples
    are drawn (--picture) and timed, the bound is evaluated in all ways, and the diffusion takes
    some steps or many.
cost
    Where the seconds of a training step go, and those of a pass over MNIST-10k.
published
    The configurations of the paper, constructed, and their parameters counted; on a GPU also the
    milliseconds of a training step, on images of noise.

Seconds are those of the processor in this process, or of a clock on other devices.
"""

import json
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import measurement
import numpy as np
import torch

from skqlvm import DVPVAE, IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm.engine.hierarchy import model as hierarchy
from skqlvm.engine.hierarchy.diffusion import DiffusionPrior
from skqlvm.engine.hierarchy.ladder import Ladder
from skqlvm.engine.hierarchy.noise import normal
from skqlvm.engine.objectives import log_mean_exp

PARTS = ("ladder", "contexts", "peers", "long", "cost", "published")

REDUCED = {
    "latents_per_scale": (0, 2, 1),
    "channels": 16,
    "bottleneck": 0.5,
    "blocks_per_scale": 1,
    "context_size": 4,
    "diffusion_channels": 8,
    "diffusion_blocks": 1,
    "batch_size": 50,
    "learning_rate": 5e-2,
    "ema": 0.99,
    "validation_fraction": 0,
}
_QUICK = {"latents_per_scale": (1, 1), "channels": 4, "context_size": 2, "batch_size": 100}
_QUICK_PEER = {"hidden_layer_sizes": (16,), "max_iter": 1}

_GREY = {"n_diffusion_steps": 25, "diffusion_blocks": 3, "diffusion_channels": 32}
PUBLISHED = {
    "MNIST": ((1, 28, 28), 1, {"latents_per_scale": (0, 4, 4), "channels": 32}),
    "OMNIGLOT": (
        (1, 28, 28),
        1,
        {"latents_per_scale": (0, 4, 4), "channels": 80, "bottleneck": 0.5, "context_size": 5}
        | {"n_diffusion_steps": 50, "diffusion_blocks": 3, "diffusion_channels": 32}
        | {"diffusion_dropout": 0.05},
    ),
    "CIFAR10": (
        (3, 32, 32),
        100,
        {"latents_per_scale": (10, 8, 6, 4), "channels": 128, "bottleneck": 0.75}
        | {"blocks_per_scale": 4, "gamma_min": -10.0, "likelihood": "logistic_mixture"}
        | _GREY,
    ),
}
"""The paper's configurations: shape of an image, outputs a pixel, and parameters of `DVPVAE` where
they differ from its defaults."""

MODELS = {
    "DVP": {},
    "ladder": {"context": None},
    "DVP, downsample": {"context": "downsample"},
    "DVP, pca": {"context": "pca"},
    "DVP, exact contexts": {"context_log_variance": (-12.0, -6.0, -5.0)},
    "DVP, no aggregation": {"aggregation": False},
    "ladder, no aggregation": {"context": None, "aggregation": False},
}
_PUBLISHED_BATCH = 128
_N_TEST, _N_WEIGHED, _N_DRAWS = 1000, 200, 4
_STEPS = (10, 25, 50, 100, 250, 1000)
_TEMPERATURES = (0.6, 0.8, 0.9, 1.0)
_UNITS = {
    "bound": "nats",
    "nats": "nats",
    "context": "nats",
    "kl": "nats",
    "active": "units",
    "units": "units",
    "parameters": "parameters",
    "passes": "passes",
}


class Binary(NamedTuple):
    """Grey rows to train on, in [0, 1], and binary ones to test on."""

    name: str
    x_train: np.ndarray
    x_test: np.ndarray
    image_shape: tuple


def main(argv=None):
    arguments = _parse(argv)
    if arguments.summarise is not None:
        lines = (line for path in arguments.summarise for line in path.read_text().splitlines())
        _print([json.loads(line) for line in lines], arguments)
        return
    results = Results(measurement.Report(arguments))
    if "published" in arguments.parts:
        _count_published(arguments, results)
    for data in _data(arguments):
        for part in arguments.parts:
            if part in _RUNS:
                _RUNS[part](data, arguments, results)
    _print(results.records, arguments)


def _parse(argv):
    parser = measurement.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", nargs="+", choices=("mnist-10k", "omniglot"), default=None)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each fit")
    parser.add_argument("--passes", type=int, help="of each fit, whatever time they take")
    parser.add_argument("--long-seconds", type=float, default=330.0, help="of a long fit")
    parser.add_argument("--models", nargs="+", default=None, help="some of those of a part")
    parser.add_argument("--picture", type=Path, help="file for samples of the long fit")
    parser.add_argument("--summarise", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.seconds = arguments.long_seconds = 0.01
        arguments.seeds = arguments.seeds[:1]
    return arguments


class Results:
    """Where measurements go: lines of JSON, and records for tables."""

    def __init__(self, report):
        self.report, self.records = report, []

    def add(self, name, value, unit, **parameters):
        self.report.add(f"dvpvae/{name}", value, unit, **parameters)
        self.records.append(
            {"name": f"dvpvae/{name}", "parameters": parameters, "value": float(value)}
        )

    def of_model(self, part, data, model, seed, measured):
        for name, value in measured.items():
            unit = _UNITS.get(name, "s")
            self.add(name, value, unit, part=part, data=data.name, model=model, seed=seed)


def _data(arguments):
    """Yield images of each data set, with binary ones to test on."""
    bundled = arguments.data is None or arguments.quick
    for name in [None] if bundled else arguments.images or ("mnist-10k", "omniglot"):
        images = measurement.load_images(_named(arguments, name))
        side = int(images.x_train.shape[1] ** 0.5)
        n_test = 40 if arguments.quick else _N_TEST
        x_train = images.x_train[:200] if arguments.quick else images.x_train
        yield Binary(images.name, x_train, _binary(images.x_test[:n_test], 0), (1, side, side))


def _named(arguments, name):
    chosen = type(arguments)(**vars(arguments))
    chosen.images = name
    return chosen


def _binary(x, seed):
    """Binary draws of grey rows."""
    return (np.random.default_rng(seed).random(x.shape) < x).astype(np.float32)


def _seconds(device):
    """What the clock says that fits are measured by."""
    if str(device).startswith("cuda"):
        measurement.synchronise(device)
        return time.perf_counter()
    return time.process_time()


def settings(name, data, arguments):
    """Parameters of a model by its name; a plain ladder is as large as the model with a context."""
    chosen = REDUCED | (_QUICK if arguments.quick else {}) | MODELS[name]
    chosen |= {"image_shape": data.image_shape, "device": arguments.device}
    if chosen.get("context", "dct") is not None:
        return chosen
    aimed = n_parameters(chosen | {"context": "dct"})
    while n_parameters(chosen) < aimed:
        chosen["channels"] += 1
    return chosen


def n_parameters(chosen, n_outputs=1):
    """Parameters of the networks, and of the spread of contexts."""
    chosen = {**DVPVAE().get_params(), **chosen}
    shape, has_context = chosen["image_shape"], chosen["context"] is not None
    ladder = Ladder(
        shape,
        chosen["latents_per_scale"],
        chosen["channels"],
        chosen["bottleneck"],
        chosen["blocks_per_scale"],
        n_outputs,
        shape[0] if has_context else 0,
        chosen["aggregation"],
    )
    total = sum(p.numel() for p in ladder.parameters())
    if has_context:
        size = (shape[0], chosen["context_size"], chosen["context_size"])
        network = DiffusionPrior(
            size, channels=chosen["diffusion_channels"], n_blocks=chosen["diffusion_blocks"]
        )
        total += sum(p.numel() for p in network.parameters()) + math.prod(size)
    return total


def seconds_a_pass(chosen, data):
    """Seconds of a pass over the training rows, from one over a few batches of them."""
    n_rows = min(len(data.x_train), 10 * chosen["batch_size"])
    rows, least = data.x_train[:n_rows], math.inf
    model = DVPVAE(**chosen, max_iter=1, random_state=0).fit(rows)
    for _ in range(2):
        start = _seconds(chosen["device"])
        model.partial_fit(rows)
        least = min(least, _seconds(chosen["device"]) - start)
    return least * len(data.x_train) / n_rows


def _fit(chosen, n_passes, data, seed):
    """Fit a model; return it and what a table says of it."""
    model = DVPVAE(**chosen, max_iter=n_passes, random_state=seed)
    start = _seconds(chosen["device"])
    model.fit(data.x_train)
    seconds = _seconds(chosen["device"]) - start
    active = model.active_units(data.x_test)
    return model, {
        "bound": -model.score_samples(data.x_test, n_draws=_N_DRAWS).mean(),
        **_divergences(model, data.x_test),
        "active": active.sum(),
        "units": active.size,
        "passes": n_passes,
        "seconds": seconds,
        "parameters": n_parameters(chosen),
    }


def _divergences(model, x):
    """What contexts and latent images cost of the bound."""
    images, generator = _images(model, x), torch.Generator().manual_seed(0)
    with torch.no_grad():
        parts = model._model.nats(images, generator)
    return {"context": float(parts.context.mean()), "kl": float(parts.kl.sum(1).mean())}


def _images(model, x):
    rows = torch.from_numpy(x).to(next(model._model.parameters()))
    return rows.unflatten(1, model.image_shape_)


def _compared(part, names, data, arguments, results):
    """Fit models with all seeds, the plain ladders for as long as the others, or as many passes."""
    names = [name for name in names if arguments.models is None or name in arguments.models]
    chosen = {name: settings(name, data, arguments) for name in names}
    a_pass = {name: seconds_a_pass(chosen[name], data) for name in names}
    n_passes = {
        name: max(1, round(arguments.seconds / a_pass[name]))
        for name in names
        if chosen[name].get("context", "dct") is not None
    }
    longest = max((n * a_pass[name] for name, n in n_passes.items()), default=arguments.seconds)
    for name in names:
        n_passes.setdefault(name, max(1, round(longest / a_pass[name])))
    for seed in arguments.seeds:
        for name in names:
            n = arguments.passes or n_passes[name]
            _, measured = _fit(chosen[name], n, data, seed)
            results.of_model(part, data, name, seed, measured)


def _run_ladder(data, arguments, results):
    _compared("ladder", ("DVP", "ladder"), data, arguments, results)


def _run_contexts(data, arguments, results):
    _compared("contexts", list(MODELS)[2:], data, arguments, results)


def _peers(arguments, seed):
    """Models of few dimensions by name."""
    shared = {"likelihood": "bernoulli", "random_state": seed, "device": arguments.device}
    shared |= _QUICK_PEER if arguments.quick else {}
    quick = {"n_points": 55, "n_points_eval": 233} if arguments.quick else {}
    draws = {"n_importance_samples": 3 if arguments.quick else 32}
    return {
        "QLVM, 2": lambda **more: QLVMEmbedding(**(shared | quick | more)),
        "VAE, 2": lambda **more: VAEEmbedding(2, **(shared | more)),
        "VAE, 32": lambda **more: VAEEmbedding(32, **(shared | more)),
        "IWAE, 2": lambda **more: IWAEEmbedding(2, **(shared | draws | more)),
        "IWAE, 32": lambda **more: IWAEEmbedding(32, **(shared | draws | more)),
    }


def _run_peers(data, arguments, results):
    """QLVM makes its default number of steps, which takes less time; the others all they can."""
    x = np.concatenate([_binary(data.x_train, seed) for seed in range(10)])
    for seed in arguments.seeds:
        for name, build in _peers(arguments, seed).items():
            if arguments.models is not None and name not in arguments.models:
                continue
            more = {}
            if not name.startswith("QLVM"):
                start = time.process_time()
                build(max_iter=1, validation_fraction=0).fit(x[: len(x) // 20])
                a_pass = 20 * (time.process_time() - start)
                more = {"max_iter": max(1, round(arguments.seconds / a_pass))}
            model = build(**more)
            start = time.process_time()
            model.fit(x)
            measured = {"seconds": time.process_time() - start, "passes": 10 * model.n_iter_}
            measured["nats"] = -model.score_samples(data.x_test).mean()
            results.of_model("peers", data, name, seed, measured)


def _run_long(data, arguments, results):
    """DVPVAE and the plain ladder with more time, and all that is asked of the first."""
    for name in arguments.models or ("DVP", "ladder"):
        chosen = settings(name, data, arguments)
        n_passes = max(1, round(arguments.long_seconds / seconds_a_pass(chosen, data)))
        seed = arguments.seeds[0]
        model, measured = _fit(chosen, n_passes, data, seed)
        results.of_model("long", data, name, seed, measured)
        if chosen.get("context", "dct") is None:
            continue
        _evaluate(model, data, arguments, results)
        _time_samples(model, data, arguments, results)
        if arguments.picture is not None:
            _draw(model, arguments.picture)


def _evaluate(model, data, arguments, results):
    """Bounds and estimates of a few rows by all evaluators, and by the one that is none."""
    core = model._model
    n_rows, n_draws = (10, 2) if arguments.quick else (_N_WEIGHED, 32)
    images = _images(model, data.x_test[:n_rows])

    def report(name, values):
        values = values.double()
        parameters = {"part": "evaluators", "data": data.name, "evaluator": name}
        results.add("estimate", float(-values.mean()), "nats", **parameters)

    generator = torch.Generator().manual_seed(0)
    report(f"elbo, {n_draws} draws", hierarchy.elbo(core, images, generator, n_draws)[0])
    inner = hierarchy.elbo(core, images, generator, 2, n_draws)[0]
    report(f"elbo, {n_draws} draws of z for each of 2 u", inner)
    for n_steps in (25, 250):
        for k in (1, n_draws):
            value = hierarchy.importance(core, images, generator, k, n_steps)[0]
            report(f"path weights, {k} draws, {n_steps} steps", value)
        if arguments.quick:
            break
    with torch.no_grad():
        value = _released(core, images, n_draws, generator)
        report(f"released scheme, {n_draws} draws, 25 steps: no bound", value)
        u = core.draw_context(images, generator).repeat(1 if arguments.quick else 20, 1, 1, 1)
        for n_steps in (*_STEPS, None):
            nats = -float(core.diffusion.bound(u, generator, n_steps).mean())
            label = "continuous" if n_steps is None else str(n_steps)
            results.add("context_bound", nats, "nats", part="steps", data=data.name, steps=label)


def _released(core, images, n_draws, generator, n_steps=25):
    """What the authors' code calls a likelihood: rates of continuous time at the right ends of the
    steps, and one draw of them within the exponentials. It exceeds log p(x)."""
    diffusion, draws = core.diffusion, []
    rate = (diffusion.gamma_max - diffusion.gamma_min) / 2 / n_steps
    for _ in range(n_draws):
        u = core.draw_context(images, generator)
        noise = normal(tuple(u.shape), generator, u)
        log_p = -0.5 * (noise**2 + math.log(2 * math.pi) + diffusion.gamma_min).flatten(1).sum(1)
        for i in range(1, n_steps + 1):
            gamma = diffusion.gamma(torch.tensor(i / n_steps).to(u))
            noise = normal(tuple(u.shape), generator, u)
            z = torch.sigmoid(-gamma).sqrt() * u + torch.sigmoid(gamma).sqrt() * noise
            seen = diffusion.noise(z, torch.full((len(u),), i / n_steps).to(u))
            log_p = log_p - rate * (noise - seen).square().flatten(1).sum(1)
        weight = core.log_weight_given(images, u, generator)
        draws.append(weight + log_p - core.log_ru(images, u))
    return log_mean_exp(torch.stack(draws), 0)


def _time_samples(model, data, arguments, results):
    n = 10 if arguments.quick else 200
    generator = torch.Generator().manual_seed(0)
    for n_steps in (25,) if arguments.quick else (10, 25, 100, 1000):
        with torch.no_grad():
            start = _seconds(arguments.device)
            model._model.generate(n, generator, n_steps=n_steps)
            each = (_seconds(arguments.device) - start) / n
        results.add("sample", 1e3 * each, "ms", part="samples", data=data.name, steps=n_steps)


def _draw(model, path):
    """Samples without the noise of pixels, a row for each temperature."""
    from matplotlib import image

    n, (_, height, width) = 16, model.image_shape_
    rows = [
        model.sample(n, random_state=0, noise=False, temperature=temperature)
        for temperature in _TEMPERATURES
    ]
    pixels = np.concatenate(
        [row.reshape(n, height, width).transpose(1, 0, 2).reshape(height, -1) for row in rows]
    )
    image.imsave(path, np.kron(1 - pixels, np.ones((2, 2))), cmap="gray", vmin=0, vmax=1)


def _run_cost(data, arguments, results):
    """Seconds of the parts of a training step of 100 rows, forwards and backwards."""
    chosen = settings("DVP", data, arguments)
    model = DVPVAE(**chosen, max_iter=1, random_state=0).fit(data.x_train[:100])
    core, x = model._model, _images(model, data.x_test[:100])
    generator = torch.Generator().manual_seed(0)

    def whole():
        core.nats(x, generator).bound.mean().backward()

    def encoder():
        parts = [part for part in core.ladder.bottom_up(x) if part is not None]
        sum(part.mean() for part in parts).backward()

    def diffusion():
        core.diffusion.bound(core.context(x), generator).mean().backward()

    milliseconds = {}
    for name, call in (("step", whole), ("encoder", encoder), ("diffusion", diffusion)):
        call()
        times = []
        for _ in range(1 if arguments.quick else 5):
            start = _seconds(arguments.device)
            call()
            times.append(1e3 * (_seconds(arguments.device) - start))
        milliseconds[name] = statistics.median(times)
    rest = milliseconds["step"] - milliseconds["encoder"] - milliseconds["diffusion"]
    milliseconds["decoder and likelihood"] = rest
    for name, value in milliseconds.items():
        results.add("cost", value, "ms", part="cost", data=data.name, of=name)
    a_pass = seconds_a_pass(chosen, data) * 10_000 / len(data.x_train)
    results.add("cost", a_pass, "s", part="cost", data=data.name, of="10,000 rows, s")


def _count_published(arguments, results):
    for name, (shape, n_outputs, chosen) in PUBLISHED.items():
        total = n_parameters(chosen | {"image_shape": shape}, n_outputs)
        known = {"part": "published", "data": "-"}
        results.add("published", total, "parameters", configuration=name, **known)
        if not arguments.quick and arguments.device != "cpu":
            named = chosen | {"image_shape": shape, "device": arguments.device}
            each = 1e3 * _seconds_a_step(named, _PUBLISHED_BATCH)
            results.add("published", each, "ms", configuration=f"{name}, ms a step", **known)


def _seconds_a_step(chosen, batch_size):
    rows = np.random.default_rng(0).random((10 * batch_size, math.prod(chosen["image_shape"])))
    rows = np.round(255 * rows).astype(np.float32) / 255
    noise = Binary("noise", rows, None, chosen["image_shape"])
    return seconds_a_pass(chosen | {"batch_size": batch_size, "validation_fraction": 0}, noise) / 10


_RUNS = {
    "ladder": _run_ladder,
    "contexts": _run_contexts,
    "peers": _run_peers,
    "long": _run_long,
    "cost": _run_cost,
}


def _print(records, arguments):
    """Print a table of each part, of medians over seeds."""
    show = _restructured if arguments.summarise is not None else measurement.print_table
    records = [record for record in records if record["name"].startswith("dvpvae/")]
    for part in ("ladder", "contexts", "peers", "long"):
        _print_models(part, _of(records, part), show)
    for part, key in (
        ("evaluators", "evaluator"),
        ("steps", "steps"),
        ("samples", "steps"),
        ("cost", "of"),
        ("published", "configuration"),
    ):
        rows = [
            [r["parameters"]["data"], r["parameters"][key], f"{r['value']:.5g}"]
            for r in _of(records, part)
        ]
        if rows:
            show(part, ["data", key, "value"], rows)


def _of(records, part):
    return [record for record in records if record["parameters"].get("part") == part]


def _print_models(part, records, show):
    cells = {}
    for record in records:
        known = record["parameters"]
        row = cells.setdefault((known["data"], known["model"]), {})
        row.setdefault(record["name"].split("/")[1], {})[known["seed"]] = record["value"]
    if not cells:
        return
    measures = [name for name in _MEASURES if any(name in row for row in cells.values())]
    rows = []
    for (data, model), row in cells.items():
        main_values = list((row.get("bound") or row["nats"]).values())
        numbers = [
            f"{statistics.median(row[name].values()):.{1 if name in _DECIMAL else 0}f}"
            if name in row
            else "-"
            for name in measures
        ]
        spread = f"{max(main_values) - min(main_values):.1f}"
        rows.append([data, model, *numbers, spread, str(len(main_values))])
    show(part, ["data", "model", *measures, "spread", "seeds"], rows)


_MEASURES = ("bound", "nats", "context", "kl", "active", "units", "parameters", "passes", "seconds")
_DECIMAL = ("bound", "nats", "context", "kl")


def _restructured(title, header, rows):
    print(f"\n{title}\n\n{measurement.restructured(header, rows)}")


if __name__ == "__main__":
    main()
