"""What UnitMonitor costs a run of the command line, which has it unless it is told otherwise.

``python benchmarks/unit_monitor.py`` runs two of the experiments in ``configs/`` with and without it, in rounds in
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
import torch
from lightning.pytorch.callbacks import Callback
from measuring import interleaved, options, publish, quicker, spread, table, verdict

from twolayer import cli
from twolayer.training import unit_monitor

CONFIGS = ("breast_cancer", "flower")
ROUNDS = 12
AT_MOST = 1.0
"""Percent of a run."""
ROOT = Path(__file__).resolve().parents[1]
QUIET = [f"--trainer.{name}" for name in ("enable_model_summary=false", "enable_progress_bar=false", "accelerator=cpu")]
WITH, WITHOUT, IDLE = "with", "without", "idle"
IDLERS = 20


class Idler(Callback):
    """Has no hook of its own; Lightning calls all of them all the same."""


class Run(NamedTuple):
    seconds: float
    """Of the processor for the command: options, data, fit and test, but no imports."""
    watching: float
    """Seconds of these in which UnitMonitor takes its sample and looks at it."""
    looks: int
    steps: int


def run(config: str, what: str) -> Run:
    """One run of an experiment, as it stands in its file: with UnitMonitor, without, or with idlers in its place."""
    watching: list[float] = []

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            begun = time.process_time()
            found = function(*args)
            watching.append(time.process_time() - begun)
            return found

        return run

    def with_idlers(self: cli.TwoLayerCLI, options: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        return instantiate(self, options, [*callbacks, *(Idler() for _ in range(IDLERS * (what == IDLE)))])

    instantiate = cli.TwoLayerCLI._instantiate_trainer
    arguments = ["fit", "--config", str(ROOT / f"configs/{config}.yaml"), *QUIET]
    arguments += [] if what == WITH else ["--unit_monitor.every_n_steps=null"]
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        mock.patch.object(unit_monitor.UnitMonitor, "_look", clocked(unit_monitor.UnitMonitor._look)),
        mock.patch.object(unit_monitor, "_sample", clocked(unit_monitor._sample)),
        mock.patch.object(cli.TwoLayerCLI, "_instantiate_trainer", with_idlers),
    ):
        begun = time.process_time()
        ran = cli.main(arguments)
        seconds = time.process_time() - begun
        assert ran is not None
        with (Path(ran.trainer.log_dir or "") / "metrics.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    looks = sum(bool(row.get("dead_units")) for row in rows)
    return Run(seconds, sum(watching), looks, 1 + max(int(row["step"]) for row in rows if row["train_loss"]))


def measure(config: str, rounds: int) -> list[str]:
    runs: dict[str, list[Run]] = {what: [] for what in (WITH, WITHOUT, IDLE)}

    def turn(what: str, _: int) -> float:
        runs[what].append(run(config, what))
        return runs[what][-1].seconds

    for what in runs:  # what is loaded or compiled in a first run is no part of it
        run(config, what)
    times = interleaved({what: partial(turn, what) for what in runs}, rounds, turn=0)
    looking = [100 * one.watching / one.seconds for one in runs[WITH]]
    called = [100 * (ratio - 1) / IDLERS for ratio in quicker(times, WITHOUT, IDLE)]
    more = [100 * (ratio - 1) for ratio in quicker(times, WITHOUT, WITH)]
    share = statistics.median(looking) + statistics.median(called)
    return [
        f"`{config}.yaml`",
        f"{runs[WITH][-1].steps:,}",
        str(runs[WITH][-1].looks),
        *(f"{1000 * statistics.median(times[what]):,.0f}" for what in (WITHOUT, WITH)),
        *(spread(values) for values in (looking, called)),
        f"{share:.2f}; {verdict(share < AT_MOST, f'{AT_MOST:g}')}",
        f"{statistics.median(more):+.1f}, {min(more):+.1f} to {max(more):+.1f}",
    ]


def main() -> None:
    chosen = options(__doc__).parse_args()
    rounds = chosen.rounds or ROUNDS
    logging.getLogger("lightning").setLevel(logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(1)
    rows = [measure(config, rounds) for config in CONFIGS]
    header = ["experiment", "steps", "looks", "ms without", "ms with", "% for looks", "% for calls"]
    header += ["% in all", "% more with it"]
    body = f"""\
The experiments as they stand in `configs/`, by the command line, in one process: `twolayer fit` with its options, data
and test, but without imports, which take several times as long. With `UnitMonitor` as the command line has it, and with
`--unit_monitor.every_n_steps=null`. Processor time, on one thread, which depends less on what else the machine does:
medians of {rounds} rounds in which each has its turn, and ranges. At most {AT_MOST:g} % of a run is wanted.

{table(header, rows)}

A clock around the sample and the looks tells what these take. Lightning takes time too, to call the hooks of one more
callback after each block of steps, mostly those that do nothing: what {IDLERS} idle ones take, divided by {IDLERS}.
What a look leaves behind, such as a cache that the next steps find cold, is in the last column alone, where runs with
and without are compared. There it stands against all else that differs between two runs, as the range shows."""
    publish(__file__, "What UnitMonitor costs", body, dry_run=chosen.dry_run, versions=f"Lightning {L.__version__}")


if __name__ == "__main__":
    main()
