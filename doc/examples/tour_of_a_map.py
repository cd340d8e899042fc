"""What one does with a map, from coordinates to a movie's frames, on the digits of scikit-learn.

    python doc/examples/tour_of_a_map.py --out FOLDER

Writes pictures, a page to explore, and a table of the rows into the folder.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import train_test_split

from skqlvm import QLVMEmbedding, display, torus


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tour"))
    parser.add_argument("--max-iter", type=int, help="passes of the fit; by default as many as pay")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    X, y = load_digits(return_X_y=True)
    old, new, y_old, y_new = train_test_split(X, y, test_size=0.3, random_state=0)
    steps, image_shape = arguments.max_iter or "auto", (1, 8, 8)
    model = QLVMEmbedding(image_shape=image_shape, max_iter=steps, random_state=0).fit(old)

    # where rows lie, how sure that is, and how likely they are
    Z = model.transform(old)
    summary = model.posterior_summary(new)
    nats, error = model.score_samples(new, return_std=True)
    table = pd.DataFrame(summary["mean"], columns=["first", "second"])
    table = table.assign(spread=summary["std"].max(1), nats=nats, error=error)

    # where rows are dense, and how fast the decoder changes
    density = torus.TorusDensity().fit(Z)
    table["log_density"] = density.score_samples(model.transform(new))
    norms = torus.jacobian_norm(model, model.lattice_)
    sensitive = torus.sensitivity(model, model.lattice_).mean(0).argmax()
    print(f"most sensitive pixel: {sensitive}; norms vary by {norms.std() / norms.mean():.2f}")

    # clusters of the map, and what they say of rows that the map has not seen
    watershed = torus.TorusWatershed(n_clusters=10).fit(Z)
    peaks = torus.TorusMeanShift().fit(Z)
    table["cluster"] = watershed.predict(model.transform(new))
    for name, clusters in (("watershed", watershed), ("mean shift", peaks)):
        found = adjusted_rand_score(y_new, clusters.predict(model.transform(new)))
        print(f"{name}: adjusted Rand index {found:.2f} with the digits of new rows")

    # the middle of every digit, distances between them, and the way from one to another
    middles = np.array([torus.circular_mean(Z[y_old == digit]) for digit in range(10)])
    print("nearest digits:", torus.pairwise_distances(middles).argsort(1)[:, 1])
    path, length = torus.geodesic(model, middles[0], middles[7], kind="density", n_points=60)
    _, rows = torus.neighbors(Z, path, n_neighbors=1)
    frames = model.inverse_transform(path)
    away = np.abs(frames - old[rows[:, 0]]).mean()
    print(f"from 0 to 7: {length:.2f} long; frames are {away:.1f} grey levels from real rows")

    # pictures, a page, and the table
    pictures = {
        "map": display.EmbeddingDisplay.from_estimator(model, new, y_new, name="digit"),
        "decoded": display.ManifoldDisplay.from_estimator(model),
        "jacobian": display.JacobianDisplay.from_estimator(model, clusters=watershed),
        "posteriors": display.PosteriorDisplay.from_estimator(model, new[:4]),
        "history": display.HistoryDisplay.from_estimator(model),
        "path": display.PathDisplay.from_estimator(model, path, old),
    }
    for name, picture in pictures.items():
        picture.figure_.savefig(arguments.out / f"{name}.png", dpi=90)
    display.explorer(model, new, y_new, arguments.out / "explorer.html", y_name="digit")
    table.to_csv(arguments.out / "rows.csv", index=False)


if __name__ == "__main__":
    main()
