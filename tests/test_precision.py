"""The precision of matrix products is set for a while only."""

import pytest
import torch

from skqlvm.engine.precision import matmul_precision


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matmul_precision_is_set_inside_and_restored(precision):
    with matmul_precision("high"):
        with matmul_precision(precision):
            assert torch.get_float32_matmul_precision() == precision
        assert torch.get_float32_matmul_precision() == "high"


def test_matmul_precision_is_restored_after_an_exception():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmul_precision("medium"):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
