"""The precision of matrix products, which torch keeps as one global setting: set for a while, and
restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set the precision of the inputs of float32 matrix products, and restore what the caller had.

    "highest" leaves them alone; "high" may round them to TF32 and "medium" to bfloat16, where the
    processor multiplies those faster. Sums and results are float32. The setting is global: threads
    that change it at the same time may leave each other's behind."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bfloat16_layers(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which layers run in bfloat16, if the precision in force is "medium" and
    the device multiplies it natively.

    Autocasting: products sum in float32, and each layer's result is rounded. For the layers of a
    decoder only, never for positions or log-likelihoods."""
    if torch.get_float32_matmul_precision() == "medium" and _multiplies_bfloat16(device.type):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@cache
def _multiplies_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device_type == "cpu" and bool(supported())
