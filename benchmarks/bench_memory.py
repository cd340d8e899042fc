"""Peak memory of scoring on a fine lattice, and of training on one with a convolutional decoder; a
fresh process each.

    python benchmarks/bench_memory.py --data DIR

Scoring 10,000 rows of 784 on 17,711 points may add 1 GiB to what the process held before; a process
that trains on 17,711 points decoded by convolutions may hold 4 GiB in all. Few rows and steps do:
memory does not depend on how many follow."""

from argparse import Namespace

import measurement

_GIB = 2**30
_SCORING = {"n_rows": 10_000, "n_points_eval": 17_711, "n_fitted": 2000}
_TRAINING = {"n_rows": 2512, "n_held_out": 2000, "n_points": 17_711}
_QUICK_SCORING = {"n_rows": 500, "n_points_eval": 610, "n_fitted": 300}
_QUICK_TRAINING = {"n_rows": 300, "n_held_out": 40, "n_points": 55}


def main(argv=None):
    arguments = measurement.parser(__doc__).parse_args(argv)
    report, shared = (
        measurement.Report(arguments, measurement.images_name(arguments)),
        _portable(arguments),
    )
    scoring, training = (
        (_QUICK_SCORING, _QUICK_TRAINING) if arguments.quick else (_SCORING, _TRAINING)
    )
    rows = []
    for query in ("score_samples",) if arguments.quick else ("score_samples", "transform"):
        found = measurement.fresh_process(query_memory, query=query, **scoring, **shared)
        added = report.add(
            f"memory/{query}_added_bytes", found["resident_added_bytes"], "bytes", **scoring
        )
        rows.append(
            [
                f"{query}, added",
                f"{added / _GIB:.3f}",
                "1",
                f"{added / _GIB:.2f}",
                f"{found['seconds']:.1f}",
            ]
        )
    found = measurement.fresh_process(training_memory, **training, **shared)
    total = report.add(
        "memory/training_total_bytes",
        found["resident_bytes"],
        "bytes",
        n_steps=found["n_steps"],
        **training,
    )
    rows.append(
        [
            "training, in all",
            f"{total / _GIB:.3f}",
            "4",
            f"{total / _GIB / 4:.2f}",
            f"{found['seconds']:.1f}",
        ]
    )
    title = (
        f"Peak memory: {scoring['n_rows']} rows on {scoring['n_points_eval']} points; "
        f"{found['n_steps']} steps on "
    )
    title += f"{training['n_points']} points by convolutions"
    measurement.print_table(title, ["", "GiB", "limit", "of the limit", "s"], rows)


def _portable(arguments):
    """What a fresh process needs of the arguments, as JSON can carry it."""
    data = None if arguments.data is None else str(arguments.data)
    return {
        "quick": arguments.quick,
        "data": data,
        "device": arguments.device,
        "seed": arguments.seeds[0],
    }


def query_memory(query, n_rows, n_points_eval, n_fitted, quick, data, device, seed):
    """Measure one query of a fitted model."""
    from skqlvm import QLVMEmbedding

    x = measurement.rows_of_784(Namespace(quick=quick, data=data), n_rows)
    settings = {
        "n_points": 55,
        "n_points_eval": n_points_eval,
        "max_iter": 1,
        "random_state": seed,
        "device": device,
    }
    model = QLVMEmbedding(likelihood="bernoulli", **settings).fit(x[:n_fitted])
    getattr(model, query)(x[:1])
    with measurement.PeakMemory() as memory:
        _, seconds = measurement.timed(getattr(model, query), x, device=device)
    return {"resident_added_bytes": memory.resident_added_bytes, "seconds": seconds}


def training_memory(n_rows, n_held_out, n_points, quick, data, device, seed):
    """Measure a few steps of training and the validation after them."""
    from skqlvm import QLVMEmbedding

    x = measurement.rows_of_784(Namespace(quick=quick, data=data), n_rows)
    settings = {
        "decoder": "conv",
        "image_shape": (1, 28, 28),
        "n_points": n_points,
        "max_iter": 1,
        "validation_fraction": n_held_out / n_rows,
    }
    model = QLVMEmbedding(likelihood="bernoulli", random_state=seed, device=device, **settings)
    with measurement.PeakMemory() as memory:
        _, seconds = measurement.timed(model.fit, x, device=device)
    return {
        "resident_bytes": memory.resident_bytes,
        "n_steps": int(model.history_["step"][-1]),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
