"""MAPA against encoders and lattices: test nats by decoder passes, cached weights, passes a batch.

    python benchmarks/bench_mapa.py
    python benchmarks/bench_mapa.py --parts images --data DIR

Densities: five of one latent dimension whose log p(x) is known, with known noise; 1000 rows fitted
in batches of 100, 1000 new rows scored by quadrature. Every model has a decoder of two layers of 50
and as many steps as the same number of points decoded in training pays for. Weights: how far the
cached ones are from the true posterior over indices, under two decoders of the same density.
Passes: codes that a batch of 100 rows decodes, beside what IWAE decodes. Neighbours: seconds and
memory of the cached weights of 10,000 rows of 784. Images: two-dimensional maps of digits or, with
--data, MNIST-10k. Seconds are the processor's own, so that a busy machine does not matter."""

import time
from functools import partial

import measurement
import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.decomposition import PCA

from skqlvm import IWAEEmbedding, MAPAEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm.datasets import DENSITIES
from skqlvm.engine import empirical, networks

_N_ROWS, _BATCH, _HIDDEN = 1000, 100, (50, 50)
_BUDGETS = (100_000, 300_000)
"""Points decoded in training, in all."""

_PARTS = ("densities", "weights", "passes", "neighbours", "images")


class Counted(networks.MLPDecoder):
    """A decoder that counts the points it decodes in training."""

    n_decoded = 0

    def forward(self, z):
        if self.training:
            Counted.n_decoded += z.shape[0]
        return super().forward(z)


def decoder(order, n_components, n_outputs):
    return Counted(n_components, n_outputs, _HIDDEN, order)


def contenders(noise_variance, seed, device):
    """Unfitted models by name: functions of max_iter."""
    shared = {
        "noise_variance": noise_variance,
        "batch_size": _BATCH,
        "validation_fraction": 0.0,
        "matmul_precision": "highest",
        "random_state": seed,
        "device": device,
        "learning_rate": 1e-2,
    }
    euclidean = shared | {"decoder": partial(decoder, None)}
    encoder = euclidean | {"hidden_layer_sizes": _HIDDEN}
    mapa = {"n_neighbors": 2, "n_importance_samples": 2, "init": "random", "prior": "mixture"}
    models = {
        "MAPA": partial(MAPAEmbedding, 1, **euclidean, **mapa),
        "VAE": partial(VAEEmbedding, 1, **encoder),
        "QLVM": partial(QLVMEmbedding, 1, **shared, decoder=partial(decoder, 14)),
    }
    for k in (1, 10, 50):
        models[f"IWAE, K = {k}"] = partial(IWAEEmbedding, 1, n_importance_samples=k, **encoder)
    return models


def main(argv=None):
    parser = measurement.parser(__doc__, seeds=range(5))
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(_BUDGETS))
    parser.add_argument("--names", nargs="+", choices=sorted(DENSITIES), default=sorted(DENSITIES))
    parser.add_argument("--models", nargs="+", help="by name; all by default")
    parser.add_argument("--max-iter", type=int, help="passes of MAPA over images")
    parser.add_argument("--figures", help="folder for pictures of the fitted densities")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.budgets, arguments.names = [3000], ["circle"]
        arguments.seeds = arguments.seeds[:1]
    report = measurement.Report(arguments, measurement.images_name(arguments))
    for part in arguments.parts:
        globals()[part](arguments, report)


def densities(arguments, report):
    gaps, seconds, nats = {}, {}, {}
    for name in arguments.names:
        density = DENSITIES[name]
        for budget in arguments.budgets:
            found = {}
            for seed in arguments.seeds:
                for model, measured in _fits(density, seed, budget, arguments).items():
                    found.setdefault(model, []).append(measured)
            for model, values in found.items():
                scores, truths, spent, decoded = zip(*values, strict=True)
                setting = {"density": name, "model": model, "budget": budget}
                away = np.subtract(truths, scores)
                key = name, budget, model
                gaps[key] = report.add("mapa/gap_nats", away, "nats", **setting)
                nats[key] = report.add("mapa/test_nats", scores, "nats", **setting)
                seconds[key] = report.add("mapa/fit_seconds", spent, "s", **setting)
                report.add("mapa/decoded", decoded, "points", **setting)
            nats[name] = report.add("mapa/true_nats", truths, "nats", density=name)
    _print(arguments, gaps, seconds, nats)
    if arguments.figures:
        pictures(arguments)


def _fits(density, seed, budget, arguments):
    """Score, truth, seconds and points decoded of each model, fitted for a budget of points."""
    n_rows = 200 if arguments.quick else _N_ROWS
    X, new = density.sample(n_rows, seed), density.sample(n_rows, 1000 + seed)
    truth, found = density.log_density(new).mean(), {}
    for name, make in contenders(density.noise_variance, seed, arguments.device).items():
        if arguments.models is not None and name not in arguments.models:
            continue
        model, spent = fitted(make, X, budget)
        found[name] = model.score(new), truth, spent, Counted.n_decoded
    return found


def fitted(make, X, budget):
    """A model fitted for a budget of points, and the seconds that took."""
    Counted.n_decoded = 0
    make(max_iter=1).fit(X)
    n_passes = max(1, round(budget / Counted.n_decoded))
    Counted.n_decoded = 0
    return processor_seconds(make(max_iter=n_passes).fit, X)


def processor_seconds(function, *args):
    """Call a function; return its result and the seconds of a processor that it took."""
    start = time.process_time()
    return function(*args), time.process_time() - start


def _print(arguments, gaps, seconds, nats):
    models = list(dict.fromkeys(model for _, _, model in gaps))
    for budget in arguments.budgets:
        rows = [
            [name, f"{nats[name]:.2f}", *(f"{gaps[name, budget, m]:.3f}" for m in models)]
            for name in arguments.names
        ]
        spent = [np.median([seconds[name, budget, m] for name in arguments.names]) for m in models]
        rows.append(["seconds", "", *(f"{value:.1f}" for value in spent)])
        title = f"Nats below the truth of new rows, {budget} points decoded in training; medians"
        header = ["density", "truth", *models]
        measurement.print_table(title, header, rows)
        print(measurement.restructured(header, rows))


def pictures(arguments):
    """Draw the densities and what MAPA and IWAE made of them, a file each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = arguments.names
    shown = ["truth", "MAPA", "IWAE, K = 50"]
    figure, axes = plt.subplots(
        len(shown), len(names), figsize=(2 * len(names), 2 * len(shown)), squeeze=False
    )
    for column, name in zip(axes.T, names, strict=True):
        density = DENSITIES[name]
        X, new = density.sample(_N_ROWS, 0), density.sample(_N_ROWS, 1000)
        low, high = X.min(0) - 0.3, X.max(0) + 0.3
        sides = [np.linspace(a, b, 120) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
        makers = contenders(density.noise_variance, 0, arguments.device)
        for axis, kind in zip(column, shown, strict=True):
            if kind == "truth":
                scores, nats = density.log_density(grid), density.log_density(new).mean()
            else:
                model, _ = fitted(makers[kind], X, arguments.budgets[-1])
                scores, nats = model.score_samples(grid), model.score(new)
            image = np.exp(scores - density.log_density(X).max()).reshape(120, 120)
            box = (low[0], high[0], low[1], high[1])
            axis.imshow(image, origin="lower", extent=box, aspect="auto", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], title=f"{nats:.2f}")
        column[0].set_title(f"{name.replace('_', ' ')}\n{column[0].get_title()}")
    for axis, kind in zip(axes[:, 0], shown, strict=True):
        axis.set_ylabel(kind)
    figure.tight_layout()
    figure.savefig(f"{arguments.figures}/mapa_densities.png", dpi=60)


def weights(arguments, report):
    """Total variation and divergence of cached weights from the true posterior over indices."""
    rows = []
    for name in arguments.names:
        density, cells = DENSITIES[name], []
        for which in ("decode", "decode_otherwise"):
            variant = density._replace(decode=getattr(density, which))
            for times in (1, 2, 4):
                found = [_distance(variant, seed, times) for seed in arguments.seeds]
                variation, divergence = zip(*found, strict=True)
                setting = {"density": name, "decoder": which, "bandwidth_over_noise": times}
                report.add("mapa/weights_variation", variation, "probability", **setting)
                value = report.add("mapa/weights_divergence", divergence, "nats", **setting)
                cells.append(f"{value:.3f}")
        rows.append([name, *cells])
    header = ["density", *(f"{d} {t} v" for d in ("one,", "other,") for t in (1, 2, 4))]
    title = "KL(true posterior over indices || cached weights), nats a row, 500 rows; medians"
    measurement.print_table(title, header, rows)
    print(measurement.restructured(header, rows))


def _distance(density, seed, times):
    X, z = density.sample(500, seed, return_latent=True)
    true = _softmax(X, density.decode(z), density.noise_variance)
    cached = _softmax(X, X, times * density.noise_variance)
    variation = np.abs(np.exp(true) - np.exp(cached)).sum(1).mean() / 2
    return variation, (np.exp(true) * (true - cached)).sum(1).mean()


def _softmax(X, means, variance):
    log_w = -((X[:, None] - means) ** 2).sum(2) / (2 * variance)
    return log_w - logsumexp(log_w, axis=1, keepdims=True)


def passes(arguments, report):
    """Codes that a batch of 100 rows decodes at S = 200, beside 100 times 50 draws of IWAE."""
    rows = []
    for n_rows in (500,) if arguments.quick else (1000, 2500, 5000, 10_000):
        cells = []
        for name in arguments.names:
            found = [_n_codes(DENSITIES[name], n_rows, seed) for seed in arguments.seeds]
            setting = {"density": name, "n_rows": n_rows, "n_importance_samples": 200}
            cells.append(f"{report.add('mapa/codes_a_batch', found, 'points', **setting):.0f}")
        rows.append([n_rows, *cells])
    header = ["rows", *arguments.names]
    measurement.print_table("Codes decoded for 100 rows, S = 200; IWAE, S = 50: 5000", header, rows)


def _n_codes(density, n_rows, seed):
    X = torch.from_numpy(density.sample(n_rows, seed))
    squares, index = (torch.cdist(X[:100], X) ** 2).topk(100, largest=False)
    bandwidth, share = 2 * density.noise_variance, torch.full((n_rows,), -np.log(n_rows))
    posterior = empirical.IndexPosterior.of(index, squares, bandwidth, share)
    generator = torch.Generator().manual_seed(seed)
    drawn, _ = posterior.draw(torch.arange(100), 20, 200, generator)
    return len(torch.cat([index[:, :20], drawn], 1).unique())


def neighbours(arguments, report):
    n_rows = 500 if arguments.quick else 10_000
    folder = None if arguments.data is None else str(arguments.data)
    found = measurement.fresh_process(cached, n_rows=n_rows, data=folder)
    report.add("mapa/neighbours_seconds", found["seconds"], "s", n_rows=n_rows, n_features=784)
    mib = found["bytes"] / 2**20
    report.add("mapa/neighbours_memory", mib, "MiB", n_rows=n_rows, n_features=784)
    line = [[n_rows, f"{found['seconds']:.1f}", f"{mib:.0f}"]]
    measurement.print_table("Cached weights of rows of 784", ["rows", "s", "MiB added"], line)


def cached(n_rows, data):
    """Seconds and memory of the weights of images, in a fresh process."""
    from skqlvm import _neighbors
    from skqlvm.engine import likelihoods

    arguments = measurement.parser("Weights").parse_args([] if data is None else ["--data", data])
    x = torch.from_numpy(measurement.rows_of_784(arguments, n_rows))
    share, model = torch.full((n_rows,), -np.log(n_rows)), MAPAEmbedding(likelihood="bernoulli")
    likelihood = likelihoods.Bernoulli(784)
    with measurement.PeakMemory() as memory:
        _, seconds = processor_seconds(_neighbors.neighborhood, model, likelihood, x, share)
    return {"seconds": seconds, "bytes": memory.resident_added_bytes}


def images(arguments, report):
    """Two-dimensional maps: minus nats of new rows, kNN, and seconds."""
    data, rows = measurement.load_images(arguments), []
    small = {"max_iter": 3, "hidden_layer_sizes": (32,)} if arguments.quick else {}
    makers = {
        "MAPA": partial(
            MAPAEmbedding,
            n_neighbors=5,
            n_importance_samples=5,
            prior="mixture",
            max_iter=arguments.max_iter or "auto",
        ),
        "QLVM": QLVMEmbedding,
        "VAE": VAEEmbedding,
    }
    seed = arguments.seeds[0]
    settings = {"likelihood": "bernoulli", "random_state": seed, "device": arguments.device}
    for name, make in makers.items():
        if arguments.models is not None and name not in arguments.models:
            continue
        model, spent = processor_seconds(make(**(settings | small)).fit, data.x_train)
        maps = [_map(model, x) for x in (data.x_train, data.x_test)]
        knn = measurement.neighbour_accuracy(maps[0], data.y_train, maps[1], data.y_test)
        nats = -model.score(data.x_test)
        for what, value, unit in (("nats", nats, "nats"), ("knn", knn, "rows"), ("s", spent, "s")):
            report.add(f"mapa/images_{what}", value, unit, model=name, n_rows=len(data.x_train))
        rows.append([name, f"{spent:.0f}", f"{nats:.2f}", f"{knn:.3f}"])
    pca = PCA(2, random_state=seed).fit(data.x_train)
    maps = pca.transform(data.x_train), pca.transform(data.x_test)
    knn = measurement.neighbour_accuracy(maps[0], data.y_train, maps[1], data.y_test)
    report.add("mapa/images_knn", knn, "rows", model="PCA", n_rows=len(data.x_train))
    rows.append(["PCA", "", "", f"{knn:.3f}"])
    title = f"{data.name}: minus nats of new rows, kNN of the map"
    measurement.print_table(title, ["model", "fit s", "test nats", "kNN"], rows)


def _map(model, x):
    if isinstance(model, QLVMEmbedding):
        return measurement.euclidean_map(model, "local", x)
    return model.transform(x)


if __name__ == "__main__":
    main()
