"""Transformations that do not matter, marginalised: maps and nats with them, without, and of peers.

    python benchmarks/bench_transformations.py --data DIR

Digits and letters may be slanted, seven ways; synthetic chirps start at any time and pitch. Beside
QLVM with these transformations stand QLVM without, UMAP, and UMAP on images that were straightened
by their moments, or on chirps that were moved by their centre of mass. Models are fitted on one
part of the rows and measured on another; kNN is the accuracy of a 10-neighbour classifier on the
map. Nats are minus log p(x) of a new row, the lower the better."""

import itertools
from typing import NamedTuple

import measurement
import numpy as np

from skqlvm import QLVMEmbedding

_QUICK = {"n_points": 55, "n_points_eval": 233, "max_iter": 2, "hidden_layer_sizes": (32,)}
_SLANTS = np.linspace(-0.45, 0.45, 7)
_CHIRP_SHAPE = (1, 16, 24)
_MOST_PITCH = 4
_LENGTHS = 8, 13
_REQUIRED = {
    "mnist-10k": "nats at most 115, kNN at least 0.94, fit and map in 60 s",
    "chirps": "kNN at least 0.1 above UMAP's",
}


class Problem(NamedTuple):
    """Data, transformations that do not matter to them, and rows that were aligned otherwise."""

    data: measurement.Images
    transformations: dict
    image_shape: tuple
    aligned: measurement.Images


def main(argv=None):
    arguments = measurement.parser(__doc__).parse_args(argv)
    report = measurement.Report(arguments)
    problems = [Problem(*parts) for parts in _problems(arguments)]
    rows = {problem.data.name: [] for problem in problems}
    # UMAP comes last, as it leaves other threads behind
    for contenders in (_qlvms, _umaps):
        for problem in problems:
            for model, measured in contenders(problem, arguments).items():
                runs = [measured(seed) for seed in arguments.seeds]
                cells = _reported(report, problem.data.name, model, runs)
                rows[problem.data.name].append([model, *cells])
    for data, *_ in problems:
        measurement.print_table(
            f"{data.name}, {len(data.x_train)} rows fitted, {len(data.x_test)} new ones; required "
            f"of QLVM, marginalised: {_REQUIRED.get(data.name, 'nothing')}",
            ["model", "nats", "kNN", "fit s", "map s"],
            rows[data.name],
        )


def _problems(arguments):
    """Yield the parts of each problem."""
    images = measurement.load_images(arguments)
    side = int(images.x_train.shape[1] ** 0.5)
    slants = {"shear": _SLANTS}, (1, side, side)
    yield images, *slants, _straightened(images, side)
    if images.name == "mnist-10k":
        arguments.images = "omniglot"
        letters = measurement.load_images(arguments)
        yield letters, *slants, _straightened(letters, side)
    n_rows = 300 if arguments.quick else 4000
    data = chirps(n_rows, arguments.seeds[0])
    moves = range(-_MOST_PITCH, _MOST_PITCH + 1, 2), range(0, _CHIRP_SHAPE[2], 2)
    shifts = {"shift": list(itertools.product(*moves))}
    yield data, shifts, _CHIRP_SHAPE, _centred(data)


def _qlvms(problem, arguments):
    """Return functions of a seed that fit and measure QLVM, with transformations and without."""
    settings = {"likelihood": "bernoulli", "device": arguments.device, "output": "cartesian"}
    settings |= _QUICK if arguments.quick else {}

    def qlvm(**parameters):
        return lambda seed: _measured(
            QLVMEmbedding(random_state=seed, **settings, **parameters), problem.data, arguments
        )

    moved = qlvm(transformations=problem.transformations, image_shape=problem.image_shape)
    return {"QLVM, marginalised": moved, "QLVM": qlvm()}


def _umaps(problem, arguments):
    """Return functions of a seed that fit and measure UMAP, of rows as they are and aligned."""
    umap = measurement.umap_class(arguments)
    if umap is None:
        return {}
    umap(n_epochs=1).fit(problem.data.x_train[:200])  # compiled before it is timed
    return {
        "UMAP": lambda seed: _measured(umap(), problem.data, arguments),
        "UMAP, aligned rows": lambda seed: _measured(umap(), problem.aligned, arguments),
    }


def _measured(model, data, arguments):
    """Fit a model; return its nats if it has any, kNN of the map, and seconds of fit and map."""
    device = arguments.device
    map_train, fit_seconds = measurement.timed(model.fit_transform, data.x_train, device=device)
    map_test, map_seconds = measurement.timed(model.transform, data.x_test, device=device)
    accuracy = measurement.neighbour_accuracy(map_train, data.y_train, map_test, data.y_test)
    nats = -model.score(data.x_test) if isinstance(model, QLVMEmbedding) else float("nan")
    return nats, accuracy, fit_seconds, map_seconds


def _reported(report, name, model, runs):
    """Report what runs measured; return it as the cells of a table."""
    cells = []
    quantities = {"nats": "nats", "knn": "fraction", "fit_seconds": "s", "map_seconds": "s"}
    for (quantity, unit), values in zip(quantities.items(), zip(*runs, strict=True), strict=True):
        if np.isnan(values).all():
            cells.append("-")
            continue
        median = report.add(
            f"transformations/{quantity}", values, unit, data_name=name, model=model
        )
        cells.append(f"{median:.3f}" if unit == "fraction" else f"{median:.1f}")
    return cells


def _straightened(data, side):
    """Images sheared by whole pixels so that their moments have no slant."""
    height = np.arange(side) - (side - 1) / 2

    def straight(x):
        images = x.reshape(-1, side, side)
        mass = images.sum((1, 2)) + 1e-9
        centre = [np.einsum(f"nij,{axis}->n", images, height) / mass for axis in "ij"]
        down, right = (height[None] - c[:, None] for c in centre)
        crossed = np.einsum("nij,ni,nj->n", images, down, right)
        slants = -crossed / (np.einsum("nij,ni->n", images, down**2) + 1e-9)
        steps = np.round(slants[:, None] * down).astype(int)
        columns = (np.arange(side) - steps[:, :, None]) % side
        return np.take_along_axis(images, columns, 2).reshape(len(x), -1)

    return data._replace(x_train=straight(data.x_train), x_test=straight(data.x_test))


def chirps(n_rows, seed):
    """Return binary spectrograms of six kinds of chirps, which start at any time and pitch.

    Within a kind, the length and the width of its sweep vary: two numbers that a map can show.
    """
    generator = np.random.default_rng(seed)
    _, n_pitches, n_times = _CHIRP_SHAPE
    kinds = generator.integers(len(_SWEEPS), size=n_rows)
    pitches = np.arange(n_pitches)[:, None]
    rows = []
    for kind in kinds:
        length = generator.integers(*_LENGTHS)
        sweep = (2 + 1.5 * generator.random()) * _SWEEPS[kind](np.linspace(0, 1, length))
        pitch = (n_pitches - 1) / 2 + generator.integers(-_MOST_PITCH, _MOST_PITCH + 1)
        image = np.full((n_pitches, n_times), 0.02)
        start = generator.integers(0, n_times - length + 1)
        image[:, start : start + length] += 0.9 * np.exp(
            -0.5 * ((pitches - pitch - sweep) / 0.6) ** 2
        )
        rows.append(image.ravel())
    x = (generator.random((n_rows, n_pitches * n_times)) < np.array(rows)).astype(np.float32)
    n_train = 3 * n_rows // 4
    return measurement.Images("chirps", x[:n_train], kinds[:n_train], x[n_train:], kinds[n_train:])


_SWEEPS = (
    lambda t: 1 - 2 * t,
    lambda t: 2 * t - 1,
    lambda t: 2 * np.abs(2 * t - 1) - 1,
    lambda t: 1 - 2 * np.abs(2 * t - 1),
    lambda t: np.sin(4 * np.pi * t),
    lambda t: 0 * t,
)
"""Pitch over the time of a chirp, from -1 to 1: up, down, valley, hill, warble, constant."""


def _centred(data):
    """Chirps moved cyclically so that their centre of mass is in the middle."""
    _, n_pitches, n_times = _CHIRP_SHAPE

    def centred(x):
        images = x.reshape(-1, n_pitches, n_times)
        moved = []
        for image in images:
            steps = []
            for axis, size in ((1, n_pitches), (0, n_times)):
                turn = image.sum(axis) @ np.exp(2j * np.pi * np.arange(size) / size)
                steps.append(round(size / 2 - np.angle(turn) / (2 * np.pi) * size))
            moved.append(np.roll(image, steps, (0, 1)).ravel())
        return np.array(moved)

    return data._replace(x_train=centred(data.x_train), x_test=centred(data.x_test))


if __name__ == "__main__":
    main()
