"""Where the CPU kernel's time goes, function by function, as Linux's ``perf`` samples it.

``python benchmarks/kernel_profile.py`` prints the table and writes it to ``results/kernel_profile.md``.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
import torch.utils.benchmark
from machine import machine
from step import SHAPES, lines, sizes

from twolayer.kernels import cpu

RESULTS = Path(__file__).parent / "results" / "kernel_profile.md"
LARGE = SHAPES[:4]
SECONDS = 8
PARTS = {
    "block<": "matrix products",
    "Part::": "tiles: activations, costs",
    "pass": "packing, mean, tiles",
    "": "the rest",
}


def repeat(shape: tuple[int, int, int, int, str, int]) -> None:
    """Passes over a shape for some seconds, on one thread."""
    n_x, n_h, n_y, m, activation, _ = shape
    torch.set_num_threads(1)
    X, Y = torch.randn(m, n_x), torch.randint(2 if n_y == 1 else n_y, (m,))
    parameters = torch.randn(n_h, n_x) / n_x**0.5, torch.randn(n_h), torch.randn(n_y, n_h) / n_h**0.5, torch.randn(n_y)
    timer = torch.utils.benchmark.Timer(
        "loss_and_grads(X, Y, *parameters, activation=activation, task=task)",
        globals={
            "loss_and_grads": cpu.loss_and_grads, "X": X, "Y": Y, "parameters": parameters,
            "activation": activation, "task": "binary" if n_y == 1 else "multiclass",
        },
    )  # fmt: skip
    timer.blocked_autorange(min_run_time=SECONDS)


def shares(index: int) -> dict[str, float]:
    """The percentage of the kernel's samples in each of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        command = ["perf", "record", "-q", "-o", data, sys.executable, __file__, str(index)]
        subprocess.run(command, check=True, capture_output=True)
        report = ["perf", "report", "-i", data, "--stdio", "--no-children", "-F", "overhead,dso,sym"]
        printed = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = defaultdict(float)
    for percent, symbol in re.findall(r"^\s*([\d.]+)%\s+cpu-[\w-]+\.so\s+\[\.\] (.+)$", printed, re.MULTILINE):
        found[next(part for name, part in PARTS.items() if name in symbol)] += float(percent)
    total = sum(found.values())
    return {part: 100 * share / total for part, share in found.items()}


def main() -> None:
    if sys.argv[1:]:
        repeat(LARGE[int(sys.argv[1])])
        return
    torch.set_num_threads(1)  # for the foot of the page
    parts = list(PARTS.values())
    rows = []
    for index, shape in enumerate(LARGE):
        found = shares(index)
        rows.append([sizes(shape), *(f"{found.get(part, 0):.1f}" for part in parts)])
    page = f"""# Where the CPU kernel's time goes

<!-- Written by `python benchmarks/kernel_profile.py`. Do not edit. -->

Percent of its own samples, on one thread. What the compiler put into one function, `perf` cannot tell apart.

{lines(["n_x, n_h, n_y, m", *parts], ["---", *["---:"] * len(parts)], *rows)}

{machine()}
"""
    print(page)
    RESULTS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
