"""Batches of rows that do not fit in memory: shuffled through a buffer, shared out among processes, resumable."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from twolayer.arguments import positive_int
from twolayer.data.row_groups import PARTS, Parting, RowGroups

Batch = tuple[Tensor, ...]


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
        if self.served and not self._resumed:  # the last one was broken off, as Lightning does to see that all works
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
        if self.served == len(self) or state_dict.get("finished", False):
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
