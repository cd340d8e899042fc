"""Optimisers and schedules, against those of torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skqlvm.engine import optimizers


@given(n_steps=st.integers(1, 97), learning_rate=st.floats(1e-5, 1))
def test_one_cycle_is_that_of_torch(n_steps, learning_rate):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    library = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=n_steps + 1)
    ours = optimizers.one_cycle(learning_rate, n_steps)
    for step in range(n_steps):
        group, settings = optimizer.param_groups[0], ours(step)
        assert settings["lr"] == pytest.approx(group["lr"], rel=1e-12)
        assert settings["betas"] == pytest.approx(group["betas"], rel=1e-12)
        optimizer.step()
        library.step()


@pytest.mark.parametrize(("n_steps", "n_warming"), [(1, 0), (7, 2), (10, 0), (50, 49)])
def test_warmed_cosine_rises_on_a_line_and_falls_as_that_of_torch(n_steps, n_warming):
    schedule = optimizers.warmed_cosine(0.2, n_steps, n_warming, 0.01)
    rates = [schedule(step)["lr"] for step in range(n_steps)]
    rising = [0.2 * (step + 1) / (n_warming + 1) for step in range(n_warming)]
    assert rates[:n_warming] == pytest.approx(rising)
    falling = rates[n_warming:]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.2)
    library = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(1, len(falling) - 1), eta_min=0.002
    )
    for rate in falling:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        library.step()


def test_adamax_steps_as_far_as_its_step_size():
    """Its first step, whatever the gradient."""
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = optimizers.adamax({"weight": weight})
    optimizer.param_groups[0].update(optimizers.constant(0.25)(0))
    weight.grad = torch.tensor([10.0, 0.1])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([1.75, -3.25]))


def test_adam_steps_by_what_its_groups_are_set_to():
    """The first step of Adam is as long as its step size, and at first that is none."""
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = optimizers.adam({"weight": weight})
    for lr, expected in ((0.0, [2.0, -3.0]), (0.25, [1.75, -3.25])):
        optimizer.param_groups[0].update(optimizers.constant(lr)(0))
        weight.grad = torch.tensor([10.0, 0.1])
        optimizer.step()
        torch.testing.assert_close(weight.detach(), torch.tensor(expected))


def test_decay_shrinks_matrices_by_the_square_of_the_step_size():
    """Without gradients to speak of, by a loop; biases and the noise stay."""
    matrix, bias, scalar = (nn.Parameter(torch.ones(shape)) for shape in ((3, 2), (2,), ()))
    optimizer = optimizers.adam_with_decay({"matrix": matrix, "bias": bias, "scalar": scalar})
    expected = 1.0
    for lr in (0.01, 0.004, 0.0):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter in (matrix, bias, scalar):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        expected *= 1 - optimizers._DECAY * lr**2
        torch.testing.assert_close(matrix.detach(), torch.full((3, 2), expected))
    assert torch.equal(bias.detach(), torch.ones(2))
    assert scalar.item() == 1
