"""The paper's pictures: posteriors beside encoders (3B), bounds against seconds (4), and what
lattice, period and prior are worth (A7-A9).

    python benchmarks/bench_paper_figures.py --data DIR --seeds 0 1 2 --figures FOLDER

A PNG each, and the numbers behind it as JSON lines. All in two dimensions. QLVM's fits in A7 to A9
make its default number of passes, or as many as --seconds allow; the fits of Figure 4 and 3B take
equal time, that of QLVM's default fit or --seconds.

posteriors
    log p(z | x) of test digits, normalised to its peak, by evaluating p(x | z) p(z) on a grid,
    under the ellipses of one and two standard deviations of the encoder's q(z | x). Measured: KL(q
    || p(z | x)) of a row, its median over the test rows.
seconds
    The bound on held-out rows during training, and at the end the exact log p(x) of the same rows.
points
    QLVM trained on randomly shifted lattices, on a fixed one and on uniform random points, of equal
    numbers. Weights are chosen by a fine lattice for all of them, so that only the points of
    training differ.
decoders
    What the decoder's layers see of a point: harmonics of its turns, the default; the first ones
    only, as in the paper; as many of half turns, so that the ends of the square do not meet; its
    coordinates, scaled to unit variance; or these through the normal's quantile function, so that
    the prior is a standard normal, under the same lattices.
"""

import tempfile
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import contenders
import measurement
import numpy as np
import torch

from skqlvm import QLVMEmbedding, _fitting
from skqlvm._fitting import Fit
from skqlvm._parts import harmonic_order
from skqlvm.engine import lattices, networks, objectives, quadrature

_LARGEST_SCORED = 2000
_CLIP = 1e-4
_DEPTH = -8
_COLOURS = ("#0b6e99", "#d1495b", "#edae49", "#66a182", "#6b4c9a", "#444444")


def main(argv=None):
    parser = measurement.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument(
        "--images",
        choices=("mnist-10k", "omniglot"),
        default="mnist-10k",
        help="which images of the data folder",
    )
    parser.add_argument(
        "--figures", type=Path, help="folder for the pictures; only numbers without it"
    )
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="parts to run"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="of training for each fit; by default those of QLVM's default fit",
    )
    arguments = parser.parse_args(argv)
    if arguments.images == "omniglot" and arguments.data is None and not arguments.quick:
        parser.error("--images omniglot needs --data")
    if arguments.quick:
        arguments.seconds, arguments.seeds = arguments.seconds or 0.05, arguments.seeds[:1]
    data = measurement.load_images(arguments)
    data = data._replace(x_test=data.x_test[:_LARGEST_SCORED], y_test=data.y_test[:_LARGEST_SCORED])
    report = measurement.Report(arguments, data.name)
    # In miniature the pictures are drawn too, and thrown away.
    discarded = (
        tempfile.TemporaryDirectory()
        if arguments.quick and arguments.figures is None
        else nullcontext()
    )
    with discarded as folder:
        folder = arguments.figures or folder
        for part in arguments.only:
            _PARTS[part](data, arguments, report, partial(_save, folder and Path(folder)))


def _save(folder, name, draw):
    """Let a function draw on a new figure, and save it."""
    if folder is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("The picture is skipped: matplotlib is not installed (pip install matplotlib).")
        return
    figure = Figure(dpi=150, layout="constrained")
    draw(figure)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png")


def _fit(model, data, seconds):
    """Fit an unfitted model with so many seconds of training; by default as it is."""
    if seconds is not None:
        model.set_params(max_iter=contenders.passes(model, data.x_train, seconds))
    return model.fit(data.x_train)


def _budget(data, arguments):
    return (
        contenders.default_seconds(2, data.x_train, arguments)
        if arguments.seconds is None
        else arguments.seconds
    )


# Figure 3B


def _posteriors(data, arguments, report, save):
    seconds = _budget(data, arguments)
    models = {}
    for name in ("VAE", "IWAE-10", "QLVM"):
        fits = [
            _fit(contenders.build(name, 2, seed, arguments), data, seconds)
            for seed in arguments.seeds[: 1 if name == "QLVM" else None]
        ]
        models[name] = fits[0]
        if name != "QLVM":
            divergences = [_divergences(model, data.x_test) for model in fits]
            report.add(
                "paper_figures/posterior_kl",
                [np.median(rows) for rows in divergences],
                "nats",
                model=name,
                statistic="median",
            )
            report.add(
                "paper_figures/posterior_kl",
                [rows.mean() for rows in divergences],
                "nats",
                model=name,
                statistic="mean",
            )
    chosen = [
        int(np.flatnonzero(data.y_test == label)[0])
        for label in np.unique(data.y_test)[[0, 2, 4, 8]]
    ]
    save("posteriors", partial(_draw_posteriors, models=models, data=data, chosen=chosen))


def _divergences(model, x):
    """KL(q || p(z | x)) of every row: what the ELBO lacks."""
    return contenders.exact_nats(model, x) - model.score_samples(x, method="elbo")


def _draw_posteriors(figure, models, data, chosen):
    figure.set_size_inches(2.1 * (len(models) + 1), 2.15 * len(chosen) + 0.9)
    axes = figure.subplots(len(chosen), len(models) + 1)
    side = int(data.x_test.shape[1] ** 0.5)
    for row, i in zip(axes, chosen, strict=True):
        x = data.x_test[i : i + 1]
        row[0].imshow(x.reshape(side, side), cmap="gray_r")
        row[0].set_axis_off()
        for axis, model in zip(row[1:], models.values(), strict=True):
            image = _draw_posterior(axis, model, x)
            axis.tick_params(labelsize=6)
            axis.locator_params(nbins=5)
    for axis, title in zip(axes[0], ["test image", *(f"{name}\n" for name in models)], strict=True):
        axis.set_title(title + axis.get_title(), fontsize=9)
    figure.colorbar(
        image,
        ax=axes,
        location="bottom",
        shrink=0.5,
        aspect=40,
        label="log p(z | x), nats below its peak",
    )
    figure.suptitle(
        "True posteriors (shades) and encoders' (ellipses of one and two standard deviations)",
        fontsize=10,
    )


def _draw_posterior(axis, model, x, n_pixels=200):
    """Draw the true posterior of a row; with it the encoder's, or where on the torus it is."""
    heavy = _heavy_points(model, x)
    if isinstance(model, QLVMEmbedding):
        (low, high), ellipses = _window(heavy[np.abs(heavy - heavy[0]).max(1) < 0.1]), []
        title = "(whole torus inset)"
    else:
        ellipses, divergence = _ellipses(model, x), _divergences(model, x)[0]
        (low, high), title = (
            _window(np.concatenate([heavy, *ellipses])),
            f"KL {divergence:.1f} nats",
        )
    grid = [low[i] + (high[i] - low[i]) * (np.arange(n_pixels) + 0.5) / n_pixels for i in (0, 1)]
    z = torch.from_numpy(np.stack(np.meshgrid(*grid, indexing="ij"), -1).reshape(-1, 2))
    log_w = contenders.log_joint(model, x, z)[0].reshape(n_pixels, n_pixels).numpy()
    extent = (low[0], high[0], low[1], high[1])
    image = axis.imshow(
        (log_w - log_w.max()).T,
        origin="lower",
        extent=extent,
        aspect="auto",
        cmap="Blues",
        vmin=_DEPTH,
        vmax=0,
    )
    for ellipse in ellipses:
        axis.plot(*ellipse.T, color=_COLOURS[1], linewidth=1)
    if not ellipses:
        inset = axis.inset_axes(
            [0.68, 0.68, 0.3, 0.3], xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[]
        )
        inset.plot(*(heavy % 1).T, ".", color=_COLOURS[1], markersize=2)
    axis.set_title(title, fontsize=7)
    return image


def _heavy_points(model, x):
    """Points that carry a row's posterior, the heaviest first; on a torus as near to it as they
    come."""
    z, _ = model._model.prior.nodes(quadrature.nested_points(2, 2**16))
    log_w = contenders.log_joint(model, x, z)[0]
    order = log_w.argsort(descending=True)
    heavy = z[order[log_w[order] > log_w.max() + _DEPTH]].numpy()
    return heavy - np.round(heavy - heavy[0]) if isinstance(model, QLVMEmbedding) else heavy


def _ellipses(model, x):
    """The lines of one and of two standard deviations around the encoder's mean."""
    mean, covariance = (part[0] for part in model.proposal(x))
    circle = np.linspace(0, 2 * np.pi, 100)
    ellipse = np.stack([np.cos(circle), np.sin(circle)], 1) @ np.linalg.cholesky(covariance).T
    return [mean + ellipse, mean + 2 * ellipse]


def _window(points):
    """The corners of a rectangle that holds points and a margin."""
    margin = 0.15 * np.ptp(points, axis=0) + 1e-3
    return points.min(0) - margin, points.max(0) + margin


# Figure 4


@contextmanager
def _held_out_throughout():
    """Keep fits from training on the rows that they hold out, as they do in the last quarter."""
    before, _fitting._JOINED = _fitting._JOINED, 1.0
    try:
        yield
    finally:
        _fitting._JOINED = before


def _seconds(data, arguments, report, save):
    sizes = (13, 34) if arguments.quick else (89, 233, 987)
    budget, curves = _budget(data, arguments), {}
    for name in [*(f"QLVM, m = {size}" for size in sizes), "VAE", "IWAE-10", "IWAE-50"]:
        contender, _, size = name.partition(", m = ")
        settings = {"n_points": int(size)} if size else {}
        a_step = contenders.step_seconds(
            contenders.build(contender, 2, 0, arguments, **settings), data.x_train, min(2.0, budget)
        )
        curves[name] = []
        for seed in arguments.seeds:
            model = contenders.build(contender, 2, seed, arguments, **settings)
            n_passes = contenders.passes(model, data.x_train, budget, a_step)
            with _held_out_throughout():
                model.set_params(max_iter=n_passes).fit(data.x_train)
            held_out = Fit.of(model, data.x_train, model.validation_fraction).held_out
            exact = -contenders.exact_nats(model, data.x_train[held_out]).mean()
            # Steps by what one takes: the clock itself would show what else the machine did.
            curves[name].append(
                (
                    np.array(model.history_["step"]) * a_step,
                    model.history_["validation_loss"],
                    exact,
                )
            )
        measured = {
            "held_out_bound": (min, 1, "nats"),
            "held_out_nats": (float, 2, "nats"),
            "training_seconds": (max, 0, "s"),
        }
        for measure, (reduce, part, unit) in measured.items():
            values = [reduce(curve[part]) for curve in curves[name]]
            report.add(f"paper_figures/{measure}", values, unit, model=name, budget_seconds=budget)
    save("seconds", partial(_draw_seconds, curves=curves))


def _draw_seconds(figure, curves):
    figure.set_size_inches(7.5, 4.2)
    axis, beside = figure.subplots(1, 2, sharey=True, width_ratios=[7, 1])
    for i, ((name, runs), colour) in enumerate(zip(curves.items(), _COLOURS, strict=False)):
        for number, (seconds, losses, exact) in enumerate(runs):
            axis.plot(seconds, losses, color=colour, linewidth=1.2, label=None if number else name)
            beside.plot(i, exact, "_", color=colour, markersize=9, markeredgewidth=2)
    best = min(exact for runs in curves.values() for _, _, exact in runs)
    worst = max(min(losses) for runs in curves.values() for _, losses, _ in runs)
    axis.set(
        xlabel="seconds of training", ylabel="minus log p(x), nats a held-out row", title="bound"
    )
    axis.set_ylim(best - 1, worst + 0.8 * (worst - best) + 1)
    beside.set(title="exact", xticks=[], xlim=(-1, len(curves)))
    for each in (axis, beside):
        each.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="upper right")


# Figure A7


class _Trained(QLVMEmbedding):
    """A QLVM that trains on the points of `_drawn`, and is validated on the evaluation lattice
    whatever these are."""

    def _objective(self, model, fit):
        fine = lattices.lattice(2, self.n_points_eval)

        def nats(batch, generator):
            z = fine if generator is None else self._drawn(generator)
            terms = model.likelihood.terms(batch.x)
            table = partial(model.table, terms)
            return objectives.lattice_bound(table, z.to(model.like)) + terms.base

        return nats


class _Shifted(_Trained):
    def _drawn(self, generator):
        return lattices.shifted(
            lattices.lattice(2, self.n_points), lattices.random_shift(2, generator)
        )


class _Fixed(_Trained):
    def _drawn(self, generator):
        return lattices.lattice(2, self.n_points)


class _MonteCarlo(_Trained):
    def _drawn(self, generator):
        return torch.rand((self.n_points, 2), dtype=torch.float64, generator=generator)


def _points(data, arguments, report, save):
    rules = {"random shift": _Shifted, "fixed lattice": _Fixed, "Monte Carlo": _MonteCarlo}
    sizes, n_points_eval = ((13, 34), 233) if arguments.quick else ((55, 233, 987), 2584)
    measured = {}
    for size in sizes:
        for rule, estimator in rules.items():
            models = [
                contenders.build(
                    "QLVM", 2, seed, arguments, n_points=size, n_points_eval=n_points_eval
                )
                for seed in arguments.seeds
            ]
            nats = [_nats(estimator(**model.get_params()), data, arguments) for model in models]
            measured[rule, size] = nats
            report.add("paper_figures/points", nats, "nats", rule=rule, n_points=size)

    def draw(figure):
        figure.set_size_inches(6, 3.8)
        axis = figure.subplots()
        for i, (rule, colour) in enumerate(zip(rules, _COLOURS, strict=False)):
            values = np.array([measured[rule, size] for size in sizes])
            at = np.arange(len(sizes)) + 0.08 * (i - 1)
            axis.plot(at, np.median(values, 1), color=colour, label=rule)
            axis.plot(at, values, "o", color=colour, markersize=4)
        axis.set(
            xticks=range(len(sizes)),
            xticklabels=sizes,
            xlabel="points in training",
            ylabel="minus log p(x), nats a test row",
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)

    save("points", draw)


def _nats(model, data, arguments):
    return -contenders.exact_nats(_fit(model, data, arguments.seconds), data.x_test).mean()


# Figures A8 and A9


class _Moved(torch.nn.Module):
    """A decoder on other coordinates than turns: a function of them."""

    def __init__(self, coordinates, decoder):
        super().__init__()
        self.coordinates, self.decoder = coordinates, decoder

    def forward(self, z):
        return self.decoder(self.coordinates(z))


def _half(z):
    return z / 2


def _centred(z):
    return 12**0.5 * (z - 0.5)


def _normal(z):
    return torch.special.ndtri(z.clamp(_CLIP, 1 - _CLIP))


def _decoder(coordinates, order, sizes, n_components, n_features):
    return _Moved(coordinates, networks.MLPDecoder(n_components, n_features, sizes, order))


_DECODERS = {
    "harmonics of turns": (torch.nn.Identity(), "default"),
    "first harmonics": (torch.nn.Identity(), 1),
    "harmonics of half turns": (_half, "default"),
    "coordinates": (_centred, None),
    "normal quantiles": (_normal, None),
}
"""Coordinates, and the order of their harmonics; None for no harmonics."""

_PERIOD = {
    "harmonics of turns (default)": "harmonics of turns",
    "first harmonics (paper)": "first harmonics",
    "harmonics of half turns": "harmonics of half turns",
    "coordinates": "coordinates",
}
_PRIOR = {
    "uniform torus, harmonics (default)": "harmonics of turns",
    "uniform torus, first harmonics (paper)": "first harmonics",
    "uniform square": "coordinates",
    "normal": "normal quantiles",
}


def _decoders(data, arguments, report, save):
    plain = contenders.build("QLVM", 2, 0, arguments)
    default = harmonic_order(plain.harmonic_order, 2, len(data.x_train))
    measured = {}
    for name, (coordinates, order) in _DECODERS.items():
        factory = partial(
            _decoder,
            coordinates,
            default if order == "default" else order,
            plain.hidden_layer_sizes,
        )
        models = [
            contenders.build("QLVM", 2, seed, arguments, decoder=factory)
            for seed in arguments.seeds
        ]
        measured[name] = [_nats(model, data, arguments) for model in models]
        report.add("paper_figures/decoders", measured[name], "nats", decoder=name)
    save("period", partial(_draw_decoders, measured=measured, labels=_PERIOD))
    save("prior", partial(_draw_decoders, measured=measured, labels=_PRIOR))


def _draw_decoders(figure, measured, labels):
    figure.set_size_inches(6, 0.45 * len(labels) + 0.9)
    axis = figure.subplots()
    colours = dict(zip(measured, _COLOURS, strict=False))
    for i, name in enumerate(labels.values()):
        colour = colours[name]
        axis.plot(measured[name], [-i] * len(measured[name]), "o", color=colour)
        axis.plot(
            [np.median(measured[name])], [-i], "|", color=colour, markersize=18, markeredgewidth=2
        )
    axis.set(
        yticks=[-i for i in range(len(labels))],
        yticklabels=list(labels),
        ylim=(0.5 - len(labels), 0.5),
    )
    axis.set_xlabel("minus log p(x), nats a test row")
    axis.grid(alpha=0.3, axis="x")


_PARTS = {"posteriors": _posteriors, "seconds": _seconds, "points": _points, "decoders": _decoders}


if __name__ == "__main__":
    main()
