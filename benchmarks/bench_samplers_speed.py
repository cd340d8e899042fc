"""Seconds and memory of PMFSampler: growth with codes, dimensions and bins, beside mixtures and a
kernel density, and ten million samples.

    python benchmarks/bench_samplers_speed.py --out samplers_speed.jsonl

Codes are clusters of normals. The exponent of growth is the slope of a least-squares line through
the logarithms of the sizes and of the median seconds; contenders take turns. Required are exponents
of 1.0 +- 0.1 in the numbers of codes, dimensions and samples, and a fit that is 50 times faster
than that of a full-covariance mixture of 20 components on 10,000 codes of 32 dimensions. In fewer
than some 250 dimensions, the part of a fit that does not depend on them, such as sorting, keeps the
exponent lower. Samples are drawn in batches, in a fresh process, where peak memory must not depend
on how many there are."""

import warnings
from typing import NamedTuple

import measurement
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skqlvm import PMFSampler

_N_CLUSTERS = 10
_N_BINS = 20
_MIB = 2**20


class Growth(NamedTuple):
    """A step whose seconds are measured while one size varies and the others keep their value in
    `others`, or else in the base."""

    step: str
    varied: str
    sizes: tuple
    others: dict
    required: bool = False


_BASE = {"n_codes": 10_000, "n_dimensions": 32, "n_bins": 20, "n_samples": 10_000}
_QUICK_BASE = {"n_codes": 500, "n_dimensions": 8, "n_bins": 20, "n_samples": 500}
_FEW, _MANY, _NUMBERS, _BINS = (
    (8, 32, 128),
    (256, 1024, 4096),
    (10_000, 40_000, 160_000, 640_000),
    (4, 16, 64, 256),
)
_GROWTH = (
    Growth("fit", "n_codes", _NUMBERS, {}, True),
    Growth("fit", "n_codes", _NUMBERS[:3], {"n_bins": "auto"}),
    Growth("fit", "n_dimensions", _FEW, {}),
    Growth("fit", "n_dimensions", _MANY, {"n_codes": 2000}, True),
    Growth("fit", "n_bins", _BINS, {}),
    Growth("sample", "n_samples", _NUMBERS, {}, True),
    Growth("sample", "n_codes", _NUMBERS, {}),
    Growth("sample", "n_dimensions", _FEW, {}),
    Growth("sample", "n_dimensions", _MANY, {"n_codes": 2000, "n_samples": 2000}, True),
    Growth("sample", "n_bins", _BINS, {}),
)
_FITS = {"n_codes": 10_000, "n_dimensions": 32, "n_components": 20}
_QUICK_FITS = {"n_codes": 500, "n_dimensions": 8, "n_components": 3}


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument(
        "--repeats", type=int, default=5, help="of each timing; of mixtures, 3 at most"
    )
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[1_000_000, 10_000_000], help="drawn in batches"
    )
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="parts to run"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.repeats, arguments.samples = 2, [10_000, 100_000]
    report = measurement.Report(arguments, "clusters")
    for part in arguments.only:
        _PARTS[part](arguments, report)


def codes(n_codes, n_dimensions, seed):
    """Return codes in ten clusters of unit variance, float64 of shape (n_codes, n_dimensions)."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((_N_CLUSTERS, n_dimensions))
    z = rng.standard_normal((n_codes, n_dimensions))
    z += centres[rng.integers(_N_CLUSTERS, size=n_codes)]
    return z


def _growth(arguments, report):
    rows = []
    for step, varied, sizes, others, required in (
        map(_miniature, _GROWTH) if arguments.quick else _GROWTH
    ):
        known = (_QUICK_BASE if arguments.quick else _BASE) | others
        tasks = {
            size: _task(step, **known | {varied: size}, seed=arguments.seeds[0]) for size in sizes
        }
        measurement.alternate(tasks, 1)
        seconds = measurement.alternate(tasks, arguments.repeats)
        medians = [
            report.add(
                f"samplers_speed/{step}_seconds", seconds[size], "s", **known | {varied: size}
            )
            for size in sizes
        ]
        exponent = np.polyfit(np.log(sizes), np.log(medians), 1)[0]
        report.add(
            "samplers_speed/exponent",
            exponent,
            "1",
            step=step,
            varied=varied,
            sizes=sizes,
            others=others,
        )
        besides = ", ".join(f"{value} {name.removeprefix('n_')}" for name, value in others.items())
        ends = [
            f"{sizes[0]} to {sizes[-1]}",
            f"{1000 * medians[0]:.1f}",
            f"{1000 * medians[-1]:.1f}",
        ]
        rows.append(
            [
                f"{step}, {varied.removeprefix('n_')}",
                *ends,
                f"{exponent:.2f}",
                "1.0 +- 0.1" if required else "-",
                besides,
            ]
        )
    title = (
        "Growth of PMFSampler's milliseconds; what does not vary is {n_codes} codes, "
        "{n_dimensions} dimensions, {n_bins} bins, {n_samples} "
    )
    title = (title + "samples, but for the last column").format(
        **_QUICK_BASE if arguments.quick else _BASE
    )
    header = [
        "step, varied",
        "from, to",
        "ms at first",
        "ms at last",
        "exponent",
        "required",
        "with",
    ]
    measurement.print_table(title, header, rows)


def _miniature(growth):
    first = max(2, growth.sizes[0] // 20)
    others = {
        name: value if value == "auto" else value // 20 for name, value in growth.others.items()
    }
    return growth._replace(sizes=(first, 4 * first), others=others)


def _task(step, n_codes, n_dimensions, n_bins, n_samples, seed):
    """Return the function to time."""
    z, sampler = codes(n_codes, n_dimensions, seed), PMFSampler(n_bins)
    if step == "fit":
        return lambda: sampler.fit(z)
    sampler.fit(z)
    return lambda: sampler.sample(n_samples, 0)


def _fits(arguments, report):
    known = _QUICK_FITS if arguments.quick else _FITS
    z = codes(known["n_codes"], known["n_dimensions"], arguments.seeds[0])
    full, diagonal = (
        GaussianMixture(
            known["n_components"], covariance_type=kind, random_state=arguments.seeds[0]
        )
        for kind in ("full", "diag")
    )
    quick_ones = {
        "PMF, 20 bins": PMFSampler(_N_BINS),
        "PMF, auto": PMFSampler(),
        "kernel density": KernelDensity(),
    }
    slow_ones = {
        f"mixture, {name}": mixture for name, mixture in (("full", full), ("diagonal", diagonal))
    }
    PMFSampler(_N_BINS).fit(z)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        seconds = {}
        for _ in range(min(3, arguments.repeats)):
            for samplers, repeats in ((slow_ones, 1), (quick_ones, arguments.repeats)):
                tasks = {
                    name: lambda sampler=sampler: sampler.fit(z)
                    for name, sampler in samplers.items()
                }
                for name, values in measurement.alternate(tasks, repeats).items():
                    seconds.setdefault(name, []).extend(values)
    medians = {
        name: report.add("samplers_speed/contender_seconds", values, "s", sampler=name, **known)
        for name, values in seconds.items()
    }
    base = medians["PMF, 20 bins"]
    rows = []
    for name, median in medians.items():
        ratio = report.add(
            "samplers_speed/contender_ratio", median / base, "ratio", sampler=name, **known
        )
        steps = str(slow_ones[name].n_iter_) if name in slow_ones else "-"
        rows.append(
            [name, f"{median:.4f}", f"{ratio:.1f}", "50" if name == "mixture, full" else "-", steps]
        )
    title = (
        f"Fits to {known['n_codes']} codes of {known['n_dimensions']} dimensions; mixtures "
        f"have {known['n_components']} components"
    )
    measurement.print_table(
        title, ["sampler", "s", "PMF, 20 bins = 1", "required", "EM steps"], rows
    )


def _samples(arguments, report):
    known = {
        name: (_QUICK_FITS if arguments.quick else _FITS)[name]
        for name in ("n_codes", "n_dimensions")
    }
    rows = []
    for n_samples in arguments.samples:
        found = measurement.fresh_process(
            sampling_memory, n_samples=n_samples, seed=arguments.seeds[0], **known
        )
        seconds = report.add(
            "samplers_speed/batches_seconds", found["seconds"], "s", n_samples=n_samples, **known
        )
        added = report.add(
            "samplers_speed/batches_added_bytes",
            found["resident_added_bytes"],
            "bytes",
            n_samples=n_samples,
            **known,
        )
        whole = 8 * n_samples * known["n_dimensions"]
        rows.append(
            [
                n_samples,
                f"{seconds:.2f}",
                f"{n_samples / seconds / 1e6:.2f}",
                f"{added / _MIB:.1f}",
                f"{whole / _MIB:.0f}",
            ]
        )
    header = ["samples", "s", "millions a second", "peak MiB added", "MiB of all samples"]
    measurement.print_table(
        f"Samples of {known['n_dimensions']} dimensions by sample_batches, in a fresh process each",
        header,
        rows,
    )


def sampling_memory(n_samples, n_codes, n_dimensions, seed):
    """Draw samples in batches and throw them away."""
    sampler = PMFSampler(_N_BINS).fit(codes(n_codes, n_dimensions, seed))
    with measurement.PeakMemory() as memory:
        n_drawn, seconds = measurement.timed(
            lambda: sum(
                len(batch) for batch in sampler.sample_batches(n_samples, random_state=seed)
            )
        )
    if n_drawn != n_samples:
        raise RuntimeError(f"sample_batches drew {n_drawn} codes instead of {n_samples}.")
    return {"resident_added_bytes": memory.resident_added_bytes, "seconds": seconds}


_PARTS = {"growth": _growth, "fits": _fits, "samples": _samples}


if __name__ == "__main__":
    main()
