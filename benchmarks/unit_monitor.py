"""What UnitMonitor costs a run of the command line, which has it unless it is told otherwise.

``python benchmarks/unit_monitor.py`` fits two of the experiments in ``configs/`` with and without it, in rounds in
which each has its turn, and writes ``results/unit_monitor.md`` beside this file.
"""

import csv
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import lightning as L
from measuring import interleaved, options, publish, quicker, table, verdict

from twolayer import cli
from twolayer.callbacks import UnitMonitor

CONFIGS = ("breast_cancer", "flower")
ROUNDS = 12
AT_MOST = 1.0
"""Percent of a run."""
ROOT = Path(__file__).resolve().parents[1]
ALWAYS = [
    f"--trainer.{name}" for name in ("enable_model_summary=false", "enable_progress_bar=false", "accelerator=cpu")
]
HOOKS = ("setup", "on_train_start", "on_train_batch_end", "on_train_end")
WITH, WITHOUT = "with", "without"
OPTIONS = {WITH: [], WITHOUT: ["--unit_monitor.every_n_steps=null"]}


class Run(NamedTuple):
    seconds: float
    """Of the fit: no imports, no reading of options, no test at the end."""
    processor: float
    """Its seconds of the processor, which vary less with what else the machine does."""
    watching: float
    """Seconds within UnitMonitor."""
    looks: int
    steps: int


def fit(config: str, monitor: str) -> Run:
    """One run of an experiment, as it stands in its file."""
    fitted: list[tuple[float, float]] = []  # when it began and ended
    watching: list[float] = []

    def now(_: cli.TwoLayerCLI) -> None:
        fitted.append((time.perf_counter(), time.process_time()))

    def clocked(hook: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **options: Any) -> None:
            begun = time.perf_counter()
            hook(*args, **options)
            watching.append(time.perf_counter() - begun)

        return run

    hooks = {name: clocked(getattr(UnitMonitor, name)) for name in HOOKS}
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        mock.patch.multiple(UnitMonitor, **hooks),
        mock.patch.multiple(cli.TwoLayerCLI, before_fit=now, after_fit=now),
    ):
        ran = cli.main(["fit", "--config", str(ROOT / f"configs/{config}.yaml"), *ALWAYS, *OPTIONS[monitor]])
        assert ran is not None
        with (Path(ran.trainer.log_dir or "") / "metrics.csv").open(encoding="utf-8") as file:
            looks = sum(bool(row.get("dead_units")) for row in csv.DictReader(file))
    seconds, processor = (ended - begun for begun, ended in zip(*fitted, strict=True))
    return Run(seconds, processor, sum(watching), looks, ran.trainer.global_step)


def measure(config: str, rounds: int) -> list[str]:
    runs: dict[str, list[Run]] = {WITH: [], WITHOUT: []}

    def run(monitor: str, _: int) -> float:
        runs[monitor].append(fit(config, monitor))
        return runs[monitor][-1].seconds

    for monitor in runs:  # what is loaded or compiled in a first run is no part of it
        fit(config, monitor)
    times = interleaved({monitor: partial(run, monitor) for monitor in runs}, rounds, turn=0)
    shares = [100 * one.watching / one.seconds for one in runs[WITH]]
    processor = {monitor: [one.processor for one in found] for monitor, found in runs.items()}
    more = [100 * (ratio - 1) for ratio in quicker(processor, WITHOUT, WITH)]
    last = runs[WITH][-1]
    share = statistics.median(shares)
    return [
        f"`{config}.yaml`",
        f"{last.steps:,}",
        str(last.looks),
        *(f"{1000 * statistics.median(times[monitor]):,.0f}" for monitor in (WITHOUT, WITH)),
        f"{1000 * statistics.median(one.watching for one in runs[WITH]):.1f}",
        f"{share:.2f}, {min(shares):.2f} to {max(shares):.2f}; {verdict(share < AT_MOST, f'{AT_MOST:g}')}",
        f"{statistics.median(more):+.1f}, {min(more):+.1f} to {max(more):+.1f}",
    ]


def main() -> None:
    chosen = options(__doc__).parse_args()
    rounds = chosen.rounds or ROUNDS
    logging.getLogger("lightning").setLevel(logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    rows = [measure(config, rounds) for config in CONFIGS]
    header = [
        *("experiment", "steps", "looks", "ms without", "ms with", "ms in the callback"),
        *("percent of the run in the callback", "percent more processor time"),
    ]
    body = f"""\
The experiments as they stand in `configs/`, by the command line, in one process: `fit` alone, without imports, options
and the test at the end. With `UnitMonitor` as the command line has it, and with `--unit_monitor.every_n_steps=null`.
Medians of {rounds} rounds in which each has its turn, and ranges. At most {AT_MOST:g} % of a run is wanted.

{table(header, rows)}

A clock around the callback's hooks tells its own time. What a look leaves behind, such as a cache that the next steps
find cold, is in the last column alone: the processor time of the whole fit, compared in each round. There it stands
against all else that differs between two runs, as the range shows."""
    publish(__file__, "What UnitMonitor costs", body, dry_run=chosen.dry_run, versions=f"Lightning {L.__version__}")


if __name__ == "__main__":
    main()
