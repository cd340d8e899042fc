"""Coordinates in turns: wrapping, the shortest way, circles."""

from math import tau

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skqlvm.engine import torus

turns = st.floats(-1e6, 1e6)


@given(turns)
def test_wrapped_turns_lie_in_the_unit_interval_at_the_same_angle(z):
    wrapped = torus.wrap(torch.tensor(z, dtype=torch.float64))
    assert 0 <= wrapped < 1
    assert (z - float(wrapped)) == pytest.approx(round(z - float(wrapped)), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_turns_just_below_a_whole_number_do_not_become_one(dtype):
    z = torch.tensor([-1e-30, -1e-18, 1.0, 2.0, -3.0], dtype=dtype)
    assert torus.wrap(z).tolist() == [0.0] * 5


@given(st.lists(st.tuples(turns, turns), min_size=1, max_size=5))
def test_difference_is_the_shortest_of_all_ways(pairs):
    a, b = torch.tensor(pairs, dtype=torch.float64).T
    steps = torus.difference(a, b)
    assert (steps.abs() <= 0.5).all()
    ways = (a - b) - (a - b).round() + torch.arange(-2.0, 3.0)[:, None]
    torch.testing.assert_close(steps.abs(), ways.abs().amin(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(torus.wrap(b + steps - a + 0.5), torch.full_like(a, 0.5))


def test_difference_has_the_derivative_of_a_difference():
    a = torch.tensor([0.9, 0.2], requires_grad=True)
    torus.difference(a, torch.tensor([0.1, 0.1])).sum().backward()
    assert a.grad.tolist() == [1.0, 1.0]


@given(st.lists(st.tuples(turns, turns, turns), min_size=1, max_size=5))
def test_circles_and_turns_are_inverses(rows):
    z = torch.tensor(rows, dtype=torch.float64)
    circle = torus.to_circle(z)
    expected = [[f(tau * v) for f in (torch.cos, torch.sin) for v in row] for row in z]
    torch.testing.assert_close(circle, torch.tensor(expected, dtype=torch.float64))
    back = torus.difference(torus.from_circle(3 * circle), z)
    torch.testing.assert_close(back, torch.zeros_like(z), rtol=0, atol=1e-9)


def test_no_direction_is_finite():
    assert torus.from_circle(torch.zeros(2, 6)).isfinite().all()
