"""Error of the marginal likelihood's quadrature: lattices, Sobol points and plain Monte Carlo on a
model with a closed form.

    python benchmarks/bench_rqmc.py

The decoder is a product of two circles in four dimensions, f(z) = (r_1 cos 2 pi z_1, r_1 sin 2 pi
z_1, r_2 cos 2 pi z_2, r_2 sin 2 pi z_2) with r = (1, 0.5), the noise variance is 0.1 and x = (0.6,
0.3, -0.2, 0.4). Then

    log p(x) = sum_i [ -log 2 pi s - (|x_i|^2 + r_i^2) / 2 s + log I_0(r_i |x_i| / s) ] =
    -2.71966...

The error is the root mean square over random shifts (scramblings, draws) of log 1/m sum_j p(x |
z_j) less that, in nats. Each Fibonacci lattice of m points competes with the best Korobov lattice
of the next prime, which has no Fibonacci number's luck; with scrambled Sobol points of the next
power of two; and with m uniform draws."""

from functools import partial

import measurement
import numpy as np
import torch
from scipy.special import ive, logsumexp
from scipy.stats import qmc

from skqlvm.engine import lattices

_RADII, _VARIANCE = np.array([1.0, 0.5]), 0.1
_X = np.array([[0.6, 0.3], [-0.2, 0.4]])
_SIZES = (55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765)


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument(
        "--repeats", type=int, default=256, help="random shifts, scramblings or draws"
    )
    arguments = parser.parse_args(argv)
    report = measurement.Report(arguments)
    sizes, repeats = ((55, 144, 610), 16) if arguments.quick else (_SIZES, arguments.repeats)
    rows = []
    for n_points in sizes:
        rules = {
            "fibonacci": (n_points, _lattice),
            "korobov": (_next_prime(n_points), _lattice),
            "sobol": (1 << (n_points - 1).bit_length(), _sobol),
            "monte carlo": (n_points, _uniform),
        }
        errors = {}
        for rule, (size, draw) in rules.items():
            # A rule is measured with the same number of random draws for each seed; the value is
            # the median of the seeds' errors.
            values = [_error(partial(draw, size), repeats, seed) for seed in arguments.seeds]
            errors[rule] = (
                size,
                report.add(
                    "rqmc/rms_error", values, "nats", rule=rule, n_points=size, n_shifts=repeats
                ),
            )
        rows.append(_row(errors))
    header = [
        "Fibonacci points",
        "error",
        "Korobov points",
        "error",
        "Sobol points",
        "error",
        "Monte Carlo",
        "Monte Carlo / Fibonacci",
    ]
    measurement.print_table(
        f"Root mean square error of log p(x), in nats, over {repeats} random shifts; exact: "
        f"{_exact():.10f}",
        header,
        rows,
    )
    print("\nFor the README:\n")
    print(measurement.restructured(header, rows))


def _exact():
    """The closed form; ive(0, k) = I_0(k) exp(-k)."""
    lengths = np.linalg.norm(_X, axis=1)
    kappa = _RADII * lengths / _VARIANCE
    bessel = np.log(ive(0, kappa)) + kappa
    return float(
        (bessel - np.log(2 * np.pi * _VARIANCE) - (lengths**2 + _RADII**2) / (2 * _VARIANCE)).sum()
    )


def _estimate(z):
    """The log mean of p(x | z_j) over points in turns, of shape (n_points, 2)."""
    angles = 2 * np.pi * z
    means = np.stack([_RADII * np.cos(angles), _RADII * np.sin(angles)], -1)
    squares = ((_X - means) ** 2).sum((1, 2))
    return (
        logsumexp(-squares / (2 * _VARIANCE)) - 2 * np.log(2 * np.pi * _VARIANCE) - np.log(len(z))
    )


def _error(draw, repeats, seed):
    rng = np.random.default_rng(seed)
    return np.sqrt(np.mean([(_estimate(draw(rng)) - _exact()) ** 2 for _ in range(repeats)]))


def _lattice(n_points, rng):
    return lattices.shifted(lattices.lattice(2, n_points), torch.tensor(rng.random(2))).numpy()


def _sobol(n_points, rng):
    return qmc.Sobol(2, rng=rng).random(n_points)


def _uniform(n_points, rng):
    return rng.random((n_points, 2))


def _next_prime(n):
    n += 1
    while any(n % divisor == 0 for divisor in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def _row(errors):
    lattice, korobov, sobol, plain = errors.values()
    cells = [
        lattice[0],
        f"{lattice[1]:.0e}",
        korobov[0],
        f"{korobov[1]:.0e}",
        sobol[0],
        f"{sobol[1]:.0e}",
        f"{plain[1]:.0e}",
    ]
    return [*map(str, cells), f"{plain[1] / lattice[1]:.0e}"]


if __name__ == "__main__":
    main()
