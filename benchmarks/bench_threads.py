"""What a second thread costs a fit where it finds no free core, and how UMAP starts one.

    python benchmarks/bench_threads.py --seeds 0 1 2

Each row is a fit of one pass in fresh processes that take turns, first on all cores and then with
all threads on one core: there a process ends up, for a while, where others keep the cores busy or a
container has fewer than it sees. A thread of GNU OpenMP spins while it waits for the others; on the
same core it thereby keeps them from what it waits for, in every parallel region, until the
scheduler takes the core away from it. UMAP matters because numba's first parallel call sets the
number of threads of the OpenMP runtime that torch uses."""

import os
import sys
import time
import warnings
from contextlib import nullcontext
from importlib.util import find_spec

import measurement

_OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "NUMBA_NUM_THREADS")
_ONE = {"OMP_NUM_THREADS": "1"}
_CASES = {
    "1 thread": (_ONE, "", ""),
    "1 thread, after UMAP": (_ONE, "umap", ""),
    "the same, NUMBA_NUM_THREADS=1": (_ONE | {"NUMBA_NUM_THREADS": "1"}, "umap", ""),
    "the same, torch.set_num_threads(1)": (_ONE, "umap", "set_num_threads"),
    "the same, threadpool_limits(1)": (_ONE, "umap", "threadpool_limits"),
    "2 threads": ({"OMP_NUM_THREADS": "2"}, "", ""),
    "2 threads, GOMP_SPINCOUNT=0": ({"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "0"}, "", ""),
}
"""Variables of the environment, what runs before the fit, and the remedy."""


def main(argv=None):
    arguments = measurement.parser(__doc__).parse_args(argv)
    report = measurement.Report(arguments, "digits")
    cases = _CASES
    if arguments.quick or find_spec("umap") is None:
        print("UMAP is skipped: under --quick, or not installed.", file=sys.stderr)
        cases = {name: case for name, case in _CASES.items() if not case[1]}
    inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
    found = {name: [] for name in cases}
    for seed in arguments.seeds:
        for name, (variables, before, remedy) in cases.items():
            found[name].append(
                measurement.fresh_process(
                    fit_seconds,
                    environment=inherited | variables,
                    before=before,
                    remedy=remedy,
                    quick=arguments.quick,
                    device=arguments.device,
                    seed=seed,
                )
            )
    _print(found, report)


def fit_seconds(before, remedy, quick, device, seed):
    """Fit on all cores, then on one; return torch's threads, and seconds of both fits by the clock
    and of the processor."""
    import torch
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    from skqlvm import QLVMEmbedding

    warnings.simplefilter("ignore", ConvergenceWarning)  # of a single pass
    x = measurement.split_digits(seed)[0][: 150 if quick else None]
    model = QLVMEmbedding(
        n_points=55 if quick else 233,
        n_points_eval=55,
        max_iter=1,
        device=device,
        random_state=seed,
    ).fit(x)
    if before == "umap":
        from umap import UMAP

        UMAP().fit(x[:500])
    if remedy == "set_num_threads":
        torch.set_num_threads(1)
    limits = threadpool_limits(1, "openmp") if remedy == "threadpool_limits" else nullcontext()
    with limits:
        result = {"threads": torch.get_num_threads(), "free": _seconds(model, x)}
        if hasattr(os, "sched_setaffinity"):
            _confine()
            result["confined"] = _seconds(model, x)
    return result


def _seconds(model, x):
    started = time.perf_counter(), time.process_time()
    model.fit(x)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def _confine():
    """Put all threads on one core. The runtimes have started and go on as if they had all."""
    core = {min(os.sched_getaffinity(0))}
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), core)


def _print(found, report):
    rows = []
    for name, runs in found.items():
        cells = [f"{max(run['threads'] for run in runs)}"]
        for cores in ("free", "confined"):
            for index, clock in enumerate(("wall", "processor")):
                values = [run[cores][index] for run in runs if cores in run]
                if values:
                    median = report.add(
                        f"threads/{clock}_seconds", values, "s", case=name, cores=cores
                    )
                cells.append(f"{median:.2f}" if values else "-")
        rows.append([name, *cells])
    measurement.print_table(
        "A fit of one pass over the digits, medians; on all cores and on one",
        ["", "torch's threads", "all, s", "of processor", "one, s", "of processor"],
        rows,
    )


if __name__ == "__main__":
    main()
