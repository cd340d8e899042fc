"""Small and unscaled tables: the defaults beside PCA, UMAP and a Gaussian mixture.

    python benchmarks/bench_tables.py --seeds 0 1 2 3 4
    python benchmarks/bench_tables.py --held-out

Six tables that scikit-learn ships, as they come and standardised (by their training rows). Each
seed splits the rows anew, 70 to 30; with --held-out the training rows are split once more and the
test rows left alone, which is how defaults are chosen. Reported are nats, mean log p(x) of a test
row in the units of the data that are fitted (higher is better), and in two dimensions what ten
neighbours on the map know of the target: accuracy, or R^2 for diabetes. Required are the nats of
PCA with as many components, and a map within 0.01 of the better of PCA and UMAP.

PCA also has its best number of components, by cross-validation; the mixture the best of one to four
full Gaussians by the Bayesian information criterion, with a hundredth of the mean variance added to
each so that it survives constant columns."""

from functools import partial

import measurement
import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from skqlvm import QLVMEmbedding

LOADERS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "linnerud": datasets.load_linnerud,
    "digits": datasets.load_digits,
}
FORMS = ("standardised", "raw")
NUMBERS = (1, 2, 3, 5, 8, 13, 21, 34)
"""Components among which PCA's best number is sought."""

_QUICK = {"n_points": 55, "n_points_eval": 233, "max_iter": 2, "hidden_layer_sizes": (32,)}
_NEIGHBOURS, _MARGIN = 10, 0.01
_NATS, _KNN = "nats", "knn"


def main(argv=None):
    parser = measurement.parser(__doc__, seeds=(0, 1, 2, 3, 4))
    parser.add_argument("--sets", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--components", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--held-out", action="store_true", help="leave the test rows alone")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.sets, arguments.components = ["iris", "linnerud"], [2]
    report, umap = measurement.Report(arguments), measurement.umap_class(arguments)
    measures = [_measure] if umap is None else [_measure, partial(_measure_umap, umap)]
    results = {(name, form): {} for name in arguments.sets for form in FORMS}
    for measure in measures:  # UMAP last of all: after it, other libraries have other threads
        for (name, form), found in results.items():
            measured = _over_seeds(partial(measure, arguments), name, form, arguments)
            for (what, model), values in measured.items():
                unit = {_NATS: "nats", _KNN: "fraction"}.get(what, "s")
                report.add(f"tables/{what}", values, unit, data=name, form=form, model=model)
            found |= measured
    _print(results, arguments)


def _over_seeds(measure, name, form, arguments):
    """Lists of what a function measures on the splits of a table."""
    found = {}
    for seed in arguments.seeds:
        data = split(name, form, seed, held_out=arguments.held_out)
        for key, value in measure(data, seed).items():
            found.setdefault(key, []).append(value)
    return found


def split(name, form, seed, *, held_out=False):
    """Return training rows, test rows and their targets, split by a seed."""
    x, y = LOADERS[name](return_X_y=True)
    parts = _split(x, y, seed)
    if held_out:
        parts = _split(parts[0], parts[2], seed)
    x_train, x_test, y_train, y_test = parts
    if form == "standardised":
        scaler = StandardScaler().fit(x_train)
        x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    return x_train, x_test, y_train, y_test


def _split(x, y, seed):
    return train_test_split(
        x, y, test_size=0.3, random_state=seed, stratify=y if _is_classes(y) else None
    )


def _is_classes(y):
    return y.dtype.kind == "i"


def _measure(arguments, data, seed):
    """What is measured on one split but for UMAP, by what it is and the model."""
    x_train, x_test = data[:2]
    results = {}
    for k in arguments.components:
        settings = _QUICK if arguments.quick else {}
        model = QLVMEmbedding(k, random_state=seed, device=arguments.device, **settings)
        _, seconds = measurement.timed(model.fit, x_train, device=arguments.device)
        pca = PCA(min(k, *x_train.shape)).fit(x_train)
        results["seconds", f"QLVM {k}"] = seconds
        results[_NATS, f"QLVM {k}"] = model.score(x_test)
        results[_NATS, f"PCA {k}"] = pca.score(x_test)
        if k == 2 and _has_map(data):
            for readout in measurement.READOUTS:
                maps = [measurement.euclidean_map(model, readout, x) for x in (x_train, x_test)]
                results[_KNN, f"QLVM {readout}"] = _known(maps, data)
            results[_KNN, "PCA"] = _known([pca.transform(x) for x in (x_train, x_test)], data)
    results[_NATS, "PCA best"] = _best_pca(x_train).score(x_test)
    results[_NATS, "mixture"] = _best_mixture(x_train, seed).score(x_test)
    return results


def _measure_umap(umap, arguments, data, seed):
    if 2 not in arguments.components or not _has_map(data):
        return {}
    fitted = umap(random_state=seed, n_jobs=1)
    maps = [fitted.fit_transform(data[0]), fitted.transform(data[1])]
    return {(_KNN, "UMAP"): _known(maps, data)}


def _has_map(data):
    """Whether there are rows enough for neighbours to say something."""
    return len(data[0]) > 5 * _NEIGHBOURS


def _known(maps, data):
    """What neighbours on a map know of the target."""
    y_train, y_test = data[2:]
    kind = KNeighborsClassifier if _is_classes(y_train) else KNeighborsRegressor
    return kind(_NEIGHBOURS).fit(maps[0], y_train).score(maps[1], y_test)


def _best_pca(x):
    """PCA of the number of components with the highest cross-validated likelihood."""
    smallest_fold = min(int(0.8 * len(x)), x.shape[1])
    numbers = [number for number in NUMBERS if number <= smallest_fold]
    return GridSearchCV(PCA(), {"n_components": numbers}).fit(x).best_estimator_


def _best_mixture(x, seed):
    """A mixture of full Gaussians, as many as its information criterion asks for."""
    added = 0.01 * x.var(0).mean()
    mixtures = [
        GaussianMixture(number, reg_covar=added, random_state=seed).fit(x)
        for number in range(1, 5)
        if number < len(x)
    ]
    return min(mixtures, key=lambda mixture: mixture.bic(x))


def _nats_rows(title, found, components):
    """Means over the seeds, and on how many of these QLVM is no worse than PCA."""
    rows = []
    for k in components:
        ours, pca = (np.array(found[_NATS, f"{model} {k}"]) for model in ("QLVM", "PCA"))
        others = [np.mean(found[_NATS, model]) for model in ("PCA best", "mixture")]
        rows.append(
            [
                title,
                k,
                *(f"{value:.2f}" for value in (ours.mean(), pca.mean(), *others)),
                f"{np.sum(ours >= pca)}/{len(ours)}",
                f"{np.median(found['seconds', f'QLVM {k}']):.1f}",
                "yes" if ours.mean() >= pca.mean() else "NO",
            ]
        )
    return rows


def _map_rows(title, found):
    """Means over the seeds of what the maps know; none without a target or in other dimensions."""
    if (_KNN, "PCA") not in found:
        return []
    means = {model: np.mean(values) for (what, model), values in found.items() if what == _KNN}
    best = max(means["PCA"], means.get("UMAP", -np.inf))
    return [
        [
            title,
            " / ".join(f"{means[f'QLVM {readout}']:.3f}" for readout in measurement.READOUTS),
            f"{means['PCA']:.3f}",
            f"{means['UMAP']:.3f}" if "UMAP" in means else "-",
            "yes" if means["QLVM local"] >= best - _MARGIN else "NO",
        ]
    ]


def _print(results, arguments):
    nats, maps = [], []
    for (name, form), found in results.items():
        nats += _nats_rows(f"{name}, {form}", found, arguments.components)
        maps += _map_rows(f"{name}, {form}", found)
    measurement.print_table(
        f"Nats of a test row, means of {len(arguments.seeds)} seeds, the higher the better; "
        "required: PCA's of as many components",
        ["table", "k", "QLVM", "PCA", "PCA best", "mixture", "won", "fit s", "reached"],
        nats,
    )
    measurement.print_table(
        f"What {_NEIGHBOURS} neighbours on a map of two dimensions know, QLVM by "
        f"{' / '.join(measurement.READOUTS)};\nrequired of the first: the better of PCA and UMAP, "
        f"less {_MARGIN}",
        ["table", "QLVM", "PCA", "UMAP", "reached"],
        maps,
    )


if __name__ == "__main__":
    main()
