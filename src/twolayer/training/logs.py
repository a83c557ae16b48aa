"""One table of metrics for one run, also where that is resumed: :class:`RunLogger`."""

import csv
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from twolayer.files import remove_unfinished, written_whole

Rows = list[dict[str, Any]]


class RunLogger(CSVLogger):
    """Lightning's CSVLogger, with a folder for each run, also of two that start at once, that a resumed run goes on in.

    Args:
        save_dir, name, version, prefix, flush_logs_every_n_steps: as for :class:`lightning.pytorch.loggers.CSVLogger`.
        resumed_from: checkpoint of a run that is to go on. Without a ``version``, and if it lies where this logger
            would put it, its folder is this run's. Its rows come first here, those before ``step``.
        step: of the checkpoint.
        keep: whether rows that are in the folder stay, as for a command that is no fit.
    """

    def __init__(
        self,
        *args: Any,
        resumed_from: str | Path | None = None,
        step: int | None = None,
        keep: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._resumed_from = None if resumed_from is None else Path(resumed_from)
        self._step, self._keep = step, keep

    @classmethod
    def like(cls, logger: CSVLogger, **options: Any) -> "RunLogger":
        """With the settings of another, which is in no use yet."""
        return cls(
            logger.save_dir,
            logger.name,
            logger._version,
            logger._prefix,
            logger._flush_logs_every_n_steps,
            **options,
        )

    def _get_next_version(self) -> int:
        """Makes the folder, so that it is nobody else's."""
        if (resumed := self._of_the_resumed_run()) is not None:
            return resumed
        version = super()._get_next_version()
        while getattr(rank_zero_only, "rank", 0) == 0:
            try:
                os.makedirs(os.path.join(self.root_dir, f"version_{version}"))
                break
            except FileExistsError:
                version += 1
        return version

    def _of_the_resumed_run(self) -> int | None:
        """The version of the folder that the checkpoint lies in or below, if it is one of this logger's."""
        for folder in self._resumed_from.resolve().parents if self._resumed_from is not None else ():
            if found := re.fullmatch(r"version_(\d+)", folder.name):
                return int(found[1]) if folder.parent == Path(self.root_dir).resolve() else None
        return None

    @property
    @rank_zero_experiment
    def experiment(self) -> "RunWriter":
        if self._experiment is None:
            self._experiment = RunWriter(self.log_dir, self._former_rows)
        assert isinstance(self._experiment, RunWriter)
        return self._experiment

    def _former_rows(self, here: Path) -> Rows:
        """The rows that stand before those to come."""
        if self._keep:
            return _read(here)
        if self._resumed_from is None:
            return []
        there = self._resumed_from.parent.parent / here.name
        step = self._step
        return [row for row in _read(here if here.is_file() else there) if step is None or int(row["step"]) < step]


class RunWriter(ExperimentWriter):
    """Its file."""

    def __init__(self, log_dir: str, former_rows: Callable[[Path], Rows]) -> None:
        self._former_rows = former_rows
        self._header: list[str] = []
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        """In the place of what removes the file of an earlier run."""
        path = Path(self.metrics_file_path)
        rows = self._former_rows(path)
        if rows or path.is_file():
            self._write(rows)

    def save(self) -> None:
        """Appends the rows since the last time; where there is a new column, the file is written anew."""
        if not self.metrics:
            return
        rows, self.metrics = self.metrics, []
        columns = set(self._header).union(*rows)
        if columns != set(self._header):
            self._write([*_read(Path(self.metrics_file_path)), *rows])
        else:
            with open(self.metrics_file_path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._header).writerows(rows)

    def _write(self, rows: Rows) -> None:
        self._header = sorted(set().union(*rows))
        with written_whole(self.metrics_file_path, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._header)
            writer.writeheader()
            writer.writerows(rows)


def with_one_table(given: Any, resumed: tuple[str, int] | None, command: str) -> Any:
    """What a Trainer logs to, with :class:`RunLogger` in the place of each CSVLogger of Lightning's.

    Args:
        given: as the Trainer takes it: a logger, a list of them, or something else.
        resumed: the checkpoint that the command begins with, and its step.
        command: ``"fit"`` goes on in the table of the run that it resumes; the others add their rows to what is there.
    """
    fits = command == "fit"
    path, step = resumed if fits and resumed is not None else (None, None)
    loggers = [
        RunLogger.like(one, resumed_from=path, step=step, keep=not fits) if type(one) is CSVLogger else one
        for one in (given if isinstance(given, list) else [given])
    ]
    return loggers if isinstance(given, list) else loggers[0]


def remove_what_was_killed(trainer: L.Trainer, resumed: tuple[str, int] | None) -> None:
    """Removes what earlier commands left unfinished when they were killed, where this one's files go."""
    if trainer.is_global_zero:
        roots = {Path(root) for one in trainer.loggers if (root := getattr(one, "root_dir", None))}
        folders = {Path(trainer.default_root_dir), *roots, *(found for root in roots for found in root.glob("*/"))}
        beside = [] if resumed is None else [Path(resumed[0]).parent]
        remove_unfinished([*folders, *(folder / "checkpoints" for folder in folders), *beside])


def _read(path: Path) -> Rows:
    """The rows of a table, without a last one that was being written when its process was killed."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row and None not in row.values() and str(row.get("step")).isdigit()]
