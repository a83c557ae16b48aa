"""Training on Parquet files that do not fit in memory: ``StreamedTable``."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twolayer.arguments import positive_int
from twolayer.data.parts import weights_of
from twolayer.data.reading import read
from twolayer.data.row_groups import Counted, Parting, RowGroups, count, sample_of
from twolayer.data.stream import Batch, Stream, StreamLoader
from twolayer.data.table import Table, check_names
from twolayer.tables.encoding import Encoding
from twolayer.tables.frame import Frame
from twolayer.tables.target import Target

SAMPLE = {"train": 50_000, "val": 10_000, "test": 20_000}
STEPS, MOST_EPOCHS = 20_000, 100


class RowCoder:
    """Numbers and level indices, targets and weights of rows; a batch has the inputs of a network in their place.

    Args:
        encoding: of the columns.
        target: the column to predict.
        weight: the column of sample weights, or None.
    """

    def __init__(self, encoding: Encoding, target: Target, weight: str | None) -> None:
        self.encoding, self.target, self.weight = encoding, target, weight
        self.columns = encoding.used
        self._numeric = {column.name for column in encoding.columns if column.kind == "numeric"}

    def encode(self, frame: Any) -> Batch:
        def values(name: str) -> Any:
            if name in self._numeric and frame[name].dtype.is_numeric():  # without a Python object for each
                return torch.tensor(frame[name].cast(float).fill_null(math.nan).to_numpy())
            return frame[name].to_list()

        rows = self.encoding.matrix(values)
        targets = self.target.encoded(frame[self.target.name].to_list())
        if self.weight is None:
            return rows, targets
        return rows, targets, torch.tensor(weights_of(self.weight, frame[self.weight].to_list()))

    def finish(self, rows: Batch) -> Batch:
        return self.encoding.features(rows[0]), *rows[1:]


class StreamedTable(Table):
    """A :class:`Table` whose rows are read anew in each epoch, by the row groups of Parquet files.

    Memory holds some row groups and a buffer of rows to shuffle, however many files there are. What each column is, is
    learnt from a sample of at most 50,000 training rows; the classes, and the rows of each part, by one look through
    the columns that say so. Each process of a distributed run gets a share of its own, and each row comes once in an
    epoch; a run that resumes within an epoch gets the rows that were left.

    Args:
        path: a Parquet file, several, or a folder of them.
        target: the column to predict.
        batch_size: rows in a batch.
        buffer_rows: rows to shuffle at a time. The row groups come in an order drawn at random, too.
        num_workers: processes that read ahead; 0 to read between steps.
        kwargs: ``features, drop, weight, id, split, group, task, val_fraction, test_fraction, seed, member``, see
            :class:`Table`. The parts are drawn row by row, or group by group.

    Raises:
        ValueError, TypeError, FileNotFoundError: the message says in one line what is wrong with the table.
    """

    def __init__(
        self,
        path: str | list[str],
        target: str,
        *,
        batch_size: int = 1024,
        buffer_rows: int = 65_536,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        self.buffer_rows = positive_int("buffer_rows", buffer_rows)
        self.num_workers = num_workers if num_workers == 0 else positive_int("num_workers", num_workers)
        super().__init__(path, target, batch_size=batch_size, on_device=False, **kwargs)
        self.path = path if isinstance(path, str) else ", ".join(path)

    def _read(self, path: Any, target: str) -> Frame:
        """Some rows of each part, with a column that says which, as if that were the table."""
        self.groups = RowGroups(path)
        columns = {"target": target, "weight": self.weight, "split": self.split, "group": self.group}
        check_names({name: [column] for name, column in columns.items() if column is not None}, self.groups.names)
        of_val = self.seed + self.member if self.test_fraction else self.seed  # as :class:`Table` draws them
        fractions, seeds = (self.val_fraction, self.test_fraction), (of_val, self.seed)
        self.parting = Parting(target, self.weight, self.split, self.group, fractions, seeds)
        self.counted: Counted = count(self.groups, self.parting)
        part = "part"
        while part in self.groups.names:
            part += "_"
        self.split, self.group = part, None
        return read(sample_of(self.groups, self.parting, SAMPLE, self.seed, part))

    streams = True
    """Whoever evaluates must not keep all rows."""

    def _learn_target(self, name: str, labels: Sequence[Any], task: str | None) -> Target:
        """From all rows: a sample may lack a rare class."""
        distinct = self.counted.distinct
        if distinct is not None:
            labels = [value for value, times in distinct.items() for _ in range(min(times, 3))]
        return Target.learn(name, labels, task)

    @property
    def rows_in(self) -> dict[str, int]:
        return {part: sum(rows) for part, rows in self.counted.rows.items()}

    @property
    def left_out(self) -> int:
        return self.counted.left_out

    @property
    def epochs(self) -> int:
        """How many make some 20,000 steps."""
        return min(MOST_EPOCHS, -(-STEPS // self.batches))

    def described(self) -> list[str]:
        first, *others = super().described()
        return [f"{first}, streamed from {len(self.groups)} row groups", *others]

    @property
    def train_targets(self) -> Tensor:
        """How many rows each class has, ``(1, classes)``, or the values of the sample's."""
        if self.task == "regression" or self.counted.trained is None:
            return super().train_targets
        counts = torch.zeros(1, len(self.class_names))
        for value, times in self.counted.trained.items():
            counts[0, self.target.encoded([value])] += times
        return counts

    def _stream(self, part: str, shuffle: bool = False) -> StreamLoader:
        assert self.batch_size is not None
        size, counts = (self.batch_size, self.buffer_rows), tuple(self.counted.rows[part])
        coder = RowCoder(self.encoding, self.target, self.weight)
        stream = Stream(self.groups, self.parting, part, counts, *size, shuffle, self.seed, coder)
        return StreamLoader(stream, self.num_workers)

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]
        return self._stream("train", shuffle=True)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:  # type: ignore[override]
        return self._stream("val") if self.rows_in["val"] else []

    def test_dataloader(self) -> StreamLoader | list[StreamLoader]:  # type: ignore[override]
        return self._stream("test") if self.rows_in["test"] else []
