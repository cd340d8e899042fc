"""Between NumPy and torch: batches of rows, devices, seeds."""

from contextlib import contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state

_RESIDENT_BYTES = 2**32
"""Training data up to this size is kept on an accelerator; larger data travels batch by batch."""


class Rows:
    """Rows of a NumPy array, in memory or memory-mapped, as tensors on a device."""

    def __init__(self, X, device):
        self.X, self.device = X, device
        fits = device.type != "cpu" and X.nbytes <= _RESIDENT_BYTES
        self.resident = as_tensor(X, device) if fits else None

    def __getitem__(self, rows):
        """Return the rows of an integer tensor in rising order, so that a file is read forwards."""
        if self.resident is not None:
            return self.resident[rows.to(self.device)]
        return torch.from_numpy(self.X[np.sort(rows.numpy())]).to(self.device)


def as_tensor(X, device):
    """Return an array as a tensor on a device; copied if it is read-only or has strides that torch
    cannot take."""
    return torch.from_numpy(np.require(X, requirements=["C", "A", "W"])).to(device)


def resolve_device(device):
    """Return the torch device that a parameter names; "auto" is a GPU if there is one, else the
    processor."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, dtype=torch.float64, device=resolved).item()
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        available = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device expects one that is available here, such as {available}, but got {device!r}."
        ) from error
    return resolved


def random_seed(random_state):
    """Draw a seed for torch from a scikit-learn random state."""
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def seeded(seed, device):
    """Seed torch's global generators for what draws from them (initialisation, dropout), and
    restore them."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
