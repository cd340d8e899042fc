"""Tables of mixed columns: gaps filled beside means and chained regressions, and counts beside PCA.

    python benchmarks/bench_tables_mixed.py --seeds 0 1 2 3 4

Imputation: two data frames made of data that ship with scikit-learn, of real numbers, counts, flags
and categories. Each seed splits the rows 70 to 30 and hides a fifth of all entries; a model is
fitted to the training rows with their gaps, in a Pipeline with `likelihood="auto"`, and fills those
of the test rows. Reported for a column are the root mean square error over what was hidden, in
standard deviations of the column, or of categories and flags the share of wrong ones. Beside it
stand column means, of categories the most frequent one, and IterativeImputer's defaults on codes,
rounded to the nearest where a column has codes.

Counts: words of documents that a known model draws, each from a group with topics of its own,
sparse. Reported are nats of a test row whose exposure, its total, is told, and what ten neighbours
on the map know of the groups; the multinomial, of which the total is given, gets a Poisson for it.
PCA is of log(1 + counts); its nats are those of Poisson counts whose rates are its reconstruction,
exp(.) - 1, with the smallest rate that suits the training rows best, in proportion to the total of
the row. These rates have seen the row that they score: PCA's nats are too high by what it takes to
say where a row lies."""

import measurement
import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import gammaln, xlogy
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skqlvm import QLVMEmbedding

_QUICK = {"n_points": 55, "n_points_eval": 233, "max_iter": 2, "hidden_layer_sizes": (32,)}
_HIDDEN = 0.2
_RATES = 10.0 ** np.arange(-4, 0.5, 0.5)
"""Smallest rates of a word that are tried for PCA."""


def main(argv=None):
    parser = measurement.parser(__doc__, seeds=(0, 1, 2, 3, 4))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--components", type=int, nargs="+", default=[2, 3])
    arguments = parser.parse_args(argv)
    report = measurement.Report(arguments)
    for part in arguments.parts:
        PARTS[part](arguments, report)


def diabetes():
    """Patients: real numbers, a category, and a count-like measure of progress."""
    data = load_diabetes(as_frame=True, scaled=False)
    frame = data.data.copy()
    frame["sex"] = pd.Categorical(np.where(frame["sex"] == 1, "one", "two"))
    frame["age"] = frame["age"].astype("Int64")
    frame["progress"] = data.target.astype("Int64")
    return frame


def digits():
    """Drawn digits by what they look like: ink counted, where it lies, and which digit it is."""
    data = load_digits()
    images, names = (
        data.images,
        np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]),
    )
    ink, places = images.sum((1, 2)), np.arange(8)
    frame = pd.DataFrame({"digit": pd.Categorical(names[data.target], categories=names)})
    for name, rows, columns in (
        ("top left", slice(0, 4), slice(0, 4)),
        ("top right", slice(0, 4), slice(4, 8)),
        ("bottom left", slice(4, 8), slice(0, 4)),
        ("bottom right", slice(4, 8), slice(4, 8)),
    ):
        frame[name] = pd.array(images[:, rows, columns].sum((1, 2)).astype(int), dtype="Int64")
    frame["dark"] = pd.array((images > 8).sum((1, 2)), dtype="Int64")
    frame["height"] = (images.sum(2) * places).sum(1) / ink
    frame["across"] = (images.sum(1) * places).sum(1) / ink
    frame["width"] = np.sqrt(
        (images.sum(1) * (places - frame["across"].to_numpy()[:, None]) ** 2).sum(1) / ink
    )
    frame["open"] = pd.array(images[:, 3:5, 3:5].sum((1, 2)) < 16, dtype="boolean")
    return frame


TABLES = {"diabetes": diabetes, "digits": digits}


def impute(arguments, report):
    """Report errors of what is filled in, a line a column and model."""
    rows, models = [], [*(f"QLVM {k}" for k in arguments.components), "means", "chained"]
    for name, load in TABLES.items():
        errors = {}
        for seed in arguments.seeds:
            frame = load()
            frame = frame.sample(150, random_state=seed) if arguments.quick else frame
            for key, value in _imputed(arguments, frame, seed).items():
                errors.setdefault(key, []).append(value)
        for (model, column), values in errors.items():
            report.add("tables_mixed/error", values, "1", data=name, model=model, column=column)
        for column in [*load().columns, "all"]:
            found = [np.mean(errors[model, column]) for model in models]
            rows.append([f"{name}: {column}", *(f"{value:.3f}" for value in found)])
    measurement.print_table(
        f"Error of what was hidden, {_HIDDEN:.0%} of a table, means of {len(arguments.seeds)} "
        "seeds; in standard deviations, of categories and flags the share",
        ["column", *models],
        rows,
    )


def _imputed(arguments, frame, seed):
    """Errors by model and column; of all columns, their mean."""
    hidden = np.random.default_rng(seed).random(frame.shape) < _HIDDEN
    gaps = frame.mask(hidden)
    train, test = train_test_split(np.arange(len(frame)), test_size=0.3, random_state=seed)
    settings = _QUICK if arguments.quick else {}
    filled = {}
    for k in arguments.components:
        model = QLVMEmbedding(
            k, likelihood="auto", random_state=seed, device=arguments.device, **settings
        )
        pipeline = make_pipeline(FunctionTransformer(), model).fit(gaps.iloc[train])
        result = model.impute(pipeline[:-1].transform(gaps.iloc[test]))
        filled[f"QLVM {k}"] = _codes(result)
    codes = _codes(gaps)
    for name, imputer in (("means", SimpleImputer()), ("chained", IterativeImputer())):
        filled[name] = imputer.fit(codes[train]).transform(codes[test])
    truth, found = _codes(frame)[test], {}
    kinds = [_is_of_codes(frame[column]) for column in frame]
    mode = SimpleImputer(strategy="most_frequent").fit(codes[train]).transform(codes[test])
    filled["means"][:, kinds] = mode[:, kinds]
    for name, values in filled.items():
        for i, column in enumerate(frame):
            away = (values[:, i] - truth[:, i])[hidden[test, i]]
            if kinds[i]:
                largest = truth[:, i].max()
                wrong = np.clip(values[:, i].round(), 0, largest) != truth[:, i]
                found[name, column] = wrong[hidden[test, i]].mean()
            else:
                found[name, column] = np.sqrt(np.mean(away**2)) / truth[:, i].std()
        found[name, "all"] = np.mean([found[name, column] for column in frame])
    return found


def _codes(frame):
    """A data frame as an array, NaN where something is missing."""
    columns = [
        np.where(column.isna(), np.nan, column.cat.codes)
        if hasattr(column, "cat")
        else column.astype("Float64").to_numpy(float, na_value=np.nan)
        for _, column in frame.items()
    ]
    return np.column_stack(columns)


def _is_of_codes(column):
    return hasattr(column, "cat") or str(column.dtype) == "boolean"


def documents(n_rows, n_words, seed, n_groups=10):
    """Return sparse counts of words, and the group of each document.

    A group has three of twelve topics, in shares of its own; a document departs from these, and is
    some sixty words long, with a tail of long ones.
    """
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words, 0.05), 12)
    means = np.zeros((n_groups, 12))
    for group in means:
        group[rng.choice(12, 3, replace=False)] = rng.dirichlet(np.ones(3))
    groups = rng.integers(n_groups, size=n_rows)
    shares = np.stack([rng.dirichlet(0.05 + 10 * means[group]) for group in groups])
    lengths = np.maximum(5, rng.lognormal(np.log(60), 0.6, n_rows))
    return csr_array(rng.poisson(lengths[:, None] * (shares @ topics)).astype(float)), groups


def counts(arguments, report):
    """Report nats and what neighbours know, of models of counts and of PCA."""
    shape = (300, 60) if arguments.quick else (3000, 1000)
    found = {}
    for seed in arguments.seeds:
        for key, value in _counted(arguments, *documents(*shape, seed), seed).items():
            found.setdefault(key, []).append(value)
    for (what, model), values in found.items():
        unit = {"nats": "nats", "kNN": "fraction"}.get(what, "s")
        report.add(f"tables_mixed/{what}", values, unit, data="documents", model=model)
    rows = [
        [model, *(f"{np.mean(found[what, model]):.3f}" for what in ("nats", "kNN", "seconds"))]
        for model in dict.fromkeys(model for _, model in found)
    ]
    measurement.print_table(
        f"Sparse counts of {shape[0]} documents and {shape[1]} words, means of "
        f"{len(arguments.seeds)} seeds: nats of a test row by its total, and accuracy of ten "
        "neighbours on the map",
        ["model", "nats", "kNN", "fit s"],
        rows,
    )


def _counted(arguments, x, groups, seed):
    train, test = train_test_split(np.arange(x.shape[0]), test_size=0.3, random_state=seed)
    x_train, x_test, found = x[train], x[test], {}
    settings = _QUICK if arguments.quick else {}
    of_totals = _log_poisson(x_test.sum(1), x_test.sum(1))
    for likelihood in ("poisson", "negative_binomial", "multinomial"):
        exposure = None if likelihood == "multinomial" else "total"
        model = QLVMEmbedding(
            likelihood=likelihood,
            exposure=exposure,
            random_state=seed,
            device=arguments.device,
            **settings,
        )
        _, found["seconds", likelihood] = measurement.timed(model.fit, x_train)
        nats = model.score_samples(x_test)
        found["nats", likelihood] = np.mean(nats + of_totals if exposure is None else nats)
        maps = [measurement.euclidean_map(model, "local", part) for part in (x_train, x_test)]
        found["kNN", likelihood] = measurement.neighbour_accuracy(
            maps[0], groups[train], maps[1], groups[test]
        )
    dense = [np.log1p(part.toarray()) for part in (x_train, x_test)]
    pca = PCA(2)
    _, found["seconds", "PCA"] = measurement.timed(pca.fit, dense[0])
    maps = [pca.transform(part) for part in dense]
    found["kNN", "PCA"] = measurement.neighbour_accuracy(
        maps[0], groups[train], maps[1], groups[test]
    )
    smallest = max(_RATES, key=lambda rate: _plug_in(pca, x_train.toarray(), rate).mean())
    found["nats", "PCA"] = np.mean(_plug_in(pca, x_test.toarray(), smallest))
    return found


def _plug_in(pca, x, smallest):
    """Nats of rows under Poisson rates by PCA's reconstruction, in proportion to their totals."""
    rates = np.expm1(pca.inverse_transform(pca.transform(np.log1p(x)))).clip(smallest)
    rates *= x.sum(1, keepdims=True) / rates.sum(1, keepdims=True)
    return _log_poisson(x, rates).sum(1)


def _log_poisson(x, rate):
    return xlogy(x, rate) - rate - gammaln(x + 1)


PARTS = {"impute": impute, "counts": counts}

if __name__ == "__main__":
    main()
