"""Command line: ``python -m skqlvm`` maps the bundled digits, or with ``--data`` your own file."""

import argparse
import csv
import sys
import time
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from . import __version__, _files, _pictures

_OK, _ELSEWHERE, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130
_FOR_DATA = ("array", "label", "header", "picture", "components")
_PLOT = 'matplotlib is missing. Install it with: pip install "skqlvm[plot]"'
_FEWEST_COMPARED, _HELD_OUT = 10, 0.2


def main(argv=None):
    """Run the command line and return its exit status.

    It is 0, or 1 if a result had to be written elsewhere, 2 for bad input, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        with _plain_warnings():
            return _digits(arguments) if arguments.data is None else _own_data(arguments)
    except KeyboardInterrupt:
        _say("interrupted before there was a result.")
        return _INTERRUPTED
    except MemoryError:
        _say("there is too little memory for this. Give fewer rows, or a smaller --n-points.")
        return _BAD_INPUT
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        _say(error)
        return _BAD_INPUT


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m skqlvm",
        description="Fit a two-dimensional QLVM. Without --data, to the digits that ship with "
        "scikit-learn, beside PCA.",
    )
    parser.add_argument("--version", action="version", version=f"skqlvm {__version__}")
    _add_rows(parser.add_argument_group("rows"))
    _add_results(parser.add_argument_group("results"))
    _add_model(parser.add_argument_group("model"))
    return parser


def _add_rows(group):
    group.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="rows to map: a table (.csv, .tsv or .txt, also with .gz; .parquet with pandas), an "
        ".npy or an .npz file",
    )
    group.add_argument(
        "--label",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="columns that are no features, by name or number (from 0; -1 is the last): they are "
        "carried to the map, and the first colours the picture",
    )
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="the first line of the table names its columns (found out if not given)",
    )
    group.add_argument(
        "--array", metavar="NAME", help="array of the .npz file (X, or the first 2-D floating one)"
    )


def _add_results(group):
    group.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to write (skqlvm_digits.png; with --data skqlvm_map.csv: labels, coordinates "
        "and nats)",
    )
    group.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="where to draw the map of your own data (beside --out, as .png)",
    )


def _add_model(group):
    group.add_argument(
        "--components",
        type=int,
        nargs="+",
        choices=[1, 2, 3],
        help="dimensions of the map of your own data (2); several are compared on held-out rows, "
        "and the best is used",
    )
    group.add_argument(
        "--likelihood",
        metavar="NAME",
        default="gaussian",
        help="gaussian, bernoulli (data in [0, 1]), poisson (counts), or what else QLVMEmbedding "
        "knows by name",
    )
    group.add_argument("--n-points", type=int, metavar="N", help="size of the training lattice")
    group.add_argument("--max-iter", type=int, metavar="N", help="passes over the data, at most")
    group.add_argument("--device", default="auto", help="torch device")
    group.add_argument("--seed", type=int, default=0)


def _say(text):
    """A sentence on stderr; stdout is for results."""
    print(f"skqlvm: {text}", file=sys.stderr)


@contextmanager
def _plain_warnings():
    """Show warnings as sentences, without the line of code that gave them."""
    shown = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: _say(message)
    try:
        yield
    finally:
        warnings.showwarning = shown


def _own_data(arguments):
    out = arguments.out or Path("skqlvm_map.csv")
    picture = arguments.picture or out.with_suffix(".png")
    _check_places(arguments, out, picture)
    rows = _files.read(arguments.data, arguments.array, arguments.label, arguments.header)
    for note in rows.notes:
        _say(note)
    model, interrupted = _fitted(arguments, rows.X)
    z, nats = model.transform(rows.X), model.score_samples(rows.X)
    results = {**{f"turns{i}": z[:, i] for i in range(z.shape[1])}, "nats": nats}
    columns = {name: _texts(column, 15) for name, column in rows.carried.items()}
    for name, column in results.items():
        columns[f"{name} (new)" if name in columns else name] = _texts(column, 9)
    print(f"{len(z)} rows of {rows.X.shape[1]} features, {nats.mean():.2f} nats a row on average.")
    statuses = [_save(lambda path: _write(columns, path), out, "The map is")]
    if _has_matplotlib():
        name, values = rows.label or "nats", rows.carried.get(rows.label, nats)
        title = f"{arguments.data.name}: {nats.mean():.2f} nats a row"
        statuses.append(
            _save(
                lambda path: _pictures.draw_map(z, values, name, title, path),
                picture,
                "Its picture is",
            )
        )
    else:
        print(f"No picture: {_PLOT}")
    return _INTERRUPTED if interrupted else max(statuses)


def _check_places(arguments, out, picture):
    """Raise what would lose the map after the fit."""
    if arguments.out is not None and out.suffix.lower() not in (".csv", ".txt"):
        raise ValueError(
            f"--out expects a .csv file for the map, but got {str(out)!r}. Its picture goes to "
            "--picture."
        )
    places = {"--out": out, "--picture": picture}
    if arguments.picture is not None:
        _check_picture("--picture", picture)
        if not _has_matplotlib():
            raise ValueError(f"--picture cannot be drawn: {_PLOT}")
    for option, place in places.items():
        _files.check_place(option, place)
        if place.exists() and arguments.data.exists() and place.samefile(arguments.data):
            raise ValueError(f"{option} would overwrite --data, {str(place)!r}. Name another file.")


def _check_picture(option, path):
    if path.suffix.lower() not in _pictures.FORMATS:
        raise ValueError(
            f"{option} expects a picture that ends in one of {', '.join(_pictures.FORMATS)}, but "
            f"got {str(path)!r}."
        )


def _has_matplotlib():
    return find_spec("matplotlib") is not None


def _fitted(arguments, X):
    """Return a model fitted to X, and whether Ctrl-C ended the work.

    If there are several numbers of components, the model has the best of them.
    """
    sizes = list(dict.fromkeys(arguments.components or [2]))
    if len(sizes) > 1:
        models, nats, interrupted = _compare(arguments, X, sizes)
        best = models[int(np.argmax(nats))]
        if interrupted:
            return best, True
        print(f"\nBest on held-out rows: {best.n_components}. Fitted to all rows with as many:")
        sizes = [best.n_components]
    model = _model(arguments, *sizes)
    return model, _fit(model, X)


def _compare(arguments, X, sizes):
    """Print held-out nats for every number of components.

    Return models, nats, and whether Ctrl-C ended the comparison.
    """
    from sklearn.model_selection import train_test_split

    if len(X) < _FEWEST_COMPARED:
        raise ValueError(
            f"--components expects one number for {len(X)} rows, but got {len(sizes)}: too few "
            "can be held out."
        )
    train, test = train_test_split(X, test_size=_HELD_OUT, random_state=0)
    models, nats, seconds, interrupted = [], [], [], False
    for size in sizes:
        start, model = time.perf_counter(), _model(arguments, size)
        try:
            interrupted = _fit(model, train)
        except KeyboardInterrupt:
            if not models:
                raise
            interrupted = True
            break
        seconds.append(time.perf_counter() - start)
        models.append(model)
        nats.append(model.score(test))
        if interrupted:
            break
    print(f"{len(train)} rows fitted, {len(test)} held out.\n")
    print(f"{'components':<12}{'held-out nats per row':>24}{'seconds':>10}")
    for row in zip(sizes, nats, seconds, strict=False):
        print("{:<12}{:>24.2f}{:>10.1f}".format(*row))
    return models, nats, interrupted


def _model(arguments, n_components):
    from ._qlvm import QLVMEmbedding

    return QLVMEmbedding(
        n_components,
        n_points="auto" if arguments.n_points is None else arguments.n_points,
        likelihood=arguments.likelihood,
        max_iter="auto" if arguments.max_iter is None else arguments.max_iter,
        device=arguments.device,
        random_state=arguments.seed,
        verbose=1,
    )


def _fit(model, X):
    """Fit, and return whether Ctrl-C ended it.

    If nothing was reached by then, the interrupt goes on.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        model.fit(X)
    except KeyboardInterrupt:
        try:
            check_is_fitted(model)
        except NotFittedError:
            raise KeyboardInterrupt from None
        _say("interrupted; what follows is of the best weights until then.")
        return True
    return False


def _texts(column, n_digits):
    """Entries of a column as they are written; none for NaN."""
    if column.dtype.kind != "f":
        return column
    return ["" if value != value else f"{value:.{n_digits}g}" for value in column.tolist()]


def _write(columns, path):
    """Write columns of texts as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _save(write, path, what):
    """Write a result, or write it elsewhere; say where it is, and return the exit status."""
    path, reason = _files.save(write, path)
    print(f"{what} in {path}.")
    if reason is None:
        return _OK
    _say(f"could not write where it should be ({reason}): see {path}.")
    return _ELSEWHERE


def _digits(arguments):
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA
    from sklearn.model_selection import train_test_split

    for option in _FOR_DATA:
        if getattr(arguments, option) not in (None, ()):
            raise ValueError(f"--{option} is for rows of your own. Name their file with --data.")
    out = arguments.out or Path("skqlvm_digits.png")
    _check_picture("--out", out)
    _files.check_place("--out", out)
    data = load_digits()
    largest = 1 if arguments.likelihood.endswith("bernoulli") else 16
    split = train_test_split(
        data.data * (largest / 16), data.target, test_size=0.3, random_state=0, stratify=data.target
    )
    pca, model = PCA(2), _model(arguments, 2)
    measured = [_measure(each, *split) for each in (model, pca)]
    print(f"Digits: {len(split[0])} rows fitted, {len(split[1])} held out.\n")
    print(
        f"{'model':<12}{'held-out nats per image':>26}{'10-neighbour accuracy':>24}{'seconds':>10}"
    )
    for name, (nats, accuracy, seconds, _) in zip(("QLVM, 2-D", "PCA, 2-D"), measured, strict=True):
        print(f"{name:<12}{nats:>26.2f}{accuracy:>24.3f}{seconds:>10.1f}")
    if arguments.likelihood not in ("gaussian", "continuous_bernoulli"):
        print(
            f"\nPCA's nats are a Gaussian density's; those of --likelihood {arguments.likelihood} "
            "are none, and do not compare."
        )
    status = _OK
    if _has_matplotlib():
        maps = [each.transform(split[1]) for each in (pca, model)]
        titles = [
            f"{name}: {nats:.1f} nats per held-out image, kNN {accuracy:.3f}"
            for name, (nats, accuracy, *_) in zip(("PCA", "QLVM"), measured[::-1], strict=True)
        ]
        print()
        status = _save(
            lambda path: _pictures.draw_digits(maps, titles, split[3], model, largest, path),
            out,
            "The maps of PCA and the QLVM, and the decoded torus, are",
        )
    else:
        print(f"\nNo picture: {_PLOT}")
    return _INTERRUPTED if measured[0][-1] else status


def _measure(model, X_train, X_test, y_train, y_test):
    """Return held-out nats a row, accuracy, seconds, and whether Ctrl-C ended the fit.

    The accuracy is that of 10 neighbours on the 2-D map, the seconds those of fit and transform.
    """
    from sklearn.neighbors import KNeighborsClassifier

    start = time.perf_counter()
    interrupted = _fit(model, X_train)
    maps = model.transform(X_train), model.transform(X_test)
    seconds = time.perf_counter() - start
    if hasattr(model, "lattice_"):
        maps = [np.hstack([np.cos(2 * np.pi * z), np.sin(2 * np.pi * z)]) for z in maps]
    accuracy = KNeighborsClassifier(10).fit(maps[0], y_train).score(maps[1], y_test)
    return model.score(X_test), accuracy, seconds, interrupted


if __name__ == "__main__":
    sys.exit(main())
