"""Options, profiles and fixtures of all tests."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("skqlvm", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skqlvm")


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="torch device to run the tests of the engine and the estimators on (cpu)")


@pytest.fixture(scope="session")
def device(request):
    """The torch device that --device names; its tests are skipped where torch has no such device."""
    name = request.config.getoption("--device")
    try:
        torch.empty(1, device=name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        pytest.skip(f"--device={name} is not available to this torch: {str(error).splitlines()[0]}")
    return name


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """Small products are not worth more than two threads."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def generator():
    """A seeded generator on the processor."""
    return torch.Generator().manual_seed(0)
