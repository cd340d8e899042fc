"""GridSearchCV over the size of the training lattice, all scored on the same evaluation lattice.

    python benchmarks/bench_gridsearch.py

More points tighten the bound that is trained, at a cost in proportion; the held-out nats say when
that stops to pay. Data are the bundled digits, grey levels 0 to 16, by the Gaussian default."""

import measurement
from sklearn.model_selection import GridSearchCV, KFold

from skqlvm import QLVMEmbedding


def main(argv=None):
    parser = measurement.parser(__doc__)
    parser.add_argument("--n-points", type=int, nargs="+", default=[55, 233, 987])
    parser.add_argument("--folds", type=int, default=3)
    arguments = parser.parse_args(argv)
    report = measurement.Report(arguments, "digits")
    x, settings, sizes = measurement.split_digits(0)[0], {}, arguments.n_points
    if arguments.quick:
        x, settings, sizes = (
            x[:300],
            {"n_points_eval": 377, "max_iter": 3, "hidden_layer_sizes": (32,)},
            [13, 34, 55],
        )
    QLVMEmbedding(max_iter=1, n_points=5, n_points_eval=1, device=arguments.device).fit(
        x
    )  # a process's first fit imports parts of torch
    searches, searching = [], []
    for seed in arguments.seeds:
        model = QLVMEmbedding(random_state=seed, device=arguments.device, **settings)
        search = GridSearchCV(
            model,
            {"n_points": sizes},
            cv=KFold(arguments.folds, shuffle=True, random_state=seed),
            refit=False,
        )
        _, seconds = measurement.timed(search.fit, x, device=arguments.device)
        searches.append(search.cv_results_)
        searching.append(seconds)
    rows = []
    for index, n_points in enumerate(sizes):
        shared = {"n_points": n_points, "folds": arguments.folds, "n_rows": len(x)}
        folds = [
            -found[f"split{fold}_test_score"][index]
            for found in searches
            for fold in range(arguments.folds)
        ]
        nats = report.add("gridsearch/held_out_nats", folds, "nats", **shared)
        fit = report.add(
            "gridsearch/fit_seconds",
            [found["mean_fit_time"][index] for found in searches],
            "s",
            **shared,
        )
        score = report.add(
            "gridsearch/score_seconds",
            [found["mean_score_time"][index] for found in searches],
            "s",
            **shared,
        )
        rows.append([n_points, nats, max(folds) - min(folds), fit, score])
    report.add(
        "gridsearch/search_seconds",
        searching,
        "s",
        n_points=sizes,
        folds=arguments.folds,
        n_rows=len(x),
    )
    cheapest = rows[0][3]
    measurement.print_table(
        f"Digits, {len(x)} rows, {arguments.folds} folds, {len(arguments.seeds)} seeds; median "
        "held-out nats, minus log p(x) of a row: the "
        "lower, the better",
        ["n_points", "held-out nats", "spread", "fit s", "fit, first = 1", "score s"],
        [
            [
                m,
                f"{nats:.2f}",
                f"{spread:.2f}",
                f"{fit:.2f}",
                f"{fit / cheapest:.2f}",
                f"{score:.2f}",
            ]
            for m, nats, spread, fit, score in rows
        ],
    )


if __name__ == "__main__":
    main()
