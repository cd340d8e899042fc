"""The main job: ``python -m skqlvm`` maps the bundled digits; with ``--data`` it maps a file of
your own."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np


def main(argv=None):
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.out is not None and not arguments.out.parent.is_dir():
            raise OSError(
                f"--out expects a file in a folder that exists, but got {str(arguments.out)!r}."
            )
        return _digits(arguments) if arguments.data is None else _own_data(arguments)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"skqlvm: {error}", file=sys.stderr)
        return 2


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m skqlvm",
        description="Fit a two-dimensional QLVM. Without --data, to the digits that ship with "
        "scikit-learn, beside PCA.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="rows to map: a .npy, .npz (its array X, or its first) or .csv (with or without "
        "header) file",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write (skqlvm_digits.png; with --data skqlvm_map.csv: coordinates and nats)",
    )
    parser.add_argument(
        "--likelihood",
        choices=["gaussian", "bernoulli"],
        default="gaussian",
        help="bernoulli needs data in [0, 1]",
    )
    parser.add_argument(
        "--components",
        type=int,
        choices=[1, 2, 3],
        default=2,
        help="dimensions of the map of your own data",
    )
    parser.add_argument("--device", default="auto", help="torch device")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _own_data(arguments):
    from ._qlvm import QLVMEmbedding

    X = _load(arguments.data)
    model = QLVMEmbedding(
        arguments.components,
        likelihood=arguments.likelihood,
        device=arguments.device,
        random_state=arguments.seed,
        verbose=1,
    )
    table = np.column_stack([model.fit(X).transform(X), model.score_samples(X)])
    out = arguments.out or Path("skqlvm_map.csv")
    names = [*(f"turns{i}" for i in range(arguments.components)), "nats"]
    np.savetxt(out, table, delimiter=",", header=",".join(names), comments="", fmt="%.9g")
    print(
        f"{len(X)} rows of {X.shape[1]} features, {table[:, -1].mean():.2f} nats a row on "
        f"average. Coordinates and nats are in {out}."
    )
    return 0


def _load(path):
    """Read rows from a file; images are flattened."""
    readers = {".npy": partial(np.load, mmap_mode="r"), ".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"--data expects a file that ends in one of {sorted(readers)}, but got {str(path)!r}."
        )
    X = readers[path.suffix.lower()](path)
    return X.reshape(len(X), -1) if X.ndim > 2 else X


def _read_npz(path):
    with np.load(path) as archive:
        if not archive.files:
            raise ValueError(f"{path} holds no array.")
        return archive["X" if "X" in archive else archive.files[0]]


def _read_csv(path):
    with open(path, encoding="utf-8-sig") as file:
        has_header = not any(map(_is_number, file.readline().split(",")))
    return np.loadtxt(path, delimiter=",", skiprows=int(has_header), ndmin=2, encoding="utf-8-sig")


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _digits(arguments):
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA
    from sklearn.model_selection import train_test_split

    from ._qlvm import QLVMEmbedding

    data = load_digits()
    split = train_test_split(
        data.data, data.target, test_size=0.3, random_state=0, stratify=data.target
    )
    model = QLVMEmbedding(device=arguments.device, random_state=arguments.seed, verbose=1)
    if arguments.likelihood == "bernoulli":
        model.set_params(likelihood="bernoulli")
        split[:2] = [X / 16 for X in split[:2]]
    rows = [("QLVM, 2-D", *_measure(model, *split)), ("PCA, 2-D", *_measure(PCA(2), *split))]
    print(f"Digits: {len(split[0])} rows fitted, {len(split[1])} held out.\n")
    print(
        f"{'model':<12}{'held-out nats per image':>26}{'10-neighbour accuracy':>24}{'seconds':>10}"
    )
    for name, nats, accuracy, seconds in rows:
        print(f"{name:<12}{nats:>26.2f}{accuracy:>24.3f}{seconds:>10.1f}")
    if arguments.likelihood == "bernoulli":
        print(
            "\nPCA's nats are a Gaussian density's; those of the Bernoulli are a cross-entropy, "
            "and do not compare."
        )
    out = arguments.out or Path("skqlvm_digits.png")
    try:
        _draw(model, np.vstack(split[:2]), np.hstack(split[2:]), out)
    except ImportError:
        print('\nNo picture: matplotlib is missing. Install it with: pip install "skqlvm[plot]"')
    else:
        print(f"\nThe map beside the decoded torus is in {out}.")
    return 0


def _measure(model, X_train, X_test, y_train, y_test):
    """Held-out nats a row, 10-neighbour accuracy of the 2-D map, and seconds of fit and
    transform."""
    from sklearn.neighbors import KNeighborsClassifier

    start = time.perf_counter()
    maps = model.fit(X_train).transform(X_train), model.transform(X_test)
    seconds = time.perf_counter() - start
    if hasattr(model, "lattice_"):
        maps = [np.hstack([np.cos(2 * np.pi * z), np.sin(2 * np.pi * z)]) for z in maps]
    accuracy = KNeighborsClassifier(10).fit(maps[0], y_train).score(maps[1], y_test)
    return model.score(X_test), accuracy, seconds


def _draw(model, X, y, out):
    """The map coloured by digit, beside the images that the torus decodes to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    z = model.transform(X)
    points = left.scatter(z[:, 0], z[:, 1], c=y, cmap="tab10", s=8, vmin=-0.5, vmax=9.5)
    figure.colorbar(points, ax=left, ticks=range(10), label="digit", fraction=0.04)
    left.set(
        title="where each image lies",
        xlabel="first coordinate, turns",
        ylabel="second coordinate, turns",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    side = 16
    centers = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(centers, centers[::-1]), -1).reshape(-1, 2)
    images = model.inverse_transform(grid).reshape(side, side, 8, 8)
    right.imshow(
        images.transpose(0, 2, 1, 3).reshape(8 * side, 8 * side), cmap="gray_r", extent=(0, 1, 0, 1)
    )
    right.set(
        title="what each place decodes to (opposite edges meet)", xlabel="first coordinate, turns"
    )
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
