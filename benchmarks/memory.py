"""Peak memory of one pass beyond inputs and parameters, for few examples and for many.

``python benchmarks/memory.py`` prints the table and writes it to ``results/memory.md`` beside this file. Each cell is a
process of its own, in which the resident set grows by what the pass needs at its peak.
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch.nn.functional import binary_cross_entropy_with_logits

from twolayer import TwoLayerNet

RESULTS = Path(__file__).parent / "results" / "memory.md"
EXAMPLES = [10**5, 10**6, 10**7]
FEATURES, HIDDEN = 28, 300


def eager(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    binary_cross_entropy_with_logits(net.to_sequential()(X).squeeze(-1), Y).backward()


def backward(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    net.loss(X, Y).backward()


def hessian_vector_product(net: TwoLayerNet, X: torch.Tensor, Y: torch.Tensor) -> None:
    net.hvp(X, Y, {name: torch.ones_like(V) for name, V in net.named_parameters()})


WAYS: dict[str, tuple[str, Callable[..., Any]]] = {
    "`nn.Sequential`, eager": ("autograd", eager),
    "`net.loss` and `backward()`, manual": ("manual", backward),
    "`net.loss` and `backward()`, streamed": ("streamed", backward),
    "`loss_and_grads`": ("manual", TwoLayerNet.loss_and_grads),
    '`loss_and_grads`, `kernel="torch"`': (
        "manual",
        lambda net, X, Y: net.loss_and_grads(X, Y, kernel="torch"),
    ),
    "`hvp`": ("manual", hessian_vector_product),
}
TOO_MUCH = 10**6
"""Examples from which what keeps every activation is left out: 10⁷ would take it some 50 GB."""


def grown(way: str, m: int) -> float:
    """Megabytes by which a pass lets this process grow."""
    mode, compute = WAYS[way]
    net = TwoLayerNet(FEATURES, HIDDEN, 1, activation="tanh", backward=mode)
    X, Y = torch.rand(m, FEATURES), torch.rand(m)
    compute(net, X[:100], Y[:100])  # code and thread pools are loaded
    net.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compute(net, X, Y)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    if sys.argv[1:]:
        print(grown(sys.argv[1], int(sys.argv[2])))
        return
    rows = []
    for way, (mode, _) in WAYS.items():
        cells = []
        for m in EXAMPLES:
            if m > TOO_MUCH and way.startswith(("`nn.", "`net")) and mode != "streamed":
                cells.append("–")
                continue
            command = [sys.executable, __file__, way, str(m)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            cells.append(f"{float(done.stdout):.0f}")
        rows.append(f"| {way} | {' | '.join(cells)} |")
    page = f"""# Memory of a pass

<!-- Written by `python benchmarks/memory.py`. Do not edit. -->

Megabytes by which a process grows at its peak, beyond inputs and parameters, for cost and gradients (and for a
Hessian-vector product) of {FEATURES} features, {HIDDEN} tanh units, one output, in float32. A pass over 100 examples
went before.

| examples | {" | ".join(f"{m:,}" for m in EXAMPLES)} |
|---|{"---:|" * len(EXAMPLES)}
{chr(10).join(rows)}

{machine()}
"""
    print(page)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
