"""Where the CPU kernel's time goes, function by function, as Linux's ``perf`` samples it.

``python benchmarks/kernel_profile.py`` prints the table and writes it to ``results/kernel_profile.md``.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict

import torch
import torch.utils.benchmark
from measuring import options, publish, table
from peers import PROBLEMS, Problem, without_graph

LARGE = ["higgs", "narrow", "mnist", "wide"]
SECONDS = 8
PARTS = {
    "block<": "matrix products",
    "Part::": "tiles: activations, costs",
    "pass": "packing, mean, tiles",
    "": "the rest",
}


def repeat(problem: Problem) -> None:
    """Passes for some seconds, on one thread."""
    torch.set_num_threads(1)
    timer = torch.utils.benchmark.Timer("step()", globals={"step": without_graph(problem, "cpu")})
    timer.blocked_autorange(min_run_time=SECONDS)


def shares(name: str) -> dict[str, float]:
    """The percentage of the kernel's samples in each of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        command = ["perf", "record", "-q", "-o", data, sys.executable, __file__, "--repeat", name]
        subprocess.run(command, check=True, capture_output=True)
        report = ["perf", "report", "-i", data, "--stdio", "--no-children", "-F", "overhead,dso,sym"]
        printed = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = defaultdict(float)
    for percent, symbol in re.findall(r"^\s*([\d.]+)%\s+cpu-[\w-]+\.so\s+\[\.\] (.+)$", printed, re.MULTILINE):
        found[next(part for name, part in PARTS.items() if name in symbol)] += float(percent)
    total = sum(found.values())
    return {part: 100 * share / total for part, share in found.items()}


def main() -> None:
    parser = options(__doc__, rounds=False)
    parser.add_argument("--repeat", choices=LARGE, help="only computes, for perf to look at")
    chosen = parser.parse_args()
    if chosen.repeat:
        repeat(PROBLEMS[chosen.repeat])
        return
    torch.set_num_threads(1)  # for the foot of the page
    found = {str(PROBLEMS[name]): shares(name) for name in LARGE}
    rows = [[problem, *(f"{share.get(part, 0):.1f}" for part in PARTS.values())] for problem, share in found.items()]
    body = f"""\
Percent of its own samples, on one thread. What the compiler put into one function, `perf` cannot tell apart.

{table(["n_x, n_h, n_y, m", *PARTS.values()], rows)}"""
    publish(__file__, "Where the CPU kernel's time goes", body, dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
