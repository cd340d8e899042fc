"""What the benchmarks share: arguments, data, clocks, peak memory, and the form of a result.

A benchmark prints one JSON line a measurement, then a table for people. A JSON line has the keys
name, parameters, value (the median of `values`, one a repeat), unit, versions, device, repeats and
spread (largest minus smallest value; null of a single one).

Nothing here imports torch at the top, so that a process that only starts others stays small.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

READOUTS = ("local", "mean", "mode", "moments")
"""What `transform` of a QLVM can read off the posterior: three maps in two dimensions, and the
means of many harmonics."""

_DISTRIBUTIONS = {
    "torch": "torch",
    "sklearn": "scikit-learn",
    "skqlvm": "skqlvm",
    "numpy": "numpy",
    "umap": "umap-learn",
}
_SAMPLING_SECONDS = 0.002

warnings.filterwarnings("ignore", "Training ended after")  # short fits are meant to be short


class Images(NamedTuple):
    """Digits as float32 rows in [0, 1]."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def parser(description, seeds=(0,)):
    """Return the argument parser that all benchmarks share."""
    result = argparse.ArgumentParser(
        description=description.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument(
        "--quick",
        action="store_true",
        help="a few seconds on tiny sizes of bundled data, to see that it runs",
    )
    result.add_argument(
        "--device", default="cpu", help="torch device of QLVM; contenders run on the processor"
    )
    result.add_argument(
        "--seed",
        "--seeds",
        dest="seeds",
        type=int,
        nargs="+",
        default=list(seeds),
        help="one or several random states",
    )
    result.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("SKQLVM_DATA"),
        help="folder of mnist_*_10k.npz; bundled digits without it",
    )
    result.add_argument("--out", type=Path, help="file to append the JSON lines to")
    return result


class Report:
    """Where results go: JSON lines at once, tables when they are complete."""

    def __init__(self, arguments, data=None):
        self.out = arguments.out
        self.shared = {"quick": arguments.quick, "seeds": arguments.seeds} | (
            {} if data is None else {"data": data}
        )
        self.versions, self.device = versions(), describe(arguments.device)

    def add(self, name, values, unit, **parameters):
        """Print a measurement, a number or a list of repeats, and return its median."""
        values = [float(value) for value in np.atleast_1d(values)]
        record = {
            "name": name,
            "parameters": parameters | self.shared,
            "value": statistics.median(values),
            "unit": unit,
            "versions": self.versions,
            "device": self.device,
            "repeats": len(values),
            "spread": max(values) - min(values) if len(values) > 1 else None,
            "values": values,
        }
        line = json.dumps(record)
        print(line, flush=True)
        if self.out is not None:
            with self.out.open("a") as file:
                file.write(line + "\n")
        return record["value"]


def print_table(title, header, rows):
    """Print a table of text, the first column to the left and the others to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())


def restructured(header, rows):
    """Return a simple table of reStructuredText."""
    rows = [[str(cell) or "\\" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def versions():
    """Return the versions of Python and of the packages that are here."""
    found = {"python": platform.python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(distribution)
    return found


def describe(device):
    """Return a device in words: a GPU's name; or a processor's, its threads and its units for
    low-precision products."""
    if str(device).startswith("cuda"):
        import torch

        return f"{device}: {torch.cuda.get_device_name(device)}"
    name, units = platform.processor() or platform.machine(), []
    with suppress(OSError):
        fields = dict(
            line.split(":", 1)
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        )
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name = fields.get("model name", name)
        units = [
            flag
            for flag in ("avx512f", "avx512_bf16", "amx_bf16")
            if flag in fields.get("flags", "").split()
        ]
    n_threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    return f"{device}: {name}, {n_threads} threads, {' '.join(units) or 'no AVX-512'}"


def multiplies_bfloat16(device):
    """Whether a device, in the words of `describe`, has units for products of bfloat16."""
    return "bf16" in device or device.startswith("cuda")


def images_name(arguments):
    """Return the name of what `load_images` returns."""
    return (
        "digits"
        if arguments.data is None or arguments.quick
        else getattr(arguments, "images", "mnist-10k")
    )


def load_images(arguments):
    """Return MNIST-10k or Omniglot from the data folder, or else the bundled digits; a few hundred
    of these if quick."""
    name = images_name(arguments)
    if name == "omniglot":
        return _omniglot(Path(arguments.data) / "omniglot_small1_28.npz")
    if name == "mnist-10k":
        (x_train, y_train), (x_test, y_test) = (
            _mnist(Path(arguments.data) / f"mnist_{part}_10k.npz") for part in ("train", "test")
        )
        return Images(name, x_train, y_train, x_test, y_test)
    x_train, x_test, y_train, y_test = split_digits(0)
    n_train, n_test = (400, 200) if arguments.quick else (len(x_train), len(x_test))
    return Images(
        name, x_train[:n_train] / 16, y_train[:n_train], x_test[:n_test] / 16, y_test[:n_test]
    )


def _mnist(path):
    with np.load(path) as file:
        images, labels = file["images"], file["labels"]
    return images.reshape(len(images), -1).astype(np.float32) / 255, labels.astype(int)


def _omniglot(path):
    """Five alphabets, labelled by character; of the 20 drawings of each, 4 are for testing."""
    from sklearn.model_selection import train_test_split

    with np.load(path) as file:
        images, characters = file["images"], np.unique(file["character"], return_inverse=True)[1]
    x = images.reshape(len(images), -1).astype(np.float32) / 255
    x_train, x_test, y_train, y_test = train_test_split(
        x, characters, test_size=0.2, random_state=0, stratify=characters
    )
    return Images("omniglot", x_train, y_train, x_test, y_test)


def split_digits(seed):
    """Return the bundled digits, float32 grey levels from 0 to 16, split 70 to 30."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    return train_test_split(x.astype(np.float32), y, test_size=0.3, random_state=seed, stratify=y)


def rows_of_784(arguments, n_rows, part="train"):
    """Return images as float32 of shape (n_rows, 784), MNIST or enlarged bundled digits, repeated
    if there are too few."""
    data = load_images(arguments)
    x = data.x_train if part == "train" else data.x_test
    if x.shape[1] == 64:
        x = np.pad(
            np.kron(x.reshape(-1, 8, 8), np.ones((1, 3, 3), np.float32)), ((0, 0), (2, 2), (2, 2))
        ).reshape(-1, 784)
    return x[np.arange(n_rows) % len(x)]


def moved(images, rng):
    """Return images (n, height, width) rolled by -1, 0 or 1 pixels in each direction, by chance."""
    moves, result = rng.integers(-1, 2, size=(len(images), 2)), images.copy()
    for move in np.unique(moves, axis=0):
        same = (moves == move).all(1)
        result[same] = np.roll(images[same], move, axis=(1, 2))
    return result


def synchronise(device):
    """Wait for a GPU, so that a clock means something."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def timed(function, *args, device="cpu"):
    """Call a function; return its result and the seconds it took."""
    start = time.perf_counter()
    result = function(*args)
    synchronise(device)
    return result, time.perf_counter() - start


def alternate(contenders, repeats, device="cpu"):
    """Time contenders, a dict of functions without arguments, in turn; return a dict of lists of
    seconds."""
    seconds = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, function in contenders.items():
            seconds[name].append(timed(function, device=device)[1])
    return seconds


def umap_class(arguments):
    """Return UMAP, or None with a line that says why; on as many threads as torch.

    Left to itself, numba starts a thread for each core whatever OMP_NUM_THREADS says, and its first
    parallel call gives torch as many: whatever is timed after it would run otherwise than before
    (see bench_threads.py)."""
    if arguments.quick:
        print(
            "UMAP is skipped: under --quick, it would compile for longer than all the rest takes.",
            file=sys.stderr,
        )
        return None
    import torch

    os.environ.setdefault("NUMBA_NUM_THREADS", str(torch.get_num_threads()))
    try:
        from umap import UMAP
    except ImportError:
        print("UMAP is skipped: it is not installed (pip install umap-learn).", file=sys.stderr)
        return None
    return UMAP


def neighbour_accuracy(map_train, y_train, map_test, y_test):
    """Return the accuracy of a 10-neighbour classifier fitted on one map and scored on the
    other."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(10).fit(map_train, y_train).score(map_test, y_test)


def euclidean_map(model, readout, x):
    """Return where a fitted QLVM puts rows by one of `READOUTS`, with turns mapped to circles, for
    Euclidean distances."""
    before = {name: model.get_params()[name] for name in ("embedding", "output")}
    moments = readout == "moments"
    chosen = {"output": "moments"} if moments else {"output": "cartesian", "embedding": readout}
    result = model.set_params(**chosen).transform(x)
    model.set_params(**before)
    return result


def _status():
    """Memory of this process now, in bytes: VmRSS, VmHWM (its peak) and RssAnon, where /proc has
    them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split(":", 1) for line in lines)
    return {
        key: int(value.split()[0]) * 1024
        for key, value in fields
        if key in ("VmRSS", "VmHWM", "RssAnon")
    }


class PeakMemory:
    """Context that measures peak memory within it; use it in a fresh process.

    ``ru_maxrss`` alone will not do: a process inherits its parent's, and pages of a mapped file
    count in it. So the peak of resident memory is VmHWM, set back on entry, and that of anonymous
    memory is sampled by a thread every 2 ms. Without /proc, both are ``ru_maxrss``. Memory that was
    freed but not yet returned to the system is returned first, so that using it again counts.

    Attributes
    ----------
    resident_bytes, anonymous_bytes : int
        The peaks.
    resident_added_bytes, anonymous_added_bytes : int
        The same less what was there on entry.
    """

    def __enter__(self):
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.before = _status()
        self.anonymous_bytes = self.before.get("RssAnon", 0)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        if self.before:
            self.thread.start()
        else:
            self.before = dict.fromkeys(("VmRSS", "RssAnon"), _ru_maxrss_bytes())
        return self

    def _sample(self):
        while not self.stopping.wait(_SAMPLING_SECONDS):
            self.anonymous_bytes = max(self.anonymous_bytes, _status()["RssAnon"])

    def __exit__(self, *exception):
        self.stopping.set()
        if self.thread.ident is not None:
            self.thread.join()
            self.resident_bytes = _status()["VmHWM"]
        else:
            self.resident_bytes = self.anonymous_bytes = _ru_maxrss_bytes()
        self.resident_added_bytes = self.resident_bytes - self.before["VmRSS"]
        self.anonymous_added_bytes = self.anonymous_bytes - self.before["RssAnon"]


def _ru_maxrss_bytes():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def fresh_process(function, environment=None, **parameters):
    """Call a function of a benchmark in a new interpreter, with other variables of the environment
    if given; parameters and result travel as JSON."""
    module = function.__module__
    if module == "__main__":
        module = Path(sys.modules["__main__"].__file__).stem
    code = (
        f"import json, sys, {module}; "
        f"print(json.dumps({module}.{function.__name__}(**json.loads(sys.argv[1]))))"
    )
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(parameters)],
        env=(os.environ if environment is None else environment)
        | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
