import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("pytest -m cuda needs a CUDA GPU, and torch.cuda.is_available() is False")
    # The problems are small: several threads would only wait for each other, for long where cores are few and busy.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn; the tests for CUDA are skipped where there is none."""
    return request.param
