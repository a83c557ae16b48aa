"""Training on a table of one's own: ``Table``."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from twolayer.arguments import one_of
from twolayer.data import parts
from twolayer.data.leaks import leaking
from twolayer.data.reading import read
from twolayer.data.tabular import TabularDataModule
from twolayer.tables.encoding import Encoding
from twolayer.tables.frame import Frame
from twolayer.tables.target import TASKS, Target
from twolayer.tables.values import present, spelt_missing

BATCHES_IN_AN_EPOCH = 32
SMALLEST_BATCH, LARGEST_BATCH = 32, 256
STEPS, FEWEST_EPOCHS = 3200, 20
MOST_LINES = 40


class Table(TabularDataModule):
    """A CSV, TSV or Parquet file, several, a folder of them, or a DataFrame of pandas or polars, with a target column.

    What each column is, is found in the training rows alone: numbers are standardised and placed between quantiles,
    missing ones are filled and marked, levels are one-hot, dates become numbers; constant and identifier-like columns
    are left out. All of it is said when a run starts, and stored in the checkpoint.

    Args:
        path: the files, or the DataFrame.
        target: the column to predict.
        features: the columns to learn from; None for all others.
        drop: columns not to learn from.
        weight: a column of sample weights.
        id: columns to carry to the predictions; they are not learnt from.
        split: a column that says ``train``, ``val`` or ``test``.
        group: a column whose equal values stay in one part.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``; None to tell by the target.
        batch_size: None for a 32nd of the training rows, between 32 and 256.
        val_fraction: share of the rows that decide when training was best. A tenth: in trials, rows did more for the
            network where it learnt from them.
        test_fraction, seed, on_device: as for :class:`TabularDataModule`.
        member: which network of an ensemble this is for: each has validation rows of its own if there are
            test rows to judge all of them by.

    Raises:
        ValueError, TypeError, FileNotFoundError: the message says in one line what is wrong with the table.

    >>> table = Table({"x": [float(i % 7) for i in range(60)], "y": ["a", "b", "a"] * 20}, target="y")
    >>> table.task, table.target.classes, {part: len(rows) for part, rows in table.splits.items()}
    ('binary', ['a', 'b'], {'train': 45, 'test': 9, 'val': 6})
    """

    task: str  # type: ignore[misc]

    def __init__(
        self,
        path: Any,
        target: str,
        features: list[str] | None = None,
        drop: list[str] | None = None,
        weight: str | None = None,
        id: list[str] | str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        batch_size: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.15,
        seed: int = 0,
        on_device: bool = False,
        member: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, test_fraction, seed, on_device=on_device)
        if task is not None:
            one_of("task", task, TASKS)
        if split is not None and group is not None:
            raise ValueError(f"split and group must not both be given, got {split!r} and {group!r}")
        self.weight, self.split, self.group, self.member = weight, split, group, member
        self.frame: Frame = self._read(path, target)
        self.path = path if isinstance(path, str) else type(path).__name__
        self.id, self.wanted, dropped = map(_names, (id, features, drop))
        single = {"target": target, "weight": weight, "split": split, "group": group}
        several = {"features": self.wanted, "drop": dropped, "id": self.id}
        named = {name: [column] for name, column in single.items() if column is not None}
        check_names(named | several, self.frame.names)
        others = {target, weight, split, group, self.split, *self.id, *dropped}
        self._names = [name for name in self.wanted or self.frame.names if name not in others]
        spelt = self.frame[target]
        labels = present(spelt)
        self._spelt_missing = spelt_missing(spelt)
        weights = [1.0] * len(labels) if weight is None else parts.weights_of(weight, self.frame[weight])
        if not any(weights):
            raise ValueError(f"weight {weight!r} must be above 0 in some row, got 0 in all")
        self.rows = [i for i, value in enumerate(labels) if value is not None and weights[i] > 0]
        self.target = self._learn_target(target, spelt, task)
        self.task = self.target.task
        if len(self.rows) < 3:
            raise ValueError(f"path must hold at least 3 rows with a target, got {len(self.rows)}")
        self._encoding: Encoding | None = None
        self._said = False
        if batch_size is None:
            share = math.ceil(self.rows_in["train"] / BATCHES_IN_AN_EPOCH)
            self.batch_size = min(max(share, SMALLEST_BATCH), LARGEST_BATCH)

    def _learn_target(self, name: str, labels: Sequence[Any], task: str | None) -> Target:
        return Target.learn(name, labels, task)

    def _read(self, path: Any, target: str) -> Frame:
        """The rows; all else that has been asked for is known, except ``target``."""
        return read(path)

    def _values(self, name: str) -> list[Any]:
        """Of the rows that have a target."""
        values = self.frame[name]
        return values if len(self.rows) == len(values) else [values[i] for i in self.rows]

    @cached_property
    def targets(self) -> Tensor:
        """Of all rows that have one."""
        return self.target.encoded(self._values(self.target.name))

    @cached_property
    def sample_weight(self) -> Tensor | None:
        """Of all rows that have a target, ``(m,)``."""
        if self.weight is None:
            return None
        return torch.tensor(parts.weights_of(self.weight, self._values(self.weight)), dtype=torch.float32)

    @cached_property
    def splits(self) -> dict[str, Any]:
        """Row numbers of ``"train"``, ``"val"`` and ``"test"``, among the rows with a target."""
        if self.split is not None:
            return parts.by_column(self._values(self.split), self.split)
        found = self._drawn(self.member)
        return found if len(found["test"]) else self._drawn(0)  # they judge the ensemble: no member trains on them

    def _drawn(self, member: int) -> parts.Parts:
        fractions = {"test": self.test_fraction, "val": self.val_fraction}
        seeds = {"test": self.seed, "val": self.seed + member}
        if self.group is not None:
            return parts.by_groups(self._values(self.group), fractions, seeds)
        labels = torch.zeros(len(self.rows)) if self.task == "regression" else self.targets
        return parts.at_random(labels, fractions, seeds)

    @property
    def rows_in(self) -> dict[str, int]:
        """How many rows each part has."""
        return {part: len(rows) for part, rows in self.splits.items()}

    @property
    def encoding(self) -> Encoding:
        """What is done with each column, learnt from the training rows, or taken from a checkpoint."""
        if self._encoding is None:
            rows = self.splits["train"].tolist()
            columns = {name: self._values(name) for name in self._names}
            self._encoding = Encoding.learn(
                self._names, lambda name: [columns[name][i] for i in rows], wanted=self.wanted
            )
        return self._encoding

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Encoded rows, their targets, and their weights if there are any."""
        X = self.encoding(self._values)
        weights = self.sample_weight
        return (X, self.targets) if weights is None else (X, self.targets, weights)

    @property
    def loaded(self) -> tuple[Tensor, Any]:
        return self.tensors[0], self.targets

    @property
    def in_features(self) -> int:
        return self.encoding.features.out_features

    @property
    def out_features(self) -> int:
        return self.target.out_features

    @property
    def batches(self) -> int:
        """Of an epoch."""
        assert self.batch_size is not None
        return math.ceil(self.rows_in["train"] / self.batch_size)

    @property
    def epochs(self) -> int:
        """How many make about as many steps as the smaller tables take in the preset's hundred."""
        return max(FEWEST_EPOCHS, round(STEPS / self.batches))

    @property
    def weight_decay_factor(self) -> float:
        """What part of the preset's is right for so many steps in an epoch.

        So weights forget in as many epochs as those of a smaller table, which is what should stay the same: Wang and
        Aitchison, "How to set AdamW's weight decay as you scale model and dataset size", 2024.
        """
        return min(1.0, BATCHES_IN_AN_EPOCH / self.batches)

    @property
    def left_out(self) -> int:
        """Rows without a target, or of weight 0."""
        return len(self.frame) - len(self.rows)

    @property
    def class_names(self) -> list[str]:
        return self.target.classes

    @property
    def train_inputs(self) -> None:  # type: ignore[override]
        """None: the encoding has standardised what needs it."""
        return None

    @property
    def train_targets(self) -> Tensor:
        return self.targets[self.splits["train"]]

    def setup(self, stage: str) -> None:
        if stage == "fit" and not self._said:
            self._said = True
            rank_zero_info("\n".join(self.described()))

    def described(self) -> list[str]:
        """What a run says of its table when it starts."""
        sizes = ", ".join(f"{rows} {part}" for part, rows in self.rows_in.items())
        lines = [f"Table: {sum(self.rows_in.values())} rows ({sizes}), batches of {self.batch_size}"]
        if self.left_out:
            spelt = (
                f" (a missing one is spelt {', '.join(map(repr, self._spelt_missing[:10]))})"
                if self._spelt_missing
                else ""
            )
            lines.append(f"{self.left_out} rows without a target{spelt}, or of weight 0, are left out")
        classes = f": {', '.join(self.target.classes[:10])}" if self.target.classes else ""
        more = f" and {len(self.target.classes) - 10} more" if len(self.target.classes) > 10 else ""
        lines.append(f"Target {self.target.name}: {self.task}{classes}{more}")
        lines += self._classes_not_held_out()
        rows = _alike_together(list(self.encoding.described()))
        wide = min(max(len(name) for name, _, _ in rows), 40)
        lines += [f"  {name:{wide}}  {kind:8}  {what}" for name, kind, what in rows]
        train = self.splits["train"]
        columns = leaking(self.encoding, lambda name: self._values(name), self.targets, train)
        lines += [f"Warning: column {name!r} predicts the target alone: does it leak it?" for name in columns]
        return lines

    def _classes_not_held_out(self) -> list[str]:
        if not self.target.classes:
            return []
        parts = {part: rows for part, rows in self.splits.items() if len(rows)}
        counts = {part: self.targets[rows].bincount(minlength=len(self.target.classes)) for part, rows in parts.items()}
        few = [(part, k) for part, found in counts.items() for k in (found == 0).nonzero().flatten().tolist()][:10]
        return [f"Class {self.target.classes[k]!r} has no row in {part}" for part, k in few]

    # What a checkpoint needs to predict from a table.

    def state_dict(self) -> dict[str, Any]:
        return {
            "data": type(self).__name__,
            "rows": sum(self.rows_in.values()),
            "checksum": float(self.targets.double().sum()),
            "seed": self.seed,
            "member": self.member,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
            "id": self.id,
            "target": self.target.state(),
            "encoding": self.encoding.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self._encoding = Encoding.of_state(state.pop("encoding"))
        self.target = Target(**state.pop("target"))
        for name in ("targets", "tensors"):
            self.__dict__.pop(name, None)
        state.pop("id", None)
        super().load_state_dict(state)


def _names(given: str | Sequence[str] | None) -> list[str]:
    """Of columns, each once."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given or []))


def check_names(named: dict[str, list[str]], names: Sequence[str]) -> None:
    """Whether columns that arguments name are among those of the table.

    Raises:
        ValueError: one is not.
    """
    for argument, columns in named.items():
        for name in columns:
            if name not in names:
                known = ", ".join(map(repr, names[:20]))
                raise ValueError(f"{argument} must name columns of the table, got {name!r}; it has {known}")


def _alike_together(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """A line for each column, or, of many, one for all with which the same is done; names without line breaks."""
    rows = [(" ".join(name.split()) or "''", kind, what) for name, kind, what in rows]
    if len(rows) <= MOST_LINES:
        return rows
    alike: dict[tuple[str, str], list[str]] = {}
    for name, kind, what in rows:
        alike.setdefault((kind, what), []).append(name)
    return [
        (
            ", ".join(names if kind == "dropped" or len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]),
            kind,
            what,
        )
        for (kind, what), names in alike.items()
    ]
