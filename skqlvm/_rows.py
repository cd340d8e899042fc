"""From rows of an array to batches on a device, and back; devices and seeds."""

import warnings

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import check_random_state

from .engine.models import Batch

_RESIDENT_BYTES = 2**32
"""Training data up to this size is kept on an accelerator; larger data travels batch by batch."""


class Rows:
    """Rows of a NumPy array, in memory or memory-mapped, as batches on a device.

    Parameters
    ----------
    X : ndarray or CSR array of shape (n_samples, n_features)
    device : torch.device
    weight : ndarray of shape (n_samples,), optional
        How often each row counts.
    """

    def __init__(self, X, device, weight=None):
        self.X, self.device, self.mapped = X, device, _is_mapped(X)
        self.weight = None if weight is None else torch.from_numpy(weight)
        dense = not issparse(X)
        fits = dense and device.type != "cpu" and X.nbytes <= _RESIDENT_BYTES
        self.resident = as_tensor(X, device) if fits else None

    def batch(self, index):
        """Return the rows of an integer tensor, in its order; a file is read forwards."""
        weight = None if self.weight is None else self.weight[index].to(self.device)
        if self.resident is not None:
            return Batch(self.resident[index.to(self.device)], index, weight)
        if issparse(self.X):
            return Batch(as_tensor(self.X[index.numpy()], self.device), index, weight)
        if not self.mapped:
            x = torch.from_numpy(self.X[index.numpy()])
            return Batch(x.to(self.device), index, weight)
        order = index.argsort()
        forwards = torch.from_numpy(self.X[index[order].numpy()])
        x = torch.empty_like(forwards)
        x[order] = forwards
        return Batch(x.to(self.device), index, weight)


def _is_mapped(X):
    """Whether an array is a memory map, or a view of one."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    return X is not None


class Chunks:
    """Consecutive rows of an array as tensors on a device, some at a time.

    They can be gone through more than once.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    device : torch.device
    size : int
        Rows a chunk.
    """

    def __init__(self, X, device, size):
        self.X, self.device, self.size = X, device, size

    def __iter__(self):
        for start in range(0, self.X.shape[0], self.size):
            yield as_tensor(self.X[start : start + self.size], self.device)


def as_tensor(X, device):
    """Return an array as a tensor on a device; copied if read-only or of strides torch rejects.

    Of a sparse array in CSR format, it is one of torch's.
    """
    if not issparse(X):
        return torch.from_numpy(np.require(X, requirements=["C", "A", "W"])).to(device)
    parts = [as_tensor(part, device) for part in (X.indptr, X.indices, X.data)]
    with warnings.catch_warnings():  # torch calls its sparse tensors a beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(*parts, size=X.shape)


def resolve_device(device):
    """Return the torch device that a parameter names; "auto" is a GPU if there is one."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, dtype=torch.float64, device=resolved).item()
    except (RuntimeError, TypeError, ValueError, AssertionError, OverflowError) as error:
        available = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device expects one that is available here, such as {available}, but got {device!r}."
        ) from error
    return resolved


def random_seed(random_state):
    """Draw a seed for torch from a scikit-learn random state.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        raise ValueError(
            "random_state expects None, a RandomState or an integer from 0 to 2**32 - 1, but got "
            f"{random_state!r}."
        ) from error
