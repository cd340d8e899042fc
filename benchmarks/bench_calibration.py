"""How far scores are from the truth, and how often two standard errors cover it.

    python benchmarks/bench_calibration.py
    python benchmarks/bench_calibration.py --data DIR

Lattices: rows of a product of circles under Gaussian noise, whose log p(x) is a sum of Bessel
functions, with posteriors from 0.02 to 2 spacings of the lattice wide; and held-out images under
fitted maps, whose scores are compared with those of a lattice that is about a hundred times denser.
Importance sampling: held-out images under VAE and IWAE with two components, by draws of the encoder
alone and with those around the peaks of each row's posterior, against quadrature. Data are float64:
standard errors do not know about rounding."""

import math

import measurement
import numpy as np
import torch
from scipy.special import ive

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm.engine import lattices, likelihoods, models, priors, quadrature, refinement, torus

_WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0)
_POINTS = {1: 89, 2: 610, 3: 2039}
_DENSE = {2: 832_040, 3: 2**20}
_ROUNDING = 1e-6
"""Nats that an interval is wider by on both sides: what is exact has no width."""


class Circles(torch.nn.Module):
    """Circles of radius 1, a coordinate each."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z):
        return torus.to_circle(z)


def main(argv=None):
    arguments = measurement.parser(__doc__).parse_args(argv)
    report = measurement.Report(arguments, measurement.images_name(arguments))
    closed_forms(arguments, report)
    data = measurement.load_images(arguments)
    n_rows = 60 if arguments.quick else 500
    x_train, x_test = data.x_train, data.x_test[:n_rows].astype(np.float64)
    fitted_maps(arguments, report, x_train, x_test)
    encoders(arguments, report, x_train, x_test)


def closed_forms(arguments, report):
    rows, n_rows = [], 40 if arguments.quick else 400
    for k, m in _POINTS.items():
        for width in _WIDTHS[::3] if arguments.quick else _WIDTHS:
            errors, covered, plain = [], [], []
            for seed in arguments.seeds:
                found = _closed_form(k, m, width, n_rows, seed)
                errors.append(np.abs(found["nats"] - found["exact"]).mean())
                covered.append(_coverage(found["nats"], found["std"], found["exact"]))
                plain.append(np.abs(found["plain"] - found["exact"]).mean())
            setting = {"n_components": k, "n_points": m, "spacings": width, "n_rows": n_rows}
            error = report.add("calibration/closed_form_error", errors, "nats", **setting)
            coverage = report.add("calibration/closed_form_coverage", covered, "rows", **setting)
            alone = np.median(plain)
            rows.append([f"{k}", width, f"{alone:.4f}", f"{error:.4f}", f"{coverage:.3f}"])
    header = ["components", "width", "lattice alone", "mean error", "covered by 2 SE"]
    measurement.print_table("Circles: posteriors as wide as so many spacings, nats", header, rows)


def _closed_form(k, m, width, n_rows, seed):
    variance = (2 * math.pi * width * m ** (-1 / k)) ** 2
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n_rows, k, dtype=torch.float64, generator=generator)
    noise = torch.randn(n_rows, 2 * k, dtype=torch.float64, generator=generator)
    x = torus.to_circle(z) + variance**0.5 * noise
    likelihood = likelihoods.Gaussian(2 * k, variance)
    model = models.Model(k, priors.UniformTorus(), Circles(), likelihood).eval()
    points = lattices.lattice(k, m)
    with torch.no_grad():
        [chart] = quadrature.charts(model, points)
        nats = refinement.refined_log_marginal(model, chart, [x])
        std = quadrature.standard_error(model, points, [x], refined=True)
        plain = quadrature.log_marginal(model, [chart], [x])
    radius = np.hypot(*x.numpy().reshape(n_rows, 2, k).swapaxes(0, 1))
    bessel = np.log(ive(0, radius / variance)) - (radius - 1) ** 2 / (2 * variance)
    exact = (bessel - np.log(2 * np.pi * variance)).sum(1)
    return {"nats": nats.numpy(), "std": std.numpy(), "plain": plain.numpy(), "exact": exact}


def _coverage(nats, std, exact):
    return np.mean(np.abs(nats - exact) < 2 * std + _ROUNDING)


def fitted_maps(arguments, report, x_train, x_test):
    rows = []
    for k in (2,) if arguments.quick else (2, 3):
        errors, largest, covered, seconds, dense_seconds = [], [], [], [], []
        n_dense = 46_368 if arguments.quick else _DENSE[k]
        for seed in arguments.seeds:
            settings = {"max_iter": 5} if arguments.quick else {}
            model = QLVMEmbedding(k, device=arguments.device, random_state=seed, **settings)
            model.fit(x_train)
            nats, spent = measurement.timed(model.score_samples, x_test, device=arguments.device)
            _, std = model.score_samples(x_test, return_std=True)
            exact, dense = measurement.timed(_dense_scores, model, x_test, k, n_dense)
            gap = np.abs(nats - exact)
            errors.append(gap.mean())
            largest.append(gap.max())
            covered.append(_coverage(nats, std, exact))
            seconds.append(spent)
            dense_seconds.append(dense)
        setting = {"n_components": k, "n_points_dense": n_dense, "n_rows": len(x_test)}
        cells = [
            f"{report.add(f'calibration/{name}', values, unit, **setting):.3f}"
            for name, values, unit in (
                ("map_error", errors, "nats"),
                ("map_largest_error", largest, "nats"),
                ("map_coverage", covered, "rows"),
                ("map_seconds", seconds, "s"),
                ("map_dense_seconds", dense_seconds, "s"),
            )
        ]
        rows.append([k, *cells])
    header = ["components", "mean error", "largest", "covered by 2 SE", "s", "s, dense"]
    measurement.print_table("Held-out images under fitted maps, nats", header, rows)


def _dense_scores(model, x, k, n_points):
    """Scores over a dense lattice, which needs no refinement."""
    is_power = n_points & (n_points - 1) == 0
    u = lattices.nested(k, n_points) if is_power else lattices.lattice(k, n_points)
    parts = torch.from_numpy(x).to(model._model.like.device).split(200)
    with torch.no_grad():
        charts = quadrature.charts(model._model, u, n_at_once=model._model.n_decoded)
        return quadrature.log_marginal(model._model, charts, parts).numpy()


def encoders(arguments, report, x_train, x_test):
    rows, n_draws = [], 100 if arguments.quick else 500
    for kind in (VAEEmbedding, IWAEEmbedding):
        found = {method: ([], [], [], []) for method in ("encoder", "importance")}
        for seed in arguments.seeds:
            settings = {"max_iter": 5} if arguments.quick else {}
            model = kind(device=arguments.device, random_state=seed, **settings).fit(x_train)
            exact = model.score_samples(x_test)
            for method, lists in found.items():
                (nats, std), spent = measurement.timed(
                    model.score_samples, x_test, method, n_draws, True, device=arguments.device
                )
                gap = nats - exact
                values = gap.mean(), np.abs(gap).max(), _coverage(nats, std, exact), spent
                for values_of_seeds, value in zip(lists, values, strict=True):
                    values_of_seeds.append(value)
        for method, lists in found.items():
            setting = {"model": kind.__name__, "method": method, "n_draws": n_draws}
            names = ("gap", "largest_gap", "coverage", "seconds")
            units = ("nats", "nats", "rows", "s")
            cells = [
                f"{report.add(f'calibration/importance_{name}', values, unit, **setting):.3f}"
                for name, values, unit in zip(names, lists, units, strict=True)
            ]
            rows.append([kind.__name__, method, *cells])
    header = ["model", "draws", "mean gap", "largest", "covered by 2 SE", "s"]
    title = f"Importance sampling of {n_draws} draws against quadrature, nats"
    measurement.print_table(title, header, rows)


if __name__ == "__main__":
    main()
