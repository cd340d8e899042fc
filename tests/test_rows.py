"""Rows of an array as batches, and an array in chunks: the rows themselves, in their order."""

import numpy as np
import pytest
import torch

from skqlvm._rows import Chunks, Rows


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(11, 3))


@pytest.fixture(params=["array", "memory map", "read-only"])
def source(request, X, tmp_path):
    if request.param == "memory map":
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")
    X.flags.writeable = request.param == "array"
    return X


def test_batches_have_the_rows_asked_for_in_their_order(source, X, device):
    rows = Rows(source, torch.device(device))
    for numbers in ([7, 2, 9, 0], [4, 4, 3], [10], []):
        index = torch.tensor(numbers, dtype=torch.int64)
        batch = rows.batch(index)
        assert batch.x.device.type == torch.device(device).type
        np.testing.assert_array_equal(batch.x.cpu().numpy(), X[numbers])
        assert torch.equal(batch.index, index)


def test_batches_do_not_share_memory_with_the_array(X):
    Rows(X, torch.device("cpu")).batch(torch.arange(3)).x.zero_()
    assert X.all()


def test_views_of_a_memory_map_are_read_forwards(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped, device = np.load(tmp_path / "X.npy", mmap_mode="r"), torch.device("cpu")
    assert all(Rows(view, device).mapped for view in (mapped, np.asarray(mapped), mapped[2:].T))
    assert not any(Rows(view, device).mapped for view in (X, X[2:].T))


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_chunks_are_all_rows_in_their_order_as_often_as_asked(size, source, X, device):
    chunks = Chunks(source, torch.device(device), size)
    for _ in range(2):
        parts = [chunk.cpu().numpy() for chunk in chunks]
        assert [len(part) for part in parts[:-1]] == (len(parts) - 1) * [size]
        np.testing.assert_array_equal(np.concatenate(parts), X)
