"""The Gaussian default on the bundled digits: over-fitting, and how well the map separates the
digits.

    python benchmarks/bench_digits.py --seeds 0 1 2 3 4

Grey levels are left as they come, 0 to 16. Each seed splits the 1797 rows anew, 70 to 30. PCA's
nats are those of its Gaussian model. A first call of each model, which imports or compiles, is not
measured."""

import measurement
from sklearn.decomposition import PCA

from skqlvm import QLVMEmbedding

_QUICK = {"n_points": 55, "n_points_eval": 233, "max_iter": 3, "hidden_layer_sizes": (32,)}
_MAPS = (*measurement.READOUTS, "map")


def main(argv=None):
    arguments = measurement.parser(__doc__, seeds=(0, 1, 2, 3, 4)).parse_args(argv)
    report = measurement.Report(arguments, "digits")
    umap = measurement.umap_class(arguments)
    results, splits = {}, [measurement.split_digits(seed) for seed in arguments.seeds]
    first = QLVMEmbedding(max_iter=1, n_points=5, n_points_eval=1, device=arguments.device)
    first.fit(splits[0][0])
    for seed, data in zip(arguments.seeds, splits, strict=True):
        _collect(results, "QLVM", _qlvm(seed, data, arguments))
        _collect(results, "PCA", _pca(seed, data))
    if umap is not None:  # last of all: after it, other libraries have other threads
        _map(umap(), splits[0])
        for data in splits:
            _collect(results, "UMAP", _map(umap(), data))
    medians = {
        model: {
            name: report.add(f"digits/{name}", values, _unit(name), model=model, test_size=0.3)
            for name, values in measured.items()
        }
        for model, measured in results.items()
    }
    _print(medians, results, len(arguments.seeds))


def _collect(results, model, measured):
    for name, value in measured.items():
        results.setdefault(model, {}).setdefault(name, []).append(value)


def _unit(name):
    return {"seconds": "s", "nats": "nats"}.get(name.split("_")[-1], "fraction")


def _qlvm(seed, data, arguments):
    x_train, x_test, y_train, y_test = data
    model = QLVMEmbedding(
        random_state=seed, device=arguments.device, **(_QUICK if arguments.quick else {})
    )
    _, seconds = measurement.timed(model.fit, x_train, device=arguments.device)
    measured = {"fit_seconds": seconds} | _nats(model, x_train, x_test)
    for readout in measurement.READOUTS:
        maps = [measurement.euclidean_map(model, readout, x) for x in (x_train, x_test)]
        measured[f"knn_{readout}"] = measurement.neighbour_accuracy(
            maps[0], y_train, maps[1], y_test
        )
    return measured


def _pca(seed, data):
    model = PCA(2, random_state=seed)
    return _map(model, data) | _nats(model, data[0], data[1])


def _nats(model, x_train, x_test):
    """Minus log p(x) of a row: the lower, the better."""
    train, test = -model.score(x_train), -model.score(x_test)
    return {"train_nats": train, "test_nats": test, "gap_nats": test - train}


def _map(model, data):
    x_train, x_test, y_train, y_test = data
    map_train, seconds = measurement.timed(model.fit_transform, x_train)
    return {
        "fit_seconds": seconds,
        "knn_map": measurement.neighbour_accuracy(
            map_train, y_train, model.transform(x_test), y_test
        ),
    }


def _print(medians, results, n_seeds):
    rows = []
    for model, measured in medians.items():
        nats = [
            f"{measured[name]:.2f}" if name in measured else "-"
            for name in ("train_nats", "test_nats", "gap_nats")
        ]
        knn = " / ".join(
            f"{measured[f'knn_{name}']:.3f}" for name in _MAPS if f"knn_{name}" in measured
        )
        ratio = measured["fit_seconds"] / medians["QLVM"]["fit_seconds"]
        rows.append([model, f"{measured['fit_seconds']:.2f}", f"{ratio:.2f}", *nats, knn])
    measurement.print_table(
        f"Digits, grey levels 0 to 16, medians of {n_seeds} seeds; nats are minus log p(x) of a "
        "row, the lower the better;\n"
        f"QLVM's kNN by {' / '.join(measurement.READOUTS)}",
        ["model", "fit s", "time, QLVM = 1", "train nats", "test nats", "gap", "kNN"],
        rows,
    )
    reached = results["QLVM"]["knn_local"]
    measurement.print_table(
        "kNN of QLVM's default map",
        ["median", "lowest", "required", "aim (UMAP's)"],
        [[f"{medians['QLVM']['knn_local']:.3f}", f"{min(reached):.3f}", "0.95", "0.976"]],
    )


if __name__ == "__main__":
    main()
