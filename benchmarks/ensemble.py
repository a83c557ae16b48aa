"""An ensemble at once against its networks one after the other: the gradients of all costs on one batch.

``python benchmarks/ensemble.py`` prints the table and writes it to ``results/ensemble.md`` beside this file.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from twolayer import TwoLayerNet
from twolayer.functional import BACKWARDS

RESULTS = Path(__file__).parent / "results" / "ensemble.md"
SHAPES = [(32, 8, 16), (200, 28, 100)]  # examples, features, hidden units
SIZES = [1, 100]
ROUNDS = 15


def milliseconds(*computations: Callable[[], Any]) -> list[float]:
    """The median of some rounds, in each of which every computation has its turn for a twentieth of a second."""
    calls = []
    for compute in computations:
        compute()
        start = time.perf_counter()
        compute()
        calls.append(max(1, round(0.05 / (time.perf_counter() - start))))
    rounds: list[list[float]] = [[] for _ in computations]
    for _ in range(ROUNDS):
        for compute, n, seconds in zip(computations, calls, rounds, strict=True):
            start = time.perf_counter()
            for _ in range(n):
                compute()
            seconds.append((time.perf_counter() - start) / n)
    return [1000 * statistics.median(seconds) for seconds in rounds]


def measured(m: int, n_x: int, n_h: int, size: int, backward: str) -> list[float]:
    """One after the other, and at once."""
    generator = torch.Generator().manual_seed(0)
    nets = [TwoLayerNet(n_x, n_h, 1, backward=backward, generator=generator) for _ in range(size)]
    X = torch.randn(m, n_x, generator=generator)
    Y = (X[:, 0] > 0).float()

    def one_after_the_other() -> list[tuple[Tensor, ...]]:
        return [torch.autograd.grad(net.loss(X, Y), list(net.parameters())) for net in nets]

    parameters, _ = stack_module_state(nets)

    def cost(parameters: dict[str, Tensor]) -> Tensor:
        return nets[0].cost(functional_call(nets[0], parameters, (X,)), Y)

    at_once = vmap(grad(cost))
    for i, alone in enumerate(one_after_the_other()):
        for dV, together in zip(alone, at_once(parameters).values(), strict=True):
            torch.testing.assert_close(together[i], dV)
    return milliseconds(one_after_the_other, lambda: at_once(parameters))


def table() -> str:
    rows = []
    for m, n_x, n_h in SHAPES:
        for backward in BACKWARDS:
            for size in SIZES:
                loop, at_once = measured(m, n_x, n_h, size, backward)
                shape = f"{m} × {n_x}, {n_h} hidden"
                rows.append(f"| {shape} | `{backward}` | {size} | {loop:.2f} | {at_once:.2f} | {loop / at_once:.1f} |")
    return "\n".join(rows)


def main() -> None:
    torch.set_num_threads(1)  # two would wait for each other longer than these small networks take
    page = f"""# An ensemble at once

<!-- Written by `python benchmarks/ensemble.py`. Do not edit. -->

Milliseconds for the gradients of the costs of several networks on one batch: in a Python loop, and at once, by
`stack_module_state` and `vmap(grad(…))`. Median of {ROUNDS} rounds, in which the two take turns.

| batch and network | `backward` | networks | loop | at once | times quicker |
|---|---|---:|---:|---:|---:|
{table()}

{machine()}
"""
    print(page)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
