"""Settings that torch keeps for a whole process or thread: ours while we compute, restored after.

Matrix products are in full precision wherever the package computes. What may be coarser, the layers
of a network that is being trained, says so itself: see `networks.Layers`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor

_lock = threading.Lock()
_entered = 0
_before = "highest"


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 matrix products from rounding their inputs.

    The setting is one for the process. Threads that are inside at the same time want the same: the
    first one in sets it, and the last one out restores what the process had.
    """
    global _entered, _before
    with _lock:
        if _entered == 0:
            _before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0:
                torch.set_float32_matmul_precision(_before)


@contextmanager
def own_settings(*, gradients: bool) -> Iterator[None]:
    """Compute with gradients or without, and in full precision, in whatever context the caller is.

    That may be autocasting, ``no_grad`` or ``inference_mode``; they are in force again afterwards.
    """
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        for device_type in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def bfloat16(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which layers run in bfloat16, if the device multiplies it natively.

    Products sum in float32, and the result of each layer is rounded. For the layers of a network
    only, never for positions or log-likelihoods.
    """
    if multiplies_bfloat16(device):
        # without the cache of rounded weights: it would outlive the steps that change them, as long
        # as an outer autocast is open
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return nullcontext()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively."""
    return _natively(device.type)


@cache
def _natively(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device_type == "cpu" and bool(supported())


def product_of_rounded(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T`` of bfloat16 matrices (n, d) and (m, d) in float32.

    A product's sums are of float32, but its result is rounded. A second product gives what the
    first one missed by that, itself rounded: the error is 2^-18 of a value or so.
    """
    rounded = a @ b.T
    missed = torch.addmm(rounded, a, b.T, beta=-1)
    return rounded.float().add_(missed)
