"""The paper's comparison: QLVM, VAE and IWAE with equal decoders and equal time, scored by the same
quadrature.

    python benchmarks/bench_paper.py --data DIR --seeds 0 1 2 --out paper.jsonl python
    benchmarks/bench_paper.py --data DIR --images omniglot --out paper.jsonl python
    benchmarks/bench_paper.py --data DIR --own-passes --models VAE IWAE-10 IWAE-50 --dimensions 2
    --out paper.jsonl python benchmarks/bench_paper.py --summarise paper.jsonl python
    benchmarks/bench_paper.py --data DIR --seconds 20 --calibrate --out passes.jsonl python
    benchmarks/bench_paper.py --data DIR --passes passes.jsonl --dimensions 2 --out paper.jsonl

Each model is fitted on the training file for as many seconds as QLVM's default fit takes in that
dimension (that in three dimensions for larger ones), or for --seconds; or, to see what the dearest
models would make of more time, for its default number of passes (--own-passes). To fit several at
once, time them first, alone (--calibrate), and reuse the --passes. A measurement is printed as soon
as its fit is done; --models and --dimensions run a part, and --summarise makes the tables from
files of results. Measured on the test file:

bound
    Minus the bound that the model is trained on: the lattice's with random shifts, the ELBO, or
    that of K draws.
nats
    Minus log p(x), by quadrature over a lattice that is doubled until that changes by less than
    0.01 nats, or 2^18 points (last_doubling is the last change). In more than three dimensions an
    estimate (~): the bound plus its distance, on 2000 rows, from importance sampling with 1000
    draws.
gap
    How far the bound is from that.
mse, mse of point
    Squared error a pixel of `reconstruct` (for QLVM the posterior mean of the image), and of the
    image at the row's point on the map.
kNN, trust
    Accuracy of a 10-neighbour classifier on the map; trustworthiness of 2000 rows, 10 neighbours. A
    torus is mapped to circles first.
"""

import json
import statistics
from pathlib import Path

import contenders
import measurement
import numpy as np
from sklearn.manifold import trustworthiness

_MEASURES = {
    "bound": ("nats", "{:.2f}"),
    "nats": ("nats", "{:.2f}"),
    "gap": ("nats", "{:.2f}"),
    "mse": ("squared grey levels", "{:.4f}"),
    "mse_of_point": ("squared grey levels", "{:.4f}"),
    "knn": ("fraction", "{:.3f}"),
    "trust": ("fraction", "{:.3f}"),
    "passes": ("passes", "{:.0f}"),
}
_N_SUBSAMPLE, _N_NEIGHBOURS, _N_IMPORTANCE = 2000, 10, 1000


def main(argv=None):
    arguments = _parse(argv)
    if arguments.summarise is None:
        records = _run(arguments)
    else:
        lines = (line for path in arguments.summarise for line in path.read_text().splitlines())
        records = [
            record
            for record in map(json.loads, lines)
            if record["name"].startswith("paper/") and "seed" in record["parameters"]
        ]
    tables = {}
    for record in records:
        tables.setdefault(
            (record["parameters"]["data"], record["parameters"].get("budget", "equal")), []
        ).append(record)
    for (data, budget), group in tables.items():
        _print(
            group,
            f"{data}, {budget} {'time' if budget == 'equal' else 'passes'}",
            arguments.summarise is not None,
        )


def _parse(argv):
    parser = measurement.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument(
        "--images",
        choices=("mnist-10k", "omniglot"),
        default="mnist-10k",
        help="which images of the data folder",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=contenders.CONTENDERS,
        default=list(contenders.CONTENDERS),
        metavar="MODEL",
    )
    parser.add_argument(
        "--dimensions", type=int, nargs="+", help="latent ones; 1 2 3 8 32 by default"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="of training for each fit; by default those of QLVM's default fit",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="only time the models, and report the passes that each may make",
    )
    parser.add_argument(
        "--passes", type=Path, help="file with what --calibrate reported, instead of timing again"
    )
    parser.add_argument(
        "--own-passes",
        action="store_true",
        help="let each model make the passes of its max_iter='auto', in whatever time",
    )
    parser.add_argument(
        "--summarise",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="only print tables of these results, for documents",
    )
    arguments = parser.parse_args(argv)
    if arguments.images == "omniglot" and arguments.data is None and not arguments.quick:
        parser.error("--images omniglot needs --data")
    arguments.dimensions = arguments.dimensions or ([2, 8] if arguments.quick else [1, 2, 3, 8, 32])
    if arguments.quick:
        arguments.seconds, arguments.seeds = arguments.seconds or 0.05, arguments.seeds[:1]
    return arguments


def _run(arguments):
    data = measurement.load_images(arguments)
    report = measurement.Report(arguments, data.name)
    records = []
    known_passes = {} if arguments.passes is None else _read_passes(arguments.passes)
    for n_components in arguments.dimensions:
        names = [
            name
            for name in arguments.models
            if n_components in contenders.CONTENDERS[name].dimensions
        ]
        n_passes = {
            name: "auto"
            if arguments.own_passes
            else known_passes.get((data.name, n_components, name))
            for name in names
        }
        if None in n_passes.values():
            n_passes = _timed_passes(names, n_components, data, arguments)
            for name in names:
                report.add(
                    "paper/passes", n_passes[name], "passes", model=name, n_components=n_components
                )
        if arguments.calibrate:
            continue
        for seed in arguments.seeds:
            for name in names:
                model = contenders.build(
                    name, n_components, seed, arguments, max_iter=n_passes[name]
                )
                known = {
                    "model": name,
                    "n_components": n_components,
                    "seed": seed,
                    "budget": "own" if arguments.own_passes else "equal",
                }
                for measure, value in _measure(model, data, arguments).items():
                    known["method"] = _method(model)
                    report.add(
                        f"paper/{measure}", value, _MEASURES.get(measure, ("nats",))[0], **known
                    )
                    records.append(
                        {
                            "name": f"paper/{measure}",
                            "parameters": known | {"data": data.name},
                            "value": value,
                        }
                    )
    return records


def _budget(n_components, data, arguments):
    """The seconds that a fit may train for."""
    if arguments.seconds is not None:
        return arguments.seconds
    return contenders.default_seconds(min(3, n_components), data.x_train, arguments)


def _timed_passes(names, n_components, data, arguments):
    """The passes that each model can make in the time there is."""
    seconds = _budget(n_components, data, arguments)
    return {
        name: contenders.passes(
            contenders.build(name, n_components, 0, arguments), data.x_train, seconds
        )
        for name in names
    }


def _read_passes(path):
    """Passes by data, dimension and model."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    about = [
        (record["parameters"], record["value"])
        for record in records
        if record["name"] == "paper/passes"
    ]
    return {
        (known["data"], known["n_components"], known["model"]): int(value) for known, value in about
    }


def _measure(model, data, arguments):
    """Fit a model; return its measurements by name."""
    model.fit(data.x_train)
    subsample = np.random.default_rng(0).permutation(len(data.x_test))[
        : 50 if arguments.quick else _N_SUBSAMPLE
    ]
    bound = contenders.bound_nats(model, data.x_test)
    gap, doubling = _gap(model, data.x_test, bound, subsample, arguments)
    maps = [contenders.euclidean_map(model, x) for x in (data.x_train, data.x_test)]
    reconstructions = (
        model.reconstruct(data.x_test),
        model.inverse_transform(model.transform(data.x_test)),
    )
    errors = [
        float(np.square(reconstruction - data.x_test).mean(dtype=np.float64))
        for reconstruction in reconstructions
    ]
    return {
        "bound": -bound.mean(dtype=np.float64),
        "nats": -bound.mean(dtype=np.float64) - gap,
        "gap": gap,
        "mse": errors[0],
        "mse_of_point": errors[1],
        "knn": measurement.neighbour_accuracy(maps[0], data.y_train, maps[1], data.y_test),
        "trust": trustworthiness(
            data.x_test[subsample], maps[1][subsample], n_neighbors=_N_NEIGHBOURS
        ),
        "passes": model.n_iter_,
    } | doubling


def _gap(model, x, bound, subsample, arguments):
    """The mean of log p(x) less the bound, of all rows by quadrature, or of a subsample by
    importance sampling; and what is known of it."""
    if model.n_components <= 3:
        nats, change = contenders.settled_nats(model, x)
        return float((nats - bound).mean()), {"last_doubling": float(change)}
    n_draws = 20 if arguments.quick else _N_IMPORTANCE
    estimate = model.score_samples(x[subsample], method="importance", n_importance_samples=n_draws)
    return float((estimate - bound[subsample]).mean(dtype=np.float64)), {}


def _method(model):
    return "quadrature" if model.n_components <= 3 else "importance"


def _print(records, what, as_document):
    """Print medians over seeds, and the spread of the nats, largest less smallest."""
    values = {}
    for record in records:
        known = record["parameters"]
        key = known["n_components"], known["model"]
        values.setdefault(key, {}).setdefault(record["name"].split("/")[1], {})[known["seed"]] = (
            record["value"]
        )
    header = [
        "model",
        "d",
        "bound",
        "nats",
        "spread",
        "gap",
        "mse",
        "mse of point",
        "kNN",
        "trust",
        "passes",
    ]
    order = list(contenders.CONTENDERS)
    rows = [
        _row(*key, values[key])
        for key in sorted(values, key=lambda key: (key[0], order.index(key[1])))
    ]
    n_seeds = max(len(measured["nats"]) for measured in values.values())
    title = (
        f"{what}: medians of {n_seeds} seeds; nats are minus log p(x) of a new row, the lower "
        "the better; ~ is an estimate"
    )
    if as_document:
        print(f"{title}\n\n{measurement.restructured(header, rows)}\n")
    else:
        measurement.print_table(title, header, rows)


def _row(n_components, name, measured):
    cells = {
        measure: form.format(statistics.median(measured[measure].values()))
        for measure, (_, form) in _MEASURES.items()
    }
    nats = measured["nats"].values()
    cells["nats"] = ("" if n_components <= 3 else "~") + cells["nats"]
    spread = f"{max(nats) - min(nats):.2f}"
    bound, exact, *others = cells.values()
    return [name, n_components, bound, exact, spread, *others]


if __name__ == "__main__":
    main()
