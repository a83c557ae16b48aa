"""Batches of rows that are in memory, for a loop of one's own or for Lightning: ``TensorLoader``.

A DataLoader over a TensorDataset takes a batch apart into examples and puts it together again, several microseconds an
example, which is more than a shallow network's step takes. Here a batch is one indexed copy, or a view where the rows
come in their order.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from twolayer.checks import positive_int


class Block(NamedTuple):
    """Several batches in one, for several optimiser steps in one call of ``training_step``.

    >>> block = Block((torch.arange(5), torch.arange(5) % 2), batch_size=2)
    >>> [X.tolist() for X, Y in block.batches()]
    [[0, 1], [2, 3], [4]]
    """

    tensors: tuple[Tensor, ...]
    batch_size: int
    repeat: int = 1
    """How often to go through them: a full batch need not be copied to come several times."""

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches, which are views; the last one may be smaller."""
        for _ in range(self.repeat):
            yield from zip(*(tensor.split(self.batch_size) for tensor in self.tensors), strict=True)


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
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(self.seed + self.epoch))

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
    >>> [[len(Y) for X, Y in block.batches()] for block in TensorLoader((X, Y), batch_size=1, steps_per_call=3)]
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
        self.steps_per_call = None if batch_sampler is not None else steps_per_call
        self._block_size = 1 if self.steps_per_call is None else positive_int("steps_per_call", self.steps_per_call)
        self.repeat = positive_int("repeat", repeat)
        self.seed = seed
        self._start = self._served = self._ahead = 0
        self._resumed: int | None = None
        batches: dict[str, Any] = {"batch_sampler": batch_sampler}
        if batch_sampler is None:
            batch_size = max(1, len(dataset)) if batch_size is None else positive_int("batch_size", batch_size)
            batches = {"batch_size": batch_size, "sampler": SeededSampler(dataset, seed) if shuffle else sampler}
        super().__init__(dataset, pin_memory=pin_memory, **batches)

    @property
    def steps(self) -> int:
        """Batches in an epoch. ``len()`` counts blocks, where blocks come."""
        return self._steps_in_a_pass * self.repeat

    @property
    def _steps_in_a_pass(self) -> int:
        return super().__len__()

    def __len__(self) -> int:
        # Several passes share a block only where each is a single batch: then it is one and the same.
        if self._steps_in_a_pass == 1:
            return -(-self.repeat // self._block_size)
        return self.repeat * -(-self._steps_in_a_pass // self._block_size)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: all this happens when the first batch is asked for, since Lightning sets the epoch after `iter`.
        start, self._start = self._start, 0
        sampler: Any = self.sampler
        if hasattr(sampler, "set_epoch"):
            if self._resumed is not None:  # Lightning counts an epoch that `max_steps` cut short twice, once resumed
                self._ahead, self._resumed = sampler.epoch - self._resumed, None
            sampler.set_epoch(sampler.epoch - self._ahead)
        for served, (rows, repeat) in enumerate(self._rows(), 1):
            if served > start:
                self._served = served
                tensors = self._take(rows)
                yield tensors if self.steps_per_call is None else Block(tensors, self.batch_size, repeat)
        self._served = self._ahead = 0
        if isinstance(sampler, SeededSampler):
            sampler.set_epoch(sampler.epoch + 1)

    def _rows(self) -> Iterator[tuple[Tensor | slice, int]]:
        """The rows of each block, by number or as a slice, and how often the block goes through them."""
        if self.batch_size is None:  # a batch sampler
            yield from ((torch.tensor(rows), 1) for rows in self.batch_sampler or ())
            return
        order = None
        if isinstance(self.sampler, SeededSampler):
            order = self.sampler.permutation()
        elif not isinstance(self.sampler, SequentialSampler):
            order = torch.tensor(list(self.sampler), dtype=torch.int64)
        if order is not None:
            order = order.to(self.dataset.tensors[0].device)  # once an epoch: a step then waits for no transfer
        m = len(self.dataset) if order is None else len(order)
        size = self.batch_size * self._block_size
        one_batch = self._steps_in_a_pass == 1
        for done in range(0, self.repeat, self._block_size if one_batch else 1):
            repeat = min(self._block_size, self.repeat - done) if one_batch else 1
            for start in range(0, m, size):
                rows = slice(start, min(start + size, m))
                yield (rows if order is None else order[rows]), repeat

    def _take(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        tensors = self.dataset.tensors
        if isinstance(rows, slice):
            taken = tuple(tensor[rows] for tensor in tensors)
        else:
            taken = tuple(tensor.index_select(0, rows) for tensor in tensors)
        if self.pin_memory and torch.cuda.is_available():
            taken = tuple(tensor.pin_memory() if tensor.device.type == "cpu" else tensor for tensor in taken)
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch it is, and what the epoch is made of."""
        epoch = getattr(self.sampler, "epoch", 0)
        return {"served": self._served, "of": len(self), "epoch": epoch, **self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iteration goes on where the state was taken; after the end of an epoch, with the next one.

        Raises:
            ValueError: the rest of that epoch is not to be had, since its batches were others.
        """
        start, epoch = state_dict["served"], state_dict["epoch"]
        if start == state_dict["of"]:
            start, epoch = 0, epoch + 1
        for name, here in self._layout().items() if start else ():
            if state_dict[name] != here:
                raise ValueError(
                    f"{name} must be {state_dict[name]}, with which the checkpoint's unfinished epoch began, got {here}"
                )
        self._start, self._served, self._resumed = start, start, epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def _layout(self) -> dict[str, Any]:
        return {
            "rows": len(self.dataset),
            "batch_size": self.batch_size,
            "steps_per_call": self.steps_per_call,
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
