"""Samplers of latent codes: PMFSampler, mixtures, a kernel density and a bootstrap behind five
autoencoders, against held-out data.

    python benchmarks/bench_samplers.py --data DIR --out samplers.jsonl
    python benchmarks/bench_samplers.py --data DIR --models VAE WAE --seeds 3 4 --out samplers.jsonl
    python benchmarks/bench_samplers.py --summarise samplers.jsonl

Each autoencoder is fitted once a seed on the training file, and each sampler on its codes of that
file, which are posterior means where there is a posterior. As many codes as the test file has are
drawn and compared with the codes of the test file, and their images with its images;
`sample_quality` says how. A measurement is printed as soon as it is known; --models, --samplers,
--seeds and --dimensions run a part, and --summarise makes the tables from files of results.

Two rows are no samplers. "training codes" are those codes themselves, without replacement: the
floor of all distances, above zero by chance and because an autoencoder knows its training rows
better. "held-out codes" have only their images measured: what the decoder loses."""

import json
import statistics
import warnings
from itertools import product
from pathlib import Path

import measurement
import numpy as np
import sample_quality
import samplers
from sklearn.exceptions import ConvergenceWarning

_UNITS = {name: unit for name, (unit, _) in sample_quality.MEASURES.items()} | {
    "accuracy": "fraction",
    "active": "dimensions",
    "autoencoder_seconds": "s",
    "chosen": "bins, components or standard deviations",
    "fit_seconds": "s",
    "occupied": "bins a code",
    "sample_seconds": "s",
}
_FLOOR, _HELD_OUT, _RIVAL = "training codes", "held-out codes", "mixture, full"
_QUICK_SIZES = (1, 3)
_TABLES = {
    "Wasserstein distance to held-out codes along the axes": ("wasserstein_1d",),
    "Sliced Wasserstein distance to held-out codes": ("sliced",),
    "Exact Wasserstein distance of 1000 codes": ("transport",),
    "Frechet distance to held-out images in the features of a small classifier": ("frechet",),
    "Distance to the nearest training code, that of held-out codes = 1": ("nearest_training",),
    "Precision / recall / coverage": ("precision", "recall", "coverage"),
    "Chosen size": ("chosen",),
    "Occupied bins a training code": ("occupied",),
    "Seconds to fit / to sample": ("fit_seconds", "sample_seconds"),
}
_FORMATS = {name: form for name, (_, form) in sample_quality.MEASURES.items()} | {
    "fit_seconds": "{:.3f}",
    "sample_seconds": "{:.3f}",
    "chosen": "{:.3g}",
    "occupied": "{:.2f}",
}


def main(argv=None):
    arguments = _parse(argv)
    if arguments.summarise is None:
        records = _run(arguments)
    else:
        records = [
            json.loads(line)
            for path in arguments.summarise
            for line in path.read_text().splitlines()
        ]
        records = [record for record in records if record["name"].split("/")[0] == "samplers"]
    for data, n_components in dict.fromkeys(_setting(record) for record in records):
        values = _values(record for record in records if _setting(record) == (data, n_components))
        _print(values, f"{data}, {n_components} dimensions", arguments.summarise is not None)


def _parse(argv):
    parser = measurement.parser(__doc__, seeds=range(5))
    parser.add_argument(
        "--models",
        nargs="+",
        choices=samplers.AUTOENCODERS,
        default=list(samplers.AUTOENCODERS),
        metavar="MODEL",
    )
    parser.add_argument(
        "--samplers",
        nargs="+",
        choices=samplers.CONTENDERS,
        default=list(samplers.CONTENDERS),
        metavar="SAMPLER",
    )
    parser.add_argument(
        "--dimensions",
        type=int,
        nargs="+",
        help="latent ones; 32 by default, 8 for the bundled digits",
    )
    parser.add_argument(
        "--max-iter",
        type=lambda value: value if value == "auto" else int(value),
        default="auto",
        help="of autoencoders",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=list(samplers.SIZES),
        help="of mixtures, to choose from by BIC",
    )
    parser.add_argument(
        "--summarise",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="only print tables of these results, for documents",
    )
    arguments = parser.parse_args(argv)
    arguments.dimensions = arguments.dimensions or [
        8 if measurement.images_name(arguments) == "digits" else 32
    ]
    if arguments.quick:
        arguments.seeds, arguments.max_iter, arguments.sizes = (
            arguments.seeds[:1],
            3,
            list(_QUICK_SIZES),
        )
    return arguments


def _run(arguments):
    data = measurement.load_images(arguments)
    report, records = measurement.Report(arguments, data.name), []

    def add(measured, **known):
        for name, value in measured.items():
            report.add(f"samplers/{name}", value, _UNITS[name], **known)
            records.append(
                {
                    "name": f"samplers/{name}",
                    "parameters": known | {"data": data.name},
                    "value": value,
                }
            )

    features = sample_quality.Features(data, arguments.quick)
    for n_components in arguments.dimensions:
        add(
            {"accuracy": features.accuracy}, n_components=n_components, model="", sampler="", seed=0
        )
        for seed, name in product(arguments.seeds, arguments.models):
            for sampler, measured in _compare(name, n_components, seed, data, features, arguments):
                add(
                    measured,
                    n_components=n_components,
                    model=name,
                    sampler=sampler,
                    seed=seed,
                    max_iter=arguments.max_iter,
                )
    return records


def _compare(name, n_components, seed, data, features, arguments):
    """Fit an autoencoder; yield what is measured of it, of the two references and of all samplers,
    each as soon as it is known."""
    model = samplers.build_autoencoder(name, n_components, seed, arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, seconds = measurement.timed(model.fit, data.x_train, device=arguments.device)
    yield "", {"autoencoder_seconds": seconds, "active": model.active_units(data.x_test).sum()}
    z_train, z_test = (
        samplers.shuffled(model.transform(x).astype(np.float64), seed)
        for x in (data.x_train, data.x_test)
    )
    codes = sample_quality.Codes(z_train, z_test, arguments.quick)

    def frechet(z):
        return {"frechet": features.frechet(model.inverse_transform(z.astype(np.float32)))}

    yield _HELD_OUT, frechet(z_test)
    yield _FLOOR, codes.measure(z_train[: len(z_test)]) | frechet(z_train[: len(z_test)])
    for sampler_name in arguments.samplers:
        contender = samplers.CONTENDERS[sampler_name]
        sampler = contender.build(arguments.sizes)
        _, fit_seconds = measurement.timed(sampler.fit, z_train)
        z, sample_seconds = measurement.timed(sampler.sample, len(z_test), seed)
        z = samplers.shuffled(z, seed)
        known = {"fit_seconds": fit_seconds, "sample_seconds": sample_seconds}
        if contender.chosen is not None:
            known["chosen"] = contender.chosen(sampler)
        if hasattr(sampler, "n_bins_occupied_"):
            known["occupied"] = sampler.n_bins_occupied_ / len(z_train)
        yield sampler_name, codes.measure(z) | frechet(z) | known


def _setting(record):
    return record["parameters"]["data"], record["parameters"]["n_components"]


def _values(records):
    """Values by measurement, sampler and autoencoder, each a dict by seed; a later record replaces
    an earlier one."""
    values = {}
    for record in records:
        known, name = record["parameters"], record["name"].split("/")[1]
        values.setdefault((name, known["sampler"], known["model"]), {})[known["seed"]] = record[
            "value"
        ]
    return values


def _print(values, setting, as_document):
    """Print a table a measurement: samplers by autoencoders, medians over seeds, and largest less
    smallest where there is room."""
    models = [name for name in samplers.AUTOENCODERS if ("active", "", name) in values]
    n_seeds = max(len(values["active", "", model]) for model in models)
    abouts = {"active": "active dimensions", "autoencoder_seconds": "seconds to fit"}
    rows = [
        [label, *(f"{statistics.median(values[name, '', model].values()):.0f}" for model in models)]
        for name, label in abouts.items()
    ]
    accuracy = statistics.median(values["accuracy", "", ""].values())
    tables = [(f"The autoencoders; accuracy of the classifier {accuracy:.3f}", rows)]
    for title, names in _TABLES.items():
        known = (_HELD_OUT, _FLOOR, *samplers.CONTENDERS)
        rows = [
            [sampler, *(_cell(values, names, sampler, model) for model in models)]
            for sampler in known
        ]
        tables.append((title, [row for row in rows if any(row[1:])]))
    tables.append(
        (
            f"Frechet distance less that of '{_RIVAL}', seed by seed: negative where bins win",
            _differences(values, models),
        )
    )
    for title, rows in filter(lambda table: table[1], tables):
        title = (
            f"{title} ({setting}, "
            f"{f'medians of {n_seeds} seeds and spreads' if n_seeds > 1 else 'one seed'})"
        )
        if as_document:
            print(f"{title}\n\n{measurement.restructured(['', *models], rows)}\n")
        else:
            measurement.print_table(title, ["", *models], rows)


def _cell(values, names, sampler, model):
    """Medians, separated by slashes; a single one is followed by its spread."""
    found = [values.get((name, sampler, model)) for name in names]
    if None in found:
        return ""
    text = " / ".join(
        _FORMATS[name].format(statistics.median(each.values()))
        for name, each in zip(names, found, strict=True)
    )
    return text if len(names) > 1 else _with_spread(text, found[0].values(), _FORMATS[names[0]])


def _with_spread(text, values, form):
    return f"{text} ({form.format(max(values) - min(values))})" if len(values) > 1 else text


def _differences(values, models):
    """Rows of the histograms' distances less the mixture's: the median, and in how many seeds it is
    negative."""
    rows = []
    for sampler in (name for name in samplers.CONTENDERS if name.startswith("PMF")):
        cells = []
        for model in models:
            mine, rival = (values.get(("frechet", name, model), {}) for name in (sampler, _RIVAL))
            differences = [mine[seed] - rival[seed] for seed in mine if seed in rival]
            won = sum(difference < 0 for difference in differences)
            cells.append(
                f"{statistics.median(differences):+.4f} ({won} of {len(differences)})"
                if differences
                else ""
            )
        rows.append([sampler, *cells])
    return [row for row in rows if any(row[1:])]


if __name__ == "__main__":
    main()
