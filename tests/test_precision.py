"""Settings of torch: ours while we compute, the caller's again afterwards."""

import threading

import pytest
import torch

from skqlvm.engine import networks
from skqlvm.engine.precision import full_precision, own_settings, product_of_rounded


@pytest.fixture
def medium():
    """A process that prefers coarse products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_full_precision_is_set_inside_and_restored(medium):
    with full_precision(), full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "medium"


def test_threads_that_come_and_go_leave_the_setting_of_the_process(medium):
    seen = set()

    def come_and_go():
        for _ in range(301):
            with full_precision():
                seen.add(torch.get_float32_matmul_precision())

    threads = [threading.Thread(target=come_and_go) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
)
def test_own_settings_hold_in_any_context_and_end(context, gradients):
    with context():
        before = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        with own_settings(gradients=gradients):
            w = torch.ones(3, 3, requires_grad=True)
            product = w @ w
            assert product.dtype == torch.float32
            assert product.requires_grad == gradients
            assert not product.is_inference()
        assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == before
    assert torch.is_grad_enabled()


def test_rounded_layers_see_weights_that_change_within_own_settings():
    """Autocast keeps rounded weights until the outermost autocast ends."""
    layers = networks.Layers(torch.nn.Linear(3, 2))
    networks.allow_bfloat16(layers, True)
    x = torch.ones(5, 3)
    with own_settings(gradients=True):
        first = layers(x)
        with torch.no_grad():
            layers[0].weight.mul_(2)
            layers[0].bias.mul_(2)
        torch.testing.assert_close(layers(x), 2 * first)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_product_of_rounded_matrices_is_nearly_exact(scale, generator):
    """Against float64; a single product is rounded by 2^-9."""
    a = torch.rand(7, 211, generator=generator).bfloat16()
    b = (scale * torch.randn(13, 211, generator=generator)).bfloat16()
    exact = a.double() @ b.double().T
    found = product_of_rounded(a, b)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 2**-16 * exact.abs().max()
    assert ((a @ b.T) - exact).abs().max() > 2**-12 * exact.abs().max()
