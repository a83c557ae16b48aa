"""How every benchmark here measures and writes: rounds in which all take turns, ratios, tables, a page and its foot.

Run as a script, this file is the other end of :class:`Version`.
"""

import argparse
import contextlib
import importlib
import importlib.machinery
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch

MALLOCS = {
    "default malloc": {},
    "malloc that keeps its memory": {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        "MALLOC_TOP_PAD_": "1073741824",
    },
}
NOW, FORMER = "now: ", "former: "

Step = Callable[[], Any]
Timed = Callable[[int], float]
"""Runs what it measures so many times, and says how many seconds that took."""
Times = dict[str, list[float]]
"""Seconds of one call in each round."""


# Rounds.


def timed(steps: dict[str, Step]) -> dict[str, Timed]:
    def of(step: Step) -> Timed:
        def run(calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                step()
            return time.perf_counter() - start

        return run

    return {name: of(step) for name, step in steps.items()}


def interleaved(runs: dict[str, Timed], rounds: int, *, turn: float = 0.05, pause: float = 0.25) -> Times:
    """Rounds in which each has its turn: as many calls as fill ``turn`` seconds, or one.

    A turn begins after a pause, so that the threads of the turn before have stopped to spin; a tenth of its calls are
    made before they are timed, since the pause has left the processor cold. Each second round goes the other way, so
    that nobody always follows the same one.
    """
    calls = dict.fromkeys(runs, 1)
    if turn:
        for name, run in runs.items():
            run(1)
            quickest = min(run(1), run(1))
            if quickest < 4 * turn:  # a short one that is slow for once would have too few calls in each of its turns
                quickest = min(run(1) for _ in range(20))
            calls[name] = max(1, round(turn / quickest))
    times: Times = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in list(runs.items())[:: -1 if number % 2 else 1]:
            time.sleep(pause)
            if calls[name] >= 10:
                run(calls[name] // 10)
            times[name].append(run(calls[name]) / calls[name])
    return times


def alone(compute: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> Any:
    """What a function returns in a process of its own, which starts with this environment beside today's."""
    with (
        mock.patch.dict(os.environ, environment or {}),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(compute, *arguments).result()


class Version:
    """A version of the package, in a process of its own that sleeps unless it has its turn.

    ``place`` is a checkout, or a folder into which ``pip install --no-deps --target`` has put the package.
    """

    def __init__(self, place: str) -> None:
        command = [sys.executable, __file__, place]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def timed(self, module: str, function: str, *arguments: Any) -> dict[str, Timed]:
        """The steps that a benchmark's function makes with that version. They take the place of those before."""
        names = self._ask(module, function, *arguments)
        return {name: lambda calls, name=name: self._ask(name, calls) for name in names}

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, *request: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()
        try:
            return pickle.load(self.process.stdout)
        except EOFError:
            raise RuntimeError("the process of a version has ended; what it said stands above") from None


@contextlib.contextmanager
def versions(former: str | None) -> Iterator[dict[str, Version]]:
    """This version and the former one in that place, if there is to be one: alike, so that they can be compared."""
    found: dict[str, Version] = {}
    try:
        for label, place in ((NOW, str(Path(__file__).parents[1])), (FORMER, former)):
            if former and place:
                found[label] = Version(place)
        yield found
    finally:
        for version in found.values():
            version.close()


def of_versions(found: dict[str, Version], module: str, function: str, *arguments: Any) -> dict[str, Timed]:
    """Each step that a benchmark's function makes, by this version and right after it by the former one."""
    runs = {label: version.timed(module, function, *arguments) for label, version in found.items()}
    return {label + name: of[name] for name in runs.get(NOW, {}) for label, of in runs.items()}


def _answer(place: str) -> None:
    """Makes steps and runs them, as they are asked for on the standard input."""
    source = Path(place).resolve()
    source = source / "src" if (source / "src").is_dir() else source
    finders = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder)
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder in finders]  # no editable install's own
    sys.path.insert(0, str(source))
    loaded = importlib.import_module("twolayer").__file__
    if loaded is None or not Path(loaded).is_relative_to(source):
        sys.exit(f"--beside must be a checkout or a folder with the package, got {place}: twolayer is {loaded}")
    requests, answers, sys.stdout = sys.stdin.buffer, sys.stdout.buffer, sys.stderr
    runs: dict[str, Timed] = {}
    with contextlib.suppress(EOFError):
        while True:
            name, *arguments = pickle.load(requests)
            if name in runs:
                answer: Any = runs[name](*arguments)
            else:
                function, *arguments = arguments
                runs = {}  # what the steps before hold is given back first
                runs = timed(getattr(importlib.import_module(name), function)(*arguments))
                answer = list(runs)
            pickle.dump(answer, answers)
            answers.flush()


# Ratios.


def quicker(times: Times, name: str, than: str) -> list[float]:
    """How many times quicker one is than another, in each round."""
    return [a / b for a, b in zip(times[than], times[name], strict=True)]


def best(times: Times, names: list[str]) -> str:
    return min(names, key=lambda name: statistics.median(times[name]))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def verdict(reached: bool, target: str) -> str:
    return f"{'reached' if reached else '**missed**'}: {target}"


# Pages.


def options(description: str | None, *, rounds: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="prints the page and does not write it")
    if rounds:
        parser.add_argument("--rounds", type=int, help="instead of the benchmark's own number")
    return parser


def compared(parser: argparse.ArgumentParser, problems: Iterable[str]) -> argparse.Namespace:
    """The options of what is measured problem by problem, and beside a former version."""
    parser.add_argument("--only", nargs="+", choices=list(problems), default=list(problems), metavar="PROBLEM")
    parser.add_argument("--beside", help="a checkout of a former version, or a folder into which it is installed")
    return parser.parse_args()


def table(header: list[str], rows: list[list[str]], text: int = 1) -> str:
    """A table in Markdown whose first columns, ``text`` of them, are words and whose others are numbers."""
    rule = ["---"] * text + ["---:"] * (len(header) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def machine() -> str:
    """Processor, threads and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return (
        f"PyTorch {torch.__version__}, Python {platform.python_version()}, "
        f"{names[0] if names else platform.machine()}, {threads} thread{'s' * (threads > 1)}"
    )


def publish(script: str, title: str, body: str, *, dry_run: bool, versions: str = "") -> None:
    """Prints a page and writes it to ``results/``, under the name of the script that measured it."""
    name = Path(script).stem
    page = f"""# {title}

<!-- Written by `python benchmarks/{name}.py`. Do not edit. -->

{body}

{", ".join(filter(None, (machine(), versions)))}.
"""
    print(page)
    if not dry_run:
        results = Path(script).parent / "results"
        results.mkdir(exist_ok=True)
        (results / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    _answer(sys.argv[1])
