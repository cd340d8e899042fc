"""Options, profiles and fixtures of all tests."""

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.overrides import TorchFunctionMode

settings.register_profile(
    "skqlvm",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("skqlvm")


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        default="cpu",
        help="torch device to run the tests of the engine and the estimators on (cpu)",
    )


def pytest_configure(config):
    """Small products are not worth a second thread, and cost dearly where other work keeps the
    processor busy."""
    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """Modules initialise themselves from torch's global generator: the same in every run, and in
    every order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device(request):
    """The torch device that --device names; its tests are skipped where torch has no such
    device."""
    name = request.config.getoption("--device")
    try:
        torch.empty(1, device=name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        pytest.skip(f"--device={name} is not available to this torch: {str(error).splitlines()[0]}")
    return name


@pytest.fixture
def generator():
    """A seeded generator on the processor."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def coarse():
    """Products that a process lets round their inputs, as a user may have set before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision(before)


class _Products(TorchFunctionMode):
    """Notes the precision that each matrix product is asked for, while it is entered."""

    names = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum"}

    def __init__(self):
        super().__init__()
        self.precisions = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if getattr(function, "__name__", None) in self.names:
            self.precisions.append(torch.get_float32_matmul_precision())
        return function(*arguments, **(keywords or {}))


@pytest.fixture
def products(coarse):
    """A context whose `precisions` are those of the matrix products inside, where the process has
    set a coarse one: it shows also on machines that never round."""
    return _Products()
