"""Seconds of the defaults by the number of rows, beside UMAP's: a fit with the map of its rows, and
then the map of 10,000 others.

    python benchmarks/bench_rows.py --data DIR --rows 10000 20000 40000 --repeats 5

Rows are the training digits, and beyond these also digits moved by a pixel, in float32. The two run
in turn, each in a fresh process where it has fitted a few rows before, so that UMAP is compiled.
The ratio is that of two runs one after the other: seconds vary from run to run, and alone are
compared. bench_mnist.py has what the maps are worth."""

from argparse import Namespace
from statistics import median

import measurement
import numpy as np


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    parser.add_argument("--new-rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.new_rows, arguments.repeats = [300], 100, 1
    report = measurement.Report(arguments, measurement.images_name(arguments))
    peer = measurement.umap_class(arguments) is not None
    rows = [_measured(n_rows, peer, arguments, report) for n_rows in arguments.rows]
    measurement.print_table(
        f"Fit, map of its rows, map of {arguments.new_rows} others: medians of "
        f"{arguments.repeats}, in seconds; ratios of runs in turn, with the least and largest",
        ["rows", "QLVM", "UMAP, compiled", "QLVM / UMAP"],
        rows,
    )


def _measured(n_rows, peer, arguments, report):
    """Run both in turn; return a row of the table."""
    names = ["QLVM", "UMAP"] if peer else ["QLVM"]
    seconds = {name: [] for name in names}
    for repeat in range(arguments.repeats):
        for name in names:
            parts = measurement.fresh_process(
                fit_and_map,
                name=name,
                n_rows=n_rows,
                n_new_rows=arguments.new_rows,
                seed=arguments.seeds[0] + repeat,
                quick=arguments.quick,
                data=None if arguments.data is None else str(arguments.data),
                device=arguments.device,
            )
            seconds[name].append(sum(parts))
    for name, values in seconds.items():
        report.add("rows/total_seconds", values, "s", model=name, n_rows=n_rows)
    if not peer:
        return [n_rows, f"{median(seconds['QLVM']):.1f}", "-", "-"]
    ratios = [a / b for a, b in zip(seconds["QLVM"], seconds["UMAP"], strict=True)]
    report.add("rows/ratio", ratios, "QLVM / UMAP", n_rows=n_rows)
    medians = [f"{median(values):.1f}" for values in seconds.values()]
    return [n_rows, *medians, f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"]


def fit_and_map(name, n_rows, n_new_rows, seed, quick, data, device):
    """Return seconds of a fit with the map of its rows, and of the map of new rows."""
    arguments = Namespace(quick=quick, data=data)
    if name == "UMAP":
        umap = measurement.umap_class(arguments)
        model, compiling = umap(), umap()
    else:
        from skqlvm import QLVMEmbedding

        sizes = {"n_points": 55, "n_points_eval": 233} if quick else {}
        shared = {"likelihood": "bernoulli", "random_state": seed, "device": device} | sizes
        model = QLVMEmbedding(**shared, max_iter=1 if quick else "auto")
        compiling = QLVMEmbedding(**shared, max_iter=1)
    x, x_new = _digits(arguments, n_rows, seed), _moved(arguments, n_new_rows, seed + 1)
    # 5,000 rows: with fewer than 4,096 UMAP leaves out the nearest neighbour search that compiles
    compiling.fit(x[:5000]).transform(x_new[:500])
    fitted = measurement.timed(model.fit_transform, x, device=device)[1]
    return fitted, measurement.timed(model.transform, x_new, device=device)[1]


def _digits(arguments, n_rows, seed):
    """The training digits, and moved ones if these are too few."""
    x = measurement.rows_of_784(arguments, min(n_rows, 10_000))
    return np.concatenate([x, _moved(arguments, n_rows - len(x), seed)])


def _moved(arguments, n_rows, seed):
    """Training digits that are moved by -1, 0 or 1 pixels in both directions."""
    images = measurement.rows_of_784(arguments, n_rows).reshape(-1, 28, 28)
    return measurement.moved(images, np.random.default_rng(seed)).reshape(-1, 784)


if __name__ == "__main__":
    main()
