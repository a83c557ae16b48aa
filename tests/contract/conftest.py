"""Fixtures of the contract's tests, and the option that writes their page: ``--contract-page docs/contract.md``."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import Problem, assert_equal, problem
from torch import Tensor
from torch.utils._pytree import tree_leaves

from twolayer.functional import BACKWARDS, cpu_level, kernel_for
from twolayer.kernels import gpu

from .models import Ours, Theirs
from .page import Cell, Location, Outcome, cell_of, location_of, outcome_of, written

cells: pytest.StashKey[dict[Cell, list[Outcome]]] = pytest.StashKey()
locations: pytest.StashKey[dict[Cell, Location]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract-page", type=Path, help="write the outcomes of the contract's tests to this page")
    parser.addoption("--contract-cells", action="store_true", help="print each cell of that page, with its link")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Notes every cell that there is, also those of tests that are then deselected."""
    config.stash[cells], config.stash[locations] = {}, {}
    for item in items:
        if (cell := cell_of(item)) is not None:
            config.stash[locations].setdefault(cell, location_of(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    cell, outcome = cell_of(item), outcome_of(report)
    if cell is not None and outcome is not None:
        item.config.stash[cells].setdefault(cell, []).append(outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    # pytest knows the options only where this folder is named on its command line.
    stash, option = session.config.stash, session.config.getoption
    if option("contract_cells", False):
        for cell, location in stash[locations].items():
            print(*cell, location.link, sep="\t")
    path = option("contract_page", None)
    if path is not None:
        missing = [cell for cell in stash[locations] if cell not in stash[cells]]
        if missing:
            raise pytest.UsageError(f"the page shows the whole contract, but nothing ran for {missing}")
        path.write_text(written(stash[cells], stash[locations]), encoding="utf-8")


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """What one test compiles does not count for the next: Dynamo compiles the same code only eight times."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(params=BACKWARDS)
def backward(request: pytest.FixtureRequest) -> str:
    """Each backward mode in turn: a column of the page."""
    return request.param


@pytest.fixture(
    params=[("tanh", "multiclass"), ("sigmoid", "binary"), ("relu", "regression"), ("leaky_relu", "multilabel")],
    ids="-".join,
)
def example(request: pytest.FixtureRequest, device: str) -> Problem:
    """Every activation and every task once, in float64, with soft targets, that have a gradient too."""
    return problem(*request.param, soft=True, device=device)


@pytest.fixture
def one_example(device: str) -> Problem:
    """One problem in float64, where every activation and task would take too long: it has curvature everywhere."""
    return problem("tanh", "multiclass", soft=True, device=device)


Computation = Callable[[Ours | Theirs, Tensor, Tensor], Any]


IN_FLOAT32 = 2e-5
"""Some hundred roundings of float32, relative to the largest entry: those of three derivatives of seven examples."""


def _comparison(example: Problem, backward: str) -> Callable[..., None]:
    def compare(
        compute: Computation, truth: Computation | None = None, tolerance: float = 1e-12, float32: bool = True
    ) -> None:
        ours = tree_leaves(compute(Ours(example, backward), example.X.clone(), example.Y.clone()))
        theirs = tree_leaves((truth or compute)(Theirs(example), example.X.clone(), example.Y.clone()))
        assert any(V.abs().max() > 0.01 for V in theirs), "compares nothing"
        assert_equal(ours, theirs, tolerance)
        kernel = kernel_in_float32(example.X.device)
        if float32 and kernel is not None:
            single = in_float32(example)
            X, Y, W1, W2 = single.X, single.Y, single.W1, single.W2
            assert kernel_for(X, Y, W1, W2, activation=single.activation) == kernel
            ours = tree_leaves(compute(Ours(single, backward, chunks=False), X.clone(), Y.clone()))
            assert_equal(ours, theirs, IN_FLOAT32)

    return compare


def kernel_in_float32(device: torch.device) -> str | None:
    """The compiled kernel that takes the examples there, once they are in float32."""
    if device.type == "cuda":
        return "triton_narrow" if gpu.triton_is_installed() else None
    return "cpu" if cpu_level() is not None else None


def in_float32(example: Problem) -> Problem:
    tensors = {name: V.float() for name, V in vars(example).items() if isinstance(V, Tensor)}
    return replace(example, **tensors)


@pytest.fixture
def same(example: Problem, backward: str) -> Callable[..., None]:
    """Asserts that a computation ``(model, X, Y) → tensors`` gives the same on our network as on ``nn.Sequential``.

    The second argument is how the truth is computed, if in another way.
    """
    return _comparison(example, backward)


@pytest.fixture
def same_on_one(one_example: Problem, backward: str) -> Callable[..., None]:
    """The same, of one activation and task, for computations that take long."""
    return _comparison(one_example, backward)
