"""Cost and all gradients, one step: ours against eager autograd, torch.compile, JAX and scikit-learn.

``python benchmarks/step.py`` measures twice, with the default malloc and with one that keeps its memory, and writes
``results/step.md`` beside this file. In each round every peer has its turn; ratios are medians over paired rounds.
With ``--beside PATH``, a former version of the package has its turns too, and the page says how much slower or
quicker each row has become. Needs ``pip install -e ".[train,bench]"``.
"""

import cProfile
import pstats
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import (
    FORMER,
    MALLOCS,
    NOW,
    Step,
    Times,
    alone,
    best,
    compared,
    interleaved,
    of_versions,
    options,
    publish,
    quicker,
    spread,
    table,
    timed,
    verdict,
    versions,
)
from peers import MODES, PASS, PROBLEMS, Problem, check, data, network, ours, peers

from twolayer.functional import kernel_for

PEERS = ["eager", "torch.compile", "JAX", "scikit-learn"]
BEST, FLOOR = "best peer", "floor"
# The problem, by its name, what is measured, against what, and the least ratio with either malloc.
TARGETS = [
    ("higgs", PASS, BEST, (2.0, 1.7)),
    ("narrow", PASS, BEST, (3.0, 2.0)),
    ("mnist", PASS, BEST, (1.1, 1.05)),
    ("wide", PASS, BEST, (1.1, 1.05)),
    ("wide", PASS, FLOOR, (1 / 1.1, 1 / 1.1)),
    ("flower", PASS, "eager", (2.5, 2.5)),
    ("flower", PASS, "JAX", (1.3, 1.3)),
    *(("minibatch", name, "eager", (1.0, 1.0)) for name in MODES),
    ("minibatch", PASS, "eager", (2.5, 2.5)),
]
AT_MOST = 1.03
"""What a row may take, as a multiple of what it took in the former version."""


class Measured(NamedTuple):
    times: dict[str, Times]  # of each problem
    profiles: dict[str, list[list[str]]]
    kernels: list[str]


def floor(problem: Problem) -> float:
    """Seconds of the arithmetic alone, at the rates of a large matrix product and of tanh in the cache."""
    n_x, n_h, n_y, m, activation = problem
    A, few = torch.randn(2048, 2048), torch.randn(1 << 18)
    steps = {"product": lambda: A @ A, "tanh": lambda: torch.tanh(few, out=few)}
    least = {name: min(times) for name, times in interleaved(timed(steps), 15).items()}
    products = m * (4 * n_x * n_h + 6 * n_h * n_y) * least["product"] / (2 * 2048**3)
    return products + (m * n_h * least["tanh"] / few.numel() if activation == "tanh" else 0)


def profile(step: Step) -> list[list[str]]:
    """Where the time of a step goes: the functions that take most by themselves, with their microseconds a step."""
    steps = 2000
    with cProfile.Profile() as profiler:
        for _ in range(steps):
            step()
    found = pstats.Stats(profiler).get_stats_profile().func_profiles.items()
    rows = sorted(((entry.tottime, name, entry.file_name) for name, entry in found), reverse=True)[:10]
    return [
        [f"`{name}`", Path(file).name if file != "~" else "", f"{1e6 * time / steps:.1f}"] for time, name, file in rows
    ]


def measure(names: list[str], rounds: int | None, beside: str | None) -> Measured:
    times, kernels = {}, []
    with versions(beside) as both:
        for problem_name in names:
            problem = PROBLEMS[problem_name]
            others, mine = peers(problem), ours(problem)
            check(others, others["eager"]())
            runs = timed(others) | timed(mine) | of_versions(both, "peers", "ours", problem)
            found = interleaved(runs, **problem.pacing(rounds))
            found[FLOOR] = [floor(problem)] * len(found["eager"])
            times[problem_name] = found
            net = network(problem)
            kernels.append(kernel_for(*data(problem), net.W1, net.W2))
    return Measured(times, {name: profile(mine[name]) for name in (*MODES, PASS)}, kernels)  # of the last, smallest


def times_table(measured: Measured) -> str:
    names = [name for name in next(iter(measured.times.values())) if not name.startswith((NOW, FORMER))]
    rows = [
        [str(PROBLEMS[problem]), *(f"{1000 * statistics.median(times[name]):.3g}" for name in names)]
        for problem, times in measured.times.items()
    ]
    return table(["n_x, n_h, n_y, m", *names], rows)


def target_table(found: dict[str, Measured]) -> str:
    rows = []
    for problem, name, against, least in TARGETS:
        if problem not in found["default malloc"].times:
            continue
        row = [str(PROBLEMS[problem]), name, against]
        for measured, target in zip(found.values(), least, strict=True):
            times = measured.times[problem]
            peer = best(times, PEERS) if against == BEST else against
            ratios = quicker(times, name, peer)
            who = f"{peer}: " if against == BEST else ""
            row.append(f"{who}{spread(ratios)}; {verdict(statistics.median(ratios) >= target, f'{target:.3g}')}")
        rows.append(row)
    header = ["n_x, n_h, n_y, m", "what", "against", *(f"with the {malloc}" for malloc in found)]
    return table(header, rows, text=len(header))


def former_table(found: dict[str, Measured]) -> str:
    rows = []
    for problem, times in found["default malloc"].times.items():
        for name in (name for name in times if NOW + name in times):
            row = [str(PROBLEMS[problem]), name]
            for measured in found.values():
                ratios = quicker(measured.times[problem], FORMER + name, NOW + name)
                row.append(f"{spread(ratios)}{'' if statistics.median(ratios) <= AT_MOST else ' **slower**'}")
            rows.append(row)
    header = ["n_x, n_h, n_y, m", "what", *(f"with the {malloc}" for malloc in found)]
    return table(header, rows, text=len(header))


def page(found: dict[str, Measured], beside: str | None) -> str:
    measured = found["default malloc"]
    kernels = ", ".join(dict.fromkeys(f"`{kernel}`" for kernel in measured.kernels))
    parts = [
        f"""Milliseconds, medians over rounds in which every peer has its turn. `loss_and_grads` takes the kernel
{kernels}. The floor is the arithmetic alone: `m (4 n_x n_h + 6 n_h n_y)` operations at the rate of a 2048 × 2048 matrix
product and, for tanh, `m n_h` of them at their rate in the cache, both measured beside; a kernel with a quicker product
or tanh of its own can come below it.""",
        *(f"## With the {malloc}\n\n{times_table(measured)}" for malloc, measured in found.items()),
        f"""## Against the targets

How many times quicker, the median over paired rounds and their range.

{target_table(found)}""",
    ]
    if beside:
        parts.append(f"""## Against the former version

Time of a step divided by what it takes in the former version, each in a process of its own that has its turns in the
same rounds: the median and the range. At most {AT_MOST} is wanted.

{former_table(found)}""")
    parts.append("""## Where a small step's time goes

Of the last shape, as cProfile sees it: the functions that take most by themselves, and their microseconds a step. It
makes Python itself look slower than it is.""")
    parts += [f"{name}:\n\n{table(['function', 'in', 'µs'], rows, 2)}" for name, rows in measured.profiles.items()]
    return "\n\n".join(parts)


def main() -> None:
    chosen = compared(options(__doc__), PROBLEMS)
    found: dict[str, Any] = {
        name: alone(measure, chosen.only, chosen.rounds, chosen.beside, environment=environment)
        for name, environment in MALLOCS.items()
    }
    publish(__file__, "Cost and all gradients, one step", page(found, chosen.beside), dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
