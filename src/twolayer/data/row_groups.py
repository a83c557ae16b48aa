"""Rows of Parquet files that do not fit in memory: read by row groups, shuffled through a buffer, shared out."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from twolayer.arguments import positive_int
from twolayer.data.parts import named, weights_of
from twolayer.data.reading import PARQUET, files_of, import_polars
from twolayer.tables.values import present

PARTS = ("train", "val", "test")
MOST_DISTINCT = 2_000
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Parting:
    """Which part a row is in: as a column says, by its group's value, or drawn, by seeds alone.

    Args:
        target: a column; a row in which it is missing is in no part.
        weight: a column of sample weights; a row of weight 0 is in no part.
        split, group: columns, as for :class:`~twolayer.data.Table`.
        fractions: of the rows for ``"val"`` and ``"test"``.
        seeds: of their draws.
    """

    target: str
    weight: str | None
    split: str | None
    group: str | None
    fractions: tuple[float, float]
    seeds: tuple[int, int]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.target, self.weight, self.split, self.group) if name))

    def of(self, table: Any, k: int) -> Any:
        """For each row of the row group ``k`` its part's number in :data:`PARTS`, or −1 for none."""
        val, test = self.fractions
        if self.split is not None:
            codes = np.array([PARTS.index(name) for name in named(table[self.split].to_list(), self.split)])
        else:
            v, t = (self._draws(table, k, seed, name) for name, seed in zip(PARTS[1:], self.seeds, strict=True))
            codes = np.where(t < test, 2, np.where(v * (1 - test) < val, 1, 0))
        codes[[value is None for value in present(table[self.target].to_list())]] = -1
        if self.weight is not None:
            codes[~(np.array(weights_of(self.weight, table[self.weight].to_list())) > 0)] = -1
        return codes

    def _draws(self, table: Any, k: int, seed: int, part: str) -> Any:
        """Uniform numbers, the same for the rows of a group."""
        if self.group is None:
            return np.random.default_rng([seed, PARTS.index(part), k]).random(len(table))
        start = f"{part} {seed} "
        return np.array([zlib.crc32((start + str(name)).encode()) / 2**32 for name in table[self.group].to_list()])


class RowGroups:
    """The row groups of a Parquet file, of several, or of a folder of them, in the order of the files' names.

    Args:
        path: of the files.
        argument: what errors call it.

    Raises:
        ValueError, FileNotFoundError: the message says in one line what is wrong with which file.
    """

    def __init__(self, path: Any, argument: str = "path") -> None:
        self.argument, self.files = argument, files_of(path, argument)
        self._opened: tuple[int, Any] | None = None
        self.places: list[tuple[int, int]] = []
        self.names: list[str] = []
        for i, file in enumerate(self.files):
            if file.suffix.lower() not in PARQUET:
                raise ValueError(f"{argument} must be Parquet files where the rows are streamed, got {file}")
            opened = self._open(i)
            if not self.names:
                self.names = opened.schema_arrow.names
            if set(opened.schema_arrow.names) != set(self.names):
                odd = sorted(set(opened.schema_arrow.names) ^ set(self.names))[0]
                raise ValueError(f"{argument} must be files with the same columns, but {odd!r} is not in each: {file}")
            self.places += [(i, j) for j in range(opened.num_row_groups)]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, k: int, columns: Sequence[str] | None = None) -> Any:
        """The rows of one row group, as a DataFrame of polars."""
        i, j = self.places[k]
        try:
            table = self._open(i).read_row_group(j, None if columns is None else list(columns))
        except (OSError, ValueError) as error:
            raise self._unreadable(i, error) from None
        return import_polars().from_arrow(table).select(columns or self.names)

    def _open(self, i: int) -> Any:
        if self._opened is None or self._opened[0] != i:
            try:
                self._opened = (i, import_parquet().ParquetFile(self.files[i]))
            except (OSError, ValueError) as error:
                raise self._unreadable(i, error) from None
        return self._opened[1]

    def _unreadable(self, i: int, error: Exception) -> ValueError:
        return ValueError(f"{self.argument} cannot be read: {self.files[i]}: {str(error).splitlines()[0]}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # each process opens its own


def import_parquet() -> Any:
    """The module.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.
    """
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError("pyarrow is needed to stream tables: pip install 'twolayer[table]'") from None
    return parquet


@dataclass(frozen=True)
class Counted:
    """What one look through the columns of the target and the parts finds.

    Args:
        rows: of each part, how many each row group has.
        left_out: rows that are in no part.
        distinct: how often each value of the target stands there; None where there are too many to be classes.
        trained: the same, of the rows to train on.
    """

    rows: dict[str, list[int]]
    left_out: int
    distinct: Counter[Any] | None
    trained: Counter[Any] | None


def count(groups: RowGroups, parting: Parting) -> Counted:
    """Reads the columns that ``parting`` needs, a row group at a time.

    Raises:
        ValueError: no row is left to train on, or a column says what it must not.
    """
    rows: dict[str, list[int]] = {part: [] for part in PARTS}
    left_out, distinct, trained = 0, Counter[Any](), Counter[Any]()
    counting = True
    for k in range(len(groups)):
        table = groups.read(k, parting.columns)
        codes = parting.of(table, k)
        for i, part in enumerate(PARTS):
            rows[part].append(int((codes == i).sum()))
        left_out += int((codes < 0).sum())
        if counting:
            values = present(table[parting.target].to_list())
            distinct.update(value for value in values if value is not None)
            trained.update(value for value, code in zip(values, codes, strict=True) if code == 0)
            counting = len(distinct) <= MOST_DISTINCT
    if not sum(rows["train"]):
        raise ValueError(f"path must leave rows to train on, got {sum(map(sum, rows.values()))} rows with a target")
    return Counted(rows, left_out, *((distinct, trained) if counting else (None, None)))


class Coder(Protocol):
    """From a DataFrame to batches, in two steps: what is kept in the buffer is smaller than the inputs of a network."""

    @property
    def columns(self) -> Sequence[str]:
        """Those that it reads."""

    def encode(self, frame: Any) -> Batch:
        """Tensors with a row for each of the frame's."""

    def finish(self, rows: Batch) -> Batch:
        """A batch of some of those rows."""


@dataclass(frozen=True)
class Stream:
    """The batches of one part of the rows: which, in which order, and how they are made.

    Every row comes once in an epoch, in one of the shares. All shares have as many batches, whose sizes differ by one
    row at most. The order follows from ``seed`` and ``epoch`` alone: row groups in random order, the rows of
    each at random, and those of a buffer, several row groups or a part of one, at random once more. So a share can
    begin at any buffer, having read no other one.

    Args:
        groups, parting: the rows.
        part: whose they are.
        counts: how many of them each row group has.
        batch_size: rows in a batch, at most.
        buffer_rows: rows to shuffle at a time.
        shuffle, seed: of the order.
        coder: what makes batches of a DataFrame.
    """

    groups: RowGroups
    parting: Parting
    part: str
    counts: tuple[int, ...]
    batch_size: int
    buffer_rows: int
    shuffle: bool
    seed: int
    coder: Coder

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def batches_in_buffer(self) -> int:
        return max(1, self.buffer_rows // self.batch_size)

    def steps(self, shares: int) -> int:
        """Batches of each share in an epoch."""
        return -(-self.rows // (shares * self.batch_size))

    def cuts(self, share: int, shares: int) -> list[int]:
        """Where the batches of a share begin and the last one ends, in the order of the rows."""
        start, end = self.rows * share // shares, self.rows * (share + 1) // shares
        steps = self.steps(shares)
        return [start + (end - start) * i // steps for i in range(steps + 1)]

    def buffers(self, cuts: list[int], epoch: int, first: int, every: int = 1) -> Iterator[Batch]:
        """The rows of :attr:`batches_in_buffer` batches each, as the coder made them, in their final order.

        Args:
            cuts: of the share.
            epoch: which decides on the order.
            first: buffer to begin with.
            every: 2 for every second one from there.
        """
        order = self._random(epoch, 0).permutation(len(self.groups)) if self.shuffle else np.arange(len(self.groups))
        ends = np.cumsum(np.asarray(self.counts, dtype=np.int64)[order])
        held: tuple[int, Batch] = (-1, ())
        size = self.batches_in_buffer
        for low in range(first * size, len(cuts) - 1, every * size):
            at, until = cuts[low], cuts[min(low + size, len(cuts) - 1)]
            pieces = []
            while at < until:
                place = int(np.searchsorted(ends, at, side="right"))
                begun = int(ends[place]) - self.counts[order[place]]
                if held[0] != place:
                    held = (place, self._group(int(order[place]), epoch))
                end = min(until, int(ends[place]))
                pieces.append(tuple(V[at - begun : end - begun] for V in held[1]))
                at = end
            buffer = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
            if self.shuffle:
                mixed = torch.from_numpy(self._random(epoch, 2, cuts[low]).permutation(len(buffer[0])))
                buffer = tuple(V[mixed] for V in buffer)
            yield buffer

    def _group(self, k: int, epoch: int) -> Batch:
        table = self.groups.read(k, list(dict.fromkeys((*self.coder.columns, *self.parting.columns))))
        rows = np.flatnonzero(self.parting.of(table, k) == PARTS.index(self.part))
        if self.shuffle:
            rows = self._random(epoch, 1, k).permutation(rows)
        return self.coder.encode(table[rows])

    def _random(self, *purpose: int) -> Any:
        return np.random.default_rng([self.seed, *purpose])


class StreamLoader:
    """Batches of a :class:`Stream` for a loop of one's own or for Lightning, in this process or by several workers.

    Each process of a distributed run gets a share of its own. A run that resumes within an epoch gets the batches that
    were left, whatever the number of workers.

    Args:
        stream: what to read.
        num_workers: processes that read; 0 to read in this one.

    Attributes:
        served: batches of the epoch that were taken.
    """

    def __init__(self, stream: Stream, num_workers: int = 0) -> None:
        self.stream = stream
        self.num_workers = num_workers if num_workers == 0 else positive_int("num_workers", num_workers)
        self.batch_size = stream.batch_size
        self.epoch = self.served = 0
        self._resumed = False
        self._read_ahead: DataLoader[Batch] | None = None

    def __len__(self) -> int:
        return self.stream.steps(_processes()[1])

    def __iter__(self) -> Iterator[Batch]:
        if (
            self.served and not self._resumed
        ):  # the last one was broken off, as Lightning does to look whether all works
            self.served, self.epoch = 0, self.epoch + 1
        self._resumed = False
        stream, cuts = self.stream, self.stream.cuts(*_processes())
        size = stream.batches_in_buffer
        first = self.served // size
        alone = not self.num_workers
        buffers: Iterable[Batch] = stream.buffers(cuts, self.epoch, first) if alone else self._ahead(cuts, first)
        for k, buffer in enumerate(buffers, first):
            while self.served < min((k + 1) * size, len(cuts) - 1):
                low, high = (cut - cuts[k * size] for cut in cuts[self.served : self.served + 2])
                self.served += 1
                yield stream.coder.finish(tuple(V[low:high] for V in buffer))
        self.served, self.epoch = 0, self.epoch + 1

    def _ahead(self, cuts: list[int], first: int) -> DataLoader[Batch]:
        """The same, by workers, which live as long as the loader. They are no forks: polars has threads."""
        if self._read_ahead is None:
            options: dict[str, Any] = {"prefetch_factor": 1, "persistent_workers": True}
            options["multiprocessing_context"] = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
            buffers = _Buffers(self.stream, cuts, torch.zeros(2, dtype=torch.int64).share_memory_())
            self._read_ahead = DataLoader(buffers, batch_size=None, num_workers=self.num_workers, **options)
        dataset: Any = self._read_ahead.dataset
        dataset.begin.copy_(torch.tensor([self.epoch, first]))
        return self._read_ahead

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch it is, in batches, and what the epoch is made of."""
        return {"served": self.served, "epoch": self.epoch, **self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iteration goes on where the state was taken.

        Raises:
            ValueError: the rest of that epoch is not to be had, since its batches were others.
        """
        for name, here in self._layout().items():
            if state_dict["served"] and state_dict.get(name) != here:
                raise ValueError(
                    f"{name} must be {state_dict.get(name)}, with which the checkpoint's unfinished epoch began, "
                    f"got {here}"
                )
        self.served, self.epoch = state_dict["served"], state_dict["epoch"]
        self._resumed = True
        if self.served == len(self):
            self.served, self.epoch = 0, self.epoch + 1

    def _layout(self) -> dict[str, Any]:
        stream = self.stream
        return {
            "rows": stream.rows,
            "batch_size": stream.batch_size,
            "buffer_rows": stream.buffer_rows,
            "seed": stream.seed,
            "processes": _processes()[1],
        }


class _Buffers(IterableDataset[Batch]):
    """The buffers that are left of an epoch. Each worker reads some, and a DataLoader takes them in turn."""

    def __init__(self, stream: Stream, cuts: list[int], begin: Tensor) -> None:
        self.stream, self.cuts, self.begin = stream, cuts, begin  # epoch and first buffer, in shared memory

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        assert worker is not None
        epoch, first = self.begin.tolist()
        return self.stream.buffers(self.cuts, epoch, first + worker.id, worker.num_workers)


def _processes() -> tuple[int, int]:
    """This one's number among how many."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def sample_of(groups: RowGroups, parting: Parting, most: dict[str, int], seed: int, column: str) -> Any:
    """A DataFrame of some rows of each part, from row groups drawn at random, and a column that says which part.

    Args:
        groups, parting: the rows.
        most: how many of each part.
        seed: of the draw.
        column: the name of the new column.
    """
    polars = import_polars()
    chosen = np.random.default_rng([seed, 3]).permutation(len(groups))[:64]
    frames = []
    for k in sorted(chosen.tolist()):
        table = groups.read(k)
        codes, random = parting.of(table, k), np.random.default_rng([seed, 4, k])
        for i, part in enumerate(PARTS):
            rows = random.permutation(np.flatnonzero(codes == i))[: -(-most[part] // len(chosen))]
            if len(rows):
                frames.append(table[np.sort(rows)].with_columns(polars.lit(part).alias(column)))
    return polars.concat(frames, how="vertical_relaxed")
