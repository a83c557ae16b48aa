"""The page that shows the contract as the tests ran it: ``docs/contract.md``.

A test states the cell that it proves: its mark ``contract(group, capability)`` names the row, its parameter
``backward`` the column. A cell that several tests prove, by their other parameters, passes if all of them do.
"""

import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from twolayer.functional import BACKWARDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contract.md"
ISSUES = "https://github.com/pytorch/pytorch/issues"
GROUPS = (
    "Derivatives",
    "torch.func",
    "torch.compile",
    "Precision",
    "Distributed",
    "Leaving Python",
    "Tools, unmodified",
)
PASSES, FAILS, SKIPPED, EXPECTED = "passes", "**fails**", "skipped", "expected failure"
ON_CUDA = "on CUDA"
COLUMNS = (*BACKWARDS, ON_CUDA)


class Cell(NamedTuple):
    """Where a test's outcome goes. The tests of a row on CUDA share one cell."""

    group: str
    capability: str
    column: str


class Outcome(NamedTuple):
    """What became of one test, with the reason where it was skipped or expected to fail."""

    verdict: str
    reason: str = ""


class Location(NamedTuple):
    """Where a test stands: its file, from the root of the project, and its line."""

    file: str
    line: int

    @property
    def link(self) -> str:
        return f"../{self.file}#L{self.line}"


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that a test proves, if it proves one."""
    mark = item.get_closest_marker("contract")
    if mark is None:
        return None
    group, capability = mark.args
    parameters = item.callspec.params
    if group not in GROUPS:
        raise pytest.UsageError(f"{item.nodeid}: {group!r} is none of the groups {', '.join(GROUPS)}")
    if "cuda" in parameters.values():
        return Cell(group, capability, ON_CUDA)
    return Cell(group, capability, parameters["backward"])


def location_of(item: pytest.Item) -> Location:
    """Where the test's ``def`` stands, below its decorators."""
    code = item.function.__code__
    with Path(code.co_filename).open(encoding="utf-8") as source:
        lines = source.readlines()
    line = next(n for n in range(code.co_firstlineno, len(lines) + 1) if lines[n - 1].lstrip().startswith("def "))
    return Location(Path(code.co_filename).relative_to(ROOT).as_posix(), line)


def outcome_of(report: pytest.TestReport) -> Outcome | None:
    """The outcome that a report of one phase decides, if any: each phase can fail or skip, only the call can pass."""
    if report.skipped:
        if hasattr(report, "wasxfail"):
            return Outcome(EXPECTED, report.wasxfail.removeprefix("reason: "))
        return Outcome(SKIPPED, report.longrepr[2].removeprefix("Skipped: "))
    if report.failed:
        return Outcome(FAILS)
    return Outcome(PASSES) if report.when == "call" else None


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a cell: passes only if all pass, else the worst."""
    severity = [PASSES, SKIPPED, EXPECTED, FAILS]
    return max(outcomes, key=lambda outcome: severity.index(outcome.verdict))


def written(cells: dict[Cell, list[Outcome]], locations: dict[Cell, Location]) -> str:
    """The page, as Markdown."""
    rows: dict[str, list[str]] = {group: [] for group in GROUPS}
    for cell in locations:
        if cell.capability not in rows[cell.group]:
            rows[cell.group].append(cell.capability)

    def shown(cell: Cell) -> str:
        if cell not in locations:
            return "–"
        outcome = together(cells[cell])
        reason = re.sub(r"pytorch/pytorch#(\d+)", rf"[\g<0>]({ISSUES}/\1)", outcome.reason)
        return f"[{outcome.verdict}]({locations[cell].link})" + (f": {reason}" if reason else "")

    tables = []
    for group, capabilities in rows.items():
        head = f"## {group}\n\n| | {' | '.join(COLUMNS)} |\n|---{'|---' * len(COLUMNS)}|"
        lines = [
            f"| {capability} | {' | '.join(shown(Cell(group, capability, column)) for column in COLUMNS)} |"
            for capability in capabilities
        ]
        tables.append("\n".join([head, *lines]))
    cuda = f"and on an {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no CUDA GPU"
    sections = "\n\n".join(tables)
    return f"""# The contract

<!-- Written by `pytest tests/contract --contract-page {PAGE.relative_to(ROOT).as_posix()}`. Do not edit. -->

What works on `nn.Sequential(nn.Linear(…), …, nn.Linear(…))` works on `TwoLayerNet`, whatever its `backward` mode. Each
cell is what became of the tests behind its link, which compare the network with `nn.Sequential` and PyTorch's own
losses, parameter for parameter. A cell passes if all its tests passed. An expected failure is a hole of PyTorch's:
the test pins that it raises an error and gives no wrong number, and fails on the day on which PyTorch mends it.

What works by layers wants the layers, `net.to_sequential()`, which shares the parameters: `TwoLayerNet` has none. On
the network itself, captum's DeepLift, LRP and Deconvolution, whose rules hang on activation modules, give other
numbers without an error, and `quantize_dynamic(net, {{nn.Linear}})` changes nothing.

Run with PyTorch {torch.__version__} and Python {platform.python_version()} on a CPU ({platform.machine()}), {cuda}.
A dash: there is no such test.

{sections}
"""


def links_on(page: str) -> dict[Cell, str]:
    """The cells of a written page, each with its link."""
    found = {}
    group = ""
    for line in page.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| |"):
            capability, *row = (part.strip() for part in line.strip("| ").split(" | "))
            for column, text in zip(COLUMNS, row, strict=True):
                if text != "–":
                    found[Cell(group, capability, column)] = re.match(r"\[.*?\]\((.*?)\)", text)[1]
    return found
