"""A million rows of 784, mapped from a file: seconds and memory of fit and transform, and how
UMAP's seconds grow.

    python benchmarks/bench_million.py --data DIR --scratch /a/disk/with/4/GB

The file is made of the training digits, each moved by up to a pixel in both directions, and deleted
afterwards unless --keep. QLVM is fitted in a fresh process on all of it and on its first 10,000
rows. Memory is anonymous memory: the pages of the mapped file, which the system may drop when it
likes, would count as resident. UMAP's seconds at several sizes, once it is compiled, give an
exponent by least squares on logarithms, and with it an estimate for all rows."""

import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import measurement
import numpy as np

_CHUNK = 10_000
_MIB = 2**20


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few-rows", type=int, default=10_000, help="rows of the fit beside it")
    parser.add_argument(
        "--umap-rows", type=int, nargs="*", default=[10_000, 20_000, 40_000], help="none skips UMAP"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for the file; a temporary one without it"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the file, and use the one that a former run left"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.few_rows, arguments.umap_rows = 3000, 500, [200, 400, 800]
    report = measurement.Report(arguments, measurement.images_name(arguments))
    folder = arguments.scratch or Path(tempfile.mkdtemp(prefix="skqlvm_"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shifted_{arguments.rows}.npy"
    try:
        if not (arguments.keep and path.exists()):
            _, seconds = measurement.timed(write_rows, path, arguments)
            report.add("million/write_seconds", seconds, "s", n_rows=arguments.rows)
        _measure(path, arguments, report)
    finally:
        if arguments.keep:
            print(f"{path} is kept.", file=sys.stderr)
        else:
            path.unlink(missing_ok=True)
            if arguments.scratch is None:
                shutil.rmtree(folder)


def write_rows(path, arguments):
    """Write the file, a chunk at a time: digits in [0, 1] as float32, rolled by -1, 0 or 1 pixels
    in each direction."""
    rng = np.random.default_rng(arguments.seeds[0])
    images = measurement.rows_of_784(
        arguments, len(measurement.load_images(arguments).x_train)
    ).reshape(-1, 28, 28)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (arguments.rows, 784))
    for start in range(0, arguments.rows, _CHUNK):
        stop = min(start + _CHUNK, arguments.rows)
        chosen = images[rng.integers(len(images), size=stop - start)]
        file[start:stop] = measurement.moved(chosen, rng).reshape(-1, 784)
    file.flush()


def _measure(path, arguments, report):
    shared = {"path": str(path), "seed": arguments.seeds[0]}
    data = None if arguments.data is None else str(arguments.data)
    found = {}
    for n_rows in (arguments.few_rows, arguments.rows):
        found[n_rows] = measurement.fresh_process(
            fit_and_transform,
            n_rows=n_rows,
            quick=arguments.quick,
            data=data,
            device=arguments.device,
            **shared,
        )
        for name, value in found[n_rows].items():
            unit = {"seconds": "s", "bytes": "bytes", "nats": "nats"}.get(
                name.split("_")[-1], "steps"
            )
            report.add(f"million/{name}", value, unit, model="QLVM", n_rows=n_rows)
    few, many = found[arguments.few_rows], found[arguments.rows]
    rows = [
        [
            name,
            *(f"{result[name] / unit:.{digits}f}" for result in (few, many)),
            f"{many[name] / few[name]:.2f}",
            required,
        ]
        for name, unit, digits, required in (
            ("fit_seconds", 1, 1, "1"),
            ("transform_seconds", 1, 1, ""),
            ("total_seconds", 1, 1, "240 s for 1,000,000"),
            ("anonymous_added_bytes", _MIB, 0, "1024 MiB"),
            ("anonymous_bytes", _MIB, 0, ""),
            ("n_steps", 1, 0, ""),
            ("test_nats", 1, 2, ""),
        )
    ]
    measurement.print_table(
        "QLVM, bytes in MiB",
        ["", f"{arguments.few_rows} rows", f"{arguments.rows} rows", "ratio", "required"],
        rows,
    )
    if arguments.umap_rows and measurement.umap_class(arguments) is not None:
        _measure_umap(shared["path"], arguments, report, many)


def fit_and_transform(path, n_rows, quick, data, device, seed):
    """Fit on the first rows of a mapped file and place all of them."""
    from skqlvm import QLVMEmbedding

    settings = {"n_points": 55, "n_points_eval": 233, "max_iter": 1} if quick else {}
    x = np.load(path, mmap_mode="r")[:n_rows]
    model = QLVMEmbedding(likelihood="bernoulli", random_state=seed, device=device, **settings)
    with measurement.PeakMemory() as memory:
        _, fit_seconds = measurement.timed(model.fit, x, device=device)
        _, transform_seconds = measurement.timed(model.transform, x, device=device)
    x_test = measurement.rows_of_784(
        Namespace(quick=quick, data=data), 200 if quick else 10_000, "test"
    )
    return {
        "fit_seconds": fit_seconds,
        "transform_seconds": transform_seconds,
        "total_seconds": fit_seconds + transform_seconds,
        "anonymous_added_bytes": memory.anonymous_added_bytes,
        "anonymous_bytes": memory.anonymous_bytes,
        "n_steps": int(model.history_["step"][-1]),
        "test_nats": -model.score(x_test),
    }


def umap_seconds(path, sizes):
    """Return UMAP's seconds of fit_transform at several sizes, and its peak of anonymous memory,
    after a call that compiles it."""
    from umap import UMAP

    x = np.load(path, mmap_mode="r")
    UMAP().fit_transform(np.array(x[: sizes[0]]))
    seconds, peaks = [], []
    for size in sizes:
        with measurement.PeakMemory() as memory:
            seconds.append(measurement.timed(UMAP().fit_transform, np.array(x[:size]))[1])
        peaks.append(memory.anonymous_added_bytes)
    return {"seconds": seconds, "anonymous_added_bytes": peaks}


def _measure_umap(path, arguments, report, many):
    found = measurement.fresh_process(umap_seconds, path=path, sizes=arguments.umap_rows)
    pairs = list(
        zip(arguments.umap_rows, found["seconds"], found["anonymous_added_bytes"], strict=True)
    )
    for size, seconds, added in pairs:
        report.add("million/fit_seconds", seconds, "s", model="UMAP, compiled", n_rows=size)
        report.add(
            "million/anonymous_added_bytes", added, "bytes", model="UMAP, compiled", n_rows=size
        )
    rows = [
        [
            str(size),
            f"{seconds:.1f}",
            f"{added / _MIB:.0f}",
            f"{seconds / many['total_seconds']:.2f}",
        ]
        for size, seconds, added in pairs
    ]
    if len(pairs) > 1:
        exponent, intercept = np.polyfit(np.log(arguments.umap_rows), np.log(found["seconds"]), 1)
        estimate = float(np.exp(intercept) * arguments.rows**exponent)
        report.add(
            "million/growth_exponent",
            exponent,
            "1",
            model="UMAP, compiled",
            sizes=arguments.umap_rows,
        )
        report.add(
            "million/extrapolated_seconds",
            estimate,
            "s",
            model="UMAP, compiled",
            n_rows=arguments.rows,
        )
        rows.append(
            [
                f"{arguments.rows}, by n^{exponent:.2f}",
                f"{estimate:.0f}",
                "",
                f"{estimate / many['total_seconds']:.2f}",
            ]
        )
    measurement.print_table(
        "UMAP, compiled, fit only",
        ["rows", "s", "added MiB", f"times QLVM's fit and transform of {arguments.rows} rows"],
        rows,
    )


if __name__ == "__main__":
    main()
