import os
from typing import Any

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


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Where Triton's kernels run: the GPU, or the CPU in Triton's interpreter where there is no GPU."""
    if request.param == "cpu" and torch.cuda.is_available():
        pytest.skip("the kernels are compiled for the GPU here, not interpreted")
    return request.param


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write of its buffers is NaN."""
    new_empty = torch.Tensor.new_empty

    def new_nan(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        V = new_empty(self, *args, **options)
        return V.fill_(torch.nan) if V.is_floating_point() else V

    monkeypatch.setattr(torch.Tensor, "new_empty", new_nan)
