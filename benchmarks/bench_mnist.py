"""QLVM, PCA and UMAP on MNIST-10k: seconds, held-out nats and how well the map separates the
digits.

    python benchmarks/bench_mnist.py --data DIR --seeds 0 1 2

Everything but the likelihood and the random state is left at its default; and once more, all but
the number of passes, for twice the steps. Models are fitted on the training file and measured on
the test file; kNN is the accuracy of a 10-neighbour classifier on the map. UMAP's first call in a
process compiles it; later ones do not."""

import measurement
from sklearn.decomposition import PCA

from skqlvm import QLVMEmbedding

_QUICK = {"n_points": 55, "n_points_eval": 233, "max_iter": 3, "hidden_layer_sizes": (32,)}


def main(argv=None):
    arguments = measurement.parser(__doc__, seeds=(0, 1, 2)).parse_args(argv)
    data = measurement.load_images(arguments)
    report = measurement.Report(arguments, data.name)
    umap = measurement.umap_class(arguments)
    results = {}
    for seed in arguments.seeds:
        _collect(results, "PCA", _peer(PCA(2, random_state=seed), data))
        _collect(results, "QLVM", _qlvm(seed, data, arguments))
        _collect(results, "QLVM, max_iter=56", _qlvm(seed, data, arguments, max_iter=56))
    if umap is not None:  # last of all: after it, other libraries have other threads
        _collect(results, "UMAP, first call", _peer(umap(), data))
        for _ in range(max(1, len(arguments.seeds) - 1)):
            _collect(results, "UMAP, compiled", _peer(umap(), data))
    medians = {
        model: {
            name: report.add(
                f"mnist/{name}", values, _unit(name), model=model, n_rows=len(data.x_train)
            )
            for name, values in measured.items()
        }
        for model, measured in results.items()
    }
    _print(medians, data)


def _collect(results, model, measured):
    for name, value in measured.items():
        results.setdefault(model, {}).setdefault(name, []).append(value)


def _unit(name):
    return {"fit": "s", "transform": "s", "test": "nats"}.get(name.split("_")[0], "fraction")


def _qlvm(seed, data, arguments, **settings):
    """Fit and measure one QLVM, by all readouts."""
    settings = _QUICK if arguments.quick else settings
    model = QLVMEmbedding(
        likelihood="bernoulli", random_state=seed, device=arguments.device, **settings
    )
    _, fit_seconds = measurement.timed(model.fit, data.x_train, device=arguments.device)
    _, transform_seconds = measurement.timed(model.transform, data.x_test, device=arguments.device)
    measured = {
        "fit_seconds": fit_seconds,
        "transform_seconds": transform_seconds,
        "test_nats": -model.score(data.x_test),
    }
    for readout in measurement.READOUTS:
        maps = [measurement.euclidean_map(model, readout, x) for x in (data.x_train, data.x_test)]
        measured[f"knn_{readout}"] = measurement.neighbour_accuracy(
            maps[0], data.y_train, maps[1], data.y_test
        )
    return measured


def _peer(model, data):
    map_train, fit_seconds = measurement.timed(model.fit_transform, data.x_train)
    map_test, transform_seconds = measurement.timed(model.transform, data.x_test)
    knn = measurement.neighbour_accuracy(map_train, data.y_train, map_test, data.y_test)
    return {"fit_seconds": fit_seconds, "transform_seconds": transform_seconds, "knn_map": knn}


def _print(medians, data):
    qlvm = medians["QLVM"]
    total = {
        model: measured["fit_seconds"] + measured["transform_seconds"]
        for model, measured in medians.items()
    }
    rows = []
    for model, measured in medians.items():
        knn = (
            [measured[f"knn_{readout}"] for readout in measurement.READOUTS]
            if "knn_local" in measured
            else [measured["knn_map"]]
        )
        seconds = [f"{measured[f'{part}_seconds']:.1f}" for part in ("fit", "transform")]
        nats = f"{measured['test_nats']:.2f}" if "test_nats" in measured else "-"
        rows.append(
            [
                model,
                *seconds,
                f"{total[model] / total['QLVM']:.2f}",
                nats,
                " / ".join(f"{value:.3f}" for value in knn),
            ]
        )
    measurement.print_table(
        f"{data.name}, {len(data.x_train)} rows fitted, {len(data.x_test)} new rows; nats are "
        "minus log p(x) of a new row, the lower the "
        f"better;\nQLVM's kNN by {' / '.join(measurement.READOUTS)}; medians",
        ["model", "fit s", "new rows s", "time, QLVM = 1", "test nats", "kNN"],
        rows,
    )
    first, compiled = (
        f"{total[name]:.1f} s" if name in total else "-"
        for name in ("UMAP, first call", "UMAP, compiled")
    )
    measurement.print_table(
        f"Required and aimed at on mnist-10k; this is {data.name}",
        ["", "reached", "required", "aim"],
        [
            ["test nats", f"{qlvm['test_nats']:.2f}", "121.5", "118"],
            ["kNN of the default map", f"{qlvm['knn_local']:.3f}", "0.910", "0.93"],
            [
                "fit and transform",
                f"{total['QLVM']:.1f} s",
                f"UMAP's first call: {first}",
                f"compiled: {compiled}",
            ],
        ],
    )


if __name__ == "__main__":
    main()
