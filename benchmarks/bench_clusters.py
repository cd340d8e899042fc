"""Clusters of maps against true classes, borders of clusters against the decoder's Jacobian, and
how alike the maps of several seeds are.

    python benchmarks/bench_clusters.py --data DIR --seeds 0 1
    python benchmarks/bench_clusters.py --data DIR --seeds 0 1 2 3 --parts stability

Maps are fitted and clustered on training rows, whose labels nothing sees but the adjusted Rand
index; clusters of new rows are those that their coordinates fall into. `stability` is on the new
rows. KMeans and HDBSCAN get UMAP's coordinates as they are. The likelihood is Bernoulli's."""

from math import isqrt

import measurement
import numpy as np
from scipy.stats import spearmanr
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from skqlvm import QLVMEmbedding, torus

_QUICK = {"n_points": 55, "n_points_eval": 233, "max_iter": 3, "hidden_layer_sizes": (32,)}
_N_CLUSTERS = 10
_PARTS = ("clusters", "borders", "stability")
_SLANTS = (-0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45)


def main(argv=None):
    parser = measurement.parser(__doc__, seeds=(0, 1))
    parser.add_argument("--slants", action="store_true", help="sum over seven slants of images")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    arguments = parser.parse_args(argv)
    data = measurement.load_images(arguments)
    report = measurement.Report(arguments, data.name)
    models = [_fitted(seed, data, arguments) for seed in arguments.seeds]
    if "clusters" in arguments.parts:
        _report_clusters(report, _clusters(models, data, arguments), data)
    if "borders" in arguments.parts:
        _report_borders(report, [_borders(model, data) for model in models], data)
    if "stability" in arguments.parts and len(models) > 1:
        _report_stability(report, torus.stability(models, data.x_test), data)


def _clusters(models, data, arguments):
    """Return what came of each clusterer for each seed, by its name."""
    found = {}
    for model in models:
        for name, values in _clustered(model, data).items():
            found.setdefault(name, []).append(values)
    umap = measurement.umap_class(arguments)
    for seed in arguments.seeds if umap is not None else ():
        for name, values in _peers(umap(random_state=seed, n_jobs=1), seed, data).items():
            found.setdefault(name, []).append(values)
    return found


def _fitted(seed, data, arguments):
    settings = dict(_QUICK) if arguments.quick else {}
    if arguments.slants:
        side = isqrt(data.x_train.shape[1])
        settings |= {"transformations": {"shear": _SLANTS}, "image_shape": (1, side, side)}
    model = QLVMEmbedding(
        likelihood="bernoulli", random_state=seed, device=arguments.device, **settings
    )
    return model.fit(data.x_train)


def _clustered(model, data):
    """Fit each clusterer to the map of the training rows; return what came of it, by name."""
    Z, Z_new = model.coordinates(data.x_train), model.coordinates(data.x_test)
    clusterers = {
        f"watershed, {elevation}": torus.TorusWatershed(
            model, n_clusters=_N_CLUSTERS, elevation=elevation
        )
        for elevation in ("density", "posterior", "jacobian")
    }
    overlap = torus.TorusWatershed(model, n_clusters=_N_CLUSTERS, merge="overlap")
    clusterers |= {"watershed, overlap": overlap, "mean shift": torus.TorusMeanShift()}
    features = torus.TorusFeatures().fit(Z)
    found = {}
    for name, clusterer in clusterers.items():
        more = {"rows": data.x_train} if clusterer is overlap else {}
        _, seconds = measurement.timed(lambda c=clusterer, m=more: c.fit(Z, **m))
        found[name] = _agreement(clusterer.labels_, clusterer.predict(Z_new), data, seconds)
    for name, clusterer in (
        ("KMeans, features", KMeans(_N_CLUSTERS, n_init=10, random_state=0)),
        ("HDBSCAN, features", HDBSCAN(_smallest(data), copy=True)),
    ):
        _, seconds = measurement.timed(clusterer.fit, features.transform(Z))
        found[name] = _agreement(clusterer.labels_, None, data, seconds)
    return found


def _peers(umap, seed, data):
    Z = umap.fit_transform(data.x_train)
    kmeans, kmeans_seconds = measurement.timed(
        KMeans(_N_CLUSTERS, n_init=10, random_state=seed).fit, Z
    )
    new = kmeans.predict(umap.transform(data.x_test).astype(Z.dtype))
    found = {"UMAP, KMeans": _agreement(kmeans.labels_, new, data, kmeans_seconds)}
    for n in sorted({5, _smallest(data)}):
        hdbscan, seconds = measurement.timed(HDBSCAN(n, copy=True).fit, Z)
        found[f"UMAP, HDBSCAN({n})"] = _agreement(hdbscan.labels_, None, data, seconds)
    return found


def _smallest(data):
    """Rows of the smallest cluster that HDBSCAN may find: a fifth of a class."""
    return max(2, len(data.x_train) // (5 * _N_CLUSTERS))


def _agreement(labels, new, data, seconds):
    """Adjusted Rand indices; rows without a cluster are one of their own."""
    found = {
        "ari": adjusted_rand_score(data.y_train, labels),
        "n_clusters": len(set(labels[labels >= 0])),
        "seconds": seconds,
    }
    if new is not None:
        found["ari_new"] = adjusted_rand_score(data.y_test, new)
    return found


def _borders(model, data):
    """How much faster decoded rows change on borders of clusters by density than inside."""
    watershed = torus.TorusWatershed(model, n_clusters=_N_CLUSTERS)
    watershed.fit(model.coordinates(data.x_train))
    points, labels = watershed.points_, watershed.point_labels_
    log_norm = np.log(torus.jacobian_norm(model, points))
    near = torus.neighbors(points, points, 7)[1]
    border = (labels[near] != labels[:, None]).any(1)
    # borders of classes themselves, by the rows nearest to each point
    classes = data.y_train[torus.neighbors(model.coordinates(data.x_train), points)[1][:, 0]]
    mixed = (classes[near] != classes[:, None]).any(1)
    return {
        "border_less_inside": log_norm[border].mean() - log_norm[~border].mean(),
        "class_border_less_inside": log_norm[mixed].mean() - log_norm[~mixed].mean(),
        "rank_of_border": spearmanr(log_norm, border).statistic,
        "rank_of_class_border": spearmanr(log_norm, mixed).statistic,
        "rank_of_elevation": spearmanr(log_norm, watershed.elevation_).statistic,
    }


def _report_clusters(report, found, data):
    rows = []
    for name, repeats in found.items():
        medians = {
            key: report.add(
                f"clusters/{key}",
                [each[key] for each in repeats],
                {"seconds": "s", "n_clusters": "clusters"}.get(key, "adjusted Rand index"),
                clusterer=name,
            )
            for key in repeats[0]
        }
        rows.append(
            [name]
            + [f"{medians[key]:.3f}" if key in medians else "-" for key in ("ari", "ari_new")]
            + [f"{medians['n_clusters']:.0f}", f"{medians['seconds']:.2f}"]
        )
    measurement.print_table(
        f"{data.name}, {len(data.x_train)} rows: adjusted Rand index against the classes, medians "
        f"over {len(next(iter(found.values())))} seeds",
        ["clusterer", "rows of the fit", "new rows", "clusters", "s"],
        rows,
    )


def _report_borders(report, borders, data):
    rows = [
        [key, f"{report.add(f'borders/{key}', [each[key] for each in borders], unit):.3f}", unit]
        for key in borders[0]
        for unit in ["correlation" if key.startswith("rank") else "log norm"]
    ]
    measurement.print_table(
        f"{data.name}: the log norm of the Jacobian at points of the lattice", ["", "", ""], rows
    )


def _report_stability(report, found, data):
    measures = ("residual_before", "residual", "flat", "decoded", "neighbors", "co_clustering")
    rows = [
        ["nats_spread", f"{report.add('stability/nats_spread', found.nats_spread, 'nats'):.2f}"]
    ]
    for name in measures:
        unit = "turns" if name.startswith("residual") else "fraction"
        rows.append([name, f"{report.add(f'stability/{name}', found[name], unit):.3f}"])
    measurement.print_table(
        f"{data.name}: maps of {len(found.nats)} seeds on new rows, medians over pairs",
        ["", ""],
        rows,
    )


if __name__ == "__main__":
    main()
