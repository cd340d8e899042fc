"""The precision of matrix products, which torch keeps as one global setting: set for a while, and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set the precision of the inputs of float32 matrix products, and restore what the caller had.

    "highest" leaves them alone; "high" may round them to TF32 and "medium" to bfloat16, where the processor multiplies those faster. Sums
    and results are float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
