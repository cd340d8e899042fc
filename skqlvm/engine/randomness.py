"""Random numbers of modules that draw from torch's global generators, as dropout does.

What the package draws itself comes from generators that are passed. A module of somebody else's may
know the global ones only: it then runs inside a `Stream`, which lends it a state of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_lock = threading.RLock()


class Stream:
    """A sequence of random numbers for what draws from torch's global generators.

    Parameters
    ----------
    seed : int
    device : torch.device
        Whose generator is lent too, if it has one.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.states = [
            torch.Generator(where).manual_seed(seed).get_state() for where in self._where
        ]

    @property
    def _where(self) -> list[torch.device]:
        devices = [torch.device("cpu")]
        return [*devices, self.device] if self.device.type == "cuda" else devices

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give this stream to the global generators, one thread at a time, and restore theirs."""
        with _lock:
            before = _global_states(self._where)
            _set_global_states(self._where, self.states)
            try:
                yield
            finally:
                self.states = _global_states(self._where)
                _set_global_states(self._where, before)

    def is_drawn_by(self, function: Any, *arguments: Any) -> bool:
        """Call a function of tensors, and return whether it took numbers from the stream."""
        before = self.states
        with self.lent():
            function(*arguments)
        return not all(map(torch.equal, before, self.states))


def _global_states(devices: list[torch.device]) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states + [torch.cuda.get_rng_state(device) for device in devices[1:]]


def _set_global_states(devices: list[torch.device], states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices[1:], states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)
