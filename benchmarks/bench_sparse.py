"""One pass over sparse counts and their scores, beside TruncatedSVD; a fresh process each.

    python benchmarks/bench_sparse.py

50,000 rows of 20,000 counts, of which one in 200 is not zero: as floats they would take 4 GB. Rows
lie on a ring, on which each feature has its place. A process that makes one pass over all of them,
and scores 2000, may hold 2 GiB in all."""

import measurement
import numpy as np

_GIB = 2**30
_SIZES = {"n_rows": 50_000, "n_features": 20_000, "density": 0.005, "n_scored": 2000}
_QUICK_SIZES = {"n_rows": 300, "n_features": 2500, "density": 0.02, "n_scored": 50}
_QUICK_SETTINGS = {"n_points": 34, "n_points_eval": 55, "hidden_layer_sizes": [8]}


def main(argv=None):
    arguments = measurement.parser(__doc__).parse_args(argv)
    report, sizes = measurement.Report(arguments), _QUICK_SIZES if arguments.quick else _SIZES
    shared = sizes | {"seed": arguments.seeds[0]}
    settings = _QUICK_SETTINGS if arguments.quick else {}
    contenders = {
        "QLVM": measurement.fresh_process(
            qlvm, settings=settings, device=arguments.device, **shared
        ),
        "TruncatedSVD": measurement.fresh_process(truncated_svd, **shared),
    }
    rows = []
    for name, found in contenders.items():
        for what in ("fit", "transform", "score"):
            if what in found:
                report.add(f"sparse/{name}_{what}_seconds", found[what], "s", **sizes)
        report.add(f"sparse/{name}_total_bytes", found["bytes"], "bytes", **sizes)
        seconds = [f"{found[what]:.2f}" if what in found else "" for what in found["order"]]
        rows.append([name, *seconds, f"{found['bytes'] / _GIB:.2f}", f"{found['angle']:.3f}"])
    title = f"{sizes['n_rows']} rows of {sizes['n_features']} counts, {sizes['density']} not zero"
    header = ["", "one pass s", "transform s", f"score {sizes['n_scored']} s", "peak GiB", "angle"]
    measurement.print_table(title, header, rows)


def ring_of_counts(n_rows, n_features, density, seed):
    """Return counts in CSR format, and where on the ring each row lies, in turns."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    turns = rng.random(n_rows)
    n_counts = round(density * n_rows * n_features)
    rows = rng.integers(0, n_rows, n_counts)
    places = (turns[rows] + 0.1 * rng.normal(size=n_counts)) % 1
    columns = (n_features * places).astype(np.int32)
    ones = np.ones(n_counts, dtype=np.float32)
    X = csr_matrix((ones, (rows.astype(np.int32), columns)), shape=(n_rows, n_features))
    X.sum_duplicates()
    return X, turns


def explained(Z, turns):
    """Return the share of the variance of the ring's cosine and sine that neighbours explain."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

    Z, turns = Z[:5000], turns[:5000]
    circle = np.column_stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])
    found = cross_val_predict(KNeighborsRegressor(10), Z, circle, cv=5)
    return float(
        1 - ((found - circle) ** 2).sum() / (circle - circle.mean(0)).ravel().var() / circle.size
    )


def qlvm(n_rows, n_features, density, n_scored, seed, settings, device):
    """Measure one pass of a QLVM of counts, the map of all rows and the scores of some."""
    from skqlvm import QLVMEmbedding

    X, turns = ring_of_counts(n_rows, n_features, density, seed)
    model = QLVMEmbedding(likelihood="poisson", random_state=seed, device=device, **settings)
    with measurement.PeakMemory() as memory:
        _, fit = measurement.timed(model.partial_fit, X, device=device)
        Z, transform = measurement.timed(model.transform, X, device=device)
        _, score = measurement.timed(model.score_samples, X[:n_scored], device=device)
    circles = np.column_stack([np.cos(2 * np.pi * Z), np.sin(2 * np.pi * Z)])
    return _found(memory, explained(circles, turns), fit=fit, transform=transform, score=score)


def truncated_svd(n_rows, n_features, density, n_scored, seed):
    """Measure a truncated SVD of two components of log counts."""
    from sklearn.decomposition import TruncatedSVD

    X, turns = ring_of_counts(n_rows, n_features, density, seed)
    model = TruncatedSVD(4, random_state=seed)
    with measurement.PeakMemory() as memory:
        _, fit = measurement.timed(model.fit, X.log1p())
        Z, transform = measurement.timed(model.transform, X.log1p())
    return _found(memory, explained(Z, turns), fit=fit, transform=transform)


def _found(memory, angle, **seconds):
    order = ["fit", "transform", "score"]
    return seconds | {"bytes": memory.resident_bytes, "angle": angle, "order": order}


if __name__ == "__main__":
    main()
