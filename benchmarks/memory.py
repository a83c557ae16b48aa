"""Peak memory of one pass beyond inputs and parameters, for few examples and for many.

``python benchmarks/memory.py`` prints the table and writes it to ``results/memory.md`` beside this file. Each cell is a
process of its own, in which the resident set grows by what the pass needs at its peak. Linux alone tells.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import alone, options, publish, table
from peers import MODES, PASS, PLAIN, criterion

from twolayer import TwoLayerNet

EXAMPLES = [10**5, 10**6, 10**7]
FEATURES, HIDDEN = 28, 300

Pass = Callable[[TwoLayerNet, torch.Tensor, torch.Tensor], Any]


def eager(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    criterion(net.to_sequential()(X), Y).backward()


def backward(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    net.loss(X, Y).backward()


def by_operators(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    net.loss_and_grads(X, Y, kernel="torch")


def hessian_vector_product(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    net.hvp(X, Y, {name: torch.ones_like(V) for name, V in net.named_parameters()})


LOSS = "`net.loss`, as it comes"
WAYS: dict[str, tuple[Pass, dict[str, Any]]] = {
    "`nn.Sequential`, eager": (eager, {}),
    LOSS: (backward, {}),
    **{name: (backward, {"backward": mode}) for name, mode in MODES.items()},
    PASS: (TwoLayerNet.loss_and_grads, {}),
    PLAIN: (by_operators, {}),
    "`hvp`": (hessian_vector_product, {}),
}


def resident(field: str) -> float:
    """Megabytes: ``VmRSS`` of now, ``VmHWM`` at the peak."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def grown(way: str, m: int) -> float:
    """Megabytes by which a pass lets this process grow at its peak."""
    compute, chosen = WAYS[way]
    net = TwoLayerNet(FEATURES, HIDDEN, 1, activation="tanh", **chosen)
    X, Y = torch.rand(m, FEATURES), torch.rand(m)
    compute(net, X[:100], Y[:100])  # code and thread pools are loaded
    net.zero_grad()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = resident("VmRSS")
    compute(net, X, Y)
    return resident("VmHWM") - before


def growths(way: str, examples: list[int]) -> list[float | None]:
    """The same for each number of examples, each in a process of its own; None for what this machine could not hold."""
    found: list[float | None] = []
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    for number, m in enumerate(examples):
        known = [(value, n) for value, n in zip(found, examples, strict=False) if value is not None]
        # What has grown with m will go on.
        expected = max((value * m / n for value, n in known if value > 50), default=0)
        found.append(None if number and expected > there / 2 else alone(grown, way, m))
    return found


def megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def main() -> None:
    chosen = options(__doc__, rounds=False).parse_args()
    rows = [[way, *map(megabytes, growths(way, EXAMPLES))] for way in WAYS]
    body = f"""\
Megabytes by which a process grows at its peak, beyond inputs and parameters, for cost and gradients (and for a
Hessian-vector product) of {FEATURES} features, {HIDDEN} tanh units, one output, in float32. A pass over 100 examples
went before. A dash: more than half of this machine's memory would be needed.

{table(["examples", *(f"{m:,}" for m in EXAMPLES)], rows)}"""
    publish(__file__, "Memory of a pass", body, dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
