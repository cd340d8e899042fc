"""How many points are affordable: what autograd keeps, by models whose graphs can be counted."""

import pytest
import torch

from skqlvm.engine.memory import affordable_points, is_available

N_ROWS, N_FEATURES = 7, 5


def table_of(x, weight):
    """Points through one layer: it keeps the activations (m, d), and of rows by points nothing."""
    return lambda z: x @ torch.tanh(z @ weight).T


@pytest.fixture
def table(generator):
    x = torch.randn(N_ROWS, N_FEATURES, generator=generator)
    return table_of(x, torch.randn(2, N_FEATURES, generator=generator, requires_grad=True))


@pytest.mark.parametrize("n_points", [1, 3, 1000])
def test_points_are_as_many_as_their_activations_leave_room_for(table, n_points, generator):
    points = torch.rand(n_points, 2, generator=generator)
    kept = 4 * (N_FEATURES + 2)  # tanh's result, and the points that meet the weight
    for affordable in (1, 2, 50):
        assert affordable_points(table, points, affordable * kept) == affordable
        assert affordable_points(table, points, (affordable + 1) * kept - 1) == affordable


def test_memory_is_available_within_reason(device):
    """2^60 bytes exceed what a process can address, and 2^90 what a number of bytes may be."""
    sizes = (1, 2**20, 2**60, 2**90)
    found = [is_available(n_bytes, torch.device(device)) for n_bytes in sizes]
    assert found == [True, True, False, False]


def test_one_point_is_always_affordable(table):
    assert affordable_points(table, torch.rand(9, 2), 0) == 1


def test_what_many_points_share_costs_once():
    big = torch.randn(1000, 1000, requires_grad=True)

    def table(z):
        return (z @ big[:2]) @ big[:, :3]

    per_point = 4 * (2 + 1000)
    assert affordable_points(table, torch.rand(500, 2), 100 * per_point) == 100


def test_affordable_points_keep_no_graph_and_no_gradient(table):
    weight = torch.randn(2, N_FEATURES, requires_grad=True)
    affordable_points(table_of(torch.randn(3, N_FEATURES), weight), torch.rand(9, 2), 1000)
    assert weight.grad is None
