"""Speed of training passes, of the Gaussian table and of transform, against the research formulas
written plainly.

    python benchmarks/bench_speed.py --data DIR

Four measurements, contenders in turn in one process:

* pass: seconds of a training pass over 10,000 digits, batch 128, on 987 points, decoder 4 -> 500 ->
  784. The research formula against the package's engine, from the same weights, on the same batches
  and shifts, at the same constant step size; so that after equal passes both must have the same
  test nats.
* gaussian: forward and backward of the mean log-mean-exp of a Gaussian table, 128 rows and 987
  points of 784 features, by one product against the difference of all rows and all points.
* step: a training step of the default decoder, late in a training, against the matrix products in
  it alone, in the precision that they have there.
* transform: 10,000 digits on 6,765 points, decoded once by the package against decoded for each
  batch of 128 by the research formula, for both built-in decoders.
"""

from math import log, pi
from statistics import median

import measurement
import numpy as np
import torch
from torch import nn

from skqlvm import QLVMEmbedding
from skqlvm.engine import (
    lattices,
    likelihoods,
    marginal,
    models,
    networks,
    objectives,
    optimizers,
    precision,
    priors,
    quadrature,
    training,
)

_BATCH = 128
_SIZES = {
    "n_rows": 10_000,
    "n_hidden": 500,
    "n_points": 987,
    "n_points_eval": 6765,
    "n_batch": 512,
    "repeats": 7,
}
_QUICK = {
    "n_rows": 500,
    "n_hidden": 50,
    "n_points": 89,
    "n_points_eval": 233,
    "n_batch": 64,
    "repeats": 2,
}


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument(
        "--passes", type=int, default=3, help="training passes, each of them a repeat"
    )
    arguments = parser.parse_args(argv)
    report, sizes = (
        measurement.Report(arguments, measurement.images_name(arguments)),
        _QUICK if arguments.quick else _SIZES,
    )
    rows = [
        *_passes(arguments, report, sizes),
        *_gaussian(arguments, report, sizes),
        *_step(arguments, report, sizes),
        *_transform(arguments, report, sizes),
    ]
    measurement.print_table(
        f"Medians of repeats in turn, on {report.device}",
        ["", "seconds", "times faster", "required", "agreement"],
        rows,
    )


def _tabulated(report, title, seconds, required, agreement, label=None, **parameters):
    """Add all contenders' seconds, of which the first is the plain one, and return their rows of
    the table."""
    plain = median(next(iter(seconds.values())))
    rows = []
    for name, values in seconds.items():
        value = report.add(f"speed/{title}_seconds", values, "s", contender=name, **parameters)
        ratio = report.add(
            f"speed/{title}_ratio", plain / value, "times", contender=name, **parameters
        )
        rows.append(
            [
                f"{label or title}: {name}",
                f"{value:.3f}",
                f"{ratio:.1f}",
                required.get(name, ""),
                agreement[name],
            ]
        )
    return rows


class Research(nn.Module):
    """The tutorial's decoder: cosines and sines, one hidden layer of rectifiers, a sigmoid."""

    def __init__(self, n_hidden, n_outputs):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, n_hidden), nn.Linear(n_hidden, n_outputs)

    def forward(self, z):
        angles = 2 * pi * z
        return torch.sigmoid(
            self.output(torch.relu(self.hidden(torch.cat([angles.cos(), angles.sin()], 1))))
        )


def research_table(x, probabilities):
    """Return log p(x_i | z_j), of shape (n, m), as the research code does: clamped probabilities,
    their logarithms, two products."""
    p = probabilities.clamp(1e-6, 1 - 1e-6)
    return torch.einsum("nd,md->nm", x, p.log()) + torch.einsum("nd,md->nm", 1 - x, (1 - p).log())


class ResearchPasses:
    """Train by the research formula, a pass at a time."""

    def __init__(self, x, points, initial, seed, device):
        self.x, self.points, self.device = x, points.float().to(device), device
        self.module = _copied(initial, Research(initial.hidden.out_features, x.shape[1])).to(device)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-3)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self):
        order = torch.randperm(len(self.x), generator=self.generator)
        for batch in order.tensor_split(-(-len(self.x) // _BATCH)):
            shift = torch.rand(2, dtype=torch.float64, generator=self.generator).to(self.points)
            log_px = torch.logsumexp(
                research_table(self.x[batch], self.module((self.points + shift) % 1)), 1
            ) - log(len(self.points))
            loss = -log_px.mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def test_nats(self, x, points):
        with torch.no_grad():
            probabilities = self.module(points.float().to(self.device))
            log_px = [
                torch.logsumexp(research_table(part, probabilities), 1) for part in x.split(_BATCH)
            ]
        return log(len(points)) - float(torch.cat(log_px).mean())


class PackagePasses:
    """Train by the package's engine, a pass at a time; with layers rounded to bfloat16 or not."""

    def __init__(self, x, points, initial, seed, device, rounded, n_passes):
        self.x = x
        decoder = networks.MLPDecoder(2, x.shape[1], (initial.hidden.out_features,), order=1)
        decoder, likelihood = _copied(initial, decoder), likelihoods.Bernoulli(x.shape[1])
        self.model = models.Model(2, priors.UniformTorus(), decoder, likelihood).to(device)
        self.model.allow_bfloat16(rounded)
        self.bound = marginal.LatticeBound(
            self.model, points, x[:_BATCH], n_bytes=2**30, spared=1e-2 if rounded else 2**-24
        )
        self.generator, self.state = torch.Generator().manual_seed(seed), training.State()
        self.n_batches = -(-len(x) // _BATCH)
        self.settings = training.Settings(
            n_steps=n_passes * self.n_batches,
            schedule=optimizers.constant(1e-3),
            optimizer=optimizers.adam,
            batch_size=_BATCH,
            steps_per_record=self.n_batches,
        )

    def _nats(self, batch):
        return self.bound(self.x[batch], lattices.random_shift(2, self.generator))

    def __call__(self):
        training.train(
            self.model.train(),
            self._nats,
            len(self.x),
            self.settings,
            self.generator,
            state=self.state,
            stop_at=self.state.step + self.n_batches,
        )

    def test_nats(self, x, points):
        with torch.no_grad():
            charts = quadrature.charts(self.model.eval(), points, factored=True)
            return -float(quadrature.log_marginal(self.model, charts, x.split(_BATCH)).mean())


def _copied(source, module):
    """Give a module the parameters of another, in their order."""
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), source.parameters(), strict=True):
            parameter.copy_(value)
    return module


def _passes(arguments, report, sizes):
    seed, device = arguments.seeds[0], arguments.device
    x, x_test = (
        torch.from_numpy(measurement.rows_of_784(arguments, sizes["n_rows"], part)).to(device)
        for part in ("train", "test")
    )
    points, points_eval = (
        lattices.lattice(2, sizes[name]) for name in ("n_points", "n_points_eval")
    )
    torch.manual_seed(seed)
    initial = Research(sizes["n_hidden"], x.shape[1])
    contenders = {"research formula": ResearchPasses(x, points, initial, seed, device)}
    for name, rounded in (("package, highest", False), ("package, medium", True)):
        contenders[name] = PackagePasses(
            x, points, initial, seed, device, rounded, arguments.passes
        )
    seconds = measurement.alternate(contenders, arguments.passes, device)
    shared = {name: sizes[name] for name in ("n_rows", "n_hidden", "n_points")} | {
        "batch_size": _BATCH,
        "passes": arguments.passes,
    }
    nats = {
        name: report.add(
            "speed/pass_test_nats",
            contender.test_nats(x_test, points_eval),
            "nats",
            contender=name,
            **shared,
        )
        for name, contender in contenders.items()
    }
    difference = {
        name: f"{value:.2f} test nats, {value - nats['research formula']:+.3f} (0.5)"
        for name, value in nats.items()
    }
    required = {
        "package, medium": ">= 8" if measurement.multiplies_bfloat16(report.device) else ">= 3"
    }
    return _tabulated(report, "pass", seconds, required, difference, **shared)


def broadcast_bound(x, outputs, variance):
    """Return the mean log-mean-exp of a Gaussian table from the differences of all rows and all
    points, (n, m, d) of them."""
    squares = (x[:, None, :] - outputs[None, :, :]) ** 2
    log_px = -0.5 * (squares / variance + (2 * pi * variance).log()).sum(-1)
    return (torch.logsumexp(log_px, 1) - log(len(outputs))).mean()


def _gaussian(arguments, report, sizes):
    device, generator = arguments.device, torch.Generator().manual_seed(arguments.seeds[0])
    x = torch.randn((_BATCH, 784), generator=generator).to(device)
    outputs = torch.randn((sizes["n_points"], 784), generator=generator).to(device).requires_grad_()
    likelihood = likelihoods.Gaussian(784).to(device)
    found = {}

    def broadcast():
        found["broadcast formula"] = _backward(
            broadcast_bound(x, outputs, likelihood.noise_variance().float()), outputs
        )

    def product():
        terms = likelihood.terms(x)
        log_px = objectives.log_mean_exp(likelihood.table(terms, outputs)) + terms.base
        found["package"] = _backward(log_px.mean(), outputs)

    contenders = {"broadcast formula": broadcast, "package": product}
    measurement.alternate(contenders, 1, device)
    seconds = measurement.alternate(contenders, sizes["repeats"], device)
    value, gradient = found["broadcast formula"]
    agreement = {
        name: (
            f"value {abs(other / value - 1):.0e}, gradient "
            f"{float((slope - gradient).norm() / gradient.norm()):.0e}"
        )
        for name, (other, slope) in found.items()
    }
    shared = {"n_rows": _BATCH, "n_points": sizes["n_points"], "n_features": 784}
    return _tabulated(report, "gaussian", seconds, {"package": ">= 20"}, agreement, **shared)


def _backward(value, outputs):
    """Return a value and its gradient with respect to the outputs."""
    (gradient,) = torch.autograd.grad(value, outputs)
    return float(value.detach()), gradient


def _step(arguments, report, sizes):
    """A step of a model that was trained before, and its products."""
    n_rows = sizes["n_batch"]
    x = measurement.rows_of_784(arguments, sizes["n_rows"])
    model = QLVMEmbedding(
        n_points=sizes["n_points"],
        likelihood="bernoulli",
        batch_size=n_rows,
        random_state=arguments.seeds[0],
        device=arguments.device,
        max_iter=3,
    ).fit(x)
    fitted, rows = model._model.train(), torch.from_numpy(x).to(arguments.device)
    fitted.allow_bfloat16(True)
    bound = marginal.LatticeBound(
        fitted, lattices.lattice(2, sizes["n_points"]), rows[:n_rows], n_bytes=2**30, spared=1e-2
    )
    optimizer = optimizers.adam_with_decay(dict(fitted.named_parameters()))
    generator, decoded = torch.Generator().manual_seed(arguments.seeds[0]), []
    decode_waves = bound.lattice.decode_waves

    def counted(waves, weights):
        if torch.is_grad_enabled():
            decoded.append(len(waves))
        return decode_waves(waves, weights)

    bound.lattice.decode_waves = counted

    def step():
        batch = rows[torch.randint(len(rows), (n_rows,), generator=generator).to(rows.device)]
        loss = -bound(batch, lattices.random_shift(2, generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(fitted.parameters(), 100.0)
        optimizer.step()

    step()
    coarse = precision.multiplies_bfloat16(rows.device)
    products = _products(fitted.decoder, rows[:n_rows], sizes["n_points"], decoded[-1], coarse)
    contenders = {"products alone": products, "step": step}
    measurement.alternate(contenders, 10, arguments.device)
    seconds = measurement.alternate(contenders, 7 * sizes["repeats"], arguments.device)
    ratio = median(seconds["step"]) / median(seconds["products alone"])
    agreement = {"products alone": "", "step": f"{ratio:.2f} times its products (2.5)"}
    shared = {"n_rows": n_rows, "n_points": sizes["n_points"], "n_active": decoded[-1]}
    return _tabulated(report, "step", seconds, {}, agreement, **shared)


def _products(decoder, x, n_points, n_active, coarse):
    """Return a function that makes the matrix products of a step, and nothing else."""
    dtype = torch.bfloat16 if coarse else torch.float32
    weights = [
        layer.weight.detach().to(dtype) for layer in decoder.layers if isinstance(layer, nn.Linear)
    ]
    sizes = (n_points, n_active)
    inputs = [
        [torch.rand(size, w.shape[1], device=x.device).to(dtype) for w in weights] for size in sizes
    ]
    outputs = [torch.rand(size, x.shape[1], device=x.device).to(dtype) for size in sizes]
    rows, shares = x.to(dtype), torch.rand(len(x), n_active, device=x.device)

    def run():
        for layers in inputs:
            for h, w in zip(layers, weights, strict=True):
                h @ w.T
        for _ in range(2 if coarse else 1):
            rows @ outputs[0].T
        shares.T @ x
        for h, w in zip(inputs[1], weights, strict=True):
            gradient = torch.empty(n_active, len(w), dtype=dtype, device=x.device)
            gradient.T @ h
            gradient @ w

    return run


def redecoded_transform(decoder, loc, points, x):
    """Return circular means in turns, with the lattice decoded anew for each batch."""
    angles, means = 2 * pi * points, []
    with torch.no_grad():
        for batch in x.split(_BATCH):
            weights = torch.softmax(research_table(batch, torch.sigmoid(decoder(points) + loc)), 1)
            means.append(torch.atan2(weights @ angles.sin(), weights @ angles.cos()) / (2 * pi) % 1)
    return torch.cat(means)


def _transform(arguments, report, sizes):
    rows = []
    for decoder in ("mlp", "conv"):
        rows += _transform_by(decoder, arguments, report, sizes)
    return rows


def _transform_by(decoder, arguments, report, sizes):
    device, x = arguments.device, measurement.rows_of_784(arguments, sizes["n_rows"])
    settings = {
        "n_points": 55,
        "n_points_eval": sizes["n_points_eval"],
        "max_iter": 1,
        "decoder": decoder,
        "image_shape": (1, 28, 28),
    }
    model = QLVMEmbedding(
        likelihood="bernoulli", random_state=arguments.seeds[0], device=device, **settings
    ).fit(x[:1000])
    points, loc = torch.from_numpy(model.lattice_).float().to(device), model.likelihood_.loc.float()
    rows, found = torch.from_numpy(x).to(device), {}

    def redecode():
        found["decoded for each batch"] = (
            redecoded_transform(model.decoder_, loc, points, rows).cpu().numpy()
        )

    def package(embedding):
        name = f"package, {embedding}"

        def run():
            found[name] = model.set_params(embedding=embedding).transform(x)

        return name, run

    contenders = dict([("decoded for each batch", redecode), package("mean"), package("local")])
    seconds = measurement.alternate(contenders, min(3, sizes["repeats"]), device)
    plain, mean = found["decoded for each batch"], found["package, mean"]
    distance = np.median(np.abs((mean - plain + 0.5) % 1 - 0.5))
    agreement = {
        "decoded for each batch": "",
        "package, mean": f"median {distance:.0e} turns",
        "package, local": "another readout",
    }
    required = dict.fromkeys(("package, mean", "package, local"), ">= 20")
    shared = {
        "n_rows": len(x),
        "n_points": sizes["n_points_eval"],
        "batch_size": _BATCH,
        "decoder": decoder,
    }
    return _tabulated(
        report, "transform", seconds, required, agreement, label=f"transform, {decoder}", **shared
    )


if __name__ == "__main__":
    main()
