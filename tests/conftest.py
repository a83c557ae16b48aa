import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
os.environ.setdefault("MPLBACKEND", "agg")  # no windows
if "PYTEST_XDIST_WORKER" in os.environ:  # each core has its tests: what these start would take the others' too
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's own use of it


SMOKE = ("test_triton_kernels.py", "test_triton_descent.py", "test_triton_autograd.py", "test_cuda.py")
"""Whose tests on a GPU tell within minutes whether its kernels are right: the marker ``cuda_smoke``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-card", action="store_true", help="compile for every GPU and size; takes half an hour")
    parser.addoption(
        "--every-fault",
        action="store_true",
        help="each fault as often as benchmarks/results/faults.md says, and write it",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("pytest -m cuda needs a CUDA GPU, and torch.cuda.is_available() is False")
    pages = [name for name in ("contract_page", "every_fault") if config.getoption(name, None)]
    if pages and config.getoption("numprocesses", None):
        raise pytest.UsageError(f"--{pages[0].replace('_', '-')} writes what one process has seen: leave out -n")
    # The problems are small: several threads would only wait for each other, for long where cores are few and busy.
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda"):
            if item.path.name in SMOKE and _dtype_of(item) == torch.float32:
                item.add_marker("cuda_smoke")
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
        if item.get_closest_marker("every_card") and not config.getoption("every_card", False):
            item.add_marker(pytest.mark.skip(reason="takes --every-card"))


def _dtype_of(item: pytest.Item) -> torch.dtype:
    """What a test is given as ``dtype``, or else float32."""
    return (
        item.callspec.params.get("dtype", torch.float32)
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else torch.float32
    )


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


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The CPU kernel with any number of threads, also where there is little to do."""
    from twolayer.kernels import cpu

    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
