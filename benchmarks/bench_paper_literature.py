"""The encoder models against the literature: the 50-dimensional, one-layer VAE and IWAE of Burda et
al. (arXiv 1509.00519) on MNIST.

    python benchmarks/bench_paper_literature.py --data DIR --seeds 0 1 2

Their network, 784-200-200-50 and back with tanh, Glorot's start, output biases at the mean image,
and pixels that are drawn anew from the grey levels for each batch. They trained on 60,000 images
for 3280 passes, and report 86.76 nats for the VAE and 84.78 for the IWAE with K = 50. MNIST-10k has
a sixth of the images, so that these figures are out of reach, and what is checked is that the
package agrees with itself:

- the IWAE's bound with one draw is the ELBO, within its standard error, whatever the model was
  trained on;
- bounds rise with K and settle: the distance from K = 500 to 5000 is small;
- training with one draw is training a VAE, and training with more draws is not worse.

Scores are of test rows whose pixels are drawn once, the same for all models, with 5000 draws from
the encoder."""

from dataclasses import replace
from itertools import pairwise

import contenders
import measurement
import numpy as np
import torch
from torch import nn

from skqlvm import IWAEEmbedding, VAEEmbedding

_SIZES = (1, 5, 50, 500, 5000)
_PUBLISHED = {"VAE": "86.76", "IWAE-1": "86.76", "IWAE-5": "85.54", "IWAE-50": "84.78"}
_N_COMPONENTS, _WIDTHS = 50, (200, 200)


class _Dynamic:
    """Mixin: draws the pixels of every batch anew from its grey levels; those of held-out rows
    once."""

    def _objective(self, model, fit):
        of_binary = super()._objective(model, fit)

        def nats(batch, generator):
            drawn_by = torch.Generator().manual_seed(2) if generator is None else generator
            drawn = torch.bernoulli(batch.x.cpu(), generator=drawn_by).to(batch.x)
            return of_binary(replace(batch, x=drawn), generator)

        return nats


class _DynamicVAE(_Dynamic, VAEEmbedding):
    pass


class _DynamicIWAE(_Dynamic, IWAEEmbedding):
    pass


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument("--max-iter", type=int, default=100, help="passes over the training file")
    parser.add_argument(
        "--rows", type=int, default=1000, help="rows of the test file that are scored"
    )
    parser.add_argument(
        "--models", nargs="+", choices=_PUBLISHED, default=list(_PUBLISHED), help="what to train"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.max_iter, arguments.rows = 2, 50
    data = measurement.load_images(arguments)
    report = measurement.Report(arguments, data.name)
    sizes = (1, 5, 50) if arguments.quick else _SIZES
    chosen = np.random.default_rng(0).permutation(len(data.x_test))[: arguments.rows]
    grey = torch.from_numpy(data.x_test[np.sort(chosen)])
    x = torch.bernoulli(grey, generator=torch.Generator().manual_seed(1)).numpy()
    rows = []
    for name in arguments.models:
        measured = [
            _measure(name, seed, data.x_train, x, sizes, arguments) for seed in arguments.seeds
        ]
        medians = {}
        for measure in measured[0]:
            unit = {"seconds": "s", "active": "units", "excess": "standard errors"}.get(
                measure, "nats"
            )
            values = [run[measure] for run in measured]
            medians[measure] = report.add(
                f"paper_literature/{measure}",
                values,
                unit,
                model=name,
                max_iter=arguments.max_iter,
                n_rows=len(x),
                n_draws=sizes[-1],
            )
        rows.append([name, *_cells(medians, sizes), _PUBLISHED[name]])
    measurement.print_table(
        f"{data.name}, {len(data.x_train)} rows fitted, {len(x)} binary test rows; "
        f"{_N_COMPONENTS} components; nats are minus the bounds;\n"
        "excess is that of the ELBO over the bound with K = 1, in standard errors; medians",
        [
            "trained as",
            "ELBO",
            *(f"K = {size}" for size in sizes),
            "excess",
            "active",
            "fit s",
            "published",
        ],
        rows,
    )


def _measure(name, seed, x_train, x, sizes, arguments):
    """Fit a model; return its measurements by name."""
    kind, _, size = name.partition("-")
    settings = {
        "likelihood": "bernoulli",
        "encoder": _layers,
        "decoder": _layers,
        "max_iter": arguments.max_iter,
        "random_state": seed,
        "device": arguments.device,
    }
    if kind == "VAE":
        model = _DynamicVAE(_N_COMPONENTS, **settings)
    else:
        model = _DynamicIWAE(_N_COMPONENTS, n_importance_samples=int(size), **settings)
    _, seconds = measurement.timed(model.fit, x_train, device=arguments.device)
    bounds = contenders.importance_bounds(model, x, sizes[-1], sizes)
    elbo, error = model.score_samples(
        x, method="elbo", n_importance_samples=sizes[-1], return_std=True
    )
    # Rows share their draws, so that their errors may all point the same way: the error of the mean
    # is at most the mean of the errors.
    excess = float((elbo - bounds[:, 0]).mean(dtype=np.float64) / error.mean(dtype=np.float64))
    named = {f"bound_{size}": -bound for size, bound in zip(sizes, bounds.mean(0), strict=True)}
    return (
        {"elbo": -elbo.mean(dtype=np.float64)}
        | named
        | {"excess": excess, "active": model.active_units(x).sum(), "seconds": seconds}
    )


def _layers(n_inputs, n_outputs):
    """The network of Burda et al., either way."""
    widths = (n_inputs, *_WIDTHS)
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    network = nn.Sequential(*layers, nn.Linear(_WIDTHS[-1], n_outputs))
    for layer in network[::2]:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return network


def _cells(medians, sizes):
    nats = [f"{medians[measure]:.2f}" for measure in ("elbo", *(f"bound_{size}" for size in sizes))]
    return [
        *nats,
        f"{medians['excess']:+.1f}",
        f"{medians['active']:.0f}",
        f"{medians['seconds']:.0f}",
    ]


if __name__ == "__main__":
    main()
