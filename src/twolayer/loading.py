"""Batches of rows that are in memory, for a loop of one's own or for Lightning: ``TensorLoader``.

A DataLoader over a TensorDataset takes a batch apart into examples and puts it together again, several microseconds an
example, which is more than a shallow network's step takes. Here a batch is one indexed copy, or a view where the rows
come in their order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler, TensorDataset

from twolayer.arguments import positive_int

Rows = Tensor | slice
Batch = tuple[Tensor, ...]


class Block:
    """Several batches in one, for several optimiser steps in one call of ``training_step``.

    Each batch is made when it is asked for, so that it is in the cache when it is used.

    Attributes:
        rows: of each batch, by number or as a slice.
        tensors: of which they are rows; None where they are not, as after a block has been moved.

    >>> (block,) = TensorLoader((torch.arange(5), torch.zeros(5)), batch_size=2, steps_per_call=3)
    >>> [X.tolist() for X, Y in block]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        take: Callable[[Any], Batch],
        rows: Sequence[Any],
        device: torch.device,
        taken: Callable[[int], None] | None = None,
        tensors: Batch | None = None,
    ) -> None:
        self._take, self.rows, self._device, self._taken, self.tensors = take, rows, device, taken, tensors

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Batch:
        rows = self.rows[i]
        self.took(i + 1)
        return self._take(rows)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.__getitem__, range(len(self)))

    def took(self, batches: int) -> None:
        """Tells the loader how many of the first batches are done, or at hand."""
        if self._taken is not None:
            self._taken(batches)

    def to(self, device: torch.device) -> "Block":
        """All of its batches on that device, as Lightning asks for them; the block itself where they are there."""
        if device == self._device:
            return self
        non_blocking = device.type == "cuda"  # elsewhere that is not safe
        batches = map(self._take, self.rows)
        moved = [tuple(tensor.to(device, non_blocking=non_blocking) for tensor in batch) for batch in batches]
        return Block(moved.__getitem__, range(len(moved)), device, self._taken)


class SeededSampler(RandomSampler):
    """Every row once, in an order that follows from a seed and the epoch alone: the same in every loader and process.

    >>> sampler = SeededSampler(range(100), seed=1)
    >>> first = list(sampler)
    >>> first == list(SeededSampler(range(100), seed=1)), sorted(first) == list(range(100))
    (True, True)
    >>> sampler.set_epoch(1)  # Lightning does
    >>> first == list(sampler)
    False
    """

    def __init__(self, data_source: Any, seed: int = 0) -> None:
        super().__init__(data_source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def permutation(self) -> Tensor:
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(self.seed + self.epoch), device="cpu")

    def __iter__(self) -> Iterator[int]:
        return iter(self.permutation().tolist())


class TensorLoader(DataLoader):
    """Batches sliced from tensors, on whatever device these are; the last batch may be smaller.

    It is a DataLoader, so that Lightning shards it among processes with a sampler of its own, and it has the
    ``state_dict`` that Lightning keeps in a checkpoint: a run that resumes within an epoch gets the batches that were
    left. In a loop of one's own, each time through it is the next epoch.

    Args:
        dataset: the tensors, of equal length, or a TensorDataset of them.
        batch_size: rows in a batch; None for all of them.
        shuffle: whether each epoch has an order of its own, see :class:`SeededSampler`.
        seed: of the order.
        steps_per_call: what comes is a :class:`Block` of up to as many batches. With None, a batch: ``(X, Y)``.
        repeat: how often an epoch goes through the rows, in the same order each time: iterations of full-batch descent.
        pin_memory: copy batches into page-locked memory, from where they go to a GPU while it computes.
        sampler: row numbers in the order wanted, in place of ``shuffle``.
        batch_sampler, drop_last: for Lightning, which predicts with the one, and passes False for the other.

    Attributes:
        served: batches of the epoch that were taken.
        resumed_at: after ``load_state_dict`` and before the next batch, where that is, in batches; otherwise None.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.

    >>> X, Y = torch.arange(5.0), torch.arange(5)
    >>> next(iter(TensorLoader((X, Y), batch_size=2)))
    (tensor([0., 1.]), tensor([0, 1]))
    >>> loader = TensorLoader((X, Y), batch_size=2, shuffle=True)
    >>> for epoch in range(2):
    ...     print(sorted(int(y) for X, Y in loader for y in Y), len(loader))
    [0, 1, 2, 3, 4] 3
    [0, 1, 2, 3, 4] 3
    >>> [[len(Y) for X, Y in block] for block in TensorLoader((X, Y), batch_size=1, steps_per_call=3)]
    [[1, 1, 1], [1, 1]]
    """

    dataset: TensorDataset
    batch_size: int

    def __init__(
        self,
        dataset: TensorDataset | Iterable[Tensor],
        *,  # Lightning, which gives these anew, trips over them as positions
        batch_size: int | None = 1,
        shuffle: bool = False,
        seed: int = 0,
        steps_per_call: int | None = None,
        repeat: int = 1,
        pin_memory: bool = False,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[list[int]] | None = None,
        drop_last: bool = False,
    ) -> None:
        if not isinstance(dataset, TensorDataset):
            dataset = TensorDataset(*_of_equal_length(tuple(dataset)))
        if drop_last:
            raise ValueError("drop_last must be False, got True: the last batch is kept")
        if shuffle and sampler is not None:
            raise ValueError("shuffle must be False beside a sampler, got True")
        if steps_per_call is not None:
            positive_int("steps_per_call", steps_per_call)
        self.steps_per_call = None if batch_sampler is not None else steps_per_call
        self.repeat = positive_int("repeat", repeat)
        self.seed = seed
        self._start = self.served = 0
        self.resumed_at: int | None = None
        self._resumed_epoch: int | None = None
        batches: dict[str, Any] = {"batch_sampler": batch_sampler}
        if batch_sampler is None:
            batch_size = max(1, len(dataset)) if batch_size is None else positive_int("batch_size", batch_size)
            batches = {"batch_size": batch_size, "sampler": SeededSampler(dataset, seed) if shuffle else sampler}
        super().__init__(dataset, pin_memory=pin_memory, **batches)
        self._pins = pin_memory and torch.cuda.is_available() and dataset.tensors[0].device.type == "cpu"

    @property
    def steps(self) -> int:
        """Batches in an epoch. ``len()`` counts blocks, where blocks come."""
        return super().__len__() * self.repeat

    def __len__(self) -> int:
        return self.calls_before(self.steps)

    def calls_before(self, batches: int) -> int:
        """How often it is asked for the first so many batches of an epoch. Blocks end at the same ones in each."""
        every = self.steps_per_call or 1
        return -(-batches // every) if batches == self.steps else batches // every

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: all this happens when the first batch is asked for, since Lightning sets the epoch after `iter`.
        start, self._start, self.resumed_at = self._start, 0, None
        sampler: Any = self.sampler
        if self._resumed_epoch is not None and isinstance(sampler, SeededSampler | DistributedSampler):
            sampler.set_epoch(self._resumed_epoch)  # Lightning counts an epoch twice in which it was resumed
            self._resumed_epoch += 1
        every, device = self.steps_per_call or 1, self.dataset.tensors[0].device
        rows = islice(self._rows(), start, None)
        while start < self.steps:
            size = min(every - start % every, self.steps - start)
            before, start = start, start + size
            self.served = start
            if self.steps_per_call is None:
                yield self._take(next(rows))
            else:
                of_block = list(islice(rows, size))
                yield Block(self._take, of_block, device, partial(self._count, before), self.dataset.tensors)
        self.served = 0
        if isinstance(sampler, SeededSampler):
            sampler.set_epoch(sampler.epoch + 1)

    def _count(self, before: int, taken: int) -> None:
        self.served = before + taken

    def _rows(self) -> Iterator[Rows]:
        """The rows of each batch, by number or as a slice."""
        if self.batch_size is None:  # a batch sampler
            yield from map(torch.tensor, self.batch_sampler or ())
            return
        batches: Sequence[Rows]
        if isinstance(self.sampler, SequentialSampler):
            m = len(self.dataset)
            batches = [slice(start, min(start + self.batch_size, m)) for start in range(0, m, self.batch_size)]
        else:
            if isinstance(self.sampler, SeededSampler):
                order = self.sampler.permutation()
            else:
                order = torch.tensor(list(self.sampler), dtype=torch.int64, device="cpu")
            # Once an epoch, so that a step waits for no transfer.
            batches = order.to(self.dataset.tensors[0].device).split(self.batch_size)
        for _ in range(self.repeat):
            yield from batches

    def _take(self, rows: Rows) -> Batch:
        tensors = self.dataset.tensors
        if isinstance(rows, slice):
            batch = tuple(tensor[rows] for tensor in tensors)
        else:
            batch = tuple(tensor.index_select(0, rows) for tensor in tensors)
        return tuple(tensor.pin_memory() for tensor in batch) if self._pins else batch

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch it is, in batches, and what the epoch is made of."""
        between = self.served == 0 and self._resumed_epoch is not None
        epoch = self._resumed_epoch if between else getattr(self.sampler, "epoch", 0)
        return {"served": self.served, "of": self.steps, "epoch": epoch, **self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iteration goes on where the state was taken; after the end of an epoch, with the next one.

        Raises:
            ValueError: the rest of that epoch is not to be had, since its batches were others.
        """
        start, epoch = state_dict["served"], state_dict["epoch"]
        finished = start == state_dict["of"] or state_dict.get("finished", False)
        start *= state_dict.get("steps_per_call") or 1  # version 0.1.0 counted blocks
        before = start if start < state_dict["of"] else self.steps
        if finished:
            start, epoch = 0, epoch + 1
        for name, here in self._layout().items() if start else ():
            if state_dict[name] != here:
                raise ValueError(
                    f"{name} must be {state_dict[name]}, with which the checkpoint's unfinished epoch began, got {here}"
                )
        self._start = self.served = start
        self.resumed_at = before if finished else start
        self._resumed_epoch = epoch
        if isinstance(self.sampler, SeededSampler | DistributedSampler):
            self.sampler.set_epoch(epoch)

    def begin_epoch(self) -> None:
        """A new epoch begins. The former one may not have come to its end, as with ``limit_train_batches``."""
        self.served = self._start

    def take_over(self, former: "TensorLoader") -> None:
        """Begins with the epoch, or the rest of one, with which another loader of the same rows was to begin."""
        self._start = self.served = former._start
        self.resumed_at, self._resumed_epoch = former.resumed_at, former._resumed_epoch
        if isinstance(self.sampler, SeededSampler | DistributedSampler):
            self.sampler.set_epoch(former.sampler.epoch)  # type: ignore[attr-defined]

    def _layout(self) -> dict[str, Any]:
        return {
            "rows": len(self.dataset),
            "batch_size": self.batch_size,
            "repeat": self.repeat,
            "seed": getattr(self.sampler, "seed", None),
        }


def _of_equal_length(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in tensors):
        got = ", ".join(type(tensor).__name__ for tensor in tensors) or "none"
        raise TypeError(f"dataset must be tensors with a row for each example, got {got}")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(f"dataset must be tensors of equal length, got {[len(tensor) for tensor in tensors]}")
    return tensors
