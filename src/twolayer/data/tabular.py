"""Rows and targets that fit in memory: split once, by a seed, and served in batches."""

from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from twolayer.arguments import positive_int
from twolayer.data import checks
from twolayer.loading import TensorLoader

EVALUATED_AT_ONCE = 4096
"""Examples of a batch of which nothing is learnt, at least: so many that a call's own cost hardly counts."""


class TabularDataModule(L.LightningDataModule):
    """The base of data sets in memory: a subclass names its task and loads ``X, Y``.

    The rows are split by a seed into training, validation and test, for classes with the same share of each class in
    every part. Batches are ``(X, Y)`` in raw units: float32 inputs ``(m, in_features)``, and class indices ``(m,)``, or
    float32 targets ``(m, out_features)`` for regression and soft labels. ``predict`` covers every row, in the order of
    the set, and looks at no targets.

    Args:
        batch_size: examples in a training batch; None for the whole split at once. Validation, test and predictions
            take at least 4,096 at a time.
        val_fraction, test_fraction: shares of the rows held out; 0 for none.
        seed: of the split, and of the order of the rows in each epoch.
        iterations_per_epoch: how many batches make an epoch where each is the whole split, with ``batch_size`` None.
        on_device: whether to keep all rows on the device that trains. Otherwise they stay in main memory, and go to a
            GPU batch by batch, page-locked, while it computes.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """

    task: ClassVar[str]

    def __init__(
        self,
        batch_size: int | None = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
        iterations_per_epoch: int = 1,
        on_device: bool = False,
    ) -> None:
        super().__init__()
        if batch_size is not None:
            positive_int("batch_size", batch_size)
            if iterations_per_epoch != 1:
                raise ValueError(
                    f"iterations_per_epoch must be 1 unless batch_size is None, got {iterations_per_epoch} "
                    f"with batch_size {batch_size}"
                )
        positive_int("iterations_per_epoch", iterations_per_epoch)
        for name, fraction in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
            if not 0 <= fraction < 1:
                raise ValueError(f"{name} must be in [0, 1), got {fraction}")
        if val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction must leave rows to train on, got {val_fraction + test_fraction}"
            )
        fits = isinstance(seed, Integral) and 0 <= seed < 2**32
        checks.option("seed", seed, fits, "an integer from 0 to 4294967295")
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed
        self.iterations_per_epoch = iterations_per_epoch
        self.on_device = on_device

    def load(self) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """All rows ``(m, in_features)`` and their targets: ``(m,)`` class indices, or values."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    @cached_property
    def loaded(self) -> tuple[Tensor, Any]:
        """All rows in the dtype of the batches, and their targets as they came."""
        X, Y = self.load()
        return checks.inputs(X), Y

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """All rows and targets, in the dtypes of the batches.

        Raises:
            TypeError, ValueError: ``load()`` returned something else than finite numbers, or no targets of the task.
        """
        X, Y = self.loaded
        return X, checks.targets(Y, self.task, len(X))

    @property
    def in_features(self) -> int:
        return self.loaded[0].shape[1]

    @property
    def out_features(self) -> int:
        Y = self.tensors[1]
        return checks.classes(Y) if self.task == "multiclass" else Y.reshape(len(Y), -1).shape[1]

    @cached_property
    def splits(self) -> dict[str, NDArray[np.int64]]:
        """Row numbers of ``"train"``, ``"val"`` and ``"test"``."""
        Y = self.tensors[1]
        labels = checks.hard(Y, self.task).numpy() if self.task in ("binary", "multiclass") else None
        rest = np.arange(len(Y))
        held_out = {}
        sizes = {"val": round(self.val_fraction * len(Y)), "test": round(self.test_fraction * len(Y))}
        parts = {"train": len(Y) - sum(sizes.values()), **{name: size for name, size in sizes.items() if size}}
        if parts["train"] < 1:
            raise ValueError(f"val_fraction and test_fraction must leave rows to train on, got {len(Y)} rows in all")
        if labels is not None and len(parts) > 1:
            checks.enough(parts, labels)
        for name, size in sizes.items():
            held_out[name] = np.empty(0, dtype=np.int64)
            if size:
                stratify = None if labels is None else labels[rest]
                rest, held_out[name] = train_test_split(rest, test_size=size, random_state=self.seed, stratify=stratify)
        return {"train": rest, **held_out}

    @property
    def train_inputs(self) -> Tensor:
        """The rows of the training split: what standardisation may look at."""
        return self.tensors[0][self.splits["train"]]

    @property
    def train_targets(self) -> Tensor:
        return self.tensors[1][self.splits["train"]]

    def train_dataloader(self) -> TensorLoader:
        """Batches, or blocks of them if the LightningModule in training has a ``block_size``."""
        rows = self.splits["train"]
        steps_per_call = None
        block_size: Any = getattr(self.trainer and self.trainer.lightning_module, "block_size", None)
        if self.trainer is not None and block_size is not None:
            batches = -(-len(rows) // ((self.batch_size or len(rows)) * self.trainer.world_size))
            steps_per_call = block_size(batches * self.iterations_per_epoch)
        return self._loader(
            self._of(rows),
            batch_size=self.batch_size,
            shuffle=self.batch_size is not None,
            steps_per_call=steps_per_call,
            repeat=self.iterations_per_epoch,
        )

    def val_dataloader(self) -> TensorLoader | list[TensorLoader]:
        return self._evaluated(self._of(self.splits["val"])) if len(self.splits["val"]) else []

    def test_dataloader(self) -> TensorLoader | list[TensorLoader]:
        return self._evaluated(self._of(self.splits["test"])) if len(self.splits["test"]) else []

    def predict_dataloader(self) -> TensorLoader:
        X, Y = self.loaded
        return self._evaluated((X, torch.as_tensor(checks.numbers("Y", Y))))

    def _of(self, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return tuple(tensor[rows] for tensor in self.tensors)

    def _evaluated(self, tensors: tuple[Tensor, ...]) -> TensorLoader:
        size = None if self.batch_size is None else max(self.batch_size, EVALUATED_AT_ONCE)
        return self._loader(tensors, batch_size=size)

    def _loader(self, tensors: tuple[Tensor, ...], **options: Any) -> TensorLoader:
        if self.on_device and self.trainer is not None:
            tensors = tuple(tensor.to(self.trainer.strategy.root_device) for tensor in tensors)
        return TensorLoader(tensors, seed=self.seed, pin_memory=True, **options)

    # A checkpoint says what its split followed from, so that nobody tests on rows that it was trained on, unaware.

    def state_dict(self) -> dict[str, Any]:
        X = self.loaded[0]
        return {
            "data": type(self).__name__,
            "rows": len(X),
            "checksum": float(X.double().sum()),
            "seed": self.seed,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = self.state_dict()
        differing = {key: value for key, value in state_dict.items() if here.get(key) != value}
        if differing:
            rank_zero_warn(
                "the checkpoint was trained on another split, so rows held out here may have been trained on: it had "
                + ", ".join(f"{key}={value!r} (here {here.get(key)!r})" for key, value in differing.items())
            )
